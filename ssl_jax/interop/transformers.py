"""An encoder as a folder of transformers' own ViTs and ResNets, by the names that their files have on disk.

    transformers.AutoModel.from_pretrained("FOLDER")

``config.json``, ``model.safetensors`` and ``preprocessor_config.json``. A ViT becomes a ``ViTModel``; with registers,
LayerScale, SwiGLU or a classifier that reads more than the class token a ``Dinov2Model`` (``WithRegisters``); without
a class token an ``IJepaModel``. MAE and MSN compute what ``ViTModel`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from ssl_jax import models
from ssl_jax.interop import peers, resnet, vit
from ssl_jax.interop.files import write_json
from ssl_jax.interop.peers import CONFIG, WEIGHTS, Network
from ssl_jax.types import Tree

PREPROCESSOR = "preprocessor_config.json"
CLASSES = {"resnet": "ResNet", "vit": "ViT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}
CLASSES |= {"ijepa": "IJepa"}
PLAIN = {"registers": 0, "layer_scale": None, "swiglu": False}  # what ViTModel and IJepaModel have
GELU = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # as Pillow numbers them
RATIOS = range(1, 17)  # DINOv2's mlp_ratio, a whole number


class Form(NamedTuple):
    """What a network is there.

    Attributes:
      config: the content of ``config.json``.
      network: ours, as that network has it: a table of positions, LayerScale.
      features: how they come of what ``AutoModel`` gives, "outputs".
    """

    config: dict[str, Any]
    network: Network
    features: str


def write(folder: Path, network: Network, form: Form, *, licence: str | None) -> None:
    """The folder of a network that :func:`form` has found a form for."""
    about = {"format": "pt"} | ({} if licence is None else {"license": licence})
    safetensors.numpy.save_file(tensors(form), folder / WEIGHTS, about)
    write_json(folder / CONFIG, form.config)
    write_json(folder / PREPROCESSOR, preprocessor(network))


def form(network: Network) -> Form:
    """The network of transformers that computes the same, given the same weights.

    Raises:
      ValueError: one line, there is none; says why.
    """
    model, shape = network.model, network.shape
    if model["name"] not in models.ENCODERS:
        raise ValueError(f"model.name={model['name']!r} is an encoder of your own, which transformers does not have")
    fields = peers.fields_of(model)
    if model["name"] in peers.RESNETS:
        found = _resnet(fields, network)
    elif "patch_size" in fields:
        found = _vit(fields, network)
    else:
        raise ValueError(
            f"transformers has no network like model.name={model['name']!r}; this format holds "
            f"{', '.join(peers.RESNETS)} and vit*"
        )
    kind, classifier = found.config["model_type"], network.classifier
    found.config["architectures"] = [f"{CLASSES[kind]}{'Model' if classifier is None else 'ForImageClassification'}"]
    found.config["num_channels"] = shape[2]
    if classifier is not None:
        labels = list(network.class_names) or [f"LABEL_{i}" for i in range(np.shape(classifier["bias"])[-1])]
        found.config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        found.config["label2id"] = {label: i for i, label in enumerate(labels)}
    return found


def _resnet(fields: Mapping[str, Any], network: Network) -> Form:
    peers.as_there(fields, "transformers", "width", "stride_first")
    encoder: Any = models.make(network.model["name"], **{k: v for k, v in network.model.items() if k != "name"})
    times, stages = (4 if encoder.bottleneck else 1), range(len(encoder.blocks))
    config = {
        "model_type": "resnet",
        "embedding_size": encoder.channels(0),
        "hidden_sizes": [times * encoder.channels(k) for k in stages],
        "depths": list(encoder.blocks),
        "layer_type": "bottleneck" if encoder.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": encoder.stride_first,
    }
    return Form(config, network, "outputs.pooler_output[:, :, 0, 0]")


def _vit(fields: Mapping[str, Any], network: Network) -> Form:
    held = ("registers", "layer_scale", "gelu", "swiglu", "eps")
    peers.as_there(fields, "transformers", *peers.VIT, *peers.POSITIONS, *held)
    pool, size, (height, width, _) = fields["pool"], fields["patch_size"], network.shape
    if height != width:
        raise ValueError(f"images of {height} x {width} pixels: this format is of square ones; use --format timm")
    hidden = round(fields["mlp_ratio"] * fields["width"])
    config = {
        "hidden_size": fields["width"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["heads"],
        "hidden_act": GELU[fields["gelu"]],
        "layer_norm_eps": fields["eps"],
        "patch_size": size,
        "qkv_bias": True,
    }
    more = [f"model.{field}={fields[field]!r}" for field, none in PLAIN.items() if fields[field] != none]
    if not fields["cls_token"]:
        if more:
            raise ValueError(
                f"model.cls_token=False with {more[0]}: transformers' ViT without a class token, IJepaModel, has none; "
                "use --format timm"
            )
        config |= {"model_type": "ijepa", "intermediate_size": hidden}
        network = peers.with_table(network, "timm")
    elif more or (network.classifier is not None and pool != "cls"):
        config |= {"model_type": "dinov2", "mlp_ratio": _ratio(fields, hidden), "use_swiglu_ffn": fields["swiglu"]}
        more = {"model_type": "dinov2_with_registers", "num_register_tokens": fields["registers"]}
        config |= more if fields["registers"] else {"use_mask_token": False}
        network = _with_scales(fields, _with_table(fields, network), pool)
    else:
        # The layer behind the class token is the identity: pooler_output are the features, as of the others.
        config |= {"model_type": "vit", "intermediate_size": hidden, "pooler_act": "linear"}
        network = peers.with_table(network, "torchvision")
    config["image_size"] = size * network.model["positions_grid"]
    mean = f"outputs.last_hidden_state[:, {bool(fields['cls_token']) + fields['registers']}:].mean(1)"
    cls = "outputs.last_hidden_state[:, 0]" if network.classifier is not None else "outputs.pooler_output"
    return Form(config, network, {"cls": cls, "mean": mean, "cls_mean": f"torch.cat([{cls}, {mean}], 1)"}[pool])


def _ratio(fields: Mapping[str, Any], hidden: int) -> int:
    """DINOv2's ``mlp_ratio`` of a hidden layer; of a SwiGLU it is that of two thirds, rounded up to a multiple of 8."""
    width, swiglu = fields["width"], fields["swiglu"]
    for ratio in RATIOS:
        if hidden == ((int(width * ratio * 2 / 3) + 7) // 8 * 8 if swiglu else width * ratio):
            return ratio
    raise ValueError(
        f"model.mlp_ratio={fields['mlp_ratio']}: no whole number that transformers' Dinov2 knows makes {hidden} hidden "
        f"units of a width of {width}; use --format timm"
    )


def _with_table(fields: Mapping[str, Any], network: Network) -> Network:
    """Positions written out for the size of evaluation, but where transformers fits the table as we do."""
    if fields["positions"] == "learned" and fields["positions_rule"] == "transformers":
        grid = round((len(network.params["stem_positions"]) - 1) ** 0.5)
        return network._replace(model=dict(network.model) | {"positions_grid": grid})
    return peers.with_table(network, "torchvision")


def _with_scales(fields: Mapping[str, Any], network: Network, pool: str) -> Network:
    """With a LayerScale, of ones where there is none, and a classifier of class token and mean beside each other."""
    classifier, ones, params = network.classifier, np.ones(fields["width"], np.float32), dict(network.params)
    if fields["layer_scale"] is None:
        for name in [name for name in params if name.endswith("_block")]:
            params[name] = {**params[name], **{f"layer_scale{n}": {"scale": ones} for n in (1, 2)}}
    if classifier is not None and pool != "cls_mean":
        kernel = np.asarray(classifier["kernel"])
        parts = [kernel, np.zeros_like(kernel)]
        classifier = {**classifier, "kernel": np.concatenate(parts if pool == "cls" else parts[::-1])}
    model = {"layer_scale": 1.0} | {k: v for k, v in network.model.items() if v is not None}
    return network._replace(model=model, params=params, classifier=classifier)


def tensors(form: Form) -> dict[str, np.ndarray]:
    """The arrays by their names on disk; the network's begin with its kind where a classifier lies beside it."""
    network, kind, width = form.network, form.config["model_type"], form.config.get("hidden_size", 0)
    module: Any = resnet if kind == "resnet" else vit
    names = "transformers" if kind in ("resnet", "vit", "ijepa") else "transformers_dinov2"
    tree: dict[str, Tree] = {"params": network.params, "model_state": network.model_state}
    arrays = peers.named(module.pairs(network.model, names), tree, "transformers")
    if kind == "dinov2_with_registers":
        arrays["embeddings.mask_token"] = np.zeros((1, width), np.float32)
    if network.classifier is None:
        of_pooler = {"weight": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
        return arrays | ({f"pooler.dense.{k}": a for k, a in of_pooler.items()} if kind == "vit" else {})
    table = module.pairs(network.model, names, classifier=True)
    last = [pair for pair in table if pair.ours.startswith("classifier/")]
    last = peers.named(last, {"classifier": network.classifier}, "transformers")
    return {f"{kind}.{name}": array for name, array in arrays.items()} | last


def preprocessor(network: Network) -> dict[str, Any]:
    """The content of ``preprocessor_config.json``: the view of evaluation as an image processor of transformers."""
    (height, width, channels), view = network.shape, network.view
    whole = {"height": height, "width": width}
    said: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": whole}
    if view.kind != "resize":
        said = {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": round(min(height, width) / view.fraction)},
            "do_center_crop": True,
            "crop_size": whole,
            "do_convert_rgb": channels == 3,
        }
    return said | {
        "do_resize": True,
        "resample": RESAMPLE[view.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": peers.of_channels(network.mean, channels),
        "image_std": peers.of_channels(network.std, channels),
    }
