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


def write(folder: Path, params: Tree, model_state: Tree, about: Mapping[str, Any]) -> None:
    """The same variables twice, ``{"params": ..., "batch_stats": ...}`` nested in MessagePack, and flat in safetensors
    with "/" between names; and ``about`` as ``module.json``."""
    variables = jax.tree.map(lambda leaf: np.array(leaf, order="C"), {"params": params, **model_state})
    (folder / MSGPACK).write_bytes(flax.serialization.msgpack_serialize(variables))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(variables, sep="/")
    safetensors.numpy.save_file(flat, folder / SAFETENSORS, {"format": "flax"})
    write_json(folder / MODULE, dict(about))
