"""KoLeo: features spread over the sphere where each keeps away from its nearest neighbour."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.parallel import all_rows, my_rows, on_any_mesh, row_ids
from ssl_jax.types import Array, Axis

EPS = 1e-8


@on_any_mesh
def koleo(x: Float[Array, "b d"], *, group: int | None = None, axis: Axis = None) -> Float[Array, ""]:
    """The Kozachenko-Leonenko estimate of (minus) the entropy of unit features, from nearest neighbours.

    ::

        L = mean_i -log(|u_i - u_n(i) + e| + e),    n(i) = argmax_{j != i} u_i . u_j,    u = x / |x|,  e = 1e-8

    The gradient flows into both ends of each distance. It depends on how many rows a neighbour is looked for in.

    Args:
      x: ``[b, d]``, on this device: of one view, or the views of an image are each other's neighbours.
      group: look for neighbours among so many rows next to each other, DINOv2's 64 of a device; None: the global batch.
      axis: mapped device axis, None in the global view.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows.

    Raises:
      ValueError: not ``[b, d]``, a single row, or rows that do not fall into such groups.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{koleo(jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])):.6f}")  # -log sqrt(2)
      -0.346574

    Reference: Sablayrolles et al., "Spreading vectors for similarity search", 2019, section 3.2; Oquab et al.,
    "DINOv2", 2023, section 4 (https://arxiv.org/abs/2304.07193).
    Differs from the reference code: there neighbours are looked for on one device, whatever its batch (``group``).
    """
    return koleo_and_nearest(x, group=group, axis=axis)[0]


@on_any_mesh
def koleo_and_nearest(
    x: Float[Array, "b d"], *, group: int | None = None, axis: Axis = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """:func:`koleo`, and the smallest distance that it sees, over all devices and without a gradient."""
    distances = _distances(x, group, axis)
    least = lax.stop_gradient(distances).min()
    return -jnp.mean(jnp.log(distances + EPS)), least if axis is None else lax.pmin(least, axis)


def _distances(x: Array, group: int | None, axis: Axis) -> Array:
    """``|u_i - u_n(i) + e|`` of each row, ``[groups, rows]``."""
    if x.ndim != 2:
        raise ValueError(f"koleo needs rows [b, d]; got {x.shape}")
    u = l2_normalize(x.astype(compute_dtype(x)), eps=EPS**2)
    if group is None:
        others, own = all_rows(u, axis)[None], row_ids(len(u), axis)[None]
        u = my_rows(all_rows(u, axis), axis)[None]  # the same rows, but said to be split, or all that follows is whole
    else:
        if group < 1 or len(u) % group:
            raise ValueError(f"koleo group={group} does not divide the {len(u)} rows of a device; use a divisor")
        others = u = u.reshape(-1, group, u.shape[-1])
        own = jnp.broadcast_to(jnp.arange(group, dtype=jnp.int32)[None], u.shape[:2])
    if others.shape[1] < 2:
        raise ValueError("koleo needs two rows at least: one has no neighbour; use a larger batch or group")
    cosines = jnp.einsum("gid,gjd->gij", u, lax.stop_gradient(others), precision=lax.Precision.HIGHEST)
    itself = own[:, :, None] == jnp.arange(others.shape[1], dtype=jnp.int32)[None, None]
    nearest = jnp.where(itself, -jnp.inf, lax.stop_gradient(cosines)).argmax(2)
    between = u - jnp.take_along_axis(others, nearest[:, :, None], axis=1) + EPS
    return jnp.sqrt(jnp.square(between).sum(-1))
