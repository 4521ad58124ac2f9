"""Makes archives.npz, archives.pth and archives_legacy.pth: one value in torch's two kinds of file, and its numbers.

    pip install torch && python tests/oracles/make_archives.py

And a few numbers of the real CIFAR ResNets where their folder is given:

    python tests/oracles/make_archives.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent


def value() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[1](model[0](torch.randn(2, 2, 4, 4))).sum().backward()
    optimizer.step()
    big = torch.randn(5, 6)
    return {
        "state_dict": model.state_dict(),
        "dtypes": OrderedDict(
            half=big.half(),
            bfloat16=big.bfloat16(),
            double=big.double(),
            long=torch.arange(-3, 4),
            byte=torch.arange(7, dtype=torch.uint8),
            bool=big > 0,
            complex=torch.complex(big, -big),
        ),
        "views": [big, big[1:4, ::2], big.t(), big[4], big[2:, 1:].transpose(0, 1), big[:1].expand(3, 6)],
        "shapes": (torch.tensor(2.5), torch.zeros(0, 3), torch.nn.Parameter(torch.ones(2, 1, 1))),
        "new": {"float8_e4m3fn": big.to(torch.float8_e4m3fn), "uint16": torch.arange(3).to(torch.uint16)},
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999), dtype=torch.float32),
        "optimizer": optimizer.state_dict(),
        "size": big.shape,
        "epoch": 3,
    }


def numbers(tree: Any, path: str = "") -> dict[str, np.ndarray]:
    """Every tensor by its path; what NumPy cannot name as float32."""
    if isinstance(tree, torch.Tensor):
        tree = tree.detach()
        odd = tree.dtype in (torch.bfloat16, torch.float8_e4m3fn)
        return {path[1:]: (tree.float() if odd else tree).numpy()}
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: array for key, item in items for name, array in numbers(item, f"{path}/{key}").items()}
    return {}


def sums(tensor: torch.Tensor) -> list[float]:
    """Of its numbers, and of them times sin(1), sin(2), ..., so that their order counts."""
    flat = tensor.double().flatten()
    return [float(flat.sum()), float(flat @ torch.arange(1, len(flat) + 1, dtype=torch.float64).sin())]


def main(folder: str | None) -> None:
    made = value()
    torch.save(made, HERE / "archives.pth")
    torch.save(made, HERE / "archives_legacy.pth", _use_new_zipfile_serialization=False)
    np.savez_compressed(HERE / "archives.npz", **numbers(made))
    if folder is not None:
        found = {}
        for file in sorted(Path(folder).glob("*.th")):
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            found[f"{file.name}/names"] = np.array(list(state))
            found[f"{file.name}/sums"] = np.array([sums(tensor) for tensor in state.values()])
        np.savez_compressed(HERE / "archives_real.npz", **found)


if __name__ == "__main__":
    main(*(sys.argv[1:] or [None]))
