"""Patches of images for the tasks about their places: a grid with gaps and jitter, and guards against shortcuts.

Neighbours that touch can be told by the lines that cross their border, so there is a gap between them and each is
moved at random in its cell. Chromatic aberration tells how far a patch is from the lens's axis, so channels are
dropped or made grey. Brightness and contrast go with the place in a photograph, so every patch is standardised.

Reference: Doersch et al. 2015, "Unsupervised Visual Representation Learning by Context Prediction", section 3.1
(arXiv:1505.05192); Noroozi and Favaro 2016, section 4.2 (arXiv:1603.09246); Kolesnikov et al. 2019, section 3
(arXiv:1901.09005).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax.parallel import named_key, row_keys
from ssl_jax.tasks.colours import LUMA
from ssl_jax.types import Array, Axis, Plan

COLOURS = ("keep", "grey", "drop")
OF = ("patch", "image")
DRAWS = ("side", "pixels")


class Grid(NamedTuple):
    """Where the ``side * side`` patches of an image lie, row by row.

    Attributes:
      side: patches in a row.
      patch: side of a patch in pixels.
      jitter: a patch lies 0 to ``jitter`` pixels right of and below the corner of its cell, each as likely.
      gap: pixels between cells, so neighbours are ``gap`` to ``gap + 2 jitter`` pixels apart.
      corner: of the first cell, in pixels; the grid stands in the middle of the image.
    """

    side: int
    patch: int
    jitter: int
    gap: int
    corner: int

    @property
    def corners(self) -> np.ndarray:
        """Top left corners ``[side * side, 2]`` of the cells."""
        steps = self.corner + (self.patch + self.jitter + self.gap) * np.arange(self.side, dtype=np.int32)
        return np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)


def make_grid(encoder, plan: Plan, side: int, *, gap: int, jitter: int) -> Grid:
    """The largest grid that the run's images hold.

    Raises:
      ValueError: images that are not square, numbers below zero, patches too small for the encoder.
    """
    height, width = plan.input_shape[:2]
    if height != width:
        raise ValueError(f"patches are cut from square images and these are {height} x {width}; crop them")
    for name, value in {"gap": gap, "jitter": jitter}.items():
        if value < 0:
            raise ValueError(
                f"method.{name}={value} must not be negative; 0 leaves the shortcut it guards against open"
            )
    cell = (height - (side - 1) * gap) // side
    patch = cell - jitter
    if patch < encoder.min_size:
        enough = side * (encoder.min_size + jitter) + (side - 1) * gap
        raise ValueError(
            f"method.gap={gap} and method.jitter={jitter} leave patches of {max(patch, 0)} pixels of a {side} x {side} "
            f"grid on {height}-pixel images and {encoder.label} needs {encoder.min_size}; use data.image_size={enough}"
        )
    return Grid(side, patch, jitter, gap, (height - side * cell - (side - 1) * gap) // 2)


def make_guards(
    plan: Plan, *, colour: str, colour_rate: float, blur_rate: float, colour_of: str = "patch", blur_draw: str = "side"
):
    """``guards(key, patches, axis) -> patches``: colour and blur as the arguments of ``method`` say.

    Raises:
      ValueError: a guard that there is not, or that these images have no channels for.
    """
    if colour not in COLOURS:
        raise ValueError(f"method.colour={colour!r} is not one of {', '.join(COLOURS)}")
    for name, value, known in (("colour_of", colour_of, OF), ("blur_draw", blur_draw, DRAWS)):
        if value not in known:
            raise ValueError(f"method.{name}={value!r} is not one of {', '.join(known)}")
    for name, rate in {"colour_rate": colour_rate, "blur_rate": blur_rate}.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"method.{name}={rate} is no share of the patches; use 0 to 1")
    if colour != "keep" and plan.input_shape[-1] != 3:
        raise ValueError(
            f"method.colour={colour!r} needs images of 3 channels and these have {plan.input_shape[-1]}; "
            "use method.colour='keep'"
        )

    def guards(key: Array, patches: Array, axis: Axis = None) -> Array:
        patches = guard_colour(named_key(key, "colour"), patches, colour, colour_rate, of=colour_of, axis=axis)
        return blur(named_key(key, "blur"), patches, blur_rate, draw=blur_draw, axis=axis)

    return guards


def cut(key: Array, images: Array, grid: Grid, *, axis: Axis = None) -> Array:
    """The patches ``[b, side * side, p, p, c]`` of images ``[b, h, w, c]``; row i's jitter comes from its own key."""
    corners = jnp.asarray(grid.corners)
    shape = (grid.patch, grid.patch, images.shape[-1])

    def one(key, image):
        starts = corners + jax.random.randint(key, corners.shape, 0, grid.jitter + 1, jnp.int32)
        return jax.vmap(lambda s: lax.dynamic_slice(image, (s[0], s[1], jnp.int32(0)), shape))(starts)

    return jax.vmap(one)(row_keys(key, len(images), axis), images)


def guard_colour(
    key: Array, patches: Array, colour: str, rate: float, *, of: str = "patch", axis: Axis = None
) -> Array:
    """``rate`` of all patches ``[b, n, p, p, 3]``, or of all images, lose their colour.

    Args:
      colour: "grey": luma in every channel. "drop": one channel stays, the two others become its mean with Gaussian
        noise of a hundredth of its standard deviation. "keep": nothing.
      of: "patch", each by its own draw; or "image", all patches of an image by one: to cut a grey image is to make all
        its patches grey.
    """
    if colour == "keep":
        return patches
    number = patches.shape[1]

    def dropped(key, patch):
        which, noise = jax.random.split(key)
        kept = jnp.arange(3) == jax.random.randint(which, (), 0, 3)
        channel = jnp.sum(patch * kept.astype(patch.dtype)[None, None], -1, keepdims=True)
        others = channel.mean() + channel.std() / 100 * jax.random.normal(noise, patch.shape, patch.dtype)
        return jnp.where(kept[None, None], patch, others)

    def grey(key, patch):
        luma = jnp.sum(patch * jnp.asarray(LUMA, patch.dtype)[None, None], -1, keepdims=True)
        return jnp.broadcast_to(luma, patch.shape)

    change = {"drop": dropped, "grey": grey}[colour]

    def one(key, patch):
        hit, key = jax.random.bernoulli(named_key(key, "hit"), rate), named_key(key, "colour")
        return jnp.where(hit, change(key, patch), patch)

    keys = row_keys(key, len(patches), axis)
    if of == "image":
        return jax.vmap(jax.vmap(one, (None, 0)))(keys, patches)
    return jax.vmap(jax.vmap(one))(jax.vmap(lambda key: jax.random.split(key, number))(keys), patches)


def blur(key: Array, patches: Array, rate: float, *, draw: str = "side", axis: Axis = None) -> Array:
    """``rate`` of all patches ``[b, n, p, p, c]`` are shrunk and enlarged again, each by its own draw.

    Args:
      draw: "side": the small side is uniform from a tenth of the patch (100 pixels of 96 x 96), at least 2, to the
        whole. "pixels": the number of pixels is uniform, from the same tenth to the side less one, so that few patches
        lose much; as Doersch et al. have it, in the paper and in the code.
    """
    if not rate:
        return patches
    number, size = patches.shape[1:3]
    eye = jnp.eye(size, dtype=patches.dtype)
    least = max(2, round(size / 9.6))
    sides = range(least, size + 1)
    there_and_back = [
        jax.image.resize(jax.image.resize(eye, (side, size), "bilinear"), (size, size), "bilinear") for side in sides
    ]
    table = jnp.stack([eye, *there_and_back])  # resizing is linear in rows and columns alike

    def draws(key):
        hit, side = jax.random.split(key)
        if draw == "side":
            chosen = jax.random.randint(side, (number,), 1, len(table), jnp.int32)
        else:
            chosen = 1 + small_sides(side, number, least, size) - least
        return jnp.where(jax.random.bernoulli(hit, rate, (number,)), chosen, jnp.zeros_like(chosen))

    matrix = table[jax.vmap(draws)(row_keys(key, len(patches), axis))]
    return jnp.einsum("bnij,bnjkc,bnlk->bnilc", matrix, patches, matrix, precision=lax.Precision.HIGHEST)


def small_sides(key: Array, number: int, least: int, size: int) -> Array:
    """Whole sides, int32 ``[number]``, of squares whose pixels are uniform from ``least**2`` to ``(size - 1)**2``."""
    pixels = jax.random.uniform(key, (number,), jnp.float32, least**2, max(least, size - 1) ** 2)
    return jnp.floor(jnp.sqrt(pixels)).astype(jnp.int32)


def standardize(patches: Array) -> Array:
    """Every patch ``[..., p, p, c]`` minus its mean, over its standard deviation, over pixels and channels."""
    dims = (-3, -2, -1)
    centred = patches - patches.mean(dims, keepdims=True)
    # A flat patch has nothing to enlarge: half a step of 8 bits stands in for its deviation.
    return centred / jnp.maximum(jnp.sqrt(jnp.square(centred).mean(dims, keepdims=True)), 0.5 / 255)
