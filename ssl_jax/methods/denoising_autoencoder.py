"""Denoising autoencoder: the autoencoder sees a damaged image and must make the clean one.

    x' ~ q(x' | x),    L = mean over images, pixels and channels of the error of g(f(x')) against x

The error counts on all pixels, damaged or not. Copying no longer helps, so the code may be wider than the image. The
metric ``psnr_gain`` is how many dB the reconstruction is nearer to the clean image than the damaged one is.

Reference: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008, section
2.3 (masking noise); Vincent et al., "Stacked Denoising Autoencoders", JMLR 2010, section 3.3 (the other kinds).
Differs from the reference code: all layers are trained together, not one after the other, and no weights are tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssl_jax.methods.autoencoder import reconstruction
from ssl_jax.parallel import row_keys
from ssl_jax.types import Array, Axis, Method, Plan

KINDS = ("masking", "gaussian", "salt_and_pepper")


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    loss: str = "bce",
    latent_dim: int | None = None,
    decoder_widths: Sequence[int] | None = None,
    corruption: str = "masking",
    amount: float = 0.25,
) -> Method:
    """A denoising autoencoder around ``encoder``.

    Args:
      loss, latent_dim, decoder_widths: as in ``autoencoder``.
      corruption: "masking", "gaussian" or "salt_and_pepper", see :func:`corrupt`.
      amount: of it; 0 is the plain autoencoder.

    Raises:
      ValueError: an argument outside its meaning, or networks that do not fit the images.
    """
    if corruption not in KINDS:
        raise ValueError(f"method.corruption={corruption!r} is not one of {', '.join(KINDS)}")
    if amount < 0 or (amount > 1 and corruption != "gaussian"):
        raise ValueError(f"method.amount={amount} is no share of the pixels; use 0 to 1, the paper 0.1 to 0.4")
    return reconstruction(
        encoder,
        plan=plan,
        mean=mean,
        std=std,
        loss=loss,
        latent_dim=latent_dim,
        decoder_widths=decoder_widths,
        corrupt=lambda key, images, axis: corrupt(key, images, corruption, amount, axis=axis),
    )


def corrupt(key: Array, images: Array, kind: str, amount: float, *, axis: Axis = None) -> Array:
    """Damaged copies of images ``[b, h, w, c]``; the draws of row i come from its own key.

    Args:
      kind: "masking": ``round(amount * h w c)`` entries of every image are zero; "salt_and_pepper": so many are 0 or 1,
        a coin for each; "gaussian": noise of standard deviation ``amount`` is added, and nothing clipped.
      amount: share of the entries, or standard deviation; 0 returns the images bit for bit.
    """
    shape, entries = images.shape[1:], images[0].size
    count = round(amount * entries)

    def one(key, image):
        choice, value = jax.random.split(key)
        if kind == "gaussian":
            return image + jnp.asarray(amount, image.dtype) * jax.random.normal(value, shape, image.dtype)
        rank = jax.random.uniform(choice, (entries,), image.dtype)
        # The threshold is an order statistic, so the number of entries below it is exact.
        hit = rank < jnp.sort(rank)[count] if count < entries else jnp.ones(entries, bool)
        coin = jax.random.bernoulli(value, 0.5, shape) if kind == "salt_and_pepper" else jnp.zeros(shape, bool)
        return jnp.where(hit.reshape(shape), coin.astype(image.dtype), image)

    return jax.vmap(one)(row_keys(key, len(images), axis), images)
