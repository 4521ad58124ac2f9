"""Context networks: what is known at a place of a grid or at a time, from what comes before it and nothing else."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax.models.convolution import Conv
from ssl_jax.types import Array, Axis


class RowContext(nn.Module):
    """``[b, r, c, d] -> [b, r, c, width]``: place (r, c) sees rows up to r, one more above with every block.

    A linear layer to ``width``, then residual blocks: ReLU, 1 x 1 to half the width, ReLU, 2 x 3 over this row and the
    one above, ReLU, 1 x 1 back. The row above the first is zeros. This is the masked convolution of a PixelCNN without
    the order inside a row, since whole rows are predicted.

    Attributes:
      width: of the context.
      layers: number of blocks; after r of them the last row sees r rows above its own.
      dtype: of the computation.

    Reference: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders" (arXiv:1606.05328).
    """

    width: int
    layers: int = 5
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool, axis: Axis = None) -> Array:
        x = nn.Dense(self.width, dtype=self.dtype, name="in")(z)
        half = max(1, self.width // 2)
        for i in range(self.layers):
            y = nn.relu(nn.Dense(half, dtype=self.dtype, name=f"block{i}_in")(nn.relu(x)))
            above_only = ((1, 0), (1, 1))
            y = nn.relu(Conv(half, (2, 3), padding=above_only, dtype=self.dtype, name=f"block{i}_conv")(y))
            x = x + nn.Dense(self.width, dtype=self.dtype, name=f"block{i}_out")(y)
        return x


class GRUContext(nn.Module):
    r"""``[b, t, 1, d] -> [b, t, 1, width]``: a gated recurrent unit over t, whose state is the context.

    .. math::
        r = \sigma(W_r x + U_r h), \quad u = \sigma(W_u x + U_u h), \quad
        n = \tanh(W_n x + r \odot (U_n h + b)), \quad h' = (1 - u) \odot n + u \odot h

    W have biases, U are orthogonal, h starts at zero.

    Attributes:
      width: of the state.
      dtype: of the computation.

    Reference: Cho et al. 2014, section 2.3 (arXiv:1406.1078), in the form of cuDNN, the reset gate behind U_n.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool, axis: Axis = None) -> Array:
        inputs = nn.Dense(3 * self.width, dtype=self.dtype, name="input")(z[:, :, 0])  # of all times at once
        orthogonal = nn.initializers.orthogonal()
        shape = (self.width, self.width)
        recurrent = [self.param(f"recurrent_{gate}", orthogonal, shape, jnp.float32) for gate in ("r", "u", "n")]
        kernel = jnp.concatenate(recurrent, axis=1).astype(inputs.dtype)
        bias = self.param("bias_n", nn.initializers.zeros, (self.width,), jnp.float32).astype(inputs.dtype)

        def tick(h: Array, x: Array) -> tuple[Array, Array]:
            from_x, from_h = jnp.split(x, 3, axis=1), jnp.split(h @ kernel, 3, axis=1)
            r, u = (jax.nn.sigmoid(a + b) for a, b in zip(from_x[:2], from_h[:2], strict=True))
            n = jnp.tanh(from_x[2] + r * (from_h[2] + bias[None]))
            h = (1 - u) * n + u * h
            return h, h

        start = jnp.zeros_like(inputs[:, 0, : self.width])
        _, states = lax.scan(tick, start, jnp.moveaxis(inputs, 1, 0))
        return jnp.moveaxis(states, 0, 1)[:, :, None]
