"""AlexNet, VGG, SqueezeNet, DenseNet-121 and MobileNetV2 of torchvision and timm: which one a file's arrays are, and
their names beside ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.interop.pairs import Pair, lacking
from ssl_jax.models import alexnet, mobilenet, squeezenet, vgg
from ssl_jax.types import Array

Shapes = Mapping[str, tuple[int, ...]]
Table = list[Pair]

CLASSIFIERS = {"alexnet": "classifier.6", "vgg": "classifier.6", "densenet": "classifier"}
CLASSIFIERS |= {"squeezenet": "classifier.1", "mobilenet": "classifier.1"}
OF_TIMM = {"vgg": "head.fc", "densenet": "classifier", "mobilenet": "classifier"}


def _kernel(ours: str, theirs: str, layout: str = "conv", *, bias: bool = False) -> Table:
    found = [Pair(f"params/{ours}/kernel", (f"{theirs}.weight",), layout)]
    return found + ([Pair(f"params/{ours}/bias", (f"{theirs}.bias",))] if bias else [])


def _norm(ours: str, theirs: str) -> Table:
    parts = {"params/{}/scale": "weight", "params/{}/bias": "bias"}
    parts |= {f"model_state/batch_stats/{{}}/{a}": f"running_{a}" for a in ("mean", "var")}
    return [Pair(o.format(ours), (f"{theirs}.{t}",)) for o, t in parts.items()]


def _alexnet(encoder: models.AlexNet, theirs: str) -> Table:
    found = []
    for k, number in enumerate((0, 3, 6, 8, 10)):
        found += _kernel(f"stage{k}_conv" if k else "stem_conv", f"features.{number}", bias=True)
    return [*found, *_wide_layers(alexnet.CELLS, 1, 4)]


def _wide_layers(cells: int, *numbers: int) -> Table:
    """Two layers on a flattened map."""
    first, second = (f"classifier.{number}" for number in numbers)
    layout = f"rows{cells}"
    return _kernel("stage5_dense", first, layout, bias=True) + _kernel("stage6_dense", second, "dense", bias=True)


def _vgg(encoder: models.VGG, theirs: str) -> Table:
    found, number = [], 0
    for k, count in enumerate(encoder.blocks):
        for i in range(count):
            block = f"stage{k}_block" if k else "stem_block"
            found += _kernel(f"{block}/conv{i}", f"features.{number}", bias=True)
            if encoder.batch_norm:
                found += _norm(f"{block}/norm{i}", f"features.{number + 1}")
            number += 3 if encoder.batch_norm else 2  # with its ReLU
        number += 1  # the pool
    return [*found, *(_wide_convolutions(encoder.hidden) if theirs == "timm" else _wide_layers(vgg.CELLS, 0, 3))]


def _wide_convolutions(hidden: int) -> Table:
    """timm's two layers, which are convolutions over the whole map and over one place."""
    shape = hidden, vgg.WIDTHS[-1], vgg.CELLS, vgg.CELLS
    return [
        Pair("params/stage5_dense/kernel", ("pre_logits.fc1.weight",), f"rows{vgg.CELLS}", shape),
        Pair("params/stage5_dense/bias", ("pre_logits.fc1.bias",)),
        *_kernel("stage6_dense", "pre_logits.fc2", "1x1", bias=True),
    ]


def _squeezenet(encoder: models.SqueezeNet, theirs: str) -> Table:
    found, number = _kernel("stem_conv", "features.0", bias=True), 2
    for k, widths in enumerate(squeezenet.VERSIONS[encoder.version][2], 1):
        number += 1  # the pool
        for i in range(len(widths)):
            for ours, name in {"squeeze": "squeeze", "expand1": "expand1x1", "expand3": "expand3x3"}.items():
                found += _kernel(f"stage{k}_block{i}/{ours}", f"features.{number}.{name}", bias=True)
            number += 1
    return found


def _densenet(encoder: models.DenseNet, theirs: str) -> Table:
    dot = "." if theirs == "old" else ""  # norm.1 in files from before 2019
    found = _kernel("stem_conv", "features.conv0") + _norm("stem_norm", "features.norm0")
    for k, count in enumerate(encoder.blocks, 1):
        if k > 1:
            found += _norm(f"stage{k}_transition/norm", f"features.transition{k - 1}.norm")
            found += _kernel(f"stage{k}_transition/conv", f"features.transition{k - 1}.conv")
        for i in range(count):
            layer = f"features.denseblock{k}.denselayer{i + 1}"
            for n in (1, 2):
                found += _norm(f"stage{k}_layer{i}/norm{n}", f"{layer}.norm{dot}{n}")
                found += _kernel(f"stage{k}_layer{i}/conv{n}", f"{layer}.conv{dot}{n}")
    return found + _norm(f"stage{encoder.stages}_norm", f"features.norm{encoder.stages + 1}")


def _mobilenet(encoder: models.MobileNetV2, theirs: str) -> Table:
    if theirs == "timm":
        return _mobilenet_of_timm()
    found = _kernel("stem_conv", "features.0.0") + _norm("stem_norm", "features.0.1")
    number = 0
    for k, blocks in enumerate(mobilenet.BLOCKS, 1):
        for i in range(len(blocks)):
            number += 1
            inner = (1, 2, 3) if k > 1 else (2, 3)  # convolutions: the first block does not expand
            for place, n in enumerate(inner):
                conv, norm = f"conv.{place}.0", f"conv.{place}.1"  # one Sequential with its ReLU in a Sequential
                if n == 3:
                    conv, norm = f"conv.{place}", f"conv.{place + 1}"
                if theirs == "old":  # all in one Sequential
                    conv, norm = f"conv.{3 * place}", f"conv.{3 * place + 1}"
                found += _kernel(f"stage{k}_block{i}/conv{n}", f"features.{number}.{conv}")
                found += _norm(f"stage{k}_block{i}/norm{n}", f"features.{number}.{norm}")
    last = f"features.{number + 1}"
    return found + _kernel(f"stage{k}_conv", f"{last}.0") + _norm(f"stage{k}_norm", f"{last}.1")


def _mobilenet_of_timm() -> Table:
    """The same in the words of EfficientNets: a group of blocks for each width, a convolution called by its kind."""
    found, group, number, before = _kernel("stem_conv", "conv_stem") + _norm("stem_norm", "bn1"), -1, 0, 0
    for k, blocks in enumerate(mobilenet.BLOCKS, 1):
        for i, (width, _) in enumerate(blocks):
            group, number = (group, number + 1) if width == before else (group + 1, 0)
            before = width
            words = {1: "pw", 2: "dw", 3: "pwl"} if k > 1 else {2: "dw", 3: "pw"}  # the first block does not expand
            for place, (n, word) in enumerate(words.items(), 1):
                found += _kernel(f"stage{k}_block{i}/conv{n}", f"blocks.{group}.{number}.conv_{word}")
                found += _norm(f"stage{k}_block{i}/norm{n}", f"blocks.{group}.{number}.bn{place}")
    last = len(mobilenet.BLOCKS)
    return found + _kernel(f"stage{last}_conv", "conv_head") + _norm(f"stage{last}_norm", "bn2")


TABLES: dict[str, Callable[..., Table]] = {
    "alexnet": _alexnet,
    "vgg": _vgg,
    "squeezenet": _squeezenet,
    "densenet": _densenet,
    "mobilenet": _mobilenet,
}
LIBRARIES = {
    "alexnet": ("torchvision",),
    "vgg": ("torchvision", "timm"),
    "squeezenet": ("torchvision",),
    "densenet": ("torchvision", "timm", "old"),
    "mobilenet": ("torchvision", "timm", "old"),
}


def family(name: str) -> str:
    """A key of :data:`TABLES` by ``model.name``: "vgg16_bn" -> "vgg"; the name itself where it is none of these."""
    found = re.match("[a-z]+", name)
    return found[0] if found and found[0] in TABLES else name


def pairs(model: Mapping[str, Any], theirs: str = "torchvision", *, classifier: bool = False) -> list[Pair]:
    """Our arrays of a network beside torchvision's names.

    Args:
      model: ``config.model``.
      theirs: "torchvision", "timm" (of VGG, DenseNet and MobileNetV2), or "old" for files that earlier versions of
        DenseNet ("norm.1") and MobileNetV2 (a block as one ``Sequential``) have left.
      classifier: with the last layer, ours "classifier/kernel" ``[dim, classes]`` and "classifier/bias"; how logits are
        made of it is :func:`logits`.

    Raises:
      ValueError: another network, or names that it never had.
    """
    kind = family(model["name"])
    if kind not in TABLES:
        raise ValueError(f"model.name={kind!r} is none of {', '.join(TABLES)}")
    if theirs not in LIBRARIES[kind]:
        raise ValueError(f"theirs={theirs!r} names no {kind}; known: {', '.join(LIBRARIES[kind])}")
    fields = dict(model)
    found = TABLES[kind](models.make(fields.pop("name"), **fields), theirs)
    if classifier:
        layout, name = "1x1" if kind == "squeezenet" else "dense", (OF_TIMM if theirs == "timm" else CLASSIFIERS)[kind]
        found += [Pair("classifier/kernel", (f"{name}.weight",), layout), Pair("classifier/bias", (f"{name}.bias",))]
    return found


def logits(model: Mapping[str, Any], outputs: Mapping[str, Array], classifier: Mapping[str, Any]) -> Array:
    """Logits ``[b, classes]`` of what an encoder gave, by an imported last layer W, b.

    ``h W + b`` of the features h; of SqueezeNet, whose classifier is a convolution with ReLU before the pooling, the
    mean over the places of ``max(0, x W + b)`` of its last map x, none of which is negative.

    Args:
      model: ``config.model``; any encoder.
      outputs: of the encoder, ``models.forward``.
      classifier: {"kernel" [dim, classes], "bias" [classes]}.
    """
    kernel, bias = (jnp.asarray(classifier[name]) for name in ("kernel", "bias"))
    if family(model["name"]) == "squeezenet":
        x = models.deepest(outputs).astype(kernel.dtype)
        return nn.relu(x @ kernel + bias[None, None, None]).mean((1, 2))
    return outputs["features"].astype(kernel.dtype) @ kernel + bias[None]


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """The ``config.model`` that arrays are, by their names and shapes; None where they are none of these networks.

    Args:
      shapes: name -> shape, without what stands before the names of the network.

    Raises:
      ValueError: a network of these families that ours cannot hold: VGG-13 and 19, other DenseNets, other widths.
    """
    for find in (_find_densenet, _find_mobilenet, _find_squeezenet, _find_alexnet, _find_vgg):
        if found := find(shapes):
            return found
    return None


def library(shapes: Shapes) -> str:
    """Whose names the arrays of a recognised network have: "torchvision", "timm" or "old"."""
    if "pre_logits.fc1.weight" in shapes or "conv_stem.weight" in shapes:
        return "timm"
    old = r"features\.denseblock1\.denselayer1\.norm\.1\.weight|features\.1\.conv\.0\.weight"
    return "old" if any(re.fullmatch(old, name) for name in shapes) else "torchvision"


def _find_densenet(shapes: Shapes) -> dict[str, Any] | None:
    counts = []
    while (count := _count(shapes, rf"features\.denseblock{len(counts) + 1}\.denselayer\d+\.conv\.?2\.weight")) > 0:
        counts.append(count)
    if not counts:
        return None
    known = models.ENCODERS["densenet121"].keywords["blocks"]
    growth = max(_rows(shapes, f"features.denseblock1.denselayer1.conv{dot}2.weight") for dot in ("", "."))
    if (tuple(counts), growth) != (known, 32):
        raise ValueError(f"a DenseNet of {counts} layers that add {growth} channels; densenet121 has {list(known)}, 32")
    return {"name": "densenet121"}


def _find_mobilenet(shapes: Shapes) -> dict[str, Any] | None:
    if "conv_stem.weight" in shapes and not lacking(_mobilenet_of_timm(), shapes):
        return {"name": "mobilenet_v2"}
    if not any(re.fullmatch(r"features\.1\.conv\.0(\.0)?\.weight", name) for name in shapes):
        return None
    width, last = (_rows(shapes, f"features.{n}.0.weight") for n in (0, 18))
    if (width, last) != (mobilenet.STEM, mobilenet.LAST):
        raise ValueError(
            f"a MobileNetV2 of {width} channels at first and {last} at last; known is that of {mobilenet.STEM} and "
            f"{mobilenet.LAST}"
        )
    return {"name": "mobilenet_v2"}


def _find_squeezenet(shapes: Shapes) -> dict[str, Any] | None:
    if "features.3.squeeze.weight" not in shapes:
        return None
    stem = shapes.get("features.0.weight")
    for version, (width, kernel, *_) in squeezenet.VERSIONS.items():
        if stem == (width, 3, kernel, kernel):
            return {"name": f"squeezenet{version.replace('.', '_')}"}
    raise ValueError(
        f"a SqueezeNet whose features.0.weight is {stem}; known: versions {', '.join(squeezenet.VERSIONS)}"
    )


def _find_alexnet(shapes: Shapes) -> dict[str, Any] | None:
    stem = shapes.get("features.0.weight", ())
    if stem[2:] != (11, 11):
        return None
    widths = [_rows(shapes, f"features.{n}.weight") for n in (0, 3, 6, 8, 10)]
    known = [size[0] for size in alexnet.SIZES]
    if widths != known:
        raise ValueError(f"an AlexNet of {widths} channels at features.0, 3, 6, 8, 10; torchvision's has {known}")
    return {"name": "alexnet"} | _hidden(shapes, "classifier.1.weight")


def _find_vgg(shapes: Shapes) -> dict[str, Any] | None:
    stem = shapes.get("features.0.weight", ())
    convs = _count(shapes, r"features\.\d+\.weight", ndim=4)
    if stem[2:] != (3, 3) or convs < 8 or _count(shapes, r"features\.\d+\.weight", last=(3, 3)) != convs:
        return None
    model = {"name": f"vgg{convs + 3}{'_bn' if 'features.1.running_mean' in shapes else ''}"}
    if model["name"] not in models.ENCODERS or stem[0] != vgg.WIDTHS[0]:
        raise ValueError(f"{model['name']} of {stem[0]} channels at first; known: vgg11 and vgg16, plain or _bn, of 64")
    return model | _hidden(shapes, "pre_logits.fc1.weight" if library(shapes) == "timm" else "classifier.0.weight")


def _count(shapes: Shapes, pattern: str, *, ndim: int = 4, last: tuple[int, ...] = ()) -> int:
    """How many arrays are called so, with so many axes of which the last are so long."""
    found = (shape for name, shape in shapes.items() if re.fullmatch(pattern, name))
    return sum(len(shape) == ndim and shape[ndim - len(last) :] == last for shape in found)


def _hidden(shapes: Shapes, name: str) -> dict[str, int]:
    width = _rows(shapes, name)
    return {"hidden": width} if width not in (0, 4096) else {}


def _rows(shapes: Shapes, name: str) -> int:
    """Length of an array's first axis, 0 where it has none or is not there."""
    return next(iter(shapes.get(name, ())), 0)
