"""What the step is fed where the device augments: which way for which source, the same rows in every one."""

from __future__ import annotations

import io
import itertools

import jax
import numpy as np
import optax
import pytest
import runs
from PIL import Image

from ssl_jax import configs, parallel
from ssl_jax.data.images import published, stream
from ssl_jax.data.images.feed import feed
from ssl_jax.data.images.recipes import Recipe
from ssl_jax.data.source import Source, from_arrays
from ssl_jax.step import compile_step

N, ROWS = 23, 6


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def in_memory(images):
    return from_arrays(images, np.arange(N) % 3)


@pytest.fixture(scope="module")
def encoded(images, in_memory):
    """The same images as PNG files."""
    files = np.empty(N, object)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files[i] = file.getvalue()
    columns = {"encoded": files, "plain": np.zeros(N, bool)}
    return Source(columns, in_memory.labels, in_memory.class_names, "png")


def part(**changes):
    return runs.config(
        **{f"data__{k}": v for k, v in ({"recipe": "simclr_cifar", "augment": "device"} | changes).items()}
    ).data


KINDS = {  # the lines of the module's table: config, parallel.mode
    "views": ({"augment": "host"}, "jit"),
    "table": ({}, "jit"),
    "rows": ({}, "pmap"),
    "crops": ({}, "jit"),
}


def feed_of(source, recipe="simclr_cifar", mode="jit", seed=3, **changes):
    return feed(source, published.get(recipe), part(**changes), seed=seed, global_batch_size=ROWS, mode=mode)


def take(kind, source, start=0, stop=5, recipe="simclr_cifar", **split):
    changes, mode = KINDS[kind]
    found = feed_of(source, recipe, mode, **changes)
    return list(found.batches(start_step=start, total_steps=stop, **split))


def test_which_way(images, in_memory, encoded):
    host = feed_of(in_memory, augment="host")
    assert (host.views, host.table, host.notes) == (None, None, ())
    fits = feed_of(in_memory, table_limit=images.nbytes)
    assert fits.table is in_memory.columns["image"]
    assert fits.notes == ("augmentation on the device, where the 23 training images lie (0.00442 MB)",)
    assert (fits.steps_per_epoch, fits.num_examples) == (N // ROWS, N)
    for source, mode, said, limit in (
        (in_memory, "jit", "the host sends the images", images.nbytes - 1),
        (in_memory, "pmap", "the host sends the images", 1 << 30),
        (encoded, "jit", "the host decodes, crops and resizes", 1 << 30),
    ):
        found = feed_of(source, mode=mode, table_limit=limit)
        assert found.notes == (f"augmentation on the device; {said}",)
        assert found.table is None
        assert found.views is not None


@pytest.mark.parametrize("kind", ["table", "rows", "crops"])
def test_the_rows_of_host_augmentation_in_its_order(kind, images, in_memory, encoded):
    source = encoded if kind == "crops" else in_memory
    host = take("views", in_memory)
    ours = take(kind, source)
    extra = {"table": set(), "rows": {"image"}, "crops": {"views"}}[kind]
    for a, b in zip(host, ours, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["label"], b["label"])
        assert set(b) == {"index", "label"} | extra
        if kind == "rows":
            np.testing.assert_array_equal(b["image"], images[b["index"]])
    resumed = take(kind, source, start=3)
    halves = [take(kind, source, process=p, process_count=2) for p in (0, 1)]
    assert len(resumed) == 2
    for found in (
        resumed,
        [jax.tree.map(lambda *parts: np.concatenate(parts), *pair) for pair in zip(*halves, strict=True)],
    ):
        jax.tree.map(np.testing.assert_array_equal, found, ours[-len(found) :])


def test_cropped_on_the_host_as_host_augmentation_does(encoded):
    """The boxes are the host's; what is left out of its views is left to the device."""
    bare = Recipe(tuple(view._replace(ops=()) for view in published.get("simclr_cifar").views))
    arguments = {"image_size": 8, "global_batch_size": ROWS, "seed": 3, "total_steps": 2}
    floats = stream.batches(encoded, recipe=bare, **arguments)
    for whole, ours in zip(floats, take("crops", encoded, stop=2), strict=True):
        for a, b in zip(whole["views"], ours["views"], strict=True):
            assert b.dtype == np.uint8
            assert np.abs(a - b / 255.0).max() <= 0.5 / 255 + 1e-6


def test_endless(in_memory):
    assert len(list(itertools.islice(feed_of(in_memory).batches(), 10))) == 10


def test_a_table_is_refused_under_pmap(images):
    from contract import make

    method, _ = make("supervised")
    step = compile_step(method, optax.sgd(0.1), parallel.make_mesh(2), mode="pmap")
    with pytest.raises(ValueError, match=r"a dataset on the device is for parallel\.mode=jit"):
        step(None, {"table": images, "index": np.zeros((2, 1), np.int32)})


def test_what_a_config_may_say():
    for key, value, message in (
        ("data__augment", "gpu", r"config.data.augment='gpu' is unknown; .*known: host, device"),
        ("data__table_limit", -1, r"config.data.table_limit=-1 must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            configs.check(runs.config(**{key: value}))
