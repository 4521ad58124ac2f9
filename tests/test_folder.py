"""Folders of images: classes, splits, files that cannot be read, and the index."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest
from pictures import folder, noise
from PIL import Image

from ssl_jax import configs
from ssl_jax.data import readers, source
from ssl_jax.data.images import decode
from ssl_jax.data.readers import folder as folders
from ssl_jax.experiment import build

RNG = np.random.default_rng(0)


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


def test_the_pictures_of_a_run_inside_its_data_are_no_examples(load, tmp_path):
    root = folder(tmp_path / "x")
    before = load(f"folder:{root}")
    figures = root / "run" / "figures"
    figures.mkdir(parents=True)
    Image.fromarray(noise()).save(figures / "views.png")
    for name in ("config.json", ".lock"):
        (root / "run" / name).touch()
    after = load(f"folder:{root}")
    assert [s.fingerprint for s in after] == [s.fingerprint for s in before]
    assert after.train.class_names == ("a", "b")
    assert any("1 folder of a run" in note for s in after for note in s.notes)
    assert not any("without an image" in note for s in after for note in s.notes)
    config = configs.load("simclr_digits", [f"data.source=folder:{root}"])
    with pytest.raises(ValueError, match="is the folder of the data, and a run draws pictures; use another"):
        build(config, folder=root)


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


def test_a_library_of_photos_is_taken_without_labels(load, tmp_path):
    """Loose images beside folders by year: nothing is left out, and what would give labels is said once."""
    folder(tmp_path / "my photos", classes=("2021", "2022/march"), n=8)
    for i in range(4):
        Image.fromarray(noise()).save(tmp_path / "my photos" / f"{i}.png")
    splits = load(f"folder:{tmp_path}/my photos")
    assert sum(map(len, splits)) == 20
    assert all(s.labels is None and s.num_classes is None for s in splits)
    names = {str(path).partition("my photos/")[2].partition("/")[0] for s in splits for path in s.columns["path"]}
    assert names == {"0.png", "1.png", "2.png", "3.png", "2021", "2022"}
    (note,) = [note for note in splits.train.notes if "labels" in note]
    assert note.endswith(
        "all images are taken without labels, since some (0.png, 1.png, 2.png and 1 more) lie beside folders "
        "(2021, 2022); labels are known where every image lies in the folder of its class"
    )
    folder(tmp_path / "my photos" / "test", n=2)
    with pytest.raises(ValueError, match=r"loose images \(0.png.*\) beside test/, which would be trained on"):
        load(f"folder:{tmp_path}/my photos")


def test_folder_refused(load, tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        load(f"folder:{tmp_path}/x")
    (tmp_path / "x" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no image"):
        load(f"folder:{tmp_path}/x")
    folder(tmp_path / "x" / "train")
    folder(tmp_path / "x" / "test")
    Image.fromarray(noise()).save(tmp_path / "x" / "train" / "1.png")
    with pytest.raises(ValueError, match=r"loose images \(train/1.png\) beside class folders \(a, b\)"):
        load(f"folder:{tmp_path}/x")
    folder(tmp_path / "y" / "train")
    folder(tmp_path / "y" / "test", classes=("c",))
    with pytest.raises(ValueError, match=r"test has classes that train has not \(c\)"):
        load(f"folder:{tmp_path}/y")


def test_links_in_circles_end(load, tmp_path):
    root = folder(tmp_path / "x")
    (root / "a" / "up").symlink_to(root / "a")
    assert sum(map(len, load(f"folder:{root}"))) == 20


# --- verification


def broken_folder(root, n=150):
    folder(root, n=n)
    whole = (root / "a" / "000.png").read_bytes()
    (root / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "empty.jpg").write_bytes(b"")
    (root / "b" / "text.gif").write_text("this is no image")
    return root


def test_links_out_of_a_class_bring_no_images_of_others(load, tmp_path):
    """Under it they would have another label, or be in training and test."""
    root = folder(tmp_path / "x" / "train").parent
    folder(root / "test", n=2)
    for name, target in (("up", "../.."), ("split", ".."), ("sibling", "../b"), ("test", "../../test")):
        (root / "train" / "a" / name).symlink_to(target, target_is_directory=True)
    elsewhere = folder(tmp_path / "y", classes=("c",), n=5)
    (root / "train" / "b" / "more").symlink_to(elsewhere / "c", target_is_directory=True)
    splits = load(f"folder:{root}")
    known = np.concatenate([splits.train.labels, splits.val.labels])
    assert np.bincount(known).tolist() == [10, 15]
    assert len(splits.test) == 4


def test_unreadable_files_are_named_and_left_out(load, tmp_path):
    root = broken_folder(tmp_path / "x")
    splits = load(f"folder:{root}")
    assert sum(map(len, splits)) == 300
    (said,) = splits.notes
    assert "3 of 303 images" in said
    for name in ("a/cut.png", "b/empty.jpg", "b/text.gif"):
        assert name in said
        assert name in splits.train.unreadable
    with pytest.raises(ValueError, match=r"3 of 303 images .* cannot be read \(a/cut.png.*max_unreadable=0.005"):
        load(f"folder:{root}", max_unreadable=0.005)
    # A header is not enough to see that the rest is missing.
    assert len(load(f"folder:{root}", verify="header", seed=1).train.unreadable) == 3  # known already
    assert len(readers.load(f"folder:{root}", verify="header", cache_dir=str(tmp_path / "new")).train.unreadable) == 2


def test_what_tensorflow_alone_refuses_is_read_by_pillow(load, tmp_path, monkeypatch):
    """Pillow reads over damage at which TensorFlow stops; such a file is no plain one, and is not lost in the run."""
    (tmp_path / "x" / "a").mkdir(parents=True)
    for i in range(10):
        Image.fromarray(noise()).save(tmp_path / "x" / "a" / f"{i}.jpg")
    refuses = (tmp_path / "x" / "a" / "3.jpg").read_bytes()
    whole = decode.is_whole_to_tensorflow
    assert whole(refuses)
    assert not whole(refuses[: len(refuses) // 2])
    monkeypatch.setattr(decode, "is_whole_to_tensorflow", lambda data: data != refuses and whole(data))
    parts = load(f"folder:{tmp_path}/x")
    assert not parts.train.unreadable
    plain = {
        os.path.basename(p): b
        for part in parts
        for p, b in zip(part.columns["path"], part.columns["plain"], strict=True)
    }
    assert [name for name, is_plain in plain.items() if not is_plain] == ["3.jpg"]


def test_a_jpeg_with_damaged_codes_is_named_also_where_an_older_check_passed_it(load, tmp_path, monkeypatch):
    where = tmp_path / "x" / "a"
    where.mkdir(parents=True)
    for i in range(10):
        Image.fromarray(noise(60, 80)).save(where / f"{i}.jpg")
    whole = (where / "3.jpg").read_bytes()
    (where / "3.jpg").write_bytes(whole[:1500] + whole[2400:])
    (where / "4.jpg").write_bytes(whole[:-2] + b"12345" + whole[-2:])
    old(tmp_path / "x")
    with monkeypatch.context() as before:
        before.setattr(decode, "refuse_damage", lambda data: None)
        before.setattr(folders, "CHECK", 1)
        assert load(f"folder:{tmp_path}/x").train.unreadable == ()
    for verify, unreadable in ((None, ("a/3.jpg",)), ("header", ("a/3.jpg",))):  # known to be so from then on
        parts = load(f"folder:{tmp_path}/x", verify=verify, max_unreadable=0.1)
        assert parts.train.unreadable == unreadable
        assert "1 of 10 images" in parts.notes[0]
    checked = []
    monkeypatch.setattr(decode, "refuse_damage", checked.append)
    load(f"folder:{tmp_path}/x", max_unreadable=0.1)
    assert checked == [(where / "3.jpg").read_bytes()]  # once more, for what is wrong with it


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


def old(root):
    """Everything below as if it had been written long ago: new times are not trusted."""
    for where, _, files in os.walk(root):
        for name in (*files, "."):
            os.utime(os.path.join(where, name), ns=(10**18, 10**18))
    return root


@pytest.fixture
def touched(monkeypatch):
    """What is listed, looked at and opened, by name."""
    seen = {"scandir": [], "stat": [], "open": []}
    scandir, stat, is_plain = os.scandir, os.stat, decode.is_plain

    def spy(kind, real):
        return lambda path, *a, **kw: seen[kind].append(os.path.basename(os.fspath(path))) or real(path, *a, **kw)

    monkeypatch.setattr(os, "scandir", spy("scandir", scandir))
    monkeypatch.setattr(os, "stat", spy("stat", stat))
    monkeypatch.setattr(decode, "is_plain", spy("open", is_plain))
    return seen


def test_a_second_start_lists_nothing(load, tmp_path, touched):
    root = old(folder(tmp_path / "x", classes=("a", "b", "c"), n=30, nested=True))
    first = load(f"folder:{root}", verify="header")
    assert len(touched["open"]) == 90
    for calls in touched.values():
        calls.clear()
    second = load(f"folder:{root}", verify="header")
    assert touched["scandir"] == touched["open"] == []
    files = [name for name in touched["stat"] if name.endswith(".png")]
    assert len(files) == 90
    assert len(touched["stat"]) - len(files) < 10 + 10  # ten folders, and a few looks at the root
    for a, b in zip(first, second, strict=True):
        assert a.fingerprint == b.fingerprint
        assert a.columns["path"].tolist() == b.columns["path"].tolist()
    # Full verification looks at every file, but lists none.
    touched["stat"].clear()
    load(f"folder:{root}", verify="full")
    assert touched["scandir"] == []
    assert len([name for name in touched["stat"] if name.endswith(".png")]) == 90


def test_changes_of_a_known_folder_are_seen(load, tmp_path, touched):
    root = old(folder(tmp_path / "x", classes=("a", "b", "c"), n=20))

    def start():
        for calls in touched.values():
            calls.clear()
        parts = load(f"folder:{root}", verify="header")
        return sorted(os.path.relpath(path, root) for part in parts for path in part.columns["path"])

    names = set(start())
    assert len(names) == 60
    (root / "a" / "000.png").rename(root / "a" / "new.png")
    (root / "b" / "001.png").unlink()
    Image.fromarray(noise()).save(root / "b" / "added.png")
    names = names - {"a/000.png", "b/001.png"} | {"a/new.png", "b/added.png"}
    assert start() == sorted(names)
    assert sorted(touched["scandir"]) == ["a", "b"]
    assert sorted(touched["open"]) == ["added.png", "new.png"]
    # Folders that changed a moment ago may change again within one step of the clock: they are listed once more.
    assert start() == sorted(names)
    assert sorted(touched["scandir"]) == ["a", "b"]
    assert touched["open"] == []
    (root / "c" / "deep").mkdir()
    (root / "a" / "new.png").rename(root / "c" / "deep" / "moved.png")
    names = names - {"a/new.png"} | {"c/deep/moved.png"}
    assert start() == sorted(names)
    old(root)
    assert start() == start() == sorted(names)
    assert touched["scandir"] == []
    (root / "b" / "notes.txt").touch()  # a listing without a new file is worth keeping, too
    os.utime(root / "b", ns=(10**17, 10**17))
    assert start() == start() == sorted(names)
    assert touched["scandir"] == []


def test_a_file_repaired_in_place_is_seen(load, tmp_path):
    root = folder(tmp_path / "x", n=100)
    whole = (root / "a" / "000.png").read_bytes()
    (root / "a" / "000.png").write_bytes(b"")
    old(root)
    assert load(f"folder:{root}", verify="header").train.unreadable == ("a/000.png",)
    (root / "a" / "000.png").write_bytes(whole)
    os.utime(root / "a", ns=(10**18, 10**18))
    assert load(f"folder:{root}", verify="header").train.unreadable == ()


@pytest.mark.parametrize("verify", ["full", "header"])
def test_a_file_of_the_same_size_in_the_place_of_another_is_other_data(load, tmp_path, verify):
    root = old(folder(tmp_path / "x"))
    first = source.identity(load(f"folder:{root}", verify=verify))
    assert first["of"] == ("content" if verify == "full" else "times")
    load(f"folder:{root}", verify="full")  # what a full check once found does not change what a header tells
    assert source.same(first, source.identity(load(f"folder:{root}", verify=verify)))
    file = root / "a" / "003.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20] + bytes(255 - b for b in whole[-20:-12]) + whole[-12:])
    assert file.stat().st_size == len(whole)
    os.utime(root / "a", ns=(10**18, 10**18))
    changed = source.identity(load(f"folder:{root}", verify=verify, max_unreadable=0.1))
    assert not source.same(first, changed)
    assert verify == "full" or changed["before"]["test"] == first["before"]["test"]
    file.write_bytes(whole)
    assert source.same(first, source.identity(load(f"folder:{root}", verify=verify))) == (verify == "full")
    os.utime(file, ns=(10**18, 10**18))
    assert source.same(first, source.identity(load(f"folder:{root}", verify=verify)))


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize("kind", ["link", "copy", "link to a class"])
def test_train_images_as_test_are_refused(load, tmp_path, verify, kind):
    root = folder(tmp_path / "x" / "train").parent
    if kind == "copy":
        shutil.copytree(root / "train", root / "test")
    elif kind == "link":
        (root / "test").symlink_to("train", target_is_directory=True)
    else:
        (root / "test").mkdir()
        (root / "test" / "a").symlink_to("../train/a", target_is_directory=True)
    if kind == "copy" and verify == "header":  # other files; what they hold is not known
        load(f"folder:{root}", verify=verify)
        return
    n = 10 if kind == "link to a class" else 20
    with pytest.raises(ValueError, match=f"{n} of {n} examples of test/ are in train/, too.*must not be trained on"):
        load(f"folder:{root}", verify=verify)


def test_a_few_images_of_train_in_test_are_said(load, tmp_path):
    root = folder(tmp_path / "x" / "train").parent
    folder(root / "test", n=3)
    shutil.copy(root / "train" / "a" / "003.png", root / "test" / "a" / "copy.png")
    said = "1 of 7 examples of test/ are in train/, too, byte for byte; what is measured on them is memory"
    assert load(f"folder:{root}").notes == (f"WARNING: {root}: {said}",)


def test_images_without_class_folders_say_why_nothing_is_measured(load, tmp_path):
    folder(tmp_path / "x" / "train")
    folder(tmp_path / "x" / "test", classes=("",), n=5)
    assert load(f"folder:{tmp_path}/x", test_split="test").notes == (
        "no test example has a label (the images lie in no folders of classes): what needs labels is not measured",
    )
    with pytest.raises(ValueError, match=r"data\.unlabelled=3 means nothing"):
        load(f"folder:{tmp_path}/x", unlabelled=3)


def test_a_folder_written_in_this_moment_is_listed_again(load, tmp_path, touched):
    root = old(folder(tmp_path / "x"))
    os.utime(root / "a" / "003.png")
    load(f"folder:{root}", verify="header")
    touched["scandir"].clear()
    load(f"folder:{root}", verify="header")
    assert touched["scandir"] == ["a"]


def test_other_folders_beside_splits_are_remembered(load, tmp_path):
    folder(tmp_path / "x" / "train")
    folder(tmp_path / "x" / "test", n=3)
    folder(tmp_path / "x" / "spare")
    old(tmp_path)
    for _ in range(2):
        splits = load(f"folder:{tmp_path}/x", verify="header")
        assert sum(map(len, splits)) == 26
        assert splits.notes == (f"{tmp_path}/x: spare/ not used; data.train_split and data.test_split name what is",)
    assert len(load(f"folder:{tmp_path}/x", test_split="spare").test) == 20


def test_cache_that_cannot_be_written_is_only_said(tmp_path, caplog):
    root = folder(tmp_path / "x")
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert sum(map(len, readers.load(f"folder:{root}", cache_dir=str(tmp_path / "file")))) == 20
    assert "could not be kept" in caplog.text


def test_real_folders(data_dir, load):
    bees = load("folder:folders/hymenoptera", data_dir=str(data_dir))
    assert [len(s) for s in bees] == [220, 24, 153]
    assert bees.train.class_names == ("ants", "bees")
    caltech = load("folder:folders/caltech101_96", data_dir=str(data_dir), verify="header")
    assert [len(s) for s in caltech] == [2663, 296, 1010]
    assert caltech.train.num_classes == 101
    assert caltech.train.columns["plain"].all()
    assert (np.bincount(caltech.test.labels) == 10).all()
