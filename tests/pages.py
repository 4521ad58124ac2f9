"""The README and the pages of ``docs``, and the code that stands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import runs

ROOT = runs.ROOT
DOCS = ROOT / "docs"
README = ROOT / "README.md"
_BLOCK = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ ]*$", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Every page of the site; tables that scripts write are included in some."""
    beside = {"_build", "benchmark", "cpu_suite", "duel", "methods_hour", "pretext_table", "suites"}
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
