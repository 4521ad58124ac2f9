"""Pictures of a run: what the method sees, what it is asked, and what its features find alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source
from ssl_jax.evals.shared import figures
from ssl_jax.names import short
from ssl_jax.types import Method, Variables

BATCH = 512
SHOWN = 8
HOOKS = frozenset({"show", "reconstruct"})  # that :func:`tasks` draws


def evaluation_images(modality: Modality, source: Source) -> np.ndarray:
    """Evaluation views ``[n, s, s, c]``; an image that cannot be read any more is black."""
    batches = modality.inputs(source, global_batch_size=min(BATCH, len(source)))
    return np.concatenate([batch["inputs"] for batch in batches])[: len(source)]


def titled(method: str, run: Path, step: int | None = None) -> str:
    """What stands above a picture: ``simclr, runs/digits, step 500``."""
    where = os.path.join(*run.absolute().parts[-2:])
    return f"{short(method)}, {where}" + ("" if step is None else f", step {step:,}")


def views(modality: Modality, seed: int, train: Source, path: Path, title: str = "") -> None:
    """A few training images and their views as the method sees them."""
    rows = min(SHOWN, len(train))
    feed = modality.feed(train, seed=seed, global_batch_size=rows, mode="pmap")  # rows, not all images, on the device
    first = next(feed.batches(total_steps=1))
    if feed.views is not None:
        first = jax.jit(feed.views, static_argnums=2)(first, jax.random.key(seed), None)
    part = first.get("unlabelled", first)  # of two parts the one of which there are several views
    originals = evaluation_images(modality, train.take(np.asarray(part["index"])[:rows]))
    names = {f"view {v}": images[:rows] for v, images in enumerate(part["views"])}  # as keys of data.views count them
    alike = [[v for v, other in enumerate(modality.done) if other == done] for done in modality.done]
    below = [
        f"{'view' if len(group) == 1 else 'views'} {' and '.join(map(str, group))}: "
        + ", ".join(f"{word} ({numbers})" for word, numbers in done)
        for v, (group, done) in enumerate(zip(alike, modality.done, strict=True))
        if group[0] == v
    ]
    figures.image_rows({"original": originals} | names, path, below, title)


def neighbours(
    modality: Modality, bank_features, bank: Source, query_features, test: Source, path: Path, title: str = ""
) -> None:
    """A few test images and the images of the bank nearest to them by cosine; a row of features for each image.

    Below each stand its cosine and the name of its file, where it has one.
    """
    shown, near, cosines = nearest(bank_features, query_features, SHOWN)
    queries = test.take(shown)
    found = evaluation_images(modality, bank.take(near.reshape(-1)))
    figures.neighbours(
        evaluation_images(modality, queries),
        found.reshape(*near.shape, *found.shape[1:]),
        path,
        query_labels=queries.labels,
        neighbour_labels=None if bank.labels is None else bank.labels[near],
        class_names=bank.class_names,
        captions=[
            [
                _file(test, row),
                *(f"{cosine:.2f}\n{_file(bank, at)}".rstrip() for at, cosine in zip(rows, near_by, strict=True)),
            ]
            for row, rows, near_by in zip(shown, near, cosines, strict=True)
        ],
        title=title,
    )


def _file(source: Source, row: int) -> str:
    """The name of an example's own file; nothing for one inside another file or in memory."""
    inside = "path" not in source.columns or "offset" in source.columns
    return "" if inside else os.path.basename(os.fsdecode(source.columns["path"][row]))


def nearest(bank_features, query_features, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows ``[q]`` of ``count`` queries far apart in order, their nearest ``[q, count]`` of the bank, the cosines).

    The bank's mean is taken off before the cosine, as kNN does.
    """
    shown = np.linspace(0, len(query_features) - 1, min(count, len(query_features))).astype(int)
    bank_features, query_features = centred(bank_features, query_features[shown])
    norms = np.linalg.norm(bank_features, axis=1).clip(1e-12)
    similar = (query_features @ bank_features.T) / norms[None]
    near = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    lengths = np.linalg.norm(query_features, axis=1, keepdims=True).clip(1e-12)
    return shown, near, np.take_along_axis(similar, near, axis=1) / lengths


def tasks(
    modality: Modality, seed: int, method: Method, variables: Variables, test: Source
) -> dict[str, Callable[[Path], None]]:
    """What draws ``task.png`` and ``reconstructions.png``, where the method has the hooks "show" and "reconstruct"."""
    shown = test.take(np.linspace(0, len(test) - 1, min(SHOWN, len(test))).astype(int))

    def task(path: Path) -> None:
        rows = jax.jit(method.hooks["show"])(variables, evaluation_images(modality, shown), jax.random.key(seed))
        figures.image_rows({name: np.asarray(row) for name, row in rows.items()}, path)

    def reconstructions(path: Path) -> None:
        images = evaluation_images(modality, shown)
        found = np.asarray(jax.jit(method.hooks["reconstruct"])(variables, images))
        figures.image_rows({"image": images, "reconstruction": found}, path)

    draws = {"show": ("task.png", task), "reconstruct": ("reconstructions.png", reconstructions)}
    return dict(draw for hook, draw in draws.items() if hook in method.hooks)


def centred(bank, queries) -> tuple[np.ndarray, np.ndarray]:
    """``(bank - m, queries - m)`` with ``m`` the bank's mean row.

    Features after a ReLU lie in one orthant, where all cosines are high and close together; without their mean the
    cosine tells examples apart better. No query statistics are used.
    """
    bank, queries = np.asarray(bank), np.asarray(queries)
    mean = bank.mean(axis=0, dtype=np.float64).astype(bank.dtype)
    return bank - mean, queries - mean
