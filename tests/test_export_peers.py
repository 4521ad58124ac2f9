"""Folders for timm, torchvision and transformers: names and arrays here, equal outputs there."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from exported_runs import CONVNET, IMAGENET, features, header, images, network, opened

from ssl_jax import models
from ssl_jax.data.images.recipes import Eval
from ssl_jax.interop import classic, pairs, peers, projects
from ssl_jax.run import checkpoint
from ssl_jax.run import export as exporting
from ssl_jax.run.export import export


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("run"), {"name": "resnet18"})


def test_a_folder_for_timm(resnet, tmp_path):
    said = export(resnet, tmp_path / "out", format="timm", licence="apache-2.0")
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "model.safetensors"]
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (about["architecture"], about["num_classes"], about["num_features"]) == ("resnet18", 0, 512)
    cfg = about["pretrained_cfg"]
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ([3, 32, 32], *map(list, IMAGENET))
    assert (cfg["interpolation"], cfg["crop_pct"], cfg["crop_mode"]) == ("bicubic", 0.875, "center")
    assert (cfg["first_conv"], cfg["classifier"], cfg["license"]) == ("conv1", "fc", "apache-2.0")
    file = tmp_path / "out" / "model.safetensors"
    assert header(file)["__metadata__"] == {"format": "pt", "license": "apache-2.0"}
    arrays = safetensors.numpy.load_file(file)
    assert len(arrays) == 120  # torchvision's 122 without fc
    params, state = resnet.method.trunk(resnet.variables)
    kernel = np.asarray(params["stage2_block0"]["shortcut_conv"]["kernel"])
    assert arrays["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    np.testing.assert_array_equal(arrays["layer2.0.downsample.0.weight"][:, :, 0, 0], kernel[0, 0].T)
    stem = np.einsum("hwio->oihw", np.asarray(params["stem_conv"]["kernel"]))
    np.testing.assert_array_equal(arrays["conv1.weight"], stem)
    np.testing.assert_array_equal(arrays["bn1.running_var"], state["batch_stats"]["stem_norm"]["var"])
    counter = arrays["layer4.1.bn2.num_batches_tracked"]
    assert (counter.dtype, counter.shape) == (np.int64, ())
    assert said["fingerprint"] == checkpoint.fingerprint({"params": params, "model_state": state})


TIMM_NAMES = pathlib.Path(__file__).parent / "oracles" / "timm_names.npz"


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "densenet121", "mobilenet_v2"])
def test_timms_own_names_of_the_classic_networks(name):
    encoder = models.make(name)
    spec = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False))
    zeros: Any = jax.tree.map(lambda leaf: np.broadcast_to(np.int8(0), leaf.shape), dict(spec))
    classifier = {"kernel": np.zeros((encoder.dim, 3)), "bias": np.zeros(3)}
    state = {"batch_stats": zeros["batch_stats"]} if "batch_stats" in zeros else {}
    asked = peers.Network({"name": name}, zeros["params"], state, classifier, (224, 224, 3), *IMAGENET, Eval())
    there, arguments = peers.architecture(asked, "timm")
    said = peers.config(asked, there, arguments, None)
    shapes = {key: array.shape for key, array in peers.tensors(asked, "timm").items()}
    with np.load(TIMM_NAMES) as names:
        assert sorted(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items()) == sorted(names[there])
    ends = (said["pretrained_cfg"][key] for key in ("first_conv", "classifier"))
    assert {f"{end}.weight" for end in ends} <= set(shapes)
    assert said["num_features"] == (512 if name.startswith("vgg") else encoder.dim)
    assert classic.recognise(shapes) == {"name": name}
    assert projects.found(shapes) == ["torchvision"]


def test_a_wide_layer_of_timm_is_a_convolution():
    kernel = np.arange(49 * 512 * 2, dtype=np.float32).reshape(7, 7, 512, 2)
    (pair,) = (p for p in classic.pairs({"name": "vgg11", "hidden": 2}, "timm") if "fc1.weight" in p.theirs[0])
    arrays = pairs.write([pair], {"params": {"stage5_dense": {"kernel": kernel.reshape(-1, 2)}}})
    np.testing.assert_array_equal(arrays["pre_logits.fc1.weight"], np.einsum("hwio->oihw", kernel))
    back, _ = pairs.read([pair], arrays)
    np.testing.assert_array_equal(back["params"]["stage5_dense"]["kernel"], kernel.reshape(-1, 2))


def test_timm_does_not_pool_a_larger_map_of_vgg():
    for size, theirs in ((255, "timm"), (256, "torchvision")):
        asked = peers.Network({"name": "vgg11"}, {}, {}, None, (size, size, 3), (0.0,), (1.0,), Eval())
        assert peers.architecture(asked, theirs)[0] == "vgg11"
    with pytest.raises(ValueError, match=r"does not pool the map of images of 256 x 256 pixels to 7 x 7"):
        peers.architecture(asked, "timm")


def test_a_classifier_goes_along(resnet, tmp_path):
    with_head = opened(tmp_path / "run", {"name": "resnet18"}, classes=5)
    found = exporting._classifier(with_head)
    assert found is not None
    arrays = peers.tensors(network(resnet, found), "timm")
    np.testing.assert_array_equal(arrays["fc.weight"], np.asarray(found["kernel"]).T)
    about = peers.config(network(resnet, found), "resnet18", {}, None)
    assert (about["num_classes"], about["pretrained_cfg"]["num_classes"]) == (5, 5)
    assert "label_names" not in about
    named = network(resnet, found)._replace(class_names=("a", "b", "c", "d", "e"))
    assert peers.config(named, "resnet18", {}, None)["label_names"] == ["a", "b", "c", "d", "e"]
    assert exporting._classifier(resnet) is None
    export(with_head, tmp_path / "out", format="timm")
    said = (tmp_path / "out" / "README.md").read_text()
    assert "\npipeline_tag: image-classification\n" in said
    assert said.index("logits = model(images)") < said.index("features = model.forward_head(")


VIT = {"name": "vit", "patch_size": 8, "width": 16, "depth": 2, "heads": 2}


def test_positions_are_written_out_for_the_size_of_evaluation(tmp_path):
    fixed = peers.tensors(network(opened(tmp_path, VIT)), "timm")
    at = 3 * 10000.0 ** (-np.arange(4) / 4)  # the patch in row 1 and column 3 of 4 x 4
    np.testing.assert_allclose(fixed["pos_embed"][0, 7, :4], np.sin(at), atol=1e-6)
    assert fixed["pos_embed"].shape == (1, 16, 16)
    model = VIT | {"cls_token": True, "pool": "cls", "positions": "learned"}
    run = opened(tmp_path, model)
    params, _ = run.method.trunk(run.variables)
    table, cls = np.asarray(params["stem_positions"]), np.asarray(params["stem_cls"])
    for_timm, for_torchvision = (peers.tensors(network(run), theirs) for theirs in ("timm", "torchvision"))
    np.testing.assert_array_equal(for_timm["pos_embed"][0], table[1:])
    np.testing.assert_array_equal(for_timm["cls_token"].reshape(-1), cls + table[0])
    np.testing.assert_array_equal(for_torchvision["encoder.pos_embedding"][0], table)
    np.testing.assert_array_equal(for_torchvision["class_token"].reshape(-1), cls)
    assert peers.architecture(network(run), "timm")[1]["no_embed_class"]
    larger = peers.tensors(network(opened(tmp_path, model | {"positions_grid": 6})), "timm")
    assert larger["pos_embed"].shape == (1, 16, 16)


def test_grey_images_are_an_argument_of_timm(tmp_path):
    run = opened(tmp_path, {"name": "resnet18"}, channels=1)
    name, arguments = peers.architecture(network(run), "timm")
    about = peers.config(network(run), name, arguments, None)
    assert about["model_args"] == {"in_chans": 1}
    assert (about["pretrained_cfg"]["input_size"], about["pretrained_cfg"]["mean"]) == ([1, 32, 32], [0.5])
    run = opened(tmp_path, VIT, channels=1)
    kernel = np.asarray(run.method.trunk(run.variables)[0]["stem_patches"]["kernel"])
    got = peers.tensors(network(run), "timm")["patch_embed.proj.weight"]
    np.testing.assert_array_equal(got[:, 0], kernel.reshape(8, 8, 16).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("model", "theirs", "words"),
    [
        (
            {"name": "resnet18", "stem": "cifar"},
            "timm",
            r"stem='cifar' on 3 ch.*conv1 = Conv2d\(3, 64, 3, 1, 1, bias=False\)",
        ),
        ({"name": "resnet18", "stem": "cifar"}, "torchvision", "say --swapped-stem"),
        ({"name": "resnet18", "width": 2.0}, "timm", r"model.width=2.0: a resnet18 of timm has 1.0"),
        ({"name": "resnet18", "project_first": True}, "timm", "model.project_first=True"),
        ({"name": "resnet18", "padding": "same"}, "timm", "model.padding='same'"),
        ({"name": "resnet18", "pool_padding": "same"}, "torchvision", "model.pool_padding='same'"),
        ({"name": "resnet50", "stride_first": True}, "timm", "model.stride_first=True"),
        (VIT | {"eps": 1e-5}, "timm", "model.eps=1e-05: a vit of timm has 1e-06"),
        (VIT | {"cls_token": True, "pool": "cls_mean"}, "timm", "model.pool='cls_mean'"),
        (VIT | {"swiglu": True}, "timm", "model.swiglu=True"),
        (VIT, "torchvision", "model.pool='mean': torchvision's ViT gives its class token"),
        ({"name": "resnet200"}, "torchvision", "torchvision has no resnet200"),
        (CONVNET, "timm", "no network like model.name='convnet'.*resnet200, vit"),
        (CONVNET, "torchvision", r"resnet152, vit\*, AlexNet, SqueezeNet, VGG, DenseNet-121 and MobileNetV2"),
        ({"name": "mlp"}, "timm", "no network like model.name='mlp'"),
        ({"name": "lstm", "vocab": 9}, "timm", "no network like model.name='lstm'"),
        ({"name": "alexnet"}, "timm", "timm has no alexnet; use --format torchvision"),
        ({"name": "squeezenet1_1"}, "timm", "timm has no squeezenet1_1; use --format torchvision"),
        ({"name": "vgg11", "hidden": 64}, "timm", "model.hidden=64: a vgg11 of timm has 4096"),
        ({"name": "own/net.py:Net"}, "timm", "an encoder of your own"),
    ],
)
def test_what_the_others_have_not_is_refused(model, theirs, words):
    asked = peers.Network(model, {}, {}, None, (32, 32, 3), (0.0,), (1.0,), Eval())
    with pytest.raises(ValueError, match=words) as error:
        peers.architecture(asked, theirs)
    assert "\n" not in str(error.value)


def test_a_swapped_stem_is_asked_for(resnet, tmp_path):
    run = opened(tmp_path / "run", {"name": "resnet18", "stem": "cifar"})
    assert peers.architecture(network(run), "torchvision", swapped_stem=True) == ("resnet18", {})
    assert peers.tensors(network(run), "torchvision")["conv1.weight"].shape == (64, 3, 3, 3)
    with pytest.raises(ValueError, match="this stem is torchvision's own"):
        peers.architecture(network(resnet), "torchvision", swapped_stem=True)


def test_other_norms_are_refused(resnet):
    asked = network(resnet)._replace(model_state={})
    with pytest.raises(ValueError, match="has no model_state/batch_stats/stem_norm/mean"):
        peers.tensors(asked, "timm")


CLS = VIT | {"cls_token": True, "pool": "cls"}
PEER_MODELS = [
    ({"name": "resnet18"}, 64, None),
    ({"name": "resnet18"}, 64, 3),
    ({"name": "resnet50"}, 64, None),
    (VIT, 64, None),
    (CLS | {"positions": "moco_v3"}, 64, 3),
    (
        CLS
        | {"positions": "learned", "positions_grid": 5, "positions_rule": "dinov2", "registers": 3, "layer_scale": 0.1},
        64,
        None,
    ),
    (CLS | {"swiglu": True, "positions": "learned", "layer_scale": 0.1}, 64, None),
    (VIT | {"cls_token": True, "positions": "learned_patches", "gelu": "tanh", "norm_after_pool": True}, 64, None),
    ({"name": "densenet121"}, 64, 3),
    ({"name": "mobilenet_v2"}, 64, 3),
    ({"name": "vgg11"}, 64, 3),
    ({"name": "vgg16_bn"}, 255, None),
]
PEERS = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [sys.argv[3]]
from benchmarks.torches import torchvision
torchvision()
import numpy, timm, torch, torchvision, transformers
from safetensors.torch import load_file
out, images = sys.argv[1], torch.from_numpy(numpy.load(sys.argv[2]))
name = json.load(open(out + "/config.json"))["architecture"]
with torch.no_grad():
    net = timm.create_model("local-dir:" + out, pretrained=True).eval()
    found = {"timm_logits" if net.num_classes else "timm": net(images)}
    net, said = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not said["missing_keys"] and bool(said["unexpected_keys"]) == ("timm_logits" in found), said
    found["transformers"] = net.eval()(images).pooler_output
    if "timm_logits" in found:
        net, said = transformers.AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
        assert not said["missing_keys"] and not said["unexpected_keys"], said
        found["transformers_logits"] = net.eval()(images).logits
    if name.startswith("resnet") and "timm" in found:
        net = getattr(torchvision.models, name)()
        missing, unexpected = net.load_state_dict(load_file(out + "/model.safetensors"), strict=False)
        assert set(missing) == {"fc.weight", "fc.bias"} and not unexpected, (missing, unexpected)
        net.fc = torch.nn.Identity()
        found["torchvision"] = net.eval()(images)
numpy.savez(sys.argv[2] + ".npz", **{k: a.numpy() for k, a in found.items()})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size", "classes"), PEER_MODELS, ids=str)
def test_peers_compute_the_same(model, size, classes, tmp_path):
    """timm, torchvision and transformers, in a process of their own: their warnings are theirs."""
    for package in ("timm", "torchvision", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    run = opened(tmp_path / "run", model, size=size, classes=classes)
    export(run, tmp_path / "out", format="timm")
    pixels = images(run)
    mean, std = (np.float32(numbers) for numbers in IMAGENET)
    np.save(tmp_path / "x.npy", np.einsum("bhwc->bchw", (pixels / np.float32(255) - mean) / std))
    benchmarks = str(pathlib.Path(__file__).resolve().parent.parent / "experiments")
    arguments = [str(tmp_path / "out"), str(tmp_path / "x.npy"), benchmarks]
    done = subprocess.run([sys.executable, "-c", PEERS, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    inputs = run.modality.prepare(pixels)
    want = {False: features(run, pixels)}
    want |= {} if classes is None else {True: np.asarray(run.method.hooks["classify"](run.variables, inputs))}
    with np.load(tmp_path / "x.npy.npz") as found:
        plain = {"timm"} | ({"torchvision"} if model["name"].startswith("resnet") else set())
        assert set(found) == {"transformers"} | (plain if classes is None else {"timm_logits", "transformers_logits"})
        for name, got in found.items():
            wanted = want[name.endswith("_logits")]
            np.testing.assert_allclose(got, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
