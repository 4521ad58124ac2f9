"""The regression loss of BYOL."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import check_pair, compute_dtype, l2_normalize
from ssl_jax.types import Array


def byol_regression(p: Float[Array, "b d"], z: Float[Array, "b d"]) -> Float[Array, ""]:
    """Squared distance of unit vectors: the prediction of one view to the target's projection of the other.

    ::

        L = mean_i | p_i/|p_i| - sg(z_i/|z_i|) |^2 = mean_i [ 2 - 2 cos(p_i, z_i) ]

    One direction; BYOL adds the two. No gradient reaches ``z``. SimSiam's loss is ``(L - 2) / 2`` per direction.

    Args:
      p: ``[b, d]`` predictions of the online network, not normalised.
      z: ``[b, d]`` projections of the target network, not normalised.

    Returns:
      Scalar in [0, 4], float32 (float64 for float64 inputs): the mean over this device's rows. A zero vector counts as
      orthogonal to everything (2).

    Raises:
      ValueError: shapes that differ or are not 2-D.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> z = jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> float(byol_regression(p, z))  # the mean of 0 (parallel) and 2 (orthogonal)
      1.0

    Reference: Grill et al., "Bootstrap Your Own Latent", 2020, eq. 2 (https://arxiv.org/abs/2006.07733).
    """
    check_pair("byol_regression", "p", p, "z", z)
    dtype = compute_dtype(p, z)
    p = l2_normalize(p.astype(dtype))
    z = lax.stop_gradient(l2_normalize(z.astype(dtype)))
    return jnp.mean(2.0 - 2.0 * (p * z).sum(axis=1))
