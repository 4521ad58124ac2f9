"""ResNet-18 to ResNet-200 (v1) with torchvision's shapes, padding and strides, so that weights can be exchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax.models.convolution import Conv
from ssl_jax.models.heads import haiku_kernel, torch_kernel
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import max_pool
from ssl_jax.models.remat import remat
from ssl_jax.types import Array, Axis

CONV_INITS = {
    # Normal, standard deviation sqrt(2 / fan_out): torchvision's ResNets (He et al. 2015, equation 14).
    "torchvision": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    # Truncated normal, standard deviation sqrt(1 / fan_in): SimCLR's TensorFlow code.
    "simclr": nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
    # The same but for truncation, which takes an eighth of the deviation: haiku's, and so BYOL's code.
    "haiku": haiku_kernel,
    # Uniform in +-1 / sqrt(fan_in): torch.nn.Conv2d's own, where no network sets another.
    "torch": torch_kernel,
}


def conv(features: int, kernel: int, stride: int, *, init: str, dtype: Any, name: str) -> nn.Module:
    """A square convolution without bias, padded alike on both sides as torch pads (TensorFlow's SAME is lopsided)."""
    if init not in CONV_INITS:
        raise ValueError(f"conv_init={init!r} is unknown; use one of {', '.join(CONV_INITS)}")
    pad = (kernel - 1) // 2 if kernel > stride else 0
    return Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=pad,
        use_bias=False,
        kernel_init=CONV_INITS[init],
        dtype=dtype,
        name=name,
    )


def global_pool(x: Array) -> Array:
    """Mean over height and width, ``[b, h, w, c] -> [b, c]``, in float32 or better."""
    return x.astype(np.promote_types(x.dtype, np.float32)).mean((1, 2))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv_init: str = "torchvision"
    zero_init_residual: bool = False
    project: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        kwargs = {"init": self.conv_init, "dtype": self.dtype}
        y = conv(self.width, 3, self.stride, name="conv1", **kwargs)(x)
        y = nn.relu(self.norm(name="norm1")(y, train=train, axis=axis))
        y = conv(self.width, 3, 1, name="conv2", **kwargs)(y)
        y = self.norm(name="norm2", **_last(self.zero_init_residual))(y, train=train, axis=axis)
        return nn.relu(_shortcut(self, x, self.width, train, axis) + y)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 to four times the width; the 3 x 3 strides, as in torchvision ("v1.5")."""

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv_init: str = "torchvision"
    zero_init_residual: bool = False
    project: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        kwargs = {"init": self.conv_init, "dtype": self.dtype}
        y = conv(self.width, 1, 1, name="conv1", **kwargs)(x)
        y = nn.relu(self.norm(name="norm1")(y, train=train, axis=axis))
        y = conv(self.width, 3, self.stride, name="conv2", **kwargs)(y)
        y = nn.relu(self.norm(name="norm2")(y, train=train, axis=axis))
        y = conv(4 * self.width, 1, 1, name="conv3", **kwargs)(y)
        y = self.norm(name="norm3", **_last(self.zero_init_residual))(y, train=train, axis=axis)
        return nn.relu(_shortcut(self, x, 4 * self.width, train, axis) + y)


def _last(zero: bool) -> dict[str, Any]:
    return {"scale_init": nn.initializers.zeros} if zero else {}


def _shortcut(block: BasicBlock | Bottleneck, x: Array, width: int, train: bool, axis: Axis) -> Array:
    """The input itself, or its 1 x 1 projection where stride or width change (option B) or the block says so."""
    if block.stride == 1 and x.shape[-1] == width and not block.project:
        return x.astype(block.dtype or x.dtype)
    x = conv(width, 1, block.stride, init=block.conv_init, dtype=block.dtype, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(x, train=train, axis=axis)


class ResNet(nn.Module):
    """Residual network v1 without its classifier.

    Attributes:
      blocks: blocks in each of the stages.
      bottleneck: three-convolution blocks, four times as wide at their end.
      width: multiplier of every channel count (SimCLR's 1x, 2x, 4x).
      stem: "imagenet" (7 x 7 stride 2, max-pool 3 x 3 stride 2) or "cifar" (3 x 3 stride 1, no pool).
      zero_init_residual: start the last BatchNorm scale of every block at zero, so blocks start as the identity.
      conv_init: "torchvision", "simclr", "haiku" (BYOL's code) or "torch", see ``CONV_INITS``.
      stem_init: the same of the stem alone; None: ``conv_init``. MoCo's CIFAR-10 demo puts a convolution as torch makes
        it, "torch", into torchvision's network.
      project_first: project the shortcut of every stage's first block, also where its shape does not change, that is
        in stage 1 of ResNet-18 and 34. SimCLR's and BYOL's code do; the paper and torchvision do not.
      norm: makes the normalisation; ``encoder.clone(norm=partial(encoder.norm, groups=8))`` groups it.
      frozen_stages: what runs in inference mode even with ``train``, its BatchNorms use and keep their running
        statistics: 0 nothing, 1 the stem, k + 1 stem and stages 1 to k. Gradients are the caller's to stop.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation, e.g. bfloat16; parameters and statistics stay float32.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data")``. Returns ``{"stem", "stage1", ..., "stage4":
    [b, h, w, c], "features": [b, dim]}``; "stem" is before the max-pool, "features" float32 or better.

    Reference: He et al. 2016, table 1; the cifar stem: Chen et al. 2020 (SimCLR), appendix B.9.
    Differs from the reference code: SimCLR pads its max-pool as TensorFlow's SAME does, BYOL its stem and every
    convolution with stride, too, where this one pads both sides alike, as torch does.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: float = 1.0
    stem: str = "imagenet"
    zero_init_residual: bool = False
    conv_init: str = "torchvision"
    stem_init: str | None = None
    project_first: bool = False
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
        return self._channels(len(self.blocks) - 1) * (4 if self.bottleneck else 1)

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        layers = 2 + sum(self.blocks) * (3 if self.bottleneck else 2)
        return f"resnet{layers} with the {self.stem} stem"

    @property
    def min_size(self) -> int:
        """The smallest image of which every stride still halves something: 8 with the cifar stem, else 32."""
        return 2 ** (len(self.blocks) - 1) * (4 if self.stem == "imagenet" else 1)

    def _channels(self, stage: int) -> int:
        return max(1, round(64 * self.width)) * 2**stage

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        kwargs = {"conv_init": self.conv_init, "zero_init_residual": self.zero_init_residual, "dtype": self.dtype}
        stems = {"imagenet": (7, 2), "cifar": (3, 1)}
        if self.stem not in stems:
            raise ValueError(f"stem={self.stem!r} is unknown; use imagenet or cifar")
        kernel, stride = stems[self.stem]
        init = self.stem_init or self.conv_init
        x = conv(self._channels(0), kernel, stride, init=init, dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(self.norm(name="stem_norm")(x, train=train and self.frozen_stages == 0, axis=axis))
        outputs = {"stem": x}
        if self.stem == "imagenet":
            x = max_pool(x)
        block = remat(Bottleneck if self.bottleneck else BasicBlock, self.remat, static=(2, 3))
        for k, count in enumerate(self.blocks, 1):
            learns = train and k >= self.frozen_stages
            for i in range(count):
                stride = 2 if k > 1 and i == 0 else 1
                project = self.project_first and i == 0
                name = f"stage{k}_block{i}"
                module = block(self._channels(k - 1), stride, self.norm, project=project, name=name, **kwargs)
                x = module(x, learns, axis)
            outputs[f"stage{k}"] = x
        return outputs | {"features": global_pool(x)}
