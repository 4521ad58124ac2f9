"""Index-addressed batches: batch t is a function of (seed, t) alone, so a run resumes at once at any step.

Which examples it holds, ``data/order.py`` says; row r of batch t is augmented with the stateless seed (seed, t N + r).
Nothing is stored and nothing depends on how many processes or threads share the work.

A plain JPEG at which TensorFlow stops and which Pillow reads (see ``decode.py``) is read by Pillow, draw by draw. The
first one costs one restart of the stream, which is ``careful`` from then on; what comes out is the same as if it had
been so from the start.

A file that breaks during the run is replaced by another example (``stand_ins.py``).
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import tensorflow
from ssl_jax.data.images import decode, stand_ins
from ssl_jax.data.images.recipes import Eval, Recipe, View
from ssl_jax.data.order import FOREVER, indices, process_rows
from ssl_jax.data.source import Source

log = logging.getLogger(__name__)


def batches(
    source: Source,
    *,
    recipe: Recipe,
    image_size: int,
    global_batch_size: int,
    seed: int,
    start_step: int = 0,
    total_steps: int | None = None,
    process: int = 0,
    process_count: int = 1,
    crops_only: bool = False,
    max_unreadable: float = 1.0,
    unreadable: set[int] | None = None,
    among: np.ndarray | None = None,
    part: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Augmented training batches from step ``start_step`` on, this process's rows of each.

    Args:
      source: what to draw from; a file of it that breaks during the run is replaced by another, and named.
      recipe: one view is made for each of its ``views``.
      image_size: side of a view in pixels, where the recipe does not say another.
      global_batch_size: rows of all processes together.
      seed: 0 to 2^32 - 1, of order and augmentation.
      start_step: first batch; any number costs the same.
      total_steps: batches end before this step; None: they never end.
      process: rows ``process / process_count`` to ``(process + 1) / process_count`` of each batch are made.
      process_count: processes that share a batch.
      crops_only: crop and resize alone, to uint8 views: the device does the rest (``device.py``).
      max_unreadable: fraction of the examples that may break.
      unreadable: to it are added the examples that this process found broken.
      among: the examples that are drawn, int64; None: all.
      part: of a batch of several parts, which has an order and draws of its own.

    Returns:
      Iterator of ``{"views": (float32 [b, s, s, c], ...) in [0, 1], "label": int32 [b] (-1 where unknown),
      "index": int32 [b]}``, NumPy arrays.

    Raises:
      ValueError: if the batch cannot be drawn or split; from the iterator: if more than ``max_unreadable`` broke.
    """
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed {seed} is out of range; use 0 to {(1 << 32) - 1}")
    pool = len(source) if among is None else among
    indices(pool, global_batch_size, seed, start_step, part)
    first = (part or 0) << 8  # so that no view of another part draws the same
    rows = process_rows(global_batch_size, process, process_count)

    def plan(step: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = indices(pool, global_batch_size, seed, step, part)[rows]
        return drawn, int(step) * global_batch_size + np.arange(rows.start, rows.stop, dtype=np.int64)

    def views(shape, crop, number):
        from ssl_jax.data.images import host

        tf = tensorflow()
        made = []
        for v, view in enumerate(recipe.views, first):
            view = view._replace(ops=()) if crops_only else view
            # The number of the view goes into the half of the seed that the run leaves free.
            image = host.augment(view, tf.stack([seed + (v << 32), number]), image_size, shape=shape, crop=crop)
            made.append(tf.cast(tf.round(image * 255.0), tf.uint8) if crops_only else image)
        return tuple(made)

    stop = FOREVER if total_steps is None else total_steps
    local = rows.stop - rows.start
    found = set() if unreadable is None else unreadable
    return _training(source, plan, views, local, len(recipe.views) > 1, start_step, stop, max_unreadable, found)


def _training(
    source, plan, views, local, whole, step, stop, max_unreadable: float, unreadable: set[int]
) -> Iterator[dict[str, Any]]:
    replaced: dict[int, int] = {}
    failure = tensorflow().errors.OpError
    make, careful = _stream(source, views, local, whole=whole), False
    while step < stop:
        stream = make(lambda t: stand_ins.put(plan(t), replaced), step, stop, careful)
        try:
            for drawn, images in stream:
                label = np.full(local, -1, np.int32) if source.labels is None else source.labels[drawn]
                yield {"views": images, "label": label, "index": drawn.astype(np.int32)}
                step += 1
        except failure as error:
            broken = sorted({int(i) for i in stand_ins.put(plan(step), replaced)[0] if not stand_ins.opens(source, i)})
            if not broken and careful:
                raise
            careful = careful or not broken
            unreadable |= set(broken)
            stand_ins.check(source, {*replaced, *broken}, max_unreadable, error)
            for i in broken:
                stand_ins.find(source, i, replaced, error)


def _stream(source: Source, images_of: Any, local: int, *, whole: bool = False) -> Any:
    """``make(plan, start, stop, careful) -> iterator`` of (indices, what ``images_of(shape, crop, number)`` makes).

    ``plan(step)`` gives the indices of a batch and the number of each of its rows. ``whole``, ``careful``: see
    ``decode.from_encoded``.
    """
    tf = tensorflow()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Converted once, so that every use is one tensor instead of a constant in each graph.
    with tf.device("CPU"):
        columns = {
            name: tf.convert_to_tensor([os.fsencode(path) for path in column] if name == "path" else column)
            for name, column in source.columns.items()
            if name in ("image", "encoded", "plain") or (name == "path" and "offset" not in source.columns)
        }
    plain = source.columns.get("plain")
    uniform = bool(plain[0]) if plain is not None and (plain.all() or not plain.any()) else None

    def contents(index):
        if "encoded" in columns:
            return columns["encoded"][index]
        if "path" in columns:
            return tf.io.read_file(columns["path"][index])
        # TensorFlow reads no part of a file.
        data = tf.numpy_function(lambda i: decode.contents(source.record(i)), [index], tf.string, stateful=False)
        return tf.ensure_shape(data, [])

    @tf.autograph.experimental.do_not_convert  # branches are written as tf.cond; rewriting the code only takes time
    def one(index, number, careful):
        if "image" in columns:
            shape, crop = decode.from_image(tf.gather(columns["image"], index))
        else:
            data = contents(index)
            shape, crop = decode.from_encoded(
                data,
                columns["plain"][index] if uniform is None else uniform,
                source.channels,
                source.decoding,
                whole=whole,
                careful=careful,
            )
        return index, images_of(shape, crop, number)

    def make(plan, start, stop, careful):
        def planned(step):
            drawn, numbers = tf.numpy_function(plan, [step], (tf.int64, tf.int64))
            return tf.ensure_shape(drawn, [local]), tf.ensure_shape(numbers, [local])

        dataset = tf.data.Dataset.range(start, stop).map(tf.autograph.experimental.do_not_convert(planned)).unbatch()
        dataset = dataset.map(functools.partial(one, careful=careful), num_parallel_calls=threads, deterministic=True)
        dataset = dataset.batch(local, drop_remainder=True).prefetch(2)
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = threads
        # Not autotuned: its thread sleeps up to a minute between looks, and the end of a run would wait for it.
        options.autotune.enabled = False
        return dataset.with_options(options).as_numpy_iterator()

    return make


def eval_batches(
    source: Source,
    *,
    image_size: int,
    recipe_eval: Eval,
    global_batch_size: int,
    process: int = 0,
    process_count: int = 1,
    quiet: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once and in order, unaugmented; the last batch is padded and says so in its mask.

    Images in memory that already have ``image_size`` are taken as they are, without TensorFlow.

    Args:
      source: what to go through; a file that broke since the index was built is masked, and named.
      image_size: side in pixels of what comes out.
      recipe_eval: how other images are brought to that size.
      global_batch_size: rows of all processes together.
      process: see :func:`batches`.
      process_count: processes that share a batch; all get the same number of batches.
      quiet: what is masked is not named: the caller does.

    Returns:
      Iterator of ``{"image": float32 [b, s, s, c] in [0, 1], "label": int32 [b], "index": int32 [b],
      "mask": bool [b]}``; where the mask is False the image is zero, the label -1 and the index 0.

    Raises:
      ValueError: if the batch cannot be split.
    """
    rows = process_rows(global_batch_size, process, process_count)
    images = source.columns.get("image")
    if images is not None and images.shape[1:3] == (image_size, image_size):
        return _in_memory(source, images, global_batch_size, rows)
    from ssl_jax.data.images import host

    def image_of(shape, crop, number):
        return host.evaluate(recipe_eval, image_size, shape=shape, crop=crop)

    return _in_order(source, image_of, global_batch_size, rows, quiet)


def view_batches(
    source: Source,
    *,
    views: Sequence[View],
    image_size: int,
    global_batch_size: int,
    seed: int,
    process: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """As :func:`eval_batches`, but random views: ``"image"`` is float32 ``[b, v, s, s, c]``, v the number of views.

    What example i looks like depends on (seed, i) and the number of the view alone.
    """
    from ssl_jax.data.images import host

    tf = tensorflow()
    rows = process_rows(global_batch_size, process, process_count)

    def image_of(shape, crop, number):
        made = [
            host.augment(view, tf.stack([seed + (v << 32), number]), image_size, shape=shape, crop=crop)
            for v, view in enumerate(views)
        ]
        return tf.stack(made)

    return _in_order(source, image_of, global_batch_size, rows)


def evaluation_view(images: np.ndarray, recipe_eval: Eval, image_size: int) -> np.ndarray:
    """Images in memory as evaluation sees them.

    Args:
      images: ``[b, h, w, c]``, uint8 or float in [0, 1]; of ``image_size`` already, they need no TensorFlow.

    Returns:
      float32 ``[b, image_size, image_size, c]`` in [0, 1].

    Raises:
      ValueError: another shape, dtype or range.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}; give [batch, height, width, channels]")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255.0)
    elif images.dtype.kind != "f" or (images.size and not (images.min() >= 0 and images.max() <= 1)):
        raise ValueError(f"images are {images.dtype}, {images.min()} to {images.max()}; give uint8 or floats in [0, 1]")
    images = images.astype(np.float32)
    if images.shape[1:3] == (image_size, image_size):
        return images
    from ssl_jax.data.images import host

    def one(image):
        def crop(box):
            y, x, h, w = (int(v) for v in box)
            return image[y : y + h, x : x + w]

        return host.evaluate(recipe_eval, image_size, shape=np.array(image.shape, np.int32), crop=crop).numpy()

    return np.stack([one(image) for image in images])


def _plan_evaluation(n: int, global_batch_size: int, rows: slice, step: int) -> np.ndarray:
    """The indices of this process's rows of batch ``step``, -1 where the batch is padded."""
    index = np.arange(step * global_batch_size + rows.start, step * global_batch_size + rows.stop)
    return np.where(index < n, index, -1)


def _evaluation_batch(source: Source, image: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
    mask = index >= 0
    image = image if mask.all() else np.where(mask.reshape(-1, *[1] * (image.ndim - 1)), image, np.float32(0))
    index = np.where(mask, index, 0).astype(np.int32)
    label = np.full(len(index), -1, np.int32) if source.labels is None else source.labels[index]
    return {"image": image, "label": np.where(mask, label, -1).astype(np.int32), "index": index, "mask": mask}


def _in_memory(source, images, global_batch_size, rows) -> Iterator[dict[str, np.ndarray]]:
    for step in range(-(-len(source) // global_batch_size)):
        index = _plan_evaluation(len(source), global_batch_size, rows, step)
        yield _evaluation_batch(source, images[np.maximum(index, 0)].astype(np.float32) / np.float32(255.0), index)


def _in_order(source, image_of, global_batch_size, rows, quiet=False) -> Iterator[dict[str, np.ndarray]]:
    n, local = len(source), rows.stop - rows.start
    broken: set[int] = set()
    careful, failure = False, tensorflow().errors.OpError

    def plan(step):
        index = _plan_evaluation(n, global_batch_size, rows, int(step))
        return np.where(np.isin(index, list(broken)), -1, index) if broken else index

    def drawable(step):
        # Rows that are masked still draw an image, any whole one.
        stand_in = next(i for i in range(n) if i not in broken)
        index = plan(step)
        return np.where(index < 0, stand_in, index).astype(np.int64), index

    make = _stream(source, image_of, local)
    step, stop = 0, -(-n // global_batch_size)
    while step < stop:
        try:
            for _, image in make(drawable, step, stop, careful):
                yield _evaluation_batch(source, image, plan(step))
                step += 1
        except failure:
            lost = {int(i) for i in drawable(step)[0] if not stand_ins.opens(source, int(i))}
            if not lost and careful:
                raise
            careful = careful or not lost
            broken |= lost
            for i in () if quiet else sorted(lost):
                log.warning(
                    "%s cannot be read any more and is masked (%d so far)", *stand_ins.names(source, i), len(broken)
                )
            if len(broken) == n:
                raise stand_ins.Lost from None
