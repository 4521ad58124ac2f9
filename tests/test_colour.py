"""The colour operations and the blur against torchvision's values, NumPy, SciPy, Pillow, colorsys and tf.image."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from scipy import ndimage

from ssl_jax.data.images import host_ops

FACTORS = (0.0, 0.2, 0.7, 1.0, 1.4, 1.8)
HUES = (-0.5, -0.2, 0.0, 0.1, 0.5)
LUMA = np.array([0.2989, 0.587, 0.114])


@pytest.fixture(scope="module")
def torchvision():
    """Values made by tests/oracles/make_augment.py."""
    with np.load(Path(__file__).parent / "oracles" / "augment.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def images(torchvision):
    """A smooth image, one with a colour cast, noise: float32 [3, 12, 14, 3]."""
    return torchvision["images"]


def grey(x):
    return np.sum(x * LUMA, axis=-1, keepdims=True)


def through_hsv(x, change):
    """colorsys pixel by pixel in float64."""
    out = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, p)))) for p in x.reshape(-1, 3)]
    return np.array(out).reshape(x.shape)


NUMPY_TF = (
    lambda x, f: x * f,
    lambda x, f: f * (x - x.mean((0, 1))) + x.mean((0, 1)),
    lambda x, f: through_hsv(x, lambda h, s, v: (h, min(max(f * s, 0.0), 1.0), v)),
    lambda x, f: through_hsv(x, lambda h, s, v: ((h + f) % 1.0, s, v)),
)
NUMPY_TORCH = (
    NUMPY_TF[0],
    lambda x, f: f * x + (1 - f) * grey(x).mean(),
    lambda x, f: f * x + (1 - f) * grey(x),
    NUMPY_TF[3],
)
OURS_TF = (host_ops.multiply_brightness, host_ops.contrast_tf, host_ops.saturation_tf, host_ops.rotate_hue)
OURS_TORCH = (host_ops.multiply_brightness, host_ops.contrast_torch, host_ops.saturation_torch, host_ops.rotate_hue)


def clipped(x):
    return np.clip(x, 0.0, 1.0)


@pytest.mark.parametrize("op", range(4))
def test_tf_flavour(images, op):
    of_tf = (None, tf.image.adjust_contrast, tf.image.adjust_saturation, tf.image.adjust_hue)[op]
    for image in images:
        for factor in HUES if op == 3 else FACTORS:
            ours = OURS_TF[op](tf.constant(image), factor).numpy()
            np.testing.assert_allclose(ours, clipped(NUMPY_TF[op](image.astype(np.float64), factor)), atol=1e-5)
            if of_tf is not None:
                np.testing.assert_allclose(ours, clipped(of_tf(image, factor).numpy()), atol=1e-5)


@pytest.mark.parametrize(("op", "name"), list(enumerate(("brightness", "contrast", "saturation", "hue"))))
def test_torch_flavour(torchvision, images, op, name):
    for i, factor in enumerate(HUES if op == 3 else FACTORS):
        for image, expected in zip(images, torchvision[name][i], strict=True):
            ours = OURS_TORCH[op](tf.constant(image), factor).numpy()
            np.testing.assert_allclose(ours, expected, atol=2e-6 if op < 3 else 1e-5)
            np.testing.assert_allclose(ours, clipped(NUMPY_TORCH[op](image.astype(np.float64), factor)), atol=1e-5)


def test_flavours_differ_where_they_should(images):
    """On the image with a colour cast, by the amounts that make them two functions."""
    cast = tf.constant(images[1])
    for tf_form, torch_form, least in (
        (host_ops.contrast_tf, host_ops.contrast_torch, 0.05),
        (host_ops.saturation_tf, host_ops.saturation_torch, 0.05),
    ):
        assert np.abs(tf_form(cast, 0.4) - torch_form(cast, 0.4)).max() > least


def test_brightness_added(images):
    for delta in (-0.4, 0.0, 0.3):
        ours = host_ops.add_brightness(tf.constant(images[2]), delta).numpy()
        np.testing.assert_allclose(ours, clipped(tf.image.adjust_brightness(images[2], delta).numpy()), atol=1e-6)


def test_grayscale(torchvision, images):
    for image, expected in zip(images, torchvision["gray"], strict=True):
        np.testing.assert_allclose(host_ops.grayscale(tf.constant(image)), expected, atol=1e-6)
    eight_bit = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    ours = host_ops.grayscale(tf.constant(eight_bit / 255, tf.float32)).numpy()[..., 0] * 255
    assert np.abs(ours - np.asarray(Image.fromarray(eight_bit).convert("L"), np.float64)).max() < 0.6  # Pillow rounds


def test_jitter_in_order(torchvision, images):
    """Four orders against torchvision, all 24 against NumPy in both flavours, clipping after each operation."""
    factors = (1.3, 0.6, 1.5, -0.15)
    orders = ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1))
    for order, expected in zip(orders, torchvision["jitter"], strict=True):
        for image, want in zip(images, expected, strict=True):
            ours = host_ops.jitter(tf.constant(image), *factors, tf.constant(order), flavour="torch")
            np.testing.assert_allclose(ours, want, atol=1e-5)
    x = images[2, :5, :6]
    assert sorted(set(host_ops.ORDERS)) == sorted(host_ops.ORDERS)
    assert len(host_ops.ORDERS) == 24
    seen = set()
    for flavour, ops in (("tf", NUMPY_TF), ("torch", NUMPY_TORCH)):
        run = tf.function(lambda order, f=flavour: host_ops.jitter(tf.constant(x), *factors, order, flavour=f))
        for order in host_ops.ORDERS:
            expected = x.astype(np.float64)
            for k in order:
                expected = clipped(ops[k](expected, factors[k]))
            ours = run(tf.constant(order)).numpy()
            np.testing.assert_allclose(ours, expected, atol=2e-5)
            seen.add(ours.tobytes())
    assert len(seen) > 24  # the orders are told apart
    fixed = host_ops.jitter(tf.constant(x), *factors, flavour="tf").numpy()
    np.testing.assert_array_equal(fixed, host_ops.jitter(tf.constant(x), *factors, tf.constant([0, 1, 2, 3])).numpy())


def test_one_channel(torchvision, images):
    """Brightness and contrast act, saturation, hue and greyscale do nothing."""
    x = tf.constant(images[2, :, :, :1])
    for factor, expected in zip(FACTORS, torchvision["contrast_gray"], strict=True):
        for form in (host_ops.contrast_torch, host_ops.contrast_tf):
            np.testing.assert_allclose(form(x, factor), expected, atol=1e-6)
    np.testing.assert_array_equal(host_ops.grayscale(x), x)
    for flavour in ("tf", "torch"):
        full = host_ops.jitter(x, 1.3, 0.6, 1.5, -0.15, tf.constant([3, 1, 2, 0]), flavour=flavour)
        np.testing.assert_allclose(full, host_ops.multiply_brightness(host_ops.contrast_tf(x, 0.6), 1.3), atol=1e-6)


def test_solarize():
    """On 8-bit values as Pillow does it with threshold 128, which is .5 here."""
    eight_bit = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ours = host_ops.solarize(tf.constant(eight_bit[..., None] / 255, tf.float32)).numpy()[..., 0]
    expected = np.asarray(ImageOps.solarize(Image.fromarray(eight_bit), 128))
    np.testing.assert_array_equal(np.rint(ours * 255).astype(np.uint8), expected)


@pytest.mark.parametrize(("border", "mode"), [("zero", "constant"), ("reflect", "mirror"), ("symmetric", "reflect")])
def test_blur(torchvision, images, border, mode):
    for r, radius in enumerate((1, 3, 8)):
        for s, sigma in enumerate((0.1, 0.5, 1.0, 2.0)):
            taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
            taps /= taps.sum()
            for i, image in enumerate(images):
                ours = host_ops.gaussian_blur(tf.constant(image), sigma, radius, border=border).numpy()
                expected = image.astype(np.float64)
                for axis in (0, 1):
                    expected = ndimage.correlate1d(expected, taps, axis=axis, mode=mode)
                np.testing.assert_allclose(ours, expected, atol=1e-6)
                if border == "reflect":
                    np.testing.assert_allclose(ours, torchvision["blur"][r, s, i], atol=1e-6)
