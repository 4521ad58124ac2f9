"""A run made before files moved into rooms still opens, goes on and is evaluated.

``tests/old_run``: SimCLR on digits as ``runs.config("simclr", train__steps=12, train__eval_every=6,
train__checkpoint_every=6, train__keep_checkpoints=1, method__projector_dim=8)`` with ``model.widths=(4, 8)`` and
``data.augment=device``, interrupted after step 6, by commit 26846fc. ``features.npy`` is what that commit's ``load``
made of the images below.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import runs

import ssl_jax
from experiments import evaluate as command
from ssl_jax import train
from ssl_jax.experiment import build
from ssl_jax.run import processes
from ssl_jax.run.writer import read_metrics

OLD = Path(__file__).with_name("old_run")
LOSS = 5.278  # of step 12, where that commit went on


def test_it_opens():
    variables, encode, config = ssl_jax.load(OLD)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    np.testing.assert_allclose(
        encode(variables, images)["features"], np.load(OLD / "features.npy"), rtol=1e-3, atol=1e-4
    )
    assert config.method.name == "simclr"


def test_it_goes_on_and_is_evaluated(tmp_path, monkeypatch, capsys):
    """Six steps more end near where the code of then ended: in float32 not in the same bits on every CPU."""
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    config = runs.config("simclr", train__steps=12, train__eval_every=6, train__checkpoint_every=6)
    config.train.keep_checkpoints = 1
    config.method.projector_dim = 8
    config.data.update({"augment": "device", "recipe": "digits"})
    with config.unlocked():
        config.model.widths = (4, 8)
    with runs.no_pictures():
        summary = train.fit(build(config), folder)
    assert summary["steps"] == 12
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "train_loss" in line] == [2, 4, 6, 8, 10, 12]
    assert lines[-1]["train_loss"] == pytest.approx(LOSS, rel=0.05)
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    with runs.no_pictures():
        assert command.main(["--workdir", str(folder), "--evals", "knn"]) == 0, capsys.readouterr().err
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert found["metrics"]["test_knn_top1"] == pytest.approx(summary["test_knn_top1"], abs=1e-6)
