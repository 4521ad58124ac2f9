"""Linear classifiers on frozen features: logistic regression, ridge, and the papers' protocols by SGD."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import dtypes, lax
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.data.source import Source, stratified_order
from ssl_jax.evals import Accuracy, Encode, Fit, best_fit, finetune
from ssl_jax.evals.shared import labels as check
from ssl_jax.evals.shared import protocols
from ssl_jax.evals.shared.labels import labelled
from ssl_jax.names import refuse_unknown
from ssl_jax.online.progress import counted
from ssl_jax.types import Array, Tree, Variables

GRID = tuple(10.0 ** (exponent / 2) for exponent in range(0, -13, -1))  # 1 to 1e-6
BLOCK = 8192  # rows of a pass over all features
PATIENCE = 20  # iterations without progress, after which rounding is all that is left

Linear = tuple[np.ndarray, np.ndarray]  # kernel [d, c], bias [c]


def fit_logistic(
    features,
    labels,
    *,
    l2: float,
    num_classes: int,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
    mesh: Mesh | None = None,
) -> Linear:
    """Multinomial logistic regression, to convergence, by L-BFGS.

    ``min_{W, b} mean_i CE(softmax(W' h_i + b), y_i) + l2/2 ||W||^2``

    In the terms of scikit-learn ``C = 1 / (n l2)``. Compiled once per shape; ``l2`` may change without compiling.

    Args:
      features: ``[n, d]``, all of them on the device at once; see :func:`standardise`.
      labels: integer ``[n]`` in ``[0, num_classes)``.
      l2: weight of the penalty; the bias is free.
      num_classes: number of classes.
      tolerance: the fit stops when the gradient's largest entry is below it, or when rounding lets nothing improve.
      max_iterations: the fit stops here at the latest.
      mesh: splits the rows over its devices, each process holding all of them on the host; fewer examples than
        dimensions stay on one device.

    Returns:
      ``(kernel [d, c], bias [c])``.

    Raises:
      ValueError: l2 not positive, shapes that do not fit, labels out of range.
    """
    stop = {"tolerance": tolerance, "max_iterations": max_iterations}
    return fit_logistic_path(features, labels, l2s=(l2,), num_classes=num_classes, mesh=mesh, **stop)[0]


def fit_logistic_path(
    features,
    labels,
    *,
    l2s: Sequence[float],
    num_classes: int,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
    mesh: Mesh | None = None,
) -> list[Linear]:
    """:func:`fit_logistic` for every ``l2``, each started from the one before: give the largest first."""
    _check(features, labels, l2s, num_classes)
    labels, dtype, basis = np.asarray(labels, np.int32), _dtype(features), None
    if len(features) < features.shape[1]:  # the best W lies in the span of the examples: fit in that span
        features, basis = _span(features)
        mesh = None
    if mesh is None:
        features, labels = jnp.asarray(features).astype(dtype), jnp.asarray(labels)
    else:
        features, labels = _split_rows(features, dtype, 0, mesh), _split_rows(labels, np.int32, -1, mesh)
    gram, found = _gram(features, labels, num_classes), []
    params = jnp.zeros((num_classes, features.shape[1]), dtype), jnp.zeros(num_classes, dtype)
    for l2 in counted(l2s, "logistic regression", len(l2s), "fits"):
        penalty = jnp.asarray(l2, dtype)
        params, _ = _fit(features, labels, gram, penalty, params, float(tolerance), int(max_iterations))
        if mesh is not None:
            params = jax.device_put(params, parallel.replicated(mesh))
        kernel, bias = jax.device_get(params)
        found.append((kernel.T if basis is None else (basis @ kernel.T).astype(dtype), bias))
    return found


def _dtype(features) -> np.dtype:
    return dtypes.canonicalize_dtype(np.promote_types(features.dtype, np.float32))


def _check(features, labels, l2s: Sequence[float], num_classes: int) -> None:
    for l2 in l2s:
        if not l2 > 0:
            raise ValueError(f"l2={l2} must be positive: separable classes have no best kernel without it; try 1e-3")
    labels = np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape} and labels {labels.shape} do not fit; pass [n, d] and [n]")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels span {low}..{high} but num_classes={num_classes}; drop unlabelled (-1) rows or raise num_classes"
        )


def _split_rows(x, dtype, fill, mesh: Mesh) -> Array:
    """Rows split over the devices, those that are missing in the last shares filled up."""
    share = -(-len(x) // mesh.devices.size)

    def part(index):
        start = index[0].start or 0
        rows = np.asarray(x[start : start + share], dtype)
        return np.pad(rows, ((0, share - len(rows)), *((0, 0),) * (x.ndim - 1)), constant_values=fill)

    shape = (share * mesh.devices.size, *x.shape[1:])
    return jax.make_array_from_callback(shape, parallel.sharded(mesh), part)


def _span(features) -> tuple[np.ndarray, np.ndarray]:
    """``(Z [n, n], B [d, n])`` with ``H = Z B'`` and orthonormal columns in B: few examples of many dimensions.

    By the eigenvectors of ``H H'`` in float64: for a hundred examples that is many times faster than a QR.
    """
    features = np.asarray(features, np.float64)
    values, vectors = np.linalg.eigh(features @ features.T)
    singular = np.sqrt(np.maximum(values, 0))
    inverse = np.where(values > 1e-14 * values[-1], 1 / np.maximum(singular, np.finfo(np.float64).tiny), 0)
    return vectors * singular, features.T @ (vectors * inverse)


@functools.partial(jax.jit, static_argnums=2)
def _gram(features: Array, labels: Array, num_classes: int) -> Array:
    """``H'H / (n c)``, the Hessian of the mean cross-entropy at W = 0; rows with label -1 are zeros."""
    count = jnp.sum((labels >= 0).astype(features.dtype))
    return jnp.matmul(features.T, features, precision=lax.Precision.HIGHEST) / (count * num_classes)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _fit(
    features: Array, labels: Array, gram: Array, l2: Array, start: Tree, tolerance: float, max_iterations: int
) -> tuple[Tree, tuple[Array, Array]]:
    """(W' ``[c, d]``, b) and (largest gradient entry, iterations); rows with label -1 do not count.

    The kernel is transposed because XLA's product ``R'H`` of the gradient is 7 times faster on a CPU than ``H'R``.
    L-BFGS moves V in ``W = L^-T V`` with ``L L' = H'H / (n c) + l2 I``, the Hessian at W = 0: correlated features then
    cost tens of iterations instead of hundreds.
    """
    tx = optax.lbfgs()
    dtype = features.dtype
    known = (labels >= 0).astype(dtype)
    known, labels = known / jnp.sum(known), jnp.maximum(labels, 0)
    identity = jnp.eye(len(gram), dtype=dtype)
    # float32 knows gram's eigenvalues down to about 1e-6 of their sum
    lower = jnp.linalg.cholesky(gram + (l2 + 1e-6 * jnp.trace(gram)) * identity)
    inverse = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)

    def original(moved: Tree) -> Tree:
        return _matmul(moved[0], inverse), moved[1]

    def objective(moved: Tree) -> Array:
        kernel, bias = original(moved)
        losses = optax.softmax_cross_entropy_with_integer_labels(_matmul(features, kernel.T) + bias[None], labels)
        return jnp.sum(known * losses) + 0.5 * l2 * jnp.sum(kernel**2)

    value_and_grad = optax.value_and_grad_from_state(objective)

    def largest_gradient(moved: Tree) -> Array:  # of the objective in W and b
        return jnp.maximum(jnp.max(jnp.abs(_matmul(moved[0], lower.T))), jnp.max(jnp.abs(moved[1])))

    def step(carry):
        moved, state, best, _, count, stuck = carry
        value, gradients = value_and_grad(moved, state=state)
        updates, state = tx.update(gradients, state, moved, value=value, grad=gradients, value_fn=objective)
        value, gradient = optax.tree.get(state, "value"), largest_gradient(optax.tree.get(state, "grad"))
        progress = (value < best[0]) | (gradient < 0.9 * best[1])
        best = jnp.minimum(value, best[0]), jnp.minimum(gradient, best[1])
        moved, stuck = optax.apply_updates(moved, updates), jnp.where(progress, 0, stuck + 1)
        return moved, state, best, gradient, count + 1, stuck

    def going(carry):
        _, _, _, gradient, count, stuck = carry
        return (count < max_iterations) & (gradient > tolerance) & (stuck < PATIENCE)

    moved = _matmul(start[0], lower), start[1]
    infinite, zero = jnp.asarray(jnp.inf, dtype), jnp.asarray(0, jnp.int32)
    carry = (moved, tx.init(moved), (infinite, infinite), infinite, zero, zero)
    moved, _, _, gradient, count, _ = lax.while_loop(going, step, carry)
    return original(moved), (gradient, count)


def fit_ridge(features, labels, *, l2: float, num_classes: int) -> Linear:
    """Least squares on one-hot targets with a penalty, in closed form.

    ``min_{W, b} mean_i ||W' h_i + b - onehot(y_i)||^2 + l2 ||W||^2``

    In the terms of scikit-learn's Ridge ``alpha = n l2``. In float64 on the host, 8,192 rows at a time, so features may
    be mapped from disk.

    Args:
      features: ``[n, d]``.
      labels: integer ``[n]`` in ``[0, num_classes)``.
      l2: weight of the penalty; the bias is free.
      num_classes: number of classes.

    Returns:
      ``(kernel [d, c], bias [c])``.

    Raises:
      ValueError: see :func:`fit_logistic`.
    """
    return fit_ridge_path(features, labels, l2s=(l2,), num_classes=num_classes)[0]


def fit_ridge_path(features, labels, *, l2s: Sequence[float], num_classes: int) -> list[Linear]:
    """:func:`fit_ridge` for every ``l2``, from one eigendecomposition of ``H'H``."""
    _check(features, labels, l2s, num_classes)
    labels, dtype, n = np.asarray(labels), _dtype(features), len(features)
    if n < features.shape[1]:  # the best W lies in the span of the centred examples: fit in that span
        mean = _mean(features)
        coordinates, basis = _span(features - mean[None])
        found = fit_ridge_path(coordinates, labels, l2s=l2s, num_classes=num_classes)
        kernels = [basis @ kernel for kernel, _ in found]
        return [
            (kernel.astype(dtype), (bias - mean @ kernel).astype(dtype))
            for kernel, (_, bias) in zip(kernels, found, strict=True)
        ]
    mean, share = _mean(features), np.bincount(labels, minlength=num_classes) / n
    gram, cross = 0.0, 0.0
    for rows in _blocks(n):
        centred = features[rows] - mean[None]
        gram, cross = gram + centred.T @ centred / n, cross + centred.T @ np.eye(num_classes)[labels[rows]] / n
    values, vectors = np.linalg.eigh(gram)
    kernels = [vectors @ (vectors.T @ cross / (np.maximum(values, 0) + l2)[:, None]) for l2 in l2s]
    return [(kernel.astype(dtype), (share - mean @ kernel).astype(dtype)) for kernel in kernels]


def standardise(train, *others) -> tuple[np.ndarray, ...]:
    """Every array with the train columns' mean taken off and divided by their deviation (constant columns by 1).

    Statistics in float64, block by block, on the host: ``train`` may be mapped from disk.
    """
    train, dtype = np.asarray(train), np.promote_types(train.dtype, np.float32)
    mean, squares, largest = _mean(train), 0.0, 0.0
    for rows in _blocks(len(train)):
        squares = squares + np.sum((train[rows] - mean[None]) ** 2, axis=0)
        largest = np.maximum(largest, np.max(np.abs(train[rows]), axis=0))
    deviation = np.sqrt(squares / len(train))
    scale = np.where(deviation > 1e-6 * largest, deviation, 1)

    def scaled(x) -> np.ndarray:
        x = np.asarray(x, dtype) - mean.astype(dtype)[None]
        x /= scale.astype(dtype)[None]
        return x

    return tuple(scaled(x) for x in (train, *others))


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def _mean(x) -> np.ndarray:
    return np.sum([np.sum(x[rows], axis=0, dtype=np.float64) for rows in _blocks(len(x))], axis=0) / len(x)


@jax.jit
def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def ranks(linear: Linear, features, labels) -> np.ndarray:
    """How many classes come before the right one, ``[n]``: 0 is right at once, below 5 among the first five.

    Of equal scores the lower class comes first, and everything comes before what is not a number.
    """
    scores, classes = _matmul(features, linear[0]) + linear[1][None], np.arange(len(linear[1]))[None]
    scores, labels = np.asarray(scores), np.asarray(labels)[:, None]
    right = np.take_along_axis(scores, labels, axis=1)
    return np.sum(np.where(classes < labels, ~(scores < right), ~(scores <= right)), axis=1)


def choose_l2(
    fit_path: Callable[..., list[Linear]],
    features,
    labels,
    held_out_features,
    held_out_labels,
    *,
    num_classes: int,
    grid: Sequence[float] = GRID,
) -> float:
    """The penalty whose classifier is right most often on held-out examples; of equals the largest.

    The grid first, from its largest down, then the geometric means of the best and its neighbours. For numbers to
    report fit again, on all examples.

    Args:
      fit_path: :func:`fit_logistic_path` or :func:`fit_ridge_path`.
      features: ``[n, d]`` to fit on.
      labels: ``[n]``.
      held_out_features: ``[m, d]`` to choose on.
      held_out_labels: ``[m]``.
      num_classes: number of classes.
      grid: penalties; the default is 1 to 1e-6 in steps of half a decade.

    Reference: Oquab et al. 2023, "DINOv2", linear evaluation by logistic regression. Differs from the reference code:
    45 values of C from 1e-6 to 1e5 there, each fitted from zero; with n examples l2 = 1 / (n C).
    """
    scores: dict[float, float] = {}

    def score(l2s: Sequence[float]) -> float:
        for l2, linear in zip(l2s, fit_path(features, labels, l2s=l2s, num_classes=num_classes), strict=True):
            scores[l2] = float(np.mean(ranks(linear, held_out_features, held_out_labels) == 0))
        return max(scores, key=lambda l2: (scores[l2], l2))

    grid = sorted(grid, reverse=True)
    best = score(grid)
    at = grid.index(best)
    neighbours = grid[max(at - 1, 0) : at] + grid[at + 1 : at + 2]
    return score([float(np.sqrt(best * other)) for other in neighbours]) if neighbours else best


FITS = {"fast": ("linear", fit_logistic_path), "ridge": ("ridge", fit_ridge_path)}


class Evaluator:
    """A linear classifier on the frozen encoder, by one of several protocols.

    Yields of a fast one, for each layer, ``linear_top1`` (``ridge_top1``), ``linear_top5`` of more than five classes,
    and ``linear_l2``, the penalty; ``_<layer>`` is added for other layers than the features. Yields of a paper's
    protocol ``linear_<protocol>_top1``.

    Args:
      protocol: on cached features, whose columns are standardised with statistics of train: "fast", logistic
        regression, or "ridge", least squares. Or a paper's, by SGD on crops, see
        :mod:`ssl_jax.evals.shared.protocols`; of several learning rates the one that is best on the held-out part
        counts.
      layers: of the encoder, for the fast protocols.
      l2: penalty; None: chosen on the held-out part, then fitted on all of train.
      held_out: share of train that choices are made on, classes in proportion.
      epochs: of a paper's protocol, instead of the paper's.
      seed: of the held-out part and of SGD.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        fit: Fit | None = None,
        protocol: str = "fast",
        layers: str | Sequence[str] = ("features",),
        l2: float | None = None,
        held_out: float = 0.1,
        epochs: int | None = None,
        seed: int = 0,
    ):
        labels, answers = check.check("linear_probe", train, test)
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        _known("protocol", protocol, [*FITS, *protocols.PROTOCOLS])
        for layer in self.layers:
            _known("layers", layer, list(encode.layers))
        if l2 is not None and not l2 > 0:
            raise ValueError(f"linear_probe.l2={l2} must be positive; leave it out to have it chosen")
        count = int(np.sum(labels >= 0))
        if not 1 <= round(held_out * count) < count:
            raise ValueError(
                f"linear_probe.held_out={held_out} of {count} labelled examples must leave examples in both parts"
            )
        self.encode, self.train, self.test, self.fit = encode, train, test, fit
        self.protocol, self.l2, self.held_out, self.seed = protocol, l2, held_out, seed
        self.num_classes = train.num_classes or int(labels.max()) + 1
        self.occurring = len(np.unique(labels[labels >= 0]))
        name = FITS[protocol][0] if protocol in FITS else f"linear_{protocol}"
        self.left_out: dict[str, str] = {}
        self.notes = {f"{name}_top1": said} if (said := check.note(labels, answers)) else {}
        if protocol in FITS:
            return
        if fit is None:
            raise ValueError(f"linear_probe.protocol={protocol!r} trains and there is no fit; use {' or '.join(FITS)}")
        if self.layers != ("features",):
            raise ValueError(f"linear_probe.layers={','.join(self.layers)} need protocol fast or ridge, not {protocol}")
        self.splits = finetune.split(train, test, held_out=held_out, seed=seed)
        self.candidates = [chosen | {"seed": seed} for chosen in protocols.overrides(protocol, epochs=epochs)]

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        if self.fit is not None and self.protocol not in FITS:
            fits = {
                float(chosen["optim.learning_rate"]): functools.partial(
                    self.fit, f"linear_{self.protocol}_{i}", self.splits, chosen
                )
                for i, chosen in enumerate(self.candidates)
            }
            _, best = best_fit(fits)
            yield f"linear_{self.protocol}_top1", Accuracy(best.hits)
            return
        name, fit_path = FITS[self.protocol]
        if self.protocol == "fast":  # on the devices that encode, where it says which
            fit_path = functools.partial(fit_path, mesh=getattr(self.encode, "mesh", None))
        train, test = (self.encode(variables, source, layers=self.layers) for source in (self.train, self.test))
        for layer in self.layers:
            added = "" if layer == "features" else f"_{layer}"
            (h, labels), (queries, answers) = labelled(train, layer), labelled(test, layer)
            h, queries = standardise(h, queries)
            l2 = self.l2 or self._choose(fit_path, h, labels)
            (linear,) = fit_path(h, labels, l2s=(l2,), num_classes=self.num_classes)
            found = ranks(linear, queries, answers)
            yield f"{name}_top1{added}", Accuracy(found == 0)
            if self.occurring > 5:
                yield f"{name}_top5{added}", Accuracy(found < 5)
            else:
                self.left_out[f"{name}_top5{added}"] = f"there are {self.occurring} classes, all among the first five"
            yield f"{name}_l2{added}", l2

    def _choose(self, fit_path, h: np.ndarray, labels: np.ndarray) -> float:
        order = stratified_order(labels, len(labels), self.seed)
        size = round(self.held_out * len(order))
        held_out, kept = np.sort(order[:size]), np.sort(order[size:])
        return choose_l2(fit_path, h[kept], labels[kept], h[held_out], labels[held_out], num_classes=self.num_classes)


def _known(option: str, value: str, known: Sequence[str]) -> None:
    refuse_unknown(value, known, f"linear_probe.{option}=")
