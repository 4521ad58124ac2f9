"""DenseNet-121 as torchvision has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.convolution import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool, halve, max_pool
from ssl_jax.models.remat import remat
from ssl_jax.types import Array, Axis

_conv = partial(Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"))


class DenseLayer(nn.Module):
    """``x`` and, beside it, ``growth`` new channels: norm, ReLU, 1 x 1 to four times as many, norm, ReLU, 3 x 3."""

    growth: int
    norm: Callable[..., nn.Module]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        y = nn.relu(self.norm(name="norm1")(x, train=train, axis=axis))
        y = _conv(4 * self.growth, (1, 1), dtype=self.dtype, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y, train=train, axis=axis))
        y = _conv(self.growth, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
        return jnp.concatenate([x.astype(y.dtype), y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1 x 1 to half the channels, and the mean of every 2 x 2 places."""

    norm: Callable[..., nn.Module]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        y = nn.relu(self.norm(name="norm")(x, train=train, axis=axis))
        return halve(_conv(x.shape[-1] // 2, (1, 1), dtype=self.dtype, name="conv")(y))


class DenseNet(nn.Module):
    """ResNet's stem and stages of layers that each see all layers before them; a transition begins every stage but one.

    Attributes:
      blocks: layers in each of the stages.
      growth: channels that a layer adds.
      stem_width: channels of the stem.
      norm: makes the normalisation.
      frozen_stages: what runs in inference mode even with ``train``, as in ``ResNet``.
      remat: what the backward pass computes again, see ``remat.py``; by "blocks" the maps that layers share are kept
        once, as in the memory-efficient DenseNet.
      dtype: of the computation; parameters and statistics stay float32.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data")``. Returns ``{"stem", "stage1", ...: [b, h, w, c],
    "features": [b, dim]}``; the last stage is after the last norm and ReLU, "features" float32 or better.

    Reference: Huang et al. 2017 (arXiv:1608.06993), table 1.
    """

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem_width: int = 64
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    @property
    def stages(self) -> int:
        """Number of stages after the stem."""
        return len(self.blocks)

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        width = self.stem_width
        for k, count in enumerate(self.blocks):
            width = (width // 2 if k else width) + count * self.growth
        return width

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"densenet{2 * sum(self.blocks) + len(self.blocks) + 1}"

    @property
    def min_size(self) -> int:
        """The smallest image of which every stride still halves something."""
        return 2 ** (len(self.blocks) + 1)

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        x = _conv(self.stem_width, (7, 7), (2, 2), padding=3, dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(self.norm(name="stem_norm")(x, train=train and self.frozen_stages == 0, axis=axis))
        outputs = {"stem": x}
        x = max_pool(x)
        layer = remat(DenseLayer, self.remat, static=(2, 3))
        learns = train
        for k, count in enumerate(self.blocks, 1):
            learns = train and k >= self.frozen_stages
            if k > 1:
                x = Transition(self.norm, dtype=self.dtype, name=f"stage{k}_transition")(x, learns, axis)
            for i in range(count):
                x = layer(self.growth, self.norm, dtype=self.dtype, name=f"stage{k}_layer{i}")(x, learns, axis)
            outputs[f"stage{k}"] = x
        x = nn.relu(self.norm(name=f"stage{self.stages}_norm")(x, train=learns, axis=axis))
        return outputs | {f"stage{self.stages}": x, "features": global_pool(x)}
