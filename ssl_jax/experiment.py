"""From a config to the parts of a run: data, plan, encoder, method, optimizer, probe. And back, from a finished run.

``build`` refuses what cannot run before anything is compiled or written.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ssl_jax import config as configs
from ssl_jax import methods, models, optim, parallel
from ssl_jax.config import Config
from ssl_jax.data import feed as feeds
from ssl_jax.data import readers, source
from ssl_jax.data.images import recipes
from ssl_jax.online.probe import online_probe
from ssl_jax.types import Method, Plan, Probe, Variables


class Experiment(NamedTuple):
    """The parts of a run.

    Attributes:
      notes: what was decided on the way (what of the data is used, peak rate, a warmup cut short), one line each, to be
        printed.
      feed: how the training examples reach the step.
    """

    config: Config
    plan: Plan
    splits: source.Splits
    method: Method
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    warmup_steps: int
    probe: Probe | None
    notes: tuple[str, ...]
    feed: feeds.Feed


def build(config: Config, splits: source.Splits | None = None) -> Experiment:
    """Check a config and make the parts of its run.

    Args:
      splits: data to use instead of ``config.data.source``.

    Raises:
      ValueError: one line naming the value and the fix.
    """
    configs.check(config)
    data = config.data
    devices = parallel.device_count(config.parallel.devices)
    batch_size = data.global_batch_size
    if batch_size < 2:
        raise ValueError(f"data.global_batch_size={batch_size} gives BatchNorm and negatives nothing; use 2 or more")
    if batch_size % devices:
        down, up = batch_size // devices * devices, -(-batch_size // devices) * devices
        raise ValueError(
            f"data.global_batch_size={batch_size} is not divisible by {devices} devices; use {down or up} or {up}"
        )
    parallel.check_groups(devices, config.parallel.get("fsdp", 1))
    make_method(config, _plan_without_data(config))  # wrong hyper-parameters are refused before data are read
    splits = splits or load_splits(config)
    train = splits.train
    if batch_size > len(train):
        raise ValueError(
            f"data.global_batch_size={batch_size} is larger than the {len(train)} training examples of {data.source}; "
            f"use at most {len(train)}"
        )
    for key in ("mean", "std"):
        if len(data[key]) not in (1, train.channels):
            raise ValueError(f"data.{key} has {len(data[key])} numbers for images of {train.channels} channel(s)")
    bank = min(len(train), config.eval.online_bank, config.eval.max_bank or len(train))
    if config.eval.knn and train.num_classes and config.eval.knn_k > bank:
        raise ValueError(f"eval.knn_k={config.eval.knn_k} is larger than the bank of {bank} examples; lower it")
    steps_per_epoch = len(train) // batch_size
    plan = Plan(
        total_steps=_total_steps(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        num_examples=len(train),
        input_shape=(data.image_size, data.image_size, train.channels),
        global_batch_size=batch_size,
        num_classes=train.num_classes,
    )
    schedule, warmup_steps, notes = make_schedule(config, plan)
    feed = feeds.choose(train, data, mode=config.parallel.mode)
    if config.train.get("steps_per_dispatch", 1) > 1 and feed.kind != "table":
        raise ValueError(
            f"train.steps_per_dispatch={config.train.steps_per_dispatch} needs images that lie on the device, and "
            f"those of {data.source} do not (data.table_limit={data.table_limit}, images in memory only); set it to 1"
        )
    method = make_method(config, plan)
    try:
        _trace(method, config, plan)
    except (TypeError, ZeroDivisionError, IndexError) as error:  # an argument that no check foresaw
        raise _cannot_be(config, error) from None
    return Experiment(
        config=config,
        plan=plan,
        splits=splits,
        method=method,
        tx=make_tx(config, schedule, plan.total_steps),
        schedule=schedule,
        warmup_steps=warmup_steps,
        probe=online_probe(plan.num_classes) if config.eval.probe and plan.num_classes else None,
        notes=(*splits.notes, *notes, *feeds.describe(feed)),
        feed=feed,
    )


def _total_steps(config: Config, steps_per_epoch: int) -> int:
    """Length of the run; a part of the network that is to join the training later does so within it."""
    total = config.train.steps or max(1, round(config.train.epochs * steps_per_epoch))
    if total >= 1 << 31:
        raise ValueError(
            f"config.train.epochs={config.train.epochs} of {steps_per_epoch} steps are {total} steps, which must be "
            f"below 2**31; use at most {((1 << 31) - 1) // steps_per_epoch} epochs"
        )
    wait = config.method.get("unfreeze_every") or 0
    if wait and max(1, round(wait * steps_per_epoch)) >= total:  # as methods/supervised.py counts
        raise ValueError(
            f"config.method.unfreeze_every={wait:g} epochs are not shorter than the run of {total} steps, "
            f"{total / steps_per_epoch:.3g} epochs: nothing but the classifier would ever learn; lower it, or say so "
            "with method.frozen=encoder and unfreeze_every=0"
        )
    return total


def _trace(method: Method, config: Config, plan: Plan) -> None:
    """Run the loss on shapes alone, so that a recipe that does not suit the method is refused before compilation."""

    def loss(variables, batch, key, step):
        return method.loss(variables, batch, key, step, None)[0]

    variables, batch = variables_spec(method, config, plan), batch_spec(config, plan, plan.global_batch_size)
    key, step = jax.random.key(0), jax.ShapeDtypeStruct((), np.int32)
    jax.eval_shape(loss, variables, batch, key, step)
    if config.parallel.mode == "pmap":
        devices = parallel.device_count(config.parallel.devices)
        split = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((devices, a.shape[0] // devices, *a.shape[1:]), a.dtype), batch
        )

        def mapped(variables, batch, key, step):
            return method.loss(variables, batch, key, step, parallel.DATA)[0]

        over_devices = jax.vmap(mapped, (None, 0, None, None), axis_name=parallel.DATA)
        jax.eval_shape(over_devices, variables, split, key, step)


def load_splits(config: Config) -> source.Splits:
    """The data a config names."""
    keys = ("data_dir", "train_split", "test_split", "download", "val_fraction", "num_examples", "verify")
    arguments = {k: config.data[k] for k in (*keys, "max_unreadable", "memory_limit")}
    return readers.load(config.data.source, **arguments, unlabelled=config.data.get("unlabelled"))


def _plan_without_data(config: Config) -> Plan:
    """A stand-in for the plan while the dataset is unknown."""
    return Plan(
        total_steps=config.train.steps or 1,
        steps_per_epoch=1,
        num_examples=config.data.num_examples or config.data.global_batch_size,
        input_shape=(config.data.image_size, config.data.image_size, 3),
        global_batch_size=config.data.global_batch_size,
        num_classes=2,
    )


def make_method(config: Config, plan: Plan) -> Method:
    """The method of a config around its encoder."""
    arguments = {part: {k: v for k, v in config[part].items() if k != "name"} for part in ("model", "method")}
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    make = methods.get(config.method.name)
    try:
        encoder = models.make(config.model.name, **arguments["model"])
        models.check_image_size(encoder, config.data.image_size)
        return make(encoder, plan=plan, mean=mean, std=std, **arguments["method"])
    except TypeError as error:  # a value of a type that its argument cannot be
        raise _cannot_be(config, error) from None


def _cannot_be(config: Config, error: Exception) -> ValueError:
    said = {k: v for k, v in configs.flatten(config).items() if k.startswith(("model.", "method."))}
    shown = ", ".join(f"{k}={v!r}" for k, v in said.items())
    return ValueError(f"these do not make a network: {shown} ({str(error).splitlines()[0]})")


def make_schedule(config: Config, plan: Plan) -> tuple[optax.Schedule, int, tuple[str, ...]]:
    """The learning rate by step, the warmup's length, and the lines that say so."""
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
    if o.schedule == "cosine":
        return optim.warmup_cosine(peak, warmup, plan.total_steps), warmup, tuple(notes)
    if warmup and o.schedule != "step":
        raise ValueError(
            f"optim.schedule={o.schedule!r} has no warmup; set optim.warmup_epochs=0 or use 'cosine' or 'step'"
        )
    schedules = {
        "cosine_by_epoch": lambda: optim.cosine_by_epoch(peak, plan.steps_per_epoch, epochs),
        "step": lambda: optim.step_decay(peak, plan.total_steps, at=at or (0.6, 0.8), warmup_steps=warmup),
        "constant": lambda: optim.constant(peak),
    }
    return schedules[o.schedule](), warmup, tuple(notes)


def make_tx(config: Config, schedule: optax.Schedule, total_steps: int = 1) -> optax.GradientTransformation:
    """The optimizer of a config; ``total_steps`` matters where weight decay changes."""
    o = config.optim
    arguments = {k: o[k] for k in ("momentum", "clip_norm", "decay_bias_and_norm")}
    # Runs from before these keys existed have no nesterov and weight_decay_end in their stored config.
    decay, end = o.weight_decay, o.get("weight_decay_end")
    arguments |= {"weight_decay": decay if end is None else optim.cosine(decay, end, total_steps)}
    return optim.make(o.name, learning_rate=schedule, nesterov=o.get("nesterov", False), **arguments)


def to_json(config: Config) -> dict[str, Any]:
    """A config as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def batch_spec(config: Config, plan: Plan, rows: int) -> dict[str, Any]:
    """Shapes of a training batch of ``rows`` rows, as ``jax.ShapeDtypeStruct``."""
    sizes = [view.size or config.data.image_size for view in recipes.get(config.data.recipe).views]
    views = tuple(jax.ShapeDtypeStruct((rows, s, s, plan.input_shape[-1]), np.float32) for s in sizes)
    ids = jax.ShapeDtypeStruct((rows,), np.int32)
    return {"views": views, "label": ids, "index": ids}


def zeros(experiment: Experiment, processes: int = 1) -> dict[str, Any]:
    """A training batch of zeros, this process's rows: what a state is initialised with."""
    spec = batch_spec(experiment.config, experiment.plan, experiment.plan.global_batch_size // processes)
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), spec)


def variables_spec(method: Method, config: Config, plan: Plan) -> Variables:
    """Shapes of a method's variables, without computing them."""
    return jax.eval_shape(method.init, jax.random.key(0), batch_spec(config, plan, plan.global_batch_size))
