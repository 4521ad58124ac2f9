"""The columns of a table of images: which one names the files, which the label, which the split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssl_jax.data.images.image_files import SUFFIXES, suffix
from ssl_jax.data.readers import split_names, tables
from ssl_jax.data.readers.table_files import Files
from ssl_jax.data.readers.text import Lines

# Of the columns, written in small letters without signs, in the order in which they are taken.
IMAGES = ("image", "imagepath", "path", "filepath", "filename", "file", "imagefile", "imagename", "imageid", "img")
IMAGES = (*IMAGES, "imgpath", "imgid", "imgname", "idcode", "picture", "photo", "pic", "isicid", "id", "name", "uuid")
LABELS = (*tables.LABELS, "classname", "classid", "labelname", "labelid", "breed", "species", "diagnosis", "level")
LABELS = (*LABELS, "disease", "variety", "type", "cultivar", "dx", "grade", "genus", "cellname", "individualid")
SPLITS = ("split", "set", "subset", "partition", "usage", "dataset", "datasettype", "fold", "kfold")
SEPARATORS = ",;\t|"
TRUE, FALSE = ("1", "true", "yes", "1.0"), ("0", "false", "no", "0.0")
LOOK = 50  # rows by which a column is judged

Label = str | int | None


class Row(NamedTuple):
    line: int
    image: str
    label: Label
    split: str


class Table(NamedTuple):
    """The rows of a table, the columns of its splits and labels, and what is to be said of it."""

    rows: list[Row]
    split: str | None
    labels: list[str]
    notes: list[str]


def read(file: Path, image_column: str | None, label_column: str | None, around: Files, *, strict: bool) -> Table:
    """The rows of a table; where it is not ``strict`` it may lack the column of labels that is asked for.

    Raises:
      ValueError: of one line: no column names image files, or a row does not; labels that are none.
    """
    lines = Lines()
    text = lines.read(file)
    first = next((line for line in text.split("\n") if line.strip()), "")
    separator = max(SEPARATORS, key=first.count)
    rows = tables.rows_of(file, text, separator)
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    said_of_lines = lines.said(file)
    if not rows:
        raise ValueError(f"{file} has no row; its first line names the columns, and each further one an image")
    if file.suffix.lower() != ".jsonl" and (data := [name for name in names if suffix(name.strip()) in SUFFIXES]):
        raise ValueError(
            f"{file}: the first line has to name the columns and holds {data[0]!r}; put a line above it (image,label)"
        )
    image = _image_column(file, names, rows, image_column, around)
    values = [(number, str(row.get(image) if row.get(image) is not None else "")) for number, row in rows]
    # A file may be called so; where there is none, blanks are what stands after a comma.
    padded = [value for _, value in values if value != value.strip() and around.find(value, None) is None]
    bare = {value: value.strip() for value in padded}
    values = [(number, bare.get(value, value)) for number, value in values]
    if empty := next((number for number, value in values if not value), None):
        raise ValueError(f"{file}, line {empty}: there is no image in the column {image!r}; remove the row")
    split = _split_column([name for name in names if name != image])
    others = [name for name in names if name not in (image, split)]
    label, labels, said = _labels(file, others, rows, label_column, strict)
    left = [name for name in others if name not in label]
    said += f"; not read: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}" if left else ""
    of_label = [row.get(label[0]) for _, row in rows] if len(label) == 1 else []
    blanks = tables.of_blanks(file, paths=padded, labels=of_label)
    notes = [f"{file.name}: the image from {image!r}, {said}", *said_of_lines, *blanks]
    splits = ["" if split is None else _split_of(split, row.get(split)) for _, row in rows]
    found = [Row(number, value, of, s) for (number, value), of, s in zip(values, labels, splits, strict=True)]
    if 0 < (without := sum(of is None for of in labels)) < len(labels):
        line = next(row.line for row in found if row.label is None)
        notes.append(f"{file.name}: {without} of {len(labels)} rows have no label, the first in line {line}")
    return Table(found, split, label, notes)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _usual(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    return [name for word in usual for name in names if _plain(name) == word]


def _image_column(
    file: Path, names: Sequence[str], rows: Sequence[tuple[int, dict[str, Any]]], asked: str | None, around: Files
) -> str:
    if asked is not None:
        return str(tables.column(file, names, asked, (), "image"))
    some_rows = [row for _, row in rows[:LOOK]]
    usual = _usual(names, IMAGES)
    seen = (
        n
        for n in usual
        if any(around.find(value, None) for row in some_rows for value in _as_it_is_and_bare(row.get(n)))
    )
    found = next(seen, None) or tables.named_images(rows[:LOOK], names)
    texts = next((name for word in tables.TEXTS for name in names if name.lower() == word), None)
    if found is None and texts is not None:
        raise ValueError(
            f"{file} names no image that is there, and its column {texts!r} holds texts; read it with "
            f"data.source=text:{file}, or name the column of images with data.image_column"
        )
    if found is None and not usual:
        raise ValueError(
            f"{file} has no column that is called as one of image files is (image, path, file, image_id, ...); name it "
            f"with data.image_column, of: {', '.join(names)}"
        )
    return found or usual[0]


def _as_it_is_and_bare(value: Any) -> tuple[str, str]:
    return (text := str(value or "")), text.strip()


def _labels(
    file: Path, names: Sequence[str], rows: Sequence[tuple[int, dict[str, Any]]], asked: str | None, strict: bool
) -> tuple[list[str], list[Label], str]:
    """The columns of the label, none where there is none, the label of each row, and how it was found."""
    none: list[Label] = [None] * len(rows)
    if asked is not None and not strict and asked not in names:
        return [], none, "no column of labels"
    name = tables.column(file, names, asked, (), "label") or next(iter(_usual(names, LABELS)), None)
    if name is None:
        classes = [n for n in names if all(_zero_or_one(row.get(n)) is not None for _, row in rows)]
        if len(classes) > 1:
            return _one_hot(classes, rows)
        column = [row.get(n) for n in names[:1] for _, row in rows]
        if len(names) != 1 or 2 * len({*map(str, column)}) > len(rows):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            return [], none, "no column of labels" + (f" (data.label_column={shown}?)" if names else "")
        name = names[0]
    labels = tables.whole([tables.label_of(file, number, tables.bare(row.get(name))) for number, row in rows])
    measures = [number for (number, _), of in zip(rows, labels, strict=True) if _is_fraction(of)]
    if measures and all(of is None or _number(of) is not None for of in labels):
        said = f"no label: the numbers in {name!r} are not whole, as in line {measures[0]}, and so no classes"
        if asked is not None:
            raise ValueError(f"{file}: {said}; name another column with data.label_column, of: {', '.join(names)}")
        return [], none, said
    others = [other for other in _usual(names, LABELS) if other != name] if asked is None else []
    return [name], labels, f"the label from {name!r}" + (f" (not {others[0]!r}: data.label_column)" if others else "")


def _number(label: Any) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _is_fraction(label: Label) -> bool:
    number = None if label is None else _number(label)
    return number is not None and not number.is_integer()


def _zero_or_one(value: Any) -> int | None:
    text = str(value).strip().lower()
    return 1 if text in TRUE else 0 if text in FALSE else None


def _one_hot(classes: list[str], rows: Sequence[tuple[int, dict[str, Any]]]) -> tuple[list[str], list[Label], str]:
    ones = [[name for name in classes if _zero_or_one(row[name])] for _, row in rows]
    said = f"{len(classes)} columns of 0 and 1 ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"
    several = [number for (number, _), of in zip(rows, ones, strict=True) if len(of) > 1]
    if several:
        return (
            [],
            [None] * len(rows),
            f"no label: {len(several)} rows have several ones in {said}, as in line {several[0]}",
        )
    return classes, [of[0] if of else None for of in ones], f"the label from {said}, one for each class"


def _split_column(names: Sequence[str]) -> str | None:
    return next(iter([*_usual(names, SPLITS), *(name for name in names if _told_by(name) is not None)]), None)


def _told_by(column: str) -> str | None:
    """The role of the rows for which a column such as ``is_valid`` holds true."""
    word = re.fullmatch(r"is[^a-zA-Z]*([a-zA-Z]+)", column)
    return split_names.role(word[1]) if word else None


def _split_of(column: str, value: Any) -> str:
    told, text = _told_by(column), "" if value is None else str(value).strip()
    if told is None:
        return text
    if (is_so := _zero_or_one(text)) is None:
        return ""
    return told if is_so else "test" if told == "train" else "train"
