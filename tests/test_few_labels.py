"""``data.labelled=N``: which labels are given, who sees them, and what is measured with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import runs

from experiments import evaluate as command
from ssl_jax import train
from ssl_jax.data import few_labels
from ssl_jax.data.order import enough, indices
from ssl_jax.data.readers import text
from ssl_jax.data.source import Splits, from_arrays, identity, same
from ssl_jax.experiment import build
from ssl_jax.run import processes


def splits_of(labels, names=("a", "b", "c")) -> Splits:
    labels = np.asarray(labels, np.int32)
    part = from_arrays(
        np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8), labels, names
    )
    return Splits(part, part, part)


MANY = splits_of(np.arange(300) % 3)


def given(number, seed=0, splits=MANY):
    return few_labels.labelled(few_labels.hide(splits, number, seed).train)


def test_as_many_of_each_class_by_the_seed():
    hidden = few_labels.hide(MANY, 12, 0)
    rows = few_labels.labelled(hidden.train)
    np.testing.assert_array_equal(hidden.train.labels[rows], MANY.train.labels[rows])
    assert np.bincount(hidden.train.labels[rows]).tolist() == [4, 4, 4]
    assert (np.delete(hidden.train.labels, rows) == -1).all()
    np.testing.assert_array_equal(given(12), rows)
    assert not np.array_equal(given(12, seed=1), rows)
    assert set(rows) < set(given(30))
    assert hidden.notes[-1] == "labels of 12 of 300 train examples are given, 4 of each class"
    assert hidden.val is MANY.val
    assert hidden.test is MANY.test
    assert not same(identity(hidden), identity(MANY))
    assert not same(identity(hidden), identity(few_labels.hide(MANY, 15, 0)))
    assert hidden.train.fingerprint == few_labels.hide(MANY, 12, 0).train.fingerprint


def test_every_example_may_be_among_them():
    assert set(np.concatenate([given(30, seed) for seed in range(200)])) == set(range(300))


def test_an_uneven_number_is_said_and_a_small_class_gives_all_it_has():
    hidden = few_labels.hide(MANY, 13, 0)
    assert sorted(np.bincount(hidden.train.labels[hidden.train.labels >= 0])) == [4, 4, 5]
    assert hidden.notes[-1].endswith("4 to 5 of each class")
    # Which class has one more is drawn, not always the first.
    more = {int(np.bincount(MANY.train.labels[given(13, seed)]).argmax()) for seed in range(20)}
    assert more == {0, 1, 2}
    few = splits_of([0] * 50 + [-1] * 20 + [1, 1] + [2] * 28)
    assert np.bincount(few.train.labels[given(22, splits=few)]).tolist() == [10, 2, 10]
    assert len(given(80, splits=few)) == 80


@pytest.mark.parametrize(
    ("splits", "number", "words"),
    [
        (MANY, 2, "data.labelled=2 gives some of the 3 classes no label; use 3 or more"),
        (MANY, 301, "data.labelled=301, but 300 of the 300 train examples have labels; use at most 300"),
        (splits_of([0, 1, 2, -1]), 4, "3 of the 4 train examples have labels"),
    ],
)
def test_refused(splits, number, words):
    with pytest.raises(ValueError, match=words) as refusal:
        few_labels.hide(splits, number, 0)
    assert "\n" not in str(refusal.value)


def test_without_labels_there_are_none_to_give():
    part = from_arrays(np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"data\.labelled=3, but no train example has a label"):
        few_labels.hide(Splits(part, part, part), 3, 0)
    config = runs.config("supervised", data__labelled=0)
    with pytest.raises(ValueError, match=r"config\.data\.labelled=0 must be positive"):
        build(config)


@pytest.mark.parametrize("augment", ["device", pytest.param("host", marks=pytest.mark.slow)])  # host: TensorFlow
def test_supervised_draws_from_the_labelled_alone_and_others_from_all(augment):
    built = build(runs.config("supervised", data__labelled=70, data__augment=augment))
    rows = few_labels.labelled(built.splits.train)
    assert (len(rows), built.plan.steps_per_epoch, built.plan.num_examples) == (70, 2, 70)
    batches = list(built.feed.batches(total_steps=2))
    assert len(set(np.concatenate([b["index"] for b in batches]))) == 64
    for batch in batches:
        assert set(batch["index"]) <= set(rows)
        np.testing.assert_array_equal(batch["label"], built.splits.train.labels[batch["index"]])
        assert (batch["label"] >= 0).all()
    assert "method.name='supervised' draws from the 70 labelled examples alone" in built.notes
    if augment == "device":
        other = build(runs.config("simclr", data__labelled=70, data__augment=augment))
        assert other.plan.steps_per_epoch == 5
        labels = np.concatenate([b["label"] for b in other.feed.batches(total_steps=5)])
        assert (labels >= 0).sum() == 70
        assert other.splits.train.fingerprint == built.splits.train.fingerprint


def test_a_batch_of_more_rows_than_labels_holds_each_about_as_often():
    pool = np.array([3, 5, 8])
    drawn = indices(enough(pool, 7), 7, 0, 4)
    assert set(np.bincount(drawn)[pool]) <= {1, 2, 3}
    np.testing.assert_array_equal(enough(pool, 3), pool)
    built = build(runs.config("supervised", data__labelled=20, data__augment="device"))
    assert built.plan.steps_per_epoch == 1
    assert any("about 1.6 times in a batch of 32" in note for note in built.notes)
    batch = next(built.feed.batches(total_steps=1))
    assert set(np.unique(batch["index"], return_counts=True)[1]) <= {1, 2}


def test_documents_among_others():
    texts = [f"word{i} word{i}" for i in range(20)]
    source = text.of_texts(texts, np.arange(20, dtype=np.int32) % 2, ("a", "b"))
    config = runs.config("supervised", data__labelled=6, data__recipe="documents", data__source="text:none")
    config.data.update({"document_length": 8, "global_batch_size": 6})
    config.model = type(config.model)({"name": "lstm", "width": 8, "layers": 1})
    built = build(config, Splits(source, source, source))
    batch = next(built.feed.batches(total_steps=1))
    assert sorted(batch["index"]) == few_labels.labelled(built.splits.train).tolist()
    assert built.modality.vocab.size == 6 + 20  # the tokenizer is learned from all texts


@pytest.mark.slow
def test_a_run_its_bank_and_its_resumption(tmp_path, monkeypatch, capsys):
    few = {"data__augment": "device", "data__labelled": 20, "train__steps": 4, "train__eval_every": 4}
    summary = runs.fit(tmp_path / "run", "supervised", **few)
    assert summary["eval"]["bank"] == 20
    assert summary["eval"]["queries"] > 300
    assert "labels of 20 of 160 train examples are given, 2 of each class" in capsys.readouterr().err
    with pytest.raises(ValueError, match="labelled") as refusal:
        train.fit(build(runs.config("supervised", **few | {"data__labelled": 30})), tmp_path / "run")
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    with runs.no_pictures():
        assert command.main(["--workdir", str(tmp_path / "run"), "--evals", "knn"]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert found["metrics"]["test_knn_top1"] == pytest.approx(summary["test_knn_top1"], abs=1e-6)
    assert found["provenance"]["sizes"]["train"] == 20
