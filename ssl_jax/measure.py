"""What a run measures: on validation data while it trains, on test data once at its end.

Ties a run's encoder and data to the evaluators in ``evals/``, which see features only. Metric names carry their split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.data.images import recipes, stream
from ssl_jax.data.source import Source, stratified_order
from ssl_jax.evals import knn, low_label
from ssl_jax.evals.shared import features, figures, pictures
from ssl_jax.experiment import Experiment, zeros
from ssl_jax.progress import phase
from ssl_jax.run import checkpoint
from ssl_jax.run.writer import read_metrics
from ssl_jax.types import TrainState, Variables


class Encoded(NamedTuple):
    """Features ``[n, d]`` of a source and the labels ``[n]`` of the same rows, -1 where unknown.

    ``logits`` ``[n, classes]`` where the method is itself a classifier (its hook ``"classify"``).
    """

    features: np.ndarray
    labels: np.ndarray
    logits: np.ndarray | None = None

    def known(self) -> Encoded:
        """The rows with a label."""
        keep = self.labels >= 0
        logits = None if self.logits is None else self.logits[keep]
        return Encoded(self.features[keep], self.labels[keep], logits)


Extract = Callable[..., Encoded]
Pictures = Mapping[str, Callable[[Path], None]]  # what is drawn, by the name of its file, into a folder

DRAWING = 20  # pictures are drawn during a run if that long passed since the last ones as those took, times this


def variables_of(state: TrainState) -> Variables:
    """What ``Method.encode`` takes, out of a train state."""
    return Variables(state.params, state.model_state, state.aux, state.rows)


def extractor(experiment: Experiment, mesh: Mesh) -> Extract:
    """``extract(variables, sources, what="encoding")``: every example of the sources in order, in inference mode.

    ``what`` names the work in the lines that say how far it is.
    """
    config, method = experiment.config, experiment.method
    devices = mesh.devices.size
    batch_size = -(-pictures.EVAL_BATCH // devices) * devices
    classify = method.hooks.get("classify")

    @jax.jit
    def encode(variables, images):
        variables = parallel.gathered(variables)
        found = {"features": method.encode(variables, images)["features"]}
        return found | ({"logits": classify(variables, images)} if classify else {})

    def extract(variables: Variables, sources: Sequence[Source], what: str = "encoding") -> Encoded:
        found = []
        with phase(what, total=sum(len(source) for source in sources)) as advance:

            def place(batch):
                advance(batch_size)
                return parallel.place(batch, mesh)

            for source in sources:
                batches = stream.eval_batches(
                    source,
                    image_size=config.data.image_size,
                    recipe_eval=recipes.get(config.data.recipe).evaluate,
                    global_batch_size=batch_size,
                    process=jax.process_index(),
                    process_count=jax.process_count(),
                )
                with jax.set_mesh(mesh):
                    rows = features.extract(encode, variables, batches, place=place)
                found.append([rows[name] for name in ("features", "label", "logits") if name in rows])
        return Encoded(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    return extract


def online(
    experiment: Experiment, extract: Extract
) -> Callable[[TrainState], tuple[dict[str, float | None], Pictures]]:
    """``measure(state) -> ({"val_knn_top1", "val_probe_top1"}, pictures)``, of held-out images.

    The kNN's bank is a part of the train images. And ``"val_top1"`` where the method is itself a classifier. The
    pictures are drawn of what was computed anyway.
    """
    config, splits = experiment.config.eval, experiment.splits
    bank, queries = subset(splits.train, config.online_bank), subset(splits.val, config.online_queries)

    def measure(state: TrainState) -> tuple[dict[str, float | None], Pictures]:
        if not experiment.plan.num_classes:
            return {"val_knn_top1": None, "val_probe_top1": None}, {"curves": draw_curves}
        found = extract(variables_of(state), [queries], "measuring on validation data")
        scores: dict[str, float | None] = {"val_knn_top1": None, "val_probe_top1": probe_top1(experiment, state, found)}
        drawn: dict[str, Callable[[Path], None]] = {"curves": draw_curves}
        if config.knn:
            known = extract(variables_of(state), [bank], "encoding train images for the kNN")
            scores["val_knn_top1"] = knn_top1(experiment, known, found)
            drawn["neighbours"] = neighbours(experiment, known, bank, found, queries)
        return scores | ({} if found.logits is None else {"val_top1": top1(found)}), drawn

    return measure


def final(experiment: Experiment, state: TrainState, extract: Extract) -> tuple[dict[str, Any], Pictures]:
    """The test metrics of a finished run, and its pictures.

    The bank is all that could be learned from: train and validation examples together.
    """
    config, splits = experiment.config, experiment.splits
    known = [splits.train, splits.val]
    if config.eval.max_bank:
        share = config.eval.max_bank / sum(len(s) for s in known)
        known = [subset(s, round(share * len(s))) for s in known]
    test = subset(splits.test, config.eval.max_queries)
    queries = extract(variables_of(state), [test], "measuring once on test")
    bank = extract(variables_of(state), known, "measuring once on test: encoding what was learned from")

    summary: dict[str, Any] = {
        "test_knn_top1": knn_top1(experiment, bank, queries),
        "test_probe_top1": probe_top1(experiment, state, queries),
        "eval": {
            "split": "test",
            "bank": len(bank.known().labels),
            "queries": len(queries.known().labels),
            "knn_k": min(config.eval.knn_k, len(bank.known().labels)),
            "knn_temperature": config.eval.knn_temperature,
            "knn_centre": config.eval.knn_centre,
        },
    }
    if queries.logits is not None:
        summary["test_top1"] = top1(queries)
    if config.eval.label_efficiency and len(bank.known().labels) and len(queries.known().labels):
        random = jax.jit(experiment.method.init)(parallel.named_key(state.key, "init"), zeros(experiment))
        rows = {
            "raw": (pixels(experiment, known), pixels(experiment, [test])),
            "random": (extract(random, known), extract(random, [test])),
            "pretrained": (bank, queries),
        }
        table = {name: (a.features, b.features) for name, (a, b) in rows.items()}
        smallest_class = np.unique(bank.known().labels, return_counts=True)[1].min()
        counts = [*(m for m in (1, 2, 5, 10) if m <= smallest_class), "all"]
        summary["label_efficiency"] = low_label.label_efficiency(
            table, bank.labels, queries.labels, per_class=counts, seed=0
        )

    variables = None
    if pictures.HOOKS & set(experiment.method.hooks):
        # Not in draw, which one process calls: parts that lie on another one's devices come by an exchange of all.
        variables = jax.tree.map(checkpoint.host, variables_of(state))

    drawn = {"neighbours": neighbours(experiment, bank, known[0], queries, test)}
    if variables is not None:
        drawn["tasks"] = lambda folder: pictures.tasks(config, experiment.method, variables, test, folder)
    if "label_efficiency" in summary:
        table = summary["label_efficiency"]
        drawn["label_efficiency"] = lambda folder: figures.label_efficiency(table, folder / "label_efficiency.png")
    return summary, drawn | {"curves": draw_curves}


def drawing(experiment: Experiment, folder: Path, say: Callable[[str], None]) -> Callable[..., None]:
    """``draw(pictures, always=False)``: on process 0, into ``folder``, where the views are drawn at once.

    A picture that cannot be drawn ends nothing: it is named in a line. Without ``always`` nothing is drawn where that
    would take more than a small share of the run's time.
    """
    drew, took = -math.inf, 0.0

    def draw(drawn: Pictures, always: bool = False) -> None:
        nonlocal drew, took
        began = time.perf_counter()
        if jax.process_index() != 0 or not (always or began - drew >= DRAWING * took):
            return
        for name, picture in drawn.items():
            try:
                with phase(f"drawing {name}"):
                    picture(folder)
            except Exception as error:  # of a library, or of a file that is gone: the run is none the worse for it
                why = (str(error) or type(error).__name__).splitlines()[0]
                say(f"WARNING: figures/{name} could not be drawn: {why}")
        drew = time.perf_counter()
        took = drew - began

    if not (folder / "views.png").exists():
        config, train = experiment.config, experiment.splits.train
        draw({"views": lambda folder: pictures.views(config, train, folder / "views.png")})
    return draw


def draw_curves(folder: Path) -> None:
    """``curves.png`` of the run in whose folder ``folder`` lies."""
    figures.curves(read_metrics(folder.parent / "metrics.jsonl"), folder / "curves.png")


def neighbours(
    experiment: Experiment, bank: Encoded, known: Source, queries: Encoded, test: Source
) -> Callable[[Path], None]:
    """Draws the nearest of ``known``, the first rows of the bank, to a few of the queries ``test``."""

    def draw(folder: Path) -> None:
        rows = bank.features[: len(known)]
        pictures.neighbours(experiment.config, rows, known, queries.features, test, folder / "neighbours.png")

    return draw


def subset(source: Source, limit: int | None) -> Source:
    """At most ``limit`` examples, the classes in proportion, the same ones every time."""
    if limit is None or limit >= len(source):
        return source
    return source.take(np.sort(stratified_order(source.labels, len(source), seed=0)[: max(1, limit)]))


def knn_top1(experiment: Experiment, bank: Encoded, queries: Encoded) -> float | None:
    """kNN accuracy with the settings of the config; None where labels are missing."""
    config, bank, queries = experiment.config.eval, bank.known(), queries.known()
    if not len(bank.labels) or not len(queries.labels):
        return None
    return knn.knn_accuracy(
        bank.features,
        bank.labels,
        queries.features,
        queries.labels,
        k=min(config.knn_k, len(bank.labels)),
        temperature=config.knn_temperature,
        num_classes=experiment.plan.num_classes or int(bank.labels.max()) + 1,
        centre=config.knn_centre,
    )


def top1(found: Encoded) -> float | None:
    """Accuracy of a method that is itself a classifier; None where labels are missing."""
    found = found.known()
    if found.logits is None or not len(found.labels):
        return None
    return float(np.mean(np.argmax(found.logits, -1) == found.labels))


def probe_top1(experiment: Experiment, state: TrainState, queries: Encoded) -> float | None:
    """Accuracy of the online probe; None without one, or where labels are missing."""
    queries = queries.known()
    if experiment.probe is None or not len(queries.labels):
        return None
    logits = experiment.probe.predict(jax.device_get(state.probe), jnp.asarray(queries.features))
    return float(np.mean(np.argmax(np.asarray(logits), -1) == queries.labels))


def pixels(experiment: Experiment, sources: Sequence[Source]) -> Encoded:
    """Raw pixels as features: those of the dataset where it has images of one size, else of the evaluation view."""
    found = []
    for source in sources:
        stored = source.columns.get("image")
        images = pictures.evaluation_images(experiment.config, source) if stored is None else stored / np.float32(255)
        found.append(np.asarray(images, np.float32).reshape(len(source), -1))
    labels = [np.full(len(s), -1, np.int32) if s.labels is None else s.labels for s in sources]
    return Encoded(np.concatenate(found), np.concatenate(labels))
