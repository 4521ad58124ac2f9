"""NT-Xent of 2N = 8,192 projections, forward and backward, against the plain formula in torch and against lightly."""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Benchmark

from ssl_jax.losses import nt_xent

N, DIM, TEMPERATURE = 4096, 128, 0.1


def nt_xent_8192(quick: bool) -> Benchmark:
    """Loss and its gradient for both views."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(N, DIM)).astype(np.float32)
    second = (first + rng.normal(size=(N, DIM))).astype(np.float32)
    gradient = jax.jit(jax.value_and_grad(lambda a, b: nt_xent(a, b, temperature=TEMPERATURE), argnums=(0, 1)))
    placed = jnp.asarray(first), jnp.asarray(second)
    memory: Any = gradient.lower(*placed).compile().memory_analysis()

    def ours():
        value, (to_first, _) = jax.block_until_ready(gradient(*placed))
        return float(value), np.asarray(to_first)

    def with_torch(loss_of):
        import torch

        a, b = (torch.from_numpy(x).requires_grad_() for x in (first, second))

        def run():
            a.grad = b.grad = None
            value = loss_of(a, b)
            value.backward()
            gradient: Any = a.grad
            return float(value), gradient.numpy()

        return run

    def torch_peer():
        import torch
        from torch.nn import functional

        def loss_of(a, b):
            z = functional.normalize(torch.cat([a, b]), dim=1)
            scores = z @ z.T / TEMPERATURE
            scores = scores.masked_fill(torch.eye(2 * N, dtype=torch.bool), float("-inf"))
            partner = torch.arange(2 * N).roll(N)
            return functional.cross_entropy(scores, partner)

        return with_torch(loss_of)

    def lightly_peer():
        from benchmarks.torches import torchvision

        torchvision()  # lightly imports it
        from lightly.loss import NTXentLoss

        return with_torch(NTXentLoss(temperature=TEMPERATURE))

    def same(ours, theirs):
        if abs(ours[0] - theirs[0]) > 1e-4 * abs(ours[0]):
            return f"its loss is {theirs[0]:.6g} and ours {ours[0]:.6g}"
        worst = np.abs(ours[1] - theirs[1]).max() / np.abs(ours[1]).max()
        return None if worst < 1e-3 else f"its gradient differs by {worst:.1e}"

    return Benchmark(
        ours=ours,
        peers={"torch": torch_peer, "lightly": lightly_peer},
        same=same,
        unit="losses/s",
        processor=True,
        details={"MiB of temporaries": round(memory.temp_size_in_bytes / 2**20, 1)},
        flop=2.0 * 2 * (2 * N) ** 2 * DIM,
    )
