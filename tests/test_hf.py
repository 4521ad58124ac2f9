"""Hugging Face's datasets: images by their bytes, texts, labels, splits, the cache, and what is refused."""

from __future__ import annotations

import io
import itertools
import os
import socket
import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data import source
from ssl_jax.data.images import decode

COUNT = itertools.count()


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(next(COUNT)).integers(0, 256, (6, 7, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """datasets, with its own cache in the tests' folder and deaf to the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = pytest.importorskip("datasets")
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    yield datasets
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test so much as asks for an address."""
    asked = []

    def refuse(*a, **k):
        asked.append(a)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not asked


def of_images(hf, files, labels=None, names=("cat", "dog"), image="image"):
    features = {image: hf.Image()} | ({} if labels is None else {"label": hf.ClassLabel(names=list(names))})
    columns = {image: [file and {"bytes": file, "path": None} for file in files]}
    return hf.Dataset.from_dict(columns | ({} if labels is None else {"label": labels}), features=hf.Features(features))


def contents(*parts):
    """Bytes of the file -> name of the class."""
    return {
        decode.contents(record): None if record["label"] < 0 else part.class_names[record["label"]]
        for part in parts
        for record in map(part.record, range(len(part)))
    }


@pytest.fixture(scope="module")
def made(hf, tmp_path_factory):
    """An image folder with two splits, and the files in it with their classes."""
    root = tmp_path_factory.mktemp("folder") / "data"
    files = {"train": {}, "test": {}}
    for split, name, i in itertools.product(files, ("cat", "dog"), range(10)):
        file = root / split / name / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture())
        files[split][file.read_bytes()] = name
    return root, files


def test_the_same_images_in_every_form(hf, load, made, tmp_path, monkeypatch):
    root, files = made
    with monkeypatch.context() as patch:
        patch.setattr(hf.config, "HF_HUB_OFFLINE", True)
        read = hf.load_dataset("imagefolder", data_dir=str(root))
    read.save_to_disk(str(tmp_path / "saved"), num_shards={"train": 3, "test": 1})
    held = hf.DatasetDict({s: of_images(hf, list(f), [int(c == "dog") for c in f.values()]) for s, f in files.items()})
    (tmp_path / "parquet").mkdir()
    for split, part in held.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{split}.parquet"))
    found = {where: load(f"hf:{where}") for where in (root, tmp_path / "saved", tmp_path / "parquet")}
    for splits in found.values():
        assert [len(part) for part in splits] == [18, 2, 20]
        assert contents(splits.train, splits.val) == files["train"]
        assert contents(splits.test) == files["test"]
        assert splits.train.class_names == ("cat", "dog")
    (folder, saved, parquet) = found.values()
    assert set(folder.train.columns) == {"path", "plain"}  # by name
    # From where they lie in mapped files: no image is held.
    assert set(saved.train.columns) == set(parquet.train.columns) == {"path", "offset", "length", "plain"}
    assert len(set(saved.train.columns["path"])) == 3
    assert source.same(source.identity(folder), source.identity(saved))
    assert source.same(source.identity(folder), source.identity(load(f"folder:{root}"))) is False
    assert found[root].notes == (f"hf:{root}: the image from 'image', the label from 'label'",)
    one = load(f"hf:{tmp_path}/parquet/train.parquet")
    assert contents(*one) == files["train"]
    assert hf.config.HF_HUB_OFFLINE is False or "HF_HUB_OFFLINE" in os.environ


def test_the_fingerprint_is_of_contents_labels_and_names(hf, load, tmp_path):
    files = [picture() for _ in range(20)]
    labels = [i % 2 for i in range(20)]

    def saved(name, files=files, labels=labels, names=("cat", "dog"), **how):
        of_images(hf, files, labels, names).save_to_disk(str(tmp_path / name), **how)
        return source.identity(load(f"hf:{tmp_path}/{name}"))

    first = saved("a")
    assert first["of"] == "content"
    assert source.same(first, saved("b", num_shards=2))
    assert not source.same(first, saved("c", [*files[:19], picture()]))
    assert not source.same(first, saved("d", labels=[*labels[:19], 0]))
    assert not source.same(first, saved("e", names=("cat", "fox")))
    header = [load(f"hf:{tmp_path}/{name}", verify="header") for name in "ac"]
    assert not header[0].train.by_content
    assert not source.same(*map(source.identity, header))


def test_images_are_checked_once(hf, load, made, tmp_path, monkeypatch):
    of_images(hf, list(made[1]["train"]), [0, 1] * 10).save_to_disk(str(tmp_path / "x"))
    looked = []
    read = decode.read
    monkeypatch.setattr(decode, "read", lambda *a: (looked.append(1), read(*a))[1])
    first = load(f"hf:{tmp_path}/x")
    assert len(looked) >= 20
    looked.clear()
    assert source.same(source.identity(first), source.identity(load(f"hf:{tmp_path}/x")))
    assert not looked


def test_unreadable_and_missing_images(hf, load, tmp_path):
    files = [picture() for _ in range(20)]
    of_images(hf, [*files[:18], b"no image", None], [0, 1] * 10).save_to_disk(str(tmp_path / "x"))
    with pytest.raises(
        ValueError, match=r"2 of 20 images in hf:.*cannot be read \(train row 18: .*row 19: there is none"
    ):
        load(f"hf:{tmp_path}/x")
    splits = load(f"hf:{tmp_path}/x", max_unreadable=0.2)
    assert contents(*splits) == {file: ("cat", "dog")[i % 2] for i, file in enumerate(files[:18])}
    assert splits.train.unreadable == ("row 18", "row 19")


def test_images_that_lie_in_no_file_are_held_within_a_limit(hf, load, tmp_path, monkeypatch):
    files = [picture() for _ in range(20)]
    shuffled = of_images(hf, files, [i % 2 for i in range(20)]).select(range(19, -1, -1))
    monkeypatch.setattr(hf, "load_from_disk", lambda path: shuffled)
    (tmp_path / "state.json").touch()
    splits = load(f"hf:{tmp_path}")
    assert set(splits.train.columns) == {"encoded", "plain"}
    assert contents(*splits) == {file: ("cat", "dog")[i % 2] for i, file in enumerate(files)}
    with pytest.raises(
        ValueError, match=r"take [\d,]+ bytes of memory, more than data.memory_limit=1,000; write it with"
    ):
        load(f"hf:{tmp_path}", memory_limit=1000)


def test_texts_and_their_labels(hf, load, tmp_path):
    rows = {"text": ["good one", "bad", " ", None] * 5, "label": ["pos", "neg", "pos", "pos"] * 5, "id": range(20)}
    more = {"text": ["fine", "poor"], "label": ["pos", None], "id": [0, 1]}
    parts = {"train": rows, "validation": more | {"text": ["v", "w"]}, "test": more, "unsupervised": more}
    hf.DatasetDict({k: hf.Dataset.from_dict(v) for k, v in parts.items()}).save_to_disk(str(tmp_path / "x"))
    splits = load(f"hf:{tmp_path}/x")
    assert list(splits.train.columns["text"]) == ["good one", "bad"] * 5 + ["fine", "poor"]
    assert list(splits.train.labels) == [1, 0] * 5 + [-1, -1]
    assert splits.train.class_names == ("neg", "pos")
    assert list(splits.val.columns["text"]) == ["v", "w"]
    assert [list(splits.test.columns["text"]), list(splits.test.labels)] == [["fine", "poor"], [1, -1]]
    said = "\n".join(splits.notes)
    assert "the text from 'text', the label from 'label'; not read: id (integer)" in said
    assert "10 documents without a word are left out" in said
    assert "2 examples of unsupervised are more to learn from, without labels" in said
    with pytest.raises(ValueError, match=r"its texts take .* bytes of memory, more than data.memory_limit=10"):
        load(f"hf:{tmp_path}/x", memory_limit=10)
    numbers = {"sentence": list("abcdefghij"), "label": [5, 25, -1, 25, 5] * 2}
    hf.Dataset.from_dict(numbers).save_to_disk(str(tmp_path / "n"))
    splits = load(f"hf:{tmp_path}/n")
    given = {text: label for p in splits for text, label in zip(p.columns["text"], p.labels, strict=True)}
    assert given == dict(zip(numbers["sentence"], [0, 1, -1, 1, 0] * 2, strict=True))
    assert splits.train.class_names == ("5", "25")


def test_a_test_without_labels_is_not_used_and_other_splits_are_said(hf, load, tmp_path):
    of = [of_images(hf, [picture() for _ in range(10)], labels) for labels in ([0, 1] * 5, [-1] * 10, [1, 0] * 5)]
    hf.DatasetDict(train=of[0], test=of[1], extra=of[2]).save_to_disk(str(tmp_path / "x"))
    splits = load(f"hf:{tmp_path}/x")
    assert sum(map(len, splits)) == 10
    said = "\n".join(splits.notes)
    assert "test is not used: no label is known of its 10 examples" in said
    assert "the test split is cut from train" in said
    assert (splits.test.cut_from, len(splits.test)) == (10, 2)
    assert "extra, test not used" in said
    splits = load(f"hf:{tmp_path}/x", train_split="extra", test_split="train")
    assert [len(part) for part in splits] == [9, 1, 10]
    assert splits.test.cut_from is None
    with pytest.raises(
        ValueError, match=r"data.train_split='trian' is not a folder in hf:.*; it has extra, test, train"
    ):
        load(f"hf:{tmp_path}/x", train_split="trian")
    hf.DatasetDict(one=of[0], two=of[1]).save_to_disk(str(tmp_path / "y"))
    with pytest.raises(ValueError, match=r"has the splits one, two; name what to train on with data.train_split"):
        load(f"hf:{tmp_path}/y")
    hf.DatasetDict(train=of[0], test=of[0]).save_to_disk(str(tmp_path / "z"))
    with pytest.raises(ValueError, match="10 of 10 examples of test are in train, too"):
        load(f"hf:{tmp_path}/z")
    other = of_images(hf, [picture() for _ in range(4)], [0, 1, 0, 1], ("dog", "cat"))
    hf.DatasetDict(train=of[0], test=other).save_to_disk(str(tmp_path / "w"))
    with pytest.raises(ValueError, match=r"'label' of test is ClassLabel.*in train; name another split"):
        load(f"hf:{tmp_path}/w")


def test_which_columns_are_meant(hf, load, tmp_path):
    files = [{"bytes": picture(), "path": None} for _ in range(20)]
    labels = hf.ClassLabel(names=["a", "b"])
    features = {
        "left": hf.Image(),
        "right": hf.Image(),
        "fine": labels,
        "coarse": labels,
        "n": hf.List(hf.Value("int32")),
    }
    rows = {"left": files, "right": files[::-1], "fine": [0, 1] * 10, "coarse": [0] * 10 + [1] * 10, "n": [[1]] * 20}
    both = hf.Dataset.from_dict(rows, features=hf.Features(features))
    both.save_to_disk(str(tmp_path / "x"))
    spec = f"hf:{tmp_path}/x"
    with pytest.raises(ValueError, match=r"several columns of images \(left, right\); name one with data.image_column"):
        load(spec)
    splits = load(spec, image_column="right", label_column="coarse")
    assert contents(*splits) == {f["bytes"]: "ab"[i < 10] for i, f in enumerate(files)}
    assert "not read: left (image), fine (class), n (List)" in splits.notes[0]
    # The same files in another column, of which one is broken.
    rows["right"] = [{"bytes": b"no image", "path": None}, *files[1:]]
    hf.Dataset.from_dict(rows, features=hf.Features(features)).save_to_disk(str(tmp_path / "y"))
    assert sum(map(len, load(f"hf:{tmp_path}/y", image_column="left"))) == 20
    assert sum(map(len, load(f"hf:{tmp_path}/y", image_column="right", max_unreadable=0.1))) == 19
    both.rename_column("left", "image").save_to_disk(str(tmp_path / "z"))
    assert contents(*load(f"hf:{tmp_path}/z")) == {f["bytes"]: "ab"[i % 2] for i, f in enumerate(files)}
    named = r"no column 'rihgt' \(data.image_column\); did you mean 'right'\? it has left \(image\)"
    for asked, match in (
        ({"image_column": "rihgt"}, named),
        ({"image_column": "n"}, r"the column 'n' \(data.image_column\) holds no image; it has"),
        ({"text_column": "left"}, r"the column 'left' \(data.text_column\) holds no text"),
        (
            {"image_column": "left", "label_column": "n"},
            r"the column 'n' \(data.label_column\) is List\(.*int32.*\), no cl",
        ),
        ({"second_column": "n"}, r"data.second_column='n' means nothing to 'hf:"),
        ({"image_column": "left", "text_column": "n"}, r"data.image_column='left' and data.text_column='n': name one"),
    ):
        with pytest.raises(ValueError, match=match):
            load(spec, **asked)


def test_a_column_of_lists_is_no_label_and_is_named(hf, load, tmp_path):
    features = hf.Features({"image": hf.Image(), "label": hf.List(hf.Value("int64"))})
    rows = {"image": [{"bytes": picture(), "path": None} for _ in range(20)], "label": [[i % 2] for i in range(20)]}
    hf.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "x"))
    (_, said, of_test) = load(f"hf:{tmp_path}/x").notes
    why = "the column 'label' is List(Value('int64')): a label is one class, one whole number or one name"
    assert said == f"no training example has a label ({why}): what needs labels is not measured"
    assert of_test == said.replace("training", "test")


def test_what_is_no_image_and_no_text_is_refused(hf, load, tmp_path, monkeypatch):
    features = {"image": hf.Array3D((2, 2, 3), "uint8"), "box": {"x": hf.Value("int32")}, "many": hf.List(hf.Image())}
    rows = {"image": np.zeros((4, 2, 2, 3), np.uint8), "box": [{"x": 1}] * 4, "many": [[]] * 4}
    hf.Dataset.from_dict(rows, features=hf.Features(features)).save_to_disk(str(tmp_path / "x"))
    match = r"has neither an image nor a text, only image \(Array3D\), box \(nested\), many \(List\)"
    with pytest.raises(ValueError, match=match):
        load(f"hf:{tmp_path}/x")
    hf.Dataset.from_dict({"premise": ["a"] * 4, "hypothesis": ["b"] * 4}).save_to_disk(str(tmp_path / "y"))
    with pytest.raises(
        ValueError, match=r"several columns of texts \(premise, hypothesis\); name one with data.text_col"
    ):
        load(f"hf:{tmp_path}/y")
    hf.Dataset.from_dict({"text": ["a"]}).select([]).to_parquet(str(tmp_path / "z.parquet"))
    with pytest.raises(ValueError, match=r"cannot be read: ValueError: .*no data"):
        load(f"hf:{tmp_path}/z.parquet")
    none = hf.DatasetDict(train=hf.Dataset.from_dict({"text": ["a"]}).select([]))
    with monkeypatch.context() as patch:
        patch.setattr(hf, "load_from_disk", lambda path: none)
        with pytest.raises(ValueError, match="the split 'train' holds no example"):
            load(f"hf:{tmp_path}/x/")
    empty = hf.Dataset.from_dict({"text": ["a"]}).select([])
    for data, what in (
        (empty, ""),
        (hf.DatasetDict(train=hf.Dataset.from_dict({"text": ["a"]}), test=empty), ": the split 'test'"),
    ):
        data.save_to_disk(str(tmp_path / f"none{what[-5:-1]}"))
        with pytest.raises(ValueError, match=rf"^hf:.*/none{what[-5:-1]}{what} holds no example; "):
            load(f"hf:{tmp_path}/none{what[-5:-1]}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"hf:.*empty cannot be read: "):
        load(f"hf:{tmp_path}/empty")
    (tmp_path / "t.csv").write_text("image\na.png\n")
    with pytest.raises(ValueError, match="is no Parquet or Arrow file; a table of images is csv:"):
        load(f"hf:{tmp_path}/t.csv")
    for name in (tmp_path / "gone", "a/b/c"):
        with pytest.raises(ValueError, match=r"is not there .*; give a folder, or the name of a dataset"):
            load(f"hf:{name}")
    saved = tmp_path / "y" / "data-00000-of-00001.arrow"
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"hf:.*y cannot be read: ") as refused:
        load(f"hf:{tmp_path}/y")
    assert "\n" not in str(refused.value)


def test_a_name_is_looked_for_in_the_cache_alone(hf, load, tmp_path):
    with pytest.raises(
        ValueError, match=r"hf:nobody/none is neither a folder .* nor in the cache of datasets .*nothing is"
    ):
        load("hf:nobody/none")
    # As load_dataset leaves it there: user___name/config/version/hash.
    files = [picture() for _ in range(20)]
    part = of_images(hf, files, [i % 2 for i in range(20)])
    folder = hf.config.HF_DATASETS_CACHE / "somebody___pets" / "default" / "0.0.0" / "0123"
    folder.mkdir(parents=True)
    writer = hf.arrow_writer.ArrowWriter(path=str(folder / "pets-train.arrow"), features=part.features)
    writer.write_table(part.data.table)
    writer.finalize()
    splits = hf.splits.SplitDict(dataset_name="pets")
    splits.add(hf.splits.SplitInfo("train", num_examples=20))
    info = hf.DatasetInfo(
        features=part.features,
        splits=splits,
        builder_name="parquet",
        dataset_name="pets",
        config_name="default",
        version="0.0.0",
    )
    info.write_to_directory(str(folder))
    found = load("hf:somebody/pets")
    assert contents(*found) == {file: ("cat", "dog")[i % 2] for i, file in enumerate(files)}
    assert contents(*load("hf:somebody/pets:default")) == contents(*found)


def test_without_datasets_the_command_is_said(load, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"hf: needs datasets .*; `pip install 'ssl_jax\[hf\]'` or `pip install datasets`"
    ):
        load(f"hf:{tmp_path}")
    # A folder of that name, which Python takes for a package.
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    with pytest.raises(ValueError, match=r"hf: needs datasets .*; `pip install"):
        load(f"hf:{tmp_path}")
