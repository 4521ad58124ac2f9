"""What a run stores of its config, and whether another config goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ssl_jax.configs.keys import flatten, known_defaults
from ssl_jax.names import WORDS, is_file
from ssl_jax.types import Config

# May differ between a run and its resumption: where things lie, how often one looks, on what it runs, when it gives up.
_FREE_ON_RESUME = (
    *("parallel.", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.on_nonfinite"),
    "data.data_dir",  # not init_from: another run's encoder is another experiment
    "data.max_pixels",  # which images are read, their fingerprint says
    "data.table_limit",  # the views have the same bits wherever the images lie
    *("train.loggers", "train.tensorboard", "train.grad_norms", "eval.during"),
)

# Nor do these make another result, nor tell two rows of a table apart.
_NO_MATTER = (
    *("seed", *_FREE_ON_RESUME, "train.keep_checkpoints", "train.steps_per_dispatch", "eval.label_efficiency"),
    *("data.download", "data.verify", "data.max_unreadable", "data.memory_limit"),
)
_OF_PATHS = ("folder", "tar", "arrayrecord", "npz", "csv", "text")  # kinds of data.source whose name is a path
OF_TEXT = ("data.length", "data.document_length", "data.tokenizer.")  # which runs on images did not always have


def to_json(config: Config) -> dict[str, Any]:
    """A config as plain JSON values."""
    from ssl_jax.data import recipes

    found = json.loads(config.to_json_best_effort())
    if isinstance(config.get("data", {}).get("recipe"), tuple):  # a recipe itself
        found["data"]["recipe"] = recipes.plain(config.data.recipe)
    return found


def modern(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with the keys of today.

    ``method.autoencoder=RUN`` was ``init_from.autoencoder`` once, and ``train.tensorboard`` one of ``train.loggers``.
    """
    stored = dict(stored)
    if "train" in stored:
        train = dict(stored["train"])
        older = ["tensorboard"] if train.pop("tensorboard", False) else []
        stored["train"] = {"loggers": older} | train
    if "eval" in stored:
        stored["eval"] = {"during": [], **stored["eval"]}
    method = dict(stored.get("method", {}))
    if "autoencoder" not in method:
        return stored
    run, first = method.pop("autoencoder"), stored.get("init_from")
    if run is None:
        return {**stored, "method": method}
    given = ({"encoder": first} if first else {}) | {"autoencoder": run}
    return {**stored, "method": {**method, "autoencoder_steps": 0}, "init_from": given}


def differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict, dict]:
    """What differs between a stored run's config and this one's.

    An argument of the method or the model that one of them does not name has its default there, so that a run from
    before an argument existed goes on where that is named with what it was.

    Returns:
      (refused, free): each ``{key: (stored value, new value)}``; ``free`` holds those that a resumption may change.
    """
    old, new = flatten(modern(stored)), flatten(config)
    before, after = (known_defaults(flat) | flat for flat in (old, new))
    keys = [k for k in sorted(old | new) if k in old or not k.startswith(OF_TEXT)]
    changed = {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}
    free = {k: v for k, v in changed.items() if k.startswith(_FREE_ON_RESUME) or _moved(k, *v)}
    return {k: v for k, v in changed.items() if k not in free}, free


def matters(key: str) -> bool:
    """Whether with another value a run may compute something else: what it is of, not how it is looked at."""
    return not key.startswith(_NO_MATTER) or key == "parallel.matmul_precision"


def _moved(key: str, old: Any, new: Any) -> bool:
    """The same kind of source at another path; whether the data are the same, their fingerprint says.

    Or a file of the user's own under the same name in another folder; whether it has changed, its sha256 says.
    """
    if key in WORDS and is_file(old) and is_file(new):
        return os.path.basename(old) == os.path.basename(new)
    schemes = {str(value).partition(":")[0] for value in (old, new)}
    return key == "data.source" and len(schemes) == 1 and schemes <= {*_OF_PATHS, "hf"}


def placeless(source: Any) -> Any:
    """What a dataset is called wherever it lies: ``folder:imagenet100`` of ``folder:/data/imagenet100``."""
    scheme, _, path = str(source).partition(":")
    return f"{scheme}:{os.path.basename(os.path.normpath(path))}" if scheme in _OF_PATHS and path else source
