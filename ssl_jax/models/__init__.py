"""Encoders and heads: linen modules that return every stage's feature map by name; what an encoder is.

``make`` builds an encoder by name, ``from_module`` one of a plain module; ``init`` makes its variables, ``forward``
runs it or a head.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models import heads
from ssl_jax.models.alexnet import AlexNet
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.densenet import DenseNet
from ssl_jax.models.embedding import Embedding
from ssl_jax.models.lstm import LSTM
from ssl_jax.models.mlp import MLPEncoder
from ssl_jax.models.mobilenet import MobileNetV2
from ssl_jax.models.norm import BatchNorm, LayerNorm
from ssl_jax.models.own import check_encoder, from_module, given, hand_back, hand_over, is_given
from ssl_jax.models.pool import global_pool, grid_pool
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.squeezenet import SqueezeNet
from ssl_jax.models.text_transformer import TextTransformer
from ssl_jax.models.transformer import mean_token
from ssl_jax.models.vgg import VGG
from ssl_jax.models.vit import ViT
from ssl_jax.models.wide_resnet import WideResNet
from ssl_jax.names import hint, imported, is_imported
from ssl_jax.types import Array, Axis, Tree

__all__ = [
    "ENCODERS",
    "LSTM",
    "VGG",
    "AlexNet",
    "BatchNorm",
    "ConvNet",
    "DenseNet",
    "Embedding",
    "Encoder",
    "LayerNorm",
    "MLPEncoder",
    "MobileNetV2",
    "ResNet",
    "SqueezeNet",
    "TextTransformer",
    "ViT",
    "WideResNet",
    "arguments",
    "check_encoder",
    "check_input",
    "check_sizes",
    "deepest",
    "defaults",
    "depth",
    "forward",
    "from_module",
    "hand_back",
    "hand_over",
    "heads",
    "init",
    "is_given",
    "make",
    "pooled",
    "takes",
]


class Encoder(Protocol):
    """What every encoder is, ours or a user's: a linen module with these fields and this call.

    Called ``(x, *, train, axis)`` on inputs ``[b, *input_shape]`` it returns ``{"features": [b, d], stage: array,
    ...}``, its stages by name in order. One with state that goes from batch to batch takes it as ``rows=`` and returns
    the new one as ``"rows"``; one with dropout takes the step's ``key=``, without which it drops nothing. Parameters
    are called ``stem_*`` and ``stage1_*``, ``stage2_*``, ..., so that rates by depth and freezing know them.

    Attributes:
      stages: how many there are.
      dim: d.
      label: what messages call it.
      min_size: the least side of an image in pixels, or number of tokens.
      norm: makes a normalisation, for heads that are to have the encoder's; None where it has none.
      frozen_stages: of the lowest so many parts (the stem is one) statistics stay as they are.
      dtype: of the computation; None: that of the inputs.
      vocab: how many tokens there are, set from the data; an encoder of images has none.
      positions: of the longest text, where there is such a limit.
      by_token: names of the parameters whose rows are tokens, for another vocabulary; an encoder of images has none.
    """

    stages: int
    frozen_stages: int
    norm: Any
    dtype: Any

    @property
    def dim(self) -> int: ...

    @property
    def label(self) -> str: ...

    @property
    def min_size(self) -> int: ...

    def __call__(self, x: Any, *, train: bool, axis: Axis = None) -> Mapping[str, Array]: ...


THIN = {"width": 0.25, "stem": "cifar", "shortcut": "pad"}  # He et al. 2016, section 4.2
ENCODERS: Mapping[str, Any] = {
    "convnet": ConvNet,
    "mlp": MLPEncoder,
    "embedding": Embedding,
    "lstm": LSTM,
    "awd_lstm": partial(
        LSTM, width=400, hidden=1150, layers=3, dropout=0.4, inner_dropout=0.2, input_dropout=0.65, weight_dropout=0.5
    ),
    "text_transformer": TextTransformer,  # any width, depth and heads
    "bert_tiny": partial(TextTransformer, width=128, depth=2, heads=2),
    "bert_mini": partial(TextTransformer, width=256, depth=4, heads=4),
    "bert_small": partial(TextTransformer, width=512, depth=4, heads=8),
    "bert_base": partial(TextTransformer, width=768, depth=12, heads=12),
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, blocks=(3, 4, 23, 3), bottleneck=True),
    "resnet152": partial(ResNet, blocks=(3, 8, 36, 3), bottleneck=True),
    "resnet200": partial(ResNet, blocks=(3, 24, 36, 3), bottleneck=True),
    **{f"resnet{6 * n + 2}": partial(ResNet, blocks=(n, n, n), **THIN) for n in (3, 5, 7, 9)},  # of 32 x 32 images
    "wide_resnet": WideResNet,  # 28-2; any depth and widen
    "alexnet": AlexNet,
    "vgg11": partial(VGG, blocks=(1, 1, 2, 2, 2), batch_norm=False),
    "vgg11_bn": partial(VGG, blocks=(1, 1, 2, 2, 2), batch_norm=True),
    "vgg16": partial(VGG, blocks=(2, 2, 3, 3, 3), batch_norm=False),
    "vgg16_bn": partial(VGG, blocks=(2, 2, 3, 3, 3), batch_norm=True),
    "squeezenet1_0": partial(SqueezeNet, version="1.0"),
    "squeezenet1_1": partial(SqueezeNet, version="1.1"),
    "densenet121": partial(DenseNet, blocks=(6, 12, 24, 16)),
    "mobilenet_v2": MobileNetV2,
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
      name: a key of ``ENCODERS``, or a file or dotted path of one's own (:mod:`ssl_jax.names`): a module or a function
        that makes one, which :func:`check_encoder` looks at.
      **kwargs: fields of its module; lists become tuples and ``dtype`` may be a string or None.

    Returns:
      A linen module ``(x [b, h, w, c], train=, axis=) -> {stage: [b, h, w, c], "features": [b, dim]}``.

    Raises:
      ValueError: an unknown name or argument; says the nearest known one.
    """
    fields = arguments(name)
    maker = _maker(name)
    for argument in kwargs:
        if argument not in (*fields, "norm"):
            raise ValueError(f"{name} has no argument {argument!r}; {hint(argument, fields)}known: {', '.join(fields)}")
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    if kwargs.get("dtype") is not None:
        kwargs["dtype"] = jnp.dtype(kwargs["dtype"])
    return maker(**kwargs)


def arguments(name: str) -> list[str]:
    """Fields of the encoder called ``name`` that a config may set (``norm``, a function, only code can)."""
    return list(_arguments(name))


def defaults(name: str) -> dict[str, Any]:
    """What :func:`arguments` are where nobody names them; without those that must be named."""
    return {k: v for k, v in _arguments(name).items() if v is not inspect.Parameter.empty}


def _arguments(name: str) -> dict[str, Any]:
    maker = _maker(name)
    module: Any
    module, fixed = (maker.func, maker.keywords) if isinstance(maker, partial) else (maker, {})
    known = {} if is_given(name) else inspect.signature(module).parameters
    left_out = {"parent", "name", "norm", *fixed} if dataclasses.is_dataclass(module) else set(fixed)
    return {k: p.default for k, p in known.items() if k not in left_out}


def _maker(name: str) -> Any:
    if is_given(name):
        return partial(given, name)
    if is_imported(name):
        maker = imported(name, "model.name")
        if not callable(maker):
            raise ValueError(
                f"model.name={name!r} is a {type(maker).__name__}; name the class of a linen module, or a "
                "function that makes one"
            )
        return maker
    if name not in ENCODERS:
        raise ValueError(f"model {name!r} is unknown; {hint(name, ENCODERS)}known: {', '.join(ENCODERS)}")
    return ENCODERS[name]


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


def takes(module: nn.Module, word: str) -> bool:
    """Whether a module's call has an argument of that name."""
    return word in inspect.signature(type(module).__call__).parameters


def deepest(outputs: Mapping[str, Array]) -> Array:
    """What the last stage of an encoder gives before any pooling: a map ``[b, h, w, c]``, or the code of an mlp."""
    return outputs[max((name for name in outputs if re.fullmatch(r"stage\d+", name)), key=lambda name: int(name[5:]))]


def pooled(outputs: Mapping[str, Array], max_dim: int | None = None, present: Array | None = None) -> dict[str, Array]:
    """Mean over the places of every stage map or token row, ``{name: [b, c]}``, float32 or better; ``[b, c]`` stays.

    With ``max_dim`` a map is averaged over the finest grid of cells with at most so many numbers: ``[b, g g c]``.
    ``present`` ``[b, t]`` bool: the tokens that count, of an encoder of text; its carried state is left out, and what a
    decoder reads, which is the last stage.
    """
    if present is not None:
        outputs = {name: a for name, a in outputs.items() if name not in ("rows", "output")}
        return {name: mean_token(a, present) if a.ndim == 3 else a for name, a in outputs.items()}
    pool = {4: partial(_grid_pool, max_dim=max_dim), 3: lambda a: global_pool(a[:, None]), 2: lambda a: a}
    return {name: pool[a.ndim](a) for name, a in outputs.items()}


def _grid_pool(x: Array, max_dim: int | None) -> Array:
    height, width, channels = x.shape[1:]
    cells = min(height, width, math.isqrt(max_dim // channels)) if max_dim else 1
    if cells <= 1:
        return global_pool(x)
    return grid_pool(x, cells).reshape(x.shape[0], -1)


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


def is_last_norm(path: str, encoder: nn.Module) -> bool:
    """Whether a parameter is of the norm behind a ViT's last block, which has the head's rate where rates go by depth.

    So it is in the code of MAE (``util/lr_decay.py``), DINOv2 and timm; where parts are frozen it is the last block's.
    """
    return isinstance(encoder, ViT) and f"stage{encoder.stages}_norm" in path.split("/")


def check_input(encoder: str | nn.Module, input_shape: Sequence[int]) -> None:
    """Refuse inputs that are too small or too long for an encoder, given as a module or by name.

    Raises:
      ValueError: an image whose side, or a text whose tokens, are fewer than ``encoder.min_size``; a text of more than
        ``encoder.positions``.
    """
    encoder = make(encoder) if isinstance(encoder, str) else encoder
    size = input_shape[0]
    if size < encoder.min_size:
        what = f"data.image_size={size} is" if len(input_shape) == 3 else f"inputs of {size} tokens are"
        raise ValueError(f"{what} too small for {encoder.label}; use at least {encoder.min_size}")
    if len(input_shape) < 3 and size > getattr(encoder, "positions", size):
        raise ValueError(
            f"documents of data.document_length={size} tokens are longer than model.positions={encoder.positions}; "
            "lower the one, or raise the other"
        )


def check_sizes(encoder: nn.Module, input_shape: Sequence[int], sizes: Sequence[int]) -> None:
    """Refuse views of which an encoder that is made with images of ``input_shape`` cannot take all; by shapes alone.

    Args:
      sizes: side in pixels of each view.

    Raises:
      ValueError: names the view.
    """
    if len(input_shape) < 3:  # of text, which has no views of several sizes
        return
    height, _, channels = input_shape
    others = sorted(set(sizes) - {height}, reverse=True)
    if not others:
        return

    def images(size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)

    try:
        variables = jax.eval_shape(partial(encoder.init, train=False), jax.random.key(0), images(height))
    except Exception as error:  # a module of anyone's
        if _said(error).startswith("model."):  # says itself which key is wrong
            raise ValueError(_said(error)) from error
        raise ValueError(f"data.image_size={height} cannot be taken by {encoder.label}: {_said(error)}") from error
    for size in others:
        view = f"view {list(sizes).index(size)} of data.recipe, of {size} pixels,"
        if size < encoder.min_size:
            raise ValueError(
                f"{view} is too small for {encoder.label}; use data.views.local.size={encoder.min_size} or more"
            )
        try:
            jax.eval_shape(partial(encoder.apply, train=False), variables, images(size))
        except Exception as error:
            raise ValueError(
                f"{view} cannot be taken by {encoder.label}, made for {height} pixels: {_said(error)}; "
                "use another data.views.local.size, or another encoder"
            ) from error


def _said(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
