"""keras.applications' networks from both kinds of ``.h5``: logits as Keras's own, and nothing else is taken for one."""

from __future__ import annotations

import json
import re
import zlib
from functools import cache, partial
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import models
from ssl_jax.interop import classic, importing, keras, pairs
from tests.oracles.make_keras import NETS, draw, image

ORACLES = np.load(Path(__file__).with_name("oracles") / "keras.npz")
MODELS = {
    "vgg16": {"name": "vgg16", "hidden": 32},
    "vgg16_notop": {"name": "vgg16", "hidden": 0},
    "resnet50": {"name": "resnet50", "stem": "imagenet", "stride_first": True},
    "densenet121": {"name": "densenet121"},
    "mobilenet_v2": {"name": "mobilenet_v2", "padding": "same"},
}
SLOW = ("resnet50", "densenet121")


@cache
def names() -> dict:
    return json.loads(zlib.decompress(ORACLES["names"].tobytes()))


@cache
def drawn(name: str, *shape: int) -> np.ndarray:
    return draw(name, shape)


def write(file, case, ending="h5", path_of=lambda path: path, without=None, layers=True):
    """A file as Keras wrote it, every array drawn by what Keras calls it."""
    found = names()[case][ending]
    with h5py.File(file, "w") as h5:
        for path, (name, shape) in found["arrays"].items():
            if without is None or not re.fullmatch(without, name):
                h5[path_of(path)] = drawn(name, *shape)
        for path, name in found["layers"].items() if layers else ():
            h5.require_group(path).attrs["name"] = name
    return file


def logits(found, case):
    fields = dict(found.model)
    encoder = models.make(fields.pop("name"), **fields)
    mean, std = (np.asarray(numbers, np.float32) for numbers in found.statistics)
    x = (image(NETS[case][1]).astype(np.float32) / 255 - mean) / std
    forward = jax.jit(partial(models.forward, encoder, train=False))
    outputs = forward(found.params, found.model_state, jnp.asarray(x))[0]
    return outputs["features"] if found.classifier is None else classic.logits(found.model, outputs, found.classifier)


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in NETS])
def test_logits_are_those_of_keras(case, tmp_path):
    found = importing.read(write(tmp_path / "x", case))
    want = ORACLES[f"logits|{case}"]
    np.testing.assert_allclose(logits(found, case), want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in NETS])
def test_both_kinds_of_file_hold_the_same_network(case, tmp_path):
    whole = importing.read(write(tmp_path / "whole", case))
    weights = importing.read(write(tmp_path / "weights", case, "weights.h5"))
    assert whole.model == weights.model == MODELS[case]
    assert whole.project == weights.project == "keras"
    assert whole.report.matched == len(names()[case]["h5"]["arrays"])
    assert not whole.report.ignored
    assert whole.statistics == weights.statistics
    jax.tree.map(
        np.testing.assert_array_equal,
        (whole.params, whole.model_state, whole.classifier),
        (weights.params, weights.model_state, weights.classifier),
    )
    assert (whole.classifier is None) == (case == "vgg16_notop")


def test_what_ours_has_not_stands_in_what_it_has(tmp_path):
    found = importing.read(write(tmp_path / "x", "resnet50"))
    kernel, norms = found.params["stem_conv"]["kernel"], found.model_state["batch_stats"]
    np.testing.assert_array_equal(
        kernel[:, :, 0], drawn("conv1_conv/kernel", 7, 7, 3, 64)[:, :, 2]
    )  # red is last there
    mean = drawn("conv2_block1_0_bn/moving_mean", 256) - drawn("conv2_block1_0_conv/bias", 256)
    np.testing.assert_array_equal(norms["stage1_block0"]["shortcut_norm"]["mean"], mean)
    assert found.statistics == ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3)
    assert "biases before a normalisation are in its mean" in found.record["remarks"][0]
    for eps, want in {"1.001e-5": 1e-8, "1e-3": 9.9e-4}.items():
        there, back = pairs.layout(f"eps{eps}")
        np.testing.assert_allclose(there(np.zeros(2)), want, rtol=1e-9)
        np.testing.assert_allclose(back(there(np.ones(2))), 1, rtol=1e-12)
    tree = {"a": np.arange(4.0)}
    minus = [pairs.Pair("a", ("mean", "bias"), "minus")]
    np.testing.assert_array_equal(pairs.read(minus, pairs.write(minus, tree))[0]["a"], tree["a"])


OLD = {  # (network, how an older version of Keras calls an array)
    "without model_weights": ("mobilenet_v2", lambda path: path.removeprefix("model_weights/")),
    "keras 2": (
        "mobilenet_v2",
        lambda path: (
            re.sub(r"(depthwise)/kernel$", r"\1/depthwise_kernel", path).replace("predictions", "Logits") + ":0"
        ),
    ),
    "keras 1": (
        "vgg16",
        lambda path: re.sub(r"(\w+)/\1/(kernel|bias)$", lambda m: f"{m[1]}/{m[1]}_{PART[m[2]]}_1:0", path[14:]),
    ),
    "keras 2 of 2018": (
        "densenet121",
        lambda path: re.sub(r"conv1_(conv|bn)/", r"conv1/\1/", path).replace("predictions", "fc1000") + ":0",
    ),
}
PART = {"kernel": "W", "bias": "b"}


@pytest.mark.parametrize("old", [pytest.param(o, marks=[pytest.mark.slow] * ("2018" in o)) for o in OLD])
def test_older_files_hold_the_same_network(old, tmp_path):
    case, path_of = OLD[old]
    now = importing.read(write(tmp_path / "now", case))
    then = importing.read(write(tmp_path / "then", case, path_of=path_of))
    assert (now.model, now.project) == (then.model, then.project)
    for part in ("params", "model_state", "classifier"):
        jax.tree.map(np.testing.assert_array_equal, getattr(now, part), getattr(then, part))


def test_a_network_inside_of_another_model_is_named(tmp_path):
    def inside(path):
        return path.replace("model_weights/", "model_weights/mobilenetv2_1.00_72/", 1)

    def flat(path):  # a layer in a model is written once by its name
        return re.sub(r"/(\w+)/\1/", r"/\1/", inside(path))

    file = write(tmp_path / "x", "mobilenet_v2", path_of=flat, without="predictions/.*")
    with pytest.raises(ValueError, match=r"a network begins at --prefix mobilenetv2_1\.00_72/; say that$"):
        importing.read(file)
    assert importing.read(file, prefix="mobilenetv2_1.00_72/").report.matched == 260


def test_a_network_that_is_cut_is_refused(tmp_path):
    file = write(tmp_path / "x", "mobilenet_v2", without="block_3_project/kernel")
    with pytest.raises(ValueError, match=r"Keras's mobilenet_v2, .* it lacks 1 array: block_3_project/kernel"):
        importing.read(file)


def test_variances_that_are_all_zero_are_refused_though_eps_is_in_them(tmp_path):
    file = write(tmp_path / "x", "mobilenet_v2")
    with h5py.File(file, "a") as h5:
        for path, (name, _) in names()["mobilenet_v2"]["h5"]["arrays"].items():
            if name.endswith("/moving_variance"):
                h5[path][...] = 0
    with pytest.raises(ValueError, match="variances of all its 52 BatchNorms are zero throughout"):
        importing.read(file)
    with h5py.File(file, "a") as h5:
        h5["model_weights/Conv_1_bn/Conv_1_bn/moving_variance"][...] = -1
    with pytest.raises(ValueError, match="1280 of the 1280 numbers of Conv_1_bn/moving_variance are below 0"):
        importing.read(file)


def test_numbers_do_not_tell_what_a_layer_is(tmp_path):
    file = write(tmp_path / "x", "vgg16", "weights.h5", layers=False)
    with pytest.raises(ValueError, match=r"numbered and not named, by layers/conv2d/vars/0, .*save\('X.h5'\)"):
        importing.read(file)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ('{"layers": [{"config": {"batch_shape": [null, 96, 96, 3]}}]}', 96),
        ('{"layers": [{"config": {"batch_input_shape": [null, 160, 160, 3]}}]}', 160),
        ('{"layers": [{"config": {"batch_shape": [null, null, null, 3]}}]}', 224),
        ('{"layers": [{"config": {"batch_shape": [null, 96, 128, 3]}}]}', 224),
    ],
)
def test_a_model_says_the_size_of_its_images(tmp_path, config, size):
    file = write(tmp_path / "x", "mobilenet_v2")
    with h5py.File(file, "a") as h5:
        h5.attrs["model_config"] = config
    assert importing.read(file).size == size
    assert importing.read(file, size=64).size == 64


NOT_OURS = {
    "ResNet V2": ("conv1_conv/kernel", "conv2_block1_preact_bn/gamma", "conv2_block1_3_conv/kernel"),
    "EfficientNet": ("stem_conv/kernel", "block1a_dwconv/kernel"),
    "Xception": ("block1_conv1/kernel", "block2_sepconv1/kernel", "block2_sepconv1_bn/gamma"),
    "NASNet": ("stem_conv1/kernel", "stem_bn1/gamma"),
    "ConvNeXt": ("convnext_tiny_stage_0_block_0_depthwise_conv/kernel",),
    "MobileNet V1": ("conv1/kernel", "conv_dw_1/kernel"),
    "MobileNetV3": ("conv/kernel", "expanded_conv_squeeze_excite_conv/kernel", "expanded_conv_3_expand/kernel"),
    "Inception-ResNet V2": ("conv2d/kernel", "conv_7b/kernel"),
    "Inception v3": ("conv2d/kernel", "conv2d_93/kernel"),
    "ResNet-50 of before 2019": ("conv1/kernel", "res2a_branch2a/kernel"),
}


@pytest.mark.parametrize("name", NOT_OURS)
@pytest.mark.parametrize("asked", [{}, {"project": "keras"}])
def test_other_networks_of_keras_are_refused_by_name(tmp_path, name, asked):
    with h5py.File(tmp_path / "x", "w") as file:
        for layer, part in (called.split("/") for called in NOT_OURS[name]):
            file[f"model_weights/{layer}/{layer}/{part}"] = np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(ValueError, match=rf"{name}.* is not among the known networks: ResNets, ViTs, "):
        importing.read(tmp_path / "x", **asked)


SIZES = {  # case, arrays of another shape or too many -> what is said
    "VGG-19": ("vgg16_notop", {"block5_conv4": (3, 3, 512, 512)}, r"a VGG of Keras of \[2, 2, 3, 3, 4\] convolutions"),
    "DenseNet-169": ("densenet121", {"conv5_block17_2_conv": (3, 3, 128, 32)}, r"\[6, 12, 24, 17\] layers"),
    "ResNeXt": ("resnet50", {"conv2_block1_2_conv": (3, 3, 128, 4)}, "a ResNeXt of Keras"),
    "ResNet of 4 blocks": ("resnet50", {"conv2_block4_3_conv": (1, 1, 64, 256)}, r"of \[4, 4, 6, 3\] blocks"),
    "half": ("mobilenet_v2", {"Conv1": (3, 3, 3, 16)}, r"a MobileNetV2 of Keras of \[16, 320\] channels"),
}


@pytest.mark.parametrize("name", SIZES)
def test_other_sizes_are_refused(name):
    case, changed, said = SIZES[name]
    shapes = {called: tuple(shape) for called, shape in names()[case]["h5"]["arrays"].values()}
    shapes |= {f"{layer}/kernel": shape for layer, shape in changed.items()}
    with pytest.raises(ValueError, match=said):
        keras.recognise(shapes)
