"""The README is short, every page is reached, every link leads somewhere, and the code of the pages runs."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
from pathlib import Path

import pages
import pytest

import ssl_jax

ALL = [pages.README, pages.ROOT / "CONTRIBUTING.md", pages.ROOT / "CHANGELOG.md", *pages.pages()]
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as forges and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", pages.prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short():
    assert len(pages.README.read_text().splitlines()) <= 150


def test_every_link_inside_leads_somewhere():
    found = 0
    for page in ALL:
        for link in LINK.findall(pages.prose(page)):
            if link.startswith(("http://", "https://", "mailto:")):
                continue
            place, _, anchor = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            assert target.is_file(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}"
            found += 1
    assert found > 60


def test_every_page_is_in_a_toctree():
    reached, todo = set(), [pages.DOCS / "index.md"]
    while todo:
        page = todo.pop()
        assert page.is_file(), page
        if page in reached:
            continue
        reached.add(page)
        for block in pages.blocks(page):
            if block.kind.startswith("{toctree}"):
                entries = (line for line in block.text.split() if not line.startswith(":"))
                todo += [page.parent / f"{e}.md" for e in re.findall(r"^([\w/]+)$", block.text, re.MULTILINE)]
                assert list(entries), page
    assert reached == set(pages.pages())


def test_every_page_has_one_title():
    for page in pages.pages():
        titles = re.findall(r"^# .+$", pages.prose(page), re.MULTILINE)
        whole = page.stem in ("contributing", "changelog")  # which have that of the file that they include
        assert len(titles) == (0 if whole else 1), page


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_the_code_of_a_page_parses(page):
    for block in pages.blocks(page):
        what, name, text = block.magic
        if block.kind == "python" or (block.is_cell and not what) or name.endswith(".py"):
            ast.parse(re.sub(r"\A(:[^\n]*\n)+", "", text), f"{page}")
        elif what == "%%bash" or block.kind == "bash":
            done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, f"{page}: {done.stderr}"


def test_commands_of_pages_name_scripts_and_configs_that_there_are():
    for page in ALL:
        for path in re.findall(r"(?<![\w/.])((?:experiments|configs)/[\w/]+\.(?:py|sh))", page.read_text()):
            assert (pages.ROOT / path).is_file(), f"{page}: {path}"


def test_every_room_is_in_the_reference():
    """A room is listed by its name; its modules come along (docs/conf.py)."""
    listed = set()
    for page in (pages.DOCS / "reference").glob("*.md"):
        for words in re.findall(r"<!-- modules: ([\w. ]+) -->", page.read_text()):
            listed |= set(words.split())
    there = {f"ssl_jax.{m.name}" for m in pkgutil.iter_modules(ssl_jax.__path__) if not m.name.startswith("_")}
    offered = re.findall(r"autofunction:: (\w+)", (pages.DOCS / "reference" / "python.md").read_text())
    assert set(offered) == set(ssl_jax.__all__)
    missing = there - listed - {"ssl_jax.shipped", "ssl_jax.api"}  # api: by the names that ssl_jax gives them
    assert not missing, f"add a line `<!-- modules: NAME -->` to a page of docs/reference: {missing}"
    assert not listed - there, listed - there


def test_nothing_is_fetched_when_a_page_is_opened():
    """What the theme brings lies in the site; a page adds no script, font or picture from elsewhere."""
    for page in ALL:
        text = pages.prose(page)
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|img|iframe|link)\b", text), page


def test_what_a_build_makes_is_ignored_and_sphinx_is_not_needed_here():
    assert "docs/_build/" in (pages.ROOT / ".gitignore").read_text().split()
    extras = re.findall(r"^(\w[\w-]*) = \[(.*?)\]$", (pages.ROOT / "pyproject.toml").read_text(), re.M | re.DOTALL)
    assert "sphinx" in dict(extras)["docs"]
    assert "sphinx" not in dict(extras)["dev"]


def test_the_citation_is_of_this_version():
    text = (pages.ROOT / "CITATION.cff").read_text()
    fields = dict(re.findall(r"^([\w-]+): *(.*)$", text, re.MULTILINE))
    assert fields["cff-version"] == "1.2.0"
    assert fields["version"] == ssl_jax.__version__
    assert {"message", "title", "authors", "license", "date-released"} <= set(fields)
    assert f"## [{ssl_jax.__version__}] - " in (pages.ROOT / "CHANGELOG.md").read_text()
