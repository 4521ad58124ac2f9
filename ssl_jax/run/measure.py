"""What a run measures: on validation data while it trains, on test data once at its end.

Ties a run's encoder and data to the evaluators in ``evals/``, which see features only. Metric names carry their split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax import evals, parallel
from ssl_jax.configs import Config
from ssl_jax.data import few_labels
from ssl_jax.data.source import Source, Splits, stratified_order
from ssl_jax.evals import knn, low_label
from ssl_jax.evals.shared import curves, figures, labels, pictures, text_pages
from ssl_jax.evals.shared.encode import LOGITS, Encode, OnceEncode
from ssl_jax.experiment import Experiment, zeros
from ssl_jax.names import is_imported, said_of
from ssl_jax.online.progress import counted, phase
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


Extract = Callable[[Variables, Sequence[Source]], Encoded]
Pictures = Mapping[str, Callable[[Path], None]]  # name -> draws it into a folder

DRAWING = 20  # pictures are drawn during a run once so many times as long has passed as the last ones took


def variables_of(state: TrainState) -> Variables:
    """What ``Method.encode`` takes, out of a train state."""
    return Variables(state.params, state.model_state, state.aux, state.rows)


def encoder(experiment: Experiment, mesh: Mesh) -> OnceEncode:
    """The encoder that the measurements of a run share, so that it is compiled once."""
    method, modality = experiment.method, experiment.modality
    encode = Encode(method, modality, mesh, seed=experiment.config.seed)
    spec = modality.spec(experiment.plan.global_batch_size)
    return OnceEncode(encode, encode.layers_of(jax.eval_shape(method.init, jax.random.key(0), spec)))


def extractor(experiment: Experiment, mesh: Mesh, encode: OnceEncode | None = None) -> Extract:
    """``extract(variables, sources)``: every example of the sources in order, encoded in inference mode."""
    encoded = encode or Encode(experiment.method, experiment.modality, mesh)
    layers = ("features", LOGITS) if "classify" in experiment.method.hooks else ("features",)

    def extract(variables: Variables, sources: Sequence[Source]) -> Encoded:
        found = [encoded(variables, source, layers=layers) for source in sources]
        return Encoded(*(np.concatenate([rows[name] for rows in found]) for name in ("features", "label", *layers[1:])))

    return extract


def scorer(experiment: Experiment, mesh: Mesh) -> Callable[[Variables, Source], dict[str, float]] | None:
    """``score(variables, source)`` by the method's hook "score", see ``shared/score.py``; None where there is none."""
    encode = Encode(experiment.method, experiment.modality, mesh, seed=experiment.config.seed)
    return partial(encode.score, batch_size=experiment.plan.global_batch_size) if encode.has_score else None


def settings(config: Config, name: str, known: Source) -> dict[str, Any]:
    """Options of the evaluators kNN and score with which they measure as the run does itself."""
    if name == "score":
        return {"batch_size": config.data.global_batch_size}
    if name != "knn" or known.labels is None:
        return {}
    e, count = config.eval, int((known.labels >= 0).sum())
    return {"k": (min(e.knn_k, max(1, count)),), "temperature": (e.knn_temperature,), "centre": e.knn_centre}


def held_out(experiment: Experiment) -> tuple[Source, Source]:
    """(some train examples, held-out ones): what is measured with while a run trains; never test."""
    config, splits = experiment.config.eval, experiment.splits
    few = experiment.config.data.get("labelled")  # a key younger than some stored configs
    bank = subset(splits.train if few is None else few_labels.bank(splits, few)[0], config.online_bank)
    return bank, subset(splits.val, config.online_queries)


def evaluators(experiment: Experiment, encode: OnceEncode) -> Callable[..., dict[str, float]]:
    """``measure(variables, say=)``: what the evaluators of ``eval.during`` find, ``{"val_geometry_alignment", ...}``.

    One that raises is told in a line, and the run goes on without its numbers.

    Raises:
      ValueError: one line; there is none of a name, it trains, or it cannot measure these data.
    """
    bank, queries = held_out(experiment)
    made: dict[str, evals.Evaluator] = {}
    called = evals.called(experiment.config.eval.get("during") or ())
    files = {name: part for name, part in called.items() if is_imported(part)}
    for name, part in called.items():
        given = settings(experiment.config, name, bank)
        try:
            made[name] = evals.get(part)(encode, train=bank, test=queries, **given)
        except Exception as error:
            own = name in files and not isinstance(error, ValueError)
            if not own and not isinstance(error, (ValueError, TypeError)):
                raise
            said = evals.fails(part, error) if own else error
            raise ValueError(f"eval.during={part!r} cannot be measured: {said}") from error
    told: set[str] = set()

    def measure(variables: Variables, say: Callable[[str], None]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, evaluator in made.items():
            try:
                for metric, value in counted(evaluator.run(variables, None), f"{name}: measuring", unit="numbers"):
                    metric = metric if metric.startswith(name) else f"{name}_{metric}"
                    found[f"val_{metric}"] = float(value)
            except Exception as error:  # whatever it does wrong: the run is none the worse for it
                why = evals.fails(files[name], error) if name in files else f"{name} fails: {said_of(error)}"
                say(f"WARNING: eval.during: {why}")
            said = getattr(evaluator, "left_out", {}) | getattr(evaluator, "notes", {})
            lines = [f"eval.during: {name}: {what}: {why}" for what, why in said.items()]
            for line in (line for line in lines if line not in told):
                told.add(line)
                say(line)
        return found

    return measure


def online(
    experiment: Experiment,
    extract: Extract,
    scored: Callable[[Variables, Source], dict[str, float]] | None,
    evaluated: Callable[[Variables], dict[str, float]],
    once: OnceEncode,
) -> Callable[[TrainState], tuple[dict[str, float | None], Pictures]]:
    """``measure(state) -> ({"val_knn_top1", "val_probe_top1"}, pictures)``: held-out examples against some train ones.

    And ``"val_top1"`` where the method is itself a classifier; and what ``scored``, of :func:`scorer`, and
    ``evaluated``, of :func:`evaluators`, give. The pictures are of features that were computed anyway, within ``once``,
    the :func:`encoder` that all of these share.
    """
    config, splits = experiment.config.eval, experiment.splits
    bank, queries = held_out(experiment)

    def measure(state: TrainState) -> tuple[dict[str, float | None], Pictures]:
        with once:
            scores, drawn = of_itself(state)
            return evaluated(variables_of(state)) | scores, drawn

    def of_itself(state: TrainState) -> tuple[dict[str, float | None], Pictures]:
        drawn: dict[str, Callable[[Path], None]] = {"curves": curves_of(experiment)}
        own = scored(variables_of(state)._replace(rows=None), splits.val) if scored else {}
        own = {f"val_{name}": value for name, value in own.items()}
        wanted = config.knn or experiment.probe is not None or "classify" in experiment.method.hooks
        if not (experiment.plan.num_classes and wanted):
            return {"val_knn_top1": None, "val_probe_top1": None} | own, drawn
        scores: dict[str, float | None] = {"val_knn_top1": None}
        with phase("measuring on validation data"):
            found = extract(variables_of(state), [queries])
            if config.knn:
                known = extract(variables_of(state), [bank])
                scores["val_knn_top1"] = knn_top1(experiment, known, found)
                drawn |= neighbours(experiment, int(state.step), known, bank, found, queries)
            scores["val_probe_top1"] = probe_top1(experiment, state, found)
        return scores | own | ({} if found.logits is None else {"val_top1": top1(found)}), drawn

    return measure


def final(
    experiment: Experiment,
    state: TrainState,
    extract: Extract,
    scored: Callable[[Variables, Source], dict[str, float]] | None = None,
) -> tuple[dict[str, Any], Pictures]:
    """The test metrics of a finished run, and its pictures.

    The bank is all that could be learned from: train and validation examples together, or the few with a label.
    """
    config, splits, modality = experiment.config, experiment.splits, experiment.modality
    known = few_labels.bank(splits, experiment.config.data.get("labelled"))
    if config.eval.max_bank:
        share = config.eval.max_bank / sum(len(s) for s in known)
        known = [subset(s, round(share * len(s))) for s in known]
    test = subset(splits.test, config.eval.max_queries)
    bank, queries = extract(variables_of(state), known), extract(variables_of(state), [test])

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
    if scored:
        own = scored(variables_of(state)._replace(rows=None), splits.test)
        summary |= {f"test_{name}": value for name, value in own.items()}
    if queries.logits is not None:
        summary["test_top1"] = top1(queries)
    summary["not_measured"] = not_measured(experiment, summary, bank, queries)
    if config.eval.label_efficiency and not _none_is_known(bank.labels, queries.labels):
        random = jax.jit(experiment.method.init)(parallel.named_key(state.key, "init"), zeros(experiment))
        rows = {
            "random": (extract(random, known), extract(random, [test])),
            "pretrained": (bank, queries),
        }
        table = {name: (a.features, b.features) for name, (a, b) in rows.items()}
        if raw := experiment.modality.raw:
            table = {"raw": (np.concatenate([raw(s) for s in known]), raw(test))} | table
        smallest_class = np.unique(bank.known().labels, return_counts=True)[1].min()
        counts = [*(m for m in (1, 2, 5, 10) if m <= smallest_class), "all"]
        summary["label_efficiency"] = low_label.label_efficiency(
            table, bank.labels, queries.labels, per_class=counts, seed=0
        )

    variables = None
    if pictures.HOOKS & set(experiment.method.hooks):
        # Not in draw, which one process calls: parts that lie on another one's devices come by an exchange of all.
        variables = jax.tree.map(checkpoint.host, variables_of(state))

    drawn = dict(neighbours(experiment, int(state.step), bank, known[0], queries, test))
    if variables is not None:
        tasks = pictures.tasks(modality, config.seed, experiment.method, variables, test)
        drawn |= {Path(file).stem: partial(_draw_into, file, draw) for file, draw in tasks.items()}
    if "label_efficiency" in summary:
        table = summary["label_efficiency"]
        drawn["label_efficiency"] = lambda folder: figures.label_efficiency(table, folder / "label_efficiency.png")
    return summary, drawn | {"curves": curves_of(experiment)}


def drawing(
    experiment: Experiment, folder: Path, say: Callable[[str], None], variables: Variables | None = None
) -> Callable[..., None]:
    """``draw(pictures, always=False)``: on process 0, into ``folder``, where the views are drawn at once.

    Of text it is a batch as a page, with some rows of the embedding in ``variables``.

    A picture that cannot be drawn ends nothing: it is named in a line. Without ``always`` nothing is drawn where that
    would take more than a small share of the run's time.
    """
    drew, took = time.perf_counter(), 1.0  # a guess: the views are drawn while libraries load and programs compile

    def draw(drawn: Pictures, always: bool = False) -> None:
        nonlocal drew, took
        began = time.perf_counter()
        if jax.process_index() == 0 and (always or began - drew >= DRAWING * took):
            attempt(drawn)
            drew = time.perf_counter()
            took = drew - began

    def attempt(drawn: Pictures) -> None:
        for name, picture in drawn.items():
            try:
                with phase(f"drawing {name}"):
                    picture(folder)
            except Exception as error:  # of a library, or of a file that is gone: the run is none the worse for it
                why = (str(error) or type(error).__name__).splitlines()[0]
                say(f"WARNING: figures/{name} could not be drawn: {why}")

    modality, seed, train = experiment.modality, experiment.config.seed, experiment.splits.train
    if jax.process_index() == 0 and modality.shown and not (folder / "views.png").exists():
        title = pictures.titled(experiment.config.method.name, folder.parent)
        attempt({"views": lambda folder: pictures.views(modality, seed, train, folder / "views.png", title)})
    if jax.process_index() == 0 and modality.words is not None and not (folder / "batch.html").exists():
        page, matrix = (modality, experiment.method, seed, train), None if variables is None else _embedding(variables)
        attempt({"batch": lambda folder: text_pages.batch_page(*page, folder / "batch.html", matrix)})
    return draw


def _embedding(variables: Variables) -> np.ndarray | None:
    """The matrix whose rows are tokens; None where there is none, or where this process has but a part of it."""
    matrix = variables.params["encoder"].get("stem_embedding")
    return None if matrix is None or not matrix.is_fully_replicated else np.asarray(matrix.addressable_data(0))


def _draw_into(file: str, draw: Callable[[Path], None], folder: Path) -> None:
    draw(folder / file)


def curves_of(experiment: Experiment) -> Callable[[Path], None]:
    rows = experiment.plan.global_batch_size
    return partial(draw_curves, method=experiment.config.method.name, rows=rows)


def draw_curves(folder: Path, method: str, rows: int | None = None) -> None:
    """``curves.png`` of the run in whose folder ``folder`` lies."""
    lines = read_metrics(folder.parent / "metrics.jsonl")
    title = pictures.titled(method, folder.parent, lines[-1]["step"] if lines else None)
    curves.curves(lines, folder / "curves.png", title, rows=rows)


def neighbours(
    experiment: Experiment, step: int, bank: Encoded, known: Source, queries: Encoded, test: Source
) -> Pictures:
    """The nearest of ``known``, the first rows of the bank, to a few of the queries ``test``: pictures, or a page."""
    modality, method = experiment.modality, experiment.config.method.name

    def draw(folder: Path) -> None:
        rows = bank.features[: len(known)]
        if modality.shown:
            title = pictures.titled(method, folder.parent, step)
            pictures.neighbours(modality, rows, known, queries.features, test, folder / "neighbours.png", title)
        else:
            found = text_pages.nearest(rows, known, queries.features, test)
            text_pages.neighbours_page(found, folder / "neighbours.html")

    return {"neighbours": draw} if modality.shown or "text" in known.columns else {}


def not_measured(experiment: Experiment, summary: dict[str, Any], bank: Encoded, queries: Encoded) -> dict[str, str]:
    """Why each metric is None that is; ``bank`` and ``queries`` are what it would have been measured with."""
    config, splits = experiment.config.eval, experiment.splits
    whys = [
        f"no {role} example has a label" + (f": {part.why_unlabelled}" if part.why_unlabelled else "")
        for role, part, found in (("training", splits.train, bank), ("test", splits.test, queries))
        if not len(found.known().labels)
    ]
    if not whys and _none_is_known(bank.labels, queries.labels):
        whys = ["no class of the test examples has a labelled training example"]
    found = {name: "; ".join(whys) for name, value in summary.items() if value is None}
    if "test_probe_top1" in found and not config.probe:
        found["test_probe_top1"] = "eval.probe is false"
    return found | ({"label_efficiency": "; ".join(whys)} if config.label_efficiency and whys else {})


def subset(source: Source, limit: int | None) -> Source:
    """At most ``limit`` examples, the classes in proportion, the same ones every time."""
    if limit is None or limit >= len(source):
        return source
    return source.take(np.sort(stratified_order(source.labels, len(source), seed=0)[: max(1, limit)]))


def knn_top1(experiment: Experiment, bank: Encoded, queries: Encoded) -> float | None:
    """kNN accuracy with the settings of the config; None where labels are missing, or no query's class is known."""
    config, bank, queries = experiment.config.eval, bank.known(), queries.known()
    if not len(bank.labels) or _none_is_known(bank.labels, queries.labels):
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


def _none_is_known(known, queries) -> bool:
    """Whether an accuracy could be nothing but 0: no query has a label whose class occurs among the known."""
    missed, of = labels.unseen(known, queries)
    return missed == of


def notes(splits: Splits) -> Iterator[str]:
    """What must be known to read the accuracies of a run: the examples whose classes train does not have."""
    parts = {"val": (splits.train.labels, splits.val.labels)}
    if splits.train.labels is not None and splits.val.labels is not None:
        parts["test"] = (np.concatenate([splits.train.labels, splits.val.labels]), splits.test.labels)
    for name, (known, queries) in parts.items():
        if known is None or queries is None:
            continue
        if said := labels.note(known, queries):
            missed, of = labels.unseen(known, queries)
            yield f"{name}: {said}" if missed < of else f"{name}: no accuracy; none of its classes has a train example"


def top1(found: Encoded) -> float | None:
    """Accuracy of a method that is itself a classifier; None where labels are missing."""
    found = found.known()
    if found.logits is None or not len(found.labels):
        return None
    return float(np.mean(np.argmax(found.logits, -1) == found.labels))


def probe_top1(experiment: Experiment, state: TrainState, queries: Encoded) -> float | None:
    """Accuracy of the online probe; None without one, where labels are missing, or no query's class is known."""
    queries, known = queries.known(), experiment.splits.train.labels
    if experiment.probe is None or known is None or _none_is_known(known, queries.labels):
        return None
    logits = experiment.probe.predict(jax.device_get(state.probe), jnp.asarray(queries.features))
    return float(np.mean(np.argmax(np.asarray(logits), -1) == queries.labels))
