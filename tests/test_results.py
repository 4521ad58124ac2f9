"""Results stand side by side by data, and tests are paired on the same examples alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssl_jax.evals.shared import comparison, results
from ssl_jax.evals.shared.results import Found


def a_result(source="digits", test="t1", checkpoint="c", evaluators=("knn",), value=0.5):
    metrics = {f"test_{name}_top1": value for name in evaluators}
    return {
        "metrics": metrics,
        "intervals": {name: [0.4, 0.6] for name in metrics},
        "evaluators": {
            name: {"metrics": [f"test_{name}_top1"], "figures": [], "examples": {f"test_{name}_top1": test}}
            for name in evaluators
        },
        "provenance": {
            "checkpoint": checkpoint,
            "evaluated_on": source,
            "fingerprints": {"train": "a" + test, "val": "b" + test, "test": test},
        },
    }


def evaluate(place, said, **about):
    """As ssl_jax.evaluation does it with one result."""
    result = a_result(**about)
    hits = {name: np.arange(4) < 4 * value for name, value in result["metrics"].items()}
    known = results.earlier(place, result["provenance"]["checkpoint"], said.append)
    home = results.home(place, known, result["provenance"]["evaluated_on"], result["provenance"]["fingerprints"])
    found = results.added(known, result, hits, home, place, said.append)
    results.write_hits(next(one for one in found.values() if one.result is result))
    results.write(place, results.content(found))
    return json.loads((place / "evaluation.json").read_text())


def test_results_on_several_data_stand_side_by_side(tmp_path):
    said = []
    first = evaluate(tmp_path, said)
    assert set(first) == {"metrics", "intervals", "evaluators", "provenance"}  # of one data, as it always was
    evaluate(tmp_path, said, evaluators=["linear"], value=0.75)
    assert said == ["kept from an earlier evaluation of the same checkpoint: knn"]
    both = evaluate(tmp_path, said, source="npz:/x/other.npz", test="t2", value=0.25)
    assert list(both["data"]) == ["digits", "npz:/x/other.npz"]
    own, other = both["data"].values()
    assert own["metrics"] == {"test_knn_top1": 0.5, "test_linear_top1": 0.75}
    assert other["metrics"] == {"test_knn_top1": 0.25}
    assert "folder" not in own
    assert other["folder"] == "on_other.npz_t2"
    for folder, mean in ((".", 0.5), (other["folder"], 0.25)):
        with np.load(tmp_path / folder / "hits.npz") as hits:
            assert hits["test_knn_top1"].mean() == mean
    # the same name with other content is other data
    three = evaluate(tmp_path, said, source="npz:/x/other.npz", test="t3", value=1.0)
    assert list(three["data"]) == ["digits", "npz:/x/other.npz", "npz:/x/other.npz (t3)"]
    # and what is measured again is replaced where it stands
    again = evaluate(tmp_path, said, source="npz:/x/other.npz", test="t2", value=0.0)
    assert [entry["metrics"]["test_knn_top1"] for entry in again["data"].values()] == [0.5, 1.0, 0.0]
    assert len(said) == 1


def test_what_takes_the_place_of_something_else_is_said(tmp_path):
    said = []
    evaluate(tmp_path, said)
    found = evaluate(tmp_path, said, checkpoint="d", evaluators=["linear"])
    assert list(found["metrics"]) == ["test_linear_top1"]
    results.write(tmp_path, {"runs": {}, "paired": []})
    evaluate(tmp_path, said)
    (tmp_path / "evaluation.json").write_text("{")
    evaluate(tmp_path, said)
    (tmp_path / "evaluation.json").write_text('{"metrics": 3}')
    evaluate(tmp_path, said)
    words = ("of another checkpoint", "compares several runs", "cannot be read", "a result that cannot be read")
    assert len(said) == 4
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_a_folder_outside_is_not_believed(tmp_path):
    evil = a_result() | {"folder": "../elsewhere"}
    results.write(tmp_path, evil)
    assert results.earlier(tmp_path, "c", print) == {}


def runs(**found):
    """run=[(source, test, metrics -> hits)]"""
    return {
        run: {
            source: Found(a_result(source, test, evaluators=list(hits)), _hits(hits), None) for source, test, hits in of
        }
        for run, of in found.items()
    }


def _hits(hits):
    return {f"test_{name}_top1": np.asarray(values, bool) for name, values in hits.items()}


HALF, ALL = [1, 0, 1, 0], [1, 1, 1, 1]


def test_the_same_examples_are_paired():
    paired, not_paired = comparison.compare(runs(a=[("x", "t", {"knn": HALF})], b=[("x", "t", {"knn": ALL})]))
    assert not not_paired
    (test,) = paired
    assert {k: test[k] for k in ("metric", "a", "b", "difference")} == {
        "metric": "test_knn_top1", "a": "a", "b": "b", "difference": -0.5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("b", "reason"),
    [
        (("y", "u", ALL), "measured on different data: x (4 test examples) and y (4)"),
        (("x", "u", ALL), "the test examples are not the same: 4 and 4, of other content"),
        (("x", "t", ALL[:3]), "4 and 3 of the same examples could be read"),
    ],
)
def test_others_are_not_paired_and_it_is_said_why(b, reason):
    source, test, hits = b
    found = runs(a=[("x", "t", {"knn": HALF, "linear": ALL})], b=[(source, test, {"knn": hits, "linear": hits})])
    assert comparison.compare(found) == (
        [],
        [{"metrics": ["test_knn_top1", "test_linear_top1"], "a": "a", "b": "b", "reason": reason}],
    )


def test_runs_on_several_data_are_paired_on_those_that_both_have():
    a = [("x", "t", {"knn": HALF}), ("y", "u", {"knn": ALL})]
    paired, not_paired = comparison.compare(runs(a=a, b=[("y", "u", {"knn": HALF})]))
    assert not not_paired
    assert [(test["a"], test["b"], test["difference"]) for test in paired] == [("a on y", "b", 0.5)]


def test_what_an_earlier_version_transferred_to_is_not_known():
    found = runs(a=[("x", "t", {"transfer_z": HALF})], b=[("x", "t", {"transfer_z": ALL})])
    for data in found.values():
        del data["x"].result["evaluators"]["transfer_z"]["examples"]
    ((pair,), nothing) = reversed(comparison.compare(found))
    assert nothing == []
    assert "is not known; evaluate again" in pair["reason"]
