"""Checkpoints are written: in the background, by all processes; the newest ones and the best one stay."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
from etils.epath import gpath
from orbax.checkpoint import v1 as ocp

from ssl_jax.interop.files import again
from ssl_jax.interop.leaves import host_leaves, manifest
from ssl_jax.run import checkpoint
from ssl_jax.run.quiet import quieten
from ssl_jax.types import TrainState

UNFINISHED = ".orbax-checkpoint-tmp"  # ends the name of a folder that Orbax is writing


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


def open_saver(workdir: checkpoint.Workdir, *, keep: int = 3, best: str | None = None) -> Saver:
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
    quieten()
    directory = checkpoint.folder(workdir)
    root = _Folder(directory)
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
        leaves = host_leaves(state)
        record = {
            "step": step,
            "metadata": dict(metadata),
            "metrics": scores,
            # Orbax writes what process 0 gives; the others need the structure only
            "leaves": manifest(leaves) if jax.process_index() == 0 else {},
        }
        record = json.loads(json.dumps(record))  # as it will be read: tuples as lists
        record["sha256"] = checkpoint.record_digest(record)
        parts: dict[str, dict[str, Any]] = {}
        for name, (_, _, array) in leaves.items():
            if array.size:  # TensorStore stores no empty arrays
                parts.setdefault(checkpoint.part_of(name), {})[name] = array
        parts = {part: flax.traverse_util.unflatten_dict(flat, "/") for part, flat in parts.items()}

        def write():
            if not opened:
                policy = _Keep(keep, best)
                new = ocp.training.Checkpointer(root, preservation_policy=policy, cleanup_tmp_directories=True)
                opened.append(new)
            there = step in [found.step for found in opened[0].checkpoints]
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
            if writes and jax.process_index() == 0:
                with contextlib.suppress(OSError):  # what it guards against is rarer than a full disk
                    (directory.parent / checkpoint.WRITTEN).touch()
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


class _Folder(gpath.PosixGPath):
    """A folder in whose own name brackets, ``*`` and ``?`` are no pattern, as they are to etils; Orbax looks for the
    parts that processes wrote by a glob, and where it finds none it leaves them apart."""

    def glob(self, pattern: str) -> Iterator[_Folder]:
        return map(self._new, Path(self).glob(pattern))


@dataclass(frozen=True)
class _Keep:
    """Which checkpoints stay (Orbax's PreservationPolicy): the newest ``newest``, and the best by one metric."""

    newest: int
    best: str | None

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        scores = [checkpoint.height_of(c.metrics, self.best) for c in checkpoints]
        top = max(scores, default=-math.inf)
        stay = [i >= len(scores) - self.newest for i in range(len(scores))]
        if top > -math.inf:
            stay[len(scores) - 1 - scores[::-1].index(top)] = True
        return stay


def _write_error(directory: Path, step: int | None, error: Exception) -> OSError:
    """What Orbax raises when bytes cannot be written, as an OSError of one line."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
    code = next((c for c in known if os.strerror(c) in str(error)), None)
    reason = os.strerror(code) if code else str(error).strip().split("\n")[0] or type(error).__name__
    before = checkpoint.latest(directory.parent)
    last = "there is none before it" if before is None else f"the last good one is {before}"
    code = code or errno.EIO
    fix = again(OSError(code, reason))
    return OSError(code, f"checkpoint {step} could not be written to {directory}: {reason}; {last}; {fix}")
