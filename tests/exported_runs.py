"""Runs with random weights, as they are exported, and what they give."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import configs
from ssl_jax.configs import to_json
from ssl_jax.data import recipes
from ssl_jax.data.images.recipes import Eval, Recipe, View
from ssl_jax.experiment import make_method, make_modality
from ssl_jax.interop import peers
from ssl_jax.run.open import Run, variables_spec
from ssl_jax.types import Plan, Vocab

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONVNET = {"name": "convnet", "widths": (4, 8)}
NC = {"licence": "CC BY-NC 4.0", "project": "byol", "source": "deepmind/byol", "sha256": "ab12"}


def opened(workdir, model, *, size=32, channels=3, classes=None, imported=None, source="none", **changes):
    """A run of such a network with random weights, as ``open_run`` would give it."""
    config = configs.load("simclr_digits")
    with config.unlocked():
        config.method = ConfigDict({"name": "imported"} | ({} if classes is None else {"classes": classes}))
        config.model = ConfigDict(model)
        mean, std = IMAGENET if channels == 3 else ((0.5,), (0.25,))
        config.data.update({"source": source, "image_size": size, "mean": mean, "std": std, "global_batch_size": 2})
        config.update(changes)
    recipe = Recipe((View(None),), Eval("resize_crop", 0.875, "bicubic"))
    configs.give_recipe(config, recipe)
    plan = Plan(1, 1, 2, (size, size, channels), 2)
    modality, method = make_modality(config, plan=plan), make_method(config, plan)
    variables = jax.tree_util.tree_map_with_path(random, variables_spec(method, modality, plan))
    resolved = {"data": {"sizes": {"test": 7}, "fingerprints": {"test": "f00d"}}, "commit": "c0ffee"}
    resolved |= {} if imported is None else {"imported": imported}
    return Run(workdir, config, resolved, plan, recipe, modality, method, variables, 12, {})


def of_text(workdir):
    """A run whose encoder reads tokens."""
    config = configs.load("bert_imdb_cpu")
    with config.unlocked():
        config.method = ConfigDict({"name": "imported"})
        config.model = ConfigDict({"name": "text_transformer", "vocab": 9, "width": 8, "depth": 1, "heads": 2})
        config.model.positions = 12
        config.data.update({"source": "none", "document_length": 12, "global_batch_size": 2})
    configs.give_recipe(config, "documents")
    recipe = recipes.of(config.data)
    plan = Plan(1, 1, 2, (12,), 2, vocab=Vocab(9))
    modality, method = make_modality(config, plan=plan, recipe=recipe), make_method(config, plan)
    variables = jax.tree_util.tree_map_with_path(random, variables_spec(method, modality, plan))
    return Run(workdir, config, {"commit": "c0ffee"}, plan, recipe, modality, method, variables, 12, {})


def random(path, leaf):
    rng = np.random.default_rng([*jax.tree_util.keystr(path).encode()])
    name = str(path[-1])
    if "var" in name or "scale" in name:
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
    return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)


def images(run, count=3):
    return np.random.default_rng(5).integers(0, 256, (count, *run.modality.input_shape), np.uint8)


def features(run, pixels):
    return np.asarray(run.method.encode(run.variables, jnp.asarray(run.modality.prepare(pixels)))["features"])


def network(run, classifier=None):
    params, state = run.method.trunk(run.variables)
    mean, std = run.config.data.mean, run.config.data.std
    shape = run.modality.input_shape
    return peers.Network(to_json(run.config)["model"], params, state, classifier, shape, mean, std, run.recipe.evaluate)


def header(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def head(text):
    yaml = pytest.importorskip("yaml")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])
