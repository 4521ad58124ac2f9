"""How datasets of the real world lie: names of splits, folders around and beside them, and what is passed over."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from ssl_jax import configs, experiment
from ssl_jax.data.images import decode, image_files, opening
from ssl_jax.data.readers import layout, split_names, splits


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, kind)
    return file.getvalue()


def tree(where, files):
    """A dataset of which only the names are there; what ends in ``.jpg`` is an image."""
    folders: dict[str, set[str]] = {"": set()}
    images: dict[str, list[str]] = {}
    for path in files:
        at = os.path.dirname(path)
        images.setdefault(at, []).extend([path] if path.endswith(".jpg") else [])
        while at:
            folders.setdefault(os.path.dirname(at), set()).add(at)
            at = os.path.dirname(at)

    class Listed:
        def __init__(self, path):
            self.inode, self.folders = path, sorted(folders.get(path, ()))
            self.images = sorted(images.get(path, []))

    return layout.Tree(where, Listed)


def files(*folders, n=3):
    return [f"{folder}/{i}.jpg".lstrip("/") for folder in folders for i in range(n)]


def shown(classes):
    """Folder of the images -> their class."""
    return None if classes is None else {os.path.dirname(path): name for path, name in classes.items()}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("tr", "train"), ("training_set", "train")),
        *(("train2017", "train"), ("TrainSet", "train"), ("train-images", "train"), ("trainval", "train")),
        *(("train_val", "train"), ("Test", "test"), ("Testing", "test"), ("tst", "test"), ("tests", "test")),
        *(("test_01", "test"), ("testset", "test"), ("val", "validation"), ("Valid", "validation")),
        *(("Validation", "validation"), ("dev", "validation"), ("VAL2017", "validation"), ("dev-set", "validation")),
        *(("unlabeled", "unlabelled"), ("Unlabelled", "unlabelled"), ("unsup", "unlabelled")),
        *(("no_labels", "unlabelled"), ("un-labeled", "unlabelled"), ("unlabeled_images", "unlabelled")),
        *(("contest", None), ("trainer", None), ("valley", None), ("train_test", None), ("steam train", None)),
        *(("validate", "validation"), ("train_labeled", "train"), ("labelled-train", "train"), ("labeled", None)),
        *(("train_unlabeled", "unlabelled"), ("unlabelledTrain", "unlabelled"), ("train_un-labeled", "unlabelled")),
        *(("test_unlabeled", None), ("train_labels", None), ("PublicTest", None), ("trainA", None)),
        *(("device", None), ("images", None), ("2017", None), ("labels", None), ("", None), ("trail", None)),
    ],
)
def test_names_of_splits(name, role):
    assert split_names.role(name) == role


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("train", "test"), ("Train", "Test"), ("Training", "Testing"), ("TRAIN", "VAL"), ("train", "dev")),
        *(("tr", "tst"), ("training_set", "test_set"), ("train2017", "val2017"), ("seg_train", "seg_test")),
        *(("asl_alphabet_train", "asl_alphabet_test"), ("training", "Valid"), ("Train-Images", "Validation-Images")),
    ],
)
@pytest.mark.parametrize("around", ["", "x/", "images/", "a/b/"])
@pytest.mark.parametrize("inner", ["", "images/", "same"])
def test_splits_by_their_usual_names(train, test, around, inner):
    def at(split):
        return [f"{around}{split}/{f'{split}/' if inner == 'same' else inner}{c}" for c in ("cat", "dog")]

    junk = [f"{around}annotations/1.xml", f"{around}{train}/labels/1.txt", "README.md"]
    found = layout.read(tree("D", files(*at(train), *at(test)) + junk))
    assert shown(found.train) == dict(zip(at(train), ("cat", "dog"), strict=True))
    assert shown(found.test) == dict(zip(at(test), ("cat", "dog"), strict=True))
    assert not found.unlabelled
    assert found.notes == ()


def test_labelled_and_unlabelled_inside_the_split():
    inside = files("train/labeled/cat", "train/labeled/dog", "train/unlabeled/x")
    want = {"train/labeled/cat": "cat", "train/labeled/dog": "dog"}
    for more in ([], files("test/cat", "test/dog")):
        found = layout.read(tree("D", [*inside, *more]))
        assert shown(found.train) == want
        assert {os.path.dirname(path) for path in found.unlabelled} == {"train/unlabeled/x"}
        assert (found.test is None) == (not more)


def test_class_folders():
    both = {"cat": "cat", "dog": "dog"}
    for classes in (["cat", "dog"], ["cat/2019/may", "dog/x"]):
        found = layout.read(tree("D", [*files(*classes), "annotations/cat/1.xml", "labels/1.txt", "list.csv"]))
        assert {path.split("/")[0]: name for path, name in found.train.items()} == both
        assert (found.test, found.notes) == (None, ())
    for around in ("images/", "x/", "x/y/"):
        found = layout.read(tree("D", files(f"{around}cat", f"{around}dog")))
        assert set(found.train.values()) == set(both)
        said = (f"D/{around[:-1]}: the classes are the folders in here (cat, dog)",)
        assert found.notes == (() if around == "images/" else said)
    # A test is none, whatever it holds.
    for test in (["test"], ["val"], ["test/cat", "test/dog", "test/bird"]):
        found = layout.read(tree("D", files("bird", "cat", "dog", *test)))
        assert not splits.known(found.train)
        assert "beside bird, cat, dog is named like a split: move the classes" in found.why[0]
    # A train is a vehicle, too.
    found = layout.read(tree("D", files("aeroplane", "car", "train")))
    assert shown(found.train) == {name: name for name in ("aeroplane", "car", "train")}
    assert found.notes == ("D: train among the 3 folders is taken as a class, not as a split",)
    # Masks are no class of pictures.
    found = layout.read(tree("D", files("images", "masks")))
    assert shown(found.train) == {"images": None}
    assert found.why == (splits.FLAT, splits.FLAT)
    assert found.notes == ("D: masks/ not used: pictures of what is in others, by the name",)


def test_an_accuracy_that_would_say_nothing_is_not_measured():
    found = layout.read(tree("D", [*files("cat"), "annotations/1.xml"]))
    assert shown(found.train) == {"cat": None}
    assert found.why == ("there is one class only, cat",) * 2
    assert layout.read(tree("D", files("unlabeled"))).why[0] == splits.FLAT
    for names in (["Test", "val"], ["test", "stuff"], ["train", "stuff"]):
        found = layout.read(tree("D", files(*names)))
        assert shown(found.train) == dict.fromkeys(names)
        assert "the folders have names of splits" in found.why[0]
        assert "name it with data.train_split" in found.why[0]
    found = layout.read(tree("D", files("train/good", "test/good", "test/broken")))
    assert shown(found.train) == {"train/good": None}
    assert shown(found.test) == {"test/good": "good", "test/broken": "broken"}
    assert found.why == ("there is one class only, good", "")


def test_unlabelled_folders_are_more_to_learn_from():
    for name in ("unlabeled", "Unlabelled", "unsup", "no_labels"):
        for held_out in ((), ("test/cat", "test/dog")):
            found = layout.read(tree("D", files("train/cat", "train/dog", *held_out, f"{name}/deep")))
            assert shown(found.train) == {"train/cat": "cat", "train/dog": "dog"}
            assert shown(found.unlabelled) == {f"{name}/deep": None}
            assert (found.test is None) == (not held_out)
        found = layout.read(tree("D", files("cat", "dog", name)))
        assert shown(found.train) == {"cat": "cat", "dog": "dog"}
        assert shown(found.unlabelled) == {name: None}
    found = layout.read(tree("D", files("unlabeled", "test/cat", "test/dog")))
    assert shown(found.train) == {"unlabeled": None}
    assert set(shown(found.test).values()) == {"cat", "dog"}


@pytest.mark.parametrize("name", ["test", "Testing", "val", "test/images", "test1/test1"])
def test_a_flat_test_beside_labels_is_not_the_test(name):
    found = layout.read(tree("D", files("train/cat", "train/dog", name)))
    assert found.test is None
    top = name.split("/")[0]
    no_label = "no label is known of its 3 images, by which they could be measured"
    assert found.notes == (f"D: {top}/ is not used: {no_label}", "D: the test split is cut from train/")
    found = layout.read(tree("D", files("train/cat", "train/dog", name, "valid/cat", "valid/dog")))
    assert shown(found.test) == {"valid/cat": "cat", "valid/dog": "dog"}
    assert found.notes == (f"D: {top}/ is not used: {no_label}",)
    assert shown(layout.read(tree("D", files("train/cat", "train/dog", name)), None, top).test) == {name: None}
    # Without labels in train there is nothing to be measured.
    assert shown(layout.read(tree("D", files("train", name))).test) == {name: None}


def test_which_split_is_taken_where_there_are_several():
    found = layout.read(tree("D", files("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", "extra/a")))
    assert set(shown(found.test)) == {"test/a", "test/b"}
    assert found.notes == ("D: extra/, val/ not used; data.train_split and data.test_split name what is",)
    with pytest.raises(ValueError, match=r"^D holds train2014, train2017, of which one .*data.train_split$"):
        layout.read(tree("D", files("train2014/a", "train2017/a", "val2017/a")))
    with pytest.raises(
        ValueError, match=r"^D holds Test, test, of which one can be used; name it with data.test_split$"
    ):
        layout.read(tree("D", files("train/a", "Test/a", "test/a")))
    found = layout.read(tree("D", files("train2014/a", "train2017/a", "train2017/b", "val2017/a")), "train2017", "val")
    assert set(shown(found.train)) == {"train2017/a", "train2017/b"}
    assert set(shown(found.test)) == {"val2017/a"}


def test_splits_with_another_word_that_hold_classes():
    both = {"a": "a", "b": "b"}

    def nested(*splits):
        return files(*(f"{split}/{name}" for split in splits for name in both))

    for train, test, other in (
        ("Training", "PrivateTest", "PublicTest"),
        ("Training", "final_test", "first_test"),
        ("train_clean", "test", "extra"),
        ("clean_train", "noisy_val", "train-me-not"),
    ):
        if other == "train-me-not":
            with pytest.raises(ValueError, match=r"^D holds clean_train, train-me-not, of which one .*train_split$"):
                layout.read(tree("D", nested(train, test, other)))
            continue
        found = layout.read(tree("D", nested(train, test, other)))
        assert shown(found.train) == {f"{train}/{name}": name for name in both}
        assert shown(found.test) == {f"{test}/{name}": name for name in both}
        assert found.notes == (
            f"D: {other}/ not used; data.train_split and data.test_split name what is",
            f"D: {train}/ is to train on and {test}/ is the test, by their names",
        )
        assert set(shown(layout.read(tree("D", nested(train, test, other)), None, other).test)) == {
            f"{other}/{name}" for name in both
        }
    # Without classes in them, they may be classes.
    found = layout.read(tree("D", files("test tubes", "training shoes", "cars", "cups")))
    assert shown(found.train) == {name: name for name in ("test tubes", "training shoes", "cars", "cups")}
    assert found.notes == ("D: test tubes, training shoes among the 4 folders is taken as a class, not as a split",)
    assert set(shown(layout.read(tree("D", files("bullet train", "steam train"))).train).values()) != {None}


def test_labelled_and_unlabelled_training_data():
    for train, more in (
        ("train_labeled", "train_unlabeled"),
        ("train-labelled", "train-unlabelled"),
        ("labelled_train", "unlabelled_train"),
        ("trainLabeled", "trainUnlabeled"),
        ("labeled", "unlabeled"),
        ("train", "train_unsupervised"),
    ):
        for test in ((), ("test/a", "test/b"), ("val/a", "val/b")):
            found = layout.read(tree("D", files(f"{train}/a", f"{train}/b", more, *test)))
            assert shown(found.train) == {f"{train}/a": "a", f"{train}/b": "b"}
            assert shown(found.unlabelled) == {more: None}
            assert shown(found.test) == ({path: path[-1] for path in test} or None)


def test_parts_of_the_data_are_no_classes():
    for parts in (
        ("trainA", "trainB", "testA", "testB"),  # no classes in them, but the names of splits
        ("my training", "my friend's test"),
    ):
        found = layout.read(tree("D", files(*parts)))
        assert shown(found.train) == dict.fromkeys(parts)
        assert "the folders have names of splits" in found.why[0]
    found = layout.read(tree("D", files("trainA", "trainB", "testA", "testB")), "trainA")
    assert (shown(found.train), shown(found.test)) == ({"trainA": None}, {"testA": None})
    for parts in (("entrenamiento", "prueba"), ("fold1", "fold2", "fold3"), ("amazon/images", "dslr/images")):
        inner = [f"{part}/{name}" for part in parts for name in ("a", "b")]
        found = layout.read(tree("D", files(*inner)))
        assert shown(found.train) == dict.fromkeys(inner)
        said = " hold folders of the same names (a, b), so they may be parts of the data and those the classes: name "
        assert said + "what to train on with data.train_split" in found.why[0]
        top = parts[0].split("/")[0]
        assert set(shown(layout.read(tree("D", files(*inner)), top).train).values()) == {"a", "b"}
    for inner in (["cat/x", "dog/x"], ["cat/x", "cat/y", "dog/y", "dog/z"], ["cat/x", "cat/y", "dog", "ox"]):
        assert None not in layout.read(tree("D", files(*inner))).train.values()


@pytest.mark.parametrize("below", ["", "images/"])
def test_splits_inside_the_classes(below):
    def at(*paths):
        return [path.replace("/", f"/{below}", 1) for path in paths]

    masks = at("bottle/ground_truth/cut", "cable/ground_truth/bent")
    train, test = at("bottle/train/good", "cable/train/good"), at("bottle/test/cut", "bottle/test/good", "cable/test")
    found = layout.read(tree("D", files(*train, *test, *masks)))
    assert shown(found.train) == {path: path.split("/")[0] for path in train}
    assert shown(found.test) == {path: path.split("/")[0] for path in test}
    assert sorted(found.unused) == at("bottle/ground_truth", "cable/ground_truth")
    assert found.notes == (
        "D/*: each class holds its splits (train, test)",
        "D/*: ground_truth/ not used; data.train_split and data.test_split name what is",
    )
    more = at("a/train", "b/train", "a/val", "b/val", "a/test", "b/test")
    assert set(shown(layout.read(tree("D", files(*more)), None, "val").test)) == set(at("a/val", "b/val"))
    found = layout.read(tree("D", files(*at("a/Train", "b/Train", "a/Test", "b/Test"), "c", "unlabeled")))
    assert shown(found.train) == {path: path[0] for path in at("a/Train", "b/Train")} | {"c": "c"}
    assert shown(found.unlabelled) == {"unlabeled": None}
    assert found.notes[-1] == "D: c without splits, all in there is trained on"
    found = layout.read(tree("D", files(*at("a/train", "a/test"), "b", "c")))
    assert found.notes == ("D: a/ is a class with all folders in it (test, train)",)
    half = layout.read(tree("D", files(*at("a/train", "a/test"), "b")))
    assert shown(half.train) == {at("a/train")[0]: "a", "b": "b"}
    for loose in ("x.jpg", f"a/{below}x.jpg"):
        with pytest.raises(ValueError, match=r"has loose images \(.*x.jpg\) beside the folders of splits; move"):
            layout.read(tree("D", [*files(*at("a/train", "a/test", "b/train", "b/test")), loose]))


@pytest.mark.parametrize("below", ["", "images/"])
@pytest.mark.parametrize("beside", [["docs"], ["assets", "docs/figures"]])
def test_pictures_beside_the_folder_of_the_data_are_no_class(below, beside):
    """A clone of a repository: the data, and pictures for its README."""
    inner = [f"Data/{below}{split}/{name}" for split in ("Train", "Val") for name in ("cat", "dog")]
    found = layout.read(tree("D", files(*inner, *beside)))
    assert shown(found.train) == {path: path.split("/")[-1] for path in inner[:2]}
    assert shown(found.test) == {path: path.split("/")[-1] for path in inner[2:]}
    tops = [path.split("/")[0] for path in beside]
    assert found.notes == (splits.not_used("D", [f"{top}/" for top in tops]),)
    assert found.unused == (*tops,)
    named = layout.read(tree("D", files(*inner, *beside)), "Train", "Val")
    assert (named.train, named.test, named.unused) == (found.train, found.test, found.unused)


def test_several_datasets_beside_each_other_are_no_classes():
    inner = [f"{site}/{split}/{name}" for site in ("A", "B") for split in ("train", "test") for name in ("cat", "dog")]
    found = layout.read(tree("D", files(*inner)))
    assert set(found.train.values()) == {None}
    assert found.why[0].startswith("the folders (A, B) hold folders of the same names (cat, dog), so they may be parts")
    assert "give one of them as data.source" in found.why[0]
    breeds = ["cat/train/persian", "cat/test/manx", "dog/train/pug", "dog/test/boxer"]
    assert set(layout.read(tree("D", files(*breeds))).train.values()) == {"cat", "dog"}


def test_masks_beside_the_images_of_each_class():
    inner = ["covid/images", "normal/images", "covid/masks", "normal/masks"]
    found = layout.read(tree("D", files(*inner)))
    assert shown(found.train) == {"covid/images": "covid", "normal/images": "normal"}
    assert found.unused == ("covid/masks", "normal/masks")
    assert found.notes == ("D: masks/ in 2 folders not used: pictures of what is in others, by the name",)


# --- on disk


def write(root, contents):
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pictures(*folders, n=10, suffix=".png"):
    return {f"{folder}/{i}{suffix}": picture() for folder in folders for i in range(n)}


def counted(splits, name):
    return sum(sum(f"/{name}/" in path for path in part.columns["path"]) for part in splits)


def test_what_is_passed_over_is_counted_by_kind(load, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "reads_heif", lambda: False)
    heic = b"\0\0\0\x18ftypheic" + bytes(20)
    odd = {f"cat/{i}.HEIC": heic for i in range(20)} | {f"dog/notes{i}": b"some text" for i in range(29)}
    odd |= {"dog/photo": picture(), "dog/IMG_1.2019": picture("JPEG"), "dog/a.jpg_large": picture("GIF"), "dog/t": heic}
    odd |= {
        "list.csv": b"",
        "annotations/1.xml": b"",
        "annotations/2.xml": b"",
        "cat/.DS_Store": b"",
        "cat/Thumbs.db": b"",
    }
    odd |= {"__MACOSX/cat/._1.png": b"", "cat/@eaDir/1.png/SMALL.jpg": picture(), "cat/._1.png": b"", ".x/1.png": b""}
    odd |= {"cat/.ipynb_checkpoints/1.png": picture(), "lost+found/1.png": picture(), "dog/empty/1.txt": b""}
    write(tmp_path / "x", odd | pictures("cat", "dog"))
    said = (
        f"{tmp_path}/x: passed over 29 without suffix that are no images, 21 .heic (`pip install pillow-heif` to read "
        "them), 3 hidden, 3 system folders, 2 .xml, 2 system files, 1 .csv, 1 .txt, folders without an image "
        "(annotations/, dog/empty/)"
    )
    for _ in range(2):  # also where the index is known
        splits = load(f"folder:{tmp_path}/x", verify="header")
        assert sum(map(len, splits)) == 23
        assert splits.notes == (said,)
        assert splits.train.class_names == ("cat", "dog")
        assert splits.train.unreadable == ()
    monkeypatch.setattr(opening, "reads_heif", lambda: True)  # an index from before it was installed is not believed
    assert load(f"folder:{tmp_path}/x", verify="header", max_unreadable=0.6).train.unreadable[0] == "cat/0.HEIC"


def test_heic(load, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    root = write(tmp_path / "x", pictures("cat", "dog", n=3))
    grey = Image.fromarray(np.full((40, 30, 3), 99, np.uint8))
    pillow_heif.from_pillow(grey).save(root / "cat" / "new.heic")
    for name in ("new", "renamed.jpg"):
        (root / "dog" / name).write_bytes((root / "cat" / "new.heic").read_bytes())
    splits = load(f"folder:{root}")
    assert sum(map(len, splits)) == 9
    assert not [note for note in splits.notes if "copies" not in note]  # the same picture three times
    pixels = decode.read(root / "dog" / "renamed.jpg")
    assert pixels.shape == (40, 30, 3)
    assert abs(pixels.astype(int) - 99).max() <= 2


def test_heic_says_how_to_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "reads_heif", lambda: False)
    (tmp_path / "1.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(decode.Unreadable, match="pip install pillow-heif"):
        decode.read(tmp_path / "1.jpg")


def test_unlabelled_images_join_the_training_examples(load, tmp_path):
    write(tmp_path / "x", pictures("Train/cat", "Train/dog", n=20) | pictures("unlabeled", n=15))
    splits = load(f"folder:{tmp_path}/x")
    assert [len(part) for part in splits] == [29 + 15, 3, 8]
    assert (splits.train.labels < 0).sum() == 15
    assert (splits.val.labels >= 0).all()
    assert (splits.test.labels >= 0).all()
    assert splits.notes == (f"{tmp_path}/x: 15 unlabelled images are added to the training examples",)
    assert splits.train.class_names == splits.test.class_names == ("cat", "dog")
    with_test = write(tmp_path / "x", pictures("Testing/cat", n=4))
    assert [len(part) for part in load(f"folder:{with_test}")] == [36 + 15, 4, 4]


@pytest.mark.parametrize("folders", [["cat"], ["Test", "val"], ["train", "stuff"], ["train/cat"]])
def test_no_accuracy_that_would_say_nothing_on_disk(load, tmp_path, folders):
    splits = load(f"folder:{write(tmp_path / 'x', pictures(*folders))}")
    assert [part.labels for part in splits] == [None] * 3
    assert [part.num_classes for part in splits] == [None] * 3
    why = "there is one class only, cat" if folders[0].endswith("cat") else "the folders have names of splits ("
    assert splits.notes[0].startswith(f"no training example has a label ({why}")


def test_a_flat_test_on_disk(load, tmp_path):
    write(tmp_path / "x", pictures("train/cat", "train/dog", n=20) | pictures("test", n=15))
    splits = load(f"folder:{tmp_path}/x")
    assert [len(part) for part in splits] == [29, 3, 8]
    assert counted(splits, "test") == 0
    assert splits.notes[1] == f"{tmp_path}/x: the test split is cut from train/"


def test_an_index_by_older_rules_is_not_believed_but_its_checks_are(load, tmp_path, monkeypatch):
    root = write(tmp_path / "x", pictures("cat", "dog") | {"cat/photo": picture()})
    for where, _, _ in os.walk(root, topdown=False):
        os.utime(where, ns=(10**18, 10**18))
    with monkeypatch.context() as before:
        before.setattr("ssl_jax.data.readers.folder.RULES", 1)
        before.setattr(image_files, "kind_of_head", lambda head: ".x")
        assert sum(map(len, load(f"folder:{root}"))) == 20
    looked = []
    read = decode.read
    monkeypatch.setattr(decode, "read", lambda data, *a: looked.append(1) or read(data, *a))
    assert sum(map(len, load(f"folder:{root}"))) == 21
    assert len(looked) == 1


# --- inside tars


def tar(path, contents, links=()):
    """``contents``: name -> bytes; ``links``: (name, hard or symbolic, what it leads to)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    return path


def labelled(splits):
    """Bytes of the images -> their class, by name."""
    found = [(decode.contents(p.record(i)), p.record(i)["label"], p.class_names) for p in splits for i in range(len(p))]
    return {data: names[label] if names and label >= 0 else None for data, label, names in found}


def test_names_with_several_dots(load, tmp_path):
    """WebDataset's rules: the key ends at the first dot, the last suffix says what a file is, case does not matter."""
    made = {f"{i:03}.v2.{('JPG', 'png')[i % 2]}": picture() for i in range(10)}
    other = {f"{i:03}.rgb.png": picture() for i in range(10, 20)}
    depth = {f"{i:03}.depth.png": picture() for i in range(10, 20)}
    plain = {f"{i:03}.PNG": picture() for i in range(20, 30)} | {f"{i:03}.seg.png": picture() for i in range(20, 30)}
    classes = {f"{i:03}.CLS": b"%d\n" % (i % 3) for i in range(30)} | {"001.boxes.json": b"[1, 2]"}
    path = tar(tmp_path / "x.tar", made | other | depth | plain | classes | {"list": b"text", "readme.txt": b"text"})
    right = {data: str(int(name[:3]) % 3) for name, data in (made | other | plain).items() if ".seg." not in name}
    for _ in range(2):
        splits = load(f"tar:{path}", verify="header")
        assert labelled(splits) == right
        assert splits.notes == (
            f"{path}: passed over 10 .depth.png, 10 .seg.png, 1 .json, 1 .txt, 1 without suffix that is no image",
        )


def test_names_that_differ_in_a_number_behind_the_first_dot(load, tmp_path):
    made = {f"{name}.{i}.png": picture() for name in ("cat", "dog") for i in range(10)}
    classes = {f"{name}.{i}.cls": b"%d " % (name == "dog") for name in ("cat", "dog") for i in range(10)}
    path = tar(tmp_path / "x.tar", made | classes)
    splits = load(f"tar:{path}", verify="header")
    assert labelled(splits) == {data: str(int(name.startswith("dog"))) for name, data in made.items()}
    assert splits.notes == (
        f"{path}: in 1 tar(s) the names of images are alike up to the first dot (cat.0.png in x.tar, cat.1.png in "
        "x.tar); each image is taken as an example of its own",
    )
    tar(path, {"0.left.png": picture(), "0.right.png": picture()})
    said = (
        r"x.tar holds '0.left.png' and '0.right.png' of one key, which is a name up to its first dot; "
        r"rename them \(0_left.png\) if they are two examples, else keep one image for each key$"
    )
    with pytest.raises(ValueError, match=said):
        load(f"tar:{path}")


def test_of_members_of_one_name_the_last_counts(load, tmp_path):
    """As ``tar -r`` adds them and ``tar -x`` leaves them."""
    path, made = tmp_path / "x.tar", pictures("cat", "dog", n=5)
    later = {"./cat/0.png": picture(), "dog/1.png": picture()}
    tar(path, made | {"dog/a.0.png": picture()})
    with tarfile.open(path, "a") as file:
        for name, data in [*later.items(), ("dog/a.0.png", picture()), ("dog/a.0.png", last := picture())]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    splits = load(f"tar:{path}", verify="header")
    right = made | {"cat/0.png": later["./cat/0.png"], "dog/1.png": later["dog/1.png"], "dog/a.0.png": last}
    assert labelled(splits) == {data: name.split("/")[0] for name, data in right.items()}
    assert sum(map(len, splits)) == 11
    assert splits.notes[-1] == f"{path}: passed over 4 members that later ones of their names replace"


def test_links_inside_a_tar_are_followed(load, tmp_path):
    made = pictures("a", n=5) | {"b/0.cls": b"1\n", "a/4.cls": b"0\n", "photo": picture()}
    hard = [(f"c/{i}.png", tarfile.LNKTYPE, f"a/{i}.png") for i in range(3)]
    soft = [("d/0.png", tarfile.SYMTYPE, "../c/1.png"), ("d/1.PNG", tarfile.SYMTYPE, "/a/3.png")]
    dead = [("d/2.png", tarfile.SYMTYPE, "d/2.png"), ("d/3.png", tarfile.SYMTYPE, "../../a/9.png")]
    dead += [("e", tarfile.SYMTYPE, "a"), ("d/up.png", tarfile.SYMTYPE, "up.png"), ("d/4.png", tarfile.LNKTYPE, "x")]
    path = tar(tmp_path / "x.tar", made, [*hard, *soft, *dead, ("d/0.cls", tarfile.SYMTYPE, "../b/0.cls")])
    splits = load(f"tar:{path}", verify="header")
    read = [decode.contents(part.record(i)) for part in splits for i in range(len(part))]
    linked = [made[f"a/{i}.png"] for i in (0, 1, 2, 1, 3)]
    assert sorted(read) == sorted([*(made[f"a/{i}.png"] for i in range(5)), *linked, made["photo"]])
    # a/4.png and d/0.png, whose class is a link, too
    assert sum((part.labels >= 0).sum() for part in splits if part.labels is not None) == 2
    assert splits.notes[:1] == (f"{path}: passed over 5 links that lead to no file, 1 .cls",)


@pytest.mark.parametrize("around", ["", "./", "images/", "x-0/", "data/x/"])
def test_class_folders_in_tars_are_labels(load, tmp_path, around):
    made = [pictures(f"{around}cat", f"{around}dog/deep", n=5) for _ in range(2)]
    junk = {"__MACOSX/cat/._0.png": b"", f"{around}cat/.DS_Store": b"", f"{around}list/1.csv": b""}
    for k in range(2):
        tar(tmp_path / "x" / f"x-{k}.tar", made[k] | junk)
    splits = load(f"tar:{tmp_path}/x", verify="header")
    if around == "x-0/":  # in the other tar it is a folder beside cat and dog
        (tmp_path / "x" / "x-1.tar").unlink()
        made, splits = made[:1], load(f"tar:{tmp_path}/x", verify="header")
    right = {data: "cat" if "cat" in name else "dog" for part in made for name, data in part.items()}
    assert labelled(splits) == right
    assert splits.train.class_names == ("cat", "dog")
    n = len(made)
    assert splits.notes[-1:] == (f"{tmp_path}/x: passed over {2 * n} system files, {n} .csv",)


def test_a_number_says_the_class_before_a_folder(load, tmp_path):
    made = pictures("cat", "dog", n=5)
    path = tar(tmp_path / "x.tar", made | {f"{name[:-4]}.cls": b"%d\n" % (i % 2) for i, name in enumerate(made)})
    assert set(labelled(load(f"tar:{path}", verify="header")).values()) == {"0", "1"}
    one = tar(tmp_path / "y.tar", pictures("cat", n=9))
    splits = load(f"tar:{one}", verify="header")
    assert splits.train.labels is None
    why = "no .cls or .json file says a class, and there is one class only, cat"
    assert splits.notes[0] == f"no training example has a label ({why}): what needs labels is not measured"


@pytest.mark.parametrize("names", ["{}-000.tar", "{}/000.tar", "a/x-{}-000.tar", "x_{}_0.tar", "whole"])
@pytest.mark.parametrize(("train", "test"), [("training", "testing"), ("Train", "Val"), ("train", "dev")])
def test_splits_of_tars(load, tmp_path, names, train, test):
    root, other = tmp_path / "x", pictures("unlabeled", n=7)
    parts = {train: pictures("cat", "dog", n=10), test: pictures("cat", "dog", n=4)}
    if names == "whole":
        inside = {f"{split}/{name}": data for split, part in parts.items() for name, data in part.items()}
        tar(root / "x.tar", inside | other)
    else:
        for split, part in {**parts, "unlabeled": other}.items():
            tar(root / names.format(split), part)
    splits = load(f"tar:{root}", verify="header")
    assert [len(part) for part in splits] == [18 + 7, 2, 8]
    assert labelled([splits.test]) == {data: name.split("/")[0] for name, data in parts[test].items()}
    assert (splits.train.labels < 0).sum() == 7
    assert splits.notes == (f"{root}: 7 unlabelled images are added to the training examples",)


def test_tars_of_a_test_without_labels(load, tmp_path):
    tar(tmp_path / "x" / "train-0.tar", pictures("cat", "dog", n=10))
    tar(tmp_path / "x" / "test-0.tar", pictures("", n=6))
    tar(tmp_path / "x" / "extra" / "0.tar", pictures("cat", n=6))
    (tmp_path / "x" / "index.json").write_text("{}")
    splits = load(f"tar:{tmp_path}/x", verify="header")
    assert [len(part) for part in splits] == [14, 2, 4]
    assert splits.notes == (
        f"{tmp_path}/x: test/ is not used: no label is known of its 6 images, by which they could be measured",
        f"{tmp_path}/x: the test split is cut from train/",
        f"{tmp_path}/x: extra not used; data.train_split and data.test_split name what is",
        f"{tmp_path}/x: passed over 1 .json",
    )


def test_a_run_says_how_its_data_were_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "x", pictures("Train/cat", "Train/dog") | pictures("Test") | {"list.csv": b""})
    config = configs.load(Path(__file__).parent.parent / "configs" / "simclr_digits.py")
    config.data.update({"source": f"folder:{tmp_path}/x", "verify": "header", "global_batch_size": 8, "image_size": 16})
    config.eval.knn_k = 2
    assert experiment.build(config).notes[:3] == (
        f"{tmp_path}/x: Test/ is not used: no label is known of its 10 images, by which they could be measured",
        f"{tmp_path}/x: the test split is cut from Train/",
        f"{tmp_path}/x: passed over 1 .csv",
    )


@pytest.mark.parametrize(
    ("train", "test", "more"),
    [("Training", "PrivateTest", None), ("train_labeled", "test", "train_unlabeled"), ("labeled", "val", "unlabeled")],
)
@pytest.mark.parametrize("how", ["inside", "folders", "files"])
def test_splits_of_tars_with_another_word(load, tmp_path, train, test, more, how):
    parts = {train: pictures("a", "b", n=10), test: pictures("a", "b", n=4)}
    parts |= {"PublicTest": pictures("a", "b", n=3)} if more is None else {more: pictures("", n=7)}
    if how == "inside":
        tar(
            tmp_path / "x.tar",
            {f"{split}/{name}": data for split, part in parts.items() for name, data in part.items()},
        )
    for split, part in parts.items() if how != "inside" else ():
        tar(tmp_path / "x" / (f"{split}/0.tar" if how == "folders" else f"{split}-0.tar"), part)
    splits = load(f"tar:{tmp_path}/x" + (".tar" if how == "inside" else ""), verify="header")
    assert [len(part) for part in splits] == [18 + 7 * (more is not None), 2, 8]
    assert set(labelled([splits.test]).values()) == {"a", "b"}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_names_that_are_not_utf8(load, tmp_path, kind):
    odd = os.fsdecode(b"a\xff")
    made = pictures(odd, "b") | {f"{odd}.m/{odd}.txt": b"", f"stuff{odd}/1.x{odd}": b""}
    if kind == "folder":
        write(tmp_path / "x", made)
    else:
        tar(tmp_path / "x" / "x.tar", made)
    splits = load(f"{kind}:{tmp_path}/x", verify="header")
    assert splits.train.class_names == (odd, "b")
    assert all(note.encode() for note in splits.notes)
