"""The table of a suite: what its runs measured, mean and spread over seeds, beside what is published; what is missing.

Nothing is filled in: a row without runs is "not run", with its command and cost, and a run that failed is said to have.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.suites.rows import Row, Suite, brought, commands
from ssl_jax import configs
from ssl_jax.interop.files import write_json
from ssl_jax.run import provenance, reference, several

NOTE = """\
Accuracies in %. `test kNN` and `test linear`: `ssl-jax evaluate` on the last checkpoint, frozen; the penalty of the
linear classifier is chosen on held-out train images. `test probe`: the classifier that was trained beside the method
(online), at the run's end; `test classifier`: the method's own. `val ...`: online, on the held-out train images, at the
last step, kNN against no more than {bank} train images. Test is read at the end, of the last checkpoint alone, and
nothing is chosen on it. ± is the standard deviation over seeds (n - 1). `per second`, `hours`: from the least to the
most of the seeds; hours are those of training with its measurements and of the evaluation. `memory`: the most of a
device, on a CPU of the process."""

DIFFERENCE = """\
`difference`: ours less the published figure, whose protocol its source tells; none where the recipe is another."""

VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu")  # what the bits of a run hang on

NAMES = {
    **{"test_knn_top1": "test kNN", "test_linear_top1": "test linear", "test_probe_top1": "test probe"},
    **{"val_knn_top1": "val kNN", "val_probe_top1": "val probe"},
    "test_linear_top1_cls_last4": "test linear, last 4 blocks",
    "test_knn_top1_projections": "test kNN, projections",
    "test_top1": "test classifier",
}


def write(suite: Suite, out: Path, left_out: Mapping[str, str], changes: list[str], dirty: bool, made: str) -> str:
    """``table.json``, ``table.md`` and the curves of what OUT holds; returns the text."""
    changed = [change for change in changes if configs.matters(change.partition("=")[0])]
    found: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, dict[int, str]] = {}
    for row in suite.rows:
        for seed in seeds_of(out, row):
            path = out / "runs" / f"{row.name}-{seed}"
            note = path.with_name(f"{path.name}.failed")
            if (why := why_not_done(path, row)) is None:
                found.setdefault(row.name, []).append(collect(path))
            elif note.is_file():
                failed.setdefault(row.name, {})[seed] = f"failed: {note.read_text().strip()}"
            elif (path / "summary.json").is_file():
                failed.setdefault(row.name, {})[seed] = why
    refuse_other_data(found)
    commit, made_rows, missing = commit_of(found, dirty=dirty), [], []
    for row in suite.rows:
        runs, lost = found.get(row.name, []), failed.get(row.name, {})
        if runs:
            made_rows.append(summarised(row, runs, lost, not changed))
        else:
            why = "; ".join(f"seed {seed} {said}" for seed, said in lost.items())
            missing.append(not_run(row, why or left_out.get(row.name, "not yet"), changes))
    dirty = commit is not None and (commit == "None" or commit.endswith("+"))
    content = {"suite": suite.name, "commit": commit, "dirty": dirty, "changed": changed, "command": made}
    content |= {"files": brought(suite), "rows": made_rows, "not_run": missing}
    write_json(out / "table.json", content)
    text = markdown(suite, content)
    (out / "table.md").write_text(text)
    for row in made_rows:
        if len(row["seeds"]) > 1:
            runs = [several.read(out / "runs" / f"{row['row']}-{seed}") for seed in row["seeds"]]
            other = changed or any(configs.matters(change.partition("=")[0]) for change in row["set"])
            name = row["row"] if other else Path(row["config"]).stem  # a config as it is
            write_json(out / "curves" / f"{name}.json", reference.make(runs))
    return text


def last(out: Path) -> dict[str, Any]:
    """``table.json`` as it was last written, empty if it never was."""
    file = out / "table.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def seeds_of(out: Path, row: Row) -> list[int]:
    """Those that OUT has of a row, of which runs may have failed."""
    names = (path.name.removesuffix(".failed") for path in (out / "runs").glob(f"{row.name}-*"))
    ends = {name.removeprefix(f"{row.name}-") for name in names}
    return sorted(int(end) for end in ends if end.isdecimal())


def refuse_other_data(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line where data of one name are not the same: rows would look like a comparison."""
    first: dict[str, tuple[str, str]] = {}
    for row, runs in found.items():
        for run in runs:
            name, test = run["data"], run["test_fingerprint"]
            other, known = first.setdefault(name, (f"{row}-{run['seed']}", test))
            if test != known:
                raise ValueError(f"{other} and {row}-{run['seed']} have other test examples, both called {name}")


def why_not_done(workdir: Path, row: Row) -> str | None:
    """None of a run that is finished and evaluated as the row asks for, at the commit that made it."""
    summary, file = workdir / "summary.json", workdir / "evaluation" / "evaluation.json"
    if not summary.is_file():
        return "is not finished"
    if "test" in (json.loads(summary.read_text()).get("not_measured") or {}):
        return "has no test"
    if not file.is_file():
        return "is not evaluated yet"
    found = json.loads(file.read_text())
    if lacking := [name for name in row.evals if name not in found.get("evaluators", {})]:
        return f"is not evaluated by {', '.join(lacking)} yet"
    for option in row.options:
        key, _, text = option.partition("=")
        name, _, key = key.partition(".")
        value = found["evaluators"][name].get("settings", {}).get(key)
        if value != _stored(text, value):
            return f"was evaluated with {name}.{key}={value}, not {text}"
    made, measured = several.read(workdir).commits, str(found["provenance"].get("commit"))
    if measured not in made:
        said = " and ".join(map(provenance.short, sorted(made)))
        return f"was made at {said} and evaluated at {provenance.short(measured)}"
    return None


def _stored(text: str, value: Any) -> Any:
    """What an evaluation stores of an option, in the form of the value that it has."""
    if isinstance(value, list):
        return [_stored(part, value[0] if value else "") for part in text.split(",")]
    return text if isinstance(value, str) else configs.literal(text)


def collect(workdir: Path) -> dict[str, Any]:
    """What is known of a finished run."""
    run, evaluation = several.read(workdir), json.loads((workdir / "evaluation" / "evaluation.json").read_text())
    assert run.summary is not None
    summary, measured = run.summary, evaluation["metrics"]
    online = several.measured(run, "val")
    scores = {f"val_{name}": value for name, value in online.items()}
    scores |= {f"test_{name}": value for name, value in several.measured(run, "test").items()}
    scores |= {name: value for name, value in measured.items() if name.startswith("test_") and value is not None}
    memory = summary.get("peak_memory") or {}
    return {
        "seed": run.config.seed,
        "scores": scores,
        "per_second": next((value for name, value in summary.items() if name.endswith("_per_sec")), None),
        "unit": next((name.removesuffix("_per_sec") for name in summary if name.endswith("_per_sec")), "images"),
        "hours": (summary["seconds"] + evaluation["provenance"]["seconds"]) / 3600,
        "memory": memory.get("device") or memory.get("host"),
        "steps": summary["steps"],
        "collapsed": summary["collapsed"],
        "hardware": several.hardware(run),
        "versions": {name: v for name, v in run.resolved["versions"].items() if name in VERSIONS},
        "online_bank": run.config.eval.online_bank,
        "commits": sorted({*run.commits, str(evaluation["provenance"].get("commit"))}),
        "evaluators": {name: one.get("settings") for name, one in evaluation["evaluators"].items()},
        "config_hash": provenance.config_hash(run.config),
        "data": configs.placeless(run.config.data.source),
        "test_fingerprint": run.resolved["data"]["fingerprints"]["test"],
        "params_fingerprint": summary["params_fingerprint"],
    }


def commit_of(found: Mapping[str, Sequence[Mapping[str, Any]]], *, dirty: bool) -> str | None:
    """The one commit of all runs and evaluations.

    Raises:
      ValueError: there are several, or it is one of changed files and ``dirty`` is not said.
    """
    by_commit: dict[str, list[str]] = {}
    for row, runs in found.items():
        for run in runs:
            for commit in run["commits"]:
                by_commit.setdefault(commit, []).append(f"{row}-{run['seed']}")
    if len(by_commit) > 1:
        parts = ((provenance.short(commit), ", ".join(dict.fromkeys(names))) for commit, names in by_commit.items())
        said = "; ".join(f"{commit}: {names}" for commit, names in parts)
        raise ValueError(f"runs of several commits are no table ({said}); make them at one, in a folder of its own")
    commit = next(iter(by_commit), None)
    if commit is not None and not dirty:
        refuse_dirty(commit)
    return commit


def refuse_dirty(commit: str | None) -> None:
    """One line where a number could not be made again."""
    if commit in (None, "None"):
        raise ValueError("this is no checkout of git, so nobody could tell what made the table; --dirty for a try")
    if commit.endswith("+"):
        raise ValueError(f"files differ from commit {commit[:12]}: commit them first; --dirty for a try")


def summarised(row: Row, runs: Sequence[Mapping[str, Any]], failed: Mapping[int, str], compare: bool) -> dict[str, Any]:
    """A row over its seeds.

    Args:
      failed: seed -> why.
      compare: False where keys were changed, so that what is published is of something else.
    """
    names = list(dict.fromkeys(name for run in runs for name in run["scores"]))
    scores = {}
    for name in names:
        values = [run["scores"][name] for run in runs if name in run["scores"]]
        mean, spread = several.mean_and_spread(values)
        scores[name] = {"mean": mean, "spread": spread, "values": values}
    published = []
    for figure in row.published:
        ours = scores.get(figure.score)
        compared = ours if compare and not figure.other else None
        difference = shown_as(figure.score, compared["mean"]) - figure.value if compared else None
        published.append(figure._asdict() | {"difference": difference})

    def average(key: str) -> float | None:
        values = [run[key] for run in runs if run[key] is not None]
        return several.mean_and_spread(values)[0] if values else None

    return {
        "row": row.name,
        "config": row.config,
        "set": list(row.set),
        "seeds": [run["seed"] for run in runs],
        "failed": {str(seed): why for seed, why in failed.items()},
        "scores": scores,
        "published": published,
        "per_second": average("per_second"),
        "unit": runs[0]["unit"],
        "hours": average("hours"),
        "memory": max((run["memory"] for run in runs if run["memory"]), default=None),
        "collapsed": sum(bool(run["collapsed"]) for run in runs),
        "hardware": sorted({run["hardware"] for run in runs}),
        "config_hash": sorted({run["config_hash"] for run in runs}),
        "runs": list(runs),
    }


def shown_as(score: str, value: float) -> float:
    """Accuracies in per cent, all else as it is."""
    return 100 * value if _is_share(score) else value


def _is_share(score: str) -> bool:
    return score.endswith(("top1", "top5", "accuracy"))


def not_run(row: Row, why: str, changes: list[str]) -> dict[str, Any]:
    """A row of which there is no run."""
    train, measure = (shlex.join(words) for words in commands(row, "SEED", changes, "OUT/runs"))
    if row.needs == "tpu":
        pod = "experiments/launch_pod.sh --tpu NAME --zone ZONE -- experiments"
        words = f"{pod}/pretrain.py {train}; {pod}/evaluate.py {measure}"
    else:
        words = f"ssl-jax pretrain {train}; ssl-jax evaluate {measure}"
    published = [figure._asdict() for figure in row.published]
    return {"row": row.name, "why": why, "command": row.command or words, "cost": row.cost, "published": published}


def markdown(suite: Suite, content: Mapping[str, Any]) -> str:
    """``table.md``."""
    lines = [f"# Suite {suite.name}", "", suite.about, ""]
    rows, missing = content["rows"], content["not_run"]
    if content["changed"]:
        lines += [f"**A try, not a result**: {', '.join(content['changed'])} in every row.", ""]
    if content["dirty"]:
        lines += ["**A try, not a result**: made from files that no commit holds.", ""]
    if rows:
        lines += _results(suite, rows)
        banks = sorted({run["online_bank"] for row in rows for run in row["runs"]})
        bank = " or ".join(f"{size:,}" for size in banks)
        notes = [
            NOTE.format(bank=bank),
            _of_knn(rows),
            *([DIFFERENCE] if any(row["published"] for row in rows) else []),
        ]
        lines += ["", "\n".join(filter(None, notes)), ""]
        lines += [f"Commit {content['commit']}; {_versions(rows)}. The last command: `{content['command']}`.", ""]
        files = [f"{name} (sha256 {digest[:12]})" for name, digest in content["files"].items()]
        lines += [f"The commit does not hold {', '.join(files)}.", ""] if files else []
        hardware = list(dict.fromkeys(h for row in rows for h in row["hardware"]))
        several_kinds = len(hardware) > 1
        lines += [f"Hardware: {'; '.join(hardware)}{' (each row: `table.json`)' * several_kinds}.", ""]
        seeds = {seed for row in rows for seed in row["seeds"]}
        lines += [f"- `{row['row']}`: {line}" for row in rows for line in _remarks(row, seeds)]
    if missing:
        lines += ["", "## Not run", "", "| row | why | cost of a seed | published | command |", "|---" * 5 + "|"]
        for row in missing:
            figures = "; ".join(_figure(figure) for figure in row["published"])
            lines.append(f"| {row['row']} | {row['why']} | {row['cost']} | {figures} | `{row['command']}` |")
    return "\n".join(lines).rstrip() + "\n"


def _results(suite: Suite, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    scores = [name for name in suite.scores if any(name in row["scores"] for row in rows)]
    head = ["row", "seeds", *(NAMES.get(name, name.replace("_", " ")) for name in scores)]
    published = any(row["published"] for row in rows)
    head += [*(["published", "difference"] if published else []), "per second", "hours", "memory", "config"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["row"], str(len(row["seeds"])), *(_score(name, row["scores"].get(name)) for name in scores)]
        first = row["published"][0] if row["published"] else None
        difference = first and first["difference"]
        if published:
            cells += ["" if first is None else f"{first['value']:g} ({NAMES.get(first['score'], first['score'])})"]
            cells += ["" if difference is None else f"{difference:+.1f}"]
        cells += [_range([run["per_second"] for run in row["runs"]], ",.0f", row["unit"])]
        cells += [_range([run["hours"] for run in row["runs"]], ".2g")]
        cells += ["" if row["memory"] is None else f"{row['memory'] / 2**30:.1f} GiB"]
        lines.append(f"| {' | '.join(cells)} | `{row['config_hash'][0]}` |")
    return lines


def _range(values: Sequence[float | None], form: str, unit: str = "") -> str:
    """From the least to the most: of a machine that others use a mean says little."""
    ends = sorted(value for value in values if value is not None)
    shown = dict.fromkeys(f"{value:{form}}" for value in (ends[0], ends[-1])) if ends else ()
    return " ".join(filter(None, (" to ".join(shown), unit * bool(shown))))


def _of_knn(rows: Sequence[Mapping[str, Any]]) -> str:
    """How kNN was measured, by row where that differs."""
    by_way: dict[str, list[str]] = {}
    for row in rows:
        for settings in (run["evaluators"].get("knn") for run in row["runs"]):
            if settings:
                k, temperature = (", ".join(f"{value:g}" for value in settings[key]) for key in ("k", "temperature"))
                said = f"k = {k}, T = {temperature}, {'' if settings['centre'] else 'not '}centred"
                by_way.setdefault(said, []).append(row["row"])
    ways = [said if len(by_way) == 1 else f"{said} ({', '.join(dict.fromkeys(of))})" for said, of in by_way.items()]
    return f"kNN: {'; '.join(ways)}." if ways else ""


def _versions(rows: Sequence[Mapping[str, Any]]) -> str:
    said = (", ".join(f"{name} {v}" for name, v in run["versions"].items()) for row in rows for run in row["runs"])
    return " and ".join(dict.fromkeys(said))


def _remarks(row: Mapping[str, Any], seeds: set[int]) -> list[str]:
    """What a row's cells leave out: seeds that others have, collapses, and every figure that is published."""
    found = [f"seed {seed} {why}" for seed, why in row["failed"].items()]
    lacking = sorted(seeds - {*row["seeds"], *map(int, row["failed"])})
    found += [f"seeds that other rows have and this has not: {', '.join(map(str, lacking))}"] if lacking else []
    if row["collapsed"]:
        found.append(f"{row['collapsed']} of {len(row['seeds'])} seeds collapsed")
    return [*found, *(_figure(figure) for figure in row["published"])]


def _figure(figure: Mapping[str, Any]) -> str:
    difference = figure.get("difference")
    ours = "" if difference is None else f", ours {difference:+.1f}"
    other = f"; of another recipe: {figure['other']}" * bool(figure["other"])
    score = NAMES.get(figure["score"], figure["score"])
    return f"published {score} {figure['value']:g}: {figure['source']}{other}{ours}"


def _score(name: str, score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    mean, spread = (None if score[key] is None else shown_as(name, score[key]) for key in ("mean", "spread"))
    form = ".1f" if _is_share(name) or abs(mean or 0) >= 10 else ".3f"
    return f"{mean:{form}}" + ("" if spread is None else f" ± {spread:{form}}")
