"""Checkpoints: save asynchronously, find the latest, restore onto any devices. The only importer of Orbax.

A checkpoint is ``<workdir>/checkpoints/<step>/``: two Orbax trees of plain arrays in nested dicts, ``variables``
(params, model_state, aux, rows) and ``training`` (the rest of the state), so that an evaluation reads the first alone;
and a record in Orbax's custom metadata: the caller's JSON (config, commit, versions, devices, data), the metrics, and
dtype, shape and sha256 of every leaf. Orbax survives a kill at any moment (a directory gets its final name last) but
does not notice a flipped bit in what it reads: the sha256 do.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ssl_jax.types import TrainState, Tree

Workdir = str | os.PathLike[str]
VARIABLES = ("params", "model_state", "aux", "rows")
UNFINISHED = ".orbax-checkpoint-tmp"  # ends the name of a folder that Orbax is writing
GONE = ("NOT_FOUND", "does not exist", "Failed to interpret path", "checkpoint_layout")  # words of Orbax
REASON = 100  # characters of what Orbax and TensorStore say


class Saver(NamedTuple):
    """What :func:`open_saver` gives.

    Attributes:
      save: ``(state, metadata, metrics=None) -> step``; every process calls it. Returns once the state is copied out
        (the train step donates its buffers). A step this saver saved before is left as it is, unless new metrics come.
      wait: blocks until nothing is being written; raises the OSError of a write that failed.
      close: ``wait``, then gives back Orbax's threads. Safe to call twice.
    """

    save: Callable[..., int]
    wait: Callable[[], None]
    close: Callable[[], None]


def open_saver(workdir: Workdir, *, keep: int = 3, best: str | None = None) -> Saver:
    """Open ``<workdir>/checkpoints`` for writing; call after ``restore``. The first save removes what a kill left.

    Args:
      keep: how many of the newest checkpoints stay.
      best: name of a metric; the checkpoint with its highest value stays as well (the later one of equals), or, with
        a minus before the name, the one with its lowest.

    Raises:
      OSError: (save, wait, close) a write failed, e.g. on a full disk; checkpoints written before stay.
    """
    if keep < 1:
        raise ValueError(f"train.keep_checkpoints={keep}, but a run needs one to resume from; use 3")
    _quieten()
    directory = _directory(workdir)
    root = os.fspath(directory)
    opened: list[ocp.training.Checkpointer] = []  # at the first save: a run that only looks writes nothing
    saved: dict[int, dict[str, Any]] = {}
    writes: list[Any] = []  # those begun, each with a thread and three open files until its result is asked for

    def attempt(step: int | None, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            forget()
            saved.clear()
            with contextlib.suppress(Exception):
                opened.pop().close()  # a fresh one forgets the failed step
            if jax.process_index() == 0:  # what is left of it takes the space that the next attempt needs
                for left in directory.glob(f"{step}{UNFINISHED}*"):
                    shutil.rmtree(left, ignore_errors=True)
            raise _write_error(directory, step, error) from error

    def save(state: TrainState, metadata: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> int:
        step = int(state.step)
        scores: dict[str, Any] = {name: float(x) for name, x in (metrics or {}).items() if math.isfinite(x)}
        if step in saved and scores in ({}, saved[step]):
            return step
        wait()  # one at a time, and the error of an earlier write under its own step
        leaves = _host_leaves(state)
        record = {
            "step": step,
            "metadata": dict(metadata),
            "metrics": scores,
            # Orbax writes what process 0 gives; the others need the structure only
            "leaves": _manifest(leaves) if jax.process_index() == 0 else {},
        }
        record = json.loads(json.dumps(record))  # as it will be read: tuples as lists
        record["sha256"] = _json_digest(record)
        parts: dict[str, dict[str, Any]] = {}
        for name, (_, _, array) in leaves.items():
            if array.size:  # TensorStore stores no empty arrays
                parts.setdefault(_part(name), {})[name] = array
        parts = {part: flax.traverse_util.unflatten_dict(flat, "/") for part, flat in parts.items()}

        def write():
            if not opened:
                policy = _Keep(keep, best)
                new = ocp.training.Checkpointer(root, preservation_policy=policy, cleanup_tmp_directories=True)
                opened.append(new)
            there = step in [checkpoint.step for checkpoint in opened[0].checkpoints]
            begun = opened[0].save_checkpointables_async(
                step, parts, force=True, overwrite=there, metrics=scores or None, custom_metadata=record
            )
            writes.append(begun)

        attempt(step, write)
        saved[step] = scores
        return step

    def wait() -> None:
        if opened:
            attempt(max(saved, default=None), opened[0].wait)
            forget()

    def forget() -> None:
        while writes:
            with contextlib.suppress(Exception):  # wait() has raised it
                writes.pop().result()

    def close() -> None:
        wait()
        if opened:
            opened.pop().close()

    return Saver(save, wait, close)


def steps(workdir: Workdir) -> list[int]:
    """Steps of the checkpoints in ``workdir``, ascending; unfinished and set-aside ones do not count."""
    return sorted(int(path.name) for path in _directory(workdir).glob("*") if path.name.isdecimal())


def latest(workdir: Workdir) -> int | None:
    """Step of the newest checkpoint, or None."""
    return max(steps(workdir), default=None)


def best(workdir: Workdir, metric: str) -> tuple[int, float]:
    """(step, value) of the checkpoint with the highest value of a metric, the later one of equals; "-NAME": lowest.

    Raises:
      ValueError: no checkpoint has it.
    """
    scores = {}
    for step in steps(workdir):
        record: Any = ocp.checkpointables_metadata(os.fspath(_directory(workdir) / str(step))).custom_metadata
        height = _height((record or {}).get("metrics"), metric)
        if height > -math.inf:
            scores[step] = height
    if not scores:
        name = metric.removeprefix("-")
        raise ValueError(f"no checkpoint under {_directory(workdir)} has {name}; was it measured when it was saved?")
    step = max(scores, key=lambda step: (scores[step], step))
    return step, -scores[step] if metric.startswith("-") else scores[step]


def _height(metrics: Mapping[str, float] | None, name: str | None) -> float:
    """What of several checkpoints the best has most of: a metric, or, with a minus before its name, little of it."""
    if name is None or (value := (metrics or {}).get(name.removeprefix("-"))) is None:
        return -math.inf
    return -value if name.startswith("-") else value


def restore(
    workdir: Workdir, abstract: Tree, *, step: int | None = None, sharding: Any = None
) -> tuple[Tree, dict[str, Any]] | None:
    """The newest usable checkpoint, on the devices asked for; every process calls it.

    A damaged one is named in a warning, renamed ``damaged_<step>``, and the one before it is used.

    Args:
      abstract: the state wanted, as ``jax.eval_shape`` gives it (or a state itself): structure, shapes, dtypes and,
        where leaves carry one, sharding. It need not be that of the devices that wrote the checkpoint.
      step: this one only, instead of the newest.
      sharding: for leaves without a sharding of their own.

    Returns:
      ``(state, record)``, the record with ``"step"``, ``"metadata"`` and ``"metrics"`` as they were saved; None where
      there is no checkpoint at all.

    Raises:
      ValueError: no usable checkpoint; or the state differs from the one saved (the first differing path is named).
    """
    wanted = _named(abstract)
    want = {name: [_dtype(leaf), list(leaf.shape)] for name, leaf in wanted.items()}

    found = _newest_usable(workdir, step, lambda path: _load(path, ("variables", "training"), want), set_aside=True)
    if found is None:
        return None
    arrays, record = found
    placed = [_place(arrays[name], like, sharding) for name, like in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), placed), record


def restore_variables(workdir: Workdir, step: int | None = None) -> tuple[dict[str, Tree], dict[str, Any]]:
    """What an evaluation needs of a checkpoint, without knowing the optimizer; writes nothing.

    Returns:
      ``({"params", "model_state", "aux", "rows"}, record)``: NumPy arrays in nested dicts (a tuple or NamedTuple
      inside ``aux`` comes as a dict by index or field name, a typed key as its words; what holds no array is {}, or
      None for aux and rows); the record as :func:`restore` gives it. A damaged newest one is named in a warning.

    Raises:
      ValueError: there is no checkpoint, or none is usable.
    """

    found = _newest_usable(workdir, step, lambda path: _load(path, ("variables",)), set_aside=False)
    if found is None:
        raise ValueError(f"no checkpoint under {_directory(workdir)}; is this the workdir of a pretraining run?")
    arrays, record = found
    tree = flax.traverse_util.unflatten_dict(arrays, "/")
    empty = {"params": {}, "model_state": {}, "aux": None, "rows": None}
    return {part: tree.get(part, nothing) for part, nothing in empty.items()}, record


def fingerprint(tree: Tree) -> str:
    """sha256 (hex) over the leaves of a tree by sorted path: path, dtype, shape and bytes of each."""
    lines = (f"{name} {json.dumps(leaf)}\n" for name, leaf in sorted(_manifest(_host_leaves(tree)).items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _named(tree: Tree) -> dict[str, Any]:
    """Leaves by path, "params/encoder/conv/kernel", in the tree's own order."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(named) < len(flat):
        raise ValueError('two leaves of the state have the same path; a key must not contain "/"')
    return named


def _dtype(leaf: Any) -> str:
    """ "float32"; for a typed key "key<threefry2x32>"."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.dtype(leaf.dtype).name
    names = []  # key_impl refuses a ShapeDtypeStruct and takes a tracer
    jax.eval_shape(lambda key: names.append(f"key<{jax.random.key_impl(key)}>"), leaf)
    return names[0]


def _host_leaves(tree: Tree) -> dict[str, tuple[str, list[int], np.ndarray]]:
    """Leaf name -> dtype, shape, and an array that owns its memory (of a typed key: its words)."""
    named = {name: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for name, leaf in _named(tree).items()}
    raw = {name: jax.random.key_data(leaf) if _dtype(leaf).startswith("key<") else leaf for name, leaf in named.items()}
    for leaf in raw.values():
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()  # all transfers under way before the first is waited for
    return {name: (_dtype(leaf), list(leaf.shape), host(raw[name])) for name, leaf in named.items()}


def host(leaf: Any) -> np.ndarray:
    """An array that owns its memory, whole, on every process; every process calls it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        everywhere = leaf.is_fully_replicated
        leaf = leaf.addressable_data(0) if everywhere else multihost_utils.process_allgather(leaf, tiled=True)
    return np.array(leaf, order="C")  # a copy: on a CPU np.asarray is a view of a buffer about to be donated


def _manifest(leaves: Mapping[str, tuple[str, list[int], np.ndarray]]) -> dict[str, list[Any]]:
    """Leaf name -> [dtype, shape, sha256 of the bytes]."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib lets go of the interpreter lock
        digests = list(pool.map(lambda leaf: _digest(leaf[2]), leaves.values()))
    return {name: [*leaf[:2], digest] for (name, leaf), digest in zip(leaves.items(), digests, strict=True)}


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _json_digest(record: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in record.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _part(name: str) -> str:
    """Which of the two Orbax trees a leaf belongs to."""
    return "variables" if name.split("/")[0] in VARIABLES else "training"


def _place(array: np.ndarray, like: Any, sharding: Any) -> jax.Array:
    sharding = getattr(like, "sharding", None) or sharding
    if sharding is None:
        placed = jnp.array(array)
    else:  # copies: on a CPU the parts may be views of one NumPy buffer, and the train step donates them
        placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index].copy())
    dtype = _dtype(like)
    return jax.random.wrap_key_data(placed, impl=dtype[4:-1]) if dtype.startswith("key<") else placed


def _directory(workdir: Workdir) -> Path:
    return Path(workdir).absolute() / "checkpoints"  # Orbax wants it absolute


class _Misfit(ValueError):
    """A sound checkpoint, but of another state."""


def _load(
    path: Path, parts: tuple[str, ...], want: Mapping[str, list[Any]] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Verified arrays by name, and the public part of the record. Whatever it raises but a misfit means damage."""
    record: Any = ocp.checkpointables_metadata(os.fspath(path)).custom_metadata
    if not isinstance(record, dict) or record.get("sha256") != _json_digest(record):
        raise ValueError("its record of hashes is missing or altered")
    if want is not None:
        _check_fits(record["leaves"], want, path)
    expected = {name: leaf for name, leaf in record["leaves"].items() if _part(name) in parts}
    present = sorted({_part(name) for name, (_, shape, _) in expected.items() if math.prod(shape)})
    trees = [ocp.load(os.fspath(path), checkpointable_name=part) for part in present]
    loaded = {name: array for tree in trees for name, array in _named(tree).items()}
    arrays = {}
    for name, (dtype, shape, digest) in expected.items():
        array = arrays[name] = np.asarray(loaded[name]) if math.prod(shape) else np.zeros(shape, dtype)
        same = dtype.startswith("key<") or [array.dtype.name, list(array.shape)] == [dtype, shape]
        if not same or _digest(array) != digest:
            raise ValueError(f"{name} is not what was saved (sha256)")
    return arrays, {name: record[name] for name in ("step", "metadata", "metrics")}


def _check_fits(saved: Mapping[str, list[Any]], want: Mapping[str, list[Any]], path: Path) -> None:
    for name in [*want, *saved]:
        there, here = saved.get(name, [])[:2], want.get(name, [])
        if there != here:
            there, here = (f"{leaf[0]}{leaf[1]}" if leaf else "absent" for leaf in (there, here))
            text = f"checkpoint {path} does not fit this config: {name} is {there} there and {here} here"
            raise _Misfit(f"{text}; use the config it was written with, or another workdir")


def _newest_usable(workdir: Workdir, step: int | None, read: Callable[[Path], Any], *, set_aside: bool) -> Any:
    multihost_utils.sync_global_devices("restore")  # every process sees what the others have finished writing
    directory, known = _directory(workdir), steps(workdir)
    if step is not None and step not in known:
        raise ValueError(f"no checkpoint of step {step} under {directory}; there are {known}")
    _quieten()
    damaged: dict[int, str] = {}
    for candidate in [step] if step is not None else reversed(known):
        result, reason = None, ""
        try:
            result = read(directory / str(candidate))
        except (_Misfit, PermissionError, MemoryError):
            raise
        except Exception as error:  # whatever Orbax, TensorStore or JSON make of broken bytes
            reason = _reason(error)
        if not np.all(multihost_utils.process_allgather(np.array(result is not None))):
            damaged[candidate] = reason or "unreadable on another process"
            continue
        for bad, why in damaged.items():
            where = _set_aside(directory, bad) if set_aside else "left where it is"
            if jax.process_index() == 0:
                warnings.warn(f"checkpoint {bad} is damaged ({why}), {where}; using {candidate}", stacklevel=3)
        return result
    if damaged:
        named = "; ".join(f"{bad}: {why}" for bad, why in damaged.items())
        raise ValueError(f"no usable checkpoint under {directory} ({named}); move it away to start anew")
    return None


def _reason(error: Exception) -> str:
    """Why a checkpoint cannot be read, in some words: Orbax and TensorStore have many, and advice for programmers."""
    if isinstance(error, FileNotFoundError) or any(word in str(error) for word in GONE):
        return "its files are missing"
    text = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0] or type(error).__name__
    return text if len(text) <= REASON else text[:REASON].rstrip() + " ..."


def _set_aside(directory: Path, step: int) -> str:
    name = f"damaged_{step}"
    if jax.process_index() == 0:
        while (directory / name).exists():
            name += "_"
        (directory / str(step)).rename(directory / name)
    multihost_utils.sync_global_devices(f"set aside {step}")
    return f"set aside as {name}"


@dataclass(frozen=True)
class _Keep:
    """Which checkpoints stay (Orbax's PreservationPolicy): the newest ``newest``, and the best by one metric."""

    newest: int
    best: str | None

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        scores = [_height(c.metrics, self.best) for c in checkpoints]
        top = max(scores, default=-math.inf)
        stay = [i >= len(scores) - self.newest for i in range(len(scores))]
        if top > -math.inf:
            stay[len(scores) - 1 - scores[::-1].index(top)] = True
        return stay


def _quieten() -> None:
    """Orbax logs one traceback from each of its threads, hundreds of lines; the error itself reaches the caller."""
    for name in ("absl", "asyncio"):  # asyncio's are of tasks that failed beside the one whose error was raised
        logging.getLogger(name).addFilter(_quiet)
    sys.unraisablehook = _quiet_unraisable


def _quiet(record: logging.LogRecord) -> bool:
    if record.name == "asyncio":
        text = record.getMessage()
        return not any(word in text for word in (f"{os.sep}orbax{os.sep}", "OCDBT", "tensorstore"))
    return not (record.levelno in (logging.WARNING, logging.ERROR) and f"{os.sep}orbax{os.sep}" in record.pathname)


def _quiet_unraisable(args: Any, hook: Callable[[Any], Any] = sys.unraisablehook) -> None:
    """Where one array fails, Orbax closes its event loop under the reads or writes of others, and each complains."""
    if str(args.exc_value) != "Event loop is closed":
        hook(args)


def _write_error(directory: Path, step: int | None, error: Exception) -> OSError:
    """What Orbax raises when bytes cannot be written, as an OSError of one line."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
    code = next((c for c in known if os.strerror(c) in str(error)), None)
    reason = os.strerror(code) if code else str(error).strip().split("\n")[0] or type(error).__name__
    last = f"the last good one is {latest(directory.parent)}" if steps(directory.parent) else "there is none before it"
    text = f"checkpoint {step} could not be written to {directory}: {reason}; {last}; free some space and start again"
    return OSError(code or errno.EIO, text)
