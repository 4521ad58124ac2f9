"""A run that is trained longer, or begins with everything that another one holds."""

from __future__ import annotations

import json
import math

import jax
import pytest
import runs

from experiments import pretrain
from ssl_jax import configs, parallel, train
from ssl_jax.experiment import build, zeros
from ssl_jax.run.open import load_given, open_run
from ssl_jax.run.writer import read_metrics
from ssl_jax.step import init_state

SMALL = {"data__recipe": "none", "method": "supervised", "train__eval_every": 0, "optim__warmup_epochs": 0.0}


def fit(workdir, steps, extend=False, given=(), **overrides):
    config = configs.change(runs.config(**SMALL | {"train__steps": steps} | overrides), given)
    return train.fit(build(config), workdir, test=False, extend=extend)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with runs.no_pictures():
        yield


@pytest.mark.slow
def test_where_nothing_follows_the_length_a_longer_run_is_the_same_from_its_beginning(tmp_path):
    constant = {"optim__schedule": "constant"}
    short = fit(tmp_path / "run", 6, **constant)
    longer = fit(tmp_path / "run", 10, extend=True, **constant)
    assert longer["steps"] == 10
    assert longer["params_fingerprint"] == fit(tmp_path / "whole", 10, **constant)["params_fingerprint"]
    assert json.loads((tmp_path / "run" / "summary_6.json").read_text()) == short
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 4, 6, 8, 10]
    assert fit(tmp_path / "run", 10, extend=True, **constant) == longer  # the same command again
    assert fit(tmp_path / "run", 10, **constant) == longer


@pytest.mark.slow
def test_the_schedule_goes_on_as_the_new_length_has_it_and_that_is_said(tmp_path, capsys, monkeypatch):
    fit(tmp_path, 6)
    capsys.readouterr()
    with monkeypatch.context() as killed:  # and the same command goes on
        killed.setattr(train, "open_writer", runs.ending_after(8, interrupted))
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, 12, extend=True)
    said = "".join(capsys.readouterr())
    assert "extended from 6 to 12 steps (2.4 epochs) after step 6: the learning rate was 0 there and goes on at" in said
    assert fit(tmp_path, 12, extend=True)["steps"] == 12
    rates = {line["step"]: line["learning_rate"] for line in read_metrics(tmp_path / "metrics.jsonl")}
    peak = 0.2 * 32 / 256
    assert rates[8] == pytest.approx(peak * (1 + math.cos(math.pi * 7 / 12)) / 2, rel=1e-5)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["config"]["train"]["steps"] == found["resolved"]["plan"]["total_steps"] == 12
    assert found["resumed"][0]["changed"] == {"train.steps": [6, 12]}
    with pytest.raises(train.Refused, match="has 12 steps and cannot be cut to 9"):
        fit(tmp_path, 9, extend=True)
    with pytest.raises(train.Refused, match=r"another config: train.steps .*--extend"):
        fit(tmp_path, 20)


def interrupted(*_):
    raise KeyboardInterrupt


def test_there_must_be_a_run(tmp_path, capsys):
    with pytest.raises(train.Refused, match="holds no run that could be extended"):
        fit(tmp_path / "none", 9, extend=True)
    assert not (tmp_path / "none").exists()
    assert pretrain.main(["--config", "simclr_digits", "--workdir", str(tmp_path / "no"), "--extend", "0"]) == 2


@pytest.mark.slow
def test_everything_of_another_run_is_where_one_begins(tmp_path):
    """Heads, statistics and target are those of the other run, which its encoder alone does not bring."""
    byol = {"method": "byol", "data__recipe": "runs:VIEWS"}
    first, other = tmp_path / "first", tmp_path / "other"
    fit(first, 4, **byol)
    theirs, mesh = open_run(first).variables, parallel.make_mesh(1)
    assert theirs.aux is not None
    for part, same in (("all", True), ("encoder", False)):
        config = configs.change(runs.config(**SMALL | byol, seed=7), [f"init_from.{part}={first}"])
        begun = build(config)
        given, _ = load_given(configs.starts(config), begun.method, begun.modality, config, begun.plan)
        batch = parallel.place(zeros(begun, 1), mesh)
        state = init_state(begun.method, begun.tx, jax.random.key(7), batch, mesh, given=given)
        parts = ((theirs.params, theirs.model_state, theirs.aux), (state.params, state.model_state, state.aux))
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *parts)) is same
    for words, changes, given in [
        (r"a run of 'byol', not 'simclr'; use init_from=", {"method": "simclr"}, []),
        (r"holds another architecture: .*projector.* use its model, data", {"method__projector_dim": 8}, []),
        (r"leave init_from\.encoder out", {}, [f"init_from.encoder={first}"]),
    ]:
        with pytest.raises(ValueError, match=words):
            fit(other, 4, given=[f"init_from.all={first}", *given], **byol | changes)
    assert not other.exists()
