"""The least that a ResNet's layers must move in a step in bfloat16, where convolutions are a library's kernels.

    python experiments/benchmarks/least_bytes.py

In bytes of activations, weights and the optimizer left out:

    convolution         3 (in + out)    forward, and the gradients of its input and of its weights
    BatchNorm, ReLU     8 out           statistics 1; normalising 2; backward the two sums 2, the gradient 3
    end of a block      4 out           forward the other branch; backward its gradient, the ReLU's mask, the sum

A network that is only run, as BYOL's target and MoCo's keys, takes the forward part. A kernel that normalises as it
convolves would need less; cuDNN's, as XLA calls them, do not.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.resnet import BasicBlock, Bottleneck
from ssl_jax.run import processes

FORWARD = {"convolution": 1 / 3, "BatchNorm, ReLU": 3 / 8, "end of a block": 1 / 4}  # of a step


def least_bytes(encoder: nn.Module, images: int, size: int) -> Counter[str]:
    """Bytes of a step, forward and backward, by kind of layer, of ``images`` images of ``size`` pixels a side."""
    found: Counter[str] = Counter()

    def watched(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            size = math.prod(getattr(out, "shape", ()))
            if isinstance(context.module, nn.Conv):
                found["convolution"] += 2 * 3 * (math.prod(args[0].shape) + size)
            elif isinstance(context.module, BatchNorm):
                found["BatchNorm, ReLU"] += 2 * 8 * size
            elif isinstance(context.module, BasicBlock | Bottleneck):
                found["end of a block"] += 2 * 4 * size
        return out

    def run(key, x):
        with nn.intercept_methods(watched):
            return encoder.init_with_output(key, x, train=True, axis=None)

    jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((images, size, size, 3), jnp.bfloat16))
    return found


def forward(found: Mapping[str, int]) -> float:
    """Those bytes that a network takes which is only run."""
    return sum(FORWARD[kind] * count for kind, count in found.items())


def main() -> None:
    processes.without_tpu()
    for name, stem, images, size in (("resnet18", "cifar", 1024, 32), ("resnet50", "imagenet", 512, 224)):
        found = least_bytes(models.make(name, stem=stem, dtype="bfloat16"), images, size)
        kinds = ", ".join(f"{kind} {count / 1e9:.1f}" for kind, count in found.items())
        print(
            f"{name}, {images} images of {size} pixels: {found.total() / 1e9:.1f} GB ({kinds}), "
            f"forward {forward(found) / 1e9:.1f}"
        )


if __name__ == "__main__":
    main()
