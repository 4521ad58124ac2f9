"""Reference curves: the band by hand, the rule on runs that are right and on planted faults, the command."""

from __future__ import annotations

import copy
import importlib
import json
import math

import numpy as np
import pytest
import runs

from ssl_jax.run import reference, several

compare_runs, pretrain = (importlib.import_module(f"experiments.{name}") for name in ("compare_runs", "pretrain"))
STEPS = 200  # windows of ten


def logged(seed, *, shift=0.0, since=0, until=STEPS, every=2):
    """Lines of a run: a loss that falls, with noise of 0.05 a line, and a score that rises."""
    rng, lines = np.random.default_rng(seed), []
    for step in range(1, STEPS + 1):
        noise = rng.normal(0, 0.05)
        if step % every == 0 and step <= until:
            loss = 3 + 2 * math.exp(-step / 50) + noise + (shift if step > since else 0)
            lines.append({"step": step, "line": len(lines) + 1, "train_loss": loss})
            if step % 50 == 0:
                lines[-1]["val_knn_top1"] = 0.5 + step / 1000 + noise / 10
    return lines


@pytest.fixture
def run(tmp_path):
    from configs.common import base

    def make(seed, **changes):
        config = base()
        config.seed = seed
        config.optim.learning_rate = changes.pop("rate", 0.03)
        finished = changes.pop("finished", True)
        resolved = {"plan": {"total_steps": STEPS, "steps_per_epoch": 20}, "commit": "c" * 40, "cpu": "x", "cores": 2}
        lines = logged(seed, **changes)
        return several.Run(tmp_path / f"run-{seed}", config, resolved, lines, {"steps": STEPS} if finished else None)

    return make


@pytest.fixture
def made(run):
    """By five seeds, as it would be read back."""
    return json.loads(json.dumps(reference.make([run(seed) for seed in range(5)])))


def test_a_window_is_the_mean_of_its_lines():
    lines = [{"step": step, "a": step} for step in (1, 10, 11, 20)] + [{"step": 12, "a": None}, {"step": 30, "b": 1}]
    assert reference.windowed(lines, "a", np.array([10, 20, 30])) == pytest.approx([5.5, np.inf, np.nan], nan_ok=True)
    assert reference.windowed(lines[:4], "a", np.array([10, 20, 30])) == pytest.approx([5.5, 15.5, np.nan], nan_ok=True)


def test_the_band_by_hand():
    """Three windows of two seeds with 1, 2 and 4 between them: s is that over the root of 2, with one degree each."""
    found = {"steps": [10, 20, 30, 40], "seeds": [0, 1], "curves": {}}
    found["curves"]["train_loss"] = {"mean": [4, 3, 2, None], "spread": [1 / 2**0.5, 2 / 2**0.5, 4 / 2**0.5, None]}
    band = reference.bands(found)["train_loss"]
    t = 12.9240  # of 3 degrees of freedom at .9995, from a printed table
    half = t * math.sqrt((0.5 + 2 + 8) / 3) * math.sqrt(1.5) + 0.01 * 2  # all three are pooled in each
    assert band.high[:3] - band.mean[:3] == pytest.approx([half] * 3, rel=1e-4)
    assert band.mean[:3] - band.low[:3] == pytest.approx([half] * 3, rel=1e-4)
    assert np.isnan(band.low[3])


def test_a_reference_is_the_mean_and_deviation_over_seeds(run, made):
    edges = np.arange(10, STEPS + 1, 10)
    assert made["steps"] == edges.tolist()
    values = [
        [np.mean([line["train_loss"] for line in logged(seed) if end - 10 < line["step"] <= end]) for end in edges]
        for seed in range(5)
    ]
    assert made["curves"]["train_loss"]["mean"] == pytest.approx(np.mean(values, 0), rel=1e-5)
    assert made["curves"]["train_loss"]["spread"] == pytest.approx(np.std(values, 0, ddof=1), rel=1e-5)
    score = made["curves"]["val_knn_top1"]["mean"]
    assert [k for k, value in enumerate(score) if value is not None] == [4, 9, 14, 19]
    assert made["seeds"] == [0, 1, 2, 3, 4]
    assert made["hardware"] == ["2 x x"]


def test_other_seeds_are_on_track(made):
    off = [seed for seed in range(100, 200) for v in reference.judge(made, logged(seed)) if not v.on_track]
    assert len(off) <= 2, off


@pytest.mark.parametrize(
    ("shift", "since", "said"),
    [
        (0.4, 0, "off track at step 200, above the band since step 10"),
        (-0.4, 100, "off track at step 200, below the band since step 110"),
    ],
)
def test_a_run_that_leaves_the_band_is_told_with_its_side_and_step(made, shift, since, said):
    loss, score = reference.judge(made, logged(100, shift=shift, since=since))
    assert not loss.on_track
    assert said in reference.said(loss)
    assert score.on_track
    assert "on track at step 200" in reference.said(score)


def test_a_loss_that_is_no_number_is_off_track(made):
    lines = [line | ({"train_loss": None} if line["step"] > 50 else {}) for line in logged(100)]
    loss, _ = reference.judge(made, lines)
    assert not loss.on_track
    assert "off track at step 200, not finite since step 60" in reference.said(loss)


def test_where_a_constant_would_be_on_track_the_curve_cannot_tell(made, run):
    """As in the first windows, or where seeds are far apart."""
    loss, score = reference.judge(made, logged(100))
    assert loss.tells
    assert score.tells
    flat = [line | {"train_loss": 3.05} for line in logged(100)]
    assert not reference.judge(made, flat)[0].on_track  # as it says
    none = reference.judge(made, logged(100, until=8))
    assert reference.summary(made, run(7).config, none)["on_track"] is None
    early = reference.judge(made, logged(100, until=16))
    assert "on track at step 10, which tells little: a value that never moves would be, too" in reference.said(early[0])
    assert reference.summary(made, run(7).config, early)["on_track"] is None
    wide = copy.deepcopy(made)
    wide["curves"]["train_loss"]["spread"] = [1.0] * 20
    loss, score = reference.judge(wide, flat)
    assert loss.on_track
    assert not loss.tells
    assert reference.summary(wide, run(7).config, [loss])["on_track"] is None
    assert reference.summary(wide, run(7).config, [loss, score])["on_track"] is True
    for outlier, tells in ((5, False), (9, True)):  # one window in ten may be outside, but not the last
        low, high = np.full(10, -1.0), np.full(10, 1.0)
        low[outlier], high[outlier] = 8, 9
        band = reference.Band(np.arange(10), (low + high) / 2, low, high)
        verdict = reference.Verdict("a", band, np.zeros(10), np.zeros(10, int), np.arange(10))
        assert verdict.tells is tells


def test_what_is_back_inside_after_a_while_is_still_off_track(made):
    lines = logged(100)
    for line in lines:
        line["train_loss"] += 0.5 * (line["step"] <= 30)
    verdict = reference.judge(made, lines)[0]
    assert not verdict.on_track
    assert "inside the band now, but above it in 3 of 20 windows, the last at step 30" in reference.said(verdict)


def test_a_run_under_way_is_judged_by_its_whole_windows(made):
    assert (
        reference.said(reference.judge(made, logged(100, until=8))[0]) == "train_loss: no whole window of 10 steps yet"
    )
    (verdict,) = reference.judge(made, logged(100, until=36))
    assert verdict.steps.tolist() == [10, 20, 30]
    assert "on track at step 30" in reference.said(verdict)


def test_what_programs_read(made, run):
    verdicts = reference.judge(made, logged(100, shift=0.4))
    found = reference.summary(made, run(7, rate=0.5).config, verdicts)
    assert found["on_track"] is False
    assert found["differs"] == ["optim.learning_rate: 0.5, not 0.03"]
    assert {name: (curve["on_track"], curve["tells"]) for name, curve in found["curves"].items()} == {
        **{"train_loss": (False, True), "val_knn_top1": (True, True)}
    }
    assert reference.summary(made, run(7).config, [])["on_track"] is None


@pytest.mark.parametrize(("key", "value"), [("method.name", "byol"), ("model.name", "vit_s"), ("data.source", "npz:x")])
def test_a_reference_of_something_else_is_refused(made, run, key, value):
    config = run(0).config
    reference.refuse_another(made, config, "a.json")
    config[key.partition(".")[0]][key.partition(".")[2]] = value
    with pytest.raises(ValueError, match=f"--compare a.json is of {key}=.*, and this run has {value}; give one"):
        reference.refuse_another(made, config, "a.json")


def test_a_run_is_told_once_when_it_leaves_the_track(made):
    told = []
    hook = reference.watch(made, [], told.append)
    for line in logged(100, shift=0.5, since=100):
        hook(line["step"], {name: value for name, value in line.items() if name not in ("step", "line")}, None)
    assert len(told) == 1
    assert told[0].startswith("WARNING: train_loss: off track at step 110, above the band since step 110")


def test_a_config_that_differs_is_told(made, run):
    assert len(reference.notes(made, run(7).config)) == 1  # another seed is no difference
    (*_, said) = reference.notes(made, run(7, rate=0.5).config)
    assert said == "this run differs from the reference in optim.learning_rate: 0.5, not 0.03"


def test_refusals(run, tmp_path):
    with pytest.raises(ValueError, match="a band needs two seeds"):
        reference.make([run(0)])
    with pytest.raises(ValueError, match=r"differ in optim.learning_rate: 0.1, not 0.03; give seeds of one config"):
        reference.make([run(0), run(1, rate=0.1)])
    with pytest.raises(ValueError, match=r"seeds \[1, 1\], of which one is there twice"):
        reference.make([run(1), run(1)])
    with pytest.raises(ValueError, match="is not finished"):
        reference.make([run(0), run(1, finished=False)])
    with pytest.raises(ValueError, match="neither a file nor the name of a reference"):
        reference.read("nothing")
    (tmp_path / "other.json").write_text('{"steps": [1]}')
    with pytest.raises(ValueError, match="holds no reference curves"):
        reference.read(str(tmp_path / "other.json"))


def test_references_of_ours_are_of_configs_as_they_are():
    """A config that was changed needs a new reference."""
    from ssl_jax import configs
    from ssl_jax.run import provenance

    for path in sorted(reference.FOLDER.glob("*.json")):
        found = reference.read(path.stem)
        assert provenance.config_hash(configs.load(path.stem)) == found["config_hash"], path.stem
        assert len(found["seeds"]) >= 3
        assert all(len(commit) == 40 for commit in found["commits"]), path.stem  # of no changed files


@pytest.mark.slow
def test_a_run_against_its_reference(tmp_path, capsys):
    """The commands: seeds 0 to 2 make the reference, 3 is on track, ten times the rate is not and says in what."""
    for seed in range(3):
        runs.fit(tmp_path / f"{seed}", "simclr", seed=seed)
    words = ["--runs", *(str(tmp_path / f"{seed}") for seed in range(3)), "--out", str(tmp_path / "table")]
    assert compare_runs.main([*words, "--reference", str(tmp_path / "ref.json")]) == 0
    runs.fit(tmp_path / "3", "simclr", seed=3)
    capsys.readouterr()
    assert pretrain.main(["--workdir", str(tmp_path / "3"), "--compare", str(tmp_path / "ref.json")]) == 0
    said = capsys.readouterr().out
    assert "train_loss: on track at step 20" in said
    assert "differs" not in said
    assert (tmp_path / "3" / "figures" / "compare.png").stat().st_size > 10_000
    faulty = copy.deepcopy(json.loads((tmp_path / "ref.json").read_text()))
    curve = faulty["curves"]["train_loss"]
    curve["mean"] = [value if value is None else value - 3 for value in curve["mean"]]
    (tmp_path / "low.json").write_text(json.dumps(faulty))
    assert pretrain.main(["--workdir", str(tmp_path / "3"), "--compare", str(tmp_path / "low.json")]) == 0
    assert "train_loss: off track at step 20, above the band since step" in capsys.readouterr().out
