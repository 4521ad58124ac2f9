"""Suites: lists of what is to be run, with what is published of it. ``NAME.toml`` beside this file, or a file of yours.

A suite has ``about`` (a sentence), ``needs`` (cpu, accelerator or tpu: the least that its rows are run on), ``cores``
(of one run on a CPU), ``set`` (changes of all rows' configs), ``sets`` (by name, those that several rows have),
``evals`` (of ``ssl-jax evaluate``) and their ``options``, ``scores`` (the columns of the table) and a ``[[row]]`` each:

    name       of the row, and of its runs' folders
    config     one of ours by name, or a file; a row whose config is not there yet is "not run"
    use        names of ``sets``
    set        more changes, "KEY=VALUE", of a key that is said twice the last; PATH stands for the folder of --path
    needs, evals, options   where they are others than the suite's; options are "EVALUATOR.KEY=VALUE"
    cost       of one seed, in words
    command    what is typed instead, of rows that another script runs and another table holds
    published  [{ score, value (as the table shows it: accuracies in %), source, other }, ...]; other: what is another
               in the recipe of the published run, so that its figure stands there without a difference

Nothing in a suite is a result of ours: those are made by running it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.evaluate import read_options
from ssl_jax import configs, evals
from ssl_jax.names import hint

FOLDER = Path(__file__).resolve().parent
NEEDS = ("cpu", "accelerator", "tpu")  # each is more than those before


class Published(NamedTuple):
    """A figure of others."""

    score: str
    value: float
    source: str
    other: str = ""


class Row(NamedTuple):
    """A config, some changes, and what others found."""

    name: str
    config: str
    set: tuple[str, ...]
    needs: str
    evals: tuple[str, ...]
    options: tuple[str, ...]
    cost: str
    command: str | None
    published: tuple[Published, ...]


class Suite(NamedTuple):
    """What a file of rows says, and which file."""

    name: str
    file: Path
    about: str
    cores: int
    scores: tuple[str, ...]
    rows: tuple[Row, ...]


def known() -> dict[str, Path]:
    """Suites of ours by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read(name: str, path: str | None = None) -> Suite:
    """A suite by name, or a file of one's own.

    Args:
      path: what PATH in its rows stands for; None: it stays, and rows that have it cannot be run.

    Raises:
      ValueError: there is none, or what it says makes no sense.
    """
    file = known().get(name) or Path(name)
    if not file.is_file():
        raise ValueError(f"--suite {name} is no suite; {hint(name, known())}known: {', '.join(known())}, or a file")
    try:
        return _suite(file, tomllib.loads(file.read_text()), path or "PATH")
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"suite {file} is not one ({type(error).__name__}: {error}); see {__file__}") from None


def _suite(file: Path, found: Mapping[str, Any], path: str) -> Suite:
    name = file.stem
    _refuse_unknown(name, found, ("about", "needs", "cores", "set", "sets", "evals", "options", "scores", "row"))
    rows, sets = [], found.get("sets", {})
    for row in found["row"]:
        _refuse_unknown(f"{name}, row {row['name']}", row, (*Row._fields, "use"))
        needs, used = row.get("needs", found["needs"]), row.get("use", ())
        if needs not in NEEDS:
            raise ValueError(f"suite {name}, row {row['name']}: needs {needs!r}; use {', '.join(NEEDS)}")
        if unknown := [one for one in used if one not in sets]:
            raise ValueError(f"suite {name}, row {row['name']}: use {unknown[0]!r} is none of sets ({', '.join(sets)})")
        if not re.fullmatch(r"[\w.-]+", row["name"]):
            raise ValueError(f"suite {name}: row {row['name']!r} names folders; use letters, digits, _ . and -")
        changes = (*found.get("set", ()), *(change for one in used for change in sets[one]), *row.get("set", ()))
        rows.append(
            Row(
                row["name"],
                row["config"],
                tuple(change.replace("PATH", path) for change in changes),
                needs,
                tuple(row.get("evals", found["evals"])),
                tuple(row.get("options", found.get("options", ()))),
                row["cost"],
                row.get("command"),
                tuple(Published(**figure) for figure in row.get("published", ())),
            )
        )
    names = [row.name for row in rows]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"suite {name} has rows called {', '.join(twice)} twice")
    return Suite(name, file, found["about"], found.get("cores", 2), tuple(found["scores"]), tuple(rows))


def _refuse_unknown(where: str, found: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    if unknown := [key for key in found if key not in fields]:
        raise ValueError(f"suite {where}: {unknown[0]!r} is unknown; known: {', '.join(fields)}")


def there_is(row: Row) -> bool:
    """Whether the config of a row is there; methods may come later than the suites that name them."""
    return row.config in configs.files() or Path(row.config).is_file()


def brought(suite: Suite) -> dict[str, str]:
    """sha256 of the suite's files that no commit of ours has: itself, and configs of its rows."""
    files = (suite.file, *(Path(row.config) for row in suite.rows if row.config not in configs.files()))
    others = {file.resolve() for file in files if file.is_file()}
    others = sorted(file for file in others if not file.is_relative_to(FOLDER.parent.parent))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in others}


def config(row: Row, seed: int, changes: Sequence[str]) -> configs.Config:
    """The config of a run.

    Raises:
      ValueError: a key or value is none, or an evaluator or option of its evaluation.
    """
    found = configs.load(row.config, [*row.set, *changes, f"seed={seed}"])
    configs.check(found)
    read_options([f"--eval.{option}" for option in row.options], evals.called(row.evals))
    return found


def commands(row: Row, seed: int | str, changes: Sequence[str], folder: Path | str) -> tuple[list[str], list[str]]:
    """The words of ``ssl-jax pretrain`` and ``ssl-jax evaluate`` for a run, in a folder that holds them all."""
    said, workdir = [f"--config.{change}" for change in (*row.set, *changes)], f"{folder}/{row.name}-{seed}"
    train = ["--config", row.config, "--workdir", workdir, *said, f"--config.seed={seed}"]
    options = [f"--eval.{option}" for option in row.options]
    return train, ["--workdir", workdir, "--evals", ",".join(row.evals), *options]
