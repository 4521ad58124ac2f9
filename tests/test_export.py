"""Encoders for other libraries: the same numbers there, a card that says what they are, and nothing that cannot be."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from experiments import export as command
from experiments import transfer_learning
from ssl_jax import configs, models
from ssl_jax.data import recipes
from ssl_jax.data.images.recipes import Eval, Recipe, View
from ssl_jax.experiment import make_method, make_modality, to_json
from ssl_jax.interop import card, hub, importing, licences, onnx, peers, weights
from ssl_jax.models.pool import max_pool
from ssl_jax.run import checkpoint, embedding, origins
from ssl_jax.run import export as exporting
from ssl_jax.run.export import export
from ssl_jax.run.open import Run, open_weights, variables_spec
from ssl_jax.types import Plan, Vocab

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONVNET = {"name": "convnet", "widths": (4, 8)}
NC = {"licence": "CC BY-NC 4.0", "project": "byol", "source": "deepmind/byol", "sha256": "ab12"}


def opened(workdir, model, *, size=32, channels=3, classes=None, imported=None, source="none", **changes):
    """A run of such a network with random weights, as ``open_run`` would give it."""
    config = configs.load("simclr_digits")
    with config.unlocked():
        config.method = ConfigDict({"name": "imported"} | ({} if classes is None else {"classes": classes}))
        config.model = ConfigDict(model)
        mean, std = IMAGENET if channels == 3 else ((0.5,), (0.25,))
        config.data.update({"source": source, "image_size": size, "mean": mean, "std": std, "global_batch_size": 2})
        config.update(changes)
    recipe = Recipe((View(None),), Eval("resize_crop", 0.875, "bicubic"))
    configs.give_recipe(config, recipe)
    plan = Plan(1, 1, 2, (size, size, channels), 2)
    modality, method = make_modality(config, plan=plan), make_method(config, plan)
    variables = jax.tree_util.tree_map_with_path(random, variables_spec(method, modality, plan))
    resolved = {"data": {"sizes": {"test": 7}, "fingerprints": {"test": "f00d"}}, "commit": "c0ffee"}
    resolved |= {} if imported is None else {"imported": imported}
    return Run(workdir, config, resolved, plan, recipe, modality, method, variables, 12, {})


def of_text(workdir):
    """A run whose encoder reads tokens."""
    config = configs.load("bert_imdb_cpu")
    with config.unlocked():
        config.method = ConfigDict({"name": "imported"})
        config.model = ConfigDict({"name": "text_transformer", "vocab": 9, "width": 8, "depth": 1, "heads": 2})
        config.model.positions = 12
        config.data.update({"source": "none", "document_length": 12, "global_batch_size": 2})
    configs.give_recipe(config, "documents")
    recipe = recipes.of(config.data)
    plan = Plan(1, 1, 2, (12,), 2, vocab=Vocab(9))
    modality, method = make_modality(config, plan=plan, recipe=recipe), make_method(config, plan)
    variables = jax.tree_util.tree_map_with_path(random, variables_spec(method, modality, plan))
    return Run(workdir, config, {"commit": "c0ffee"}, plan, recipe, modality, method, variables, 12, {})


def random(path, leaf):
    rng = np.random.default_rng([*jax.tree_util.keystr(path).encode()])
    name = str(path[-1])
    if "var" in name or "scale" in name:
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
    return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)


def images(run, count=3):
    return np.random.default_rng(5).integers(0, 256, (count, *run.modality.input_shape), np.uint8)


def features(run, pixels):
    return np.asarray(run.method.encode(run.variables, jnp.asarray(run.modality.prepare(pixels)))["features"])


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("run"), {"name": "resnet18"})


@pytest.fixture
def small(tmp_path):
    return opened(tmp_path / "run", CONVNET, size=8)


def network(run, classifier=None):
    params, state = run.method.trunk(run.variables)
    mean, std = run.config.data.mean, run.config.data.std
    shape = run.modality.input_shape
    return peers.Network(to_json(run.config)["model"], params, state, classifier, shape, mean, std, run.recipe.evaluate)


def header(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


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


def test_a_classifier_goes_along(resnet, tmp_path):
    with_head = opened(tmp_path / "run", {"name": "resnet18"}, classes=5)
    found = exporting._classifier(with_head)
    assert found is not None
    arrays = peers.tensors(network(resnet, found), "timm")
    np.testing.assert_array_equal(arrays["fc.weight"], np.asarray(found["kernel"]).T)
    about = peers.config(network(resnet, found), "resnet18", {}, None)
    assert (about["num_classes"], about["pretrained_cfg"]["num_classes"]) == (5, 5)
    assert exporting._classifier(resnet) is None


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
        (CONVNET, "torchvision", r"resnet152, vit\*, AlexNet, VGG, SqueezeNet, DenseNet-121 and MobileNetV2"),
        ({"name": "mlp"}, "timm", "no network like model.name='mlp'"),
        ({"name": "lstm", "vocab": 9}, "timm", "no network like model.name='lstm'"),
        ({"name": "vgg11"}, "timm", "no network like model.name='vgg11'"),
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


def test_a_method_that_computes_more_than_its_network_is_refused(small):
    exporting._compare(small)

    def encode(variables, images, max_dim=None):
        return {"features": 2 * small.method.encode(variables, images)["features"]}

    with pytest.raises(ValueError, match="not those of its convnet"):
        exporting._compare(small._replace(method=small.method._replace(encode=encode)))


def test_flax(small, tmp_path):
    out = tmp_path / "out"
    export(small, out, format="flax")
    about = json.loads((out / "module.json").read_text())
    model = models.make(about["make"].pop("name"), **about["make"])
    packed = flax.serialization.msgpack_restore((out / "flax_model.msgpack").read_bytes())
    flat = safetensors.numpy.load_file(out / "flax_model.safetensors")
    assert header(out / "flax_model.safetensors")["__metadata__"] == {"format": "flax"}
    np.testing.assert_array_equal(
        flat["batch_stats/stage1_block0/norm1/var"], packed["batch_stats"]["stage1_block0"]["norm1"]["var"]
    )
    params, _ = small.method.trunk(small.variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, packed["params"], dict(params)))
    pixels = images(small)
    x = (pixels / np.float32(255) - np.float32(about["mean"])) / np.float32(about["std"])
    got = model.apply(packed, jnp.asarray(x), train=False)["features"]
    np.testing.assert_allclose(got, features(small, pixels), atol=1e-5)


def test_flax_is_not_read_back_and_the_line_says_what_is(small, tmp_path):
    export(small, tmp_path / "out", format="flax")
    for name in ("flax_model.msgpack", "flax_model.safetensors"):
        for read in (weights.read, importing.read):
            with pytest.raises(ValueError, match=r"`ssl-jax export RUN --out X.safetensors`") as error:
                read(tmp_path / "out" / name)
            assert "\n" not in str(error.value)


def test_text_goes_into_flax_and_one_file_alone(tmp_path):
    run, out = of_text(tmp_path / "run"), tmp_path / "out"
    for form in ("timm", "torchvision", "stablehlo", "onnx"):
        with pytest.raises(ValueError, match=r"takes text, and the format is for images; --format flax holds it"):
            exporting.WRITERS[form](tmp_path, run, licence="mit", swapped_stem=False)
    export(run, out, format="flax")
    about = json.loads((out / "module.json").read_text())
    model = models.make(about["make"].pop("name"), **about["make"])
    packed = flax.serialization.msgpack_restore((out / "flax_model.msgpack").read_bytes())
    tokens = jnp.asarray([[3, 4, 5, 0], [1, 8, 0, 0]])
    got, want = model.apply(packed, tokens, train=False), run.method.encode(run.variables, tokens)
    np.testing.assert_allclose(got["features"], want["features"], atol=1e-6)
    text = (out / "README.md").read_text()
    assert head(text)["pipeline_tag"] == "feature-extraction"
    assert "It takes arrays [b, 12]; of text the numbers of tokens in tokenizer.json" in text
    assert (out / "tokenizer.json").is_file()


def test_the_transfer_table_is_of_images(tmp_path, monkeypatch, capsys):
    run = of_text(tmp_path / "run")
    monkeypatch.setattr(transfer_learning, "open_run", lambda workdir: run)
    words = ["--source", "digits", "--out", str(tmp_path / "out"), "--start", f"bert={tmp_path / 'run'}"]
    assert transfer_learning.main(words) == 2
    said = capsys.readouterr().err
    assert "is a run on text or other data, and this compares networks of images" in said
    assert said.count("\n") == 1


def test_the_transfer_table_says_what_its_numbers_are(tmp_path):
    def row(seed, curve, **changes):
        found = {"start": "net", "mode": "tune", "seed": seed, "test_top1": 0.5 + 0.1 * seed, "test_examples": 10}
        found |= {"val_top1": max(curve), "seconds": 2.0, "learning_rate": 0.001}
        return found | {"curve": {"epoch": [float(i + 1) for i in range(len(curve))], "val_top1": curve}} | changes

    rows = [row(0, [0.5, 0.75, 0.75, 0.25]), row(1, [0.25, 0.5, 0.5, 0.75])]
    settings = {"source": "folder:pets", "recipe": "tutorial", "epochs": 4, "held_out": 0.2}
    lines = list(transfer_learning.table(rows, settings))
    assert lines[2] == "| net, tune | 55.0 ± 7.1 | 75.0 ± 0.0 | 50.0 ± 35.4 | 3, 4 | 0.001 | 2 |"
    assert "recipe tutorial: batches of 8, epochs: 4, seeds: 0, 1." in lines[-1]
    assert "20% of train drawn by the seed" in lines[-1]
    for name, some in (("several.png", rows), ("one.png", [row(0, [0.5])])):
        transfer_learning.draw(some, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ssl_jax", "flax"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import jax.export, numpy, safetensors.numpy
out = sys.argv[1]
weights = safetensors.numpy.load_file(out + "/weights.safetensors")
for dtype in ("uint8", "float32"):
    program = jax.export.deserialize(open(f"{out}/encode_{dtype}.stablehlo", "rb").read())
    assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
    for count in (3, 5):
        images = numpy.load(f"{out}/../{count}.npy")
        images = images if dtype == "uint8" else images / numpy.float32(255)
        numpy.save(f"{out}/../{dtype}_{count}.npy", program.call(weights, images)["features"])
"""


def test_stablehlo_runs_without_this_package(small, tmp_path):
    pytest.importorskip("flatbuffers")
    out = tmp_path / "out"
    export(small, out, format="stablehlo")
    signature = json.loads((out / "signature.json").read_text())
    assert signature["outputs"]["features"] == ["b", 8, "float32"]
    names = set(safetensors.numpy.load_file(out / "weights.safetensors"))
    assert "params/encoder/stem_conv/kernel" in names
    assert sum(file.stat().st_size for file in out.glob("*.stablehlo")) < 100_000
    for count in (3, 5):
        np.save(tmp_path / f"{count}.npy", images(small, count))
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ALONE, str(out)], cwd=tmp_path, env=environ, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for count in (3, 5):
        for dtype in ("uint8", "float32"):
            got = np.load(tmp_path / f"{dtype}_{count}.npy")
            np.testing.assert_allclose(got, features(small, images(small, count)), atol=1e-5)


def test_what_is_not_read_is_not_written(small, tmp_path):
    pytest.importorskip("flatbuffers")
    params = {**small.variables.params, "projector": {"dense0": {"kernel": jnp.ones((8, 2))}}}
    export(small._replace(variables=small.variables._replace(params=params)), tmp_path / "out", format="stablehlo")
    names = set(safetensors.numpy.load_file(tmp_path / "out" / "weights.safetensors"))
    assert names
    assert not [name for name in names if "projector" in name]


def logits_by_hand(run, pixels):
    layer = run.variables.params["classifier"]["dense0"]
    return features(run, pixels) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def test_a_classifier_goes_into_flax_and_stablehlo(tmp_path, capsys, monkeypatch):
    pytest.importorskip("flatbuffers")
    run = opened(tmp_path / "run", CONVNET, size=8, classes=3)
    pixels = images(run)
    want = logits_by_hand(run, pixels)
    export(run, tmp_path / "flax", format="flax")
    packed = flax.serialization.msgpack_restore((tmp_path / "flax" / "flax_model.msgpack").read_bytes())
    about = json.loads((tmp_path / "flax" / "module.json").read_text())
    model = models.make(about["make"].pop("name"), **about["make"])
    x = (pixels / np.float32(255) - np.float32(about["mean"])) / np.float32(about["std"])
    outputs = model.apply(packed, jnp.asarray(x), train=False)
    names = {"variables": packed, "outputs": jax.tree.map(np.asarray, outputs)}
    exec(about["classifier"], names)
    np.testing.assert_allclose(names["logits"], want, atol=1e-5)
    assert about["classifier"] in (tmp_path / "flax" / "README.md").read_text()
    export(run, tmp_path / "hlo", format="stablehlo")
    program = jax.export.deserialize((tmp_path / "hlo" / "encode_uint8.stablehlo").read_bytes())
    held = safetensors.numpy.load_file(tmp_path / "hlo" / "weights.safetensors")
    np.testing.assert_allclose(program.call(held, pixels)["logits"], want, atol=1e-5)
    np.testing.assert_allclose(embedding.embed(run, pixels, layer="logits")[0], want, atol=1e-5)
    with pytest.raises(ValueError, match=r"none of this encoder's: .*logits"):
        embedding.embed(run, pixels, layer="logit")
    monkeypatch.setattr(onnx, "check", lambda: None)
    monkeypatch.setattr(onnx, "write", lambda folder, encode, shape: 0.0)
    monkeypatch.setattr(exporting, "open_run", lambda workdir: run)
    words = ["--workdir", str(run.workdir), "--out", str(tmp_path / "onnx"), "--format", "onnx"]
    assert command.main(words) == 0
    assert "Its classifier was left out; --format stablehlo and flax hold it." in capsys.readouterr().out
    assert "classifier was left out" in (tmp_path / "onnx" / "README.md").read_text()


def test_without_flatbuffers_one_line_says_so(small, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for form, extra in (("stablehlo", "export"), ("onnx", "onnx")):
        with pytest.raises(ValueError, match=rf"ssl_jax\[{extra}\]"):
            export(small, tmp_path / "out", format=form)
    assert not (tmp_path / "out").exists()


ENCODERS = [
    ({"name": "convnet", "widths": (4, 8)}, 32),
    ({"name": "mlp", "widths": (8,)}, 8),
    ({"name": "vit", "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "cls_token": True}, 16),
    ({"name": "wide_resnet", "depth": 10, "widen": 1}, 16),
    ({"name": "resnet18", "width": 0.0625}, 160),
]


@pytest.mark.parametrize(("model", "size"), ENCODERS, ids=lambda x: x["name"] if isinstance(x, dict) else "")
def test_the_number_of_images_may_be_a_symbol(model, size):
    fields = dict(model)
    encoder = models.make(fields.pop("name"), **fields)
    spec = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), size, size, 3), jnp.float32)
    program = jax.export.export(jax.jit(lambda v, x: models.pooled(encoder.apply(v, x, train=False))))(spec, batch)
    variables = jax.tree_util.tree_map_with_path(random, spec)
    x = jnp.asarray(np.random.default_rng(0).random((2, size, size, 3), np.float32))
    want = encoder.apply(variables, x, train=False)["features"]
    np.testing.assert_allclose(program.call(variables, x)["features"], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("padding", ["torch", "same", "ceil", "none"])
def test_a_pool_of_a_symbols_images_has_the_same_bits(padding):
    batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 9, 8, 2), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: max_pool(x, padding)))(batch)
    assert "reduce_window" in program.mlir_module()
    x = -1 - jnp.asarray(np.random.default_rng(0).random((3, 9, 8, 2), np.float32))  # a border of zeros would show
    np.testing.assert_array_equal(program.call(x), max_pool(x, padding))


def converter(monkeypatch, run):
    """jax2onnx and onnxruntime as far as they are called here; the runtime computes ``run``."""

    def to_onnx(fn, inputs, *, output_path, **options):
        pathlib.Path(output_path).write_text("graph")

    class Session:
        def __init__(self, path, providers):
            assert os.path.exists(path)

        def run(self, names, feeds):
            return [run(feeds["images"])]

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=to_onnx))
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))


def test_onnx_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    encode = jax.jit(lambda x: x.sum((1, 2)))
    for off, allowed in ((0.0, True), (5e-4, True), (1.5e-3, False), (np.nan, False)):  # features reach 10 or more
        converter(monkeypatch, lambda x, off=off: np.asarray(encode(x)) + np.float32(off))
        if allowed:
            assert onnx.write(tmp_path, encode, (5, 5, 3)) <= 1e-3
            (tmp_path / "model.onnx").unlink()
        else:
            with pytest.raises(ValueError, match="onnxruntime computes other features"):
                onnx.write(tmp_path, encode, (5, 5, 3))
        assert not list(tmp_path.iterdir())


def test_the_folder_is_there_whole_or_not_at_all(small, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is there already"):
        export(small, full, format="flax")
    monkeypatch.setattr(card, "text", lambda facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(small, tmp_path / "out", format="flax")
    assert os.listdir(tmp_path) == ["full"]
    assert os.listdir(full) == ["mine.txt"]


def evaluated(run, digest):
    result = {
        "metrics": {"test_knn_top1": 0.75, "test_odd": None, "test_linear_l2": 1e-4},
        "intervals": {"test_knn_top1": [0.5, 0.875]},
        "evaluators": {},
        "provenance": {"checkpoint": digest, "evaluated_on": "folder:/home/me/pets", "sizes": {"test": 8}, "seed": 0},
    }
    place = run.workdir / "evaluation"
    place.mkdir(parents=True)
    (place / "evaluation.json").write_text(json.dumps(result))


def head(text):
    yaml = pytest.importorskip("yaml")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card(tmp_path):
    run = opened(tmp_path / "run", CONVNET, size=8, source="folder:/home/me/pets")
    evaluated(run, checkpoint.fingerprint(run.variables))
    export(run, tmp_path / "pets", format="flax", licence="Apache-2.0")
    text = (tmp_path / "pets" / "README.md").read_text()
    said = head(text)
    assert (said["license"], said["library_name"]) == ("apache-2.0", "flax")
    assert said["pipeline_tag"] == "image-feature-extraction"
    assert {"ssl_jax", "imported", "convnet"} <= set(said["tags"])
    (index,) = said["model-index"]
    (result,) = index["results"]
    assert index["name"] == "pets"
    assert result["dataset"] == {"type": "folder:pets", "name": "folder:pets"}
    assert result["metrics"] == [{"type": "accuracy", "name": "test_knn_top1", "value": 0.75}]
    assert "| test_knn_top1 | 0.75 | 0.5 to 0.875 |" in text
    for words in ("c0ffee", "step 12", "- test: 7 examples, fingerprint f00d", '"widths"', "mean 0.485, 0.456, 0.406"):
        assert words in text
    assert "/home" not in text
    assert not text.startswith("\n")


def test_the_hub_reads_the_card(tmp_path):
    hub_of = pytest.importorskip("huggingface_hub")
    run = opened(tmp_path / "run", CONVNET, size=8)
    evaluated(run, checkpoint.fingerprint(run.variables))
    export(run, tmp_path / "out", format="flax")
    data = hub_of.ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.eval_results[0].metric_value) == ("unknown", 0.75)


def test_numbers_of_another_checkpoint_are_left_out(small, tmp_path):
    evaluated(small, "another")
    export(small, tmp_path / "out", format="flax")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "0.75" not in text
    assert "An evaluation of another checkpoint lies beside the run" in text


@pytest.mark.parametrize(
    ("asked", "published", "given"),
    [
        (None, {}, "not stated"),
        ("mit", {}, "mit"),
        (None, {"x": "MIT (relicensed 2023)"}, "MIT (relicensed 2023)"),
        ("CC-BY-NC-4.0", {"x": "CC BY-NC 4.0"}, "CC-BY-NC-4.0"),
        (None, {"x": "CC BY-NC 4.0"}, "say so, with --license cc-by-nc-4.0"),
        ("apache-2.0", {"x": "CC BY-NC 4.0"}, "cannot be passed on under 'apache-2.0'"),
        ("mit", {"a": "MIT", "b": "DINOv3"}, "b were published under DINOv3"),
        (" ", {}, "names no licence"),
        (
            "gpl-nonsense",
            {},
            r"gpl-nonsense is no licence that is known; did you mean .*--license 'other:gpl-nonsense'",
        ),
        ("other:my terms", {}, "my terms"),
        ("GPL-3.0-or-later", {}, "GPL-3.0-or-later"),
        ("other:mit", {"x": "CC BY-NC 4.0"}, "cannot be passed on under 'mit'"),
    ],
)
def test_licences(asked, published, given):
    if given in ("not stated", "mit", "MIT (relicensed 2023)", "CC-BY-NC-4.0", "my terms", "GPL-3.0-or-later"):
        assert licences.chosen(asked, published) == given
    else:
        with pytest.raises(ValueError, match=given) as error:
            licences.chosen(asked, published)
        assert "\n" not in str(error.value)


def test_weights_under_a_restricted_licence_keep_it(tmp_path):
    run = opened(tmp_path / "run", CONVNET, size=8, imported=NC)
    with pytest.raises(ValueError, match=r"were published under CC BY-NC .*: say so"):
        export(run, tmp_path / "out", format="flax")
    with pytest.raises(ValueError, match="cannot be passed on under 'mit'"):
        export(run, tmp_path / "out", format="flax", licence="mit")
    assert not (tmp_path / "out").exists()
    export(run, tmp_path / "out", format="flax", licence="cc-by-nc-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    assert head(text)["license"] == "cc-by-nc-4.0"
    assert "weights of byol" in text
    assert "published under: CC BY-NC 4.0." in text


def test_a_plain_file_does_not_say_who_trained_it(tmp_path):
    came = {"project": "torchvision", "source": "pytorch/vision", "sha256": None, "licence": None}
    export(opened(tmp_path / "run", CONVNET, size=8, imported=came), tmp_path / "out", format="flax")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "weights in the form of torchvision." in text
    assert "(pytorch/vision), published under: not known; who trained them it does not say." in text


def test_a_file_keeps_the_licence_of_its_weights(tmp_path):
    run, path = opened(tmp_path / "run", CONVNET, size=8, imported=NC), tmp_path / "x.safetensors"
    for licence, said in ((None, "say so, with --license cc-by-nc-4.0"), ("mit", "cannot be passed on under 'mit'")):
        with pytest.raises(ValueError, match=said):
            export(run, path, licence=licence)
    assert not path.exists()
    export(run, path, licence="cc-by-nc-4.0")
    about = weights.about(path)
    assert (about["licence"], about["origins"]) == ("cc-by-nc-4.0", [NC])
    begun = opened(tmp_path / "begun", CONVNET, size=8, init_from=str(path))
    kept = {"origins": origins.began_with(str(path))}  # as config.json of a run has it, whatever becomes of the file
    again = open_weights(path)
    for _ in range(2):
        for one in (begun, again):
            with pytest.raises(ValueError, match=r"were published under CC BY-NC 4\.0"):
                export(one, tmp_path / "y.safetensors", licence="mit")
        path.unlink(missing_ok=True)
        begun = begun._replace(resolved=begun.resolved | kept)
    export(begun, tmp_path / "y", format="flax", licence="cc-by-nc-4.0")
    text = (tmp_path / "y" / "README.md").read_text()
    assert "The run began with weights of deepmind/byol; their licence: CC BY-NC 4.0." in text


def test_a_licence_that_was_given_to_a_file_is_kept(small, tmp_path):
    export(small, tmp_path / "x.safetensors", licence="cc-by-nc-4.0")
    began = origins.published(origins.began_with({"encoder": str(tmp_path / "x.safetensors")}))
    assert list(began.values()) == ["cc-by-nc-4.0"]
    export(small, tmp_path / "x.safetensors")
    assert weights.about(tmp_path / "x.safetensors")["licence"] == "not stated"
    assert origins.began_with(str(tmp_path / "x.safetensors")) == []
    assert origins.began_with(str(tmp_path / "none.safetensors")) == []


def test_what_began_with_restricted_weights_keeps_their_licence(tmp_path):
    source = tmp_path / "byol"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"config": {"init_from": None}, "resolved": {"imported": NC}}))
    run = opened(tmp_path / "run", CONVNET, size=8, init_from=str(source))
    with pytest.raises(ValueError, match="which this began with, were published under CC BY-NC"):
        export(run, tmp_path / "out", format="flax")


class Api:
    def __init__(self, fails=False):
        self.calls, self.fails = [], fails

    def create_repo(self, repo_id, **how):
        self.calls.append(("create_repo", repo_id, how))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.fails:
            raise RuntimeError("403 Forbidden\nmore")
        self.calls.append(("upload_folder", repo_id, sorted(os.listdir(folder_path)), commit_message))


def test_a_folder_is_sent_to_the_hub(small, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    said = export(small, tmp_path / "out", format="flax", push_to="me/pets", private=True)
    files = ["README.md", "flax_model.msgpack", "flax_model.safetensors", "module.json"]
    assert api.calls == [
        ("create_repo", "me/pets", {"private": True, "exist_ok": True}),
        ("upload_folder", "me/pets", files, "imported, step 12"),
    ]
    assert said["url"] == "https://huggingface.co/me/pets"
    with pytest.raises(OSError, match=r"was not sent to me/pets: 403 Forbidden$"):
        hub.push(tmp_path / "out", "me/pets", api=Api(fails=True))


def test_nothing_is_sent_offline(small, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 forbids it"):
        export(small, tmp_path / "out", format="flax", push_to="me/pets")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ValueError, match="is no repository of the Hub; write OWNER/NAME"):
        export(small, tmp_path / "out", format="flax", push_to="pets")
    with pytest.raises(ValueError, match="--push-to sends a folder"):
        export(small, tmp_path / "out.safetensors", push_to="me/pets")
    assert not list(tmp_path.glob("out*"))


def test_the_command(tmp_path, capsys, monkeypatch):
    run = opened(tmp_path / "run", CONVNET, size=8)
    monkeypatch.setattr(exporting, "open_run", lambda workdir: run)
    words = ["--workdir", str(run.workdir), "--out", str(tmp_path / "out")]
    assert command.main([*words, "--format", "timm"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert command.main([*words, "--format", "tflite"]) == 2
    assert "known: ssl_jax, timm" in capsys.readouterr().err
    assert command.main([*words, "--format", "flax", "--license", "mit"]) == 0
    assert "fingerprint" in capsys.readouterr().out
    assert (tmp_path / "out" / "flax_model.msgpack").exists()


CLS = VIT | {"cls_token": True, "pool": "cls"}
PEER_MODELS = [
    {"name": "resnet18"},
    {"name": "resnet50"},
    VIT,
    CLS | {"positions": "moco_v3"},
    CLS | {"positions": "learned", "positions_grid": 5, "positions_rule": "dinov2", "registers": 3, "layer_scale": 0.1},
    CLS | {"swiglu": True, "positions": "learned", "layer_scale": 0.1},
    VIT | {"cls_token": True, "positions": "learned_patches", "gelu": "tanh", "norm_after_pool": True},
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
    found = {"timm": timm.create_model("local-dir:" + out, pretrained=True).eval()(images)}
    found["transformers"] = transformers.AutoModel.from_pretrained(out).eval()(images).pooler_output
    if name.startswith("resnet"):
        net = getattr(torchvision.models, name)()
        missing, unexpected = net.load_state_dict(load_file(out + "/model.safetensors"), strict=False)
        assert set(missing) == {"fc.weight", "fc.bias"} and not unexpected, (missing, unexpected)
        net.fc = torch.nn.Identity()
        found["torchvision"] = net.eval()(images)
numpy.savez(sys.argv[2] + ".npz", **{k: a.numpy() for k, a in found.items()})
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", PEER_MODELS, ids=lambda model: "-".join(map(str, model.values())))
def test_peers_compute_the_same(model, tmp_path):
    """timm, torchvision and transformers, in a process of their own: their warnings are theirs."""
    for package in ("timm", "torchvision", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    run = opened(tmp_path / "run", model, size=64)
    export(run, tmp_path / "out", format="timm")
    pixels = images(run)
    mean, std = (np.float32(numbers) for numbers in IMAGENET)
    np.save(tmp_path / "x.npy", np.einsum("bhwc->bchw", (pixels / np.float32(255) - mean) / std))
    benchmarks = str(pathlib.Path(__file__).resolve().parent.parent / "experiments")
    arguments = [str(tmp_path / "out"), str(tmp_path / "x.npy"), benchmarks]
    done = subprocess.run([sys.executable, "-c", PEERS, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    want = features(run, pixels)
    with np.load(tmp_path / "x.npy.npz") as found:
        of_resnet = {"torchvision"} if model["name"].startswith("resnet") else set()
        assert set(found) == {"timm", "transformers"} | of_resnet
        for got in found.values():
            np.testing.assert_allclose(got, want, atol=1e-4 * max(1, np.abs(want).max()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "size"), ENCODERS, ids=lambda x: x["name"] if isinstance(x, dict) else "")
def test_onnx_of_every_kind_of_encoder(model, size, tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    run = opened(tmp_path / "run", model, size=size)
    export(run, tmp_path / "out", format="onnx")
    assert (tmp_path / "out" / "model.onnx").exists()
