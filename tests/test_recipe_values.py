"""Augmentation is data: recipes as values, their fields by key, operations of one's own, and what a run keeps of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from ml_collections import ConfigDict
from PIL import Image

from experiments import pretrain, show_views
from ssl_jax import configs, parallel
from ssl_jax.configs import to_json
from ssl_jax.data import recipes
from ssl_jax.data.images import changes, device, host
from ssl_jax.data.images.published import RECIPES, SOURCES
from ssl_jax.data.images.recipes import (
    Blur,
    Crop,
    Cutout,
    Eval,
    Flip,
    Gray,
    Jitter,
    Own,
    Recipe,
    Solarize,
    View,
)
from ssl_jax.data.text import recipes as text
from ssl_jax.evals.shared import figures
from ssl_jax.evaluation import plain_recipe
from ssl_jax.experiment import build
from ssl_jax.run import folder as folders
from ssl_jax.run import processes
from ssl_jax.run.open import open_run
from ssl_jax.run.provenance import describe

CONFIG = runs.ROOT / "configs" / "byol_cifar10.py"  # recipe byol_cifar: jitter, gray, (solarize,) flip
OLD = Path(__file__).with_name("old_run")


def config(*overrides):
    found = configs.load(CONFIG, overrides)
    configs.check(found)
    return found


def views(*overrides):
    return recipes.of(config(*overrides).data).views


@pytest.mark.parametrize("name", [*RECIPES, *text.RECIPES])
def test_every_recipe_goes_there_and_back(name):
    recipe = recipes.get(name)
    written = recipes.plain(recipe)
    again = json.loads(json.dumps(written))
    assert again == written
    assert recipes.of_plain(again) == recipe
    assert recipes.plain(recipes.of_plain(again)) == written


def test_every_recipe_has_a_source(capsys):
    assert list(SOURCES) == list(RECIPES)
    assert list(text.SOURCES) == list(text.RECIPES)
    for main in (pretrain.main, show_views.main):
        assert main(["--recipes"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(RECIPES) + len(text.RECIPES)
        assert any(line.startswith("byol ") and "Grill et al. 2020" in line for line in lines)


def test_fields_have_keys():
    crop = Crop((0.5, 1.0), interpolation="bicubic")
    jitter = Jitter(0.2, 0.2, 0.1, 0.05, flavour="torch")
    found = views("data.views.crop.area=0.5,1", "data.views.jitter.strength=.5", "data.views.1.solarize.rate=0")
    assert found == (
        View(crop, (jitter, Gray(), Flip())),
        View(crop, (jitter, Gray(), Solarize(0.0), Flip())),
    )
    # What is said of one view wins; strength and a width, a field that is a whole, operations in and out.
    found = views(
        *("data.views.jitter.strength=.5", "data.views.1.jitter.strength=1", "data.views.jitter.hue=0.2"),
        *(
            "data.views.0.ops=...,cutout",
            "data.views.cutout.side=.25",
            "data.views.gray=none",
            "data.views.1.crop=none",
        ),
        "data.views.0.size=24",
    )
    crop = Crop(interpolation="bicubic")
    first = Jitter(0.2, 0.2, 0.1, 0.1, flavour="torch"), Flip(), Cutout(0.25)
    second = Jitter(0.4, 0.4, 0.2, 0.2, flavour="torch"), Solarize(0.2), Flip()
    assert found == (View(crop, first, 24), View(None, second))
    assert views() == RECIPES["byol_cifar"].views


def test_evaluation_and_the_second_part_have_keys():
    given = ["data.recipe=uda_cifar", "data.views.unlabelled.1.cutout.side=.25", "data.views.flip.p=0.25"]
    found = recipes.of(config(*given, "data.views.evaluate.interpolation=bicubic").data)
    assert found.evaluate == Eval("resize", 1.0, "bicubic")
    assert found.unlabelled[1].ops[2] == Cutout(0.25)
    assert [op.p for view in (*found.views, *found.unlabelled) for op in view.ops if isinstance(op, Flip)] == [0.25] * 3


def test_a_config_file_may_hold_changes_and_recipes(tmp_path):
    form = "from configs.common import base\nfrom ssl_jax.data.images.recipes import *\ndef get_config():\n"
    form += "    config = base()\n    config.data.SET\n    return config\n"
    path, want = tmp_path / "c.py", Recipe((View(Crop((0.5, 1.0)), (Flip(), Blur(0.5))),))
    plain = '{"views": [{"crop": {"area": (0.5, 1)}, "ops": ["flip", {"op": "blur", "rate": 0.5}]}]}'
    for said in ("recipe = Recipe((View(Crop((0.5, 1.0)), (Flip(), Blur(0.5))),))", f"recipe = {plain}"):
        path.write_text(form.replace("SET", said))
        found = configs.load(path)
        configs.check(found)
        assert recipes.of(found.data) == want
        stored = ConfigDict(json.loads(json.dumps(to_json(found))))
        assert recipes.of(stored.data) == want
        assert not configs.differences(stored.to_dict(), to_json(found))[0]
        named = configs.load(path, ["data.recipe=flip"])
        assert recipes.of(named.data) == RECIPES["flip"]
        assert "data.recipe" in configs.differences(stored.to_dict(), to_json(named))[0]
    path.write_text(form.replace("SET", 'views = {1: {"gray": {"p": 1}}, "jitter": {"hue": 0.3}}'))
    first, second = recipes.of(configs.load(path).data).views
    assert [op.p for view in (first, second) for op in view.ops if isinstance(op, Gray)] == [0.2, 1.0]
    assert first.ops[1].hue == second.ops[1].hue == 0.3
    changed = configs.load(path, ["data.views.jitter.hue=0.1"])
    assert "data.views.jitter.hue" in configs.differences(to_json(configs.load(path)), to_json(changed))[0]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("crp.area=.5,1", r"data.views.crp is unknown; did you mean data.views.crop\? byol_cifar has crop, flip, gray"),
        ("jiter.hue=1", r"data.views.jiter is unknown; did you mean data.views.jitter\?"),
        ("solarise.p=1", r"did you mean data.views.solarize\?"),
        ("0.solarize.p=1", r"view 0 of byol_cifar has no solarize, it has crop, flip.*data.views.0.ops=...,solarize"),
        (
            "jitter.strenth=.5",
            r"data.views.jitter.strenth is unknown; did you mean 'strength'\? known of .*: bright",
        ),
        (
            "crop.aria=.5,1",
            r"data.views.crop.aria is unknown; did you mean 'area'\? known of .*crop: area, as",
        ),
        ("gray.threshold=1", r"data.views.gray.threshold is unknown; known of data.views.gray: p$"),
        ("crop.area=.5", r"data.views.crop.area=0.5 must be two numbers"),
        ("crop.area=1,.5", r"data.views.crop.area=1,0.5 must have the lower number first"),
        ("crop.area=.5,1.5", r"data.views.crop.area=0.5,1.5 must be from 1e-06 to 1"),
        ("jitter.hue=.6", r"data.views.jitter.hue=0.6 must be from 0 to 0.5"),
        ("jitter.strength=-1", r"data.views.jitter.brightness=-0.4 must be 0 or more"),
        ("crop.sampler=tof", r"data.views.crop.sampler='tof' is unknown; did you mean 'tf'\? known: torch, tf, byol"),
        ("gray.p=often", r"data.views.gray.p='often' must be a number"),
        ("jitter.additive=3", r"data.views.jitter.additive=3 must be true or false"),
        ("gray=3", r"data.views.gray=3 has no fields"),
        ("cutout.side=.5", r"byol_cifar has no cutout, it has crop, .*add it with data.views.ops=...,cutout"),
        ("ops=...,cutot", r"there is no operation 'cutot'; did you mean 'cutout'\?"),
        ("ops=...,blur", r"data.views.ops.blur needs p"),
        ("ops=flip,flip", r"Flip occurs 2 times in one view"),
        ("2.gray.p=1", r"data.views.2: byol_cifar has views 0 to 1"),
        ("unlabelled.gray.p=1", r"is of recipes of two parts, and byol_cifar has one"),
        ("evaluate.kind=center_crop", r"did you mean 'centre_crop'\?"),
    ],
)
def test_what_there_is_not_is_refused_with_the_nearest_of_its_kind(key, words):
    with pytest.raises(ValueError, match=words) as error:
        config(f"data.views.{key}")
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_none_is_refused():
    for given, words in (
        ({"views": [{"ops": ["blr"]}]}, r"data.recipe.views.0.ops: there is no operation 'blr'; did you mean 'blur'\?"),
        ({"views": [{"crp": {}}]}, r"data.recipe.views.0.crp is unknown; did you mean 'crop'\?"),
        ({"view": []}, r"data.recipe.view is unknown; did you mean 'views'\?"),
        ({"views": []}, "data.recipe makes no view"),
        ({"kind": "strem"}, r"data.recipe.kind='strem' is unknown; known: stream"),
    ):
        with pytest.raises(ValueError, match=words):
            recipes.of_plain(given)
    with pytest.raises(ValueError, match=r"data.views is for recipes for images, and data.recipe=stream is none"):
        config("data.recipe=stream", "data.views.gray.p=1")


# ------------------------------------------------------------------------------------------------ one's own


OPS = """
import jax, jax.numpy as jnp

def mark(image, key, *, low=0.0, scale):
    return jnp.full_like(image, low + scale * jax.random.uniform(key))

def grows(image, key):
    return image[:2]

def fails(image, key):
    return image.nothing

def keyless(image): ...

def named_p(image, key, p): ...

def many(images, keys): return images

def batchwise(x, keys, *, low=0.0): return x
"""


@pytest.fixture(scope="module")
def ops(tmp_path_factory):
    path = tmp_path_factory.mktemp("ops") / "ops.py"
    path.write_text(OPS)
    return path


@pytest.mark.parametrize("alone", [True, False])
def test_an_operation_of_ones_own_has_the_key_of_its_row(ops, alone):
    """Its draws are those of its row's key, whichever rows stand beside it, and its image is [h, w, c]."""
    op = Own(f"{ops}:mark", 0.5, (("scale", 0.5),))
    recipe = Recipe((View(None, (Own(f"{ops}:mark", 1.0, (("low", 0.25), ("scale", 0.5))),)), View(None, (op,))))
    images, key = np.zeros((64, 4, 6, 3), np.uint8), jax.random.key(3)
    made = jax.jit(lambda b, k: device.views(recipe, 4, one_by_one=alone)(b, k, None))({"image": images}, key)
    always, sometimes = (np.asarray(view) for view in made["views"])
    rows = parallel.row_keys(jax.random.fold_in(key, 0), 64, None)
    keys = [parallel.named_key(row, "own mark key") for row in rows]
    want = [0.25 + 0.5 * float(jax.random.uniform(k)) for k in keys]
    np.testing.assert_allclose(always, np.broadcast_to(np.reshape(want, (64, 1, 1, 1)), (64, 4, 4, 3)), atol=1e-6)
    assert len(set(want)) == 64
    done = sometimes.any((1, 2, 3))
    assert 16 < done.sum() < 48
    assert sometimes.max() <= 0.5


def test_a_result_outside_of_0_and_1_is_clipped(ops):
    recipe = Recipe((View(None, (Own(f"{ops}:mark", 1.0, (("low", 3.0), ("scale", 1.0))),)),))
    made = device.views(recipe, 4)({"image": np.zeros((2, 4, 4, 1), np.uint8)}, jax.random.key(0), None)
    np.testing.assert_array_equal(made["views"][0], 1.0)


def test_an_operation_of_ones_own_by_key(ops):
    found = views(f"data.views.ops=...,{ops}:mark", "data.views.mark.scale=.5", "data.views.1.mark.p=.25")
    assert [view.ops[-1] for view in found] == [Own(f"{ops}:mark", p, (("scale", 0.5),)) for p in (1.0, 0.25)]
    recipe = Recipe(found)
    assert recipes.of_plain(json.loads(json.dumps(recipes.plain(recipe)))) == recipe


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ops=...,{}:mark"], "data.views.mark needs scale, which .*ops.py:mark takes"),
        (["ops=...,{}:mark", "mark.scale=1", "mark.lov=1"], r"data.views.mark.lov is unknown; did you mean 'low'\?"),
        (["ops=...,{}:marc"], r"has no marc; did you mean 'mark'\?"),
        (["ops=...,{}:keyless"], r"keyless does not take an image and a key; write it as NAME\(image, key"),
        (
            ["ops=...,{}:many"],
            r"many takes images and keys, and is called with one image \[h, w, c\] and the key of its row",
        ),
        (["ops=...,{}:batchwise"], r"batchwise takes x and keys, .*f\(image\[None\], key\[None\]\)\[0\]"),
        (["ops=...,{}:named_p"], "named_p has the argument 'p', which every operation has"),
        (["ops=...,{}x"], "there is no operation '.*ops.pyx'"),
    ],
)
def test_an_operation_that_is_none(ops, overrides, words):
    with pytest.raises(ValueError, match=words) as error:
        config(*(f"data.views.{one.format(ops)}" for one in overrides))
    assert "\n" not in str(error.value)


def test_what_it_makes_is_told_before_anything_is_compiled(ops):
    for name, words in (
        ("grows", r"ops.py:grows makes float32\(2, 8, 1\) of an image float32\(8, 8, 1\)"),
        ("fails", r"ops.py:fails fails: AttributeError: .*, ops.py line 11; it is given float32\(8, 8, 1\), a key"),
    ):
        found = runs.config(data__recipe="digits")
        found.data.views = {"ops": ["...", f"{ops}:{name}"]}
        with pytest.raises(ValueError, match=words):
            build(found)


def test_a_recipe_of_pythons_own_is_looked_at_as_well(ops):
    found = runs.config(data__recipe="digits")
    with found.unlocked():
        found.data.recipe = Recipe((View(None, (Own(f"{ops}:many"),)),) * 2)
    with pytest.raises(ValueError, match="many takes images and keys"):
        build(found)


def test_the_host_refuses_it(ops):
    words = "mark is a function of JAX, which runs on the device alone; set data.augment=device"
    with pytest.raises(ValueError, match=words):
        config(f"data.views.ops=...,{ops}:mark", "data.views.mark.scale=1", "data.augment=host")
    view = View(None, (Own(f"{ops}:mark", 1.0, (("scale", 1.0),)),))
    with pytest.raises(ValueError, match=words):
        host.augment(view, (0, 0), 8, shape=None, crop=None)


def test_what_is_no_operation_is_no_noise():
    view = View(None, (Crop(),))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"Crop is no operation of a view; .*known: flip, jitter, gray"):
        device.views(Recipe((view,)), 8)
    with pytest.raises(ValueError, match="Crop is no operation of a view"):
        host.augment(view, (0, 0), 8, shape=None, crop=None)
    with pytest.raises(ValueError, match="Crop is no operation of a view"):
        device._operation(Crop(), {}, 8, jnp.float32, True)


# ------------------------------------------------------------------------------------------------ a run


def old(tmp_path, change):
    """A copy of the run of ``test_old_run.py``, stopped after step 6 of 12, and its config, with the recipe kept."""
    place = tmp_path / "run"
    shutil.copytree(OLD, place)
    stored = json.loads((place / "config.json").read_text())
    stored["config"]["data"] |= {"recipe": "runs:VIEWS", "views": {"crop": {"aspect": [1, 1]}}}
    stored["resolved"] |= {"recipe": recipes.plain(change), "own": {}}
    (place / "config.json").write_text(json.dumps(stored))
    asked = runs.config("simclr", train__steps=12, train__eval_every=6, train__checkpoint_every=6)
    asked.train.keep_checkpoints, asked.method.projector_dim = 1, 8
    asked.data.views = {"crop": {"aspect": (1, 1)}}
    with asked.unlocked():
        asked.model.widths = (4, 8)
    return place, asked


def batches_of(*made):
    """The first view of the first batch of (an experiment, its views or others)."""
    found = {**next(made[0][0].feed.batches(total_steps=1)), "table": made[0][0].feed.table}
    all_of = jax.jit(lambda batch, key: [views(batch, key, None)["views"][0] for _, views in made])
    return jax.device_get(all_of(found, jax.random.key(0)))


def test_changed_views_are_others_and_a_resume_has_those_with_which_the_run_began(tmp_path):
    """The recipe of that name is another one now than when the run began: a smaller area."""
    now = changes.changed(runs.VIEWS, {"crop": {"aspect": [1, 1]}})
    begun = changes.changed(now, {"crop": {"area": [0.1, 0.2]}})
    place, asked = old(tmp_path, begun)
    anew, resumed = build(asked), build(asked, folder=place)
    assert anew.recipe == now
    assert resumed.recipe == begun
    said = [note for note in resumed.notes if "is not what it was when the run began" in note]
    assert said == [
        "WARNING: data.recipe=runs:VIEWS is not what it was when the run began (views.0.crop.area [0.1, 0.2] then, "
        "[0.5, 1.0] now; views.1.crop.area [0.1, 0.2] then, [0.5, 1.0] now); the run goes on with what it was"
    ]
    asked.data.views = ConfigDict()
    without = build(asked)
    found = batches_of(*((one, one.feed.views) for one in (without, anew, resumed)), (anew, device.views(begun, 8)))
    assert not any(np.array_equal(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    np.testing.assert_array_equal(found[2], found[3])
    # Whoever goes on without a look at the folder is told, and so is who asks for another recipe.
    stored = json.loads((place / "config.json").read_text())
    with pytest.raises(ValueError, match=r"began with another recipe of that name \(views.0.crop.area \[0.1, 0.2\]"):
        folders.stored(place, stored["config"], describe(anew))
    with pytest.raises(ValueError, match=r"another config: data.views.crop.aspect \(\[1, 1\] there, None here\)"):
        folders.stored(place, to_json(asked), describe(anew))


def test_a_run_is_opened_whatever_has_become_of_its_recipe(tmp_path):
    """The name that its config has is of a file that is gone, and so is that of its operation."""
    gone = Own("gone.py:mark", 1.0, (("scale", 1.0),))
    begun = RECIPES["digits"]._replace(views=(View(None, (gone,)),) * 2, evaluate=Eval("centre_crop", 0.5))
    place, _ = old(tmp_path, begun)
    stored = json.loads((place / "config.json").read_text())
    stored["config"]["data"]["recipe"] = "gone.py"
    part = {"name": "gone.py", "path": "/not/there/gone.py", "sha256": "0" * 64}
    stored["resolved"]["own"] = {"data.recipe": part, "operation.mark": part | {"name": "gone.py:mark"}}
    (place / "config.json").write_text(json.dumps(stored))
    run = open_run(place)
    assert run.recipe.evaluate == begun.evaluate
    assert run.recipe.views[0].ops == (gone._replace(name="/not/there/gone.py:mark"),)
    assert run.modality.views is None
    assert plain_recipe(run.config.data.recipe, run.recipe) == "supervised_no_flip"


def test_a_run_keeps_recipe_and_source_of_its_operations(ops):
    found = runs.config(data__recipe="digits")
    found.data.views = {"ops": ["...", {"op": f"{ops}:mark", "scale": 0.5}]}
    experiment = build(found)
    resolved = describe(experiment)
    assert recipes.of_plain(resolved["recipe"]) == experiment.recipe
    assert set(resolved["own"]) == {"operation.mark"}
    assert resolved["own"]["operation.mark"]["path"] == str(ops)


# ------------------------------------------------------------------------------------------------ pictures


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_what_a_view_is_made_of_stands_below_the_pictures(tmp_path):
    done = build(runs.config(data__recipe="digits")).modality.done
    assert [name for name, _ in done[0]] == ["crop", "jitter", "noise"]
    assert done[0][2] == ("noise", "std 0.05, p 0.5")
    assert figures.wrapped("brightness 0.2, p 0.8, random order yes", 20) == [
        "brightness 0.2,",
        "p 0.8,",
        "random order yes",
    ]
    images, heights = np.zeros((2, 4, 4, 1)), []
    for below in ((), ["view 0: crop (area 0.5 to 1), " * 5]):
        figures.image_rows({"a": images}, tmp_path / "a.png", below)
        heights.append(pixels(tmp_path / "a.png").shape[0])
    assert heights[1] > heights[0] + 20


def test_show_views_draws_every_operation(tmp_path, monkeypatch, capsys):
    """Rows: the image, a title, crop, flip, a title and two views, all of them filled."""
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    arguments = [
        f"--config={runs.ROOT}/configs/simclr_digits.py",
        f"--out={tmp_path}/v.png",
        "--config.data.image_size=8",
    ]
    assert show_views.main([*arguments, "--config.data.views.ops=flip"]) == 0
    assert "digits with the changes of data.views: 3 images of digits, 3 draws" in capsys.readouterr().out
    picture = pixels(tmp_path / "v.png")
    dark = (picture[:, picture.shape[1] // 2 :] < 60).sum(1) > 40  # lines on which images lie
    assert (np.diff(dark.astype(int)) == 1).sum() >= 3
    assert show_views.main([*arguments, "--config.data.recipe=stream"]) == 2
    assert "is for no images" in capsys.readouterr().err
    assert show_views.main([*arguments, "--config.data.views.crp.area=1,1"]) == 2
    assert "did you mean data.views.crop?" in capsys.readouterr().err
