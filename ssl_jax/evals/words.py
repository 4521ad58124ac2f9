"""What vectors of words know: who is near whom, and "a is to b as c is to ?".

Both by the cosine. An analogy is answered by 3CosAdd, the word d other than a, b and c with the greatest

    cos(d, b - a + c)

for vectors of length 1.

Reference: Mikolov et al. 2013 (arXiv:1301.3781), section 4; 3CosAdd: Levy and Goldberg 2014, eq. 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

BLOCK = 256  # questions at a time


class Section(NamedTuple):
    """Questions of a kind.

    Attributes:
      questions: int ``[n, 4]``: rows of the words a, b, c and the answer.
      unknown: how many more there are with words that are not known.
    """

    questions: np.ndarray
    unknown: int


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32; one that is 0 stays so."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def neighbours(
    vectors: np.ndarray, asked: np.ndarray, number: int, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the greatest cosine.

    Args:
      vectors: ``[n, d]``.
      asked: ``[q, d]``.
      number: k, of rows for each; fewer where there are not as many.
      without: int ``[q, m]``, rows that do not count.

    Returns:
      (rows int ``[q, k]``, the nearest first, cosines ``[q, k]``).
    """
    table, rows, cosines = unit(vectors), [], []
    left = len(table) - (0 if without is None else without.shape[1])
    for start in range(0, len(asked), BLOCK):
        near = unit(asked[start : start + BLOCK]) @ table.T
        if without is not None:
            np.put_along_axis(near, without[start : start + BLOCK], -np.inf, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")[:, : min(number, left)]
        rows.append(order)
        cosines.append(np.take_along_axis(near, order, axis=1))
    if not rows:
        return np.zeros((0, number), np.int64), np.zeros((0, number), np.float32)
    return np.concatenate(rows), np.concatenate(cosines)


def answers(vectors: np.ndarray, questions: np.ndarray, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What is to c as b is to a, the best ``number``: as :func:`neighbours`, for int ``[n, 3]`` rows of a, b and c."""
    table = unit(vectors)
    a, b, c = (table[questions[:, i]] for i in range(3))
    return neighbours(table, b - a + c, number, without=questions[:, :3])


def accuracy(vectors: np.ndarray, questions: np.ndarray) -> float:
    """The share of questions, int ``[n, 4]``, whose answer is right; NaN of none.

    Example:
      >>> vectors = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]])   # man, king, woman, queen
      >>> accuracy(vectors, np.array([[0, 1, 2, 3]]))
      1.0
    """
    if not len(questions):
        return float("nan")
    return float((answers(vectors, questions)[0][:, 0] == questions[:, 3]).mean())


def read_questions(path: str | Path, words: Sequence[str]) -> dict[str, Section]:
    """Questions of a file in the form of word2vec's ``questions-words.txt``, by section.

    A line is four words, or ``: name`` where a section begins. A word is looked up as it stands, else in small letters.

    Raises:
      ValueError: of one line: the file cannot be read, or a line of it is neither.
    """
    at = {word: i for i, word in enumerate(words)}
    found: dict[str, list[list[int]]] = {}
    unknown: dict[str, int] = {}
    name = ""
    for number, line in _lines(Path(path)):
        if line.startswith(":"):
            name = line[1:].strip()
            continue
        asked = line.split()
        if len(asked) != 4:
            raise ValueError(f"{path}, line {number}: {len(asked)} words; a question has four, a section begins with :")
        rows = [at.get(word, at.get(word.lower(), -1)) for word in asked]
        section = found.setdefault(name, [])
        unknown.setdefault(name, 0)
        if min(rows) < 0:
            unknown[name] += 1
        else:
            section.append(rows)
    if not found:
        raise ValueError(f"{path} holds no questions; a line is four words, a : b as c : d")
    return {k: Section(np.array(rows, np.int64).reshape(-1, 4), unknown[k]) for k, rows in found.items()}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name a file of questions") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 ({error}); save it so") from None
    yield from ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def by_section(vectors: np.ndarray, sections: Mapping[str, Section]) -> dict[str, float]:
    """Accuracy of each section, and of all questions together as ``"total"``."""
    every = np.concatenate([section.questions for section in sections.values()])
    return {name: accuracy(vectors, s.questions) for name, s in sections.items()} | {"total": accuracy(vectors, every)}
