"""``ssl-jax``: the scripts of experiments/ as one command that pip installs.

Each subcommand is a script as it lies in experiments/, run as such: what the one says and refuses, so does the other.
"""

from __future__ import annotations

import ast
import difflib
import os
import signal
import sys
import types
from pathlib import Path
from typing import NoReturn

import ssl_jax
from ssl_jax.names import HERE, HOME

# As it is typed -> the script.
COMMANDS = {
    "pretrain": "pretrain",
    "evaluate": "evaluate",
    "embed": "embed",
    "import": "import_weights",
    "export": "export",
    "plan": "plan",
    "compare": "compare_runs",
    "sweep": "sweep",
    "views": "show_views",
    "generate": "generate",
    "word_vectors": "word_vectors",
}

USAGE = """usage: ssl-jax COMMAND ...      ssl-jax COMMAND --help

Self-supervised learning in JAX.

{commands}

keys      ssl-jax pretrain --config NAME --help-config   meaning, type and value of each
configs   ssl-jax pretrain --list                        {home}/configs
methods   {here}/methods
models    {here}/models
recipes   {here}/data/images/published.py, {here}/data/text/recipes.py
measures  ssl-jax evaluate --list

From Python: help(ssl_jax). Exit codes: 0 done, 1 it failed, 2 refused before anything was done, 130 interrupted."""


def main() -> NoReturn:
    """The command of the words in ``sys.argv``."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # imports take seconds; a script sets its own when it is up
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if name == "--version":
        print(f"ssl_jax {ssl_jax.__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        sys.stderr.write(f"error: ssl-jax {name!r} is no command; {meant}known: {', '.join(COMMANDS)}\n")
        sys.exit(2)
    sys.argv = [f"ssl-jax {name}", *words]
    _run(_script(name))
    sys.exit(0)


def usage() -> str:
    """What ``ssl-jax --help`` prints: the commands with the first line of their scripts, and where things are."""
    lines = [f"  {name:12} {_first_line(name)}" for name in COMMANDS]
    return USAGE.format(commands="\n".join(lines), home=HOME, here=HERE)


def _run(script: Path) -> None:
    """As the script itself; runpy.run_path puts its path in ``sys.argv``, by which it would call itself."""
    before, sys.modules["__main__"] = sys.modules["__main__"], (main := types.ModuleType("__main__"))
    main.__file__ = str(script)
    try:
        exec(compile(script.read_bytes(), script, "exec"), vars(main))
    finally:
        sys.modules["__main__"] = before


def _script(name: str) -> Path:
    return HOME / "experiments" / f"{COMMANDS[name]}.py"


def _first_line(name: str) -> str:
    return (ast.get_docstring(ast.parse(_script(name).read_text())) or "").partition("\n")[0]
