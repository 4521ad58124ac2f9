"""The duel's table and curves, of its pairs of runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.evals.shared import robustness

SIDES = ("ssl_jax", "lightly")
SAME = 1e-5  # of the largest, how far apart first losses, gradients and weights may be in float64
SHOWN = ("jax", "flax", "torch", "lightly")


def table(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method: mean and spread of both, the paired test over seeds, the ratio of seconds."""
    rows = []
    for name in dict.fromkeys(one["config"]["method"]["name"] for one in pairs):
        of = [one for one in pairs if one["config"]["method"]["name"] == name]
        row: dict[str, Any] = {"method": name, "seeds": [one["config"]["seed"] for one in of]}
        for side in SIDES:
            scores = [one["test_knn_top1"][side] for one in of]
            ends = [statistics.fmean(one["losses"][side][-one["steps_per_epoch"] :]) for one in of]
            row[side] = {
                "knn": statistics.fmean(scores),
                "spread": statistics.stdev(scores) if len(scores) > 1 else None,
                "values": scores,
                "loss": statistics.fmean(ends),
                "milliseconds": statistics.median(one["milliseconds"][side][0] for one in of),
            }
        if len(of) > 1:
            test = robustness.paired_seeds(row["ssl_jax"]["values"], row["lightly"]["values"])
            row |= dict(zip(("difference", "low", "high", "p"), test, strict=True))
            row["within"] = test[1] <= 0 <= test[2]
        times = [np.divide(one["milliseconds"]["lightly"], one["milliseconds"]["ssl_jax"]) for one in of]
        row["ratio"] = np.median(times, 0).tolist()
        row["first_steps"] = max(value for one in of for what, value in one["first_steps"].items() if what != "steps")
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> str:
    """The table, and below it what was done where."""
    head = ["method", "seeds", "ssl_jax kNN", "lightly kNN", "difference (95 %)", "p", "within the seeds' spread"]
    head += [
        "last epoch's loss",
        "ms per step",
        "lightly / ssl_jax",
        "by processor time",
        f"first {pairs[-1]['first_steps']['steps']} steps apart",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        a, b = (row[side] for side in SIDES)
        shown = [f"{s['knn']:.3f}" + ("" if s["spread"] is None else f" ± {s['spread']:.3f}") for s in (a, b)]
        tested = ["", "", "one seed"]
        if "p" in row:
            interval = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
            tested = [interval, f"{row['p']:.2f}", "yes" if row["within"] else "**no**"]
        apart = f"{row['first_steps']:.0e}" if row["first_steps"] <= SAME else f"**{row['first_steps']:.0e}**"
        cells = [row["method"], str(len(row["seeds"])), *shown, *tested, f"{a['loss']:.4f}, {b['loss']:.4f}"]
        cells += [
            f"{a['milliseconds']:.0f}, {b['milliseconds']:.0f}",
            *(f"{ratio:.2f}" for ratio in row["ratio"]),
            apart,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    one, where = pairs[-1], pairs[-1]["machine"]
    commits = sorted({str(each["machine"]["commit"])[:13] for each in pairs})
    lines += [
        "",
        f"{one['config']['data']['num_examples']:,} images of {one['config']['data']['source']} (a tenth of all held "
        f"out), {one['epochs'][-1]:.3g} epochs of {one['steps_per_epoch']} steps, batch "
        f"{one['config']['data']['global_batch_size']}; kNN on test, mean ± standard deviation over seeds. "
        f"{where['cores']} cores of {where['cpu']}; commit {', '.join(commits)}; "
        f"{', '.join(f'{k} {v}' for k, v in (where['versions'] | where['peers']).items() if k in SHOWN)}.",
    ]
    return "\n".join(lines) + "\n"


def drawn(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What ``curves.learning_curves`` draws: kNN and loss of each method, a row for each side."""
    found: dict[str, Any] = {}
    for one in pairs:
        name, of_epoch = one["config"]["method"]["name"], one["steps_per_epoch"]
        for side in SIDES:
            losses = [one["losses"][side][i : i + of_epoch] for i in range(0, len(one["losses"][side]), of_epoch)]
            values = {"val_knn_top1": one["val_knn_top1"][side], "loss": [statistics.fmean(part) for part in losses]}
            for what, points in values.items():
                found.setdefault(f"{name}_{what}", {}).setdefault(side, []).append((one["epochs"], points))
    return found
