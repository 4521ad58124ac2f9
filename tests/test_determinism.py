"""The same command in two processes of their own: the same bits, whatever the hashes of strings are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import runs

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
