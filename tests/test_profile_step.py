"""What the profile puts an instruction down to."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import runs

sys.path.insert(0, str(runs.ROOT / "experiments"))
import profile_step

from ssl_jax import configs, parallel
from ssl_jax.plan import program

CONFIG = str(runs.ROOT / "configs" / "simclr_digits.py")
SMALL = ["model.widths=(8,16)", "method.projector_dim=16", "data.image_size=8", "data.global_batch_size=64"]

ONE = """HloModule m

FileNames
1 "/a/ssl_jax/losses/nt_xent.py"
2 "/a/ssl_jax/models/convolution.py"

FileLocations
1 {file_name_id=2 function_name_id=1 line=3 end_line=3 column=1 end_column=2}
2 {file_name_id=1 function_name_id=1 line=4 end_line=4 column=1 end_column=2}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}

ENTRY %main () -> f32[] {
  %exp.1 = f32[4]{0} exponential(%a), metadata={op_name="jit(step)/jvp()/exp" stack_frame_id=1}
  ROOT %conv.2 = f32[4] fusion(%a), metadata={op_name="transpose(jvp(N))/conv_general_dilated" stack_frame_id=2}
}
"""


def test_an_instruction_is_put_down_to_its_line():
    found = profile_step.sources(ONE)
    assert found["exp.1"] == "exp.1 | /a/ssl_jax/losses/nt_xent.py | jit(step)/jvp()/exp"
    assert profile_step.kind_of(found["exp.1"]) == "loss"
    assert profile_step.kind_of(found["conv.2"]) == "convolutions, backward"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("all-reduce.3 | x/models/norm.py | jit(s)/jvp(N)/reduce_sum", "exchange between devices, and waiting for it"),
        ("f.1 | x/ssl_jax/data/images/device_ops.py | jit(s)/dot_general", "augmentation"),
        ("f.1 | x/ssl_jax/optim/optimizers.py | jit(s)/mul", "optimizer"),
        ("d | x/models/convolution.py | t/while/body/dot_general", "convolutions, gradient of weights (blocked)"),
        ("d | x/models/norm.py | jit(s)/transpose(jvp(N))/mul", "normalisation, activations and the rest, backward"),
    ],
)
def test_kinds(source, kind):
    assert profile_step.kind_of(source) == kind


def a_plane(name, **lines):
    def event(name, nanoseconds, **stats):
        return SimpleNamespace(name=name, duration_ns=nanoseconds, stats=stats.items())

    made = [
        SimpleNamespace(name=line, events=[event(*e[:2], **e[2]) for e in events]) for line, events in lines.items()
    ]
    return SimpleNamespace(name=name, lines=made)


def test_kernels_of_a_gpu_are_put_down_by_their_stat():
    """As a GPU's trace is described: streams of kernels, and lines that were made of them."""
    kernels = [("loop_add_fusion_18", 2e9, {"hlo_op": "loop_add_fusion.18"}), ("sm90_gemm", 3e9, {"hlo_op": "%dot.1"})]
    kernels += [("memset", 1e9, {}), ("whole", 9e9, {"hlo_op": "while.3"})]
    gpu = a_plane("/device:GPU:0", **{"Stream #1": kernels, "XLA Ops": [("loop_add_fusion.18", 2e9, {})]})
    cpu = a_plane("/host:CPU", thread=[("add.2", 1e9, {}), ("Wait", 7e9, {"hlo_op": "dot.1"})])
    names = {"loop_add_fusion.18", "dot.1", "while.3", "add.2"}
    assert profile_step.durations([gpu, cpu], names) == {"loop_add_fusion.18": 2, "dot.1": 3, "": 1, "add.2": 1}


@pytest.mark.slow
def test_a_compiled_step_tells_its_files():
    text = program.compile_ahead(configs.load(CONFIG, SMALL), parallel.make_mesh(1)).as_text()
    kinds = {profile_step.kind_of(source) for source in profile_step.sources(text).values()}
    assert {"augmentation", "loss", "convolutions, forward", "convolutions, backward", "optimizer"} <= kinds


@pytest.mark.slow
def test_a_profile(tmp_path):
    """In a process of its own, as users run it: it starts the tracer of libtpu, too, where that is installed."""
    command = [sys.executable, profile_step.__file__, "--config", CONFIG, "--out", str(tmp_path), "--steps", "1"]
    done = subprocess.run(
        [*command, *(f"--config.{word}" for word in SMALL)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["augmentation"] > 0
    assert found["loss"] > 0
    assert "of work in a step" in done.stdout


def test_refused_in_one_line(tmp_path, capsys):
    assert profile_step.main(["--config", CONFIG, "--out", str(tmp_path / "x"), "--config.modl.x=1"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "x").exists()
