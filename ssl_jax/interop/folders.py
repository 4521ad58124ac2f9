"""What the JSON files beside weights say of the network and of its images: timm's and transformers' folders.

Rules of ``preprocessor_config.json`` are those of transformers' image processors, of ``pretrained_cfg`` timm's
``create_transform`` for evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.interop.projects import UNIT

View = tuple[str, float, str]
GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_tanh": "tanh", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
RESAMPLE = {2: "bilinear", 3: "bicubic"}
POOLS = {"token": "cls", "avg": "mean"}
# Keys that say nothing of what a network computes, or what its arrays say too.
ARRAYS = {"patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token", "no_embed_class", "reg_tokens"}
ARRAYS |= {"fc_norm", "init_values", "num_classes", "qkv_bias", "img_size", "global_pool", "act_layer", "eps"}
ARRAYS |= {"dynamic_img_size", "drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate"}
TIMM = {"architecture", "num_classes", "num_features", "global_pool", "pretrained_cfg", "model_args", "label_names"}
TIMM |= {"label_descriptions", "model_type", "architectures", "torch_dtype", "dtype", "transformers_version"}
PRETRAINED = {"url", "file", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load", "notes"}
PRETRAINED |= {"input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct"}
PRETRAINED |= {"test_crop_pct", "crop_mode", "mean", "std", "num_classes", "pool_size", "test_pool_size", "first_conv"}
PRETRAINED |= {"classifier", "license", "description", "origin_url", "paper_name", "paper_ids", "label_offset"}
PRETRAINED |= {"label_names", "label_descriptions", "state_dict"}


class Said(NamedTuple):
    """What the files say, None or nothing where they do not.

    Attributes:
      fields: of ``config.model``.
      statistics: (mean, std) of the channels.
      size: of images in pixels.
      view: (kind, fraction, interpolation) of evaluation.
      licence: of the weights.
      notes: what stands there and is not followed, in words.
    """

    fields: dict[str, Any]
    statistics: tuple[Sequence[float], Sequence[float]] | None
    size: int | None
    view: View | None
    licence: str | None
    notes: tuple[str, ...]


def said(metadata: Mapping[str, Any]) -> Said:
    """Of an archive's ``metadata``.

    Raises:
      ValueError: a network that ours cannot compute, or values that cannot be.
    """
    try:
        return _said(metadata)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"its config.json or preprocessor_config.json holds what cannot be ({error}); get the folder again"
        ) from None


def _said(metadata: Mapping[str, Any]) -> Said:
    config, images = metadata.get("config", {}), metadata.get("preprocessor", {})
    notes: list[str] = []
    fields = _of_timm(config, notes) if "pretrained_cfg" in config else _of_transformers(config)
    pretrained = config.get("pretrained_cfg", {})
    statistics, size, view = _timm_images(config, pretrained, notes)
    if images:
        statistics, size, view = _processor(images, view, notes, (statistics, size))
    size = size or _side(config.get("image_size"))
    return Said(fields, statistics, size, view, pretrained.get("license"), tuple(notes))


def _of_timm(config: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    arguments = config.get("model_args", {})
    notes += [f"config.json: {key}={value}" for key, value in config.items() if key not in TIMM]
    notes += [
        f"config.json: pretrained_cfg.{key}={value}"
        for key, value in config["pretrained_cfg"].items()
        if key not in PRETRAINED and value is not None
    ]
    notes += [f"config.json: model_args.{key}={value}" for key, value in arguments.items() if key not in ARRAYS]
    pool = arguments.get("global_pool", config.get("global_pool"))
    found = {"heads": arguments.get("num_heads"), "eps": arguments.get("eps"), "pool": POOLS.get(pool)}
    if pool and pool not in POOLS:
        notes.append(f"config.json: global_pool={pool}")
    return {k: v for k, v in found.items() if v is not None} | _gelu("model_args.act_layer", arguments.get("act_layer"))


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {"eps": config.get("layer_norm_eps"), "heads": config.get("num_attention_heads")}
    found["stride_first"] = config.get("downsample_in_bottleneck") or None
    return {k: v for k, v in found.items() if v is not None} | _gelu("hidden_act", config.get("hidden_act"))


def _gelu(key: str, value: Any) -> dict[str, str]:
    if value in (None, "relu"):
        return {}
    if value not in GELU:
        raise ValueError(f"its config.json says {key}={value!r}, which ours does not compute; known: {', '.join(GELU)}")
    return {"gelu": GELU[value]}


def _timm_images(config: Mapping[str, Any], pretrained: Mapping[str, Any], notes: list[str]):
    """(statistics, size, view) of timm's pretrained_cfg, with what is of evaluation before what is of training."""
    mean, std = pretrained.get("mean"), pretrained.get("std")
    size = pretrained.get("test_input_size") or pretrained.get("input_size") or [None]
    size = _side(config.get("model_args", {}).get("img_size")) or size[-1]
    crop = pretrained.get("test_crop_pct") or pretrained.get("crop_pct")
    view = None
    if crop or pretrained.get("crop_mode") or pretrained.get("interpolation"):
        mode, crop = pretrained.get("crop_mode") or "center", crop or 0.875
        kind = "resize" if mode == "squash" else "resize_crop"
        if mode not in ("center", "squash") or (mode == "squash" and crop < 1):
            notes.append(f"config.json: pretrained_cfg.crop_mode={mode} with crop_pct={crop:g}")
        interpolation = pretrained.get("interpolation") or "bilinear"
        view = (kind, 1.0 if kind == "resize" else float(crop), _known(interpolation, "interpolation", notes))
    return (None if mean is None or std is None else (tuple(mean), tuple(std))), size, view


def _known(interpolation: str, key: str, notes: list[str]) -> str:
    if interpolation in RESAMPLE.values():
        return interpolation
    notes.append(f"config.json: pretrained_cfg.{key}={interpolation}, bicubic is used")
    return "bicubic"


def _processor(said: Mapping[str, Any], view: View | None, notes: list[str], beside: tuple[Any, Any]):
    """(statistics, size, view) of transformers' preprocessor_config.json, over what config.json says."""
    statistics, size = beside
    if said.get("do_normalize") is False:
        statistics = UNIT
    elif "image_mean" in said and "image_std" in said:
        statistics = (tuple(said["image_mean"]), tuple(said["image_std"]))
    if said.get("do_rescale") is False or not math.isclose(said.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3):
        notes.append(f"preprocessor_config.json: rescale_factor={said.get('rescale_factor')}, 1/255 is used")
    resized, crop = said.get("size"), said.get("crop_size")
    crops = said.get("do_center_crop", crop is not None)
    shortest = resized.get("shortest_edge") if isinstance(resized, Mapping) else (resized if crops else None)
    whole = None if shortest else _side(resized)
    crop = (_side(crop) or shortest or whole) if crops else None
    if said.get("do_resize") is False or resized is None:
        shortest = whole = None
    resample = said.get("resample")
    if resample not in (None, *RESAMPLE):
        notes.append(f"preprocessor_config.json: resample={resample}, bicubic is used")
    interpolation = "bicubic" if resample is not None else view[2] if view else "bilinear"
    interpolation = RESAMPLE.get(resample or 0, interpolation)
    if "ConvNext" in str(said.get("image_processor_type", said.get("feature_extractor_type"))) and shortest:
        share = said.get("crop_pct") or 224 / 256  # of images below 384 pixels; larger ones are seen whole
        view = ("resize_crop", share, interpolation) if shortest < 384 else ("resize", 1.0, interpolation)
        return statistics, shortest, view
    if crop and whole:
        notes.append(f"preprocessor_config.json: size={resized} and a crop to {crop}; the shorter side is resized")
    if edge := shortest or (whole if crop else None):
        return statistics, crop or edge, ("resize_crop", min(1.0, (crop or edge) / edge), interpolation)
    if whole:
        return statistics, whole, ("resize", 1.0, interpolation)
    return statistics, crop or size, view


def _side(size: Any) -> int | None:
    """Of 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(size, Mapping):
        size = list(size.values())
    sides = size if isinstance(size, (list, tuple)) else [size]
    if len({*sides}) > 1:
        raise ValueError(f"its images are {sides} pixels and not square; add --size N")
    return sides[0] if sides and isinstance(sides[0], int) else None
