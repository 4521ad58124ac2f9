"""Feeds of images: views that the host made, or what the device makes them of.

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
from typing import Any

import numpy as np

from ssl_jax.data.feed import Feed
from ssl_jax.data.images import device, stream
from ssl_jax.data.images.recipes import Recipe
from ssl_jax.data.order import FOREVER, indices, process_rows
from ssl_jax.data.source import Source
from ssl_jax.types import Config

TABLE_LIMIT = 1 << 30  # of runs from before the key existed


def feed(
    source: Source,
    recipe: Recipe,
    data: Config,
    *,
    seed: int,
    global_batch_size: int,
    mode: str = "jit",
    among: np.ndarray | None = None,
) -> Feed:
    """The feed of training images, a line of the table above.

    Args:
      data: that part of the config: ``augment``, ``image_size``, ``table_limit``, ``max_unreadable``.
      mode: ``parallel.mode``.
      among: the examples that are drawn, if not all.

    Raises:
      ValueError: the recipe cannot be carried out on the device.
    """
    number = len(source) if among is None else len(among)
    pool, steps = number if among is None else among, number // global_batch_size

    def streamed(crops_only: bool):
        def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
            return stream.batches(
                source,
                recipe=recipe,
                image_size=data.image_size,
                global_batch_size=global_batch_size,
                seed=seed,
                start_step=start_step,
                total_steps=total_steps,
                process=process,
                process_count=process_count,
                crops_only=crops_only,
                max_unreadable=data.get("max_unreadable", 1.0),
                unreadable=unreadable,
                among=among,
            )

        return batches

    def indexed(with_images: bool):
        def batches(
            *, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None
        ) -> Iterator[dict[str, Any]]:
            rows = process_rows(global_batch_size, process, process_count)
            step, stop = start_step, FOREVER if total_steps is None else total_steps
            while step < stop:
                drawn = indices(pool, global_batch_size, seed, step)[rows]
                label = np.full(len(drawn), -1, np.int32) if source.labels is None else source.labels[drawn]
                batch = {"label": label, "index": drawn.astype(np.int32)}
                yield batch | {"image": source.columns["image"][drawn]} if with_images else batch
                step += 1

        return batches

    if data.augment == "host":
        return Feed(streamed(crops_only=False), steps, number)
    views = device.views(recipe, data.image_size)
    images = source.columns.get("image")
    where = "augmentation on the device"
    if images is None:
        notes = (f"{where}; the host decodes, crops and resizes",)
        return Feed(streamed(crops_only=True), steps, number, views=views, notes=notes)
    if mode == "jit" and images.nbytes <= data.get("table_limit", TABLE_LIMIT):
        notes = (f"{where}, where the {len(images)} training images lie ({images.nbytes / 1e6:.3g} MB)",)
        return Feed(indexed(with_images=False), steps, number, views=views, table=images, notes=notes)
    notes = (f"{where}; the host sends the images",)
    return Feed(indexed(with_images=True), steps, number, views=views, notes=notes)
