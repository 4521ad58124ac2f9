"""What DINO and iBOT share: a head of prototypes, schedules, and how a student is compared with a teacher."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses, models, optim
from ssl_jax.models.heads import dino_head
from ssl_jax.optim.schedules import Schedule
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import Array, Axis, Plan, Tree

RANGES: Mapping[str, tuple[float, float, float]] = {  # of the arguments: least, greatest, the papers'
    **{"tau": (0, 1, 0.996), "centre_momentum": (0, 1, 0.9), "temperature": (1e-6, math.inf, 0.1)},
    **{"teacher_temperature": (1e-6, math.inf, 0.04), "warmup_teacher_temperature": (1e-6, math.inf, 0.04)},
    **{"warmup_teacher_epochs": (0, math.inf, 30), "freeze_last_layer": (0, math.inf, 1)},
    **{"out_dim": (2, math.inf, 65536), "hidden": (1, math.inf, 2048), "bottleneck": (1, math.inf, 256)},
    **{"layers": (1, math.inf, 3), "patch_weight": (0, math.inf, 1), "koleo": (0, math.inf, 0.1)},
}


class Distillation(NamedTuple):
    """How a student learns from a teacher; :func:`distillation_of` makes it.

    Attributes:
      head: the two parts of :func:`~ssl_jax.models.heads.dino_head`.
      tau_at, temperature_at: decay and temperature of the teacher, by step.
      temperature: of the student.
      centre_momentum: of the centre of the teacher's logits.
      sinkhorn: whether the teacher has Sinkhorn's assignments in place of a centre.
      first: the update from which the last layer learns.
    """

    head: dict[str, nn.Module]
    tau_at: Schedule
    temperature_at: Schedule
    temperature: float
    centre_momentum: float
    sinkhorn: bool
    first: int

    def assign(self, logits: Array, centre: Array, step: Array, axis: Axis, present: Array | None = None) -> Array:
        """The teacher's distributions ``[..., k]``."""
        how = {"temperature": self.temperature_at(step), "present": present, "axis": axis}
        return losses.assigned(logits, centre=None if self.sinkhorn else centre, **how)

    def pairs(self, params: Tree, q: Array, z: Array, counts: Sequence[int]) -> Array:
        """DINO's loss: q ``[b, g, k]`` against all other views, from their bottlenecks z ``[b, V, d]``.

        Logits are made of the views of one size at a time, ``counts`` of each, and again for the gradient: with
        k = 65536 all of them do not fit.
        """

        @jax.checkpoint
        def table(params, x):
            logits, _ = models.forward(self.head["last_layer"], params, {}, x, train=True)
            return losses.cross_entropies(q, logits, temperature=self.temperature)

        ends = list(itertools.accumulate(counts))
        tables = [table(params, z[:, end - n : end]) for n, end in zip(counts, ends, strict=True)]
        return losses.mean_over_pairs(jnp.concatenate(tables, axis=2))

    def patches(self, params: Tree, q: Array, z: Array, weights: Array) -> Array:
        """iBOT's loss: q ``[b, t, k]`` against the same patches, from bottlenecks z ``[b, t, d]``, as in ``pairs``."""

        @jax.checkpoint
        def loss(params, z):
            logits, _ = models.forward(self.head["last_layer"], params, {}, z, train=True)
            return losses.patch_distillation(q, logits, weights=weights, temperature=self.temperature)

        return loss(params, z)

    def metrics(self, step: Array, dtype: Any) -> dict[str, Array]:
        """What the schedules give."""
        values = {"tau": self.tau_at(step), "teacher_temperature": self.temperature_at(step)}
        return {name: jnp.asarray(value, dtype) for name, value in values.items()}

    def next_target(self, aux: Tree, params: Tree, step: Array, means: Mapping[str, Array]) -> Tree:
        """``aux`` after an update: the target nearer to the new params, and each centre to the mean of its name."""
        move = {"momentum": self.centre_momentum}
        centres = {name: losses.next_centre(aux[name], mean, **move) for name, mean in means.items()}
        return {"target": optim.ema(aux["target"], params, self.tau_at(step)), **centres}

    def wrap_tx(self, tx: Any) -> Any:
        """The last layer, ``"last_layer"`` or ``"patch_last_layer"``, stays as it is at first."""
        late = {"last": optim.Group(first=self.first)}
        return optim.by_group(tx, lambda path: "last" if "last_layer" in path.split("/")[0] else None, late)


def distillation_of(
    encoder: Any,
    plan: Plan,
    numbers: Mapping[str, Any],
    *,
    head_bn: bool = False,
    norm_last_layer: bool,
    teacher: str = "centre",
) -> Distillation:
    """Of the arguments of DINO and iBOT; ``numbers`` are those of ``RANGES``.

    Raises:
      ValueError: one outside its meaning.
    """
    for name, value in numbers.items():
        low, high, usual = RANGES[name]
        if not low <= value <= high:
            rule = f"{low} or more" if high == math.inf else f"between {low} and {high}"
            raise ValueError(f"method.{name}={value} must be {'positive' if low == 1e-6 else rule}; papers use {usual}")
    if teacher not in ("centre", "sinkhorn"):
        raise ValueError(f"method.teacher={teacher!r} is not one of centre, sinkhorn")
    sizes = {name: numbers[name] for name in ("out_dim", "hidden", "bottleneck", "layers")}
    warmup = (
        numbers["warmup_teacher_temperature"],
        numbers["teacher_temperature"],
        numbers["warmup_teacher_epochs"],
    )
    return Distillation(
        head=dino_head(
            **sizes, hidden_norm=head_bn, learned_scale=not norm_last_layer, norm=encoder.norm, dtype=encoder.dtype
        ),
        tau_at=optim.tau_schedule(numbers["tau"], plan.total_steps),
        temperature_at=optim.linear_by_epoch(*warmup, plan.steps_per_epoch),
        temperature=numbers["temperature"],
        centre_momentum=numbers["centre_momentum"],
        sinkhorn=teacher == "sinkhorn",
        first=round(numbers["freeze_last_layer"] * plan.steps_per_epoch),
    )


def assignment_metrics(
    q: Array, cross_entropy: Array, axis: Axis, weights: Array | None = None, prefix: str = ""
) -> dict[str, Array]:
    """How a teacher's distributions ``[b, n, k]`` collapse: one-hot, uniform, or all at the same prototypes.

    With ``weights`` ``[b, n]`` per row that has any, of a cross-entropy that is the mean over all rows.
    """
    weights = jnp.ones(q.shape[:2], q.dtype) if weights is None else weights.astype(q.dtype)
    count = weights.sum(1)
    entropies = (weights * losses.entropy(q)).sum(1) / jnp.maximum(count, 1)
    value, h, rows = mean_over_devices((cross_entropy, entropies.mean(), jnp.minimum(count, 1).mean()), axis)
    rows = jnp.maximum(rows, 1 / len(q))  # where there is none
    found = {"teacher_entropy": h / rows, "kl": (value - h) / rows}
    found["assignment_perplexity"] = losses.perplexity(q, axis, weights=weights)
    return {prefix + name: scalar for name, scalar in found.items()}
