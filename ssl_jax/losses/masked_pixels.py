"""The loss of masked autoencoders: pixels of the patches that were hidden, and those patches made equal in contrast."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.types import Array


def masked_mse(
    predictions: Float[Array, "b n p"], targets: Float[Array, "b n p"], masked: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """Mean squared error of the patches that were hidden; those that were seen do not count.

    ::

        L = sum_{i in masked} mean_k (x^_ik - x_ik)^2 / (number of masked)

    Zero predictions of ``standardized_patches`` of p numbers give (p - 1) / p.

    Args:
      predictions: x^, ``[b, n, p]``.
      targets: x, ``[b, n, p]``.
      masked: bool ``[b, n]``; as many of every image, if the batch is split over devices whose losses are averaged.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[2.0, 0.0], [9.0, 9.0]]])
      >>> print(masked_mse(jnp.zeros_like(x), x, jnp.array([[True, False]])))
      2.0

    Reference: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3 (arXiv:2111.06377).
    """
    if predictions.shape != targets.shape or masked.shape != targets.shape[:2]:
        raise ValueError(
            "masked_mse needs predictions and targets [b, n, p] of one shape and masked [b, n]; got "
            f"{predictions.shape}, {targets.shape} and {masked.shape}"
        )
    dtype = compute_dtype(predictions, targets)
    errors = jnp.square(predictions.astype(dtype) - targets.astype(dtype)).mean(-1)
    weight = masked.astype(dtype)
    return (weight * errors).sum() / weight.sum()


def standardized_patches(
    patches: Float[Array, "b n p"], eps: float = 1e-6
) -> tuple[Float[Array, "b n p"], Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Every patch less its mean, over its deviation: ``((x - m) / s, m, s)``, ``s^2 = unbiased variance + eps``.

    Args:
      patches: x, ``[b, n, p]``.

    Returns:
      Float32 (float64 for float64 inputs), ``[b, n, p]``, ``[b, n, 1]`` and ``[b, n, 1]``.

    Reference: as :func:`masked_mse`, "reconstruction target"; eps and the unbiased variance from the code.
    """
    x = patches.astype(compute_dtype(patches))
    mean = x.mean(-1, keepdims=True)
    deviation = jnp.sqrt(x.var(-1, ddof=1, keepdims=True) + eps)
    return (x - mean) / deviation, mean, deviation
