"""Weighted k-nearest-neighbour classification of frozen features: no training, no tuning, exact."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.data.source import Source
from ssl_jax.evals import Accuracy, Encode
from ssl_jax.evals.shared import labels as check
from ssl_jax.evals.shared.labels import labelled
from ssl_jax.names import refuse_unknown
from ssl_jax.online.progress import counted
from ssl_jax.types import Array, Variables

QUERY_TILE = 128  # queries of a block that are compared at a time
KEPT_BLOCKS = 64  # of queries that stay on the devices


def nearest(
    bank,
    queries,
    *,
    k: int,
    centre: bool = False,
    mesh: Mesh | None = None,
    leave_one_out: bool = False,
    bank_chunk: int = 65_536,
    query_block: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of the bank nearest to each query in cosine similarity, nearest first; of equals the lower row.

    Exact at any size and in bounded memory: the bank comes from the host in chunks, each of which is compared with
    blocks of queries, and the best k so far are kept. A row of zeros is equally far from everything.

    Args:
      bank: ``[n, d]`` on the host; may be mapped from disk.
      queries: ``[q, d]``, likewise.
      k: neighbours.
      centre: take the bank's mean row off both first, see :func:`ssl_jax.evals.shared.pictures.centred`.
      mesh: each device searches its own part of the bank; every process must hold the same bank, and gets the result.
      leave_one_out: bank and queries are the same rows, and none is its own neighbour.
      bank_chunk: rows that are on all devices together at a time.
      query_block: queries that are compared with them at a time.

    Returns:
      Similarities, float ``[q, k]``, and rows, int32 ``[q, k]``.

    Raises:
      ValueError: k out of range, shapes that do not fit, features that are not finite.
    """
    _check(bank, queries, k, leave_one_out)
    n, q, d = len(bank), len(queries), bank.shape[1]
    if not q:
        return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
    mesh = mesh or Mesh(np.array(jax.local_devices()[:1]), (parallel.DATA,))
    # NumPy's promotion: that of JAX refuses to mix bfloat16 and float32 when it is strict
    dtype = dtypes.canonicalize_dtype(np.promote_types(np.promote_types(bank.dtype, queries.dtype), np.float32))
    split, everywhere = parallel.sharded(mesh), parallel.replicated(mesh)

    # A device owns consecutive rows, so that candidates in the order of devices are in the order of rows.
    devices = mesh.devices.size
    own = -(-n // devices)
    chunks, share = _even(own, max(1, bank_chunk // devices))
    tiles, tile = _even(_even(q, query_block)[1], QUERY_TILE)
    size = tiles * tile
    stops = np.minimum(own * np.arange(1, devices + 1), n)

    def put(values: np.ndarray, sharding=everywhere) -> Array:
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    mean = put((_mean(bank) if centre else np.zeros(d)).astype(dtype))

    def place_bank(firsts: np.ndarray) -> Array:
        def part(index):
            device = (index[0].start or 0) // share
            return _rows("bank", bank, firsts[device], min(firsts[device] + share, stops[device]), share, dtype)

        return _unit(jax.make_array_from_callback((devices * share, d), split, part), mean)

    @functools.lru_cache(KEPT_BLOCKS)  # more queries are placed again for every chunk
    def place_queries(start: int) -> tuple[Array, Array]:
        rows = _rows("query", queries, start, min(start + size, q), size, dtype)
        left_out = np.arange(start, start + size, dtype=np.int32) if leave_one_out else np.full(size, -1, np.int32)
        return _unit(put(rows), mean), put(left_out)

    empty = np.full((devices, size, k), -np.inf, dtype), np.zeros((devices, size, k), np.int32)
    best = dict.fromkeys(range(0, q, size), tuple(put(a, split) for a in empty))
    running = None
    for chunk in counted(range(chunks), "comparing with the bank", chunks, "chunks"):
        firsts = own * np.arange(devices) + chunk * share
        bounds = put(np.stack([firsts, stops], axis=1).astype(np.int32), split)
        rows = jax.block_until_ready(place_bank(firsts))
        for start in best:
            best[start] = _visit(best[start], rows, bounds, *place_queries(start), tile=tile, mesh=mesh)
            jax.block_until_ready(running)  # of simulated devices, two programs at most may wait
            running = best[start]
        jax.block_until_ready(running)
        del rows  # before the next chunk comes

    similarity, rows = zip(*(_merged(candidates, k) for candidates in best.values()), strict=True)
    return np.concatenate(similarity)[:q], np.concatenate(rows)[:q]


def vote(similarity, rows, labels, *, k: int, temperature: float, num_classes: int) -> np.ndarray:
    """Classes by the weighted vote of the first k neighbours, int32 ``[q]``; of equals the lower class.

    ``argmax_c sum_{j <= k} exp(s_j / T) [labels[rows_j] = c]``

    Args:
      similarity: ``[q, at least k]``, from :func:`nearest`.
      rows: the same shape, rows of the bank.
      labels: ``[n]``, integer classes of the bank in ``[0, num_classes)``.
      k: neighbours that vote.
      temperature: T; smaller listens more to the nearest.
      num_classes: number of classes.

    Raises:
      ValueError: k out of range, T not positive, labels out of range.

    Reference: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    Differs from the reference code: weights are ``exp((s - max s) / T)``: the same vote, no overflow at small T.
    """
    labels = np.asarray(labels)
    _check_vote(labels, temperature, num_classes)
    q, found = similarity.shape
    if not 1 <= k <= found:
        raise ValueError(f"k={k} but {found} neighbours were found; use a k from 1 to {found}")
    similarity = np.asarray(similarity[:, :k], np.float64)
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    cells = np.arange(q)[:, None] * num_classes + labels[rows[:, :k]]
    votes = np.bincount(cells.reshape(-1), weights.reshape(-1), minlength=q * num_classes)
    return np.argmax(votes.reshape(q, num_classes), axis=1).astype(np.int32)


def knn_predict(
    bank,
    labels,
    queries,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    centre: bool = False,
    mesh: Mesh | None = None,
    leave_one_out: bool = False,
) -> np.ndarray:
    """Class of each query, int32 ``[q]``: :func:`vote` of its k :func:`nearest` bank rows; arguments as there.

    Example:
      >>> bank, labels = np.array([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]), [0, 0, 1]
      >>> knn_predict(bank, labels, np.array([[0.1, 1.0], [2.0, 0.0]]), k=2, temperature=0.1, num_classes=2).tolist()
      [1, 0]
    """
    labels = np.asarray(labels)
    if labels.shape != bank.shape[:1]:
        raise ValueError(f"bank {bank.shape} and labels {labels.shape} do not fit; pass [n, d] and [n]")
    _check_vote(labels, temperature, num_classes)
    found = nearest(bank, queries, k=k, centre=centre, mesh=mesh, leave_one_out=leave_one_out)
    return vote(*found, labels, k=k, temperature=temperature, num_classes=num_classes)


def knn_accuracy(
    bank, labels, queries, query_labels, *, k: int, temperature: float, num_classes: int, centre: bool = False
) -> Accuracy:
    """Share of queries that :func:`knn_predict` classifies rightly."""
    predicted = knn_predict(bank, labels, queries, k=k, temperature=temperature, num_classes=num_classes, centre=centre)
    return Accuracy(predicted == np.asarray(query_labels))


class Evaluator:
    """Vote of the nearest train examples by cosine similarity: nothing is trained.

    Yields ``knn_top1`` of the first k and temperature, which are chosen beforehand and never by the result; where there
    are several, ``knn_top1_k20_t0.07`` of every pair of them; of other layers ``knn_top1_stage1``.

    Args:
      k: neighbours that vote, one number or several.
      temperature: of the vote, likewise.
      centre: take the bank's mean feature off before the cosine.
      layers: of the encoder.
      leave_one_out: the test examples are classified by the other test examples; the names say ``knn_loo_top1``.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        k: int | Sequence[int] = (200,),
        temperature: float | Sequence[float] = (0.1,),
        centre: bool = True,
        layers: str | Sequence[str] = ("features",),
        leave_one_out: bool = False,
    ):
        check.check("knn", train, test)
        self.encode, self.bank, self.test = encode, test if leave_one_out else train, test
        self.centre, self.leave_one_out = centre, leave_one_out
        ks, temperatures = np.atleast_1d(k).tolist(), np.atleast_1d(temperature).tolist()
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        known = int(np.sum(np.asarray(self.bank.labels) >= 0))
        most = known - leave_one_out
        for number in ks:
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"eval.knn.k={number} must be a whole number, 1 or more; 20 and 200 are usual")
            if number > most:
                raise ValueError(f"eval.knn.k={number} but the bank has {known} labelled examples; use at most {most}")
        for number in temperatures:
            if not isinstance(number, int | float) or not number > 0:
                raise ValueError(f"eval.knn.temperature={number} must be positive; the literature uses 0.07 or 0.1")
        for layer in self.layers:
            refuse_unknown(layer, encode.layers, "eval.knn.layers=")
        said = check.note(self.bank.labels, test.labels)
        self.notes = {"knn_top1": said} if said and not leave_one_out else {}
        self.votes = list(itertools.product(ks, temperatures))
        if not self.votes or not self.layers:
            raise ValueError("eval.knn.k, temperature and layers must each name one or more")

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        bank, test = (self.encode(variables, source, layers=self.layers) for source in (self.bank, self.test))
        for layer in self.layers:
            (h, labels), (queries, answers) = labelled(bank, layer), labelled(test, layer)
            similarity, rows = nearest(
                h,
                queries,
                k=max(k for k, _ in self.votes),
                centre=self.centre,
                mesh=getattr(self.encode, "mesh", None),
                leave_one_out=self.leave_one_out,
            )
            name = "knn_loo_top1" if self.leave_one_out else "knn_top1"
            name += "" if layer == "features" else f"_{layer}"
            for i, (k, temperature) in enumerate(self.votes):
                settings = {"k": k, "temperature": temperature, "num_classes": self.bank.num_classes}
                predicted = vote(similarity, rows, labels, **settings)
                found = Accuracy(predicted == answers)
                if i == 0:
                    yield name, found
                if len(self.votes) > 1:
                    yield f"{name}_k{k}_t{temperature:g}", found


def _even(n: int, most: int) -> tuple[int, int]:
    """How many equal parts of at most ``most`` there are in n, and the size of one."""
    parts = -(-n // most)
    return parts, -(-n // parts)


def _rows(name: str, x, start: int, stop: int, size: int, dtype) -> np.ndarray:
    """Rows ``start`` to ``stop``, filled up with zeros to ``size``."""
    rows = np.asarray(x[start:stop])
    broken = len(rows) - int(np.isfinite(rows).all(axis=1).sum())
    if broken:
        raise ValueError(
            f"{broken} of the {name} rows {start} to {stop - 1} hold NaN or infinity; the encoder's weights or inputs "
            "are broken"
        )
    rows = rows.astype(dtype, copy=False)
    return np.pad(rows, ((0, size - len(rows)), (0, 0))) if len(rows) < size else rows


def _mean(x) -> np.ndarray:
    """The mean row, in float64."""
    n, step, total = len(x), 8192, np.zeros(x.shape[1])
    for start in range(0, n, step):
        total += _rows("bank", x, start, min(start + step, n), 0, x.dtype).sum(axis=0, dtype=np.float64)
    return total / n


def _merged(candidates: Sequence[Array], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best ``[q, k]`` of all devices ``[devices, q, k]``, on every host."""
    found = (x if x.is_fully_addressable else process_allgather(x, tiled=True) for x in candidates)
    values, ids = (np.concatenate(np.asarray(x), axis=1) for x in found)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1)


@jax.jit
def _unit(x: Array, mean: Array) -> Array:
    x, tiny = x - mean[None], jnp.finfo(x.dtype).tiny
    x = x / jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True), tiny)  # no square overflows
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), tiny))


@functools.partial(jax.jit, static_argnames=("tile", "mesh"))
def _visit(best, rows: Array, bounds: Array, queries: Array, left_out: Array, *, tile: int, mesh: Mesh):
    """The best ``[devices, q, k]`` of each device, among them now the given rows of it.

    ``bounds`` ``[devices, 2]``: the number in the bank of a device's first row, and of that after its last one.
    """
    split, everywhere = P(parallel.DATA), P()
    search = jax.shard_map(
        functools.partial(_visit_own, tile=tile),
        mesh=mesh,
        in_specs=(split, split, split, everywhere, everywhere),
        out_specs=split,
    )
    return search(best, rows, bounds, queries, left_out)


def _visit_own(best, rows: Array, bounds: Array, queries: Array, left_out: Array, *, tile: int):
    (first, stop), k, n = bounds[0], best[0].shape[-1], len(rows)
    ids = first + jnp.arange(n, dtype=jnp.int32)
    minus_inf = jnp.asarray(-jnp.inf, rows.dtype)

    def visit(part):  # few queries and many rows at a time: top_k costs least so
        values, indices, queries, left_out = part
        similarity = jnp.matmul(queries, rows.T, precision=lax.Precision.HIGHEST)
        counts = (ids < stop)[None, :] & (ids[None, :] != left_out[:, None])
        near, where = lax.top_k(jnp.where(counts, similarity, minus_inf), min(k, n))
        # the rows found so far come first: top_k keeps the first of equals, which is the lower bank row
        values, order = lax.top_k(jnp.concatenate([values, near], axis=1), k)
        return values, jnp.take_along_axis(jnp.concatenate([indices, first + where], axis=1), order, axis=1)

    parts = jax.tree.map(lambda a: a.reshape(-1, tile, *a.shape[1:]), (*(a[0] for a in best), queries, left_out))
    return jax.tree.map(lambda a: a.reshape(1, -1, k), lax.map(visit, parts))


def _check(bank, queries, k: int, leave_one_out: bool) -> None:
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank {bank.shape} and queries {queries.shape} do not fit; pass [n, d] and [q, d]")
    if leave_one_out and len(bank) != len(queries):
        raise ValueError(f"leave_one_out needs one split, not a bank of {len(bank)} rows and {len(queries)} queries")
    most = len(bank) - leave_one_out
    if not 1 <= k <= most:
        raise ValueError(f"k={k} but the bank has {most} rows for a query; use a k from 1 to {most}")


def _check_vote(labels: np.ndarray, temperature: float, num_classes: int) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive; the literature uses 0.07 or 0.1")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"bank labels span {labels.min()}..{labels.max()} but num_classes={num_classes}; "
            "drop unlabelled (-1) rows or raise num_classes"
        )
