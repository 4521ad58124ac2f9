"""Assignments of rows to prototypes that use all prototypes equally, by the iterations of Sinkhorn and Knopp."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from ssl_jax.losses.normalize import check_temperature, compute_dtype
from ssl_jax.parallel import all_rows, on_any_mesh
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import Array, Axis


@on_any_mesh
def sinkhorn(
    scores: Float[Array, "b k"],
    *,
    epsilon: float | Array,
    iterations: int = 3,
    axis: Axis = None,
    present: Bool[Array, " b"] | None = None,
) -> Float[Array, "b k"]:
    """A distribution over k prototypes for each row, near to its scores, of which each prototype gets an equal share.

    ::

        Q = exp(s / e);   n times: Q_ij <- Q_ij / sum_i Q_ij (all rows of all devices), then Q_ij <- Q_ij / sum_j Q_ij

    Rows come last, so each sums to 1; the sums of prototypes, ideally b / k, are as near as n iterations bring them.
    A constant added to all scores of a prototype changes nothing, and one added to all scores does not.

    Args:
      scores: ``[b, k]``, SwAV: cosines; this device's rows.
      epsilon: e > 0 (the paper: .05). Smaller is nearer to one prototype a row.
      iterations: n.
      axis: mapped device axis, None in the global view. Sums over rows are those of the global batch.
      present: ``[b]``, False for a row that does not count, of which the distribution means nothing; None: all count.

    Returns:
      ``[b, k]``, float32 (float64 for float64 inputs); no gradient goes through it.

    Raises:
      ValueError: scores that are not 2-D, an epsilon that is not positive, no iteration.

    Example:
      >>> import jax.numpy as jnp
      >>> print(sinkhorn(jnp.array([[1.0, 0.0], [0.9, 0.0]]), epsilon=0.05))
      [[0.7272104  0.27278957]
       [0.26894143 0.73105854]]

    Reference: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020,
    equations 3 to 5 (https://arxiv.org/abs/2006.09882); Cuturi, "Sinkhorn Distances", 2013.

    Differs from the reference code: in logarithms, so that no epsilon is too small; factors that the last division
    takes out again are left out.
    """
    if scores.ndim != 2:
        raise ValueError(f"sinkhorn needs scores [b, k]; got {scores.shape}")
    if iterations < 1:
        raise ValueError(f"sinkhorn needs an iteration or more, got iterations={iterations}; SwAV has 3")
    check_temperature("sinkhorn", epsilon)
    logits = lax.stop_gradient(scores).astype(compute_dtype(scores)) / epsilon
    counted = 0.0 if present is None else jnp.where(present, 0.0, -jnp.inf).astype(logits.dtype)[:, None]

    def of_prototypes(x: Array) -> Array:
        """Log-sum-exp over the rows of all devices, less a constant, ``[1, k]``."""
        x = x + counted
        top = all_rows(x.max(axis=0, keepdims=True), axis).max(axis=0, keepdims=True)
        top = jnp.where(jnp.isfinite(top), top, 0.0)  # where no row counts
        total = mean_over_devices(jnp.exp(x - top).sum(axis=0, keepdims=True), axis)
        return top + jnp.log(jnp.maximum(total, jnp.finfo(x.dtype).tiny))

    def turn(_, q: Array) -> Array:
        q = q - of_prototypes(q)
        return q - jax.nn.logsumexp(q, axis=1, keepdims=True)

    # A loop of the program: of many turns written out, compilation would take minutes.
    return jnp.exp(lax.fori_loop(0, iterations, turn, logits))
