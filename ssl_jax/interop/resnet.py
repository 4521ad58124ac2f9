"""ResNets of other libraries: which one a file's arrays are, and their names beside ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from ssl_jax import models
from ssl_jax.interop.pairs import Missing, Pair, lacking

Shapes = Mapping[str, tuple[int, ...]]


class Names(NamedTuple):
    """How a library calls the parts of a ResNet.

    Attributes:
      stem, shortcut: (convolution, normalisation); ``{i}`` counts all of them as they are made, "", "_1", ...
      block: what begins the names of a block, of stage ``{s}`` and block ``{b}``, which counts from 0.
      inner: (convolution, normalisation) number ``{n}`` of a block.
      classifier: its name; None: there it is no part of the network.
      first: numbers of the first stage and of the first convolution of a block.
      parts: what ends the names of a kernel, of scale, bias, mean and variance, of a classifier's kernel and bias.
      layouts: of a kernel, of the arrays of a normalisation, of a classifier's kernel.
    """

    stem: tuple[str, str]
    block: str
    inner: tuple[str, str]
    shortcut: tuple[str, str]
    classifier: str | None
    first: tuple[int, int] = (1, 1)
    parts: tuple[str, ...] = (".weight", ".weight", ".bias", ".running_mean", ".running_var", ".weight", ".bias")
    layouts: tuple[str, str, str] = ("conv", "same", "dense")


_TORCH = Names(("conv1", "bn1"), "layer{s}.{b}.", ("conv{n}", "bn{n}"), ("downsample.0", "downsample.1"), "fc")
_CIFAR = _TORCH._replace(shortcut=("shortcut.0", "shortcut.1"), classifier="linear")
_COUNTED = ("conv2d{i}", "batch_normalization{i}")

LIBRARIES = {
    "torchvision": _TORCH,  # and timm
    "cifar": _CIFAR,  # what many codes for images of 32 x 32 derive from
    # The two as nn.Sequential of their children, the latter without its classifier: lightly's own network.
    "children": _TORCH._replace(stem=("0", "1"), block="{s}.{b}.", classifier=None, first=(4, 1)),
    "lightly": _CIFAR._replace(stem=("0", "1"), block="{s}.{b}.", classifier=None, first=(2, 1)),
    "transformers": Names(
        ("embedder.embedder.convolution", "embedder.embedder.normalization"),
        "encoder.stages.{s}.layers.{b}.",
        ("layer.{n}.convolution", "layer.{n}.normalization"),
        ("shortcut.convolution", "shortcut.normalization"),
        "classifier.1",
        first=(0, 0),
    ),
    "haiku": Names(
        ("res_net{depth}/~/initial_conv", "res_net{depth}/~/initial_batchnorm"),
        "res_net{depth}/~/block_group_{s}/~/block_{b}/~/",
        ("conv_{n}", "batchnorm_{n}"),
        ("shortcut_conv", "shortcut_batchnorm"),
        "classifier",
        first=(0, 0),
        parts=("/w", "/scale", "/offset", "/~/mean_ema/average", "/~/var_ema/average", "/w", "/b"),
        layouts=("same", "flat", "same"),
    ),
    "simclr": Names(
        *(_COUNTED, "", _COUNTED, _COUNTED, "head_supervised/linear_layer/dense"),
        parts=("/kernel", "/gamma", "/beta", "/moving_mean", "/moving_variance", "/kernel", "/bias"),
        layouts=("same", "same", "same"),
    ),
}
NORMS = ("params/{}/scale", "params/{}/bias", "model_state/batch_stats/{}/mean", "model_state/batch_stats/{}/var")

RESNETS = {k: v for k, v in models.ENCODERS.items() if isinstance(v, partial) and v.func is models.ResNet}

# Regular expressions of names that only other networks have -> what these are.
OTHERS = {
    r"conv1\.0\.weight|conv2\.weight": "a stem of three convolutions (ResNet-C, -D or -S, CLIP)",
    r"layer\d\.\d+\.(se|attn|convs)\..*": "blocks with squeeze and excitation or parts of their own",
    r"stem\.conv\.weight|(.*/)?standardized_conv2d/kernel|embedder\.convolution\.weight": "pre-activation (BiT)",
}


def pairs(model: Mapping[str, Any], theirs: str = "torchvision", *, classifier: bool = False) -> list[Pair]:
    """Our arrays of a ResNet beside a library's names, in the order of their creation in SimCLR's code.

    Args:
      model: ``config.model``.
      theirs: the library, a key of :data:`LIBRARIES`.
      classifier: with a linear layer on the features, ours "classifier/kernel" and "classifier/bias".

    Raises:
      ValueError: another library, or one whose file has no classifier with the network.

    Source of the names: the libraries and google-research/simclr, deepmind/deepmind-research (byol),
    akamaster/pytorch_resnet_cifar10, lightly-ai/lightly.
    """
    if theirs not in LIBRARIES:
        raise ValueError(f"theirs={theirs!r} names no ResNets; known: {', '.join(LIBRARIES)}")
    names = LIBRARIES[theirs]
    if classifier and names.classifier is None:
        raise ValueError(f"ResNets by the names of {theirs!r} have no classifier; read one without")
    kernel, norms, (kernels, arrays, dense) = names.parts[0], names.parts[1:5], names.layouts
    found = []
    for conv, norm, their_conv, their_norm, width in _parts(model, names):
        found.append(Pair(f"params/{conv}/kernel", (their_conv + kernel,), kernels))
        shape = (1, 1, 1, width) if arrays == "flat" else None
        found += [
            Pair(ours.format(norm), (their_norm + part,), arrays, shape)
            for ours, part in zip(NORMS, norms, strict=True)
        ]
    if classifier:
        found.append(Pair("classifier/kernel", (f"{names.classifier}{names.parts[5]}",), dense))
        found.append(Pair("classifier/bias", (f"{names.classifier}{names.parts[6]}",)))
    return found


def _parts(model: Mapping[str, Any], names: Names) -> Iterator[tuple[str, str, str, str, int]]:
    """(our convolution, our normalisation, theirs, theirs, channels) of every convolution."""
    fields = dict(model)
    encoder: Any = models.make(fields.pop("name"), **fields)
    depth, count = _depth(model["name"]), 0

    def named(part: tuple[str, str], block: str = "", **numbers: int) -> tuple[str, str]:
        nonlocal count
        counted = f"_{count}" if count else ""
        count += 1
        conv, norm = ((block + word).format(**numbers, i=counted, depth=depth) for word in part)
        return conv, norm

    width = encoder.channels(0)
    yield "stem_conv", "stem_norm", *named(names.stem), width
    inner = 3 if encoder.bottleneck else 2
    for k, blocks in enumerate(encoder.blocks):
        width = encoder.channels(k)
        wide = 4 * width if encoder.bottleneck else width
        for b in range(blocks):
            ours, where = f"stage{k + 1}_block{b}", {"s": k + names.first[0], "b": b}
            if b == 0 and encoder.projects(k):
                yield (
                    f"{ours}/shortcut_conv",
                    f"{ours}/shortcut_norm",
                    *named(names.shortcut, names.block, **where),
                    wide,
                )
            for n in range(inner):
                theirs = named(names.inner, names.block, **where, n=n + names.first[1])
                yield f"{ours}/conv{n + 1}", f"{ours}/norm{n + 1}", *theirs, wide if n == 2 else width


def _depth(name: str) -> str:
    return name.removeprefix("resnet")


def library(shapes: Shapes) -> str | None:
    """Whose names a ResNet's arrays have, a key of :data:`LIBRARIES`; None where they are no ResNet that is known."""
    best = _best(shapes)
    return best[0] if best else None


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """The ``config.model`` that arrays are, by their names and shapes; None where they are no ResNet.

    Args:
      shapes: name -> shape, without what stands before the names of the network.

    Returns:
      ``{"name", "stem"}`` and, where they are not the default, ``"width"`` and ``"project_first"``; of a network for
      CIFAR-10 the name alone. Padding and strides leave no trace in shapes.

    Raises:
      ValueError: a ResNet that ours cannot hold: wide, grouped, with another stem or other blocks.
    """
    for pattern, what in OTHERS.items():
        if "layer1.0.conv1.weight" not in shapes and pattern.startswith("conv1"):
            continue
        if found := next((name for name in shapes if re.fullmatch(pattern, name)), None):
            raise ValueError(f"a ResNet with {what}, by {found}; only those that torchvision has are known")
    best = _best(shapes)
    if best is None:
        return None
    who, model, table = best
    if who == "transformers" and model.get("project_first"):
        raise ValueError(
            f"a {model['name']} of transformers with a shortcut in its first stage, which then strides there "
            "(downsample_in_first_stage); ours has no stride there"
        )
    if missing := lacking(table, shapes):
        raise Missing(
            f"nearest to a {model['name']} of {len(table)} arrays, of which it lacks {missing}; it is cut, or of "
            "another kind"
        )
    names = {name for pair in table for name in pair.theirs}
    block = re.sub(r"\\?\{\w+\\?\}", r"\\d+", re.escape(LIBRARIES[who].block or "conv2d"))
    if more := next((name for name in shapes if name not in names and re.match(block, name)), None):
        raise ValueError(f"more than a {model['name']}, by {more}; known: {', '.join(RESNETS)}")
    by_ours = {pair.ours: shapes[pair.theirs[0]] for pair in table}
    for pair in table:
        if pair.ours.endswith("/kernel") and len(by_ours[pair.ours]) != 4:
            raise ValueError(
                f"a {model['name']} whose {pair.theirs[0]} is {list(by_ours[pair.ours])}; a kernel has 4 axes"
            )
    torch = LIBRARIES[who].layouts[0] == "conv"
    stem, second = (
        (shape[2], shape[1], shape[0]) if torch else (shape[0], shape[2], shape[3])  # kernel, channels in and out
        for shape in (by_ours["params/stem_conv/kernel"], by_ours["params/stage1_block0/conv2/kernel"])
    )
    width = stem[2]
    if second[1:] != (width, width):
        what = "in groups (ResNeXt)" if second[1] < second[2] else "wider than the stem says (Wide ResNet)"
        raise ValueError(
            f"a {model['name']} whose 3 x 3 convolutions are {what}; only torchvision's plain ones are known"
        )
    stems = {7: "imagenet", 3: "cifar"}
    if stem[0] not in stems:
        raise ValueError(f"a ResNet with a stem of {stem[0]} x {stem[0]}; 7 x 7 and 3 x 3 are known")
    if "stem" not in models.arguments(model["name"]):
        if (stem[0], width) != (3, 16):
            raise ValueError(
                f"a {model['name']} whose stem is {stem[0]} x {stem[0]} to {width} channels; 3 x 3 to 16 is known"
            )
        return model
    times = {} if width == 64 else {"width": width // 64 if width % 64 == 0 else width / 64}
    return {"name": model["name"], "stem": stems[stem[0]]} | times | model


def _best(shapes: Shapes) -> tuple[str, dict[str, Any], list[Pair]] | None:
    """(library, config.model, table) nearest to a file: the most of its names, less those of which it has none.

    None where a file has neither a stem nor a first block, or less than a third of every table.
    """
    found = []
    for who, names in LIBRARIES.items():
        for name, maker in RESNETS.items():
            stem = (names.stem[0] + names.parts[0]).format(i="", depth=_depth(name))
            first = names.block.format(s=names.first[0], b=0, depth=_depth(name))
            if stem not in shapes and not (first and any(there.startswith(first) for there in shapes)):
                continue
            plain = "bottleneck" in maker.keywords or "shortcut" in maker.keywords
            for model in [{"name": name}] if plain else [{"name": name}, {"name": name, "project_first": True}]:
                table = pairs(model, who)
                there = sum(pair.theirs[0] in shapes for pair in table)
                score = 2 * there - len(table)
                if 3 * there > len(table):
                    found.append((score, f"{names.classifier}{names.parts[5]}" in shapes, who, model, table))
    return max(found, key=lambda one: one[:2])[2:] if found else None
