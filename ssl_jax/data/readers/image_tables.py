"""Tables of image files and their labels as sources, as Kaggle has them: ``csv:labels.csv``.

The columns are found by their usual names: a path or a name, with or without suffix (:mod:`table_files` says where the
files are looked for), and a label, a number or a name, none where the field is empty; or a column of 0 and 1 for each
class. Splits are those of a column ``split``, ``set``, ``fold`` or ``is_valid``, or tables beside each other
(``train.csv``, ``test.csv``), by the names that :mod:`split_names` knows. The fields are separated by what the first
line is (comma, semicolon, tab, bar). The files are checked as those of a folder are.

Rows that name the same file are one example; of two labels they are refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssl_jax.data import overlap
from ssl_jax.data.images.image_files import some
from ssl_jax.data.readers import files, image_columns, split_names, splits, tables
from ssl_jax.data.readers.image_columns import Label, Row, Table
from ssl_jax.data.readers.table_files import Files
from ssl_jax.data.source import Decoding, Source

At = tuple[str, int]  # a split, and the number of a row in it


def load(
    file: Path,
    *,
    train_split: str | None,
    test_split: str | None,
    image_column: str | None,
    label_column: str | None,
    verify: str | None,
    max_unreadable: float,
    decoding: Decoding,
    cache_dir: Path,
) -> tuple[Source, Source | None, Source | None]:
    """Train, test and more unlabelled examples of a table; see :func:`ssl_jax.data.readers.load`."""
    if not file.is_file():
        there = [path.name for path in _tables(file)] if file.is_dir() else []
        what = (
            f"is a folder; name a table in it ({some(there) or 'there is none'})" if file.is_dir() else "is not there"
        )
        raise ValueError(f"csv:{file} {what}; give data.source=csv:<a table of image files and labels>")
    file = file.resolve()
    around = Files(file)

    def read(path: Path) -> Table:
        return image_columns.read(path, image_column, label_column, around, strict=path == file)

    groups, notes = _splits(file, read(file), read, train_split, test_split)
    where, chosen = str(file), groups.chosen
    rows = {name: groups.rows(name) for name in (chosen.train, *chosen.tests, *chosen.unlabelled)}

    def part(name: str) -> splits.Part:
        return (
            {(name, i): None if row.label is None else str(row.label) for i, row in enumerate(rows[name])},
            {},
            [],
            [],
        )

    asked = test_split is not None
    found = splits.divide(where, chosen, part, lambda name: {**part(name)[0]}, asked=asked, check=False)
    roles = {name: split_names.parse(name)[0] if groups.of_splits else None for name in rows}
    missing: list[Row] = []
    used = [found.train, found.unlabelled, found.test or {}]
    located = [_located(where, around, of, rows, roles, missing) for of in used]
    n = sum(map(len, located))
    notes += [*found.notes, *_missing(where, missing, n, max_unreadable, around)]
    if again := sum(map(len, used)) - len(missing) - n:
        notes.append(f"{where}: {again} rows name an image that a row before them names; each is one example")
    notes += _unused(where, around, [path for of in located for path in of])
    paths = itertools.chain(*located)
    how: dict[str, Any] = {"verify": verify, "decoding": decoding, "cache_dir": cache_dir}
    checked = files.check(around.root, paths, known_as=f"csv:{file}", **how)
    notes += checked.unreadable(where, max_unreadable)
    numbers, names = tables.stored([[*located[0].values()], [*located[2].values()]])
    why = "no row has one" if any(table.labels for table in groups.tables) else "the table has no column of labels"
    train = files.source(checked, dict(zip(located[0], numbers[0].tolist(), strict=True)), names, why)
    test = more = None
    if located[1]:
        more = files.source(checked, dict.fromkeys(located[1], -1), None)
        notes.append(splits.more_unlabelled(where, len(more)))
    if found.test is not None:
        _refuse_unknown(where, located[0], located[2])
        test = files.source(checked, dict(zip(located[2], numbers[1].tolist(), strict=True)), names, why)
        learned = checked.held([*located[0], *located[1]])
        notes += overlap.check(learned, checked.held(located[2]), where, (found.used[0], found.tested))
    return dataclasses.replace(train, notes=tuple(dict.fromkeys(notes))), test, more


def _refuse_unknown(where: str, train: dict[str, Label], test: dict[str, Label]) -> None:
    """Names of classes are of train, as those of folders are; numbers may be others, which is told."""
    learned, measured = ({label for label in of.values() if isinstance(label, str)} for of in (train, test))
    if learned and (unknown := measured - learned):
        raise ValueError(f"{where}: test has classes that train has not ({some([*unknown])}); rename or remove them")


# --- splits


class Groups(NamedTuple):
    """The rows of each split, all of these in one table or each in its own."""

    chosen: split_names.Chosen
    rows: Callable[[str], list[Row]]
    of_splits: bool  # whether what is chosen are names of splits
    tables: list[Table]


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in tables.TABLES and path.is_file())


def _splits(
    file: Path, table: Table, read: Callable[[Path], Table], train_split: str | None, test_split: str | None
) -> tuple[Groups, list[str]]:
    """The splits of a table, and what is to be said of them."""
    if table.split is not None:
        return _by_column(file, table, train_split, test_split)
    return _by_file(file, table, read, train_split, test_split)


def _by_column(file: Path, table: Table, train_split: str | None, test_split: str | None) -> tuple[Groups, list[str]]:
    where, groups = f"{file}, column {table.split!r}", dict[str, list[Row]]()
    for row in table.rows:
        groups.setdefault(row.split, []).append(row)
    names = [name for name in groups if name]
    if test_split in names and train_split is None and not any(map(split_names.role, names)):  # one fold of several
        groups = {"train": [row for n in names if n != test_split for row in groups[n]], test_split: groups[test_split]}
        names = [*groups]
    chosen = split_names.choose(where, names, train_split, test_split)
    if chosen is None:
        said = f"{where}: {some(names)} are no splits by their names, so all rows are learned from"
        fold = f"; data.test_split={min(names)} holds one out" if len(names) > 1 else ""
        whole = split_names.Chosen("", (), ())
        return Groups(whole, lambda _: table.rows, False, [table]), [*table.notes, said + fold]
    used = {chosen.train, *chosen.tests[:1], *chosen.unlabelled}
    left = [f"{name or 'no split'} ({len(rows)} rows)" for name, rows in groups.items() if name not in used]
    said = f"{where}: the splits are {', '.join(sorted(used))}"
    notes = [*table.notes, said, *([splits.not_used(where, left)] if left else [])]
    return Groups(chosen, groups.__getitem__, True, [table]), notes


def _by_file(
    file: Path, table: Table, read: Callable[[Path], Table], train_split: str | None, test_split: str | None
) -> tuple[Groups, list[str]]:
    where, notes, held = str(file), [*table.notes], {file.stem: table}
    beside = {path.stem: path for path in _tables(file.parent)} | {file.stem: file}
    is_train = split_names.parse(file.stem)[0] == "train"
    chosen = split_names.Chosen(file.stem, (), ())
    if is_train or train_split is not None or test_split is not None:
        chosen = split_names.choose(where, [*beside], train_split or file.stem, test_split) or chosen
        if train_split is None:
            more = [name for name in beside if split_names.role(name) == "unlabelled" and name != chosen.train]
            chosen = chosen._replace(unlabelled=tuple(more))
    for name in (chosen.train, *chosen.tests, *chosen.unlabelled):
        try:
            held[name] = held.get(name) or read(beside[name])
        except ValueError as error:
            if name in (chosen.train, test_split):
                raise
            notes.append(f"{where}: {beside[name].name} beside it is not used: {error}")
        else:
            notes += held[name].notes
    tests, unlabelled = ([name for name in names if name in held] for names in chosen[1:])
    chosen = chosen._replace(tests=tuple(tests), unlabelled=tuple(unlabelled))
    left = [beside[name].name for name in beside if name not in (*held, *chosen.tests) and beside[name] != file]
    notes += [f"{where}: {some(left)} beside it not read"] if left else []
    return Groups(chosen, lambda name: held[name].rows, is_train, [*held.values()]), notes


# --- the files


def _located(
    where: str,
    around: Files,
    listing: Iterable[At],
    rows: dict[str, list[Row]],
    roles: dict[str, str | None],
    missing: list[Row],
) -> dict[str, Label]:
    """The label of each file that rows name; rows whose file is not there are added to ``missing``.

    Raises:
      ValueError: two rows name a file with two labels.
    """
    found: dict[str, Row] = {}
    for name, i in listing:
        row = rows[name][i]
        path = around.find(row.image, roles[name])
        if path is None:
            missing.append(row)
            continue
        before = found.get(path, row)
        if None not in (before.label, row.label) and before.label != row.label:
            raise ValueError(
                f"{where}, line {row.line}: {row.image} has the label {row.label!r}, and {before.label!r} in line "
                f"{before.line}; keep one of the rows, or name another column with data.label_column"
            )
        found[path] = row if before.label is None else before
    return {path: row.label for path, row in found.items()}


def _missing(where: str, missing: list[Row], n: int, max_unreadable: float, around: Files) -> tuple[str, ...]:
    if not missing:
        return ()
    total = n + len(missing)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    names = ", ".join(row.image for row in missing[:3]) + more
    count = f"{where}: {len(missing)} of {total} images are not there ({names}; the first in line {missing[0].line})"
    if len(missing) <= max_unreadable * total:
        return (f"{count} and are left out",)
    if any("://" in row.image for row in missing[:3]):
        raise ValueError(f"{count}: these are addresses, from which nothing is fetched; put the files beside the table")
    looked = some([f"{folder}/" for folder in around.folders])
    raise ValueError(
        f"{count}, more than data.max_unreadable={max_unreadable:g} of them; they were looked for beside the table"
        f"{f', in {looked}' if looked else ''}; put them there, or name the column of images with data.image_column"
    )


def _unused(where: str, around: Files, paths: Sequence[str]) -> list[str]:
    notes, (left, folders) = [], around.not_named(paths)
    if left:
        at = some([f"{os.path.normpath(folder)}/" for folder in folders])
        notes.append(f"{where}: {left} images in {at} that no row names are not used")
    if around.several:
        value, places = next(iter(around.several.items()))
        notes.append(
            f"{where}: {len(around.several)} names are in several folders ({value} in {', '.join(places)}); the first "
            "one is taken"
        )
    return notes
