"""Checkpoints: save asynchronously, find the latest, restore onto any devices. The only importer of Orbax.

A checkpoint is ``<workdir>/checkpoints/<step>/``: two Orbax trees of plain arrays in nested dicts, ``variables``
(params, model_state, aux, rows) and ``training`` (the rest of the state), so that an evaluation reads the first alone;
and a record in Orbax's custom metadata: the caller's JSON (config, commit, versions, devices, data), the metrics, and
dtype, shape and sha256 of every leaf. Orbax survives a kill at any moment (a directory gets its final name last) but
does not notice a flipped bit in what it reads: the sha256 do.

Leaves are copied to the host before ``save`` returns, because the train step donates its buffers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ssl_jax.types import TrainState, Tree

FORMAT = 1
VARIABLES = ("params", "model_state", "aux", "rows")


class Saver(NamedTuple):
    """What :func:`open_saver` gives.

    Attributes:
      save: ``(state, metadata, metrics=None) -> step``; every process calls it. Returns when the state has been copied
        out; the writing goes on behind. A step saved before by this saver is left as it is, unless metrics come with
        it now.
      wait: blocks until nothing is being written; raises the OSError of a write that failed.
      close: ``wait``, then gives back Orbax's threads. Safe to call twice.
    """

    save: Callable[..., int]
    wait: Callable[[], None]
    close: Callable[[], None]


def open_saver(workdir: str | os.PathLike, *, keep: int = 3, best: str | None = None) -> Saver:
    """Open ``<workdir>/checkpoints`` for writing; restore first, since restoring may set a damaged checkpoint aside.

    What an interrupted save left is removed at the first save.

    Args:
      workdir: folder of the run.
      keep: how many of the newest checkpoints stay.
      best: name of a metric; the checkpoint with its highest value stays as well (the later one of equals).

    Raises:
      ValueError: ``keep`` below 1.
      OSError: (from save, wait, close) a write failed, e.g. on a full disk; checkpoints written before stay.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} checkpoints: at least 1 is needed to resume; use checkpoint.keep=3")
    directory = _directory(workdir)
    opened: list[ocp.training.Checkpointer] = []  # at the first save: a run that only looks writes nothing
    saved: set[int] = set()

    def checkpointer() -> ocp.training.Checkpointer:
        if not opened:
            options = {"preservation_policy": _Keep(keep, best), "cleanup_tmp_directories": True}
            opened.append(ocp.training.Checkpointer(directory, **options))
        return opened[0]

    def save(state: TrainState, metadata: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> int:
        step = int(state.step)
        if step in saved and not metrics:
            return step
        metrics = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        leaves = _host_leaves(state)
        record = {"format": FORMAT, "step": step, "metadata": dict(metadata), "metrics": metrics}
        # Orbax writes what process 0 gives; the others need the structure only
        record["leaves"] = _manifest(leaves) if jax.process_index() == 0 else {}
        record = json.loads(json.dumps(record))  # as it will be read: tuples as lists
        record["sha256"] = _json_digest(record)
        parts = _parts({name: _data(leaf) for name, leaf in leaves.items() if leaf.size})
        with _as_oserror(directory, step):
            writer = checkpointer()
            there = step in [c.step for c in writer.checkpoints]
            writer.save_checkpointables_async(
                step, parts, force=True, overwrite=there, metrics=metrics or None, custom_metadata=record
            )
        saved.add(step)
        return step

    def wait() -> None:
        if opened:
            with _as_oserror(directory, max(saved, default=None)):
                opened[0].wait()

    def close() -> None:
        if opened:
            with _as_oserror(directory, max(saved, default=None)):
                opened.pop().close()

    return Saver(save, wait, close)


def steps(workdir: str | os.PathLike) -> list[int]:
    """Steps of the checkpoints in ``workdir``, ascending; unfinished and set-aside ones do not count."""
    directory = _directory(workdir)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def latest(workdir: str | os.PathLike) -> int | None:
    """Step of the newest checkpoint, or None."""
    return max(steps(workdir), default=None)


def restore(
    workdir: str | os.PathLike, abstract: Tree, *, step: int | None = None, sharding: Any = None
) -> tuple[Tree, dict[str, Any]] | None:
    """The newest usable checkpoint, on the devices asked for; every process calls it.

    A damaged one is named in a warning, renamed ``damaged_<step>``, and the one before it is used.

    Args:
      workdir: folder of the run.
      abstract: the state wanted, as ``jax.eval_shape`` gives it (or a state itself): structure, shapes, dtypes and,
        where leaves carry one, sharding. It need not be that of the devices that wrote the checkpoint.
      step: this one only, instead of the newest.
      sharding: for leaves without a sharding of their own.

    Returns:
      ``(state, metadata)`` with the metadata given to ``save`` and ``"step"`` and ``"metrics"`` beside it; None where
      there is no checkpoint at all.

    Raises:
      ValueError: no usable checkpoint; or the state differs from the one saved (the first differing path is named).
    """
    wanted = _named(abstract)
    want = {name: _text(_dtype(leaf), leaf.shape) for name, leaf in wanted.items()}

    def read(path):
        record = _record(path)
        _check_fits(record["leaves"], want, path)
        return _arrays(path, record, ("variables", "training")), record

    found = _newest_usable(workdir, step, read, set_aside=True)
    if found is None:
        return None
    arrays, record = found
    placed = [_place(arrays[name], like, sharding) for name, like in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), placed), _public(record)


def restore_variables(workdir: str | os.PathLike, step: int | None = None) -> tuple[dict[str, Tree], dict[str, Any]]:
    """What an evaluation needs of a checkpoint, without knowing the optimizer; writes nothing.

    Returns:
      ``({"params", "model_state", "aux", "rows"}, metadata)``: NumPy arrays in nested dicts (a tuple or NamedTuple
      inside ``aux`` comes as a dict of its indices or field names; empty ones are {} or, for aux and rows, None),
      metadata as in
      :func:`restore`. A damaged newest checkpoint is named in a warning and the one before it is read.

    Raises:
      ValueError: there is no checkpoint, or none is usable.
    """

    def read(path):
        record = _record(path)
        return _arrays(path, record, ("variables",)), record

    found = _newest_usable(workdir, step, read, set_aside=False)
    if found is None:
        raise ValueError(f"no checkpoint under {_directory(workdir)}; is this the workdir of a pretraining run?")
    arrays, record = found
    tree = flax.traverse_util.unflatten_dict({name: _key_or_array(a, record, name) for name, a in arrays.items()}, "/")
    return {part: tree.get(part, {} if part in ("params", "model_state") else None) for part in VARIABLES}, _public(record)


def fingerprint(tree: Tree) -> str:
    """sha256 (hex) over the leaves of a tree by sorted path: path, dtype, shape and bytes of each."""
    lines = (f"{name} {json.dumps(leaf)}\n" for name, leaf in sorted(_manifest(_host_leaves(tree)).items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def lock(workdir: str | os.PathLike) -> Iterator[None]:
    """Hold ``<workdir>/.lock`` (flock, process 0 only): two runs must not write one folder. A kill releases it.

    Raises:
      ValueError: another run holds it.
    """
    if jax.process_index() != 0:
        yield
        return
    path = Path(workdir) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"another run holds {path} ({holder}); wait for it, stop it, or use another workdir"
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield  # the file stays: removing it would race with the next holder


# --- leaves ---------------------------------------------------------------------------------------------------------


def _named(tree: Tree) -> dict[str, Any]:
    """Leaves by path, "params/encoder/conv/kernel", in the tree's own order."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(named) < len(flat):
        raise ValueError('two leaves of the state have the same path; a key must not contain "/"')
    return named


class _Leaf(NamedTuple):
    """A leaf on the host, owning its memory. For a typed PRNG key ``data`` is its words."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    data: np.ndarray


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> str:
    names = []  # key_impl refuses a ShapeDtypeStruct and takes a tracer
    jax.eval_shape(lambda key: names.append(str(jax.random.key_impl(key))), leaf)
    return names[0]


def _dtype(leaf: Any) -> str:
    """ "float32"; for a typed key "key<threefry2x32>"."""
    return f"key<{_key_impl(leaf)}>" if _is_key(leaf) else np.dtype(leaf.dtype).name


def _host_leaves(tree: Tree) -> dict[str, _Leaf]:
    named = {name: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for name, leaf in _named(tree).items()}
    raw = {name: jax.random.key_data(leaf) if _is_key(leaf) else leaf for name, leaf in named.items()}
    for leaf in raw.values():
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()  # all transfers under way before the first is waited for
    return {
        name: _Leaf(_dtype(leaf), tuple(leaf.shape), math.prod(leaf.shape), _host(raw[name]))
        for name, leaf in named.items()
    }


def _host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)
        else:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.array(leaf, order="C")  # a copy: on a CPU np.asarray is a view of a buffer about to be donated


def _data(leaf: _Leaf) -> np.ndarray:
    return leaf.data


def _manifest(leaves: Mapping[str, _Leaf]) -> dict[str, list]:
    """Leaf name -> [dtype, shape, sha256 of the bytes]."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib lets go of the interpreter lock
        digests = pool.map(lambda leaf: _digest(leaf.data), leaves.values())
        return {name: [leaf.dtype, list(leaf.shape), d] for (name, leaf), d in zip(leaves.items(), digests, strict=True)}


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def _json_digest(record: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in record.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parts(arrays: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """The two Orbax trees; nested dicts, so that any Orbax reader sees the usual structure."""
    split: dict[str, dict] = {"variables": {}, "training": {}}
    for name, array in arrays.items():
        split["variables" if name.split("/")[0] in VARIABLES else "training"][name] = array
    return {part: flax.traverse_util.unflatten_dict(flat, "/") for part, flat in split.items() if flat}


def _place(array: np.ndarray, like: Any, sharding: Any) -> jax.Array:
    sharding = getattr(like, "sharding", None) or sharding
    if sharding is None:
        placed = jnp.array(array)
    else:
        # copies: on a CPU the parts may be views of one NumPy buffer, and the train step donates them
        placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index].copy())
    return jax.random.wrap_key_data(placed, impl=_key_impl(like)) if _is_key(like) else placed


def _key_or_array(array: np.ndarray, record: Mapping[str, Any], name: str) -> Any:
    dtype = record["leaves"][name][0]
    return jax.random.wrap_key_data(array, impl=dtype[4:-1]) if dtype.startswith("key<") else array


# --- directories ----------------------------------------------------------------------------------------------------


def _directory(workdir: str | os.PathLike) -> epath.Path:
    path = epath.Path(workdir) / "checkpoints"
    return path if "://" in os.fspath(path) else epath.Path(os.path.abspath(path))  # Orbax wants it absolute


def _record(path: epath.Path) -> dict[str, Any]:
    record = ocp.checkpointables_metadata(path).custom_metadata
    if not record or record.get("sha256") != _json_digest(record):
        raise _Damaged("its record of hashes is missing or altered")
    if record["format"] != FORMAT:
        raise ValueError(f"{path} has format {record['format']}, this version reads {FORMAT}; use the version it names")
    return record


def _arrays(path: epath.Path, record: Mapping[str, Any], parts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Verified arrays by name; leaves without elements are not on the disk."""
    expected = {
        name: leaf
        for name, leaf in record["leaves"].items()
        if ("variables" if name.split("/")[0] in VARIABLES else "training") in parts
    }
    stored = set(_parts({name: np.zeros(0) for name, leaf in expected.items() if math.prod(leaf[1])}))
    tree = ocp.load_checkpointables(path, dict.fromkeys(sorted(stored))) if stored else {}
    loaded = {name: np.asarray(a) for part in tree.values() for name, a in _named(part).items()}
    arrays = {}
    for name, (dtype, shape, digest) in expected.items():
        array = loaded.get(name) if math.prod(shape) else np.zeros(shape, np.uint32 if dtype[:4] == "key<" else dtype)
        if array is None:
            raise _Damaged(f"{name} is missing")
        if dtype[:4] != "key<" and (array.dtype.name != dtype or list(array.shape) != shape):
            raise _Damaged(f"{name} is {array.dtype.name}{list(array.shape)}, saved as {dtype}{shape}")
        if math.prod(shape) and _digest(array) != digest:
            raise _Damaged(f"{name} does not have the sha256 it was saved with")
        arrays[name] = array
    return arrays


class _Damaged(Exception):
    """A checkpoint that is not what was saved."""


class _Misfit(ValueError):
    """A sound checkpoint of another state."""


def _text(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _check_fits(saved: Mapping[str, list], want: Mapping[str, str], path: epath.Path) -> None:
    have = {name: _text(dtype, shape) for name, (dtype, shape, _) in saved.items()}
    for name in [*want, *have]:
        if have.get(name) != want.get(name):
            raise _Misfit(
                f"checkpoint {path} does not fit this config: {name} is {have.get(name, 'absent')} there and "
                f"{want.get(name, 'absent')} here; use the config it was written with, or another workdir"
            )


def _newest_usable(workdir, step: int | None, read: Callable, *, set_aside: bool) -> Any:
    directory, known = _directory(workdir), steps(workdir)
    if step is not None and step not in known:
        raise ValueError(f"no checkpoint of step {step} under {directory}; there are {known}")
    damaged: dict[int, str] = {}
    for candidate in [step] if step is not None else reversed(known):
        result, reason = None, ""
        try:
            result = read(directory / str(candidate))
        except (_Misfit, PermissionError, MemoryError):
            raise
        except Exception as error:  # whatever Orbax, TensorStore or JSON make of broken bytes
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        if not _everywhere(result is not None):
            damaged[candidate] = reason or "unreadable on another process"
            continue
        for bad, why in damaged.items():
            where = _set_aside(directory, bad) if set_aside else "left where it is"
            warnings.warn(f"checkpoint {bad} is damaged ({why}), {where}; using {candidate}", stacklevel=3)
        return result
    if damaged:
        named = "; ".join(f"{bad}: {why}" for bad, why in damaged.items())
        raise ValueError(f"no usable checkpoint under {directory} ({named}); move it away to start anew")
    return None


def _everywhere(ok: bool) -> bool:
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


def _set_aside(directory: epath.Path, step: int) -> str:
    name = f"damaged_{step}"
    if jax.process_index() == 0:
        while (directory / name).exists():
            name += "_"
        (directory / str(step)).rename(directory / name)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"set aside {step}")
    return f"set aside as {name}"


def _public(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record["metadata"], "step": record["step"], "metrics": record["metrics"]}


# --- writing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Keep:
    """Which checkpoints stay (Orbax's PreservationPolicy): the newest ``newest``, and the best by one metric."""

    newest: int
    best: str | None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        scores = [(c.metrics or {}).get(self.best, -math.inf) for c in checkpoints]
        top = max(range(len(scores)), key=lambda i: (scores[i], i), default=0)
        return [
            i >= len(checkpoints) - self.newest or (i == top and scores[i] > -math.inf) for i in range(len(checkpoints))
        ]


@contextmanager
def _as_oserror(directory: epath.Path, step: int | None) -> Iterator[None]:
    """What Orbax raises when bytes cannot be written, as one OSError of one line."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        if not isinstance(error, ValueError) or not _is_write_failure(error):
            raise
        raise _write_error(directory, step, error) from error
    except Exception as error:
        raise _write_error(directory, step, error) from error


_CODES = {os.strerror(code).lower(): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)}


def _is_write_failure(error: BaseException) -> bool:
    return any(text in str(error).lower() for text in _CODES)


def _write_error(directory: epath.Path, step: int | None, error: BaseException) -> OSError:
    code = next((c for text, c in _CODES.items() if text in str(error).lower()), getattr(error, "errno", None))
    reason = os.strerror(code) if code else str(error).strip().split("\n")[0][:200]
    left = steps(directory.parent)
    return OSError(
        code or errno.EIO,
        f"checkpoint {step} could not be written to {directory}: {reason}; "
        + (f"the last good one is {left[-1]}; free some space and start again" if left else "there is none before it"),
    )
