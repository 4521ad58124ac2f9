"""What a train step is fed: views that the host made, or what the device makes them of.

| ``data.augment`` | images of the source | a batch holds | the host's work |
|---|---|---|---|
| host | any | ``"views"`` float32 | everything (``stream.py``, TensorFlow) |
| device | in memory, up to ``data.table_limit`` bytes | ``"index"``; all images are on the device, ``"table"`` | none |
| device | in memory, more than that; or under pmap | ``"image"`` uint8, rows of the array | a copy |
| device | encoded, in files | ``"views"`` uint8, cropped and resized | decode, crop, resize (TensorFlow) |

Rows come in the same order in all four. The first two of the device give the same bits; in the last, the boxes are
those that the host would have drawn, and pixels are rounded to 8 bits before the other operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from ssl_jax.config import Config
from ssl_jax.data.images import device, recipes, stream
from ssl_jax.data.order import FOREVER, indices, process_rows
from ssl_jax.data.source import Source
from ssl_jax.types import Views

TABLE_LIMIT = 1 << 30  # of runs from before the key existed


class Feed(NamedTuple):
    """How a source reaches the step.

    Attributes:
      kind: a line of the table above.
      views: what the step makes views with; None where they come ready.
      table: uint8 ``[n, h, w, c]``, to be placed on the device once; None where batches bring their images.
    """

    kind: Literal["views", "table", "rows", "crops"]
    views: Views | None = None
    table: np.ndarray | None = None


def choose(source: Source, data: Config, *, mode: str = "jit") -> Feed:
    """The feed of a training source.

    Args:
      source: the training examples.
      data: that part of the config: ``augment``, ``recipe``, ``image_size``, ``table_limit``.
      mode: ``parallel.mode``.

    Raises:
      ValueError: the recipe cannot be carried out on the device.
    """
    if data.augment == "host":
        return Feed("views")
    views = device.views(recipes.get(data.recipe), data.image_size)
    images = source.columns.get("image")
    if images is None:
        return Feed("crops", views)
    fits = images.nbytes <= data.get("table_limit", TABLE_LIMIT)
    return Feed("table", views, images) if fits and mode == "jit" else Feed("rows", views)


def describe(feed: Feed) -> tuple[str, ...]:
    """What the log says of it, in no line or one."""
    if feed.table is not None:
        size = f"{feed.table.nbytes / 1e6:.3g} MB"
        return (f"augmentation on the device, where the {len(feed.table)} training images lie ({size})",)
    if feed.kind == "rows":
        return ("augmentation on the device; the host sends the images",)
    if feed.kind == "crops":
        return ("augmentation on the device; the host decodes, crops and resizes",)
    return ()


def batches(
    feed: Feed,
    source: Source,
    *,
    data: Config,
    seed: int,
    global_batch_size: int,
    start_step: int = 0,
    total_steps: int | None = None,
    process: int = 0,
    process_count: int = 1,
    unreadable: set[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Training batches from step ``start_step`` on, without ``"table"``; arguments as in :func:`stream.batches`.

    Returns:
      Iterator of ``{"label": int32 [b], "index": int32 [b]}`` and what the table of the module says, NumPy arrays.
    """
    split = {"process": process, "process_count": process_count}
    if feed.kind in ("views", "crops"):
        return stream.batches(
            source,
            recipe=recipes.get(data.recipe),
            image_size=data.image_size,
            global_batch_size=global_batch_size,
            seed=seed,
            start_step=start_step,
            total_steps=total_steps,
            crops_only=feed.kind == "crops",
            max_unreadable=data.get("max_unreadable", 1.0),
            unreadable=unreadable,
            **split,
        )
    rows = process_rows(global_batch_size, **split)
    return _indexed(feed, source, global_batch_size, seed, start_step, total_steps, rows)


def _indexed(feed, source, global_batch_size, seed, step, total_steps, rows) -> Iterator[dict[str, Any]]:
    stop = FOREVER if total_steps is None else total_steps
    while step < stop:
        drawn = indices(len(source), global_batch_size, seed, step)[rows]
        label = np.full(len(drawn), -1, np.int32) if source.labels is None else source.labels[drawn]
        batch = {"label": label, "index": drawn.astype(np.int32)}
        yield batch if feed.kind == "table" else batch | {"image": source.columns["image"][drawn]}
        step += 1
