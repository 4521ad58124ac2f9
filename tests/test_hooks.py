"""Hooks: when they are called and with what; one that raises ends a saved run."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
import runs

from experiments import pretrain
from ssl_jax import train
from ssl_jax.experiment import build
from ssl_jax.run import checkpoint
from ssl_jax.run.hooks import HookFailed, call_hooks, check_hooks, every
from ssl_jax.run.writer import read_metrics

STEPS = {"train__steps": 8, "train__log_every": 4, "train__eval_every": 8, "train__checkpoint_every": 8}


def fit(folder, *hooks, **overrides):
    with runs.no_pictures():
        return train.fit(build(runs.config(**STEPS | overrides)), folder, test=False, hooks=hooks)


@pytest.fixture(scope="module")
def hooked(tmp_path_factory):
    """A run with three hooks: (folder, summary, calls), a call (hook, step, metrics, parameters)."""
    folder, calls = tmp_path_factory.mktemp("hooked"), []

    def noting(name):
        def hook(step, metrics, state):
            assert int(state.step) == step
            calls.append((name, step, dict(metrics), jax.device_get(state.params)))
            metrics.clear()  # it is each one's own

        return hook

    summary = fit(folder, noting("lines"), every(3, noting("third")), every(1, noting("all")))
    return folder, summary, calls


def test_hooks_are_called_in_order_when_they_asked_to_be(hooked):
    _, _, calls = hooked
    want = [(step, name) for step in range(1, 9) for name in ("lines", "third", "all")]
    want = [(s, n) for s, n in want if n == "all" or s % {"lines": 4, "third": 3}[n] == 0]
    assert [(step, name) for name, step, _, _ in calls] == want


def test_metrics_are_those_of_the_line(hooked):
    folder, _, calls = hooked
    lines = {line["step"]: line for line in read_metrics(folder / "metrics.jsonl")}
    assert sorted(lines) == [4, 8]
    for name, step, metrics, _ in calls:
        assert math.isfinite(metrics["train_loss"])
        assert metrics["epoch"] == pytest.approx(step / 5)  # 160 examples, of which a tenth is held out: 5 of 32
        if step in lines:
            assert {"step": step, "line": step // 4, **metrics} == lines[step], name
    assert lines[8]["val_knn_top1"] is not None
    losses = [metrics["train_loss"] for name, _, metrics, _ in calls if name == "all"]
    assert len(set(losses)) == 8


def test_what_a_hook_keeps_of_the_state_stays_and_the_run_is_that_without_hooks(hooked, tmp_path):
    folder, summary, calls = hooked
    kept = {step: params for name, step, _, params in calls if name == "all"}
    tree, _ = checkpoint.restore_variables(folder, 8)
    jax.tree.map(np.testing.assert_array_equal, kept[8], tree["params"])
    first, last = (jax.tree.leaves(kept[step])[0] for step in (1, 8))
    assert not np.array_equal(first, last)
    plain = fit(tmp_path)
    same = ("params_fingerprint", "loss_spikes", "collapsed")
    assert {key: plain[key] for key in same} == {key: summary[key] for key in same}


def test_numbers_that_a_hook_returns_are_in_the_line_and_the_run_is_the_same(hooked, tmp_path):
    def norm(step, metrics, state):
        squares = [float((np.asarray(a, np.float64) ** 2).sum()) for a in jax.tree.leaves(state.params)]
        return {"norm": np.float32(sum(squares) ** 0.5), "seen": "train_loss" in metrics, "odd": jax.numpy.int32(step)}

    summary = fit(tmp_path, every(3, norm), lambda step, metrics, state: {"twice": 2.0 * step})
    assert summary["params_fingerprint"] == hooked[1]["params_fingerprint"]
    lines = {line.pop("step"): line for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert {step: line["line"] for step, line in lines.items()} == {3: 1, 4: 2, 6: 3, 8: 4}
    assert {step: line["twice"] for step, line in lines.items() if "twice" in line} == {4: 8.0, 8: 16.0}
    metrics = {step: found for name, step, found, _ in hooked[2] if name == "all"}
    params = {step: tree for name, step, _, tree in hooked[2] if name == "all"}
    for step in (3, 6):
        assert {"line", "norm", "seen", "odd", *metrics[step]} == set(lines[step])
        assert (lines[step]["train_loss"], lines[step]["odd"]) == (metrics[step]["train_loss"], step)
        assert lines[step]["seen"] is True
        whole = np.concatenate([np.ravel(a) for a in jax.tree.leaves(params[step])]).astype(np.float64)
        assert lines[step]["norm"] == pytest.approx(np.linalg.norm(whole), rel=1e-6)
    assert lines[4]["train_loss"] == metrics[4]["train_loss"]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ({"train_loss": 1.0}, "it returned train_loss, which is a name of the run's own numbers; call it otherwise"),
        ({"val_mine": 1.0}, "it returned val_mine, which"),
        ({"step": 1.0}, "it returned step, which"),
        ({"mine": "a"}, "it returned mine, a str and no number; return single numbers"),
        ({"mine": np.ones(2)}, "it returned mine, a ndarray and no number"),
        ({3: 1.0}, "it returned a number called 3; call it by a word"),
    ],
)
def test_what_a_hook_cannot_return_ends_the_run_as_an_error_of_its_own(returned, words):
    found, failed = call_hooks(
        check_hooks([lambda *_: {"first": 1}, lambda *_: returned, lambda *_: 1 / 0]), 4, {"train_loss": 2.0}, None
    )
    assert found == {"first": 1}
    assert words in str(failed)
    assert "failed after step 4" in str(failed)
    _, failed = call_hooks(check_hooks([lambda *_: {"a": 1}] * 2), 4, {}, None)
    assert "it returned a, which is a name" in str(failed)
    assert call_hooks(check_hooks([lambda *_: 3, print]), 4, {}, None) == ({}, None)  # no mapping


def test_one_hook_needs_no_list():
    assert check_hooks(print) == check_hooks([print])
    assert check_hooks(every(3, print)) == check_hooks((every(3, print),))


@pytest.mark.parametrize("at", [3, pytest.param(4, marks=pytest.mark.slow)])  # a step of its own; one with a line
def test_one_that_raises_is_named_and_the_run_is_saved_and_goes_on(at, hooked, tmp_path):
    seen, after = [], []

    def breaks(step, metrics, state):
        seen.append(step)
        if step == at:
            raise KeyError("lost")

    with pytest.raises(HookFailed) as error:
        fit(tmp_path, every(1, breaks), every(1, lambda step, metrics, state: after.append(step)))
    said = str(error.value)
    assert "\n" not in said
    assert "breaks failed after step" in said
    assert f"step {at} (KeyError: 'lost', test_hooks.py line " in said
    assert "the run is saved" in said
    assert isinstance(error.value.__cause__, KeyError)
    assert checkpoint.latest(tmp_path) == at
    assert after == list(range(1, at))
    summary = fit(tmp_path, every(1, lambda step, metrics, state: after.append(step)))
    assert after == [step for step in range(1, 9) if step != at]
    assert summary["params_fingerprint"] == hooked[1]["params_fingerprint"]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [4, 8]


def test_hooks_that_cannot_be_called_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(train.Refused, match=r"hook 'print' is no function; give f\(step, metrics, state\)"):
        fit(tmp_path / "run", "print")
    assert not (tmp_path / "run").exists()
    for steps in (0, True, 2.0):
        with pytest.raises(ValueError, match=rf"a hook every {steps} steps: use a whole number from 1 on"):
            every(steps, print)
    check_hooks([every(20, print), print], 10)
    with pytest.raises(ValueError, match="hook print every 5 steps falls between the 10 of one program"):
        check_hooks([every(5, print)], 10)


def test_the_command_ends_as_with_other_errors(tmp_path, monkeypatch, capfd):
    def fails(*_, **__):
        raise HookFailed("hook f failed")

    monkeypatch.setattr(train, "fit", fails)
    monkeypatch.setattr(pretrain.processes, "configure_as", lambda settings: None)
    assert pretrain.main([f"--workdir={tmp_path / 'run'}"]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "the run failed: hook f failed"
