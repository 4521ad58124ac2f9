"""A config.json of transformers is followed, told or refused field by field, and numbers become float32 aloud."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import test_importing
import weight_files

from experiments import import_weights
from ssl_jax.interop import archives, importing, pairs, resnet, vit

VIT = {
    **{"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 192, "num_hidden_layers": 2},
    **{"num_attention_heads": 3, "intermediate_size": 768, "hidden_act": "gelu", "hidden_dropout_prob": 0.0},
    **{"attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "image_size": 32},
    **{"patch_size": 8, "num_channels": 3, "qkv_bias": True, "encoder_stride": 16, "transformers_version": "5.24.0"},
    **{"pooler_act": "tanh", "pooler_output_size": 192, "id2label": {"0": "a"}, "label2id": {"a": 0}},
}
DINOV2 = {k: v for k, v in VIT.items() if k not in ("intermediate_size", "pooler_act", "pooler_output_size")} | {
    **{"model_type": "dinov2", "layer_norm_eps": 1e-6, "mlp_ratio": 4, "use_swiglu_ffn": False, "use_mask_token": True},
    **{"layerscale_value": 1.0, "drop_path_rate": 0.0, "apply_layernorm": True, "reshape_hidden_states": True},
    **{"out_features": ["stage2"], "out_indices": [2], "stage_names": ["stem", "stage1", "stage2"]},
}
REGISTERS = DINOV2 | {"model_type": "dinov2_with_registers", "num_register_tokens": 2}
RESNET = {
    **{"model_type": "resnet", "num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16, 32, 64]},
    **{"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_act": "relu", "downsample_in_first_stage": False},
    **{"downsample_in_bottleneck": False, "out_features": ["stage4"], "out_indices": [4], "dtype": "float32"},
}
TIMM = {"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
SCALED = weight_files.CLS | {"layer_scale": 1e-5}
NETWORKS = {  # kind -> (family, library, model, config.json)
    "vit": (vit, "transformers", weight_files.CLS, VIT),
    "dinov2": (vit, "transformers_dinov2", SCALED, DINOV2),
    "swiglu": (vit, "transformers_dinov2", SCALED | {"mlp_ratio": 512 / 192, "swiglu": True}, DINOV2),
    "registers": (vit, "transformers_dinov2", SCALED | {"registers": 2}, REGISTERS),
    "resnet": (resnet, "transformers", weight_files.R18, RESNET),
    "timm": (vit, "timm", weight_files.CLS, TIMM),
}
PREPROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}, "resample": 2}


def arrays(kind: str) -> dict[str, np.ndarray]:
    family, library, model, _ = NETWORKS[kind]
    published = weight_files.Published(family, library, model, lambda a: a)
    return pairs.write(family.pairs(model, library), test_importing.network(published))


@pytest.fixture(scope="module")
def weights():
    return {kind: weight_files.of_safetensors(arrays(kind)) for kind in NETWORKS}


@pytest.fixture
def folder(tmp_path, weights):
    """(kind, what config.json says besides or ``without``, preprocessor) -> a folder."""

    def made(kind: str, preprocessor=PREPROCESSOR, without: str = "", **said) -> Path:
        config = {k: v for k, v in NETWORKS[kind][3].items() if k != without} | said
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        (tmp_path / "model.safetensors").write_bytes(weights[kind])
        return tmp_path

    return made


def refused(place, words):
    with pytest.raises(ValueError, match=words) as error:
        importing.read(place)
    assert str(error.value).startswith(str(place))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "timm"])
def test_what_is_written_whole_is_followed_without_a_word(folder, kind):
    more = {"use_swiglu_ffn": True, "hidden_act": "relu"} if kind == "swiglu" else {}  # which a SwiGLU has not
    found = importing.read(folder(kind, **more))
    assert found.record["notes"] == []
    assert found.model.get("eps") == {"vit": 1e-12, "resnet": None}.get(kind, 1e-6)
    assert found.report.converted == {}


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("vit", "vit."), ("dinov2", "dinov2."), ("registers", "dinov2_with_registers."), ("resnet", "resnet.")],
)
def test_with_a_classifier_a_network_has_the_prefix_of_its_kind(folder, kind, prefix):
    place, named = folder(kind), {prefix + name: array for name, array in arrays(kind).items()}
    (place / "model.safetensors").write_bytes(weight_files.of_safetensors(named))
    assert importing.read(place).report.matched == len(named)


def test_a_field_that_is_not_said_is_as_transformers_has_it(folder):
    assert importing.read(folder("vit", without="layer_norm_eps")).model["eps"] == 1e-12
    assert importing.read(folder("dinov2", without="layer_norm_eps")).model["eps"] == 1e-6
    assert importing.read(folder("vit", without="num_attention_heads")).model["heads"] == 12


@pytest.mark.parametrize("act", ["gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"])
def test_the_gelus_by_tanh_are_one(folder, act):
    assert importing.read(folder("vit", hidden_act=act)).model["gelu"] == "tanh"


NUMBERS = [
    *(("vit", "layer_norm_eps", value) for value in ("abc", None, -1e-6, 0, float("nan"), float("inf"), 2, True, [1])),
    *(("vit", "num_attention_heads", value) for value in ("abc", None, 0, -3, 1.5, {})),
    ("dinov2", "mlp_ratio", "four"),
    ("resnet", "downsample_in_bottleneck", "no"),
    ("timm", "eps", "abc"),
    ("timm", "num_heads", 0),
]


@pytest.mark.parametrize(("kind", "key", "value"), NUMBERS)
def test_numbers_that_are_none_are_one_line(folder, kind, key, value):
    said = {"model_args": {key: value}} if kind == "timm" else {key: value}
    if kind == "timm" or key != "downsample_in_bottleneck":
        refused(folder(kind, **said), rf"says {key}=.*, which is no (whole )?number")
    else:
        refused(folder(kind, **said), rf"says {key}='no', which is neither true nor false")


@pytest.mark.parametrize("act", ["relu", "silu", "quick_gelu", "gelu_10", "swish", ["gelu"], {}, 3])
def test_another_activation_is_refused(folder, act):
    refused(folder("vit", hidden_act=act), r"says hidden_act=.*, which ours does not compute; known: gelu, ")
    refused(folder("dinov2", hidden_act=act), "hidden_act=")
    refused(folder("timm", model_args={"act_layer": act}), r"model_args\.act_layer=.* does not compute")
    if act != "relu":
        refused(folder("resnet", hidden_act=act), "says hidden_act=.*known: relu")


DIFFER = [
    ("vit", {"num_hidden_layers": 6}, "num_hidden_layers=6, and its arrays are of 2; get the folder again"),
    ("vit", {"hidden_size": 384}, "hidden_size=384, and its arrays are of 192"),
    ("vit", {"hidden_size": "192"}, "hidden_size='192', and its arrays are of 192"),
    ("vit", {"intermediate_size": 3072}, "intermediate_size=3072, and its arrays are of 768"),
    ("vit", {"patch_size": 16}, "patch_size=16, and its arrays are of 8"),
    ("vit", {"image_size": 224}, "image_size=224, and its arrays are of 32"),
    ("vit", {"num_attention_heads": 5}, "num_attention_heads=5, and its arrays are of a width of 192"),
    ("vit", {"head_dim": 32}, "head_dim=32, and its arrays are of 64"),
    ("vit", {"model_type": "dinov2"}, "model_type='dinov2', and its arrays are those of a ViT with cls_token;"),
    ("vit", {"model_type": "ijepa"}, "model_type='ijepa', and its arrays are those of a ViT with cls_token;"),
    ("vit", {"model_type": "resnet"}, "model_type='resnet', and its arrays are those of a vit"),
    ("dinov2", {"model_type": "vit"}, "arrays are those of a ViT with cls_token, layer_scale;"),
    ("dinov2", {"use_swiglu_ffn": True}, "use_swiglu_ffn=True, and its arrays are of False"),
    ("dinov2", {"mlp_ratio": 2}, "mlp_ratio=2, and its arrays are of 768 hidden numbers, not 384"),
    ("swiglu", {"use_swiglu_ffn": False}, "use_swiglu_ffn=False, and its arrays are of True"),
    ("swiglu", {"use_swiglu_ffn": True, "mlp_ratio": 5}, "mlp_ratio=5, and its arrays are of 512 hidden numbers"),
    ("registers", {"num_register_tokens": 4}, "num_register_tokens=4, and its arrays are of 2"),
    ("resnet", {"model_type": "vit"}, "model_type='vit', and its arrays are those of a resnet18"),
    ("resnet", {"embedding_size": 64}, "embedding_size=64, and its arrays are of 8"),
    ("resnet", {"hidden_sizes": [8, 16, 32, 128]}, "hidden_sizes=.*, and its arrays are of"),
    ("resnet", {"depths": [3, 4, 6, 3]}, r"depths=\[3, 4, 6, 3\], and its arrays are of \[2, 2, 2, 2\]"),
    ("resnet", {"layer_type": "bottleneck"}, "layer_type='bottleneck', and its arrays are of basic"),
    ("timm", {"model_args": {"depth": 12}}, r"model_args\.depth=12, and its arrays are of 2"),
    ("timm", {"model_args": {"reg_tokens": 4}}, r"model_args\.reg_tokens=4, and its arrays are of 0"),
]


@pytest.mark.parametrize(("kind", "said", "words"), DIFFER)
def test_a_config_of_another_network_is_refused(folder, kind, said, words):
    refused(folder(kind, **said), words)


@pytest.mark.parametrize(
    ("kind", "said", "words"),
    [
        ("vit", {"model_type": "deit"}, "model_type='deit'; known: vit, vit_mae"),
        ("vit", {"model_type": ["vit"]}, r"model_type=\['vit'\]; known"),
        ("vit", {"qkv_bias": False}, "qkv_bias=False, and ours has True alone"),
        ("vit", {"num_channels": 1}, "num_channels=1, and ours has 3 alone"),
        ("vit", {"quantization_config": {"load_in_8bit": True}}, "quantization_config="),
        ("vit", {"pruned_heads": {"0": [1]}}, "pruned_heads="),
        ("resnet", {"downsample_in_first_stage": True}, "downsample_in_first_stage=True, and ours has False alone"),
    ],
)
def test_what_ours_does_not_compute_is_refused(folder, kind, said, words):
    refused(folder(kind, **said), words)


def test_blocks_of_two_convolutions_have_no_place_for_the_stride_of_bottlenecks(folder):
    assert "stride_first" not in importing.read(folder("resnet", downsample_in_bottleneck=True)).model


def test_a_first_stage_that_strides_is_seen_in_the_arrays(tmp_path):
    """As there is a shortcut where a stage of one width and no stride has none; its stride leaves no trace."""
    model = weight_files.R18 | {"project_first": True}
    published = weight_files.Published(resnet, "transformers", model, lambda a: a)
    table = resnet.pairs(model, "transformers")
    file = tmp_path / "model.safetensors"
    file.write_bytes(weight_files.of_safetensors(pairs.write(table, test_importing.network(published))))
    refused(file, r"a resnet18 of transformers with a shortcut in its first stage, .*downsample_in_first_stage")


def test_what_is_not_followed_is_told(folder):
    images = PREPROCESSOR | {"do_rescale": False, "do_pad": True, "do_convert_rgb": True, "processor_class": None}
    found = importing.read(folder("dinov2", images, apply_layernorm=False, layer_norm_bias=False, none=None))
    assert found.record["notes"] == [
        "config.json: apply_layernorm=False",
        "config.json: layer_norm_bias=False",
        "preprocessor_config.json: do_rescale=False, pixels are made to lie in [0, 1]",
        "preprocessor_config.json: do_pad=True",
    ]
    assert "not followed: config.json: layer_norm_bias=False" in list(import_weights.told(found))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"image_mean": [0.5, "a", 0.5]}, "image_mean=.*, which is not three numbers, each at least 0"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std=.* each more than 0"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "image_std=.* each more than 0"),
        ({"image_mean": 0.5}, "image_mean=0.5, which is not three"),
        ({"rescale_factor": "1/255"}, "rescale_factor='1/255', which is no number more than 0"),
        ({"size": {"height": "a", "width": "a"}}, "its images are of 'a' pixels, which is no size"),
        ({"size": -3}, "its images are of -3 pixels"),
    ],
)
def test_numbers_of_images_that_cannot_be_are_refused(folder, said, words):
    refused(folder("vit", PREPROCESSOR | said), words)


def test_a_file_beside_a_config_is_told_and_the_folder_is_named_where_something_is_asked(folder):
    file = folder("vit") / "model.safetensors"
    with pytest.raises(ValueError, match=r"--mean .*; or give its folder, .*, whose config.json says more") as error:
        importing.read(file)
    assert f"give its folder, {file.parent}," in str(error.value)
    found = importing.read(file, statistics=weight_files.STATISTICS["statistics"])
    assert found.record["notes"] == ["config.json beside the file, which is read where the folder is given"]
    (file.parent / "config.json").unlink()
    assert importing.read(file, statistics=weight_files.STATISTICS["statistics"]).record["notes"] == []
    with pytest.raises(ValueError, match="--mean") as error:
        importing.read(file)
    assert "give its folder" not in str(error.value)


def test_shards_that_are_not_there_or_damaged_are_named(folder):
    place, names = folder("vit"), [f"model-{n:05d}-of-00007.safetensors" for n in range(1, 8)]
    flat = arrays("vit")
    (place / "model.safetensors").unlink()
    shards = {name: dict(list(flat.items())[k::7]) for k, name in enumerate(names)}
    for name, part in shards.items():
        (place / name).write_bytes(weight_files.of_safetensors(part))
    index = {array: name for name, part in shards.items() for array in part}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert importing.read(place).report.matched == len(flat)
    refused(place / names[0], f"it is one of several shards: give their folder, {place}$")
    (place / names[4]).write_bytes((place / names[4]).read_bytes()[:200])
    refused(place, f"its shard {names[4]}: ")
    (place / names[2]).unlink()
    refused(place, f"1 of its 7 shards not in the folder: {names[2]}; get the whole folder")


def network_of(dtype, few=""):
    """A network of torchvision's whose arrays that begin so are of a dtype."""
    return {
        name: (array * (1 + 0.5j) if np.dtype(dtype).kind == "c" else array).astype(dtype)
        if name.startswith(few)
        else array
        for name, array in test_importing.state().items()
    }


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes_become_float32_and_are_counted(tmp_path, dtype):
    file, tree = tmp_path / "weights.pth", network_of(dtype)
    file.write_bytes(pickle.dumps(tree))
    found = importing.read(file)
    assert found.report.converted == {dtype: len(tree)}
    assert f"{len(tree)} arrays were {dtype}, are float32 now" in list(import_weights.told(found))
    assert found.report.plain()["converted"] == {dtype: len(tree)}
    kernel = found.params["stem_conv"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, tree["conv1.weight"].transpose(2, 3, 1, 0).astype(np.float32))


def test_one_array_of_another_dtype_is_one(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps(network_of("float16", "conv1.")))
    assert "1 array was float16, is float32 now" in list(import_weights.told(importing.read(file)))


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (
            "complex64",
            "layer1.0.conv1.weight is complex64, whose imaginary part would be lost; give the weights in float32",
        ),
        ("int8", "layer1.0.conv1.weight is int8, whole numbers, as of quantised weights;"),
        ("bool", "layer1.0.conv1.weight is bool"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(tmp_path, dtype, words):
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps(network_of(dtype, "layer1.0.conv1")))
    refused(file, words)


def test_what_is_too_large_for_float32_is_refused(tmp_path):
    tree = network_of("float64", "conv1.")
    tree["conv1.weight"][0, 0, 0, 0] = 1e300
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps(tree))
    refused(file, "1 of the 1176 numbers of conv1.weight are not finite")


def test_float8_is_told():
    tree = network_of(ml_dtypes.float8_e4m3fn, "conv1.")
    flat, converted = archives.as_float32(tree, {"conv1.weight", "bn1.weight"})
    assert converted == {"float8_e4m3fn": 1}
    np.testing.assert_array_equal(flat["conv1.weight"], tree["conv1.weight"].astype(np.float32))
