"""Text on disk as sources: files of text, tables (``.csv``, ``.tsv``, ``.jsonl``), folders of either, class folders.

A record is a document. A file of text holds several where it says so: each begins with a heading ``= Title =``
(WikiText), or they are parted by blank lines, or else every line is one. In a folder of classes a file is one document.
A table has one in each row.

Bytes that are no UTF-8 make a line unreadable, which is left out and counted while they are few.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import classes
from ssl_jax.data.readers import split_names
from ssl_jax.data.source import Source, sha256
from ssl_jax.names import hint

PLAIN, TABLES = (".txt", ".text", ".tokens", ".raw"), (".csv", ".tsv", ".jsonl")
TEXTS = ("text", "sentence", "review", "content", "document", "body")
SECONDS = ("text_2",)
LABELS = ("label", "labels", "class", "category", "sentiment", "target", "topic")
HEADING = re.compile(r"^ ?= [^=](.*[^=])? = ?$")
MAX_UNREADABLE = 0.01


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


class Sources(NamedTuple):
    """The parts of a dataset; None where there is no such part."""

    train: Source
    val: Source | None
    test: Source | None
    more: Source | None


class Columns(NamedTuple):
    """Names of the columns of a table that hold text, label and another form of the text.

    None: found by the usual names; the other form is called ``text_2`` then.
    """

    text: str | None = None
    label: str | None = None
    second: str | None = None


USUAL = Columns()


def load(
    path: Path, *, train_split: str | None = None, test_split: str | None = None, columns: Columns = USUAL
) -> Sources:
    """The text in a file or folder; its parts are known by the names of files or folders, as those of images are.

    Raises:
      ValueError: of one line: no text, no such column, undecodable bytes, splits that are not there.
    """
    if not path.exists():
        raise ValueError(f"text:{path} is not there; give a file or folder of text")
    parts = _parts(path)
    chosen = split_names.choose(str(path), list(parts), train_split, test_split) if parts else None
    if chosen is None:
        return Sources(_source({"train": _joined(path, path, columns)}, path)["train"], None, None, None)
    test = chosen.tests[0] if chosen.tests else None
    held_out = [name for name in parts if split_names.role(name) == "validation" and name not in (chosen.train, test)]
    names = {"train": chosen.train, "test": test, "val": held_out[0] if held_out else None}
    names["more"] = chosen.unlabelled[0] if chosen.unlabelled else None
    found = {role: _joined(path, parts[name], columns) for role, name in names.items() if name is not None}
    if "more" in found:
        found["more"] = found["more"]._replace(labels=[None] * len(found["more"].texts))
    if unused := sorted(set(parts) - set(names.values())):
        said = f"{path}: {', '.join(unused)} not used; data.train_split and data.test_split name what is"
        found["train"] = found["train"]._replace(notes=(*found["train"].notes, said))
    made = _source(found, path)
    return Sources(made["train"], made.get("val"), made.get("test"), made.get("more"))


def pydoc() -> Source:
    """The help texts that ship inside Python (some 700 kB of English and code), a document for each topic."""
    from pydoc_data.topics import topics

    texts = [topics[name].strip("\n") for name in sorted(topics)]
    return of_texts(texts)


def of_texts(
    texts: Sequence[str],
    labels: np.ndarray | None = None,
    class_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
    why_unlabelled: str = "there are no labels",
    seconds: Sequence[str] = (),
) -> Source:
    """A source of texts in memory, with integer labels ``[n]`` or None, and another form of each or none."""
    columns = {"text": np.empty(len(texts), object)}
    columns["text"][:] = list(texts)
    if len(seconds):
        columns["text_2"] = np.empty(len(texts), object)
        columns["text_2"][:] = list(seconds)
    fingerprint = sha256(*columns["text"], *([] if labels is None else [labels]), *(class_names or ()), *seconds)
    why = why_unlabelled if labels is None else ""
    return Source(columns, labels, class_names, fingerprint, notes=notes, why_unlabelled=why)


def _source(parts: dict[str, Found], path: Path) -> dict[str, Source]:
    """Sources of parts whose classes are numbered alike."""
    known = {label for part in parts.values() for label in part.labels if label is not None}
    names = None if all(isinstance(label, int) for label in known) else tuple(sorted(map(str, known)))
    number = {name: k for k, name in enumerate(names or ())}

    def stored(label: str | int | None) -> int:
        return -1 if label is None else number[str(label)] if names else int(label)

    given = [np.array([stored(label) for label in part.labels], np.int64) for part in parts.values()]
    labels, names, notes = classes.number(given, names)
    if "more" in parts and bool(parts["train"].seconds) != bool(parts["more"].seconds):
        raise ValueError(f"{path}: documents of train and unlabelled ones must both have another form, or neither")
    made = {}
    for (role, part), numbered in zip(parts.items(), labels, strict=True):
        missing = sum(label is None for label in part.labels)
        said = (*part.notes, *(notes if role == "train" else ()))
        if 0 < missing < len(part.labels):
            first = f", the first at {part.unlabelled}" if part.unlabelled else ""
            said += (f"{path}: {missing} of {len(part.labels)} documents of {role} have no label{first}",)
        why = "" if numbered is not None else "there are no labels"
        called = None if numbered is None else names
        made[role] = of_texts(part.texts, numbered, called, said, why, part.seconds)
    return made


# --- what lies where


def _parts(path: Path) -> dict[str, Path]:
    """Files and folders of a folder by the name that a split would have."""
    if not path.is_dir():
        return {}
    found = {}
    for entry in sorted(path.iterdir(), key=lambda p: p.name):
        if entry.name.startswith(".") or not (entry.is_dir() or entry.suffix.lower() in (*PLAIN, *TABLES)):
            continue
        name = entry.name if entry.is_dir() else entry.name.split(".")[0]
        if name in found:
            raise ValueError(f"{path} has both {found[name].name} and {entry.name}; keep one of them")
        found[name] = entry
    return found


def _joined(root: Path, path: Path, columns: Columns) -> Found:
    """All that a file or folder of the dataset ``root`` holds."""
    texts, labels, notes, passed, unlabelled = [], [], [], 0, ""
    seconds: list[str] = []
    lines = _Lines()
    for found, skipped in _below(path, columns, lines):
        texts += found.texts
        labels += found.labels
        notes += found.notes
        seconds += found.seconds
        unlabelled = unlabelled or found.unlabelled
        passed += skipped
    if passed:
        notes.append(f"{root}: passed over {passed} files that are neither text nor tables")
    notes += lines.said(root)
    if not any(text.strip() for text in texts):
        raise ValueError(f"text:{path} holds no text; files of text end in {', '.join((*PLAIN, *TABLES))}")
    if seconds and len(seconds) != len(texts):
        raise ValueError(f"{path}: {len(seconds)} of {len(texts)} documents have another form (data.second_column)")
    return Found(texts, labels, tuple(dict.fromkeys(notes)), seconds, unlabelled)


def _below(path: Path, columns: Columns, lines: _Lines) -> Iterator[tuple[Found, int]]:
    """What a file or folder holds, and how many files in it are neither text nor tables."""
    if path.is_file():
        yield _file(path, columns, lines, whole=False), 0
        return
    entries = sorted((e for e in path.iterdir() if not e.name.startswith(".")), key=lambda e: e.name)
    folders = [e for e in entries if e.is_dir()]
    files = [e for e in entries if e.is_file() and e.suffix.lower() in (*PLAIN, *TABLES)]
    passed = len(entries) - len(folders) - len(files)
    if files and folders:
        raise ValueError(f"{path} has loose files ({files[0].name}) beside folders ({folders[0].name}); move them")
    for file in files:
        yield _file(file, columns, lines, whole=len(files) > 1), 0
    unlabelled = [f for f in folders if split_names.role(f.name) == "unlabelled"]
    for folder in folders:
        name = None if folder in unlabelled or len(folders) == 1 else folder.name
        for found, skipped in _below(folder, columns, lines):
            yield found._replace(labels=[name] * len(found.texts)), skipped
    yield Found([], []), passed


def _file(path: Path, columns: Columns, lines: _Lines, *, whole: bool) -> Found:
    """The documents of a file; of text ``whole`` is one."""
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _table(path, columns, lines)
    text = lines.read(path)
    if whole:
        return Found([text], [None])
    documents, how = split_documents(text)
    return Found(documents, [None] * len(documents), (f"{path.name}: {len(documents):,} documents, {how}",))


def split_documents(text: str) -> tuple[list[str], str]:
    """The documents of a text, whose lines stay as they are, and by what they are parted."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    starts = [i for i, line in enumerate(lines) if HEADING.match(line)]
    if starts:
        how = "each with a heading (= Title =)"
        starts = starts if not "".join(lines[: starts[0]]).strip() else [0, *starts]
        starts[0] = 0
    else:
        blank = [not line.strip() for line in lines]
        starts = [i for i in range(len(lines)) if not blank[i] and (i == 0 or blank[i - 1])]
        how = "parted by blank lines"
        if len(starts) < 2:
            return [line for line in lines if line.strip()], "one in a line"
    ends = [*starts[1:], len(lines)]
    return ["\n".join(lines[i:j]) for i, j in zip(starts, ends, strict=True)], how


def _table(path: Path, columns: Columns, lines: _Lines) -> Found:
    text = lines.read(path)
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
        if second is not None and not isinstance(row.get(second), str):
            raise ValueError(f"{path}, line {number}: there is no text in the column {second!r}; remove the row")
        texts.append(row[where])
        seconds += [] if second is None else [row[second]]
        labels.append(_label(path, number, row.get(label)) if label is not None else None)
    if all(isinstance(v, str) and re.fullmatch(r"-?\d+", v) for v in labels if v is not None):
        numbers: list[str | int | None] = [None if v is None or int(v) == -1 else int(v) for v in labels]
        labels = numbers
    without = next((number for (number, _), value in zip(rows, labels, strict=True) if value is None), None)
    return Found(texts, labels, seconds=seconds, unlabelled="" if without is None else f"{path}, line {without}")


def _label(path: Path, number: int, value: Any) -> str | int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
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
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {reader.line_num}: another number of fields than the {len(reader.fieldnames or ())} "
                    "of the first line, which names the columns; put quotes around fields with commas"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


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


class _Lines:
    """Reads files as text, and counts the lines that are none."""

    def __init__(self) -> None:
        self.read_lines, self.bad, self.first = 0, 0, ""

    def read(self, path: Path) -> str:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        data = data.replace(b"\r\n", b"\n")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = self._by_line(path, data)
        if "\0" in text:
            raise ValueError(f"{path} holds zero bytes, as UTF-16 or no text at all would; save it as UTF-8")
        self.read_lines += text.count("\n") + 1
        return text

    def _by_line(self, path: Path, data: bytes) -> str:
        kept = []
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                kept.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                self.bad += 1
                self.first = self.first or f"{path}, line {number}"
        return "\n".join(kept)

    def said(self, root: Path) -> list[str]:
        """What is to be said of the lines that were left out; ValueError where they are many."""
        if not self.bad:
            return []
        total = self.read_lines + self.bad
        if self.bad > MAX_UNREADABLE * total:
            raise ValueError(
                f"{self.first}: bytes that are no UTF-8, as in {self.bad} of {total} lines of {root}; save it as UTF-8"
            )
        return [f"{root}: {self.bad} of {total:,} lines are no UTF-8 and left out (the first: {self.first})"]
