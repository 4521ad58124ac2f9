"""ResNet-18 to ResNet-200 (v1) as torchvision has them, or as other projects do, so that weights can be exchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.convolution import Conv
from ssl_jax.models.heads import haiku_kernel, torch_kernel
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool, max_pool
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


STEMS = {"imagenet": (7, 2), "cifar": (3, 1)}  # kernel and stride
PADDINGS = ("torch", "same")


def conv(
    features: int, kernel: int, stride: int, *, init: str, dtype: Any, name: str, padding: str | int = "torch"
) -> nn.Module:
    """A square convolution without bias.

    ``padding``: "torch" pads both sides alike, by half of the kernel; "same" is TensorFlow's SAME, which with a stride
    is lopsided; or a number of places.
    """
    if init not in CONV_INITS:
        raise ValueError(f"conv_init={init!r} is unknown; use one of {', '.join(CONV_INITS)}")
    known: dict[str | int, str | int] = {"torch": (kernel - 1) // 2 if kernel > stride else 0, "same": "SAME"}
    return Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=known.get(padding, padding),
        use_bias=False,
        kernel_init=CONV_INITS[init],
        dtype=dtype,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv_init: str = "torchvision"
    zero_init_residual: bool = False
    project: bool = False
    dtype: Any = None
    padding: str = "torch"
    shortcut: str = "project"

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        kwargs = {"init": self.conv_init, "dtype": self.dtype, "padding": self.padding}
        y = conv(self.width, 3, self.stride, name="conv1", **kwargs)(x)
        y = nn.relu(self.norm(name="norm1")(y, train=train, axis=axis))
        y = conv(self.width, 3, 1, name="conv2", **kwargs)(y)
        y = self.norm(name="norm2", **_last(self.zero_init_residual))(y, train=train, axis=axis)
        return nn.relu(_shortcut(self, x, self.width, train, axis) + y)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 to four times the width; the 3 x 3 strides, as in torchvision ("v1.5"), or the first."""

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv_init: str = "torchvision"
    zero_init_residual: bool = False
    project: bool = False
    dtype: Any = None
    padding: str = "torch"
    shortcut: str = "project"
    stride_first: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        kwargs = {"init": self.conv_init, "dtype": self.dtype, "padding": self.padding}
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = conv(self.width, 1, first, name="conv1", **kwargs)(x)
        y = nn.relu(self.norm(name="norm1")(y, train=train, axis=axis))
        y = conv(self.width, 3, second, name="conv2", **kwargs)(y)
        y = nn.relu(self.norm(name="norm2")(y, train=train, axis=axis))
        y = conv(4 * self.width, 1, 1, name="conv3", **kwargs)(y)
        y = self.norm(name="norm3", **_last(self.zero_init_residual))(y, train=train, axis=axis)
        return nn.relu(_shortcut(self, x, 4 * self.width, train, axis) + y)


def _last(zero: bool) -> dict[str, Any]:
    return {"scale_init": nn.initializers.zeros} if zero else {}


def _shortcut(block: BasicBlock | Bottleneck, x: Array, width: int, train: bool, axis: Axis) -> Array:
    """The input itself or, where stride or width change or the block says so, its 1 x 1 projection (option B) or every
    second place of it between channels of zeros (option A)."""
    if block.stride == 1 and x.shape[-1] == width and not block.project:
        return x.astype(block.dtype or x.dtype)
    if block.shortcut == "pad":
        more = width - x.shape[-1]
        x = x[:, :: block.stride, :: block.stride].astype(block.dtype or x.dtype)
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
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
      padding: of convolutions, "torch", both sides alike, or "same", TensorFlow's, as BYOL's code has it.
      pool_padding: the same of the max-pool: "same" in SimCLR's code and BYOL's.
      stem_padding: places around the image of the cifar stem, by default 1; 2 in solo-learn.
      stride_first: a bottleneck strides in its first 1 x 1, not in the 3 x 3: the paper's network and Caffe's.
      shortcut: where the shape changes, "project" (option B of the paper) or "pad", which adds channels of zeros, half
        of them before and half behind (option A, without weights; the paper's networks for CIFAR-10).
      norm: makes the normalisation; ``encoder.clone(norm=partial(encoder.norm, groups=8))`` groups it.
      frozen_stages: what runs in inference mode even with ``train``, its BatchNorms use and keep their running
        statistics: 0 nothing, 1 the stem, k + 1 stem and stages 1 to k. Gradients are the caller's to stop.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation, e.g. bfloat16; parameters and statistics stay float32.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data")``. Returns ``{"stem", "stage1", ..., "stage4":
    [b, h, w, c], "features": [b, dim]}``; "stem" is before the max-pool, "features" float32 or better.

    Raises:
      ValueError: a word that is none of those, or ``stem_padding`` of another stem.

    Reference: He et al. 2016, table 1; the cifar stem: Chen et al. 2020 (SimCLR), appendix B.9; ResNet-20 to 56: He et
    al. 2016, section 4.2. Differs from the reference code by default: SimCLR pads its max-pool as TensorFlow's SAME
    does, BYOL its stem and every convolution with stride, too; ``padding`` and ``pool_padding`` say so. Channels of
    zeros on both sides: akamaster/pytorch_resnet_cifar10.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: float = 1.0
    stem: str = "imagenet"
    zero_init_residual: bool = False
    conv_init: str = "torchvision"
    stem_init: str | None = None
    project_first: bool = False
    padding: str = "torch"
    pool_padding: str = "torch"
    stem_padding: int | None = None
    stride_first: bool = False
    shortcut: str = "project"
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
        return self.channels(len(self.blocks) - 1) * (4 if self.bottleneck else 1)

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        layers = 2 + sum(self.blocks) * (3 if self.bottleneck else 2)
        return f"resnet{layers} with the {self.stem} stem"

    @property
    def min_size(self) -> int:
        """The smallest image of which every stride still halves something: 8 with the cifar stem, else 32."""
        return 2 ** (len(self.blocks) - 1) * (4 if self.stem == "imagenet" else 1)

    def channels(self, stage: int) -> int:
        """Channels of the 3 x 3 convolutions of a stage, counted from 0; those of the first are the stem's."""
        return max(1, round(64 * self.width)) * 2**stage

    def projects(self, stage: int) -> bool:
        """Whether the first shortcut of a stage, counted from 0, is a convolution."""
        return self.shortcut == "project" and (stage > 0 or self.bottleneck or self.project_first)

    def _check(self) -> None:
        known = {"stem": (*STEMS,), "padding": PADDINGS, "pool_padding": PADDINGS, "shortcut": ("project", "pad")}
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; use {' or '.join(words)}")
        if self.stem_padding is not None and self.stem != "cifar":
            raise ValueError(f"stem_padding={self.stem_padding} is of the cifar stem, and this one is {self.stem}")
        if self.stride_first and not self.bottleneck:
            raise ValueError("stride_first is of bottlenecks, and this network has none; leave it out")

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        self._check()
        kwargs = {"conv_init": self.conv_init, "zero_init_residual": self.zero_init_residual, "dtype": self.dtype}
        kwargs |= {"padding": self.padding, "shortcut": self.shortcut}
        kwargs |= {"stride_first": self.stride_first} if self.bottleneck else {}
        kernel, stride = STEMS[self.stem]
        stem: dict[str, Any] = {"init": self.stem_init or self.conv_init, "dtype": self.dtype, "name": "stem_conv"}
        stem["padding"] = self.padding if self.stem_padding is None else self.stem_padding
        x = conv(self.channels(0), kernel, stride, **stem)(x)
        x = nn.relu(self.norm(name="stem_norm")(x, train=train and self.frozen_stages == 0, axis=axis))
        outputs = {"stem": x}
        if self.stem == "imagenet":
            x = max_pool(x, self.pool_padding)
        block = remat(Bottleneck if self.bottleneck else BasicBlock, self.remat, static=(2, 3))
        for k, count in enumerate(self.blocks, 1):
            learns = train and k >= self.frozen_stages
            for i in range(count):
                stride = 2 if k > 1 and i == 0 else 1
                project = self.project_first and i == 0
                name = f"stage{k}_block{i}"
                module = block(self.channels(k - 1), stride, self.norm, project=project, name=name, **kwargs)
                x = module(x, learns, axis)
            outputs[f"stage{k}"] = x
        return outputs | {"features": global_pool(x)}
