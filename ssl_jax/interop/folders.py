"""What the JSON files beside weights say of the network and of its images: timm's and transformers' folders.

Rules of ``preprocessor_config.json`` are those of transformers' image processors, of ``pretrained_cfg`` timm's
``create_transform`` for evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.interop import huggingface
from ssl_jax.interop.projects import UNIT

View = tuple[str, float, str]
PREPROCESSOR = "preprocessor_config.json"
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
# Of a preprocessor: followed, or of no consequence for images of three channels that are read here.
IMAGES = {"do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor", "do_resize", "size", "resample"}
IMAGES |= {
    "do_center_crop",
    "crop_size",
    "crop_pct",
    "image_processor_type",
    "feature_extractor_type",
    "do_convert_rgb",
}
IMAGES |= {"processor_class", "_valid_processor_keys", "default_to_square", "data_format", "input_data_format"}
IMAGES |= {"return_tensors", "device", "disable_grouping", "auto_map", "size_divisor"}


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
    fields = _of_timm(config, notes) if "pretrained_cfg" in config else huggingface.fields(config, notes)
    pretrained = config.get("pretrained_cfg", {})
    statistics, size, view = _timm_images(config, pretrained, notes)
    if images:
        statistics, size, view = _processor(images, view, notes, (statistics, size))
    size = size or _side(config.get("image_size"))
    if "beside" in metadata:
        notes.append(f"{metadata['beside']} beside the file, which is read where the folder is given")
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
    if pool and pool not in POOLS:
        notes.append(f"config.json: global_pool={pool}")
    found: dict[str, Any] = {"pool": POOLS[pool]} if pool in POOLS else {}
    if arguments.get("num_heads") is not None:
        found["heads"] = huggingface.whole(arguments, "num_heads")
    if arguments.get("eps") is not None:
        found["eps"] = huggingface.number(arguments, "eps", most=1.0)
    return found | huggingface.activation(arguments.get("act_layer"))


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
        share = 1.0 if kind == "resize" else _share(crop, "config.json")
        view = (kind, share, _known(interpolation, "interpolation", notes))
    return (None if mean is None or std is None else _channels(pretrained, "mean", "std", "config.json")), size, view


def _known(interpolation: str, key: str, notes: list[str]) -> str:
    if interpolation in RESAMPLE.values():
        return interpolation
    notes.append(f"config.json: pretrained_cfg.{key}={interpolation}, bicubic is used")
    return "bicubic"


def _processor(said: Mapping[str, Any], view: View | None, notes: list[str], beside: tuple[Any, Any]):
    """(statistics, size, view) of transformers' preprocessor_config.json, over what config.json says."""
    statistics, size = beside
    said = {key: value for key, value in said.items() if value is not None}
    if said.get("do_normalize") is False:
        statistics = UNIT
    elif "image_mean" in said and "image_std" in said:
        statistics = _channels(said, "image_mean", "image_std", PREPROCESSOR)
    factor = huggingface.number(said, "rescale_factor", default=1 / 255, where=PREPROCESSOR)
    if said.get("do_rescale") is False:
        notes.append(f"{PREPROCESSOR}: do_rescale=False, pixels are made to lie in [0, 1]")
    elif not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        notes.append(f"{PREPROCESSOR}: rescale_factor={factor}, 1/255 is used")
    notes += [
        f"{PREPROCESSOR}: {str(key)[:60]}={huggingface.short(value)}"
        for key, value in said.items()
        if key not in IMAGES and value is not False
    ]
    resized, crop = said.get("size"), said.get("crop_size")
    crops = said.get("do_center_crop", crop is not None)
    shortest = resized.get("shortest_edge") if isinstance(resized, Mapping) else (resized if crops else None)
    whole = None if shortest else _side(resized)
    crop = (_side(crop) or shortest or whole) if crops else None
    if said.get("do_resize") is False or resized is None:
        shortest = whole = None
    resample = said.get("resample")
    if resample not in (None, *RESAMPLE):
        notes.append(f"{PREPROCESSOR}: resample={resample}, bicubic is used")
    interpolation = "bicubic" if resample is not None else view[2] if view else "bilinear"
    interpolation = RESAMPLE.get(resample or 0, interpolation)
    if "ConvNext" in str(said.get("image_processor_type", said.get("feature_extractor_type"))) and shortest:
        # The share is of images below 384 pixels; larger ones are seen whole.
        share = _share(said.get("crop_pct", 224 / 256), PREPROCESSOR)
        view = ("resize_crop", share, interpolation) if shortest < 384 else ("resize", 1.0, interpolation)
        return statistics, shortest, view
    if crop and whole:
        notes.append(f"{PREPROCESSOR}: size={resized} and a crop to {crop}; the shorter side is resized")
    if edge := shortest or (whole if crop else None):
        return statistics, crop or edge, ("resize_crop", min(1.0, (crop or edge) / edge), interpolation)
    if whole:
        return statistics, whole, ("resize", 1.0, interpolation)
    return statistics, crop or size, view


def _channels(said: Mapping[str, Any], mean: str, std: str, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of three channels, where pixels lie in [0, 1]."""
    for key, above in ((mean, True), (std, False)):
        numbers = said[key]
        finite = isinstance(numbers, list) and len(numbers) == 3
        finite = finite and all(type(x) in (int, float) and 0 <= x <= 1 and (above or x > 0) for x in numbers)
        if not finite:
            wanted = f"three numbers, each {'at least' if above else 'more than'} 0 and at most 1"
            raise ValueError(
                f"its {where} says {key}={huggingface.short(numbers)}, which is not {wanted}; get the folder again"
            )
    return tuple(said[mean]), tuple(said[std])


def _share(crop: Any, where: str) -> float:
    return float(huggingface.number({"crop_pct": crop}, "crop_pct", where=where))


def _side(size: Any) -> int | None:
    """Of 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(size, Mapping):
        size = list(size.values())
    sides = size if isinstance(size, (list, tuple)) else [size]
    if len({*sides}) > 1:
        raise ValueError(f"its images are {sides} pixels and not square; add --size N")
    if not sides or sides[0] is None:
        return None
    if type(sides[0]) is not int or sides[0] < 1:
        raise ValueError(
            f"its images are of {huggingface.short(sides[0])} pixels, which is no size; get the folder again"
        )
    return sides[0]
