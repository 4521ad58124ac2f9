"""A run folder made of weights that came from elsewhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import configs
from ssl_jax.configs import to_json
from ssl_jax.data import recipes
from ssl_jax.data.images.recipes import Eval, Recipe, View
from ssl_jax.data.readers import NONE
from ssl_jax.data.text import tokens
from ssl_jax.experiment import make_method, make_modality
from ssl_jax.interop import bert
from ssl_jax.interop.files import write_json
from ssl_jax.interop.importing import Imported
from ssl_jax.run import folder, provenance
from ssl_jax.run.open import Run, open_run, variables_spec
from ssl_jax.run.saver import open_saver
from ssl_jax.types import Config, Plan

NO_FILES: Mapping[str, bytes] = MappingProxyType({})


class _State(NamedTuple):
    """What an imported network has of a training state."""

    step: Any
    params: Any
    model_state: Any
    aux: Any = None
    rows: Any = None


def write(found: Imported, workdir: str | os.PathLike[str]) -> Run:
    """The folder of a run that holds an imported network of images, opened.

    Evaluators, ``embed``, ``export`` and ``init_from`` take it as any run; it has no data and is not trained.

    Raises:
      ValueError: the folder holds something already.
    """
    config = _config()
    classifier = found.classifier
    if classifier is not None:
        config.method.update({"classes": int(classifier["bias"].shape[-1]), "of_map": found.of_map})
    config.model = ConfigDict(found.model)
    mean, std = found.statistics
    config.data.update({"image_size": found.size, "mean": tuple(mean), "std": tuple(std)})
    recipe = Recipe((View(None),), Eval(*found.view))  # pyright: ignore[reportArgumentType]: words of projects.py
    configs.give_recipe(config, recipe)
    plan = Plan(1, 1, 2, (found.size, found.size, 3), 2)
    trees = {"encoder": (found.params, found.model_state)}
    if classifier is not None:
        trees["classifier"] = ({"dense0": classifier}, {})
    return _write(config, plan, trees, found.record | {"report": found.report.plain()}, workdir)


def write_bert(found: bert.Imported, source: str, workdir: str | os.PathLike[str]) -> Run:
    """The same of a BERT's encoder; it reads documents between [CLS] and [SEP], at most 256 tokens of each."""
    config, encoder = _config(), found.encoder
    fields = ("vocab", "width", "depth", "heads", "mlp_ratio", "positions", "segments", "pool", "eps")
    config.model = ConfigDict({"name": "text_transformer"} | {name: getattr(encoder, name) for name in fields})
    config.data.document_length = min(256, encoder.positions)
    configs.give_recipe(config, "documents_enclosed")
    plan = Plan(1, 1, 2, (config.data.document_length,), 2, vocab=tokens.vocab(found.tokenizer))
    record = {"file": source, "project": "transformers", "licence": None, "source": "huggingface/transformers"}
    record |= {"notes": list(found.notes)}
    files = {tokens.FILE: found.tokenizer.to_str(pretty=True).encode()}
    return _write(config, plan, {"encoder": (found.params["encoder"], {})}, record, workdir, files)


def _write(config, plan: Plan, trees, record: dict[str, Any], place: Any, files: Mapping[str, bytes] = NO_FILES) -> Run:
    workdir = folder.check(place, "--out")
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"--out {workdir} is not empty; name a folder that is not there yet")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {workdir} cannot be made ({error.strerror}); name another folder") from None
    for name, content in files.items():
        (workdir / name).write_bytes(content)
    recipe = recipes.of(config.data)
    modality = make_modality(config, plan=plan, folder=workdir, recipe=recipe)
    spec = variables_spec(make_method(config, plan), modality, plan)
    given = [{part: pair[k] for part, pair in trees.items()} for k in range(2)]
    params, state = (
        jax.tree.map(lambda like, array: jnp.asarray(array, like.dtype), *both)
        for both in zip((spec.params, spec.model_state), given, strict=True)
    )
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    data: dict[str, Any] = {"sizes": {"train": 0, "val": 0, "test": 0}, "fingerprints": {}}
    resolved = {
        "plan": plan._asdict(),
        "data": data | ({"files": digests} if digests else {}),
        "devices": 1,
        "own": {},
        "recipe": recipes.plain(recipe),
        "imported": record,
        **provenance.machine(),
    }
    saver = open_saver(workdir)
    saver.save(_State(np.int32(0), params, state), {"imported": record})  # pyright: ignore[reportArgumentType]
    saver.close()
    write_json(workdir / "config.json", {"config": to_json(config), "resolved": resolved, "resumed": []})
    return open_run(workdir)


def _config() -> Config:
    config = configs.load("simclr_digits")  # every key
    with config.unlocked():
        config.method = ConfigDict({"name": "imported"})
        config.model = ConfigDict()
        config.data.update({"source": NONE, "global_batch_size": 2})
        config.eval.label_efficiency = False
    config.unlock()
    return config
