"""Streams: a corpus cut into rows, each read from left to right in windows.

With N tokens, B rows and windows of T tokens there are ``S = (N - T) // (B T)`` windows in an epoch. In epoch e row r
begins at token ``o_e + r S T``; window t holds its tokens ``t T`` to ``t T + T``, the last of which is the first of
the next window: what is asked for after all the others. ``o_e`` is 0 in the first epoch and drawn from 0..T-1 in the
others, so that windows are cut elsewhere each time. Where they begin depends on (seed, t) alone.

Differs from the reference code: AWD-LSTM draws the length of every window (arXiv:1708.02182, section 5: 70 in 95 % of
cases, else 35, and a few more or less), and its batches follow from all draws before; here it is the place that is
drawn, and the shape stays, which is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssl_jax.data.feed import Feed
from ssl_jax.data.order import FOREVER, permutation, process_rows
from ssl_jax.types import Batch, Views


def feed(
    documents: Sequence[np.ndarray],
    *,
    length: int,
    shuffle: bool,
    seed: int,
    global_batch_size: int,
    table_limit: int = 0,
) -> Feed:
    """How a language model is fed.

    Where the corpus lies on the devices as a whole, the host says where each window begins and the step cuts it out:
    the same tokens.

    Args:
      documents: their tokens.
      length: T, of a window.
      shuffle: whether each epoch has the documents in another order.
      seed: of order and places.
      global_batch_size: B.
      table_limit: bytes up to which a corpus that is not shuffled lies on the devices.

    Raises:
      ValueError: the corpus is too short for one window of each row.
    """
    tokens = sum(map(len, documents))
    steps = (tokens - length) // (global_batch_size * length)
    if steps < 1:
        raise ValueError(
            f"the {tokens:,} tokens of train are too few for data.global_batch_size={global_batch_size} rows of "
            f"data.length={length} tokens; lower one of them"
        )

    @functools.lru_cache(maxsize=2)
    def corpus(epoch: int) -> np.ndarray:
        order = permutation(len(documents), seed, epoch) if shuffle else range(len(documents))
        return np.concatenate([documents[i] for i in order])

    whole = None if shuffle else corpus(0)
    table = None if whole is None or 4 * tokens > table_limit else np.ascontiguousarray(whole, np.int32)

    def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
        rows = np.arange(global_batch_size)[process_rows(global_batch_size, process, process_count)]
        for step in range(start_step, FOREVER if total_steps is None else total_steps):
            epoch, window = divmod(step, steps)
            words = np.random.SeedSequence([seed, epoch, length])
            offset = int(np.random.default_rng(words).integers(length)) if epoch else 0
            begin = offset + (rows * steps + window) * length
            if table is not None:
                rest = about(rows, first=window == 0)
                yield rest | {"begin": begin.astype(np.int32)}
                continue
            text = corpus(epoch) if whole is None else whole
            yield batch(text[begin[:, None] + np.arange(length + 1)], rows, first=window == 0)

    note = f"{tokens:,} tokens, {steps:,} windows of {length} in each of {global_batch_size} rows"
    made = Feed(batches, steps_per_epoch=steps, num_examples=len(documents), notes=(note,))
    if table is None:
        return made
    lies = f"the corpus lies on the device ({table.nbytes / 1e6:.3g} MB), where windows are cut"
    return made._replace(views=views(length), table=table, notes=(note, lies))


def views(length: int) -> Views:
    """``(batch, key, axis) -> batch``: windows of ``length + 1`` tokens cut out of ``"table"`` from ``"begin"`` on."""

    def cut(batch: Batch, key, axis) -> Batch:
        at = batch["begin"][:, None] + jnp.arange(length + 1, dtype=jnp.int32)[None]
        tokens = batch["table"][at]
        rest = {name: value for name, value in batch.items() if name not in ("table", "begin")}
        return rest | {"tokens": tokens, "views": (tokens[:, :-1],)}

    return cut


def batch(tokens: np.ndarray, rows: np.ndarray, *, first: bool) -> dict[str, Any]:
    """A batch of windows ``[b, T + 1]``; the first of each row begins with an empty state."""
    tokens = np.ascontiguousarray(tokens, np.int32)
    return about(rows, first=first) | {"tokens": tokens, "views": (tokens[:, :-1],)}


def about(rows: np.ndarray, *, first: bool) -> dict[str, Any]:
    """A batch without its tokens."""
    return {
        "first": np.full(len(rows), first),
        "label": np.full(len(rows), -1, np.int32),
        "index": rows.astype(np.int32),
    }


def held_out(
    documents: Sequence[np.ndarray], *, length: int, global_batch_size: int, process: int = 0, process_count: int = 1
) -> Iterator[dict[str, Any]]:
    """Batches in which every token of a text but the first is asked for once, as published perplexities count.

    Row r of R is asked for tokens ``r L + 1`` to ``(r + 1) L`` with ``L = ceil((N - 1) / R)``; padding fills the rest.
    Rows know nothing of the text before theirs, so the figure depends a little on R, the batch size, which the config
    has; never on how many devices or processes share them.
    """
    text = np.concatenate([*documents, np.zeros(0, np.int32)])
    if len(text) < 2:
        return
    each = -(-(len(text) - 1) // global_batch_size)
    windows = -(-each // length)
    rows = np.arange(global_batch_size)[process_rows(global_batch_size, process, process_count)]
    for window in range(windows):
        at = window * length + np.arange(length + 1)
        place = rows[:, None] * each + at
        # What is asked for lies within the row's own share; the token before it may be the last of another's.
        inside = (at <= each) & (place < len(text))
        tokens = np.where(inside, text[np.minimum(place, len(text) - 1)], 0)
        empty = ~inside[:, 1:].any(1)
        yield batch(tokens, np.where(empty, -1, rows), first=window == 0)
