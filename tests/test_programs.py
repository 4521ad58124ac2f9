"""Compiled programs between runs: kept where nobody said otherwise, the same bits, no more than there is room for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import pytest
import runs

from ssl_jax.run import programs


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate("abc"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    programs.prune(tmp_path, 25)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_jax_was_told_itself_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    assert before  # of the tests
    programs.keep()
    assert jax.config.jax_compilation_cache_dir == before  # pyright: ignore[reportAttributeAccessIssue]
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_second_try_has_the_same_bits(tmp_path):
    def run(name, **environment):
        words = ["--config", "simclr_digits", "--workdir", str(tmp_path / name), "--no-test"]
        words += ["--config.train.steps=4", "--config.train.eval_every=0"]
        command = [sys.executable, str(runs.ROOT / "experiments" / "pretrain.py"), *words]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
        environment = inherited | {"XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / name / "summary.json").read_text())["params_fingerprint"]

    none = run("none", JAX_ENABLE_COMPILATION_CACHE="false")
    place = tmp_path / "cache" / "ssl_jax" / "programs"
    assert not place.exists()
    first = run("first")
    (kind,) = place.iterdir()
    kept = {name for name in os.listdir(kind) if name.endswith("-cache")}
    assert kept
    assert run("second") == first == none
    # What took longer to compile than the first time, on a busy machine, may be kept now: nothing is kept twice.
    now = [name.rsplit("-", 2)[0] for name in os.listdir(kind) if name.endswith("-cache")]
    assert kept <= set(os.listdir(kind))
    assert {name: now.count(name) for name in now if now.count(name) > 1} == {}
