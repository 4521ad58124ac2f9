"""BERT's weights as Hugging Face lays them out, in our networks: the encoder, and the heads of BertForPreTraining.

A folder holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``. MiniLM and other sentence encoders of
BERT's architecture are the encoder alone, with ``pool="mean"``. Files made of pickle (``pytorch_model.bin``) can
execute code when they are opened and are not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ssl_jax import models
from ssl_jax.data.text import tokens
from ssl_jax.interop.leaves import by_name
from ssl_jax.types import Tree

SIZES = {  # of config.json -> of TextTransformer
    "vocab_size": "vocab",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "max_position_embeddings": "positions",
    "type_vocab_size": "segments",
    "layer_norm_eps": "eps",
    "hidden_dropout_prob": "dropout",
}
FIXED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
STEM = {"word_embeddings": "embedding", "position_embeddings": "positions", "token_type_embeddings": "segments"}
HEADS = {
    "words": {"dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm"},
    "next": {"pooler": "bert.pooler.dense", "logits": "cls.seq_relationship"},
}


class Imported(NamedTuple):
    """A network of another library.

    Attributes:
      encoder: a ``TextTransformer``.
      params: of its parts: "encoder", and of a whole BertForPreTraining "words", "decoder" and "next", as
        ``methods/bert.py`` has them.
      tokenizer: its own.
      notes: what of the file is not used.
    """

    encoder: Any
    params: dict[str, Tree]
    tokenizer: Any
    notes: tuple[str, ...] = ()


def read(folder: str | os.PathLike[str], *, pool: str = "mean", **fields: Any) -> Imported:
    """The network in a folder.

    Args:
      pool, **fields: of the ``TextTransformer``, e.g. ``dtype="bfloat16"``.

    Raises:
      ValueError: of one line: no such file, another architecture, arrays that are missing or of another shape.
    """
    folder = Path(os.path.expanduser(folder))
    try:
        config = json.loads((folder / "config.json").read_text())
        arrays = safetensors.numpy.load((folder / "model.safetensors").read_bytes())
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); give the folder of a model") from None
    except (json.JSONDecodeError, safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} holds no whole model ({str(error).splitlines()[0]}); get it again") from None
    encoder = models.make("text_transformer", **(sizes(config, str(folder)) | {"pool": pool} | fields))
    params, notes = convert(arrays, encoder.depth, str(folder))
    _check(params["encoder"], encoder, str(folder))
    return Imported(encoder, jax.tree.map(jnp.asarray, params), tokens.read(folder / "tokenizer.json"), notes)


def sizes(config: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    """Fields of ``TextTransformer`` by a ``config.json``; ValueError where it is another architecture."""
    for key, want in FIXED.items():
        if config.get(key, want) != want:
            raise ValueError(f"{where} is no BERT that is known: {key}={config[key]!r}, and {want!r} is")
    if missing := [key for key in SIZES if key not in config]:
        raise ValueError(f"{where} says no {', '.join(missing)}; give the config.json of a BERT")
    found = {ours: config[theirs] for theirs, ours in SIZES.items()}
    return found | {"mlp_ratio": config["intermediate_size"] / config["hidden_size"]}


def convert(arrays: Mapping[str, np.ndarray], depth: int, where: str = "the file") -> tuple[dict[str, Tree], tuple]:
    """(params of every part, notes) of arrays by Hugging Face's names, with or without the prefix ``bert.``.

    Dense kernels are transposed, and query, key and value stand side by side in ours.

    Raises:
      ValueError: an array is missing.
    """
    left = {k if k.startswith(("bert.", "cls.")) else f"bert.{k}": v for k, v in arrays.items()}

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise ValueError(f"{where} has no array {name}; give the weights of a BERT of {depth} layers")
        return np.asarray(left.pop(name))

    def dense(*names: str) -> dict[str, np.ndarray]:
        kernel = np.concatenate([take(f"{name}.weight").T for name in names], axis=1)
        return {"kernel": kernel, "bias": np.concatenate([take(f"{name}.bias") for name in names])}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    encoder: dict[str, Any] = {"stem_norm": norm("bert.embeddings.LayerNorm")}
    encoder |= {f"stem_{ours}": take(f"bert.embeddings.{theirs}.weight") for theirs, ours in STEM.items()}
    for k in range(depth):
        layer = f"bert.encoder.layer.{k}"
        encoder[f"stage{k + 1}_block"] = {
            "qkv": dense(*(f"{layer}.attention.self.{part}" for part in ("query", "key", "value"))),
            "proj": dense(f"{layer}.attention.output.dense"),
            "norm1": norm(f"{layer}.attention.output.LayerNorm"),
            "fc1": dense(f"{layer}.intermediate.dense"),
            "fc2": dense(f"{layer}.output.dense"),
            "norm2": norm(f"{layer}.output.LayerNorm"),
        }
    found: dict[str, Tree] = {"encoder": encoder}
    if "cls.seq_relationship.weight" in left:
        found["next"] = {ours: dense(theirs) for ours, theirs in HEADS["next"].items()}
    if "cls.predictions.transform.dense.weight" in left:
        names = HEADS["words"]
        found["words"] = {"dense": dense(names["dense"]), "norm": norm(names["norm"])}
        found["decoder"] = {"bias": take("cls.predictions.bias")}
        for tied in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
            left.pop(tied, None)  # the embedding and the bias again
    if later := [name for name in left if re.match(rf"bert\.encoder\.layer\.{depth}\.", name)]:
        raise ValueError(f"{where} has {later[0]}, and its config.json says {depth} layers; get them again")
    left.pop("bert.embeddings.position_ids", None)  # 0, 1, 2, ...
    notes = (f"{where}: {len(left)} arrays are not used: {', '.join(sorted(left))}",) if left else ()
    return found, notes


def _check(params: Tree, encoder: Any, where: str) -> None:
    """Refuse arrays whose shapes are not those that the sizes give."""
    spec = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), train=False)["params"])
    there, here = by_name(params), by_name(spec)
    for name, leaf in here.items():
        if np.shape(there[name]) != leaf.shape:
            shapes = f"{list(np.shape(there[name]))} there and {list(leaf.shape)} by config.json"
            raise ValueError(f"{where}: {name} is {shapes}; get the folder again")
