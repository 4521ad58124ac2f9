"""Plans of a small run, for simulated devices, and for a TPU slice where libtpu is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import pytest
import runs

from ssl_jax import configs, parallel
from ssl_jax.plan import cost, devices, kernels, program

sys.path.insert(0, str(runs.ROOT / "experiments"))
import plan

CONFIG = str(runs.ROOT / "configs" / "simclr_digits.py")
SMALL = ["model.widths=(8,16)", "method.projector_dim=16", "data.image_size=8", "data.global_batch_size=64"]
WORDS = [f"--config.{word}" for word in SMALL]


def planned(topology, tmp_path, *words):
    file = tmp_path / "plan.json"
    arguments = ["--config", CONFIG, "--topology", topology, "--json", str(file), *WORDS, *words]
    assert plan.main(arguments) == 0
    return json.loads(file.read_text())


@pytest.mark.slow
def test_a_plan_for_simulated_devices(tmp_path, capsys):
    found = planned("cpu:8", tmp_path)
    compiled = program.compile_ahead(configs.load(CONFIG, SMALL), parallel.make_mesh(8))
    spent = cost.of(compiled)
    assert found["fits"] is True
    assert found["bytes_per_device"] == spent.memory
    assert found["flops_per_step"] == 8 * spent.flops
    assert found["bytes_sent_per_device"] == cost.sent(spent.results, 8)
    assert found["largest_global_batch"] >= 64
    assert found["largest_global_batch"] % 8 == 0
    assert found["images_per_sec_bound"] is found["roofline_seconds"] is None  # of a CPU
    said = capsys.readouterr().out
    assert "fits               yes" in said
    assert re.search(r"^    by kind +number +GB +GFLOP$", said, re.M)
    assert re.search(r"^    by line of the source, the longest +number +GB +GFLOP$", said, re.M)


@pytest.mark.slow
def test_what_does_not_fit_and_what_would(tmp_path, monkeypatch, capsys):
    """With less memory than half of the batch needs, and with memory for half as much again."""
    config, known, compile_and_measure = configs.load(CONFIG, SMALL), {}, plan.measured

    def measured(config, mesh, batch):  # each size once
        if batch not in known:
            known[batch] = compile_and_measure(config, mesh, batch)
        return known[batch]

    monkeypatch.setattr(plan, "measured", measured)
    needs = {n: plan.measured(config, parallel.make_mesh(8), n)["memory"] for n in (32, 64, 96)}
    assert needs[32] < needs[64] < needs[96]

    def with_memory(size):
        monkeypatch.setattr(plan.os, "sysconf", lambda name: size * 8 if name == "SC_PAGE_SIZE" else 1)
        return planned("cpu:8", tmp_path)

    little = with_memory(needs[32] - 1)
    assert little["fits"] is False
    assert little["largest_global_batch"] < 32
    assert "NO" in capsys.readouterr().out
    much = with_memory(needs[96])
    assert much["fits"] is True
    assert 64 <= much["largest_global_batch"] <= 104


def test_the_bound_is_the_longest_of_three():
    chip = devices.Chip(memory=1, flops=100.0, bandwidth=10.0, network=1.0)
    spent = cost.Cost(1000.0, 200.0, 0, 0, 0, 0, {"collective-permute": 15})
    found = plan.roofline(spent, 1.0, 4, chip, 32)
    assert found["seconds"] == {"computing": 10.0, "memory": 20.0, "exchange": 15.0}
    assert (found["bound_by"], found["bound_seconds"], found["images_per_sec_bound"]) == ("memory", 20.0, 1.6)
    assert found["flops_per_step"] == 4000
    # What scripts rely on keeps its first name; each of the names that sound alike says what it is.
    assert (found["seconds_roofline"], found["images_per_sec_roofline"]) == (20.0, 1.6)
    assert found["meaning"].keys() == {name for name in found if "roofline" in name or "bound" in name} - {"bound_by"}


def test_the_bound_and_the_roofline_are_told_apart(capsys):
    chip = devices.Chip(memory=1, flops=100.0, bandwidth=10.0, network=1.0)
    launched = [kernels.Kernel("gemm", 2, 50, 400.0, line="ssl_jax/a.py:1"), kernels.Kernel("fusion", 1, 100, line="")]
    found = plan.roofline(cost.Cost(1000.0, 200.0, 0, 0, 0, 0, {}, launched), 1.0, 1, chip, 32)
    assert (found["bound_seconds"], found["roofline_seconds"]) == (20.0, 2 * 5.0 + 10.0)
    found = plan.roofline(cost.Cost(1000.0, 100.0, 0, 0, 0, 0, {}, launched), 1.0, 1, chip, 32)
    assert (found["bound_seconds"], found["roofline_seconds"]) == (10.0, 20.0)
    plan._show_kernels(found | {"unit": "images"}, 32)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "  roofline           20000.00 ms a step, kernels added up; 2 images/s"
    assert [line.split()[:2] for line in said[2:]] == [
        ["by", "kind"],
        *(["fusion", "1"], ["gemm", "2"], ["by", "line"]),
        *(["not", "known"], ["ssl_jax/a.py:1", "2"]),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "v5e"], "not of the form"),
        (["--topology", "cpu:0"], "not of the form"),
        (["--topology", "v5e:0x2"], "not of the form"),
        (["--topology", "v5e:2x2x2"], "a slice of v5e has 2 dimensions"),
        (["--topology", "v4:4x4"], "a slice of v4 has 3 dimensions"),
        (["--topology", "h100"], "h100 is not of the form h100:8; the GPUs of one machine, 1 to 8"),
        (["--topology", "a100:16"], "a100:16 is not of the form a100:8; the GPUs of one machine, 1 to 8"),
        (["--topology", "h1000:8"], "h1000:8 is not of the form v5e:16x16, v4:4x4x2, h100:8 (h100, a100,"),
        (["--topology", "cpu:8", "--config.data.global_batch_size=60"], "not divisible by 8 devices"),
        (["--topology", "cpu:8", "--config.data.source=npz:mine.npz"], "set --config.data.num_examples"),
        (["--topology", "cpu:8", "--config.data.num_examples=8"], "larger than the 8 examples"),
        (["--topology", "cpu:8", "--json", "nowhere/plan.json"], "its folder is not there"),
        (["--topology", "cpu:8", "--cofig.x=1"], "argument '--cofig.x=1' is unknown"),
        (["--topology", "cpu:8", "--config.method.name=simklr"], "simclr"),
    ],
)
def test_refused_in_one_line(words, message, capsys):
    assert plan.main(["--config", CONFIG, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert message in said[0]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("times", [1, 2])
def test_a_plan_for_a_tpu_slice(times, tmp_path):
    """In a process of its own, which libtpu may fill with what it likes; twice with one compilation cache."""
    file = tmp_path / "plan.json"
    command = [sys.executable, plan.__file__, "--config", CONFIG, "--topology", "v5e:2x2", "--quick", *WORDS]
    # Without the tests' own flags, which libtpu's XLA does not know.
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "XLA_FLAGS": ""}
    for _ in range(times):
        done = subprocess.run(
            [*command, "--json", str(file)], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(file.read_text())
    assert found["largest_global_batch"] is None
    assert found["devices"] == 4
    assert found["bytes_available"] == 16 * 2**30
    assert found["fits"] is True
    assert found["images_per_sec_bound"] > 0
    assert found["collectives"]["all-reduce"] > 0


@pytest.fixture
def without_a_trace(monkeypatch):
    """What a plan for a GPU sets is set back."""
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "")
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    yield monkeypatch
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.parametrize(
    ("there", "version", "name", "message"),
    [
        ([], "", "h100:8", "--topology h100:8 needs XLA's compiler for CUDA; pip install -e '.[plan-cuda]'"),
        ([], "", "v100:8", "CUDA 13 has no V100; plan it in an environment with CUDA 12 alone, pip install"),
        (["jax_cuda13_plugin"], None, "v100:1", "CUDA 13 has no V100"),
        (["jax_cuda13_plugin"], "0.1.0", "h100:1", "jax-cuda13-plugin 0.1.0 is not of jaxlib"),
    ],
)
def test_gpus_that_cannot_be_planned_are_refused_in_one_line(there, version, name, message, without_a_trace, capsys):
    found = {package: object() for package in there}
    without_a_trace.setattr(devices.importlib.util, "find_spec", found.get)
    known = devices.metadata.version
    without_a_trace.setattr(
        devices.metadata, "version", lambda package: known(package) if "cuda" not in package else version
    )
    assert plan.main(["--config", CONFIG, "--topology", name]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_a_gpus_share_of_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    chip = devices.chip("h100:1")
    assert chip is not None
    assert (chip.memory, chip.bandwidth, chip.share) == (84942979072, 3.35232e12, 0.75)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".92")
    assert devices.chip("a100:8").share == 0.92  # pyright: ignore[reportOptionalMemberAccess]
    for wrong in ("0", "1.5", "much", "."):
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", wrong)
        with pytest.raises(ValueError, match=r"is no share of the memory; use a number such as \.9"):
            devices.chip("h100:1")


@pytest.mark.parametrize("name", devices.SPEEDS)
def test_every_gpu_is_described(name):
    chip = devices.chip(f"{name}:1")
    assert chip is not None
    assert chip.float32 is not None
    assert chip.tf32 is not None
    assert chip.flops > chip.tf32 >= chip.float32


NO_CUDA = importlib.util.find_spec("jax_cuda13_plugin") is None


@pytest.mark.slow
@pytest.mark.skipif(NO_CUDA, reason="the extra plan-cuda is not installed")
@pytest.mark.parametrize(("topology", "script"), [("h100:1", "plan.py"), ("a100:2", "plan_pod.py")])
def test_a_plan_for_gpus(topology, script, tmp_path):
    """In a process of its own, which has no device yet; by both names of the script."""
    file, path = tmp_path / "plan.json", runs.ROOT / "experiments" / script
    command = [sys.executable, str(path), "--config", CONFIG, "--topology", topology, "--quick", *WORDS]
    done = subprocess.run(
        [*command, "--json", str(file)], env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(file.read_text())
    assert found["fits"] is True
    assert found["kernels"] == sum(kind["number"] for kind in found["kinds"].values()) > 100
    assert found["bytes_moved"] == sum(kind["bytes"] for kind in found["kinds"].values())
    assert found["roofline_seconds"] == pytest.approx(sum(kind["seconds"] for kind in found["kinds"].values()))
    assert found["roofline_seconds"] >= found["seconds"]["memory"] > 0
    assert 0 < found["temporaries"] < found["bytes_per_device"]
    assert {"convolution", "reduction", "fusion"} <= found["kinds"].keys()
    assert any(line.startswith("ssl_jax/models/") for line in found["lines"])
    assert ("collective" in found["kinds"]) == (topology == "a100:2")
    assert (found["bytes_sent_per_device"] > 0) == (topology == "a100:2")


TEXT = {
    "bert_base": ["model.name=bert_tiny", "data.length=32", "data.document_length=32", "model.positions=32"],
    "language_model_demo": ["model.width=8", "model.hidden=8", "data.length=8"],
}


def of_text(name):
    words = [*TEXT[name], "data.tokenizer.size=100", "data.num_examples=1000", "data.global_batch_size=16"]
    return str(runs.ROOT / "configs" / f"{name}.py"), words


@pytest.mark.parametrize("name", TEXT)
def test_of_text_the_vocabulary_is_as_large_as_the_config_says(name):
    found = program.plan_of(configs.load(*of_text(name)))
    assert found.vocab is not None
    assert found.vocab.size == 100
    file, words = of_text(name)
    unknown = [word.replace("size=100", "size=null") for word in words]
    with pytest.raises(ValueError, match=r"not known without reading the text; set --config\.data\.tokenizer\.size"):
        program.plan_of(configs.load(file, unknown))


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_a_plan_of_text(name, tmp_path, capsys):
    file, words = of_text(name)
    arguments = ["--config", file, "--topology", "cpu:2", "--json", str(tmp_path / "plan.json"), "--quick"]
    assert plan.main([*arguments, *(f"--config.{word}" for word in words)]) == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] is True
    assert found["flops_per_step"] > 0
    assert "at batch 16 on 2 devices" in capsys.readouterr().out
