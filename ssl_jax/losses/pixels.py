"""Losses between images: cross-entropy per pixel, its floor, and the signal-to-noise ratio."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax.scipy.special import entr
from jaxtyping import Float

from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.types import Array


def pixel_bce(logits: Float[Array, "*shape"], images: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Binary cross-entropy per pixel: each pixel is the probability of a light one.

    ::

        L = mean over images, pixels and channels of -x log s(l) - (1 - x) log(1 - s(l)),    s(l) = 1 / (1 + exp(-l))

    Zero logits give ln 2 for any image. Grey pixels keep it above :func:`pixel_entropy`.

    Args:
      logits: l, of any shape.
      images: x in [0, 1], of the same shape.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{pixel_bce(jnp.zeros(3), jnp.array([0.0, 0.5, 1.0])):.4f}")
      0.6931
    """
    if logits.shape != images.shape:
        raise ValueError(f"pixel_bce needs logits and images of one shape; got {logits.shape} and {images.shape}")
    dtype = compute_dtype(logits, images)
    return optax.losses.sigmoid_binary_cross_entropy(logits.astype(dtype), images.astype(dtype)).mean()


def pixel_entropy(images: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The floor of :func:`pixel_bce`, where s(l) = x: mean of ``-x log x - (1 - x) log(1 - x)``.

    Args:
      images: x in [0, 1], of any shape.

    Returns:
      Scalar, float32 (float64 for float64 inputs); 0 for images of black and white alone.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{pixel_entropy(jnp.array([0.0, 0.5])):.4f}")  # half of ln 2
      0.3466
    """
    images = images.astype(compute_dtype(images))
    return jnp.mean(entr(images) + entr(1 - images))


def psnr(squared_error: Float[Array, "*shape"], *, peak: float = 1.0) -> Float[Array, "*shape"]:
    """Peak signal-to-noise ratio in dB of a mean squared error: ``10 log10(peak^2 / error)``.

    Args:
      squared_error: mean over the pixels that count; below 1e-10 of ``peak^2`` it counts as that: 100 dB.
      peak: width of the range of pixel values.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{psnr(jnp.float32(0.01)):.1f}")
      20.0
    """
    return -10 * jnp.log10(jnp.maximum(squared_error / peak**2, 1e-10))
