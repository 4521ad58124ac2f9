"""Checkpoints: find the latest, restore onto any devices. They are written by :mod:`ssl_jax.run.saver`.

A checkpoint is ``<workdir>/checkpoints/<step>/``: two Orbax trees of plain arrays in nested dicts, ``variables``
(params, model_state, aux, rows) and ``training`` (the rest of the state), so that an evaluation reads the first alone;
and a record in Orbax's custom metadata: the caller's JSON (config, commit, versions, devices, data), the metrics, and
dtype, shape and sha256 of every leaf. Orbax survives a kill at any moment (a directory gets its final name last) but
does not notice a flipped bit in what it reads: the sha256 do.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ssl_jax.interop.leaves import by_name, dtype_name, fingerprint, host, sha256
from ssl_jax.run.quiet import quieten
from ssl_jax.types import Tree

__all__ = ["best", "fingerprint", "host", "latest", "refuse_lost", "restore", "restore_variables", "steps"]

Workdir = str | os.PathLike[str]
WRITTEN = ".checkpoints_written"  # an empty file in the run's folder: at least one checkpoint was whole
VARIABLES = ("params", "model_state", "aux", "rows")
GONE = ("NOT_FOUND", "does not exist", "Failed to interpret path", "checkpoint_layout")  # words of Orbax
# How TensorStore begins to say that a file could not be read, whatever is in it: a ValueError like any other.
OF_THE_SYSTEM = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED")
REASON = 100  # characters of what Orbax and TensorStore say


def folder(workdir: Workdir) -> Path:
    """Where the checkpoints of a run lie; absolute, as Orbax wants it."""
    return Path(workdir).absolute() / "checkpoints"


def steps(workdir: Workdir) -> list[int]:
    """Steps of the checkpoints in ``workdir``, ascending; unfinished and set-aside ones do not count.

    Raises:
      ValueError: their folder is there and cannot be looked into, or lies on a disk that is not there: what cannot be
        seen is no reason to begin anew.
    """
    where = folder(workdir)
    try:
        return sorted(int(name) for name in os.listdir(where) if name.isdecimal())
    except FileNotFoundError:
        if where.is_symlink():
            raise ValueError(
                f"{where} is a link to {os.readlink(where)}, which is not there; mount it or put it back, or use "
                "another folder"
            ) from None
        return []
    except OSError as error:
        raise ValueError(f"{where} cannot be read ({error.strerror}); mend that, or use another folder") from None


def refuse_lost(workdir: Workdir) -> None:
    """Refuse a run that has written checkpoints and has none: they are elsewhere, as on a disk that is not mounted.

    A run that was killed before its first checkpoint was whole has left no mark, and begins anew.

    Raises:
      ValueError: names their folder.
    """
    if (Path(workdir) / WRITTEN).exists() and not steps(workdir):
        where = folder(workdir)
        raise ValueError(
            f"the run in {workdir} has written checkpoints and {where} "
            f"{'holds none' if where.is_dir() else 'is not there'} (a disk that is not mounted?); bring them back, or "
            "use another --workdir"
        )


def check_there(workdir: Workdir) -> None:
    """Warn, on process 0, where a finished run has no checkpoint any more."""
    if jax.process_index() == 0 and not steps(workdir):
        warnings.warn(f"{folder(workdir)} holds no checkpoint of the finished run; its summary is shown", stacklevel=2)


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
        record = _record(folder(workdir) / str(step))
        height = height_of((record or {}).get("metrics"), metric)
        if height > -math.inf:
            scores[step] = height
    if not scores:
        name = metric.removeprefix("-")
        raise ValueError(f"no checkpoint under {folder(workdir)} has {name}; was it measured when it was saved?")
    step = max(scores, key=lambda step: (scores[step], step))
    return step, -scores[step] if metric.startswith("-") else scores[step]


def height_of(metrics: Mapping[str, float] | None, name: str | None) -> float:
    """What the best checkpoint has most of: a metric or, with a minus before its name, little of it; else -inf."""
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
    wanted = by_name(abstract)
    want = {name: [dtype_name(leaf), list(leaf.shape)] for name, leaf in wanted.items()}

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
        refuse_lost(workdir)
        raise ValueError(f"no checkpoint under {folder(workdir)}; give the workdir of a run that has saved one")
    arrays, record = found
    tree = flax.traverse_util.unflatten_dict(arrays, "/")
    empty = {"params": {}, "model_state": {}, "aux": None, "rows": None}
    return {part: tree.get(part, nothing) for part, nothing in empty.items()}, record


def why_no_run_goes_on(workdir: Workdir, step: int) -> str | None:
    """What is damaged of a checkpoint beside its variables, which an evaluation does not read; None if it is whole."""
    try:
        _load(folder(workdir) / str(step), ("training",))
    except Exception as error:
        if other := _of_no_file(error):
            raise other from error
        return _reason(error)
    return None


def record_digest(record: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in record.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def part_of(name: str) -> str:
    """Which of the two Orbax trees a leaf belongs to."""
    return "variables" if name.split("/")[0] in VARIABLES else "training"


def _place(array: np.ndarray, like: Any, sharding: Any) -> jax.Array:
    sharding = getattr(like, "sharding", None) or sharding
    if sharding is None:
        placed = jnp.array(array)
    else:  # copies: on a CPU the parts may be views of one NumPy buffer, and the train step donates them
        placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index].copy())
    dtype = dtype_name(like)
    return jax.random.wrap_key_data(placed, impl=dtype[4:-1]) if dtype.startswith("key<") else placed


class _Misfit(ValueError):
    """A sound checkpoint, but of another state."""


def _load(
    path: Path, parts: tuple[str, ...], want: Mapping[str, list[Any]] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Verified arrays by name, and the public part of the record."""
    record = _record(path)
    if not isinstance(record, dict) or record.get("sha256") != record_digest(record):
        raise ValueError("its record of hashes is missing or altered")
    if want is not None:
        _check_fits(record["leaves"], want, path)
    expected = {name: leaf for name, leaf in record["leaves"].items() if part_of(name) in parts}
    present = sorted({part_of(name) for name, (_, shape, _) in expected.items() if math.prod(shape)})
    for part in present:
        for place, _, files in os.walk(path / part, onerror=_raise):
            for name in files:
                _look_at(Path(place) / name)
    trees = [ocp.load(os.fspath(path), checkpointable_name=part) for part in present]
    loaded = {name: array for tree in trees for name, array in by_name(tree).items()}
    arrays = {}
    for name, (dtype, shape, hashed) in expected.items():
        array = arrays[name] = np.asarray(loaded[name]) if math.prod(shape) else np.zeros(shape, dtype)
        same = dtype.startswith("key<") or [array.dtype.name, list(array.shape)] == [dtype, shape]
        if not same or sha256(array) != hashed:
            raise ValueError(f"{name} is not what was saved (sha256)")
    return arrays, {name: record[name] for name in ("step", "metadata", "metrics")}


def _record(path: Path) -> Any:
    """What was saved beside the arrays, out of the file itself.

    Orbax's own function reads what the arrays are, too, and where it does not know the type of one, it leaves behind
    coroutines that nobody awaits, of which Python warns at any time after.
    """
    found = json.loads((path / "_CHECKPOINT_METADATA").read_bytes())
    return found.get("custom_metadata") if isinstance(found, dict) else None


def _check_fits(saved: Mapping[str, list[Any]], want: Mapping[str, list[Any]], path: Path) -> None:
    for name in [*want, *saved]:
        there, here = saved.get(name, [])[:2], want.get(name, [])
        if there != here:
            there, here = (f"{leaf[0]}{leaf[1]}" if leaf else "absent" for leaf in (there, here))
            text = f"checkpoint {path} does not fit this config: {name} is {there} there and {here} here"
            raise _Misfit(f"{text}; use the config it was written with, or another workdir")


def _look_at(file: Path) -> None:
    """Read a byte of a file: what the system has against it is its own error here, and any of many in Orbax."""
    with file.open("rb") as opened:
        opened.read(1)


def _raise(error: OSError) -> None:
    raise error


def _newest_usable(workdir: Workdir, step: int | None, read: Callable[[Path], Any], *, set_aside: bool) -> Any:
    multihost_utils.sync_global_devices("restore")  # every process sees what the others have finished writing
    place, known = folder(workdir), steps(workdir)
    if step is not None and step not in known:
        raise ValueError(f"no checkpoint of step {step} under {place}; there are {known}")
    quieten()
    damaged: dict[int, str] = {}
    for candidate in [step] if step is not None else reversed(known):
        result, reason, other = None, "", None
        try:
            result = read(place / str(candidate))
        except Exception as error:
            other = _of_no_file(error)
            reason = _reason(error)
        everywhere = multihost_utils.process_allgather(np.array([reason != "", other is not None]))
        unusable, stopped = np.any(np.reshape(everywhere, (-1, 2)), axis=0)
        if other is not None:
            raise other
        if stopped:
            raise OSError(f"checkpoint {candidate} under {place} could not be read by another process, which says why")
        if unusable:
            damaged[candidate] = reason or "unreadable on another process"
            continue
        for worse, why in damaged.items():
            where = _set_aside(place, worse) if set_aside else "left where it is"
            if jax.process_index() == 0:
                warnings.warn(f"checkpoint {worse} is damaged ({why}), {where}; using {candidate}", stacklevel=3)
        return result
    if damaged:
        said = "; ".join(f"{worse}: {why}" for worse, why in damaged.items())
        raise ValueError(
            f"no usable checkpoint under {place} ({said}); put a copy back, or use another --workdir to start anew"
        )
    return None


def not_damage(error: Exception) -> Exception | None:
    """What is to be raised where the files of a checkpoint may well be whole; None where they are not.

    Flipped, cut, emptied and removed files give these: ValueError (TensorStore's, JSON's and ours), KeyError, and
    FileNotFoundError. Anything else is of the system or of the code, as are these where such an error came of them.
    """
    if isinstance(error, _Misfit) or not isinstance(error, (ValueError, KeyError, FileNotFoundError)):
        return error
    for cause in _causes(error):
        missing = isinstance(cause, (FileNotFoundError, NotADirectoryError))
        if isinstance(cause, (ImportError, MemoryError)) or (isinstance(cause, OSError) and not missing):
            return cause
    text = str(error)
    code = re.search(r"os_error_code='(\d+)'", text)
    number = int(code[1]) if code else 0
    if text.startswith(OF_THE_SYSTEM) or number not in (0, errno.ENOENT, errno.ENOTDIR):
        return OSError(number or errno.EIO, f"a checkpoint cannot be read: {_reason(error)}")
    return None


def _of_no_file(error: Exception) -> Exception | None:
    return not_damage(error) or (None if _orbax_reads() else error)


def _orbax_reads() -> bool:
    """Whether what is written just now can be read; where it cannot, the installation is at fault and no file.

    Where nothing can be written, on a full disk, nothing speaks against the installation either.
    """
    if jax.process_count() > 1:  # where one process alone may have met an error, and Orbax waits for all
        return True
    try:
        with tempfile.TemporaryDirectory() as place:
            ocp.save(os.path.join(place, "1"), {"sample": np.arange(3)})
            return bool((ocp.load(os.path.join(place, "1"))["sample"] == np.arange(3)).all())
    except Exception as error:
        return isinstance(not_damage(error), OSError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: Exception) -> str:
    """Why a checkpoint cannot be read, in some words: Orbax and TensorStore have many, and advice for programmers."""
    if isinstance(error, FileNotFoundError) or any(word in str(error) for word in GONE):
        return "its files are missing"
    text = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0] or type(error).__name__
    return text if len(text) <= REASON else text[:REASON].rstrip() + " ..."


def _set_aside(place: Path, step: int) -> str:
    name = f"damaged_{step}"
    if jax.process_index() == 0:
        while (place / name).exists():
            name += "_"
        (place / str(step)).rename(place / name)
    multihost_utils.sync_global_devices(f"set aside {step}")
    return f"set aside as {name}"
