"""Positions of patches: fixed sines and cosines, and a learned table made to fit another grid."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax.types import Array

# rule -> (what is added to the number of patches aimed at, whether the kernel widens where the table shrinks)
BICUBIC = {"dino": (0.1, False), "timm": (0.0, True), "transformers": (0.0, False)}
RULES = (*BICUBIC, "dinov2", "torchvision", "big_vision")


def sincos_positions(grid: tuple[int, int], dim: int, *, row_first: bool = False) -> np.ndarray:
    """Fixed positions ``[grid[0] * grid[1], dim]``, float64, row by row.

    A patch in row y and column x gets ``[sin(x f), cos(x f), sin(y f), cos(y f)]``, ``f_i = 10000^(-4 i / dim)`` for
    i = 0 ... dim / 4 - 1.

    Args:
      grid: patches down and across.
      dim: width of a token.
      row_first: exchange the halves of the vector, as MoCo v3 has it.

    Raises:
      ValueError: ``dim`` is not a multiple of 4.

    Reference: Vaswani et al. 2017, section 3.5, for each of two coordinates, the column first, as in the code of MAE
    and I-JEPA.
    """
    if dim % 4:
        raise ValueError(f"a width of {dim} does not hold sine and cosine of two coordinates; use a multiple of 4")
    frequency = 10000.0 ** (-4 * np.arange(dim // 4) / dim)
    y, x = (c.reshape(-1, 1) * frequency for c in np.meshgrid(*map(np.arange, grid), indexing="ij"))
    first, second = (y, x) if row_first else (x, y)
    return np.concatenate([np.sin(first), np.cos(first), np.sin(second), np.cos(second)], axis=1)


def resized(table: Array, grid: tuple[int, int], rule: str, *, registers: bool = False) -> Array:
    """A learned table ``[side * side, d]``, row by row, at the places of another grid, ``[grid[0] * grid[1], d]``.

    The table of the grid that it was made for is returned as it is.

    Args:
      rule: one of :data:`RULES`, which :func:`resize_weights` says.
      registers: of a network with registers, for which two of the rules are others.
    """
    side = round(len(table) ** 0.5)
    if grid == (side, side):
        return table
    down, across = (jnp.asarray(resize_weights(side, n, rule, registers=registers), table.dtype) for n in grid)
    square = table.reshape(side, side, -1)
    found = jnp.einsum("yr,xc,rcd->yxd", down, across, square, precision=lax.Precision.HIGHEST)
    return found.reshape(-1, table.shape[-1])


def resize_weights(source: int, target: int, rule: str, *, registers: bool = False) -> np.ndarray:
    """``[target, source]``, float64: what each of ``target`` places takes of each of ``source``, along one axis.

    By the projects whose networks were trained with them:

    - "dino" (iBOT, too): cubic with a = -.75, four taps clamped at the border, at ``(i + .5) source / (target + .1)``;
    - "timm": cubic with a = -.5, at ``(i + .5) source / target``; the kernel is as many times wider as the table
      shrinks, and what lies outside counts for nothing;
    - "transformers" (MAE's fine-tuning, too): as "dino" without the .1, and with registers as "timm";
    - "dinov2": as "dino", and with registers as "timm";
    - "torchvision": cubic with a = -.75 at ``i (source - 1) / (target - 1)``, the first and the last place as they are;
    - "big_vision": linear, the first and the last place as they are.

    Reference: DINO's, DINOv2's, MAE's, timm's, transformers', torchvision's and big_vision's code; torch's
    ``interpolate`` and SciPy's ``zoom``, with which they do it.
    """
    here = np.arange(source)
    ends = np.arange(target) * ((source - 1) / max(target - 1, 1))  # corners on corners
    if rule == "big_vision":
        return np.maximum(0, 1 - np.abs(ends[:, None] - here))
    if rule == "torchvision":
        return _clamped(ends, source)
    if registers and rule in ("dinov2", "transformers"):
        rule = "timm"
    offset, widens = BICUBIC["dino" if rule == "dinov2" else rule]
    scale = source / (target + offset)
    at = (np.arange(target) + 0.5) * scale - 0.5
    if widens:
        weights = _cubic((here - at[:, None]) / max(scale, 1.0), -0.5)
        return weights / weights.sum(1, keepdims=True)
    return _clamped(at, source)


def _clamped(at: np.ndarray, source: int) -> np.ndarray:
    """Weights of four taps around each place, those outside taken at the border; the kernel is torch's."""
    taps = np.floor(at)[:, None].astype(int) + np.arange(-1, 3)
    weights = np.zeros((len(at), source))
    np.add.at(weights, (np.arange(len(at))[:, None], taps.clip(0, source - 1)), _cubic(taps - at[:, None], -0.75))
    return weights


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys's kernel of cubic convolution (1981, equation 4), of width 4."""
    x = np.abs(x)
    inner, outer = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))
