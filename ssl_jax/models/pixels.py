"""A classifier of every place of an image, for tasks whose answer is a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ssl_jax.models.decoder import depth_to_space
from ssl_jax.models.mlp import MLPEncoder
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.resnet import conv
from ssl_jax.types import Array, Axis


class PlaceClassifier(nn.Module):
    """A map ``[b, h, w, c]`` to logits ``[b, size, size, classes]``.

    A 3 x 3 convolution, normalisation, ReLU, until the map has the size, each time doubling it as in ``ConvDecoder``;
    once and then means over cells where the map is as large or larger. A linear layer at every place makes the logits.

    Attributes:
      size: side of the result, the map's times or over a power of two.
      classes: number of classes.
      width: channels between.
      norm: makes the normalisation.
      dtype: of the computation; parameters and statistics stay float32.
    """

    size: int
    classes: int
    width: int = 64
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        doublings = max(0, (self.size // x.shape[1]).bit_length() - 1)
        for k in range(max(1, doublings)):
            channels = self.width * (4 if doublings else 1)
            x = conv(channels, 3, 1, init="simclr", dtype=self.dtype, name=f"conv{k}")(x)
            x = depth_to_space(x) if doublings else x
            x = nn.relu(self.norm(name=f"norm{k}")(x, train=train, axis=axis))
        if x.shape[1] > self.size:
            b, h, w, c = x.shape
            x = x.reshape(b, self.size, h // self.size, self.size, w // self.size, c).mean((2, 4))
        return nn.Dense(self.classes, dtype=self.dtype, name="logits")(x)


def quarter_size(encoder: nn.Module, shape: tuple[int, ...]) -> int:
    """Side of an image over four, which ``PlaceClassifier`` can make of the last map of ``encoder``.

    Raises:
      ValueError: images that are not square or of a size that does not allow it, or an encoder without maps.
    """
    if isinstance(encoder, MLPEncoder):
        raise ValueError(f"{encoder.label} has no map of the image to predict one from; use a convnet or a resnet")
    height, width = shape[:2]
    if height != width:
        raise ValueError(f"colour is predicted for square images and these are {height} x {width}; crop them")
    stride = encoder.min_size
    if stride & (stride - 1):
        raise ValueError(f"{encoder.label} must have a total stride that is a power of two for maps of a quarter")
    least = max(4, stride)
    if height % least:
        raise ValueError(
            f"data.image_size={height} does not go into quarters and strides of {encoder.label}; "
            f"use a multiple of {least}: {max(least, round(height / least) * least)}"
        )
    return height // 4
