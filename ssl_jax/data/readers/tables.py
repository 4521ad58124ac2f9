"""Tables: their rows in ``.csv``, ``.tsv`` and ``.jsonl``, which columns hold what, and their labels.

The first line names the columns, each once. A row of CSV may go over several lines within quotes, and a quote out of
place is refused with its line. Where all lines of a TSV have as many tabs, a line is a row, and a lone quote is part
of a text. Those of text are read here (:func:`read_table`), those that name images in :mod:`image_tables`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.images.image_files import SUFFIXES, suffix
from ssl_jax.names import hint

TABLES = (".csv", ".tsv", ".jsonl")
TEXTS = ("text", "sentence", "review", "content", "document", "body")
SECONDS = ("text_2",)
LABELS = ("label", "labels", "class", "category", "sentiment", "target", "topic")
NUMBER = re.compile(r"-?\d+(\.0+)?|nan|NaN")
QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Found(NamedTuple):
    """Documents, of each its label (None where there is none), and what is to be said of them.

    ``seconds``: another form of each, such as a translation there and back; empty where there is none.
    ``unlabelled``: file and line of the first row of a table whose label is missing.
    """

    texts: list[str]
    labels: list[str | int | None]
    notes: tuple[str, ...] = ()
    seconds: Sequence[str] = ()
    unlabelled: str = ""


class Columns(NamedTuple):
    """Names of the columns of a table that hold text, label and another form of the text.

    None: found by the usual names; the other form is called ``text_2`` then.
    """

    text: str | None = None
    label: str | None = None
    second: str | None = None


USUAL = Columns()


def read_table(path: Path, text: str, columns: Columns = USUAL) -> Found:
    """The documents of the file ``path``, whose ``text`` is a table by its suffix, a row each.

    Raises:
      ValueError: of one line, with file and line: no such column, a row without text, or that is none.
    """
    rows = rows_of(path, text)
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    where = column(path, names, columns.text, TEXTS, "text")
    label = column(path, names, columns.label, LABELS, "label")
    second = column(path, names, columns.second, SECONDS, "second")
    if of_images := named_images(rows[:20], names if where is None else [where]):
        raise ValueError(
            f"{path}: the column {of_images!r} names image files; read them with data.source=csv:{path} (a table of "
            "images and labels)"
        )
    if where is None:
        there = ", ".join(names) or "none"
        raise ValueError(f"{path} has no column {TEXTS[0]!r}; name it with data.text_column, of: {there}")
    texts, labels, seconds = [], [], []
    for number, row in rows:
        if not isinstance(row.get(where), str):
            raise ValueError(f"{path}, line {number}: there is no text in the column {where!r}; remove the row")
        if second is not None and not (isinstance(row.get(second), str) and row[second].strip()):
            raise ValueError(f"{path}, line {number}: there is no text in the column {second!r}; remove the row")
        texts.append(row[where])
        seconds += [] if second is None else [row[second]]
        labels.append(label_of(path, number, bare(row.get(label))) if label is not None else None)
    labels = whole(labels)
    without = next((number for (number, _), value in zip(rows, labels, strict=True) if value is None), None)
    taken = {"the text": where, "the label": label, "the other form": second}
    said = ", ".join(f"{role} from {name!r}" for role, name in taken.items() if name is not None)
    left = [name for name in names if name not in taken.values()]
    said += f"; not read: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}" if left else ""
    notes = (f"{path.name}: {said}", *of_blanks(path, labels=[row.get(label) for _, row in rows if label is not None]))
    return Found(texts, labels, notes, seconds, "" if without is None else f"{path}, line {without}")


def rows_of(path: Path, text: str, separator: str | None = None) -> list[tuple[int, dict[str, Any]]]:
    """(line, what the columns hold by their names) of every row of the file ``path``.

    Args:
      separator: of the fields of a table that is no ``.jsonl``; by default a tab in ``.tsv``, else a comma.
    """
    return list(_json_rows(path, text) if path.suffix.lower() == ".jsonl" else _csv_rows(path, text, separator))


def named_images(rows: Sequence[tuple[int, dict[str, Any]]], names: Sequence[str]) -> str | None:
    """The first of the columns ``names`` of which every value ends as the name of an image file does."""
    for name in names:
        values = [row.get(name) for _, row in rows]
        if values and all(isinstance(v, str) and suffix(v.strip()) in SUFFIXES for v in values):
            return name
    return None


def bare(value: Any) -> Any:
    """A field without the blanks around it, as "a.jpg, ants" gives them to the name of a class."""
    return value.strip() if isinstance(value, str) else value


def of_blanks(path: Path, **fields: Iterable[Any]) -> tuple[str, ...]:
    """What is said of fields, by what they hold, that have blanks around them, which were taken off."""
    padded = {what: sum(isinstance(v, str) and v != v.strip() for v in values) for what, values in fields.items()}
    of = " and ".join(f"{n:,} {what}" for what, n in padded.items() if n)
    return (f"{path.name}: blanks around {of} are no part of them",) if of else ()


def whole(labels: Sequence[str | int | None]) -> list[str | int | None]:
    """Labels that are written as whole numbers as such, where all are; -1 is no label then."""
    if not all(isinstance(v, str) and NUMBER.fullmatch(v) for v in labels if v is not None):
        return list(labels)
    numbers = [None if v in (None, "nan", "NaN") else int(str(v).partition(".")[0]) for v in labels]
    return [None if v == -1 else v for v in numbers]


def stored(parts: Sequence[Sequence[str | int | None]]) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """The labels of the parts of a dataset as integers, -1 where there is none, and the names that they number.

    Whole numbers stay what they are and have no names, which :func:`ssl_jax.data.classes.number` gives them.
    """
    known = {label for part in parts for label in part if label is not None}
    names = None if all(isinstance(label, int) for label in known) else tuple(sorted(map(str, known)))
    number = {name: k for k, name in enumerate(names or ())}

    def one(label: str | int | None) -> int:
        return -1 if label is None else number[str(label)] if names else int(label)

    return [np.array([one(label) for label in part], np.int64) for part in parts], names


def label_of(path: Path | str, number: int, value: Any) -> str | int | None:
    """The label in a field of row ``number``; None where there is none."""
    if value is None or value == "" or value != value:  # JSON's NaN
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)):
        raise ValueError(f"{path}, line {number}: the label {value!r} is neither a whole number nor a name")
    return None if value == -1 else value


def column(path: Path | str, names: Sequence[str], asked: str | None, usual: Sequence[str], role: str) -> str | None:
    """The column that is asked for, else the first that has one of the usual names; None where there is none.

    Raises:
      ValueError: there is no column of the name that is asked for.
    """
    asked = asked.strip() if asked is not None and asked not in names else asked
    if asked is not None and asked not in names:
        raise ValueError(
            f"{path} has no column {asked!r} (data.{role}_column); {hint(asked, names)}its columns: {', '.join(names)}"
        )
    return asked or next((name for word in usual for name in names if name.lower() == word), None)


def _csv_rows(path: Path, text: str, separator: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    tabs = path.suffix.lower() == ".tsv" and separator in (None, "\t")
    if tabs and len({line.count("\t") for line in text.split("\n") if line}) == 1:
        yield from _lines_of_tabs(path, text)
        return
    csv.field_size_limit(1 << 30)
    delimiter = separator or ("\t" if tabs else ",")
    if separator is not None:  # blanks around quotes are part of no name; of a text they may be
        sign = re.escape(delimiter)
        text = re.sub(rf"(^|{sign}) *({QUOTED.pattern}) *(?={sign}|\r?$)", r"\1\2", text, flags=re.MULTILINE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names, begins = None, 1
    try:
        for row in reader:
            if names is None and row:
                names = _each_once(path, row)
            elif row and names is not None:
                if len(row) != len(names):
                    raise ValueError(
                        f"{path}, line {begins}: another number of fields than the {len(names)} of the first line, "
                        f"which names the columns; {_other_separator(names) or 'put quotes around fields with commas'}"
                    )
                yield begins, dict(zip(names, row, strict=True))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}: the row that begins in line {begins} has a stray quote ({error})") from error
    if separator is None and names is not None and len(names) == 1 and (said := _other_separator(names)):
        raise ValueError(f"{path}: the first line names one column, {names[0]!r}; {said}")


def _each_once(path: Path, names: list[str]) -> list[str]:
    """The names of columns, without blanks around; those without a name, as a separator at the end of each line makes
    them, may be several.

    Raises:
      ValueError: two have the same name.
    """
    names = [name.strip() for name in names]
    again = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if again is not None:
        of = [i for i, name in enumerate(names, 1) if name == again]
        raise ValueError(
            f"{path}: the columns {', '.join(map(str, of[:-1]))} and {of[-1]} are both called {again!r}; give each a "
            "name of its own, or remove one"
        )
    return names


def _lines_of_tabs(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table of tabs in which every line is one: a quote at one end of a field is part of what is said."""
    names: list[str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        fields = [f[1:-1].replace('""', '"') if QUOTED.fullmatch(f) else f for f in line.split("\t")]
        if line and names is None:
            names = _each_once(path, fields)
        elif line and names is not None:
            yield number, dict(zip(names, fields, strict=True))


def _other_separator(names: list[str]) -> str:
    """What to do where the first line is separated by something else than what its file's name says."""
    found = next((sign for sign in (";", "\t", "|") if len(names) == 1 and sign in names[0]), None)
    advice = "name the file .tsv" if found == "\t" else "save it with commas"
    return f"it has {found!r} between its fields; {advice}" if found else ""


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error}); each line has to be an object") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: {line[:40]!r} is no JSON object with columns by name")
        yield number, row
