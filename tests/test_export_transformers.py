"""Folders that transformers loads as its own ViTs and ResNets: names, fields, the way back, and equal outputs there."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from exported_runs import IMAGENET, features, images, network, opened

from experiments.import_weights import told
from ssl_jax.data.images.recipes import Eval
from ssl_jax.interop import importing, labels, peers, transformers
from ssl_jax.run.export import export

VIT = {"name": "vit", "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "cls_token": True, "pool": "cls"}
LEARNED = VIT | {"positions": "learned", "positions_rule": "transformers"}
DINO = LEARNED | {"layer_scale": 1e-5}
JEPA = {"name": "vit", "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "positions": "learned"}
RESNET = {"name": "resnet50", "width": 0.125, "stride_first": True}


def folder(place, model, *, size=32, classes=None, **words):
    run = opened(place / "run", model, size=size, classes=classes, **words)
    export(run, place / "out", format="transformers")
    arrays = safetensors.numpy.load_file(place / "out" / "model.safetensors")
    return run, json.loads((place / "out" / "config.json").read_text()), arrays


def test_a_vit_by_transformers_own_names(tmp_path):
    run, config, arrays = folder(tmp_path, LEARNED | {"eps": 1e-12, "gelu": "tanh", "mlp_ratio": 2.5})
    assert (config["model_type"], config["architectures"]) == ("vit", ["ViTModel"])
    assert (config["layer_norm_eps"], config["hidden_act"]) == (1e-12, "gelu_pytorch_tanh")
    assert (config["intermediate_size"], config["image_size"], config["num_attention_heads"]) == (40, 32, 2)
    params, _ = run.method.trunk(run.variables)
    qkv = np.asarray(params["stage2_block"]["qkv"]["kernel"])
    key = arrays["encoder.layer.1.attention.attention.key.weight"]
    np.testing.assert_array_equal(key, qkv[:, 16:32].T)
    np.testing.assert_array_equal(arrays["pooler.dense.weight"], np.eye(16))
    assert config["pooler_act"] == "linear"  # so that pooler_output is the class token
    said = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert said["size"] == {"shortest_edge": 37}  # 32 / 0.875, of the short side as evaluation resizes it
    assert (said["crop_size"], said["resample"]) == ({"height": 32, "width": 32}, 3)
    np.testing.assert_allclose(said["image_std"], IMAGENET[1])
    said = (tmp_path / "out" / "README.md").read_text()
    assert "features = outputs.pooler_output" in said
    assert "\npipeline_tag: image-feature-extraction\n" in said
    assert "AutoModelForImageClassification" not in said


@pytest.mark.slow
def test_a_resnet_by_transformers_own_names(tmp_path):
    run, config, arrays = folder(tmp_path, RESNET, classes=3)
    assert (config["embedding_size"], config["hidden_sizes"]) == (8, [32, 64, 128, 256])
    assert (config["depths"], config["layer_type"]) == ([3, 4, 6, 3], "bottleneck")
    assert config["downsample_in_bottleneck"]
    assert config["architectures"] == ["ResNetForImageClassification"]
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    kernel = np.asarray(run.variables.params["classifier"]["dense0"]["kernel"])
    np.testing.assert_array_equal(arrays["classifier.1.weight"], kernel.T)
    assert arrays["resnet.encoder.stages.1.layers.0.shortcut.convolution.weight"].shape == (64, 32, 1, 1)
    assert arrays["resnet.embedder.embedder.normalization.num_batches_tracked"].dtype == np.int64
    found = importing.read(tmp_path / "out")
    assert (found.model["name"], found.model["width"], found.model["stride_first"]) == ("resnet50", 0.125, True)
    said = (tmp_path / "out" / "README.md").read_text()
    assert "reports classifier.* as UNEXPECTED" in said
    assert "\npipeline_tag: image-classification\n" in said
    first, alone = said.index("logits = model(**images).logits"), said.index("Its features alone:")
    assert said.index("model = AutoModelForImageClassification.from_pretrained(") < first < alone
    assert alone < said.index("outputs = AutoModel.from_pretrained(")


def test_names_of_classes_go_out_and_come_back(tmp_path):
    names = ["tabby cat", "Hund", "tabby cat"]
    model = {"name": "resnet18", "width": 0.125}
    _, config, _ = folder(tmp_path, model, classes=3, imported={"class_names": names})
    assert config["id2label"] == {"0": "tabby cat", "1": "Hund", "2": "tabby cat"}
    assert config["label2id"]["Hund"] == 1
    found = importing.read(tmp_path / "out")
    assert found.record["class_names"] == names
    assert "its classifier of 3 classes (tabby cat, Hund, tabby cat), whose names are kept," in "\n".join(told(found))
    assert "class_names" not in importing.read(tmp_path / "out", classifier=False).record
    for said, note in (
        ({"0": "a", "1": "b"}, "config.json: id2label, which does not name the classes 0 to 2"),
        ({"0": "a", "1": "b", "4": "c"}, "config.json: id2label, which does not name the classes 0 to 2"),
        ({"0": "a", "1": "b", "2": "\x1b[2J"}, "config.json: id2label, which does not name the classes 0 to 2"),
        ({"0": "a", "1": "b", "2": 3}, "config.json: id2label, which does not name the classes 0 to 2"),
        ({"0": "a", "1": "b", "2": "c", "3": "d"}, "config.json: id2label of 4 classes, where the classifier has 3"),
        ("cats", "config.json: id2label, which does not name the classes 0 to 2"),
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, None),
    ):
        (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"id2label": said}))
        record = importing.read(tmp_path / "out").record
        assert ("class_names" in record, record["notes"]) == (False, [note] * (note is not None))


def test_classes_are_found_by_name():
    names = ("tabby cat", "Hund", "crane", "crane")
    assert labels.columns(names, ["hund", "tabby_cat"]) == (1, 0)
    assert labels.columns(names, ["hund", "crane"]) is None  # there are two
    assert labels.columns(names, ["hund", "bird"]) is None
    assert labels.columns((), ["hund"]) is None


def test_a_refusal_names_the_format_that_holds_the_run(tmp_path):
    for model, theirs, fix in (
        (LEARNED | {"eps": 1e-12}, "timm", r"model.eps=1e-12: .*; use --format transformers, which holds this run"),
        (
            {"name": "resnet18", "width": 0.125},
            "torchvision",
            r"model.width=0.125: .*; use --format transformers, which holds this run",
        ),
        (VIT | {"pool": "mean"}, "torchvision", r"; use --format timm or transformers, which hold this run"),
        (JEPA | {"registers": 2}, "transformers", r"; use --format timm, which holds this run"),
        (JEPA | {"registers": 2, "eps": 0.5}, "transformers", r"; use --format stablehlo, onnx or flax"),
        (
            {"name": "resnet18", "width": 0.125, "project_first": True},
            "transformers",
            r"; use --format stablehlo, onnx or flax",
        ),
    ):
        run = opened(tmp_path / "run", model)
        with pytest.raises(ValueError, match=f"{fix}$") as error:
            export(run, tmp_path / "out", format=theirs)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_a_vit_without_a_class_token_is_an_ijepa(tmp_path):
    run, config, arrays = folder(tmp_path, JEPA, classes=3)
    assert (config["model_type"], config["architectures"]) == ("ijepa", ["IJepaForImageClassification"])
    params, _ = run.method.trunk(run.variables)
    np.testing.assert_array_equal(arrays["ijepa.embeddings.position_embeddings"][0], params["stem_positions"])
    assert arrays["ijepa.encoder.layer.1.intermediate.dense.weight"].shape == (64, 16)
    assert not [name for name in arrays if "cls_token" in name or "pooler" in name]
    said = (tmp_path / "out" / "README.md").read_text()
    assert "features = outputs.last_hidden_state[:, 0:].mean(1)" in said
    assert "# IJepaModel" in said


@pytest.mark.parametrize("kind", ["vit_mae", "vit_msn"])
def test_mae_and_msn_go_out_as_the_vit_that_they_compute(kind, tmp_path):
    _, config, _ = folder(tmp_path, LEARNED | {"eps": 1e-6})
    (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    found = importing.read(tmp_path / "out", fields={"heads": 2})
    again = transformers.form(network(opened(tmp_path / "again", found.model))).config
    assert (again["model_type"], again["layer_norm_eps"]) == ("vit", 1e-6)


def test_a_classifier_of_the_mean_becomes_one_of_both(tmp_path):
    run, config, arrays = folder(tmp_path, VIT | {"pool": "mean"}, classes=3)
    assert config["architectures"] == ["Dinov2ForImageClassification"]
    kernel = np.asarray(run.variables.params["classifier"]["dense0"]["kernel"])
    np.testing.assert_array_equal(arrays["classifier.weight"], np.concatenate([0 * kernel, kernel]).T)
    np.testing.assert_array_equal(arrays["dinov2.encoder.layer.1.layer_scale2.lambda1"], np.ones(16))
    assert not config["use_mask_token"]


BACK = [
    LEARNED | {"eps": 1e-12},
    JEPA | {"eps": 1e-12},
    DINO,
    DINO | {"registers": 3},
    DINO | {"swiglu": True, "mlp_ratio": 3.0},
    {"name": "resnet18", "stem": "imagenet", "width": 0.125},
]


@pytest.mark.parametrize("classes", [pytest.param(None, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("model", BACK, ids=str)
def test_what_went_out_comes_back_with_the_same_bits(model, classes, tmp_path):
    run, _, _ = folder(tmp_path, model, classes=classes)
    found = importing.read(tmp_path / "out", fields={"heads": 2} if "heads" in model else {})
    params, state = run.method.trunk(run.variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, dict(params)))
    assert jax.tree.all(jax.tree.map(np.array_equal, found.model_state, dict(state)))
    kept = {k: v for k, v in found.model.items() if k in model}
    want = model | ({"pool": "cls_mean"} if classes and "layer_scale" in model else {})
    assert {**kept, "name": ""} == {**want, "name": ""} | ({"mlp_ratio": 3.0} if "swiglu" in model else {})
    assert found.view == ("resize_crop", 32 / 37, "bicubic")
    assert found.statistics == tuple(map(tuple, IMAGENET))
    assert (found.classifier is None) == (classes is None)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "resnet18", "stem": "cifar"}, "model.stem='cifar': a resnet18 of transformers has 'imagenet'"),
        ({"name": "resnet18", "project_first": True}, "model.project_first=True"),
        ({"name": "resnet50", "padding": "same"}, "model.padding='same'"),
        (JEPA | {"layer_scale": 0.0}, "model.cls_token=False with model.layer_scale=0.0: .* IJepaModel, has none"),
        (VIT | {"norm_after_pool": True}, "model.norm_after_pool=True"),
        (DINO | {"mlp_ratio": 2.5}, "model.mlp_ratio=2.5: no whole number .* 40 hidden units of a width of 16"),
        ({"name": "vgg11"}, "transformers has no network like model.name='vgg11'"),
        ({"name": "own/net.py:Net"}, "an encoder of your own"),
    ],
)
def test_what_transformers_has_not_is_refused(model, words):
    asked = peers.Network(model, {}, {}, None, (32, 32, 3), (0.0,), (1.0,), Eval())
    with pytest.raises(ValueError, match=words) as error:
        transformers.form(asked)
    assert "\n" not in str(error.value)


THERE = """
import json, os, sys, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [sys.argv[3]]
from benchmarks.torches import torchvision
torchvision()
import numpy, torch, transformers
out, images = sys.argv[1], torch.from_numpy(numpy.load(sys.argv[2]))
config = json.load(open(out + "/config.json"))
name = config["architectures"][0]
arguments = {"add_pooling_layer": False} if name == "ViTForImageClassification" else {}
with torch.no_grad():
    net, said = transformers.AutoModel.from_pretrained(out, output_loading_info=True, **arguments)
    assert type(net).__name__ == name.replace("ForImageClassification", "Model"), type(net)
    assert not said["missing_keys"], said
    assert {key.split(".")[0] for key in said["unexpected_keys"]} <= {"classifier"}, said
    assert bool(said["unexpected_keys"]) == ("id2label" in config), said
    outputs = net.eval()(images)
    found = {"features": eval(sys.argv[4], {"outputs": outputs, "torch": torch})}
    if "id2label" in config:
        net, said = transformers.AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
        assert not said["missing_keys"] and not said["unexpected_keys"], said
        found["logits"] = net.eval()(images).logits
processor = transformers.AutoImageProcessor.from_pretrained(out)
found["inputs"] = processor(list(numpy.load(sys.argv[2] + ".uint8.npy")), return_tensors="pt")["pixel_values"]
numpy.savez(sys.argv[2] + ".npz", **{k: a.numpy() for k, a in found.items()})
"""
MODELS = [
    (LEARNED | {"eps": 1e-12, "gelu": "tanh"}, None),
    (VIT | {"positions": "learned_patches"}, 3),
    (VIT | {"pool": "cls_mean"}, None),
    (VIT | {"pool": "mean"}, 3),
    (JEPA | {"positions_grid": 5, "positions_rule": "transformers"}, None),
    (JEPA | {"positions": "sincos"}, 3),
    (DINO | {"positions_grid": 5}, None),
    (DINO | {"positions_grid": 5, "registers": 3, "pool": "mean"}, 3),
    (DINO | {"swiglu": True, "mlp_ratio": 3.0, "positions_rule": "dinov2", "positions_grid": 5}, 3),
    ({"name": "resnet18"}, 3),
    (RESNET, None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "classes"), MODELS, ids=str)
def test_transformers_computes_the_same(model, classes, tmp_path):
    """In a process of its own: its warnings are its own."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    run, _, _ = folder(tmp_path, model, size=64, classes=classes)
    form = transformers.form(network(run, None if classes is None else run.variables.params["classifier"]["dense0"]))
    pixels = images(run)
    mean, std = (np.float32(numbers) for numbers in IMAGENET)
    np.save(tmp_path / "x.npy", np.einsum("bhwc->bchw", (pixels / np.float32(255) - mean) / std))
    np.save(tmp_path / "x.npy.uint8.npy", pixels)
    experiments = str(pathlib.Path(__file__).resolve().parent.parent / "experiments")
    arguments = [str(tmp_path / "out"), str(tmp_path / "x.npy"), experiments, form.features]
    done = subprocess.run([sys.executable, "-c", THERE, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    want = features(run, pixels)
    with np.load(tmp_path / "x.npy.npz") as found:
        np.testing.assert_allclose(found["features"], want, atol=1e-4 * max(1, np.abs(want).max()))
        assert found["inputs"].shape == (3, 3, 64, 64)
        assert ("logits" in found) == (classes is not None)
        if classes is not None:
            want = np.asarray(run.method.hooks["classify"](run.variables, run.modality.prepare(pixels)))
            np.testing.assert_allclose(found["logits"], want, atol=1e-4 * max(1, np.abs(want).max()))
