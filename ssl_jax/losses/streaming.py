"""Log-sum-exps over all pairs of rows, block by block: what contrastive losses of large batches are made of.

The matrix of similarities ``s_ij`` of n rows never exists, only a block of it at a time, so memory grows as n and not
as n^2. Each form has a gradient of its own that computes the blocks again instead of keeping them.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import log_sum_exp
from ssl_jax.parallel import all_rows, num_shards, on_own_rows, platform, row_ids, sum_to_own_rows
from ssl_jax.types import Array, Axis

LARGEST = 64.0  # |s_ij| of which float32 holds exp(s_ij) and its sum over 1e10 rows: e^64 = 6e27, e^-64 = 2e-28


def choose_block(block: int | None, pairs: int, *, size: int = 256) -> int:
    """Rows of a block of the streaming form, 0 where the plain form is to be used.

    Args:
      block: the caller's wish: a size, 0 for the plain form, or None for a choice by size and backend.
      pairs: similarities that the plain form computes.
      size: the choice on a CPU, where a block stays in the cache of a core. Elsewhere what is saved is memory, and
        small blocks would cost launches.
    """
    if block is not None:
        if block < 0:
            raise ValueError(f"block={block} must be 0, the plain form, or the rows of a block; None chooses by size")
        return block
    largest, size = (512**2, size) if platform() == "cpu" else (4096**2, 2048)
    return size if pairs > largest else 0


# Every row against every other


def log_sum_exp_others(
    units: tuple[Float[Array, "b d"], ...], *, temperature: float | Array, axis: Axis = None, block: int
) -> tuple[Float[Array, " b"], ...]:
    """For each row u_i of each view ``log sum_{k != i} exp(u_i . u_k / T)`` over the rows of all views and devices.

    As ``|u_i . u_k / T| <= 1 / T`` nothing need be subtracted before the exponential, and the matrix is symmetric: half
    of its blocks are computed, and each serves the rows on both of its sides. With the gradient 2 n^2 d multiplications
    where the plain form takes 3 n^2 d. Below T = 1 / LARGEST, or where T is traced, as when it is learned, a block
    of rows meets all rows and their maximum is subtracted: 4 n^2 d multiplications, memory for ``block * n``.

    Args:
      units: ``[b, d]`` each, on this device: unit vectors, or shorter.
      temperature: T > 0.
      axis: mapped device axis, None in the global view.
      block: rows of a block.

    Returns:
      ``[b]`` for each view.
    """
    scaled = tuple(u * temperature**-0.5 for u in units)
    if isinstance(temperature, jax.core.Tracer) or temperature < 1 / LARGEST:
        return on_own_rows(partial(_by_rows, block), axis, scaled)
    return _others(axis, block, scaled)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _others(axis: Axis, block: int, views: tuple[Array, ...]) -> tuple[Array, ...]:
    return _others_forward(axis, block, views)[0]


def _others_forward(axis, block, views):
    total = on_own_rows(partial(_sums, block), axis, views)
    return jax.tree.map(jnp.log, total), (views, total)


def _others_backward(axis, block, kept, g):
    views, total = kept
    return (on_own_rows(partial(_pulls, block), axis, views, jax.tree.map(jnp.divide, g, total)),)


_others.defvjp(_others_forward, _others_backward)


def _sums(block: int, axis: Axis, views: tuple[Array, ...]) -> tuple[Array, ...]:
    """``sum_{k != i} exp(x_i . x_k)`` of this device's rows."""
    block = _even(block, sum(map(len, views)))
    rows = _in_blocks(block, views)
    every = all_rows(rows, axis)
    counted = _in_blocks(block, tuple(jnp.ones(len(x), x.dtype) for x in views))  # not the zeros that fill a block
    filled, counted = counted.size > sum(map(len, views)), jnp.tile(counted, num_shards(axis))

    def sums(e, start, dim):
        """Of the block e over its dimension ``dim``, whose rows or columns start at ``start``."""
        if not filled:
            return e.sum(dim)
        places = lax.dynamic_slice_in_dim(counted, start, e.shape[dim])
        return e @ places if dim == 1 else places @ e

    def pair(total, i, height, j, width):
        e = jnp.exp(_slice(every, i, height) @ _slice(every, j, width).T)
        return _add(_add(total, i, sums(e, j, 1)), j, sums(e, i, 0))

    def diagonal(total, i):
        return _add(total, i, sums(_exp_others(_slice(every, i, block)), i, 1))

    total = _over_pairs(pair, diagonal, jnp.zeros(len(every), every.dtype), block, len(rows) // block, axis)
    return _out_of_blocks(sum_to_own_rows(total, axis), views)


def _pulls(block: int, axis: Axis, views: tuple[Array, ...], weights: tuple[Array, ...]) -> tuple[Array, ...]:
    """``sum_{k != i} exp(x_i . x_k) (w_i + w_k) x_k`` of this device's rows: w_i of its own log-sum-exp, w_k of k's."""
    block = _even(block, sum(map(len, views)))
    rows = _in_blocks(block, views)
    every, weight = all_rows((rows, _in_blocks(block, weights)), axis)

    def pair(total, i, height, j, width):
        a, b = _slice(every, i, height), _slice(every, j, width)
        e = jnp.exp(a @ b.T) * (_slice(weight, i, height)[:, None] + _slice(weight, j, width)[None, :])
        return _add(_add(total, i, e @ b), j, e.T @ a)

    def diagonal(total, i):
        a, w = _slice(every, i, block), _slice(weight, i, block)
        return _add(total, i, (_exp_others(a) * (w[:, None] + w[None, :])) @ a)

    total = _over_pairs(pair, diagonal, jnp.zeros_like(every), block, len(rows) // block, axis)
    return _out_of_blocks(sum_to_own_rows(total, axis), views)


def _over_pairs(pair, diagonal, total, block, own, axis):
    """Visit each pair of blocks of rows once, this device those that its ``own`` blocks begin.

    Block i of m meets itself and the next (m - 1) / 2, round the end: as many for each block, hence for each device.
    An even m leaves the pairs (i, i + m / 2). Each is cut in two, and each of its blocks visits one half.
    """
    m = own * num_shards(axis)
    first = row_ids(1, axis)[0] * np.int32(own)
    offsets = (m - 1) // 2

    def turn(t, total):
        i = first + t // offsets
        return pair(total, i * block, block, (i + t % offsets + 1) % m * block, block)

    def half_turn(t, total):
        i, j = first + t, (first + t + m // 2) % m
        start = jnp.maximum(i, j) * block + jnp.where(i < j, 0, block // 2)
        return pair(total, jnp.minimum(i, j) * block, block, start, block // 2)

    total = lax.fori_loop(np.int32(0), np.int32(own), lambda t, total: diagonal(total, (first + t) * block), total)
    total = lax.fori_loop(np.int32(0), np.int32(own * offsets), turn, total)
    return total if m % 2 else lax.fori_loop(np.int32(0), np.int32(own), half_turn, total)


def _exp_others(a: Array) -> Array:
    """``exp(a_i . a_k)`` with a diagonal of zeros."""
    return jnp.where(jnp.eye(len(a), dtype=bool), 0, jnp.exp(a @ a.T))


def _even(block: int, rows: int) -> int:
    """An even size of a block, about ``block``, of which few rows are left over."""
    return -(-rows // (2 * -(-rows // block))) * 2


def _in_blocks(block: int, views: tuple[Array, ...]) -> Array:
    """The views one below the other, filled up with zeros to whole blocks."""
    rows = jnp.concatenate(views)
    return jnp.pad(rows, ((0, -len(rows) % block), *((0, 0),) * (rows.ndim - 1)))


def _out_of_blocks(rows: Array, views: tuple[Array, ...]) -> tuple[Array, ...]:
    ends = np.cumsum([len(x) for x in views])
    return tuple(jnp.split(rows[: ends[-1]], ends[:-1]))


def _slice(x: Array, start: Array, size: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size)


def _add(total: Array, start: Array, x: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(total, _slice(total, start, len(x)) + x, start, 0)


def _by_rows(block: int, axis: Axis, views: tuple[Array, ...]) -> tuple[Array, ...]:
    """The log-sum-exps for rows of any length."""
    block = _even(block, sum(map(len, views)))
    rows = _in_blocks(block, views)
    every, ids = all_rows((rows, row_ids(len(rows), axis)), axis)
    filled = ids % len(rows) >= sum(map(len, views))

    @jax.checkpoint
    def of_block(x):
        a, own = x
        hidden = (own[:, None] == ids[None, :]) | filled[None, :]
        return log_sum_exp(jnp.where(hidden, -jnp.inf, a @ every.T))

    own = (rows.reshape(-1, block, rows.shape[1]), row_ids(len(rows), axis).reshape(-1, block))
    return _out_of_blocks(lax.map(of_block, own).reshape(-1), views)


# Queries against keys that take no gradient


def log_sum_exp_keys(q: Float[Array, "b d"], keys: Float[Array, "n d"], *, block: int) -> Float[Array, " b"]:
    """``log sum_k exp(q_i . key_k)`` for this device's queries and keys that are the same on every device.

    No gradient reaches the keys, and that of q_i, ``sum_k p_ik key_k``, is a mean under the weights whose sum is taken,
    so one pass serves both: 2 b n d multiplications, as in the plain form. Rows are of any length: a running maximum is
    subtracted.

    Args:
      q: ``[b, d]``.
      keys: ``[n, d]``, n > 0.
      block: rows of a block of keys, and the most of a block of queries.
    """
    return _keys(block, q, lax.stop_gradient(keys))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keys(block: int, q: Array, keys: Array) -> Array:
    return on_own_rows(lambda _, q: _stream_keys(block, q, keys, with_mean=False)[0], None, q)


def _keys_forward(block, q, keys):
    value, mean = on_own_rows(lambda _, q: _stream_keys(block, q, keys, with_mean=True), None, q)
    return value, (mean, keys)


def _keys_backward(block, kept, g):
    mean, keys = kept
    return g[:, None] * mean, jnp.zeros_like(keys)


_keys.defvjp(_keys_forward, _keys_backward)


def _stream_keys(block: int, q: Array, keys: Array, *, with_mean: bool) -> tuple[Array, Array | None]:
    """(log-sum-exp ``[b]``, mean of the keys under its weights ``[b, d]``)."""
    if len(q) <= block:
        return _stream_block(min(block, len(keys)), q, keys, with_mean)
    rows = _even(block, len(q))
    blocks = _in_blocks(rows, (q,)).reshape(-1, rows, q.shape[1])
    out = lax.map(lambda a: _stream_block(min(block, len(keys)), a, keys, with_mean), blocks)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(q)], out)


def _stream_block(block: int, q: Array, keys: Array, with_mean: bool) -> tuple[Array, Array | None]:
    def add(state, k):
        top, total, mean = state
        s = q @ k.T
        higher = jnp.maximum(top, s.max(1))
        e, shrink = jnp.exp(s - higher[:, None]), jnp.exp(top - higher)
        return higher, total * shrink + e.sum(1), mean * shrink[:, None] + e @ k if with_mean else None

    zeros, turns = jnp.zeros(len(q), q.dtype), np.int32(len(keys) // block)
    state = (zeros - jnp.inf, zeros, jnp.zeros_like(q) if with_mean else None)
    state = lax.fori_loop(np.int32(0), turns, lambda t, state: add(state, _slice(keys, t * block, block)), state)
    if len(keys) % block:
        state = add(state, keys[len(keys) // block * block :])
    top, total, mean = state
    return top + jnp.log(total), mean / total[:, None] if with_mean else None
