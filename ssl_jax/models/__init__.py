"""Encoders and heads: linen modules that take images and return every stage's feature map by name.

``make`` builds an encoder by name, ``init`` its variables, ``forward`` runs it or a head.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax.models import heads
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.mlp import MLPEncoder
from ssl_jax.models.norm import BatchNorm, LayerNorm
from ssl_jax.models.resnet import ResNet, global_pool
from ssl_jax.models.vit import ViT
from ssl_jax.types import Array, Axis, Tree

__all__ = [
    "ENCODERS",
    "BatchNorm",
    "ConvNet",
    "LayerNorm",
    "MLPEncoder",
    "ResNet",
    "ViT",
    "arguments",
    "check_image_size",
    "deepest",
    "depth",
    "forward",
    "heads",
    "init",
    "make",
    "pooled",
]

ENCODERS: Mapping[str, Any] = {
    "convnet": ConvNet,
    "mlp": MLPEncoder,
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, blocks=(3, 4, 23, 3), bottleneck=True),
    "resnet152": partial(ResNet, blocks=(3, 8, 36, 3), bottleneck=True),
    "resnet200": partial(ResNet, blocks=(3, 24, 36, 3), bottleneck=True),
    "vit": ViT,  # any width, depth and heads
    "vit_ti": partial(ViT, width=192, depth=12, heads=3),
    "vit_s": partial(ViT, width=384, depth=12, heads=6),
    "vit_b": partial(ViT, width=768, depth=12, heads=12),
    "vit_l": partial(ViT, width=1024, depth=24, heads=16),
    "vit_h": partial(ViT, width=1280, depth=32, heads=16, patch_size=14),
}


def make(name: str, **kwargs: Any) -> nn.Module:
    """The encoder called ``name``, e.g. ``make("resnet18", stem="cifar", dtype="bfloat16")``.

    Args:
      name: a key of ``ENCODERS``.
      **kwargs: fields of its module; lists become tuples and ``dtype`` may be a string or None.

    Returns:
      A linen module ``(x [b, h, w, c], train=, axis=) -> {stage: [b, h, w, c], "features": [b, dim]}``.

    Raises:
      ValueError: an unknown name or argument; says the nearest known one.
    """
    fields = arguments(name)
    maker = ENCODERS[name]
    for argument in kwargs:
        if argument not in (*fields, "norm"):
            hint = _nearest(argument, fields)
            raise ValueError(f"{name} has no argument {argument!r}{hint}; known: {', '.join(fields)}")
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    if kwargs.get("dtype") is not None:
        kwargs["dtype"] = jnp.dtype(kwargs["dtype"])
    return maker(**kwargs)


def arguments(name: str) -> list[str]:
    """Fields of the encoder called ``name`` that a config may set (``norm``, a function, only code can)."""
    if name not in ENCODERS:
        raise ValueError(f"model {name!r} is unknown{_nearest(name, ENCODERS)}; known: {', '.join(ENCODERS)}")
    maker = ENCODERS[name]
    module: Any
    module, fixed = (maker.func, maker.keywords) if isinstance(maker, partial) else (maker, {})
    return [f.name for f in dataclasses.fields(module) if f.name not in {"parent", "name", "norm", *fixed}]


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def init(module: nn.Module, key: Array, x: Any, **inputs: Any) -> tuple[Tree, Tree]:
    """Initial ``(params, state)`` of a module for inputs shaped like ``x`` (an array or ``ShapeDtypeStruct``).

    ``inputs``: what else the module takes by name.

    Compiled, and the forward pass is dead code in it, so a large encoder costs little more than its random numbers.
    ``state`` is ``{}`` or ``{"batch_stats": ...}``.
    """
    shape, dtype = jnp.shape(x), x.dtype
    run = jax.jit(lambda key: module.init(key, jnp.zeros(shape, dtype), train=False, axis=None, **inputs))
    variables = dict(run(key))
    return variables.pop("params", {}), variables


def forward(
    module: nn.Module, params: Tree, state: Tree, x: Array, *, train: bool, axis: Axis = None, **inputs: Any
) -> tuple[Any, Tree]:
    """Run an encoder or a head; returns ``(output, new_state)``, the state unchanged unless ``train``.

    ``inputs``: what else the module takes by name, e.g. the ``patches`` of a ViT.
    """
    variables = {"params": params, **state}
    if not train:
        return module.apply(variables, x, train=False, axis=axis, **inputs), state
    out, new_state = module.apply(variables, x, train=True, axis=axis, mutable=list(state), **inputs)
    return out, {**state, **new_state}


def deepest(outputs: Mapping[str, Array]) -> Array:
    """What the last stage of an encoder gives before any pooling: a map ``[b, h, w, c]``, or the code of an mlp."""
    return outputs[max((name for name in outputs if re.fullmatch(r"stage\d+", name)), key=lambda name: int(name[5:]))]


def pooled(outputs: Mapping[str, Array], max_dim: int | None = None) -> dict[str, Array]:
    """Mean over the places of every stage map or token row, ``{name: [b, c]}``, float32 or better; ``[b, c]`` stays.

    With ``max_dim`` a map is averaged over the finest grid of cells with at most so many numbers: ``[b, g g c]``.
    """
    pool = {4: partial(_grid_pool, max_dim=max_dim), 3: lambda a: global_pool(a[:, None]), 2: lambda a: a}
    return {name: pool[a.ndim](a) for name, a in outputs.items()}


def _grid_pool(x: Array, max_dim: int | None) -> Array:
    height, width, channels = x.shape[1:]
    cells = min(height, width, math.isqrt(max_dim // channels)) if max_dim else 1
    if cells <= 1:
        return global_pool(x)
    x = x.astype(np.promote_types(x.dtype, np.float32))
    rows, columns = (jnp.asarray(_cells(size, cells), x.dtype) for size in (height, width))
    x = jnp.einsum("gh,bhwc,kw->bgkc", rows, x, columns, precision=lax.Precision.HIGHEST)
    return x.reshape(len(x), -1)


def _cells(size: int, cells: int) -> np.ndarray:
    """``[cells, size]``: cell i averages positions ``floor(i s / c)`` to ``ceil((i + 1) s / c)``."""
    weights = np.zeros((cells, size))
    for i in range(cells):
        low, high = i * size // cells, -(-(i + 1) * size // cells)
        weights[i, low:high] = 1 / (high - low)
    return weights


def depth(path: Any, *, stages: int = 4) -> int:
    """Depth of a parameter for layer-wise rates: stem 0, stage k -> k, everything after the encoder ``stages + 1``.

    A stage of a ViT is a block, and its last LayerNorm belongs to the last one.

    Args:
      path: of the parameter, as a string ``"encoder/stage1_block0/conv1/kernel"`` or a tuple of keys, strings or JAX's.
      stages: of the encoder, ``encoder.stages``.
    """
    words = path.split("/") if isinstance(path, str) else [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
    for word in words:
        if re.match(r"stem(_|$)", word):
            return 0
        if match := re.match(r"stage(\d+)(_|$)", word):
            return int(match[1])
    return stages + 1


def check_image_size(encoder: str | nn.Module, image_size: int) -> None:
    """Raise ValueError if images of ``image_size`` are too small for an encoder, given as a module or by name."""
    encoder = make(encoder) if isinstance(encoder, str) else encoder
    if image_size < encoder.min_size:
        raise ValueError(
            f"data.image_size={image_size} is too small for {encoder.label}; use at least {encoder.min_size}"
        )
