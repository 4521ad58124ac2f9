"""Windows: words and what stands near them, for word2vec.

A corpus is all documents one after the other, without special tokens, parted by as much padding as a window is wide,
so that nobody is near a word of another document. Of a word that makes up the share f of all

    min(1, sqrt(t / f) + t / f)

are kept in an epoch, before anybody's neighbours are counted: the words that are left stand nearer to each other. A row
of a batch is ``length`` places of what is kept, with a window's width on either side: every word that is kept is a
centre once in an epoch. How far each centre looks is drawn from 1 to ``window``; the row's negatives are drawn from
``f^0.75``. All depends on (seed, epoch) or (seed, t) alone.

Reference: Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013
(arXiv:1310.4546), sections 2.2 and 2.3. The share that is kept is that of their code; the paper has ``sqrt(t / f)``,
which is less. Differs from their code: it draws negatives for each pair, here all centres of a row share them (as Ji et
al. 2016, arXiv:1604.04661, do for the centres of a window), which makes of them a product of matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.feed import Feed
from ssl_jax.data.order import FOREVER, permutation, process_rows

KEPT, DRAWN = 1, 2  # what a draw is for


class Corpus(NamedTuple):
    """Documents one after the other.

    Attributes:
      tokens: int32 ``[n]``, 0 between documents and at both ends.
      kept: ``[vocab]``: share of each token that is kept; of padding all.
      noise: ``[vocab]``: probabilities of negatives, summed up.
    """

    tokens: np.ndarray
    kept: np.ndarray
    noise: np.ndarray


class Sizes(NamedTuple):
    """Of a batch: places in a row, how far the farthest centre looks, negatives of a row."""

    length: int
    window: int
    negatives: int


def joined(documents: Sequence[np.ndarray], special: Sequence[int], window: int) -> np.ndarray:
    """int32: the documents without special tokens, with ``window`` zeros before, between and behind them."""
    gap = np.zeros(window, np.int32)
    parts = [gap]
    for document in documents:
        parts += [document[~np.isin(document, special)].astype(np.int32), gap]
    return np.concatenate(parts)


def corpus(
    documents: Sequence[np.ndarray], *, window: int, subsample: float, vocab: int, special: Sequence[int]
) -> Corpus:
    """The corpus of some documents.

    Args:
      subsample: t, see above; 0: all are kept.
      special: tokens that are no words.
    """
    tokens = joined(documents, special, window)
    counts = np.bincount(tokens, minlength=vocab).astype(np.float64)
    counts[0] = 0
    share = np.maximum(counts, 1) / max(counts.sum(), 1)
    kept = np.minimum(1, np.sqrt(subsample / share) + subsample / share) if subsample else np.ones(vocab)
    kept[0] = 1
    noise = np.cumsum(counts**0.75)
    return Corpus(tokens, kept, noise / max(noise[-1], 1e-12))


def keep(found: Corpus, rng: np.random.Generator, sizes: Sizes) -> np.ndarray:
    """What is left of a corpus, int32, with padding behind it up to whole rows."""
    left = found.tokens[rng.random(len(found.tokens)) < found.kept[found.tokens]]
    number = -(-(len(left) - 2 * sizes.window) // sizes.length)
    return np.pad(left, (0, number * sizes.length + 2 * sizes.window - len(left)))


def batch(
    left: np.ndarray, at: np.ndarray, found: Corpus, sizes: Sizes, rng: np.random.Generator, rows: slice
) -> dict[str, Any]:
    """Some rows of what is left as a training batch.

    Args:
      at: which rows the whole batch has.
      rows: those of this process.
    """
    reach = rng.integers(1, sizes.window + 1, (len(at), sizes.length), dtype=np.int32)[rows]
    negatives = np.searchsorted(found.noise, rng.random((len(at), sizes.negatives))[rows], side="right")
    places = at[rows][:, None] * sizes.length + np.arange(sizes.length + 2 * sizes.window)
    tokens = left[places]
    return {
        "views": (tokens,),
        "reach": np.where(tokens[:, sizes.window :][:, : sizes.length] != 0, reach, 0).astype(np.int32),
        "negatives": negatives.astype(np.int32),
        "label": np.full(len(tokens), -1, np.int32),
        "index": at[rows].astype(np.int32),
    }


def feed(found: Corpus, sizes: Sizes, *, seed: int, global_batch_size: int) -> Feed:
    """How word2vec is fed: the rows of an epoch in an order of its own.

    How many rows an epoch has is a draw; the number of its steps is that of the mean, and rows come a second time or
    not at all in an epoch with fewer or more.

    Raises:
      ValueError: too few words for a batch.
    """
    words = int((found.tokens != 0).sum())
    expected = found.kept[found.tokens].sum() / sizes.length
    if expected < global_batch_size:
        raise ValueError(
            f"the {words:,} words of train are too few for data.global_batch_size={global_batch_size} rows of "
            f"data.length={sizes.length}: some {expected:.0f} rows are left when frequent words are thinned out; lower "
            "one of them"
        )
    steps = max(1, round(expected / global_batch_size))

    @functools.lru_cache(maxsize=2)
    def left(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, KEPT]))
        kept = keep(found, rng, sizes)
        return kept, permutation((len(kept) - 2 * sizes.window) // sizes.length, seed, epoch)

    def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
        rows = process_rows(global_batch_size, process, process_count)
        for step in range(start_step, FOREVER if total_steps is None else total_steps):
            epoch, number = divmod(step, steps)
            kept, order = left(epoch)
            at = order[(number * global_batch_size + np.arange(global_batch_size)) % len(order)]
            rng = np.random.default_rng(np.random.SeedSequence([seed, step, DRAWN]))
            yield batch(kept, at, found, sizes, rng, rows)

    share = found.kept[found.tokens[found.tokens != 0]].mean()
    note = f"{words:,} words, of which {share:.0%} are kept in an epoch (frequent ones are thinned out)"
    return Feed(batches, steps_per_epoch=steps, num_examples=words, notes=(note,))


def held_out(
    found: Corpus, sizes: Sizes, *, global_batch_size: int, process: int = 0, process_count: int = 1
) -> Iterator[dict[str, Any]]:
    """Batches with every kept word of a text as centre once, drawn the same way every time."""
    left = keep(found, np.random.default_rng(0), sizes)
    number = (len(left) - 2 * sizes.window) // sizes.length
    rows = process_rows(global_batch_size, process, process_count)
    for start in range(0, number, global_batch_size):
        at = np.arange(start, start + global_batch_size)
        rng = np.random.default_rng(np.random.SeedSequence([start, DRAWN]))
        made = batch(left, np.minimum(at, number - 1), found, sizes, rng, rows)
        yield made | {"index": np.where(at < number, at, -1)[rows].astype(np.int32)}
