"""MobileNetV2 as torchvision has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from ssl_jax.models.alexnet import dropper
from ssl_jax.models.convolution import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool
from ssl_jax.models.remat import remat
from ssl_jax.models.resnet import CONV_INITS
from ssl_jax.types import Array, Axis

STEM, LAST = 32, 1280
# Of every stage: (channels, stride of the first) of its blocks; the first block of all does not expand.
BLOCKS = (
    ((16, 1),),
    ((24, 2), (24, 1)),
    ((32, 2), (32, 1), (32, 1)),
    ((64, 2), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1)),
    ((160, 2), (160, 1), (160, 1), (320, 1)),
)

PADDINGS: dict[str, int | str] = {"torch": 1, "same": "SAME"}

_conv = partial(Conv, use_bias=False, kernel_init=CONV_INITS["torchvision"])


class InvertedResidual(nn.Module):
    """1 x 1 to ``expand`` times the channels, a 3 x 3 of each channel by itself, and a 1 x 1 without ReLU behind it;
    plus the input where its shape is the same."""

    width: int
    stride: int
    expand: int
    norm: Callable[..., nn.Module]
    padding: str = "torch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        y, inner = x, self.expand * x.shape[-1]
        if self.expand > 1:
            y = _conv(inner, (1, 1), dtype=self.dtype, name="conv1")(y)
            y = nn.relu6(self.norm(name="norm1")(y, train=train, axis=axis))
        strides = (self.stride, self.stride)
        kwargs = {"padding": PADDINGS[self.padding], "feature_group_count": inner, "dtype": self.dtype}
        y = _conv(inner, (3, 3), strides, name="conv2", **kwargs)(y)
        y = nn.relu6(self.norm(name="norm2")(y, train=train, axis=axis))
        y = _conv(self.width, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = self.norm(name="norm3")(y, train=train, axis=axis)
        return x.astype(y.dtype) + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """A 3 x 3 convolution, 17 inverted residuals in five stages, and a 1 x 1 convolution to 1,280 channels.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data", key=None)``; ``key`` is that of the step, for dropout,
    without which nothing is dropped.

    Attributes:
      dropout: of the features.
      padding: of 3 x 3 convolutions, "torch", both sides alike, or "same", TensorFlow's, as Keras has it.
      norm: makes the normalisation.
      frozen_stages: what runs in inference mode even with ``train``, as in ``ResNet``; nothing is dropped there.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation; parameters and statistics stay float32.

    Returns ``{"stem", "stage1", ..., "stage5": [b, h, w, c], "features": [b, 1280]}``: maps of 1/2, 1/2, 1/4, 1/8, 1/16
    and 1/32 of the image's side; "features" float32 or better.

    Reference: Sandler et al. 2018 (arXiv:1801.04381), table 2.
    """

    dropout: float = 0.2
    padding: str = "torch"
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    stages = len(BLOCKS)
    dim = LAST
    label = "mobilenet_v2"
    min_size = 32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None, key: Array | None = None) -> dict[str, Array]:
        if self.padding not in PADDINGS:
            raise ValueError(f"padding={self.padding!r} is unknown; use {' or '.join(PADDINGS)}")
        learns = train and self.frozen_stages == 0
        x = _conv(STEM, (3, 3), (2, 2), padding=PADDINGS[self.padding], dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu6(self.norm(name="stem_norm")(x, train=learns, axis=axis))
        outputs = {"stem": x}
        block = remat(InvertedResidual, self.remat, static=(2, 3))
        for k, sizes in enumerate(BLOCKS, 1):
            learns = train and k >= self.frozen_stages
            for i, (width, stride) in enumerate(sizes):
                expand = 6 if k > 1 else 1
                name = f"stage{k}_block{i}"
                x = block(width, stride, expand, self.norm, self.padding, dtype=self.dtype, name=name)(x, learns, axis)
            outputs[f"stage{k}"] = x
        # Its own part is the last stage's: parameters are found by the beginning of their names.
        x = _conv(LAST, (1, 1), dtype=self.dtype, name=f"stage{self.stages}_conv")(x)
        outputs[f"stage{self.stages}"] = x = nn.relu6(
            self.norm(name=f"stage{self.stages}_norm")(x, train=learns, axis=axis)
        )
        drop = dropper(self, key if train else None, x, axis)
        return outputs | {"features": drop(global_pool(x), self.stages)}
