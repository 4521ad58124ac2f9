"""Checks of minutes: whole commands in two processes, and float32 on a residual network (``make test-all``)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

from ssl_jax import methods, models
from ssl_jax.parallel import make_mesh, place
from ssl_jax.step import compile_step, init_state
from ssl_jax.types import Plan

pytestmark = pytest.mark.slow


def start(script, *arguments, **environment):
    command = [sys.executable, str(runs.ROOT / "experiments" / script), *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def pretrain(workdir, *arguments, **environment):
    small = ["--config.train.steps=12", "--config.train.log_every=2", "--config.train.eval_every=6"]
    small += ["--config.model.widths=(8,16)", "--config.data.image_size=8", "--config.train.checkpoint_every=6"]
    return start("pretrain.py", "--workdir", workdir, *small, *arguments, **environment)


def cluster_of_two():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{probe.getsockname()[1]}",
            "JAX_NUM_PROCESSES": "2",
        }


def test_one_command_in_two_processes_is_the_run_of_one(tmp_path):
    cluster = cluster_of_two()
    two = [pretrain(tmp_path / "two", "--config.parallel.devices=4", JAX_PROCESS_ID=str(i), **cluster) for i in (0, 1)]
    outputs = [process.communicate(timeout=600) for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    one = pretrain(tmp_path / "one", "--config.parallel.devices=4")
    assert one.communicate(timeout=600) is not None
    assert one.returncode == 0

    found = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert [line["step"] for line in found[0]] == [line["step"] for line in found[1]] == [2, 4, 6, 8, 10, 12]
    for a, b in zip(*found, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
    assert "test_knn_top1" in outputs[0][0]
    assert "test_knn_top1" not in outputs[1][0]  # process 0 alone reports

    # and the evaluation of it
    evals = "--evals=knn,linear_probe,geometry,finetune,transfer"
    options = ["--workdir", tmp_path / "one", evals, "--eval.finetune.epochs=1", "--eval.transfer.sources=digits"]
    options += ["--eval.geometry.views=2", "--eval.geometry.max_examples=64", "--outdir"]
    cluster = cluster_of_two()
    two = [start("evaluate.py", *options, tmp_path / "by_two", JAX_PROCESS_ID=str(i), **cluster) for i in (0, 1)]
    outputs = [process.communicate(timeout=600) for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    alone = start("evaluate.py", *options, tmp_path / "by_one")
    assert alone.communicate(timeout=600) is not None
    metrics = [
        json.loads((tmp_path / place / "evaluation.json").read_text())["metrics"] for place in ("by_one", "by_two")
    ]
    assert len(metrics[0]) > 10
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-2, abs=0.006)
    assert "report.html" in outputs[0][0]
    assert "top1" not in outputs[1][0]


def larger(batch):
    """The same views at 32 pixels."""
    return {**batch, "views": tuple(v.repeat(4, 1).repeat(4, 2) for v in batch["views"])}


@pytest.mark.parametrize("name", ["simclr", "byol", "moco"])
def test_float32_on_a_small_resnet_stays_close_over_devices(name, capsys):
    """Float32 equality is not to be had: a ReLU flips. The figure is printed and bounded, not promised.

    At a rate of 0.05, where SimCLR's first step has a gradient of norm 75, five steps carry rounding up to 0.2.
    """
    plan = Plan(20, 4, 256, (32, 32, 3), 64, contract.CLASSES)
    encoder = models.make("resnet18", stem="cifar", width=0.125)
    method = methods.get(name)(encoder, plan=plan, mean=(0.5,), std=(0.25,), **contract.CASES[name])
    tx, final = optax.sgd(0.001), {}
    for devices in (1, 8):
        mesh = make_mesh(devices)
        batches = [larger(contract.batch_of(t)) for t in range(5)]
        state = init_state(method, tx, jax.random.key(0), place(batches[0], mesh), mesh)
        step = compile_step(method, tx, mesh)
        for batch in batches:
            state, _ = step(state, step.place(batch))
        final[devices] = jax.device_get((state.params, state.model_state, state.aux))

    def worst(a, b):
        return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(a)), initial=0)) if jnp.size(a) else 0.0

    differences = jax.tree.map(worst, final[1], final[8])
    figure = max(jax.tree.leaves(differences))
    with capsys.disabled():
        print(f"\nfloat32, {name}, ResNet-18 of width 1/8, 5 steps, rate 0.001, 1 against 8 devices: {figure:.1e}")
    assert figure < 0.01
