"""The train step of a config, compiled from shapes alone: no data, no weights, and no device but those of a mesh.

The mesh may be of simulated CPU devices, or of TPUs or GPUs that are not here (:mod:`ssl_jax.plan.devices`).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.configs import Config
from ssl_jax.data import recipes
from ssl_jax.data.text import recipes as text
from ssl_jax.experiment import make_modality, make_parts
from ssl_jax.step import compile_step, init_state, make_init
from ssl_jax.types import Plan, TrainState

EXAMPLES = {"tfds:imagenet2012": 1_281_167, "tfds:cifar10": 50_000, "tfds:fashion_mnist": 60_000, "digits": 1_438}


def examples(config: Config) -> int:
    """Training examples: ``data.num_examples``, or of a dataset that is known by name what validation leaves of it.

    Raises:
      ValueError: the dataset's size is not known.
    """
    data = config.data
    if data.num_examples:
        return data.num_examples
    if data.source not in EXAMPLES:
        raise ValueError(f"the size of {data.source} is not known without reading it; set --config.data.num_examples")
    return round(EXAMPLES[data.source] * (1 - data.val_fraction))


def plan_of(config: Config) -> Plan:
    """The plan of a run as its config says it; ``data.num_examples`` stands for the dataset.

    Raises:
      ValueError: the dataset's size is not known, or is smaller than a batch.
    """
    data, number = config.data, examples(config)
    if number < data.global_batch_size:
        raise ValueError(f"data.global_batch_size={data.global_batch_size} is larger than the {number} examples")
    steps_per_epoch = number // data.global_batch_size
    steps = config.train.steps or max(1, round(config.train.epochs * steps_per_epoch))
    if isinstance(recipes.of(data), text.Recipe):
        modality = make_modality(config)
        return Plan(steps, steps_per_epoch, number, modality.input_shape, data.global_batch_size, 10, modality.vocab)
    channels = 1 if data.source in ("digits", "tfds:mnist", "tfds:fashion_mnist") else 3
    return Plan(
        total_steps=steps,
        steps_per_epoch=steps_per_epoch,
        num_examples=number,
        input_shape=(data.image_size, data.image_size, channels),
        global_batch_size=data.global_batch_size,
        num_classes=10,
    )


def compile_ahead(config: Config, mesh: Mesh, **flags: bool | int | str) -> Any:
    """The compiled train step (``jax.stages.Compiled``) of a config on a mesh; ``flags`` are XLA's, as ``xla_...``."""
    return lower_ahead(config, mesh).compile(compiler_options=flags or None)


def lower_ahead(config: Config, mesh: Mesh, platform: str | None = None) -> Any:
    """The train step of a config on a mesh before XLA compiles it (``jax.stages.Lowered``).

    Batches are as they come of files: views in uint8 with ``data.augment=device``, made ready by the host without.

    Args:
      platform: ``"gpu"`` on a mesh of simulated devices: the program for GPUs, without their compiler. By default that
        of the mesh's devices.

    Raises:
      ValueError: the batch is not divisible by the devices, or is not known without the data.
    """
    plan = plan_of(config)
    if plan.global_batch_size % mesh.size:
        raise ValueError(f"data.global_batch_size={plan.global_batch_size} is not divisible by {mesh.size} devices")
    modality = make_modality(config, plan=plan)
    if modality.sent is None:
        raise ValueError(f"data.recipe={config.data.recipe} does not say what its batches are without its data")
    spec = modality.spec(plan.global_batch_size)
    with parallel.compiling_for(platform or mesh.devices.flat[0].platform):
        parts = make_parts(config, plan)
        init = make_init(parts.method, parts.tx, probe=parts.probe)
        state = jax.eval_shape(init, jax.random.key(0), spec, None)
        spec, views = modality.sent(plan.global_batch_size)
        step = compile_step(parts.method, parts.tx, mesh, views=views, probe=parts.probe, mode=config.parallel.mode)
        spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=parallel.sharded(mesh)), spec)
        return step.lower(parallel.laid_out(state, mesh), spec, platform and {"gpu": "cuda"}.get(platform, platform))


def initial(config: Config, mesh: Mesh) -> TrainState:
    """A state for the compiled step, on a mesh of devices that are here."""
    plan = plan_of(config)
    parts = make_parts(config, plan)
    spec = make_modality(config, plan=plan).spec(plan.global_batch_size)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), spec)
    key = jax.random.key(config.seed)
    return init_state(parts.method, parts.tx, key, parallel.place(zeros, mesh), mesh, probe=parts.probe)
