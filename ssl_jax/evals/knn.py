"""Weighted k-nearest-neighbour classification of frozen features: no training, no tuning, exact."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax

from ssl_jax.types import Array

QUERY_BLOCK = 1024
BANK_BLOCK = 8192


def knn_predict(bank, labels, queries, *, k: int, temperature: float, num_classes: int) -> np.ndarray:
    """Class of each query by a weighted vote of its k nearest bank rows in cosine similarity.

    ``argmax_c sum_{i in top-k} exp(cos(q, b_i) / T) [labels_i = c]``

    The bank lies on the device once; similarities exist only as blocks of ``QUERY_BLOCK x BANK_BLOCK``, from which a
    running top-k is kept, so the result is exact at any bank size. Ties go to the lower bank row and the lower class.

    Args:
      bank: ``[n, d]`` features of labelled examples, taken with the evaluation transform.
      labels: ``[n]`` integer classes in ``[0, num_classes)``.
      queries: ``[q, d]``.
      k: neighbours that vote.
      temperature: T; smaller listens more to the nearest.
      num_classes: number of classes.

    Returns:
      int32 ``[q]``.

    Raises:
      ValueError: k outside ``[1, n]``, T not positive, labels out of range, shapes that do not fit.

    Reference: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    Differs from the reference code: weights are ``exp((cos - max cos) / T)``: the same vote, no overflow at small T.
    """
    labels = np.asarray(labels)
    _check(bank, labels, queries, k, temperature, num_classes)
    # NumPy's promotion: that of JAX refuses to mix bfloat16 and float32 when it is strict
    dtype = dtypes.canonicalize_dtype(np.promote_types(np.promote_types(bank.dtype, queries.dtype), np.float32))
    n, q = len(bank), len(queries)
    bank_block, query_block = min(BANK_BLOCK, n), max(1, min(QUERY_BLOCK, q))
    blocks = _bank_blocks(jnp.asarray(bank), dtype, bank_block)
    labels = jnp.asarray(labels, jnp.int32)
    scale = jnp.asarray(1 / temperature, dtype)
    predicted = []
    for start in range(0, q, query_block):
        rows = np.asarray(queries[start : start + query_block])
        rows = np.pad(rows, ((0, query_block - len(rows)), (0, 0)))  # one shape, hence one compilation
        predicted.append(_vote(blocks, labels, jnp.asarray(rows), scale, n=n, k=k, num_classes=num_classes))
    return np.concatenate([np.asarray(p) for p in predicted])[:q] if q else np.zeros(0, np.int32)


def knn_accuracy(
    bank, labels, queries, query_labels, *, k: int, temperature: float, num_classes: int, centre: bool = False
) -> float:
    """Fraction of queries that :func:`knn_predict` classifies rightly; ``centre`` applies :func:`centred` first."""
    if centre:
        bank, queries = centred(bank, queries)
    predicted = knn_predict(bank, labels, queries, k=k, temperature=temperature, num_classes=num_classes)
    return float(np.mean(predicted == np.asarray(query_labels)))


def centred(bank, queries) -> tuple[np.ndarray, np.ndarray]:
    """``(bank - m, queries - m)`` with ``m`` the bank's mean row.

    Features after a ReLU lie in one orthant, where all cosines are high and close together; without their mean the
    cosine tells examples apart better. No query statistics are used.
    """
    bank, queries = np.asarray(bank), np.asarray(queries)
    mean = bank.mean(axis=0, dtype=np.float64).astype(bank.dtype)
    return bank - mean, queries - mean


def _unit(x: Array) -> Array:
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squares, jnp.finfo(x.dtype).tiny))


@functools.partial(jax.jit, static_argnames=("dtype", "block"))
def _bank_blocks(bank: Array, dtype, block: int) -> Array:
    bank = _unit(bank.astype(dtype))
    bank = jnp.pad(bank, ((0, -len(bank) % block), (0, 0)))
    return bank.reshape(-1, block, bank.shape[-1])


@functools.partial(jax.jit, static_argnames=("n", "k", "num_classes"))
def _vote(blocks: Array, labels: Array, queries: Array, scale: Array, *, n: int, k: int, num_classes: int) -> Array:
    """Classes ``[q]`` of one block of queries; rows ``n`` and after of the bank are padding."""
    similarity, rows = _top_k(blocks, _unit(queries.astype(blocks.dtype)), n=n, k=k)
    weights = jnp.exp((similarity - similarity[:, :1]) * scale)
    ours = labels[rows][:, :, None] == jnp.arange(num_classes, dtype=labels.dtype)[None, None, :]
    votes = jnp.sum(jnp.where(ours, weights[:, :, None], 0), axis=1)  # a fixed order: a scatter-add has none on GPU
    return jnp.argmax(votes, axis=-1).astype(jnp.int32)


def _top_k(blocks: Array, queries: Array, *, n: int, k: int) -> tuple[Array, Array]:
    """Similarities and bank rows ``[q, k]`` of the k nearest, nearest first, lower row first among equals."""
    block = blocks.shape[1]
    minus_inf = jnp.asarray(-jnp.inf, blocks.dtype)

    def visit(best, entry):
        number, rows = entry
        similarity = jnp.matmul(queries, rows.T, precision=lax.Precision.HIGHEST)
        ids = number * block + jnp.arange(block, dtype=jnp.int32)
        similarity = jnp.where((ids < n)[None, :], similarity, minus_inf)
        near, where = lax.top_k(similarity, min(k, block))
        # the rows found so far come first: top_k keeps the first of equals, which is the lower bank row
        values = jnp.concatenate([best[0], near], axis=1)
        indices = jnp.concatenate([best[1], ids[where]], axis=1)
        values, order = lax.top_k(values, k)
        return (values, jnp.take_along_axis(indices, order, axis=1)), None

    empty = jnp.full((len(queries), k), minus_inf), jnp.zeros((len(queries), k), jnp.int32)
    best, _ = lax.scan(visit, empty, (jnp.arange(len(blocks), dtype=jnp.int32), blocks))
    return best


def _check(bank, labels, queries, k, temperature, num_classes):
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1] or labels.shape != bank.shape[:1]:
        raise ValueError(
            f"bank {bank.shape}, labels {labels.shape} and queries {queries.shape} do not fit; pass [n, d], [n], [q, d]"
        )
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} but the bank has {len(bank)} rows; use a k from 1 to {len(bank)}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive; the literature uses 0.07 or 0.1")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"bank labels span {labels.min()}..{labels.max()} but num_classes={num_classes}; "
            "drop unlabelled (-1) rows or raise num_classes"
        )
