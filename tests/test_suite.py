"""Evaluators in turn: numbers, intervals where they mean something, and what is left out with its reason."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ssl_jax.evals import Accuracy, suite
from ssl_jax.names import imported
from ssl_jax.types import Variables


class Fake:
    def __init__(self, values, **attributes):
        self.values = values
        vars(self).update(attributes)

    def run(self, variables, outdir=None):
        yield from self.values.items()


class Absent:
    def run(self, variables, outdir=None):
        raise ImportError("pip install it")
        yield


def run(tmp_path, own=None, **evaluators):
    said = []
    settings = {name: {} for name in evaluators}
    result, hits = suite.run(
        evaluators, Variables({}, {}), tmp_path, settings, examples="t", say=said.append, own=own or {}
    )
    return result, hits, "\n".join(said)


def test_numbers_intervals_and_examples(tmp_path):
    half = np.arange(100) < 50
    values = {"a": 3.0, "b": Accuracy(half), "c": Accuracy(half, "elsewhere"), "d": Accuracy([True] * 9)}
    result, hits, said = run(tmp_path, one=Fake(values))
    assert result["metrics"] == {"test_a": 3.0, "test_b": 0.5, "test_c": 0.5, "test_d": 1.0}
    assert set(result["intervals"]) == {"test_b", "test_c"}  # of 9 of 9 there is nothing to resample
    assert "all of 9: no interval" in said
    assert result["evaluators"]["one"]["examples"] == {"test_b": "t", "test_c": "elsewhere", "test_d": "t"}
    assert hits["test_b"].sum() == 50


def test_what_is_left_out_is_said(tmp_path):
    fake = Fake({"a": 1.0}, left_out={"x.png": "ValueError: no"}, notes={"a": "of 3 images"})
    result, _, said = run(tmp_path, one=fake, two=Absent())
    assert result["evaluators"]["one"]["left_out"] == {"x.png": "ValueError: no"}
    assert result["evaluators"]["one"]["notes"] == {"a": "of 3 images"}
    assert result["evaluators"]["two"]["left_out"] == {"two": "pip install it"}
    for line in ("x.png left out: ValueError: no", "a: of 3 images", "two left out: pip install it"):
        assert line in said


def test_what_fails_in_ones_own_is_told_and_ends_nothing_else(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def run(self, variables, outdir=None):\n    yield 'a', 1.0\n    yield 'b', {}['k']\n")
    mine = type("Mine", (), {"run": imported(f"{file}:run", "evaluator")})
    numberless = type("Numberless", (), {"run": lambda *_: None})
    given = {"mine": mine(), "none": numberless(), "ours": Fake({"c": 2.0})}
    own = {"mine": f"{file}", "none": "lab.none.py"}
    result, _, said = run(tmp_path, own=own, **given)
    assert result["metrics"] == {"test_c": 2.0}  # a part of what failed is no result
    line = f"evaluator '{file}' fails: KeyError: 'k', mine.py line 3; it has run(self, variables, outdir=None), which "
    assert line in said
    assert line in result["evaluators"]["mine"]["left_out"]["mine"]
    assert "fails: TypeError" in result["evaluators"]["none"]["left_out"]["none"]
    with pytest.raises(ValueError, match=re.escape(line)):
        run(tmp_path, own=own, mine=mine())
    with pytest.raises(KeyError, match="'k'"):  # a fault of ours is none of the user's
        run(tmp_path, mine=mine(), ours=Fake({"c": 2.0}))


def test_pictures_of_an_earlier_time_are_not_taken_for_new_ones(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "old.png").write_bytes(b"")
    result, _, _ = run(tmp_path, one=Fake({"a": 1.0}))
    assert result["evaluators"]["one"]["figures"] == []


def test_what_an_evaluator_of_ones_own_found_before_it_failed_is_dropped(tmp_path):
    half = np.arange(100) < 50
    said = []
    evaluators = {"mine": Fake({"a": Accuracy(half), "b": "text"}), "knn": Fake({"c": 1.0})}
    found = suite.run(
        evaluators, None, tmp_path, {"mine": {}, "knn": {}}, examples="t", say=said.append, own={"mine": __file__}
    )
    result, hits = found
    assert result["metrics"] == {"test_c": 1.0}
    assert (result["intervals"], hits, result["evaluators"]["mine"]["metrics"]) == ({}, {}, [])
    assert "test_b is 'text' and no number" in "\n".join(said)
