"""Pictures of a run: what the method sees, what it is asked, and what its features find alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ssl_jax.config import Config
from ssl_jax.data import feed as feeds
from ssl_jax.data.images import recipes, stream
from ssl_jax.data.source import Source
from ssl_jax.evals import knn
from ssl_jax.evals.shared import figures
from ssl_jax.types import Method, Variables

EVAL_BATCH = 512
SHOWN = 8
HOOKS = frozenset({"show", "reconstruct"})  # that :func:`tasks` draws


def evaluation_images(config: Config, source: Source) -> np.ndarray:
    """Evaluation views ``[n, s, s, c]``; an image that cannot be read any more is black."""
    batches = stream.eval_batches(
        source,
        image_size=config.data.image_size,
        recipe_eval=recipes.get(config.data.recipe).evaluate,
        global_batch_size=min(EVAL_BATCH, len(source)),
    )
    return np.concatenate([batch["image"] for batch in batches])[: len(source)]


def views(config: Config, train: Source, path: Path) -> None:
    """A few training images and their views as the method sees them."""
    feed = feeds.choose(train, config.data, mode="pmap")  # rows, not all images, on the device
    rows = min(SHOWN, len(train))
    first = next(feeds.batches(feed, train, data=config.data, seed=config.seed, global_batch_size=rows, total_steps=1))
    if feed.views is not None:
        first = jax.jit(feed.views, static_argnums=2)(first, jax.random.key(config.seed), None)
    originals = evaluation_images(config, train.take(first["index"]))
    names = {f"view {v}": images for v, images in enumerate(first["views"], 1)}
    figures.image_rows({"original": originals} | names, path)


def neighbours(config: Config, bank_features, bank: Source, query_features, test: Source, path: Path) -> None:
    """A few test images and the images of the bank nearest to them by cosine; a row of features for each image."""
    shown = np.linspace(0, len(query_features) - 1, min(SHOWN, len(query_features))).astype(int)
    bank_features, query_features = knn.centred(bank_features, query_features[shown])
    norms = np.linalg.norm(bank_features, axis=1).clip(1e-12)
    near = np.argsort(-(query_features @ bank_features.T) / norms[None], axis=1, kind="stable")[:, :SHOWN]
    queries = test.take(shown)
    found = evaluation_images(config, bank.take(near.reshape(-1)))
    figures.neighbours(
        evaluation_images(config, queries),
        found.reshape(*near.shape, *found.shape[1:]),
        path,
        query_labels=queries.labels,
        neighbour_labels=None if bank.labels is None else bank.labels[near],
        class_names=bank.class_names,
    )


def tasks(config: Config, method: Method, variables: Variables, test: Source) -> dict[str, Callable[[Path], None]]:
    """What draws ``task.png`` and ``reconstructions.png``, where the method has the hooks "show" and "reconstruct"."""
    shown = test.take(np.linspace(0, len(test) - 1, min(SHOWN, len(test))).astype(int))

    def task(path: Path) -> None:
        rows = jax.jit(method.hooks["show"])(variables, evaluation_images(config, shown), jax.random.key(config.seed))
        figures.image_rows({name: np.asarray(row) for name, row in rows.items()}, path)

    def reconstructions(path: Path) -> None:
        images = evaluation_images(config, shown)
        found = np.asarray(jax.jit(method.hooks["reconstruct"])(variables, images))
        figures.image_rows({"image": images, "reconstruction": found}, path)

    draws = {"show": ("task.png", task), "reconstruct": ("reconstructions.png", reconstructions)}
    return dict(draw for hook, draw in draws.items() if hook in method.hooks)
