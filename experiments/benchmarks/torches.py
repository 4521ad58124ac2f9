"""The torch family, as the benchmarks use it."""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

import numpy as np

NAMES = (
    (r"^stem_(conv|norm)", r"\g<1>1"),
    (r"^stage(\d+)_block(\d+)", r"layer\1.\2"),
    (r"shortcut_conv", "downsample.0"),
    (r"shortcut_norm", "downsample.1"),
    (r"norm(\d)", r"bn\1"),
    (r"(kernel|scale)$", "weight"),
)
_KEPT: list[Any] = []  # a library that nobody holds is taken back


@functools.cache
def torchvision() -> Any:
    """torchvision, also beside a CPU-only torch, whose operators the default build cannot load."""
    import torch

    if torch.__version__.endswith("+cpu"):
        _KEPT.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision.transforms")
    return importlib.import_module("torchvision")


def cifar_resnet18(params: Any) -> Any:
    """torchvision's ResNet-18 with the stem for small images, no classifier, and the weights of our encoder."""
    return resnet("resnet18", params, small=True)


def resnet(name: str, params: Any, *, small: bool) -> Any:
    """torchvision's network without its classifier, with the weights of our encoder; ``small``: the stem for CIFAR."""
    from torch import nn

    network = getattr(torchvision().models, name)()
    network.fc = nn.Identity()
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    missing, unexpected = network.load_state_dict(named(params), strict=False)
    left = [name for name in missing if not re.search(r"running_|num_batches", name)]
    if left or unexpected:
        raise ValueError(f"weights do not fit: {left}, {unexpected}")
    return network


def named(params: Any, prefix: str = "") -> dict[str, Any]:
    """Our parameters under torchvision's names and in torch's layouts: [out, in] and [out, in, h, w]."""
    import torch

    found = {}
    for name, value in params.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            found |= named(value, f"{path}.")
            continue
        for pattern, replacement in NAMES:
            path = re.sub(pattern, replacement, path)
        value = np.asarray(value)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        found[path] = torch.from_numpy(np.array(value, order="C"))  # a copy: what JAX gave cannot be written to
    return found
