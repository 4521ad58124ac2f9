"""The discriminator of an adversarial loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ssl_jax.models.convolution import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.types import Array, Axis


class Discriminator(nn.Module):
    """Images ``[b, h, w, c]`` to one logit each, ``[b]``: high where they look real.

    4 x 4 convolutions of stride 2 with LeakyReLU 0.2, normalised in all stages but the first, then one linear layer;
    weights start from N(0, 0.02^2).

    Attributes:
      widths: channels of every stage; each halves the image.
      norm: makes the normalisation.
      dtype: of the computation; parameters and statistics stay float32.

    Reference: Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks", 2016, section 3 (arXiv:1511.06434).
    """

    widths: tuple[int, ...] = (64, 128)
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        kwargs = {"kernel_init": nn.initializers.normal(0.02), "dtype": self.dtype}
        for k, width in enumerate(self.widths, 1):
            name = f"stage{k}_conv"
            x = Conv(width, (4, 4), (2, 2), padding=1, use_bias=k == 1, name=name, **kwargs)(x)
            if k > 1:
                x = self.norm(name=f"stage{k}_norm")(x, train=train, axis=axis)
            x = nn.leaky_relu(x, 0.2)
        return nn.Dense(1, name="dense", **kwargs)(x.reshape(x.shape[0], -1))[:, 0]
