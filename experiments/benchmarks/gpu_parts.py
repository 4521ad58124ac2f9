"""What XLA makes for a GPU of two parts alone, value and gradient in bfloat16, beside plain forms; nothing is run.

    python experiments/benchmarks/gpu_parts.py [h100:1]

The max-pool of ResNet-50's stem for 512 images, ours and XLA's, and the attention of 64 examples of 256 tokens, 16
heads of 80, by cuDNN (where the package nvidia-cudnn-cu13 is installed) and by products and a softmax.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import parallel
from ssl_jax.models import transformer
from ssl_jax.models.pool import max_pool
from ssl_jax.plan import cost, devices
from ssl_jax.plan.kernels import by, moved
from ssl_jax.run import processes

IMAGES, TOKENS = (512, 112, 112, 64), (64, 256, 16, 80)


def xlas_max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]: as in models/pool.py


def products(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return transformer.attention(q, k, v, drop=lambda weights: weights)  # which keeps cuDNN out


PARTS: dict[str, tuple[Callable[..., Any], int, tuple[int, ...]]] = {
    "max-pool, XLA's": (xlas_max_pool, 1, IMAGES),
    "max-pool, ours": (max_pool, 1, IMAGES),
    "attention, products and softmax": (products, 3, TOKENS),
    "attention, as on a GPU": (transformer.attention, 3, TOKENS),
}


def measured(f: Callable[..., Any], number: int, shape: tuple[int, ...], topology: str) -> tuple[int, int, float]:
    """Kernels, bytes moved and seconds of the roofline of ``f`` and its gradients on one device."""
    chip, mesh = devices.chip(topology), devices.topology(topology)

    def both(cotangent, *given):
        y, back = jax.vjp(f, *given)
        return y, back(cotangent)

    where = parallel.replicated(mesh)
    given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where)] * number
    out = jax.eval_shape(f, *given)
    with parallel.compiling_for(mesh.devices.flat[0].platform):
        lowered = jax.jit(both).lower(jax.ShapeDtypeStruct(out.shape, out.dtype, sharding=where), *given)
    kernels = cost.of(lowered.compile()).kernels
    kinds = by("kind", kernels, lambda kernel: chip.seconds(kernel, 1) if chip else 0.0)
    return sum(k.number for k in kernels), moved(kernels), sum(counted.seconds for counted in kinds.values())


def main(topology: str = "h100:1") -> None:
    devices.prepare(topology)
    processes.without_tpu()
    for name, part in PARTS.items():
        kernels, size, seconds = measured(*part, topology)
        print(f"{name}: {kernels} kernels, {size / 1e9:.1f} GB, {1e3 * seconds:.2f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
