"""TFDS datasets as they lie on disk."""

from __future__ import annotations

import io
import os
import shutil
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data import readers, source
from ssl_jax.data.images import decode
from ssl_jax.data.readers import records, tfds
from ssl_jax.data.source import Decoding

RNG = np.random.default_rng(0)


def make_tfds(root, kind, *, fixed=False, splits=("train",), label="class", values=(0, 1, 2), seed=0):
    """A dataset as TFDS lays it out: JPEGs and PNGs of many shapes, or PNGs of one, in two record files a split.

    ``label``: "class" is a ClassLabel "label", else the name of an integer.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    from ssl_jax.data import tensorflow

    made, tf = tfds._import(), tensorflow()
    where = root / "made" / "1.0.0"
    where.mkdir(parents=True, exist_ok=True)
    name, rng = "label" if label == "class" else label, np.random.default_rng(seed)
    contents = {}
    for split in splits:
        for i in range(12):
            if i % 6 == 0:
                path = str(where / f"made-{split}.{kind}-0000{i // 6}-of-00002")
                out = tf.io.TFRecordWriter(path) if kind == "tfrecord" else ArrayRecordWriter(path, "group_size:1")
            file = io.BytesIO()
            shape = (9, 13, 3) if fixed else (20 + i, 30 - i, 3)
            # Without compression files of one shape are of one size, whatever they hold.
            image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
            image.save(file, "PNG" if fixed or i % 4 == 3 else "JPEG", compress_level=0)
            contents[file.getvalue()] = values[i % 3]
            features = {
                "note": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"n" * i])),
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.getvalue()])),
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=[values[i % 3]])),
            }
            out.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
            if i % 6 == 5:
                out.close()
    made.folder_dataset.write_metadata(
        data_dir=str(where),
        features=made.features.FeaturesDict(
            {
                "note": made.features.Text(),
                "image": made.features.Image(shape=(9, 13, 3) if fixed else (None, None, 3)),
                name: made.features.ClassLabel(names=["x", "y", "z"]) if label == "class" else np.int64,
            }
        ),
        split_infos=[
            made.core.SplitInfo(
                name=split,
                shard_lengths=[6, 6],
                num_bytes=sum(map(len, contents)),
                filename_template=made.core.ShardedFileTemplate(
                    dataset_name="made", data_dir=str(where), split=split, filetype_suffix=kind
                ),
            )
            for split in splits
        ],
        check_data=False,
    )
    return root, contents


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def made_tfds(request, tmp_path_factory):
    return make_tfds(tmp_path_factory.mktemp("tfds"), request.param)


def test_tfds_of_many_shapes(made_tfds, tmp_path, monkeypatch):
    root, files = made_tfds
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    kwargs = {"data_dir": str(root), "cache_dir": str(tmp_path / "cache")}
    in_memory = readers.load("tfds:made", **kwargs)
    on_disk = readers.load("tfds:made:1.0.0", memory_limit=1000, **kwargs)
    assert [len(s) for s in in_memory] == [9, 1, 2]
    assert in_memory.train.class_names == ("x", "y", "z")
    seen = {}
    for a, b in zip(in_memory, on_disk, strict=True):
        assert set(a.columns) == {"encoded", "plain"}
        assert set(b.columns) - {"record"} == {"path", "offset", "length", "plain"}
        for i in range(len(a)):
            assert decode.contents(a.record(i)) == decode.contents(b.record(i))
            assert a.record(i)["label"] == b.record(i)["label"]
            assert a.record(i)["plain"] == decode.contents(a.record(i)).startswith(b"\xff\xd8")
            seen[decode.contents(a.record(i))] = int(a.record(i)["label"])
    assert seen == files
    assert in_memory.train.fingerprint == on_disk.train.fingerprint
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before  # nothing was written there
    monkeypatch.setattr(decode, "is_plain", None)  # the second time the index comes from the cache
    readers.load("tfds:made", memory_limit=1000, **kwargs)
    half = readers.load("tfds:made", memory_limit=1000, train_split="train[25%:75%]", **kwargs)
    assert {decode.contents(part.record(i)) for part in half for i in range(len(part))} == set(list(files)[3:9])


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_tfds_of_one_shape(load, tmp_path, kind):
    root, files = make_tfds(tmp_path, kind, fixed=True)
    seen = {}
    for part in load("tfds:made", data_dir=str(root)):
        seen |= {image.tobytes(): label for image, label in zip(part.columns["image"], part.labels, strict=True)}
    assert seen == {decode.read(data).tobytes(): label for data, label in files.items()}


@pytest.mark.parametrize("fixed", [True, False])  # decoded when they are read, or later from their bytes
def test_a_damaged_record_is_one_line_with_its_file(load, tmp_path, fixed):
    _, images = make_tfds(tmp_path, "tfrecord", fixed=fixed)
    file = sorted(tmp_path.rglob("*.tfrecord*"))[1]
    content = file.read_bytes()
    pixels = [data for data in images if data in content][3]
    at = content.index(pixels) + len(pixels) // 2
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(
        ValueError, match=r"tfds:made/1\.0\.0: .*-00001-of-00002 is damaged \(corrupted record at \d+\); put"
    ):
        load("tfds:made", data_dir=str(tmp_path))


def sizes_and_times(root):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*record-*")}


@pytest.mark.parametrize(("fixed", "memory_limit"), [(True, 1 << 30), (True, 1000), (False, 1000)])
def test_changed_records_are_other_data(load, tmp_path, fixed, memory_limit):
    """Under the same name, version, sizes and even times."""

    def make(values, seed):
        make_tfds(tmp_path, "tfrecord", fixed=fixed, splits=("train", "test"), values=values, seed=seed)
        for path in tmp_path.rglob("*record-*"):
            os.utime(path, ns=(10**18, 10**18))
        parts = load("tfds:made", data_dir=str(tmp_path), memory_limit=memory_limit)
        return source.identity(parts), parts.test.labels.tolist()

    first, labels = make((0, 1, 2), seed=0)
    assert labels == [0, 1, 2] * 4
    assert first["of"] == "content"
    before = sizes_and_times(tmp_path)
    relabelled, labels = make((2, 0, 1), seed=0)
    assert labels == [2, 0, 1] * 4  # of the data, not of a cache
    again, _ = make((0, 1, 2), seed=0)
    assert source.same(first, again)
    repainted, _ = make((0, 1, 2), seed=1)
    if fixed:
        assert sizes_and_times(tmp_path) == before
    for name in ("train", "val", "test"):
        assert len({of["fingerprints"][name] for of in (first, relabelled, repainted)}) == 3
    older = {"sizes": first["sizes"], "fingerprints": first["before"]}  # of name and size, as older runs have it
    assert source.same(older, again)
    assert source.same(older, repainted)


def test_records_too_large_to_hash_are_known_by_size_and_time(load, tmp_path, monkeypatch):
    root, _ = make_tfds(tmp_path, "tfrecord", fixed=True)
    monkeypatch.setattr(tfds, "HASH_UP_TO", 100)
    first = source.identity(load("tfds:made", data_dir=str(root)))
    assert first["of"] == "times"
    assert source.same(first, source.identity(load("tfds:made", data_dir=str(root), memory_limit=1000)))
    os.utime(next(root.rglob("*record-00001*")), ns=(10**18, 10**18))
    assert not source.same(first, source.identity(load("tfds:made", data_dir=str(root))))


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [
        ("train", "train", 12),
        ("train[:60%]", "train[40%:]", 2),
        ("train+test", "test", 12),
        ("all", None, 12),
        ("test", None, 12),
        ("test[:5]", "test[4:6]", 1),
        ("train[7:9]+test[:1]", "train[:8]", 1),
    ],
)
def test_splits_that_have_examples_in_common_are_refused(made_splits, load, monkeypatch, train, test, shared, hashed):
    monkeypatch.setattr(tfds, "HASH_UP_TO", tfds.HASH_UP_TO if hashed else 100)
    with pytest.raises(ValueError, match="test examples must not be trained on") as error:
        load("tfds:made", data_dir=str(made_splits), train_split=train, test_split=test)
    assert f"{shared} of the" in str(error.value)
    assert f"test split {test or 'test'!r} are in the train split {train!r}, too" in str(error.value)


def test_slices_that_have_nothing_in_common_are_two_splits(made_splits, load):
    parts = load("tfds:made", data_dir=str(made_splits), train_split="train[:7]+test[6:]", test_split="train[7:]")
    assert [len(part) for part in parts] == [12, 1, 5]


def test_a_copy_of_the_train_files_as_test_is_refused(load, tmp_path):
    root, _ = make_tfds(tmp_path, "tfrecord", fixed=True, splits=("train", "test"))
    for k in range(2):
        shutil.copy(*(next(root.rglob(f"made-{split}.tfrecord-0000{k}*")) for split in ("train", "test")))
    with pytest.raises(
        ValueError, match="12 of the 12 examples of the test split 'test' are in the train split 'train'"
    ):
        load("tfds:made", data_dir=str(root))


@pytest.fixture(scope="module")
def made_splits(tmp_path_factory):
    return make_tfds(tmp_path_factory.mktemp("tfds"), "tfrecord", splits=("train", "test"), fixed=True)[0]


@pytest.mark.parametrize("memory_limit", [1 << 30, 1000])
def test_integers_are_labels_where_they_are_called_so(load, tmp_path, memory_limit):
    root, _ = make_tfds(tmp_path / "a", "tfrecord", fixed=True, label="label", values=(3, 7, 255))
    parts = load("tfds:made", data_dir=str(root), memory_limit=memory_limit, unlabelled=255)
    assert parts.train.class_names == ("3", "7")
    labels = np.concatenate([part.labels for part in parts])
    assert np.unique(labels, return_counts=True)[1].tolist() == [4, 4, 4]
    assert labels.min() == -1
    root, _ = make_tfds(tmp_path / "b", "tfrecord", fixed=True, label="year")
    parts = load("tfds:made", data_dir=str(root), memory_limit=memory_limit)
    assert parts.train.labels is None
    why = "no feature is a ClassLabel or an integer called label (there: image, note, year)"
    assert parts.notes[0] == f"no training example has a label ({why}): what needs labels is not measured"


def test_tfds_refused(made_tfds, load, tmp_path):
    root = str(made_tfds[0])
    with pytest.raises(ValueError, match=r"mean tfds:made.*--config.data.download=True would fetch it"):
        load("tfds:mad", data_dir=root)
    with pytest.raises(ValueError, match=r"'cifar10' is not in .*there: .*made.*download=True"):
        load("tfds:cifar10", data_dir=root)
    with pytest.raises(ValueError, match="has no split 'tset'; it has train"):
        load("tfds:made", data_dir=root, test_split="tset")
    with pytest.raises(ValueError, match=r"tfds:made/1.0.0: the split 'train\[3:3\]' holds no example"):
        load("tfds:made", data_dir=root, train_split="train[3:3]")
    with pytest.raises(ValueError, match="is not in"):
        load("tfds:made:2.0.0", data_dir=root)


def test_cut_record_file(made_tfds, tmp_path):
    record = next(made_tfds[0].rglob("*record-00000*"))
    whole, file = record.read_bytes(), tmp_path / record.name
    for size in (len(whole) - 1, 5, 0):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"not a whole (TF|Array)Record file"):
            records.record_index(file, "image", "label", tmp_path / "cache")
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"holds an image that cannot be read: .* more than data.max_pixels=9"):
        records.record_index(file, "image", "label", tmp_path / "cache", Decoding(max_pixels=9))
    for names in (("picture", "label"), ("image", "class")):
        with pytest.raises(ValueError, match=r"picture|class"):
            records.record_index(file, *names, tmp_path / "cache")


# --- real data


@pytest.mark.slow
def test_cifar10_and_its_record_index(data_dir, load):
    """TFDS's decoder and ours, through the record index, agree on every test image."""
    kwargs = {"data_dir": str(data_dir / "tfds"), "train_split": "test", "test_split": "train[:10]"}
    decoded = load("tfds:cifar10", **kwargs)
    indexed = load("tfds:cifar10", memory_limit=1 << 20, **kwargs)
    assert [len(s) for s in decoded] == [9000, 1000, 10]
    assert set(indexed.train.columns) > {"offset"}
    assert np.bincount(decoded.val.labels).tolist() == [100] * 10
    assert (indexed.val.labels == decoded.val.labels).all()
    for i in range(0, 1000, 25):
        read = decode.read(decode.contents(indexed.val.record(i)))
        assert (read == decoded.val.columns["image"][i]).all()


def test_fashion_mnist_is_grey(data_dir, load):
    kwargs = {"data_dir": str(data_dir / "tfds")}
    splits = load("tfds:fashion_mnist", train_split="train[:1%]", **kwargs)
    assert splits.train.columns["image"].shape == (540, 28, 28, 1)
    assert splits.train.channels == 1


def test_imdb_is_text_with_labels(data_dir, load):
    kwargs = {"data_dir": str(data_dir / "tfds"), "test_split": "test[:1%]"}
    splits = load("tfds:imdb_reviews", train_split="train[:2%]", **kwargs)
    assert [len(part) for part in splits] == [450, 50, 250]
    assert splits.train.class_names == ("neg", "pos")
    assert splits.train.columns["text"][0].startswith("This was an absolutely terrible movie. Don't be lured in by")
    assert splits.train.labels[0] == 0
    with pytest.raises(ValueError, match=r"has no feature 'texts' \(data.text_column\); did you mean 'text'"):
        load("tfds:imdb_reviews", text_column="texts", **kwargs)


def test_a_split_without_labels_is_read_with_a_text(tmp_path, load):
    from ssl_jax.data import tensorflow

    made, tf = tfds._import(), tensorflow()
    where = tmp_path / "notes" / "1.0.0"
    where.mkdir(parents=True)
    for split, n, label in (
        ("train", 12, lambda i: i % 2),
        ("test", 4, lambda i: i % 2),
        ("unsupervised", 5, lambda i: -1),
    ):
        with tf.io.TFRecordWriter(str(where / f"notes-{split}.tfrecord-00000-of-00001")) as out:
            for i in range(n):
                text = b"\xff odd" if (split, i) == ("train", 3) else f"{split} {i}".encode()
                features = {
                    "body": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label(i)])),
                }
                out.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    made.folder_dataset.write_metadata(
        data_dir=str(where),
        features=made.features.FeaturesDict(
            {"body": made.features.Text(), "label": made.features.ClassLabel(names=["no", "yes"])}
        ),
        split_infos=[
            made.core.SplitInfo(name=split, shard_lengths=[n], num_bytes=0)
            for split, n in (("train", 12), ("test", 4), ("unsupervised", 5))
        ],
    )
    with pytest.raises(ValueError, match="1 of 12 texts are no UTF-8; prepare it again as UTF-8"):
        load("tfds:notes", data_dir=str(tmp_path))
    with mock.patch.object(tfds, "MAX_UNREADABLE", 0.1):
        splits = load("tfds:notes", data_dir=str(tmp_path))
    assert any("1 of 12 texts are no UTF-8" in note for note in splits.notes)
    texts, labels = splits.train.columns["text"], splits.train.labels
    assert sorted(texts[labels < 0]) == [f"unsupervised {i}" for i in range(5)]
    for text, label in zip(texts[labels >= 0], labels[labels >= 0], strict=True):
        assert "odd" in text or int(text.split()[1]) % 2 == label
