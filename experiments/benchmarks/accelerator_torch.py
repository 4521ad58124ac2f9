"""SimCLR's step in PyTorch on the same device: compiled, channels last, autocast to bfloat16; views made beforehand.

At toy size it is compared with ours as torch runs it by itself, in float32; that it compiles under autocast is then
tried for one step, whose loss is told.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from benchmarks import step as steps
from benchmarks.accelerator_steps import tried

from ssl_jax import methods, models
from ssl_jax.types import Plan

# Part -> (encoder, pixels, images in a batch).
NETWORKS = {
    "torch_resnet18_cifar": ("resnet18", 32, 512),
    "torch_resnet50_224": ("resnet50", 224, 256),
}
HIDDEN, WIDTH = 512, 128


def compare(name: str, *, toy: bool, **_: Any) -> dict[str, Any]:
    """Images/s of both, in turns, after their first losses have been compared.

    Raises:
      RuntimeError: torch cannot reach the device that JAX has.
    """
    import torch

    if jax.default_backend() != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no CUDA")
    model, size, rows = ("resnet18", 16, 4) if toy else NETWORKS[name]
    encoder = models.make(model, stem="cifar" if size <= 32 else "imagenet", dtype=None if toy else "bfloat16")
    plan = Plan(1000, 100, 50_000, (size, size, 3), rows, 10)
    method = methods.get("simclr")(
        encoder, plan=plan, temperature=steps.TEMPERATURE, projector_hidden=HIDDEN, projector_dim=WIDTH
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, size, size, 3), np.uint8)
    views = tuple((images + rng.random(images.shape) * 32).astype(np.float32) / 288 for _ in range(2))
    prepared = {"views": views, "index": np.arange(rows, dtype=np.int32)}
    params = jax.device_get(jax.jit(method.init)(jax.random.key(0), prepared).params)
    ours = steps.ours(method, prepared, None, devices=1)  # as many as torch takes
    theirs = peer(params, views, model, size, lean=not toy)
    found: dict[str, Any] = {"batch": rows, "size": size, "first_losses": [ours(), theirs()]}
    found["ours"], found["torch"] = speed([ours, theirs], rows, calls=1 if toy else 5)
    if toy:
        found |= tried("lean_loss", lambda: {"lean_loss": peer(params, views, model, size, lean=True)()})
    return found | {"torch_version": torch.__version__, "compiled": not toy}


def speed(steps: list[Callable[[], float]], rows: int, calls: int) -> list[dict[str, float]]:
    """Of each, in turns, the first of which does not count; a call waits for its loss."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(6):
        for step, took in zip(steps, times, strict=True):
            before = time.perf_counter()
            for _ in range(calls):
                step()
            took.append((time.perf_counter() - before) / calls)
    medians = [statistics.median(took[1:]) for took in times]
    return [{"seconds": each, "per_second": rows / each} for each in medians]


def peer(params: Any, views: tuple, model: str, size: int, *, lean: bool) -> Callable[[], float]:
    """torchvision's network with our weights, the projector, NT-Xent and SGD; a call makes a step.

    ``lean``: the network compiled, and its forward pass under autocast to bfloat16.
    """
    import torch
    from benchmarks.torches import named, resnet
    from torch import nn
    from torch.nn import functional

    where = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = resnet(model, params["encoder"], small=size <= 32)
    dim = 512 if model == "resnet18" else 2048
    head = nn.Sequential(nn.Linear(dim, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU())
    head += nn.Sequential(nn.Linear(HIDDEN, WIDTH, bias=False), nn.BatchNorm1d(WIDTH))
    given = {key: value for key, value in named(params["projector"]).items() if "dense" in key}
    with torch.no_grad():
        head[0].weight.copy_(given["dense0.weight"])
        head[3].weight.copy_(given["dense1.weight"])
    network = nn.Sequential(encoder, head).to(where).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=steps.RATE, momentum=steps.MOMENTUM)
    rows = len(views[0])
    both = torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2).to(where)
    both = both.contiguous(memory_format=torch.channels_last)
    partner = torch.arange(2 * rows, device=where).roll(rows)
    own = torch.eye(2 * rows, dtype=torch.bool, device=where)
    forward = torch.compile(network) if lean else network

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(where, torch.bfloat16, enabled=lean):
            z = forward(both)
        z = functional.normalize(z.float(), dim=1)
        scores = (z @ z.T / steps.TEMPERATURE).masked_fill(own, float("-inf"))
        loss = functional.cross_entropy(scores, partner)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run
