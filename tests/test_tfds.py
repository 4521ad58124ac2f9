"""TFDS datasets as they lie on disk."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from ssl_jax.data import decode, records, source

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def made_tfds(tmp_path_factory):
    """A dataset as TFDS lays it out: JPEGs and PNGs of many shapes, in two record files."""
    from ssl_jax.data import tensorflow
    from ssl_jax.data import tfds as reader

    tfds, tf = reader._import(), tensorflow()
    root = tmp_path_factory.mktemp("tfds")
    where = root / "made" / "1.0.0"
    where.mkdir(parents=True)
    contents = {}
    for shard in range(2):
        with tf.io.TFRecordWriter(str(where / f"made-train.tfrecord-0000{shard}-of-00002")) as out:
            for i in range(6 * shard, 6 * shard + 6):
                file = io.BytesIO()
                Image.fromarray(noise(20 + i, 30 - i)).save(file, "PNG" if i % 4 == 3 else "JPEG")
                contents[file.getvalue()] = i % 3
                features = {
                    "note": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"n" * i])),
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.getvalue()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 3])),
                }
                out.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    tfds.folder_dataset.write_metadata(
        data_dir=str(where),
        features=tfds.features.FeaturesDict(
            {
                "note": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            }
        ),
        split_infos=[
            tfds.core.SplitInfo(
                name="train",
                shard_lengths=[6, 6],
                num_bytes=sum(map(len, contents)),
                filename_template=tfds.core.ShardedFileTemplate(
                    dataset_name="made", data_dir=str(where), split="train", filetype_suffix="tfrecord"
                ),
            )
        ],
    )
    return root, contents


def test_tfds_of_many_shapes(made_tfds, tmp_path, monkeypatch):
    root, files = made_tfds
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    kwargs = {"data_dir": str(root), "cache_dir": str(tmp_path / "cache")}
    in_memory = source.load("tfds:made", **kwargs)
    on_disk = source.load("tfds:made:1.0.0", memory_limit=1000, **kwargs)
    assert [len(s) for s in in_memory] == [9, 1, 2]
    assert in_memory.train.class_names == ("x", "y", "z")
    seen = {}
    for a, b in zip(in_memory, on_disk, strict=True):
        assert set(a.columns) == {"encoded", "plain"}
        assert set(b.columns) == {"path", "offset", "length", "plain"}
        for i in range(len(a)):
            assert decode.contents(a.record(i)) == decode.contents(b.record(i))
            assert a.record(i)["label"] == b.record(i)["label"]
            assert a.record(i)["plain"] == decode.contents(a.record(i)).startswith(b"\xff\xd8")
            seen[decode.contents(a.record(i))] = int(a.record(i)["label"])
    assert seen == files
    assert in_memory.train.fingerprint == on_disk.train.fingerprint
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before  # nothing was written there
    monkeypatch.setattr(decode, "is_plain", None)  # the second time the index comes from the cache
    source.load("tfds:made", memory_limit=1000, **kwargs)
    half = source.load("tfds:made", memory_limit=1000, train_split="train[25%:75%]", **kwargs)
    assert {decode.contents(part.record(i)) for part in half for i in range(len(part))} == set(list(files)[3:9])


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
    record = next(made_tfds[0].rglob("*.tfrecord*"))
    whole = record.read_bytes()
    for size in (len(whole) - 1, 5, 0):
        (tmp_path / "x").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a whole TFRecord file"):
            records.record_index(tmp_path / "x", "image", "label", tmp_path / "cache")
    (tmp_path / "x").write_bytes(whole)
    with pytest.raises(ValueError, match="picture"):
        records.record_index(tmp_path / "x", "picture", "label", tmp_path / "cache")


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
