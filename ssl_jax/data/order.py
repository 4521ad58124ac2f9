"""Which examples batch t holds: a function of (seed, t) alone, so a run resumes at once at any step.

Each epoch of ``n // N`` steps goes through a permutation of the ``n`` examples that depends on (seed, epoch). Nothing
is stored and nothing depends on how many processes share the work: the rows of all processes, one after the other, are
the one-process batch.

The permutation is one of all examples, whichever folder or shard they are in, and another in every epoch; its last
``n % N`` examples are left out of that epoch. There is no shuffle buffer, whose order would be only as good as it is
large; the price is a read from a random place for each example, where a buffer reads shards from end to end.
"""

from __future__ import annotations

import functools

import numpy as np

FOREVER = 1 << 62


def indices(
    pool: int | np.ndarray, global_batch_size: int, seed: int, step: int, part: int | None = None
) -> np.ndarray:
    """The examples of batch ``step``, int64 ``[global_batch_size]``. Needs no TensorFlow.

    Args:
      pool: what is drawn from: so many examples, or which ones, int64 ``[n]``.
      part: of a batch of several parts, each of which goes through its own examples in an order of its own, the first
        (0) in that of a batch of one.

    Raises:
      ValueError: if there are fewer examples than rows.
    """
    n = pool if isinstance(pool, int) else len(pool)
    if not 1 <= global_batch_size <= n:
        raise ValueError(
            f"global_batch_size {global_batch_size} needs at least as many train examples, there are {n}; "
            f"use a number from 1 to {n}"
        )
    epoch, batch = divmod(int(step), n // global_batch_size)
    drawn = permutation(n, int(seed), epoch, part)[batch * global_batch_size : (batch + 1) * global_batch_size]
    return drawn if isinstance(pool, int) else pool[drawn]


def enough(pool: np.ndarray, global_batch_size: int) -> np.ndarray:
    """The examples as many times over as a batch needs that has more rows than there are of them."""
    return np.tile(pool, -(-global_batch_size // max(1, len(pool))))


@functools.lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int, part: int | None = None) -> np.ndarray:
    words = [seed, epoch] if part is None else [seed, epoch, part]
    order = np.random.default_rng(np.random.SeedSequence(words)).permutation(n)
    order.flags.writeable = False
    return order


def process_rows(global_batch_size: int, process: int, process_count: int) -> slice:
    """The rows of a global batch that one process makes; ValueError where they cannot be split."""
    if not 0 <= process < process_count:
        raise ValueError(f"process {process} is out of range; use 0 to {process_count - 1}")
    if global_batch_size < 1 or global_batch_size % process_count:
        low = global_batch_size // process_count * process_count
        choice = f"{low} or {low + process_count}" if low else f"{process_count}"
        raise ValueError(
            f"global_batch_size {global_batch_size} is not divisible by {process_count} processes; use {choice}"
        )
    local = global_batch_size // process_count
    return slice(process * local, (process + 1) * local)
