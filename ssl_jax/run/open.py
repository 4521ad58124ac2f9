"""A run opened for use: its config, its checkpoint, its encoder; read-only, and without its dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.config import Config
from ssl_jax.data.images import recipes, stream
from ssl_jax.experiment import make_method, to_json, variables_spec
from ssl_jax.interop import weights
from ssl_jax.run import checkpoint, provenance
from ssl_jax.run.folder import read_config
from ssl_jax.run.processes import without_tpu
from ssl_jax.types import Array, Method, Plan, Tree, Variables


def read_run(workdir: str | Path) -> tuple[Config, dict[str, Any]]:
    """(config, resolved) of a run: what was asked for, and what was found and decided (plan, versions, data).

    Raises:
      ValueError: the folder holds no run.
    """
    path = Path(workdir) / "config.json"
    if not os.path.isfile(path):  # Path's raises where a name is too long
        raise ValueError(f"{workdir} holds no run (there is no config.json); give the --workdir of a pretraining run")
    stored = read_config(path)
    return ConfigDict(stored["config"]), stored["resolved"]


def load(workdir: str | Path):
    """A run, ready to use.

    Args:
      workdir: its folder; only ``config.json`` and ``checkpoints/`` are read, no dataset.

    Returns:
      (variables, encode, config): ``encode(variables, images)`` takes images ``[b, h, w, c]``, uint8 or float in
      [0, 1], of any size, resizes them as evaluation does and returns ``{"features": [b, d], stage: [b, c], ...}``.

    Example:
      >>> variables, encode, config = ssl_jax.load("runs/simclr_digits")    # doctest: +SKIP
      >>> features = encode(variables, images)["features"]                  # doctest: +SKIP

    Raises:
      ValueError: the folder holds no run, or none of its checkpoints can be read.
    """
    run = open_run(workdir)
    config, plan, method, variables = run.config, run.plan, run.method, run.variables
    evaluation = recipes.get(config.data.recipe).evaluate
    compiled = jax.jit(method.encode)

    def encode(variables: Variables, images: np.ndarray | Array) -> Mapping[str, Array]:
        images = stream.evaluation_view(np.asarray(images), evaluation, config.data.image_size)
        if images.shape[-1] != plan.input_shape[-1]:
            raise ValueError(
                f"images have {images.shape[-1]} channel(s) and this encoder takes {plan.input_shape[-1]}; convert them"
            )
        return compiled(variables, jnp.asarray(images))

    return variables, encode, config


class Run(NamedTuple):
    """A run as it lies in its folder: what it was asked (config), what that became (resolved), and a checkpoint.

    ``progress`` is what the run knew of itself when it wrote that: "collapsed", "loss_spikes", "nonfinite", ...
    """

    workdir: Path
    config: Config
    resolved: dict[str, Any]
    plan: Plan
    method: Method
    variables: Variables
    step: int
    progress: Mapping[str, Any]


def open_run(workdir: str | Path, step: int | None = None) -> Run:
    """Open a run for reading; nothing is written, no dataset is read.

    Args:
      step: of the checkpoint, instead of the newest.

    Raises:
      ValueError: the folder holds no run, or a checkpoint of another architecture than its config's.
    """
    without_tpu()
    config, resolved = read_run(workdir)
    plan = Plan(**resolved["plan"] | {"input_shape": tuple(resolved["plan"]["input_shape"])})
    method = make_method(_self_contained(config), plan)
    tree, record = checkpoint.restore_variables(workdir, step)
    variables = _fit_into(variables_spec(method, config, plan), tree, workdir)
    return Run(Path(workdir), config, resolved, plan, method, variables, record["step"], record["metadata"])


def _self_contained(config: Config) -> Config:
    """A config that does not ask for the weights which another run gave this one at its start."""
    config = ConfigDict(to_json(config))
    if "autoencoder" in config.method:
        del config.method["autoencoder"]
    return config


def load_trunk(init_from: str | Path, method: Method, config: Config, plan: Plan) -> tuple[Tree, Tree]:
    """(params, model_state) for ``init_from``, checked leaf by leaf against this run's encoder.

    Args:
      init_from: the workdir of another run, or a file of weights (:mod:`ssl_jax.interop.weights`).

    Raises:
      ValueError: the other encoder is of another architecture; names the first parameter that differs.
    """
    if weights.is_weights(init_from):
        trunk, fix = weights.read(init_from), f"use weights of this model ({config.model.name})"
    else:
        other = open_run(init_from)
        trunk = other.method.trunk(other.variables)
        fix = f"use its model ({other.config.model.name}), its image channels and a method with such a trunk "
        fix += f"(there: {other.config.method.name})"
    want = dict(zip(("params", "model_state"), method.trunk(variables_spec(method, config, plan)), strict=True))
    there, here = _named({"params": trunk[0], "model_state": trunk[1]}), _named(want)
    for name in sorted(there.keys() | here.keys(), key=lambda name: (name.startswith("model_state/"), name)):
        have, need = (f"{n[name].dtype}{list(n[name].shape)}" if name in n else "nothing" for n in (there, here))
        if have != need:
            raise ValueError(
                f"init_from={init_from} holds another architecture: {name} is {have} there and {need} here; {fix}"
            )
    # In this run's own structure: a module without variables leaves no trace in a file.
    found = jax.tree.unflatten(jax.tree.structure(want), [jnp.asarray(there[name]) for name in here])
    return found["params"], found["model_state"]


def _named(tree: Tree) -> dict[str, Any]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _fit_into(spec: Variables, tree: Mapping[str, Any], workdir: str | Path) -> Variables:
    """Checkpointed arrays in the structure that the method gives its variables."""
    arrays = _named(dict(tree))
    leaves = []
    for name, leaf in _named(spec).items():
        have = np.shape(arrays[name]) if name in arrays else "missing"
        if have != leaf.shape:
            raise ValueError(f"checkpoint in {workdir}: {name} is {have}, this config's is {leaf.shape}")
        leaves.append(jnp.asarray(arrays[name]))
    return jax.tree.unflatten(jax.tree.structure(spec), leaves)


def export(run: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the trunk of a run, ``method.trunk`` of its newest checkpoint, with the run's config beside the arrays.

    Args:
      run: its workdir, or what :func:`open_run` gave.
      path: a ``.safetensors`` file; it is there whole or not at all, and replaces one of that name.

    Returns:
      What stands in the file beside the arrays: {"version", "commit", "step", "config", "fingerprint"}, the last one
      ``checkpoint.fingerprint`` of {"params", "model_state"}.

    Raises:
      ValueError: no such run, or the file cannot be written.
    """

    run = run if isinstance(run, Run) else open_run(run)
    params, model_state = run.method.trunk(run.variables)
    about = {"version": provenance.version("ssl_jax"), "commit": run.resolved.get("commit"), "step": run.step}
    return weights.write(path, params, model_state, about | {"config": to_json(run.config)})
