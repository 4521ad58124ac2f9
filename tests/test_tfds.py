"""TFDS datasets as they lie on disk."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from ssl_jax.data import readers
from ssl_jax.data.images import decode
from ssl_jax.data.readers import records

RNG = np.random.default_rng(0)


def make_tfds(root, kind, *, fixed=False):
    """A dataset as TFDS lays it out: JPEGs and PNGs of many shapes, or PNGs of one, in two record files."""
    from array_record.python.array_record_module import ArrayRecordWriter

    from ssl_jax.data import tensorflow
    from ssl_jax.data.readers import tfds as reader

    tfds, tf = reader._import(), tensorflow()
    where = root / "made" / "1.0.0"
    where.mkdir(parents=True)
    contents = {}
    for shard in range(2):
        name = str(where / f"made-train.{kind}-0000{shard}-of-00002")
        out = tf.io.TFRecordWriter(name) if kind == "tfrecord" else ArrayRecordWriter(name, "group_size:1")
        for i in range(6 * shard, 6 * shard + 6):
            file = io.BytesIO()
            image = Image.fromarray(noise() if fixed else noise(20 + i, 30 - i))
            image.save(file, "PNG" if fixed or i % 4 == 3 else "JPEG")
            contents[file.getvalue()] = i % 3
            features = {
                "note": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"n" * i])),
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.getvalue()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 3])),
            }
            out.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
        out.close()
    tfds.folder_dataset.write_metadata(
        data_dir=str(where),
        features=tfds.features.FeaturesDict(
            {
                "note": tfds.features.Text(),
                "image": tfds.features.Image(shape=(9, 13, 3) if fixed else (None, None, 3)),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            }
        ),
        split_infos=[
            tfds.core.SplitInfo(
                name="train",
                shard_lengths=[6, 6],
                num_bytes=sum(map(len, contents)),
                filename_template=tfds.core.ShardedFileTemplate(
                    dataset_name="made", data_dir=str(where), split="train", filetype_suffix=kind
                ),
            )
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


def test_tfds_refused(made_tfds, load, tmp_path):
    root = str(made_tfds[0])
    with pytest.raises(ValueError, match=r"mean tfds:made.*--config.data.download=True would fetch it"):
        load("tfds:mad", data_dir=root)
    with pytest.raises(ValueError, match=r"'cifar10' is not in .*there: .*made.*download=True"):
        load("tfds:cifar10", data_dir=root)
    with pytest.raises(ValueError, match="has no split 'tset'; it has train"):
        load("tfds:made", data_dir=root, test_split="tset")
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
    for names in (("picture", "label"), ("image", "class")):
        with pytest.raises(ValueError, match=r"picture|class"):
            records.record_index(file, *names, tmp_path / "cache")


# --- real data


def test_cifar10_and_its_record_index(data_dir, load):
    """TFDS's decoder and ours, through the record index, agree on every test image."""
    kwargs = {"data_dir": str(data_dir / "tfds"), "train_split": "test", "test_split": "test[:10]"}
    decoded = load("tfds:cifar10", **kwargs)
    indexed = load("tfds:cifar10", memory_limit=1 << 20, **kwargs)
    assert [len(s) for s in decoded] == [9000, 1000, 10]
    assert set(indexed.train.columns) > {"offset"}
    assert np.bincount(decoded.val.labels).tolist() == [100] * 10
    assert (indexed.val.labels == decoded.val.labels).all()
    for i in range(0, 1000, 5):
        read = decode.read(decode.contents(indexed.val.record(i)))
        assert (read == decoded.val.columns["image"][i]).all()


def test_fashion_mnist_is_grey_and_text_is_refused(data_dir, load):
    kwargs = {"data_dir": str(data_dir / "tfds")}
    splits = load("tfds:fashion_mnist", train_split="train[:2%]", **kwargs)
    assert splits.train.columns["image"].shape == (1080, 28, 28, 1)
    assert splits.train.channels == 1
    with pytest.raises(ValueError, match="has no image feature, only label, text"):
        load("tfds:imdb_reviews", **kwargs)
