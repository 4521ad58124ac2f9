"""The learning rate and the optimizer that a config asks for."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import optax

from ssl_jax import models, optim
from ssl_jax.names import hint
from ssl_jax.types import Config, Plan

PATCHES = "stem_patches"  # what a ViT calls its patch embedding


def make_schedule(config: Config, plan: Plan) -> tuple[optax.Schedule, int, tuple[str, ...]]:
    """The learning rate by step, the warmup's length, and the lines that say so.

    Raises:
      ValueError: a key that the schedule does not have.
    """
    o = config.optim
    peak = optim.peak_rate(o.learning_rate, plan.global_batch_size, o.scale)
    warmup, cut = optim.cut_warmup(round(o.warmup_epochs * plan.steps_per_epoch), plan.total_steps)
    rule = {"linear": "base * N / 256", "sqrt": "base * sqrt(N)", "none": "unscaled"}[o.scale]
    notes = [f"peak learning rate {peak:g} (optim.learning_rate={o.learning_rate:g}, {rule})"]
    notes += [cut] if cut else []
    epochs = -(-plan.total_steps // plan.steps_per_epoch)  # the last one may be cut short
    at = o.get("step_at")  # a key younger than some stored configs
    if at and o.schedule != "step":
        raise ValueError(f"optim.step_at={tuple(at)} is for optim.schedule='step', not {o.schedule!r}; set it to null")
    # Keys younger than some stored configs.
    start, end = o.get("start") or 0.0, o.get("end") or 0.0
    if start and not o.warmup_epochs:
        raise ValueError(f"optim.start={start:g} is where the warmup begins; set optim.warmup_epochs, or start=0")
    if end and o.schedule not in ("cosine", "cosine_by_epoch", "linear"):
        raise ValueError(
            f"optim.end={end:g} is for optim.schedule=cosine, cosine_by_epoch and linear, not {o.schedule!r}; set it "
            "to 0"
        )
    if warmup and o.schedule not in ("cosine", "linear", "step"):
        raise ValueError(
            f"optim.schedule={o.schedule!r} has no warmup; set optim.warmup_epochs=0 or use cosine, linear or step"
        )
    schedules = {
        "cosine": lambda: optim.warmup_cosine(peak, warmup, plan.total_steps, start=start, end=end),
        "linear": lambda: optim.warmup_linear(peak, warmup, plan.total_steps, start=start, end=end),
        "cosine_by_epoch": lambda: optim.cosine_by_epoch(peak, plan.steps_per_epoch, epochs, end=end),
        "step": lambda: optim.step_decay(peak, plan.total_steps, at=at or (0.6, 0.8), warmup_steps=warmup, start=start),
        "constant": lambda: optim.constant(peak),
        "slanted": lambda: optim.slanted_triangular(peak, plan.total_steps),
    }
    return schedules[o.schedule](), warmup, tuple(notes)


def rates(config: Config, encoder: Any) -> Callable[[str], float] | None:
    """Factor of the learning rate of a parameter by its path, where ``optim`` has one.

    Args:
      encoder: in whose stages depth is counted.
    """
    decay, patch_rate = config.optim.get("layer_decay"), config.optim.get("patch_rate")  # younger than some configs
    given = _given_rates(config)
    if decay is None and patch_rate is None and not given:
        return None

    def factor(path: str) -> float:
        own = math.prod(rate for start, rate in given.items() if path.startswith(start))
        part, _, name = path.partition("/")
        if part != "encoder":
            return own
        below = encoder.stages + 1 - models.depth(name, stages=encoder.stages)
        below = 0 if models.is_last_norm(name, encoder) else below
        return own * (decay or 1.0) ** below * ((patch_rate or 1.0) if name.startswith(PATCHES) else 1.0)

    return factor


def _given_rates(config: Config) -> dict[str, float]:
    """``optim.rates`` by the start of a path.

    Raises:
      ValueError: what is not of the form ``start=factor,...``.
    """
    found: dict[str, float] = {}
    for item in (config.optim.get("rates") or "").split(","):
        start, _, said = (word.strip() for word in item.rpartition("="))
        try:
            found |= {start: float(said)} if item.strip() else {}
        except ValueError:
            found[""] = -1
        if "" in found or any(not 0 <= rate < math.inf for rate in found.values()):
            raise ValueError(
                f"optim.rates={config.optim.rates!r}: {item.strip()!r} is not the start of a path and a factor from 0 "
                "on; write encoder/stem=0,projector=10"
            )
    return found


def check_rates(config: Config, params: Any) -> None:
    """Refuse rates by depth or of patches of an encoder that has neither, and those of paths that there are not.

    Args:
      params: of all parts, ``{"encoder": ...}``.

    Raises:
      ValueError: there is a rate and nothing that it is of.
    """
    names = [str(name) for name in params["encoder"]]
    decay, patch_rate = config.optim.get("layer_decay"), config.optim.get("patch_rate")
    if decay is not None and not any(models.depth(name, stages=sys.maxsize) < sys.maxsize for name in names):
        raise ValueError(
            f"optim.layer_decay={decay} takes an encoder whose parts are called stem_* and stageK_*, and "
            f"{config.model.name} has {', '.join(names[:3])}; set it to null"
        )
    if patch_rate is not None and not any(name.startswith(PATCHES) for name in names):
        raise ValueError(
            f"optim.patch_rate={patch_rate} is of a ViT's patch embedding, which {config.model.name} does not have; "
            "set it to null"
        )
    check_starts(_given_rates(config), params, f"optim.rates={config.optim.rates!r}")


def check_starts(starts: Iterable[str], params: Any, said: str) -> None:
    """Refuse starts of paths with which no parameter begins.

    Raises:
      ValueError: the first of them, and what there is.
    """
    paths: list[str] = []
    optim.by_path(lambda path, _: paths.append(path))(params)
    for start in starts:
        if not any(path.startswith(start) for path in paths):
            parts, alike = (
                sorted({"/".join(path.split("/")[:depth]) for path in paths}) for depth in (2, start.count("/") + 1)
            )
            raise ValueError(
                f"{said}: no parameter begins with {start!r}; {hint(start, alike)}"
                f"there are {', '.join(parts[:6])}{' and more' if len(parts) > 6 else ''}"
            )


def make_tx(
    config: Config,
    schedule: optax.Schedule,
    total_steps: int = 1,
    *,
    rate_of: Callable[[str], float] | None = None,
) -> optim.Optimizer:
    """The optimizer of a config.

    Args:
      total_steps: matters where weight decay changes.
      rate_of: factor of the learning rate by the path of a parameter; None: none has one.
    """
    o = config.optim
    arguments = {k: o[k] for k in ("momentum", "clip_norm", "decay_bias_and_norm")}
    arguments["peak"] = optim.peak_rate(o.learning_rate, config.data.global_batch_size, o.scale)
    # Runs from before these keys existed have no nesterov, weight_decay_end, clip_each, ... in their stored config.
    arguments |= {"clip_each": o.get("clip_each"), "eta": o.get("eta"), "clip_rate": o.get("clip_rate") or False}
    decay, end = o.weight_decay, o.get("weight_decay_end")
    if (b2 := o.get("b2")) is not None:
        if o.name != "adamw" or not 0 <= b2 < 1:
            raise ValueError(
                f"optim.b2={b2} is a number in [0, 1) for optim.name='adamw', not {o.name!r}; leave it out"
            )
        arguments["b2"] = b2
    arguments |= {"weight_decay": decay if end is None else optim.cosine(decay, end, total_steps)}
    tx = optim.make(o.name, learning_rate=schedule, nesterov=o.get("nesterov", False), **arguments)
    return tx if rate_of is None else optim.at_rates(tx, rate_of)
