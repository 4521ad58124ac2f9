"""One table and one plot of several finished runs on the same data, with the rows every such table needs.

    python experiments/compare_runs.py --runs runs/simclr_cifar10_cpu runs/byol_cifar10_cpu --out runs/table

Beside the runs stand raw pixels and the encoder of the first run before training. kNN has the settings of the first
run's config and the same centring for every row; one more row shows raw pixels without it. Writes ``table.json``,
``table.md`` and ``curves.png``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from matplotlib.figure import Figure

from ssl_jax import measure, parallel
from ssl_jax.data.source import Source
from ssl_jax.experiment import build, zeros
from ssl_jax.run import command
from ssl_jax.run.open import read_run
from ssl_jax.run.writer import read_metrics
from ssl_jax.step import init_state


def main(arguments: list[str]) -> int:
    parser = command.Parser("Compare finished runs.")
    parser.add_path("--runs", nargs="+", required=True, help="workdirs of finished runs on the same data")
    parser.add_path("--out", required=True, help="folder for the table and the plot")
    parser.add_path("--data_dir", help="where TFDS datasets lie, if not where the first run found them")
    options = parser.parse_args(arguments)
    runs = [Path(run) for run in options.runs]
    try:
        found = [(run, *read_run(run)) for run in runs]
        refuse_other_data(found)
        rows = baselines(runs[0], options.data_dir)
    except ValueError as error:  # their data, too: gone, or never in a file
        return command.refuse(error)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for run, config, resolved in found:
        summary = json.loads((run / "summary.json").read_text())
        rows.append(
            {
                "row": f"{config.method.name}, seed {config.seed} ({run.name})",
                "epochs": summary["steps"] / resolved["plan"]["steps_per_epoch"],
                "test_knn_top1": summary["test_knn_top1"],
                "test_probe_top1": summary["test_probe_top1"],
                "minutes": summary["seconds"] / 60,
                "images_per_sec": summary["images_per_sec"],
                "commit": resolved["commit"],
                "cpu": resolved["cpu"],
                "cores": resolved["cores"],
            }
        )
    (out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = markdown(rows)
    (out / "table.md").write_text(table)
    draw(runs, out / "curves.png")
    print(table)
    return 0


def refuse_other_data(found: list[tuple[Path, Any, dict[str, Any]]]) -> None:
    """One line for runs whose test examples are not the same: their rows would look like a comparison."""
    (first, _, resolved), *others = found
    for run, _, other in others:
        if resolved["data"]["fingerprints"]["test"] != other["data"]["fingerprints"]["test"]:
            raise ValueError(
                f"{first} and {run} are not measured on the same test examples ({resolved['data']['sizes']['test']} "
                f"and {other['data']['sizes']['test']}, of other content); compare runs on the same data"
            )


def labels(source: Source) -> np.ndarray:
    return np.full(len(source), -1, np.int32) if source.labels is None else source.labels


def baselines(run: Path, data_dir: str | None) -> list[dict]:
    """kNN on raw pixels, with and without centring, and on the encoder before training."""
    config, _ = read_run(run)
    config.parallel.devices, config.init_from = 1, None
    config.data.data_dir = data_dir or config.data.data_dir
    experiment = build(config)
    mesh = parallel.make_mesh(1)
    batch = parallel.place(zeros(experiment), mesh)
    state = init_state(experiment.method, experiment.tx, jax.random.key(config.seed), batch, mesh)
    known, test = [experiment.splits.train, experiment.splits.val], [experiment.splits.test]
    extract = measure.extractor(experiment, mesh)
    variables = measure.variables_of(state)
    raw = experiment.modality.raw
    if raw is None:
        raise ValueError(f"{run}: {experiment.modality.unit} are no features by themselves; compare runs of images")
    bank, queries = (
        measure.Encoded(np.concatenate([raw(s) for s in parts]), np.concatenate([labels(s) for s in parts]))
        for parts in (known, test)
    )
    plain = experiment._replace(config=config.copy_and_resolve_references())
    plain.config.eval.knn_centre = False
    return [
        {"row": "raw pixels, not centred", "test_knn_top1": measure.knn_top1(plain, bank, queries)},
        {"row": "raw pixels", "test_knn_top1": measure.knn_top1(experiment, bank, queries)},
        {
            "row": "random encoder",
            "test_knn_top1": measure.knn_top1(experiment, extract(variables, known), extract(variables, test)),
        },
    ]


def markdown(rows: list[dict]) -> str:
    lines = ["| encoder | test kNN | test online probe | epochs | minutes | images/s |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row.get(key) for key in ("test_knn_top1", "test_probe_top1", "epochs", "minutes", "images_per_sec")]
        forms = (".3f", ".3f", ".3g", ",.0f", ",.0f")
        shown = ["" if cell is None else format(cell, form) for cell, form in zip(cells, forms, strict=True)]
        lines.append(f"| {row['row']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def draw(runs: list[Path], path: Path) -> None:
    """Validation kNN against epochs, one line a run."""
    figure = Figure(figsize=(7, 4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        points = [(m["epoch"], m["val_knn_top1"]) for m in read_metrics(run / "metrics.jsonl") if m.get("val_knn_top1")]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=read_run(run)[0].method.name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation kNN top-1")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    command.run(main)
