"""Tar and ArrayRecord shards: examples, splits, damage, and the index."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from ssl_jax import configs
from ssl_jax.data import order, source
from ssl_jax.data.images import decode, stream
from ssl_jax.data.images.recipes import Recipe, View
from ssl_jax.data.readers import folder, records, shard_files, tar_members


def picture(suffix="png", h=9, w=13):
    file = io.BytesIO()
    Image.fromarray(noise(h, w)).save(file, {"jpg": "JPEG"}.get(suffix, suffix))
    return file.getvalue()


def write_tar(path, files, format=tarfile.PAX_FORMAT):
    """``files``: (name, bytes or a TarInfo's type) in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            if len(data) == 1:
                info.type, info.linkname = data, "../../secret.png"
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def example(i, suffix="png", label=None, how="cls"):
    data = picture(suffix)
    text = {"cls": f"{label}\n", "json": json.dumps({"label": label, "caption": "x"})}[how].encode()
    return [(f"{i:04}.{suffix}", data), *([(f"{i:04}.{how}", text)] if label is not None else [])]


def tars(root, n=12, number=4, name="x-{:03}.tar", start=0):
    """``number`` shards of ``n`` examples in turn PNG and JPEG, of three classes; path -> bytes in order."""
    made = {}
    for k in range(number):
        parts = [example(start + n * k + i, ("png", "jpg")[i % 2], i % 3, ("cls", "json")[i % 2]) for i in range(n)]
        write_tar(root / name.format(k), itertools.chain(*parts))
        made |= {part[0][1]: i % 3 for i, part in enumerate(parts)}
    return made


def contents(splits):
    return {decode.contents(p.record(i)): int(p.record(i)["label"]) for p in splits for i in range(len(p))}


# --- tar


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_example_with_its_class(load, tmp_path, format):
    made = tars(tmp_path / "x")
    deep = example(99, "jpg", 1)
    write_tar(tmp_path / "x" / "y.tar", [(f"{'long' * 20}/{'name' * 20}/{n}", data) for n, data in deep], format)
    splits = load(f"tar:{tmp_path}/x")
    assert [len(s) for s in splits] == [35, 4, 10]
    assert contents(splits) == made | {deep[0][1]: 1}
    assert set(splits.train.columns) == {"path", "offset", "length", "plain"}
    assert splits.train.class_names == ("0", "1", "2")
    for i in range(len(splits.train)):
        record = splits.train.record(i)
        assert record["plain"] == decode.contents(record).startswith(b"\xff\xd8")


def test_what_is_no_image_is_passed_over(load, tmp_path):
    """Links, devices, folders, hidden and other files; and names that would leave a folder only name what is inside."""
    odd = [(f"odd{i}.png", bytes(kind)) for i, kind in enumerate(zip(b"123456", strict=True))]
    kept = [("../../up.png", picture()), ("/etc/root.png", picture()), ("a/0.png", picture()), ("b/0.png", picture())]
    others = [
        ("._a.png", b"resource fork"),
        (".png", picture()),
        ("notes.txt", b"text"),
        ("a/0.seg.png", picture()),
        ("c.cls", b"1"),
    ]
    write_tar(tmp_path / "x.tar", [*odd, *kept, *others])
    splits = load(f"tar:{tmp_path}/x.tar")
    assert set(contents(splits)) == {data for _, data in kept}
    assert splits.train.labels is None
    beside, passed = splits.notes[:2]
    assert "lie beside folders (a, b, etc); labels are known where" in beside
    assert passed == (
        f"{tmp_path}/x.tar: passed over 3 links that lead to no file, 3 neither file nor folder, 2 hidden, "
        "1 .seg.png, 1 .txt"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "x.tar"]


def test_labels_that_are_missing_are_unknown(load, tmp_path):
    parts = [example(i, label=i % 2 if i < 30 else None) for i in range(40)]
    write_tar(tmp_path / "x.tar", itertools.chain(*parts, [("0035.json", b'{"caption": "no label"}')]))
    splits = load(f"tar:{tmp_path}/x.tar")
    assert sorted(contents(splits).values()) == [-1] * 10 + [0] * 15 + [1] * 15


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_labels_of_other_names_than_the_images_are_told(load, tmp_path, suffix):
    label = b"1" * 2 if suffix == "cls" else b'{"label": 11}'
    parts = [[(f"img_{i}.png", picture()), (f"lab_{i}.{suffix}", label)] for i in range(20)]
    write_tar(tmp_path / "x" / "0.tar", itertools.chain(*parts))
    tars(tmp_path / "x", number=1)
    for _ in range(2):  # a listing that is known already, too
        said, passed = load(f"tar:{tmp_path}/x/0.tar").notes[:2]
        assert passed == f"{tmp_path}/x/0.tar: passed over 20 .{suffix}"
        assert f"in 1 tar(s) no label belongs to an image, which are unlabelled (lab_0.{suffix} in 0.tar)" in said
        assert "\n" not in said
    assert load(f"tar:{tmp_path}/x/x-000.tar").notes == ()
    write_tar(tmp_path / "y.tar", itertools.chain(*parts, [(f"img_3.{suffix}", label)]))  # one of them is right
    right = load(f"tar:{tmp_path}/y.tar")
    assert len(right.train) == 14
    assert f"{tmp_path}/y.tar: passed over 20 .{suffix}" in right.notes
    assert not any("no label belongs" in note for note in right.notes)


@pytest.mark.parametrize("name", ["{}/x-{{:03}}.tar", "{}-{{:03}}.tar", "in_{}_{{:03}}.tar"])
def test_splits(load, tmp_path, name):
    for split in ("train", "val"):
        tars(tmp_path / "x", name=name.format(split), n=10 if split == "train" else 6, number=2)
    splits = load(f"tar:{tmp_path}/x")
    assert [len(s) for s in splits] == [18, 2, 12]
    assert all("val" in path for path in splits.test.columns["path"])
    assert len(load(f"tar:{tmp_path}/x", train_split="val", test_split="train").test) == 20
    with pytest.raises(ValueError, match=r"test_split='tset'.*it has train, val"):
        load(f"tar:{tmp_path}/x", test_split="tset")
    tars(tmp_path / "x", name="loose.tar", number=1)
    with pytest.raises(ValueError, match=r"shards of no split \(loose.tar\) beside train"):
        load(f"tar:{tmp_path}/x")


def test_patterns(load, tmp_path):
    made = list(tars(tmp_path / "x", n=10))
    for pattern, part in {
        "x-{001..002}.tar": made[10:30],
        "x-*[12].tar": made[10:30],
        "x-00{0,3}.tar": made[:10] + made[30:],
        "x-003.tar": made[30:],
        "{x-000,x-0{01..01}}.tar": made[:20],
    }.items():
        splits = load(f"tar:x/{pattern}", data_dir=str(tmp_path))
        assert set(contents(splits)) == set(part), pattern
    with pytest.raises(ValueError, match=r"no file matches '.*x-004.tar'"):
        load(f"tar:{tmp_path}/x/x-{{000..999999999999}}.tar")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [("0.jpg", b"xx"), ("0.png", b"yy")],
            "holds '0.jpg' and '0.png' of one key, .*, else keep one image for each key",
        ),
        ([("0.png", b"xx"), ("0.cls", b"cat")], "0.cls in .* is b'cat'; write an integer"),
        ([("0.png", b"xx"), ("0.cls", b"-2")], "b'-2'; write an integer"),
        ([("0.png", b"xx"), ("0.json", b'{"label": "cat"}')], 'write an object in which "label" is an integer'),
        ([("0.png", b"xx"), ("0.json", b'{"label": true}')], "write an object"),
        ([("0.png", b"xx"), ("0.json", b"[" * 100_000)], "write an object"),
        ([("0.png", b"xx"), ("0.cls", b"10"), ("0.json", b'{"label": 2}')], "says class 2, another file 10"),
        ([("notes.txt", b"text")], "holds no image"),
    ],
)
def test_wrong_tars_are_refused(load, tmp_path, files, message):
    write_tar(tmp_path / "x.tar", files)
    with pytest.raises(ValueError, match=message) as error:
        load(f"tar:{tmp_path}/x.tar")
    assert "\n" not in str(error.value)
    assert "x.tar" in str(error.value)


def test_a_tar_cut_anywhere_is_refused(load, tmp_path):
    """Within an image, between two members, within a header, within its end: what is left is not used in silence."""
    path = write_tar(tmp_path / "x.tar", itertools.chain(*(example(i) for i in range(6))))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [member.offset for member in tar] + [tar.offset]
    cuts = {0, 1, *(e + d for e in ends for d in (0, 100, 512, 700) if e + d < ends[-1] + 512)}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"x.tar is not a whole tar file \("):
            load(f"tar:{path}")
    for damaged in (
        whole + whole,  # cat, which leaves tarfile at the end of the first
        whole[: ends[3]] + b"?" * 512 + whole[ends[3] + 512 :],  # a header
        picture(),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x.tar is not a whole tar file \("):
            load(f"tar:{path}")
    path.write_bytes(whole)
    assert len(contents(load(f"tar:{path}"))) == 6


def test_compressed_tars_are_refused(load, tmp_path):
    tars(tmp_path / "x", number=1)
    (tmp_path / "x" / "y.tar.gz").write_bytes(gzip.compress((tmp_path / "x" / "x-000.tar").read_bytes()))
    for spec in ("x", "x/y.tar.gz", "x/*"):
        with pytest.raises(ValueError, match=r"y.tar.gz is compressed, .*decompress it \(gunzip"):
            load(f"tar:{tmp_path}/{spec}")
    (tmp_path / "x" / "y.tar.gz").rename(tmp_path / "x" / "y.tar")
    with pytest.raises(ValueError, match=r"y.tar is compressed"):  # whatever its name
        load(f"tar:{tmp_path}/x")
    with pytest.raises(ValueError, match=r"holds no file that ends in .array_record"):
        load(f"arrayrecord:{tmp_path}/x")


def test_unreadable_images_are_named_and_left_out(load, tmp_path):
    parts = [example(i, label=0) for i in range(299)]
    cut = parts[7][0][1]
    parts[7][0] = ("0007.png", cut[: len(cut) - 30])
    write_tar(tmp_path / "x.tar", itertools.chain(*parts, [("empty.jpg", b""), ("text.gif", b"no image")]))
    splits = load(f"tar:{tmp_path}/x.tar")
    assert sum(map(len, splits)) == 298
    assert set(splits.train.unreadable) == {"x.tar/0007.png", "x.tar/empty.jpg", "x.tar/text.gif"}
    assert "3 of 301 images" in splits.notes[0]
    with pytest.raises(ValueError, match=r"3 of 301 images .* cannot be read \(x.tar/0007.png.*max_unreadable=0.005"):
        load(f"tar:{tmp_path}/x.tar", max_unreadable=0.005)
    assert len(load(f"tar:{tmp_path}/x.tar", verify="header").train.unreadable) == 2


def test_a_jpeg_with_damaged_codes_is_named_also_where_an_older_check_passed_it(load, tmp_path, monkeypatch):
    large = io.BytesIO()
    Image.fromarray(noise(60, 80)).save(large, "JPEG")
    damaged = large.getvalue()[:1500] + large.getvalue()[2400:]
    write_tar(tmp_path / "x.tar", [("0.jpg", large.getvalue()), ("1.jpg", damaged), *example(2), *example(3)])
    with monkeypatch.context() as before:
        before.setattr(decode, "refuse_damage", lambda data: None)
        before.setattr(folder, "CHECK", 1)
        assert load(f"tar:{tmp_path}/x.tar").train.unreadable == ()
    assert load(f"tar:{tmp_path}/x.tar", max_unreadable=0.3).train.unreadable == ("x.tar/1.jpg",)


def test_header_beyond_the_first_bytes(load, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    file = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(file, "JPEG", exif=exif, icc_profile=b"p" * 60_000)
    large = io.BytesIO()
    Image.fromarray(noise(300, 300)).save(large, "JPEG", quality=100)
    assert len(large.getvalue()) > records.HEAD
    write_tar(tmp_path / "x.tar", [("0.jpg", file.getvalue()), ("1.jpg", large.getvalue()), *example(2), *example(3)])
    splits = load(f"tar:{tmp_path}/x.tar", verify="header")
    assert sum(map(len, splits)) == 4
    assert sum(part.columns["plain"].sum() for part in splits) == 2


# --- the index


def test_shards_are_listed_and_checked_once(load, tmp_path, monkeypatch):
    tars(tmp_path / "x")
    full = load(f"tar:{tmp_path}/x")
    header = load(f"tar:{tmp_path}/x", verify="header")
    assert full.train.fingerprint != header.train.fingerprint
    listed, checked = [], []
    for seen, module, name in ((listed, tar_members, "list_tar"), (checked, decode, "is_plain")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda file, *a, seen=seen, real=real: seen.append(file) or real(file, *a))
    assert load(f"tar:{tmp_path}/x").train.fingerprint == full.train.fingerprint
    assert load(f"tar:{tmp_path}/x", verify="header").train.fingerprint == header.train.fingerprint
    assert listed == checked == []
    os.utime(tmp_path / "x" / "x-002.tar", ns=(0, 0))
    assert load(f"tar:{tmp_path}/x").train.fingerprint == full.train.fingerprint  # same content
    assert [file.name for file in listed] == ["x-002.tar"]
    assert len(checked) == 12
    tars(tmp_path / "x", number=1)
    assert load(f"tar:{tmp_path}/x").train.fingerprint != full.train.fingerprint


def test_the_same_shards_elsewhere_are_the_same_data(load, tmp_path):
    tars(tmp_path / "x")
    before = load(f"tar:{tmp_path}/x")
    (tmp_path / "x").rename(tmp_path / "y")
    after = load(f"tar:{tmp_path}/y/x-{{000..003}}.tar")
    assert [a.fingerprint for a in after] == [b.fingerprint for b in before]
    for scheme in ("tar", "arrayrecord", "folder"):
        refused, free = configs.differences({"data": {"source": f"{scheme}:x"}}, {"data": {"source": f"{scheme}:y"}})
        assert not refused
        assert free
        assert configs.differences({"data": {"source": f"{scheme}:x"}}, {"data": {"source": "npz:x"}})[0]


@pytest.mark.parametrize("verify", ["full", "header"])
def test_a_shard_of_the_same_size_in_the_place_of_another_is_other_data(load, tmp_path, verify):
    tars(tmp_path / "x")
    first = source.identity(load(f"tar:{tmp_path}/x", verify=verify))
    assert first["of"] == ("content" if verify == "full" else "times")
    file = tmp_path / "x" / "x-002.tar"
    whole, times = file.read_bytes(), file.stat()
    at = whole.index(b"IEND") - 8  # pixels, as they lie there
    file.write_bytes(whole[:at] + bytes([255 - whole[at]]) + whole[at + 1 :])
    changed = source.identity(load(f"tar:{tmp_path}/x", verify=verify, max_unreadable=0.1))
    assert not source.same(first, changed)
    file.write_bytes(whole)
    assert source.same(first, source.identity(load(f"tar:{tmp_path}/x", verify=verify))) == (verify == "full")
    os.utime(file, ns=(times.st_mtime_ns, times.st_mtime_ns))
    again = source.identity(load(f"tar:{tmp_path}/x", verify=verify))
    assert source.same(first, again)
    older = {"sizes": first["sizes"], "fingerprints": first.get("before", first["fingerprints"])}
    assert source.same(older, again)


@pytest.mark.parametrize("values", [(1, 2, 3), (5, 25, 45)])
@pytest.mark.parametrize("kind", ["tar", "arrayrecord"])
def test_classes_are_the_labels_that_occur(load, tmp_path, kind, values):
    """In train or in test, numbered as one; 255 can mean that there is none."""
    for split, labels in (("train", [*values[:2], 255]), ("test", values)):
        made = [(picture(), labels[i % 3]) for i in range(12)]
        if kind == "tar":
            files = [((f"{i}.png", data), (f"{i}.cls", b"%d " % label)) for i, (data, label) in enumerate(made)]
            write_tar(tmp_path / "x" / f"{split}-0.tar", itertools.chain(*files))
        else:
            write_array_record(tmp_path / "x" / f"{split}-0.array_record", made)
    splits = load(f"{kind}:{tmp_path}/x", unlabelled=255)
    assert splits.train.class_names == splits.test.class_names == tuple(map(str, values))
    assert splits.test.labels.tolist() == [0, 1, 2] * 4
    assert sorted(np.concatenate([splits.train.labels, splits.val.labels])) == [-1] * 4 + [0] * 4 + [1] * 4
    assert splits.notes[-1].startswith("WARNING: 4 of 12 test examples are of 1 class without an example to learn from")


@pytest.mark.parametrize("verify", ["full", "header"])
def test_train_shards_as_test_are_refused(load, tmp_path, verify):
    tars(tmp_path / "x" / "train")
    (tmp_path / "x" / "test").mkdir()
    for k in range(2):
        (tmp_path / "x" / "test" / f"{k}.tar").symlink_to(f"../train/x-00{k}.tar")
    with pytest.raises(ValueError, match=r"24 of 24 examples of test are in train, too.*must not be trained on"):
        load(f"tar:{tmp_path}/x", verify=verify)
    with pytest.raises(ValueError, match=r"names .*x-000.tar twice, which would be in train and in test"):
        load(f"tar:{tmp_path}/x/train/x-{{000,001,000}}.tar", verify=verify)


# --- ArrayRecord


def write_array_record(path, examples, names=("image", "label")):
    from array_record.python.array_record_module import ArrayRecordWriter

    from ssl_jax.data import tensorflow

    train = tensorflow().train
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for data, label in examples:
        feature = {names[0]: train.Feature(bytes_list=train.BytesList(value=[data]))}
        if label is not None:
            feature[names[1]] = train.Feature(int64_list=train.Int64List(value=[label]))
        writer.write(train.Example(features=train.Features(feature=feature)).SerializeToString())
    writer.close()
    return path


@pytest.fixture
def array_records(tmp_path):
    """Three shards of ten; bytes -> class."""
    made = [(picture(("png", "jpg")[i % 2]), i % 3 if i % 10 else None) for i in range(30)]
    for k in range(3):
        names = ("image/encoded", "image/class/label") if k else ("image", "label")
        suffix = "array_record" if k else "arrayrecord"
        write_array_record(tmp_path / "r" / f"x-{k}.{suffix}", made[10 * k : 10 * k + 10], names)
    return {data: -1 if label is None else label for data, label in made}


def test_array_records(load, tmp_path, array_records, monkeypatch):
    held = load(f"arrayrecord:{tmp_path}/r")
    on_disk = load(f"arrayrecord:{tmp_path}/r", memory_limit=100)
    assert sum(map(len, held)) == 30
    assert contents(held) == contents(on_disk) == array_records
    assert set(held.train.columns) == {"encoded", "plain"}
    assert set(on_disk.train.columns) == {"path", "record", "offset", "length", "plain"}
    assert held.train.fingerprint == on_disk.train.fingerprint
    monkeypatch.setattr(records, "array_records", None)  # the second time the index comes from the cache
    monkeypatch.setattr(decode, "is_plain", None)
    assert contents(load(f"arrayrecord:{tmp_path}/r/x-{{1,2}}.*", memory_limit=100)).items() < array_records.items()


def test_array_records_in_batches(load, tmp_path, array_records):
    kwargs = {"recipe": Recipe((View(None),)), "image_size": 8, "global_batch_size": 7, "seed": 1}
    held, on_disk = (load(f"arrayrecord:{tmp_path}/r", memory_limit=limit).train for limit in (1 << 30, 1))
    for a, b in itertools.islice(
        zip(stream.batches(held, **kwargs), stream.batches(on_disk, **kwargs), strict=False), 6
    ):
        assert (a["index"] == b["index"]).all()
        assert (a["views"][0] == b["views"][0]).all()


def test_broken_array_records(load, tmp_path, array_records, caplog):
    file = tmp_path / "r" / "x-1.array_record"
    whole = file.read_bytes()
    for damaged in (b"", b"text", whole[:-1], whole[: len(whole) // 2], whole[:1000] + b"?" * 100 + whole[1100:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x-1.array_record is not a whole ArrayRecord file \(") as error:
            load(f"arrayrecord:{tmp_path}/r")
        assert "\n" not in str(error.value)
    file.unlink()
    write_array_record(file, [(b"no image", 1)])
    with caplog.at_level(logging.WARNING):
        parts = load(f"arrayrecord:{tmp_path}/r", max_unreadable=0.1)
    assert parts.train.unreadable == ("x-1.array_record/0",)
    write_array_record(file, [(picture(), 1)], names=("picture", "label"))
    with pytest.raises(ValueError, match=r"record 0 of .*x-1.array_record is no tf.train.Example.*only label, picture"):
        load(f"arrayrecord:{tmp_path}/r")


# --- order


def test_shards_are_shuffled_as_one(load, tmp_path):
    """A permutation of all examples: the first batch comes from every shard, and neighbours are torn far apart."""
    tars(tmp_path / "x", n=40, number=8)
    train = load(f"tar:{tmp_path}/x", verify="header").train
    n = len(train)
    drawn = np.concatenate([order.indices(n, n // 4, 0, step) for step in range(4)])
    assert len(set(train.columns["path"][drawn[: n // 4]])) == 8
    # A random permutation moves an example by n / 3 on average; a buffer of a tenth of them by a fifteenth or so.
    assert abs(np.abs(drawn - np.arange(len(drawn))).mean() / n - 1 / 3) < 0.06
    assert (np.abs(np.diff(drawn)) == 1).mean() < 0.05
    recipe = Recipe((View(None),))
    batches = stream.batches(train, recipe=recipe, image_size=4, global_batch_size=n // 4, seed=0)
    resumed = stream.batches(train, recipe=recipe, image_size=4, global_batch_size=n // 4, seed=0, start_step=2)
    for whole, part in zip(itertools.islice(batches, 2, 5), resumed, strict=False):
        assert (whole["index"] == part["index"]).all()
        assert (whole["views"][0] == part["views"][0]).all()


def test_suffixes_of_tfds():
    assert records.is_array_record(Path("made-train.array_record-00000-of-00002"))
    assert shard_files.ends_in(Path("made-train.array_record-00000-of-00002"), shard_files.SUFFIXES["arrayrecord"])
