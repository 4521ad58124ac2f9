"""A small convolutional network for runs on a CPU and for images as small as 8 x 8."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool
from ssl_jax.models.remat import remat
from ssl_jax.models.resnet import BasicBlock, conv
from ssl_jax.types import Array, Axis


class ConvNet(nn.Module):
    """Stem, then stages of 3 x 3 convolutions, each stage wider and by default half the size of the one before.

    A block is conv, BN, ReLU; or, ``residual``, the two-convolution block of ResNet-18.

    Attributes:
      widths: channels of every stage; the last is the width of the features.
      blocks: blocks per stage, one number or one for each stage.
      strides: stride of the first block of every stage; default 1 for the first stage and 2 for the others.
      stem_width: channels of the stem; default ``widths[0]``.
      stem_kernel, stem_stride: of the first convolution. Kernel = stride cuts the image into patches.
      residual: blocks with a shortcut.
      conv_init: as in ``ResNet``.
      norm: makes the normalisation.
      frozen_stages: what runs in inference mode even with ``train``, as in ``ResNet``.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation; parameters and statistics stay float32.

    Returns (when applied): ``{"stem", "stage1", ...: [b, h, w, c], "features": [b, widths[-1]]}``.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int | tuple[int, ...] = 1
    strides: tuple[int, ...] | None = None
    stem_width: int | None = None
    stem_kernel: int = 3
    stem_stride: int = 1
    residual: bool = True
    conv_init: str = "torchvision"
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    @property
    def stages(self) -> int:
        """Number of stages after the stem."""
        return len(self.widths)

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        return self.widths[-1]

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"convnet with total stride {self.min_size}"

    @property
    def min_size(self) -> int:
        """The smallest image of which every stage still halves something: the product of all strides."""
        return self.stem_stride * math.prod(self._strides())

    def _strides(self) -> tuple[int, ...]:
        return self.strides or (1,) + (2,) * (len(self.widths) - 1)

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        blocks = self.blocks if isinstance(self.blocks, tuple) else (self.blocks,) * len(self.widths)
        if not len(self.widths) == len(blocks) == len(self._strides()):
            raise ValueError(
                f"convnet widths={self.widths}, blocks={blocks}, strides={self._strides()} name different numbers of "
                "stages; give one entry for each stage"
            )
        width = self.stem_width or self.widths[0]
        kwargs = {"init": self.conv_init, "dtype": self.dtype}
        x = conv(width, self.stem_kernel, self.stem_stride, name="stem_conv", **kwargs)(x)
        x = nn.relu(self.norm(name="stem_norm")(x, train=train and self.frozen_stages == 0, axis=axis))
        outputs = {"stem": x}
        block = remat(BasicBlock if self.residual else _PlainBlock, self.remat, static=(2, 3))
        block = partial(block, conv_init=self.conv_init, dtype=self.dtype)
        for k, (width, count, stride) in enumerate(zip(self.widths, blocks, self._strides(), strict=True), 1):
            learns = train and k >= self.frozen_stages
            for i in range(count):
                name = f"stage{k}_block{i}"
                x = block(width, stride if i == 0 else 1, self.norm, name=name)(x, learns, axis)
            outputs[f"stage{k}"] = x
        return outputs | {"features": global_pool(x)}


class _PlainBlock(nn.Module):
    """3 x 3 convolution, normalisation, ReLU; takes the same fields as ``BasicBlock``."""

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv_init: str = "torchvision"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        x = conv(self.width, 3, self.stride, init=self.conv_init, dtype=self.dtype, name="conv1")(x)
        return nn.relu(self.norm(name="norm1")(x, train=train, axis=axis))
