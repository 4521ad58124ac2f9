"""The loss of NNCLR: the positive of an image is the nearest embedding that a queue of earlier ones holds."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.info_nce import info_nce_and_accuracy
from ssl_jax.losses.normalize import check_pair, check_temperature, compute_dtype, l2_normalize
from ssl_jax.parallel import on_any_mesh
from ssl_jax.types import Array, Axis


class Neighbours(NamedTuple):
    """What :func:`nearest` found.

    Attributes:
      place: ``[b]`` int32, where in the queue.
      vector: ``[b, d]``, what stands there.
      cosine: ``[b]`` with the row that was looked up.
    """

    place: Array
    vector: Array
    cosine: Array


def nearest(z: Float[Array, "b d"], queue: Float[Array, "K d"]) -> Neighbours:
    """The row of ``queue`` with the highest cosine, without gradient; the first of equals.

    Args:
      z: ``[b, d]``, normalised here.
      queue: ``[K, d]``, rows expected to be unit vectors already.
    """
    dtype = compute_dtype(z, queue)
    z, queue = lax.stop_gradient((l2_normalize(z.astype(dtype)), queue.astype(dtype)))
    place = jnp.argmax(z @ queue.T, axis=1).astype(jnp.int32)
    vector = queue[place]
    return Neighbours(place, vector, (z * vector).sum(1))


@on_any_mesh
def nnclr(
    z1: Float[Array, "b d"],
    z2: Float[Array, "b d"],
    p1: Float[Array, "b d"],
    p2: Float[Array, "b d"],
    queue: Float[Array, "K d"],
    *,
    temperature: float | Array,
    axis: Axis = None,
) -> Float[Array, ""]:
    """The neighbour of each view must find the prediction of its image's other view among those of the batch.

    With all vectors L2-normalised and NN(z) the row of the queue with the highest cosine, over N images::

        L = 1/2 [ctr(NN(z1), p2) + ctr(NN(z2), p1)]
        ctr(n, p) = mean_i [ -n_i . p_i / T + log sum_j exp(n_i . p_j / T) ]

    Uniform logits give L = ln N. Gradient reaches p1 and p2, all of the batch, and nothing else.

    Args:
      z1, z2: ``[b, d]`` projections of the two views on this device; row i is the same image everywhere.
      p1, p2: ``[b, d]`` predictions of the same views, normalised here.
      queue: ``[K, d]`` unit vectors of EARLIER batches: with this batch's in it every image would find itself.
      temperature: T > 0; the paper has 0.1.
      axis: mapped device axis, None in the global view.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows; the mean over devices is the loss
      of the global batch.

    Raises:
      ValueError: shapes that do not fit, or a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.eye(2)
      >>> print(f"{nnclr(z, z, z, z, z, temperature=1.0):.4f}")  # -1 + log(e + 1)
      0.3133

    Reference: Dwibedi et al., "With a Little Help from My Friends", 2021, eqs. 2-4 (https://arxiv.org/abs/2104.14548).
    """
    for name, x in (("z2", z2), ("p1", p1), ("p2", p2)):
        check_pair("nnclr", "z1", z1, name, x)
    if queue.ndim != 2 or queue.shape[1] != z1.shape[1]:
        raise ValueError(f"nnclr needs a queue [K, {z1.shape[1]}] for z1 {z1.shape}; got queue {queue.shape}")
    return nnclr_of(nearest(z1, queue), nearest(z2, queue), p1, p2, temperature=temperature, axis=axis)[0]


def nnclr_of(
    one: Neighbours, two: Neighbours, p1: Array, p2: Array, *, temperature: float | Array, axis: Axis = None
) -> tuple[Array, Array]:
    """(:func:`nnclr` of neighbours that are found already, share of them whose own prediction is the nearest)."""
    check_temperature("nnclr", temperature)
    found = []
    for neighbours, p in ((one, p2), (two, p1)):
        p = l2_normalize(p.astype(compute_dtype(p, neighbours.vector)))
        found.append(info_nce_and_accuracy(neighbours.vector, p, temperature=temperature, axis=axis))
    (loss1, right1), (loss2, right2) = found
    return (loss1 + loss2) / 2, (right1 + right2) / 2
