"""Devices that are not here: TPU slices and GPUs as meshes, and how fast they could be."""

from __future__ import annotations

import importlib.util
import os
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.plan.cost import Cost, sent
from ssl_jax.plan.kernels import Kernel

GPUS = Path(__file__).parent / "gpus"
PREALLOCATED = 0.75  # of a GPU's memory, by XLA; XLA_PYTHON_CLIENT_MEM_FRACTION says another share
MOST_GPUS = 8  # of one machine; between machines another network counts


class Chip(NamedTuple):
    """Of one device: bytes of memory, operations per second in bfloat16, bytes per second of memory and sent.

    Attributes:
      tf32, float32: operations per second of float32 at default and at highest precision; None where float32 is made
        of bfloat16.
      share: of the memory that a run may use.
    """

    memory: float
    flops: float
    bandwidth: float
    network: float
    tf32: float | None = None
    float32: float | None = None
    share: float = 1.0

    def seconds(self, kernel: Kernel, devices: int) -> float:
        """The least that a kernel takes, once: the longer of its bytes, its operations and what it sends."""
        exchange = sent(dict([kernel.exchange]), devices) / self.network if kernel.exchange else 0.0
        return max(kernel.bytes / self.bandwidth, kernel.flops / self.peak(kernel.precision), exchange)

    def computing(self, cost: Cost) -> float:
        """The least that the operations of a program take."""
        if self.tf32 is None:
            return cost.flops / self.flops
        return sum(kernel.number * kernel.flops / self.peak(kernel.precision) for kernel in cost.kernels)

    def peak(self, precision: str) -> float:
        """Operations per second of products in a precision."""
        return {"tf32": self.tf32, "float32": self.float32}.get(precision) or self.flops


# Memory, speed and bandwidth: Google Cloud's pages of each TPU version; a v3 or v4 device is half a chip, one core. The
# network is one axis, both ways: "How to Scale Your Model" (jax-ml.github.io/scaling-book), chapter 2.
TPUS = {
    "v3": Chip(16 * 2**30, 61.5e12, 450e9, 100e9),
    "v4": Chip(16 * 2**30, 137.5e12, 614e9, 45e9),
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 90e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 180e9),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 180e9),
}
# (bfloat16, TF32, float32) without sparsity and bytes per second that a device sends, one way: NVIDIA's data sheets.
# H100 SXM5, A100 and V100 SXM by NVLink; A6000 by PCIe 4 and RTX PRO 6000 by PCIe 5. A V100 has neither bfloat16, whose
# row is float16, nor TF32.
SPEEDS = {
    "h100": ((989e12, 495e12, 67e12), 450e9),
    "a100": ((312e12, 156e12, 19.5e12), 300e9),
    "v100": ((125e12, 15.7e12, 15.7e12), 150e9),
    "a6000": ((155e12, 77e12, 38.7e12), 32e9),
    "rtx6000pro": ((503e12, 252e12, 126e12), 64e9),
}


def is_gpu(name: str) -> bool:
    """Whether a topology's name is one of GPUs."""
    return name.partition(":")[0] in SPEEDS


def chip(name: str) -> Chip | None:
    """The speed of a topology's devices; None of simulated ones.

    Raises:
      ValueError: it is not known.
    """
    kind = name.partition(":")[0]
    if kind == "cpu":
        return None
    if kind in SPEEDS:
        said = (GPUS / f"{kind}.txtpb").read_text()
        memory, bandwidth = (
            float(re.findall(rf"\b{key}: (\d+)", said)[0]) for key in ("device_memory_size", "memory_bandwidth")
        )
        (half, tf32, full), network = SPEEDS[kind]
        return Chip(memory, half, bandwidth, network, tf32, full, share=_share())
    if kind not in TPUS:
        known = ", ".join([*TPUS, *SPEEDS, "cpu"])
        raise ValueError(f"--topology {name}: the speed of its chips is not known; known: {known}")
    return TPUS[kind]


def prepare(name: str) -> None:
    """Let XLA's compiler for GPUs in on a machine without one: call before the first use of a device.

    Without a driver the plugin refuses to be loaded unless it is told to skip its checks, and what it compiled cannot
    be read from a cache again.
    """
    if is_gpu(name):
        os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
        jax.config.update("jax_platforms", "cpu")
    if not name.startswith("cpu:"):
        jax.config.update("jax_enable_compilation_cache", False)


def topology(name: str, fsdp: int = 1) -> Mesh:
    """The devices of ``"cpu:8"`` (simulated), a TPU slice (``"v5e:16x16"``) or GPUs (``"h100:8"``), as a mesh.

    Args:
      fsdp: devices of a group that shares the state, see :func:`ssl_jax.parallel.make_mesh`.

    Raises:
      ValueError: the name is of another form, a package is not installed, or its compiler does not know the devices.
    """
    if match := re.fullmatch(r"cpu:([1-9]\d*)", name):
        return parallel.make_mesh(int(match[1]), fsdp)
    if is_gpu(name):
        return _gpus(name, fsdp)
    if not re.fullmatch(r"v\d\w*:[1-9]\d*(x[1-9]\d*)*", name):
        raise ValueError(f"--topology {name} is not of the form v5e:16x16, v4:4x4x2, h100:8 ({_known()}) or cpu:8")
    dimensions = 3 if name.startswith(("v4", "v5p")) else 2
    if name.count("x") != dimensions - 1:
        raise ValueError(f"--topology {name}: a slice of {name.partition(':')[0]} has {dimensions} dimensions")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"--topology {name} needs libtpu; pip install -e '.[plan]'")
    return _described(name, "libtpu", fsdp, platform="tpu", topology_name=name)


def _gpus(name: str, fsdp: int) -> Mesh:
    kind, _, number = name.partition(":")
    if not re.fullmatch(r"[1-9]\d*", number) or int(number) > MOST_GPUS:
        raise ValueError(f"--topology {name} is not of the form {kind}:8; the GPUs of one machine, 1 to {MOST_GPUS}")
    found = [
        plugin for plugin in ("jax_cuda13_plugin", "jax_cuda12_plugin") if importlib.util.find_spec(plugin) is not None
    ]
    jaxlib = metadata.version("jaxlib")
    if kind == "v100" and found != ["jax_cuda12_plugin"]:
        raise ValueError(
            f"--topology {name}: CUDA 13 has no V100; plan it in an environment with CUDA 12 alone, "
            f"pip install -e . 'jax[cuda12]=={jaxlib}'"
        )
    if not found:
        raise ValueError(f"--topology {name} needs XLA's compiler for CUDA; pip install -e '.[plan-cuda]'")
    if (version := metadata.version(found[0])) != jaxlib:
        package, short = found[0].replace("_", "-"), found[0].removeprefix("jax_").removesuffix("_plugin")
        raise ValueError(
            f"--topology {name}: {package} {version} is not of jaxlib {jaxlib}; "
            f"pip install {package}=={jaxlib} jax-{short}-pjrt=={jaxlib}"
        )
    said = (GPUS / f"{kind}.txtpb").read_text()
    return _described(name, found[0], fsdp, platform="cuda", target_config=said, topology=f"1x1x{number}")


def _described(name: str, by: str, fsdp: int, **how: str) -> Mesh:
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(**how)
    except Exception as error:  # the compiler's own, of many kinds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--topology {name} is none that {by} knows ({said[:200]})") from None
    return parallel.mesh_of(described.devices, fsdp)


def _known() -> str:
    return ", ".join(SPEEDS)


def _share() -> float:
    said = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or str(PREALLOCATED)
    if not re.fullmatch(r"0?\.\d*[1-9]\d*|1(\.0*)?", said):
        raise ValueError(f"XLA_PYTHON_CLIENT_MEM_FRACTION={said} is no share of the memory; use a number such as .9")
    return float(said)
