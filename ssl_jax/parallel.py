"""Devices: the mesh, where batches go, and the helpers through which methods and losses reach other devices.

Two worlds share one step function. ``axis=None`` is the global view: ``jit`` over a one-axis mesh ``("data",)``, the
program is written as for one device and XLA's partitioner splits it. ``axis="data"`` is the same function under
``pmap``, where each device sees its own rows and reaches the others by collectives.

| helper | pmap | jit, mesh active | no mesh |
|---|---|---|---|
| ``row_ids(n, axis)`` | ``axis_index * n + arange(n)`` | ``arange(n)`` | ``arange(n)`` |
| ``num_shards(axis)`` | axis size | 1 | 1 |
| ``all_rows(x, axis)`` | ``all_gather(tiled)`` | constrain to ``P()`` | identity |
| ``my_rows(x, axis)`` | slice by ``axis_index`` | constrain to ``P("data")`` | identity |
| ``mean(tree, axis)`` | ``pmean`` | identity | identity |
| ``on_own_rows(f, axis, x)`` | ``f(axis, x)`` | ``f`` under ``shard_map`` | ``f(None, x)`` |
| ``sum_to_own_rows(x, axis)`` | ``psum_scatter`` | inside ``on_own_rows``: the same | identity |
| ``sum_over_rows(f, x)`` | ``f(x)``: this device's rows | ``f`` under ``shard_map``, then ``psum`` | ``f(x)`` |

Re-indexing rows (``x[perm]``) makes the global view replicate all that follows, silently, until ``my_rows``
constrains it again.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.types import Array, Axis, Batch, Tree

DATA = "data"
MOST_DEVICES = 256  # of one process; more simulated ones only fail later
HEARTBEAT_TIMEOUT = 100
# libtpu, which plans need, looks for TPUs on its own and complains at length where there is none.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
}


_compiling_for: ContextVar[str | None] = ContextVar("platform", default=None)


def platform() -> str:
    """What the program that is being traced will run on: "cpu", "gpu" or "tpu"."""
    return _compiling_for.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str):
    """Within it programs are traced for another platform than this machine's."""
    token = _compiling_for.set(name)
    try:
        yield
    finally:
        _compiling_for.reset(token)


def row_ids(n: int, axis: Axis) -> Array:
    """Global indices, int32 ``[n]``, of the ``n`` rows this device holds."""
    ids = jnp.arange(n, dtype=jnp.int32)
    return ids if axis is None else lax.axis_index(axis).astype(jnp.int32) * jnp.int32(n) + ids


def num_shards(axis: Axis) -> int:
    """Number of devices that rows are split over, as the calling code sees it."""
    return 1 if axis is None else lax.axis_size(axis)


def all_rows(x: Tree, axis: Axis) -> Tree:
    """Every row of ``x``, on every device, differentiably: ``[b, ...] -> [num_shards * b, ...]``."""
    if axis is not None:
        return jax.tree.map(lambda a: lax.all_gather(a, axis, tiled=True), x)
    return _constrain(x, P())


def my_rows(x: Tree, axis: Axis) -> Tree:
    """The inverse of :func:`all_rows`: this device's share of global rows."""
    if axis is not None:
        n = num_shards(axis)

        def slice_rows(a):
            size = a.shape[0] // n
            return lax.dynamic_slice_in_dim(a, lax.axis_index(axis) * size, size)

        return jax.tree.map(slice_rows, x)
    return _constrain(x, P(DATA))


def mean(tree: Tree, axis: Axis) -> Tree:
    """Mean over devices of values that each device computed from its own rows."""
    return tree if axis is None else lax.pmean(tree, axis)


def sum_over_rows(f: Callable[..., Array], *x: Array) -> Array:
    """``f(*x)`` of an ``f`` that sums over the rows of all ``x``.

    Under jit each device sums its own rows and the sums are added once; left to the partitioner, a loop inside ``f``
    would add them in every turn. Under pmap it is the sum over this device's rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not _split(mesh) or any(len(a) % mesh.size for a in x):
        return f(*x)
    return jax.shard_map(lambda *rows: lax.psum(f(*rows), DATA), in_specs=P(DATA), out_specs=P(), check_vma=False)(*x)


def on_own_rows(f: Callable[..., Tree], axis: Axis, *x: Tree) -> Tree:
    """``f(axis, *x)`` of an ``f`` written for one device of several: rows in, rows of the same number out.

    Under jit with a mesh ``f`` runs on each device's rows, with the mesh's axis as ``axis``, so that no collective is
    there but those it calls; left to the partitioner, a loop over blocks of rows would exchange rows in every turn.
    Rows that the devices do not divide are left to the partitioner.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if axis is not None or not _split(mesh) or any(len(a) % mesh.size for a in jax.tree.leaves(x)):
        return f(axis, *x)
    return jax.shard_map(partial(f, DATA), in_specs=P(DATA), out_specs=P(DATA), check_vma=False)(*x)


def sum_to_own_rows(x: Tree, axis: Axis) -> Tree:
    """The transpose of :func:`all_rows`: this device's rows of the sum over devices.

    ``[num_shards * b, ...] -> [b, ...]``; the identity under ``axis=None``, where there are no devices to sum over.
    """
    return x if axis is None else jax.tree.map(lambda a: lax.psum_scatter(a, axis, tiled=True), x)


def named_key(key: Array, name: str) -> Array:
    """An independent stream of random bits per name: ``fold_in(key, crc32(name))``."""
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))


def row_keys(key: Array, n: int, axis: Axis) -> Array:
    """One key per row, ``[n]``: ``fold_in(key, global row)``, so that draws do not depend on the device count."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_ids(n, axis))


def _split(mesh: AbstractMesh) -> bool:
    """Whether the program being traced is one of the global view that several devices share."""
    return not mesh.empty and mesh.axis_names == (DATA,) and mesh.axis_types == (AxisType.Auto,) and mesh.size > 1


def _constrain(x: Tree, spec: P) -> Tree:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or DATA not in mesh.axis_names:
        return x
    return jax.tree.map(lambda a: lax.with_sharding_constraint(a, spec), x)


def configure(devices: int | None, *, deterministic: bool = False, heartbeat_timeout: int = HEARTBEAT_TIMEOUT) -> None:
    """Simulated CPU devices, deterministic GPU kernels, other processes: call before the first use of a device.

    Several processes form one run where ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` are
    set, and on a TPU pod or under srun with several tasks, where JAX finds them by itself.

    Args:
      devices: of all processes together. On a CPU so many are simulated; elsewhere this has no effect.
      deterministic: XLA's deterministic GPU kernels, without which two runs on a GPU differ in the last bits. They
        replace atomic additions by ordered ones and restrict the choice of convolutions, so steps are slower.
      heartbeat_timeout: seconds after which a process that gives no sign of life ends the run of all.
    """
    if not any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/*")):
        for name, value in WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
    if deterministic:
        flag = "--xla_gpu_deterministic_ops=true"
        if flag not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    address, processes = os.environ.get("JAX_COORDINATOR_ADDRESS"), int(os.environ.get("JAX_NUM_PROCESSES", "1"))
    if devices is not None and devices > MOST_DEVICES * processes:
        raise ValueError(f"parallel.devices={devices}: a process has at most {MOST_DEVICES} devices; use fewer")
    if devices is not None and devices > processes:
        # RuntimeError: devices exist already; if they are too few, the experiment's check says so.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices // processes)
    if address:
        rank = os.environ.get("JAX_PROCESS_ID")
        if rank is None or "JAX_NUM_PROCESSES" not in os.environ:
            raise ValueError("JAX_COORDINATOR_ADDRESS is set; set JAX_NUM_PROCESSES and JAX_PROCESS_ID, too")
        jax.distributed.initialize(address, processes, int(rank), heartbeat_timeout_seconds=heartbeat_timeout)
    elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_timeout)


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


def make_mesh(devices: int | None = None) -> Mesh:
    """A one-axis mesh ``("data",)`` over the first ``devices`` devices (default: all)."""
    available = jax.devices()
    devices = len(available) if devices is None else devices
    if not 1 <= devices <= len(available):
        raise ValueError(
            f"parallel.devices={devices} but {len(available)} {available[0].platform} device(s) are visible; "
            f"use a number from 1 to {len(available)}"
        )
    return Mesh(np.array(available[:devices]), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of values that are the same on every device."""
    return NamedSharding(mesh, P())


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of values whose leading dimension is split over the mesh."""
    return NamedSharding(mesh, P(DATA))


def place(batch: Batch, mesh: Mesh, *, stacked: bool = False) -> Batch:
    """Put this process's rows of a batch on its devices, as parts of one global batch (``"table"`` whole on each).

    ``stacked``: the leaves are those of several batches, ``[k, rows, ...]``.
    """
    rows = NamedSharding(mesh, P(None, DATA)) if stacked else sharded(mesh)

    def put(sharding):
        return lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a))

    return {
        name: jax.tree.map(put(replicated(mesh) if name == "table" else rows), value) for name, value in batch.items()
    }
