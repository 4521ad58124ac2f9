"""Which patches of an image are hidden: any so many (MAE), or blocks (iBOT, DINOv2, I-JEPA).

Shapes are fixed, and every row of a batch draws from its own key, so that no mask depends on the number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


def first_masked(masked: Array, most: int) -> tuple[Callable[[Array], Array], Array]:
    """The masked patches of each row, of which there are at most so many, filled up with others.

    Returns:
      (what takes them from ``[b, n, ...]``: ``[b, most, ...]``; which of those are masked, ``[b, most]``).
    """
    places = jnp.argsort(~masked, axis=1)[:, :most]

    def take(x: Array) -> Array:
        return jnp.take_along_axis(x, jnp.expand_dims(places, range(2, x.ndim)), axis=1)

    return take, take(masked)


def check_shares(grid: tuple[int, int], low: float, high: float, chance: float) -> int:
    """The most patches that are ever hidden of an image.

    Raises:
      ValueError: numbers that are no shares, or a grid so coarse that no patch is.
    """
    most = math.floor(grid[0] * grid[1] * Fraction(str(high)))
    if low > high:
        raise ValueError(f"method.mask_ratio={(low, high)} is the least and the most; the paper has (.1, .5)")
    if not 0 <= low <= 1 or not 0 <= high <= 1 or not 0 < chance <= 1 or most < 1:
        raise ValueError(
            f"method.mask_ratio={(low, high)} and mask_chance={chance} are no shares, or hide none of {grid[0]} x "
            f"{grid[1]} patches; the paper has (.1, .5) and .5, or use a smaller model.patch_size"
        )
    return most


def hidden_blocks(
    grid: tuple[int, int],
    ratio: Sequence[float],
    chance: float,
    *,
    choice: str = "random",
    least: int | None = None,
    most: float = 1.0,
) -> Callable[[Array, int, Axis], tuple[Array, Callable[[Array], Array], Array]]:
    """How a method hides blocks of patches, of its arguments ``mask_*`` and ``block_*``.

    Args:
      ratio, chance: least and largest share of an image's patches that are hidden, and share of such images.
      choice: "random" images (:func:`random_shares`, iBOT) or "stratified" (:func:`stratified_shares`, DINOv2).
      least: patches of the smallest block; None: ``(min(grid) // 3) ** 2``, as iBOT has it. DINOv2 has 4.
      most: share of the grid of the largest block; 1 in iBOT, .5 in DINOv2.

    Returns:
      ``(key, n, axis) -> (masked [n, patches], take, weights)``, of n images the patches that are hidden and what
      :func:`first_masked` gives.

    Raises:
      ValueError: an argument outside its meaning, or a grid so coarse that blocks hide far less than is asked.
    """
    if not isinstance(ratio, (tuple, list)) or len(ratio) != 2:
        raise ValueError(f"method.mask_ratio={ratio} is no pair of the least and the largest share, such as 0.1,0.5")
    if choice not in ("random", "stratified"):
        raise ValueError(f"method.mask_choice={choice!r} is not one of random, stratified")
    (low, high), patches = ratio, grid[0] * grid[1]
    slots = check_shares(grid, low, high, chance)
    if min(grid) < 2 or patches < 16:  # a block is smaller than the grid: on 3 x 3 two in a hundred images have none
        raise ValueError(
            f"blocks in a grid of {grid[0]} x {grid[1]} patches hide far less than method.mask_ratio={tuple(ratio)}; "
            "use a smaller model.patch_size, for 4 x 4 patches or more"
        )
    largest = math.floor(patches * Fraction(str(most)))
    least = (min(grid) // 3) ** 2 if least is None else least
    if not 0 < most <= 1 or not 0 <= least <= largest:
        raise ValueError(
            f"method.block_least={least} patches and block_most={most} of {grid[0]} x {grid[1]} leave no block; DINOv2 "
            "has 4 and .5"
        )
    shares_of = {"random": random_shares, "stratified": stratified_shares}[choice]

    def hide(key: Array, n: int, axis: Axis) -> tuple[Array, Callable[[Array], Array], Array]:
        shares = shares_of(named_key(key, "shares"), n, low=low, high=high, chance=chance, axis=axis)
        masked = block_masks(named_key(key, "masks"), shares, grid, least=least, most=largest, axis=axis)
        return masked, *first_masked(masked, slots)

    return hide


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


class Layout(NamedTuple):
    """What :func:`multi_block` may draw.

    Attributes:
      grid: patches down and across the image.
      targets, context: sizes ``[s, 2]`` of a block, height and width in patches, one as likely as the other.
      num_targets: target blocks of an image.
      max_context: patches of the context that are shown at most.
    """

    grid: tuple[int, int]
    targets: np.ndarray
    context: np.ndarray
    num_targets: int
    max_context: int


class Blocks(NamedTuple):
    """Patches by their number in the grid, row by row; rows are filled up with repeats, marked False.

    Attributes:
      context: int32 ``[b, k]``, in no order; present: bool ``[b, k]``.
      targets: int32 ``[b, m, t]``; wanted: bool ``[b, m, t]``.
    """

    context: Array
    present: Array
    targets: Array
    wanted: Array


def block_sizes(
    grid: tuple[int, int], scale: Sequence[float], aspect: Sequence[float], *, steps: int = 32
) -> np.ndarray:
    """Sizes of a block, int32 ``[steps^2, 2]``, one as likely as the other.

    ``h = round(sqrt(a r))`` and ``w = round(sqrt(a / r))``; the share ``a / (H W)`` and the aspect ``r`` are
    independent and uniform in their ranges, here ``steps`` evenly spaced values of each.
    """
    middle = (np.arange(steps) + 0.5) / steps
    area = grid[0] * grid[1] * (scale[0] + (scale[1] - scale[0]) * middle[:, None])
    ratio = aspect[0] + (aspect[1] - aspect[0]) * middle[None, :]
    sizes = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], -1).reshape(-1, 2)
    return np.clip(np.rint(sizes), 1, grid).astype(np.int32)


def multi_block(key: Array, n: int, layout: Layout, axis: Axis = None) -> Blocks:
    """Context and targets of ``n`` images.

    The size of the target blocks and that of the context block are drawn once for the whole batch, their places for
    each block of each image, every place in the grid as likely as another. The context is its block without the
    targets; of more than ``max_context`` patches a random part is kept.

    Reference: Assran et al. 2023, section 3, "Targets" and "Context"; appendix A.1, figure 5.
    Differs from the reference code: (1) Scale and aspect are independent; in the code one number drives both. (2) The
    code cuts the rows of a batch to its shortest context, dropping the last patches of
    the grid; here shapes are static, rows are filled up and masked, and a context that is too long loses patches at
    random. (3) The code's places end one before the border, so that the last row and column of patches are never
    used, and its blocks are smaller than the grid; here every patch can be in either. (4) The code draws a context
    again if 10 patches or fewer are left; here at least one is left, because sizes whose targets could cover a context
    are never drawn (none of those of the paper on 14 x 14, 1 % on 8 x 8).
    """
    (height, width), m = layout.grid, layout.num_targets

    def size(name: str, sizes: np.ndarray) -> Array:
        number = jax.random.randint(named_key(key, name), (), 0, len(sizes), jnp.int32)
        return jnp.asarray(sizes, jnp.int32)[number]

    target, context = size("target_size", layout.targets), size("context_size", layout.context)
    sizes = jnp.stack([target] * m + [context])
    places = jnp.asarray(layout.grid, jnp.int32)[None] - sizes + 1
    cell = jnp.arange(height * width, dtype=jnp.int32)
    down, across = cell // width, cell % width
    slot = jnp.arange(layout.targets.prod(1).max(), dtype=jnp.int32)
    wanted = slot < target[0] * target[1]

    def inside(corner, size):
        top, left = corner
        return (down >= top) & (down < top + size[0]) & (across >= left) & (across < left + size[1])

    def one(key):
        corner_key, order_key = jax.random.split(key)
        corners = jax.random.randint(corner_key, sizes.shape, 0, places, jnp.int32)
        *hidden, block = jax.vmap(inside)(corners, sizes)
        visible = block & ~jnp.stack(hidden).any(0)
        # Visible patches first, in random order.
        draws = jax.random.uniform(order_key, cell.shape, jnp.float32)
        seen = jnp.argsort(jnp.where(visible, draws, 2.0)).astype(jnp.int32)[: layout.max_context]
        present = visible[seen]
        top, left = corners[:m, :1], corners[:m, 1:]
        patches = (top + slot[None] // target[1]) * width + left + slot[None] % target[1]
        return Blocks(
            context=jnp.where(present, seen, seen[0]),
            present=present,
            targets=jnp.where(wanted[None], patches, patches[:, :1]),
            wanted=jnp.broadcast_to(wanted[None], patches.shape),
        )

    return jax.vmap(one)(row_keys(named_key(key, "places"), n, axis))
