"""Few labels: draws, official lists, the frozen and the tuned half."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax.data.source import Source, from_arrays
from ssl_jax.evals import Accuracy, Fitted, linear_probe, low_label


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int32)


@pytest.mark.slow
def test_label_efficiency(digits):
    x, y = digits
    labels = y[:1200].copy()
    labels[::7] = -1
    noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    rows = {"pixels": (x[:1200], x[1200:]), "noise": (noise[:1200], noise[1200:])}
    table = low_label.label_efficiency(rows, labels, y[1200:], per_class=(1, 5, "all"), draws=4)
    assert list(table) == ["1", "5", "all"]
    assert all(list(row) == ["pixels", "noise"] for row in table.values())
    means = [table[entry]["pixels"][0] for entry in table]
    assert means == sorted(means)
    assert means[0] > 0.3
    assert means[-1] > 0.9
    assert all(0.04 < table[entry]["noise"][0] < 0.17 for entry in table)
    assert table["5"]["pixels"][1] > 0
    assert table["all"]["pixels"][1] is None  # one fit has no deviation
    # an entry does not depend on its company, and scikit-learn finds the same on the same draw
    alone = low_label.label_efficiency({"again": rows["pixels"]}, labels, y[1200:], per_class=(5,), draws=1)
    (drawn,) = low_label.random_rows(labels, 5, draws=1, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[drawn]), np.full(10, 5))
    train, test = (np.asarray(a) for a in linear_probe.standardise(*rows["pixels"]))
    theirs = LogisticRegression(C=1 / (50 * 0.01), tol=1e-6, max_iter=5000).fit(train[drawn], labels[drawn])
    assert alone["5"]["again"] == [pytest.approx(theirs.score(test, y[1200:]), abs=0.005), None]


def test_label_efficiency_errors(digits):
    x, _ = digits
    with pytest.raises(ValueError, match=r"class 0 has 2; use 1 to 2"):
        low_label.label_efficiency({"a": (x[:4], x[:4])}, [0, 0, 1, 1], [0, 0, 1, 1], per_class=(3,))
    with pytest.raises(ValueError, match="row 'a' has 4 train"):
        low_label.label_efficiency({"a": (x[:4], x[:4])}, [0, 0, 1], [0, 0, 1, 1], per_class=("all",))


def test_random_rows():
    labels = np.repeat([0, 1, 2, -1], [200, 50, 4, 30])
    draws = low_label.random_rows(labels, 0.1, draws=3, seed=0)
    for rows in draws:
        assert len(np.unique(rows)) == len(rows)
        np.testing.assert_array_equal(np.bincount(labels[rows]), [20, 5, 1])  # in proportion, and at least one
    assert len({rows.tobytes() for rows in draws}) == 3
    for again, rows in zip(low_label.random_rows(labels, 0.1, draws=1, seed=0), draws, strict=False):
        np.testing.assert_array_equal(again, rows)
    assert low_label.random_rows(labels, 0.1, draws=1, seed=1)[0].tolist() != draws[0].tolist()
    for amount in (5, 0, -1, 1.5):
        with pytest.raises(ValueError, match="labels per class asked for"):
            low_label.random_rows(labels, amount, draws=1, seed=0)


class Pixels:
    layers = None

    def __call__(self, variables, source, *, layers=("features",), views=0):
        return {"features": source.columns["image"].reshape(len(source), 64).astype(np.float32), "label": source.labels}


def of(images, labels):
    return from_arrays(images.reshape(-1, 8, 8).astype(np.uint8), labels)


@pytest.fixture(scope="module")
def sources(digits):
    x, labels = digits[0], digits[1].copy()
    labels[5:600:9] = -1
    labels[700:720] = -1
    return {"train": of(x[:600], labels[:600]), "test": of(x[600:1000], labels[600:1000])}


@pytest.mark.slow
def test_evaluator(sources, tmp_path):
    evaluator = low_label.Evaluator(Pixels(), **sources, per_class=(1, 5), fractions=0.1, draws=2, seed=3)
    found = dict(evaluator.run(None, tmp_path))
    entries = ("1", "5", "10pct")
    assert list(found) == [f"low_label_{entry}_top1{std}" for entry in entries for std in ("", "_std")]
    assert (tmp_path / "low_label.png").stat().st_size > 10_000
    train, test = sources["train"], sources["test"]
    h, queries = linear_probe.standardise(*(Pixels()(None, s)["features"] for s in (train, test)))
    known = test.labels >= 0
    for entry, amount in zip(entries, (1, 5, 0.1), strict=True):
        scores = []
        for rows in low_label.random_rows(train.labels, amount, draws=2, seed=3):
            theirs = LogisticRegression(C=1 / (len(rows) * 0.01), tol=1e-6, max_iter=5000)
            scores.append(theirs.fit(h[rows], train.labels[rows]).score(queries[known], test.labels[known]))
        assert found[f"low_label_{entry}_top1"] == pytest.approx(np.mean(scores), abs=0.003)
        assert found[f"low_label_{entry}_top1_std"] == pytest.approx(np.std(scores), abs=0.003)
    assert found["low_label_1_top1"] < found["low_label_5_top1"]
    table = low_label.label_efficiency(
        {"x": (h, queries)}, train.labels, test.labels, per_class=(1, 5), draws=2, seed=3
    )
    assert found["low_label_5_top1"] == pytest.approx(table["5"]["x"][0], abs=0.003)
    ((name, value),) = low_label.Evaluator(Pixels(), **sources, per_class=5, draws=1, seed=3).run(None)
    assert name == "low_label_5_top1"
    assert isinstance(value, Accuracy)
    assert len(value.hits) == known.sum()


def test_what_small_classes_lack_is_left_out_where_it_was_not_asked_for(sources):
    train, known = sources["train"], np.flatnonzero(sources["train"].labels >= 0)
    small = train.take(np.concatenate([known[train.labels[known] == c][: 5 + c % 2] for c in range(10)]))
    evaluator = low_label.Evaluator(Pixels(), train=small, test=sources["test"], draws=2)
    assert evaluator.left_out == {"low_label_10": "class 0 has 5 labelled examples in train"}
    with pytest.raises(ValueError, match="10 labels per class asked for but class 0 has 5"):
        low_label.Evaluator(Pixels(), train=small, test=sources["test"], per_class=10)
    small = dataclasses.replace(small, class_names=("polar bear", "caf\udce9", *"cdefghij"))
    evaluator = low_label.Evaluator(Pixels(), train=small, test=sources["test"], draws=2)
    assert evaluator.left_out == {"low_label_10": "class polar bear has 5 labelled examples in train"}
    with pytest.raises(ValueError, match="10 labels per class asked for but class polar bear has 5"):
        low_label.Evaluator(Pixels(), train=small, test=sources["test"], per_class=10)
    few = small.take(np.setdiff1d(np.arange(len(small)), np.flatnonzero(small.labels == 1)[1:]))
    with pytest.raises(ValueError, match=r"but class caf\\xe9 has 1"):
        low_label.Evaluator(Pixels(), train=few, test=sources["test"], per_class=2)
    equal = train.take(np.concatenate([known[train.labels[known] == c][:5] for c in range(10)]))
    evaluator = low_label.Evaluator(Pixels(), train=equal, test=sources["test"], draws=2)
    found = dict(evaluator.run(None))
    assert set(found) == {"low_label_1_top1", "low_label_1_top1_std", "low_label_5_top1"}  # five of five: one draw
    assert isinstance(found["low_label_5_top1"], Accuracy)
    assert set(evaluator.notes) == {"low_label_5"}


def test_permuted_labels_teach_nothing(sources):
    rng = np.random.default_rng(0)
    train = of(sources["train"].columns["image"], rng.permutation(sources["train"].labels))
    test = of(sources["test"].columns["image"], rng.permutation(sources["test"].labels))
    found = dict(low_label.Evaluator(Pixels(), train=train, test=test, draws=2).run(None))
    assert all(value < 0.17 for name, value in found.items() if name.endswith("top1"))


@pytest.mark.slow
def test_tuned(sources):
    train, seen = sources["train"], []

    def fit(name, splits, overrides):
        seen.append((name, splits, overrides))
        return Fitted(0.5, np.arange(50) < 10 * len(seen), 1, 1.0)

    options = {"per_class": 2, "fractions": 0.5, "draws": 2, "seed": 1, "steps": 7}
    evaluator = low_label.Evaluator(Pixels(), **sources, **options, fit=fit, tuned=True)
    found = dict(evaluator.run(None))
    frozen = dict(low_label.Evaluator(Pixels(), **sources, **options).run(None))
    assert {name: value for name, value in found.items() if "tuned" not in name} == frozen  # the same draws
    assert found["low_label_tuned_2_top1"] == pytest.approx(0.3)  # of 0.2 and 0.4
    assert found["low_label_tuned_50pct_top1_std"] == pytest.approx(0.1)  # of 0.6 and 0.8
    assert [name for name, _, _ in seen] == [f"low_label_tuned_{m}_{k}" for m in ("2", "50pct") for k in (0, 1)]
    draws = [rows for m in (2, 0.5) for rows in low_label.random_rows(train.labels, m, draws=2, seed=1)]
    for (_, splits, overrides), rows in zip(seen, draws, strict=True):
        assert splits.train.fingerprint == train.take(rows).fingerprint
        assert splits.test.fingerprint == sources["test"].fingerprint
        assert len(splits.val) == min(len(rows), np.sum(train.labels >= 0) - len(rows))
        assert splits.val.labels.min() >= 0
        images = [set(map(bytes, part.columns["image"])) for part in (splits.train, splits.val)]
        assert not images[0] & images[1]
        assert overrides["train.steps"] == 7
        assert overrides["data.global_batch_size"] == min(64, len(rows))
        assert overrides.get("method.frozen", "") == ""


def test_official_lists(sources, tmp_path):
    test, labels = sources["test"], np.repeat(np.arange(10), 3).astype(np.int32)
    images = sources["train"].columns["image"][:30]
    paths = np.array([f"/data/train/n{c}/n{c}_{i}.JPEG" for c in range(10) for i in range(3)], object)
    # paths beside the images stand in for a folder of files
    train = Source({"path": paths, "image": images}, labels, test.class_names, "x")
    names = [f"n{c}_{2 - c % 2}.JPEG" for c in reversed(range(10))]
    (tmp_path / "10percent.txt").write_text("\n".join(names) + "\n")
    rows = low_label.official_rows(train, tmp_path / "10percent.txt")
    assert rows.tolist() == [3 * c + 2 - c % 2 for c in range(10)]
    options = {"train": train, "test": test, "per_class": (), "subsets": str(tmp_path)}
    ((name, value),) = low_label.Evaluator(Pixels(), **options).run(None)
    assert name == "low_label_official_10pct_top1"
    h, queries = linear_probe.standardise(*(Pixels()(None, s)["features"] for s in (train, test)))
    expected = low_label.hits(h, labels, queries, test.labels, rows, l2=0.01)
    np.testing.assert_array_equal(value.hits, expected)
    named = Source({"file_name": paths, "image": images}, labels, test.class_names, "x")
    assert low_label.official_rows(named, tmp_path / "10percent.txt").tolist() == rows.tolist()

    def refused(words, **change):
        with pytest.raises(ValueError, match=words):
            low_label.Evaluator(Pixels(), **(options | change))

    refused("holds neither 1percent.txt nor 10percent.txt", subsets=str(tmp_path / "nothing"))
    refused("the source has none", train=sources["train"])
    inside = Source({"path": paths, "offset": np.zeros(30), "image": images}, labels, test.class_names, "x")
    refused("the source has none", train=inside)
    (tmp_path / "10percent.txt").write_text("n0_0.JPEG\nn0_9.JPEG\n")
    refused(r"1 of 2 images of .*10percent.txt are not in the source, e.g. \['n0_9.JPEG'\]")
    (tmp_path / "10percent.txt").write_text("n0_0.JPEG\n")
    refused("class 1 has no image in")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per_class": 500}, "500 labels per class asked for"),
        ({"per_class": 0}, "whole numbers from 1 on"),
        ({"per_class": (1, "all")}, "whole numbers from 1 on"),
        ({"per_class": ()}, "nothing to draw"),
        ({"fractions": 10.0}, "fractions"),
        ({"draws": 0}, "draws=0 must be 1 or more"),
        ({"l2": -1.0}, "l2=-1.0 must be positive"),
        ({"tuned": True}, "there is no fit"),
        ({"test": from_arrays(np.zeros((5, 8, 8), np.uint8))}, "low_label needs labels and the test split has none"),
    ],
)
def test_evaluator_errors(sources, change, words):
    with pytest.raises(ValueError, match=words):
        low_label.Evaluator(Pixels(), **(sources | change))


def test_classes_missing_from_train_are_named(sources):
    train = sources["train"]
    without = train.take(np.flatnonzero(train.labels != 7))
    with pytest.raises(ValueError, match="class 7 of the test split has no labelled example"):
        low_label.Evaluator(Pixels(), train=without, test=sources["test"])
    everything = np.flatnonzero(train.labels >= 0)
    small = train.take(np.concatenate([everything[train.labels[everything] == c][:2] for c in range(10)]))
    with pytest.raises(ValueError, match="leaves nothing to choose the epoch on"):
        low_label.Evaluator(Pixels(), train=small, test=sources["test"], per_class=2, tuned=True, fit=print)
