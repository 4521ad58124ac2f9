"""Refusing what a config cannot mean: numbers outside their meaning, unknown names, arguments that nobody takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ssl_jax.configs.keys import PARTS, arguments, defaults, flatten, loggers, unknown_key
from ssl_jax.names import hint, refuse_unknown
from ssl_jax.types import Config

LOGGERS = ("tensorboard", "wandb", "mlflow")
CHOICES = {
    "optim.name": ("sgd", "adamw", "lars_simclr", "lars_byol", "larc"),
    "optim.scale": ("linear", "sqrt", "none"),
    "optim.schedule": ("cosine", "cosine_by_epoch", "step", "constant", "linear", "slanted"),
    "parallel.mode": ("jit", "pmap"),
    "data.augment": ("host", "device"),
    "data.verify": (None, "full", "header"),
    "train.on_nonfinite": ("stop", "skip"),
}

# Numbers that every config has; others may be null, or missing in configs that are older than the key.
POSITIVE = (
    *("optim.learning_rate", "data.image_size", "data.global_batch_size", "data.memory_limit"),
    *("eval.knn_k", "eval.knn_temperature", "eval.online_bank", "eval.online_queries"),
)
AT_LEAST_ZERO = (
    *("seed", "optim.weight_decay", "optim.momentum", "optim.warmup_epochs"),
    *("train.log_every", "train.eval_every", "train.checkpoint_every"),
)
NEEDED = (*POSITIVE, *AT_LEAST_ZERO, "data.val_fraction", "data.max_unreadable")
POSITIVE_IF_SET = (
    *("train.steps", "train.epochs", "train.steps_per_dispatch", "train.keep_checkpoints", "optim.clip_norm"),
    *("optim.clip_each", "optim.average_after", "optim.eta", "optim.patch_rate", "eval.max_bank", "eval.max_queries"),
    *("parallel.devices", "parallel.fsdp", "parallel.heartbeat_timeout", "data.num_examples", "data.max_pixels"),
    *("data.labelled", "data.ratio", "data.length", "data.document_length"),
)
RANGES = (
    ("must be positive", lambda x: x > 0, (*POSITIVE, *POSITIVE_IF_SET)),
    ("must not be negative", lambda x: x >= 0, (*AT_LEAST_ZERO, "optim.weight_decay_end", "data.table_limit")),
    ("is a share of the peak and must be in [0, 1]", lambda x: 0 <= x <= 1, ("optim.start", "optim.end")),
    ("must be in (0, 1]; null is one rate for all", lambda x: 0 < x <= 1, ("optim.layer_decay",)),
    ("must be in [0, 1]", lambda x: 0 <= x <= 1, ("data.max_unreadable",)),
    ("must be between 0 and 1", lambda x: 0 < x < 1, ("data.val_fraction",)),
    ("must be below 1", lambda x: x < 1, ("optim.momentum",)),
    ("must be below 2**32", lambda x: x < 1 << 32, ("seed",)),
    # Steps are counted in int32.
    ("must be below 2**31", lambda x: x < 1 << 31, ("train.steps", "train.epochs", "optim.warmup_epochs")),
)
# Of methods and models.
COUNTS = ("_dim", "_hidden", "_layers", "_size", "_stride", "_kernel", "_width", ".hidden", ".width")


def check(config: Config) -> None:
    """Refuse numbers outside their meaning, unknown names, and arguments that a method or model does not have."""
    from ssl_jax import evals, methods
    from ssl_jax.data import recipes
    from ssl_jax.data.images.values import own_operations

    flat = flatten(config)
    for key, value in flat.items():
        numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)]
        _refuse(flat, key, not all(map(math.isfinite, numbers)), "must be finite")
    _check_arguments(flat)
    for why, right, keys in RANGES:
        for key in keys:
            value = flat.get(key)
            _refuse(flat, key, key in NEEDED if value is None else not right(value), why)
    own = flat.get("optim.layer_decay") is not None and "layer_decay" in methods.arguments(config.method.name)
    _refuse(flat, "optim.layer_decay", own, f"is method.layer_decay of {config.method.name}; set it to null")
    fsdp = flat.get("parallel.fsdp", 1)
    _refuse(flat, "parallel.fsdp", fsdp > 1 and flat["parallel.mode"] != "jit", "is for parallel.mode=jit; set it to 1")
    _check_value_range(flat)
    _check_dispatch(flat)
    _refuse(flat, "data.data_dir", flat["data.data_dir"] == "", "is empty; name a folder, or leave it out")
    _refuse(flat, "data.std", min(flat["data.std"], default=0) <= 0, "must be positive numbers, one per channel")
    no_length = flat["train.epochs"] is None and flat["train.steps"] is None
    _refuse(flat, "train.epochs", no_length, "or train.steps must be set")
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            named = [str(c) for c in choices if c is not None]
            raise ValueError(
                f"config.{key}={flat[key]!r} is unknown; {hint(flat[key], named)}known: {', '.join(named)}"
            )
    for name in loggers(config):
        refuse_unknown(name, LOGGERS, "config.train.loggers=")
    for name in evals.called(flat.get("eval.during") or ()).values():
        if evals.needs_fit(name):
            raise ValueError(f"config.eval.during={name!r} trains, which no run does beside itself; evaluate it later")
    for op in own_operations(recipes.of(config.data)).values():
        if config.data.augment == "host":
            raise ValueError(
                f"operation {op.name} is a function of JAX, which runs on the device alone; set data.augment=device"
            )
    for part in PARTS:
        known = arguments(part, config[part].name)
        for name in config[part]:
            if name != "name" and name not in known:
                raise ValueError(
                    f"{unknown_key(f'config.{part}.{name}', [f'config.{part}.{k}' for k in known])} "
                    f"({config[part].name!r} does not have it; start from one of its own configs)"
                )
    for name, parameter in methods.arguments(config.method.name).items():
        key = f"method.{name}"
        whole = parameter.annotation in (int, int | None, "int", "int | None", "Optional[int]")
        value = flat.get(key)
        _refuse(flat, key, whole and isinstance(value, float) and value % 1 != 0, "must be a whole number")
    _check_switches(flat)


def _check_switches(flat: Mapping[str, Any]) -> None:
    """Arguments of the method and the model that are true or false by default are never anything else."""
    for key, default in defaults(flat).items():
        wrong = isinstance(default, bool) and not isinstance(flat.get(key, default), bool)
        _refuse(flat, key, wrong, "must be true or false")


def _check_value_range(flat: Mapping[str, Any]) -> None:
    key = "data.value_range"
    given = flat.get(key)
    pair = isinstance(given, list) and [isinstance(v, (int, float)) and not isinstance(v, bool) for v in given]
    right = given is None or given == "image" or (pair == [True, True] and given[0] < given[1])
    _refuse(flat, key, not right, "must be two numbers, the lower one first (0,4095), or 'image'")


def _check_dispatch(flat: Mapping[str, Any]) -> None:
    """Steps of one program end where the loop has something to do."""
    steps = flat.get("train.steps_per_dispatch", 1)
    for key in ("train.log_every", "train.eval_every", "train.checkpoint_every"):
        if flat[key] % steps:
            use = math.gcd(steps, flat[key])
            raise ValueError(f"config.train.steps_per_dispatch={steps} does not divide {key}={flat[key]}; use {use}")
    if steps > 1 and (flat["data.augment"], flat["parallel.mode"]) != ("device", "jit"):
        raise ValueError(
            f"config.train.steps_per_dispatch={steps} needs data.augment=device and parallel.mode=jit, and they are "
            f"{flat['data.augment']} and {flat['parallel.mode']}; set it to 1"
        )


def _check_arguments(flat: Mapping[str, Any]) -> None:
    """Sizes among the arguments of a method or model, and lists of numbers."""
    for key, value in flat.items():
        values = value if isinstance(value, list) else [value]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if key in ("data.mean", "data.std"):
            wrong = not values or len(numbers) < len(values)
            _refuse(flat, key, wrong, "must hold numbers, one per channel or one for all")
        elif key in ("model.widths", "model.blocks", "model.strides") and value is not None:
            wrong = not values or any(not isinstance(v, int) or v < 1 for v in values)
            _refuse(flat, key, wrong, "must hold whole numbers from 1 on")
        elif key.startswith(("method.", "model.")) and numbers:
            _refuse(flat, key, min(numbers) < 0, "must not be negative")
            counts = key.endswith(COUNTS) and key != "method.queue_size"  # SwAV's may be 0, the others refuse it
            _refuse(flat, key, counts and min(numbers) < 1, "must be positive")


def _refuse(flat: Mapping[str, Any], key: str, wrong: bool, why: str) -> None:
    if wrong:
        raise ValueError(f"config.{key}={flat[key]} {why}")
