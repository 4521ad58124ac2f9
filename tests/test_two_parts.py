"""Batches of two parts: labelled images and unlabelled ones, each in an order of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from ssl_jax.data import few_labels
from ssl_jax.data.images import device, randaugment
from ssl_jax.data.images.recipes import Cutout, View
from ssl_jax.experiment import build, make_modality
from ssl_jax.types import Plan


def config(**overrides):
    found = runs.config("supervised", **{"data__augment": "device", "data__recipe": "runs:TWO_PARTS"} | overrides)
    found.method.name = "other_data:consistency"
    found.data.update({"labelled": 40, "ratio": 3, "global_batch_size": 16, "num_examples": 160})
    return found


def first(built, **split):
    batch = next(built.feed.batches(total_steps=1, **split))
    if built.feed.table is not None:
        batch["table"] = built.feed.table
    views = built.feed.views
    return batch if views is None else jax.jit(lambda batch: views(batch, jax.random.key(0), None))(batch)


def permutation(n, *words):
    return np.random.default_rng(np.random.SeedSequence(words)).permutation(n)


def test_each_part_has_its_own_order_and_an_epoch_is_one_of_the_unlabelled():
    built = build(config(seed=5))
    known = few_labels.labelled(built.splits.train)
    assert (built.plan.steps_per_epoch, built.plan.num_examples) == (160 // 48, 160)
    batches = list(built.feed.batches(total_steps=4))
    for step, batch in enumerate(batches):
        epoch, at = divmod(step, 40 // 16)
        np.testing.assert_array_equal(batch["index"], known[permutation(40, 5, epoch, 0)][at * 16 :][:16])
        np.testing.assert_array_equal(batch["label"], built.splits.train.labels[batch["index"]])
        epoch, at = divmod(step, 160 // 48)
        assert set(batch["unlabelled"]) == {"index"}
        np.testing.assert_array_equal(batch["unlabelled"]["index"], permutation(160, 5, epoch, 1)[at * 48 :][:48])
    from_third = next(built.feed.batches(start_step=3, total_steps=4))
    np.testing.assert_array_equal(from_third["unlabelled"]["index"], batches[3]["unlabelled"]["index"])
    # Supervised training on the same labels takes the first part alone, in the same order.
    alone = config(seed=5)
    alone.method.name = "supervised"
    for ours, theirs in zip(build(alone).feed.batches(total_steps=4), batches, strict=True):
        assert set(ours) == {"index", "label"}
        np.testing.assert_array_equal(ours["index"], theirs["index"])


def test_each_process_makes_its_share_of_both():
    built = build(config())
    whole = next(built.feed.batches(total_steps=1))
    shares = [next(built.feed.batches(total_steps=1, process=p, process_count=2)) for p in (0, 1)]
    joined = jax.tree.map(lambda *a: np.concatenate(a), *shares)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)


@pytest.mark.parametrize(
    ("augment", "limit"),
    [("device", 1 << 20), *(pytest.param(a, 0, marks=pytest.mark.slow) for a in ("device", "host"))],
)
def test_views_of_both(augment, limit):
    built = build(config(data__augment=augment, data__table_limit=limit))
    batch, again = first(built), first(built)
    found = jax.tree.map(lambda a: (a.shape, a.dtype), batch)
    assert found == jax.tree.map(lambda a: (a.shape, a.dtype), dict(built.modality.spec(16)))
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    assert [v.shape for v in batch["unlabelled"]["views"]] == [(48, 8, 8, 1)] * 2
    plain, strong = batch["unlabelled"]["views"]
    assert np.abs(np.asarray(plain) - np.asarray(strong)).mean() > 0.02
    # Of the same image in the same row another box is drawn in the other part.
    source = built.splits.train.columns["image"] / np.float32(255)
    assert source.shape[1:] == (8, 8, 1)
    near = np.abs(np.asarray(batch["views"][0]) - source[np.asarray(batch["index"])]).mean()
    assert near < np.abs(np.asarray(batch["views"][0]) - source[np.asarray(batch["index"])[::-1]]).mean()


@pytest.mark.slow
def test_the_table_and_the_rows_give_the_same_views():
    tabled, sent = (first(build(config(data__table_limit=limit))) for limit in (1 << 20, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tabled, sent)


def test_without_its_data():
    found = config()
    plan = Plan(1, 1, 160, (8, 8, 1), 16, 10)
    batch, views = make_modality(found, plan=plan).sent(16)
    assert batch["unlabelled"]["views"][1].shape == (48, 8, 8, 1)
    assert batch["views"][0].dtype == np.uint8
    assert views is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__ratio": 11}, r"11 unlabelled for each \(data.ratio\) makes 176 rows, more than the 160 train"),
        ({"data__ratio": 0}, r"config.data.ratio=0 must be positive"),
        (
            {"data__recipe": "runs:VIEWS"},
            r"data.ratio=3 is for recipes of two parts, and data.recipe='runs:VIEWS' has",
        ),
        ({"data__labelled": 5}, r"data.labelled=5 gives some of the 10 classes no label"),
    ],
)
def test_refused(changes, words):
    found = config()
    for key, value in changes.items():
        found.data[key.removeprefix("data__")] = value
    with pytest.raises(ValueError, match=words) as refusal:
        build(found)
    assert "\n" not in str(refusal.value)


def test_cutout():
    """A grey square of half the side around a place drawn evenly, cut at the border; the rest is left alone."""
    view = View(None, (Cutout(0.5),))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 100, (200, 8, 8, 3), np.uint8))
    keys = jax.random.split(jax.random.key(1), 200)
    drawn = device.draw(view, keys, (8, 8, 3), 8)
    made = np.asarray(device._view(view, 0, None, {"image": images}, keys, 8, alone=False, dtype=jnp.float32))
    grey = np.isclose(made, randaugment.FILL / 255).all(-1)
    for i, (y, x) in enumerate(np.floor(np.asarray(drawn["cut"]) * 8).astype(int)):
        want = np.zeros((8, 8), bool)
        want[max(0, y - 2) : y + 2, max(0, x - 2) : x + 2] = True
        np.testing.assert_array_equal(grey[i], want)
    np.testing.assert_allclose(made[~grey], (np.asarray(images) / np.float32(255))[~grey], atol=1e-6)


@pytest.mark.slow  # TensorFlow
def test_cutout_on_the_host():
    import tensorflow as tf

    from ssl_jax.data.images import host

    whole = {"shape": tf.constant([8, 8, 3]), "crop": lambda box: tf.zeros((8, 8, 3))}
    made = [host.augment(View(None, (Cutout(0.5),)), tf.constant([s, 0]), 8, **whole).numpy() for s in range(40)]
    sizes = [int((image[..., 0] > 0).sum()) for image in made]
    assert max(sizes) == 16
    assert min(sizes) >= 4
    assert len(set(sizes)) > 2
