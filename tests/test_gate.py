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

from ssl_jax.data.images import published
from ssl_jax.run import provenance

HERE = {"commit": "c", "cpu": "x", "cores": 2, "versions": {"jax": "0.10.2"}, "torch": "2.13.0+cpu", "lightly": "1.6.0"}


def figure(value, low=None, high=None):
    return gate_parts.Figure(value, low, high)._asdict()


@pytest.fixture
def bands(tmp_path, monkeypatch):
    """Where they would be written, of nothing yet; here is HERE."""
    path = tmp_path / "bands.json"
    path.write_text(json.dumps({"values": {}, "machines": {}}))
    monkeypatch.setattr(gate, "BANDS", path)
    monkeypatch.setattr(provenance, "commit", lambda: HERE["commit"])
    monkeypatch.setattr(provenance, "machine", lambda: HERE)
    monkeypatch.setattr(provenance, "version", HERE.get)
    return path


def test_a_band_goes_as_far_from_the_first_seed_as_the_seeds_lie_apart():
    assert gate.band([3.0, 1.0, 2.0], "runs") == (1.0, 5.0)
    assert gate.band([2.0] * 5, "runs") == pytest.approx((1.996, 2.004))
    assert gate.band([5.0, 6.0], "pace") == (4.0, None)  # faster is welcome


def test_what_is_red():
    recorded = {"values": {"runs": {"a": [2.0, 1.0], "gone": [1.0]}}, "machines": {}}
    found = {"a": figure(3.1), "b": figure(0.5, 0.0, 1.0), "c": figure(1.0), "d": figure(float("nan"), 0.0, 1.0)}
    checks = gate.checked("runs", found, recorded, HERE)
    assert {check["check"]: check["state"] for check in checks} == {
        **{"a": "red", "b": "green", "c": "red", "d": "red", "gone": "red"}
    }
    said = gate.summed(checks)
    assert said.startswith("1 of 5 green")
    assert "RED a: 3.1 is not in 1 to 3" in said
    assert "RED c: no record; --record it" in said
    (broken,) = gate.checked("laws", {"error": "ValueError: no"}, recorded, HERE)
    assert broken == {"check": "laws", "state": "red", "why": "ValueError: no"}


def test_what_moved_within_its_band_is_told_where_it_was_recorded_and_is_not_red(tmp_path, monkeypatch, bands, capsys):
    recorded = {"values": {"runs": {"a": [1.0, 0.9], "b": [1.0, 0.9]}}, "machines": {"runs": HERE}}
    bands.write_text(json.dumps(recorded))
    monkeypatch.setattr(gate, "measure", lambda part, seed: {"a": figure(0.95), "b": figure(1.001)})
    assert gate.main(["--out", str(tmp_path), "--only", "runs"]) == 0
    said = capsys.readouterr().out
    assert "runs: 1 of 2 green\n  MOVED a: 0.95, was 1" in said
    assert "green, 1 moved after" in said
    for other in ({"cpu": "y"}, {"cores": 4}, {"versions": {"jax": "0.10.3"}}, {"versions": {}}):
        checks = gate.checked("runs", {"a": figure(0.95), "b": figure(1.0)}, recorded, HERE | other)
        assert {check["state"] for check in checks} == {"green"}, other
    everywhere = gate.checked("runs", {"a": figure(0.95), "b": figure(1.0)}, recorded, HERE | {"torch": None})
    assert [check["state"] for check in everywhere] == ["moved", "green"]  # torch has no part in it


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"torch": "2.12.0"}, "torch is 2.12.0, recorded with 2.13.0+cpu"),
        ({"torch": None, "cpu": "y"}, "cpu is y, recorded with x, torch is missing, recorded with 2.13.0+cpu"),
        ({"lightly": "1.5.0"}, "lightly is 1.5.0, recorded with 1.6.0"),
        ({"versions": {"jax": "0.10.3"}}, "jax is 0.10.3, recorded with 0.10.2"),
    ],
)
def test_pace_is_not_measured_where_it_was_not_recorded(other, why, tmp_path, monkeypatch, bands, capsys):
    bands.write_text(json.dumps({"values": {"pace": {"a": [2.5, 4.0]}}, "machines": {"pace": HERE}}))
    monkeypatch.setattr(provenance, "machine", lambda: HERE | other)
    monkeypatch.setattr(provenance, "version", (HERE | other).get)
    monkeypatch.setattr(gate, "measure", lambda part, seed: pytest.fail("measured for nothing"))
    assert gate.main(["--out", str(tmp_path), "--only", "pace"]) == 0
    said = capsys.readouterr().out
    assert f"SKIPPED pace: {why}" in said
    assert "green, pace not measured after" in said


def test_pace_is_red_below_four_fifths(tmp_path, monkeypatch, bands, capsys):
    """Another build of the same torch counts, and a record that does not name lightly."""
    pinned = {k: v for k, v in HERE.items() if k != "lightly"} | {"torch": "2.13.0", "cores": 64}
    bands.write_text(json.dumps({"values": {"pace": {"a": [2.5, 4.0]}}, "machines": {"pace": pinned}}))
    monkeypatch.setattr(gate, "measure", lambda part, seed: {"a": figure(1.9)})
    assert gate.main(["--out", str(tmp_path), "--only", "pace"]) == 1
    assert "RED a: 1.9 is below 2\n" in capsys.readouterr().out
    monkeypatch.setattr(gate, "measure", lambda part, seed: {"a": figure(2.1)})
    assert gate.main(["--out", str(tmp_path), "--only", "pace"]) == 0
    assert "moved" not in capsys.readouterr().out  # seconds never come out the same
    monkeypatch.setattr(gate, "measure", lambda part, seed: {"skipped": "lightly does not load"})
    assert gate.main(["--out", str(tmp_path), "--only", "pace"]) == 0
    assert "green, pace not measured" in capsys.readouterr().out


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
    assert "RED a: 9 is not in -4 to 4" in capsys.readouterr().out
    assert gate.recorded()["machines"]["runs"] == HERE


def test_a_record_is_of_a_commit(tmp_path, monkeypatch, bands, capsys):
    before = bands.read_text()
    monkeypatch.setattr(gate, "measure", lambda part, seed: pytest.fail("measured for nothing"))
    for commit, said in (
        ("0123456789abcdef+", "--record: files differ from commit 0123456789ab: commit them first"),
        (None, "--record: the code that runs has no commit; run it in a checkout"),
    ):
        monkeypatch.setattr(provenance, "commit", lambda commit=commit: commit)
        assert gate.main(["--out", str(tmp_path), "--record", "5"]) == 2
        assert capsys.readouterr().err == f"error: {said}\n"
    assert bands.read_text() == before


def test_bands_are_written_when_all_parts_are_there(tmp_path, monkeypatch, bands):
    """Before, they would differ from the commit of the parts that are left."""

    def measure(part, seed):
        if part == "runs":
            raise KeyboardInterrupt
        return {"b": figure(1.0)}

    before = bands.read_text()
    monkeypatch.setattr(gate, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        gate.main(["--out", str(tmp_path), "--only", "views,runs", "--record", "5"])
    assert bands.read_text() == before


def test_planted_mistakes_are_planted_again_in_other_code(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gate_planted, "caught", lambda plant: asked.append(plant.what) or ["a"])

    def planted(commit, names="blur,queue"):
        asked.clear()
        monkeypatch.setattr(provenance, "commit", lambda: commit)
        assert gate_planted.main(["--out", str(tmp_path), "--only", names]) == 0
        return len(asked)

    (tmp_path / "planted.json").write_text(json.dumps({"blur": {"what": "of before commits were kept", "red": ["a"]}}))
    assert planted("a", "blur") == 1
    assert planted("a") == 1  # the other one
    assert planted("a") == 0
    assert planted("b") == 2
    assert planted("b+") == 2
    assert planted("b+") == 2  # whose files may differ from those of before
    assert planted(None) == planted(None) == 2


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
def test_views_see_a_recipe_that_is_not_as_published(monkeypatch):
    """The shares, without a record: right as it is, and each probability that is changed."""

    def red(**changes):
        view = published.RECIPES["moco_v2"].views[0]
        ops = tuple(op._replace(p=changes.get(type(op).__name__, op.p)) for op in view.ops)
        recipe = published.RECIPES["moco_v2"]._replace(views=(view._replace(ops=tuple(op for op in ops if op.p < 1)),))
        monkeypatch.setattr(published, "get", lambda name: recipe if name == "moco_v2" else published.RECIPES[name])
        found = {name: shares for name, shares in gate_parts.views(0) if shares.low is not None}
        assert len(found) == 4
        return {name.split()[1] for name, share in found.items() if not share.low <= share.value <= share.high}

    monkeypatch.setattr(gate_parts, "VIEWS", {key: gate_parts.VIEWS[key] for key in [("moco_v2", 0)]})
    assert red() == set()
    assert red(Flip=0.45, Gray=0.14, Blur=0.45, Jitter=0.85) == {"Flip", "Gray", "Blur", "Jitter"}
    assert red(Flip=1) == {"Flip"}  # left out altogether


@pytest.mark.slow
def test_views_see_a_wrong_blur(monkeypatch):
    monkeypatch.setattr(gate_parts, "VIEWS", {key: gate_parts.VIEWS[key] for key in [("moco_v2", 0)]})
    plant = gate_planted.PLANTS["blur"]
    assert "views: moco_v2[0]: Blur edges" in gate_planted.caught(plant)
    assert gate_planted.caught(plant._replace(make=contextlib.nullcontext)) == []


@pytest.mark.slow
def test_every_planted_mistake_is_caught_with_the_recorded_bands():
    for name, plant in gate_planted.PLANTS.items():
        assert gate_planted.caught(plant), name
