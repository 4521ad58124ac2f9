"""Co-occurrences: how often which words stand near each other in a corpus, for GloVe.

    X_ij = sum over all places of i and j at most ``window`` apart of 1 / their distance

to either side, within documents. A row of a batch is ``length`` cells of X that are not 0; an epoch goes through all of
them, in an order of its own.

Reference: Pennington et al., "GloVe", 2014, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse

from ssl_jax.data.feed import Feed
from ssl_jax.data.order import FOREVER, indices, process_rows
from ssl_jax.data.text import windows


class Cells(NamedTuple):
    """The cells of X that are not 0, an entry each, row by row."""

    words: np.ndarray
    contexts: np.ndarray
    counts: np.ndarray


def cells(documents: Sequence[np.ndarray], *, window: int, vocab: int, special: Sequence[int]) -> Cells:
    """X of some documents, int32, int32 and float32 ``[n]``; special tokens are no words."""
    text = windows.joined(documents, special, window)
    found = scipy.sparse.csr_array((vocab, vocab))
    for distance in range(1, window + 1):
        first, second = text[:-distance], text[distance:]
        both = (first != 0) & (second != 0)
        weight = np.full(int(both.sum()), 1 / distance)
        found = found + scipy.sparse.coo_array((weight, (first[both], second[both])), (vocab, vocab)).tocsr()
    found = (found + found.T).tocoo()
    found.sum_duplicates()
    words, contexts = found.coords
    return Cells(words.astype(np.int32), contexts.astype(np.int32), found.data.astype(np.float32))


def feed(found: Cells, *, length: int, seed: int, global_batch_size: int) -> Feed:
    """How GloVe is fed.

    Raises:
      ValueError: X has too few cells for a batch.
    """
    number, each = len(found.counts), global_batch_size * length
    if number < each:
        raise ValueError(
            f"{number:,} pairs of words occur near each other in train, too few for data.global_batch_size="
            f"{global_batch_size} rows of data.length={length}; lower one of them"
        )

    def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
        rows = process_rows(global_batch_size, process, process_count)
        for step in range(start_step, FOREVER if total_steps is None else total_steps):
            at = indices(number, each, seed, step).reshape(global_batch_size, length)[rows]
            yield {
                "views": (found.words[at],),
                "context": found.contexts[at],
                "count": found.counts[at],
                "label": np.full(len(at), -1, np.int32),
                "index": np.arange(global_batch_size, dtype=np.int32)[rows],
            }

    note = f"{number:,} pairs of words occur near each other"
    return Feed(batches, steps_per_epoch=number // each, num_examples=number, notes=(note,))
