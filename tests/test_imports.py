"""The house: imports point one way, those inside functions too, and few files lie loose."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ssl_jax"


def name_of(file: Path) -> str:
    parts = ("ssl_jax", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, known: set[str]) -> set[str]:
    """Modules of ours that a file imports, wherever in it, but for types alone."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssl_jax"):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found.update(inside or {node.module})
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in known)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found - {name_of(file)}


def test_no_circle_of_imports():
    files = {name_of(file): file for file in PACKAGE.rglob("*.py")}
    graph = {name: imported(file, set(files)) for name, file in files.items()}
    assert len(graph) > 100
    assert "ssl_jax.types" in graph["ssl_jax.step"]
    check(graph)
    for room in (folder, inner):
        check(between(graph, room))


def folder(name: str) -> str:
    """The room at the top that a module lies in; a loose file is a room of its own."""
    return ".".join(name.split(".")[:2])


def inner(name: str) -> str:
    """The room within a room, as data/readers; what lies beside it is a room of its own."""
    return ".".join(name.split(".")[:3])


def between(graph, room) -> dict[str, set[str]]:
    """What rooms as wholes import of each other."""
    rooms = {}
    for name, found in graph.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in found)
    return {name: found - {name} for name, found in rooms.items()}


def check(graph) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nine_files_lie_loose():
    loose = sorted(path.name for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__"))
    assert len(loose) <= 9, loose


def test_importing_does_not_begin_jax():
    """A command says after its imports how many devices there are to be, which JAX takes once."""
    code = "import ssl_jax.train, jax; jax.config.update('jax_num_cpu_devices', 3); assert jax.device_count() == 3"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PACKAGE.parent), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
