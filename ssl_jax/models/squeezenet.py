"""SqueezeNet 1.0 and 1.1 as torchvision has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.alexnet import dropper
from ssl_jax.models.convolution import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool, max_pool
from ssl_jax.models.remat import remat
from ssl_jax.types import Array, Axis

# version -> channels and kernel of the stem, squeezed channels of the blocks of every stage, smallest image.
VERSIONS = {
    "1.0": (96, 7, ((16, 16, 32), (32, 48, 48, 64), (64,)), 21),
    "1.1": (64, 3, ((16, 16), (32, 32), (48, 48, 64, 64)), 17),
}

_conv = partial(Conv, kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "uniform"))  # torchvision's


class Fire(nn.Module):
    """A 1 x 1 convolution to few channels, then a 1 x 1 and a 3 x 3 side by side to four times as many each; ReLUs."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(_conv(self.width, (1, 1), dtype=self.dtype, name="squeeze")(x))
        one = _conv(4 * self.width, (1, 1), dtype=self.dtype, name="expand1")(x)
        three = _conv(4 * self.width, (3, 3), padding=1, dtype=self.dtype, name="expand3")(x)
        return nn.relu(jnp.concatenate([one, three], axis=-1))


class SqueezeNet(nn.Module):
    """A convolution with stride 2 and three stages of Fire blocks, before each of which a max-pool halves the map.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data", key=None)``; ``key`` is that of the step, for dropout,
    without which nothing is dropped.

    Attributes:
      version: "1.0", or "1.1", of less than half the operations.
      dropout: of the last map, before it is pooled.
      norm: what methods make their heads with; the network itself has none.
      frozen_stages: of the lowest so many parts (the stem is one) nothing is dropped even with ``train``.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation; parameters stay float32.

    Returns ``{"stem", "stage1", "stage2", "stage3": [b, h, w, c], "features": [b, 512]}``, maps before the pools;
    ``"features"``, float32 or better, are the mean over the last one.

    Raises:
      ValueError: another version.

    Reference: Iandola et al. 2016 (arXiv:1602.07360), table 1; 1.1: the authors' repository. Differs from the reference
    code: its classifier stands before the pooling, see ``interop/classic.py`` logits.
    """

    version: str = "1.0"
    dropout: float = 0.5
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    stages = 3
    dim = 512

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"squeezenet {self.version}"

    @property
    def min_size(self) -> int:
        """The smallest image of which something is left."""
        return self._sizes()[-1]

    def _sizes(self) -> tuple[Any, ...]:
        if self.version not in VERSIONS:
            raise ValueError(f"version={self.version!r} of squeezenet is unknown; use {' or '.join(VERSIONS)}")
        return VERSIONS[self.version]

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None, key: Array | None = None) -> dict[str, Array]:
        width, kernel, blocks, _ = self._sizes()
        x = _conv(width, (kernel, kernel), (2, 2), padding=0, dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(x)
        outputs = {"stem": x}
        fire = remat(Fire, self.remat)
        for k, widths in enumerate(blocks, 1):
            x = max_pool(x, "ceil")
            for i, width in enumerate(widths):
                x = fire(width, dtype=self.dtype, name=f"stage{k}_block{i}")(x)
            outputs[f"stage{k}"] = x
        drop = dropper(self, key if train else None, x, axis)
        return outputs | {"features": global_pool(drop(x, self.stages))}
