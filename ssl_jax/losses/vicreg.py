"""VICReg: views agree, every dimension varies, no two vary together."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import check_pair, check_weights, compute_dtype
from ssl_jax.parallel import mean, num_shards, on_any_mesh
from ssl_jax.types import Array, Axis

VIEWS = {"mean": 0.5, "sum": 1.0}


@on_any_mesh
def vicreg(
    z1: Float[Array, "b d"],
    z2: Float[Array, "b d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    variance_of_views: str = "mean",
    eps: float = 1e-4,
    axis: Axis = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean squared difference of two views, a hinge on deviations, and the squared covariances.

    With C(z) the unbiased covariance ``[d, d]`` over the N images of the global batch::

        L = lambda s + mu (v(z1) + v(z2)) / 2 + nu (c(z1) + c(z2))
        s = 1/(N d) sum |z1 - z2|^2
        v(z) = 1/d sum_j max(0, 1 - sqrt(C_jj + eps))
        c(z) = 1/d sum_{i != j} C_ij^2

    A representation that maps everything to one point has ``L = mu (1 - sqrt(eps))``: 24.75.

    Args:
      z1: ``[b, d]`` embeddings of the first view, neither normalised nor standardised, on this device.
      z2: ``[b, d]`` embeddings of the second view; row i is the same image as row i of ``z1``.
      invariance, variance, covariance: lambda, mu, nu.
      variance_of_views: "mean", as above and in the authors' code, or "sum": without the 1/2, as the paper's equation 6
        and solo-learn have it, which is twice the mu.
      eps: added to the variances.
      axis: mapped device axis, None in the global view. C is of the global batch, with gradient.

    Returns:
      (L, its parts: ``"invariance"`` s, ``"variance"`` the mean of both v, ``"covariance"`` the sum of both c, and
      ``"below_one"``, the share of the dimensions whose deviation is below 1), float32 (float64 for float64 inputs).
      L and s are those of this device's rows in s; the mean over devices is that of the global batch.

    Raises:
      ValueError: shapes that differ or are not 2-D, fewer than two rows, a weight below 0, an unknown
        ``variance_of_views``.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[1.0, 1.0], [-1.0, -1.0]])  # variances and covariances of 2
      >>> print(f"{vicreg(z, z)[0]:.2f}")
      8.00

    Reference: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
    2022, eqs. 1-6 (https://arxiv.org/abs/2105.04906); the 1/2: facebookresearch/vicreg, main_vicreg.py.

    Differs from the reference code: it divides by the batch size of the command minus 1, also where the last batch is
    shorter; N here is the number of rows there are.
    """
    check_pair("vicreg", "z1", z1, "z2", z2)
    check_weights("vicreg", invariance=invariance, variance=variance, covariance=covariance)
    if variance_of_views not in VIEWS:
        raise ValueError(f"vicreg needs variance_of_views of {', '.join(VIEWS)}, got {variance_of_views!r}")
    rows, dim = len(z1) * num_shards(axis), z1.shape[1]
    if rows < 2:
        raise ValueError(f"vicreg needs two rows or more for a covariance, got z1 {z1.shape}")
    dtype = compute_dtype(z1, z2)
    z1, z2 = z1.astype(dtype), z2.astype(dtype)
    others = 1 - jnp.eye(dim, dtype=dtype)

    def spread(z):
        z = z - mean(z.mean(0, keepdims=True), axis)
        cov = mean(z.T @ z / len(z), axis) * (rows / (rows - 1))
        deviation = jnp.sqrt(mean(jnp.square(z).mean(0), axis) * (rows / (rows - 1)) + eps)
        return deviation, jnp.square(others * cov).sum() / dim

    (d1, c1), (d2, c2) = spread(z1), spread(z2)
    deviations = jnp.stack([d1, d2])
    seen = {
        "invariance": jnp.square(z1 - z2).mean(),
        "variance": jnp.maximum(1 - deviations, 0).mean(),
        "covariance": c1 + c2,
        "below_one": (deviations < 1).astype(dtype).mean(),
    }
    value = invariance * seen["invariance"] + covariance * seen["covariance"]
    value += 2 * VIEWS[variance_of_views] * variance * seen["variance"]
    return value, lax.stop_gradient(seen)
