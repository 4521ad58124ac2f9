"""What has waited for an accelerator: the order of its parts, what is left out, what goes on; all of it, small."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
import runs

sys.path.insert(0, str(runs.ROOT / "experiments"))
import accelerator
from benchmarks import (
    accelerator_device,
    accelerator_parity,
    accelerator_runs,
    accelerator_steps,
    accelerator_table,
)

from ssl_jax import configs
from ssl_jax.methods import UNTRAINED
from ssl_jax.plan import devices
from ssl_jax.step import make_init, make_train_step

SCRIPT = str(runs.ROOT / "experiments" / "accelerator.py")
# As where they are not installed: with None in sys.modules scipy takes torch for imported.
BLOCKED = """import importlib.machinery, os, sys
class Refusing(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        refused = name.partition(".")[0] in os.environ["REFUSED"].split(",")
        return None if refused else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Refusing
"""


@pytest.fixture
def pretended(monkeypatch):
    """A GPU whose parts take no time; gives the names of those that were made. "step_byol_cifar" fails."""
    made = []

    def begin(found, options):
        found |= {"toy": False, "device": "NVIDIA H200", "devices": 1}

    def run(name, options, found, end):
        made.append(name)
        return {"error": "exit code 1: no"} if name == "step_byol_cifar" else {"nothing": 1}

    monkeypatch.setattr(accelerator, "begin", begin)
    monkeypatch.setattr(accelerator, "run", run)
    monkeypatch.setattr(accelerator, "_is_there", lambda name: True)
    monkeypatch.setattr(accelerator_table, "markdown", lambda found: "")
    return made


def stored(out):
    return json.loads((out / "accelerator.json").read_text())


def refused(name, environment=None, *words):
    """A process to which some packages cannot be imported."""
    environment = os.environ | {"REFUSED": name} | (environment or {})
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=environment, check=False
    )


def test_order_of_worth():
    names = list(accelerator.PARTS)
    first = ["device", "parity_contrastive", "step_simclr_cifar", "torch_resnet18_cifar", "kill_and_resume"]
    order = [names.index(name) for name in (*first, "step_simclr_cifar+graph", "cifar10_simclr", "cifar10_moco")]
    assert order == sorted(order)
    assert order[0] == 0


def test_every_part_has_its_function():
    for part in accelerator.PARTS.values():
        file = runs.ROOT / "experiments" / "benchmarks" / f"accelerator_{part.module}.py"
        functions = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert part.function in functions


def test_every_method_is_compared_and_every_config_is_there():
    methods = {file.stem for file in (runs.ROOT / "ssl_jax" / "methods").glob("[!_]*.py")} - set(UNTRAINED)
    compared = {name: one for group in accelerator_parity.GROUPS.values() for name, one in group.items()}
    assert set(compared) == methods
    for method, (config, words) in compared.items():
        assert accelerator_steps.load(config, words).method.name == method
    for config, words, small in accelerator_steps.PROGRAMS.values():
        assert accelerator_steps.load(config, words).get("model").get("dtype", "bfloat16") == "bfloat16"
        configs.check(accelerator_steps.load(config, small))


def test_no_minutes(tmp_path, capsys):
    assert accelerator.main(["--out", str(tmp_path / "a"), "--minutes", "0"]) == 0
    found = stored(tmp_path / "a")
    assert found["parts"] == {}
    assert list(found["left_out"]) == list(accelerator.PARTS)
    assert "--data is not given" in capsys.readouterr().out


def test_what_fits_goes_on_and_a_failure_ends_nothing_else(tmp_path, pretended):
    words = ["--out", str(tmp_path)]
    assert accelerator.main([*words, "--minutes", "2.4"]) == 1
    first = list(pretended)
    assert "step_byol_cifar" in first
    assert first.index("step_byol_cifar") < len(first) - 1  # others after it
    found = stored(tmp_path)
    assert "step_simclr_resnet50" in found["left_out"]
    assert found["parts"]["step_byol_cifar"]["error"] == "exit code 1: no"
    pretended.clear()
    assert accelerator.main([*words, "--minutes", "60"]) == 0
    assert set(pretended) == set(accelerator.PARTS) - set(first) - {"cifar10_simclr", "cifar10_moco"}
    pretended.clear()
    assert accelerator.main([*words, "--minutes", "60", "--retry"]) == 1
    assert pretended == ["step_byol_cifar"]


def script(file, text):
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_a_process_that_dies_is_told(tmp_path, monkeypatch):
    options = accelerator.parsed(["--out", str(tmp_path), "--work", str(tmp_path), "--minutes", "1"])
    found = {"toy": True, "parts": {}}
    monkeypatch.setattr(accelerator.sys, "executable", script(tmp_path / "dies", "echo before; echo why; exit 3"))
    died = accelerator.run("device", options, found, accelerator.time.monotonic() + 60)
    assert died == {"error": "exit code 3: why", "log": "before\nwhy"}
    monkeypatch.setattr(accelerator.sys, "executable", script(tmp_path / "slow", "exec sleep 60"))
    assert "did not end in" in accelerator.run("device", options, found, accelerator.time.monotonic())["unfinished"]


def test_what_came_back_goes_on_elsewhere(tmp_path, pretended):
    """The JSON alone, read-only, in another folder."""
    assert accelerator.main(["--out", str(tmp_path / "a"), "--minutes", "2.4", "--only", "device,kill_and_resume"]) == 0
    assert pretended == ["device"]
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "accelerator.json", tmp_path / "b")
    (tmp_path / "b" / "accelerator.json").chmod(0o444)
    words = ["--out", str(tmp_path / "b"), "--work", str(tmp_path / "w"), "--only", "device,kill_and_resume"]
    assert accelerator.main([*words, "--minutes", "9"]) == 0
    assert pretended == ["device", "kill_and_resume"]
    assert set(stored(tmp_path / "b")["parts"]) == {"device", "kill_and_resume"}
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["accelerator.json", "accelerator.md"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--minutes", "1"], "--out"),
        (["--out", "{}/a"], "--minutes"),
        (["--out", "{}/a", "--minutes", "-1"], "--minutes -1.0 is no span of time"),
        (["--out", "{}/a", "--minutes", "nan"], "--minutes nan is no span of time"),
        (["--out", "{}/a", "--minutes", "1", "--only", "devise"], "--only devise is unknown; known: device, "),
        (["--out", "{}/a", "--minutes", "1", "--data", "{}/b.npz"], "b.npz is not there"),
        (["--out", "{}/a", "--minutes", "1", "--wheels", "{}"], "holds no wheel"),
    ],
)
def test_refused_in_one_line(words, why, tmp_path, capsys):
    assert accelerator.main([word.format(tmp_path) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert why in said
    assert said.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_folder_of_another_device_is_refused(tmp_path, capsys):
    (tmp_path / "accelerator.json").write_text(json.dumps({"toy": False, "parts": {}, "device": "NVIDIA H100"}))
    assert accelerator.main(["--out", str(tmp_path), "--minutes", "1"]) == 2
    assert "holds parts of full size; name another folder" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    done = refused("ml_collections", {"PYTHONPATH": str(tmp_path)}, "--out", str(tmp_path / "a"), "--minutes", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ml_collections cannot be imported; pip install ml_collections, or")
    assert done.stderr.count("\n") == 1


def test_what_is_missing_may_be_a_wheel(tmp_path, monkeypatch):
    """It is found by this process and by those of the parts."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(accelerator, "NEEDED", ("only_a_wheel",))
    words = ["--out", str(tmp_path / "a"), "--minutes", "1"]
    with pytest.raises(ValueError, match="only_a_wheel cannot be imported"):
        accelerator.parsed(words)
    with zipfile.ZipFile(tmp_path / "only_a_wheel-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("only_a_wheel.py", "here = 7")
    options = accelerator.parsed([*words, "--wheels", str(tmp_path)])
    command = [sys.executable, "-c", "import only_a_wheel; print(only_a_wheel.here)"]
    assert subprocess.run(command, capture_output=True, env=options.environment, check=True).stdout == b"7\n"


def test_the_table_fits_into_a_message():
    parts = {name: {"error": "x" * 600} for name in accelerator.PARTS}
    text = accelerator_table.markdown({"toy": False, "parts": parts, "left_out": {}, "device": "NVIDIA H200"})
    assert "cut; all of it: accelerator.json" in text
    assert len(text) < 12_000


def test_differences_are_of_the_leaf():
    one, other = {"a": np.float32([1.0, 2.0]), "b": np.float32([0.0])}, {"a": np.float32([1.0, 4.0])}
    other["b"] = np.float32([1e-4])
    assert accelerator_parity.apart(one, other) == pytest.approx(0.5)  # b counts as a thousandth of 4
    assert accelerator_parity.apart(other, other) == 0


def test_a_run_is_killed_at_its_step(tmp_path):
    """Half a line of its log does not count; one that is through before is not killed."""
    lines = "".join(f'{{"step": {step}}}\n' for step in (5, 10)) + '{"st'
    write = "import sys, time; open(sys.argv[1], 'w').write(sys.argv[2]); time.sleep(float(sys.argv[3]))"
    command = [sys.executable, "-c", write, str(tmp_path / "metrics.jsonl"), lines]
    assert accelerator_runs.kill(subprocess.Popen([*command, "60"]), tmp_path, 10) == 1
    assert accelerator_runs.last_step(tmp_path) == 10
    (tmp_path / "metrics.jsonl").unlink()
    assert accelerator_runs.kill(subprocess.Popen([*command, "0"]), tmp_path, 20) == 0
    assert accelerator_runs.last_step(tmp_path / "none") == 0


FULL = [pytest.param(config, words, id=name) for name, (config, words, _) in accelerator_steps.PROGRAMS.items()]
SMALL = [
    pytest.param(config, words, id=name)
    for group in accelerator_parity.GROUPS.values()
    for name, (config, words) in group.items()
]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "words"), FULL + SMALL)
def test_a_step_can_be_traced_at_its_size(config, words):
    """On shapes alone: what would be refused is refused here, not on a device that is paid for."""
    one = accelerator_steps.made(accelerator_steps.load(config, words))
    method, tx, probe = one.parts.method, one.parts.tx, one.parts.probe
    state = jax.eval_shape(make_init(method, tx, probe=probe), jax.random.key(0), one.prepared, None)
    _, metrics = jax.eval_shape(make_train_step(method, tx, views=one.views, probe=probe), state, one.batch)
    assert metrics["loss"].shape == ()


REHEARSED = ["device", "parity_contrastive", "step_simclr_cifar", "torch_resnet18_cifar", "kill_and_resume"]
REHEARSED += ["step_simclr_cifar+graph", "step_language_model+dispatch", "cifar10_moco"]


@pytest.mark.slow
def test_a_rehearsal(tmp_path):
    """Parts of every kind, small, in processes that can import neither TensorFlow nor its datasets nor torch."""
    rng = np.random.default_rng(0)
    images = {
        f"{part}_images": rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in (("train", 400), ("test", 99))
    }
    labels = {f"{part}_labels": np.arange(n) % 10 for part, n in (("train", 400), ("test", 99))}
    np.savez(tmp_path / "cifar10.npz", **images, **labels)
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    words = ["--out", str(tmp_path / "a"), "--minutes", "40", "--data", str(tmp_path / "cifar10.npz"), "--toy"]
    words += ["--only", ",".join(REHEARSED)]
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{runs.ROOT}", "JAX_PLATFORMS": "cpu"}
    done = refused("tensorflow,tensorflow_datasets,torch,torchvision", environment, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = stored(tmp_path / "a")
    assert list(found["parts"]) == [name for name in REHEARSED if not name.startswith("torch_")]
    assert found["left_out"] == {"torch_resnet18_cifar": "not installed: torch, torchvision"}
    for method in accelerator_parity.GROUPS["contrastive"]:
        one = found["parts"]["parity_contrastive"][method]
        assert one["params"] == 0, method  # both are CPUs
        assert one["nan_leaves_state"], method
    for name in filter(lambda name: name.startswith("step_"), REHEARSED):
        one = found["parts"][name]
        assert one["per_second"] > 0
        if "+" not in name:
            assert one["measured_over_roofline_measured"] > 0
            assert sum(one["profile_kinds"].values()) > 0, name
    assert found["parts"]["step_simclr_cifar"]["share_of_views"] < 1  # of two times, which other jobs may turn around
    assert found["parts"]["kill_and_resume"]["deterministic"]["same"]
    assert found["parts"]["kill_and_resume"]["deterministic"]["kills"] == 1
    assert found["parts"]["cifar10_moco"]["log"]
    assert len((tmp_path / "a" / "accelerator.md").read_text()) < 12_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*:FutureWarning")  # torch's compiler's, of itself
def test_the_step_in_torch_is_ours():
    pytest.importorskip("torch")
    if (
        importlib.util.find_spec("torchvision") is None
    ):  # which benchmarks.torches imports, beside a torch for CPUs, too
        pytest.skip("torchvision is not installed")
    from benchmarks import accelerator_torch

    found = accelerator_torch.compare("torch_resnet18_cifar", toy=True)
    assert found["first_losses"][0] == pytest.approx(found["first_losses"][1], rel=1e-4)
    assert found["ours"]["per_second"] > 0
    assert found["torch"]["per_second"] > 0
    # Compiled, and under autocast: of four images in bfloat16 the loss is a few per cent off, not a few millionths.
    assert found["lean_loss"] == pytest.approx(found["first_losses"][1], rel=0.1)
    assert abs(found["lean_loss"] - found["first_losses"][1]) > 1e-6


def test_a_figure_that_is_missing_loses_no_other():
    """A program that cannot be counted, or a profiler that fails, leaves the speed; the table says so."""
    step = {"config": "c", "batch": 8, "unit": "images", "memory": {}, "seconds": 0.5, "per_second": 16.0}
    step |= accelerator_steps.tried("counted", lambda: {}["no such kernel"])
    step |= accelerator_steps.tried("profile", lambda: {"profile_kinds": {"gemm": 0.25}})
    found = {"toy": False, "parts": {"step_a": step}, "left_out": {}, "device": "NVIDIA H200", "devices": 1}
    text = accelerator_table.markdown(found)
    assert "| a | 8 | 500.00 | 16 images |" in text
    assert "- a: counted not measured: KeyError: 'no such kernel'" in text
    assert "- a: gemm 250.00 / 0.00" in text


@pytest.mark.parametrize(("kind", "bandwidth"), [("NVIDIA H200", 4.8e12), ("NVIDIA H100 80GB HBM3", None)])
def test_rooflines_are_of_the_card(kind, bandwidth):
    known = {"device_kind": kind, "memory": {"bytes_limit": 100}, "copy_bytes_per_second": 4e12}
    speeds = zip(("bfloat16", "tf32", "float32"), (5.0, 6.0, 7.0), strict=True)
    known |= {f"matmul_{precision}_flops": speed for precision, speed in speeds}
    found = accelerator_device.chips(known)
    assert found["nominal"].flops == 989e12
    assert found["nominal"].bandwidth == (bandwidth or devices.chip("h100:1").bandwidth)
    assert found["measured"][:3] == (100, 5.0, 4e12)
    assert found["measured"].peak("tf32") == 6.0
    assert set(accelerator_device.chips(known | {"device_kind": "cpu"})) == {"measured"}
    assert accelerator_device.chips(None) == {}
