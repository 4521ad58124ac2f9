"""Encoders for Flax, StableHLO and ONNX: the same numbers there, and nothing that cannot be."""

from __future__ import annotations

import json
import logging
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
from exported_runs import CONVNET, features, head, header, images, of_text, opened, random

from experiments import export as command
from experiments import transfer_learning
from ssl_jax import models
from ssl_jax.evals.shared.encode import with_logits
from ssl_jax.interop import card, importing, onnx, weights
from ssl_jax.models.pool import max_pool
from ssl_jax.run import embedding
from ssl_jax.run import export as exporting
from ssl_jax.run.export import export


@pytest.fixture
def small(tmp_path):
    return opened(tmp_path / "run", CONVNET, size=8)


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
    assert transfer_learning.main([*words, "--head_rate", "0"]) == 2
    assert "--head_rate 0 must be positive" in capsys.readouterr().err


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
    seen = "Of the 195 images that are trained on, 192 are seen in an epoch, 24 batches of 8; the other 3"
    for n, said in ((195, seen), (192, "\nfolder:pets"), (5, "\nfolder:pets")):
        assert list(transfer_learning.table([row(0, [0.5], train_examples=n)], settings))[-1].startswith(said)
    apart = row(0, [0.5], learning_rate=1e-5, head_rate=100.0)
    assert "| 1e-05, classifier 0.001 |" in list(transfer_learning.table([apart], settings))[2]
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
    text = (tmp_path / "hlo" / "README.md").read_text()
    assert "\npipeline_tag: image-classification\n" in text
    # The code of the card runs as it stands.
    names = {"images": pixels}
    exec(text.split("```python\n")[1].split("```")[0].replace("FOLDER", str(tmp_path / "hlo")), names)
    np.testing.assert_allclose(names["logits"], want, atol=1e-5)
    np.testing.assert_allclose(names["features"], features(run, pixels), atol=1e-5)
    np.testing.assert_allclose(embedding.embed(run, pixels, layer="logits")[0], want, atol=1e-5)
    with pytest.raises(ValueError, match=r"none of this encoder's: .*logits"):
        embedding.embed(run, pixels, layer="logit")
    monkeypatch.setattr(onnx, "check", lambda: None)
    monkeypatch.setattr(exporting, "open_run", lambda workdir: run)
    written = {}
    converter(monkeypatch, lambda x: {k: np.asarray(a) for k, a in with_logits(run.method)(run.variables, x).items()})
    monkeypatch.setattr(sys.modules["jax2onnx"], "to_onnx", spied(sys.modules["jax2onnx"].to_onnx, written))
    words = ["--workdir", str(run.workdir), "--out", str(tmp_path / "onnx"), "--format", "onnx"]
    assert command.main(words) == 0
    assert written["output_names"] == ["features", "logits"]
    features_there, logits_there = written["fn"](jnp.asarray(run.modality.prepare(pixels)))
    np.testing.assert_allclose(features_there, features(run, pixels), atol=1e-5)
    np.testing.assert_allclose(logits_there, want, atol=1e-5)
    assert 'Its classifier came with it, the output "logits".' in capsys.readouterr().out
    assert 'features, logits, = session.run(["features", "logits"]' in (tmp_path / "onnx" / "README.md").read_text()


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
    pytest.param({"name": "wide_resnet", "depth": 10, "widen": 1}, 16, marks=pytest.mark.slow),
    pytest.param({"name": "resnet18", "width": 0.0625}, 160, marks=pytest.mark.slow),
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


def spied(function, seen):
    def called(fn, inputs, **options):
        seen.update(options, fn=fn)
        return function(fn, inputs, **options)

    return called


def converter(monkeypatch, run):
    """jax2onnx and onnxruntime as far as they are called here; the runtime computes ``run``."""

    def to_onnx(fn, inputs, *, output_path, export_mode, **options):
        logging.getLogger("onnx_ir.serde").warning("The value type for shape [6] is not known.")
        pathlib.Path(output_path).write_text("graph")
        if export_mode == "standard":
            pathlib.Path(f"{output_path}.data").write_text("weights")

    class Session:
        def __init__(self, path, providers):
            assert os.path.exists(path)

        def run(self, names, feeds):
            return [run(feeds["images"])[name] for name in names]

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=to_onnx))
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))


def test_onnx_is_one_file_below_what_protobuf_holds_and_says_nothing_of_constants(tmp_path, monkeypatch, caplog):
    run = opened(tmp_path / "run", CONVNET, size=8)
    monkeypatch.setattr(onnx, "check", lambda: None)
    converter(monkeypatch, lambda x: {"features": np.asarray(run.method.encode(run.variables, x)["features"])})
    for limit, files in (
        (onnx.LIMIT, ["README.md", "model.onnx"]),
        (9, ["README.md", "model.onnx", "model.onnx.data"]),
    ):
        monkeypatch.setattr(onnx, "LIMIT", limit)
        notes = export(run, tmp_path / str(limit), format="onnx")["notes"]
        assert sorted(os.listdir(tmp_path / str(limit))) == files
        assert any("model.onnx.data, which belongs beside model.onnx" in note for note in notes) == (len(files) == 3)
    assert not [record for record in caplog.records if record.name.startswith("onnx_ir")]
    logging.getLogger("onnx_ir.serde").warning("of others")
    assert [record.message for record in caplog.records if record.name.startswith("onnx_ir")] == ["of others"]


@pytest.mark.parametrize("wrong", ["features", "logits"])
def test_onnx_that_computes_something_else_is_refused(wrong, tmp_path, monkeypatch):
    encode = jax.jit(lambda x: {"features": x.sum((1, 2)), "logits": 2 * x.sum((1, 2))})
    names = ("features", "logits")
    for off, allowed in ((0.0, True), (5e-4, True), (3e-3, False), (np.nan, False)):  # outputs reach 10 or more
        plus = {name: np.float32(off if name == wrong else 0) for name in names}
        converter(monkeypatch, lambda x, plus=plus: {k: np.asarray(a) + plus[k] for k, a in encode(x).items()})
        if allowed:
            assert onnx.write(tmp_path, encode, (5, 5, 3), names) <= 3e-3
            (tmp_path / "model.onnx").unlink()
        else:
            with pytest.raises(ValueError, match=f"onnxruntime computes other {wrong}"):
                onnx.write(tmp_path, encode, (5, 5, 3), names, size=onnx.LIMIT + 1)
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "size"), ENCODERS, ids=lambda x: x["name"] if isinstance(x, dict) else "")
def test_onnx_of_every_kind_of_encoder(model, size, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    run = opened(tmp_path / "run", model, size=size, classes=3)
    export(run, tmp_path / "out", format="onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "model.onnx"]
    assert [output.name for output in session.get_outputs()] == ["features", "logits"]
    pixels = jnp.asarray(run.modality.prepare(images(run)))
    got = session.run(["logits"], {"images": np.asarray(pixels)})[0]
    np.testing.assert_allclose(got, run.method.hooks["classify"](run.variables, pixels), atol=1e-3)
