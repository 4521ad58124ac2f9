"""Another form of a document: words that tell little of it are replaced by others that tell little of any.

A word that is frequent in a document and in few others (high TF-IDF) carries what it says. With ``x_i`` the TF-IDF of
word i in a document of n words, word i is replaced with probability

    min(1, p (C - x_i) / Z),    C = max_i x_i,    Z = sum_i (C - x_i) / n,

p on average where no probability is cut at 1, by a word w drawn with probability ``(max S - S(w)) / Z'``, where S is
TF-IDF summed over all documents.

What becomes of an example depends on (seed, step, example) alone.

Reference: Xie et al. 2020 (arXiv:1904.12848), appendix B.2 in the form of its code, in which a word's frequency is its
share of the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Corpus(NamedTuple):
    """What replacement has to know of all documents: each word's IDF, float64 ``[v]``, and how words are drawn.

    ``cumulative`` float64 ``[k]`` rises to 1 over the words ``drawn`` int32 ``[k]``.
    """

    idf: np.ndarray
    drawn: np.ndarray
    cumulative: np.ndarray


def corpus(documents: Sequence[np.ndarray], size: int, special: Sequence[int] = ()) -> Corpus:
    """Scores of the words of documents.

    Args:
      documents: tokens of each, int ``[n]``.
      size: of the vocabulary.
      special: tokens that are never drawn.

    Raises:
      ValueError: there is nothing to draw.
    """
    holding = np.zeros(size)
    for document in documents:
        holding[np.unique(document)] += 1
    idf = np.log(len(documents) / np.maximum(holding, 1))
    score = np.zeros(size)
    for document in documents:
        np.add.at(score, document, 1 / max(1, len(document)))
    score *= idf
    able = holding > 0
    able[list(special)] = False
    drawn = np.flatnonzero(able)
    if not len(drawn):
        raise ValueError("the documents hold no word by which others could be replaced; give more text")
    weight = score[drawn].max() - score[drawn]
    weight = weight if weight.sum() > 0 else np.ones(len(drawn))
    return Corpus(idf, drawn.astype(np.int32), np.cumsum(weight) / weight.sum())


def chances(document: np.ndarray, idf: np.ndarray, share: float) -> np.ndarray:
    """With which probability each word of a document is replaced, float64 ``[n]``; ``share``: p."""
    if not len(document):
        return np.zeros(0)
    _, which, counts = np.unique(document, return_inverse=True, return_counts=True)
    score = counts[which] / len(document) * idf[document]
    missing = score.max() - score
    if missing.sum() <= 0:  # all words tell as much
        return np.full(len(document), share)
    return np.minimum(1.0, share * missing / missing.mean())


def replaced(document: np.ndarray, words: Corpus, share: float, seed: Sequence[int]) -> np.ndarray:
    """The document with words replaced, of the same length; ``seed``: whole numbers, all of which count."""
    rng = np.random.default_rng(np.random.SeedSequence(list(seed)))
    where = rng.random(len(document)) < chances(document, words.idf, share)
    at = np.searchsorted(words.cumulative, rng.random(len(document)), side="right")
    drawn = words.drawn[np.minimum(at, len(words.drawn) - 1)]  # the last sum may be rounded to less than 1
    return np.where(where, drawn, document).astype(np.int32)
