"""Averaged SGD against NumPy: when it begins, what is averaged, and that a run goes on with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

from ssl_jax.experiment import build
from ssl_jax.online import average
from ssl_jax.parallel import make_mesh
from ssl_jax.run import checkpoint
from ssl_jax.run.open import open_run
from ssl_jax.step import compile_step, init_state
from ssl_jax.train import fit
from ssl_jax.types import Variables


def test_when_it_begins():
    """As the paper's algorithm 1 goes through its checks."""
    losses, patience, logs, began = [5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 3.05, 3.04], 3, [], None
    for t, value in enumerate(losses):
        if began is None and t > patience and value > min(logs[i] for i in range(t - patience)):
            began = t
        logs.append(value)
    assert began == 6
    assert [average.due(losses[: t + 1], patience) for t in range(8)] == [False] * 6 + [True, True]
    assert not average.due([1.0, 2.0, 3.0], 5)


@pytest.mark.slow
def test_the_mean_is_of_the_parameters_since_then_and_training_does_not_feel_it():
    plain, _ = contract.make("supervised")
    method, tx, mesh = average.averaged(plain), optax.sgd(0.05), make_mesh(1)
    found = {}
    for name, made in (("plain", plain), ("averaged", method)):
        state = init_state(made, tx, jax.random.key(0), contract.batch_of(0), mesh)
        step, seen = compile_step(made, tx, mesh), []
        for t in range(6):
            if name == "averaged" and t == 2:
                state = average.begin(state, t)
                assert not average.waits(state)
            state, _ = step(state, step.place(contract.batch_of(t)))
            seen.append(jax.tree.map(np.asarray, (state.params, state.aux["average"] if name == "averaged" else None)))
        found[name] = seen
    for (params, _), (same, mean), t in zip(found["plain"], found["averaged"], range(6), strict=True):
        jax.tree.map(np.testing.assert_array_equal, params, same)
        since = [p for p, _ in found["plain"][2 : t + 1]] if t >= 2 else [params]
        want = jax.tree.map(lambda *leaves: np.mean(np.array(leaves, np.float64), 0), *since)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mean, want)


@pytest.mark.slow
def test_a_run_averages_goes_on_and_is_opened(tmp_path):
    def config():
        return runs.config("supervised", train__steps=24, train__eval_every=2, optim__average_after=1)

    summary = fit(build(config()), tmp_path / "run")
    tree, record = checkpoint.restore_variables(tmp_path / "run")
    since = int(tree["aux"]["since"])
    assert 4 <= since < 24
    assert since == 2 * len(record["metadata"]["checks"])
    run = open_run(tmp_path / "run")
    mean, own = (params["encoder"]["stem_conv"]["kernel"] for params in (tree["aux"]["average"], tree["params"]))
    np.testing.assert_array_equal(run.method.trunk(run.variables)[0]["stem_conv"]["kernel"], mean)
    assert np.abs(mean - own).max() > 0
    (tmp_path / "run" / "summary.json").unlink()
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > 20:
            shutil.rmtree(folder)
    assert fit(build(config()), tmp_path / "run")["params_fingerprint"] == summary["params_fingerprint"]


def test_without_checks_it_is_refused():
    with pytest.raises(ValueError, match=r"average_after=5 counts checks on validation and train.eval_every is 0"):
        build(runs.config("supervised", train__eval_every=0, optim__average_after=5))


def test_the_mean_is_torchs():
    """``torch.optim.ASGD(t0=0, lambd=0)``, whose mean leaves the first of its updates out."""
    with np.load(Path(__file__).parent / "oracles" / "asgd.npz") as found:
        oracle = dict(found)
    method = average.averaged(contract.make("supervised")[0])
    begin = int(oracle["begin"]) + 1
    with contract.double():
        aux = {"own": None, "average": jnp.asarray(oracle["params0"]), "since": jnp.int32(-1)}
        for t, params in enumerate(oracle["params"]):
            aux["since"] = jnp.int32(-1 if t < begin else begin)
            aux = method.update_aux(Variables(jnp.asarray(params), {}, aux), None, jnp.int32(t))
            want = oracle["averages"][t] if t >= begin else params
            np.testing.assert_allclose(aux["average"], want, rtol=1e-7, atol=1e-8)
