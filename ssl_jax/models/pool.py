"""Pooling of images: the greatest of windows, with a gradient that is read from where it comes, and means over cells.

XLA's gradient of a max-pool finds the greatest place of every window again and adds to it. On a GPU it does so by
atomic additions, whose order, and so the last digits, change from run to run. Here it is not scattered.
"""

from __future__ import annotations

from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax.types import Array

SIZE, STRIDE, PAD = 3, 2, 1
PADDINGS = ("torch", "same", "none", "ceil")

_Pads = tuple[tuple[int, int], tuple[int, int]]


def max_pool(x: Array, padding: str = "torch", size: int = SIZE) -> Array:
    """The greatest value of every window at stride 2: ``[b, h, w, c]``.

    Of equal values the first of the window, row by row, gets the gradient, as XLA has it.

    Args:
      padding: "torch": both sides by 1; "same": as TensorFlow's SAME, of which the right and lower side has more;
        "none"; "ceil": so far that the last window, which begins inside, is counted (torch's ``ceil_mode``).
      size: of a window's side.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r} of a max-pool is unknown; use one of {', '.join(PADDINGS)}")
    height, width = (_border(side, size, padding) for side in x.shape[1:3])
    return _max_pool(x, size, (height, width))


def _border(side: int, size: int, padding: str) -> tuple[int, int]:
    """What is added before and behind a side of an image."""
    if padding == "torch":
        return PAD, PAD
    if padding == "same":
        return lax.padtype_to_pads((side,), (size,), (STRIDE,), "SAME")[0]
    return 0, (size - side) % STRIDE if padding == "ceil" else 0


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _max_pool(x: Array, size: int, pads: _Pads) -> Array:
    if not isinstance(x.shape[0], int):  # exported: a converter to ONNX leaves a pool's padding out without a word
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
        return nn.max_pool(x, window_shape=(size, size), strides=(STRIDE, STRIDE), padding="VALID")
    return nn.max_pool(x, (size, size), (STRIDE, STRIDE), pads)  # pyright: ignore[reportArgumentType]: pairs work, the stub says str


@_max_pool.defjvp
def _derivative(size, pads, primals, tangents):
    (x,), (dx,) = primals, tangents
    parts = _parts(x, -np.inf, size, pads)
    y = parts[0]
    place = jnp.zeros(y.shape, np.uint8)
    for k, part in enumerate(parts[1:], 1):
        place, y = jnp.where(part > y, np.uint8(k), place), jnp.maximum(part, y)
    # Transposed, a place of x adds up the windows that chose it, the first window first, as XLA does.
    wide = dx.astype(np.promote_types(dx.dtype, np.float32))
    chosen = (jnp.where(place == k, part, 0) for k, part in enumerate(_parts(wide, 0, size, pads)))
    return y, reduce(jnp.add, chosen).astype(dx.dtype)


def _parts(x: Array, fill: float, size: int, pads: _Pads) -> list[Array]:
    """For each place of a window its value in every window, ``[b, h / 2, w / 2, c]``, row by row."""
    b, _, _, c = x.shape
    reach = [(n + sum(pad) - size) // STRIDE * STRIDE + 1 for n, pad in zip(x.shape[1:3], pads, strict=True)]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    return [
        lax.slice(x, (0, i, j, 0), (b, i + reach[0], j + reach[1], c), (1, STRIDE, STRIDE, 1))
        for i in range(size)
        for j in range(size)
    ]


def global_pool(x: Array) -> Array:
    """Mean over height and width, ``[b, h, w, c] -> [b, c]``, in float32 or better."""
    return x.astype(np.promote_types(x.dtype, np.float32)).mean((1, 2))


def grid_pool(x: Array, cells: int) -> Array:
    """Mean of each of ``cells`` x ``cells`` parts of a map, ``[b, h, w, c] -> [b, cells, cells, c]``: torch's
    ``AdaptiveAvgPool2d``, in float32 or better. Parts overlap where ``cells`` does not divide a side."""
    x = x.astype(np.promote_types(x.dtype, np.float32))
    rows, columns = (jnp.asarray(_cells(side, cells), x.dtype) for side in x.shape[1:3])
    return jnp.einsum("gh,bhwc,kw->bgkc", rows, x, columns, precision=lax.Precision.HIGHEST)


def _cells(size: int, cells: int) -> np.ndarray:
    """``[cells, size]``: cell i averages positions ``floor(i s / c)`` to ``ceil((i + 1) s / c)``."""
    weights = np.zeros((cells, size))
    for i in range(cells):
        low, high = i * size // cells, -(-(i + 1) * size // cells)
        weights[i, low:high] = 1 / (high - low)
    return weights


def halve(x: Array) -> Array:
    """Mean of every 2 x 2 places, a last odd row or column left out: ``[b, h, w, c] -> [b, h // 2, w // 2, c]``."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return x.astype(np.promote_types(x.dtype, np.float32)).mean((2, 4)).astype(x.dtype)
