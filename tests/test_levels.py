"""Pixels of more than 8 bits in a dataset: what is said of them, and the range that they are scaled from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from ssl_jax import configs, experiment
from ssl_jax.data import source
from ssl_jax.data.images import decode, levels, stream
from ssl_jax.data.images.recipes import Eval, Recipe, View
from ssl_jax.data.source import Decoding
from ssl_jax.evals import transfer

RNG = np.random.default_rng(0)
TWELVE = Decoding((0.0, 4095.0))


def ends(values, low, high):
    """With the least and the greatest in it."""
    values.flat[0], values.flat[-1] = low, high
    return values


STORED = {
    "12 bits in 16": [ends(RNG.integers(0, 4096, (16, 16), np.uint16), 0, 4095) for _ in range(12)],
    "8 bits in 32": [ends(RNG.integers(0, 256, (16, 16), np.int32), 0, 255) for _ in range(12)],
    "signed": [
        ends(np.clip(RNG.normal(-300, 500, (16, 16)), -1024, 3071).astype(np.int32), -1024, 3071) for _ in range(12)
    ],
    "large": [ends(RNG.integers(10**5, 10**6, (16, 16), np.int32), 10**5, 10**6 - 1) for _ in range(12)],
    "far from zero": [ends(RNG.integers(30000, 30200, (16, 16), np.int32), 30000, 30199) for _ in range(12)],
    "0 to 1": [ends(RNG.random((16, 16), np.float32), 0, 1) for _ in range(12)],
}


def written(where, images, suffix="tif"):
    where.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(where / f"{i:02}.{suffix}")
    return where


@pytest.mark.parametrize(
    ("kind", "held", "range_of_all"),
    [
        ("12 bits in 16", "0 to 4095", "0,4095"),
        ("8 bits in 32", "0 to 255", "0,255"),
        ("signed", "-1024 to 3071", "-1024,3071"),
        ("large", "100000 to 999999", "0,1048575"),
        ("far from zero", "30000 to 30199", "30000,30199"),
    ],
)
def test_levels_that_are_lost_are_named(load, tmp_path, kind, held, range_of_all):
    where = written(tmp_path / "x", STORED[kind], "png" if kind == "12 bits in 16" else "tif")
    splits = load(f"folder:{where}")
    (note,) = said(splits)
    lost = left(splits)
    assert kind == "signed" or lost == {"12 bits in 16": 17, "8 bits in 32": 2, "large": 1, "far from zero": 2}[kind]
    assert note.startswith(f"WARNING: pixels of more than 8 bits (in 12 of 12 images looked at) hold {held}, which")
    assert f"become {lost} of 256 grey levels" in note
    assert (" of the pixels lie outside the range" in note) == (kind in ("signed", "large"))
    assert f"; data.value_range={range_of_all} scales them first, data.value_range=image each image" in note
    low, high = (float(limit) for limit in range_of_all.split(","))
    for limits in ((low, high), "image"):
        ranged = load(f"folder:{where}", decoding=Decoding(limits))
        assert not said(ranged)
        assert ranged.train.decoding == ranged.test.decoding == Decoding(limits)
        assert left(ranged) > levels.FEW


def said(splits):
    """Of all that is said of a dataset, what it says of grey levels."""
    return [note for note in splits.notes if "8 bits" in note]


def left(splits):
    """How many grey levels all images of a dataset have."""
    return len(np.unique([pixels(part, i) for part in splits for i in range(len(part))]))


def pixels(data, i):
    return decode.read(decode.contents(data.record(i)), data.channels, data.decoding)


def test_what_loses_nothing_is_not_warned_of(load, tmp_path):
    wide = [RNG.integers(0, 65536, (16, 16), np.uint16) for _ in range(12)]
    masks = [np.where(image > 40000, 65535, 0).astype(np.uint16) for image in wide]
    shallow = [noise(16, 16) for _ in range(12)]
    for name, images in {"wide": wide, "masks": masks, "shallow": shallow}.items():
        assert not said(load(f"folder:{written(tmp_path / name, images)}"))


def test_a_wrong_range_is_told_of_too(load, tmp_path):
    where = written(tmp_path / "x", STORED["8 bits in 32"])
    (note,) = said(load(f"folder:{where}", decoding=TWELVE))
    assert "become 17 of 256 grey levels under data.value_range=0,4095; data.value_range=0,255 scales" in note
    where = written(tmp_path / "y", [noise(16, 16) for _ in range(12)], "jpg")
    (note,) = said(load(f"folder:{where}", decoding=TWELVE))
    assert note == "data.value_range=0,4095 changes nothing: the images hold 8 bits, which are taken as they are"
    in_memory = levels.told(source.from_arrays(np.zeros((9, 4, 4), np.uint8)), None, None, TWELVE, tmp_path)[0]
    assert in_memory.notes == (note,)


def test_a_look_is_kept_with_the_index(load, tmp_path, monkeypatch):
    where = written(tmp_path / "x", STORED["12 bits in 16"])
    first = load(f"folder:{where}")
    looked = []
    monkeypatch.setattr(levels, "look", lambda *a: looked.append(a))
    assert said(load(f"folder:{where}")) == said(first)
    assert len(said(first)) == 1
    assert not looked


def test_the_range_is_part_of_what_identifies_the_data(load, tmp_path):
    where = written(tmp_path / "x", STORED["12 bits in 16"])
    found = [load(f"folder:{where}", decoding=Decoding(r)) for r in (None, (0, 4095), (0.0, 4095.0), (0, 999), "image")]
    prints = [[part.fingerprint for part in splits] for splits in found]
    assert prints[1] == prints[2]
    assert len({tuple(p) for p in prints}) == 4
    jpegs = written(tmp_path / "y", [noise(16, 16) for _ in range(12)], "jpg")  # which a range leaves alone
    assert load(f"folder:{jpegs}").train.fingerprint == load(f"folder:{jpegs}", decoding=TWELVE).train.fingerprint


@pytest.mark.parametrize("verify", ["full", "header"])
def test_floating_point_is_refused_with_the_fix_and_then_read(load, tmp_path, verify):
    where = written(tmp_path / "x", STORED["0 to 1"])
    with pytest.raises(ValueError, match=r"12 of 12 .* \(00.tif, 01.tif, 02.tif: floating-point pixels have no"):
        load(f"folder:{where}", verify=verify)
    splits = load(f"folder:{where}", verify=verify, decoding=Decoding((0.0, 1.0)))
    assert sum(map(len, splits)) == 12
    assert not said(splits)


def test_a_large_picture_is_refused_with_the_fix_and_then_read(load, tmp_path):
    """As many pixels as a slide has, in a file of some kilobytes."""
    where = written(tmp_path / "x", [noise(16, 16) for _ in range(11)], "png")
    Image.new("1", (9500, 9500)).save(where / "slide.png")
    message = r"1 of 12 .*\(slide.png: (9500 x 9500|90250000) pixels are more than data.max_pixels=89478485; raise it"
    with pytest.raises(ValueError, match=message):
        load(f"folder:{where}", verify="header")
    splits = load(f"folder:{where}", verify="header", decoding=Decoding(max_pixels=10**8))
    assert sum(map(len, splits)) == 12
    assert not any(part.unreadable for part in splits)
    lower = Decoding(max_pixels=16 * 16 - 1)  # in full, and from an index of its own
    with pytest.raises(ValueError, match=r"12 of 12 .*16 x 16 pixels are more than data.max_pixels=255"):
        load(f"folder:{where}", decoding=lower)


def test_every_path_to_the_pixels_has_the_range(load, tmp_path, monkeypatch):
    """Files, shards and bytes in memory; training views, evaluation, crops for the device; a grey dataset."""
    where = written(tmp_path / "x", STORED["12 bits in 16"])
    Image.fromarray(noise(16, 16)).save(where / "photo.jpg")  # 8 bits, which TensorFlow decodes
    splits = load(f"folder:{where}", decoding=TWELVE)
    data = source.join(source.join(splits.train, splits.val), splits.test)
    assert data.columns["plain"].sum() == 1
    expected = np.stack([pixels(data, i) for i in range(len(data))])
    for i in np.flatnonzero(~data.columns["plain"]):
        k = int(data.columns["path"][i][-6:-4])
        scaled = np.rint(STORED["12 bits in 16"][k] / 4095 * 255)
        assert (expected[i] == scaled[..., None]).all()
    recipe = Recipe((View(None),), Eval("resize", 1.0))
    (seen,) = stream.eval_batches(data, image_size=16, recipe_eval=recipe.evaluate, global_batch_size=len(data))
    np.testing.assert_allclose(seen["image"] * 255, expected, atol=1e-3)
    for crops_only in (False, True):
        batches = stream.batches(
            data,
            recipe=recipe,
            image_size=16,
            global_batch_size=len(data),
            seed=0,
            total_steps=1,
            crops_only=crops_only,
        )
        (batch,) = batches
        views = batch["views"][0] * (1 if crops_only else 255.0)
        np.testing.assert_allclose(views, expected[batch["index"]], atol=1e-3)


def test_a_config_and_a_transfer_carry_the_range(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = written(tmp_path / "x", STORED["12 bits in 16"])
    config = configs.load("configs/simclr_digits.py", [f"data.source=folder:{where}", "data.value_range=0,4095"])
    configs.check(config)
    splits = experiment.load_splits(config)
    assert splits.train.decoding == TWELVE
    stored = experiment.to_json(config)
    refused, _ = configs.differences(stored, configs.load("configs/simclr_digits.py", [f"data.source=folder:{where}"]))
    assert refused == {"data.value_range": ([0, 4095], None)}
    seen = {}
    monkeypatch.setattr(transfer.readers, "load", lambda spec, **given: seen.update(given) or splits)
    monkeypatch.setattr(transfer.knn, "Evaluator", lambda *a, **kw: None)
    monkeypatch.setattr(transfer.linear_probe, "Evaluator", lambda *a, **kw: None)
    encode: Any = SimpleNamespace(accepts=lambda part: None)
    transfer.Evaluator(encode, train=splits.train, test=splits.test, sources=("folder:elsewhere",))
    assert seen["decoding"] == TWELVE


@pytest.mark.parametrize("given", ["5", "4,4", "4095,0", "0,1,2", "(0,'a')", "everything", "()"])
def test_ranges_that_cannot_be_meant_are_refused(given):
    config = configs.load("configs/simclr_digits.py", [f"data.value_range={given}"])
    with pytest.raises(ValueError, match=r"config.data.value_range=.* must be two numbers, the lower one first"):
        configs.check(config)
