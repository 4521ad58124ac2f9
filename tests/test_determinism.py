"""The same command in two processes of their own: the same bits, whatever the hashes of strings are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import runs

from ssl_jax.run import provenance

WORDS = ["--config", "simclr_digits", "--no-test", "--config.train.steps=6", "--config.train.log_every=1"]
WORDS += ["--config.train.eval_every=3", "--config.eval.label_efficiency=False", "--config.parallel.devices=1"]


@pytest.mark.slow
def test_the_same_command_in_another_process_gives_the_same_bits(tmp_path):
    found = []
    for name in ("1", "2"):
        command = [sys.executable, "experiments/pretrain.py", "--workdir", str(tmp_path / name), *WORDS]
        environment = {**os.environ, "PYTHONHASHSEED": name}
        done = subprocess.run(command, cwd=runs.ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        times = ("images_per_sec", "input_wait")
        found.append([{k: v for k, v in json.loads(line).items() if k not in times} for line in lines])
        found[-1].append(summary["params_fingerprint"])
    assert len(found[0]) == 7
    assert found[0] == found[1]


def test_two_generations_of_processors_that_are_called_alike_are_told_apart(monkeypatch):
    block = "processor\t: 0\ncpu family\t: {}\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    found = []
    for family in (25, 26):
        text = f"{block.format(family)}\n{block.format(7)}"
        monkeypatch.setattr(provenance.Path, "read_text", lambda self, text=text: text)
        found.append(provenance._cpu_model())
    assert found == [f"AMD EPYC (family {family}, model 2, stepping 1)" for family in (25, 26)]
    monkeypatch.setattr(provenance.Path, "read_text", lambda self: "Hardware\t: BCM2835\n")
    assert provenance._cpu_model() == (provenance.platform.processor() or provenance.platform.machine())
