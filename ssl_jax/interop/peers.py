"""An encoder as a folder that timm, torchvision, transformers and the Hub load: ``config.json`` and
``model.safetensors``, whose arrays are called and laid out as theirs.

    timm.create_model("local-dir:FOLDER", pretrained=True)
    torchvision.models.resnet18().load_state_dict(safetensors.torch.load_file("FOLDER/model.safetensors"), strict=False)
    transformers.AutoModel.from_pretrained("FOLDER")

Layout of the folder: timm's ``push_to_hf_hub``, which transformers reads by its ``TimmWrapper``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ssl_jax import models
from ssl_jax.interop import classic, pairs, resnet, vit
from ssl_jax.interop.files import write_json
from ssl_jax.models import vgg
from ssl_jax.models.positions import resized, sincos_positions
from ssl_jax.types import Tree

CONFIG, WEIGHTS = "config.json", "model.safetensors"
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200")

# Fields that say how a network is made and trained; what it computes of given weights is the same.
MAKING = ("conv_init", "stem_init", "zero_init_residual", "patch_init", "depth_scaled_init", "drop_path")
MAKING += ("frozen_stages", "remat", "dtype", "dropout")
TIMM_NAMES = {"mobilenet_v2": "mobilenetv2_100"}
# Beginning of timm's name -> its first convolution and its classifier.
ENDS = {"densenet": ("features.conv0", "classifier"), "vgg": ("features.0", "head.fc")}
ENDS |= {"mobilenetv": ("conv_stem", "classifier"), "resnet": ("conv1", "fc"), "vit": ("patch_embed.proj", "head")}
CROPS = {"resize_crop": "center", "centre_crop": "center", "resize": "squash"}


class Network(NamedTuple):
    """A network with its weights.

    Attributes:
      model: ``config.model``.
      params, model_state: of the encoder.
      classifier: {"kernel", "bias"} on its features, or None.
      shape: of an image.
      mean, std: of the channels.
      view: of evaluation, ``data/images/recipes.py`` Eval.
      class_names: of the classifier, where they are known.
    """

    model: Mapping[str, Any]
    params: Tree
    model_state: Tree
    classifier: Tree | None
    shape: tuple[int, ...]
    mean: Sequence[float]
    std: Sequence[float]
    view: Any
    class_names: Sequence[str] = ()


def write(folder: Path, network: Network, theirs: str, *, licence: str | None, swapped_stem: bool = False) -> None:
    """The folder, by the names of "timm" (with its ``config.json``) or of "torchvision" (weights alone).

    Raises:
      ValueError: one line, what the other library's network of that name would not compute alike.
    """
    name, arguments = architecture(network, theirs, swapped_stem=swapped_stem)
    arrays = tensors(network, theirs)
    about = {"format": "pt"} | ({} if licence is None else {"license": licence})
    safetensors.numpy.save_file(arrays, folder / WEIGHTS, about)
    if theirs == "timm":
        write_json(folder / CONFIG, config(network, name, arguments, licence))


def architecture(network: Network, theirs: str, *, swapped_stem: bool = False) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of the network there that computes the same, given the same weights.

    Raises:
      ValueError: there is none; says why.
    """
    model = network.model
    if model["name"] not in models.ENCODERS:
        raise ValueError(f"model.name={model['name']!r} is an encoder of your own, which {theirs} does not have")
    fields = fields_of(model)
    if model["name"] in RESNETS:
        return _resnet(fields, network, theirs, swapped_stem)
    if "patch_size" in fields:
        return _vit(fields, network, theirs)
    if classic.family(model["name"]) in classic.TABLES:
        return _classic(fields, network, theirs)
    known = f"{', '.join(RESNETS if theirs == 'timm' else RESNETS[:-1])}, vit*, "
    known += f"{'' if theirs == 'timm' else 'AlexNet, SqueezeNet, '}VGG, DenseNet-121 and MobileNetV2"
    raise ValueError(f"{theirs} has no network like model.name={model['name']!r}; this format holds {known}")


def _classic(fields: Mapping[str, Any], network: Network, theirs: str) -> tuple[str, dict[str, Any]]:
    name: str = fields["name"]
    family, (height, width, channels) = classic.family(name), network.shape
    if theirs not in classic.LIBRARIES[family]:
        raise ValueError(f"timm has no {name}; use --format torchvision, flax, stablehlo or onnx")
    as_there(fields, theirs)
    if theirs == "torchvision":
        if channels != 3:
            raise ValueError(f"torchvision's {name} takes 3 channels, and these images have {channels}")
        return name, {}
    if family == "vgg" and max(height, width) >= 32 * (vgg.CELLS + 1):
        raise ValueError(
            f"timm's {name} does not pool the map of images of {height} x {width} pixels to {vgg.CELLS} x {vgg.CELLS} "
            "before its wide layers; use --format torchvision, or data.image_size below 256"
        )
    return TIMM_NAMES.get(name) or name, {} if channels == 3 else {"in_chans": channels}


def fields_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of the module that ``config.model`` makes, with its name there."""
    encoder: Any = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    return {f.name: getattr(encoder, f.name) for f in dataclasses.fields(encoder)} | {"name": model["name"]}


def as_there(fields: Mapping[str, Any], theirs: str, *held: str) -> None:
    """Refuse fields that are neither held by the format nor as in our default, which is the other library's network."""
    for field, value in models.defaults(fields["name"]).items():
        if field not in (*MAKING, *held) and fields[field] != value:
            raise ValueError(
                f"model.{field}={fields[field]!r}: a {fields['name']} of {theirs} has {value!r} and would compute "
                "other features of the same weights; use --format stablehlo, onnx or flax"
            )


def _resnet(fields, network: Network, theirs: str, swapped_stem: bool) -> tuple[str, dict[str, Any]]:
    name, channels = fields["name"], network.shape[2]
    small = fields["stem"] == "cifar"
    as_there(fields, theirs, "stem", *(["stem_padding"] if small else []))
    if theirs == "torchvision" and name == "resnet200":
        raise ValueError("torchvision has no resnet200; use --format timm")
    swap = small or (theirs == "torchvision" and channels != 3)
    if swap and not swapped_stem:
        said = "use --format torchvision --swapped-stem" if theirs == "timm" else "say --swapped-stem"
        why = f"model.stem={fields['stem']!r} on {channels} channel(s): a {name} of {theirs} begins otherwise"
        fix = f"if whoever loads this will set {stem_of(fields, channels)}, {said}"
        raise ValueError(f"{why}; {fix}, else use --format stablehlo, onnx or flax")
    if swapped_stem and not swap:
        raise ValueError("--swapped-stem is for model.stem='cifar', and this stem is torchvision's own; leave it out")
    return name, {} if channels == 3 or theirs == "torchvision" else {"in_chans": channels}


def stem_of(fields: Mapping[str, Any], channels: int) -> str:
    """What makes the stem of torchvision's ResNet ours."""
    if fields.get("stem", "imagenet") != "cifar":
        return f"conv1 = Conv2d({channels}, 64, 7, 2, 3, bias=False)"
    padding = 1 if fields.get("stem_padding") is None else fields["stem_padding"]
    return f"conv1 = Conv2d({channels}, 64, 3, 1, {padding}, bias=False) and maxpool = Identity()"


VIT = ("patch_size", "width", "depth", "heads", "mlp_ratio", "cls_token", "pool")
POSITIONS = ("positions", "positions_rule", "positions_grid")  # written out for the size of evaluation
TIMM_VIT = ("registers", "layer_scale", "gelu", "swiglu", "norm_after_pool")


def _vit(fields, network: Network, theirs: str) -> tuple[str, dict[str, Any]]:
    height, width, channels = network.shape
    as_there(fields, theirs, *VIT, *POSITIONS, *(TIMM_VIT if theirs == "timm" else ()))
    swiglu, pool = bool(fields["swiglu"]), fields["pool"]
    hidden = round(fields["mlp_ratio"] * fields["width"]) * (2 if swiglu else 1)
    ratio = hidden / fields["width"]
    if int(ratio * fields["width"]) != hidden:
        raise ValueError(f"model.mlp_ratio={fields['mlp_ratio']}: {theirs} rounds {hidden} hidden units down")
    if theirs == "torchvision":
        if pool != "cls":
            raise ValueError(f"model.pool={pool!r}: torchvision's ViT gives its class token; use --format timm")
        if channels != 3:
            raise ValueError(f"torchvision's ViT takes 3 channels, and these images have {channels}; use --format timm")
        there = {"image_size": height, "patch_size": fields["patch_size"], "num_layers": fields["depth"]}
        there |= {"num_heads": fields["heads"], "hidden_dim": fields["width"], "mlp_dim": hidden}
        return "VisionTransformer", there
    if pool not in (known := {"mean": "avg", "cls": "token"}):
        raise ValueError(f"model.pool={pool!r}: timm's ViT gives one of {', '.join(known)}; use --format stablehlo")
    arguments = {
        "img_size": [height, width],
        "patch_size": fields["patch_size"],
        "embed_dim": fields["width"],
        "depth": fields["depth"],
        "num_heads": fields["heads"],
        "mlp_ratio": ratio,
        "class_token": bool(fields["cls_token"]),
        "no_embed_class": True,
        "reg_tokens": fields["registers"],
        "global_pool": known[pool],
        "fc_norm": bool(fields["norm_after_pool"]),
    }
    if swiglu and fields["layer_scale"] is None:
        raise ValueError("model.swiglu=True: timm's ViT with it has LayerScale, too; use --format stablehlo")
    arguments |= {} if fields["layer_scale"] is None else {"init_values": fields["layer_scale"]}
    arguments |= {"act_layer": "gelu_tanh"} if fields["gelu"] == "tanh" else {}
    arguments |= {} if channels == 3 else {"in_chans": channels}
    return ("vit_giant_patch14_dinov2" if swiglu else "vit_base_patch16_224"), arguments


def with_table(network: Network, theirs: str) -> Network:
    """A ViT with a learned table of positions for the size of evaluation that computes the same there.

    For timm the class token has no row, its own is added to it; torchvision's has one, which may be zero.
    """
    fields = fields_of(network.model)
    params, width, kind = dict(network.params), fields["width"], fields["positions"]
    grid = network.shape[0] // fields["patch_size"], network.shape[1] // fields["patch_size"]
    of_cls = np.zeros((1, width), np.float32)
    if kind in ("sincos", "moco_v3"):
        table = sincos_positions(grid, width, row_first=kind == "moco_v3")
    else:
        table = np.asarray(params["stem_positions"])
        if fields["cls_token"] and kind == "learned":
            of_cls, table = table[:1], table[1:]
        table = resized(jnp.asarray(table), grid, fields["positions_rule"], registers=fields["registers"] > 0)
    table = np.asarray(table, np.float32)
    model = dict(network.model) | {"positions_grid": grid[0]}
    if theirs == "torchvision":
        params["stem_positions"] = np.concatenate([of_cls, table])
        return network._replace(params=params, model=model | {"positions": "learned"})
    if fields["cls_token"]:
        params["stem_cls"] = np.asarray(params["stem_cls"]) + of_cls[0]
    params["stem_positions"] = table
    return network._replace(params=params, model=model | {"positions": "learned_patches"})


def tensors(network: Network, theirs: str) -> dict[str, np.ndarray]:
    """The arrays by their names, with BatchNorm's counters; positions that are computed are written out."""
    module: Any = resnet if network.model["name"] in RESNETS else classic
    if "patch_size" in models.defaults(network.model["name"]):
        module, network = vit, with_table(network, theirs)
    tree = {"params": network.params, "model_state": network.model_state}
    tree |= {} if network.classifier is None else {"classifier": network.classifier}
    names = "torchvision" if module is resnet else theirs  # timm's ResNets have the same
    return named(module.pairs(network.model, names, classifier=network.classifier is not None), tree, theirs)


def named(table: Iterable[pairs.Pair], tree: Mapping[str, Any], theirs: str) -> dict[str, np.ndarray]:
    """The arrays of {"params", "model_state", "classifier"} by the names of a table, with BatchNorm's counters.

    Raises:
      ValueError: one line, the network has others.
    """
    try:
        arrays = pairs.write(table, tree)
    except KeyError as error:
        raise ValueError(f"this encoder has no {error.args[0]}, which {theirs}'s has; its norms are others") from None
    counted = [name.removesuffix("running_mean") for name in arrays if name.endswith(".running_mean")]
    arrays |= {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in counted}
    return arrays


def config(network: Network, name: str, arguments: dict[str, Any], licence: str | None) -> dict[str, Any]:
    """The content of ``config.json``."""
    height, width, channels = network.shape
    encoder = models.make(network.model["name"], **{k: v for k, v in network.model.items() if k != "name"})
    classes = 0 if network.classifier is None else int(np.shape(network.classifier["bias"])[-1])
    view = network.view
    of_vit = "patch_size" in arguments
    first, last = ends(name)
    pretrained = {
        "tag": "ssl_jax",
        "custom_load": False,
        "input_size": [channels, height, width],
        "fixed_input_size": of_vit,
        "interpolation": view.interpolation,
        "crop_pct": 1.0 if view.kind == "resize" else view.fraction,
        "crop_mode": CROPS[view.kind],
        "mean": of_channels(network.mean, channels),
        "std": of_channels(network.std, channels),
        "num_classes": classes,
        "pool_size": None if of_vit else [-(-height // 32), -(-width // 32)],
        "first_conv": first,
        "classifier": last,
        "license": licence,
    }
    found = {
        "architecture": name,
        "num_classes": classes,
        "num_features": vgg.WIDTHS[-1] if name.startswith("vgg") else encoder.dim,
    }
    found |= {"global_pool": arguments.get("global_pool", "avg"), "pretrained_cfg": pretrained}
    found |= {"label_names": list(network.class_names)} if network.class_names and classes else {}
    return found | ({"model_args": arguments} if arguments else {})


def ends(name: str) -> tuple[str, str]:
    """What timm calls the first convolution and the classifier of its network of that name."""
    return next(found for start, found in ENDS.items() if name.startswith(start))


def of_channels(numbers: Sequence[float], channels: int) -> list[float]:
    return [float(x) for x in (numbers if len(numbers) == channels else list(numbers) * channels)]
