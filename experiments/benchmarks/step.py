"""Whole training steps: both views through the network, the loss, gradients, BatchNorm's statistics, the optimizer.

On a CPU SimCLR on CIFAR-10 images alone, in float32, one device per core. On an accelerator in bfloat16, with the
augmentation in the step, whose share is told.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Benchmark

from ssl_jax import methods, models, optim
from ssl_jax.data.images import device, published
from ssl_jax.parallel import make_mesh, place
from ssl_jax.plan import cost
from ssl_jax.step import compile_step, init_state
from ssl_jax.types import Plan

RATE, MOMENTUM, TEMPERATURE = 0.03, 0.9, 0.2


def simclr_cifar(quick: bool) -> Benchmark:
    """SimCLR, ResNet-18, 32 pixels: batch 64 on a CPU, 512 on an accelerator."""
    return _step("simclr", "resnet18", 32, 64 if _cpu() else 512, _cifar_peers)


def byol_cifar(quick: bool) -> Benchmark:
    """BYOL, ResNet-18, 32 pixels, batch 256."""
    return _step("byol", "resnet18", 32, 256)


def moco_cifar(quick: bool) -> Benchmark:
    """MoCo, ResNet-18, 32 pixels, batch 512, 4,096 keys."""
    return _step("moco", "resnet18", 32, 512)


def simclr_resnet50(quick: bool) -> Benchmark:
    """SimCLR, ResNet-50, 224 pixels, batch 256."""
    return _step("simclr", "resnet50", 224, 256)


ARGUMENTS = {"simclr": {"temperature": TEMPERATURE}, "byol": {}, "moco": {"queue_size": 4096}}
RECIPES = {("simclr", 32): "simclr_cifar", ("byol", 32): "byol_cifar", ("moco", 32): "moco_cifar"}


def _cpu() -> bool:
    return jax.default_backend() == "cpu"


def _step(name: str, model: str, size: int, rows: int, peers_of=None) -> Benchmark:
    dtype = None if _cpu() else "bfloat16"
    encoder = models.make(model, stem="cifar" if size == 32 else "imagenet", dtype=dtype)
    plan = Plan(1000, 100, 50_000, (size, size, 3), rows, 10)
    method = methods.get(name)(encoder, plan=plan, **ARGUMENTS[name])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, size, size, 3), np.uint8)
    augment = None if _cpu() else device.views(published.get(RECIPES.get((name, size), "simclr")), size)
    views = tuple((images + rng.random(images.shape) * 32).astype(np.float32) / 288 for _ in range(2))
    prepared = {"views": views, "index": np.arange(rows, dtype=np.int32)}
    raw = {"image": images, "index": np.arange(rows, dtype=np.int32)}

    with_augmentation = ours(method, prepared if augment is None else raw, augment)
    details: dict[str, Any] = {"images in a batch": rows, "devices": jax.device_count()}
    if augment is not None:
        times = [_seconds(run) for run in (with_augmentation, ours(method, prepared, None))]
        details["augmentation's share of the step"] = f"{1 - times[1] / times[0]:.1%}"
        spent = _spent(method, raw, augment)  # not on a CPU, where the operations of loops are not counted
        details["memory of a device"] = f"{spent.memory / 2**30:.2f} GiB"
    else:
        spent = None
    params = jax.jit(method.init)(jax.random.key(0), prepared).params
    peers = {} if peers_of is None else peers_of(params, views, images, rows)
    return Benchmark(
        ours=with_augmentation,
        peers=peers,
        same=lambda ours, theirs: None if _cpu_close(ours, theirs) else f"its loss is {theirs:.5g} and ours {ours:.5g}",
        items=rows,
        unit="images/s",
        details=details,
        flop=spent and spent.flops * jax.device_count(),
    )


def _spent(method, batch, augment) -> cost.Cost:
    """Operations and memory of the compiled step, for the share of the speed of matrix products that it reaches."""
    mesh = make_mesh()
    tx = optim.make("sgd", learning_rate=RATE, momentum=MOMENTUM)
    state = init_state(method, tx, jax.random.key(0), place(batch, mesh), mesh, views=augment)
    step = compile_step(method, tx, mesh, views=augment)
    return cost.of(step.lower(state, step.place(batch)).compile())


def _cpu_close(ours: float, theirs: float) -> bool:
    """The same weights and views: the same first loss. With augmentation of their own both are only near."""
    return abs(ours - theirs) <= (1e-3 if _cpu() else 0.2) * abs(ours)


def _seconds(run) -> float:
    import time

    run()
    before = time.perf_counter()
    for _ in range(10):
        run()
    return (time.perf_counter() - before) / 10


def ours(method, batch, augment, devices: int | None = None):
    """One step at each call, on all devices or so many; returns its loss."""
    mesh = make_mesh(devices)
    tx = optim.make("sgd", learning_rate=RATE, momentum=MOMENTUM)
    step = compile_step(method, tx, mesh, views=augment)
    state = [init_state(method, tx, jax.random.key(0), place(batch, mesh), mesh, views=augment)]
    # The weights that the peers are given, whatever name the step draws its own by.
    params = jax.device_put(jax.jit(method.init)(jax.random.key(0), _zeros(batch)).params, state[0].step.sharding)
    state[0] = state[0].replace(params=params)
    placed = step.place(batch)

    def run() -> float:
        state[0], metrics = step(state[0], placed)
        return float(metrics["loss"])

    return run


def _zeros(batch) -> dict[str, Any]:
    views = batch.get("views") or (batch["image"],) * 2
    return {"views": tuple(jnp.zeros(v.shape, jnp.float32) for v in views), "index": jnp.asarray(batch["index"])}


def _cifar_peers(params, views, images, rows: int):
    def torch_step(*, channels_last: bool, compiled: bool):
        def make():
            import torch
            from benchmarks.torches import cifar_resnet18, named
            from torch import nn
            from torch.nn import functional

            where = "cuda" if torch.cuda.is_available() else "cpu"
            layout = torch.channels_last if channels_last else torch.contiguous_format
            head = nn.Sequential(nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU())
            head += nn.Sequential(nn.Linear(512, 128, bias=False), nn.BatchNorm1d(128))
            ours = {k: v for k, v in named(params["projector"]).items() if "dense" in k}
            with torch.no_grad():
                head[0].weight.copy_(ours["dense0.weight"])
                head[3].weight.copy_(ours["dense1.weight"])
            network = nn.Sequential(cifar_resnet18(params["encoder"]), head).to(where).train()
            network = network.to(memory_format=layout)
            optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
            both = (
                torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2).to(where).contiguous(memory_format=layout)
            )
            partner = torch.arange(2 * rows, device=where).roll(rows)
            own = torch.eye(2 * rows, dtype=torch.bool, device=where)
            forward = torch.compile(network) if compiled else network
            augment = _kornia(images, where) if where == "cuda" else lambda: both

            def run() -> float:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(where, torch.bfloat16, enabled=where == "cuda"):
                    z = forward(augment().contiguous(memory_format=layout))
                z = functional.normalize(z.float(), dim=1)
                scores = (z @ z.T / TEMPERATURE).masked_fill(own, float("-inf"))
                loss = functional.cross_entropy(scores, partner)
                loss.backward()
                optimizer.step()
                return float(loss.detach())

            return run

        return make

    return {
        "torch_eager": torch_step(channels_last=False, compiled=False),
        "torch_channels_last": torch_step(channels_last=True, compiled=False),
        "torch_compile": torch_step(channels_last=True, compiled=True),
    }


def _kornia(images, where: str):
    """SimCLR's CIFAR views by kornia on the GPU."""
    import torch
    from kornia import augmentation as k

    raw = torch.from_numpy(images).permute(0, 3, 1, 2).to(where)
    view = torch.nn.Sequential(
        k.RandomResizedCrop((raw.shape[2], raw.shape[3]), scale=(0.08, 1.0)),
        k.RandomHorizontalFlip(),
        k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        k.RandomGrayscale(p=0.2),
    )
    return lambda: torch.cat([view(raw.float() / 255) for _ in range(2)])
