"""A linear classifier trained beside the method, without influence on it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
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


def _logits(params: Tree, x: Array) -> Array:
    return jnp.matmul(x, params["kernel"], precision=lax.Precision.HIGHEST) + params["bias"][None]
