"""The train step of a config, compiled from shapes alone: no data, no weights, and no device but those of a mesh.

The mesh may be of simulated CPU devices or of a TPU topology that is not here (``topology``).
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.config import Config
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
    if isinstance(recipes.get(data.recipe), text.Recipe):
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


def compile_ahead(config: Config, mesh: Mesh) -> Any:
    """The compiled train step (``jax.stages.Compiled``) of a config on a mesh.

    Batches are as they come of files: views in uint8 with ``data.augment=device``, made ready by the host without.
    """
    plan = plan_of(config)
    if plan.global_batch_size % mesh.size:
        raise ValueError(f"data.global_batch_size={plan.global_batch_size} is not divisible by {mesh.size} devices")
    modality = make_modality(config, plan=plan)
    if modality.sent is None:
        raise ValueError(f"data.recipe={config.data.recipe} does not say what its batches are without its data")
    spec = modality.spec(plan.global_batch_size)
    with parallel.compiling_for(mesh.devices.flat[0].platform):
        parts = make_parts(config, plan)
        init = make_init(parts.method, parts.tx, probe=parts.probe)
        state = jax.eval_shape(init, jax.random.key(0), spec, None)
        spec, views = modality.sent(plan.global_batch_size)
        step = compile_step(parts.method, parts.tx, mesh, views=views, probe=parts.probe, mode=config.parallel.mode)
        spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=parallel.sharded(mesh)), spec)
        return step.lower(parallel.laid_out(state, mesh), spec).compile()


def initial(config: Config, mesh: Mesh) -> TrainState:
    """A state for the compiled step, on a mesh of devices that are here."""
    plan = plan_of(config)
    parts = make_parts(config, plan)
    spec = make_modality(config, plan=plan).spec(plan.global_batch_size)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), spec)
    key = jax.random.key(config.seed)
    return init_state(parts.method, parts.tx, key, parallel.place(zeros, mesh), mesh, probe=parts.probe)


def topology(name: str, fsdp: int = 1) -> Mesh:
    """The devices of ``"cpu:8"`` (simulated) or of a TPU slice such as ``"v5e:16x16"``, as a mesh.

    Args:
      fsdp: devices of a group that shares the state, see :func:`ssl_jax.parallel.make_mesh`.

    Raises:
      ValueError: the name is of another form, libtpu is not installed, or it does not know the slice.
    """
    if match := re.fullmatch(r"cpu:([1-9]\d*)", name):
        return parallel.make_mesh(int(match[1]), fsdp)
    if not re.fullmatch(r"v\d\w*:[1-9]\d*(x[1-9]\d*)*", name):
        raise ValueError(f"--topology {name} is not of the form v5e:16x16, v4:4x4x2 or cpu:8")
    dimensions = 3 if name.startswith(("v4", "v5p")) else 2
    if name.count("x") != dimensions - 1:
        raise ValueError(f"--topology {name}: a slice of {name.partition(':')[0]} has {dimensions} dimensions")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"--topology {name} needs libtpu; pip install -e '.[plan]'")
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # libtpu's own, of many kinds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--topology {name} is none that libtpu knows ({said[:200]})") from None
    return parallel.mesh_of(described.devices, fsdp)
