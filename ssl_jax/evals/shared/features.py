"""Frozen features of a dataset: every example once, in index order; and a cache of them on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssl_jax.online.progress import phase
from ssl_jax.types import Batch, Variables

SHARD = 8_192  # rows that are written, and checked, at a time


def extract(
    encode: Callable,
    variables: Variables,
    batches: Iterable[Batch],
    *,
    place: Callable[[Batch], Batch],
    num_examples: int | None = None,
) -> dict[str, np.ndarray]:
    """Run ``encode`` over evaluation batches and gather what it returns.

    Every process must call this with the same number of equal batches; each gets the whole result.

    Args:
      encode: ``(variables, inputs) -> {name: [b, d]}``, jitted by the caller.
      variables: what ``encode`` computes with.
      batches: this process's ``{"inputs", "label", "index", "mask"}``; rows with mask False are padding.
      place: puts a batch on the devices, e.g. ``lambda b: parallel.place(b, mesh)``.
      num_examples: how many examples there should be; checked when given.

    Returns:
      ``{name: [n, d], ..., "label": [n], "index": [n]}`` on the host, sorted by index.

    Raises:
      ValueError: no batches, an index that comes twice, or examples that are missing.
    """
    parts: list[dict[str, np.ndarray]] = []
    running = None
    for batch in batches:
        batch = place({name: batch[name] for name in ("inputs", "label", "index", "mask")})
        rows = {name: batch[name] for name in ("label", "index", "mask")}
        # one batch ahead: the devices work on this one while the host fetches the one before
        with phase("compiling the encoder") if running is None else contextlib.nullcontext():
            found = encode(variables, batch["inputs"])
        running, done = {**found, **rows}, running
        if done is not None:
            parts.append(_fetch(done))
    if running is None:
        raise ValueError("no evaluation batches; is the split empty?")
    parts.append(_fetch(running))

    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    index = result["index"]
    order = np.argsort(index, kind="stable")
    again = np.flatnonzero(np.diff(index[order]) == 0)
    if len(again):
        raise ValueError(
            f"example {index[order][again[0]]} came twice among {len(index)}; evaluation batches must mask padding rows"
        )
    if num_examples is not None and len(index) != num_examples:
        raise ValueError(f"{len(index)} examples came but the split has {num_examples}; use a batcher that drops none")
    return {name: values[order] for name, values in result.items()}


def _fetch(values: dict) -> dict[str, np.ndarray]:
    """Rows that are no padding, of all processes, on the host."""
    if jax.process_count() > 1:
        values = multihost_utils.process_allgather(values, tiled=True)
    values = {name: np.asarray(value) for name, value in values.items()}
    mask = values.pop("mask").astype(bool)
    return {name: value[mask] for name, value in values.items()}


class Damaged(Exception):
    """A shard of a cache file is not what was written."""


def cached(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    rows: int,
    compute: Callable[[int, int], Mapping[str, np.ndarray]],
    say: Callable[[str], None] = print,
) -> dict[str, np.ndarray]:
    """Arrays of ``rows`` rows that are computed once, shard by shard, and read from disk ever after.

    ``<folder>/<name>.npy`` holds an array, ``<name>.json`` the sha256 of every shard of 8,192 rows that is done. An
    interrupted computation goes on after its last whole shard; what is damaged is named and computed again. Several
    processes need a folder that all of them see; process 0 writes.

    Args:
      folder: its name should say what the arrays depend on.
      shapes: of one row, by name; ``"label"`` is int32, the others are float32.
      rows: number of rows.
      compute: ``(start, stop) -> {name: [stop - start, ...]}``; every process calls it.
      say: where messages go.

    Returns:
      ``{name: [rows, ...]}``, mapped from disk and read only.

    Raises:
      ValueError: the disk has no room for them.
    """
    writes = jax.process_index() == 0
    done = {name: len(_whole_shards(folder, name, rows, shape, say)) if writes else 0 for name, shape in shapes.items()}
    shards = -(-rows // SHARD)
    first = min(done.values())
    if jax.process_count() > 1:
        first = int(multihost_utils.broadcast_one_to_all(np.int32(first)))
    if writes and first < shards:
        _make_room(folder, {name: shape for name, shape in shapes.items() if done[name] < shards}, rows, say)
    for shard in range(first, shards):
        start, stop = shard * SHARD, min(rows, (shard + 1) * SHARD)
        found = compute(start, stop)
        for name in shapes if writes else ():
            if done[name] <= shard:
                _write_shard(folder, name, rows, shapes[name], shard, found[name])
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"cached {folder.name}")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes}


def _dtype(name: str) -> np.dtype:
    return np.dtype(np.int32 if name == "label" else np.float32)


def _whole_shards(folder: Path, name: str, rows: int, shape: tuple[int, ...], say) -> list[str]:
    """Digests of the leading shards that are what was written."""
    file, record = folder / f"{name}.npy", folder / f"{name}.json"
    if not file.is_file() or not record.is_file():
        return []
    digests: list[str] = []
    try:
        array = np.load(file, mmap_mode="r")
        said = json.loads(record.read_text())
        if array.shape != (rows, *shape) or array.dtype != _dtype(name):
            raise Damaged(f"holds {array.dtype} {array.shape}")
        for shard, digest in enumerate(said):
            if _digest(array[shard * SHARD : (shard + 1) * SHARD]) != digest:
                raise Damaged(f"rows {shard * SHARD} to {min(rows, (shard + 1) * SHARD)} are not what was written")
            digests.append(digest)
    except (Damaged, ValueError, OSError, TypeError, EOFError) as error:
        why, row = str(error).splitlines()[0], len(digests) * SHARD
        say(f"the cached {file} is damaged ({why}); computing it again from row {row}")
        record.write_text(json.dumps(digests))
        if not digests:
            file.unlink()
    return digests


def _make_room(folder: Path, shapes: Mapping[str, tuple[int, ...]], rows: int, say) -> None:
    sizes = {name: rows * math.prod(shape) * _dtype(name).itemsize for name, shape in shapes.items()}
    there = sum(file.stat().st_size for name in shapes if (file := folder / f"{name}.npy").is_file())
    need = sum(sizes.values()) - there
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if need > 0.95 * free:
        raise ValueError(
            f"the features take {need / 1e9:.1f} GB and {existing} has {free / 1e9:.1f} GB free; "
            "free some space, ask for fewer layers, or use --outdir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    layers = ", ".join(name for name in shapes if name != "label")
    say(f"features of {rows:,} examples ({layers}): {need / 1e6:,.1f} MB in {folder}")


def _write_shard(folder: Path, name: str, rows: int, shape: tuple[int, ...], shard: int, values: np.ndarray) -> None:
    file, record = folder / f"{name}.npy", folder / f"{name}.json"
    if file.is_file():
        array = np.lib.format.open_memmap(file, mode="r+")
    else:
        array = np.lib.format.open_memmap(file, mode="w+", dtype=_dtype(name), shape=(rows, *shape))
    part = np.ascontiguousarray(values, _dtype(name))
    array[shard * SHARD : shard * SHARD + len(part)] = part
    array.flush()
    digests = json.loads(record.read_text()) if shard and record.is_file() else []
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps([*digests[:shard], _digest(part)]))
    temporary.replace(record)  # after the rows: a kill leaves a record of whole shards only


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
