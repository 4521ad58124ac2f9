"""Views of several sizes, from the recipe to the method, on host and device."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
import runs
from PIL import Image

from ssl_jax import configs, methods, models
from ssl_jax.data import recipes
from ssl_jax.data.images import device, feed, published, values
from ssl_jax.data.images.recipes import Crop, Cutout, Eval, Flip, Jitter, Recipe, Solarize, View
from ssl_jax.data.source import Source
from ssl_jax.experiment import build

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def views_of(*sizes, rows=3):
    """View v of row r is r + v / 10 everywhere."""
    return tuple(
        np.broadcast_to((np.arange(rows) + v / 10)[:, None, None, None], (rows, size, size, 3)).astype(np.float32)
        for v, size in enumerate(sizes)
    )


def test_views_of_one_size_are_one_batch():
    views = views_of(8, 8, 4, 4, 4)
    groups, counts = methods.by_size({"views": views}, MEAN, STD)
    assert counts == [2, 3]
    assert [g.shape for g in groups] == [(6, 8, 8, 3), (9, 4, 4, 3)]
    want = [[(r + v / 10 - MEAN[1]) / STD[1] for r in range(3) for v in vs] for vs in ((0, 1), (2, 3, 4))]
    for group, numbers in zip(groups, want, strict=True):
        np.testing.assert_allclose(group[:, 1, 2, 1], numbers, rtol=1e-5)
    alone, (count,) = methods.by_size({"views": views[:2]}, MEAN, STD)
    assert count == 2
    np.testing.assert_array_equal(alone[0], groups[0])


def test_what_becomes_of_them_comes_apart_in_the_order_of_the_recipe():
    groups, counts = methods.by_size({"views": views_of(8, 8, 4, 4, 4)}, (0.0,), (1.0,))
    every = methods.joined([g[:, 0, 0] for g in groups], counts)
    assert every.shape == (15, 3)
    for v, view in enumerate(methods.view_by_view(every, 5)):
        np.testing.assert_allclose(view[:, 0], np.arange(3) + v / 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [((8,), "two views or more"), ((4, 4, 8), "sizes 4, 4, 8; order them"), ((8, 4, 8), "the largest views first")],
)
def test_views_that_cannot_be_grouped_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        methods.by_size({"views": views_of(*sizes)}, MEAN, STD)


# ------------------------------------------------------------------------------------------------ by key


def recipe_of(name, *keys):
    config = configs.load(runs.ROOT / "configs" / "simclr_digits.py", [f"data.recipe={name}", *keys])
    return recipes.of(config.data)


def test_any_recipe_has_small_views_by_key():
    two = published.get("simclr_cifar").views
    asked = ("data.views.local.count=6", "data.views.local.size=16", "data.views.local.crop.area=.05,.3")
    found = recipe_of("simclr_cifar", *asked, "data.views.global.crop.area=.3,1", "data.views.2.gray=null").views
    large = [view._replace(crop=view.crop._replace(area=(0.3, 1.0))) for view in two]
    small = two[1]._replace(crop=two[1].crop._replace(area=(0.05, 0.3)), size=16)
    assert list(found) == [*large, small._replace(ops=(*small.ops[:2], *small.ops[3:])), *[small] * 5]


def test_those_of_a_recipe_change_by_key():
    views = published.get("dino_cifar").views
    assert recipe_of("dino_cifar", "data.views.local.count=0").views == views[:2]
    assert recipe_of("dino_cifar", "data.views.local.count=7").views == (*views[:2], *views[2:3] * 7)
    found = recipe_of(
        "dino_cifar", "data.views.jitter.hue=0", "data.views.local.size=20", "data.views.local.jitter.hue=.3"
    ).views
    assert [view.size for view in found] == [None, None, 20, 20, 20, 20]
    assert [op.hue for view in found for op in view.ops if isinstance(op, Jitter)] == [0, 0, 0.3, 0.3, 0.3, 0.3]
    found = recipe_of("dino_cifar", "data.views.global.solarize.p=.5", "data.views.local.ops=...,cutout").views
    assert [op.p for view in found for op in view.ops if isinstance(op, Solarize)] == [0.5]
    assert [isinstance(view.ops[-1], Cutout) for view in found] == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("digits", "local.crop.area=.1,.2", "digits has no local views; say how many .*local.count=6 .*local.size=16"),
        ("digits", "local.count=2", "data.views.local.count=2: digits has no local views; say how large"),
        ("dino_cifar", "local.count=-1", "data.views.local.count=-1 must be from 0 to 100"),
        ("dino_cifar", "local.size=0", "data.views.local.size=0 must be 1 or more"),
        ("dino_cifar", "local.count=1.5", "data.views.local.count=1.5 must be a whole number"),
        ("dino_cifar", "local.cuont=4", r"data.views.local.cuont is unknown; did you mean .*local.count"),
        ("dino_cifar", "locla.count=4", r"data.views.locla is unknown; did you mean data.views.local\?"),
        ("dino_cifar", "local.solarize.p=.1", r"data.views.local.solarize: .* has no solarize, .*local.ops=...,solar"),
        ("dino_cifar", "global.count=4", r"data.views.global.count is unknown"),
        ("dino_cifar", "local.0.flip.p=1", r"data.views.local.0 is unknown"),
        ("dino_cifar", "local.crop.area=.3,.1", "must have the lower number first"),
    ],
)
def test_keys_that_cannot_be_are_refused(name, key, words):
    with pytest.raises(ValueError, match=words) as error:
        recipe_of(name, f"data.views.{key}")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ what cannot be


def test_a_view_of_its_own_size_that_is_not_smaller_is_refused():
    with pytest.raises(
        ValueError, match=r"view 2 of this recipe is of 96 pixels, not less than data.image_size=32; set "
    ):
        build(runs.config(data__recipe="swav", data__image_size=32))
    with pytest.raises(ValueError, match=r"view 2 of this recipe is of 16 pixels, not less than data.image_size=16"):
        values.check_sizes(published.get("dino_cifar"), 16)  # it would be one of the global views


def test_a_box_of_less_than_a_pixel_is_refused():
    recipe = Recipe((View(Crop((0.001, 1.0))),))
    values.check_sizes(recipe, 32, (5, 32, 32, 3))
    values.check_sizes(recipe, 8)  # of files, whose sizes are not known
    with pytest.raises(ValueError, match=r"view 0 .* from 0.001 of the area on, less than a pixel of images of 8 x 8"):
        values.check_sizes(recipe, 8, (5, 8, 8, 1))
    with pytest.raises(ValueError, match=r"less than a pixel of images of 8 x 8; use 0.016 or more"):
        build(runs.config(**{"data__views": {"crop": {"area": (0.001, 1.0)}}}))


VIT = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2}
ENCODERS = {
    "convnet": ({"widths": (8, 16), "strides": (1, 2)}, 32, 16),
    "resnet18": ({"stem": "cifar"}, 32, 16),
    "vit": ({"patch_size": 4, "width": 16, "depth": 1, "heads": 2}, 32, 16),
    "vit_learned": ({"patch_size": 4, "width": 16, "depth": 1, "heads": 2, "positions": "learned"}, 32, 16),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_takes_two_sizes(name):
    arguments, large, small = ENCODERS[name]
    encoder = models.make(name.split("_")[0], **arguments)
    models.check_sizes(encoder, (large, large, 3), (large, small))  # by shapes; the contract of methods trains on both


@pytest.mark.parametrize(
    ("name", "arguments", "size", "words"),
    [
        (
            "vit",
            VIT,
            4,
            "view 2 .*of 4 pixels, is too small for vit",
        ),
        ("vit", VIT, 12, "view 2 .*model.patch_size=8 does not cut"),
        ("mlp", {}, 16, "view 2 of data.recipe, of 16 pixels, cannot be taken by .*mlp.*made for 32 pixels"),
        ("convnet", {"widths": (8, 16, 32, 64), "strides": (2, 2, 2, 2)}, 8, "view 2 .* too small for convnet .* use "),
    ],
)
def test_a_view_that_an_encoder_cannot_take_is_refused(name, arguments, size, words):
    encoder = models.make(name, **arguments)
    with pytest.raises(ValueError, match=words) as error:
        models.check_sizes(encoder, (32, 32, 3), (32, 32, size, size))
    assert "\n" not in str(error.value)


def test_images_that_do_not_fit_are_not_blamed_on_a_view():
    words = "model.patch_size=8 does not cut images of 30 x 30 pixels into whole patches; use a divisor, or another"
    with pytest.raises(ValueError, match=f"^{words} data.image_size$"):
        models.check_sizes(models.make("vit", **VIT), (30, 30, 3), (30, 16))


# ------------------------------------------------------------------------------------------------ made


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)


CROPPED = Recipe(
    (View(Crop((0.3, 1.0)), (Flip(),)),) + (View(Crop((0.05, 0.3)), (Flip(),), 12),) * 2, Eval("resize", 1.0)
)


def test_the_device_makes_views_of_two_sizes_as_the_host_does(pictures):
    """Views of both sizes from the same numbers; parity of each operation is in test_device."""
    from test_device import by_the_host, draws

    local, key = published.get("ibot_cifar").views[2], jax.random.key(1)
    views = (CROPPED.views[0], local)

    def made_and_drawn(batch, key):
        drawn = [draws(v, 16, pictures.shape[1:], jax.random.fold_in(key, i)) for i, v in enumerate(views)]
        return device.views(Recipe(views), 32)(batch, key, None)["views"], drawn

    found, drawn = jax.device_get(jax.jit(made_and_drawn)({"image": pictures}, key))
    assert [view.shape[1] for view in found] == [32, 16]
    for v, (view, ours) in enumerate(zip(views, found, strict=True)):
        for i in range(3):
            want = by_the_host(view, pictures[i], jax.tree.map(lambda a, i=i: a[i], drawn[v]), view.size or 32)
            assert (np.abs(ours[i] - want) > 1e-2).mean() <= 0.01, (v, i)


def of_feed(source, mode="jit", **changes):
    data = runs.config(**{f"data__{k}": v for k, v in ({"image_size": 32} | changes).items()}).data
    found = feed.feed(source, CROPPED, data, seed=3, global_batch_size=8, mode=mode)
    batch = next(found.batches(total_steps=1))
    if found.views is None:
        return batch
    table = {} if found.table is None else {"table": found.table}
    return jax.device_get(jax.jit(lambda b, k: found.views(b, k, None))(batch | table, jax.random.key(0)))


@pytest.mark.slow
def test_every_way_makes_both_sizes(pictures):
    labels = np.zeros(16, np.int32)
    files = np.empty(16, object)
    for i, picture in enumerate(pictures):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        files[i] = file.getvalue()
    in_memory = Source({"image": pictures}, labels, ("a",), "random")
    encoded = Source({"encoded": files, "plain": np.zeros(16, bool)}, labels, ("a",), "png")
    table, rows = of_feed(in_memory), of_feed(in_memory, "pmap")
    host, of_files = of_feed(in_memory, augment="host"), of_feed(encoded)
    for batch in (table, rows, host, of_files):
        assert [view.shape for view in batch["views"]] == [(8, 32, 32, 3), *[(8, 12, 12, 3)] * 2]
        assert "table" not in batch
        assert (batch["views"][1] != batch["views"][2]).any((1, 2, 3)).all()  # views that are alike are drawn apart
    for a, b in zip(table["views"], rows["views"], strict=True):
        np.testing.assert_array_equal(a, b)
    # The host cuts the boxes of files, the device mirrors: the mean of an image stays what it is.
    for a, b in zip(host["views"], of_files["views"], strict=True):
        np.testing.assert_allclose(a.mean((1, 2)), b.mean((1, 2)), atol=1e-3)


def test_evaluation_takes_views_of_one_size(pictures):
    from ssl_jax.data.images import modality

    kind = modality.make(CROPPED, runs.config(data__image_size=32).data, 3)
    source = Source({"image": pictures}, np.zeros(16, np.int32), ("a",), "random")
    assert next(kind.views(source, count=4, seed=0, global_batch_size=8))["inputs"].shape == (8, 4, 32, 32, 3)
    assert next(kind.inputs(source, global_batch_size=8))["inputs"].shape == (8, 32, 32, 3)
    assert [spec.shape for spec in kind.spec(8)["views"]] == [(8, 32, 32, 3), *[(8, 12, 12, 3)] * 2]
    assert [done[0][1].endswith(", to 12 x 12 pixels") for done in kind.done] == [False, True, True]
