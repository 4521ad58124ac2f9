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

from ssl_jax import models
from ssl_jax.data.text import tokens
from ssl_jax.interop import archives, huggingface, plain
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
WHOLE = set(SIZES.values()) - {"eps", "dropout"}
FIXED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "pad_token_id": 0}
# Followed, or of heads and tokens that the tokenizer says; what is FIXED and what only training needs aside.
KNOWN = {*SIZES, *FIXED, "intermediate_size", "bos_token_id", "eos_token_id", "tie_word_embeddings"}
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
        config = json.loads((folder / "config.json").read_bytes())
        arrays, _ = plain.read_safetensors((folder / "model.safetensors").read_bytes())
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); give the folder of a model") from None
    except (ValueError, RecursionError) as error:  # damaged JSON, or arrays
        said = str(error).splitlines()[0]
        raise ValueError(f"{folder} holds no whole model ({said}); get it again") from None
    try:
        encoder = models.make("text_transformer", **(sizes(config, str(folder)) | {"pool": pool} | fields))
        weights = {name for name in arrays if name.endswith((".weight", ".bias"))}
        arrays, converted = archives.as_float32(arrays, weights)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(folder)) else f"{folder}: {error}") from None
    params, notes = convert(arrays, encoder.depth, str(folder))
    _check(params["encoder"], encoder, str(folder))
    notes = (*notes, *(f"not followed: {note}" for note in huggingface.unknown(config, KNOWN)))
    notes += tuple(f"{count} arrays were {dtype}, are float32 now" for dtype, count in converted.items())
    attention = config.get("attention_probs_dropout_prob", encoder.dropout)
    if attention != encoder.dropout:
        notes += (f"not followed: config.json: attention_probs_dropout_prob={attention}, {encoder.dropout} is used",)
    return Imported(encoder, jax.tree.map(jnp.asarray, params), tokens.read(folder / "tokenizer.json"), notes)


def sizes(config: Any, where: str = "config.json") -> dict[str, Any]:
    """Fields of ``TextTransformer`` by a ``config.json``; ValueError where it is another architecture."""
    if not isinstance(config, Mapping):
        raise ValueError(f"{where} is no JSON of names and values; give the config.json of a BERT")
    for key, want in FIXED.items():
        if config.get(key, want) != want:
            raise ValueError(f"{where} is no BERT that is known: {key}={config[key]!r}, and {want!r} is")
    if missing := [key for key in (*SIZES, "intermediate_size") if key not in config]:
        raise ValueError(f"{where} says no {', '.join(missing)}; give the config.json of a BERT")
    huggingface.refuse_fixed(config)
    found: dict[str, Any] = {ours: huggingface.whole(config, theirs) for theirs, ours in SIZES.items() if ours in WHOLE}
    found["eps"] = huggingface.number(config, "layer_norm_eps", most=1.0)
    found["dropout"] = huggingface.number(config, "hidden_dropout_prob", least=0.0, most=1.0)
    return found | {"mlp_ratio": huggingface.whole(config, "intermediate_size") / found["width"]}


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
    tied = left.get("cls.predictions.decoder.weight")
    if "cls.predictions.transform.dense.weight" in left and (
        tied is None or np.array_equal(tied, encoder["stem_embedding"])
    ):  # ours is the embedding again; another decoder is said to be left aside
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
