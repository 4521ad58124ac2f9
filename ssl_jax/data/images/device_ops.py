"""Resize, colour operations and blur of one image as JAX ops with explicit factors; ``device.py`` draws the factors.

The formulas, and the clipping after each, are those of ``colour.py``. Images are float32 ``[w, c, h]`` in [0, 1], c 1
or 3: column, channel, row. In this order crop, resize and blur are plain matrix products from both sides with no
transpose between them, and every elementwise loop runs along a contiguous line of numbers. Nothing here sees a batch:
``device.py`` maps over images.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from ssl_jax.tasks.colours import LUMA
from ssl_jax.types import Array

LONG = 16  # times the height, from which on the columns of an image are resized first


def resize_matrix(
    start: Array,
    length: Array,
    full: int,
    size: int,
    interpolation: str,
    *,
    antialias: bool,
    mirror: Array | None = None,
) -> Array:
    """The linear map that cuts a range out of a line of pixels and resizes it.

    A[i, o] = k((i - c_o) / s) / sum_i k((i - c_o) / s) over i in [start, start + length), with
    c_o = start + (o + 1/2) length / size - 1/2, and s = max(1, length / size) if antialias, else 1.

    Args:
      start: first pixel of the range, int32 scalar.
      length: pixels in the range, int32 scalar.
      full: pixels of the line.
      size: pixels that come out.
      interpolation: "bilinear" (k a triangle) or "bicubic" (Keys, a = -1/2).
      antialias: stretch the kernel by the shrinking factor.
      mirror: bool scalar: turn the result round.

    Returns:
      float32 ``[full, size]``; columns sum to 1.
    """
    centre, stretch = _centres(start, length, size, antialias, mirror)
    pixel = jnp.arange(full, dtype=jnp.float32)[:, None]
    return _weights(pixel, start, length, centre, stretch, interpolation)


def resize_taps(
    start: Array,
    length: Array,
    full: int,
    size: int,
    interpolation: str,
    *,
    antialias: bool,
    mirror: Array | None = None,
) -> tuple[Array, Array]:
    """The same map without its zeros: (pixels, weights), int32 and float32 ``[taps, size]``, arguments as above.

    As many taps as the widest kernel covers; those of a narrower one have weight 0.
    """
    centre, stretch = _centres(start, length, size, antialias, mirror)
    reach = _REACH[interpolation]
    taps = math.ceil(2 * reach * (max(1.0, full / size) if antialias else 1.0))
    first = jnp.floor(centre - reach * stretch) + 1.0
    pixel = first[None] + jnp.arange(taps, dtype=jnp.float32)[:, None]
    weights = _weights(pixel, start, length, centre, stretch, interpolation)
    return jnp.clip(pixel, 0, full - 1).astype(jnp.int32), weights


def _centres(start: Array, length: Array, size: int, antialias: bool, mirror: Array | None) -> tuple[Array, Array]:
    """Where each output pixel lies on the line, ``[size]``, and by how much the kernel is stretched."""
    out = jnp.arange(size, dtype=jnp.float32)
    if mirror is not None:
        out = jnp.where(mirror, jnp.float32(size - 1) - out, out)
    scale = length.astype(jnp.float32) * jnp.float32(1.0 / size)
    centre = (out + 0.5) * scale + (start.astype(jnp.float32) - 0.5)
    return centre, jnp.maximum(scale, 1.0) if antialias else jnp.float32(1.0)


def _weights(pixel: Array, start: Array, length: Array, centre: Array, stretch: Array, interpolation: str) -> Array:
    weights = KERNELS[interpolation](jnp.abs(pixel - centre[None]) / stretch)
    start, length = start.astype(jnp.float32), length.astype(jnp.float32)
    weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0.0)
    return weights / jnp.sum(weights, axis=0, keepdims=True)


def _triangle(d: Array) -> Array:
    return jnp.maximum(1.0 - d, 0.0)


def _keys(d: Array) -> Array:
    """Cubic convolution with a = -1/2 (Keys 1981)."""
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return jnp.where(d < 1.0, near, jnp.where(d < 2.0, far, 0.0))


KERNELS = {"bilinear": _triangle, "bicubic": _keys}
_REACH = {"bilinear": 1, "bicubic": 2}


def resize(image: Array, rows: Any, columns: Any, *, dtype: Any = jnp.float32) -> Array:
    """columns^T image rows for each channel, clipped to [0, 1] (bicubic overshoots).

    Args:
      image: uint8 ``[h, w, c]``.
      rows: ``[h, size]`` and columns ``[w, size]``, from :func:`resize_matrix`; or both from :func:`resize_taps`.
      dtype: of what is multiplied; sums are float32. uint8 values are exact in bfloat16.

    Returns:
      float32 ``[size, c, size]`` in [0, 1], column first.
    """
    h, w, c = image.shape
    if w > LONG * h:  # the long side first, or what lies between the two products is many times the image
        return jnp.transpose(resize(jnp.transpose(image, (1, 0, 2)), columns, rows, dtype=dtype), (2, 1, 0))
    if isinstance(rows, tuple):
        half = _weighted(image.reshape(h, w * c), *rows).T  # [w * c, y]
        out = _weighted(half.reshape(w, -1), *columns)  # [x, c * y]
        return _clip(out * jnp.float32(1.0 / 255.0)).reshape(len(out), c, -1)
    half = _product(image.reshape(h, w * c).astype(dtype), rows.astype(dtype))  # [w * c, y]
    half = half.reshape(w, c * rows.shape[1])
    out = _product(columns.astype(dtype), half.astype(dtype))  # [x, c * y]
    out = jnp.clip(out * jnp.float32(1.0 / 255.0), 0.0, 1.0)
    return out.reshape(columns.shape[1], c, rows.shape[1])


def _weighted(x: Array, pixels: Array, weights: Array) -> Array:
    """The weighted sum of a few lines of x ``[n, m]`` for each output, ``[size, m]``.

    A loop, because XLA would fuse a written-out sum with what makes x and make that again for each tap.
    """

    def add(total, tap):
        pixel, weight = tap
        return total + weight[:, None] * x[pixel].astype(jnp.float32), None

    return lax.scan(add, jnp.zeros((weights.shape[1], x.shape[1]), jnp.float32), (pixels, weights))[0]


def _product(a: Array, b: Array) -> Array:
    """a^T b in full float32 (an accelerator's default rounds the factors)."""
    return lax.dot_general(
        a, b, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def grayscale(x: Array) -> Array:
    """The luma .2989 R + .587 G + .114 B in every channel; a one-channel image is its own."""
    return x if x.shape[1] == 1 else jnp.broadcast_to(_luma(x)[:, None], x.shape)


def _luma(x: Array) -> Array:
    return LUMA[0] * x[:, 0] + LUMA[1] * x[:, 1] + LUMA[2] * x[:, 2]


def _clip(x: Array) -> Array:
    return jnp.clip(x, 0.0, 1.0)


def multiply_brightness(x: Array, factor: Array) -> Array:
    """x -> factor * x."""
    return _clip(x * factor)


def add_brightness(x: Array, delta: Array) -> Array:
    """x -> x + delta."""
    return _clip(x + delta)


def _means(x: Array) -> Array:
    """The mean of each channel, ``[c]``. Two sums, the long one over the leading dimension, which vectorises."""
    return jnp.mean(jnp.mean(x, axis=0), axis=-1)


def contrast_tf(x: Array, factor: Array) -> Array:
    """x -> factor * (x - m) + m with m the mean of each channel."""
    mean = _means(x)[None, :, None]
    return _clip(factor * (x - mean) + mean)


def contrast_torch(x: Array, factor: Array) -> Array:
    """x -> factor * x + (1 - factor) * m with m one number, the mean of the grey image."""
    mean = _means(x)
    grey = mean[0] if x.shape[1] == 1 else LUMA[0] * mean[0] + LUMA[1] * mean[1] + LUMA[2] * mean[2]
    return _clip(factor * x + (1.0 - factor) * grey)


def saturation_torch(x: Array, factor: Array) -> Array:
    """x -> factor * x + (1 - factor) * grayscale(x)."""
    return _clip(factor * x + (1.0 - factor) * grayscale(x))


def saturation_tf(x: Array, factor: Array) -> Array:
    """S -> clip(factor * S, 0, 1) in HSV: V - (V - x) * min(factor, V / C), with V = max x and C = max x - min x."""
    high, low = _extremes(x)
    reach = jnp.minimum(factor, high / jnp.maximum(high - low, _TINY))
    return _clip(high[:, None] - (high[:, None] - x) * reach[:, None])


_TINY = 1e-12


def _extremes(x: Array) -> tuple[Array, Array]:
    high = jnp.maximum(jnp.maximum(x[:, 0], x[:, 1]), x[:, 2])
    low = jnp.minimum(jnp.minimum(x[:, 0], x[:, 1]), x[:, 2])
    return high, low


def rotate_hue(x: Array, delta: Array) -> Array:
    """H -> H + delta in HSV, delta in full turns.

    With V, C as above and k_n = (n + 6 (H + delta)) mod 6, channel n = 5, 3, 1 is V - C clip(min(k_n, 4 - k_n), 0, 1).
    """
    r, g, b = x[:, 0], x[:, 1], x[:, 2]
    high, low = _extremes(x)
    chroma = high - low
    inverse = 1.0 / jnp.maximum(chroma, _TINY)  # of grey: times C = 0 whatever H is
    sixths = jnp.where(
        high == r, (g - b) * inverse, jnp.where(high == g, (b - r) * inverse + 2.0, (r - g) * inverse + 4.0)
    )
    n = jnp.array([5.0, 3.0, 1.0], jnp.float32)[None, :, None]
    k = (sixths + 6.0 * delta)[:, None] + n
    k = k - 6.0 * jnp.floor(k * (1.0 / 6.0))
    return _clip(high[:, None] - chroma[:, None] * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0))


def jitter(
    x: Array,
    factors: Array,
    order: Array | None,
    active: tuple[bool, ...],
    *,
    flavour: str = "tf",
    additive: bool = False,
) -> Array:
    """Brightness, contrast, saturation and hue with explicit factors, one after the other, clipped after each.

    Args:
      x: ``[w, c, h]``; with one channel saturation and hue do nothing.
      factors: float32 ``[4]``: of brightness (a shift when ``additive``), contrast, saturation, hue (in turns).
      order: int32 ``[4]``, a permutation of 0..3; None: as written.
      active: which of the four there are.
      flavour: "tf" or "torch".
      additive: which brightness.
    """
    torch, colour = flavour == "torch", x.shape[1] == 3
    ops = (
        add_brightness if additive else multiply_brightness,
        contrast_torch if torch else contrast_tf,
        saturation_torch if torch else saturation_tf,
        rotate_hue,
    )
    there = (active[0], active[1], active[2] and colour, active[3] and colour)
    steps = [(lambda x, k=k, op=op: op(x, factors[k])) if there[k] else (lambda x: x) for k, op in enumerate(ops)]
    for k in range(4):
        x = steps[k](x) if order is None else lax.switch(order[k], steps, x)
    return x


def solarize(x: Array, threshold: float = 0.5) -> Array:
    """x -> 1 - x where x >= threshold."""
    return jnp.where(x < threshold, x, 1.0 - x)


def blur_matrix(size: int, sigma: Array, radius: int, border: str = "zero") -> Array:
    """Gaussian blur of a line of pixels as a band matrix, float32 ``[size, size]``, column o the weights of output o.

    B[i, o] = g(|i - o|) = exp(-(i - o)^2 / 2 sigma^2) / sum, zero beyond the radius. With border "reflect" what falls
    outside comes back: + g(i + o) for i > 0 and + g(2 (size - 1) - i - o) for i < size - 1; with "symmetric" one pixel
    later, + g(i + o + 1) + g(2 size - 1 - i - o).
    """
    taps = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    scale = -0.5 / (sigma * sigma)
    norm = 1.0 / jnp.sum(jnp.exp(taps * taps * scale))

    def weight(distance):
        d = distance.astype(jnp.float32)
        return jnp.where(distance <= radius, jnp.exp(d * d * scale) * norm, 0.0)

    i, o = jnp.arange(size, dtype=jnp.int32)[:, None], jnp.arange(size, dtype=jnp.int32)[None]
    band = weight(jnp.abs(i - o))
    if border == "reflect":
        band += jnp.where(i > 0, weight(i + o), 0.0)
        band += jnp.where(i < size - 1, weight(2 * (size - 1) - i - o), 0.0)
    elif border == "symmetric":
        band += weight(i + o + 1) + weight(2 * size - 1 - i - o)
    return band


def gaussian_blur(
    x: Array, sigma: Array, radius: int, *, border: str = "zero", dtype: Any = jnp.float32, taps: bool = False
) -> Array:
    """Separable Gaussian blur as in ``colour.gaussian_blur``: B^T x B for each channel of ``[size, c, size]``.

    ``taps``: sums of shifted images instead of the products, in float32; on a CPU twice as fast at 224 pixels, and
    slower at 32.
    """
    if radius == 0:
        return x
    size, c, _ = x.shape
    if taps:
        weights = _gaussian(sigma, radius)
        lines = _shifted_sum(x.reshape(size, c * size), weights, radius, border, 0)
        out = _shifted_sum(lines.reshape(size * c, size), weights, radius, border, 1)
    else:
        band = blur_matrix(size, sigma, radius, border).astype(dtype)
        lines = _product(band, x.reshape(size, c * size).astype(dtype)).reshape(size * c, size)
        out = _product(lines.T.astype(dtype), band)
    return jnp.minimum(out, 1.0).reshape(size, c, size)  # weights add up to 1 but for rounding


def _gaussian(sigma: Array, radius: int) -> Array:
    """Weights that add up to 1, float32 ``[2 radius + 1]``."""
    taps = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weights = jnp.exp(taps * taps * (-0.5 / (sigma * sigma)))
    return weights / jnp.sum(weights)


def _shifted_sum(x: Array, weights: Array, radius: int, border: str, dim: int) -> Array:
    """sum_k weights_k x shifted by k - radius along ``dim``, ``[n, m]``; a loop for the reason of :func:`_weighted`."""
    pads = [(radius, radius) if d == dim else (0, 0) for d in range(2)]
    padded = jnp.pad(x, pads, mode="constant" if border == "zero" else border)

    def add(k, total):
        return total + weights[k] * lax.dynamic_slice_in_dim(padded, k, x.shape[dim], dim)

    return lax.fori_loop(0, 2 * radius + 1, add, jnp.zeros_like(x))
