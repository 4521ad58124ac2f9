"""VGG-16, ResNet-50 to 152, DenseNet-121 and MobileNetV2 of keras.applications: which one a file's arrays are, and
their names beside ours.

Source of names, numbers and order: keras-team/keras, ``keras/src/applications``, and ``keras/src/saving``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax import models
from ssl_jax.interop.pairs import Missing, Pair, lacking
from ssl_jax.interop.projects import HALVES, IMAGENET
from ssl_jax.models import mobilenet, vgg

Shapes = Mapping[str, tuple[int, ...]]
Table = list[Pair]

# Keras takes from a pixel of 0 to 255 the mean of its colour, blue first, and divides by nothing.
CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3
STATISTICS = {"vgg": CAFFE, "resnet": CAFFE, "densenet": IMAGENET, "mobilenet": HALVES}

_TURNED = "its first kernel reads red first now, not blue"
_EPS = "what its normalisations add to a variance (eps) is in the variances, less 1e-5, which ours add"
CHANGED = {"vgg": _TURNED, "densenet": _EPS, "mobilenet": _EPS}
CHANGED["resnet"] = f"{_TURNED}; biases before a normalisation are in its mean; {_EPS}"

# Of a layer's arrays in the order in which Keras 3 numbers them.
_CONV = ("kernel", "bias")
PARTS = {"conv2d": _CONV, "depthwise_conv2d": _CONV, "dense": _CONV}
PARTS |= {"batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance")}
NUMBERED = r"(?:layers|_layer_checkpoint_dependencies)/(\w+)/vars"
LAST = ("predictions", "probs", "fc1000", "Logits")  # Keras's name of the classifier, today and in its older files

# Regular expressions of names -> networks of Keras that are none of ours.
OTHERS = {
    r"conv2_block1_preact_bn/\w+": "a ResNet V2 of Keras (pre-activation)",
    r"res2a_branch2a/\w+": "Keras's ResNet-50 of before 2019 (another stem)",
    r"block1a_\w+/\w+": "an EfficientNet of Keras",
    r"block2_sepconv1/\w+": "Xception of Keras",
    r"stem_bn1/\w+": "a NASNet of Keras",
    r"convnext_\w+/\w+": "a ConvNeXt of Keras",
    r"conv_dw_1/\w+": "MobileNet V1 of Keras",
    r"(expanded_conv|expanded_conv/squeeze_excite|expanded_conv_squeeze_excite)(_3)?_?/?(expand|conv|squeeze_excite_conv)"
    r"/\w+": "MobileNetV3 of Keras",
    r"conv_7b/\w+": "Inception-ResNet V2 of Keras",
    r"conv2d_9\d/kernel": "Inception v3 of Keras",
}


def called(path: str, layers: Mapping[str, str]) -> str:
    """The name of an array of an HDF5 file as its layer and its part, "conv1_conv/kernel"; another file's as it is.

    Args:
      path: in the file: ``model_weights/LAYER/LAYER/kernel:0`` or ``LAYER/LAYER/kernel``, in files of Keras 1
        ``LAYER/LAYER_W_1:0``; ``layers/conv2d_1/vars/0`` of Keras 3.
      layers: path of a layer's group -> name of the layer, which Keras 3 writes beside its arrays.
    """
    group, _, number = path.rpartition("/")
    if found := re.fullmatch(rf"(.*/)?{NUMBERED}", group):
        parts = PARTS.get(re.sub(r"_\d+$", "", found[2]), ())
        if group in layers:
            part = dict(enumerate(parts)).get(int(number), number) if number.isdecimal() else number
            return f"{found[1] or ''}{layers[group]}/{part}"
        return path
    layer, _, part = path.removeprefix("model_weights/").removesuffix(":0").rpartition("/")
    half = layer[: len(layer) // 2]
    if half and layer == f"{half}/{half}":
        layer = half.replace("/", "_")  # "conv1/conv" until 2019, "conv1_conv" today
    if old := re.fullmatch(rf"{re.escape(layer)}_(W|b)(_\d+)?", part):
        part = {"W": "kernel", "b": "bias"}[old[1]]
    part = "kernel" if part == "depthwise_kernel" else part
    return f"{layer}/{part}" if layer else part


def _conv(ours: str, theirs: str, layout: str = "same", *, bias: bool = False) -> Table:
    found = [Pair(f"params/{ours}/kernel", (f"{theirs}/kernel",), layout)]
    return found + ([Pair(f"params/{ours}/bias", (f"{theirs}/bias",))] if bias else [])


def _norm(ours: str, theirs: str, eps: str, conv: str = "") -> Table:
    """A normalisation, with the bias of the convolution before it, where that has one, in its mean."""
    state = f"model_state/batch_stats/{ours}"
    mean = (f"{theirs}/moving_mean", *([f"{conv}/bias"] if conv else []))
    return [
        Pair(f"params/{ours}/scale", (f"{theirs}/gamma",)),
        Pair(f"params/{ours}/bias", (f"{theirs}/beta",)),
        Pair(f"{state}/mean", mean, "minus" if conv else "same"),
        Pair(f"{state}/var", (f"{theirs}/moving_variance",), f"eps{eps}"),
    ]


def _resnet(encoder: models.ResNet) -> Table:
    def both(ours: str, theirs: str, number: str, layout: str = "same") -> Table:
        where = re.sub(r"(conv|norm)$", "", ours)
        conv, norm = (f"{where}{kind}{number}" for kind in ("conv", "norm"))
        return _conv(conv, f"{theirs}_conv", layout) + _norm(norm, f"{theirs}_bn", "1.001e-5", f"{theirs}_conv")

    found = both("stem_", "conv1", "", "bgr")
    for k, count in enumerate(encoder.blocks, 1):
        for b in range(count):
            ours, theirs = f"stage{k}_block{b}/", f"conv{k + 1}_block{b + 1}"
            found += both(f"{ours}shortcut_", f"{theirs}_0", "") if b == 0 else []
            for n in (1, 2, 3):
                found += both(ours, f"{theirs}_{n}", f"{n}")
    return found


def _densenet(encoder: models.DenseNet) -> Table:
    def norm(ours: str, theirs: str) -> Table:
        return _norm(ours, theirs, "1.001e-5")

    found = _conv("stem_conv", "conv1_conv") + norm("stem_norm", "conv1_bn")
    for k, count in enumerate(encoder.blocks, 1):
        if k > 1:
            found += norm(f"stage{k}_transition/norm", f"pool{k}_bn")
            found += _conv(f"stage{k}_transition/conv", f"pool{k}_conv")
        for i in range(count):
            ours, theirs = f"stage{k}_layer{i}", f"conv{k + 1}_block{i + 1}"
            for n in (1, 2):
                found += norm(f"{ours}/norm{n}", f"{theirs}_{n - 1}_bn") + _conv(
                    f"{ours}/conv{n}", f"{theirs}_{n}_conv"
                )
    return found + norm(f"stage{encoder.stages}_norm", "bn")


def _mobilenet(encoder: models.MobileNetV2) -> Table:
    def both(ours: str, theirs: str, layout: str = "same") -> Table:
        found = _conv(ours, theirs, layout)
        return found + _norm(ours.replace("conv", "norm"), f"{theirs}_BN", "1e-3")

    found = _conv("stem_conv", "Conv1") + _norm("stem_norm", "bn_Conv1", "1e-3")
    number = 0
    for k, blocks in enumerate(mobilenet.BLOCKS, 1):
        for i in range(len(blocks)):
            theirs = f"block_{number}_" if number else "expanded_conv_"  # which does not expand
            found += both(f"stage{k}_block{i}/conv1", f"{theirs}expand") if number else []
            found += both(f"stage{k}_block{i}/conv2", f"{theirs}depthwise", "depthwise")
            found += both(f"stage{k}_block{i}/conv3", f"{theirs}project")
            number += 1
    last = f"stage{len(mobilenet.BLOCKS)}"
    return found + _conv(f"{last}_conv", "Conv_1") + _norm(f"{last}_norm", "Conv_1_bn", "1e-3")


def _vgg(encoder: models.VGG) -> Table:
    found = []
    for k, count in enumerate(encoder.blocks):
        for i in range(count):
            layout = "same" if k or i else "bgr"
            name = f"stage{k}_block" if k else "stem_block"
            found += _conv(f"{name}/conv{i}", f"block{k + 1}_conv{i + 1}", layout, bias=True)
    for n in (1, 2) if encoder.hidden else ():
        found += _conv(f"stage{n + 4}_dense", f"fc{n}", bias=True)
    return found


TABLES: dict[str, Callable[..., Table]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "densenet": _densenet,
    "mobilenet": _mobilenet,
}


def size(config: str | None) -> int | None:
    """The side of the images that a model is for, by the ``model_config`` in its ``.h5``; None where it says none."""
    found = re.search(r'"batch_(?:input_)?shape": \[null, (\d{2,4}), (\d{2,4}), 3\]', config or "")
    return int(found[1]) if found and found[1] == found[2] else None


def family(name: str) -> str:
    """A key of :data:`TABLES` and :data:`STATISTICS` by ``model.name``: "vgg16" -> "vgg"."""
    return re.split(r"[_\d]", name)[0]


def pairs(model: Mapping[str, Any], theirs: str = LAST[0], *, classifier: bool = False) -> Table:
    """Our arrays of a network beside Keras's names, as :func:`called` gives them.

    What ours has not stands in what it has, so that features are the same: the bias of a convolution before a
    normalisation in its mean, another eps in its variance; channels from blue to red in the first kernel.

    Args:
      model: ``config.model``.
      theirs: the name of the classifier's layer, one of :data:`LAST`.
      classifier: with the last layer, ours "classifier/kernel" ``[dim, classes]`` and "classifier/bias".
    """
    fields = dict(model)
    found = TABLES[family(model["name"])](models.make(fields.pop("name"), **fields))
    last = [Pair("classifier/kernel", (f"{theirs}/kernel",)), Pair("classifier/bias", (f"{theirs}/bias",))]
    return found + (last if classifier else [])


def library(shapes: Shapes) -> str:
    """What the layer of the classifier is called."""
    return next((name for name in LAST if f"{name}/kernel" in shapes), LAST[0])


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """The ``config.model`` that arrays are, by their names and shapes; None where they are none of these networks.

    Raises:
      ValueError: a network of these families that ours cannot hold: VGG-19, other DenseNets, other widths.
    """
    for find in (_find_resnet, _find_densenet, _find_mobilenet, _find_vgg):
        if model := find(shapes):
            table = pairs(model)
            if missing := lacking(table, shapes):
                raise Missing(f"nearest to Keras's {model['name']}, of whose {len(table)} arrays it lacks {missing}")
            return model
    return None


def _blocks(shapes: Shapes, last: str) -> tuple[int, ...]:
    """How many blocks the stages have that end so."""
    names = [re.fullmatch(rf"conv(\d)_block\d+_{last}", name) for name in shapes]
    stages = [int(match[1]) for match in names if match]
    return tuple(stages.count(k) for k in range(2, 6))


def _find_resnet(shapes: Shapes) -> dict[str, Any] | None:
    blocks = _blocks(shapes, "3_conv/kernel")
    if not sum(blocks) or "conv2_block1_preact_bn/gamma" in shapes:
        return None
    if shapes.get("conv2_block1_2_conv/kernel", (0,) * 4)[2:] != (64, 64):
        raise ValueError("a ResNeXt of Keras; only its ResNets are known")
    for name in ("resnet50", "resnet101", "resnet152"):
        if models.ENCODERS[name].keywords["blocks"] == blocks:
            return {"name": name, "stem": "imagenet", "stride_first": True}
    raise ValueError(f"a ResNet of Keras of {list(blocks)} blocks; known: resnet50, resnet101, resnet152")


def _find_densenet(shapes: Shapes) -> dict[str, Any] | None:
    if "pool2_conv/kernel" not in shapes:
        return None
    blocks, known = _blocks(shapes, "2_conv/kernel"), models.ENCODERS["densenet121"].keywords["blocks"]
    if blocks != known:
        raise ValueError(f"a DenseNet of Keras of {list(blocks)} layers; densenet121 has {list(known)}")
    return {"name": "densenet121"}


def _find_mobilenet(shapes: Shapes) -> dict[str, Any] | None:
    if "Conv1/kernel" not in shapes or "expanded_conv_depthwise/kernel" not in shapes:
        return None
    widths = [shapes.get(name, (0,))[-1] for name in ("Conv1/kernel", "block_16_project/kernel")]
    known = [mobilenet.STEM, mobilenet.BLOCKS[-1][-1][0]]
    if widths != known:
        raise ValueError(f"a MobileNetV2 of Keras of {widths} channels at first and last; known is that of {known}")
    return {"name": "mobilenet_v2", "padding": "same"}


def _find_vgg(shapes: Shapes) -> dict[str, Any] | None:
    if "block1_conv1/kernel" not in shapes or "block2_sepconv1_bn/gamma" in shapes:
        return None
    known = models.ENCODERS["vgg16"].keywords["blocks"]
    names = [re.fullmatch(r"block(\d)_conv\d/kernel", name) for name in shapes]
    blocks = tuple([int(match[1]) for match in names if match].count(k) for k in range(1, 6))
    if blocks != known:
        raise ValueError(f"a VGG of Keras of {list(blocks)} convolutions; vgg16 has {list(known)}")
    hidden = shapes.get("fc1/bias", (0,))[0]  # 0: without the top
    return {"name": "vgg16"} | ({} if hidden == vgg.VGG.hidden else {"hidden": hidden})
