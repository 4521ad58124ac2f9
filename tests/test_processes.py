"""What is set before the first device is used: flags of XLA, the precision of products."""

from __future__ import annotations

import os

import jax
import pytest
import runs

from ssl_jax.run import processes, provenance


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    monkeypatch.setattr(processes, "without_tpu", lambda: None)
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize(
    ("given", "asked", "deterministic", "want"),
    [
        ("", "", False, ""),
        ("--xla_a=1", "--xla_b=2 --xla_c", True, "--xla_a=1 --xla_b=2 --xla_c --xla_gpu_deterministic_ops=true"),
        ("--xla_b=1", "--xla_b=2", False, "--xla_b=1"),  # the environment's word stands
        ("--xla_gpu_deterministic_ops=false", "", True, "--xla_gpu_deterministic_ops=false"),
        (
            "--xla_gpu_deterministic_ops_not=1",
            "",
            True,
            "--xla_gpu_deterministic_ops_not=1 --xla_gpu_deterministic_ops=true",
        ),
    ],
)
def test_flags_are_added_to_those_of_the_environment(monkeypatch, given, asked, deterministic, want):
    monkeypatch.setenv("XLA_FLAGS", given)
    processes.configure(None, deterministic=deterministic, xla_flags=asked)
    assert os.environ["XLA_FLAGS"] == want
    assert provenance.machine()["xla_flags"] == (want or None)


def test_a_config_says_flags_and_precision(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    config = runs.config(
        "simclr", parallel__xla_flags="--xla_gpu_autotune_level=0", parallel__matmul_precision="highest"
    )
    processes.configure_as(config.parallel)
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_autotune_level=0"
    assert jax.config.jax_default_matmul_precision == "highest" == provenance.machine()["matmul_precision"]
    with config.unlocked():
        for name in ("xla_flags", "matmul_precision", "heartbeat_timeout"):
            del config.parallel[name]
    processes.configure_as(config.parallel)  # as older configs are


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xla_flags": "--xla_a=1 b"}, "parallel.xla_flags: 'b' is none of XLA's flags"),
        (
            {"matmul_precision": "tf32"},
            "parallel.matmul_precision='tf32' is unknown; use default, bfloat16, tensorfloat32",
        ),
    ],
)
def test_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.configure(None, **arguments)
