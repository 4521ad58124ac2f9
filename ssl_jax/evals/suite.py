"""Evaluators in turn: what each found, with its time and memory, and what was left out and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from ssl_jax import evals
from ssl_jax.evals.shared import robustness
from ssl_jax.online.progress import counted
from ssl_jax.types import Variables


def run(
    evaluators: Mapping[str, evals.Evaluator],
    variables: Variables,
    home: Path,
    settings: Mapping[str, Any],
    *,
    examples: str,
    say: Callable[[str], None],
    own: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run evaluators; what a missing optional package prevents is left out with a line.

    Args:
      evaluators: by name, in the order in which they are to speak.
      variables: what is evaluated.
      home: each draws in a folder of its name in there.
      settings: of each evaluator, to be kept beside what it found.
      examples: fingerprint of the test data.
      say: where every number goes.
      own: evaluator -> its file or module, of those of the user's own. What fails in one is told in a line and ends
        nothing else.

    Returns:
      ``({"metrics", "intervals", "evaluators"}, hits)``: hits by metric, which examples an accuracy is of.

    Raises:
      ValueError: what failed was the only one.
    """
    result: dict[str, Any] = {"metrics": {}, "intervals": {}, "evaluators": {}}
    hits: dict[str, np.ndarray] = {}
    for name, evaluator in evaluators.items():
        say(f"{name} ...")
        began = time.perf_counter()
        _reset_peak()
        entry: dict[str, Any] = {"settings": settings[name], "metrics": [], "examples": {}}
        left_out: dict[str, str] = {}
        failed: dict[str, str] = {}
        for path in (home / name).glob("*.png") if jax.process_index() == 0 else ():
            path.unlink()  # of an earlier time
        try:
            found = evaluator.run(variables, home / name if jax.process_index() == 0 else None)
            for metric, value in counted(found, f"{name}: measuring", unit="numbers"):
                metric = f"test_{metric}"
                result["metrics"][metric] = _number(metric, value)
                entry["metrics"].append(metric)
                said = f"  {metric:44} {value:#.4g}"
                if isinstance(value, evals.Accuracy):
                    hits[metric] = value.hits
                    entry["examples"][metric] = value.examples or examples
                    if 0 < value < 1:  # else there is nothing to resample
                        low, high = robustness.bootstrap_interval(value.hits)
                        result["intervals"][metric] = [low, high]
                        said += f"   95 %: {low:.4f} to {high:.4f}"
                    elif len(value.hits):
                        said += f"   {'all' if value else 'none'} of {len(value.hits)}: no interval"
                say(said)
        except ImportError as error:
            left_out[name] = str(error)
        except Exception as error:
            if name not in own:
                raise
            why = f"{evals.fails(own[name], error)}; it has {evals.RUN}"
            if len(evaluators) == 1:
                raise ValueError(why) from error
            say(f"  WARNING: {why}")
            failed[name] = why
            for metric in entry["metrics"]:  # numbers of a part of it
                for found in (result["metrics"], result["intervals"], hits):
                    found.pop(metric, None)
            entry |= {"metrics": [], "examples": {}}
        left_out |= getattr(evaluator, "left_out", {})
        notes = dict(getattr(evaluator, "notes", {}))
        for what, why in left_out.items():
            say(f"  {what} left out: {why}")
        for what, note in notes.items():
            say(f"  {what}: {note}")
        files = sorted((home / name).glob("*.png"))
        entry |= {
            "left_out": left_out | failed,
            "notes": notes,
            "seconds": round(time.perf_counter() - began, 2),
            "peak_memory_mb": _peak_mb(),
            "figures": [str(path.relative_to(home)) for path in files],
        }
        result["evaluators"][name] = entry
    return result, hits


def _number(metric: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{metric} is {value!r:.60} and no number") from None


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
