"""A run folder made of weights that came from elsewhere."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import configs
from ssl_jax.data.images import values
from ssl_jax.data.images.recipes import Eval, Recipe, View
from ssl_jax.data.readers import NONE
from ssl_jax.experiment import make_method, make_modality, to_json
from ssl_jax.interop.files import write_json
from ssl_jax.interop.importing import Imported
from ssl_jax.run import folder, provenance
from ssl_jax.run.open import Run, open_run, variables_spec
from ssl_jax.run.saver import open_saver
from ssl_jax.types import Config, Plan


class _State(NamedTuple):
    """What an imported network has of a training state."""

    step: Any
    params: Any
    model_state: Any
    aux: Any = None
    rows: Any = None


def write(found: Imported, workdir: str | os.PathLike[str]) -> Run:
    """The folder of a run that holds an imported network, opened.

    Evaluators, ``embed``, ``export`` and ``init_from`` take it as any run; it has no data and is not trained.

    Raises:
      ValueError: the folder holds something already.
    """
    workdir = folder.check(workdir, "--out")
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"--out {workdir} is not empty; name a folder that is not there yet")
    config, recipe = _config(found)
    plan = Plan(1, 1, 2, (found.size, found.size, 3), 2)
    modality = make_modality(config, plan=plan)
    method = make_method(config, plan)
    spec = variables_spec(method, modality, plan)
    params, state = {"encoder": found.params}, {"encoder": found.model_state}
    if found.classifier is not None:
        name = next(iter(spec.params["classifier"]))
        params["classifier"], state["classifier"] = {name: found.classifier}, {}
    variables = jax.tree.map(
        lambda like, array: jnp.asarray(array, like.dtype), (spec.params, spec.model_state), (params, state)
    )
    resolved = {
        "plan": plan._asdict(),
        "data": {"sizes": {"train": 0, "val": 0, "test": 0}, "fingerprints": {}},
        "devices": 1,
        "own": {},
        "recipe": values.plain(recipe),
        "imported": found.record | {"report": found.report._asdict()},
        **provenance.machine(),
    }
    workdir.mkdir(parents=True, exist_ok=True)
    saver = open_saver(workdir)
    saver.save(_State(np.int32(0), *variables), {"imported": found.record})
    saver.close()
    write_json(workdir / "config.json", {"config": to_json(config), "resolved": resolved, "resumed": []})
    return open_run(workdir)


def _config(found: Imported) -> tuple[Config, Recipe]:
    config = configs.load("simclr_digits")
    with config.unlocked():
        config.method = ConfigDict({"name": "imported"})
        if found.classifier is not None:
            config.method.update({"classes": int(found.classifier["bias"].shape[-1]), "of_map": found.of_map})
        config.model = ConfigDict(found.model)
        mean, std = found.statistics
        config.data.update({"source": NONE, "image_size": found.size, "mean": tuple(mean), "std": tuple(std)})
        config.data.global_batch_size = 2
    recipe = Recipe((View(None),), Eval(*found.view))  # pyright: ignore[reportArgumentType]: words of projects.py
    configs.give_recipe(config, recipe)
    return config, recipe
