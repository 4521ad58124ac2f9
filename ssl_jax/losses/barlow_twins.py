"""Barlow Twins: the cross-correlation of two views is to be the identity."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import check_pair, check_weights, compute_dtype
from ssl_jax.parallel import mean, num_shards, on_any_mesh
from ssl_jax.types import Array, Axis


@on_any_mesh
def barlow_twins(
    z1: Float[Array, "b d"],
    z2: Float[Array, "b d"],
    *,
    off_diagonal: float = 0.0051,
    eps: float = 1e-5,
    axis: Axis = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Each dimension agrees with itself in the other view and with no other dimension.

    With u the dimensions of each view, standardised over the N images of the global batch (biased variance)::

        c_ij = 1/N sum_n u1_ni u2_nj
        L = sum_i (c_ii - 1)^2 + lambda sum_{i != j} c_ij^2

    A representation that maps everything to one point has L = d; one whose dimensions are all the same number, c_ij = 1
    everywhere. The loss grows as d: unrelated dimensions have an off-diagonal sum of d (d - 1) / N.

    Args:
      z1: ``[b, d]`` projections of the first view, neither normalised nor standardised, on this device.
      z2: ``[b, d]`` projections of the second view; row i is the same image as row i of ``z1``.
      off_diagonal: lambda.
      eps: added to the variances.
      axis: mapped device axis, None in the global view. Moments and c are of the global batch, with gradient.

    Returns:
      (L, what of c to look at: ``"diagonal"``, the mean of c_ii, and ``"off_diagonal"``, the root of the mean of
      c_ij^2), float32 (float64 for float64 inputs), the same on every device.

    Raises:
      ValueError: shapes that differ or are not 2-D, fewer than two rows, a weight below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
      >>> value, seen = barlow_twins(z, z)  # the diagonal is 1, and so is what is beside it
      >>> print(f"{value:.4f} {seen['diagonal']:.2f} {seen['off_diagonal']:.2f}")
      0.0102 1.00 1.00

    Reference: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021, eqs. 1-2
    (https://arxiv.org/abs/2103.03230); lambda and eps: facebookresearch/barlowtwins, main.py.
    """
    check_pair("barlow_twins", "z1", z1, "z2", z2)
    check_weights("barlow_twins", off_diagonal=off_diagonal)
    if len(z1) * num_shards(axis) < 2:
        raise ValueError(f"barlow_twins needs two rows or more for a correlation, got z1 {z1.shape}")
    dtype = compute_dtype(z1, z2)

    def standardised(z):
        z = z.astype(dtype)
        z = z - mean(z.mean(0, keepdims=True), axis)
        return z * lax.rsqrt(mean(jnp.square(z).mean(0, keepdims=True), axis) + eps)

    u1, u2 = standardised(z1), standardised(z2)
    c = mean(u1.T @ u2 / len(z1), axis)
    dim, agreement = len(c), mean((u1 * u2).mean(0), axis)  # the diagonal of c
    apart, beside = jnp.square(agreement - 1).sum(), jnp.square((1 - jnp.eye(dim, dtype=dtype)) * c).sum()
    seen = {"diagonal": agreement.mean(), "off_diagonal": jnp.sqrt(beside / max(dim * (dim - 1), 1))}
    return apart + off_diagonal * beside, lax.stop_gradient(seen)
