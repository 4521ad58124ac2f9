"""Sources: what is read, how it is split, and what is said about data that cannot be used."""

from __future__ import annotations

import io
import logging
import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ssl_jax.data import decode, source

RNG = np.random.default_rng(0)


@pytest.fixture
def load(tmp_path):
    """``source.load`` with its cache in the test's folder."""
    return lambda spec, **kw: source.load(spec, cache_dir=str(tmp_path / "cache"), **kw)


def noise(h=9, w=13, c=3, dtype=np.uint8):
    return np.squeeze(RNG.integers(0, np.iinfo(dtype).max, (h, w, c), dtype, endpoint=True))


def folder(root, classes=("a", "b"), n=10, nested=False):
    for name in classes:
        where = root / name / "deep" / "er" if nested else root / name
        where.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(noise()).save(where / f"{i:03}.png")
    return root


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
        ({"train_images": np.zeros((1, 4, 4), np.uint8)}, "leaves none to train on"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8)}, "leaves none to train on"),
    ],
)
def test_npz_refused(load, tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        load(f"npz:{tmp_path}/x.npz")
    assert "\n" not in str(error.value)


def test_npz_missing_or_broken(load, tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        load("npz:/nowhere/x.npz")
    np.savez(tmp_path / "x.npz", train_images=RNG.integers(0, 256, (20, 40, 40, 3), np.uint8))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:5000])
    with pytest.raises(ValueError, match="npz"):
        load(f"npz:{tmp_path}/x.npz")


# --- folders


@pytest.mark.parametrize("nested", [False, True])
def test_folder_of_classes(load, tmp_path, nested):
    root = folder(tmp_path / "x", nested=nested)
    (root / ".hidden").mkdir()
    (root / "a" / "notes.txt").write_text("not an image")
    splits = load(f"folder:{root}")
    assert [len(s) for s in splits] == [14, 2, 4]
    assert splits.train.class_names == ("a", "b")
    for part in splits:
        for i in range(len(part)):
            record = part.record(i)
            assert os.path.relpath(record["path"], root).startswith("ab"[record["label"]])
            assert (decode.read(record["path"]) == np.asarray(Image.open(record["path"]))).all()
    assert len({p for s in splits for p in s.columns["path"]}) == 20


def test_folder_of_splits(load, tmp_path):
    folder(tmp_path / "x" / "train")
    folder(tmp_path / "x" / "val", classes=("b",), n=3)
    splits = load(f"folder:{tmp_path}/x")
    assert [len(s) for s in splits] == [18, 2, 3]
    assert splits.test.labels.tolist() == [1, 1, 1]
    assert splits.test.num_classes == 2
    folder(tmp_path / "x" / "test", n=2)
    assert len(load(f"folder:{tmp_path}/x").test) == 4
    assert len(load(f"folder:{tmp_path}/x", test_split="val").test) == 3
    with pytest.raises(ValueError, match=r"test_split='tset' is not a folder.*test, train, val"):
        load(f"folder:{tmp_path}/x", test_split="tset")
    with pytest.raises(ValueError, match="both 'train'"):
        load(f"folder:{tmp_path}/x", test_split="train")
    Image.fromarray(noise()).save(tmp_path / "x" / "loose.png")
    with pytest.raises(ValueError, match=r"loose images \(loose.png\) beside its splits"):
        load(f"folder:{tmp_path}/x")


def test_flat_folder_is_unlabelled(load, tmp_path):
    folder(tmp_path, classes=("x",), n=10)
    splits = load(f"folder:{tmp_path}/x")
    assert [len(s) for s in splits] == [7, 1, 2]
    assert splits.train.labels is None
    # Unlabelled train/ beside labelled test/: labels where there are some.
    (tmp_path / "y").mkdir()
    (tmp_path / "x").rename(tmp_path / "y" / "train")
    folder(tmp_path / "y" / "test")
    splits = load(f"folder:{tmp_path}/y")
    assert splits.train.labels is None
    assert splits.test.num_classes == 2


def test_folder_refused(load, tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        load(f"folder:{tmp_path}/x")
    (tmp_path / "x" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no image"):
        load(f"folder:{tmp_path}/x")
    folder(tmp_path / "x" / "b")
    Image.fromarray(noise()).save(tmp_path / "x" / "1.png")
    with pytest.raises(ValueError, match=r"loose images \(1.png\) beside class folders \(b\)"):
        load(f"folder:{tmp_path}/x")
    folder(tmp_path / "y" / "train")
    folder(tmp_path / "y" / "test", classes=("c",))
    with pytest.raises(ValueError, match=r"test has classes that train has not \(c\)"):
        load(f"folder:{tmp_path}/y")


def test_links_in_circles_end(load, tmp_path):
    root = folder(tmp_path / "x")
    (root / "a" / "up").symlink_to(root / "a")
    assert sum(map(len, load(f"folder:{root}"))) == 20


# --- odd files


def test_exif_orientation(tmp_path):
    image = noise(6, 9)
    for orientation, stored in {  # how a camera stores what should look like ``image``, by the EXIF standard
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image, 1),
        7: image[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(image, -1),
    }.items():
        exif = Image.Exif()
        exif[decode.ORIENTATION] = orientation
        for suffix in ("png", "jpg", "tif"):
            file = tmp_path / f"{orientation}.{suffix}"
            Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif)
            if suffix != "jpg":
                assert (decode.read(file) == image).all(), file
            assert decode.read(file).shape == (6, 9, 3)
            assert decode.is_plain(file) == (suffix == "jpg" and orientation == 1)


def test_cmyk(tmp_path):
    stored = noise(8, 8, 4)
    Image.fromarray(stored, "CMYK").save(tmp_path / "x.tif")
    assert (decode.read(tmp_path / "x.tif") == np.asarray(Image.open(tmp_path / "x.tif").convert("RGB"))).all()
    smooth = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)  # no cyan, all magenta and yellow: red
    Image.fromarray(smooth, "CMYK").save(tmp_path / "x.jpg", quality=95)
    assert not decode.is_plain(tmp_path / "x.jpg")
    assert np.abs(decode.read(tmp_path / "x.jpg").astype(int) - [255, 0, 0]).max() <= 3


def test_sixteen_bits(tmp_path):
    grey = noise(7, 5, 1, np.uint16)
    grey[0, :2] = 0, 65535
    Image.fromarray(grey).save(tmp_path / "x.png")
    expected = np.rint(grey / 65535 * 255).astype(np.uint8)
    assert (decode.read(tmp_path / "x.png") == expected[..., None].repeat(3, -1)).all()
    assert (decode.read(tmp_path / "x.png", 1) == expected[..., None]).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((6, 6), v, np.uint8)) for v in (10, 100, 200)]
    for suffix in ("gif", "tif", "png"):
        file = tmp_path / f"x.{suffix}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        assert (decode.read(file) == 10).all()
        assert decode.read(file).shape == (6, 6, 3)


def test_transparency_over_white(tmp_path):
    rgba = noise(8, 8, 4)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    alpha = rgba[..., 3:] / 255.0
    expected = rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)
    assert np.abs(decode.read(tmp_path / "x.png") - expected).max() <= 1.0
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert decode.read(tmp_path / "p.png").tolist() == [[[200, 0, 0], [255, 255, 255]]]


def test_grey_palette_bilevel_and_wrong_suffix(tmp_path):
    grey = noise(5, 6, 1)
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert (decode.read(tmp_path / "x.png") == grey[..., None]).all()
    Image.fromarray(grey > 127).save(tmp_path / "b.png")
    assert (decode.read(tmp_path / "b.png") == np.where(grey > 127, 255, 0)[..., None]).all()
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    assert (decode.read(tmp_path / "x.jpg") == grey[..., None]).all()
    assert not decode.is_plain(tmp_path / "x.jpg")


def test_progressive_is_not_plain(tmp_path):
    image = Image.fromarray(noise(32, 32))
    image.save(tmp_path / "b.jpg")
    image.save(tmp_path / "p.jpg", progressive=True)
    image.convert("L").save(tmp_path / "g.jpg")
    assert [decode.is_plain(tmp_path / f"{k}.jpg") for k in "bpg"] == [True, False, True]


def test_bombs_are_refused_by_their_header(tmp_path, monkeypatch):
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (60_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0" + b"\x8d\xe3\x14\xc4"
    with pytest.raises(decode.Unreadable):
        decode.is_plain(header)
    Image.fromarray(noise(10, 10)).save(tmp_path / "x.png")
    monkeypatch.setattr(decode, "MAX_PIXELS", 99)
    with pytest.raises(decode.Unreadable, match="10 x 10 pixels is more than 99"):
        decode.read(tmp_path / "x.png")


# --- verification


def broken_folder(root, n=150):
    folder(root, n=n)
    whole = (root / "a" / "000.png").read_bytes()
    (root / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "empty.jpg").write_bytes(b"")
    (root / "b" / "text.gif").write_text("this is no image")
    return root


def test_unreadable_files_are_named_and_left_out(load, tmp_path, caplog):
    root = broken_folder(tmp_path / "x")
    splits = load(f"folder:{root}")
    assert sum(map(len, splits)) == 300
    assert "3 of 303 images" in caplog.text
    for name in ("a/cut.png", "b/empty.jpg", "b/text.gif"):
        assert name in caplog.text
        assert name in splits.train.unreadable
    with pytest.raises(ValueError, match=r"3 of 303 images .* cannot be read \(a/cut.png.*max_unreadable=0.005"):
        load(f"folder:{root}", max_unreadable=0.005)
    # A header is not enough to see that the rest is missing.
    assert len(load(f"folder:{root}", verify="header", seed=1).train.unreadable) == 3  # known already
    assert len(source.load(f"folder:{root}", verify="header", cache_dir=str(tmp_path / "new")).train.unreadable) == 2


def test_one_percent_is_the_default_limit(load, tmp_path):
    broken_folder(tmp_path / "x", n=140)
    with pytest.raises(ValueError, match="3 of 283 images"):
        load(f"folder:{tmp_path}/x")


def test_index_is_cached_by_size_and_time(load, tmp_path, monkeypatch):
    root = folder(tmp_path / "x")
    first = load(f"folder:{root}", verify="header").train
    checked = []
    read = decode.read
    monkeypatch.setattr(decode, "read", lambda data, *a: checked.append(1) or read(data, *a))
    full = load(f"folder:{root}")
    assert len(checked) == 20  # headers do not stand for a full check
    assert load(f"folder:{root}").train.fingerprint == full.train.fingerprint != first.fingerprint
    load(f"folder:{root}", verify="header")
    assert len(checked) == 20
    os.utime(root / "a" / "003.png", ns=(0, 0))
    assert load(f"folder:{root}").train.fingerprint == full.train.fingerprint  # same content
    assert len(checked) == 21
    Image.fromarray(noise()).save(root / "a" / "003.png")
    assert load(f"folder:{root}").train.fingerprint != full.train.fingerprint
    assert len(checked) == 22
    for file in (tmp_path / "cache").rglob("*.npz"):
        file.write_bytes(b"broken")
    load(f"folder:{root}")
    assert len(checked) == 42


def test_cache_that_cannot_be_written_is_only_said(tmp_path, caplog):
    root = folder(tmp_path / "x")
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert sum(map(len, source.load(f"folder:{root}", cache_dir=str(tmp_path / "file")))) == 20
    assert "could not be kept" in caplog.text


def test_text_chunk_bombs_do_not_stop_the_index(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (2 << 20), zip=True)  # more than Pillow's limit for text
    Image.fromarray(noise()).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(decode.Unreadable):
        decode.read(tmp_path / "x.png")


# --- TFDS


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
    from ssl_jax.data import tfds

    record = next(made_tfds[0].rglob("*.tfrecord*"))
    whole = record.read_bytes()
    for size in (len(whole) - 1, 5, 0):
        (tmp_path / "x").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a whole TFRecord file"):
            tfds.record_index(tmp_path / "x", "image", "label", tmp_path / "cache")
    (tmp_path / "x").write_bytes(whole)
    with pytest.raises(ValueError, match="picture"):
        tfds.record_index(tmp_path / "x", "picture", "label", tmp_path / "cache")


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


def test_real_folders(data_dir, load):
    bees = load("folder:folders/hymenoptera", data_dir=str(data_dir))
    assert [len(s) for s in bees] == [220, 24, 153]
    assert bees.train.class_names == ("ants", "bees")
    caltech = load("folder:folders/caltech101_96", data_dir=str(data_dir), verify="header")
    assert [len(s) for s in caltech] == [2663, 296, 1010]
    assert caltech.train.num_classes == 101
    assert caltech.train.columns["plain"].all()
    assert (np.bincount(caltech.test.labels) == 10).all()
