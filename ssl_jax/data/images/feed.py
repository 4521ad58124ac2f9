"""Feeds of images: views that the host made, or what the device makes them of.

| ``data.augment`` | images of the source | a batch holds | the host's work |
|---|---|---|---|
| host | any | ``"views"`` float32 | everything (``stream.py``, TensorFlow) |
| device | in memory, up to ``data.table_limit`` bytes | ``"index"``; all images are on the device, ``"table"`` | none |
| device | in memory, more than that; or under pmap | ``"image"`` uint8, rows of the array | a copy |
| device | encoded, in files | ``"views"`` uint8, cropped and resized | decode, crop, resize (TensorFlow) |

Of two parts (``Recipe.unlabelled``) the second comes under ``"unlabelled"`` in the same form, without labels.

Rows come in the same order in all four. The first two of the device give the same bits; in the last, the boxes are
those that the host would have drawn, and pixels are rounded to 8 bits before the other operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import few_labels
from ssl_jax.data.feed import Feed, together
from ssl_jax.data.images import device, stream
from ssl_jax.data.images.recipes import Recipe, View
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
    number, parts = few_labels.parts(source, recipe, global_batch_size, among)

    def streamed(crops_only: bool):
        def of_part(views: Sequence[View], **drawn: Any):
            def batches(**split: Any):
                return stream.batches(
                    source,
                    recipe=recipe._replace(views=tuple(views)),
                    image_size=data.image_size,
                    seed=seed,
                    crops_only=crops_only,
                    max_unreadable=data.get("max_unreadable", 1.0),
                    **drawn,
                    **split,
                )

            return batches

        return of_part

    def indexed(with_images: bool):
        def of_part(views: Sequence[View], *, among, global_batch_size: int, part: int | None):
            pool = len(source) if among is None else among

            def batches(
                *, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None
            ) -> Iterator[dict[str, Any]]:
                rows = process_rows(global_batch_size, process, process_count)
                step, stop = start_step, FOREVER if total_steps is None else total_steps
                while step < stop:
                    drawn = indices(pool, global_batch_size, seed, step, part)[rows]
                    label = np.full(len(drawn), -1, np.int32) if source.labels is None else source.labels[drawn]
                    batch = {"label": label, "index": drawn.astype(np.int32)}
                    yield batch | {"image": source.columns["image"][drawn]} if with_images else batch
                    step += 1

            return batches

        return of_part

    def made(of_part, **more: Any) -> Feed:
        views = (recipe.views, recipe.unlabelled)[: len(parts)]
        batches = [of_part(asked, **drawn) for asked, drawn in zip(views, parts, strict=True)]
        steps = number // parts[-1]["global_batch_size"]
        return Feed(together(*batches), steps, number, **more)

    if data.augment == "host":
        return made(streamed(crops_only=False))
    augment = device.views(recipe, data.image_size)
    images = source.columns.get("image")
    where = "augmentation on the device"
    if images is None:
        notes = (f"{where}; the host decodes, crops and resizes",)
        return made(streamed(crops_only=True), views=augment, notes=notes)
    if mode == "jit" and images.nbytes <= data.get("table_limit", TABLE_LIMIT):
        notes = (f"{where}, where the {len(images)} training images lie ({images.nbytes / 1e6:.3g} MB)",)
        return made(indexed(with_images=False), views=augment, table=images, notes=notes)
    notes = (f"{where}; the host sends the images",)
    return made(indexed(with_images=True), views=augment, notes=notes)
