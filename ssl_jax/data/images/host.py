"""A recipe carried out by TensorFlow on the host, one image at a time, inside a ``tf.data`` map.

The box is drawn before the image is decoded, so that only the box need be decoded. All randomness is stateless: each
operation draws from the view's seed and its own name, so adding an operation leaves the draws of the others alone.

Images of any shape: a box has at least one pixel, and what lies between an image and its view is never much larger than
the two, however long and thin the image is.
"""

from __future__ import annotations

import math
import zlib

from ssl_jax.data.images import host_ops, randaugment
from ssl_jax.data.images.recipes import (
    Blur,
    Crop,
    Cutout,
    Eval,
    Flip,
    Gray,
    Jitter,
    Noise,
    Own,
    RandAugment,
    Solarize,
    View,
)
from ssl_jax.data.images.values import check_view

LONG = 16  # times the short side: from there on evaluation cuts out the centre before it resizes
MOST = 1 << 24  # pixels between the two halves of a resize, rows and then columns; where it is more, columns come first


def augment(view: View, seed, image_size: int, *, shape, crop):
    """One augmented view of one image.

    Args:
      view: what to do.
      seed: int ``[2]``, one per example and view.
      image_size: side of the view where ``view.size`` is None.
      shape: int32 ``[3]``, height, width and channels of the record.
      crop: int32 ``[4]`` (y, x, height, width) -> float32 ``[height, width, c]`` in [0, 1], with c static.

    Returns:
      float32 ``[size, size, c]`` in [0, 1].

    Raises:
      ValueError: something is no operation or occurs twice in the view, is a function of JAX, or the number of channels
        is not static.
    """
    check_view(view)
    for op in view.ops:
        if isinstance(op, Own):
            raise ValueError(
                f"operation {op.name} is a function of JAX, which runs on the device alone; set data.augment=device"
            )
    size = view.size or image_size
    if view.crop is None:
        image = resize(crop(_whole(shape)), (size, size))
    else:
        box = sample_box(view.crop, seed, shape)
        image = resize(crop(box), (size, size), view.crop.interpolation, antialias=view.crop.antialias)
    for op in view.ops:
        image = _APPLY[type(op)](image, op, seed)
    return _fixed(image, size)


def evaluate(recipe: Eval, image_size: int, *, shape, crop):
    """The deterministic view of evaluation; arguments and result as in :func:`augment`."""
    import tensorflow as tf

    size = image_size
    how = {"interpolation": recipe.interpolation, "antialias": recipe.antialias}
    if recipe.kind == "resize":
        image = resize(crop(_whole(shape)), (size, size), **how)
    elif recipe.kind == "centre_crop":
        side = recipe.fraction * tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
        side = tf.maximum(1, tf.cast(side, tf.int32) if recipe.truncate else _round(side))
        box = tf.stack([(shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2, side, side])
        image = resize(crop(box), (size, size), **how)
    elif recipe.kind == "resize_crop":
        short = round(size / recipe.fraction)
        least = tf.minimum(shape[0], shape[1])
        # Long strips come to more pixels than int32 counts.
        full = [short * tf.cast(side, tf.int64) // tf.cast(least, tf.int64) for side in (shape[0], shape[1])]
        corner = [tf.cast(tf.round(tf.cast(side - size, tf.float64) / 2.0), tf.int64) for side in full]

        def resize_then_crop():
            (height, width), (top, left) = ([tf.cast(x, tf.int32) for x in pair] for pair in (full, corner))
            return resize(crop(_whole(shape)), (height, width), **how)[top : top + size, left : left + size]

        def crop_then_resize():
            return _resized_window(crop, shape, full, corner, size, **how)

        image = tf.cond(tf.maximum(shape[0], shape[1]) > LONG * least, crop_then_resize, resize_then_crop)
    else:
        raise ValueError(f"no evaluation view {recipe.kind!r}; known: centre_crop, resize, resize_crop")
    return _fixed(image, size)


def resize(image, size, interpolation="bilinear", *, antialias=True):
    """Resize with pixel centres at half-integers, clipped to [0, 1] (bicubic overshoots).

    Args:
      image: float32 ``[h, w, c]``.
      size: (height, width), ints or int32 scalars.
      interpolation: "bilinear" or "bicubic" (Keys, a = -1/2).
      antialias: stretch the kernel by the shrinking factor.

    Returns:
      float32 ``[height, width, c]``.
    """
    import tensorflow as tf

    def plain():
        return tf.image.resize(image, size, interpolation)

    if antialias:
        # The antialiasing op is four times slower, and where nothing shrinks, as in crops of CIFAR, gives the same
        # (to 1e-3 for bicubic: the plain op rounds positions to 1/1024 of a pixel).
        now = tf.shape(image)
        shrinks = tf.logical_or(now[0] > size[0], now[1] > size[1])

        def antialiased():
            return tf.image.resize(image, size, interpolation, antialias=True)

        def turned():
            on_its_side = tf.transpose(image, (1, 0, 2))
            return tf.transpose(tf.image.resize(on_its_side, size[::-1], interpolation, antialias=True), (1, 0, 2))

        between = tf.cast(size[0], tf.int64) * tf.cast(now[1], tf.int64)
        wide = tf.logical_and(now[1] > now[0], between > MOST)
        out = tf.cond(shrinks, lambda: tf.cond(wide, turned, antialiased), plain)
    else:
        out = plain()
    return tf.clip_by_value(out, 0.0, 1.0)


def _resized_window(crop, shape, full, corner, size: int, interpolation: str, *, antialias: bool):
    """A window of what an image would be after a resize, made of the pixels under it alone.

    Equal to the slice of :func:`resize` up to rounding (1e-4; bicubic without antialiasing 1e-3).

    Args:
      crop: see :func:`augment`.
      shape: of the image.
      full: (height, width) of the whole resized image, int64 scalars.
      corner: (top, left) of the window in it.
      size: side of the window.
    """
    import tensorflow as tf

    starts, lengths, scales, shifts = [], [], [], []
    for side, after, begin in zip((shape[0], shape[1]), full, corner, strict=True):
        # In float64: a position in a long image has no exact place in float32, its distance from the window has.
        scale = tf.cast(after, tf.float64) / tf.cast(side, tf.float64)
        begin = tf.cast(begin, tf.float64)
        reach = 2.0 * tf.maximum(1.0 / scale, 1.0) + 1.0  # bicubic's kernel, and the pixel's own half
        start = tf.maximum(0, tf.cast(tf.floor(begin / scale - reach), tf.int32))
        stop = tf.minimum(side, tf.cast(tf.math.ceil((begin + size) / scale + reach), tf.int32))
        starts.append(start)
        lengths.append(stop - start)
        scales.append(tf.cast(scale, tf.float32))
        shifts.append(tf.cast(tf.cast(start, tf.float64) * scale - begin, tf.float32))
    out = tf.raw_ops.ScaleAndTranslate(
        images=crop(tf.stack([*starts, *lengths]))[None],
        size=[size, size],
        scale=tf.stack(scales),
        translation=tf.stack(shifts),
        kernel_type={"bilinear": "triangle", "bicubic": "keyscubic"}[interpolation],
        antialias=antialias,
    )
    return tf.clip_by_value(out[0], 0.0, 1.0)


def sample_box(crop: Crop, seed, shape):
    """A random box of an image, by the sampler of the crop.

    Args:
      crop: ranges and sampler.
      seed: int ``[2]``.
      shape: int32 ``[3]``.

    Returns:
      int32 ``[4]``: y, x, height, width; at least one pixel.
    """
    samplers = {"torch": _box_torch, "tf": _box_tf, "byol": _box_byol}
    if crop.sampler not in samplers:
        raise ValueError(f"no crop sampler {crop.sampler!r}; known: {', '.join(samplers)}")
    return samplers[crop.sampler](crop, seed, shape)


def _box_torch(crop: Crop, seed, shape):
    """Ten tries at a box that fits, then the largest centred box of an allowed aspect."""
    import tensorflow as tf

    tries = 10
    u = _uniform(seed, "Crop", 2 * tries + 2)
    full_h, full_w = shape[0], shape[1]
    widths, heights = _sides(crop, u[:tries], u[tries : 2 * tries], shape)
    fits = (widths > 0) & (widths <= full_w) & (heights > 0) & (heights <= full_h)
    first = tf.argmax(tf.cast(fits, tf.int32), output_type=tf.int32)
    any_fits = tf.reduce_any(fits)
    # width / height of the image clipped to the allowed range: the whole image where its own aspect is allowed
    fallback_w = tf.clip_by_value(_round(tf.cast(full_h, tf.float32) * crop.aspect[1]), 1, full_w)
    fallback_h = tf.clip_by_value(_round(tf.cast(full_w, tf.float32) / crop.aspect[0]), 1, full_h)
    h = tf.where(any_fits, heights[first], fallback_h)
    w = tf.where(any_fits, widths[first], fallback_w)
    y = tf.where(any_fits, _below(u[-2], full_h - h + 1), (full_h - h) // 2)
    x = tf.where(any_fits, _below(u[-1], full_w - w + 1), (full_w - w) // 2)
    return tf.stack([y, x, h, w])


def _box_byol(crop: Crop, seed, shape):
    """One try; sides that are too long are cut to the image."""
    import tensorflow as tf

    u = _uniform(seed, "Crop", 4)
    w, h = _sides(crop, u[0], u[1], shape)
    w, h = tf.clip_by_value(w, 1, shape[1]), tf.clip_by_value(h, 1, shape[0])
    return tf.stack([_below(u[2], shape[0] - h + 1), _below(u[3], shape[1] - w + 1), h, w])


def _box_tf(crop: Crop, seed, shape):
    """TensorFlow's sampler with the whole image as the object of which at least a tenth must be covered."""
    import tensorflow as tf

    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=_named(seed, "Crop"),
        min_object_covered=0.1,
        aspect_ratio_range=crop.aspect,
        area_range=crop.area,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def _sides(crop: Crop, u_area, u_aspect, shape):
    """Width and height, int32, of boxes with uniform area and log-uniform aspect."""
    import tensorflow as tf

    area = _between(u_area, *crop.area) * tf.cast(shape[0] * shape[1], tf.float32)
    aspect = tf.exp(_between(u_aspect, math.log(crop.aspect[0]), math.log(crop.aspect[1])))
    return _round(tf.sqrt(area * aspect)), _round(tf.sqrt(area / aspect))


def _flip(image, op: Flip, seed):
    import tensorflow as tf

    return _maybe(op.p, _uniform(seed, "Flip", 1)[0], image, lambda: tf.reverse(image, (1,)))


def _jitter(image, op: Jitter, seed):
    import tensorflow as tf

    u = _uniform(seed, "Jitter", 6)

    def around(one, u, half_width, least=-1.0):
        return None if half_width == 0.0 else _between(u, max(least, one - half_width), one + half_width)

    def apply():
        brightness = around(0.0, u[1], op.brightness) if op.additive else around(1.0, u[1], op.brightness, 0.0)
        contrast = around(1.0, u[2], op.contrast, 0.0)
        saturation = around(1.0, u[3], op.saturation, 0.0)
        hue = around(0.0, u[4], op.hue)
        order = tf.gather(tf.constant(host_ops.ORDERS), _below(u[5], 24)) if op.random_order else None
        return host_ops.jitter(
            image, brightness, contrast, saturation, hue, order, flavour=op.flavour, additive=op.additive
        )

    return _maybe(op.p, u[0], image, apply)


def _gray(image, op: Gray, seed):
    return _maybe(op.p, _uniform(seed, "Gray", 1)[0], image, lambda: host_ops.grayscale(image))


def _blur(image, op: Blur, seed):
    u = _uniform(seed, "Blur", 2)
    size = image.shape[0]
    radius = size // 20 if op.support == "tenth" else min(size - 1, round(4 * op.sigma[1]))
    sigma = _between(u[1], *op.sigma)
    return _maybe(op.p, u[0], image, lambda: host_ops.gaussian_blur(image, sigma, radius, border=op.border))


def _solarize(image, op: Solarize, seed):
    return _maybe(op.p, _uniform(seed, "Solarize", 1)[0], image, lambda: host_ops.solarize(image, op.threshold))


def _noise(image, op: Noise, seed):
    import tensorflow as tf

    u = _uniform(seed, "Noise", 2)

    def apply():
        noise = tf.random.stateless_normal(tf.shape(image), _named(seed, "Noise values"))
        return tf.clip_by_value(image + op.std * u[1] * noise, 0.0, 1.0)

    return _maybe(op.p, u[0], image, apply)


def draw_randaugment(op: RandAugment, seed, size: int):
    """For each operation: (whether it is done, its number, its value, the centre of a cutout), ``[count]`` and more."""
    import tensorflow as tf

    u = tf.reshape(_uniform(seed, "RandAugment operations", 6 * op.count), (op.count, 6))
    number = _below(u[:, 1], len(randaugment.NAMES))
    level = op.levels[0] + _below(u[:, 2], op.levels[1] - op.levels[0] + 1)
    moves = tf.gather(tf.constant(randaugment.FAMILY), number) == 2
    value = tf.gather_nd(tf.constant(randaugment.strengths(size)), tf.stack([number, level], axis=1))
    return u[:, 0] < op.chance, number, tf.where(moves & (u[:, 3] < 0.5), -value, value), u[:, 4:]


def _randaugment(image, op: RandAugment, seed):
    """By Pillow, which defines the operations: Python in the pipeline, so slower than the device's form."""
    import tensorflow as tf

    def by_pillow(image, done, number, value, centre):
        for slot in range(op.count):
            if done[slot]:
                image = randaugment.by_pillow(image, int(number[slot]), float(value[slot]), tuple(centre[slot]))
        return image

    def apply():
        levels = tf.cast(image * 255.0 + 0.5, tf.uint8)
        drawn = draw_randaugment(op, seed, image.shape[0])
        found = tf.numpy_function(by_pillow, (levels, *drawn), tf.uint8)
        return tf.cast(tf.ensure_shape(found, image.shape), tf.float32) / 255.0

    return _maybe(op.p, _uniform(seed, "RandAugment", 1)[0], image, apply)


def _cutout(image, op: Cutout, seed):
    import tensorflow as tf

    u, size = _uniform(seed, "Cutout", 3), image.shape[0]

    def apply():
        middle, half = tf.floor(u[1:] * size), math.floor(op.side * size / 2)
        lines = tf.range(size, dtype=tf.float32)
        rows, columns = ((lines >= middle[i] - half) & (lines < middle[i] + half) for i in range(2))
        return tf.where((rows[:, None] & columns)[..., None], randaugment.FILL / 255, image)

    return _maybe(op.p, u[0], image, apply)


_APPLY = {Flip: _flip, Jitter: _jitter, Gray: _gray, Blur: _blur, Solarize: _solarize, Noise: _noise}
_APPLY |= {RandAugment: _randaugment, Cutout: _cutout}


def _maybe(p: float, u, image, apply):
    """``apply()`` with probability p, else the image; no branch where p leaves no choice."""
    import tensorflow as tf

    if p <= 0.0:
        return image
    return apply() if p >= 1.0 else tf.cond(u < p, apply, lambda: image)


def _named(seed, name: str):
    """The seed of one name: int64 ``[2]``."""
    import tensorflow as tf

    return tf.cast(seed, tf.int64) + tf.constant([zlib.crc32(name.encode()), 0], tf.int64)


def _uniform(seed, name: str, n: int):
    """n numbers in [0, 1), float32 ``[n]``, which depend on the seed and the name alone."""
    import tensorflow as tf

    return tf.random.stateless_uniform((n,), _named(seed, name))


def _between(u, low, high):
    return low + u * (high - low)


def _below(u, n):
    """An integer in [0, n) from u in [0, 1); n may be a tensor."""
    import tensorflow as tf

    return tf.minimum(tf.cast(u * tf.cast(n, tf.float32), tf.int32), n - 1)


def _round(x):
    import tensorflow as tf

    return tf.cast(tf.round(x), tf.int32)


def _whole(shape):
    import tensorflow as tf

    return tf.stack([0, 0, shape[0], shape[1]])


def _fixed(image, size: int):
    """Tell TensorFlow the shape, which it loses in slices and conditionals."""
    if image.shape[-1] is None:
        raise ValueError("the number of channels is not known; crop must return [h, w, c] with c static")
    image.set_shape((size, size, image.shape[-1]))
    return image
