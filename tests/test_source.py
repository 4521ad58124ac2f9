"""Sources in memory: how a dataset is split, digits, npz, and what is said about data that cannot be used."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pictures import noise
from PIL import Image

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
        (
            {"train_images": np.zeros((9, 4, 4), np.uint8), "train_labels": np.arange(9) - 5},
            "label -5 is below -1.*say data.unlabelled=-5",
        ),
        ({"train_images": np.zeros((9, 4, 4), np.uint8), "train_labels": np.arange(9) / 2}, "labels are float64"),
        ({"train_images": np.zeros((9, 4, 4), np.uint8), "train_labels": np.zeros(8, int)}, r"shape \(9,\)"),
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


# --- what a fingerprint is of


def steps(n):
    return (np.arange(n * 36) % 251).astype(np.uint8).reshape(n, 6, 6)


def npz(path, train, test=None, n=(30, 10), **kwargs):
    """An npz file of different images; returns its name as a source."""
    images = noise(sum(n), 6, 6).reshape(-1, 6, 6)
    arrays = {"train_images": images[: n[0]], "test_images": images[n[0] :]} | kwargs
    arrays |= {"train_labels": train} | ({} if test is None else {"test_labels": test})
    np.savez(path / "x.npz", **arrays)
    return f"npz:{path}/x.npz"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((np.arange(30) % 4, np.arange(30, 40) % 4), ["56f78b8ae5eb766e", "8c0bde85198dbf7f", "5bf22f38f12ff0b4"]),
        (
            (np.where(np.arange(30) % 4 == 2, -1, np.arange(30) % 4), np.full(10, -1)),
            ["5f64605de7d84b7c", "a8d7a6f568fe7996", "2ce785f999fe314a"],
        ),
        ((np.full(30, -1), None), ["a552bc253b5c9a74", "82200ace764c3202", "b2cc4e6935186dfb"]),
    ],
)
def test_fingerprints_of_npz_are_those_of_older_runs(load, tmp_path, labels, expected):
    spec = npz(tmp_path, *labels, train_images=steps(40)[:30], test_images=steps(40)[30:])
    assert [part.fingerprint[:16] for part in load(spec)] == expected


def test_identity_knows_older_runs():
    content = source.from_arrays(steps(9))
    older = dataclasses.replace(content, by_content=False, before="was")
    now = source.identity(source.Splits(content, older, older.take(np.arange(9))))
    assert now["of"] == "times"
    assert now["before"] == {
        "train": content.fingerprint,
        "val": "was",
        "test": source.sha256("was", np.arange(9)),
    }
    assert source.same(now, now)
    then = {"sizes": now["sizes"], "fingerprints": now["before"]}
    assert source.same(then, now)
    assert not source.same(then | {"of": "times"}, now)
    assert not source.same(then | {"fingerprints": now["fingerprints"]}, now)
    assert not source.same(then | {"sizes": {}}, now)
    known = source.identity(source.Splits(content, content, content))
    assert "before" not in known
    assert source.same({"sizes": known["sizes"], "fingerprints": known["fingerprints"]}, known)


# --- which classes


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2, 3), (5, 25, 45), (0, 2, 200)])
def test_classes_are_the_labels_that_occur(load, tmp_path, values, dtype):
    labels = np.array(values, dtype)[np.arange(40) % 3]
    splits = load(npz(tmp_path, labels[:30], labels[30:]))
    names = tuple(map(str, values))
    for part in splits:
        assert part.class_names == names
        assert part.labels.dtype == np.int32
        assert set(part.labels) == {0, 1, 2}
    assert [int(splits.test.class_names[k]) for k in splits.test.labels] == labels[30:].tolist()
    said = f"the labels {', '.join(names)} are 3 classes, called by these numbers"
    assert splits.notes == (() if values == (0, 1, 2) else (said,))


def test_parts_share_their_classes_and_what_test_alone_has_is_said(load, tmp_path):
    splits = load(npz(tmp_path, np.array([3, 9])[np.arange(30) % 2], np.array([3, 5, 9, 7, 9, 9, 9, 9, 9, 9])))
    assert {part.class_names for part in splits} == {("3", "5", "7", "9")}
    assert set(splits.train.labels) == {0, 3}
    assert splits.test.labels.tolist() == [0, 1, 3, 2, *[3] * 6]
    assert splits.notes[-1] == (
        "WARNING: 2 of 10 test examples are of 2 classes without an example to learn from (5, 7): no accuracy can "
        "count them as right"
    )


def test_classes_of_one_image_are_said(load, tmp_path):
    np.savez(tmp_path / "y.npz", train_images=noise(40, 6, 6).reshape(40, 6, 6), train_labels=np.arange(40))
    said = load(f"npz:{tmp_path}/y.npz").notes[-1]
    assert said.startswith("WARNING: 8 of 8 test examples are of 8 classes without an example to learn from (")


@pytest.mark.parametrize("hidden", [255, -7, 0])
def test_a_label_can_mean_that_there_is_none(load, tmp_path, hidden):
    labels = np.where(np.arange(40) % 4 == 0, hidden, 1 + np.arange(40) % 4)
    spec = npz(tmp_path, labels[:30], labels[30:])
    splits = load(spec, unlabelled=hidden)
    assert splits.train.class_names == ("2", "3", "4")
    assert splits.test.labels.tolist() == np.where(labels[30:] == hidden, -1, labels[30:] - 2).tolist()
    assert splits.notes[0] == (
        f"10 of 40 examples have the label {hidden} and count as unlabelled (data.unlabelled={hidden})"
    )
    if hidden != -7:
        other = load(spec, unlabelled=77)
        assert other.notes[0] == "WARNING: data.unlabelled=77, but no example has that label"
        assert other.train.fingerprint != splits.train.fingerprint


def test_the_largest_number_of_a_type_on_most_images_is_said(load, tmp_path):
    labels = np.where(np.arange(30) % 3 == 0, np.arange(30) % 2, 255).astype(np.uint8)
    splits = load(npz(tmp_path, labels))
    said = (
        "WARNING: 67% of the labels are 255, the largest number of their type; if it means that there is no label, say "
        "data.unlabelled=255"
    )
    assert splits.train.class_names == ("0", "1", "255")
    assert splits.notes[0] == said
    assert said not in load(npz(tmp_path, labels), unlabelled=255).notes
    assert said not in load(npz(tmp_path, np.where(np.arange(30) < 16, 0, 255))).notes  # no more than half


def test_hidden_labels_mean_nothing_to_names(load):
    with pytest.raises(ValueError, match=r"data\.unlabelled=255 means nothing to 'digits'"):
        load("digits", unlabelled=255)


# --- train and test


def test_a_test_of_train_images_is_refused_and_a_few_are_said(load, tmp_path):
    images = noise(40, 6, 6).reshape(40, 6, 6)
    spec = npz(tmp_path, np.arange(30) % 3, train_images=images[:30], test_images=images[24:34])
    with pytest.raises(
        ValueError, match=r"6 of 10 examples of test_images are in train_images, too.*not be trained on"
    ):
        load(spec)
    npz(tmp_path, np.arange(30) % 3, train_images=images[:30], test_images=images[25:35])
    said = "5 of 10 examples of test_images are in train_images, too, byte for byte; what is measured on them is memory"
    assert load(spec).notes[0].endswith(said)


def test_copies_of_what_is_cut_from_train_are_said(load, tmp_path):
    """In arrays, and in files that are read when they are listed: labels are learned there by heart."""
    images = np.repeat(noise(20, 6, 6).reshape(20, 6, 6), 2, axis=0)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=np.arange(40) % 2)
    splits = load(f"npz:{tmp_path}/x.npz")
    said = [note for note in splits.notes if "copies" in note]
    assert len(said) == 2
    train, val, test = splits
    for note, part, known in zip(said, (test, val), ([*rows(train), *rows(val)], rows(train)), strict=True):
        count = sum(image in known for image in rows(part))
        assert f"of {count} of its {len(part)} examples there are copies" in note
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    assert sum("copies" in note for note in load(f"folder:{folder}").notes) == 2
    assert not any("copies" in note for note in load(f"folder:{folder}", verify="header").notes)
    assert not any("copies" in note for note in load("digits").notes)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: 3, r"fails: .*unexpected keyword argument 'data_dir'"),
        (lambda data_dir: 3, "gives int; called with data_dir= it gives"),
        (lambda data_dir: (3, None), "gives int, NoneType; called"),
    ],
)
def test_a_source_of_ones_own_that_is_none_is_refused(load, monkeypatch, made, words):
    monkeypatch.setattr(source, "mine", made, raising=False)
    with pytest.raises(ValueError, match=f"data.source='ssl_jax.data.source:mine' {words}"):
        load("ssl_jax.data.source:mine")


def test_why_nothing_is_measured(load, tmp_path):
    splits = load(npz(tmp_path, np.arange(30) % 3))
    assert splits.notes == (
        "no test example has a label (there is no test_labels in x.npz): what needs labels is not measured",
    )
    splits = load(npz(tmp_path, np.full(30, -1), np.full(10, 255)), unlabelled=255)
    assert [part.why_unlabelled for part in splits] == ["every label is -1 or 255 (data.unlabelled)"] * 3


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
    whole = dataclasses.replace(
        source.from_arrays(noise(20, 4, 4).reshape(20, 4, 4), np.arange(20) % 2), notes=("5 of .txt passed over",)
    )
    test = dataclasses.replace(whole, notes=("5 of .txt passed over", "2 cannot be read"))
    parts = source.split(whole, test, spec="x", val_fraction=0.1, num_examples=None, seed=0)
    assert parts.val.notes == parts.train.notes == whole.notes
    assert parts.notes == source.join(parts.train, parts.test).notes == test.notes
