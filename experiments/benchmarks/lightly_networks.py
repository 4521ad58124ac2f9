"""lightly's networks with our initial weights, in torch: the encoder, heads, and what of them is compared with ours.

Heads are lightly's ``ProjectionHead`` with the layers of ours, for its ready-made ones differ in biases; DINO's is its
``DINOProjectionHead``.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.models.convnet import ConvNet


def convnet(encoder: ConvNet, params: Any) -> Any:
    """``ConvNet`` without shortcuts; modules are called as in ours, a block's with "/" as "__"."""
    from torch import nn

    if encoder.residual:
        raise ValueError("the duel's encoder is a convnet without shortcuts; set model.residual=false")
    network, given = nn.Sequential(), []
    strides = encoder.strides or (1,) + (2,) * (len(encoder.widths) - 1)
    blocks = encoder.blocks if isinstance(encoder.blocks, tuple) else (encoder.blocks,) * len(strides)
    layers = [("stem_conv", "stem_norm", encoder.stem_stride)]
    for k, (stride, count) in enumerate(zip(strides, blocks, strict=True), 1):
        for i in range(count):
            at = f"stage{k}_block{i}"
            layers.append((f"{at}__conv1", f"{at}__norm1", stride if i == 0 else 1))
    for conv, norm, stride in layers:
        node = params
        for word in conv.split("__"):
            node = node[word]
        size, _, inside, outside = node["kernel"].shape
        padding = (size - 1) // 2 if size > stride else 0
        given += [(conv, nn.Conv2d(inside, outside, size, stride, padding, bias=False))]
        given += [(norm, nn.BatchNorm2d(outside)), (f"{norm}_relu", nn.ReLU())]
    for name, module in (*given, ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())):
        network.add_module(name, module)
    return network


def head(params: Any, stats: Any) -> Any:
    """lightly's ProjectionHead with the layers of an ``MLP`` of ours."""
    from lightly.models.modules.heads import ProjectionHead
    from torch import nn

    blocks, last = [], sum(name.startswith("dense") for name in params) - 1
    for i in range(last + 1):
        dense = params[f"dense{i}"]
        inside, outside = dense["kernel"].shape
        norm = nn.BatchNorm1d(outside, affine=f"norm{i}" in params) if f"norm{i}" in stats else None
        blocks.append((inside, outside, norm, nn.ReLU() if i < last else None, "bias" in dense))
    return ProjectionHead(blocks)


def dino_head(params: Any, norm_last_layer: bool) -> Any:
    """lightly's DINOProjectionHead; ``projector`` and ``last_layer`` of ours are both in it."""
    from lightly.models.modules.heads import DINOProjectionHead

    sizes = (*params["projector"]["dense0"]["kernel"].shape, *params["last_layer"]["v"].shape)
    head = DINOProjectionHead(*sizes, norm_last_layer=norm_last_layer)
    # Every pass makes it anew; until the first it is no leaf of the graph, and deepcopy refuses it.
    head.last_layer.weight = head.last_layer.weight.detach()
    return head


def fill(module: Any, part: str, params: Any) -> dict[str, Any]:
    """Give a network our weights; what they are in it, by our paths."""
    import torch

    named, found = _layers(module, part), {}
    for path, value in flat(params).items():
        at, _, word = path.rpartition("/")
        parameter = getattr(named[at], {"bias": "bias", "v": "weight_v", "g": "weight_g"}.get(word, "weight"))
        value = np.asarray(value)[None] if word == "g" else np.asarray(value)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(value, order="C")))
        found[f"{part}/{path}"] = parameter
    return found


def _layers(module: Any, part: str) -> dict[str, Any]:
    """The layers of a network by our paths within it."""
    from torch import nn

    if part == "encoder":
        return {name.replace("__", "/"): layer for name, layer in module.named_children()}
    if part == "last_layer":
        return {"": module.last_layer}
    linear = [layer for layer in module.layers if isinstance(layer, nn.Linear)]
    named = {f"dense{i}": layer for i, layer in enumerate(linear)}
    number = -1
    for layer in module.layers:
        number += isinstance(layer, nn.Linear)
        if isinstance(layer, nn.BatchNorm1d):
            named[f"norm{number}"] = layer
    return named


def norms(parts: Any) -> dict[str, Any]:
    """Every BatchNorm of networks by our path, "encoder/stem_norm"."""
    from torch import nn

    layers = {f"{part}/{at}": layer for part, module in parts.items() for at, layer in _layers(module, part).items()}
    return {path: layer for path, layer in layers.items() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))}


def count(layer: Any, given: Any, out: Any) -> None:
    """Note how many values of a channel a pass of BatchNorm has: torch's variances depend on it."""
    layer.values_of_a_pass = given[0].numel() // layer.num_features


def statistics(parts: Any) -> dict[str, Any]:
    """Running means and variances of networks made in float64, by our paths; variances made biased ones, as ours are.

    Both move by a tenth per pass. torch normalises with the biased variance and keeps the unbiased one, n / (n - 1) of
    it for n values of a channel, ours keeps what it normalises with. Both begin with 1, of which ``.9^k`` is left after
    k passes, and n is that of every pass, so that the rest times (n - 1) / n is what ours has to be. In the duel's
    training a variance differs by 1/127 where a head's batch is the 128 rows, by 3e-5 to 5e-4 in the encoder, whose
    features the kNN takes.
    """
    found = {}
    for path, layer in norms(parts).items():
        first = (1 - layer.momentum) ** int(layer.num_batches_tracked)
        found[f"{path}/mean"] = layer.running_mean
        found[f"{path}/var"] = first + (layer.running_var - first) * (1 - 1 / layer.values_of_a_pass)
    return found


def ours(value: Any) -> np.ndarray:
    """A weight or gradient of torch in our layout."""
    value = value.detach().numpy()
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by path."""
    found = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        found |= flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return found


def tensor(images: np.ndarray, mean, std) -> Any:
    """Images ``[b, h, w, c]`` in [0, 1], normalised, as torch has them."""
    import torch

    images = (images - np.asarray(mean, images.dtype)) / np.asarray(std, images.dtype)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
