"""Evaluators in turn: numbers, intervals where they mean something, and what is left out with its reason."""

from __future__ import annotations

import numpy as np

from ssl_jax.evals import Accuracy, suite


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


def run(tmp_path, **evaluators):
    said = []
    settings = {name: {} for name in evaluators}
    result, hits = suite.run(evaluators, None, tmp_path, settings, examples="t", say=said.append)
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


def test_pictures_of_an_earlier_time_are_not_taken_for_new_ones(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "old.png").write_bytes(b"")
    result, _, _ = run(tmp_path, one=Fake({"a": 1.0}))
    assert result["evaluators"]["one"]["figures"] == []
