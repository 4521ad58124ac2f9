"""Text on disk as sources: files of text, tables (``.csv``, ``.tsv``, ``.jsonl``), folders of either, class folders.

A record is a document. A file of text holds several where it says so: each begins with a heading ``= Title =``
(WikiText), or they are parted by blank lines, or else every line is one; where a folder holds several files, each is
one document. A table has one in each row. Documents without a word are left out and counted.

Bytes that are no UTF-8 make a line unreadable, which is left out and counted while they are few.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.data import classes
from ssl_jax.data.readers import split_names
from ssl_jax.data.readers.tables import TABLES, USUAL, Columns, Found, read_table, stored
from ssl_jax.data.source import Source, sha256

PLAIN = (".txt", ".text", ".tokens", ".raw")
HEADING = re.compile(r"^ ?= [^=](.*[^=])? = ?$")
MAX_UNREADABLE = 0.01


class Sources(NamedTuple):
    """The parts of a dataset; None where there is no such part."""

    train: Source
    val: Source | None
    test: Source | None
    more: Source | None


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
    if test is not None and split_names.role(test) == "validation":
        said = f"{path}: {test} is the test part, since there is no other; validation examples are taken from train"
        found["train"] = found["train"]._replace(notes=(*found["train"].notes, said))
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
    given, names = stored([part.labels for part in parts.values()])
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
    entries = [e for e in sorted(path.iterdir(), key=lambda e: e.name) if not e.name.startswith(".")]
    entries = [e for e in entries if e.is_dir() or e.suffix.lower() in (*PLAIN, *TABLES)]
    first = Counter(entry.name.split(".")[0] for entry in entries)
    found = {}
    for entry in entries:
        name, _, more = entry.name.partition(".")
        if entry.is_dir():
            name = entry.name
        elif first[name] > 1 and "." in more:  # wiki.train.tokens beside wiki.test.tokens
            name = more.rpartition(".")[0]
        if name in found:
            raise ValueError(f"{path} has both {found[name].name} and {entry.name}; keep one of them")
        found[name] = entry
    return found


def _joined(root: Path, path: Path, columns: Columns) -> Found:
    """All that a file or folder of the dataset ``root`` holds."""
    texts, labels, notes, passed, loose, unlabelled = [], [], [], 0, [], ""
    seconds: list[str] = []
    lines = Lines()
    for found, skipped, beside in _below(path, columns, lines):
        kept = [i for i, text in enumerate(found.texts) if text.strip()]
        lines.empty += len(found.texts) - len(kept)
        texts += [found.texts[i] for i in kept]
        labels += [found.labels[i] for i in kept]
        seconds += [found.seconds[i] for i in kept if found.seconds]
        notes += found.notes
        unlabelled = unlabelled or found.unlabelled
        passed += skipped
        loose += beside
    if passed:
        notes.append(f"{root}: passed over {passed} files that are neither text nor tables")
    if loose:
        named = ", ".join(file.name for file in loose[:3]) + (", ..." if len(loose) > 3 else "")
        notes.append(f"{root}: passed over {len(loose)} files beside folders of classes ({named})")
    if lines.empty:
        notes.append(f"{root}: {lines.empty} documents without a word are left out")
    notes += lines.said(root)
    if not texts:
        raise ValueError(f"text:{path} holds no text; files of text end in {', '.join((*PLAIN, *TABLES))}")
    if seconds and len(seconds) != len(texts):
        raise ValueError(f"{path}: {len(seconds)} of {len(texts)} documents have another form (data.second_column)")
    return Found(texts, labels, tuple(dict.fromkeys(notes)), seconds, unlabelled)


def _below(path: Path, columns: Columns, lines: Lines) -> Iterator[tuple[Found, int, list[Path]]]:
    """What a file or folder holds, how many files in it are neither text nor tables, and which lie beside classes."""
    if path.is_file():
        yield _file(path, columns, lines, whole=False), 0, []
        return
    entries = sorted((e for e in path.iterdir() if not e.name.startswith(".")), key=lambda e: e.name)
    folders = [e for e in entries if e.is_dir()]
    files = [e for e in entries if e.is_file() and e.suffix.lower() in (*PLAIN, *TABLES)]
    passed = len(entries) - len(folders) - len(files)
    loose = []
    if files and len(folders) > 1 and not any(file.suffix.lower() in TABLES for file in files):
        files, loose = [], files  # as urls_pos.txt beside pos and neg in the archive of IMDb
    if files and folders:
        raise ValueError(f"{path} has loose files ({files[0].name}) beside folders ({folders[0].name}); move them")
    for file in files:
        yield _file(file, columns, lines, whole=len(files) > 1), 0, []
    unlabelled = [f for f in folders if split_names.role(f.name) == "unlabelled"]
    for folder in folders:
        name = None if folder in unlabelled or len(folders) == 1 else folder.name
        for found, skipped, beside in _below(folder, columns, lines):
            yield found._replace(labels=[name] * len(found.texts)), skipped, beside
    yield Found([], []), passed, loose


def _file(path: Path, columns: Columns, lines: Lines, *, whole: bool) -> Found:
    """The documents of a file; of text ``whole`` is one."""
    text = lines.read(path)
    if path.suffix.lower() in TABLES:
        if lines.bad and "\n" not in text.strip():  # no row is left to say anything of
            lines.said(path)
        return read_table(path, text, columns)
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


class Lines:
    """Reads files as text, and counts the lines that are none, and the documents without a word."""

    def __init__(self) -> None:
        self.read_lines, self.bad, self.first, self.what, self.empty = 0, 0, "", "", 0

    def read(self, path: Path) -> str:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
            raise ValueError(f"{path} is compressed; unpack it")
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{path} is UTF-16; save it as UTF-8")
        data = data.replace(b"\r\n", b"\n")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            text = self._by_line(path, data)
        self.read_lines += text.count("\n") + 1
        return text

    def _by_line(self, path: Path, data: bytes) -> str:
        kept = []
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                if b"\0" in line:
                    raise UnicodeError
                kept.append(line.decode("utf-8"))
            except UnicodeError:
                self.bad += 1
                self.what = self.what or (
                    "a NUL byte, which no text holds" if b"\0" in line else "bytes that are no UTF-8 text"
                )
                self.first = self.first or f"{path}, line {number}"
        return "\n".join(kept)

    def said(self, root: Path) -> list[str]:
        """What is to be said of the lines that were left out; ValueError where they are many."""
        if not self.bad:
            return []
        total = self.read_lines + self.bad
        if self.bad > MAX_UNREADABLE * total:
            raise ValueError(
                f"{self.first}: {self.what}, as in {self.bad} of {total} lines of {root}; "
                f"save it as UTF-8{' without any' * self.what.startswith('a NUL')}"
            )
        return [f"{root}: {self.bad} of {total:,} lines are no UTF-8 text and left out (the first: {self.first})"]
