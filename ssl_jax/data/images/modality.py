"""Images as a kind of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.data.images import device, feed, stream, values
from ssl_jax.data.images.recipes import Recipe, View
from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source, refuse_one
from ssl_jax.types import Config


def make(recipe: Recipe, data: Config, channels: int) -> Modality:
    """The modality of a recipe for images of ``data.image_size`` with so many channels.

    Raises:
      ValueError: ``data.mean`` or ``data.std`` are not for these channels.
    """
    for key in ("mean", "std"):
        if len(data[key]) not in (1, channels):
            raise ValueError(f"data.{key} has {len(data[key])} numbers for images of {channels} channel(s)")
    size = data.image_size

    def fitting(source: Source) -> Source:
        if "text" in source.columns:
            raise ValueError("this recipe is for images and the examples are text; use a source of images")
        if source.channels > channels:
            raise ValueError("these images are in colour and the encoder takes grey ones; convert them to grey first")
        return source if source.channels == channels else source.in_colour()

    def of_part(views: Sequence[View], rows: int, dtype: Any = np.float32) -> dict[str, Any]:
        sizes = [view.size or size for view in views]
        images = tuple(jax.ShapeDtypeStruct((rows, s, s, channels), dtype) for s in sizes)
        return {"views": images, "index": jax.ShapeDtypeStruct((rows,), np.int32)}

    def spec(rows: int, dtype: Any = np.float32) -> dict[str, Any]:
        batch = of_part(recipe.views, rows, dtype)
        batch["label"] = batch["index"]
        more = {"unlabelled": of_part(recipe.unlabelled, rows * recipe.ratio, dtype)} if recipe.unlabelled else {}
        return batch | more

    def sent(rows: int):
        if data.augment != "device":
            return spec(rows), None
        device.check_own(recipe, size, channels)
        return spec(rows, np.uint8), device.views(recipe, size)

    def make_feed(source: Source, **how: Any):
        device.check_own(recipe, size, channels)
        stored = source.columns.get("image")
        values.check_sizes(recipe, size, None if stored is None else stored.shape)
        return feed.feed(fitting(source), recipe, data, **how)

    def inputs(source: Source, **split: Any) -> Iterator[dict[str, np.ndarray]]:
        return _named(stream.eval_batches(fitting(source), image_size=size, recipe_eval=recipe.evaluate, **split))

    large = [view for view in recipe.views if view.size is None] or recipe.views[:1]  # one size for all
    drawn = any(view.crop is not None or view.ops for view in large)

    def views(source: Source, *, count: int, seed: int, **split: Any) -> Iterator[dict[str, np.ndarray]]:
        asked = [large[v % len(large)] for v in range(count)]
        return _named(stream.view_batches(fitting(source), views=asked, image_size=size, seed=seed, **split))

    def prepare(images: Any) -> np.ndarray:
        images = np.asarray(images)
        refuse_one(images)
        if images.ndim != 4:
            raise ValueError(f"an array {list(images.shape)} is no batch of images; give [n, h, w, c]")
        images = stream.evaluation_view(images, recipe.evaluate, size)
        if images.shape[-1] != channels:
            raise ValueError(
                f"images have {images.shape[-1]} channel(s) and this encoder takes {channels}; convert them"
            )
        return images

    def raw(source: Source) -> np.ndarray:
        """Pixels: those of the dataset where it has images of one size, else of the evaluation view."""
        stored = fitting(source).columns.get("image")
        if stored is not None:
            images = stored / np.float32(255)
        else:
            split = {"global_batch_size": min(512, len(source))}
            images = np.concatenate([batch["inputs"] for batch in inputs(source, **split)])[: len(source)]
        return np.asarray(images, np.float32).reshape(len(source), -1)

    return Modality(
        input_shape=(size, size, channels),
        spec=spec,
        feed=make_feed,
        inputs=inputs,
        prepare=prepare,
        # The host makes them, and a recipe without anything random, as of imported networks, has none.
        views=views if drawn and not values.own_operations(recipe) else None,
        raw=raw,
        sent=sent,
        accepts=lambda source: (fitting(source), None)[1],
        record="images",
        shown=True,
        done=tuple(values.lines(view) for view in (recipe.unlabelled or recipe.views)),
    )


def _named(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches:
        yield {"inputs" if name == "image" else name: value for name, value in batch.items()}
