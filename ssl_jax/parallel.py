"""Devices: the mesh, where batches go, and the helpers through which methods and losses reach other devices.

Two worlds share one step function. ``axis=None`` is the global view: ``jit`` over a mesh ``("data",)``, the program is
written as for one device and XLA's partitioner splits it. ``axis="data"`` is the same function under ``pmap``, where
each device sees its own rows and reaches the others by collectives.

A network too large for one device has a mesh ``("data", "fsdp")``, under jit alone: rows of a batch are split over all
devices as before, and what is large in the state lies in parts over the groups of ``fsdp`` devices
(:func:`state_shardings`) until a step needs it whole (:func:`gathered`).

| helper | pmap | jit, mesh active | no mesh |
|---|---|---|---|
| ``row_ids(n, axis)`` | ``axis_index * n + arange(n)`` | ``arange(n)`` | ``arange(n)`` |
| ``num_shards(axis)`` | axis size | 1 | 1 |
| ``all_rows(x, axis)`` | ``all_gather(tiled)`` | constrain to ``P()`` | identity |
| ``my_rows(x, axis)`` | slice by ``axis_index`` | constrain to the rows' sharding | identity |
| ``mean(tree, axis)`` | ``pmean`` | identity | identity |
| ``on_own_rows(f, axis, x)`` | ``f(axis, x)`` | ``f`` under ``shard_map`` | ``f(None, x)`` |
| ``sum_to_own_rows(x, axis)`` | ``psum_scatter`` | inside ``on_own_rows``: the same | identity |
| ``sum_over_rows(f, x)`` | ``f(x)``: this device's rows | ``f`` under ``shard_map``, then ``psum`` | ``f(x)`` |

Re-indexing rows (``x[perm]``) makes the global view replicate all that follows, silently, until ``my_rows``
constrains it again.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.types import Array, Axis, Batch, TrainState, Tree

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DATA, FSDP = "data", "fsdp"
SPLIT_FROM = 4096  # elements of the smallest array that is split over fsdp; an exchange of less is all latency


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
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else _constrain(x, _rows(mesh))


def on_any_mesh(loss: F) -> F:
    """``loss``, whose result is the same on every device, under a mesh with explicit axes, too.

    Those are what ``jax.make_mesh`` gives by default. The helpers here leave to the partitioner how arrays lie, which
    such a mesh does not allow, so inside of ``loss`` its axes are automatic.
    """

    @wraps(loss)
    def wrapped(*args, **kwargs):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or AxisType.Explicit not in mesh.axis_types:
            return loss(*args, **kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def inside(*arrays):
            given = dict(zip(where, arrays, strict=True))
            args, kwargs = jax.tree.unflatten(structure, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
            return loss(*args, **kwargs)

        return jax.sharding.auto_axes(inside, out_sharding=P())(*(leaves[i] for i in where))

    return cast(F, wrapped)


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

    def total(*rows):
        return lax.psum(f(*rows), mesh.axis_names)

    return jax.shard_map(total, in_specs=_rows(mesh), out_specs=P(), check_vma=False)(*x)


def on_own_rows(f: Callable[..., Tree], axis: Axis, *x: Tree) -> Tree:
    """``f(axis, *x)`` of an ``f`` written for one device of several: rows in, rows of the same number out.

    Under jit with a mesh ``f`` runs on each device's rows, with all the mesh's axes as ``axis``, so that no collective
    is there but those it calls; left to the partitioner, a loop over blocks of rows would exchange rows in every turn.
    Rows that the devices do not divide are left to the partitioner.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if axis is not None or not _split(mesh) or any(len(a) % mesh.size for a in jax.tree.leaves(x)):
        return f(axis, *x)
    rows, axes = _rows(mesh), mesh.axis_names if len(mesh.axis_names) > 1 else DATA
    return jax.shard_map(partial(f, axes), in_specs=rows, out_specs=rows, check_vma=False)(*x)


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
    return not mesh.empty and DATA in mesh.axis_names and set(mesh.axis_types) == {AxisType.Auto} and mesh.size > 1


def _rows(mesh: Mesh | AbstractMesh) -> P:
    """The leading dimension over all devices of a mesh."""
    return P(mesh.axis_names if len(mesh.axis_names) > 1 else DATA)


def _constrain(x: Tree, spec: P) -> Tree:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or DATA not in mesh.axis_names:
        return x
    return jax.tree.map(lambda a: lax.with_sharding_constraint(a, spec), x)


def has_fsdp() -> bool:
    """Whether the program being traced is one whose state lies in parts."""
    return FSDP in jax.sharding.get_abstract_mesh().axis_names


def state_shardings(state: TrainState, mesh: Mesh | AbstractMesh) -> TrainState:
    """How every leaf of a state lies on a mesh, in the state's structure.

    ``rows`` are split like those of a batch. Without fsdp all else is the same on every device. With it a parameter of
    ``SPLIT_FROM`` elements or more is split in its longest dimension that the fsdp devices divide (the last of equals),
    and so is what mirrors it: a leaf of ``opt_state`` or ``aux`` whose path ends in the parameter's path and whose
    shape is its shape, such as a moment or an EMA target. Statistics, banks, queues and the probe stay whole.

    Args:
      state: arrays, tracers or ``jax.ShapeDtypeStruct``.
    """
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]}

    def place(path, leaf):
        part, inner = path[0].name, path[1:]
        if part == "rows":
            return NamedSharding(mesh, _rows(mesh))
        if FSDP in mesh.axis_names and part in ("params", "opt_state", "aux"):
            ends = (inner[i:] for i in range(len(inner)))
            if any(shapes.get(end) == leaf.shape for end in ends):
                return NamedSharding(mesh, _in_parts(leaf.shape, mesh.shape[FSDP]))
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(place, state)


def laid_out(state: TrainState, mesh: Mesh) -> TrainState:
    """The shapes of a state (``jax.ShapeDtypeStruct``), each with where it lies."""

    def leaf(a, sharding):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

    return jax.tree.map(leaf, state, state_shardings(state, mesh))


def _in_parts(shape: tuple[int, ...], devices: int) -> P:
    """The longest dimension that ``devices`` divide over fsdp, the last of equals; none where an array is small."""
    dims = [(size, dim) for dim, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < SPLIT_FROM or not dims:
        return P()
    dim = max(dims)[1]
    return P(*(FSDP if d == dim else None for d in range(dim + 1)))


def gathered(tree: Tree) -> Tree:
    """What lies in parts, whole on every device, where there is fsdp; gradients come back in parts."""
    return jax.tree.map(_gathered, tree) if has_fsdp() else tree


@jax.custom_vjp
def _gathered(a: Array) -> Array:
    return _constrain(a, P())


def _gathered_backward(_, g: Array) -> tuple[Array]:
    return (_constrain(g, _in_parts(g.shape, jax.sharding.get_abstract_mesh().shape[FSDP])),)


_gathered.defvjp(lambda a: (_gathered(a), None), _gathered_backward)


def value_and_grad(f: Callable[[Tree], tuple[Array, T]], params: Tree) -> tuple[tuple[Array, T], Tree]:
    """``jax.value_and_grad(f, has_aux=True)(params)``, where ``f`` sees the parameters whole.

    Parameters that lie in parts are moved together for the forward pass and once more for the backward pass, which
    keeps nothing of them; all else is kept or computed again as it would be with parameters that are whole. Not by
    ``jax.checkpoint``: a policy around everything also decides on what is in the checkpoints within.
    """
    if not has_fsdp():
        return jax.value_and_grad(f, has_aux=True)(params)
    whole, apart = jax.vjp(gathered, params)
    loss, backward, out = jax.vjp(f, whole, has_aux=True)
    kept, form = jax.tree.flatten(backward)
    number = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(whole))}
    params, one = lax.optimization_barrier((params, loss))  # else the compiler would see that it has them already
    again = jax.tree.leaves(gathered(params))
    kept = [again[number[id(leaf)]] if id(leaf) in number else leaf for leaf in kept]
    (grads,) = jax.tree.unflatten(form, kept)(jnp.ones_like(one))
    return (loss, out), *apart(grads)


def make_mesh(devices: int | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over the first ``devices`` devices (default: all).

    Its one axis is ``"data"``; with ``fsdp`` above 1 neighbours in groups of so many are a second, ``"fsdp"``.
    """
    available = jax.devices()
    devices = len(available) if devices is None else devices
    if not 1 <= devices <= len(available):
        raise ValueError(
            f"parallel.devices={devices} but {len(available)} {available[0].platform} device(s) are visible; "
            f"use a number from 1 to {len(available)}"
        )
    return mesh_of(available[:devices], fsdp)


def mesh_of(devices: Sequence[Any], fsdp: int = 1) -> Mesh:
    """The mesh of :func:`make_mesh` over given devices."""
    check_groups(len(devices), fsdp)
    if fsdp == 1:
        return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))
    grid = np.array(devices).reshape(-1, fsdp)
    return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto))


def check_groups(devices: int, fsdp: int) -> None:
    """Refuse groups of ``fsdp`` devices that do not make up all of them."""
    if devices % fsdp:
        use = math.gcd(devices, fsdp)
        raise ValueError(f"parallel.fsdp={fsdp} does not divide {devices} device(s); use {use} or another divisor")


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of values that are the same on every device."""
    return NamedSharding(mesh, P())


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of values whose leading dimension is split over the mesh."""
    return NamedSharding(mesh, _rows(mesh))


def place(batch: Batch, mesh: Mesh, *, stacked: bool = False) -> Batch:
    """Put this process's rows of a batch on its devices, as parts of one global batch (``"table"`` whole on each).

    ``stacked``: the leaves are those of several batches, ``[k, rows, ...]``.
    """
    rows = NamedSharding(mesh, P(None, *_rows(mesh))) if stacked else sharded(mesh)

    def put(sharding):
        return lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a))

    return {
        name: jax.tree.map(put(replicated(mesh) if name == "table" else rows), value) for name, value in batch.items()
    }


def device_count(asked: int | None) -> int:
    """Devices of a run that asked for so many (``parallel.devices``), by default one on a CPU and all elsewhere."""
    if jax.process_count() > 1 and asked not in (None, jax.device_count()):
        raise ValueError(
            f"parallel.devices={asked} but {jax.process_count()} processes have {jax.device_count()} devices; "
            f"use {jax.device_count()} or none"
        )
    if asked is None:
        return 1 if jax.default_backend() == "cpu" and jax.process_count() == 1 else jax.device_count()
    if asked > jax.device_count():
        raise ValueError(
            f"parallel.devices={asked} but {jax.device_count()} {jax.default_backend()} device(s) are visible; "
            f"use at most {jax.device_count()}"
        )
    return asked
