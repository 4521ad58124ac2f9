"""What a run measures: on validation data while it trains, on test data once at its end.

Ties a run's encoder and data to the evaluators in ``evals/``, which see features only. Metric names carry their split.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.data import pipeline, recipes
from ssl_jax.data.source import Source, stratified_order
from ssl_jax.evals import features, figures, knn, low_label
from ssl_jax.experiment import Experiment, batch_spec
from ssl_jax.types import TrainState, Variables
from ssl_jax.writer import read_metrics

EVAL_BATCH = 512


def variables_of(state: TrainState) -> Variables:
    """What ``Method.encode`` takes, out of a train state."""
    return Variables(state.params, state.model_state, state.aux, state.rows)


def online(experiment: Experiment, mesh: Mesh) -> Callable[[TrainState], dict[str, float | None]]:
    """``measure(state) -> {"val_knn_top1", "val_probe_top1"}``: held-out images against a part of the train images."""
    config, splits = experiment.config, experiment.splits
    bank = _subset(splits.train, config.eval.online_bank)
    queries = _subset(splits.val, config.eval.online_queries)
    extract = extractor(experiment, mesh)

    def measure(state: TrainState) -> dict[str, float | None]:
        if not experiment.plan.num_classes:
            return {"val_knn_top1": None, "val_probe_top1": None}
        variables = variables_of(state)
        return {
            "val_knn_top1": _knn(experiment, extract(variables, bank), bank, extract(variables, queries), queries),
            "val_probe_top1": _probe(experiment, state, extract(variables, queries), queries),
        }

    return measure


def extractor(experiment: Experiment, mesh: Mesh) -> Callable[[Variables, Source], np.ndarray]:
    """``extract(variables, source) -> [n, d]`` features of every example of a source, in order."""
    config, method = experiment.config, experiment.method
    devices = mesh.devices.size
    batch_size = EVAL_BATCH // devices * devices or devices
    encode = jax.jit(lambda variables, images: {"features": method.encode(variables, images)["features"]})

    def extract(variables: Variables, source: Source) -> np.ndarray:
        batches = pipeline.eval_batches(
            source,
            image_size=config.data.image_size,
            recipe_eval=recipes.get(config.data.recipe).evaluate,
            global_batch_size=batch_size,
            process=jax.process_index(),
            process_count=jax.process_count(),
        )
        with jax.set_mesh(mesh):
            found = features.extract(encode, variables, batches, place=lambda batch: parallel.place(batch, mesh))
        return found["features"]

    return extract


def final(experiment: Experiment, state: TrainState, mesh: Mesh, workdir: Path) -> dict[str, Any]:
    """The test metrics of a finished run, and its pictures in ``<workdir>/figures``."""
    config, splits = experiment.config, experiment.splits
    extract = extractor(experiment, mesh)
    variables = variables_of(state)
    known = [_subset(s, config.eval.max_bank and round(config.eval.max_bank * share)) for s, share in _bank(splits)]
    test = _subset(splits.test, config.eval.max_queries)

    test_features = extract(variables, test)
    bank_features = np.concatenate([extract(variables, s) for s in known])
    summary: dict[str, Any] = {"test_knn_top1": None, "test_probe_top1": None}
    summary["eval"] = {
        "split": "test",
        "bank": len(bank_features),
        "queries": len(test_features),
        **{k: config.eval[k] for k in ("knn_k", "knn_temperature", "knn_centre")},
    }
    if experiment.plan.num_classes:
        labels = np.concatenate([_labels(s) for s in known])
        summary["test_knn_top1"] = _vote(experiment, bank_features, labels, test_features, _labels(test))
        summary["test_probe_top1"] = _probe(experiment, state, test_features, test)
    table = None
    if config.eval.label_efficiency and experiment.plan.num_classes:
        table = _label_efficiency(experiment, extract, known, test, bank_features, test_features, state.key)
        summary["label_efficiency"] = table
    if jax.process_index() == 0:
        _draw(experiment, workdir, known[0], test, bank_features, test_features, table)
    return summary


def _bank(splits) -> list[tuple[Source, float]]:
    """Train and validation together are the bank of the final test; each with its share of it."""
    total = len(splits.train) + len(splits.val)
    return [(splits.train, len(splits.train) / total), (splits.val, len(splits.val) / total)]


def _subset(source: Source, limit: int | None) -> Source:
    """At most ``limit`` examples, the classes in proportion, the same ones every time."""
    if limit is None or limit >= len(source):
        return source
    return source.take(np.sort(stratified_order(source.labels, len(source), seed=0)[: max(1, limit)]))


def _labels(source: Source) -> np.ndarray:
    """Labels ``[n]``, -1 where unknown."""
    return np.full(len(source), -1, np.int32) if source.labels is None else source.labels


def _knn(experiment, bank_features, bank: Source, query_features, queries: Source) -> float:
    return _vote(experiment, bank_features, _labels(bank), query_features, _labels(queries))


def _vote(experiment, bank_features, bank_labels, query_features, query_labels) -> float:
    config, bank, queries = experiment.config.eval, bank_labels >= 0, query_labels >= 0
    return knn.knn_accuracy(
        bank_features[bank],
        bank_labels[bank],
        query_features[queries],
        query_labels[queries],
        k=min(config.knn_k, int(bank.sum())),
        temperature=config.knn_temperature,
        num_classes=experiment.plan.num_classes,
        centre=config.knn_centre,
    )


def _probe(experiment, state: TrainState, query_features, queries: Source) -> float | None:
    if experiment.probe is None:
        return None
    labels = _labels(queries)
    labelled = labels >= 0
    logits = experiment.probe.predict(state.probe, jax.numpy.asarray(query_features[labelled]))
    return float(np.mean(np.argmax(np.asarray(logits), -1) == labels[labelled]))


def _label_efficiency(experiment, extract, known, test: Source, bank_features, test_features, key) -> dict[str, Any]:
    """Linear accuracy with few labels: raw pixels, the encoder before training, and after."""
    random = experiment.method.init(parallel.named_key(key, "init"), _zeros(experiment))
    rows = {
        "raw": (np.concatenate([_pixels(experiment, s) for s in known]), _pixels(experiment, test)),
        "random": (np.concatenate([extract(random, s) for s in known]), extract(random, test)),
        "pretrained": (bank_features, test_features),
    }
    labels = np.concatenate([_labels(s) for s in known])
    return low_label.label_efficiency(rows, labels, _labels(test), seed=0)


def _pixels(experiment: Experiment, source: Source) -> np.ndarray:
    """Raw pixels ``[n, s * s * c]`` of the evaluation view."""
    config = experiment.config
    batches = pipeline.eval_batches(
        source,
        image_size=config.data.image_size,
        recipe_eval=recipes.get(config.data.recipe).evaluate,
        global_batch_size=min(EVAL_BATCH, len(source)),
    )
    return np.concatenate([b["image"][b["mask"]].reshape(int(b["mask"].sum()), -1) for b in batches])


def _zeros(experiment: Experiment) -> dict[str, Any]:
    spec = batch_spec(experiment.config, experiment.plan, experiment.plan.global_batch_size)
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), spec)


def _draw(experiment, workdir: Path, bank: Source, test: Source, bank_features, test_features, table) -> None:
    """The pictures of a run."""
    folder = workdir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    config = experiment.config
    figures.curves(read_metrics(workdir / "metrics.jsonl"), folder / "curves.png")
    recipe = recipes.get(config.data.recipe)
    first = next(
        pipeline.batches(
            experiment.splits.train,
            recipe=recipe,
            image_size=config.data.image_size,
            global_batch_size=min(8, experiment.plan.num_examples),
            seed=config.seed,
            total_steps=1,
        )
    )
    originals = _images(experiment, experiment.splits.train.take(first["index"]))
    figures.views((originals, *first["views"]), folder / "views.png")
    shown = np.linspace(0, len(test) - 1, min(8, len(test))).astype(int)
    queries, bank_features = test.take(shown), bank_features[: len(bank)]
    near = _nearest(bank_features, test_features[shown], k=min(8, len(bank)), centre=config.eval.knn_centre)
    found = _images(experiment, bank.take(near.reshape(-1)))
    figures.neighbours(
        _images(experiment, queries),
        found.reshape(*near.shape, *found.shape[1:]),
        folder / "neighbours.png",
        query_labels=queries.labels,
        neighbour_labels=None if bank.labels is None else bank.labels[near],
        class_names=bank.class_names,
    )
    if table:
        figures.label_efficiency(table, folder / "label_efficiency.png")


def _images(experiment: Experiment, source: Source) -> np.ndarray:
    """Evaluation views ``[n, s, s, c]`` of a few examples."""
    pixels = _pixels(experiment, source)
    return pixels.reshape(len(pixels), *experiment.plan.input_shape)


def _nearest(bank_features, query_features, *, k: int, centre: bool) -> np.ndarray:
    """Bank rows ``[q, k]`` by falling cosine, for a few queries."""
    if centre:
        bank_features, query_features = knn.centred(bank_features, query_features)
    similarity = query_features @ (bank_features / np.linalg.norm(bank_features, axis=1, keepdims=True).clip(1e-12)).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]
