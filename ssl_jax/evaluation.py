"""Evaluation of finished runs: opened read-only, encoded once, measured by the evaluators that were asked for.

What comes out is a folder: ``evaluation.json``, the evaluators' pictures, and ``report.html``, which holds it all.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import configs, evals, parallel, train
from ssl_jax.configs import Config, to_json
from ssl_jax.data import few_labels, recipes
from ssl_jax.data import source as sources
from ssl_jax.data.from_config import load_splits, with_few_labels
from ssl_jax.data.images.recipes import Flip
from ssl_jax.data.images.recipes import Recipe as ImageRecipe
from ssl_jax.data.source import Splits
from ssl_jax.data.text import recipes as text
from ssl_jax.evals import Fitted, suite
from ssl_jax.evals.shared import canvas, captions, comparison, curves, names, pictures, report, results, text_pages
from ssl_jax.evals.shared.encode import CachedEncode, Encode
from ssl_jax.evals.shared.labels import of_data
from ssl_jax.evals.shared.results import Found
from ssl_jax.experiment import build
from ssl_jax.interop import labels, licences
from ssl_jax.interop.files import write_json
from ssl_jax.names import brief, is_imported
from ssl_jax.run import checkpoint, folder, measure, origins, processes
from ssl_jax.run.examples import learned_from, trained_on
from ssl_jax.run.open import Run, open_run
from ssl_jax.run.provenance import machine, source_of
from ssl_jax.run.writer import lost, read_metrics

Say = Callable[[str], None]
Options = Mapping[str, Mapping[str, Any]]  # evaluator -> option -> value
Job = Callable[[], dict[str, Found]]
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


def evaluate(
    workdirs: Sequence[str | Path | Run],
    evaluators: str | Sequence[str] | None,
    options: Options,
    *,
    outdir: str | Path | None = None,
    source: str | None = None,
    splits: Splits | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    data_dir: str | None = None,
    download: bool = False,
    devices: int | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Evaluate runs and write what was found.

    Args:
      workdirs: of the runs, or what ``open_run`` gave.
      evaluators: one or several by name, in the order in which they are to speak; None: those of ``evals.DEFAULT``
        that suit the data, and of the others is said why they do not; "score" and "classify" where the network can.
      options: of the evaluators; ``options["features"]`` may hold ``max_dim`` of the stages.
      outdir: where everything goes; default ``<workdir>/evaluation`` of a single run.
      source: another dataset than the run's own, as in ``data.source``.
      splits: that dataset, or the run's own, where it lies in memory.
      columns: of a table, in place of the run's ``data.label_column`` and the like: "label_column" -> name.
      data_dir: where TFDS datasets lie, if not where the run found them.
      download: fetch a dataset that is not there, see :func:`ssl_jax.data.readers.load`.
      devices: default that of ``parallel.devices``.

    Returns:
      The content of ``evaluation.json``: ``{"metrics", "intervals", "online", "alarms", "evaluators", "left_out",
      "missing", "notes", "provenance"}``; of a run that was evaluated on several data ``{"data": {name: that}}``; of
      several runs ``{"runs": {name: any of the two}, "paired": [...], "not_paired": [...]}``.

    Raises:
      ValueError: one line, before anything is computed.
    """
    say = partial(_say, say) if jax.process_index() == 0 else lambda text: None
    if outdir is None and len(workdirs) > 1:
        raise ValueError("several workdirs need --outdir DIR for their comparison")
    evaluators = None if evaluators is None else evals.named(evaluators)
    opened = [run if isinstance(run, Run) else open_run(run) for run in workdirs]
    called = names.apart([Path(os.path.abspath(run.workdir)).parts[1:] for run in opened])
    runs = dict(zip(called, opened, strict=True))
    root = Path(outdir) if outdir else opened[0].workdir / "evaluation"
    places = {name: root / name if len(runs) > 1 else root for name in runs}
    jobs = {}
    for name, run in runs.items():
        try:
            jobs[name] = _prepare(
                run, places[name], evaluators, options, source, data_dir, download, devices, say, splits, columns
            )
        except ValueError as error:
            named = len(runs) == 1 or str(run.workdir) in str(error)
            raise error if named else ValueError(f"{run.workdir}: {error}") from None
    with contextlib.ExitStack() as stack:
        with processes.refusing_together():
            try:
                root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"--outdir {root} cannot be made ({error.strerror}); name another folder") from None
            for place in dict.fromkeys((root, *places.values())):
                stack.enter_context(folder.lock(place, "evaluation", "--outdir"))
        found = {}
        for name, job in jobs.items():
            if len(runs) > 1:
                say(f"{name}:")
            found[name] = job()
        paired, not_paired = comparison.compare(found)
        for test in paired:
            span = "{low:+.4f} to {high:+.4f}, p = {p:.2g}".format_map(test)
            say(f"{test['metric']}: {test['a']} less {test['b']} {test['difference']:+.4f} ({span})")
        for pair in not_paired:
            say(f"no paired test of {pair['a']} and {pair['b']} on {', '.join(pair['metrics'])}: {pair['reason']}")
        result = {name: results.content(data) for name, data in found.items()}
        result = {"runs": result, "paired": paired, "not_paired": not_paired} if len(runs) > 1 else result[called[0]]
        if jax.process_index() == 0:
            results.write(root, result)
            shown = {comparison.label(found, run, data): one for run in found for data, one in found[run].items()}
            drawn = {name: captions.pictures(one) for name, one in shown.items()}
            evaluations = {name: one.result for name, one in shown.items()}
            report.write(root / "report.html", evaluations, drawn, paired, not_paired)
            say(f"report: {root / 'report.html'}")
    return result


def _say(say: Say, text: str) -> None:
    say(names.printable(text))


def _prepare(
    run: Run,
    place: Path,
    asked,
    options: Options,
    source,
    data_dir,
    download,
    devices,
    say: Say,
    splits=None,
    columns: Mapping[str, str] = NO_COLUMNS,
) -> Job:
    """Everything that can be refused about the evaluation of one run; returns the function that does it."""
    config: Config = ConfigDict(to_json(run.config))
    config.data.update({"data_dir": data_dir or config.data.data_dir, "download": download})
    if source:
        # What the run said of its own data.
        own = ("train_split", "test_split", "num_examples", "unlabelled", "labelled")
        config.data.update({"source": source} | {key: None for key in own if key in config.data})
    with config.unlocked():  # keys younger than some stored configs
        config.data.update(columns)
    splits = load_splits(config) if splits is None else with_few_labels(config, splits)
    for note in splits.notes:
        say(note)
    data = sources.identity(splits)
    own = sources.same(run.resolved["data"], data)
    own_test = own or data["fingerprints"]["test"] == run.resolved["data"].get("fingerprints", {}).get("test")
    learned = 0 if own_test else trained_on(run.workdir, splits.test)
    notes = {}
    if learned:
        notes["test"] = f"{learned_from(run.workdir, learned, splits.test)}; what is measured on them is memory"
        say(f"WARNING: {notes['test']}")
    try:
        for part in splits:
            run.modality.accepts(part)
        if run.modality.shown:
            splits = Splits(*(sources.with_channels(part, run.plan.input_shape[-1]) for part in splits))
    except ValueError as error:
        raise ValueError(f"{run.workdir} cannot be evaluated on {brief(config.data.source)}: {error}") from None
    came = origins.published(origins.of_run(to_json(run.config), run.resolved, run.workdir)).items()
    if kept := [f"{where} were published under {licence}" for where, licence in came if licences.restricted(licence)]:
        notes["licence"] = "; ".join(kept)
        say(f"licence: {notes['licence']}")
    known = functools.reduce(sources.join, few_labels.bank(splits, config.data.get("labelled")))
    notes |= (told := of_data(known, splits.test))
    for name, what in told.items():
        say(f"{name}: {what}")
    if jax.process_count() > 1:
        config.parallel.devices = None  # all there are
    else:  # as many as the run had, or as there are here
        had = config.parallel.devices or parallel.device_count(None)
        config.parallel.devices = devices or min(had, jax.device_count())
    mesh = parallel.make_mesh(config.parallel.devices)
    if "fsdp" in config.parallel:  # of what is trained here; in as large groups as there are devices for
        config.parallel.fsdp = math.gcd(config.parallel.fsdp, mesh.size)
    max_dim = options.get("features", {}).get("max_dim")
    if max_dim is not None and not (isinstance(max_dim, int) and max_dim > 0):
        raise ValueError(f"eval.features.max_dim={max_dim} must be a positive whole number; the classic one is 9600")
    plain = Encode(run.method, run.modality, mesh, max_dim, config.seed)
    encode = CachedEncode(plain, run.variables, run.recipe, place / "features", say)
    evaluators, settings, left_out, refused = {}, {}, {}, {}
    # Of data that are not its own a classifier that was imported may know the classes, that of a run does not.
    classifies = "classify" in run.method.hooks and (own or run.config.method.name == "imported")
    usual = (*evals.DEFAULT, *["score"] * plain.has_score, *["classify"] * (classifies or "classify" in options))
    called = evals.called(usual if asked is None else asked)
    for name, part in called.items():
        given = {**measure.settings(run.config, name, known), **options.get(name, {})}
        unnamed = ""
        if part == "classify" and given.get("columns") is None:
            given["columns"], unnamed = _columns(run, known.class_names or ())
        settings[name] = _plain(evals.options(part) | given)
        if evals.trains(part):
            given["fit"] = make_fit(run, config, place / "fits", say)
        try:
            evaluators[name] = evals.get(part)(encode, train=known, test=splits.test, **given)
        except TypeError as error:
            if is_imported(part) and not options.get(name):
                raise ValueError(evals.fails(part, error)) from error
            said = ", ".join(f"{option}={value!r}" for option, value in options.get(name, {}).items())
            raise ValueError(f"eval.{name} cannot be measured with {said}: {error}") from None
        except ValueError as error:
            if asked is not None or name in options:
                refused[name] = f"{error}{unnamed}"
                continue
            left_out[name] = f"{error}{unnamed}"
            say(f"{name} left out: {left_out[name]}")
        except Exception as error:
            if not is_imported(part):
                raise
            raise ValueError(evals.fails(part, error)) from error
    if refused:
        others = ",".join(called[name] for name in evaluators)
        would = f"; --evals {others} would run" if others and asked is not None else ""
        raise ValueError("; ".join(refused.values()) + would)
    if not evaluators:
        raise ValueError(f"nothing can be measured on {brief(config.data.source)}: {'; '.join(left_out.values())}")
    if "classify" in evaluators and not own and options.get("classify", {}).get("columns") is None:
        notes["classify"] = "the classes of the data are those of the network that have the same names"
        if settings["classify"]["columns"] is None:
            unnamed = _columns(run, known.class_names or ())[1]
            notes["classify"] = f"the classes of the data are taken for those of the network, in their order{unnamed}"
        say(f"classify: {notes['classify']}")
    if not source and not own:
        now = f"{config.data.source} holds other data now than when {run.workdir} was trained"
        may = ", and what is called test may have been trained on" if learned is None else ""
        say(f"WARNING: {now}; they are encoded anew{may}")
    alarms = _of_itself(run)
    if not own:  # what it measured at its end is of its own data
        alarms |= {"online": {}, "not_measured": {}}
    for step in alarms["alarms"]["damaged"]:
        other = f"what is evaluated is that of step {run.step}"
        same = "no run goes on from it, but what is evaluated of it is whole"
        say(f"WARNING: checkpoint {step} of {run.workdir} is damaged; {same if step == run.step else other}")

    def job() -> dict[str, Found]:
        began = time.perf_counter()
        digest = checkpoint.fingerprint(run.variables)
        earlier = results.earlier(place, digest, say)
        home = results.home(place, earlier, config.data.source, data["fingerprints"])
        mine = {name: called[name] for name in evaluators if is_imported(called[name])}
        tested = data["fingerprints"]["test"]
        result, hits = suite.run(evaluators, run.variables, home, settings, examples=tested, say=say, own=mine)
        result |= alarms | {"left_out": left_out, "missing": {}, "notes": notes}
        for name, part in mine.items():
            result["evaluators"][name]["own"] = source_of(part, "evaluator")
        result["provenance"] = {
            "workdir": str(run.workdir),
            "method": run.config.method.name,
            "model": run.config.model.name,
            "source": run.config.data.source,
            "evaluated_on": config.data.source,
            "sizes": {"train": len(known), "test": len(splits.test)},
            "fingerprints": data["fingerprints"],
            "seed": run.config.seed,
            "step": run.step,
            "checkpoint": digest,
            "run_commit": run.resolved.get("commit"),
            "devices": mesh.devices.size,
            "seconds": round(time.perf_counter() - began, 1),
            **machine(),
            "config": to_json(run.config),
        }
        bank, queries = measure.subset(known, 10_000), measure.subset(splits.test, 1_000)
        # Neighbours are of features: where the classifier alone is asked about, nothing is encoded for a picture.
        near = {*called.values()} != {"classify"}
        features = [encode(run.variables, part)["features"] for part in (bank, queries)] if near else None
        found = results.added(earlier, result, hits, home, place, say)
        if jax.process_index() == 0:
            if all(one.home != home for one in earlier.values()):  # those of another checkpoint
                for path in (home / "pictures").glob("neighbours.*"):
                    path.unlink()
            result["missing"] = _pictures(run, config, bank, queries, features, home / "pictures")
            for name, why in result["missing"].items():
                say(f"WARNING: {name} is missing: {why}")
            results.write_hits(next(one for one in found.values() if one.result is result))
            results.write(place, results.content(found))
        return found

    return job


def _columns(run: Run, wanted: Sequence[str]) -> tuple[tuple[int, ...] | None, str]:
    """(the logits of an imported network for classes by name, what to say of a name that it does not have)."""
    called = (run.resolved.get("imported") or {}).get("class_names", ())
    chosen = labels.columns(called, wanted)
    lacking = next((name for name in wanted if labels.columns(called, [name]) is None), None)
    told = chosen is not None or not called or lacking is None
    return chosen, "" if told else f"; no class, or more than one, of the network's is called {lacking!r}"


def _of_itself(run: Run) -> dict[str, Any]:
    """What the run measured of itself, and its alarms; where it has not ended, or an earlier checkpoint was asked for,
    those of the checkpoint.

    A step that was not finite and ended the run is in no checkpoint: what was kept of it tells of it.
    """
    steps = checkpoint.steps(run.workdir)
    earlier = run.chosen and any(step > run.step for step in steps)
    found = run.progress if earlier else folder.read_summary(run.workdir) or run.progress
    first = min(_numbered(run.workdir.glob("nonfinite/step_*")), default=None)
    there = [*([] if run.chosen else steps), *_numbered(run.workdir.glob("checkpoints/damaged_*"))]
    damaged = {step for step in there if step > run.step}  # than what was opened, the newest that could be read
    if run.step in steps and checkpoint.why_no_run_goes_on(run.workdir, run.step):
        damaged.add(run.step)
    return {
        "online": {name: value for name, value in found.items() if name.endswith("top1")},
        "not_measured": found.get("not_measured") or {},
        "alarms": {
            "collapsed": bool(found.get("collapsed")),
            "loss_spikes": list(found.get("loss_spikes") or ()),
            "nonfinite": found.get("nonfinite") or first,
            "skipped": found.get("skipped") or 0,
            "replaced": found.get("replaced") or len(found.get("unreadable") or ()),
            "damaged": sorted(damaged),
            "lost": lost(run.workdir),
        },
    }


def _numbered(paths) -> list[int]:
    """The numbers that names end in: 12 of ``step_12``."""
    ends = [path.name.rstrip("_").rpartition("_")[2] for path in paths]
    return [int(end) for end in ends if end.isdecimal()]


def _pictures(run: Run, config: Config, bank, queries, features, place: Path) -> dict[str, str]:
    """The training curves, what the method sees and is asked, and nearest neighbours; returns what is missing."""
    modality, seed, lines = run.modality, config.seed, run.workdir / "metrics.jsonl"
    title = pictures.titled(run.config.method.name, run.workdir, run.step)
    draws = pictures.tasks(modality, seed, run.method, run.variables, queries)
    if modality.shown:
        draws["views.png"] = lambda path: pictures.views(modality, seed, bank, path, title)
    if features is not None and modality.shown:
        draws["neighbours.png"] = lambda path: pictures.neighbours(
            modality, features[0], bank, features[1], queries, path, title
        )
    elif features is not None and "text" in bank.columns:
        draws["neighbours.json"] = lambda path: write_json(
            path, text_pages.nearest(features[0], bank, features[1], queries)
        )
    if lines.is_file():  # else the run logged nothing
        rows = run.plan.global_batch_size
        draws["curves.png"] = lambda path: curves.curves(read_metrics(lines), path, title, rows=rows)
    return canvas.drawn(place, draws)


def make_fit(run: Run, config, folder: Path, say: Say) -> evals.Fit:
    """``fit`` of :mod:`ssl_jax.evals`: supervised training from this run's checkpoint, through :func:`train.fit`.

    Args:
      config: the run's, with the source that is evaluated on.
      folder: where the runs go; a finished one is read again.
    """

    def fit(name: str, splits: Splits, overrides: Mapping[str, Any]) -> Fitted:
        mine: Config = ConfigDict(to_json(config))
        mine.init_from, mine.method = str(run.workdir), ConfigDict({"name": "supervised"})
        mine.optim.clip_norm = None
        mine.train.update({"steps": None, "keep_checkpoints": 1, "loggers": (), "log_every": 50})
        if "steps_per_dispatch" in mine.train:  # an epoch need be no multiple of it
            mine.train.steps_per_dispatch = 1
        mine.eval.update({"knn": False, "probe": False, "label_efficiency": False, "during": ()})
        # The splits hold the labels that are given, and one part is all that supervised training takes.
        mine.data.update({key: None for key in ("labelled", "ratio") if key in mine.data})
        # What belongs to another optimizer or schedule than that of fine-tuning.
        others = ("b2", "step_at", "weight_decay_end", "start", "end", "clip_each", "eta", "clip_rate")
        others += ("layer_decay", "patch_rate")
        mine.optim.update({key: None for key in others if key in mine.optim})
        with mine.unlocked():
            for key, value in overrides.items():
                part, _, last = key.rpartition(".")
                (mine[part] if part else mine)[last] = value
        configs.give_recipe(mine, plain_recipe(config.data.recipe, run.recipe))
        with mine.unlocked():
            mine.data.views = ConfigDict()
        devices = parallel.device_count(mine.parallel.devices)
        most = len(splits.train) // devices * devices
        if mine.data.global_batch_size > most:
            say(f"  {name}: batches of {most}, all there is to learn from, not {mine.data.global_batch_size}")
            mine.data.global_batch_size = most
        epoch = len(splits.train) // mine.data.global_batch_size
        steps = mine.train.steps or mine.train.epochs * epoch
        every = max(epoch, round(steps) // 20)  # the best of the epochs is kept, of at most some twenty of them
        mine.train.update({"eval_every": every, "checkpoint_every": every})
        say(f"  {name}: {mine.method.name}, {round(steps)} steps")
        experiment = build(mine, splits, folder=run.workdir)
        asked = [to_json(mine), recipes.plain(experiment.recipe)]
        parts = (json.dumps(asked, sort_keys=True), *(part.fingerprint for part in splits))
        place = folder / f"{name}_{sources.sha256(*parts)[:8]}"  # other settings are another run
        try:
            summary = train.fit(experiment, place, test=False)
        except train.NotFinite as error:
            raise evals.Diverged(f"{name}: {error}") from None
        step, val_top1 = checkpoint.best(place, train.best_metric(experiment))
        best = open_run(place, step)
        found = measure.extractor(experiment, parallel.make_mesh(devices))(best.variables, [splits.test]).known()
        hits = np.argmax(np.asarray(found.logits), -1) == found.labels
        return Fitted(val_top1, hits, summary["steps"], summary["seconds"], place)

    return fit


def plain_recipe(name: str, recipe: Any = None) -> str:
    """Crop and flip; the crop alone where the run's own recipe does not flip (a flipped digit is another digit).

    Of text whole documents, in ``[CLS]`` and ``[SEP]`` where the run has read text so.

    Args:
      recipe: of the run; None: that of the name.
    """
    recipe = recipes.get(name) if recipe is None else recipe
    if isinstance(recipe, text.Recipe):
        enclosed = isinstance(recipe, text.Pairs) or getattr(recipe, "enclosed", False)
        return "documents_enclosed" if enclosed else "documents"
    if not isinstance(recipe, ImageRecipe):  # data that are no images
        return name
    ops = [op for view in recipe.views for op in view.ops]
    return "supervised" if any(isinstance(op, Flip) for op in ops) else "supervised_no_flip"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(options), default=str))
