"""Several runs against each other: paired tests where the examples are the same, and why there is none elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ssl_jax.evals.shared import robustness
from ssl_jax.evals.shared.results import Found

Runs = Mapping[str, Mapping[str, Found]]  # run -> data -> what was found


class Side(NamedTuple):
    """One of two that are compared."""

    data: str
    name: str
    found: Found


def label(runs: Runs, run: str, data: str) -> str:
    """What a run's result on some data is called: by what tells it from the others."""
    if len(runs[run]) == 1:
        return run
    return data if len(runs) == 1 else f"{run} on {data}"


def compare(runs: Runs) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every two runs on every accuracy that both have.

    Returns:
      Paired tests ``{"metric", "a", "b", "difference", "low", "high", "p"}`` of those that are of the same examples,
      by their fingerprint; and ``{"metrics", "a", "b", "reason"}`` where there are none.
    """
    paired, not_paired = [], []
    for a, b in itertools.combinations(runs, 2):
        reasons: dict[str, list[str]] = {}
        in_a, in_b = (list(dict.fromkeys(m for one in runs[run].values() for m in one.hits)) for run in (a, b))
        for metric in (m for m in in_a if m in in_b):
            sides = [
                [Side(data, label(runs, run, data), one) for data, one in runs[run].items() if metric in one.hits]
                for run in (a, b)
            ]
            tests = [test for pair in itertools.product(*sides) if (test := _test(metric, *pair))]
            paired += tests
            if not tests:
                reasons.setdefault(_reason(metric, sides[0][0], sides[1][0]), []).append(metric)
        not_paired += [{"metrics": metrics, "a": a, "b": b, "reason": why} for why, metrics in reasons.items()]
    return paired, not_paired


def _test(metric: str, a: Side, b: Side) -> dict[str, Any] | None:
    """A paired test; None where the two are not of the same examples."""
    hits = [side.found.hits[metric] for side in (a, b)]
    of = [_examples(side.found, metric) for side in (a, b)]
    if of[0] is None or of[0] != of[1] or len(hits[0]) != len(hits[1]):
        return None
    difference, low, high, p = robustness.paired_difference(*hits)
    return {"metric": metric, "a": a.name, "b": b.name, "difference": difference, "low": low, "high": high, "p": p}


def _examples(found: Found, metric: str) -> str | None:
    """Fingerprint of what an accuracy is of; None where it is not known."""
    for entry in found.result["evaluators"].values():
        if metric in entry.get("examples", {}):
            return entry["examples"][metric]
    # Evaluations from before this was noted: the run's test data, but for what has data of its own.
    fingerprints = found.result["provenance"].get("fingerprints") or {}
    return None if metric.startswith("test_transfer_") else fingerprints.get("test")


def _reason(metric: str, a: Side, b: Side) -> str:
    of = [_examples(side.found, metric) for side in (a, b)]
    size_a, size_b = (f"{len(side.found.hits[metric]):,}" for side in (a, b))
    if None in of:
        return "on which examples an earlier evaluation measured is not known; evaluate again"
    if of[0] == of[1]:
        return f"{size_a} and {size_b} of the same examples could be read"
    if a.data == b.data or metric.startswith("test_transfer_"):
        return f"the test examples are not the same: {size_a} and {size_b}, of other content"
    return f"measured on different data: {a.data} ({size_a} test examples) and {b.data} ({size_b})"
