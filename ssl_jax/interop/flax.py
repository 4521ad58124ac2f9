"""An encoder for Flax: parameters and statistics as its module names them, and how the module is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy

from ssl_jax.interop.files import write_json
from ssl_jax.types import Tree

MSGPACK, SAFETENSORS, MODULE = "flax_model.msgpack", "flax_model.safetensors", "module.json"


# How logits come of outputs, features and the last stage, whose name ends in the greatest number.
OF_FEATURES = "logits = outputs['features'] @ variables['classifier']['kernel'] + variables['classifier']['bias']"
OF_MAP = "logits = mean over places of max(0, last stage @ variables['classifier']['kernel'] + its bias)"


def write(
    folder: Path, params: Tree, model_state: Tree, about: Mapping[str, Any], classifier: Tree | None = None
) -> None:
    """The same variables twice, ``{"params": ..., "batch_stats": ..., "classifier": ...}`` nested in MessagePack, and
    flat in safetensors with "/" between names; and ``about`` as ``module.json``."""
    trees = {"params": params, **model_state} | ({} if classifier is None else {"classifier": classifier})
    variables = jax.tree.map(lambda leaf: np.array(leaf, order="C"), trees)
    (folder / MSGPACK).write_bytes(flax.serialization.msgpack_serialize(variables))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(variables, sep="/")
    safetensors.numpy.save_file(flat, folder / SAFETENSORS, {"format": "flax"})
    write_json(folder / MODULE, dict(about))
