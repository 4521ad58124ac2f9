"""AlexNet as torchvision has it, and the two wide layers that it and VGG end with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax.models.convolution import Conv
from ssl_jax.models.heads import torch_bias, torch_kernel
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import grid_pool, max_pool
from ssl_jax.models.transformer import dropout
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import Array, Axis

# Channels, kernel, stride and padding of every convolution.
SIZES = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
POOLED = (0, 1, 4)  # the convolutions that a max-pool follows
CELLS = 6


class AlexNet(nn.Module):
    """Five convolutions with bias, max-pools 3 / 2 behind the first two and the last, and two wide layers.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data", key=None)``; ``key`` is that of the step, for dropout,
    without which nothing is dropped.

    Attributes:
      hidden: width of the two layers.
      dropout: of what the two layers read.
      norm: what methods make their heads with; the network itself has none.
      frozen_stages: of the lowest so many parts (the stem is one) nothing is dropped even with ``train``.
      dtype: of the computation; parameters stay float32.

    Returns ``{"stem", "stage1", ..., "stage4": [b, h, w, c], "stage5", "stage6", "features": [b, hidden]}``: the
    convolutions after ReLU and before a pool, the two layers after ReLU; ``"features"`` are float32 or better. Images
    of any size: the last map is pooled to 6 x 6.

    Reference: Krizhevsky, "One weird trick", 2014 (arXiv:1404.5997), which torchvision follows: 64 channels first and
    no local response normalisation.
    """

    hidden: int = 4096
    dropout: float = 0.5
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    dtype: Any = None

    stages = 6
    label = "alexnet"
    min_size = 63

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        return self.hidden

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None, key: Array | None = None) -> dict[str, Array]:
        outputs = {}
        for k, (width, kernel, stride, pad) in enumerate(SIZES):
            name = f"stage{k}" if k else "stem"
            fan_in = kernel**2 * x.shape[-1]
            x = Conv(
                **{"features": width, "kernel_size": (kernel, kernel), "strides": (stride, stride), "padding": pad},
                **{"kernel_init": torch_kernel, "bias_init": torch_bias(fan_in), "dtype": self.dtype},
                name=f"{name}_conv",
            )(x)
            outputs[name] = x = nn.relu(x)
            x = max_pool(x, "none") if k in POOLED else x
        drop = dropper(self, key if train else None, x, axis)
        dense = partial(nn.Dense, self.hidden, kernel_init=torch_kernel, dtype=self.dtype)
        x = as_rows(x, CELLS)
        for k in (5, 6):
            x = drop(x, k)
            x = nn.relu(dense(bias_init=torch_bias(x.shape[-1]), name=f"stage{k}_dense")(x))
            outputs[f"stage{k}"] = x
        return outputs | {"features": wide(x)}


def as_rows(x: Array, cells: int) -> Array:
    """A map pooled to ``cells`` x ``cells`` means and flattened, ``[b, h, w, c] -> [b, cells cells c]``."""
    x = x if x.shape[1:3] == (cells, cells) else grid_pool(x, cells)
    return x.reshape(x.shape[0], -1)


def dropper(encoder: Any, key: Array | None, x: Array, axis: Axis) -> Callable[[Array, int], Array]:
    """``(x, part) -> x``: the encoder's dropout, by example; of a part that is frozen nothing is dropped."""
    if not 0 <= encoder.dropout < 1:
        raise ValueError(f"model.dropout={encoder.dropout} must be in [0, 1)")
    keys = None if key is None else row_keys(named_key(key, "dropout"), x.shape[0], axis)
    return lambda x, part: dropout(x, encoder.dropout, None if part < encoder.frozen_stages else keys, part)


def wide(x: Array) -> Array:
    """In float32 or better."""
    return x.astype(np.promote_types(x.dtype, np.float32))
