"""Vectors of words as text, a line each: the word and its numbers, parted by spaces (GloVe).

A first line of two whole numbers, how many words there are and how wide they are, is word2vec's and may be there. What
ends in .gz is compressed.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.interop.files import whole

SUFFIXES = (".txt", ".vec", ".txt.gz", ".vec.gz")


def is_vectors(path: str | os.PathLike[str]) -> bool:
    """Whether a path is called as files of word vectors are, and is no folder."""
    return str(path).lower().endswith(SUFFIXES) and not os.path.isdir(os.path.expanduser(path))


def read(path: str | os.PathLike[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """(words, float32 ``[n, d]``) of a file.

    Raises:
      ValueError: of one line, with the file's: lines that are no word with numbers, or not as many; a word that is
        there twice; a first line that promises other sizes.
    """
    path = Path(os.path.expanduser(path))
    rows: list[np.ndarray] = []
    at: dict[str, int] = {}
    promised: tuple[int, int] | None = None
    width = None
    for number, line in _lines(path):
        fields = line.split(" ")
        if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
            promised = int(fields[0]), int(fields[1])
            width = promised[1]
            continue
        where = f"{path}, line {number}"
        width = len(fields) - 1 if width is None else width
        if width < 1 or len(fields) <= width:
            raise ValueError(f"{where}: a word with {len(fields) - 1} numbers, and {max(width, 1)} are needed; mend it")
        word = " ".join(fields[:-width])  # some have spaces
        if word in at:
            raise ValueError(f"{where}: the word {word!r} is there a second time, first in line {at[word]}; remove one")
        try:
            row = [float(field) for field in fields[-width:]]
        except ValueError as error:
            raise ValueError(f"{where}: {error}, behind the word {word[:40]!r}; {width} numbers are needed") from None
        if not all(map(math.isfinite, row)):
            raise ValueError(f"{where}: numbers of the word {word[:40]!r} are not finite; remove it")
        at[word] = number
        rows.append(np.array(row, np.float32))
    if not rows:
        raise ValueError(f"{path} holds no words; a line is a word and its numbers, parted by spaces")
    if promised is not None and promised[0] != len(rows):
        raise ValueError(f"{path} holds {len(rows):,} words, and its first line promises {promised[0]:,}; get it again")
    return tuple(at), np.stack(rows)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, and their numbers."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8").rstrip("\r\n ")
                if text:
                    yield number, text
    except UnicodeDecodeError:
        raise ValueError(f"{path}, line {number}: bytes that are no UTF-8; save it as UTF-8") from None
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def write(path: str | os.PathLike[str], words: Sequence[str], vectors: np.ndarray, *, header: bool = False) -> None:
    """Write vectors ``[n, d]`` of some words, float32 to the last bit; the file is there whole or not at all.

    Args:
      header: begin with the line of sizes that word2vec has; GloVe has none.

    Raises:
      ValueError: a word that would not be read as it is, or the file cannot be written.
    """
    path = Path(os.path.expanduser(path))
    if not is_vectors(path):
        raise ValueError(f"{path} is not called as files of word vectors are; end it in {', '.join(SUFFIXES)}")
    for word in words:
        if not word or any(c.isspace() for c in word):
            raise ValueError(f"the word {word!r} has white space or nothing in it, which the format cannot hold")
    lines = [f"{len(words)} {vectors.shape[1]}"] if header else []
    rows = np.asarray(vectors, np.float32)
    lines += [f"{word} {' '.join(f'{x:.9g}' for x in row)}" for word, row in zip(words, rows, strict=True)]
    data = ("\n".join(lines) + "\n").encode()
    try:
        with whole(path) as temporary:
            temporary.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); name another file") from None
