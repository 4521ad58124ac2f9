"""Colour operations and blur as TensorFlow ops with explicit factors; what draws the factors is in ``host.py``.

Every image is float32 ``[h, w, c]`` in [0, 1], ``c`` 1 or 3 and static; a factor is a scalar tensor or number. Results
are clipped to [0, 1]. Where TensorFlow and torchvision mean different things by one word there are two functions.
"""

from __future__ import annotations

import itertools
from typing import Literal

from ssl_jax.tasks.colours import LUMA

ORDERS = tuple(itertools.permutations(range(4)))
"""The 24 orders of brightness (0), contrast (1), saturation (2), hue (3)."""


def _clip(image):
    import tensorflow as tf

    return tf.clip_by_value(image, 0.0, 1.0)


def grayscale(image):
    """The luma .2989 R + .587 G + .114 B in every channel; a one-channel image is its own."""
    import tensorflow as tf

    if image.shape[-1] == 1:
        return image
    mix = tf.constant([[weight] * 3 for weight in LUMA])  # a matrix product: slices of channels cost twice as much
    return tf.reshape(tf.reshape(image, (-1, 3)) @ mix, tf.shape(image))


def multiply_brightness(image, factor):
    """x -> factor * x (SimCLR v2, torchvision)."""
    return _clip(image * factor)


def add_brightness(image, delta):
    """x -> x + delta (SimCLR v1, BYOL)."""
    return _clip(image + delta)


def contrast_tf(image, factor):
    """x -> factor * (x - m) + m with m the mean of each channel."""
    import tensorflow as tf

    mean = tf.reduce_mean(image, axis=(0, 1), keepdims=True)
    return _clip(factor * (image - mean) + mean)


def contrast_torch(image, factor):
    """x -> factor * x + (1 - factor) * m with m one number, the mean of the grey image."""
    import tensorflow as tf

    mean = tf.reduce_mean(image, axis=(0, 1))
    grey = tf.reduce_sum(mean * tf.constant(LUMA)) if image.shape[-1] == 3 else mean  # both means are linear
    return _clip(factor * image + (1.0 - factor) * grey)


def saturation_tf(image, factor):
    """S -> clip(factor * S, 0, 1) in HSV."""
    import tensorflow as tf

    return _clip(tf.image.adjust_saturation(image, factor))


def saturation_torch(image, factor):
    """x -> factor * x + (1 - factor) * grayscale(x)."""
    return _clip(factor * image + (1.0 - factor) * grayscale(image))


def rotate_hue(image, delta):
    """H -> H + delta in HSV, delta in full turns; TensorFlow and torchvision agree."""
    import tensorflow as tf

    return _clip(tf.image.adjust_hue(image, delta))


def jitter(image, brightness, contrast, saturation, hue, order=None, *, flavour="tf", additive=False):
    """Brightness, contrast, saturation and hue with explicit factors, one after the other, clipped after each.

    Args:
      image: float32 ``[h, w, c]``; with one channel saturation and hue do nothing.
      brightness: factor, or shift when ``additive``; None leaves the operation out, as for the next three.
      contrast: factor.
      saturation: factor.
      hue: shift in turns.
      order: int32 ``[4]``, a permutation as in ``ORDERS``; None: as written.
      flavour: "tf" or "torch".
      additive: which brightness.

    Returns:
      float32 ``[h, w, c]``.
    """
    import tensorflow as tf

    torch = flavour == "torch"
    ops = [
        (add_brightness if additive else multiply_brightness, brightness),
        (contrast_torch if torch else contrast_tf, contrast),
        (saturation_torch if torch else saturation_tf, saturation if image.shape[-1] == 3 else None),
        (rotate_hue, hue if image.shape[-1] == 3 else None),
    ]

    def branch(image, op, factor):
        return lambda: image if factor is None else op(image, factor)

    for k in range(4):
        if order is None:
            image = branch(image, *ops[k])()
        else:  # four small switches cost half of one switch over the 24 orders
            image = tf.switch_case(order[k], [branch(image, *op) for op in ops])
    return image


def solarize(image, threshold=0.5):
    """x -> 1 - x where x >= threshold."""
    import tensorflow as tf

    return tf.where(image < threshold, image, 1.0 - image)


def gaussian_blur(image, sigma, radius, *, border="zero"):
    """Separable Gaussian blur: weights exp(-i^2 / 2 sigma^2), |i| <= radius, normalised to sum 1.

    Args:
      image: float32 ``[h, w, c]``, h and w static.
      sigma: standard deviation in pixels, scalar.
      radius: taps on each side of the centre, static int; 0 changes nothing.
      border: "zero" (what lies outside is black, so borders darken), "reflect" (needs h, w > radius) or "symmetric"
        (the mirror stands behind the last pixel, which is seen twice; needs h, w >= radius).

    Returns:
      float32 ``[h, w, c]``.
    """
    import tensorflow as tf

    if radius == 0:
        return image
    taps = tf.range(radius + 1, dtype=tf.float32)
    weights = tf.exp(-tf.square(taps) / (2.0 * tf.square(tf.cast(sigma, tf.float32))))
    weights /= 2.0 * tf.reduce_sum(weights) - 1.0
    mode = _PAD[border]
    return _blur_axis(_blur_axis(image, weights, 0, mode), weights, 1, mode)


_PAD: dict[str, Literal["CONSTANT", "REFLECT", "SYMMETRIC"]]
_PAD = {"zero": "CONSTANT", "reflect": "REFLECT", "symmetric": "SYMMETRIC"}


def _blur_axis(image, weights, axis: int, mode: Literal["CONSTANT", "REFLECT", "SYMMETRIC"]):
    """Shifted sums: a quarter of the time of a depthwise convolution at 32 pixels, the same at 224."""
    import tensorflow as tf

    radius, n = weights.shape[0] - 1, image.shape[axis]
    padded = tf.pad(image, [[radius, radius] if i == axis else [0, 0] for i in range(3)], mode)

    def shifted(by):
        rows = slice(radius + by, radius + by + n)
        return padded[rows] if axis == 0 else padded[:, rows]

    out = weights[0] * image
    for i in range(1, radius + 1):
        out += weights[i] * (shifted(-i) + shifted(i))
    return out
