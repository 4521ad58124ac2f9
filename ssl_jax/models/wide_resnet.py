"""Wide residual networks with pre-activation, of semi-supervised learning's tables: WRN-28-2 and its like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool
from ssl_jax.models.remat import remat
from ssl_jax.models.resnet import conv
from ssl_jax.types import Array, Axis


class PreActBlock(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))``; where the shape changes, ``x`` is a 1 x 1 convolution of its
    first activation (He et al. 2016, arXiv:1603.05027, figure 1b)."""

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv_init: str = "torchvision"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        kwargs = {"init": self.conv_init, "dtype": self.dtype}
        y = nn.relu(self.norm(name="norm1")(x, train=train, axis=axis))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = conv(self.width, 1, self.stride, name="shortcut_conv", **kwargs)(y)
        y = conv(self.width, 3, self.stride, name="conv1", **kwargs)(y)
        y = nn.relu(self.norm(name="norm2")(y, train=train, axis=axis))
        return x.astype(y.dtype) + conv(self.width, 3, 1, name="conv2", **kwargs)(y)


class WideResNet(nn.Module):
    """WRN-``depth``-``widen``: a 3 x 3 stem of 16 channels, three stages of ``(depth - 4) / 6`` blocks of ``16 widen``,
    ``32 widen`` and ``64 widen`` channels, the last two at half the size of the one before; norm and ReLU at the end.

    Attributes:
      depth: 28, 40, ...: 4 more than a multiple of 6.
      widen: multiplier of the stages' channels.
      conv_init, norm, frozen_stages, remat, dtype: as in ``ResNet``.

    Returns (when applied): ``{"stem", "stage1", "stage2", "stage3": [b, h, w, c], "features": [b, 64 widen]}``;
    "stage3" is after the last norm and ReLU.

    Reference: Zagoruyko and Komodakis 2016 (arXiv:1605.07146), table 1.
    """

    depth: int = 28
    widen: int = 2
    conv_init: str = "torchvision"
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    @property
    def stages(self) -> int:
        """Number of stages after the stem."""
        return 3

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        return 64 * self.widen

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"wide_resnet{self.depth}-{self.widen}"

    @property
    def min_size(self) -> int:
        """The smallest image of which both strides still halve something."""
        return 4

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        count, rest = divmod(self.depth - 4, 6)
        if rest or count < 1 or self.widen < 1:
            raise ValueError(
                f"wide_resnet depth={self.depth}, widen={self.widen}: the depth is 4 more than a multiple of 6, such "
                "as 10, 16, 28 or 40, and widen is 1 or more"
            )
        kwargs = {"conv_init": self.conv_init, "dtype": self.dtype}
        outputs = {"stem": conv(16, 3, 1, init=self.conv_init, dtype=self.dtype, name="stem_conv")(x)}
        x = outputs["stem"]
        block = remat(PreActBlock, self.remat, static=(2, 3))
        for k in (1, 2, 3):
            learns = train and k >= self.frozen_stages
            for i in range(count):
                stride = 2 if k > 1 and i == 0 else 1
                name = f"stage{k}_block{i}"
                x = block(16 * 2 ** (k - 1) * self.widen, stride, self.norm, name=name, **kwargs)(x, learns, axis)
            outputs[f"stage{k}"] = x
        # Its own part is the last stage's: parameters are found by the beginning of their names.
        x = nn.relu(self.norm(name="stage3_norm")(x, train=train and self.frozen_stages <= 3, axis=axis))
        return outputs | {"stage3": x, "features": global_pool(x)}
