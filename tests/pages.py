"""The README and the pages of ``docs``, and the code that stands in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import runs

ROOT = runs.ROOT
DOCS = ROOT / "docs"
README = ROOT / "README.md"
TUTORIALS = sorted(path for path in (DOCS / "tutorials").glob("*.md") if path.stem != "index")
_BLOCK = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ ]*$", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Every page of the site; tables that scripts write are included in some."""
    beside = {"_build", "benchmark", "methods_hour", "pretext_table"}
    return sorted(path for path in DOCS.rglob("*.md") if not beside & set(path.relative_to(DOCS).parts))


class Block(NamedTuple):
    """A fenced block: ``python``, ``{code-cell} ipython3``, ``{toctree}``, ... and what stands in it."""

    page: Path
    kind: str
    text: str

    @property
    def is_cell(self) -> bool:
        return self.kind.startswith("{code-cell}")

    @property
    def magic(self) -> tuple[str, str, str]:
        """``%%bash`` or ``%%writefile NAME`` of a cell, the rest of the line, and what follows."""
        line, _, rest = self.text.partition("\n")
        first, _, more = line.partition(" ")
        return (first, more.strip(), rest) if self.is_cell and first.startswith("%%") else ("", "", self.text)

    @property
    def name(self) -> str | None:
        """Of the file that it shows: ``%%writefile NAME``, or ``# NAME.py`` as its first line."""
        what, name, _ = self.magic
        if what == "%%writefile":
            return name
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found and self.kind == "python" else None


def blocks(page: Path) -> list[Block]:
    return [Block(page, kind.strip(), text) for _, kind, text in _BLOCK.findall(page.read_text())]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def file(name: str) -> str:
    """The one file of that name that a page shows."""
    (found,) = (b.magic[2] for page in [README, *pages()] for b in blocks(page) if b.name == name)
    return found


def names_in(name: str) -> dict:
    """What the file of that name defines."""
    names: dict = {}
    exec(file(name), names)
    return names


def script(page: Path) -> Iterator[str]:
    """The cells of a tutorial as one program of Python."""
    for cell in filter(lambda block: block.is_cell, blocks(page)):
        what, name, text = cell.magic
        if what == "%%writefile":
            yield f"__import__('pathlib').Path({name!r}).write_text({text!r})\n"
        elif what == "%%bash":
            yield f"__import__('subprocess').run(['bash', '-euc', {text!r}], check=True)\n"
        elif what:
            raise ValueError(f"{page}: a cell begins with {what}, which only a notebook knows")
        else:
            yield re.sub(r"\A(:[^\n]*\n)+", "", text)


def run(page: Path, folder: Path) -> str:
    """Run the cells of a tutorial in an empty folder; what they printed."""
    path = folder / "tutorial_as_program.py"
    path.write_text("\n".join(script(page)))
    where = folder / "bin"  # an environment that is not active has its commands nowhere
    where.mkdir()
    for name, code in (("python", '"$@"'), ("ssl-jax", '-c "from ssl_jax.run.cli import main; main()" "$@"')):
        (where / name).write_text(f"#!/bin/sh\nexec {sys.executable} {code}\n")
        (where / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{where}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    done = subprocess.run(
        [sys.executable, str(path)], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{page}: {done.stdout[-3000:]}"
    return done.stdout
