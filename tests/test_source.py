"""Sources in memory: how a dataset is split, digits, npz, and what is said about data that cannot be used."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pictures import noise

from ssl_jax.data import source

RNG = np.random.default_rng(0)


def rows(part):
    return [image.tobytes() for image in part.columns["image"]]


# --- splits


def test_digits(load):
    from sklearn.datasets import load_digits

    data = load_digits()
    splits = load("digits")
    assert [len(s) for s in splits] == [1294, 144, 359]
    images = np.concatenate([s.columns["image"] for s in splits])
    labels = np.concatenate([s.labels for s in splits])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 1)
    assert labels.dtype == np.int32
    # Every digit is in exactly one split, with its label: 255/16 per step of ink is what undoes the scaling.
    back = sorted((np.rint(x / 255 * 16).astype(int).tobytes(), y) for x, y in zip(images, labels, strict=True))
    assert back == sorted(
        (x.astype(int)[..., None].tobytes(), y) for x, y in zip(data.images, data.target, strict=True)
    )
    assert images.max() == 255
    assert splits.train.num_classes == 10
    assert splits.train.channels == 1
    record = splits.train.record(5)
    assert record["label"] == splits.train.labels[5]
    assert (record["image"] == splits.train.columns["image"][5]).all()


def test_splits_are_stratified_seeded_and_nested(load, tmp_path):
    labels = np.repeat([0, 1, 2], [300, 60, 40])
    images = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 1, 2, 1)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels)
    spec = f"npz:{tmp_path}/x.npz"
    first = load(spec)
    assert [np.bincount(s.labels).tolist() for s in first] == [[216, 43, 29], [24, 5, 3], [60, 12, 8]]
    assert rows(first.val) == rows(load(spec).val)
    assert set(rows(first.val)) != set(rows(load(spec, seed=1).val))
    assert len(set(rows(first.train) + rows(first.val) + rows(first.test))) == 400
    small, large = load(spec, num_examples=40), load(spec, num_examples=80)
    assert rows(small.val) == rows(first.val)
    assert rows(small.test) == rows(first.test)
    assert set(rows(small.train)) < set(rows(large.train)) < set(rows(first.train))
    assert np.bincount(small.train.labels).tolist() == [30, 6, 4]
    assert len({s.fingerprint for s in (*first, small.train, large.train)}) == 5


def test_stratified_order_keeps_every_prefix_in_proportion():
    labels = RNG.permutation(np.repeat(np.arange(4), [50, 100, 150, 200]))
    order = source.stratified_order(labels, 500, 3)
    assert sorted(order) == list(range(500))
    counts = np.cumsum(labels[order][:, None] == np.arange(4), 0)
    ideal = np.arange(1, 501)[:, None] * np.array([0.1, 0.2, 0.3, 0.4])
    assert np.abs(counts - ideal).max() <= 1.0
    # Twenty classes of one example must not crowd out the large one.
    rare = np.concatenate([np.zeros(80, int), np.arange(1, 21)])
    assert (rare[source.stratified_order(rare, 100, 0)[:10]] == 0).all()
    even = np.arange(100) % 10  # a prefix shorter than the classes must not always take the same ones
    firsts = {tuple(sorted(even[source.stratified_order(even, 100, seed)[:5]])) for seed in range(5)}
    assert len(firsts) == 5


def test_take_keeps_rows_together(load):
    train = load("digits").train
    part = train.take(np.array([7, 3]))
    assert (part.columns["image"] == train.columns["image"][[7, 3]]).all()
    assert part.labels.tolist() == train.labels[[7, 3]].tolist()
    assert part.num_classes == 10
    assert part.fingerprint not in (train.fingerprint, train.take(np.array([3, 7])).fingerprint)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction=0.0 must lie between"),
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"verify": "ful"}, "verify='ful' is not known"),
        ({"test_split": "x"}, "mean nothing to 'digits'"),
    ],
)
def test_wrong_arguments(load, kwargs, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **kwargs)


@pytest.mark.parametrize(
    ("spec", "near"), [("digit", "digits"), ("tfd:cifar10", "tfds:<name>"), ("imagenet", "use one")]
)
def test_unknown_source_names_the_nearest(load, spec, near):
    with pytest.raises(ValueError, match=f"unknown data.source '{spec}'.*{near}"):
        load(spec)


# --- npz


def test_npz_with_everything(load, tmp_path):
    images, labels = noise(40, 6, 6).reshape(40, 6, 6), np.arange(40) % 4
    np.savez(tmp_path / "x.npz", train_images=images[:30], train_labels=labels[:30], test_images=images[30:])
    splits = load("npz:x.npz", data_dir=str(tmp_path))
    assert [len(s) for s in splits] == [27, 3, 10]
    assert splits.test.labels is None
    assert splits.test.num_classes is None
    assert splits.test.record(0)["label"] == -1
    assert (splits.test.columns["image"][..., 0] == images[30:]).all()
    assert splits.train.num_classes == 4


def test_npz_unlabelled(load, tmp_path):
    np.savez(tmp_path / "x.npz", train_images=RNG.integers(0, 256, (20, 4, 4, 3), np.uint8))
    splits = load(f"npz:{tmp_path}/x.npz")
    assert [len(s) for s in splits] == [14, 2, 4]
    assert splits.train.labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "holds x; it must hold train_images"),
        ({"train_images": np.zeros((9, 4, 4, 3))}, "images are float64.*give uint8"),
        ({"train_images": np.zeros((9, 4, 4, 2), np.uint8)}, r"\(9, 4, 4, 2\); give uint8"),
        ({"train_images": np.zeros((9, 4, 4), np.uint8), "train_labels": np.arange(9) * 5}, "label 40 is out of range"),
        ({"train_images": np.zeros((9, 4, 4), np.uint8), "train_labels": np.arange(9) - 5}, "label -5 is out of range"),
        ({"train_images": np.zeros((9, 4, 4), np.uint8), "train_labels": np.zeros(8, int)}, r"shape \(9,\)"),
        (
            {
                "train_images": np.zeros((9, 4, 4), np.uint8),
                "train_labels": np.arange(9) % 3,
                "test_images": np.zeros((2, 4, 4), np.uint8),
                "test_labels": np.array([0, 3]),
            },
            r"label 3 is out of range; the labels are 0\.\.2",
        ),
        (
            {"train_images": np.zeros((9, 4, 4), np.uint8), "test_images": np.zeros((2, 5, 4), np.uint8)},
            "make them one shape",
        ),
        ({"train_images": np.array([{}])}, r"\(objects or text, not arrays\); write it with np.savez"),
        ({"train_images": np.zeros((1, 4, 4), np.uint8)}, "leaves none to train on"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8)}, "leaves none to train on"),
    ],
)
def test_npz_refused(load, tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        load(f"npz:{tmp_path}/x.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", ["folder", "tar", "arrayrecord", "npz"])
def test_an_address_is_refused(load, scheme):
    with pytest.raises(ValueError, match=r"'gs://bucket/x' is an address; mount the bucket"):
        load(f"{scheme}:gs://bucket/x")
    with pytest.raises(ValueError, match=r"'s3://bucket' is an address"):
        load(f"{scheme}:x", data_dir="s3://bucket")


def test_npz_missing_or_broken(load, tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        load("npz:/nowhere/x.npz")
    np.savez(tmp_path / "x.npz", train_images=RNG.integers(0, 256, (20, 40, 40, 3), np.uint8))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:5000])
    with pytest.raises(ValueError, match="npz"):
        load(f"npz:{tmp_path}/x.npz")


def test_what_a_reader_says_is_said_once():
    """It stays with every part of a dataset, and a run and an evaluation print it."""
    whole = dataclasses.replace(source.from_arrays(np.zeros((20, 4, 4), np.uint8)), notes=("5 of .txt passed over",))
    test = dataclasses.replace(whole, notes=("5 of .txt passed over", "2 cannot be read"))
    parts = source.split(whole, test, spec="x", val_fraction=0.1, num_examples=None, seed=0)
    assert parts.val.notes == parts.train.notes == whole.notes
    assert parts.notes == source.join(parts.train, parts.test).notes == test.notes
