"""The site: ``make docs`` builds it, and a warning is an error.

Pages are Markdown, which a forge shows as well. Tutorials are notebooks in text, run when the site is built and kept in
``_build/.jupyter_cache`` until their code changes. Nothing is fetched when a page is opened: no fonts, no scripts of
others, no formulas that a script would have to set.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# What a tutorial starts is of this checkout and environment, says no more than it has to, and compiles as tests do.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
os.environ |= {"JAX_PLATFORMS": "cpu", "SSL_JAX_PROGRESS": "inf", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")

from docutils import nodes  # noqa: E402
from docutils.utils.math.latex2mathml import tex2mathml  # noqa: E402
from myst_nb.core import render  # noqa: E402

import ssl_jax  # noqa: E402

project = "ssl_jax"
author = "The ssl_jax authors"
project_copyright = "2026, the ssl_jax authors"
release = version = ssl_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Tables that scripts write, and that pages include.
exclude_patterns = ["_build", "benchmark", "cpu_suite", "duel", "methods_hour", "pretext_table", "suites"]
suppress_warnings = ["ref.python"]  # a type whose name several classes have (bytes) is left without a link

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / ".jupyter_cache")
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Array": "Array", "Axis": "Axis", "Tree": "Tree", "Batch": "Batch"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Reference", "Differs from the reference code"]

highlight_language = "none"  # blocks without a language are commands
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"ssl_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


# A room of the package in the reference: ``<!-- modules: ssl_jax.losses -->``, which a forge does not show, becomes all
# of its modules, so that a new one needs no line here.


def modules_of(name: str) -> list[str]:
    """A module, or a package and what lies in it."""
    module = __import__(name, fromlist=["_"])
    inner = pkgutil.iter_modules(module.__path__) if hasattr(module, "__path__") else ()
    return [name, *(m for one in inner if not one.name.startswith("_") for m in modules_of(f"{name}.{one.name}"))]


def _room(match: re.Match) -> str:
    out = []
    for name in (m for word in match[1].split() for m in modules_of(word)):
        out += [
            f"## {name}",
            "",
            "```{eval-rst}",
            f".. automodule:: {name}",
            "   :members:",
            "   :ignore-module-all:",
            "```",
            "",
        ]
    return "\n".join(out)


def read_source(app, docname: str, source: list[str]) -> None:
    """Rooms become modules; a number and its spread stay in one line."""
    text = re.sub(r"(?<=\d) ([±/]) (?=\d)", "\u00a0\\1\u00a0", source[0])
    source[0] = re.sub(r"<!-- modules: ([\w. ]+) -->", _room, text)


def plain_marks(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are written to be read in an editor: ``|z|`` and ``a*b`` are what they say, and what is set in by four
    columns after an empty line is a formula or a command."""
    out, depth, before = [], None, ""  # depth: of what a literal block stands below
    for line in lines:
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if depth is not None and text and indent <= depth:
            depth = None
        if depth is None and indent >= 4 and before and not out[-1] and not before.startswith((" ", "- ", "* ")):
            out += ["::", ""]
            depth = 0
        if depth is None and not text.startswith((">>>", "...")):
            words = re.split(r"(``.*?``)", line)
            words[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", word) for word in words[::2]]
            line = "".join(words)
            if text.endswith("::"):
                depth = indent
        out.append(line)
        before = line if text else before
    lines[:] = out


def plain_names(app, what, name, obj, options, signature, returns):
    """Sphinx 9 writes an alias inside another type as ``TypeAliasForwardRef('Array')``; readers need its name alone."""
    return tuple(part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in (signature, returns))


def joined(outputs: list) -> list:
    """What a cell printed, as it was printed: MyST-NB's own form puts a line's end behind each hundred characters that
    ``%%bash`` reads at a time."""
    out = []
    for one in outputs:
        if out and one.output_type == out[-1].output_type == "stream" and one.name == out[-1].name:
            out[-1].text += one.text
        else:
            out.append(one)
    return out


render.coalesce_streams = joined


def formula(translator, node) -> None:
    """MathML, which browsers set by themselves: no script, no fonts."""
    block = isinstance(node, nodes.math_block)
    mark = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="formula">{mark}</div>' if block else mark)
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("source-read", read_source)
    app.connect("include-read", lambda app, path, docname, content: read_source(app, docname, content))
    app.connect("autodoc-process-docstring", plain_marks, priority=400)
    app.connect("autodoc-process-signature", plain_names)
