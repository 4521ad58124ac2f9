"""Unsupervised data augmentation: what a network says of an example teaches what it says of an altered one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.types import Array


def consistency(
    plain: Float[Array, "b k"], augmented: Float[Array, "b k"], *, temperature: float = 1.0, threshold: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """KL divergence from the prediction of the plain example, sharpened and held fixed, where it is confident.

    ::

        L = 1/b sum_i [max_c p_ic > t] sum_c s_ic (log s_ic - log q_ic)
        p = softmax(u),    s = softmax(u / T),    q = softmax(v)

    No gradient goes through u.

    Args:
      plain: u, logits of the examples as they are.
      augmented: v, logits of the same examples altered.
      temperature: T; below 1 it sharpens.
      threshold: t; less confident predictions teach nothing, but count in b.

    Returns:
      (L, the share of the examples that are confident), float32 (float64 for float64 inputs).

    Example:
      >>> import jax.numpy as jnp
      >>> value, share = consistency(jnp.array([[4.0, 0.0], [0.5, 0.0]]), jnp.zeros((2, 2)), threshold=0.8)
      >>> print(f"{value:.3f} {share:.1f}")
      0.301 0.5

    Reference: Xie et al. 2020, "Unsupervised Data Augmentation for Consistency Training" (arXiv:1904.12848), section 3.
    """
    dtype = compute_dtype(plain, augmented)
    plain, augmented = lax.stop_gradient(plain.astype(dtype)), augmented.astype(dtype)
    confident = (jax.nn.softmax(plain).max(-1) > threshold).astype(dtype)
    log_target = jax.nn.log_softmax(plain / temperature)
    divergence = (jnp.exp(log_target) * (log_target - jax.nn.log_softmax(augmented))).sum(-1)
    return (confident * divergence).mean(), confident.mean()
