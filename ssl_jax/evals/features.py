"""Frozen features of a dataset: every example once, in index order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssl_jax.types import Batch, Variables


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
      encode: ``(variables, images) -> {name: [b, d]}``, jitted by the caller.
      variables: what ``encode`` computes with.
      batches: this process's ``{"image", "label", "index", "mask"}``; rows with mask False are padding.
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
        batch = place({name: batch[name] for name in ("image", "label", "index", "mask")})
        rows = {name: batch[name] for name in ("label", "index", "mask")}
        # one batch ahead: the devices work on this one while the host fetches the one before
        running, done = {**encode(variables, batch["image"]), **rows}, running
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
