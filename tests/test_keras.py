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
from ssl_jax.interop import classic, importing, pairs
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


@pytest.mark.parametrize("case", NETS)
def test_both_kinds_of_file_hold_the_same_network(case, tmp_path):
    whole = importing.read(write(tmp_path / "whole", case))
    weights = importing.read(write(tmp_path / "weights", case, "weights.h5"))
    assert whole.model == weights.model == MODELS[case]
    assert whole.project == weights.project == "keras"
    assert whole.report.matched == len(names()[case]["h5"]["arrays"]) and not whole.report.ignored
    assert whole.statistics == weights.statistics
    jax.tree.map(
        np.testing.assert_array_equal,
        (whole.params, whole.model_state, whole.classifier),
        (weights.params, weights.model_state, weights.classifier),
    )
    assert (whole.classifier is None) == (case == "vgg16_notop")
