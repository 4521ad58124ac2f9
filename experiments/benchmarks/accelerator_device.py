"""What a device is, and what it reaches: products of matrices, copies in its memory, copies from and to the host."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.plan import devices
from ssl_jax.plan.devices import Chip
from ssl_jax.run.provenance import machine

# A word of JAX's device_kind -> the planner's chip, and bytes per second where the memory is another one.
CARDS = {
    "H200": ("h100", 4.8e12),
    "H100": ("h100", None),
    "A100": ("a100", None),
    "V100": ("v100", None),
    "A6000": ("a6000", None),
    "RTX PRO 6000": ("rtx6000pro", None),
    "TPU v5 lite": ("v5e", None),
    "TPU v5": ("v5p", None),
    "TPU v4": ("v4", None),
    "TPU v6": ("v6e", None),
}


def facts(name: str, *, toy: bool, **_: Any) -> dict[str, Any]:
    """Kind, memory, versions, and speeds: the median of five rounds each."""
    device = jax.devices()[0]
    side, megabytes = (256, 8) if toy else (8192, 2048)
    found: dict[str, Any] = machine() | {"number": jax.device_count(), "memory": memory(device), "cuda": cuda()}
    found["platform_version"] = " ".join(device.client.platform_version.split())
    found["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    keys = jax.random.split(jax.random.key(0), 2)
    for kind, dtype, precision in (
        ("bfloat16", jnp.bfloat16, "default"),
        ("tf32", jnp.float32, "default"),  # a CPU has no such form and makes the next one
        ("float32", jnp.float32, "highest"),
    ):
        a, b = (jax.random.normal(key, (side, side), dtype) for key in keys)
        product = jax.jit(lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision))
        found[f"matmul_{kind}_flops"] = 2 * side**3 / seconds(lambda a=a, b=b, f=product: f(a, b))
    x = jnp.ones((megabytes << 20) // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    found["copy_bytes_per_second"] = 2 * x.nbytes / seconds(lambda: copy(x))
    host = np.ones((megabytes << 18) // 4, np.float32)
    found["host_to_device_bytes_per_second"] = host.nbytes / seconds(lambda: jax.device_put(host), turns=2)
    back = jax.device_put(host)
    found["device_to_host_bytes_per_second"] = host.nbytes / seconds(lambda: np.asarray(back + 0), turns=2)
    return found


def seconds(run: Callable[[], Any], *, turns: int = 10, rounds: int = 5) -> float:
    """Of one call: the median over rounds of so many turns, after one round that is not counted."""
    times = []
    for _ in range(rounds + 1):
        before = time.perf_counter()
        jax.block_until_ready([run() for _ in range(turns)][-1])
        times.append((time.perf_counter() - before) / turns)
    return statistics.median(times[1:])


def memory(device: Any) -> dict[str, int]:
    """Bytes that the allocator knows of; empty on a CPU."""
    known = device.memory_stats() or {}
    return {key: known[key] for key in ("bytes_limit", "peak_bytes_in_use", "bytes_in_use") if key in known}


def cuda() -> dict[str, Any]:
    """Versions of driver and libraries, as far as they can be known."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # nothing public tells them
        from jax._src.lib import cuda_versions

        for key in ("cuda_runtime", "cuda_driver", "cudnn", "cublas"):
            found[key] = getattr(cuda_versions, f"{key}_get_version")()
    asked = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        found["nvidia_smi"] = done.stdout.strip().splitlines()
    return found


def chips(known: Mapping[str, Any] | None) -> dict[str, Chip]:
    """The speeds that a roofline is of: ``nominal`` as the maker says, ``measured`` as :func:`facts` found them."""
    if not known:
        return {}
    found, kind = {}, known["device_kind"]
    if word := next((word for word in CARDS if word in kind), None):
        name, bandwidth = CARDS[word]
        if (chip := devices.chip(f"{name}:1")) is not None:
            found["nominal"] = chip if bandwidth is None else chip._replace(bandwidth=bandwidth)
    speeds = [known[f"matmul_{precision}_flops"] for precision in ("bfloat16", "tf32", "float32")]
    room = known["memory"].get("bytes_limit", 0)
    found["measured"] = Chip(room, speeds[0], known["copy_bytes_per_second"], float("inf"), speeds[1], speeds[2])
    return found
