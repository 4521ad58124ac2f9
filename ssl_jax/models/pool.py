"""ResNet's max-pool, whose gradient is read from where it comes, not scattered to where it goes.

XLA's gradient of a max-pool finds the greatest place of every window again and adds to it. On a GPU it does so by
atomic additions, whose order, and so the last digits, change from run to run.
"""

from __future__ import annotations

from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax.types import Array

SIZE, STRIDE, PAD = 3, 2, 1


@jax.custom_jvp
def max_pool(x: Array) -> Array:
    """The greatest value of every 3 x 3 window at stride 2, both sides padded by 1: ``[b, h, w, c]``.

    Of equal values the first of the window, row by row, gets the gradient, as XLA has it.
    """
    return nn.max_pool(x, (SIZE, SIZE), (STRIDE, STRIDE), ((PAD, PAD), (PAD, PAD)))  # pyright: ignore[reportArgumentType]: pairs work, the stub says str


@max_pool.defjvp
def _derivative(primals, tangents):
    (x,), (dx,) = primals, tangents
    parts = _parts(x, -np.inf)
    y = parts[0]
    place = jnp.zeros(y.shape, np.uint8)
    for k, part in enumerate(parts[1:], 1):
        place, y = jnp.where(part > y, np.uint8(k), place), jnp.maximum(part, y)
    # Transposed, a place of x adds up the windows that chose it, the first window first, as XLA does.
    wide = dx.astype(np.promote_types(dx.dtype, np.float32))
    chosen = (jnp.where(place == k, part, 0) for k, part in enumerate(_parts(wide, 0)))
    return y, reduce(jnp.add, chosen).astype(dx.dtype)


def _parts(x: Array, fill: float) -> list[Array]:
    """For each of the 9 places of a window its value in every window, ``[b, h / 2, w / 2, c]``, row by row."""
    b, h, w, c = x.shape
    border = (PAD, PAD, 0)
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), border, border, (0, 0, 0)))
    reach = tuple(STRIDE * ((size - 1) // STRIDE) + 1 for size in (h, w))
    return [
        lax.slice(x, (0, i, j, 0), (b, i + reach[0], j + reach[1], c), (1, STRIDE, STRIDE, 1))
        for i in range(SIZE)
        for j in range(SIZE)
    ]
