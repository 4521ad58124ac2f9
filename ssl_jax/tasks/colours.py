"""CIE Lab of sRGB images as JAX ops, bins of its colours and of its lightness, and soft membership of bins.

L, the lightness, runs from 0 to 100; a (green to red) and b (blue to yellow) from about -108 to 98. The white is D65.

Reference: Zhang et al., "Colorful Image Colorization", 2016, section 2 (arXiv:1603.08511), for bins, soft encoding,
rebalancing and annealed mean.
Differs from the reference code: its table of 313 colours at grid 10 is a file, and no rule that gives it is known; ours
holds the cells in which 8-bit sRGB has colours, 261 at grid 10, so every dataset has the same table.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax.types import Array

XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, seen under 2 degrees
LAB_FROM_XYZ = np.array([[0.0, 116, 0], [500, -500, 0], [0, 200, -200]])  # of f(X), f(Y), f(Z); 16 is taken from L
L_BINS = 50
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601, as TensorFlow and torchvision round it


@jax.jit
def rgb_to_lab(images: Array) -> Array:
    """sRGB in [0, 1] to Lab, ``[..., 3]``."""
    return _rgb_to_lab(images, jnp)


def _rgb_to_lab(x, xp):
    x = xp.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    x = _mix(XYZ_FROM_RGB / WHITE[:, None], x, xp)
    x = xp.where(x > 0.008856, xp.cbrt(x), 7.787 * x + 16 / 116)
    return _mix(LAB_FROM_XYZ, x, xp) - _row([16, 0, 0], x, xp)


@jax.jit
def lab_to_rgb(images: Array) -> Array:
    """Lab to sRGB in [0, 1], ``[..., 3]``; what sRGB does not have is clipped channel by channel."""
    x = _mix(np.linalg.inv(LAB_FROM_XYZ), images + _row([16, 0, 0], images, jnp), jnp)
    x = jnp.maximum(x, _row([-jnp.inf, -jnp.inf, 0], x, jnp))  # no light is less than none: so does scikit-image
    x = jnp.where(x > 0.2068966, x**3, (x - 16 / 116) / 7.787)
    x = _mix(np.linalg.inv(XYZ_FROM_RGB) * WHITE[None], x, jnp)
    curved = 1.055 * jnp.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.clip(jnp.where(x > 0.0031308, curved, 12.92 * x), 0, 1)


def _mix(matrix: np.ndarray, x, xp):
    """``matrix`` times every pixel, as sums: a product of matrices would be rounded on accelerators."""
    return sum(_row(matrix[:, k], x, xp) * x[..., k : k + 1] for k in range(3))


def _row(values, x, xp):
    return xp.asarray(values, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def scaled(images: Array) -> Array:
    """Lab ``[..., 3]`` as networks see it: L / 50 - 1, a / 110, b / 110, all within -1 and 1."""
    return images / _row([50, 110, 110], images, jnp) - _row([1, 0, 0], images, jnp)


def pool(images: Array, size: int) -> Array:
    """Means over square cells: ``[b, k size, k size, c] -> [b, size, size, c]``."""
    b, h, w, c = images.shape
    return images.reshape(b, size, h // size, size, w // size, c).mean((2, 4))


def every(images: Array, size: int) -> Array:
    """The upper left pixel of square cells: ``[b, k size, k size, c] -> [b, size, size, c]``."""
    return images[:, :: images.shape[1] // size, :: images.shape[2] // size]


@functools.cache
def ab_bins(grid: float) -> np.ndarray:
    """Centres ``[Q, 2]``, float64, of the square cells of side ``grid`` in which 8-bit sRGB has colours.

    One cell is centred on grey. The six faces of the cube hold them all: whatever lies inside has, at another
    lightness, its a and b on a face. Q is 969, 261, 126, 77 for grids of 5, 10, 15, 20, as from all 2^24 colours.
    """
    level = np.arange(256) / 255
    u, v = (a.reshape(-1) for a in np.meshgrid(level, level))
    faces = [np.insert(np.stack([u, v], 1), k, edge, axis=1) for k in range(3) for edge in (0.0, 1.0)]
    cells = np.round(_rgb_to_lab(np.concatenate(faces), np)[:, 1:] / grid).astype(np.int64)
    low, high = cells.min(), cells.max()
    occupied = np.unique((cells - low) @ [high - low + 1, 1])
    return (np.stack(np.divmod(occupied, high - low + 1), 1) + low) * float(grid)


def l_bins(lightness: Array) -> Array:
    """The bin, int32, of lightness of any shape: 50 bins of width 2, the last with both of its ends."""
    return jnp.clip(jnp.floor(lightness / (100 / L_BINS)), 0, L_BINS - 1).astype(jnp.int32)


def soft_encode(ab: Array, bins: np.ndarray, *, neighbours: int, sigma: float) -> tuple[Array, Array]:
    """Membership of the nearest bins, in proportion to ``exp(-distance^2 / (2 sigma^2))``.

    Args:
      ab: ``[..., 2]``.
      bins: centres ``[Q, 2]``.
      neighbours: how many of them take part; 1 is one-hot.
      sigma: of the Gaussian, in units of a and b.

    Returns:
      (memberships ``[..., Q]``, which sum to one; the nearest bin, int32 ``[...]``).
    """
    a, b = (jnp.asarray(c, ab.dtype).reshape((1,) * (ab.ndim - 1) + (-1,)) for c in bins.T)
    nearness = -jnp.square(ab[..., :1] - a) - jnp.square(ab[..., 1:] - b)
    top, index = lax.top_k(nearness, neighbours)
    # The barrier keeps what is cheap in one loop from being computed again for each of Q bins: 15 times as fast.
    weight, index = lax.optimization_barrier((jax.nn.softmax(top / (2 * sigma**2)), index))
    number = jnp.arange(len(bins), dtype=jnp.int32).reshape(a.shape)
    parts = [jnp.where(index[..., k : k + 1] == number, weight[..., k : k + 1], 0) for k in range(neighbours)]
    return functools.reduce(jnp.add, parts), index[..., 0]


def rarity(prior: Array, mixing: float) -> Array:
    """Weights ``[Q]`` that favour rare bins: ``w ~ 1 / ((1 - mixing) p + mixing / Q)``, scaled so that E_p[w] = 1."""
    weight = 1 / ((1 - mixing) * prior + mixing / prior.size)
    return weight / (prior * weight).sum()


def annealed_mean(logits: Array, bins: np.ndarray, temperature: float) -> Array:
    """The colour ``[..., 2]`` of a distribution over bins ``[..., Q]`` sharpened to the power ``1 / temperature``.

    Between the mean (1), which is dull, and the mode (0), which is spotty.
    """
    p = jax.nn.softmax(logits / temperature)
    return jnp.einsum("...q,qc->...c", p, jnp.asarray(bins, p.dtype), precision=lax.Precision.HIGHEST)
