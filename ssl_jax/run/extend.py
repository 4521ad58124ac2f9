"""A run is trained longer: its length changes where it stands, and what follows from the length is said."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.configs import Config, flatten
from ssl_jax.optim.schedules import Schedule
from ssl_jax.types import Plan

LENGTH = ("train.epochs", "train.steps")


def longer(config: Config, n: int) -> Config:
    """The config with ``n`` epochs in all, or steps where it counts in these."""
    config = copy.deepcopy(config)
    if config.train.steps is None:
        config.train.epochs = n
    else:
        config.train.steps = n
    return config


def lengths(stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """``{key: (then, now)}`` of the keys that say how long a run is, where they differ."""
    then, now = flatten(stored), flatten(config)
    return {key: (then.get(key), now.get(key)) for key in LENGTH if then.get(key) != now.get(key)}


def steps_before(workdir: Path, stored: Mapping[str, Any] | None, plan: Plan) -> int:
    """How many steps the run in the folder has as it is; the same as now where it was extended before.

    Raises:
      ValueError: there is no run, or it is not to become longer.
    """
    if stored is None:
        raise ValueError(f"{workdir} holds no run that could be extended; train one first")
    before, now = stored["resolved"]["plan"]["total_steps"], plan.total_steps
    if now < before:
        raise ValueError(f"the run in {workdir} has {before} steps and cannot be cut to {now}; extend it to more")
    return before


def note(then: Schedule, now: Schedule, before: int, plan: Plan, start: int) -> str:
    """What a longer run does to the schedule of the learning rate, which was ``then`` for ``before`` steps."""
    was, goes_on = float(then(start)), float(now(start))
    rate = f"stays {goes_on:.3g}" if was == goes_on else f"was {was:.3g} there and goes on at {goes_on:.3g}"
    return (
        f"extended from {before} to {plan.total_steps} steps ({plan.total_steps / plan.steps_per_epoch:.4g} epochs) "
        f"after step {start}: the learning rate {rate}, as all that follows the length of a run follows the new one "
        "from here; a run that is as long from its beginning ends elsewhere"
    )


def set_aside(workdir: Path, steps: int) -> None:
    """The summary of the shorter run is kept beside that of the longer one, as ``summary_<steps>.json``."""
    summary = workdir / "summary.json"
    if summary.is_file():
        summary.replace(workdir / f"summary_{steps}.json")
