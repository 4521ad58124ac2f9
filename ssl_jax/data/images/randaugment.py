"""RandAugment's fifteen operations: by Pillow, which defines them, and in JAX, equal to Pillow's.

An operation is a number of ``NAMES`` and a value (``strengths``); both forms work on whole grey levels 0 to 255.

Reference: Cubuk et al. 2019, "RandAugment" (arXiv:1909.13719), in the form of UDA for CIFAR: Xie et al. 2020
(arXiv:1904.12848) and its code, randaugment/augmentation_transforms.py.
Differs from the reference code: pixels from outside the image, and cut out ones, are grey (125, 122 and 113 there);
shifts and cutouts grow with the image (they are UDA's at 32 pixels).
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ssl_jax.types import Array

NAMES = (
    *("autocontrast", "equalize", "invert", "solarize", "posterize"),  # tables of 256 levels
    *("color", "contrast", "brightness", "sharpness"),  # blends with another image
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),  # affine, nearest pixel
    "cutout",
)
TABLES, BLENDS, AFFINE = NAMES[:5], NAMES[5:9], NAMES[9:14]
FAMILY = np.array([0] * 5 + [1] * 4 + [2] * 5 + [3], np.int32)
LEVELS = 10  # strengths are drawn from 1 to 9
FILL = 128
_FIXED = 65_536  # Pillow's affine transforms count in 16 binary places


def strengths(size: int) -> np.ndarray:
    """The value of every operation at every level, float32 ``[15, 10]``; the affine ones' sign is drawn besides.

    ======================================= ===========================================
    solarize                                256 - int(25.6 level), the threshold
    posterize                               4 - int(0.4 level), bits that are kept
    color, contrast, brightness, sharpness  0.1 + 0.18 level, 1 leaves the image alone
    rotate                                  int(3 level) degrees
    shear_x, shear_y                        0.03 level
    translate_x, translate_y                int(level size / 32) pixels
    cutout                                  int(2 level size / 32) pixels of a side
    ======================================= ===========================================
    """
    level = np.arange(LEVELS)
    found = np.zeros((len(NAMES), LEVELS))
    found[NAMES.index("solarize")] = 256 - np.floor(25.6 * level)
    found[NAMES.index("posterize")] = 4 - np.floor(0.4 * level)
    found[5:9] = 0.1 + 0.18 * level
    found[NAMES.index("rotate")] = 3 * level
    found[NAMES.index("shear_x")] = found[NAMES.index("shear_y")] = 0.03 * level
    found[NAMES.index("translate_x")] = found[NAMES.index("translate_y")] = level * size // 32
    found[NAMES.index("cutout")] = 2 * level * size // 32
    return found.astype(np.float32)


# --------------------------------------------------------------------------------------------------------- by Pillow


def by_pillow(image: np.ndarray, number: int, value: float, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """One operation on uint8 ``[h, w, c]``, c 1 or 3; ``centre``: y and x of a cutout, as parts of the image."""
    name, height, width = NAMES[number], *image.shape[:2]
    if name == "cutout":
        rows, columns = (span(np, c, n, value) for c, n in zip(centre, (height, width), strict=True))
        return np.where((rows[:, None] & columns)[..., None], np.uint8(FILL), image)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if name in AFFINE:
        fill = FILL if picture.mode == "L" else (FILL,) * 3
        matrix = tuple(np.float64(a) for a in _matrix(math, name, float(value), height, width))
        done = picture.transform((width, height), Image.Transform.AFFINE, matrix, fillcolor=fill)
    else:
        done = {
            "autocontrast": lambda: ImageOps.autocontrast(picture),
            "equalize": lambda: ImageOps.equalize(picture),
            "invert": lambda: ImageOps.invert(picture),
            "solarize": lambda: ImageOps.solarize(picture, int(value)),
            "posterize": lambda: ImageOps.posterize(picture, int(value)),
            "color": lambda: ImageEnhance.Color(picture).enhance(value),
            "contrast": lambda: ImageEnhance.Contrast(picture).enhance(value),
            "brightness": lambda: ImageEnhance.Brightness(picture).enhance(value),
            "sharpness": lambda: Image.blend(picture.filter(ImageFilter.SMOOTH), picture, value),
        }[name]()
    return np.asarray(done).reshape(image.shape)


def _matrix(xp: Any, name: str, value, height: int, width: int):
    """a to f of (x, y) -> (a x + b y + c, d x + e y + f), from places of the result to places of the image."""
    if name == "shear_x":
        return 1.0, value, 0.0, 0.0, 1.0, 0.0
    if name == "shear_y":
        return 1.0, 0.0, 0.0, value, 1.0, 0.0
    if name == "translate_x":
        return 1.0, 0.0, value, 0.0, 1.0, 0.0
    if name == "translate_y":
        return 1.0, 0.0, 0.0, 0.0, 1.0, value
    turn = -value * (math.pi / 180)
    c, s, x, y = xp.cos(turn), xp.sin(turn), width / 2, height / 2
    return c, s, x - c * x - s * y, -s, c, y + s * x - c * y


def span(xp: Any, centre, size: int, side):
    """Which of ``size`` lines lie in a square of that side around the centre, bool ``[size]``."""
    middle, half = xp.floor(centre * size), xp.floor(side / 2)
    lines = xp.arange(size, dtype=np.float32)
    return (lines >= middle - half) & (lines < middle + half)


# ------------------------------------------------------------------------------------------------------------- in JAX


def operation(x: Array, number: Array, value: Array, centre: Array) -> Array:
    """One operation, as :func:`by_pillow`: float32 ``[h, w, c]`` of whole levels -> the same; numbers are traced."""
    branches = (_table, _blend, _affine, _cutout)
    return lax.switch(jnp.asarray(FAMILY)[number], [lambda f=f: f(x, number, value, centre) for f in branches])


def _pick(number: Array, names: tuple[str, ...], values) -> Array:
    return jnp.stack(values)[number - NAMES.index(names[0])]


def _table(x: Array, number: Array, value: Array, centre: Array) -> Array:
    """Every level has one that replaces it, in each channel."""
    levels = jnp.arange(256, dtype=jnp.float32)[None]
    count = jnp.sum(x.reshape(-1, x.shape[-1], 1) == levels[None], axis=0, dtype=jnp.float32)  # [c, 256]
    there = count > 0
    low = jnp.min(jnp.where(there, levels, 255), axis=1, keepdims=True)
    high = jnp.max(jnp.where(there, levels, 0), axis=1, keepdims=True)
    scale = 255.0 / jnp.maximum(high - low, 1)
    stretched = jnp.clip(jnp.floor(levels * scale - low * scale + 1e-3), 0, 255)  # Pillow counts in float64
    last = jnp.take_along_axis(count, high.astype(jnp.int32), axis=1)
    step = jnp.floor((x.shape[0] * x.shape[1] - last) / 255)
    before = jnp.cumsum(count, axis=1) - count
    equal = jnp.minimum(jnp.floor((jnp.floor(step / 2) + before) / jnp.maximum(step, 1)), 255)
    kept = jnp.exp2(8 - value)
    same = jnp.broadcast_to(levels, count.shape)
    tables = [
        jnp.where(high > low, stretched, levels),
        jnp.where((step > 0) & (high > low), equal, levels),
        255 - same,
        jnp.where(same < value, same, 255 - same),
        jnp.floor(same / kept) * kept,
    ]
    table = _pick(number, TABLES, tables)
    return jnp.stack([table[c][x[..., c].astype(jnp.int32)] for c in range(x.shape[-1])], axis=-1)


def _luma(x: Array) -> Array:
    """Pillow's grey image, ``[h, w, 1]``."""
    if x.shape[-1] == 1:
        return x
    r, g, b = (x[..., i : i + 1].astype(jnp.int32) for i in range(3))
    return ((19_595 * r + 38_470 * g + 7_471 * b + 0x8000) >> 16).astype(x.dtype)


def _blend(x: Array, number: Array, value: Array, centre: Array) -> Array:
    """other + value (x - other), cut to whole levels."""
    grey = _luma(x)
    middle = jnp.floor(jnp.mean(grey) + 0.5)
    h, w, _ = x.shape
    around = sum(x[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)) + 4 * x[1:-1, 1:-1]
    smooth = x.at[1:-1, 1:-1].set(jnp.floor(around / 13 + 0.5))  # the border stays
    other = _pick(
        number, BLENDS, [jnp.broadcast_to(grey, x.shape), jnp.full_like(x, middle), jnp.zeros_like(x), smooth]
    )
    return jnp.floor(jnp.clip(other + value * (x - other), 0, 255))


def _affine(x: Array, number: Array, value: Array, centre: Array) -> Array:
    """The nearest pixel at the place that an affine map names, grey where there is none."""
    h, w, _ = x.shape
    rows = [jnp.stack([jnp.float32(a) for a in _matrix(jnp, name, value, h, w)]) for name in AFFINE]
    a, b, c, d, e, f = _pick(number, AFFINE, rows)

    def fixed(number):
        return jnp.floor(number * _FIXED + 0.5).astype(jnp.int32)

    across, down = jnp.arange(w, dtype=jnp.int32)[None], jnp.arange(h, dtype=jnp.int32)[:, None]
    column = (fixed(c + (a + b) / 2) + down * fixed(b) + across * fixed(a)) >> 16
    row = (fixed(f + (d + e) / 2) + down * fixed(e) + across * fixed(d)) >> 16
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    taken = x[jnp.clip(row, 0, h - 1), jnp.clip(column, 0, w - 1)]
    return jnp.where(inside[..., None], taken, jnp.float32(FILL))


def _cutout(x: Array, number: Array, value: Array, centre: Array) -> Array:
    rows, columns = (span(jnp, centre[i], x.shape[i], value) for i in range(2))
    return jnp.where((rows[:, None] & columns[None])[..., None], jnp.float32(FILL), x)
