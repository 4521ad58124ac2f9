"""VGG-11 and VGG-16 as torchvision has them, with and without BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ssl_jax.models.alexnet import as_rows, dropper, wide
from ssl_jax.models.convolution import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool, max_pool
from ssl_jax.models.remat import remat
from ssl_jax.models.resnet import CONV_INITS
from ssl_jax.types import Array, Axis

WIDTHS = (64, 128, 256, 512, 512)
CELLS = 7


class Convolutions(nn.Module):
    """3 x 3 convolutions with bias, each followed by a normalisation where there is one and by ReLU."""

    width: int
    count: int
    norm: Callable[..., nn.Module] | None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, axis: Axis = None) -> Array:
        init = CONV_INITS["torchvision"]
        for i in range(self.count):
            x = Conv(self.width, (3, 3), padding=1, kernel_init=init, dtype=self.dtype, name=f"conv{i}")(x)
            if self.norm is not None:
                x = self.norm(name=f"norm{i}")(x, train=train, axis=axis)
            x = nn.relu(x)
        return x


class VGG(nn.Module):
    """Five groups of 3 x 3 convolutions, a max-pool 2 / 2 behind each, and two wide layers.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data", key=None)``; ``key`` is that of the step, for dropout,
    without which nothing is dropped.

    Attributes:
      blocks: convolutions in each of the groups.
      batch_norm: whether a normalisation follows every convolution, which keeps its bias.
      width: multiplier of the convolutions' channels.
      hidden: width of the two layers; 0: without them, the features are the mean of the last map after its pool.
      dropout: of what the two layers give.
      norm: makes the normalisation.
      frozen_stages: what runs in inference mode even with ``train``, as in ``ResNet``; nothing is dropped there.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation; parameters and statistics stay float32.

    Returns ``{"stem", "stage1", ..., "stage4": [b, h, w, c], "stage5", "stage6", "features": [b, hidden]}``: the groups
    before their pools, the two layers after ReLU; ``"features"``, float32 or better, are those of the second after
    dropout. Images of any size: the last map is pooled to 7 x 7.

    Reference: Simonyan and Zisserman 2015 (arXiv:1409.1556), table 1, A and D; BatchNorm and the first weights are
    torchvision's.
    """

    blocks: tuple[int, ...] = (1, 1, 2, 2, 2)
    batch_norm: bool = False
    width: float = 1.0
    hidden: int = 4096
    dropout: float = 0.5
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    min_size = 32

    @property
    def stages(self) -> int:
        """Number of stages after the stem."""
        return 6 if self.hidden else 4

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        return self.hidden or max(1, round(WIDTHS[-1] * self.width))

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"vgg{sum(self.blocks) + 3}{'_bn' if self.batch_norm else ''}"

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None, key: Array | None = None) -> dict[str, Array]:
        outputs = {}
        group = remat(Convolutions, self.remat, static=(2, 3))
        norm = self.norm if self.batch_norm else None
        for k, (width, count) in enumerate(zip(WIDTHS, self.blocks, strict=True)):
            name = f"stage{k}" if k else "stem"
            module = group(max(1, round(width * self.width)), count, norm, dtype=self.dtype, name=f"{name}_block")
            outputs[name] = x = module(x, train and k >= self.frozen_stages, axis)
            x = max_pool(x, "none", 2)
        if self.hidden == 0:
            return outputs | {"features": global_pool(x)}
        drop = dropper(self, key if train else None, x, axis)
        x = as_rows(x, CELLS)
        for k in (5, 6):
            init = nn.initializers.normal(0.01)
            x = nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=f"stage{k}_dense")(x)
            outputs[f"stage{k}"] = x = nn.relu(x)
            x = drop(x, k)
        return outputs | {"features": wide(x)}
