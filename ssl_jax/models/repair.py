"""The game about artifacts: layers that repair a decoder's maps, and a head that finds what was repaired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.convolution import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.resnet import conv
from ssl_jax.types import Array, Axis


class RepairLayer(nn.Module):
    """``x`` where the code was kept, ``x + r(x, kept)`` where it was dropped; a map ``[b, h, w, c]``.

    r is a 3 x 3 convolution of the map and the mask, normalisation, ReLU and another 3 x 3 convolution.

    Attributes:
      norm: makes the normalisation.
      dtype: of the computation; parameters and statistics stay float32.

    Called with ``kept`` bool ``[b, h', w']`` on a grid that divides the map's.

    Reference: Jenni and Favaro 2018, section 3.3 (arXiv:1806.05024).
    """

    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, kept: Array, train: bool, axis: Axis = None) -> Array:
        width = x.shape[-1]
        kept = enlarge(kept, x.shape[1] // kept.shape[1])[..., None]
        y = jnp.concatenate([x, kept.astype(x.dtype)], axis=-1)
        y = conv(width, 3, 1, init="simclr", dtype=self.dtype, name="conv1")(y)
        y = nn.relu(self.norm(name="norm")(y, train=train, axis=axis))
        y = Conv(width, (3, 3), dtype=self.dtype, name="conv2")(y)
        return jnp.where(kept, x, x + y.astype(x.dtype))


class MaskHead(nn.Module):
    """A logit for every place of a map, ``[b, h, w, c] -> [b, h, w]``: one 3 x 3 convolution."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        return Conv(1, (3, 3), dtype=self.dtype, name="conv")(x)[..., 0]


def enlarge(grid: Array, factor: int) -> Array:
    """Every cell of ``[b, h, w]`` as ``factor x factor`` ones."""
    b, h, w = grid.shape
    return jnp.broadcast_to(grid[:, :, None, :, None], (b, h, factor, w, factor)).reshape(b, h * factor, w * factor)
