"""From a code back to an image: a fully connected and a convolutional decoder, and the networks around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.models.convolution import Conv
from ssl_jax.models.mlp import MLPEncoder
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.resnet import conv
from ssl_jax.types import Array, Axis


class Bottleneck(nn.Module):
    """A map ``[b, h, w, c]`` as one vector, then one linear layer: the code ``[b, latent_dim]``.

    ``spatial``: the same linear layer at every place instead, the code ``[b, h, w, latent_dim]``.
    """

    latent_dim: int
    spatial: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        x = x if self.spatial else x.reshape(x.shape[0], -1)
        return nn.Dense(self.latent_dim, dtype=self.dtype, name="dense")(x)


class DenseDecoder(nn.Module):
    """Code ``[b, d]`` to images ``[b, h, w, c]``: hidden layers with ReLU, then a linear layer; nothing squashes it.

    Attributes:
      shape: (h, w, c).
      widths: of the hidden layers.
      dtype: of the computation.
    """

    shape: tuple[int, ...]
    widths: tuple[int, ...] = (128, 128)
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool, axis: Axis = None) -> Array:
        height, width, channels = self.shape
        for i, hidden in enumerate(self.widths):
            z = nn.relu(nn.Dense(hidden, dtype=self.dtype, name=f"dense{i}")(z))
        z = nn.Dense(height * width * channels, dtype=self.dtype, name=f"dense{len(self.widths)}")(z)
        return z.reshape(-1, height, width, channels)


def _as_it_is(k: int, x: Array) -> Array:
    return x


class ConvDecoder(nn.Module):
    """Code ``[b, d]`` to images ``[b, h, w, c]``: a small map, then stages that each double it; nothing squashes it.

    The first map has the size ``h / 2^k`` for k ``widths``; a code with places, ``[b, h / 2^k, w / 2^k, d]``, is it
    already. A stage is a 3 x 3 convolution to four times its width whose channels become 2 x 2 pixels, normalisation,
    ReLU: a transposed convolution of stride 2 in the form that CPUs are an order of magnitude faster at. A 3 x 3
    convolution gives the channels of the image.

    Attributes:
      shape: (h, w, c).
      widths: channels of every stage; the first map has ``widths[0]``.
      norm: makes the normalisation.
      dtype: of the computation; parameters and statistics stay float32.

    ``between(k, x) -> x``: what is done to the first map (k = 0) and to what stage k gives.

    Reference: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network", 2016, section 3.2 (arXiv:1609.05158).
    """

    shape: tuple[int, ...]
    widths: tuple[int, ...] = (128, 64)
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(
        self, z: Array, *, train: bool, axis: Axis = None, between: Callable[[int, Array], Array] = _as_it_is
    ) -> Array:
        kwargs = {"init": "simclr", "dtype": self.dtype}
        height, width, channels = self.shape
        height, width = height >> len(self.widths), width >> len(self.widths)
        x = z
        if z.ndim == 2:
            first = self.widths[0] if self.widths else channels
            x = nn.Dense(height * width * first, use_bias=False, dtype=self.dtype, name="dense")(z)
            x = nn.relu(self.norm(name="norm")(x.reshape(-1, height, width, first), train=train, axis=axis))
        x = between(0, x)
        for k, size in enumerate(self.widths, 1):
            x = depth_to_space(conv(4 * size, 3, 1, name=f"stage{k}_conv", **kwargs)(x))
            x = between(k, nn.relu(self.norm(name=f"stage{k}_norm")(x, train=train, axis=axis)))
        return Conv(channels, (3, 3), dtype=self.dtype, name="out_conv")(x)


def depth_to_space(x: Array) -> Array:
    """``[b, h, w, 4 c] -> [b, 2 h, 2 w, c]``: channel ``(2 i + j) c + k`` is pixel (i, j) of the 2 x 2 block."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4)
    return jnp.swapaxes(x, 2, 3).reshape(b, 2 * h, 2 * w, c // 4)


def encoder_decoder(
    encoder: nn.Module,
    shape: tuple[int, ...],
    *,
    latent_dim: int | None = None,
    widths: Sequence[int] | None = None,
    spatial: bool = False,
) -> dict[str, nn.Module]:
    """The networks of an autoencoder by name, in the order they are run on ``models.deepest`` of the encoder's outputs.

    An ``mlp`` is followed by its mirror image, a convolutional encoder by a linear bottleneck and a ``ConvDecoder``.

    Args:
      encoder: any encoder of ``models``.
      shape: (h, w, c) of what the decoder makes.
      latent_dim: width of the bottleneck behind a convolutional encoder; None: 128.
      widths: of the decoder's stages or hidden layers; None: (128, 64), or the mlp's in reverse.
      spatial: the bottleneck keeps the places of the encoder's last map, and the decoder starts from them.

    Raises:
      ValueError: a size that cannot be halved so often, a bottleneck for an mlp, whose features are one, or places that
        the encoder does not have or the decoder does not want.
    """
    dtype = getattr(encoder, "dtype", None)
    if spatial:
        _check_places(encoder, shape, (128, 64) if widths is None else tuple(widths))
    if isinstance(encoder, MLPEncoder):
        if latent_dim is not None:
            raise ValueError(
                f"method.latent_dim={latent_dim} but the features of an mlp are its code already; "
                f"use model.latent_dim={latent_dim}"
            )
        widths = encoder.widths[::-1] if widths is None else widths
        return {"encoder": encoder, "decoder": DenseDecoder(shape, tuple(widths), dtype=dtype)}
    widths = (128, 64) if widths is None else tuple(widths)
    factor = 2 ** len(widths)
    if any(side % factor or side < factor for side in shape[:2]):
        fits = max(1, round(shape[0] / factor)) * factor
        raise ValueError(
            f"method.decoder_widths={widths} doubles a map {len(widths)} times, which cannot give {shape[0]} pixels; "
            f"use {fits} pixels or fewer widths"
        )
    return {
        "encoder": encoder,
        "bottleneck": Bottleneck(128 if latent_dim is None else latent_dim, spatial, dtype=dtype),
        "decoder": ConvDecoder(shape, widths, norm=encoder.norm, dtype=dtype),
    }


def last_map(encoder: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w, c) of what the encoder's last stage gives for images of ``shape``, without running it."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    outputs = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, train=False)[0], images)
    return models.deepest(outputs).shape[1:]


def _check_places(encoder: nn.Module, shape: tuple[int, ...], widths: tuple[int, ...]) -> None:
    places = last_map(encoder, shape)
    if len(places) != 3:
        raise ValueError(
            f"a code with places needs an encoder whose last stage is a map and that of {encoder.label} is not; use a "
            "convnet or a resnet"
        )
    if tuple(side << len(widths) for side in places[:2]) != tuple(shape[:2]):
        raise ValueError(
            f"method.decoder_widths={widths} doubles the {places[0]} x {places[1]} map of {encoder.label} "
            f"{len(widths)} times, which does not give {shape[0]} pixels; use {places[0] << len(widths)} pixels or "
            "another number of widths"
        )
