"""What timm's and transformers' JSON files say of images and of the network, by the rules of their code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import test_importing
import weight_files

from ssl_jax.interop import folders, importing, pairs, projects


def processor(**said):
    found = folders.said({"config": {}, "preprocessor": said})
    return found.size, found.view


SHORTEST, SQUARE = {"shortest_edge": 256}, {"height": 224, "width": 224}
CROP = {"do_center_crop": True, "crop_size": SQUARE}


@pytest.mark.parametrize(
    ("said", "size", "view"),
    [
        ({"size": SQUARE, "resample": 2}, 224, ("resize", 1.0, "bilinear")),  # ViTImageProcessor
        ({"size": 224, "resample": 3}, 224, ("resize", 1.0, "bicubic")),  # as it was written until 2022
        ({"size": SHORTEST, "resample": 3, **CROP}, 224, ("resize_crop", 0.875, "bicubic")),  # DINOv2's
        ({"size": SHORTEST, "resample": 3, **CROP, "do_center_crop": False}, 256, ("resize_crop", 1.0, "bicubic")),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, 224, ("resize_crop", 0.875, "bilinear")),
        (
            {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.9, "size": {"shortest_edge": 224}},
            224,
            ("resize_crop", 0.9, "bilinear"),
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "resample": 3, "size": {"shortest_edge": 384}},
            384,
            ("resize", 1.0, "bicubic"),
        ),
        ({}, None, None),
    ],
)
def test_transformers_preprocessors(said, size, view):
    assert processor(**said) == (size, view)


def test_what_a_preprocessor_says_and_is_not_followed_is_said():
    found = folders.said({"preprocessor": {"size": SQUARE, "resample": 1, "rescale_factor": 1 / 127.5}})
    assert [note.split("=")[0] for note in found.notes] == [
        "preprocessor_config.json: rescale_factor",
        "preprocessor_config.json: resample",
    ]
    assert folders.said({"preprocessor": {"do_normalize": False}}).statistics == projects.UNIT
    with pytest.raises(ValueError, match=r"\[224, 448\] pixels and not square; add --size"):
        processor(size={"height": 224, "width": 448})


@pytest.mark.parametrize("config", [{"pretrained_cfg": "a"}, {"pretrained_cfg": {"crop_pct": [1]}}, {"model_args": 3}])
def test_values_that_cannot_be_are_refused_in_one_line(config):
    with pytest.raises(ValueError, match=r"its config.json (or .* holds what cannot be|says crop_pct=)") as error:
        folders.said({"config": config})
    assert "\n" not in str(error.value)


def test_a_folder_of_timm_is_followed(tmp_path):
    published = weight_files.VITS["timm folder"]
    table = published.family.pairs(published.model, published.library)
    images = {"mean": [0.5] * 3, "std": [0.4] * 3, "input_size": [3, 48, 48], "interpolation": "bicubic"}
    pretrained = images | {"crop_pct": 0.95, "crop_mode": "center", "license": "mit", "strange": 1}
    config = {"architecture": "vit", "pretrained_cfg": pretrained}
    config["model_args"] = {"act_layer": "gelu_tanh", "global_pool": "avg", "img_size": 32, "unheard_of": True}
    (tmp_path / "model.safetensors").write_bytes(
        weight_files.of_safetensors(pairs.write(table, test_importing.network(published)))
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = importing.read(tmp_path)
    assert (found.model["gelu"], found.model["pool"], found.size) == ("tanh", "mean", 32)
    assert found.view == ("resize_crop", 0.95, "bicubic")
    np.testing.assert_allclose(found.statistics, [[0.5] * 3, [0.4] * 3])
    assert found.record["licence"] == "mit"
    assert found.record["notes"] == [
        "config.json: pretrained_cfg.strange=1",
        "config.json: model_args.unheard_of=True",
    ]
    pretrained |= {"crop_mode": "squash", "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert importing.read(tmp_path).view == ("resize", 1.0, "bicubic")
    config["model_args"]["act_layer"] = "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model_args.act_layer='quick_gelu', which ours does not compute"):
        importing.read(tmp_path)
