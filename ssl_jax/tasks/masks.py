"""Which patches of an image are hidden: any so many (MAE), or blocks of them (iBOT, DINOv2).

Shapes are fixed, and every row of a batch draws from its own key, so that no mask depends on the number of devices.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.parallel import my_rows, named_key, num_shards, row_keys
from ssl_jax.types import Array, Axis

ATTEMPTS = 48  # blocks drawn for an image; without a limit 99 % want 30 or fewer on 8 x 8 to 16 x 16 patches


class Shown(NamedTuple):
    """Patches by their number in the grid, row by row.

    Attributes:
      kept: int32 ``[b, k]``, the patches that are shown, in random order.
      restore: int32 ``[b, n]``: at which place each patch stands in a row of the k kept ones and then the hidden ones.
      masked: bool ``[b, n]``, True where a patch is hidden.
    """

    kept: Array
    restore: Array
    masked: Array


def num_kept(n: int, ratio: float) -> int:
    """``floor(n (1 - ratio))`` of the decimal number that ``ratio`` is written as.

    In floating point ``int(100 * (1 - 0.9))`` is 9.

    Example:
      >>> num_kept(100, 0.9)
      10
    """
    return math.floor(n * (1 - Fraction(str(ratio))))


def shown_by(noise: Array, keep: int) -> Shown:
    """The ``keep`` patches with the least noise ``[b, n]``.

    Reference: He et al. 2022 (MAE, arXiv:2111.06377), appendix A.1: a random shuffle, and its inverse.
    """
    order = jnp.argsort(noise, axis=1).astype(jnp.int32)
    restore = jnp.argsort(order, axis=1).astype(jnp.int32)
    return Shown(order[:, :keep], restore, restore >= keep)


def random_shown(key: Array, n: int, patches: int, keep: int, axis: Axis = None) -> Shown:
    """``keep`` of the ``patches`` of each of ``n`` images, all alike."""
    draw = jax.vmap(lambda key: jax.random.uniform(key, (patches,), jnp.float32))
    return shown_by(draw(row_keys(key, n, axis)), keep)


def random_shares(
    key: Array, n: int, *, low: float = 0.1, high: float = 0.5, chance: float = 0.5, axis: Axis = None
) -> Array:
    """What share of each of ``n`` images is to be hidden, float32 ``[n]``: U(low, high) by that chance, else nothing.

    Reference: Zhou et al. 2022 (iBOT, arXiv:2111.07832), section 3.2 and its code: .3 with a spread of .2, half of the
    images.
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))
    coin, where = jnp.unstack(draw(row_keys(key, n, axis)), axis=1)
    return jnp.where(coin < chance, low + (high - low) * where, 0.0)


def stratified_shares(
    key: Array, n: int, *, low: float = 0.1, high: float = 0.5, chance: float = 0.5, axis: Axis = None
) -> Array:
    """As :func:`random_shares`, of exactly ``m = floor(chance N)`` of all N images, one in each m-th of the range.

    Reference: the code of Oquab et al. 2023 (DINOv2, arXiv:2304.07193).
    """
    total = n * num_shards(axis)
    m = math.floor(total * Fraction(str(chance)))
    place = my_rows(jax.random.permutation(named_key(key, "strata"), total), axis)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))
    where = (place.astype(jnp.float32) + draw(row_keys(key, n, axis))) / max(m, 1)
    return jnp.where(place < m, low + (high - low) * where, 0.0)


def block_masks(
    key: Array,
    shares: Array,
    grid: tuple[int, int],
    *,
    least: int = 4,
    most: int | None = None,
    aspect: float = 0.3,
    tries: int = 10,
    axis: Axis = None,
) -> Array:
    """Rectangles of patches that together hide about, and never more than, a share of each image.

    A block is drawn again and again: area from U(least, min(most, what is still wanted)), height over width log-uniform
    in [aspect, 1 / aspect], any place. It is taken if it is smaller than the grid on both sides and hides at least one
    more patch and no more than the area's bound; after ``tries`` failures in a row nothing more is taken.

    Args:
      shares: ``[b]`` of the patches that are to be hidden, in [0, 1].
      grid: patches down and across.
      least: ``(min(grid) // 3)^2`` in iBOT, 4 in DINOv2.
      most: None in iBOT, half of the patches in DINOv2.

    Returns:
      bool ``[b, n]``, True for a patch that is hidden.

    Reference: Bao et al. 2022 (BEiT, arXiv:2106.08254), algorithm 1, as the codes of iBOT and DINOv2 have it.
    Differs from the reference code: at most ``ATTEMPTS`` blocks are drawn for an image.
    """
    height, width = grid
    cell = jnp.arange(height * width, dtype=jnp.int32)
    down, across = cell // width, cell % width
    log_aspect = math.log(aspect)

    def one(key, share):
        wanted = share.astype(jnp.float32) * (height * width)

        def attempt(state, draws):
            hidden, failures = state
            bound = wanted - hidden.sum(dtype=jnp.float32)
            bound = bound if most is None else jnp.minimum(bound, most)
            area = jnp.maximum(least + draws[0] * (bound - least), 0)
            ratio = jnp.exp(log_aspect * (2 * draws[1] - 1))
            h, w = (jnp.round(jnp.sqrt(a)).astype(jnp.int32) for a in (area * ratio, area / ratio))
            top, left = (
                jnp.floor(u * (side - s + 1).astype(jnp.float32)).astype(jnp.int32)
                for u, side, s in ((draws[2], height, h), (draws[3], width, w))
            )
            block = (down >= top) & (down < top + h) & (across >= left) & (across < left + w)
            new = (block & ~hidden).sum(dtype=jnp.float32)
            taken = (h < height) & (w < width) & (new > 0) & (new <= bound) & (failures < tries)
            return (hidden | (block & taken), jnp.where(taken, 0, failures + 1)), None

        draws = jax.random.uniform(key, (ATTEMPTS, 4), jnp.float32)
        (hidden, _), _ = jax.lax.scan(attempt, (jnp.zeros(cell.shape, bool), jnp.int32(0)), draws)
        return hidden

    return jax.vmap(one)(row_keys(key, len(shares), axis), shares)
