"""What DINO and iBOT share: a head of prototypes, and how a student's tokens are compared with a teacher's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from ssl_jax import losses, models, optim
from ssl_jax.methods import run_parts
from ssl_jax.models.heads import dino_head
from ssl_jax.optim.schedules import Schedule
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import Array, Axis, Plan, Tree, Variables

RATIO, COUNT, NUMBER, POSITIVE = (0, 1), (1, math.inf), (0, math.inf), (1e-6, math.inf)
RANGES: Mapping[str, tuple[tuple[float, float], float]] = {  # of the arguments: least and greatest, and the papers'
    "tau": (RATIO, 0.996),
    "centre_momentum": (RATIO, 0.9),
    "temperature": (POSITIVE, 0.1),
    "teacher_temperature": (POSITIVE, 0.04),
    "warmup_teacher_temperature": (POSITIVE, 0.04),
    "warmup_teacher_epochs": (NUMBER, 30),
    "patch_temperature": (POSITIVE, 0.07),
    "warmup_patch_temperature": (POSITIVE, 0.04),
    "freeze_last_layer": (NUMBER, 1),
    "out_dim": ((2, math.inf), 65536),
    "patch_out_dim": ((2, math.inf), 131072),
    "hidden": (COUNT, 2048),
    "bottleneck": (COUNT, 256),
    "patch_bottleneck": (COUNT, 256),
    "layers": (COUNT, 3),
    "patch_weight": (NUMBER, 1),
    "koleo": (NUMBER, 0.1),
    "koleo_group": ((2, math.inf), 64),
}


def check(**arguments: float | None) -> None:
    """Refuse arguments of ``RANGES`` outside their meaning; None is that of another one."""
    for name, value in arguments.items():
        (low, high), usual = RANGES[name]
        if value is not None and not low <= value <= high:
            rule = f"{low} or more" if high == math.inf else f"between {low} and {high}"
            raise ValueError(f"method.{name}={value} must be {'positive' if low == 1e-6 else rule}; papers use {usual}")


def check_group(rows: int | None, plan: Plan) -> None:
    """Refuse ``koleo_group`` that a batch does not fall into."""
    check(koleo_group=rows)
    if rows is not None and plan.global_batch_size % rows:
        raise ValueError(
            f"method.koleo_group={rows} does not divide data.global_batch_size={plan.global_batch_size}; use a "
            "divisor, or null for the whole batch"
        )


class Tokens(NamedTuple):
    """How the student's tokens of one kind, of the class or of patches, learn from the teacher's.

    Attributes:
      prefix: of the names of its centre and its metrics.
      head: its two parts by their names, of :func:`~ssl_jax.models.heads.dino_head`.
      temperature: of the student.
      temperature_at: of the teacher, by step.
      sinkhorn: whether the teacher has Sinkhorn's assignments in place of a centre.
    """

    prefix: str
    head: Mapping[str, nn.Module]
    temperature: float
    temperature_at: Schedule
    sinkhorn: bool

    @property
    def centre(self) -> str:
        """The name in ``aux`` of the centre of the teacher's logits."""
        return self.prefix + "centre"

    @property
    def last_layer(self) -> str:
        """The name of the second part."""
        return [*self.head][1]

    def first_centre(self) -> dict[str, Array]:
        """With which ``aux`` begins, where there is one."""
        return {} if self.sinkhorn else {self.centre: jnp.zeros(self.head[self.last_layer].features)}

    def bottlenecks(self, params: Tree, state: Tree, x: Array, axis: Axis) -> tuple[Array, Tree]:
        """(What the first part makes of tokens ``[..., d]``, the model_state after it), in train mode."""
        name = next(iter(self.head))
        out, new = run_parts({name: self.head[name]}, params, state, x, train=True, axis=axis)
        return out[name], {**state, **new}

    def logits(self, params: Tree, z: Array) -> Array:
        """What the second part makes of bottlenecks, ``[..., k]``."""
        name = self.last_layer
        return models.forward(self.head[name], params[name], {}, z, train=True)[0]

    def mean_logits(self, params: Tree, z: Array, axis: Axis) -> dict[str, Array]:
        """The mean over all bottlenecks ``[..., e]`` of all devices, to which the centre moves, where there is one.

        The last layer is linear: what it makes of the mean is the mean of what it makes of all.
        """
        mean = mean_over_devices(z.reshape(-1, z.shape[-1]).mean(0, keepdims=True), axis)
        return {} if self.sinkhorn else {self.centre: self.logits(params, mean)[0]}

    def assign(self, logits: Array, aux: Tree, step: Array, axis: Axis, present: Array | None = None) -> Array:
        """The teacher's distributions ``[..., k]``."""
        centre = None if self.sinkhorn else aux[self.centre]
        how = {"temperature": self.temperature_at(step), "present": present, "axis": axis}
        return losses.assigned(logits, centre=centre, **how)

    def metrics(
        self,
        q: Array,
        cross_entropy: Array,
        variables: Variables,
        step: Array,
        axis: Axis,
        weights: Array | None = None,
    ) -> dict[str, Array]:
        """How the teacher's distributions ``[b, n, k]`` collapse: one-hot, uniform, or all at the same prototypes.

        With ``weights`` ``[b, n]`` per row that has any, of a cross-entropy that is the mean over all rows.
        """
        weights = jnp.ones(q.shape[:2], q.dtype) if weights is None else weights.astype(q.dtype)
        count = weights.sum(1)
        entropies = (weights * losses.entropy(q)).sum(1) / jnp.maximum(count, 1)
        value, h, rows = mean_over_devices((cross_entropy, entropies.mean(), jnp.minimum(count, 1).mean()), axis)
        rows = jnp.maximum(rows, 1 / len(q))  # where there is none
        found = {"teacher_entropy": h / rows, "kl": (value - h) / rows}
        found["assignment_perplexity"] = losses.perplexity(q, axis, weights=weights)
        found["teacher_temperature"] = jnp.asarray(self.temperature_at(step), q.dtype)
        found |= {} if self.sinkhorn else {"centre_norm": jnp.linalg.norm(variables.aux[self.centre])}
        if "g" in (last := variables.params[self.last_layer]) and self.last_layer.startswith(self.prefix):
            found["prototype_length"] = last["g"].mean()
        if not self.prefix:
            student, teacher = lax.stop_gradient((variables.params, variables.aux["target"]))
            found["ema_distance"] = optax.tree.norm(optax.tree.sub(student, teacher)) / optax.tree.norm(student)
        return {self.prefix + name: scalar for name, scalar in found.items()}

    def pairs(self, params: Tree, q: Array, z: Array, counts: Sequence[int]) -> Array:
        """DINO's loss: q ``[b, g, k]`` against all other views, from their bottlenecks z ``[b, V, d]``.

        Logits are made of the views of one size at a time, ``counts`` of each, and again for the gradient: with
        k = 65536 all of them do not fit.
        """

        @jax.checkpoint
        def table(params, x):
            return losses.cross_entropies(q, self.logits(params, x), temperature=self.temperature)

        ends = list(itertools.accumulate(counts))
        tables = [table(params, z[:, end - n : end]) for n, end in zip(counts, ends, strict=True)]
        return losses.mean_over_pairs(jnp.concatenate(tables, axis=2))

    def patches(self, params: Tree, q: Array, z: Array, weights: Array) -> Array:
        """iBOT's loss: q ``[b, t, k]`` against the same patches, from bottlenecks z ``[b, t, d]``, as in ``pairs``."""

        @jax.checkpoint
        def loss(params, z):
            logits = self.logits(params, z)
            return losses.patch_distillation(q, logits, weights=weights, temperature=self.temperature)

        return loss(params, z)


# What a teacher knows of an image, in nats: healthy small runs begin at 0.8 and stay above 0.15, dead ones end at 0.
# One whose prototypes become one has 0.6 to 0.2 while they are 8 to 2; healthy runs use 25 of 1024 and more.
TOLD_APART, OF_FEW, FEW = 0.1, 1.0, 10


def collapse_of(*kinds: Tokens) -> dict[str, Callable[[Mapping[str, float]], str | None]]:
    """``hooks`` that tell a teacher which gives every image all prototypes alike, or all images one prototype.

    What it knows of the image is ``ln(assignment_perplexity) - teacher_entropy``, in nats. While that is well above 0
    the run is sound whatever the spread of the bottleneck, where vectors lie close together for a long time; unless
    all images share a few prototypes, between which the teacher does not choose.
    """

    def collapse(metrics: Mapping[str, float]) -> str | None:
        known = []
        for kind in kinds:
            k = kind.head[kind.last_layer].features
            entropy, several = (kind.prefix + name for name in ("teacher_entropy", "assignment_perplexity"))
            if metrics[entropy] > 0.99 * math.log(k):
                return (
                    f"{entropy} is that of {k} prototypes all alike, {math.log(k):.3g}; lower the teacher's temperature"
                )
            known.append(math.log(metrics[several]) - metrics[entropy])
            if metrics[several] < max(1.1, min(FEW, k / 10)) and known[-1] < OF_FEW:
                fix = "use method.teacher=centre" if kind.sinkhorn else "lower method.centre_momentum"
                return f"{several} is {metrics[several]:.2f}: so few of {k} prototypes for all images; {fix}"
        return "" if all(nats > TOLD_APART for nats in known) else None

    return {"collapse": collapse}


def tokens_of(
    plan: Plan,
    prefix: str,
    head: Mapping[str, nn.Module],
    first: float,
    last: float,
    *,
    epochs: int,
    temperature: float,
    teacher: str = "centre",
) -> Tokens:
    """Tokens whose teacher's temperature goes from the first to the last in so many epochs."""
    check(temperature=temperature, teacher_temperature=last)
    check(warmup_teacher_temperature=first, warmup_teacher_epochs=epochs)
    if teacher not in ("centre", "sinkhorn"):
        raise ValueError(f"method.teacher={teacher!r} is not one of centre, sinkhorn")
    temperature_at = optim.linear_by_epoch(first, last, epochs, plan.steps_per_epoch)
    return Tokens(prefix, head, temperature, temperature_at, teacher == "sinkhorn")


def head_of(encoder: Any, sizes: Mapping[str, int], *, head_bn: bool, norm_last_layer: bool) -> dict[str, nn.Module]:
    """The head behind ``encoder``, of the methods' arguments; sizes as :func:`~ssl_jax.models.heads.dino_head` says."""
    kind = {"hidden_norm": head_bn, "learned_scale": not norm_last_layer}
    return dino_head(**sizes, **kind, norm=encoder.norm, dtype=encoder.dtype)


def heads_of(
    encoder: Any,
    sizes: Mapping[str, int],
    *,
    head_bn: bool,
    norm_last_layer: bool,
    shared_head: bool,
    patch_out_dim: int | None,
    patch_bottleneck: int | None,
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """(The head of class tokens, that of patches), which is the same or has sizes of its own."""
    own = {"out_dim": patch_out_dim, "bottleneck": patch_bottleneck}
    check(**{f"patch_{name}": value for name, value in own.items()})
    own = {name: value for name, value in own.items() if value is not None}
    make = partial(head_of, encoder, head_bn=head_bn, norm_last_layer=norm_last_layer)
    head = make(sizes)
    if not shared_head:
        return head, {f"patch_{name}": part for name, part in make({**sizes, **own}).items()}
    for name, value in own.items():
        raise ValueError(f"method.patch_{name}={value} is of a head for patches alone; set method.shared_head=False")
    return head, head


def follow(tau_at: Schedule, centre_momentum: float) -> Callable[[Variables, Tree, Array], Tree]:
    """``update_aux`` whose target follows the params, and each centre the mean of its name in the carry."""

    def update_aux(variables: Variables, carry: Tree, step: Array) -> Tree:
        aux, move = variables.aux, {"momentum": centre_momentum}
        centres = {name: losses.next_centre(aux[name], mean, **move) for name, mean in carry.items()}
        return {"target": optim.ema(aux["target"], variables.params, tau_at(step)), **centres}

    return update_aux


def kept_apart(views: Sequence[Array], group: int | None, axis: Axis) -> dict[str, Array]:
    """KoLeo of each view's rows, summed, and the least distance of all, which shows two rows that are one."""
    of_views = [jnp.stack(losses.koleo_and_nearest(x, group=group, axis=axis)) for x in views]
    value, nearest = jnp.stack(of_views, axis=1)
    return {"koleo": value.sum(), "koleo_nearest": nearest.min()}


def late_last_layer(plan: Plan, epochs: float) -> Callable[[Any], Any]:
    """``wrap_tx`` under which last layers, also those of patches, stay as they are for so many epochs."""
    late = {"last": optim.Group(first=round(epochs * plan.steps_per_epoch))}
    return lambda tx: optim.by_group(tx, lambda path: "last" if "last_layer" in path.split("/")[0] else None, late)
