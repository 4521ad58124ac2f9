"""Linear classifiers on frozen features: one trained beside the method, one fitted to convergence."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ssl_jax import parallel
from ssl_jax.types import Array, Axis, Probe, Tree


class ProbeState(NamedTuple):
    """Arrays only, the same on every device. ``mean`` and ``square`` are moving averages started from zero."""

    params: Tree
    opt_state: Tree
    mean: Array
    square: Array
    weight: Array  # 1 - decay^t: what the averages have to be divided by


def online_probe(num_classes: int, *, learning_rate: float = 1e-3, decay: float = 0.99, eps: float = 1e-5) -> Probe:
    """A softmax regression on stop-gradient features, trained by its own Adam while the encoder moves.

    ``logits = W (h - mean) / sqrt(var + eps mean(var)) + b``; mean and variance are running statistics of the features
    that the state carries, so that one learning rate serves features of any scale.

    Args:
      num_classes: number of classes.
      learning_rate: of Adam.
      decay: of the running feature statistics.
      eps: least variance of a feature, relative to the mean variance.

    Returns:
      ``Probe(init, update, predict)``. ``update(state, features [b, d], label [b], axis)`` makes one step on the rows
      with label >= 0 (none: the state stays as it is, the metrics are NaN) and returns ``probe_loss`` and
      ``probe_top1`` of the batch before the step, over the whole batch of all devices.
    """
    tx = optax.adam(learning_rate)

    def init(key: Array, dim: int) -> ProbeState:
        del key  # softmax regression is convex: zero is a good start, and every run has the same
        params = {"kernel": jnp.zeros((dim, num_classes)), "bias": jnp.zeros(num_classes)}
        return ProbeState(params, tx.init(params), jnp.zeros(dim), jnp.zeros(dim), jnp.zeros(()))

    def scaled(state: ProbeState, features: Array) -> Array:
        weight = jnp.maximum(state.weight, jnp.finfo(state.weight.dtype).tiny)
        mean = state.mean / weight
        variance = jnp.maximum(state.square / weight - mean * mean, 0)
        floor = eps * jnp.mean(variance) + jnp.finfo(variance.dtype).tiny
        return (features - mean[None]) * lax.rsqrt(variance + floor)[None]

    def predict(state: ProbeState, features: Array) -> Array:
        return _logits(state.params, scaled(state, features.astype(state.mean.dtype)))

    def update(state: ProbeState, features: Array, label: Array, axis: Axis = None):
        x = lax.stop_gradient(features).astype(state.mean.dtype)
        known = (label >= 0).astype(x.dtype)
        # sums over devices first, then the ratio: the devices may hold different numbers of labelled rows
        kept = known[:, None] * x
        sums = jnp.sum(known), jnp.sum(kept, axis=0), jnp.sum(kept * x, axis=0)
        count, total, squares = parallel.mean(sums, axis)
        seen = count > 0
        rows = jnp.where(seen, count, 1)

        moved = state._replace(
            mean=decay * state.mean + (1 - decay) * total / rows,
            square=decay * state.square + (1 - decay) * squares / rows,
            weight=decay * state.weight + (1 - decay),
        )
        x = scaled(moved, x)

        def loss(params):
            logits = _logits(params, x)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
            hits = (jnp.argmax(logits, axis=-1) == label).astype(x.dtype)
            return jnp.sum(known * losses) / rows, jnp.sum(known * hits) / rows

        (value, hits), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        value, hits, gradients = parallel.mean((value, hits, gradients), axis)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32 power
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        moved = moved._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        state = jax.tree.map(lambda new, old: jnp.where(seen, new, old), moved, state)
        nan = jnp.asarray(jnp.nan, x.dtype)
        return state, {"probe_loss": jnp.where(seen, value, nan), "probe_top1": jnp.where(seen, hits, nan)}

    return Probe(init, update, predict)


def fit_logistic(
    features, labels, *, l2: float, num_classes: int, tolerance: float = 1e-5, max_iterations: int = 1000
) -> tuple[Array, Array]:
    """Multinomial logistic regression, to convergence, by L-BFGS.

    ``min_{W, b} mean_i CE(softmax(W' h_i + b), y_i) + l2/2 ||W||^2``

    In the terms of scikit-learn ``C = 1 / (n l2)``. Compiled once per shape; ``l2`` may change without compiling.

    Args:
      features: ``[n, d]``; see :func:`standardise`.
      labels: integer ``[n]`` in ``[0, num_classes)``.
      l2: weight of the penalty; the bias is free.
      num_classes: number of classes.
      tolerance: the fit stops when the gradient's largest entry is below it.
      max_iterations: the fit stops here at the latest.

    Returns:
      ``(kernel [d, c], bias [c])``.

    Raises:
      ValueError: l2 not positive, shapes that do not fit, labels out of range.
    """
    if not l2 > 0:
        raise ValueError(f"l2={l2} must be positive: separable classes have no best kernel without it; try 1e-3")
    features, labels = jnp.asarray(features), jnp.asarray(labels, jnp.int32)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape} and labels {labels.shape} do not fit; pass [n, d] and [n]")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels span {low}..{high} but num_classes={num_classes}; drop unlabelled (-1) rows or raise num_classes"
        )
    dtype = np.promote_types(features.dtype, np.float32)
    features, basis = features.astype(dtype), None
    if len(features) < features.shape[1]:  # the best W lies in the span of the examples: fit in that span
        features, basis = _span(features)
    params, _ = _fit(features, labels, jnp.asarray(l2, dtype), num_classes, float(tolerance), int(max_iterations))
    kernel = params["kernel"]
    if basis is not None:
        kernel = jnp.matmul(basis, kernel, precision=lax.Precision.HIGHEST)
    return kernel, params["bias"]


def _span(features: Array) -> tuple[Array, Array]:
    """``(Z [n, n], B [d, n])`` with ``H = Z B'`` and orthonormal columns in B: few examples of many dimensions.

    By the eigenvectors of ``H H'`` in float64 on the host: for a hundred examples that is many times faster than a QR.
    """
    host = np.asarray(features, np.float64)
    values, vectors = np.linalg.eigh(host @ host.T)
    singular = np.sqrt(np.maximum(values, 0))
    inverse = np.where(values > 1e-14 * values[-1], 1 / np.maximum(singular, np.finfo(np.float64).tiny), 0)
    coordinates, basis = vectors * singular, host.T @ (vectors * inverse)
    return jnp.asarray(coordinates.astype(features.dtype)), jnp.asarray(basis.astype(features.dtype))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _fit(features: Array, labels: Array, l2: Array, num_classes: int, tolerance: float, max_iterations: int):
    """Parameters and (largest gradient entry, iterations).

    L-BFGS moves V in ``W = L^-T V`` with ``L L' = H'H / (n c) + l2 I``, the Hessian at W = 0: correlated features then
    cost tens of iterations instead of hundreds.
    """
    tx = optax.lbfgs()
    n, dim = features.shape
    identity = jnp.eye(dim, dtype=features.dtype)
    gram = jnp.matmul(features.T, features, precision=lax.Precision.HIGHEST) / (n * num_classes)
    # float32 knows gram's eigenvalues down to about 1e-6 of their sum
    lower = jnp.linalg.cholesky(gram + (l2 + 1e-6 * jnp.trace(gram)) * identity)
    inverse = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)

    def original(moved):
        kernel = jnp.matmul(inverse.T, moved["kernel"], precision=lax.Precision.HIGHEST)
        return {"kernel": kernel, "bias": moved["bias"]}

    def objective(moved):
        params = original(moved)
        losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, features), labels)
        return jnp.mean(losses) + 0.5 * l2 * jnp.sum(params["kernel"] ** 2)

    value_and_grad = optax.value_and_grad_from_state(objective)

    def largest_gradient(moved):  # of the objective in W and b
        kernel = jnp.matmul(lower, moved["kernel"], precision=lax.Precision.HIGHEST)
        return jnp.maximum(jnp.max(jnp.abs(kernel)), jnp.max(jnp.abs(moved["bias"])))

    def step(carry):
        moved, state, _, count = carry
        value, gradients = value_and_grad(moved, state=state)
        updates, state = tx.update(gradients, state, moved, value=value, grad=gradients, value_fn=objective)
        return optax.apply_updates(moved, updates), state, largest_gradient(optax.tree.get(state, "grad")), count + 1

    def going(carry):
        _, _, gradient, count = carry
        return (count < max_iterations) & (gradient > tolerance)

    dtype = features.dtype
    start = {"kernel": jnp.zeros((dim, num_classes), dtype), "bias": jnp.zeros(num_classes, dtype)}
    carry = (start, tx.init(start), jnp.asarray(jnp.inf, dtype), jnp.asarray(0, jnp.int32))
    moved, _, gradient, count = lax.while_loop(going, step, carry)
    return original(moved), (gradient, count)


def standardise(train, *others) -> tuple[Array, ...]:
    """Every array with the train columns' mean taken off and divided by their deviation (constant columns by 1)."""
    train = jnp.asarray(train)
    train = train.astype(np.promote_types(train.dtype, np.float32))
    mean, deviation = jnp.mean(train, axis=0, keepdims=True), jnp.std(train, axis=0, keepdims=True)
    tiny = 1e-6 * jnp.max(jnp.abs(train), axis=0, keepdims=True)
    scale = jnp.where(deviation > tiny, deviation, jnp.ones_like(deviation))
    return tuple((jnp.asarray(x).astype(train.dtype) - mean) / scale for x in (train, *others))


def _logits(params: Tree, x: Array) -> Array:
    return jnp.matmul(x, params["kernel"], precision=lax.Precision.HIGHEST) + params["bias"][None]
