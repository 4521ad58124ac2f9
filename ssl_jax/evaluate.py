"""Evaluation of finished runs: opened read-only, encoded once, measured by the evaluators that were asked for.

What comes out is a folder: ``evaluation.json``, the evaluators' pictures, and ``report.html``, which holds it all.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import evals, measure, parallel, train
from ssl_jax.config import Config
from ssl_jax.data import source as sources
from ssl_jax.data.images import recipes
from ssl_jax.data.source import Splits
from ssl_jax.evals import Accuracy, Fitted
from ssl_jax.evals.shared import figures, pictures, report, robustness
from ssl_jax.evals.shared.encode import CachedEncode, Encode
from ssl_jax.experiment import build, load_splits, to_json
from ssl_jax.online.progress import counted
from ssl_jax.run import checkpoint
from ssl_jax.run.folder import read_summary
from ssl_jax.run.open import Run, open_run
from ssl_jax.run.provenance import machine
from ssl_jax.run.writer import read_metrics
from ssl_jax.types import Variables

Say = Callable[[str], None]
Options = Mapping[str, Mapping[str, Any]]  # evaluator -> option -> value

PICTURES = {
    "curves": ("Training curves", "As the run logged them; val_ metrics are of examples held out of train."),
    "views": ("Views", "Images, and the random views of them that the method was trained on."),
    "task": ("Task", "What the method is asked, and what it answers."),
    "reconstructions": ("Reconstructions", "Test images and what the decoder makes of their features."),
    "low_label": ("Few labels", "Linear accuracy on test by labels per class; the band is one deviation over draws."),
    "energy": ("Energy of pairs", "Negative cosine of two views of an image, and of two images; no gap is collapse."),
    "spectrum": ("Spectrum", "Eigenvalues of the features' covariance, and the power law fitted to them."),
    "projection": (
        "Projections",
        "Test features in the plane, by class; trustworthiness 1 invents no neighbour.",
    ),
    "neighbours": ("Nearest neighbours", "Test images and the training images nearest to them by cosine."),
}


def evaluate(
    workdirs: Sequence[str | Path],
    names: Sequence[str],
    options: Options,
    *,
    outdir: str | Path | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    download: bool = False,
    devices: int | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Evaluate runs and write what was found.

    Args:
      workdirs: of the runs.
      names: of the evaluators, in the order in which they are to speak.
      options: of the evaluators; ``options["features"]`` may hold ``max_dim`` of the stages.
      outdir: where everything goes; default ``<workdir>/evaluation`` of a single run.
      source: another dataset than the run's own, as in ``data.source``.
      data_dir: where TFDS datasets lie, if not where the run found them.
      download: let TFDS fetch a dataset that is not there.
      devices: default that of ``parallel.devices``.

    Returns:
      The content of ``evaluation.json``: ``{"metrics", "intervals", "online", "alarms", "evaluators", "provenance"}``,
      or, of several runs, ``{"runs": {name: that}, "paired": [...]}``.

    Raises:
      ValueError: one line, before anything is computed.
    """
    say = say if jax.process_index() == 0 else lambda text: None
    if outdir is None and len(workdirs) > 1:
        raise ValueError("several workdirs need --outdir DIR for their comparison")
    runs = dict(zip(_short_names(workdirs), map(open_run, workdirs), strict=True))
    root = Path(outdir) if outdir else Path(workdirs[0]) / "evaluation"
    jobs = {}
    for name, run in runs.items():
        place = root / name if len(runs) > 1 else root
        jobs[name] = _prepare(run, place, names, options, source, data_dir, download, devices, say)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--outdir {root} cannot be made ({error.strerror}); name another folder") from None
    found, drawn, hits = {}, {}, {}
    for name, job in jobs.items():
        if len(runs) > 1:
            say(f"{name}:")
        found[name], drawn[name], hits[name] = job()
    paired = _paired(hits) if len(runs) > 1 else []
    result = {"runs": found, "paired": paired} if len(runs) > 1 else next(iter(found.values()))
    if jax.process_index() == 0:
        _write_json(root / "evaluation.json", result)
        report.write(root / "report.html", found, drawn, paired)
        say(f"report: {root / 'report.html'}")
    return result


def _short_names(workdirs: Sequence[str | Path]) -> list[str]:
    """The last parts of the folders' names that tell them apart."""
    # Each becomes a folder of --outdir: without ".." and the root it cannot lie elsewhere.
    paths = [Path(os.path.abspath(w)).parts[1:] for w in workdirs]
    if len(set(paths)) < len(paths):
        raise ValueError(f"the same workdir is named twice: {', '.join(map(str, workdirs))}")
    depth = 1
    while len({parts[-depth:] for parts in paths}) < len(paths):
        depth += 1
    return ["-".join(parts[-depth:]) for parts in paths]


def _prepare(run: Run, place: Path, names, options: Options, source, data_dir, download, devices, say: Say):
    """Everything that can be refused about the evaluation of one run; returns the function that does it."""
    config: Config = ConfigDict(to_json(run.config))
    config.data.update({"data_dir": data_dir or config.data.data_dir, "download": download})
    if source:
        own = ("train_split", "test_split", "num_examples", "unlabelled")  # what the run said of its own data
        config.data.update({"source": source} | {key: None for key in own if key in config.data})
    splits = load_splits(config)
    run.modality.accepts(splits.test)
    for note in splits.notes:
        say(note)
    known = sources.join(splits.train, splits.val)
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
    recipe = recipes.get(run.config.data.recipe)
    encode = CachedEncode(plain, run.variables, recipe, place / "features", say)
    evaluators, settings = {}, {}
    for name in names:
        given = _defaults(run.config, name, known) | options.get(name, {})
        settings[name] = _plain(evals.options(name) | given)
        if evals.trains(name):
            given["fit"] = make_fit(run, config, place / "fits", say)
        try:
            evaluators[name] = evals.get(name)(encode, train=known, test=splits.test, **given)
        except TypeError as error:
            said = ", ".join(f"{option}={value!r}" for option, value in options.get(name, {}).items())
            raise ValueError(f"eval.{name} cannot be measured with {said}: {error}") from None
    data = sources.identity(splits)
    if not source and not sources.same(run.resolved["data"], data):
        say(f"WARNING: {config.data.source} is not what {run.workdir} was trained on; its test part may have been seen")

    def job():
        began = time.perf_counter()
        result, drawn, hits = _run(evaluators, run.variables, place, settings, say)
        result |= _of_itself(run)
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
            "checkpoint": checkpoint.fingerprint(run.variables),
            "run_commit": run.resolved.get("commit"),
            "devices": mesh.devices.size,
            "seconds": round(time.perf_counter() - began, 1),
            **machine(),
            "config": to_json(run.config),
        }
        bank, queries = measure.subset(known, 10_000), measure.subset(splits.test, 1_000)
        found = [encode(run.variables, part)["features"] for part in (bank, queries)]
        if jax.process_index() == 0:
            drawn = _keep_earlier(place, result, hits, say) + drawn
            drawn += _pictures(run, config, bank, queries, found, place / "pictures")
            _write_json(place / "evaluation.json", result)
            np.savez_compressed(place / "hits.npz", **hits)  # pyright: ignore[reportArgumentType]: no metric is called so
        return result, drawn, hits

    return job


def _keep_earlier(place: Path, result: dict[str, Any], hits: dict[str, np.ndarray], say: Say) -> list[report.Figure]:
    """Add to ``result`` and ``hits`` what other evaluators found earlier on the same checkpoint and data."""
    try:
        earlier = json.loads((place / "evaluation.json").read_text())
        with np.load(place / "hits.npz") as file:
            earlier_hits = dict(file)
        same = all(earlier["provenance"][k] == result["provenance"][k] for k in ("checkpoint", "fingerprints"))
        kept = {n: entry for n, entry in earlier["evaluators"].items() if same and n not in result["evaluators"]}
        for part in ("metrics", "intervals"):
            names = [m for entry in kept.values() for m in entry["metrics"] if m in earlier[part]]
            result[part] = {m: earlier[part][m] for m in names} | result[part]
    except (OSError, KeyError, TypeError, ValueError):  # nothing there, or nothing of ours
        return []
    hits |= {m: earlier_hits[m] for entry in kept.values() for m in entry["metrics"] if m in earlier_hits}
    result["evaluators"] = kept | result["evaluators"]
    if kept:
        say(f"kept from an earlier evaluation of the same checkpoint: {', '.join(kept)}")
    return [figure for name, entry in kept.items() for figure in _figures(place, name, entry["figures"])]


def _figures(place: Path, name: str, files: Sequence[str]) -> list[report.Figure]:
    """An evaluator's pictures, with what there is to say of them; files of an earlier evaluation could lie anywhere."""
    inside = [place / file for file in files if (place / file).resolve().is_relative_to(place.resolve())]
    paths = [path for path in inside if path.is_file()]
    plain = {path: (path.stem.replace("_", " "), "") for path in paths}
    return [report.Figure(p, *PICTURES.get(p.stem, plain[p]), section=name.replace("_", " ")) for p in paths]


def _of_itself(run: Run) -> dict[str, Any]:
    """What the run measured of itself, and its alarms; where it has not ended, those of its checkpoint.

    A step that was not finite and ended the run is in no checkpoint: what was kept of it tells of it.
    """
    found = read_summary(run.workdir) or run.progress
    kept = [path.name.removeprefix("step_") for path in run.workdir.glob("nonfinite/step_*")]
    first = min((int(step) for step in kept if step.isdecimal()), default=None)
    return {
        "online": {name: value for name, value in found.items() if name.endswith("top1")},
        "not_measured": found.get("not_measured") or {},
        "alarms": {
            "collapsed": bool(found.get("collapsed")),
            "loss_spikes": list(found.get("loss_spikes") or ()),
            "nonfinite": found.get("nonfinite") or first,
            "skipped": found.get("skipped") or 0,
            "replaced": found.get("replaced") or len(found.get("unreadable") or ()),
        },
    }


def _pictures(run: Run, config: Config, bank, queries, found, folder: Path) -> list[report.Figure]:
    """The training curves, what the method sees and is asked, and nearest neighbours."""
    with suppress(ValueError, OSError):  # a run that logged nothing
        figures.curves(read_metrics(run.workdir / "metrics.jsonl"), folder / "curves.png")
    if run.modality.shown:
        pictures.views(run.modality, config.seed, bank, folder / "views.png")
        pictures.neighbours(run.modality, found[0], bank, found[1], queries, folder / "neighbours.png")
    pictures.tasks(run.modality, config.seed, run.method, run.variables, queries, folder)
    return [
        report.Figure(path, title, caption, "pictures")
        for name, (title, caption) in PICTURES.items()
        if (path := folder / f"{name}.png").is_file()
    ]


def _defaults(config: Config, name: str, known: sources.Source) -> dict[str, Any]:
    """kNN as the run itself measured it, so that its number comes again."""
    if name != "knn" or known.labels is None:
        return {}
    e, count = config.eval, int((known.labels >= 0).sum())
    return {"k": (min(e.knn_k, max(1, count)),), "temperature": (e.knn_temperature,), "centre": e.knn_centre}


def _run(evaluators, variables: Variables, place: Path, settings: Options, say: Say):
    """Run evaluators in turn; what a missing optional package prevents is skipped with a line."""
    result: dict[str, Any] = {"metrics": {}, "intervals": {}, "evaluators": {}}
    drawn: list[report.Figure] = []
    hits: dict[str, np.ndarray] = {}
    for name, evaluator in evaluators.items():
        say(f"{name} ...")
        began = time.perf_counter()
        _reset_peak()
        entry: dict[str, Any] = {"settings": settings[name], "metrics": [], "skipped": None}
        try:
            found = evaluator.run(variables, place / name if jax.process_index() == 0 else None)
            for metric, value in counted(found, f"{name}: measuring"):
                metric = f"test_{metric}"
                result["metrics"][metric] = float(value)
                entry["metrics"].append(metric)
                said = f"  {metric:44} {value:#.4g}"
                if isinstance(value, Accuracy):
                    hits[metric] = value.hits
                    low, high = robustness.bootstrap_interval(value.hits)
                    result["intervals"][metric] = [low, high]
                    said += f"   95 %: {low:.4f} to {high:.4f}"
                say(said)
            if missing := getattr(evaluator, "skipped", ()):
                entry["skipped"] = f"{', '.join(missing)} left out: its package is not installed"
        except ImportError as error:
            entry["skipped"] = f"{name} left out: {error}"
            say(f"  {entry['skipped']}")
        entry |= {"seconds": round(time.perf_counter() - began, 2), "peak_memory_mb": _peak_mb()}
        files = sorted((place / name).glob("*.png"))
        entry["figures"] = [str(p.relative_to(place)) for p in files]
        drawn += _figures(place, name, entry["figures"])
        result["evaluators"][name] = entry
    return result, drawn, hits


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
        mine.train.update({"steps": None, "keep_checkpoints": 1, "tensorboard": False, "log_every": 50})
        mine.eval.update({"knn": False, "probe": False, "label_efficiency": False})
        with mine.unlocked():
            for key, value in overrides.items():
                part, _, last = key.rpartition(".")
                (mine[part] if part else mine)[last] = value
        mine.data.recipe = plain_recipe(config.data.recipe)
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
        parts = (json.dumps(to_json(mine), sort_keys=True), *(part.fingerprint for part in splits))
        place = folder / f"{name}_{sources.sha256(*parts)[:8]}"  # other settings are another run
        summary = train.fit(experiment, place, test=False)
        step, val_top1 = checkpoint.best(place, train.best_metric(experiment))
        best = open_run(place, step)
        found = measure.extractor(experiment, parallel.make_mesh(devices))(best.variables, [splits.test]).known()
        hits = np.argmax(np.asarray(found.logits), -1) == found.labels
        return Fitted(val_top1, hits, summary["steps"], summary["seconds"])

    return fit


def plain_recipe(name: str) -> str:
    """Crop and flip; the crop alone where the run's own recipe does not flip (a flipped digit is another digit)."""
    recipe = recipes.get(name)
    if not isinstance(recipe, recipes.Recipe):  # data that are no images
        return name
    ops = [op for view in recipe.views for op in view.ops]
    return "supervised" if any(isinstance(op, recipes.Flip) for op in ops) else "supervised_no_flip"


def _paired(hits: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Every two runs on every accuracy that both have of the same queries."""
    found = []
    for a, b in itertools.combinations(hits, 2):
        for metric in hits[a]:
            if metric in hits[b] and len(hits[a][metric]) == len(hits[b][metric]):
                difference, low, high, p = robustness.paired_difference(hits[a][metric], hits[b][metric])
                found.append(
                    {"metric": metric, "a": a, "b": b, "difference": difference, "low": low, "high": high, "p": p}
                )
    return found


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(options), default=str))


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_strict(value), indent=2, default=float, allow_nan=False) + "\n")


def _strict(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _reset_peak() -> None:
    """Linux forgets the process's peak of memory, so that the next one is this evaluator's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1024, 1)
    return None
