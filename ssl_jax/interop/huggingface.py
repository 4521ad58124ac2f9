"""What transformers' config.json says of a network: what is followed, and what its arrays must agree with."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ssl_jax import models


class Kind(NamedTuple):
    """Networks of one ``model_type``.

    Attributes:
      family: "vit" or "resnet".
      eps: of the norms, where config.json is silent.
      has: what is in a ViT's arrays, of "cls_token", "layer_scale" and "registers".
    """

    family: str
    eps: float | None = None
    has: frozenset[str] = frozenset({"cls_token"})


KINDS = {
    "vit": Kind("vit", 1e-12),
    "vit_mae": Kind("vit", 1e-12),
    "vit_msn": Kind("vit", 1e-6),
    "ijepa": Kind("vit", 1e-12, frozenset()),
    "dinov2": Kind("vit", 1e-6, frozenset({"cls_token", "layer_scale"})),
    "dinov2_with_registers": Kind("vit", 1e-6, frozenset({"cls_token", "layer_scale", "registers"})),
    "resnet": Kind("resnet"),
}
HEADS = 12  # of a ViT whose config.json is silent
# The words of transformers and timm; the first two are one function, the others the approximation by tanh.
GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_tanh": "tanh", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
GELU |= {"gelu_python_tanh": "tanh", "gelu_fast": "tanh", "gelu_accurate": "tanh"}
# Of which ours computes this alone, whatever the arrays are.
FIXED = {"num_channels": 3, "qkv_bias": True, "downsample_in_first_stage": False, "is_decoder": False}
FIXED |= {"add_cross_attention": False, "quantization_config": None, "pruned_heads": {}}
# Of training, of heads that are left aside, of a name or a version: nothing that the network computes.
QUIET = {"architectures", "attention_probs_dropout_prob", "auto_map", "chunk_size_feed_forward", "dtype", "id2label"}
QUIET |= {"classifier_dropout", "decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads"}
QUIET |= {"decoder_num_hidden_layers", "drop_path_rate", "encoder_stride", "finetuning_task", "hidden_dropout_prob"}
QUIET |= {"initializer_range", "is_encoder_decoder", "label2id", "layerscale_value", "mask_ratio", "model_type"}
QUIET |= {"norm_pix_loss", "num_labels", "out_features", "out_indices", "output_attentions", "output_hidden_states"}
QUIET |= {"pooler_act", "pooler_output_size", "problem_type", "reshape_hidden_states", "return_dict", "stage_names"}
QUIET |= {"torch_dtype", "transformers_version", "use_cache", "use_mask_token", "_name_or_path", "name_or_path"}
QUIET |= {"_attn_implementation_autoset", "gradient_checkpointing", "torchscript", "_commit_hash"}
OF_VIT = {"hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "image_size"}
OF_VIT |= {"patch_size", "intermediate_size", "head_dim"}
OF_DINOV2 = (OF_VIT - {"intermediate_size"}) | {"mlp_ratio", "use_swiglu_ffn", "num_register_tokens"}
OF_RESNET = {"embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act", "downsample_in_bottleneck"}


def fields(config: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Of ``config.model``, what a config.json says and arrays do not; ``notes`` gets what is not followed.

    Raises:
      ValueError: a kind of network that is not known, what ours does not compute, or numbers that cannot be.

    Source: huggingface/transformers, ``configuration_*.py`` and ``modeling_*.py`` of the kinds.
    """
    name = config.get("model_type")
    if name is not None and not (isinstance(name, str) and name in KINDS):
        raise ValueError(f"its config.json says model_type={short(name)}; known: {', '.join(KINDS)}")
    kind = KINDS.get(name) if name else None
    refuse_fixed(config)
    known = OF_RESNET if name == "resnet" else OF_DINOV2 if str(name).startswith("dinov2") else OF_VIT
    notes += unknown(config, known if kind else OF_VIT | OF_DINOV2 | OF_RESNET)
    found: dict[str, Any] = {}
    if (kind and kind.family == "vit") or "layer_norm_eps" in config:
        found["eps"] = number(config, "layer_norm_eps", default=kind.eps if kind else None, most=1.0)
    if (kind and kind.family == "vit") or "num_attention_heads" in config:
        found["heads"] = whole(config, "num_attention_heads", default=HEADS)
    first = flag(config, "downsample_in_bottleneck")
    if first and config.get("layer_type", "bottleneck") == "bottleneck":  # blocks of two convolutions have none
        found["stride_first"] = True
    return found | activation(config.get("hidden_act"))


def check(config: Mapping[str, Any], family: str, model: Mapping[str, Any]) -> None:
    """Refuse arrays that are not the network that a config.json describes.

    Args:
      config: of transformers or timm.
      family, model: what the arrays were recognised as.

    Raises:
      ValueError: names the field, what it says, and what the arrays are.
    """
    timm = "pretrained_cfg" in config
    arguments = config.get("model_args", {}) if timm else config
    key = "act_layer" if timm else "hidden_act"
    said = arguments.get(key)
    wanted = {"vit": GELU, "resnet": ("relu",)}.get(family)
    if said is not None and wanted and not model.get("swiglu") and not (isinstance(said, str) and said in wanted):
        called = f"model_args.{key}" if timm else key
        raise ValueError(
            f"its config.json says {called}={short(said)}, which ours does not compute; known: {', '.join(wanted)}"
        )
    if timm:
        for key, is_there in (_timm(model) if family == "vit" else {}).items():
            if key in arguments and _plain(arguments[key]) != is_there:
                _differs(f"model_args.{key}", arguments[key], f"of {is_there}")
        return
    kind = KINDS.get(config.get("model_type", ""))
    if kind and kind.family != family:
        _differs("model_type", config["model_type"], f"those of a {model['name']}")
    there = _vit(config, model, kind) if family == "vit" else _resnet(model) if family == "resnet" else {}
    for key, is_there in there.items():
        if key in config and _plain(config[key]) != is_there:
            _differs(key, config[key], f"of {is_there}")


def _timm(model: Mapping[str, Any]) -> dict[str, Any]:
    """The same of timm's arguments."""
    there = {"embed_dim": model["width"], "depth": model["depth"], "patch_size": model["patch_size"]}
    return there | {"reg_tokens": model.get("registers", 0), "class_token": bool(model.get("cls_token"))}


def _vit(config: Mapping[str, Any], model: Mapping[str, Any], kind: Kind | None) -> dict[str, Any]:
    """Fields of a config.json as a ViT's arrays say them."""
    width, hidden = model["width"], round(model["width"] * model["mlp_ratio"])
    has = {part for part in ("cls_token", "layer_scale", "registers") if model.get(part)}
    if kind and has != kind.has:
        words = ", ".join(sorted(has)) or "no class token"
        _differs("model_type", config["model_type"], f"those of a ViT with {words}")
    heads = config.get("num_attention_heads", HEADS if kind else 1)
    if width % heads:
        _differs("num_attention_heads", heads, f"of a width of {width}, which that does not divide")
    there = {"hidden_size": width, "num_hidden_layers": model["depth"], "patch_size": model["patch_size"]}
    there |= {"use_swiglu_ffn": bool(model.get("swiglu")), "num_register_tokens": model.get("registers", 0)}
    there["head_dim"] = width // heads
    if "positions_grid" in model:
        size, step = _plain(config.get("image_size")), model["patch_size"]
        over = size % step if isinstance(size, int) else 0  # pixels at the edge that are in no patch
        there["image_size"] = model["positions_grid"] * step + over
    if str(config.get("model_type")).startswith("dinov2"):
        ratio = number(config, "mlp_ratio", default=4)
        said = int(width * ratio)
        said = (int(said * 2 / 3) + 7) // 8 * 8 if model.get("swiglu") else said
        if said != hidden:
            _differs("mlp_ratio", ratio, f"of {hidden} hidden numbers, not {said}")
        return there
    return there | {"intermediate_size": hidden}


def _resnet(model: Mapping[str, Any]) -> dict[str, Any]:
    encoder: Any = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    times = 4 if encoder.bottleneck else 1
    widths = [times * encoder.channels(k) for k in range(encoder.stages)]
    layer = "bottleneck" if encoder.bottleneck else "basic"
    return {"embedding_size": encoder.channels(0), "hidden_sizes": widths, "depths": [*encoder.blocks]} | {
        "layer_type": layer
    }


def _plain(value: Any) -> Any:
    """[16, 16] of a patch or an image is 16, where both are as one."""
    square = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return value[0] if square else value


def _differs(key: str, said: Any, there: str) -> None:
    raise ValueError(f"its config.json says {key}={short(said)}, and its arrays are {there}; get the folder again")


def activation(said: Any) -> dict[str, str]:
    """``{"gelu": ...}`` of an activation's name, nothing of another: :func:`check` refuses what fits no network."""
    return {"gelu": GELU[said]} if isinstance(said, str) and said in GELU else {}


def refuse_fixed(config: Mapping[str, Any]) -> None:
    """Refuse what no network of ours computes, whatever the arrays are."""
    for key, ours in FIXED.items():
        said = config.get(key, ours)
        if said != ours and said is not None:
            raise ValueError(
                f"its config.json says {key}={short(said)}, and ours has {ours} alone; use another network"
            )


def unknown(config: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """What stands in a config.json and is not followed, in words."""
    told = {*known, *QUIET, *FIXED}
    found = [key for key, value in config.items() if key not in told and value is not None]
    found = [key for key in found if key != "apply_layernorm" or config[key] is not True]
    return [f"config.json: {str(key)[:60]}={short(config[key])}" for key in found]


def number(
    config: Mapping[str, Any],
    key: str,
    *,
    default: float | None = None,
    least: float | None = None,
    most: float = math.inf,
    where: str = "config.json",
) -> Any:
    """A number of a JSON file, more than 0 (or at least ``least``) and at most ``most``.

    Raises:
      ValueError: it is none.
    """
    said = config.get(key, default)
    is_number = isinstance(said, (int, float)) and not isinstance(said, bool) and math.isfinite(said)
    if is_number and (said > 0 if least is None else said >= least) and said <= most:
        return said
    wanted = "more than 0" if least is None else f"of {least:g} or more"
    wanted += f" and at most {most:g}" if most < math.inf else ""
    raise ValueError(f"its {where} says {key}={short(said)}, which is no number {wanted}; get the folder again")


def whole(config: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    """The same of a whole number, 1 or more."""
    said = number(config, key, default=default)
    if not isinstance(said, int):
        raise ValueError(f"its config.json says {key}={short(said)}, which is no whole number; get the folder again")
    return said


def flag(config: Mapping[str, Any], key: str) -> bool:
    """Whether a config.json says so."""
    said = config.get(key, False)
    if said not in (True, False, None):
        raise ValueError(f"its config.json says {key}={short(said)}, which is neither true nor false")
    return bool(said)


def short(value: Any) -> str:
    """A value of a JSON file in a line."""
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
