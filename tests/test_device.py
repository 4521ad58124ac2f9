"""The JAX form of the recipes against the TensorFlow form, op by op and in distribution, and over devices."""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import PartitionSpec as P
from PIL import Image, ImageFilter
from scipy import stats

from ssl_jax import parallel
from ssl_jax.data.images import device, device_ops, host, host_ops, published
from ssl_jax.data.images.recipes import Blur, Crop, Flip, Gray, Jitter, Noise, Recipe, Solarize, View

FACTORS = (0.0, 0.4, 1.0, 1.8)
HUES = (-0.5, -0.13, 0.0, 0.1, 0.5)


@pytest.fixture(scope="module")
def eight_bit():
    """A smooth image, one with a colour cast, noise, and one grey: uint8 [4, 12, 14, 3]."""
    with np.load(Path(__file__).parent / "oracles" / "augment.npz") as file:
        images = np.rint(file["images"] * 255).astype(np.uint8)
    return np.concatenate([images, images[2:, :, :, :1].repeat(3, -1)])


@pytest.fixture(scope="module")
def images(eight_bit):
    return eight_bit.astype(np.float32) / np.float32(255.0)


def inside(image):
    """[h, w, c] as the device has it, [w, c, h]."""
    return jnp.asarray(np.transpose(image, (1, 2, 0)))


def outside(image):
    return np.transpose(image, (2, 0, 1))


def make(recipe, size, batch, key, **how):
    """The views of a batch, compiled."""
    return jax.jit(lambda b, k: device.views(recipe, size, **how)(b, k, None))(batch, key)


def draws(view, n, shape, key):
    """What a view draws for n rows, without the keys of the noise."""
    found = device.draw(view, parallel.row_keys(key, n, None), shape, shape[0])
    return {name: value for name, value in found.items() if name != "noise"}


def draw(view, n, shape=(32, 32, 3)):
    return jax.device_get(jax.jit(lambda key: draws(view, n, shape, key))(jax.random.key(0)))


# ------------------------------------------------------------------------------------------------------ op by op


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def cut(image, box, size, interpolation, antialias, mirror=False, line=device_ops.resize_matrix):
    h, w, _ = image.shape
    mirror = jnp.array(mirror)
    rows = line(box[0], box[2], h, size, interpolation, antialias=antialias)
    columns = line(box[1], box[3], w, size, interpolation, antialias=antialias, mirror=mirror)
    return device_ops.resize(image, rows, columns)


BOXES = ((0, 0, 37, 29), (3, 1, 30, 28), (20, 11, 5, 7), (36, 28, 1, 1), (0, 5, 37, 2), (9, 0, 16, 16))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_crop_and_resize(interpolation, antialias):
    """Against the host, and bicubic against Pillow and jax.image, whose positions are not rounded to 1/1024 pixel."""
    image = np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8)
    for box in BOXES:
        y, x, h, w = box
        part = image[y : y + h, x : x + w].astype(np.float32) / 255
        ours = outside(cut(image, np.array(box, np.int32), 16, interpolation, antialias))
        theirs = host.resize(tf.constant(part), (16, 16), interpolation, antialias=antialias)
        shrinks = h > 16 or w > 16
        rounded = interpolation == "bicubic" and not (antialias and shrinks)
        np.testing.assert_allclose(ours, theirs, atol=2e-3 if rounded else 2e-6)
        exact = np.asarray(jax.image.resize(part, (16, 16, 3), "cubic", antialias=antialias))
        if interpolation == "bicubic":
            np.testing.assert_allclose(ours, np.clip(exact, 0, 1), atol=5e-6)
        if antialias:
            filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
            for c in range(3):
                pillow = np.asarray(Image.fromarray(part[..., c]).resize((16, 16), filters[interpolation]))
                np.testing.assert_allclose(ours[..., c], np.clip(pillow, 0, 1), atol=5e-6)
        for line in (device_ops.resize_matrix, device_ops.resize_taps):
            mirrored = outside(cut(image, np.array(box, np.int32), 16, interpolation, antialias, True, line))
            np.testing.assert_allclose(mirrored, ours[:, ::-1], atol=2e-6)


HOST = (host_ops.multiply_brightness, host_ops.contrast_tf, host_ops.saturation_tf, host_ops.rotate_hue)
TORCH = (host_ops.add_brightness, host_ops.contrast_torch, host_ops.saturation_torch)


@pytest.mark.parametrize("name", [f.__name__ for f in (*HOST, *TORCH)])
def test_colour_operation(images, name):
    ours, theirs = jax.jit(getattr(device_ops, name)), getattr(host_ops, name)
    for image in images:
        for factor in HUES if name in ("rotate_hue", "add_brightness") else FACTORS:
            got = outside(ours(inside(image), jnp.float32(factor)))
            np.testing.assert_allclose(got, theirs(tf.constant(image), factor), atol=2e-6, err_msg=f"{factor}")


@pytest.mark.parametrize(("flavour", "additive"), [("tf", False), ("tf", True), ("torch", False)])
def test_jitter_in_every_order(images, flavour, additive):
    """Factors strong enough that the clipping after each operation shows."""
    factors = (0.4 if additive else 1.7, 1.6, 1.5, -0.15)
    four = jnp.array(factors, jnp.float32)
    run = jax.jit(lambda x, order: device_ops.jitter(x, four, order, (True,) * 4, flavour=flavour, additive=additive))
    theirs = tf.function(
        lambda x, order: host_ops.jitter(x, *factors, order, flavour=flavour, additive=additive), reduce_retracing=True
    )
    late = 0.0
    for order in host_ops.ORDERS:
        for image in images[1:2]:
            ours = outside(run(inside(image), jnp.array(order, jnp.int32)))
            np.testing.assert_allclose(ours, theirs(tf.constant(image), tf.constant(order)), atol=5e-6)
            late = max(late, (ours == 1).mean())
    assert late > 0.1
    fixed = jax.jit(lambda x: device_ops.jitter(x, four, None, (True, False, True, True), flavour=flavour))(
        inside(images[1])
    )
    want = host_ops.jitter(tf.constant(images[1]), factors[0], None, *factors[2:], flavour=flavour)
    np.testing.assert_allclose(outside(fixed), want, atol=5e-6)


def test_one_channel(images):
    grey = images[2, :, :, :1]
    np.testing.assert_array_equal(device_ops.grayscale(inside(grey)), inside(grey))
    four, order = jnp.array((1.3, 0.6, 1.5, -0.15), jnp.float32), jnp.array((3, 1, 2, 0), jnp.int32)
    for flavour in ("tf", "torch"):
        run = jax.jit(lambda x, how=flavour: device_ops.jitter(x, four, order, (True,) * 4, flavour=how))
        ours = run(inside(grey))
        want = host_ops.jitter(tf.constant(grey), 1.3, 0.6, 1.5, -0.15, tf.constant(order), flavour=flavour)
        np.testing.assert_allclose(outside(ours), want, atol=2e-6)


def test_grayscale_and_solarize(images):
    for image in images:
        np.testing.assert_allclose(outside(device_ops.grayscale(inside(image))), host_ops.grayscale(image), atol=1e-6)
        np.testing.assert_array_equal(outside(device_ops.solarize(inside(image), 0.3)), host_ops.solarize(image, 0.3))


@pytest.mark.parametrize("taps", [False, True])
@pytest.mark.parametrize("border", ["zero", "reflect", "symmetric"])
@pytest.mark.parametrize(
    "radius", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow), 11]
)
def test_blur(images, border, radius, taps):
    blur = jax.jit(lambda x, sigma: device_ops.gaussian_blur(x, sigma, radius, border=border, taps=taps))
    for sigma in (0.1, 0.7, 2.0):
        for image in images[1:3, :12, :12]:
            ours = blur(inside(image), jnp.float32(sigma))
            theirs = host_ops.gaussian_blur(tf.constant(image), sigma, radius, border=border)
            np.testing.assert_allclose(outside(ours), theirs, atol=2e-6)


def test_the_blur_of_moco_is_pillows_up_to_the_border():
    """A picture that is bright at its border tells what lies outside: Pillow's boxes go on with the last pixel."""
    ramp = np.abs(np.linspace(-1, 1, 48)) ** 3
    image = np.broadcast_to(np.maximum(ramp[:, None], ramp[None])[..., None], (48, 48, 3)).astype(np.float32)
    pillow = Image.fromarray((image * 255).round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(2.0))

    def worst(border):
        ours = outside(
            jax.jit(partial(device_ops.gaussian_blur, radius=8, border=border))(inside(image), np.float32(2))
        )
        return np.abs(ours - np.asarray(pillow) / 255.0).max()

    (blur,) = (op for op in published.get("moco_v2").views[0].ops if isinstance(op, Blur))
    assert worst(blur.border) < 0.02 < 0.05 < worst("reflect")


# ---------------------------------------------------------------------------------------------------- whole views


def by_the_host(view, image, drawn, size):
    """A view by TensorFlow's ops with the numbers that the device drew for one row."""
    y, x, h, w = drawn["Crop"] if "Crop" in drawn else (0, 0, *image.shape[:2])
    out = tf.constant(image[y : y + h, x : x + w].astype(np.float32) / np.float32(255.0))
    how = {} if view.crop is None else {"interpolation": view.crop.interpolation, "antialias": view.crop.antialias}
    out = host.resize(out, (size, size), **how)
    for op in view.ops:
        if not drawn[type(op).__name__]:
            continue
        if isinstance(op, Flip):
            out = out[:, ::-1]
        elif isinstance(op, Jitter):
            widths = (op.brightness, op.contrast, op.saturation, op.hue)
            factors = [None if width == 0 else f for width, f in zip(widths, drawn["factors"], strict=True)]
            order = tf.constant(drawn["order"]) if op.random_order else None
            out = host_ops.jitter(out, *factors, order, flavour=op.flavour, additive=op.additive)
        elif isinstance(op, Gray):
            out = host_ops.grayscale(out)
        elif isinstance(op, Blur):
            radius = size // 20 if op.support == "tenth" else min(size - 1, round(4 * op.sigma[1]))
            out = host_ops.gaussian_blur(out, drawn["sigma"], radius, border=op.border)
        elif isinstance(op, Solarize):
            out = host_ops.solarize(out, op.threshold)
    return out.numpy()


COMPARED = {  # every operation and flavour, every kind of crop
    "simclr": 0,
    "byol": 1,
    "byol_cifar": 1,
    "moco_v1": 0,
    "moco_v2": 0,
    "triplet_cifar": 0,
}


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        *(("byol", 3), ("moco_v2", 3)),
        *(
            pytest.param(name, 3, marks=pytest.mark.slow)
            for name in ("simclr", "byol_cifar", "moco_v1", "triplet_cifar")
        ),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("simclr", "byol", "moco_v1")),
    ],
)
def test_view_as_the_host(name, channels):
    """The same numbers into both forms. Solarizing jumps at its threshold, where rounding decides."""
    small = np.random.default_rng(1).integers(0, 256, (8, 6, 9, channels))
    image = small.repeat(4, 1).repeat(3, 2).astype(np.uint8)
    key, size, view = jax.random.key(3), 20, published.get(name).views[COMPARED[name]]

    def made_and_drawn(batch, key):
        made = device.views(Recipe((view,)), size)(batch, key, None)["views"][0]
        return made, draws(view, 8, image.shape[1:], jax.random.fold_in(key, 0))

    ours, drawn = jax.device_get(jax.jit(made_and_drawn)({"image": image}, key))
    assert ours.dtype == np.float32
    for i in range(8):
        want = by_the_host(view, image[i], jax.tree.map(lambda a, i=i: a[i], drawn), size)
        plain_bicubic = view.crop is not None and view.crop.interpolation == "bicubic"
        off = np.abs(ours[i] - want) > (1e-2 if plain_bicubic else 1e-5)
        assert off.mean() <= (0.01 if any(isinstance(op, Solarize) for op in view.ops) else 0)


@pytest.mark.parametrize("name", sorted(published.RECIPES))
def test_every_recipe_can_be_made(name):
    for channels in (1, 3) if name in ("digits", "byol", "moco_v2") else (3,):
        image = jax.ShapeDtypeStruct((4, 24, 27, channels), np.uint8)
        batch = {"image": image} | ({"unlabelled": {"image": image}} if published.get(name).unlabelled else {})
        out = jax.eval_shape(lambda b, k: device.views(published.get(name), 20)(b, k, None), batch, jax.random.key(0))
        sizes = [view.size or 20 for view in published.get(name).views]
        assert [(v.shape, v.dtype) for v in out["views"]] == [((4, s, s, channels), np.float32) for s in sizes]


@pytest.mark.slow  # a smaller view of every operation: below
@pytest.mark.parametrize(("name", "channels"), [("digits", 1), ("byol_cifar", 3)])
def test_one_by_one_and_all_at_once_are_the_same(name, channels):
    image = np.random.default_rng(0).integers(0, 256, (8, 24, 24, channels), np.uint8)
    recipe = Recipe(published.get(name).views[1:])
    a, b = (
        np.asarray(make(recipe, 24, {"image": image}, jax.random.key(0), one_by_one=alone)["views"][0])
        for alone in (True, False)
    )
    assert a.min() >= 0.0
    assert a.max() <= 1.0
    assert (np.abs(a - b) > 1e-5).mean() < 1e-3
    assert len({x.tobytes() for x in a}) == 8


def test_half_precision_products_do_little_harm():
    image = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    recipe, key = Recipe((View(Crop(), (Flip(), Blur(0.5, border="reflect"))),)), jax.random.key(0)
    full, half = (
        make(recipe, 16, {"image": image}, key, dtype=dtype, one_by_one=False)["views"][0]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert 0 < np.abs(full - half).max() < 0.01
    assert np.abs(full - half).mean() < 0.5 / 255


def test_what_is_only_mirrored():
    """A whole image of the right size, mirrored or not, is the host's; multi-crop views have their own sizes."""
    image = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)
    small = View(Crop(area=(0.05, 0.14)), size=6)
    recipe = Recipe((View(None), View(None, (Flip(),)), small))
    out = make(recipe, 12, {"image": image, "label": np.arange(16)}, jax.random.key(0))
    assert sorted(out) == ["label", "views"]
    whole, flipped, cropped = map(np.asarray, out["views"])
    expected = image.astype(np.float32) / np.float32(255)
    np.testing.assert_allclose(whole, expected, atol=1e-7)  # XLA multiplies by 1 / 255
    turned = (flipped != whole).any(axis=(1, 2, 3))
    assert 0 < turned.sum() < 16
    np.testing.assert_array_equal(flipped, np.where(turned[:, None, None, None], whole[:, :, ::-1], whole))
    assert cropped.shape == (16, 6, 6, 3)


def test_views_that_the_host_has_cropped():
    """uint8 views in: the operations alone, with the numbers they would have had after a crop on the device."""
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8)
    ops = (Flip(), Jitter(0.4, 0.4, 0.4, 0.1))
    cropped = make(Recipe((View(Crop(), ops),)), 12, {"views": (image,)}, jax.random.key(0))["views"]
    whole = make(Recipe((View(None, ops),)), 12, {"image": image}, jax.random.key(0))["views"]
    np.testing.assert_array_equal(cropped[0], whole[0])


def test_what_is_refused():
    with pytest.raises(ValueError, match="Gray occurs 2 times in one view"):
        device.views(Recipe((View(None, (Gray(), Flip(), Gray())),)), 8)
    with pytest.raises(ValueError, match="no crop sampler 'pil'; known: torch, tf, byol"):
        device.views(Recipe((View(Crop(sampler="pil")),)), 8)
    with pytest.raises(ValueError, match="no interpolation 'nearest'; known: bilinear, bicubic"):
        device.views(Recipe((View(Crop(interpolation="nearest")),)), 8)
    with pytest.raises(ValueError, match="a batch of label holds no images"):
        device.views(published.get("none"), 8)({"label": np.arange(3)}, jax.random.key(0), None)


# ------------------------------------------------------------------------------------------------------ distribution

DRAWS = 6000


def boxes_of(crop, height, width, n=DRAWS):
    return draw(View(crop), n, (height, width, 3))["Crop"]


def parts_of(boxes, height, width):
    y, x, h, w = boxes.T
    assert min(y.min(), x.min()) >= 0
    assert min(h.min(), w.min()) > 0
    assert (y + h).max() <= height
    assert (x + w).max() <= width
    return {"y": y, "x": x, "h": h, "w": w, "area": h * w / (height * width), "aspect": w / h}


def host_boxes(crop, height, width, n):
    def one(i):
        return host.sample_box(crop, tf.stack([i, i * 7 + 1]), tf.constant([height, width, 3]))

    return next(iter(tf.data.Dataset.range(n).map(one).batch(n))).numpy()


@pytest.mark.parametrize("sampler", ["torch", "tf", "byol"])
@pytest.mark.parametrize(
    ("height", "width", "area"),
    [
        pytest.param(32, 32, (0.05, 0.14), marks=pytest.mark.slow),
        (60, 300, (0.08, 1)),
        pytest.param(200, 48, (0.08, 1), marks=pytest.mark.slow),
    ],
)
def test_boxes_as_the_host(sampler, height, width, area):
    """Kolmogorov-Smirnov, 0.1 % level, of every coordinate, of area and of aspect."""
    crop = Crop(area=area, sampler=sampler)
    n = DRAWS // 2
    ours = parts_of(boxes_of(crop, height, width, n), height, width)
    theirs = parts_of(host_boxes(crop, height, width, n), height, width)
    for part in ours:
        distance = stats.ks_2samp(ours[part], theirs[part], method="asymp").statistic
        assert distance < 1.95 * np.sqrt(2 / n), part


@pytest.mark.parametrize(("sampler", "mean"), [("torch", 0.481), ("tf", 0.424), ("byol", 0.536)])
def test_mean_areas(sampler, mean):
    """At 224 pixels, as measured on the official samplers; TensorFlow's covers at least a tenth."""
    area = parts_of(boxes_of(Crop(sampler=sampler), 224, 224), 224, 224)["area"]
    assert abs(area.mean() - mean) < 0.01
    assert area.min() > (0.099 if sampler == "tf" else 0.078)


@pytest.mark.parametrize(
    ("shape", "crop", "box"),
    [
        ((30, 300), Crop(area=(0.9, 1.0), aspect=(2.0, 8 / 3)), (0, 110, 30, 80)),
        ((300, 30), Crop(area=(0.9, 1.0), aspect=(3 / 4, 1.0)), (130, 0, 40, 30)),
        ((20, 21), Crop(area=(1.5, 1.6)), (0, 0, 20, 21)),
        ((20, 21), Crop(area=(0.01, 0.02), sampler="tf"), (0, 0, 20, 21)),
    ],
)
def test_where_no_box_fits(shape, crop, box):
    """The largest centred box of an allowed aspect ("torch"), the whole image ("tf")."""
    assert np.unique(boxes_of(crop, *shape, n=50), axis=0).tolist() == [list(box)]


@pytest.mark.parametrize("ranges", [((0.001, 0.01), (0.3, 0.4)), pytest.param((), marks=pytest.mark.slow)])
def test_a_box_has_at_least_one_pixel(ranges):
    crops = [Crop(*ranges)._replace(sampler=sampler) for sampler in ("torch", "tf", "byol")]
    shapes = [(1, 1), (1, 2000), (2000, 1), (3, 5000), (2, 1)]
    keys = jax.random.split(jax.random.key(0), 40)
    made = jax.jit(lambda keys: [[device.sample_boxes(crop, keys, *shape) for shape in shapes] for crop in crops])(keys)
    for boxes in made:
        for shape, found in zip(shapes, boxes, strict=True):
            parts_of(np.asarray(found), *shape)


def test_the_one_pixel_is_the_view():
    """As the host makes it."""
    view = View(Crop(sampler="byol", interpolation="bicubic", antialias=False))
    image = np.full((1, 1, 3), 77, np.uint8)

    @jax.jit
    def both(key):
        drawn = jax.tree.map(lambda x: x[0], device.draw(view, jax.random.split(key, 1), image.shape, 20))
        return [device.render(view, jnp.asarray(image), drawn, 20, taps=taps) for taps in (False, True)]

    for made in both(jax.random.key(0)):
        np.testing.assert_allclose(made, np.full((20, 20, 3), 77 / 255), atol=1e-6)


@pytest.mark.parametrize("taps", [False, True])
def test_a_strip_is_resized_along_its_length_first(taps):
    """The same pixels, and between the two products as little as can be."""
    image = np.random.default_rng(0).integers(0, 256, (2, 400, 3), np.uint8)
    box = jnp.array([0, 0, 2, 400], jnp.int32)
    line = device_ops.resize_taps if taps else device_ops.resize_matrix

    @jax.jit
    def lines(box):
        return [line(box[i], box[i + 2], n, 24, "bilinear", antialias=True) for i, n in enumerate((2, 400))]

    rows, columns = lines(box)
    made = jax.jit(device_ops.resize)(jnp.asarray(image), rows, columns)
    expected = host.resize(image / np.float32(255), (24, 24)).numpy()
    np.testing.assert_allclose(made, expected.transpose(1, 2, 0), atol=1e-5)
    shapes = [
        var.aval.size
        for eqn in jax.make_jaxpr(lambda x: device_ops.resize(x, rows, columns))(image).eqns
        for var in eqn.outvars
    ]
    assert max(shapes) <= image.size  # where it was 400 * 24 * 3


@pytest.mark.parametrize(
    ("op", "low", "high"),
    [
        (Jitter(0.8, 0.8, 0.8, 0.2), (0.2, 0.2, 0.2, -0.2), (1.8, 1.8, 1.8, 0.2)),
        (Jitter(0.4, 0.4, 0.2, 0.1, additive=True), (-0.4, 0.6, 0.8, -0.1), (0.4, 1.4, 1.2, 0.1)),
        (Jitter(1.5, 1.5, 1.5, 0.5, flavour="torch"), (0.0, 0.0, 0.0, -0.5), (2.5, 2.5, 2.5, 0.5)),
    ],
)
def test_jitter_draws(op, low, high):
    """Factors uniform in their ranges and independent; each of the 24 orders as often."""
    drawn = draw(View(None, (op,)), DRAWS)
    scaled = (drawn["factors"] - np.array(low)) / (np.array(high) - np.array(low))
    for k in range(4):
        assert stats.kstest(scaled[:, k], "uniform").pvalue > 1e-3
    counts = np.unique(drawn["order"] @ (64, 16, 4, 1), return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    together = np.column_stack([drawn["factors"], drawn["order"][:, 0], drawn["Jitter"]])
    assert np.abs(np.corrcoef(together.T) - np.eye(6)).max() < 0.06
    assert "order" not in draw(View(None, (op._replace(random_order=False),)), 4)


def test_probabilities_sigma_and_independence():
    kinds = (Flip(0.3), Gray(0.2), Blur(0.5), Solarize(0.1), Noise(0.4, 0.7))
    drawn = draw(View(Crop(), kinds), DRAWS)
    for op in kinds:
        assert abs(drawn[type(op).__name__].mean() - op.p) < 4 * np.sqrt(op.p * (1 - op.p) / DRAWS)
    assert stats.kstest((drawn["sigma"] - 0.1) / 1.9, "uniform").pvalue > 1e-3
    assert stats.kstest(drawn["std"] / 0.4, "uniform").pvalue > 1e-3
    everything = [drawn[type(op).__name__] for op in kinds] + [drawn["sigma"], drawn["std"], *drawn["Crop"].T[:2]]
    centred = np.corrcoef(np.stack(everything).astype(np.float64)) - np.eye(9)
    assert np.abs(centred[:7]).max() < 0.06  # places depend on each other through the side


def test_noise_is_normal():
    image = np.full((64, 16, 16, 1), 128, np.uint8)
    view = View(None, (Noise(0.1),))
    out = make(Recipe((view,)), 16, {"image": image}, jax.random.key(0))["views"][0]
    std = jax.jit(partial(draws, view, 64, (16, 16, 1)))(jax.random.fold_in(jax.random.key(0), 0))["std"]
    std = np.asarray(std)
    scaled = (np.asarray(out) - np.float32(128 / 255)) / std[:, None, None, None]
    assert stats.kstest(scaled.ravel(), "norm").pvalue > 1e-3


def test_operations_draw_by_name():
    jitter = Jitter(0.4, 0.4, 0.4, 0.1)
    alone, among = draw(View(Crop(), (jitter,)), 16), draw(View(Crop(), (Gray(), jitter, Flip())), 16)
    for name in ("Crop", "factors", "order", "Jitter"):
        np.testing.assert_array_equal(alone[name], among[name])


# ----------------------------------------------------------------------------------------------------------- devices

ROWS = 16
BIG = Recipe(
    (
        View(
            Crop(),
            (Flip(), Jitter(0.4, 0.4, 0, 0), Gray(), Blur(0.5, support="sigma", border="reflect"), Noise(0.1)),
        ),
        View(Crop(sampler="tf", interpolation="bicubic", antialias=False), (Solarize(0.2),), size=8),
    )
)
COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter", "collective-broadcast")


@pytest.fixture(scope="module")
def batch():
    table = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    index = np.random.default_rng(1).permutation(40)[:ROWS].astype(np.int32)
    return {"table": table, "index": index, "label": index % 3}


def over(devices, batch, recipe=BIG, **how):
    """The compiled views on a mesh, and a function of a key that runs them."""
    mesh = parallel.make_mesh(devices)
    made, placed = device.views(recipe, 16, **how), parallel.place(batch, mesh)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda b, k: made(b, k, None)).lower(placed, jax.random.key(5)).compile()
    return compiled, lambda seed: compiled(placed, jax.device_put(jax.random.key(seed), parallel.replicated(mesh)))


@pytest.fixture(scope="module")
def one_device(batch):
    return over(1, batch)[1]


@pytest.fixture(scope="module")
def on_one(one_device):
    return one_device(5)


@pytest.mark.parametrize("alone", [pytest.param(True, marks=pytest.mark.slow), False])
def test_eight_devices_make_what_one_makes_without_a_collective(batch, on_one, alone):
    first = 0 if alone else 1
    compiled, run = over(8, batch, Recipe(BIG.views[:1] if alone else BIG.views[1:] * 2), one_by_one=alone)
    assert not [word for word in COLLECTIVES if word in compiled.as_text()]
    out = run(5)
    assert sorted(out) == ["index", "label", "views"]
    for a, b in zip(on_one["views"][first : first + 1], out["views"][first:], strict=True):
        assert b.sharding.spec == P(parallel.DATA)
        np.testing.assert_allclose(a, b, atol=1e-6 if alone else 1e-5)
    if not alone:  # one view twice: each draws for itself
        one, other = map(np.asarray, out["views"])
        assert (np.abs(one - other).mean(axis=(1, 2, 3)) > 0.01).all()


def test_all_at_once_makes_what_one_by_one_makes(batch, on_one):
    made = make(Recipe(BIG.views[:1]), 16, batch, jax.random.key(5), one_by_one=False)["views"][0]
    off = np.abs(np.asarray(made) - np.asarray(on_one["views"][0])) > 1e-5
    assert off.mean() < 1e-3
    assert len({x.tobytes() for x in np.asarray(made)}) == ROWS


@pytest.mark.slow
def test_pmap_makes_what_one_makes(batch, on_one):
    rows = {"image": batch["table"][batch["index"]]}
    split = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), rows)
    first = Recipe(BIG.views[:1])
    out = jax.pmap(lambda b, k: device.views(first, 16)(b, k, "data"), axis_name="data", in_axes=(0, None))(
        split, jax.random.key(5)
    )
    for a, b in zip(on_one["views"][:1], out["views"], strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), atol=1e-6)


@pytest.mark.slow  # the images of the tests above are of these draws
def test_draws_have_the_same_bits_everywhere():
    def every_draw(key, axis, given):
        keys = parallel.row_keys(key, len(given["image"]), axis)
        drawn = [device.draw(view, keys, (16, 16, 3), 16) for view in BIG.views]
        return [{k: jax.random.key_data(v) if k == "noise" else v for k, v in d.items()} for d in drawn]

    found, rows, key = [], {"image": np.zeros((64, 1), np.uint8)}, jax.random.key(1)
    for devices in (1, 8):
        mesh = parallel.make_mesh(devices)
        with jax.set_mesh(mesh):
            run = jax.jit(lambda given, key: parallel.on_own_rows(partial(every_draw, key), None, given))
            found.append(run(parallel.place(rows, mesh), key))
    mapped = jax.pmap(lambda given, key: every_draw(key, "data", given), axis_name="data", in_axes=(0, None))
    split = mapped({"image": rows["image"].reshape(8, 8, 1)}, key)
    found.append(jax.tree.map(lambda a: a.reshape(64, *a.shape[2:]), split))
    assert len(jax.tree.leaves(found[0])) == 13
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


def test_the_same_twice_and_another_key(one_device, on_one):
    jax.tree.map(np.testing.assert_array_equal, on_one, one_device(5))
    assert all((a != b).any() for a, b in zip(on_one["views"], one_device(6)["views"], strict=True))


@pytest.mark.slow
def test_table_and_rows_are_the_same(batch):
    """Bit for bit, in programs as a run compiles them; XLA's older emitters, see conftest.py, round otherwise."""
    options = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else None
    recipe = Recipe((View(Crop(), (Flip(), Blur(0.5, support="sigma", border="reflect"))),))
    key, made = jax.random.key(5), jax.jit(lambda b, k: device.views(recipe, 16)(b, k, None)["views"])
    table = {name: batch[name] for name in ("table", "index")}
    rows = {"image": batch["table"][batch["index"]]}
    found = [made.lower(given, key).compile(options)(given, key) for given in (table, rows)]
    jax.tree.map(np.testing.assert_array_equal, *found)
