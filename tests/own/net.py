"""A plain network that knows nothing of this project, made into an encoder."""

import flax.linen as nn

from ssl_jax import models


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=2)(x))
        return nn.relu(nn.Conv(2 * self.width, (3, 3), strides=2)(x))


def make(width: int = 8):
    return models.from_module(Net(width), dim=2 * width)
