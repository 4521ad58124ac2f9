"""Several runs beside each other: rows named by what their configs differ in, the seeds of one config as one row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssl_jax import configs
from ssl_jax.evals.shared.names import apart, shown
from ssl_jax.names import brief, short
from ssl_jax.run.open import read_run
from ssl_jax.run.writer import read_metrics
from ssl_jax.types import Config


class Run(NamedTuple):
    """What is read of a run's folder; ``summary`` is None of a run that has not come to its end.

    ``resumed`` has what each resumption says of code and machine, as ``resolved`` has it of the beginning.
    """

    folder: Path
    config: Config
    resolved: dict[str, Any]
    lines: list[dict[str, Any]]
    summary: dict[str, Any] | None
    resumed: tuple[dict[str, Any], ...] = ()

    @property
    def commits(self) -> set[str]:
        """Of its beginning and of every resumption."""
        return {str(one.get("commit")) for one in (self.resolved, *self.resumed)}


class Row(NamedTuple):
    """Runs of one config, a seed each."""

    name: str
    runs: tuple[Run, ...]


def read(folder: Path) -> Run:
    """A run, finished or not.

    Raises:
      ValueError: there is none, or it has no line of metrics yet.
    """
    config, resolved = read_run(folder)
    log, summary = folder / "metrics.jsonl", folder / "summary.json"
    lines = read_metrics(log) if log.is_file() else []
    if not lines:
        raise ValueError(f"{folder} has no metrics yet (metrics.jsonl); leave it out")
    ended = json.loads(summary.read_text()) if summary.is_file() else None
    return Run(folder, config, resolved, lines, ended, resumptions(folder))


def resumptions(folder: Path) -> tuple[dict[str, Any], ...]:
    """What each resumption of a run says of its code and machine."""
    return tuple(one["resolved"] for one in json.loads((folder / "config.json").read_text()).get("resumed", ()))


def refuse_other_data(runs: Sequence[Run], split: str) -> None:
    """One line for runs whose examples of ``split`` are not the same: their rows would look like a comparison."""
    first, *others = runs
    for other in others:
        one, two = first.resolved["data"], other.resolved["data"]
        if one["fingerprints"][split] != two["fingerprints"][split]:
            raise ValueError(
                f"{first.folder} and {other.folder} are not measured on the same {split} examples "
                f"({one['sizes'][split]} and {two['sizes'][split]}, of other content); compare runs on the same data"
            )


def rows(runs: Sequence[Run]) -> list[Row]:
    """Runs of one config as one row, in the order given, named by the keys that differ between the rows.

    Methods differ in all their keys, so rows of one method are told apart among themselves, and the method's name
    comes first where there are several. Two runs with the same config and seed are a row each, named by their folders.
    """
    changes = [_changes(runs[0], run) for run in runs]
    keys = sorted(set().union(*changes))
    first = {key: change[key][0] for change in changes for key in change}
    values = [{key: change[key][1] if key in change else first[key] for key in keys} for change in changes]
    methods = [run.config.method.name for run in runs]
    names = []
    for method, own in zip(methods, values, strict=True):
        peers = [other for name, other in zip(methods, values, strict=True) if name == method]
        told = [key for key in keys if key != "method.name" and any(p[key] != own[key] for p in peers)]
        parts = [method] if len(set(methods)) > 1 or not told else []
        names.append(", ".join([*parts, *(f"{_short(key, told)}={_value(own[key])}" for key in told)]))
    groups: dict[str, list[Run]] = {}
    for name, run in zip(names, runs, strict=True):
        groups.setdefault(name, []).append(run)
    found = []
    for name, group in groups.items():
        if len({run.config.seed for run in group}) == len(group):
            found.append(Row(name, tuple(group)))
        else:
            folders = apart([run.folder.absolute().parts for run in group])
            found += [Row(f"{name} ({folder})", (run,)) for folder, run in zip(folders, group, strict=True)]
    return found


def _changes(first: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    refused, free = configs.differences(first.config.to_dict(), other.config)
    averaged = any(run.config.get("optim", {}).get("average_after") is not None for run in (first, other))
    also = ["train.eval_every"] * averaged  # which starts the average
    return {
        key: pair
        for key, pair in (refused | free).items()
        if key in also or (configs.matters(key) and not (key in free and _same_content(key, first, other)))
    }


def _same_content(key: str, first: Run, other: Run) -> bool:
    """Whether data or a file of the user's own that lie at another place hold the same."""
    if key == "data.source":
        return first.resolved["data"]["fingerprints"] == other.resolved["data"]["fingerprints"]
    one, two = (run.resolved["own"].get(key) for run in (first, other))
    return one is not None and two is not None and one["sha256"] == two["sha256"]


def title(runs: Sequence[Run]) -> str:
    """What stands above a picture of several: ``byol, simclr on cifar10, 6 runs``."""
    said = {short(run.config.method.name) for run in runs}, {run.config.data.source for run in runs}
    methods, data = (shown(", ".join(sorted(words)), 60) for words in said)
    return f"{methods} on {data}, {len(runs)} run{'s' * (len(runs) > 1)}"


def _short(key: str, keys: Iterable[str]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(k.rpartition(".")[2] == last for k in keys) == 1 else key


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else brief(value)


def measured(run: Run, split: str) -> dict[str, float]:
    """Scores by name without the split: "val" of the last measurement while training, "test" of a run's end.

    Raises:
      ValueError: test scores of a run that has none.
    """
    if split == "test":
        if run.summary is None:
            raise ValueError(f"{run.folder} is not finished, so nothing of it is measured on test; compare on val")
        found: Mapping[str, Any] = run.summary
    else:
        found = next((line for line in reversed(run.lines) if any(k.startswith("val_") for k in line)), {})
    prefix = f"{split}_"
    return {
        name.removeprefix(prefix): float(value)
        for name, value in found.items()
        if name.startswith(prefix) and isinstance(value, int | float)
    }


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); None of one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def scores(found: Sequence[Row], split: str) -> list[dict[str, Any]]:
    """A mapping for each row: its name, seeds, and ``{score: {"mean", "spread", "values"}}``, epochs and minutes."""
    table = []
    for row in found:
        each = [measured(run, split) for run in row.runs]
        names = dict.fromkeys(name for one in each for name in one)
        table.append(
            {
                "row": row.name,
                "seeds": [run.config.seed for run in row.runs],
                "scores": {name: _summed([one[name] for one in each if name in one]) for name in names},
                "epochs": max(run.lines[-1]["step"] / run.resolved["plan"]["steps_per_epoch"] for run in row.runs),
                "minutes": _minutes(row),
                "unfinished": [str(run.folder) for run in row.runs if run.summary is None],
                "folders": [str(run.folder) for run in row.runs],
                "commits": sorted(set().union(*(run.commits for run in row.runs))),
                "cpus": sorted({cpu for run in row.runs for cpu in map(_cpu, (run.resolved, *run.resumed))}),
            }
        )
    return table


def baseline(name: str, found: Mapping[str, float | None]) -> dict[str, Any]:
    """A row of :func:`scores` that is no run."""
    known = {key: _summed([value]) for key, value in found.items() if value is not None}
    return {"row": name, "seeds": [], "scores": known, "epochs": None, "minutes": None, "unfinished": []}


def _summed(values: Sequence[float]) -> dict[str, Any]:
    mean, spread = mean_and_spread(values)
    return {"mean": mean, "spread": spread, "values": list(values)}


def hardware(run: Run) -> str:
    """``2 x AMD EPYC ...`` cores, or accelerators with the machine's CPU; "then" others, of a resumption."""
    return ", then ".join(dict.fromkeys(_hardware(one) for one in (run.resolved, *run.resumed)))


def _hardware(found: Mapping[str, Any]) -> str:
    if found.get("platform", "cpu") == "cpu":
        return _cpu(found)
    return f"{found.get('devices')} x {found.get('device_kind')}, host {_cpu(found)}"


def _cpu(found: Mapping[str, Any]) -> str:
    return f"{found.get('cores')} x {found.get('cpu')}"


def _minutes(row: Row) -> float | None:
    known = [run.summary["seconds"] / 60 for run in row.runs if run.summary is not None]
    return statistics.fmean(known) if known else None


def lower_is_better(score: str) -> bool:
    """Whether a score is one of losses and perplexities."""
    return score.endswith(("loss", "perplexity"))


def markdown(table: Sequence[Mapping[str, Any]], split: str, best: str | None = None) -> str:
    """Rows as a table: mean ± standard deviation over seeds; the row called ``best`` in bold."""
    names = list(dict.fromkeys(name for row in table for name in row["scores"]))
    seeds = any(len(row["seeds"]) > 1 for row in table)
    head = ["run", *(["seeds"] if seeds else []), *(f"{split} {name}" for name in names), "epochs", "minutes"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table:
        cells = [_text(row["scores"].get(name)) for name in names]
        epochs, minutes = ("" if row[key] is None else f"{row[key]:,.3g}" for key in ("epochs", "minutes"))
        mark = "**" if row["row"] == best else ""
        name = f"{mark}{row['row']}{mark}".replace("|", "\\|")
        cells = [name, *([str(len(row["seeds"]) or "")] if seeds else []), *cells, epochs, minutes]
        lines.append(f"| {' | '.join(cells)} |")
    unfinished = [folder for row in table for folder in row["unfinished"]]
    notes = [f"not finished, its last measurement is shown: {', '.join(unfinished)}"] if unfinished else []
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _text(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    form = ".3f" if abs(score["mean"]) < 10 else ",.1f"
    spread = "" if score["spread"] is None else f" ± {score['spread']:{form}}"
    return f"{score['mean']:{form}}{spread}"


def curves(found: Sequence[Row]) -> dict[str, dict[str, list[tuple[list[float], list[float]]]]]:
    """``{score: {row: [(epochs, values) of each seed]}}`` of all scores on validation, and of the training loss."""
    drawn: dict[str, dict[str, list[tuple[list[float], list[float]]]]] = {}
    for row in found:
        for run in row.runs:
            names = [name for line in run.lines for name in line if name.startswith("val_")]
            for name in dict.fromkeys([*names, "train_loss"]):
                points = [
                    (line["step"] / run.resolved["plan"]["steps_per_epoch"], line[name])
                    for line in run.lines
                    if isinstance(line.get(name), int | float)
                ]
                if points:
                    epochs, values = zip(*points, strict=True)
                    drawn.setdefault(name, {}).setdefault(row.name, []).append((list(epochs), list(values)))
    return drawn
