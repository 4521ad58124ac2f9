"""Tables of text: which columns hold what, and their rows in ``.csv``, ``.tsv`` and ``.jsonl``.

The first line names the columns. A row of CSV may go over several lines within quotes, and a quote out of place is
refused with its line. Where all lines of a TSV have as many tabs, a line is a row, and a lone quote is part of a text.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    rows = list(_json_rows(path, text) if path.suffix.lower() == ".jsonl" else _csv_rows(path, text))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    where = _column(path, names, columns.text, TEXTS, "text")
    label = _column(path, names, columns.label, LABELS, "label")
    second = _column(path, names, columns.second, SECONDS, "second")
    assert where is not None
    texts, labels, seconds = [], [], []
    for number, row in rows:
        if not isinstance(row.get(where), str):
            raise ValueError(f"{path}, line {number}: there is no text in the column {where!r}; remove the row")
        if second is not None and not (isinstance(row.get(second), str) and row[second].strip()):
            raise ValueError(f"{path}, line {number}: there is no text in the column {second!r}; remove the row")
        texts.append(row[where])
        seconds += [] if second is None else [row[second]]
        labels.append(_label(path, number, row.get(label)) if label is not None else None)
    if all(isinstance(v, str) and NUMBER.fullmatch(v) for v in labels if v is not None):
        whole = [None if v in (None, "nan", "NaN") else int(str(v).partition(".")[0]) for v in labels]
        labels: list[str | int | None] = [None if v == -1 else v for v in whole]
    without = next((number for (number, _), value in zip(rows, labels, strict=True) if value is None), None)
    taken = {"the text": where, "the label": label, "the other form": second}
    said = ", ".join(f"{role} from {name!r}" for role, name in taken.items() if name is not None)
    left = [name for name in names if name not in taken.values()]
    said += f"; not read: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}" if left else ""
    return Found(
        texts, labels, (f"{path.name}: {said}",), seconds, "" if without is None else f"{path}, line {without}"
    )


def _label(path: Path, number: int, value: Any) -> str | int | None:
    if value is None or value == "" or value != value:  # JSON's NaN
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)):
        raise ValueError(f"{path}, line {number}: the label {value!r} is neither a whole number nor a name")
    return None if value == -1 else value


def _column(path: Path, names: list[str], asked: str | None, usual: Sequence[str], role: str) -> str | None:
    if asked is not None:
        if asked not in names:
            raise ValueError(
                f"{path} has no column {asked!r} (data.{role}_column); {hint(asked, names)}its columns: "
                f"{', '.join(names)}"
            )
        return asked
    found = next((name for word in usual for name in names if name.lower() == word), None)
    if found is None and role == "text":
        there = ", ".join(names) or "none"
        raise ValueError(f"{path} has no column {usual[0]!r}; name it with data.text_column, of: {there}")
    return found


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    tabs = path.suffix.lower() == ".tsv"
    if tabs and len({line.count("\t") for line in text.split("\n") if line}) == 1:
        yield from _lines_of_tabs(text)
        return
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    names, begins = None, 1
    try:
        for row in reader:
            if names is None and row:
                names = row
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
    if names is not None and len(names) == 1 and (said := _other_separator(names)):
        raise ValueError(f"{path}: the first line names one column, {names[0]!r}; {said}")


def _lines_of_tabs(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table of tabs in which every line is one: a quote at one end of a field is part of what is said."""
    names: list[str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        fields = [f[1:-1].replace('""', '"') if QUOTED.fullmatch(f) else f for f in line.split("\t")]
        if line and names is None:
            names = fields
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
