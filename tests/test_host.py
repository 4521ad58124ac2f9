"""The TensorFlow form of the recipes against torchvision, NumPy and Pillow: sizes, boxes, draws and whole recipes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from scipy import stats

from ssl_jax.data.images import host, host_ops, published
from ssl_jax.data.images.recipes import Blur, Crop, Eval, Flip, Gray, Jitter, Noise, Solarize, View


@pytest.fixture(scope="module")
def torchvision():
    """Values made by tests/oracles/make_augment.py."""
    with np.load(Path(__file__).parent / "oracles" / "augment.npz") as file:
        return dict(file)


def clipped(x):
    return np.clip(x, 0.0, 1.0)


# ---------------------------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize(interpolation):
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    x = np.random.default_rng(0).random((37, 29, 1)).astype(np.float32)
    for size in ((16, 12), (37, 29), (60, 44), (50, 20)):
        ours = host.resize(tf.constant(x), size, interpolation, antialias=True).numpy()[..., 0]
        pillow = np.asarray(Image.fromarray(x[..., 0]).resize(size[::-1], filters[interpolation]))
        # TensorFlow's plain bicubic op rounds positions to 1/1024 of a pixel.
        exact = interpolation == "bilinear" or size[0] < 37 or size[1] < 29
        np.testing.assert_allclose(ours, clipped(pillow), atol=1e-5 if exact else 1e-3)
        plain = host.resize(tf.constant(x), size, interpolation, antialias=False)
        assert plain.numpy().min() >= 0.0
        assert plain.numpy().max() <= 1.0
        np.testing.assert_allclose(plain, clipped(tf.image.resize(x, size, interpolation).numpy()), atol=1e-6)
    shrunk = [host.resize(tf.constant(x), (16, 12), interpolation, antialias=antialias) for antialias in (False, True)]
    assert np.abs(shrunk[0] - shrunk[1]).max() > 0.1


def whole(image):
    """shape= and crop= of an image that lies in memory."""
    x = tf.constant(image, tf.float32)

    def crop(box):
        out = tf.slice(x, tf.stack([box[0], box[1], 0]), tf.stack([box[2], box[3], x.shape[2]]))
        return tf.ensure_shape(out, (None, None, x.shape[2]))

    return {"shape": tf.constant(image.shape), "crop": crop}


def test_evaluation_as_torchvision(torchvision):
    """Resize(9) and CenterCrop(7) of images 12 high and 14 wide."""
    for name in ("bilinear", "bicubic"):
        for image, expected in zip(torchvision["images"], torchvision[f"resize_crop_{name}"], strict=True):
            ours = host.evaluate(Eval("resize_crop", 7 / 9, name), 7, **whole(image))
            np.testing.assert_allclose(ours, clipped(expected), atol=1e-5)


def test_evaluation_box():
    """SimCLR's centred box: 87.5 % of the short side, the odd pixel to the top and left."""
    known = {(256, 256): (16, 16, 224), (40, 57): (3, 11, 35), (57, 40): (11, 3, 35), (8, 8): (1, 1, 7)}
    for shape, (y, x, side) in known.items():
        image = np.random.default_rng(0).random((*shape, 1)).astype(np.float32)
        ours = host.evaluate(Eval("centre_crop", 0.875), side, **whole(image))
        np.testing.assert_allclose(ours, image[y : y + side, x : x + side], atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_centre_of_a_strip_is_cut_out_before_it_is_resized(monkeypatch, interpolation):
    """The same pixels, and nothing on the way is much larger than image and view; ordinary images keep their bits."""
    how = Eval("resize_crop", 28 / 32, interpolation)
    resized = record_sizes(monkeypatch)
    for shape in ((1, 2000), (2000, 1), (3, 500), (500, 3), (40, 800)):
        image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
        out = host.evaluate(how, 28, **whole(image)).numpy()
        assert max(resized) <= 28 * 800  # where it was 32 * 64000
        resized.clear()
        with monkeypatch.context() as before:
            before.setattr(host, "LONG", 10**9)
            np.testing.assert_allclose(out, host.evaluate(how, 28, **whole(image)), atol=1e-3)
        resized.clear()
    for height, width in ((40, 57), (600, 40), (9, 144)):
        image = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
        least = min(height, width)
        after = (32 * height // least, 32 * width // least)
        full = clipped(tf.image.resize(image, after, interpolation, antialias=min(height, width) > 32).numpy())
        top, left = (round((side - 28) / 2) for side in after)
        np.testing.assert_array_equal(host.evaluate(how, 28, **whole(image)), full[top : top + 28, left : left + 28])


def record_sizes(monkeypatch):
    """Pixels that each resize makes on its way: rows first, then columns."""
    seen = []
    resize, window = tf.image.resize, tf.raw_ops.ScaleAndTranslate

    def of_resize(image, size, *a, **kw):
        seen.append(max(int(size[0]) * int(image.shape[1]), int(size[0]) * int(size[1])))
        return resize(image, size, *a, **kw)

    def of_window(images, size, **kw):
        seen.append(max(int(size[0]) * int(images.shape[2]), int(size[0]) * int(size[1])))
        return window(images=images, size=size, **kw)

    monkeypatch.setattr(tf.image, "resize", of_resize)
    monkeypatch.setattr(tf.raw_ops, "ScaleAndTranslate", of_window)
    return seen


def test_what_is_very_wide_is_resized_on_its_side(monkeypatch):
    image = np.random.default_rng(0).random((2, 300, 3)).astype(np.float32)
    expected = host.resize(tf.constant(image), (20, 20)).numpy()
    monkeypatch.setattr(host, "MOST", 20 * 299)
    resized = record_sizes(monkeypatch)
    np.testing.assert_allclose(host.resize(tf.constant(image), (20, 20)), expected, atol=1e-5)
    assert resized == [20 * 20]


def test_evaluation_box_of_byol():
    """Its side is cut to whole pixels: 37 of 43, of which 87.5 % are 37.625, where SimCLR has 38."""
    image = np.random.default_rng(0).random((43, 50, 1)).astype(np.float32)
    for name, (y, x, side) in {"byol": (3, 7, 37), "simclr": (3, 6, 38)}.items():
        ours = host.evaluate(published.get(name).evaluate, side, **whole(image))
        np.testing.assert_allclose(ours, image[y : y + side, x : x + side], atol=1e-6)


def test_evaluation_whole():
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(host.evaluate(published.get("simclr_cifar").evaluate, 32, **whole(image)), image)
    assert host.evaluate(published.get("digits").evaluate, 8, **whole(image)).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="no evaluation view 'center'; known"):
        host.evaluate(Eval("center"), 8, **whole(image))


# ----------------------------------------------------------------------------------------------------------- crops

DRAWS = 8_000


def over_seeds(f, n, first=0):
    """f(seed) for n seeds, in one tf.data map: array [n, ...]."""
    data = tf.data.Dataset.range(first, first + n).map(lambda i: f(tf.stack([i, i * 7 + 1]))).batch(n)
    return next(iter(data)).numpy()


@functools.cache
def draw_boxes(crop, height, width, n=DRAWS):
    return over_seeds(lambda seed: host.sample_box(crop, seed, tf.constant([height, width, 3])), n)


def parts_of(boxes, height, width):
    y, x, h, w = boxes.T
    assert (y >= 0).all()
    assert (x >= 0).all()
    assert (h > 0).all()
    assert (w > 0).all()
    assert (y + h <= height).all()
    assert (x + w <= width).all()
    return {"y": y, "x": x, "h": h, "w": w, "area": h * w / (height * width), "aspect": w / h}


@pytest.mark.parametrize(
    ("height", "width"),
    [(60, 300), (224, 224), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((32, 32), (200, 48)))],
)
def test_crop_as_torchvision(torchvision, height, width):
    """Kolmogorov-Smirnov distance, at the oracle's quantiles, of every coordinate, of area and of aspect."""
    parts = parts_of(draw_boxes(Crop(sampler="torch"), height, width), height, width)
    for part, values in parts.items():
        at, expected = torchvision[f"box_{height}_{width}_{part}"]
        ours = np.searchsorted(np.sort(values), at, side="right") / DRAWS
        assert np.abs(ours - expected).max() < 1.95 * np.sqrt(1 / DRAWS + 1 / 50_000), part  # 0.1 % level
    assert abs(parts["area"].mean() - torchvision[f"box_{height}_{width}_mean_area"]) < 0.01


def test_crop_torch_fallback():
    """No try fits: the largest centred box of an allowed aspect; the whole image where its own aspect is allowed."""
    for (height, width), box in (
        ((30, 300), (0, 110, 30, 80)),  # 2 x 3/4..4/3 of a strip never fits the height of a large area
        ((300, 30), (130, 0, 40, 30)),
    ):
        crop = Crop(area=(0.9, 1.0), aspect=(2.0, 8 / 3) if width > height else (3 / 4, 1.0), sampler="torch")
        boxes = np.unique(draw_boxes(crop, height, width, 50), axis=0)
        assert boxes.tolist() == [list(box)]
    boxes = draw_boxes(Crop(area=(1.5, 1.6)), 20, 21, 50)
    assert np.unique(boxes, axis=0).tolist() == [[0, 0, 20, 21]]


def byol_boxes(rng, height, width):
    """Grill et al.'s sampler in NumPy."""
    area = rng.uniform(0.08, 1.0, DRAWS) * height * width
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), DRAWS))
    w = np.minimum(np.rint(np.sqrt(area * aspect)).astype(int), width)
    h = np.minimum(np.rint(np.sqrt(area / aspect)).astype(int), height)
    return np.stack([rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w], 1)


def tf_boxes(rng, height, width):
    """TensorFlow's sampler in NumPy: uniform aspect, uniform integer height, retried while too small."""
    out = []
    while len(out) < DRAWS:
        aspect = rng.uniform(3 / 4, 4 / 3)
        low = round(np.sqrt(0.08 * height * width / aspect))
        high = min(round(np.sqrt(height * width / aspect)), height)
        if round(high * aspect) > width:
            high = min(int((width + 0.5 - 1e-7) / aspect), height)
        h = rng.integers(min(low, high), high + 1)
        w = round(h * aspect)
        if not 0.1 * height * width <= h * w <= height * width or w > width:
            continue
        out.append((rng.integers(0, max(height - h, 1)), rng.integers(0, max(width - w, 1)), h, w))
    return np.array(out)


@pytest.mark.parametrize(("sampler", "reference"), [("byol", byol_boxes), ("tf", tf_boxes)])
@pytest.mark.parametrize(
    ("height", "width"),
    [(224, 224), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((32, 32), (200, 48)))],
)
def test_crop_as_numpy(sampler, reference, height, width):
    ours = parts_of(draw_boxes(Crop(sampler=sampler), height, width), height, width)
    expected = parts_of(reference(np.random.default_rng(0), height, width), height, width)
    for part in ours:
        assert stats.ks_2samp(ours[part], expected[part], method="asymp").statistic < 1.95 * np.sqrt(2 / DRAWS), part


def test_crop_means():
    """Mean areas at 224 pixels as measured on the official samplers: .481, .424 (never under .1) and .536."""
    for sampler, mean in (("torch", 0.481), ("tf", 0.424), ("byol", 0.536)):
        area = parts_of(draw_boxes(Crop(sampler=sampler), 224, 224), 224, 224)["area"]
        assert abs(area.mean() - mean) < 0.01
        assert area.min() > (0.099 if sampler == "tf" else 0.078)
        assert sampler == "tf" or area.min() < 0.09
    with pytest.raises(ValueError, match="no crop sampler 'pil'; known: torch, tf, byol"):
        host.sample_box(Crop(sampler="pil"), tf.constant([0, 0]), tf.constant([8, 8, 3]))


@pytest.mark.parametrize(
    ("size", "support", "radius"),
    [(224, "tenth", 11), (96, "tenth", 4), (32, "tenth", 1), (8, "tenth", 0), (32, "sigma", 8)],
)
def test_blur_kernel(size, support, radius):
    """A point of light spreads exactly as far as the recipe's kernel reaches."""
    point = np.zeros((size, size, 1), np.float32)
    point[size // 2, size // 2] = 1.0
    op = Blur(1.0, sigma=(2.0, 2.0), support=support)
    lit = np.flatnonzero(host._blur(tf.constant(point), op, tf.constant([3, 4])).numpy()[size // 2, :, 0])
    assert lit[-1] - lit[0] == 2 * radius


# ---------------------------------------------------------------------------------------------------- whole recipes

COVERING = ("byol", "flip", "moco_v1", "randaugment_cifar", "simclr")  # every operation and kind of crop


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        *((name, 3) for name in COVERING),
        *(("digits", 1), ("moco_v2", 1)),
        *(pytest.param(name, 3, marks=pytest.mark.slow) for name in sorted(set(published.RECIPES) - set(COVERING))),
        pytest.param("byol", 1, marks=pytest.mark.slow),
    ],
)
def test_every_recipe(name, channels):
    """Size, type, range; same seed same bits, other seed other image."""
    image = np.random.default_rng(0).random((24, 27, channels)).astype(np.float32)
    for view in dict.fromkeys(published.get(name).views):
        f = tf.function(lambda seed, view=view: host.augment(view, seed, 20, **whole(image)))
        out = [f(tf.constant(seed)).numpy() for seed in ((1, 2), (1, 2), (1, 3), (2, 2))]
        size = view.size or 20
        for x in out:
            assert x.shape == (size, size, channels)
            assert x.dtype == np.float32
            assert x.min() >= 0.0
            assert x.max() <= 1.0
        assert out[0].tobytes() == out[1].tobytes()
        if view.crop is not None:
            assert len({x.tobytes() for x in out}) == 3


TINY = ((1, 1), (1, 2000), (2000, 1), (3, 5000), (2, 1))


@pytest.mark.slow
def test_every_shape_has_a_box_and_an_evaluation_view():
    """At least one pixel, inside the image, for the boxes of every recipe, and some that are smaller still."""
    crops = {view.crop for recipe in published.RECIPES.values() for view in recipe.views if view.crop is not None}
    crops = {Crop(crop.area, crop.aspect, crop.sampler) for crop in crops}
    crops |= {Crop((0.001, 0.01), (0.3, 0.4), sampler) for sampler in ("torch", "tf", "byol")}
    shapes = tf.constant([(*shape, 3) for shape in TINY])
    for crop in crops:

        def box(i, crop=crop):
            return host.sample_box(crop, tf.stack([i, i * 7 + 1]), shapes[i % len(TINY)])

        found = next(iter(tf.data.Dataset.range(16 * len(TINY)).map(box).batch(16 * len(TINY)))).numpy()
        for k, shape in enumerate(TINY):
            parts_of(found[k :: len(TINY)], *shape)
    for how in {recipe.evaluate for recipe in published.RECIPES.values()} | {Eval("centre_crop", 0.3)}:
        for shape in TINY:
            image = np.full((*shape, 3), 0.5, np.float32)
            np.testing.assert_allclose(host.evaluate(how, 24, **whole(image)), np.full((24, 24, 3), 0.5), atol=1e-5)


def test_a_view_of_one_pixel():
    for view in published.get("byol").views:
        made = host.augment(
            view._replace(ops=()), tf.constant([0, 0]), 20, **whole(np.full((1, 1, 3), 0.3, np.float32))
        )
        np.testing.assert_allclose(made, np.full((20, 20, 3), 0.3), atol=1e-6)


def test_eager_and_mapped_views_are_the_same():
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    view = published.get("simclr_cifar").views[0]
    data = tf.data.Dataset.range(6).map(
        lambda i: host.augment(view, tf.stack([i, i]), 32, **whole(image)), num_parallel_calls=4
    )
    for i, mapped in enumerate(data):
        np.testing.assert_allclose(mapped, host.augment(view, tf.constant([i, i]), 32, **whole(image)), atol=2e-6)


def test_multi_crop():
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    view = View(Crop(area=(0.05, 0.14)), (Flip(),), size=12)
    assert host.augment(view, tf.constant([0, 0]), 32, **whole(image)).shape == (12, 12, 3)


MARK = {
    # an image on which an operation shows, and how to see it
    Flip: (np.arange(8.0).reshape(1, 8, 1).repeat(8, 0) / 8, Flip(0.3)),
    Gray: (np.random.default_rng(0).random((8, 8, 3)), Gray(0.3)),
    Blur: (np.random.default_rng(0).random((40, 40, 1)), Blur(0.3, (1.0, 2.0))),
    Solarize: (np.full((8, 8, 1), 0.9), Solarize(0.3)),
    Noise: (np.full((8, 8, 1), 0.5), Noise(0.1, 0.3)),
    Jitter: (np.random.default_rng(0).random((8, 8, 3)), Jitter(0.4, 0.4, 0.4, 0.1, 0.3)),
}


@pytest.mark.parametrize("kind", list(MARK))
def test_probability(kind):
    """Applied to a share p of the seeds, within 4 standard errors; always at p 1 and never at p 0."""
    image, op = MARK[kind]
    image = image.astype(np.float32)
    for p, n in ((0.3, 1200), (0.0, 100), (1.0, 100)):
        view = View(None, (op._replace(p=p),))
        out = over_seeds(lambda s, view=view: host.augment(view, s, len(image), **whole(image)), n)
        changed = (out != image).any(axis=(1, 2, 3))
        assert abs(changed.mean() - p) <= 4 * np.sqrt(p * (1 - p) / n)


def test_flip_mirrors():
    image = np.random.default_rng(0).random((6, 6, 3)).astype(np.float32)
    eight_bit = (image * 255).astype(np.uint8)
    ours = host.augment(View(None, (Flip(1.0),)), tf.constant([0, 0]), 6, **whole(eight_bit / np.float32(255)))
    mirrored = np.asarray(ImageOps.mirror(Image.fromarray(eight_bit)))
    np.testing.assert_array_equal(np.rint(ours.numpy() * 255).astype(np.uint8), mirrored)


def jitter_arguments(monkeypatch, op, n):
    """What host draws for n images: factors [n, 4] and orders [n, 4]."""

    def spy(image, *factors, flavour, additive):
        assert (flavour, additive) == (op.flavour, op.additive)
        *factors, order = factors
        return tf.concat([tf.stack(factors), tf.cast(order, tf.float32)], 0)

    monkeypatch.setattr(host_ops, "jitter", spy)
    out = over_seeds(lambda s: host._jitter(tf.zeros((4, 4, 3)), op._replace(p=1.0), s), n)
    return out[:, :4], out[:, 4:].astype(int)


def test_jitter_order_is_uniform(monkeypatch):
    """Chi-square over the 24 orders, 0.1 % level; and the order does not depend on the factors."""
    factors, orders = jitter_arguments(monkeypatch, published.get("simclr").views[0].ops[1], 6000)
    codes = orders @ (64, 16, 4, 1)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    for k in range(4):
        assert abs(np.corrcoef(factors[:, k], orders[:, 0])[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("op", "low", "high"),
    [
        (Jitter(0.8, 0.8, 0.8, 0.2), (0.2, 0.2, 0.2, -0.2), (1.8, 1.8, 1.8, 0.2)),
        (Jitter(0.4, 0.4, 0.2, 0.1, additive=True), (-0.4, 0.6, 0.8, -0.1), (0.4, 1.4, 1.2, 0.1)),
        (Jitter(1.5, 1.5, 1.5, 0.5, flavour="torch"), (0.0, 0.0, 0.0, -0.5), (2.5, 2.5, 2.5, 0.5)),
    ],
)
def test_jitter_factors_are_uniform(monkeypatch, op, low, high):
    factors, _ = jitter_arguments(monkeypatch, op, 3000)
    for k in range(4):
        scaled = (factors[:, k] - low[k]) / (high[k] - low[k])
        assert stats.kstest(scaled, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(factors.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.08


def test_operations_draw_by_name():
    """Another operation in the view, or another order, leaves every operation's own draws alone."""
    image = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    jitter, never = Jitter(0.4, 0.4, 0.4, 0.1, p=1.0), Solarize(1.0, threshold=2.0)
    for seed in ((0, 0), (5, 9)):
        alone = host.augment(View(Crop(), (jitter, Flip())), tf.constant(seed), 16, **whole(image))
        among = host.augment(View(Crop(), (never, jitter, Gray(0.0), Flip())), tf.constant(seed), 16, **whole(image))
        np.testing.assert_array_equal(alone, among)


def test_operations_draw_independently():
    """Which of flip, grey and solarize happen: the eight cases as often as independence says."""
    names = ("Crop", "Flip", "Jitter", "Gray", "Blur", "Solarize", "Noise")
    u = over_seeds(lambda s: tf.concat([host._uniform(s, name, 1) for name in names], 0), 5000)
    assert np.abs(np.corrcoef(u.T) - np.eye(len(names))).max() < 0.06
    for k in range(len(names)):
        assert stats.kstest(u[:, k], "uniform").pvalue > 1e-3


def test_operation_twice_is_refused():
    image = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="Gray occurs 2 times in one view"):
        host.augment(View(None, (Gray(), Flip(), Gray())), tf.constant([0, 0]), 8, **whole(image))
