"""Parts of one's own by file or dotted path: what they mean, what of them stands in a run, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from ml_collections import ConfigDict

import ssl_jax
from experiments import evaluate as evaluate_command
from experiments import pretrain as pretrain_command
from ssl_jax import configs, evals, methods, models, names, train
from ssl_jax.data import readers, recipes
from ssl_jax.evals.shared import canvas
from ssl_jax.experiment import build
from ssl_jax.run import measure, processes
from ssl_jax.run.open import open_run, read_run
from ssl_jax.run.writer import read_metrics

OWN = Path(__file__).with_name("own")


# ---------------------------------------------------------------------------------------------------------- names


def digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", [f"{OWN}/vicreg.py", f"{OWN}/vicreg.py:make", "own.vicreg", "own.vicreg.make", "own.vicreg:make"]
)
def test_a_method_has_four_names(name, monkeypatch):
    monkeypatch.syspath_prepend(str(OWN.parent))
    found = names.own(name, "method.name")
    assert found.value.__name__ == "make"
    assert (found.path, found.sha256) == (OWN / "vicreg.py", digest(OWN / "vicreg.py"))
    assert methods.get(name) is names.own(name, "method.name").value  # run once
    assert list(methods.arguments(name)) == ["dim", "variance", "covariance"]


def test_a_module_is_found_from_where_the_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "my_lab_a").mkdir()
    (tmp_path / "my_lab_a" / "other.py").write_text("def make(encoder, *, plan, x=3): ...\n")
    monkeypatch.chdir(tmp_path)
    assert list(methods.arguments("my_lab_a.other")) == ["x"]


@pytest.mark.parametrize(
    ("name", "means"),
    [
        *((name, False) for name in ("simclr", "", "..", "../x", "os", "/etc/passwd", "a:b:c", "1.2", "a b.c", None)),
        *((name, True) for name in ("./x.py", "/a b/x.py", "~/x.py", "x.py:Net", "a.b", "a:b", "a.b:c", "..\\x.py")),
    ],
)
def test_what_is_not_ours(name, means):
    assert names.is_imported(name) is means


def test_names_in_tables_and_at_other_places():
    found = [names.short(name) for name in ("./a/centroid.py", "lab.evals.centroid", "lab:Centroid", "x.py:Other")]
    assert found == ["centroid", "centroid", "Centroid", "Other"]
    assert [names.at(name, "/b/x.py") for name in ("./x.py", "./x.py:Net")] == ["/b/x.py", "/b/x.py:Net"]


def test_a_file_may_import_its_neighbours_and_is_what_it_holds_now(tmp_path):
    (tmp_path / "neighbour_of_own.py").write_text("STEP = 2\n")
    file = tmp_path / "mine.py"
    for number in (1, 3):  # of one size, and written in one tick of the clock
        file.write_text(f"from neighbour_of_own import STEP\n\ndef make(encoder, *, plan, x={number} * STEP): ...\n")
        assert methods.arguments(str(file))["x"].default == 2 * number
    assert sorted(path.name for path in tmp_path.glob("*.py*")) == ["mine.py", "neighbour_of_own.py"]


GOOD = "def make(encoder, *, plan): ...\n"


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        ({"vicreg.py": GOOD}, "vicrg.py", r"vicrg.py does not exist; did you mean .*/vicreg.py\?"),
        ({}, "x.py", r"method.name='.*x.py': .*x.py does not exist; put it there"),
        ({"x.py": "a = 1\nb = c\n"}, "x.py", r"cannot be run \(NameError: name 'c' is not defined, x.py line 2\)"),
        ({"x.py": "a = = 1\n"}, "x.py", r"cannot be run \(SyntaxError: invalid syntax \(x.py, line 1\)\)"),
        ({"x.py": "import sys; sys.exit(3)\n"}, "x.py", r"cannot be run \(SystemExit: 3, x.py line 1\)"),
        ({"x.py": "def mke(): ...\n"}, "x.py", r"has no make; name what it holds, .*x.py:NAME"),
        ({"x.py": "def simsiam(): ...\n"}, "x.py:simsim", r"has no simsim; did you mean 'simsiam'"),
        ({"x.py": "def make(plan): ...\n"}, "x.py", r"takes plan; write it as make\(encoder, \*, plan, ...\)"),
        ({"x.py": "make = 3\n"}, "x.py", r"is a int; write it as make\(encoder"),
        ({}, "my_lab_b.vicreg", r"my_lab_b.vicreg cannot be imported \(Modul.*; is its folder in PYTHONPATH\?"),
        ({"lab_c.py": "import not_there\n"}, "lab_c:make", r"lab_c cannot be imported .*No module named 'not_there'"),
        ({"lab_d.py": GOOD}, "lab_d.mak", r"lab_d has no mak; did you mean 'make'"),
    ],
)
def test_a_method_that_is_none_is_refused_in_one_line(files, name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        methods.get(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("raise KeyError('a')", r"fails: KeyError: 'a', x.py line 3"),
        ("return encoder.dimm", r"fails: AttributeError: .*dimm.*, x.py line 3"),
        ("return encoder", r"gives a ConvNet and no Method"),
        ("return plan.batch + 'a'", r"fails: AttributeError: 'Plan' object has no attribute 'batch', x.py line 3"),
    ],
)
def test_what_fails_in_a_method_is_told_with_its_line(content, words, tmp_path):
    (tmp_path / "x.py").write_text(f"\ndef make(encoder, *, plan):\n    {content}\n")
    config = runs.config()
    config.method = ConfigDict({"name": str(tmp_path / "x.py")})
    with pytest.raises(ValueError, match=words) as error:
        build(config)
    assert "\n" not in str(error.value)


def test_what_fails_in_a_loss_is_told_with_its_line(tmp_path):
    text = (OWN / "vicreg.py").read_text().replace('out["projector"], axis)', 'out["projektor"], axis)')
    (tmp_path / "v.py").write_text(text)
    line = next(i for i, one in enumerate(text.splitlines(), 1) if "projektor" in one)
    config = runs.config()
    config.method = ConfigDict({"name": str(tmp_path / "v.py")})
    with pytest.raises(ValueError, match=rf"v.py' fails: KeyError: 'projektor', v.py line {line}$"):
        build(config)


# ------------------------------------------------------------------------------------------------------- encoders


def test_from_module_gives_what_the_module_gives():
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    net = names.own(f"{OWN}/net.py:Net", "model.name").value
    encoder = models.from_module(net(4), dim=8)
    models.check_encoder(encoder, "net", jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert (encoder.dim, encoder.stages, encoder.label, encoder.min_size) == (8, 1, "Net", 1)
    params, state = models.init(encoder, jax.random.key(0), x)
    out, _ = models.forward(encoder, params, state, x, train=True)
    plain = net(4).apply({"params": params["stage1"]}, x)
    np.testing.assert_allclose(out["stage1"], plain, rtol=1e-6)
    np.testing.assert_allclose(out["features"], np.asarray(plain, np.float64).mean((1, 2)), rtol=1e-5)
    assert models.depth("encoder/stage1/Conv_0/kernel", stages=1) == 1


class Shifted(nn.Module):
    """Tokens: the input, and how it was called."""

    word: str = "train"

    def __call__(self, x, train=False, deterministic=True):
        return x[:, :, None] + jnp.asarray(2.0 * train + 1.0 * (not deterministic))


def test_a_module_is_told_whether_it_trains_in_its_own_words():
    encoder, x = models.from_module(Shifted(), dim=1), jnp.ones((2, 5))
    for train_now, value in ((True, 4.0), (False, 1.0)):
        out = encoder.apply({}, x, train=train_now)
        assert (out["stage1"].shape, out["features"].shape) == ((2, 5, 1), (2, 1))
        np.testing.assert_array_equal(out["features"], value)
    frozen = encoder.clone(frozen_stages=2)
    np.testing.assert_array_equal(frozen.apply({}, x, train=True)["features"], 1.0)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))


def test_statistics_that_cannot_reach_other_devices_are_refused_under_pmap():
    encoder, x = models.from_module(Normed(), dim=4), jnp.ones((8, 5))
    params, state = models.init(encoder, jax.random.key(0), x)
    _, moved = models.forward(encoder, params, state, x, train=True)
    assert float(moved["batch_stats"]["stage1"]["BatchNorm_0"]["var"][0]) == pytest.approx(0.9)

    def mapped(x):
        return models.forward(encoder, params, state, x, train=True, axis="data")[0]

    with pytest.raises(ValueError, match=r"Normed has statistics of a batch and takes no axis=.*parallel.mode=jit"):
        jax.vmap(mapped, axis_name="data")(x[:, None])


def test_from_module_takes_modules():
    for what, words in ((Normed, r"not Normed; make one, Normed\(...\)"), (len, "not builtin_function_or_method")):
        with pytest.raises(ValueError, match=words):
            models.from_module(what, dim=4)


class Dict(nn.Module):
    """One that gives what it was asked for."""

    gives: str

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6)(x.reshape(len(x), -1))
        return {"array": h, "tuple": (h, h), "names": {"h": h}, "nested": {"stage1": {"a": h}, "features": h[0]}}[
            self.gives
        ]


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ("array", "model.name='it': Dict: dim=4, but the module gives 6; write dim=6"),
        ("tuple", "Dict fails on [2, 8, 8, 3] with train=True (ValueError: it returns a tuple; return one array)"),
        (
            "names",
            "Dict returns {'h': [2, 6]}; return one array, [b, d], a map [b, h, w, d] or tokens [b, t, d], or what",
        ),
        ("nested", "Dict gives features [6] of [2, 8, 8, 3]; give [b, d], d=4"),
    ],
)
def test_what_a_module_gives_is_told_in_words_of_the_module(gives, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        models.check_encoder(
            models.from_module(Dict(gives), dim=4), "it", jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
        )
    assert "FromModule" not in str(error.value)
    assert "\n" not in str(error.value)


PLAIN = """
import flax.linen as nn
import ssl_jax.models
from typing import Any

class Tiny(nn.Module):
    width: int = 6
    LINES

    @nn.compact
    CALL
        x = nn.Dense(self.width)(x.reshape(len(x), -1))
        return RETURN
"""


def tiny(path, lines="", call="def __call__(self, x):", returned="x"):
    text = PLAIN.replace("LINES", lines).replace("CALL", call).replace("RETURN", returned)
    path.write_text(text)
    return f"{path}:Tiny"


def test_all_that_an_encoder_lacks_is_said_at_once_with_the_lines_that_add_it(tmp_path):
    config = runs.config()
    config.model = ConfigDict({"name": tiny(tmp_path / "tiny.py")})
    with pytest.raises(ValueError, match="is no encoder") as error:
        build(config)
    said = str(error.value)
    assert "\n" not in said
    for word in ("stages, dim, label, min_size, norm, frozen_stages, dtype", "train= and axis=", "'features'"):
        assert word in said
    assert "from_module(Tiny(...), dim=6)" in said
    lines, call, returned = re.search(r"add to Tiny: (.*?) \(Encoder in", said)[1].split(" | ")
    returned = returned.removeprefix("return ").replace("map", "x").replace(" features}", " x}")
    config.model.name = tiny(tmp_path / "tiny.py", lines, call, returned)
    assert build(config).plan.input_shape == (8, 8, 1)  # as it said, and that is all


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ('{"stage1": x, "features": x[:, :5]}', r"'features' of shape \[b, dim=6\] \(they are \[2, 5\] for b=2\)"),
        ('{"features": x}', r"stages called 'stage1', 'stage2', ... \(beside features it returns nothing\)"),
        ('{"stage1": x}', r"'features' of shape \[b, dim=6\] \(it returns \{'stage1': \[2, 6\]\}\)"),
        ("x @ x", r"a call that works on \[2, 8, 8, 3\] with train=True \(TypeError: .*\)"),
    ],
)
def test_outputs_that_are_not_an_encoders(returned, words, tmp_path):
    lines = (
        "stages = 1; dim = 6; label = 'tiny'; min_size = 1; norm: Any = None; frozen_stages: int = 0; dtype: Any = None"
    )
    name = tiny(tmp_path / "tiny.py", lines, "def __call__(self, x, *, train, axis=None):", returned)
    config = runs.config()
    config.model = ConfigDict({"name": name})
    with pytest.raises(ValueError, match=words) as error:
        build(config)
    assert "\n" not in str(error.value)


def test_a_model_that_is_none(tmp_path):
    (tmp_path / "x.py").write_text("make = 3\ndef two(): return 2\ndef three(a): return 3\n")
    config = runs.config()
    for word, words in (("", "is a int; name the class"), (":two", "gives a int and no flax.linen.Module")):
        config.model = ConfigDict({"name": f"{tmp_path}/x.py{word}"})
        with pytest.raises(ValueError, match=words):
            build(config)
    config.model = ConfigDict({"name": f"{tmp_path}/x.py:three"})  # which must be told what a is
    with pytest.raises(ValueError, match=r"do not make a network: .*missing 1 required positional argument: 'a'"):
        build(config)


def test_arguments_of_ones_own_are_keys(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("from configs.common import base\ndef get_config(): return base()\n")
    given = [f"model.name={OWN}/net.py", "model.width=4", f"method.name={OWN}/vicreg.py", "method.dim=16"]
    config = configs.load(path, given)
    assert dict(config.model) == {"name": f"{OWN}/net.py", "width": 4}
    assert dict(config.method) == {"name": f"{OWN}/vicreg.py", "dim": 16}
    with pytest.raises(ValueError, match=r"config.method.dimm is unknown; did you mean --config.method.dim\?"):
        configs.load(path, [*given, "method.dimm=3"])


# --------------------------------------------------------------------------------------------- sources, evaluators


def test_a_source_of_ones_own():
    splits = readers.load(f"{OWN}/squares.py")
    assert sum(map(len, splits)) == 96
    assert (splits.train.num_classes, splits.train.channels) == (2, 1)
    assert readers.is_own(f"{OWN}/squares.py")
    assert not any(map(readers.is_own, ("digits", "tfds:mnist", "folder:x.py", "npz:a.b", "text:book.py")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"data.source='.*s.py': .*s.py does not exist"),
        ("def lod(data_dir=None): ...", "has no load; name what it holds"),
        ("def load(): ...", r"fails: TypeError: load\(\) got an unexpected keyword argument 'data_dir'"),
        ("def load(data_dir):\n    open('/not/there')", r"fails: FileNotFoundError: .*, s.py line 2; called with"),
        ("def load(data_dir): return 3", r"gives int; called with data_dir="),
        (
            "import numpy as np\nfrom ssl_jax.data.source import Source\n"
            "def load(data_dir): return Source({'image': np.zeros((9, 8, 8, 1), np.uint8)}, None, None, 'x'), None",
            r"gives images uint8\[9, 8, 8, 1\] and channels=3; make such a Source with ssl_jax.data.source.from_arrays",
        ),
    ],
)
def test_a_source_that_is_none(content, words, tmp_path):
    if content:
        (tmp_path / "s.py").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        readers.load(f"{tmp_path}/s.py")
    assert "\n" not in str(error.value)


HEAD = "from ssl_jax.data.images.recipes import *\nTWO = (View(Crop()),) * 2\n"


def test_a_recipe_of_ones_own_is_a_value_or_a_function_that_gives_one(tmp_path):
    file = tmp_path / "r.py"
    for content, word in (
        ("RECIPE = Recipe(TWO)", ""),
        ("def make(): return Recipe(TWO)", ""),
        ("A = Recipe(TWO)", ":A"),
    ):
        file.write_text(f"{HEAD}{content}\n")
        assert len(recipes.get(f"{file}{word}").views) == 2
    for content, words in (
        ("make = 3", "is a int and no recipe"),
        ("def make(): return TWO", "is a tuple and no recipe"),
        (
            "def make():\n    return 1 / 0",
            r"r.py' fails: ZeroDivisionError: division by zero, r.py line 4; called with",
        ),
        ("def mak(): ...", "has no RECIPE and no make; name what it holds"),
    ):
        file.write_text(f"{HEAD}{content}\n")
        with pytest.raises(ValueError, match=words) as error:
            recipes.get(str(file))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Evaluator = 3", r"lacks a class \(it is a int\)"),
        ("class Evaluator: ...", r"lacks def __init__\(self, encode, \*, train, test\) and def run\(self, variables"),
        (
            "class Evaluator:\n  def __init__(self, encode, *, train, test): ...\n  def run(self, variables): ...",
            r"lacks def run\(self, variables, outdir=None\), .* \(e.py line 3 has run\(self, variables\)\)",
        ),
        ("class Evaluater: ...", r"has no Evaluator; name what it holds"),
    ],
)
def test_an_evaluator_that_is_none(content, words, tmp_path):
    (tmp_path / "e.py").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        evals.get(f"{tmp_path}/e.py")
    assert "\n" not in str(error.value)


def test_what_evaluators_are_called():
    assert evals.called(["knn", "./centroid.py", "lab.Other"]) == {
        "knn": "knn",
        "centroid": "./centroid.py",
        "Other": "lab.Other",
    }
    for given in (["./knn.py"], ["knn", "./knn.py"], ["./knn.py", "knn"], ["a/c.py", "b/c.py"]):
        with pytest.raises(ValueError, match=r"are both called (knn|c); give one another name"):
            evals.called(given)
    assert evals.options(f"{OWN}/centroid.py") == {"power": 2}


# ------------------------------------------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the parts, and a run of four steps that was made there and stopped after two."""
    folder = tmp_path_factory.mktemp("lab")
    for file in OWN.glob("*.py"):
        shutil.copy(file, folder / file.name)
    before = os.getcwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "open_writer", runs.ending_after(2, lambda: (_ for _ in ()).throw(KeyboardInterrupt)))
            with runs.no_pictures(), pytest.raises(KeyboardInterrupt):
                train.fit(build(config()), folder / "run")
    finally:
        os.chdir(before)
    return folder


def config():
    steps = {"train__steps": 4, "train__eval_every": 4, "train__checkpoint_every": 2}
    found = runs.config(**steps, data__num_examples=None)
    found.method = ConfigDict({"name": "./vicreg.py", "dim": 16})
    found.model = ConfigDict({"name": "net.py:make", "width": 4})
    found.data.update({"source": "./squares.py", "recipe": "digits"})
    return found


PARTS = {"method.name": "vicreg.py", "model.name": "net.py", "data.source": "squares.py"}


def test_a_run_knows_its_own_parts_and_goes_on(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(lab)
    shutil.copytree(lab / "run", tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"]["method"]["name"] == "./vicreg.py"
    own = stored["resolved"]["own"]
    assert {key: (part["path"], part["sha256"]) for key, part in own.items()} == {
        key: (str(lab / file), digest(lab / file)) for key, file in PARTS.items()
    }
    copies = {path.name: path.read_bytes() for path in (tmp_path / "run" / "own").iterdir()}
    assert copies == {f"{file[:-3]}_{digest(lab / file)[:8]}.py": (lab / file).read_bytes() for file in PARTS.values()}

    # Elsewhere, with one of the parts changed: said, kept, and the run goes on.
    for file in PARTS.values():
        shutil.copy(lab / file, tmp_path / file)
    changed = tmp_path / "vicreg.py"
    changed.write_text(changed.read_text() + "# as it is now\n")
    monkeypatch.chdir(tmp_path)
    with runs.no_pictures():
        summary = train.fit(build(config()), tmp_path / "run")
    out = capsys.readouterr().err
    said = [line for line in out.splitlines() if "has changed" in line]
    assert len(said) == 1
    then, now = (digest(path)[:8] for path in (lab / "vicreg.py", changed))
    assert f"method.name=./vicreg.py: {changed} has changed" in said[0]
    assert f"sha256 {then} then, {now} now" in said[0]
    assert (tmp_path / "run" / "own" / f"vicreg_{now}.py").read_bytes() == changed.read_bytes()
    assert summary["steps"] == 4

    # Opened from anywhere; evaluated with one's own evaluator beside ours.
    monkeypatch.chdir("/")
    variables, encode, _ = ssl_jax.load(tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    assert encode(variables, images)["features"].shape == (3, 8)
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    evaluator = tmp_path / "centroid.py"
    shutil.copy(OWN / "centroid.py", evaluator)
    arguments = ["--workdir", str(tmp_path / "run"), "--evals", f"knn,{evaluator}", "--eval.centroid.power=1"]
    with runs.no_pictures():
        assert evaluate_command.main([*arguments, "--eval.knn.k=5"]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert list(found["evaluators"]) == ["knn", "centroid"]
    entry = found["evaluators"]["centroid"]
    assert entry["own"] == {"name": str(evaluator), "path": str(evaluator), "sha256": digest(evaluator)}
    assert entry["settings"] == {"power": 1}
    want = by_hand(encode, variables, readers.load(f"{OWN}/squares.py"))
    assert found["metrics"]["test_centroid_top1"] == pytest.approx(want, abs=1e-6)
    assert "test_centroid_top1" in found["intervals"] or found["metrics"]["test_centroid_top1"] in (0, 1)
    page = (tmp_path / "run" / "evaluation" / "report.html").read_text()
    assert "centroid" in page

    # Gone or changed since: named, with what is kept of it.
    changed.write_text(changed.read_text() + "# and later\n")
    with pytest.warns(UserWarning, match=r"vicreg.py is not what the run in .* was made with \(sha256 .*own/vicreg_"):
        open_run(tmp_path / "run")
    changed.unlink()
    words = rf"{changed} does not exist; .*; the run was made with {changed}, of which .*own/vicreg_{now}.py is a copy"
    with pytest.raises(ValueError, match=words) as error:
        ssl_jax.load(tmp_path / "run")
    assert "\n" not in str(error.value)
    shutil.copy(tmp_path / "run" / "own" / f"vicreg_{now}.py", changed)
    (tmp_path / "squares.py").unlink()  # without its data a run opens
    ssl_jax.load(tmp_path / "run")


def test_a_missing_file_is_told_with_its_copy_when_a_run_is_to_go_on(lab, tmp_path, monkeypatch, capsys):
    shutil.copytree(lab / "run", tmp_path / "run")
    for name in PARTS.values():
        shutil.copy(lab / name, tmp_path / name)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    for key, part in stored["resolved"]["own"].items():
        part["path"] = str(tmp_path / PARTS[key])
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    monkeypatch.chdir(tmp_path)
    for key, name in PARTS.items():
        (tmp_path / name).unlink()
        copy = f"{name[:-3]}_{digest(lab / name)[:8]}.py"
        words = rf"{name} does not exist; .*; the run was made with .*/{name}, of which .*/own/{copy} is a copy"
        assert pretrain_command.main(["--workdir", str(tmp_path / "run")]) == 2
        *_, said = capsys.readouterr().err.splitlines()
        assert re.search(words, said), key
        asked = read_run(tmp_path / "run")[0]
        with pytest.raises(ValueError, match=words):
            ssl_jax.pretrain(asked, tmp_path / "run")
        with pytest.raises(
            ValueError, match=f"{name} does not exist"
        ) as error:  # a folder that holds no run has no copies
            ssl_jax.pretrain(asked, tmp_path / "other")
        assert "is a copy" not in str(error.value)
        shutil.copy(lab / name, tmp_path / name)


@pytest.mark.slow
def test_evaluators_measure_during_a_run(lab, tmp_path, monkeypatch, capsys):
    """On validation data, of which test is no part; one that fails ends nothing, and what they find is drawn."""
    monkeypatch.chdir(lab)
    shutil.copytree(lab / "run", tmp_path / "run")
    shutil.copy(OWN / "centroid.py", tmp_path / "centroid.py")
    (tmp_path / "breaks.py").write_text(BREAKS)
    given = {}
    get = evals.get

    def noting(name):
        class Noting(get(name)):
            def __init__(self, encode, *, train, test, **options):
                given[name] = train, test, options
                super().__init__(encode, train=train, test=test, **options)

        return Noting

    monkeypatch.setattr(evals, "get", noting)
    asked = config()
    asked.eval.during = ("knn", str(tmp_path / "centroid.py"), str(tmp_path / "breaks.py"))
    experiment = build(asked)
    with runs.no_pictures():
        train.fit(experiment, tmp_path / "run", test=False)
    said = capsys.readouterr().err
    assert f"config.eval.during was [], is now ['knn', '{tmp_path}/centroid.py'" in said
    assert "/breaks.py' fails: ZeroDivisionError: division by zero, breaks.py line 8\n" in said

    splits = experiment.splits
    assert len(given) == 3
    assert given["knn"][2] == {"k": (5,), "temperature": (0.1,), "centre": True}  # as the run itself measures it
    for known, queries, _ in given.values():
        assert (known.fingerprint, queries.fingerprint) == (splits.train.fingerprint, splits.val.fingerprint)
    *_, line = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["val_breaks_half"] == 0.5

    stored = json.loads((tmp_path / "run" / "config.json").read_text())["resumed"][0]["resolved"]["own"]
    part = {"name": str(tmp_path / "centroid.py"), "path": str(tmp_path / "centroid.py")}
    assert stored["eval.during.centroid"] == part | {"sha256": digest(OWN / "centroid.py")}
    (tmp_path / "centroid.py").unlink()
    variables, encode, _ = ssl_jax.load(tmp_path / "run")  # a run opens without its evaluators
    known, queries = (np.asarray(encode(variables, p.columns["image"])["features"]) for p in (splits.train, splits.val))
    means = np.stack([known[splits.train.labels == c].mean(0) for c in (0, 1)])
    nearest = np.square(queries[:, None] - means).sum(-1).argmin(1)
    assert line["val_centroid_top1"] == pytest.approx(np.mean(nearest == splits.val.labels), abs=1e-6)

    panels = {}
    monkeypatch.setattr(canvas, "plain", lambda axes, title, x, y: panels.update({title: axes.get_lines()}))
    measure.draw_curves(tmp_path / "run" / "figures", "vicreg")
    assert {"Invariance", "Covariance", "Breaks half"} <= set(panels)  # vicreg.py's own, too
    assert "val_centroid_top1" in [drawn.get_label() for drawn in panels["Accuracy"]]


BREAKS = """
class Evaluator:
    def __init__(self, encode, *, train, test):
        pass

    def run(self, variables, outdir=None):
        yield "half", 0.5
        yield "none", 1 / 0
"""


@pytest.mark.parametrize(
    ("during", "words"),
    [
        (("knn", "finetune"), "config.eval.during='finetune' trains, which no run does beside itself; evaluate it"),
        (("geometri",), "evaluator 'geometri' is unknown; did you mean 'geometry'"),
        (("./gone.py",), "gone.py does not exist"),
        (("transfer",), "eval.during='transfer' cannot be measured: eval.transfer.sources is empty"),
        (("score",), "eval.during='score' cannot be measured: score: this method has no measure of its own"),
    ],
)
def test_what_cannot_measure_during_a_run_is_refused(during, words, tmp_path):
    asked = runs.config(eval__during=during)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        train.fit(build(asked), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def by_hand(encode, variables, splits) -> float:
    bank = [np.asarray(encode(variables, p.columns["image"])["features"], np.float64) for p in splits]
    known, labels = np.concatenate(bank[:2]), np.concatenate([splits.train.labels, splits.val.labels])
    means = np.stack([known[labels == c].mean(0) for c in (0, 1)])
    nearest = np.abs(bank[2][:, None] - means).sum(-1).argmin(1)
    return float((nearest == splits.test.labels).mean())


def test_the_commands_refuse_what_is_not_there(lab, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    for arguments in (["--config.method.name=./gone.py"], ["--config.data.source=./gone.py"]):
        assert pretrain_command.main([*arguments, f"--workdir={tmp_path}/w", "--config.train.steps=2"]) == 2
        (line,) = capfd.readouterr().err.splitlines()[-1:]
        assert line.startswith("error: ")
        assert f"{tmp_path}/gone.py does not exist" in line
    assert evaluate_command.main(["--workdir", str(lab / "run"), "--evals", "./gone.py"]) == 2
    assert f"{tmp_path}/gone.py does not exist" in capfd.readouterr().err


def test_another_file_of_that_name_elsewhere_is_the_same_part_and_another_name_is_not():
    old, new = config(), config()
    new.method.name = "elsewhere/vicreg.py"
    assert configs.differences(old.to_dict(), new)[0] == {}
    assert "method.name" in configs.differences(old.to_dict(), new)[1]
    new.method.name = "./barlow.py"
    assert "method.name" in configs.differences(old.to_dict(), new)[0]


def test_parts_of_ours_are_not_ones_own():
    built = build(runs.config())
    from ssl_jax.run.provenance import describe

    own = describe(built)["own"]
    assert set(own) == {"data.recipe"}  # the tests' own, runs:VIEWS
    assert own["data.recipe"]["path"] == str(Path(runs.__file__))
