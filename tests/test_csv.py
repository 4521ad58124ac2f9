"""Tables of image files and labels: columns, where files lie, splits, and what is refused."""

from __future__ import annotations

import csv
import os
import shutil

import numpy as np
import pytest
import runs
from pictures import noise
from PIL import Image

import ssl_jax
from ssl_jax import configs, experiment
from ssl_jax.data import source
from ssl_jax.data.images import decode
from ssl_jax.data.readers import tables, text


def pictures(folder, names, start=0):
    """Images of one colour each, so that a file says by its pixels which one it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names, start):
        Image.fromarray(np.full((6, 7, 3), i, np.uint8)).save(folder / name)


def table(file, columns, *rows, separator=","):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as out:
        csv.writer(out, delimiter=separator).writerows([columns, *rows])
    return file


def found(*parts):
    """Value of the pixels -> name of the class, of all examples."""
    held = {}
    for part in parts:
        for i in range(len(part)):
            record = part.record(i)
            value = int(np.asarray(Image.open(record["path"]))[0, 0, 0])
            assert value not in held
            held[value] = None if record["label"] < 0 else part.class_names[record["label"]]
    return held


BREEDS = ("beagle", "pug", "collie")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("column", "label", "where", "value"),
    [
        ("image", "label", "", "{}.png"),
        ("id", "breed", "train", "{}"),
        ("Image Id", "Species", "images", "{}"),
        ("filename", "class_name", "train_images", "{}.PNG"),
        ("path", "diagnosis", "data/a", "data/a/{}.png"),
        ("file", "target", "photos/train", "{}"),
        ("whatever", "category", "x", "x\\{}.png"),
        ("id_code", "has_cactus", "only", "{}"),
    ],
)
def test_files_are_found_by_the_usual_columns_and_folders(load, tmp_path, separator, column, label, where, value):
    names = [f"{i:04x}" for i in range(20)]
    pictures(tmp_path / where, [f"{name}.png" for name in names])
    rows = [(value.format(name), BREEDS[i % 3]) for i, name in enumerate(names)]
    splits = load(f"csv:{table(tmp_path / 'labels.csv', (column, label), *rows, separator=separator)}")
    assert found(*splits) == {i: BREEDS[i % 3] for i in range(20)}
    assert splits.train.class_names == tuple(sorted(BREEDS))
    assert splits.notes[0] == f"labels.csv: the image from {column!r}, the label from {label!r}"


def test_absolute_paths_other_columns_and_a_table_in_a_folder_of_its_own(load, tmp_path):
    pictures(tmp_path / "images" / "a", [f"{i}.png" for i in range(20)])
    rows = [(i, tmp_path / "images" / "a" / f"{i}.png", 5 * (i % 2), "x, y") for i in range(20)]
    file = table(tmp_path / "tables" / "t.csv", ("Unnamed: 0", "path", "label", "caption"), *rows)
    splits = load(f"csv:{file}")
    assert found(*splits) == {i: str(5 * (i % 2)) for i in range(20)}
    assert splits.notes[0].endswith("the label from 'label'; not read: Unnamed: 0, caption")
    table(file, ("path", "label"), *((f"images/a/{i}.png", i % 2) for i in range(20)))
    assert found(*load(f"csv:{file}")) == {i: str(i % 2) for i in range(20)}
    table(file, ("path", "label"), *((f"../images/a/{i}.png", i % 2) for i in range(20)))
    assert len(found(*load("csv:tables/t.csv", data_dir=str(tmp_path)))) == 20
    # What is asked for by name is taken.
    table(file, ("path", "label", "where", "what"), *(("x", "y", f"images/a/{i}", i % 4) for i in range(20)))
    splits = load(f"csv:{file}", image_column="where", label_column="what", unlabelled=3)
    assert found(*splits) == {i: str(i % 4) if i % 4 < 3 else None for i in range(20)}


def test_blanks_after_a_comma_are_no_part_of_a_name(load, tmp_path):
    names = [f"{i}.png" for i in range(18)]
    pictures(tmp_path, [*names, " 18.png", " 19.png", "19.png"])
    lines = [f"{name}, {'ants' if i % 2 else 'bees'}" for i, name in enumerate(names)]
    lines[1], lines[2], lines[3] = "1.png,ants", " 2.png ,bees ", ' "3.png" , "ants" '
    (tmp_path / "t.csv").write_text("\n".join(["image, label", *lines, " 18.png, bees", "19.png,ants"]))
    for asked in ({}, {"label_column": "label"}, {"label_column": " label"}):
        splits = load(f"csv:{tmp_path / 't.csv'}", **asked)
        assert splits.train.class_names == ("ants", "bees")
        # The file with the blank where a row has it, and only there.
        assert found(*splits) == {i: "ants" if i % 2 else "bees" for i in range(19)} | {20: "ants"}
    assert splits.notes[0] == "t.csv: the image from 'image', the label from 'label'"
    assert "t.csv: blanks around 1 paths and 17 labels are no part of them" in splits.notes
    numbers = "\n".join(f"{i}.png, {i % 3}" for i in range(18))
    (tmp_path / "n.csv").write_text(f"image, label\n{numbers}\n")
    assert load(f"csv:{tmp_path / 'n.csv'}").train.class_names == ("0", "1", "2")
    (tmp_path / "x.csv").write_text("text, label\n a film, good\na bore,bad\nfine, good\n")
    documents = text.load(tmp_path / "x.csv")[0]
    assert documents.class_names == ("bad", "good")


def test_which_columns_may_be_the_label_is_said(load, tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(12)])
    rows = [(f"{i}.png", "ab"[i % 2], "xyz"[i % 3]) for i in range(12)]
    notes = load(f"csv:{table(tmp_path / 't.csv', ('image', 'colour', 'shape'), *rows)}").notes
    assert "no column of labels (data.label_column=colour, shape?)" in notes[0]
    splits = load(f"csv:{table(tmp_path / 't.csv', ('image', 'species', 'label'), *rows)}")
    assert "the label from 'label' (not 'species': data.label_column)" in splits.notes[0]
    splits = load(f"csv:{tmp_path / 't.csv'}", label_column="species")
    assert splits.train.class_names == ("a", "b")
    assert "the label from 'species'; not read: label" in splits.notes[0]


def test_labels_as_numbers_names_none_and_one_of_several_columns(load, tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(12)])

    def labels(*columns, header=("label",), file="t.csv"):
        rows = [(f"{i}.png", *(column[i] for column in columns)) for i in range(12)]
        splits = load(f"csv:{table(tmp_path / file, ('image', *header), *rows)}")
        return [found(*splits)[i] for i in range(12)], splits

    assert labels([10, 2, -1, "2.0"] * 3)[0] == ["10", "2", None, "2"] * 3
    assert labels([10, 2, -1, "2.0"] * 3)[1].train.class_names == ("2", "10")
    given, splits = labels(["b", "", "a", "b"] * 3)
    assert given == ["b", None, "a", "b"] * 3
    assert "t.csv: 3 of 12 rows have no label, the first in line 3" in splits.notes
    given, splits = labels([0.5, 1, 2, 3] * 3)
    assert given == [None] * 12
    assert "no label: the numbers in 'label' are not whole, as in line 2, and so no classes" in splits.notes[0]
    # A column for each class.
    hot = np.eye(3, dtype=int)[np.arange(12) % 3].T.tolist()
    given, splits = labels(*hot, header=("healthy", "rust", "scab"))
    assert given == ["healthy", "rust", "scab"] * 4
    assert "the label from 3 columns of 0 and 1 (healthy, rust, scab), one for each class" in splits.notes[0]
    hot[0] = [0] * 12
    assert labels(*hot, header=("a", "b", "c"))[0] == [None, "b", "c"] * 4
    hot[0] = [1] * 12
    given, splits = labels(*hot, header=("a", "b", "c"))
    assert given == [None] * 12
    assert "no label: 8 rows have several ones in 3 columns of 0 and 1 (a, b, c), as in line 3" in splits.notes[0]
    assert "(the table has no column of labels): what needs labels is not measured" in splits.notes[-1]


def test_tables_of_splits_beside_each_other(load, tmp_path):
    for k, split in enumerate(("train", "test")):  # the same names in both
        pictures(tmp_path / split, [f"{i}.jpg" for i in range(20)], start=100 * k)
    train = table(tmp_path / "train.csv", ("image_id", "label"), *((i, "ab"[i % 2]) for i in range(20)))
    table(tmp_path / "test.csv", ("image_id",), *((i,) for i in range(20)))
    table(tmp_path / "sample_submission.csv", ("image_id", "label"), (0, "a"))
    splits = load(f"csv:{train}")
    assert {value // 50 for value in found(*splits)} == {0}
    said = "\n".join(splits.notes)
    assert "train.csv: test/ is not used: no label is known of its 20 images" in said
    assert "train.csv: the test split is cut from train/" in said
    assert (splits.test.cut_from, len(splits.test)) == (20, 4)
    assert "train.csv: sample_submission.csv beside it not read" in said
    table(tmp_path / "test.csv", ("image_id", "label"), *((i, "ba"[i % 2]) for i in range(20)))
    splits = load(f"csv:{train}")
    assert [len(part) for part in splits] == [18, 2, 20]
    assert splits.test.cut_from is None
    assert {value // 50 for value in found(splits.test)} == {2}
    assert found(splits.test)[101] == "a"
    table(tmp_path / "test.csv", ("image_id", "label"), *((i, "ac"[i % 2]) for i in range(20)))
    with pytest.raises(ValueError, match=r"test has classes that train has not \(c\)"):
        load(f"csv:{train}")
    (tmp_path / "test.csv").write_text("question,answer\na,b\n")
    said = "\n".join(load(f"csv:{train}").notes)
    assert "test.csv beside it is not used: " in said
    with pytest.raises(ValueError, match=r"test.csv has no column that is called as one of image files is"):
        load(f"csv:{train}", test_split="test")


@pytest.mark.parametrize(
    ("column", "values"),
    [("split", ("train", "test")), ("Set", ("TRAINING", "valid")), ("is_valid", (False, True)), ("isTrain", (1, 0))],
)
def test_a_column_of_splits(load, tmp_path, column, values):
    pictures(tmp_path / "images", [f"{i}.png" for i in range(30)])
    rows = [(f"{i}.png", "ab"[i % 2], values[i % 3 == 0]) for i in range(30)]
    splits = load(f"csv:{table(tmp_path / 'all.csv', ('file', 'label', column), *rows)}")
    assert [len(part) for part in splits] == [18, 2, 10]
    assert sorted(found(splits.test)) == list(range(0, 30, 3))


def test_folds_and_rows_of_no_split(load, tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(30)])
    file = table(tmp_path / "t.csv", ("file", "label", "fold"), *((f"{i}.png", "ab"[i % 2], i % 3) for i in range(30)))
    splits = load(f"csv:{file}")
    assert sum(map(len, splits)) == 30
    assert any("0, 1, 2 are no splits by their names, so all rows are learned from" in note for note in splits.notes)
    splits = load(f"csv:{file}", test_split="2")
    assert sorted(found(splits.test)) == list(range(2, 30, 3))
    assert sum(map(len, splits)) == 30
    words = ("train", "test", "")
    table(file, ("file", "label", "split"), *((f"{i}.png", "ab"[i % 2], words[i % 3]) for i in range(30)))
    splits = load(f"csv:{file}")
    assert sum(map(len, splits)) == 20
    assert any("no split (10 rows) not used" in note for note in splits.notes)


def test_missing_files_are_counted_and_many_refused(load, tmp_path):
    pictures(tmp_path / "images", [f"{i}.png" for i in range(30) if i not in (4, 5, 6, 7)])
    file = table(tmp_path / "t.csv", ("image", "label"), *((f"{i}.png", i % 2) for i in range(30)))
    with pytest.raises(
        ValueError, match=r"4 of 30 images are not there \(4.png, 5.png, 6.png and 1 more; the first in "
    ):
        load(f"csv:{file}")
    splits = load(f"csv:{file}", max_unreadable=0.2)
    assert sum(map(len, splits)) == 26
    assert any("and are left out" in note for note in splits.notes)
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    table(file, ("image", "label"), *((f"{i}.png", i % 2) for i in range(30) if i not in (4, 5, 6, 7)))
    with pytest.raises(ValueError, match=r"1 of 26 images in .*t.csv cannot be read \(images/3.png: "):
        load(f"csv:{file}")
    splits = load(f"csv:{file}", max_unreadable=0.2)
    assert [path for part in splits for path in part.unreadable] == ["images/3.png"] * 3
    table(file, ("image", "label"), *((f"https://x.org/{i}.png", i % 2) for i in range(30)))
    with pytest.raises(ValueError, match="these are addresses, from which nothing is fetched"):
        load(f"csv:{file}")


def test_what_is_not_used_is_said(load, tmp_path):
    pictures(tmp_path / "images", [f"{i}.png" for i in range(30)])
    pictures(tmp_path / "images_small", [f"{i}.png" for i in range(3)])
    rows = [(f"{i}.png", "ab"[i % 2]) for i in (*range(20), 0, 1)]
    file = table(tmp_path / "t.csv", ("image", "label"), *rows)
    splits = load(f"csv:{file}")
    assert sum(map(len, splits)) == 20
    said = "\n".join(splits.notes)
    assert "2 rows name an image that a row before them names; each is one example" in said
    assert "10 images in images/ that no row names are not used" in said
    assert "3 names are in several folders (0.png in images, images_small); the first one is taken" in said
    table(file, ("image", "label"), *rows, ("0", "b"))
    with pytest.raises(ValueError, match=r"line 24: 0 has the label 'b', and 'a' in line 2; keep one of the rows"):
        load(f"csv:{file}")


REFUSED = {
    "gone.csv": (None, "is not there; give data.source=csv:"),
    "empty.csv": ("image,label\n", "has no row"),
    "bare.csv": ("a.png,cat\nb.png,dog\n", "the first line has to name the columns and holds 'a.png'"),
    "other.csv": ("size,colour\n1,red\n", "name it with data.image_column, of: size, colour"),
    "texts.csv": (
        "id,text,label\n1,good,0\n2,bad,1\n",
        "its column 'text' holds texts; read it with data.source=text:",
    ),
    "hole.csv": ("image,label\na.png,1\n,2\n", "line 3: there is no image in the column 'image'; remove the row"),
    "ragged.csv": ("image,label\na.png,1,2\n", "line 2: another number of fields than the 2"),
    "twice.csv": (
        "image,label,size,label\na.png,1,2,3\n",
        "the columns 2 and 4 are both called 'label'; give each a name",
    ),
    "twice.tsv": ("image\tlabel\tlabel\na.png\t1\t3\n", "the columns 2 and 3 are both called 'label'"),
    "nul.csv": (b"image,label\na.png,c\0at\n", r"nul.csv, line 2: a NUL byte, which no text holds, as in 1 of 3 lines"),
    "latin.csv": (b"image,label\na.png,caf\xe9\n", r"latin.csv, line 2: bytes that are no UTF-8 text, as in 1 of 3"),
    "quote.csv": ('image,label\n"a.png,1\n', "line 2 has a stray quote"),
    "packed.csv": (b"\x1f\x8b\x08\x00rest", "is compressed; unpack it"),
    "two.csv": ("image,label\na.png,1\n./a.png,2\n", "line 3: ./a.png has the label 2, and 1 in line 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(load, tmp_path, name):
    pictures(tmp_path, ["a.png", "b.png"])
    content, match = REFUSED[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=match) as refused:
        load(f"csv:{tmp_path / name}")
    assert "\n" not in str(refused.value)


def test_columns_without_a_name_may_be_several(load, tmp_path):
    """As a separator at the end of every line makes them."""
    pictures(tmp_path, [f"{i}.png" for i in range(20)])
    splits = load(
        f"csv:{table(tmp_path / 't.csv', ('image', 'label', '', ''), *((i, i % 2, '', '') for i in range(20)))}"
    )
    assert found(*splits) == {i: str(i % 2) for i in range(20)}


def test_what_is_asked_wrongly_is_refused(load, tmp_path):
    pictures(tmp_path, ["a.png", "b.png"])
    file = table(tmp_path / "t.csv", ("image", "label"), ("a.png", "x"), ("b.png", "y"))
    for asked, match in {
        "image_column": r"no column 'imgae' \(data.image_column\); did you mean 'image'\? its columns: image, label",
        "label_column": r"no column 'imgae' \(data.label_column\)",
        "text_column": r"data.text_column='imgae' means nothing to .*a table of texts is text:",
        "train_split": r"data.train_split='imgae' is not a folder in",
    }.items():
        with pytest.raises(ValueError, match=match):
            load(f"csv:{file}", **{asked: "imgae"})
    with pytest.raises(ValueError, match=r"data.image_column='x' means nothing to 'folder:"):
        load(f"folder:{tmp_path}", image_column="x")
    with pytest.raises(ValueError, match=r"is a folder; name a table in it \(t.csv\)"):
        load(f"csv:{tmp_path}")
    with pytest.raises(ValueError, match=r"the column 'image' names image files; read them with data.source=csv:"):
        text.load(file)
    with pytest.raises(ValueError, match=r"the column 'image' names image files"):
        text.load(file, columns=tables.Columns(text="image"))
    pictures(tmp_path, [f"{i}.png" for i in range(20)])
    table(file, ("image", "label"), *((f"{i}.png", "ab"[i % 2]) for i in range(20)))
    with pytest.raises(ValueError, match=r"data.unlabelled=1 means nothing to .*whose labels are names \(a, b, ...\)"):
        load(f"csv:{file}", unlabelled=1)
    table(file, ("image", "label"), *((f"{i}.png", i / 2) for i in range(20)))
    with pytest.raises(ValueError, match="not whole, as in line 3, and so no classes; name another column"):
        load(f"csv:{file}", label_column="label")


def test_the_fingerprint_is_of_contents_and_labels(load, tmp_path):
    def made(where, labels=lambda i: i % 2, more=""):
        names = [f"{i}.png" for i in range(20)]
        pictures(where, names)
        table(where / "t.csv", ("image", "label", "more"), *((name, labels(i), more) for i, name in enumerate(names)))
        return load(f"csv:{where}/t.csv")

    first = source.identity(made(tmp_path / "a"))
    assert first["of"] == "content"
    assert source.same(first, source.identity(made(tmp_path / "b")))
    assert source.same(first, source.identity(made(tmp_path / "b", more="x")))
    assert not source.same(first, source.identity(made(tmp_path / "b", labels=lambda i: (i + 1) % 2)))
    file = tmp_path / "a" / "7.png"
    times = os.stat(file)
    Image.fromarray(noise()).save(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert not source.same(first, source.identity(load(f"csv:{tmp_path}/a/t.csv")))
    header = [load(f"csv:{tmp_path}/{where}/t.csv", verify="header") for where in "ab"]
    assert not header[0].train.by_content
    assert not source.same(*map(source.identity, header))


def test_files_are_checked_once(load, tmp_path, monkeypatch):
    pictures(tmp_path, [f"{i}.png" for i in range(20)])
    file = table(tmp_path / "t.csv", ("image", "label"), *((f"{i}.png", i % 2) for i in range(20)))
    looked = []
    read = decode.read
    monkeypatch.setattr(decode, "read", lambda *a: (looked.append(1), read(*a))[1])
    first = load(f"csv:{file}")
    assert len(looked) >= 20
    looked.clear()
    assert source.same(source.identity(first), source.identity(load(f"csv:{file}")))
    assert not looked
    Image.fromarray(noise()).save(tmp_path / "3.png")
    load(f"csv:{file}")
    assert len(looked) == 1


def test_a_test_most_of_which_is_in_train_is_refused(load, tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(20)])
    rows = [(f"{i}.png", i % 2, split) for split, n in (("train", 20), ("test", 5)) for i in range(n)]
    file = table(tmp_path / "t.csv", ("image", "label", "split"), *rows)
    with pytest.raises(ValueError, match="5 of 5 examples of test are in train, too"):
        load(f"csv:{file}")


def test_a_run_from_a_table(tmp_path):
    pictures(tmp_path / "data" / "images", [f"{i:02}.png" for i in range(40)])
    rows = [(f"{i:02}", "dark" if i < 20 else "bright") for i in range(40)]
    file = table(tmp_path / "data" / "labels.csv", ("id", "label"), *rows)
    changes = {
        "data": {"source": f"csv:{file}", "image_size": 8, "global_batch_size": 16, "recipe": "runs:VIEWS"},
        "train": {"steps": 3, "eval_every": 0, "checkpoint_every": 0},
        "eval": {"knn_k": 3, "label_efficiency": False},
        "model": {"name": "convnet", "widths": (4, 4)},
        "optim.warmup_epochs": 0,
        "parallel.devices": 1,
    }
    config = ssl_jax.config("simclr_digits", **changes)
    with runs.no_pictures():
        run = ssl_jax.pretrain(config, tmp_path / "run")
    assert run.step == 3
    assert run.resolved["data"]["sizes"] == {"train": 29, "val": 3, "test": 8}
    # The data lie elsewhere now, and are the same.
    shutil.move(tmp_path / "data", tmp_path / "moved")
    stored = {"data": {**config.data.to_dict(), "source": f"csv:{tmp_path}/moved/labels.csv"}}
    assert configs.differences(config.to_dict(), config.to_dict() | stored)[0] == {}
    moved = config.copy_and_resolve_references()
    moved.data.source = stored["data"]["source"]
    assert source.same(run.resolved["data"], source.identity(experiment.load_splits(moved)))
