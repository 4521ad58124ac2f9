"""A fully connected encoder, whose features are the code of the classical autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax.models.norm import BatchNorm
from ssl_jax.types import Array, Axis


class MLPEncoder(nn.Module):
    """The pixels of an image as one vector, hidden layers with ReLU, then a linear layer: the code.

    Attributes:
      widths: of the hidden layers; without any the code is linear in the pixels.
      latent_dim: width of the code.
      hidden_norm: whether ``norm`` follows every hidden layer.
      norm: makes the normalisation.
      frozen_stages: what runs in inference mode even with ``train``, as in ``ResNet``; there is no stem.
      dtype: of the computation; parameters and statistics stay float32.

    Returns (when applied): ``{"stage1", ...: [b, width], "features": [b, latent_dim]}``; the last stage is the code,
    float32 or better.
    """

    widths: tuple[int, ...] = (128, 128)
    latent_dim: int = 10
    hidden_norm: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    dtype: Any = None

    @property
    def stages(self) -> int:
        """Number of stages: the hidden layers and the code."""
        return len(self.widths) + 1

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        return self.latent_dim

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return "mlp"

    @property
    def min_size(self) -> int:
        """The smallest image: nothing is halved."""
        return 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        outputs = {}
        x = x.reshape(x.shape[0], -1)
        for k, width in enumerate(self.widths, 1):
            x = nn.Dense(width, dtype=self.dtype, name=f"stage{k}_dense")(x)
            if self.hidden_norm:
                x = self.norm(name=f"stage{k}_norm")(x, train=train and k >= self.frozen_stages, axis=axis)
            outputs[f"stage{k}"] = x = nn.relu(x)
        code = nn.Dense(self.latent_dim, dtype=self.dtype, name=f"stage{self.stages}_dense")(x)
        code = code.astype(np.promote_types(code.dtype, np.float32))
        return outputs | {f"stage{self.stages}": code, "features": code}
