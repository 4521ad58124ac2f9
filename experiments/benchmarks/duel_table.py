"""The duel's table and curves, of its pairs of runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ssl_jax.evals.shared import robustness
from ssl_jax.run.provenance import short

SIDES = ("ssl_jax", "lightly")
SAME = 1e-5  # of the largest, how far apart what ``first_steps`` compares may be in float64
SHOWN = ("jax", "flax", "torch", "lightly")


def table(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method: mean and spread of both, the paired test over seeds, the ratio of seconds.

    "within": the means differ by no more than the pooled standard deviation over seeds, which says how large a
    difference is. The test says how sure one is, and of few seeds that is little, so it decides nothing.
    """
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
        row["untrained"] = statistics.fmean(one["untrained_test_knn_top1"] for one in of)
        if len(of) > 1:
            test = robustness.paired_seeds(row["ssl_jax"]["values"], row["lightly"]["values"])
            row |= dict(zip(("difference", "low", "high", "p"), test, strict=True))
            row["pooled"] = math.sqrt(statistics.fmean(row[side]["spread"] ** 2 for side in SIDES))
            row["within"] = abs(test[0]) <= row["pooled"]
        times = [np.divide(one["milliseconds"]["lightly"], one["milliseconds"]["ssl_jax"]) for one in of]
        row["ratio"] = np.median(times, 0).tolist()
        apart = [value for one in of for what, value in one["first_steps"].items() if what != "steps"]
        row["first_steps"] = float(np.max(apart))  # not-a-number, too, which max may lose
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, p in zip(tested, robustness.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows


def markdown(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> str:
    """The table, and below it what was done where."""
    head = ["method", "seeds", "kNN untrained", "ssl_jax", "lightly", "difference (95 %)", "p (Holm)", "within"]
    head += ["ms per step", "lightly / ssl_jax", "by processor time"]
    head += [f"first {pairs[-1]['first_steps']['steps']} steps apart"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        a, b = (row[side] for side in SIDES)
        shown = [f"{s['knn']:.3f}" + ("" if s["spread"] is None else f" ± {s['spread']:.3f}") for s in (a, b)]
        tested = ["", "", "one seed"]
        if "p" in row:
            interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            tested = [interval, f"{row['p_holm']:.2f}", "yes" if row["within"] else "**no**"]
        apart = f"{row['first_steps']:.0e}" if row["first_steps"] <= SAME else f"**{row['first_steps']:.0e}**"
        cells = [row["method"], str(len(row["seeds"])), f"{row['untrained']:.3f}", *shown, *tested]
        cells += [
            f"{a['milliseconds']:.0f}, {b['milliseconds']:.0f}",
            *(f"{ratio:.2f}" for ratio in row["ratio"]),
            apart,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    tested = [rule(rows), "", courses(drawn(pairs)), ""] if all("p" in row for row in rows) else []
    lines += ["", *tested, caption(pairs)]
    return "\n".join(lines) + "\n"


def rule(rows: Sequence[dict[str, Any]]) -> str:
    """What "within the seeds' spread" means, and how much the test beside it can see."""
    tested = [row for row in rows if "p" in row]
    sees = " and ".join(
        f"{stats.t.ppf(0.975, n - 1) / math.sqrt(n):.1f} standard deviations of the pairs' differences with {n} pairs"
        for n in sorted({len(row["seeds"]) for row in tested})
    )
    return (
        "Within: within the seeds' spread, the means differ by no more than the pooled standard deviation over seeds, "
        "√((s₁² + s₂²) / 2). Interval and p, for information, are those of a paired t test over seeds, p by Holm for "
        f"{len(tested)} {'method' if len(tested) == 1 else 'methods'}: the interval reaches {sees} to either side, and "
        "a smaller difference is hardly found."
    )


def caption(pairs: Sequence[dict[str, Any]]) -> str:
    """What was done where; configs are of one command, machines may be several."""
    one, data = pairs[-1], pairs[-1]["config"]["data"]
    machines = dict.fromkeys(_words(each["machine"]) for each in pairs)
    commits = dict.fromkeys(each["machine"]["commit"] for each in pairs)
    attempt = ", **a try: made from files that no commit holds**" if any(str(c).endswith("+") for c in commits) else ""
    return (
        f"{one['images']:,} images of {data['source']} ({data['val_fraction']:.3g} of all images were held out before "
        f"these were taken), {one['epochs'][-1]:.3g} epoch{'s' * (one['epochs'][-1] != 1)} of {one['steps_per_epoch']} "
        f"steps, batch {data['global_batch_size']}; kNN on test, its bank these images, mean ± standard deviation over "
        f"seeds; untrained: the network with which both began. ms: the median over seeds; ratios: the medians of "
        f"those of each pair. {'; '.join(machines)}; commit "
        f"{', '.join(map(short, commits))}{attempt}."
    )


def courses(curves: Mapping[str, Any]) -> str:
    """In a sentence, at how many epochs the sides are apart, and how many that would be of two draws of one law.

    All n values of one law lie above all n of the same law in 2 n! n! / (2 n)! of cases: one in ten of three seeds. Two
    means of n are more than their pooled standard deviation apart where |t| of 2 n - 2 degrees is above sqrt(n / 2).
    """
    disjoint: dict[str, list[float]] = {}
    beyond: dict[str, list[float]] = {}
    points = 0
    for name, sides in curves.items():
        epochs, (a, b) = sides[SIDES[0]][0][0], (np.array([of_one for _, of_one in sides[side]]) for side in SIDES)
        pooled = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
        apart = {
            "disjoint": (a.min(0) > b.max(0)) | (b.min(0) > a.max(0)),
            "beyond": abs(a.mean(0) - b.mean(0)) > pooled,
        }
        points += sum(epoch > 0 for epoch in epochs)
        for found, what in ((disjoint, "disjoint"), (beyond, "beyond")):
            if at := [epoch for epoch, is_so in zip(epochs, apart[what], strict=True) if is_so]:
                found[name.replace("_", " ")] = at
    n = len(a)
    return (
        f"By epoch, of {points} points of the curves: at {_listed(disjoint)} the seeds' ranges of the two do not meet, "
        f"where two draws of one law would have {2 / math.comb(2 * n, n) * points:.0f}; at {_listed(beyond)} the means "
        f"differ by more than the pooled standard deviation, where two draws would have "
        f"{2 * stats.t.sf(math.sqrt(n / 2), 2 * n - 2) * points:.0f}."
    )


def _listed(found: Mapping[str, Sequence[float]]) -> str:
    """How many there are, and which: ``3 (simclr loss 9, 10; byol loss 2)``."""
    said = "; ".join(f"{name} {', '.join(f'{epoch:g}' for epoch in at)}" for name, at in found.items())
    return f"{sum(map(len, found.values()))}" + f" ({said})" * bool(found)


def ends(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The test scores of both sides, to stand above the panels of :func:`drawn`."""
    return {
        f"{row['method']}_val_knn_top1": f"; test {row['ssl_jax']['knn']:.3f}, {row['lightly']['knn']:.3f}"
        for row in rows
    }


def _words(machine: Mapping[str, Any]) -> str:
    versions = (f"{k} {v}" for k, v in (machine["versions"] | machine["peers"]).items() if k in SHOWN)
    return ", ".join((f"{machine['cores']} cores of {machine['cpu']}", *versions))


def drawn(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What ``curves.learning_curves`` draws: kNN and loss of each method, a row for each side, each seed's curve."""
    found: dict[str, Any] = {}
    for one in pairs:
        name, of_epoch = one["config"]["method"]["name"], one["steps_per_epoch"]
        for side in SIDES:
            losses = [one["losses"][side][i : i + of_epoch] for i in range(0, len(one["losses"][side]), of_epoch)]
            values = {
                "val_knn_top1": (one["epochs"], one["val_knn_top1"][side]),
                "loss": (one["epochs"][1:], [statistics.fmean(part) for part in losses]),
            }
            for what, points in values.items():
                found.setdefault(f"{name}_{what}", {}).setdefault(side, []).append(points)
    return found
