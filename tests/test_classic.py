"""Torchvision's classic networks and other projects' ResNets: logits, names in both directions, and training."""

from __future__ import annotations

import json
import re
import zlib
from functools import cache, partial
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import models
from ssl_jax.interop import classic, resnet
from ssl_jax.interop.pairs import LAYOUTS, Missing, read, write
from tests.oracles.make_classic import NETS, NORM, VARIANTS, draw, draw_kernel, photos, variant_shapes

ORACLES = np.load(Path(__file__).with_name("oracles") / "classic.npz")
WIDE = ("resnet34", "resnet50", "alexnet_224", "vgg16", "vgg16_bn", "vgg16_224", "hf_resnet50")


@cache
def names() -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of every network's arrays there, by case."""
    found = json.loads(zlib.decompress(ORACLES["names"].tobytes()))
    strip = {case: {k.removeprefix("resnet."): tuple(v) for k, v in arrays.items()} for case, arrays in found.items()}
    return strip


def slow_if(cases, known=WIDE):
    return [pytest.param(case, marks=pytest.mark.slow) if case in known else case for case in cases]


def room_of(model):
    return resnet if model["name"].startswith("resnet") else classic


def recognised(shapes):
    return resnet.recognise(shapes) or classic.recognise(shapes)


def near(found, want, tolerance=1e-4):
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * max(1, np.abs(want).max()))


@cache
def _forward(encoder):
    return jax.jit(partial(models.forward, encoder, train=False))


def outputs_of(encoder, tree, x):
    state = tree.get("model_state", {})
    return _forward(encoder)(tree["params"], state, jnp.asarray(x))[0]


# Logits


@pytest.mark.parametrize("case", slow_if([*NETS, "hf_resnet18", "hf_resnet50"]))
def test_logits_are_those_of_torch(case):
    hf = case.startswith("hf_")
    shapes, size = names()[case], 64 if hf else NETS[case][1]
    their_name = {k: f"resnet.{k}" if hf and not k.startswith("classifier") else k for k in shapes}
    arrays = {k: draw(their_name[k], shape) for k, shape in shapes.items()}
    model = recognised(shapes)
    table = room_of(model).pairs(model, "transformers" if hf else "torchvision", classifier=True)
    tree, used = read(table, arrays)
    assert used == set(arrays)
    assert all(np.array_equal(a, arrays[k]) for k, a in write(table, tree).items())
    fields = dict(model)
    encoder = models.make(fields.pop("name"), **fields)
    x = draw("input", (2, size, size, 3))
    outputs = outputs_of(encoder, tree, x)
    near(classic.logits(model, outputs, tree["classifier"]), ORACLES[f"logits|{case}"])
    if not hf:
        near(outputs["features"] @ draw("probe", (encoder.dim, 4)), ORACLES[f"features|{case}"])


@pytest.mark.parametrize("case", VARIANTS)
def test_other_paddings_strides_and_shortcuts_are_those_of_tensorflow(case):
    fields, size = VARIANTS[case]
    encoder = models.ResNet(blocks=(1, 1), width=0.25, **fields)
    x = draw("input", (2, size, size, 3))
    params, state = {}, {}
    for name, shape in variant_shapes(fields).items():
        k, _, part = name.partition(".")
        ours = ("shortcut_{}",) if part == "shortcut" else (f"{{}}{int(part) + 1}",) if part else ("stem_{}",)
        path = (ours[0],) if name == "stem" else (f"stage{int(k) + 1}_block0", ours[0])
        at = {what: "/".join(path).format(what) for what in ("conv", "norm")}
        params[f"{at['conv']}/kernel"] = draw_kernel(name, shape).astype(np.float32)
        scale, bias, mean, var = (draw(f"{name}.{word}", shape[-1:]) for word in NORM)
        params |= {f"{at['norm']}/scale": scale, f"{at['norm']}/bias": bias}
        state |= {f"{at['norm']}/mean": mean, f"{at['norm']}/var": var}
    params, state = (flax.traverse_util.unflatten_dict(tree, "/") for tree in (params, state))
    tree = {"params": params, "model_state": {"batch_stats": state}}
    near(outputs_of(encoder, tree, x)["features"], ORACLES[f"features|{case}"], 1e-5)
    plain = encoder.clone(padding="torch", pool_padding="torch", stride_first=False, stem_padding=None)
    if case != "pad":  # and what the fields say matters
        other = np.abs(outputs_of(plain, tree, x)["features"] - ORACLES[f"features|{case}"]).max()
        assert other > 1e-2 * np.abs(ORACLES[f"features|{case}"]).max()


@pytest.mark.parametrize("depth", [20, 32])
def test_the_real_cifar_resnets(depth, data_dir):
    archives = pytest.importorskip("ssl_jax.interop.archives")
    (file,) = (data_dir / "weights" / "cifar_resnet").glob(f"resnet{depth}-*.th")
    arrays = {k.removeprefix("module."): a for k, a in archives.read(file).tree["state_dict"].items()}
    shapes = {k: a.shape for k, a in arrays.items()}
    model, theirs = resnet.recognise(shapes), resnet.library(shapes)
    assert (model, theirs) == ({"name": f"resnet{depth}"}, "cifar")
    table = resnet.pairs(model, theirs, classifier=True)
    tree, used = read(table, arrays)
    assert used == set(arrays)
    assert all(np.array_equal(a, arrays[k]) for k, a in write(table, tree).items())
    images = (photos() - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    outputs = outputs_of(models.make(model["name"]), tree, images)
    near(classic.logits(model, outputs, tree["classifier"]), ORACLES[f"logits|cifar_resnet{depth}"])


# Names


def narrow(name, **fields):
    """(config.model, its arrays, ours by path) of a narrow ResNet."""
    model = {"name": name, "stem": "imagenet", "width": 0.125} | fields
    encoder = models.make(name, **{k: v for k, v in model.items() if k != "name"})
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, state = jax.eval_shape(partial(models.init, encoder, x=x), jax.random.key(0))
    spec = flax.traverse_util.flatten_dict({"params": params, "model_state": state}, sep="/")
    return model, {k: draw(k, a.shape) for k, a in spec.items()}


def by_hand(model, ours, library):
    """Arrays by a library's names, its own order of counting written down here once more."""
    encoder = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    parts = [("stem", None, None)]
    inner = 3 if encoder.bottleneck else 2
    for k, blocks in enumerate(encoder.blocks):
        for b in range(blocks):
            shortcut = [(k, b, "shortcut")] if f"params/stage{k + 1}_block{b}/shortcut_conv/kernel" in ours else []
            parts += shortcut + [(k, b, n) for n in range(inner)]
    found = {}
    for i, (k, b, n) in enumerate(parts):
        end = "" if i == 0 else f"_{i}"
        path = (
            "stem_{}"
            if k == "stem"
            else f"stage{k + 1}_block{b}/" + ("shortcut_{}" if n == "shortcut" else "{}" + str(n + 1))
        )
        if library == "simclr":
            conv, norm = f"conv2d{end}/kernel", f"batch_normalization{end}/"
            words = ("gamma", "beta", "moving_mean", "moving_variance")
        else:
            top = f"res_net{model['name'][6:]}/~/"
            if k == "stem":
                conv, norm = f"{top}initial_conv/w", f"{top}initial_batchnorm/"
            else:
                where = f"{top}block_group_{k}/~/block_{b}/~/"
                conv = where + ("shortcut_conv/w" if n == "shortcut" else f"conv_{n}/w")
                norm = where + ("shortcut_batchnorm/" if n == "shortcut" else f"batchnorm_{n}/")
            words = ("scale", "offset", "~/mean_ema/average", "~/var_ema/average")
        found[conv] = ours[f"params/{path.format('conv')}/kernel"]
        place = path.format("norm")
        arrays = [ours[f"params/{place}/{w}"] for w in ("scale", "bias")]
        arrays += [ours[f"model_state/batch_stats/{place}/{w}"] for w in ("mean", "var")]
        for word, a in zip(words, arrays, strict=True):
            found[norm + word] = a.reshape(1, 1, 1, -1) if library == "haiku" else a
    return found


RENAMED = {  # by regular expressions, from torchvision's
    "children": [(r"^conv1", "0"), (r"^bn1", "1"), *((rf"^layer{k}", f"{k + 3}") for k in range(1, 5))],
    "lightly": [
        *((r"^conv1", "0"), (r"^bn1", "1"), (r"downsample", "shortcut")),
        *((rf"^layer{k}", f"{k + 1}") for k in range(1, 5)),
    ],
    "cifar": [(r"downsample", "shortcut")],
    "transformers": [
        (r"^conv1\.", "embedder.embedder.convolution."),
        (r"^bn1\.", "embedder.embedder.normalization."),
        *((rf"^layer{k}\.(\d+)", rf"encoder.stages.{k - 1}.layers.\1") for k in range(1, 5)),
        *((rf"\.conv{n}\.", f".layer.{n - 1}.convolution.") for n in (1, 2, 3)),
        *((rf"\.bn{n}\.", f".layer.{n - 1}.normalization.") for n in (1, 2, 3)),
        (r"downsample\.0", "shortcut.convolution"),
        (r"downsample\.1", "shortcut.normalization"),
    ],
}


def renamed(arrays, rules):
    found = {}
    for name, a in arrays.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = a
    return found


@pytest.mark.parametrize("library", resnet.LIBRARIES)
@pytest.mark.parametrize(("name", "fields"), [("resnet18", {"project_first": True}), ("resnet50", {"stem": "cifar"})])
def test_tables_of_the_resnets(library, name, fields):
    model, ours = narrow(name, **fields)
    tree = flax.traverse_util.unflatten_dict(ours, "/")
    torch = write(resnet.pairs(model), tree)
    if library in ("haiku", "simclr"):
        arrays = by_hand(model, ours, library)
    else:
        arrays = renamed(torch, RENAMED.get(library, []))
    shapes = {k: a.shape for k, a in arrays.items()}
    assert resnet.library(shapes) == library
    if library == "transformers" and fields.get("project_first"):  # there its block would shrink the image
        with pytest.raises(ValueError, match="downsample_in_first_stage"):
            resnet.recognise(shapes)
    else:
        assert resnet.recognise(shapes) == model
    assert classic.recognise(shapes) is None
    table = resnet.pairs(model, library)
    back, used = read(table, arrays)
    assert used == set(arrays)
    back = flax.traverse_util.flatten_dict(back, sep="/")
    assert set(back) == set(ours)
    for k, a in ours.items():
        np.testing.assert_array_equal(back[k], a, err_msg=k)
    again = write(table, tree)
    assert set(again) == set(arrays)
    for k, a in arrays.items():
        np.testing.assert_array_equal(again[k], a, err_msg=k)
        assert again[k].shape == a.shape


def test_classifiers_of_the_resnets():
    arrays = {"head_supervised/linear_layer/dense/kernel": np.ones((3, 2)), "classifier/w": np.ones((3, 2))}
    for library, name in (("simclr", "head_supervised/linear_layer/dense/kernel"), ("haiku", "classifier/w")):
        pair = resnet.pairs({"name": "resnet18"}, library, classifier=True)[-2]
        assert (pair.ours, pair.theirs) == ("classifier/kernel", (name,))
        assert LAYOUTS[pair.layout][0](arrays[name]).shape == (3, 2)
    with pytest.raises(ValueError, match="by the names of 'children' have no classifier"):
        resnet.pairs({"name": "resnet18"}, "children", classifier=True)
    with pytest.raises(ValueError, match="theirs='timm' names no ResNets; known: torchvision"):
        resnet.pairs({"name": "resnet18"}, "timm")


OLD = {
    "densenet121": [(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3")],
    "mobilenet_v2": [  # the first block has no expansion
        *(
            (rf"^(features\.1\.conv)\.{a}\.", rf"\1.{b}.")
            for a, b in (("2", "4"), ("1", "3"), ("0.0", "0"), ("0.1", "1"))
        ),
        *(
            (rf"^(features\.(?:[2-9]|1\d)\.conv)\.{a}\.", rf"\1.{b}.")
            for a, b in (("3", "7"), ("2", "6"), ("1.0", "3"), ("1.1", "4"), ("0.0", "0"), ("0.1", "1"))
        ),
    ],
}


@pytest.mark.parametrize("name", OLD)
def test_old_names(name):
    by_old = renamed({k: k for k in names()[name]}, OLD[name])
    shapes = {new: names()[name][k] for new, k in by_old.items()}
    assert len(set(shapes) - set(names()[name])) > 100
    assert classic.recognise(shapes) == {"name": name}
    assert (classic.library(shapes), classic.library(names()[name])) == ("old", "torchvision")
    new, old = (classic.pairs({"name": name}, theirs, classifier=True) for theirs in ("torchvision", "old"))
    by_ours = {pair.ours: pair.theirs[0] for pair in new}
    assert {pair.theirs[0]: by_ours[pair.ours] for pair in old} == by_old
    with pytest.raises(ValueError, match="theirs='old' names no vgg; known: torchvision"):
        classic.pairs({"name": "vgg11"}, "old")


def test_every_network_is_recognised():
    expected = {case: {"name": name} | ({"hidden": wide} if wide else {}) for case, (name, _, wide) in NETS.items()}
    expected |= {"hf_resnet18": {"name": "resnet18"}, "hf_resnet50": {"name": "resnet50"}}
    for case, model in expected.items():
        stem = {"stem": "imagenet"} if model["name"].startswith("resnet") else {}
        assert recognised(names()[case]) == model | stem
    assert recognised({"blocks.0.attn.qkv.weight": (3, 1)}) is None
    assert recognised({}) is None


def changed(case, **new):
    """Shapes of a case, some of them others: dots are written as two underscores."""
    return names()[case] | {k.replace("__", "."): v for k, v in new.items()}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (lambda: changed("resnet50", layer1__0__conv2__weight=(128, 128, 3, 3)), "a resnet50 .* wider .*Wide ResNet"),
        (lambda: changed("resnet50", layer1__0__conv2__weight=(128, 4, 3, 3)), "a resnet50 .* in groups .*ResNeXt"),
        (
            lambda: changed("resnet50", conv1__0__weight=(32, 3, 3, 3)),
            "stem of three convolutions .* by conv1.0.weight",
        ),
        (lambda: changed("resnet50", layer1__0__se__fc1__weight=(4, 4, 1, 1)), "squeeze and excitation"),
        (lambda: changed("resnet50", stem__conv__weight=(4, 4, 7, 7)), "pre-activation .*BiT"),
        (lambda: changed("resnet50", conv1__weight=(64, 3, 5, 5)), "a stem of 5 x 5; 7 x 7 and 3 x 3 are known"),
        (
            lambda: changed("resnet50", conv1__weight=(64,)),
            r"a resnet50 whose conv1.weight is \[64\]; a kernel has 4 axes",
        ),
        (lambda: changed("resnet18", layer4__2__conv1__weight=(8, 8, 3, 3)), "more than a resnet18, by layer4.2.conv1"),
        (
            lambda: {k: v for k, v in names()["resnet18"].items() if not k.startswith("layer4.1")},
            "nearest to a resnet18 of 100 arrays, of which it lacks 10 arrays: layer4.1.conv1.weight, ",
        ),
        (
            lambda: changed("alexnet", features__0__weight=(96, 3, 11, 11)),
            r"an AlexNet of \[96, 192, 384, 256, 256\] channels",
        ),
        (
            lambda: changed("vgg16", features__30__weight=(512, 512, 3, 3)),
            "vgg17 of 64 channels .* known: vgg11 and vgg16",
        ),
        (lambda: changed("vgg11", features__0__weight=(32, 3, 3, 3)), "vgg11 of 32 channels at first"),
        (
            lambda: changed("squeezenet1_0", features__0__weight=(96, 3, 5, 5)),
            "a SqueezeNet whose features.0.weight is",
        ),
        (
            lambda: changed("densenet121", features__denseblock4__denselayer17__conv2__weight=(32, 128, 3, 3)),
            r"a DenseNet of \[6, 12, 24, 17\] layers that add 32",
        ),
        (
            lambda: changed("mobilenet_v2", features__0__0__weight=(48, 3, 3, 3)),
            "a MobileNetV2 of 48 channels at first",
        ),
    ],
)
def test_other_networks_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message) as error:
        recognised(shapes())
    assert "\n" not in str(error.value)


def test_a_part_that_is_missing_is_named():
    arrays = {k: np.zeros(shape[:1]) for k, shape in names()["vgg11"].items() if not k.startswith("classifier")}
    with pytest.raises(
        Missing, match=r"it lacks 6 arrays: classifier.0.weight, classifier.0.bias, .*6.weight, \.\.\.;"
    ):
        read(classic.pairs({"name": "vgg11"}, classifier=True), arrays)
    with pytest.raises(ValueError, match=r"model.name='vit' is none of alexnet, vgg"):
        classic.pairs({"name": "vit"})
