"""Reference curves: how a config's loss and scores go over several seeds, and whether a run goes as they did.

A curve is cut into windows, each a twentieth of the run, and is the mean of what was logged in each. Over n seeds a
window has a mean m and a deviation s, which is pooled with those of the two windows before it and the two after it,
empty ones aside. The band is

    m ± (t s sqrt(1 + 1/n) + 0.01 (max m - min m)),

t the 99.95th percentile of Student's distribution with as many degrees of freedom as were pooled: where one more seed
would lie 999 times in 1000, if windows were independent; the second term is for seeds that are all but equal. A curve
is on track if its newest whole window is inside the band, and at most one in ten of its windows so far is outside.
Where a value that never moves would be on track as well, the curve cannot tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ssl_jax import configs
from ssl_jax.names import HOME, hint
from ssl_jax.run import provenance, several
from ssl_jax.run.writer import METRICS, read_metrics

WINDOWS, POOLED, QUANTILE, FLOOR, OUTSIDE = 20, 2, 0.9995, 0.01, 0.1
FOLDER = HOME / "configs" / "curves"

Lines = Sequence[Mapping[str, Any]]


class Band(NamedTuple):
    """Where a curve is to lie, by window: the last step of each, and mean, low and high, NaN where nothing is known."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Verdict(NamedTuple):
    """Of one curve of a run: its windows so far against the band.

    Attributes:
      values: by window, NaN where the run has none, infinity where it is not finite.
      sides: -1 below the band, 0 inside, 1 above, of the windows that both have.
      steps: the last steps of these.
    """

    metric: str
    band: Band
    values: np.ndarray
    sides: np.ndarray
    steps: np.ndarray

    @property
    def on_track(self) -> bool:
        return not len(self.sides) or _on_track(self.sides)

    @property
    def tells(self) -> bool:
        """Whether there are windows, and no constant that would be on track in them."""
        judged = np.isin(self.band.steps, self.steps)
        low, high = self.band.low[judged], self.band.high[judged]
        levels = np.concatenate([low, high])  # if any constant is inside so many, one of these is
        flat = (np.where(level > high, 1, np.where(level < low, -1, 0)) for level in levels)
        return len(levels) > 0 and not any(map(_on_track, flat))


def _on_track(sides: np.ndarray) -> bool:
    return bool(sides[-1] == 0 and np.count_nonzero(sides) <= OUTSIDE * len(sides))


def make(runs: Sequence[several.Run]) -> dict[str, Any]:
    """The reference of finished runs of one config, a seed each.

    Returns:
      What :func:`read` gives: ``{"settings", "config_hash", "commits", "hardware", "seeds", "steps",
      "curves": {metric: {"mean": [20], "spread": [20]}}}``, null where a window of any seed is empty.

    Raises:
      ValueError: fewer than two runs, one that is not finished, other configs, or a seed twice.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run{'s' * (len(runs) != 1)}: a band needs two seeds or more; five are better")
    first = runs[0]
    settings, total = provenance.settings(first.config), first.resolved["plan"]["total_steps"]
    for run in runs:
        if run.summary is None:
            raise ValueError(f"{run.folder} is not finished; leave it out")
        if other := _differences(settings, provenance.settings(run.config)):
            raise ValueError(f"{first.folder} and {run.folder} differ in {', '.join(other)}; give seeds of one config")
    seeds = [run.config.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the runs have seeds {seeds}, of which one is there twice; leave it out")
    steps = _edges(total)
    names = [n for n in dict.fromkeys(name for line in first.lines for name in line) if _is_curve(n)]
    curves = {}
    for name in names:
        values = np.array([windowed(run.lines, name, steps) for run in runs])
        values[np.isinf(values)] = np.nan
        if np.isfinite(values).all(0).any():
            curves[name] = {"mean": _rounded(values.mean(0)), "spread": _rounded(values.std(0, ddof=1))}
    return {
        "settings": settings,
        "config_hash": provenance.config_hash(first.config),
        "commits": sorted(set().union(*(run.commits for run in runs))),
        "hardware": sorted({several.hardware(run) for run in runs}),
        "seeds": seeds,
        "steps": steps.tolist(),
        "curves": curves,
    }


def read(name: str) -> dict[str, Any]:
    """A reference by the path of its file, or by the name of the config of ours that it is of.

    Raises:
      ValueError: there is none, or the file is none.
    """
    ours = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
    path = Path(configs.path(name))
    path = path if path.is_file() else ours.get(name)
    if path is None:
        known = f"{hint(name, ours)}known: {', '.join(ours) or 'none'}"
        raise ValueError(f"--compare {name} is neither a file nor the name of a reference of ours; {known}")
    try:
        found = json.loads(path.read_text())
        bands(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"--compare {path} holds no reference curves ({said}); ssl-jax compare --reference makes them"
        ) from None
    return found


def lines_of(workdir: Path) -> list[dict[str, Any]]:
    """What a run has logged so far."""
    log = workdir / METRICS
    return read_metrics(log) if log.is_file() else []


def bands(reference: Mapping[str, Any]) -> dict[str, Band]:
    """The band of every curve of a reference."""
    steps, n = np.array(reference["steps"]), len(reference["seeds"])
    found = {}
    for name, curve in reference["curves"].items():
        mean, spread = (np.array(curve[key], float) for key in ("mean", "spread"))
        known, half = np.flatnonzero(np.isfinite(mean)), np.full(len(mean), np.nan)
        for place, at in enumerate(known):
            near = spread[known[max(0, place - POOLED) : place + POOLED + 1]]
            t = stats.t.ppf(QUANTILE, (n - 1) * len(near))
            half[at] = t * np.sqrt(np.mean(near**2) * (1 + 1 / n))
        half += FLOOR * (np.nanmax(mean) - np.nanmin(mean))
        low, high = mean - half, mean + half
        if name.endswith(("top1", "top5", "accuracy")):
            low, high = low.clip(0, 1), high.clip(0, 1)
        found[name] = Band(steps, mean, low, high)
    return found


def judge(reference: Mapping[str, Any], lines: Lines) -> list[Verdict]:
    """Every curve of the reference that the run has, too."""
    verdicts = []
    last = max((line["step"] for line in lines), default=0)
    for name, band in bands(reference).items():
        values = windowed(lines, name, band.steps)
        values[band.steps > last] = np.nan  # a window that is not whole
        known = ~np.isnan(values) & np.isfinite(band.mean)
        sides = np.where(values > band.high, 1, np.where(values < band.low, -1, 0))
        if not np.isnan(windowed(lines, name, band.steps)).all():
            verdicts.append(Verdict(name, band, values, sides[known], band.steps[known]))
    return verdicts


def said(verdict: Verdict) -> str:
    """One line: ``train_loss: off track at step 700, above the band since step 350: 5.91, band 4.1 to 4.33``."""
    if not len(verdict.sides):
        return f"{verdict.metric}: no whole window of {verdict.band.steps[0]} steps yet"
    at = int(np.flatnonzero(verdict.band.steps == verdict.steps[-1])[0])
    low, value, high = (float(a[at]) for a in (verdict.band.low, verdict.values, verdict.band.high))
    numbers = f"{value:.4g}, band {low:.4g} to {high:.4g}"
    step, side = int(verdict.steps[-1]), int(verdict.sides[-1])
    where = "not finite" if np.isinf(value) else "above the band" if side > 0 else "below the band"
    if verdict.on_track:
        doubt = "" if verdict.tells else ", which tells little: a value that never moves would be, too"
        return f"{verdict.metric}: on track at step {step}{doubt}: {numbers}"
    if side == 0:
        outside = [
            f"{word} it in {len(at)} of {len(verdict.sides)} windows, the last at step {at[-1]}"
            for sign, word in ((-1, "below"), (1, "above"))
            if len(at := verdict.steps[verdict.sides == sign])
        ]
        return (
            f"{verdict.metric}: off track at step {step}, inside the band now, but {' and '.join(outside)}: {numbers}"
        )
    same = len(verdict.sides) - int(np.argmax(np.append(verdict.sides[::-1] != side, True)))
    since = int(verdict.steps[same])
    return f"{verdict.metric}: off track at step {step}, {where} since step {since}: {numbers}"


def summary(reference: Mapping[str, Any], config: Any, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What programs read: ``{"on_track", "differs", "curves": {metric: {"on_track", "tells", "said"}}}``.

    The first is False where a curve is off track, and None where all are on it and none tells.
    """
    curves = {v.metric: {"on_track": v.on_track, "tells": v.tells, "said": said(v)} for v in verdicts}
    on_track = None if all(v.on_track and not v.tells for v in verdicts) else all(v.on_track for v in verdicts)
    return {"on_track": on_track, "differs": _of_config(reference, config), "curves": curves}


def refuse_another(reference: Mapping[str, Any], config: Any, name: str) -> None:
    """One line where a reference is of another method, network or dataset, so that no curve of it says anything."""
    settings = provenance.settings(config)
    for key in ("method.name", "model.name", "data.source"):
        if (has := settings.get(key)) != (wanted := reference["settings"].get(key)):
            raise ValueError(f"--compare {name} is of {key}={wanted}, and this run has {has}; give one of the same")


def _of_config(reference: Mapping[str, Any], config: Any) -> list[str]:
    return _differences(reference["settings"], json.loads(json.dumps(provenance.settings(config))))


def notes(reference: Mapping[str, Any], config: Any) -> list[str]:
    """What must be known to read the verdicts: what the reference is of, and in what the run's config differs."""
    commits, seeds = ", ".join(map(provenance.short, reference["commits"])), len(reference["seeds"])
    found = [f"reference: {seeds} seeds at {commits}, {'; '.join(reference['hardware'])}"]
    other = _of_config(reference, config)
    return found + ([f"this run differs from the reference in {', '.join(other)}"] if other else [])


def watch(reference: Mapping[str, Any], lines: Lines, say: Callable[[str], None]) -> Callable[..., None]:
    """A hook for :func:`ssl_jax.train.fit` that says when a run leaves the track, and when it is back.

    Args:
      lines: what the run has logged so far, if it goes on.
    """
    seen, before = list(lines), {verdict.metric: verdict.on_track for verdict in judge(reference, lines)}
    edges = np.array(reference["steps"])

    def hook(step: int, metrics: Mapping[str, Any], state: Any) -> None:
        crossed = np.any((edges > (seen[-1]["step"] if seen else 0)) & (edges <= step))
        seen.append({"step": step, **metrics})
        for verdict in judge(reference, seen) if crossed else ():
            if before.get(verdict.metric, True) != verdict.on_track:
                say(("" if verdict.on_track else "WARNING: ") + said(verdict))
            before[verdict.metric] = verdict.on_track

    return hook


def windowed(lines: Lines, name: str, steps: np.ndarray) -> np.ndarray:
    """Means of a metric over the windows that end at ``steps``; NaN of an empty one, infinity where one is none."""
    points = [(line["step"], np.nan if line[name] is None else line[name]) for line in lines if name in line]
    if not points:
        return np.full(len(steps), np.nan)
    at, values = np.array(points, float).T
    values[~np.isfinite(values)] = np.inf
    place = np.searchsorted(steps, at)  # a step that ends a window is its last
    return np.array([values[place == k].mean() if np.any(place == k) else np.nan for k in range(len(steps))])


def _edges(total: int) -> np.ndarray:
    return np.unique(np.ceil(total * np.arange(1, WINDOWS + 1) / WINDOWS).astype(int))


def _is_curve(name: str) -> bool:
    return name == "train_loss" or name.startswith("val_")


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Keys that matter to what a run computes, with both values."""
    one, two = (json.loads(json.dumps(settings)) for settings in (one, two))
    keys = sorted({*one, *two})
    return [f"{key}: {two.get(key)!r}, not {one.get(key)!r}" for key in keys if one.get(key) != two.get(key)]
