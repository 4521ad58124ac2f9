"""Faults that a run must survive or name: numbers that are not finite, kills, broken files, broken configs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from PIL import Image

from ssl_jax import parallel, step, train
from ssl_jax.data import order
from ssl_jax.experiment import build
from ssl_jax.online import spikes
from ssl_jax.run import checkpoint, nonfinite, signals
from ssl_jax.run.writer import read_metrics

sys.path.insert(0, str(runs.ROOT / "experiments"))
import faults_images
import torture

pytestmark = pytest.mark.usefixtures("standard_promotion")
DEVICE = {"data__augment": "device", "train__eval_every": 0, "train__checkpoint_every": 5}


@pytest.fixture(scope="module")
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), runs.no_pictures():
        yield


def poisoned(experiment, step, row):
    """The same run, but row ``row`` of the projections of batch ``step`` (from 0) is divided by zero."""
    method = experiment.method

    def loss(variables, batch, key, now, axis):
        value, out = method.loss(variables, batch, key, now, axis)
        z = out.outputs["projections"]
        zero = jnp.where((now == step) & (jnp.arange(len(z)) == row), 0.0, 1.0)
        with jax.named_scope("poison"):
            return value + 0.0 * (z / zero[:, None]).sum(), out

    return experiment._replace(method=method._replace(loss=loss))


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_explained_and_kept_and_skipped_when_asked(tmp_path, capfd):
    experiment = poisoned(build(runs.config("simclr", **DEVICE)), 6, 3)
    with pytest.raises(train.NotFinite, match=r"step 7 was not finite: the first bad tensor is \S*poison\S*: div"):
        train.fit(experiment, tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 7
    assert_explained(experiment, tmp_path / "nonfinite" / "step_7", same_parameters=True)

    # as the message advises: the same run goes on without that step
    experiment = poisoned(build(runs.config("simclr", train__on_nonfinite="skip", **DEVICE)), 6, 3)
    summary = train.fit(experiment, tmp_path)
    assert (summary["nonfinite"], summary["skipped"], summary["steps"]) == (7, 1, 20)
    said = "".join(capfd.readouterr())
    assert "step 7 was not finite and was skipped" in said
    assert "WARNING: 1 of 20 steps were not finite and were skipped" in said
    assert_explained(experiment, tmp_path / "nonfinite" / "step_7", same_parameters=False)


def assert_explained(experiment, folder, same_parameters):
    report = json.loads((folder / "report.json").read_text())
    drawn = order.indices(len(experiment.splits.train), 32, 0, 6)
    assert report["examples"] == drawn.tolist()
    assert report["same_parameters"] is same_parameters
    assert report["origin"]["kind"] == "inf"
    assert {p[0] for p in report["origin"]["positions"]} == {3}
    assert f"of the examples {drawn[3]} of the dataset" in report["said"]
    with np.load(folder / "batch.npz") as batch:
        np.testing.assert_array_equal(batch["index"], drawn)
        assert batch["views/0"].shape == (32, 8, 8, 1)
    with np.load(folder / "variables.npz") as variables:
        assert any(name.startswith("params/encoder/") for name in variables.files)


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "conditionals"), [("cpu", 1), ("gpu", 0)])
def test_what_is_not_finite_leaves_no_trace_on_any_platform(platform, conditionals):
    old = {"w": jnp.arange(3.0), "n": jnp.int32(7), "none": None}
    new = {"w": old["w"].at[1].set(jnp.nan), "n": jnp.int32(8), "none": None}

    def either(ok):
        return step._either(ok, lambda: new, lambda: old)

    with parallel.compiling_for(platform):
        for ok, want in ((True, new), (False, old)):
            got = jax.jit(either)(ok)
            np.testing.assert_array_equal(got["w"], want["w"])
            assert got["n"] == want["n"]
        assert str(jax.make_jaxpr(either)(True)).count("cond[") == conditionals


@pytest.mark.slow
def test_a_bad_parameter_and_an_overflow_are_named():
    experiment = build(runs.config("simclr", **DEVICE))
    from ssl_jax.parallel import make_mesh
    from ssl_jax.step import init_state
    from ssl_jax.train import zeros

    state = init_state(experiment.method, experiment.tx, jax.random.key(0), zeros(experiment), make_mesh(1))
    batch = nonfinite.regenerate(experiment, state)
    assert nonfinite.find(experiment, state, batch) is None

    named = jax.tree_util.tree_flatten_with_path(state.params)[0]
    path, leaf = next((p, x) for p, x in named if x.ndim == 4)
    broken = jax.tree_util.tree_map_with_path(
        lambda p, x: x.at[1, 2, 0, 0].set(jnp.nan) if p == path else x, state.params
    )
    origin = nonfinite.find(experiment, state.replace(params=broken), batch)
    assert origin.path == f"params/{jax.tree_util.keystr(path, simple=True, separator='/')}"
    assert (origin.positions, origin.shape, origin.kind) == ([[1, 2, 0, 0]], leaf.shape, "nan")

    def gradient_only(variables, batch, key, step, axis):
        value, out = experiment.method.loss(variables, batch, key, step, axis)
        return value + jnp.sqrt(0.0 * value), out  # finite, but its derivative is not

    by_gradient = experiment._replace(method=experiment.method._replace(loss=gradient_only))
    assert nonfinite.find(by_gradient, state, batch).path.split(": ")[-1] in ("div", "pow", "integer_pow", "rsqrt")


@pytest.mark.slow
def test_examples_that_break_in_the_run_are_counted_over_its_parts_or_stop_it(tmp_path, monkeypatch):
    for i in range(60):
        where = tmp_path / "x" / "ab"[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faults_images.smooth(np.random.default_rng(i))).save(where / f"{i}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = {"data__source": f"folder:{tmp_path}/x", "data__num_examples": None, "data__global_batch_size": 8}
    small |= {"train__eval_every": 0, "train__steps": 10, "train__log_every": 5, "data__augment": "device"}
    strict = build(runs.config("simclr", **small))
    lenient = build(runs.config("simclr", data__max_unreadable=0.1, **small))
    files = strict.splits.train.columns["path"]
    drawn = [order.indices(len(files), 8, 0, step).tolist() for step in range(10)]
    early = next(iter({i for b in drawn[:5] for i in b} - {i for b in drawn[5:] for i in b}))  # known to one part alone
    Path(files[early]).unlink()
    with pytest.raises(ValueError, match=f"^1 of {len(files)} train examples cannot be read any more .*max_unread"):
        train.fit(strict, tmp_path / "strict")

    agreed = signals.agreed
    monkeypatch.setattr(signals, "agreed", lambda signum, number: 15 if number == 5 else agreed(signum, number))
    with pytest.raises(signals.Interrupted):
        train.fit(lenient, tmp_path / "run")
    monkeypatch.setattr(signals, "agreed", agreed)
    late = next(i for i in drawn[7] if i != early)
    Path(files[late]).unlink()
    assert train.fit(lenient, tmp_path / "run")["replaced"] == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["replaced"] == 2


def test_a_jump_of_the_loss_is_told_and_noise_is_not():
    losses = list(2.0 + 0.1 * np.random.default_rng(0).standard_normal(40))
    told = [spikes.spike(losses[:i], losses[i], step=i, warmup_steps=0) for i in range(len(losses))]
    assert told == [None] * 40
    assert "the loss jumped to 4" in spikes.spike(losses, 4.0, step=50, warmup_steps=0)
    assert spikes.spike(losses, 4.0, step=50, warmup_steps=60) is None
    assert spikes.spike(losses[:7], 40.0, step=50, warmup_steps=0) is None
    assert spikes.spike(losses, 0.0, step=50, warmup_steps=0) is None  # downwards is no alarm
    assert "jumped" in spikes.spike([-0.9] * 10, 0.1, step=50, warmup_steps=0)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        pytest.param("kills", 1, marks=pytest.mark.slow),
        pytest.param("checkpoints", 12, marks=pytest.mark.slow),
        ("images", 60),
        pytest.param("configs", 20, marks=pytest.mark.slow),
    ],
)
def test_torture_in_short_loses_nothing(kind, count, tmp_path, monkeypatch):
    """The kill is a SIGKILL of the command."""
    if kind == "checkpoints":  # which are a run's of this process

        def start(method, workdir):
            return SimpleNamespace(wait=lambda: runs.fit(workdir, method, **DEVICE)["steps"] != 20)

        monkeypatch.setattr(torture, "start", start)
    found = torture.KINDS[kind](count, tmp_path, 7)
    assert (found["tried"], found["survived"], found["lost"]) == (count, count, 0), found["examples"]


def test_the_judge_of_images_compares_the_pixels_of_damaged_files_too(tmp_path, monkeypatch):
    black, white = np.zeros((8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32)
    for refusable in (False, True):
        assert faults_images.verdict(black, black, False, refusable) is None
        assert faults_images.verdict(None, None, True, refusable) is None
        assert "from Pillow's pixels" in faults_images.verdict(black, white, False, refusable)
        assert "neither read nor named" in faults_images.verdict(black, None, False, refusable)
        assert "Pillow cannot decode it" in faults_images.verdict(None, black, False, refusable)
        assert bool(faults_images.verdict(black, None, True, refusable)) is not refusable

    by_pillow = faults_images.by_pillow
    monkeypatch.setattr(faults_images, "kind_of", lambda i: ("flipped bytes", faults_images.flipped))
    monkeypatch.setattr(faults_images, "by_pillow", lambda path: None if by_pillow(path) is None else black + 0.5)
    monkeypatch.setattr(faults_images, "SIDE", 8)
    found = faults_images.tried(20, tmp_path, seed=0)
    assert 0 < found["unreadable"] < 20
    assert found["lost"] == 20 - found["unreadable"]


EIGHT = {"train__eval_every": 0, "train__checkpoint_every": 10, "data__augment": "device"}
EIGHT |= {"optim__learning_rate": 0.02}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A run on eight devices, and what it was after its step 10."""
    place = tmp_path_factory.mktemp("eight")
    runs.fit(place / "whole", "simclr", parallel__devices=8, **EIGHT)
    original = signals.agreed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "agreed", lambda signum, number: 15 if number == 10 else original(signum, number))
        with pytest.raises(signals.Interrupted):
            runs.fit(place / "half", "simclr", parallel__devices=8, **EIGHT)
    assert checkpoint.latest(place / "half") == 10
    return place


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_checkpoint_of_eight_devices_goes_on_with_fewer(devices, eight, tmp_path):
    """The loss curve of 1, 2 and 4 devices is that of 8, within what float32 allows in ten steps."""
    want = {line["step"]: line["train_loss"] for line in read_metrics(eight / "whole" / "metrics.jsonl")}
    fewer = shutil.copytree(eight / "half", tmp_path / "fewer")
    runs.fit(fewer, "simclr", parallel__devices=devices, **EIGHT)
    found = {line["step"]: line["train_loss"] for line in read_metrics(fewer / "metrics.jsonl")}
    assert found.keys() == want.keys()
    assert found == pytest.approx(want, rel=2e-3)


def test_torture_knows_a_lost_run_from_a_survivor(tmp_path):
    """The judge of the kills, on logs and summaries made by hand."""

    def left(name, fingerprint, steps):
        place = tmp_path / name
        place.mkdir()
        (place / "summary.json").write_text(json.dumps({"params_fingerprint": fingerprint}))
        lines = [{"step": step, "train_loss": 1.0, "images_per_sec": float(len(name))} for step in steps]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return place

    whole = left("whole", "a", [5, 10, 15])
    assert torture.difference(whole, left("same", "a", [5, 10, 15])) is None
    assert torture.difference(whole, left("other", "b", [5, 10, 15])) == "the final state has other bits"
    assert torture.difference(whole, left("missing", "a", [5, 15])) == "metrics.jsonl has other lines"
    assert torture.difference(whole, left("doubled", "a", [5, 10, 10, 15])) == "metrics.jsonl has other lines"


def test_damage_changes_a_file_by_a_bit_or_cuts_it(tmp_path):
    file, rng = tmp_path / "file", np.random.default_rng(0)
    file.write_bytes(bytes(range(100)))
    torture.damage(file, rng, cut=False)
    changed = np.frombuffer(file.read_bytes(), np.uint8) ^ np.arange(100, dtype=np.uint8)
    assert np.unpackbits(changed).sum() == 1
    torture.damage(file, rng, cut=True)
    assert len(file.read_bytes()) < 100


def test_rows_are_named_unless_all_are_bad():
    """Where every row is bad it is not the data, and no example is to blame."""
    values = np.ones((4, 3, 2), np.float32)
    values[2] = np.nan
    one = nonfinite._origin("x", values, ())
    assert (one.rows, one.count) == ([2], 6)
    assert "of the examples 12 of the dataset" in nonfinite._said(one, [10, 11, 12, 13])
    every = nonfinite._origin("x", np.full((4, 3, 2), np.nan, np.float32), ())
    assert (every.rows, every.count) == ([], 24)
    assert "examples" not in nonfinite._said(every, [10, 11, 12, 13])
