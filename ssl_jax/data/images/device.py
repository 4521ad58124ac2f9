"""A recipe carried out by JAX on the device, inside the train step: the counterpart of ``host.py``, without TensorFlow.

First all random numbers of a view are drawn, a few for each row (:func:`draw`), then each image is made from its
numbers (:func:`render`). Row r draws from ``fold_in(key, global r)``, so that its view depends neither on the rows
beside it nor on the number of devices; each operation draws from its own name, so adding one leaves the draws of the
others alone. The distributions are those of ``host.py``, the bits are not.

On a CPU images are made one by one: everything of an image stays in the cache, and what an image does not need (the
jitter of one row in five, the blur of one in two, three of the four colour operations in each place of a random order)
is not computed; resizing is a sum of the few lines under its kernel. On an accelerator they are made all at once,
resizing is two matrix products, and every choice is a select. Clipping after every colour operation, as the host does
it, rules out folding brightness, contrast and saturation into one affine form.

Differs from ``host.py`` in pixels by: bicubic without antialiasing, where TensorFlow rounds positions to 1/1024 of a
pixel (up to 1e-3); rounding (1e-6) elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax import parallel
from ssl_jax.data.images import device_ops as ops
from ssl_jax.data.images import randaugment
from ssl_jax.data.images.recipes import (
    Blur,
    Crop,
    Cutout,
    Flip,
    Gray,
    Jitter,
    Noise,
    Own,
    RandAugment,
    Recipe,
    Solarize,
    View,
)
from ssl_jax.data.images.values import check_view, named, own_operations
from ssl_jax.names import own, place, said_of
from ssl_jax.types import Array, Axis, Batch, Views

ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
LARGE = 128  # pixels of a side from which a blur by shifts is the faster one on a CPU
MISSED = 1e-9  # share of rows for which the "tf" sampler may run out of tries before TensorFlow's hundredth


def views(recipe: Recipe, image_size: int, *, one_by_one: bool | None = None, dtype: Any = jnp.float32) -> Views:
    """The on-device augmentation of a recipe, to be handed to ``make_train_step``.

    Args:
      recipe: one view is made for each of its ``views``.
      image_size: side in pixels of the views that do not say another.
      one_by_one: make images one after the other instead of all at once; None: on a CPU.
      dtype: of the factors of the matrix products in resizing and blur; bfloat16 costs half a grey level.

    Returns:
      ``views(batch, key, axis) -> batch`` with ``"views"``: (float32 ``[b, s, s, c]`` in [0, 1], ...). They are made of
      ``"image"``, uint8 ``[b, h, w, c]``; or of ``"table"``, uint8 ``[n, h, w, c]``, and ``"index"``, int32 ``[b]``;
      or, where the host has cropped and resized, of ``"views"``, uint8. ``"table"`` and ``"image"`` are dropped. Of
      two parts, those of the second are made the same way under ``"unlabelled"``; one table serves both.

    Raises:
      ValueError: something is no operation or occurs twice in a view, a crop's sampler or interpolation is not known,
        or the file of a user's own operation is not there.
    """
    for view in (*recipe.views, *recipe.unlabelled):
        check_view(view)
    for op in own_operations(recipe).values():
        own(op.name, "operation")

    def make(batch: Batch, key: Array, axis: Axis) -> Batch:
        made = views_of(recipe.views, batch, key, axis)
        if not recipe.unlabelled:
            return made
        shared = {name: value for name, value in batch.items() if name == "table"}
        more = parallel.named_key(key, "unlabelled")
        return {**made, "unlabelled": views_of(recipe.unlabelled, batch["unlabelled"] | shared, more, axis)}

    def views_of(asked: Sequence[View], batch: Batch, key: Array, axis: Axis) -> dict[str, Any]:
        table, given = _images(batch)
        rest = {name: value for name, value in batch.items() if name not in ("table", "image", "views")}
        alone = parallel.platform() == "cpu" if one_by_one is None else one_by_one

        def local(axis, given):
            rows = len(jax.tree.leaves(given)[0])
            keys = [parallel.row_keys(jax.random.fold_in(key, v), rows, axis) for v in range(len(asked))]
            return tuple(
                _view(view, v, table, given, keys[v], image_size, alone=alone, dtype=dtype)
                for v, view in enumerate(asked)
            )

        # No row needs another, so no device waits for another.
        return rest | {"views": parallel.on_own_rows(local, axis, given)}

    return make


def check_own(recipe: Recipe, image_size: int, channels: int) -> None:
    """Refuse an operation of the user's own that does not make an image of an image, before anything is compiled.

    Raises:
      ValueError: one line, with the line of its file.
    """
    for view in (*recipe.views, *recipe.unlabelled):
        size = view.size or image_size
        image = jax.ShapeDtypeStruct((size, size, channels), jnp.float32)
        for op in (op for op in view.ops if isinstance(op, Own)):
            found = own(op.name, "operation")
            try:
                made = jax.eval_shape(partial(found.value, **dict(op.fields)), image, jax.random.key(0))
            except Exception as error:  # whatever the function does wrong
                said = f"{said_of(error)}{place(error, found.path)}"
                raise ValueError(
                    f"operation {op.name} fails: {said}; it is given float32{image.shape}, a key"
                ) from error
            shape, dtype = getattr(made, "shape", None), getattr(made, "dtype", type(made).__name__)
            if shape != image.shape or dtype != jnp.float32:
                raise ValueError(
                    f"operation {op.name} makes {dtype}{shape or ''} of an image float32{image.shape}; return its like"
                )


def _images(batch: Batch) -> tuple[Array | None, dict[str, Any]]:
    """(the table or None, what else views are made of, by row)."""
    if "table" in batch:
        return batch["table"], {"index": batch["index"]}
    for name in ("image", "views"):
        if name in batch:
            return None, {name: batch[name]}
    raise ValueError(f"a batch of {', '.join(sorted(batch))} holds no images; give image, views, or table and index")


def _view(view: View, v: int, table, given: dict[str, Any], keys: Array, image_size: int, *, alone: bool, dtype):
    """View number v of every row, float32 ``[b, s, s, c]``."""
    size = view.size or image_size
    cropped = "views" in given
    image = given["views"][v] if cropped else given.get("image")
    shape = (table if image is None else image).shape[1:]
    if cropped:
        view = view._replace(crop=None)
    drawn = draw(view, keys, shape, size)

    def one(row):
        picture = row["image"] if image is not None else table[row["index"]]
        return render(view, picture, row["drawn"], size, dtype=dtype, taps=alone)

    rows = {"drawn": drawn} | ({"index": given["index"]} if image is None else {"image": image})
    return lax.map(one, rows) if alone else jax.vmap(one)(rows)


# ------------------------------------------------------------------------------------------------- what is drawn


def draw(view: View, keys: Array, shape: tuple[int, ...], size: int) -> dict[str, Any]:
    """Everything random about a view, for each row.

    Args:
      view: what to do.
      keys: ``[b]``, one per row.
      shape: height, width and channels of the images.
      size: side of the view.

    Returns:
      By operation: ``"Crop"`` int32 ``[b, 4]`` (y, x, height, width); ``"<operation>"`` bool ``[b]``, whether it is
      done; and what it is done with, ``"factors"`` ``[b, 4]`` and ``"order"`` ``[b, 4]`` of the jitter, ``"sigma"``
      ``[b]`` of the blur, ``"std"`` ``[b]`` and ``"noise"`` (keys) of the noise, ``"cut"`` ``[b, 2]`` of the cutout,
      ``"<operation> key"`` (keys) of a user's own.
    """
    drawn: dict[str, Any] = {}
    if view.crop is not None:
        drawn["Crop"] = sample_boxes(view.crop, keys, *shape[:2])
    for op in view.ops:
        name = _name(op)
        u = _uniform(keys, name, 6)
        drawn[name] = u[:, 0] < op.p
        if isinstance(op, Jitter):
            low, high = (jnp.array(side, jnp.float32) for side in zip(*_ranges(op), strict=True))
            drawn["factors"] = _between(u[:, 1:5], low[None], high[None])
            if op.random_order:
                drawn["order"] = jnp.asarray(ORDERS)[_below(u[:, 5], jnp.int32(24))]
        elif isinstance(op, Blur):
            drawn["sigma"] = _between(u[:, 1], *op.sigma)
        elif isinstance(op, Noise):
            drawn["std"] = op.std * u[:, 1]
            drawn["noise"] = jax.vmap(parallel.named_key, (0, None))(keys, "Noise values")
        elif isinstance(op, RandAugment):
            drawn |= _draw_randaugment(op, keys, size)
        elif isinstance(op, Cutout):
            drawn["cut"] = u[:, 1:3]
        elif isinstance(op, Own):
            drawn[f"{name} key"] = jax.vmap(parallel.named_key, (0, None))(keys, f"{name} key")
    return drawn


def _name(op) -> str:
    """By which an operation draws."""
    return f"own {named(op)}" if isinstance(op, Own) else type(op).__name__


def _draw_randaugment(op: RandAugment, keys: Array, size: int) -> dict[str, Array]:
    """``"done"`` or not, ``"number"``, ``"value"``, ``"centre"`` of each of its operations, ``[b, count]`` and more."""
    u = _uniform(keys, "RandAugment operations", 6 * op.count).reshape(len(keys), op.count, 6)
    number = _below(u[..., 1], jnp.int32(len(randaugment.NAMES)))
    level = op.levels[0] + _below(u[..., 2], jnp.int32(op.levels[1] - op.levels[0] + 1))
    sign = jnp.where((jnp.asarray(randaugment.FAMILY)[number] == 2) & (u[..., 3] < 0.5), -1.0, 1.0)
    value = jnp.asarray(randaugment.strengths(size))[number, level] * sign
    return {"done": u[..., 0] < op.chance, "number": number, "value": value, "centre": u[..., 4:]}


def _ranges(op: Jitter) -> tuple[tuple[float, float], ...]:
    """Least and greatest factor of brightness, contrast, saturation and hue."""

    def around_one(half_width: float) -> tuple[float, float]:
        return max(0.0, 1.0 - half_width), 1.0 + half_width

    brightness = (-op.brightness, op.brightness) if op.additive else around_one(op.brightness)
    return brightness, around_one(op.contrast), around_one(op.saturation), (-op.hue, op.hue)


def sample_boxes(crop: Crop, keys: Array, height: int, width: int) -> Array:
    """A random box of each row's image, by the sampler of the crop.

    Args:
      crop: ranges and sampler.
      keys: ``[b]``.
      height: of the images, and width, in pixels.

    Returns:
      int32 ``[b, 4]``: y, x, height, width; at least one pixel.
    """
    sampler = {"torch": _boxes_torch, "tf": _boxes_tf, "byol": _boxes_byol}[crop.sampler]
    return jnp.stack(sampler(crop, keys, height, width), axis=-1)


def _boxes_torch(crop: Crop, keys: Array, height: int, width: int):
    """Ten tries at a box that fits, then the largest centred box of an allowed aspect."""
    tries = 10
    u = _uniform(keys, "Crop", 2 * tries + 2)
    w, h = _sides(crop, u[:, :tries], u[:, tries : 2 * tries], height, width)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    any_fits, (h, w) = _first(fits, h, w)
    h = jnp.where(any_fits, h, min(height, max(1, round(width / crop.aspect[0]))))
    w = jnp.where(any_fits, w, min(width, max(1, round(height * crop.aspect[1]))))
    y = jnp.where(any_fits, _below(u[:, -2], height - h + 1), (height - h) // 2)
    x = jnp.where(any_fits, _below(u[:, -1], width - w + 1), (width - w) // 2)
    return y, x, h, w


def _boxes_byol(crop: Crop, keys: Array, height: int, width: int):
    """One try; sides that are too long are cut to the image."""
    u = _uniform(keys, "Crop", 4)
    w, h = _sides(crop, u[:, 0], u[:, 1], height, width)
    w, h = jnp.clip(w, 1, width), jnp.clip(h, 1, height)
    return _below(u[:, 2], height - h + 1), _below(u[:, 3], width - w + 1), h, w


def _boxes_tf(crop: Crop, keys: Array, height: int, width: int):
    """TensorFlow's sampler, with the whole image as the object of which at least a tenth must be covered.

    Its hundred tries are cut to as many as leave one row in 1e9 without a box, seven for areas from .08 on.
    """
    grid = (np.arange(64, dtype=np.float32) + 0.5) / 64
    accepted = _tries_tf(np, crop, grid[:, None], grid[None], height, width)[0].mean()
    tries = (
        100 if accepted <= 0 else int(np.clip(math.ceil(math.log(MISSED) / math.log1p(-min(accepted, 0.999))), 1, 100))
    )
    u = _uniform(keys, "Crop", 2 * tries + 2)
    fits, h, w = _tries_tf(jnp, crop, u[:, :tries], u[:, tries : 2 * tries], height, width)
    any_fits, (h, w) = _first(fits, h, w)
    h, w = jnp.where(any_fits, h, height), jnp.where(any_fits, w, width)
    # TensorFlow never draws the last place.
    y = _below(u[:, -2], jnp.maximum(height - h, 1))
    x = _below(u[:, -1], jnp.maximum(width - w, 1))
    return y, x, h, w


def _tries_tf(xp, crop: Crop, u_aspect, u_height, height: int, width: int):
    """(whether the box is taken, its height, its width): a uniform aspect, then a uniform whole height of those that
    the areas allow; the height is moved by one where rounding leaves the areas."""

    def whole(x):
        return xp.round(x).astype(xp.int32)

    pixels = float(height * width)
    least, most = crop.area[0] * pixels, crop.area[1] * pixels
    aspect = _between(u_aspect, *crop.aspect)
    low, high = whole(xp.sqrt(least / aspect)), whole(xp.sqrt(most / aspect))

    def width_of(h):
        return whole(h.astype(xp.float32) * aspect)

    fitting = xp.floor((width + 0.5 - 1e-7) / aspect).astype(xp.int32)
    fitting = xp.where(width_of(fitting) > width, fitting - 1, fitting)
    high = xp.minimum(xp.where(width_of(high) > width, fitting, high), height)
    low = xp.minimum(low, high)
    h = low + xp.minimum((u_height * (high - low + 1).astype(xp.float32)).astype(xp.int32), high - low)
    h = xp.where((h * width_of(h)).astype(xp.float32) < least, h + 1, h)
    h = xp.where((h * width_of(h)).astype(xp.float32) > most, h - 1, h)
    w = width_of(h)
    area = (h * w).astype(xp.float32)
    fits = (area >= max(least, 0.1 * pixels)) & (area <= most) & (w > 0) & (w <= width) & (h > 0) & (h <= height)
    return fits, h, w


def _sides(crop: Crop, u_area: Array, u_aspect: Array, height: int, width: int) -> tuple[Array, Array]:
    """Width and height, int32, of boxes with uniform area and log-uniform aspect."""
    area = _between(u_area, *crop.area) * float(height * width)
    aspect = jnp.exp(_between(u_aspect, math.log(crop.aspect[0]), math.log(crop.aspect[1])))
    return jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32), jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)


def _first(fits: Array, *values: Array):
    """(whether any try ``[b, tries]`` fits, the values of the first that does)."""
    first = jnp.argmax(fits, axis=1)[:, None]
    return jnp.any(fits, axis=1), tuple(jnp.take_along_axis(v, first, axis=1)[:, 0] for v in values)


def _uniform(keys: Array, name: str, n: int) -> Array:
    """n numbers in [0, 1) for each row, float32 ``[b, n]``, which depend on its key and the name alone."""
    return jax.vmap(lambda key: jax.random.uniform(parallel.named_key(key, name), (n,), jnp.float32))(keys)


def _between(u, low, high):
    return low + u * (high - low)


def _below(u: Array, n: Array) -> Array:
    """An integer in [0, n) from u in [0, 1)."""
    return jnp.minimum((u * n.astype(jnp.float32)).astype(jnp.int32), n - 1)


# ------------------------------------------------------------------------------------------------- what is made of it


def render(
    view: View, image: Array, drawn: dict[str, Any], size: int, *, dtype: Any = jnp.float32, taps: bool = False
) -> Array:
    """One view of one image.

    Args:
      view: what to do.
      image: uint8 ``[h, w, c]``.
      drawn: one row of what :func:`draw` gives.
      size: side in pixels of the view.
      dtype: see :func:`views`.
      taps: resize, and blur what is large, by sums of a few lines instead of by matrix products.

    Returns:
      float32 ``[size, size, c]`` in [0, 1].
    """
    x = _cropped(view, image, drawn, size, dtype, taps)
    for op in view.ops:
        if isinstance(op, Flip) or op.p <= 0.0:  # the flip is part of the crop
            continue
        apply = _operation(op, drawn, size, dtype, taps)
        x = apply(x) if op.p >= 1.0 else lax.cond(drawn[_name(op)], apply, lambda x: x, x)
    return jnp.transpose(x, (2, 0, 1))


def _cropped(view: View, image: Array, drawn: dict[str, Any], size: int, dtype: Any, taps: bool) -> Array:
    """Crop, resize and flip at once, ``[size, c, size]``; nothing else cares which way round the image is."""
    h, w, _ = image.shape
    mirror = drawn.get("Flip")
    if view.crop is None and (h, w) == (size, size):
        if mirror is not None:
            image = jnp.where(mirror, image[:, ::-1], image)
        return jnp.transpose(image, (1, 2, 0)).astype(jnp.float32) * (1.0 / 255.0)
    box = jnp.array([0, 0, h, w], jnp.int32) if view.crop is None else drawn["Crop"]
    crop = view.crop or Crop()
    line = ops.resize_taps if taps else ops.resize_matrix
    rows = line(box[0], box[2], h, size, crop.interpolation, antialias=crop.antialias)
    columns = line(box[1], box[3], w, size, crop.interpolation, antialias=crop.antialias, mirror=mirror)
    return ops.resize(image, rows, columns, dtype=dtype)


def _operation(op, drawn: dict[str, Any], size: int, dtype: Any, taps: bool):
    """An operation with its factors, ``[w, c, h] -> [w, c, h]``."""
    if isinstance(op, Jitter):
        active = tuple(width != 0.0 for width in (op.brightness, op.contrast, op.saturation, op.hue))
        return lambda x: ops.jitter(
            x, drawn["factors"], drawn.get("order"), active, flavour=op.flavour, additive=op.additive
        )
    if isinstance(op, Blur):
        radius = size // 20 if op.support == "tenth" else min(size - 1, round(4 * op.sigma[1]))
        shifts = taps and size >= LARGE
        return lambda x: ops.gaussian_blur(x, drawn["sigma"], radius, border=op.border, dtype=dtype, taps=shifts)
    if isinstance(op, Gray):
        return ops.grayscale
    if isinstance(op, Solarize):
        return lambda x: ops.solarize(x, op.threshold)
    if isinstance(op, RandAugment):
        return lambda x: _randaugment(x, drawn, op.count)
    if isinstance(op, Cutout):
        return lambda x: _cutout(x, drawn["cut"], op.side)
    if isinstance(op, Noise):
        return lambda x: _noise(x, drawn["std"], drawn["noise"])
    if isinstance(op, Own):
        return lambda x: _own(x, op, drawn[f"{_name(op)} key"])
    raise ValueError(f"{type(op).__name__} is no operation of a view")


def _noise(x: Array, std: Array, key: Array) -> Array:
    return jnp.clip(x + std * jax.random.normal(key, x.shape, jnp.float32), 0.0, 1.0)


def _own(x: Array, op: Own, key: Array) -> Array:
    """The user's function of ``[h, w, c]``, clipped to [0, 1]; in here images lie on their side."""
    made = own(op.name, "operation").value(jnp.transpose(x, (2, 0, 1)), key, **dict(op.fields))
    return jnp.transpose(jnp.clip(made, 0.0, 1.0), (1, 2, 0))


def _cutout(x: Array, centre: Array, side: float) -> Array:
    """Grey where the square lies, in ``[w, c, h]``."""
    width, _, height = x.shape
    rows, columns = (randaugment.span(jnp, centre[i], n, side * n) for i, n in enumerate((height, width)))
    return jnp.where(columns[:, None, None] & rows[None, None], jnp.asarray(randaugment.FILL / 255, x.dtype), x)


def _randaugment(x: Array, drawn: dict[str, Any], count: int) -> Array:
    """Operations on whole levels of ``[h, w, c]``; in here images lie on their side."""
    x = jnp.floor(jnp.transpose(x, (2, 0, 1)) * 255 + 0.5)
    for slot in range(count):
        number, value, centre = (drawn[name][slot] for name in ("number", "value", "centre"))
        done = partial(randaugment.operation, x, number, value, centre)
        x = lax.cond(drawn["done"][slot], done, lambda x=x: x)
    return jnp.transpose(x / 255, (1, 2, 0))
