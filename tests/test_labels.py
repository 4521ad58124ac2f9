"""What an accuracy can be measured on: labels, two classes, and classes that train has."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_jax.data import readers
from ssl_jax.data.source import Splits, from_arrays
from ssl_jax.evals import knn, linear_probe
from ssl_jax.evals.shared import labels
from ssl_jax.run import measure


def source(values, names=40):
    values = np.asarray(values)
    images = np.random.default_rng(0).integers(0, 255, (len(values), 2, 2, 1), np.uint8)
    return from_arrays(images, values, tuple(map(str, range(names))))


class Pixels:
    def __init__(self):
        self.layers = {"features": 4}

    def __call__(self, variables, source, *, layers=("features",), views=0):
        return {"features": source.columns["image"].reshape(-1, 4) / np.float32(255), "label": source.labels}


def test_what_is_known_of_the_data():
    train, test = source([0, 1, 1, -1]), source([0, -1, 1])
    kept = "left out of what needs labels, and part of what needs none"
    assert labels.of_data(train, test) == {"examples without a label": f"1 of 4 of train and 1 of 3 of test: {kept}"}
    whole = source([0, 1] * 1000)
    assert labels.of_data(whole, whole) == {}
    _, splits = readers.of_arrays(whole.columns["image"], whole.labels)
    said = "cut from train: 400 of 2,000 examples (20%), the same ones in every run"
    assert labels.of_data(splits.train, splits.test) == {"test split": said}
    assert labels.of_data(test, splits.train.take(np.arange(3))) == {
        "examples without a label": f"1 of 3 of train: {kept}"
    }


def test_forty_classes_of_one_image_are_not_measured_and_it_is_said():
    train, test = source(np.arange(30)), source(np.arange(32, 40))
    for evaluator in (knn, linear_probe):
        with pytest.raises(ValueError, match="cannot be right: no class of the 8 labelled test examples has one"):
            evaluator.Evaluator(Pixels(), train=train, test=test)
    told = list(measure.notes(Splits(train, source([30, 31]), test)))
    assert told == [f"{part}: no accuracy; none of its classes has a train example" for part in ("val", "test")]


def test_a_class_that_train_lacks_is_said():
    train, test = source([0, 0, 1, 1, -1]), source([0, 1, 2, -1])
    evaluator = knn.Evaluator(Pixels(), train=train, test=test, k=1)
    text = "1 of 3 test examples are of classes that train has no label of, and count as wrong"
    assert evaluator.notes == {"knn_top1": text}
    assert labels.note([0, 1], [0, 1]) is None
    assert list(measure.notes(Splits(train, train, test))) == [f"test: {text}"]


def test_one_class_is_not_measured_and_it_is_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    for train, test in (([7] * 60, [7] * 20), ([7, -1] * 30, [7, 3] * 10)):
        np.savez(
            tmp_path / "x.npz", train_images=images, train_labels=train, test_images=images[:20] // 2, test_labels=test
        )
        splits = readers.load(f"npz:{tmp_path}/x.npz")
        for part in (splits.train, splits.val, splits.test):
            assert (part.labels, part.num_classes, part.why_unlabelled) == (None, None, "there is one class only, 7")


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="train has one, which any guess gets right"):
        knn.Evaluator(Pixels(), train=source([3, 3, -1]), test=source([3, 3]))


@pytest.mark.parametrize(("classes", "there"), [(3, False), (5, False), (6, True)])
def test_top5_of_few_classes_is_left_out(classes, there):
    train = source(np.arange(60) % classes)
    evaluator = linear_probe.Evaluator(Pixels(), train=train, test=train, l2=0.1)  # 40 names, few of which occur
    assert ("linear_top5" in dict(evaluator.run(None))) == there
    assert evaluator.left_out == (
        {} if there else {"linear_top5": f"there are {classes} classes, all among the first five"}
    )
