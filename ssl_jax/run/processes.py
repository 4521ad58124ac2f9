"""A run as processes: set up before the first device is used, refused together, ended together."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # nothing public lets processes talk before they have devices
from jax.experimental.multihost_utils import process_allgather

from ssl_jax.configs import Config
from ssl_jax.run import programs

PRECISIONS = ("default", "bfloat16", "tensorfloat32", "float32", "highest")
MOST_DEVICES = 256  # of one process; more simulated ones only fail later
HEARTBEAT_TIMEOUT = 100
MEETING_TIMEOUT = 300  # seconds in which all processes must have begun; JAX's own
SAID = 2000  # bytes of what a process says to the others
GOOGLE = "0x1ae0"  # as a vendor of PCI devices
NVIDIA = ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg")  # cards, Jetson, Windows' Linux

# libtpu, which plans need, looks for TPUs on its own and complains at length where there is none.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # plans side by side
}


def configure_as(settings: Config) -> None:
    """:func:`configure` as the ``parallel`` part of a config says; older ones lack some keys."""
    configure(
        settings.devices,
        deterministic=settings.get("deterministic", False),
        heartbeat_timeout=settings.get("heartbeat_timeout", HEARTBEAT_TIMEOUT),
        xla_flags=settings.get("xla_flags") or "",
        matmul_precision=settings.get("matmul_precision"),
    )


def configure(
    devices: int | None,
    *,
    deterministic: bool = False,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
    xla_flags: str = "",
    matmul_precision: str | None = None,
) -> None:
    """Simulated CPU devices, XLA's flags, other processes: call before the first use of a device.

    Several processes form one run where ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` are
    set, and on a TPU pod or under srun with several tasks, where JAX finds them by itself.

    Args:
      devices: of all processes together. On a CPU so many are simulated; elsewhere this has no effect.
      deterministic: XLA's deterministic GPU kernels, without which two runs on a GPU differ in the last bits. They
        replace atomic additions by ordered ones and restrict the choice of convolutions, so steps are slower.
      heartbeat_timeout: seconds after which a process that gives no sign of life ends the run of all.
      xla_flags: ``--name=value ...``, added to the environment's ``XLA_FLAGS``, where a flag that stands there stays.
      matmul_precision: of float32 products, ``jax_default_matmul_precision``; None: the backend's own.

    Raises:
      ValueError: no flags, an unknown precision, too many devices, half a description of the processes, or what
        another process refuses (:func:`tell`).
    """
    without_tpu()
    if bad := [flag for flag in xla_flags.split() if not re.fullmatch(r"--xla_\w+(=\S+)?", flag)]:
        raise ValueError(
            f"parallel.xla_flags: {bad[0]!r} is none of XLA's flags, which are of the form --xla_name=value"
        )
    _add_flags([*xla_flags.split(), *(["--xla_gpu_deterministic_ops=true"] if deterministic else [])])
    if matmul_precision is not None:
        if matmul_precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"parallel.matmul_precision={matmul_precision!r} is unknown; use {known} or null")
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    processes = int(os.environ.get("JAX_NUM_PROCESSES", "1"))
    if devices is not None and devices > MOST_DEVICES * processes:
        raise ValueError(f"parallel.devices={devices}: a process has at most {MOST_DEVICES} devices; use fewer")
    if devices is not None and devices > processes:
        # RuntimeError: devices exist already; if they are too few, the experiment's check says so.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices // processes)
    _meet(heartbeat_timeout)
    _exchange("")
    if not jax.distributed.is_initialized():
        programs.keep()


def _add_flags(flags: Sequence[str]) -> None:
    """Flags that the environment does not set itself."""
    given = os.environ.get("XLA_FLAGS", "").split()
    named = {flag.partition("=")[0] for flag in given}
    if added := [flag for flag in flags if flag.partition("=")[0] not in named]:
        os.environ["XLA_FLAGS"] = " ".join([*given, *added])


def tell(error: ValueError) -> ValueError:
    """Let the other processes know what this one refuses before it has met them: else they would wait for it.

    Returns:
      ``error``, to be told here, too.
    """
    if not jax.distributed.is_initialized():  # else all have met, and it is theirs as well
        with contextlib.suppress(ValueError):  # what another one refuses; or there is no way to reach them
            without_tpu()
            _meet(HEARTBEAT_TIMEOUT)
            _exchange(str(error))
    return error


def _meet(heartbeat_timeout: int) -> None:
    """Wait for the other processes of the run, where the environment says that there are some."""
    address, many = os.environ.get("JAX_COORDINATOR_ADDRESS"), os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": heartbeat_timeout,
        "initialization_timeout": MEETING_TIMEOUT,
    }
    try:
        if address:
            rank, processes = os.environ.get("JAX_PROCESS_ID"), os.environ.get("JAX_NUM_PROCESSES")
            if rank is None or processes is None:
                raise ValueError("JAX_COORDINATOR_ADDRESS is set; set JAX_NUM_PROCESSES and JAX_PROCESS_ID, too")
            jax.distributed.initialize(address, int(processes), int(rank), **timeouts)
        elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or int(many) > 1:
            jax.distributed.initialize(**timeouts)
    except RuntimeError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"the processes of this run did not all meet within {MEETING_TIMEOUT} s ({said}); start the same command "
            "on all hosts, and look there for what ended it"
        ) from None


def _exchange(said: str) -> None:
    """Hear what every process refuses, "" for nothing, before there are devices, of which each may have another count.

    Raises:
      ValueError: the first refusal of another process.
    """
    state = distributed.global_state
    client = state.client
    if client is None:
        return
    client.key_value_set(f"ssl_jax/refused/{state.process_id}", f"-{said[:SAID]}")  # empty ones are not kept
    for rank in range(state.num_processes):
        heard = client.blocking_key_value_get(f"ssl_jax/refused/{rank}", 1000 * MEETING_TIMEOUT)[1:]
        if heard and rank != state.process_id:
            raise ValueError(heard)


def without_tpu() -> None:
    """Keep libtpu quiet, or out, where it is installed and there is no TPU: call before the first use of a device.

    And the plugin for CUDA, which plans need as well, where there is no NVIDIA device.
    """
    plugins = {point.name for point in entry_points(group="jax_plugins")} or find_spec("jax_plugins")
    if not any(glob.glob(pattern) for pattern in NVIDIA):
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
        plugins = plugins - {"xla_cuda13", "xla_cuda12"} if isinstance(plugins, set) else plugins
    if any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/*")):
        return
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    # A container may hide the files of a TPU, but not its maker; others than CPU and TPU come as plugins.
    makers = {Path(file).read_text().strip() for file in glob.glob("/sys/bus/pci/devices/*/vendor")}
    if GOOGLE not in makers and not plugins and "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # libtpu without a TPU crashes XLA's profiler


@contextlib.contextmanager
def ending_together():
    """Within it the death of another process ends this one with a line and code 1, instead of a hang.

    A collective that has lost a peer raises; leaving Python as usual would then wait for that peer. Where none is
    under way, JAX's coordination service ends this process itself once the heartbeat is missed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        said = str(error).strip().splitlines()[0][:200]
        print(
            f"process {jax.process_index()} of {jax.process_count()} stops: another one has died or does not answer "
            f"({said}); start the same command again on all hosts, and it goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


@contextlib.contextmanager
def refusing_together():
    """Within it what one process refuses or cannot write, a ValueError or OSError, ends all of them with its text.

    Else the others would wait for it in the first collective. Every process enters it and leaves it, however it does.
    """
    own: ValueError | OSError | None = None
    try:
        yield
    except (ValueError, OSError) as error:
        own = error
    if jax.process_count() > 1:
        said = "" if own is None else f"{'write' if isinstance(own, OSError) else 'value'} {own}"
        room = np.frombuffer(said.encode("utf-8", "backslashreplace")[:SAID].ljust(SAID, b"\0"), np.uint8)
        everywhere = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in process_allgather(room)]
        kind, _, text = next(filter(None, everywhere), "").partition(" ")
        if kind and own is None:
            own = OSError(text) if kind == "write" else ValueError(text)
    if own is not None:
        raise own
