"""The gate: bands of recorded seeds, what is red, and that mistakes planted in the code turn it red."""

from __future__ import annotations

import contextlib
import json
import sys

import jax
import pytest
import runs

sys.path.insert(0, str(runs.ROOT / "experiments"))
import gate
import gate_planted
from benchmarks import gate_parts

HERE = {"torch": "2.13.0", "commit": "c", "cpu": "x", "cores": 2, "versions": {}}


def figure(value, low=None, high=None):
    return gate_parts.Figure(value, low, high)._asdict()


@pytest.fixture
def bands(tmp_path, monkeypatch):
    """Where they would be written, of nothing yet."""
    path = tmp_path / "bands.json"
    path.write_text(json.dumps({"values": {}, "machines": {}}))
    monkeypatch.setattr(gate, "BANDS", path)
    return path


def test_a_band_goes_as_far_beyond_the_seeds_as_they_lie_apart():
    assert gate.band([3.0, 1.0, 2.0], "runs") == (-1.0, 5.0)
    assert gate.band([2.0] * 5, "runs") == pytest.approx((1.996, 2.004))
    assert gate.band([5.0, 6.0], "pace") == (4.0, None)  # faster is welcome


def test_what_is_red():
    recorded = {"values": {"runs": {"a": [1.0, 2.0], "gone": [1.0]}}, "machines": {}}
    found = {"a": figure(3.1), "b": figure(0.5, 0.0, 1.0), "c": figure(1.0), "d": figure(float("nan"), 0.0, 1.0)}
    checks = gate.checked("runs", found, recorded, HERE)
    assert {check["check"]: check["state"] for check in checks} == {
        **{"a": "red", "b": "green", "c": "red", "d": "red", "gone": "red"}
    }
    said = gate.summed(checks)
    assert said.startswith("1 of 5 green")
    assert "RED a: 3.1 is not in 0 to 3" in said
    assert "RED c: no record; --record it" in said
    (broken,) = gate.checked("laws", {"error": "ValueError: no"}, recorded, HERE)
    assert broken == {"check": "laws", "state": "red", "why": "ValueError: no"}


def test_pace_is_compared_with_the_torch_it_was_recorded_with_alone():
    recorded = {"values": {"pace": {"a": [2.5, 4.0]}}, "machines": {"pace": {"torch": "2.13.0"}}}
    (check,) = gate.checked("pace", {"a": figure(1.9)}, recorded, HERE)
    assert (check["state"], check["low"]) == ("red", 2.0)
    (check,) = gate.checked("pace", {"a": figure(1.9)}, recorded, HERE | {"torch": "2.13.0+cpu"})
    assert check["state"] == "red"
    (check,) = gate.checked("pace", {"a": figure(1.9)}, recorded, HERE | {"torch": "2.12.0"})
    assert (check["state"], check["why"]) == ("skipped", "torch 2.12.0 is not the recorded 2.13.0")
    (check,) = gate.checked("pace", {"skipped": "no lightly"}, recorded, HERE)
    assert check["state"] == "skipped"


def test_recording_goes_on_with_the_seeds_that_are_there(tmp_path, monkeypatch):
    asked = []

    def measure(part, seed):
        asked.append(seed)
        if seed == 3 and asked.count(3) == 1:
            raise KeyboardInterrupt
        return {"a": figure(float(seed))}

    monkeypatch.setattr(gate, "measure", measure)
    path = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        gate.record("runs", 5, path, HERE)
    found = gate.record("runs", 5, path, HERE)
    assert asked == [0, 1, 2, 3, 3, 4]
    assert found["values"] == {"a": [0.0, 1.0, 2.0, 3.0, 4.0]}
    gate.record("runs", 5, path, HERE | {"commit": "d"})  # of other code nothing is kept
    assert asked[6:] == [0, 1, 2, 3, 4]


def test_a_record_leaves_the_bands_of_other_parts(tmp_path, monkeypatch, bands, capsys):
    bands.write_text(json.dumps({"values": {"views": {"b": [1.0]}}, "machines": {"views": HERE}}))
    monkeypatch.setattr(gate, "measure", lambda part, seed: {"a": figure(float(seed))})
    assert gate.main(["--out", str(tmp_path), "--only", "runs", "--record", "5"]) == 0
    assert gate.recorded()["values"] == {"views": {"b": [1.0]}, "runs": {"a": [0.0, 1.0, 2.0, 3.0, 4.0]}}
    assert gate.main(["--out", str(tmp_path), "--only", "runs"]) == 0
    monkeypatch.setattr(gate, "measure", lambda part, seed: {"a": figure(9.0)})
    assert gate.main(["--out", str(tmp_path), "--only", "runs"]) == 1
    assert "RED a: 9 is not in -4 to 8" in capsys.readouterr().out


def test_what_cannot_be_is_refused(tmp_path, capsys):
    for words, said in ((["--only", "x"], "--only x is unknown"), (["--record", "4"], "a band is of 5 seeds")):
        assert gate.main(["--out", str(tmp_path), *words]) == 2
        assert said in capsys.readouterr().err


def test_a_gradient_that_stops_at_other_devices_is_red():
    found = lambda: {name: checks.value for name, checks in gate_parts._loss_law(0, 0)}  # noqa: E731
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        right = found()
        with gate_planted.PLANTS["gathered"].make():
            wrong = found()
    slope = "nt_xent block 0: slope, 8 parts"
    assert right[slope] == pytest.approx(1, abs=1e-4)
    assert abs(wrong[slope] - 1) > 0.1
    assert abs(wrong["nt_xent block 0: loss, 8 parts less 1"]) < 1e-9  # the loss alone says nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "red"),
    [
        ("gathered", "laws: nt_xent block 0: slope, 8 parts"),
        ("statistics", "laws: byol: online statistics in the target's"),
        ("queue", "laws: moco: loss less that of the queue before it"),
    ],
)
def test_laws_are_green_and_see_planted_mistakes(name, red, bands):
    found = gate_planted.caught(gate_planted.PLANTS[name])
    assert red in found
    assert len(found) <= 3  # and nothing else: what is not planted holds


@pytest.mark.slow
def test_views_see_a_wrong_blur(monkeypatch):
    monkeypatch.setattr(gate_parts, "VIEWS", {"moco_v2": (0,)})
    plant = gate_planted.PLANTS["blur"]
    assert "views: moco_v2[0]: Blur edges" in gate_planted.caught(plant)
    assert gate_planted.caught(plant._replace(make=contextlib.nullcontext)) == []


@pytest.mark.slow
def test_every_planted_mistake_is_caught_with_the_recorded_bands():
    for name, plant in gate_planted.PLANTS.items():
        assert gate_planted.caught(plant), name
