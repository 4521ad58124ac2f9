"""Vision transformers of other libraries: which one a file's arrays are, and their names beside ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from ssl_jax import models
from ssl_jax.interop.pairs import Missing, Pair, lacking
from ssl_jax.models.positions import sincos_positions

Shapes = Mapping[str, tuple[int, ...]]

# Width -> heads of the published sizes, which leave no trace in torch's files. MoCo v3's ViT-S alone has 12 at 384.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}


class Names(NamedTuple):
    """How a library calls the parts of a ViT; every name ends where "weight" or the like follows.

    Attributes:
      patches, cls, positions, registers, mask: of the stem. The token of hidden patches is no part of our network.
      block: what begins the names of block ``{k}``, in chunks ``{c}``.
      norm1, qkv, proj, norm2, fc1, fc2: of a block; ``qkv`` is one name or three.
      swiglu: (fc1, fc2) where the layer between is a SwiGLU.
      scales: of the two branches of a block, whole names.
      norm, pooled: the last norm, of the tokens or of what is pooled; None: there are none of such.
      classifier: its name.
      words: what ends the names of a kernel and of a norm's scale.
    """

    patches: str
    cls: str
    positions: str
    block: str
    norm1: str
    qkv: tuple[str, ...]
    proj: str
    norm2: str
    fc1: str
    fc2: str
    norm: str
    classifier: str
    swiglu: tuple[str, str] | None = None
    scales: tuple[str, str] | None = None
    registers: str | None = None
    pooled: str | None = None
    words: tuple[str, str] = ("weight", "weight")


_TIMM = Names(
    patches="patch_embed.proj.",
    cls="cls_token",
    positions="pos_embed",
    registers="reg_token",
    block="blocks.{k}.",
    norm1="norm1.",
    qkv=("attn.qkv.",),
    proj="attn.proj.",
    scales=("ls1.gamma", "ls2.gamma"),
    norm2="norm2.",
    fc1="mlp.fc1.",
    fc2="mlp.fc2.",
    swiglu=("mlp.fc1.", "mlp.fc2."),
    norm="norm.",
    pooled="fc_norm.",
    classifier="head.",
)
_TORCHVISION = Names(
    patches="conv_proj.",
    cls="class_token",
    positions="encoder.pos_embedding",
    block="encoder.layers.encoder_layer_{k}.",
    norm1="ln_1.",
    qkv=("self_attention.in_proj_",),
    proj="self_attention.out_proj.",
    norm2="ln_2.",
    fc1="mlp.0.",
    fc2="mlp.3.",
    norm="encoder.ln.",
    classifier="heads.head.",
)
_TRANSFORMERS = Names(
    patches="embeddings.patch_embeddings.projection.",
    cls="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    block="encoder.layer.{k}.",
    norm1="layernorm_before.",
    qkv=("attention.attention.query.", "attention.attention.key.", "attention.attention.value."),
    proj="attention.output.dense.",
    norm2="layernorm_after.",
    fc1="intermediate.dense.",
    fc2="output.dense.",
    norm="layernorm.",
    classifier="classifier.",
)
_ATTENTION = "MultiHeadDotProductAttention_{}/"
_BIG_VISION = Names(
    patches="embedding/",
    cls="cls",
    positions="pos_embedding",
    block="Transformer/encoderblock_{k}/",
    norm1="LayerNorm_0/",
    qkv=tuple(f"{_ATTENTION.format(0)}{part}/" for part in ("query", "key", "value")),
    proj=f"{_ATTENTION.format(0)}out/",
    norm2="LayerNorm_1/",
    fc1="MlpBlock_0/Dense_0/",
    fc2="MlpBlock_0/Dense_1/",
    norm="Transformer/encoder_norm/",
    classifier="head/",
    words=("kernel", "scale"),
)

LIBRARIES = {
    "timm": _TIMM,  # DINO, MAE, MoCo v3, I-JEPA, DeiT
    "dinov2": _TIMM._replace(registers="register_tokens", swiglu=("mlp.w12.", "mlp.w3.")),
    "dinov2_chunks": _TIMM._replace(
        registers="register_tokens", swiglu=("mlp.w12.", "mlp.w3."), block="blocks.{c}.{k}."
    ),
    "ibot": _TIMM._replace(scales=("gamma_1", "gamma_2")),  # DeiT III
    "torchvision": _TORCHVISION,
    "torchvision_old": _TORCHVISION._replace(fc1="mlp.linear_1.", fc2="mlp.linear_2."),
    "transformers": _TRANSFORMERS,  # as on disk; ViT, ViT-MAE, I-JEPA
    "transformers_dinov2": _TRANSFORMERS._replace(
        registers="embeddings.register_tokens",
        norm1="norm1.",
        norm2="norm2.",
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        fc1="mlp.fc1.",
        fc2="mlp.fc2.",
        swiglu=("mlp.weights_in.", "mlp.weights_out."),
    ),
    "big_vision": _BIG_VISION,
    "big_vision_scan": _BIG_VISION._replace(block="Transformer/encoderblock/"),  # blocks stacked on the first axis
    "vision_transformer": _BIG_VISION._replace(  # google-research/vision_transformer, augreg's .npz
        positions="Transformer/posembed_input/pos_embedding",
        qkv=tuple(name.replace("_0/", "_1/") for name in _BIG_VISION.qkv),
        proj=_BIG_VISION.proj.replace("_0/", "_1/"),
        norm2="LayerNorm_2/",
        fc1="MlpBlock_3/Dense_0/",
        fc2="MlpBlock_3/Dense_1/",
    ),
}

# Regular expressions of names that only other networks have -> what these are.
OTHERS = {
    r"blocks\.0\.attn\.(q_bias|v_bias)|(.*\.)?relative_position_bias.*|encoder\.layer\.0\.lambda_1": "BEiT's attention",
    r"norm_pre\..*|(.*\.)?pre_layrnorm\..*": "a norm before the blocks (CLIP)",
    r"attn_pool\..*|MAPHead_0/.*|vision_model\.head\..*": "pooling by attention (SigLIP)",
    r"dist_token|head_dist\..*|embeddings\.distillation_token": "a token of distillation (DeiT's distilled ones)",
    r"patch_embed\.(proj\.\d+|backbone)\..*|conv_proj\.\d.*|conv_root/.*": "a stem of several convolutions",
    r"rope_embed\..*|.*\.bias_mask|layer\.0\.attention\.q_proj\..*": "rotary positions (DINOv3)",
    r"blocks\.0\.attn\.[qk]_norm\..*": "normalised queries and keys",
}


def pairs(model: Mapping[str, Any], theirs: str = "timm", *, classifier: bool = False) -> list[Pair]:
    """Our arrays of a ViT beside a library's names.

    Args:
      model: ``config.model``; names of Flax want its ``heads``.
      theirs: the library, a key of :data:`LIBRARIES`; "dinov2_chunks:K" of blocks in K chunks.
      classifier: with a linear layer on the features, ours "classifier/kernel" and "classifier/bias".

    Raises:
      ValueError: another library, or one that has no name for a part of the model.

    Source of the names: the libraries; facebookresearch/dino, dinov2, mae, moco-v3, ijepa, bytedance/ibot.
    """
    encoder, names, chunks = _module(model), *_library(theirs)
    width, depth, size = encoder.width, encoder.depth, encoder.patch_size
    kernel, scale = names.words
    flax = kernel == "kernel"
    found = []

    def dense(ours: str, *names: str, row: int | None = None, layout: str = "dense", shape=None, bias=None) -> None:
        layout = "same" if flax and layout == "dense" else layout
        found.append(Pair(f"{ours}/kernel", tuple(name + kernel for name in names), layout, shape, row))
        flat = "same" if bias is None else "flat"
        found.append(Pair(f"{ours}/bias", tuple(f"{name}bias" for name in names), flat, bias, row))

    def norm(ours: str, name: str, row: int | None = None) -> None:
        found.append(Pair(f"{ours}/scale", (name + scale,), row=row))
        found.append(Pair(f"{ours}/bias", (f"{name}bias",), row=row))

    def part(field: str) -> Any:
        if getattr(names, field) is None:
            raise ValueError(f"ViTs by the names of {theirs!r} have no {field}; use those of 'timm' or 'dinov2'")
        return getattr(names, field)

    stem: dict[str, Any] = {"layout": "rows", "shape": (size, size, 3, width)} if flax else {"layout": f"patches{size}"}
    dense("params/stem_patches", names.patches, **stem)
    if encoder.cls_token:
        found.append(Pair("params/stem_cls", (names.cls,), "flat", (1, 1, width)))
    if encoder.registers:
        found.append(Pair("params/stem_registers", (part("registers"),), "rows", (1, encoder.registers, width)))
    if encoder.positions.startswith("learned"):
        found.append(Pair("params/stem_positions", (names.positions,), "rows", (1, -1, width)))
    heads = (encoder.heads, width // encoder.heads)
    layers = part("swiglu") if encoder.swiglu else (names.fc1, names.fc2)
    for k in range(depth):
        ours, row = f"params/stage{k + 1}_block", k if theirs == "big_vision_scan" else None
        block = names.block.format(k=k, c=k * chunks // depth)
        norm(f"{ours}/norm1", block + names.norm1, row)
        qkv: dict[str, Any] = {"layout": "columns", "shape": (width, *heads), "bias": heads} if flax else {}
        dense(f"{ours}/qkv", *(block + name for name in names.qkv), row=row, **qkv)
        proj: dict[str, Any] = {"layout": "rows", "shape": (*heads, width)} if flax else {}
        dense(f"{ours}/proj", block + names.proj, row=row, **proj)
        norm(f"{ours}/norm2", block + names.norm2, row)
        for layer, name in zip(("fc1", "fc2"), layers, strict=True):
            dense(f"{ours}/{layer}", block + name, row=row)
        if encoder.layer_scale is not None:
            found += [
                Pair(f"{ours}/layer_scale{n + 1}/scale", (block + name,), row=row)
                for n, name in enumerate(part("scales"))
            ]
    norm(f"params/stage{depth}_norm", part("pooled") if encoder.norm_after_pool else names.norm)
    if classifier:
        dense("classifier", names.classifier)
    return found


def _module(model: Mapping[str, Any]) -> models.ViT:
    encoder = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    if not isinstance(encoder, models.ViT):
        raise ValueError(f"model.name={model['name']!r} is no ViT; use vit, vit_ti, vit_s, vit_b, vit_l or vit_h")
    return encoder


def _library(theirs: str) -> tuple[Names, int]:
    name, _, chunks = theirs.partition(":")
    if name not in LIBRARIES or (name == "dinov2_chunks") != chunks.isdecimal():
        known = ", ".join(LIBRARIES).replace("chunks", "chunks:4")
        raise ValueError(f"theirs={theirs!r} names no ViTs; known: {known}")
    return LIBRARIES[name], int(chunks or 1)


def library(shapes: Shapes) -> str | None:
    """Whose names a ViT's arrays have, as :func:`pairs` takes it; None where they are no ViT that is known."""
    best = _best(shapes)
    return best[0] if best else None


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """The ``config.model`` that arrays are, by their names and shapes; None where they are no ViT.

    Args:
      shapes: name -> shape, without what stands before the names of the network.

    Returns:
      Fields of ``vit``: sizes, class token, learned positions (fixed ones are in files as a table, too: see
      :func:`check_fixed`), registers, LayerScale. ``heads`` only of Flax's files: others do not say them, see
      :data:`HEADS`. No ``eps``, ``pool`` (but a norm behind it says "mean", a classifier of twice the width
      "cls_mean"), ``positions_rule``; ``gelu`` is "tanh" of the files of big_vision.

    Raises:
      ValueError: a ViT that ours cannot hold, named by what it has besides.
    """
    if not any(re.search(r"patch_embed|^conv_proj\.|^embedding/|^conv_root/", name) for name in shapes):
        return None
    for pattern, what in OTHERS.items():
        if name := next((name for name in shapes if re.fullmatch(pattern, name)), None):
            raise ValueError(f"a ViT with {what}, by {name}; plain ones, DeiT's and DINOv2's are known")
    best = _best(shapes)
    if best is None:
        return None
    theirs, model = best
    names = LIBRARIES[theirs.partition(":")[0]]
    table = pairs(model | {"heads": model.get("heads", 1)}, theirs)
    known = {name for pair in table for name in pair.theirs}
    if missing := lacking(table, shapes):
        raise Missing(f"a ViT of {model['depth']} blocks that lacks {missing}; it is cut, or of another kind")
    block = re.sub(r"\\?\{\w\\?\}", r"\\d+", re.escape(names.block))
    if more := next((name for name in shapes if name not in known and re.match(block, name)), None):
        raise ValueError(f"more than a ViT of {model['depth']} blocks, by {more}; plain ones and DINOv2's are known")
    return model


def _best(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """(library, config.model) of the library of whose names a file has the most."""
    found = []
    for who, names in LIBRARIES.items():
        flax, scan = names.words[0] == "kernel", who == "big_vision_scan"
        start = re.compile(re.sub(r"\\\{\w\\\}", r"(\\d+)", re.escape(names.block)))
        numbers = {tuple(map(int, match.groups())) for name in shapes if (match := start.match(name))}
        first = names.block.format(k=0, c=0)
        stem, qkv = names.patches + names.words[0], first + names.qkv[0] + names.words[0]
        layers = [
            [first + name + names.words[0] for name in two] for two in (names.swiglu, (names.fc1, names.fc2)) if two
        ]
        layers = next((two for two in layers if all(name in shapes for name in two)), None)
        if not numbers or layers is None or stem not in shapes or qkv not in shapes:
            continue
        fc1, fc2 = (shapes[name][1:] if scan else shapes[name] for name in layers)
        hidden, width = fc2 if flax else fc2[::-1]
        depth = shapes[qkv][0] if scan else 1 + max(number[-1] for number in numbers)
        size, channels = (shapes[stem][0], shapes[stem][2]) if flax else (shapes[stem][-1], shapes[stem][1])
        if channels != 3:
            raise ValueError(f"a ViT of images of {channels} channels, by {stem}; those of 3 are known")
        model = {"name": "vit", "patch_size": size, "width": width, "depth": depth, "mlp_ratio": hidden / width}
        model |= {"heads": shapes[qkv][-2], "gelu": "tanh"} if flax else {}
        model |= {"cls_token": True} if names.cls in shapes else {}
        if names.registers and names.registers in shapes:
            model["registers"] = shapes[names.registers][-2]
        if names.scales and first + names.scales[0] in shapes:
            model["layer_scale"] = 1e-5  # where DINOv2's start; these come from the file
        if names.pooled and names.pooled + names.words[1] in shapes:
            model |= {"norm_after_pool": True, "pool": "mean"}
        model |= {"swiglu": True} if not flax and fc1[0] == 2 * hidden else {}
        head = names.classifier + names.words[0]
        if head in shapes and (shapes[head][0] if flax else shapes[head][1]) == 2 * width:
            model["pool"] = "cls_mean"
        if who == "dinov2_chunks":
            who = f"{who}:{len({number[0] for number in numbers})}"
        model |= _positions(names, shapes, bool(model.get("cls_token")))
        table = {name for pair in pairs(model | {"heads": model.get("heads", 1)}, who) for name in pair.theirs}
        found.append((len(table & shapes.keys()) - len(table - shapes.keys()), who, model))
    return max(found, key=lambda one: one[0])[1:] if found else None


def _positions(names: Names, shapes: Shapes, cls: bool) -> dict[str, Any]:
    """Fields of ``config.model`` that the table of positions says."""
    if names.positions not in shapes:
        raise ValueError(
            f"a ViT without {names.positions}: positions that turn (DINOv3), or fixed ones of other frequencies, are "
            "not known"
        )
    rows = shapes[names.positions][-2]
    for of_cls in (True, False) if cls else (False,):
        side = isqrt(rows - of_cls)
        if side**2 == rows - of_cls:
            kind = "learned" if of_cls or not cls else "learned_patches"
            return {"positions": kind, "positions_grid": side}
    raise ValueError(f"a ViT with {rows} positions, which are no square of patches; other tables are not known")


def fixed(model: Mapping[str, Any], theirs: str = "timm", *, grid: int | None = None) -> dict[str, np.ndarray]:
    """What a library's file holds beside parameters: the table of a model with fixed positions, by its name.

    Args:
      grid: patches along a side; None: ``model["positions_grid"]``.
    """
    encoder, names = _module(model), _library(theirs)[0]
    if encoder.positions.startswith("learned"):
        return {}
    side = grid or encoder.positions_grid
    if side is None:
        raise ValueError("fixed positions of how many patches? say grid, or model.positions_grid")
    table = sincos_positions((side, side), encoder.width, row_first=encoder.positions == "moco_v3")
    table = np.concatenate([np.zeros((int(encoder.cls_token), encoder.width)), table])  # none of the class token
    return {names.positions: table[None].astype(np.float32)}


def check_fixed(model: Mapping[str, Any], theirs: str, arrays: Mapping[str, np.ndarray]) -> set[str]:
    """Names of a file's arrays that say again what ``model`` has fixed, which :func:`fixed` makes.

    Raises:
      ValueError: the positions there are others.
    """
    encoder, names = _module(model), _library(theirs)[0]
    if names.positions not in arrays:
        return set()
    shape = arrays[names.positions].shape
    wanted = fixed(model, theirs, grid=_positions(names, {names.positions: shape}, encoder.cls_token)["positions_grid"])
    for name, table in wanted.items():
        there = np.asarray(arrays[name], np.float64)
        off = np.abs(there - table).max() if there.shape == table.shape else np.inf
        if not off <= 1e-3:
            raise ValueError(
                f"{name} is not the fixed table of model.positions={model['positions']!r} (off by {off:.2g}); "
                "if it was trained, add --model.positions=learned"
            )
    return set(wanted)
