"""Jigsaw: in which of K known orders were the tiles of the image laid out?

    L = 1/(N m) sum_i sum_{j = 1..m} -log softmax(h([z_i,s(1), ..., z_i,s(t)]))_k,    s = S_k, k = k_ij ~ U{0..K-1}

z_i,a is the embedding of tile a of image i, S the set of permutations. Permutations are chosen far apart in Hamming
distance, so that no two differ in a swap of two tiles that look alike. The trunk sees every tile alone, so the m
permutations that are asked of an image cost one pass over its tiles. The guards are those of ``relative_patch``.

Reference: Noroozi and Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
sections 3 and 4, algorithm 1 (arXiv:1603.09246); several permutations per image: Kolesnikov et al. 2019, section 3
(arXiv:1901.09005).
Differs from the reference code: the sets are greedy in the smallest distance, then in the sum of distances; the
published ones are greedy in the mean, which leaves pairs 2 apart in a set of 100, where this one has 6. Colour is taken
from patches by default, in the code from images, as in ``relative_patch``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.methods.relative_patch import siamese
from ssl_jax.models.heads import MLP
from ssl_jax.parallel import row_keys
from ssl_jax.tasks import patches
from ssl_jax.types import Array, Axis, Method, Plan


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    grid: int = 3,
    permutations: int | None = None,
    per_image: int = 1,
    gap: int = 1,
    jitter: int = 2,
    colour: str = "grey",
    colour_rate: float = 0.66,
    colour_of: str = "patch",
    blur_rate: float = 0.0,
    blur_draw: str = "side",
    embed_dim: int = 1000,
    hidden: int = 4096,
) -> Method:
    """Jigsaw puzzles around ``encoder``, which sees tiles in training and whole images in ``encode``.

    Args:
      grid: tiles in a row, 2 or 3.
      permutations: K; None takes all 24 of 2 x 2 tiles, and of 3 x 3 the 72 that are 8 apart.
      per_image: m, permutations asked of every image; 8 to 16 in Kolesnikov et al.
      gap: pixels between the cells of the grid; the tiles' border lines do not meet.
      jitter: a tile lies 0 to so many pixels into its cell; 11 in the paper, of cells of 75.
      colour: what happens to some of the tiles: "grey", "drop" two of three channels, or "keep" them.
      colour_rate: the share of them to which that happens.
      colour_of: "patch": each tile by its own draw; "image": all tiles of an image or none.
      blur_rate: share of the tiles that are shrunk and enlarged again.
      blur_draw: how far: "side", the small side is uniform, or "pixels", their number is.
      embed_dim: width of a tile's embedding.
      hidden: width of the head's hidden layer.

    Raises:
      ValueError: an argument outside its meaning, more permutations than there are, or images too small for the grid
        and the encoder.
    """
    if grid not in (2, 3):
        raise ValueError(f"method.grid={grid} is not 2 or 3")
    if per_image < 1:
        raise ValueError(f"method.per_image={per_image} asks nothing; use 1 or more")
    tiles = grid * grid
    orders = permutation_set(tiles, permutations or {4: 24, 9: 72}[tiles])
    guards = patches.make_guards(
        plan, colour=colour, colour_rate=colour_rate, colour_of=colour_of, blur_rate=blur_rate, blur_draw=blur_draw
    )

    def questions(key, z, axis):
        labels = draw(key, len(z), per_image, len(orders), axis=axis)
        return shuffled(z, orders, labels).reshape(*labels.shape, -1), labels

    def pictures(cut, label, predicted):
        asked = shuffled(cut, orders, label[:, None])[:, 0]
        back = shuffled(asked, np.argsort(orders, axis=1), predicted[:, None])[:, 0]
        rows = {"input": asked, "put back as predicted": back, "target": cut}
        return {title: _mosaic(tiles, grid) for title, tiles in rows.items()}

    return siamese(
        encoder,
        MLP((hidden, len(orders)), norm=encoder.norm, dtype=encoder.dtype),
        patches.make_grid(encoder, plan, grid, gap=gap, jitter=jitter),
        guards,
        questions,
        pictures,
        joined=tiles,
        embed_dim=embed_dim,
        mean=mean,
        std=std,
    )


def draw(key: Array, number: int, per_image: int, permutations: int, *, axis: Axis = None) -> Array:
    """Labels int32 ``[number, per_image]``, uniform; those of row i come from its own key."""
    keys = row_keys(key, number, axis)
    return jax.vmap(lambda key: jax.random.randint(key, (per_image,), 0, permutations, jnp.int32))(keys)


def shuffled(tiles: Array, orders: np.ndarray, labels: Array) -> Array:
    """Tiles ``[b, t, ...]`` in the orders ``[K, t]`` that labels ``[b, m]`` name: ``[b, m, t, ...]``.

    Place j of order k holds tile ``orders[k, j]``; ``np.argsort(orders, axis=1)`` puts them back.
    """
    places = jnp.asarray(orders, jnp.int32)[labels]
    places = places.reshape(places.shape + (1,) * (tiles.ndim - 2))
    return jnp.take_along_axis(tiles[:, None], places, axis=2)


@cache
def permutation_set(tiles: int, count: int) -> np.ndarray:
    """``count`` permutations of ``tiles`` tiles, far apart in Hamming distance: ``[count, tiles]``, the first in order.

    72 of nine are the affine maps of the field of nine elements: any two agree in one place at most, distance 8, and no
    larger set has that. Otherwise greedy: next is always the one whose smallest distance to those chosen is largest,
    of those the one with the largest sum of distances, of those the first in the dictionary.

    Raises:
      ValueError: a count above the number of permutations, or below 2.
    """
    if not 2 <= count <= math.factorial(tiles):
        raise ValueError(
            f"method.permutations={count} but {tiles} tiles have {math.factorial(tiles)} orders; "
            f"use 2 to {math.factorial(tiles)}"
        )
    if (tiles, count) == (9, 72):
        return _affine()
    everything = np.array(list(itertools.permutations(range(tiles))), np.int8)
    places = np.ascontiguousarray(everything.T)  # one place after the other: ten times faster than row by row
    chosen = [0]
    smallest, total = np.full(len(everything), tiles, np.int8), np.zeros(len(everything), np.int32)
    while len(chosen) < count:
        distance = np.zeros(len(everything), np.int8)
        for place, tile in zip(places, everything[chosen[-1]], strict=True):
            distance += place != tile
        np.minimum(smallest, distance, out=smallest)
        total += distance
        farthest = np.flatnonzero(smallest == smallest.max())
        chosen.append(int(farthest[np.argmax(total[farthest])]))
    return everything[chosen].astype(np.int32)


def _affine() -> np.ndarray:
    """x -> a x + b, a != 0, on the field of nine elements u + v i, tile 3 u + v, with u and v mod 3 and i i = -1."""
    u, v = np.divmod(np.arange(9), 3)
    a, b = np.meshgrid(np.arange(1, 9), np.arange(9), indexing="ij")
    a, b = a.reshape(-1, 1), b.reshape(-1, 1)
    real = (u[a] * u[None] - v[a] * v[None] + u[b]) % 3
    imaginary = (u[a] * v[None] + v[a] * u[None] + v[b]) % 3
    found = (3 * real + imaginary).astype(np.int32)
    return found[np.lexsort(found.T[::-1])]


def _mosaic(tiles: Array, grid: int) -> Array:
    """Tiles ``[b, grid * grid, p, p, c]`` side by side: ``[b, grid p, grid p, c]``."""
    number, _, size, _, channels = tiles.shape
    tiles = tiles.reshape(number, grid, grid, size, size, channels)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(number, grid * size, grid * size, channels)
