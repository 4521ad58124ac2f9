"""The evaluation command: what is refused, what comes out, and that nothing of the run is touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from ml_collections import ConfigDict
from PIL import Image

from experiments import evaluate
from ssl_jax import evals, evaluation, methods, models
from ssl_jax.data import readers
from ssl_jax.data.images import published
from ssl_jax.evals.shared import captions
from ssl_jax.evaluation import _of_itself, _prepare, plain_recipe
from ssl_jax.run import checkpoint, folder, processes
from ssl_jax.run.open import Run, open_run

EVALS = "knn,linear_probe,low_label,geometry"
OPTIONS = ["--eval.knn.k=5,1", "--eval.geometry.max_examples=60", "--eval.geometry.views=2", "--eval.low_label.draws=2"]
OPTIONS += ["--eval.low_label.per_class=5"]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two runs, of one program."""
    place = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("simclr", "other")):
        runs.fit(place / name, seed=seed, train__steps=8, train__eval_every=0)
    return place


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)  # the eight devices there are


@pytest.fixture
def pictures():
    """A test that asks for this draws its pictures; others have small ones in their place."""


@pytest.fixture(autouse=True)
def _small_pictures(request):
    with contextlib.nullcontext() if "pictures" in request.fixturenames else runs.no_pictures():
        yield


def digest(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "evaluation" not in p.parts
    }


REFUSED = {
    "no workdir": ([], "--workdir is missing"),
    "no run": (["--workdir", "EMPTY"], "holds no run"),
    "unknown evaluator": (["--evals=knnn"], "did you mean 'knn'?"),
    "no evaluator": (["--evals="], "names no evaluator"),
    "unknown option": (["--evals=knn", "--eval.knn.kk=5"], "did you mean --eval.knn.k?"),
    "option of another": (["--evals=knn", "--eval.geometry.views=3"], "geometry is not among --evals"),
    "unknown flag": (["--wordir=x"], "argument '--wordir=x' is unknown"),
    "no value": (["--evals=knn", "--eval.knn.k="], "has no value"),
    "k above the bank": (["--evals=knn", "--eval.knn.k=5000"], "5000"),
    "no such step": (["--step=99"], "no checkpoint of step 99 under"),
    "zero temperature": (["--evals=knn", "--eval.knn.temperature=0"], "temperature"),
    "unknown layer": (["--evals=knn", "--eval.knn.layers=stage9"], "stage9"),
    "text for a number": (
        ["--evals=geometry", "--eval.geometry.t=abc"],
        "eval.geometry cannot be measured with t='abc'",
    ),
    "text for a grid": (["--evals=knn", "--eval.features.max_dim=abc"], "eval.features.max_dim=abc"),
    "negative grid": (["--evals=knn", "--eval.features.max_dim=-3"], "eval.features.max_dim=-3"),
    "share without a class": (
        ["--evals=low_label", "--eval.low_label.fractions=0.001"],
        "leaves some of the 10 classes",
    ),
    "unknown protocol": (["--evals=linear_probe", "--eval.linear_probe.protocol=mooco"], "moco"),
    "labels": (["--evals=low_label", "--eval.low_label.per_class=500"], "500"),
    "unknown mode": (["--evals=finetune", "--eval.finetune.modes=tuned"], "tuned"),
    "no targets": (["--evals=transfer"], "eval.transfer.sources is empty"),
    "unknown source": (["--source=digit"], "digits"),
    "one of several": (["--evals=knn,score,geometry"], "leave it out; --evals knn,geometry would run"),
    "a classifier that is not there": (["--eval.classify.columns=3,1"], "has no classifier of its own"),
    "missing target": (["--evals=transfer", "--eval.transfer.sources=npz:EMPTY/x.npz"], "is not there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, workdirs, tmp_path, capfd):
    arguments, words = REFUSED[case]
    arguments = [a.replace("EMPTY", str(tmp_path)) for a in arguments]
    if case not in ("no workdir", "no run"):
        arguments = ["--workdir", str(workdirs / "simclr"), *arguments]
    assert evaluate.main([*arguments, "--outdir", str(tmp_path / "out")]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(errors) == 1, errors
    assert words in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_unlabelled_data_are_refused(workdirs, tmp_path, capfd):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images)
    common = ["--workdir", str(workdirs / "simclr"), "--source", f"npz:{tmp_path / 'x.npz'}"]
    for name in ("knn", "linear_probe", "low_label", "finetune"):
        assert evaluate.main([*common, "--evals", name, "--outdir", str(tmp_path / "out")]) == 2
        assert "label" in capfd.readouterr().err
    options = ["--eval.geometry.views=2", "--eval.geometry.max_examples=12"]  # needs no labels
    assert evaluate.main([*common, "--evals", "geometry", *options, "--out", str(tmp_path / "out")]) == 0
    assert "test_rankme" in json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]


@pytest.mark.parametrize("word", ["--data.label_column=shape", "--config.data.label_column=shape"])
def test_the_column_of_labels_is_said(word, workdirs, tmp_path, capfd):
    rows = ["id,colour,shape"]
    for i in range(24):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i},{'xyz'[i % 3]},{'ab'[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    words = ["--workdir", str(workdirs / "simclr"), "--source", f"csv:{tmp_path / 't.csv'}", "--evals=knn"]
    words += ["--eval.knn.k=1", "--out", str(tmp_path / "out")]
    assert evaluate.main(words) == 2
    assert "no column of labels (data.label_column=colour, shape?)" in capfd.readouterr().out
    assert evaluate.main([*words, word]) == 2
    said = capfd.readouterr()
    assert "the label from 'shape'" in said.out
    assert "these images are in colour and the encoder takes grey ones" in said.err  # data are read, and then this
    assert evaluate.main([*words, "--data.label_colum=shape"]) == 2
    assert "did you mean '--data.label_column'?" in capfd.readouterr().err


def test_another_architecture_is_refused(workdirs, tmp_path, capfd):
    shutil.copytree(workdirs / "simclr", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    stored["config"]["model"]["widths"] = [8, 32]
    path.write_text(json.dumps(stored))
    assert evaluate.main(["--workdir", str(tmp_path / "run"), "--evals=knn"]) == 2
    assert "this config's is" in capfd.readouterr().err


def test_whole_evaluation(workdirs, pictures, capsys):
    workdir = workdirs / "simclr"
    before = digest(workdir)
    arguments = ["--workdir", str(workdir), "--evals", EVALS, *OPTIONS]
    assert evaluate.main(arguments) == 0
    said = capsys.readouterr().out
    assert digest(workdir) == before  # parameters, statistics, checkpoints and summary: not a bit
    found = json.loads((workdir / "evaluation" / "evaluation.json").read_text())
    assert found["metrics"]["test_knn_top1"] == pytest.approx(
        json.loads((workdir / "summary.json").read_text())["test_knn_top1"]
    )
    assert found["metrics"]["test_knn_top1_k5_t0.1"] == found["metrics"]["test_knn_top1"]
    assert "test_knn_top1_k1_t0.1" in found["metrics"]
    assert found["evaluators"]["knn"]["settings"] == {
        "k": [5, 1], "temperature": [0.1], "centre": True, "layers": ["features"], "leave_one_out": False
    }  # fmt: skip
    assert {"test_linear_top1", "test_low_label_5_top1_std", "test_rankme", "test_lidar"} <= set(found["metrics"])
    low, high = found["intervals"]["test_knn_top1"]
    assert low < found["metrics"]["test_knn_top1"] < high
    assert found["provenance"]["checkpoint"] == checkpoint.fingerprint(open_run(workdir).variables)
    assert found["provenance"]["sizes"] == {"train": 160 + 144, "test": 359}
    assert set(found["evaluators"]) == set(EVALS.split(","))
    cut = "cut from train: 359 of 1,797 examples (20%), the same ones in every run"
    assert found["notes"] == {"test split": cut}
    assert f"test split: {cut}" in said
    assert "MB in" in said
    page = (workdir / "evaluation" / "report.html").read_text()
    assert "data:image/png;base64," in page
    # again: everything is read from the cache, and says the same
    with runs.no_pictures():
        assert evaluate.main(arguments) == 0
    assert "MB in" not in capsys.readouterr().out
    assert json.loads((workdir / "evaluation" / "evaluation.json").read_text())["metrics"] == found["metrics"]


def test_alarms_of_the_run_reach_the_page(workdirs, tmp_path):
    run = shutil.copytree(workdirs / "simclr", tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    path = run / "summary.json"
    alarms = {"collapsed": True, "loss_spikes": [3, 7], "replaced": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | alarms))
    options = ["--eval.geometry.max_examples=12", "--eval.geometry.views=2"]
    assert evaluate.main(["--workdir", str(run), "--evals", "geometry", *options]) == 0
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert found["alarms"] == alarms | {"nonfinite": None, "skipped": 0, "damaged": [], "lost": None}
    page = (run / "evaluation" / "report.html").read_text()
    assert "<li>collapsed; loss jumped at steps 3, 7; 2 unreadable examples replaced</li>" in page

    path.unlink()  # a run that has not ended speaks through its checkpoint, which knows of no alarm
    opened = open_run(run)
    assert _of_itself(opened)["alarms"] == {
        "collapsed": False,
        "loss_spikes": [],
        "nonfinite": None,
        "skipped": 0,
        "replaced": 0,
        "damaged": [],
        "lost": None,
    }
    saved = {"collapsed": True, "loss_spikes": [5], "nonfinite": 6, "skipped": 2, "unreadable": [4, 8, 15]}
    assert opened.progress.keys() > saved.keys()
    known = _of_itself(opened._replace(progress=saved))["alarms"]
    alarms = {"collapsed": True, "loss_spikes": [5], "nonfinite": 6, "skipped": 2, "replaced": 3}
    assert known == alarms | {"damaged": [], "lost": None}
    # What evaluation does not read of the newest checkpoint, a run needs to go on.
    largest = max((run / "checkpoints" / str(opened.step) / "training").rglob("d/*"), key=lambda f: f.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(bytes(b ^ 255 for b in whole))
    assert _of_itself(opened)["alarms"]["damaged"] == [opened.step]
    largest.write_bytes(whole)
    (run / "checkpoints" / "damaged_12").mkdir()
    assert _of_itself(opened._replace(step=5))["alarms"]["damaged"] == [8, 12]  # 5 was the newest that could be read
    assert _of_itself(opened._replace(step=12))["alarms"]["damaged"] == []  # the run went on from 8, and wrote 12 anew
    for step in (9, 17):  # where it ended no checkpoint knows, but the batch was kept
        (run / "nonfinite" / f"step_{step}").mkdir(parents=True)
    assert _of_itself(opened)["alarms"]["nonfinite"] == 9


def test_one_folder_under_two_names_is_refused(workdirs, capfd):
    run = workdirs / "simclr"
    arguments = ["--workdir", str(run), str(run / ".." / "simclr"), "--outdir", str(workdirs / "out"), "--evals=knn"]
    assert evaluate.main(arguments) == 2
    assert "is named twice" in capfd.readouterr().err


def test_an_earlier_checkpoint_is_evaluated_beside_the_last(tmp_path):
    runs.fit(tmp_path / "run", train__steps=4, train__eval_every=0, train__checkpoint_every=2)
    for more in ([], ["--step=2"]):
        assert evaluate.main(["--workdir", str(tmp_path / "run"), "--evals=knn", *more]) == 0
    last, earlier = (
        json.loads((tmp_path / "run" / name / "evaluation.json").read_text())["provenance"]
        for name in ("evaluation", "evaluation_2")
    )
    assert (last["step"], earlier["step"]) == (4, 2)
    assert last["checkpoint"] != earlier["checkpoint"]
    found = json.loads((tmp_path / "run" / "evaluation_2" / "evaluation.json").read_text())
    assert (found["online"], found["alarms"]["damaged"]) == ({}, [])  # those of the end, and newer ones that are whole


def test_pictures_of_an_earlier_evaluation_lie_inside_its_folder(tmp_path):
    for file in ("place/knn/x.png", "secret.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    (tmp_path / "place" / "link.png").symlink_to(tmp_path / "secret.png")
    files = ["knn/x.png", "../secret.png", str(tmp_path / "secret.png"), "link.png"]
    found = captions.of_evaluator(tmp_path / "place", "knn", files)
    assert [figure.path for figure in found] == [tmp_path / "place/knn/x.png"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": 3, "resolved": {}}'])
def test_a_broken_config_of_a_run_is_refused_in_one_line(text, tmp_path, capfd):
    (tmp_path / "config.json").write_text(text)
    assert evaluate.main(["--workdir", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'config.json'} cannot be read")


PATHS = ("../x", "os", "..", "/etc/passwd", "__init__", "report", "")


@pytest.mark.parametrize("name", PATHS)
def test_names_that_are_imported_are_names_of_files_there(name):
    for get in (evals.get, methods.get, models.arguments, published.get):
        with pytest.raises(ValueError, match=r"unknown|no augmentation recipe") as error:
            get(name)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_later_evaluation_adds_to_an_earlier_one(workdirs, tmp_path, capsys):
    common = ["--workdir", str(workdirs / "other"), "--outdir", str(tmp_path / "out")]
    assert evaluate.main([*common, "--evals=knn", "--eval.knn.k=5"]) == 0
    first = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    geometry = ["--evals=geometry", "--eval.geometry.views=2", "--eval.geometry.max_examples=20"]
    assert evaluate.main([*common, *geometry]) == 0
    assert "kept from an earlier evaluation of the same checkpoint: knn" in capsys.readouterr().out
    both = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert set(both["evaluators"]) == {"knn", "geometry"}
    assert both["metrics"]["test_knn_top1"] == first["metrics"]["test_knn_top1"]
    assert both["intervals"] == first["intervals"]
    with np.load(tmp_path / "out" / "hits.npz") as hits:
        assert hits["test_knn_top1"].mean() == pytest.approx(both["metrics"]["test_knn_top1"])
    assert evaluate.main(["--workdir", str(workdirs / "simclr"), *common[2:], "--evals=knn"]) == 0
    other = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert set(other["evaluators"]) == {"knn"}  # another checkpoint


def test_an_outdir_that_cannot_be_is_refused(workdirs, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    arguments = ["--workdir", str(workdirs / "simclr"), "--evals=knn", "--outdir", str(tmp_path / "file" / "x")]
    assert evaluate.main(arguments) == 2
    assert "cannot be made" in capfd.readouterr().err


@pytest.mark.slow
def test_layers_grid_devices_and_comparison(workdirs, tmp_path):
    both = [str(workdirs / "simclr"), str(workdirs / "other")]
    options = ["--evals=knn", "--eval.knn.k=5", "--eval.knn.layers=features,stage1"]
    assert evaluate.main(["--workdir", *both, *options, "--outdir", str(tmp_path / "one")]) == 0
    found = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    assert set(found["runs"]) == {"simclr", "other"}
    assert {(p["a"], p["b"], p["metric"]) for p in found["paired"]} == {
        ("simclr", "other", "test_knn_top1"),
        ("simclr", "other", "test_knn_top1_stage1"),
    }
    assert evaluate.main(["--workdir", *both, *options, "--outdir", str(tmp_path / "eight"), "--devices=8"]) == 0
    eight = json.loads((tmp_path / "eight" / "evaluation.json").read_text())
    for name in found["runs"]:
        assert eight["runs"][name]["provenance"]["devices"] == 8
        assert eight["runs"][name]["metrics"] == pytest.approx(found["runs"][name]["metrics"], abs=0.003)
    grid = ["--eval.features.max_dim=144", "--evals=knn", "--eval.knn.k=5", "--eval.knn.layers=stage1"]
    assert evaluate.main(["--workdir", both[0], *grid, "--outdir", str(tmp_path / "grid")]) == 0
    stored = next((tmp_path / "grid" / "features").rglob("stage1.npy"))
    assert np.load(stored).shape[1] == 8 * 4 * 4  # 8 channels on the finest grid of at most 144 numbers


def test_several_workdirs_need_an_outdir(workdirs, capfd):
    assert evaluate.main(["--workdir", str(workdirs / "simclr"), str(workdirs / "other"), "--evals=knn"]) == 2
    assert "need --outdir" in capfd.readouterr().err


def test_permuted_labels_leave_chance(workdirs, tmp_path):
    """A pipeline that leaks would still score: labels without meaning must give the share of the largest class."""
    from ssl_jax.data import source

    splits = readers.load("digits")
    known = source.join(splits.train, splits.val)
    rng = np.random.default_rng(0)
    known = known.take(np.arange(304))  # as many as the other tests have, whose programs serve again
    images = {"train_images": known.columns["image"], "test_images": splits.test.columns["image"]}
    labels = {"train_labels": rng.permutation(known.labels), "test_labels": rng.permutation(splits.test.labels)}
    np.savez(tmp_path / "x.npz", **images, **labels)
    common = ["--workdir", str(workdirs / "simclr"), "--source", f"npz:{tmp_path / 'x.npz'}"]
    common += ["--outdir", str(tmp_path / "out")]
    arguments = [*common, "--evals=knn,linear_probe,low_label", "--eval.knn.k=5", "--eval.low_label.draws=2"]
    arguments += ["--eval.low_label.per_class=5"]
    assert evaluate.main(arguments) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["online"] == result["not_measured"] == {}  # those are of the run's own data
    found = result["metrics"]
    scores = {k: v for k, v in found.items() if k.endswith("top1")}
    assert set(scores) == {"test_knn_top1", "test_linear_top1", "test_low_label_5_top1"}
    assert max(scores.values()) < 0.17, scores  # 0.1 and four standard deviations of 359 coin tosses


@pytest.mark.slow
def test_fine_tuning_that_diverges_is_one_line(workdirs, tmp_path, capfd):
    images(tmp_path / "x.npz", test=20)
    common = ["--workdir", str(workdirs / "simclr"), "--source", f"npz:{tmp_path / 'x.npz'}", "--evals=finetune"]
    common += ["--outdir", str(tmp_path / "out"), "--eval.finetune.epochs=4", "--eval.finetune.modes=tune"]
    assert evaluate.main([*common, "--eval.finetune.learning_rate=1e38"]) == 1
    said = capfd.readouterr().err.splitlines()
    assert sum("the evaluation failed: finetune_tune: step " in line and "not finite" in line for line in said) == 1
    assert not any("Traceback" in line for line in said)
    assert evaluate.main([*common, "--eval.finetune.learning_rate=(1e38, 0.1)"]) == 0
    assert "learning rate 1e+38 is left out: finetune_tune: step " in capfd.readouterr().out


def images(path, n=40, channels=1, classes=2, test=0, seed=0):
    """An npz of images whose brightness says their class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, size in (("train", n), ("test", test)):
        labels = np.arange(size) % max(1, classes)
        pixels = (
            rng.integers(0, 255, (size, 8, 8, channels), np.uint8) // (1 + labels.astype(np.uint8))[:, None, None, None]
        )
        arrays |= {f"{part}_images": pixels} | ({f"{part}_labels": labels} if classes else {})
    np.savez(path, **{name: a for name, a in arrays.items() if len(a)})
    return f"npz:{path}"


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A run on images in colour."""
    place = tmp_path_factory.mktemp("colour")
    data = {"data__source": images(place / "colour.npz", 60, channels=3), "data__num_examples": None}
    short = {"train__steps": 1, "train__eval_every": 0, "data__mean": (0.5, 0.4, 0.3), "data__std": (0.2, 0.3, 0.4)}
    runs.fit(place / "run", "supervised", **data, **short, data__global_batch_size=16)
    return place / "run"


@pytest.mark.slow
def test_grey_becomes_colour_in_every_evaluator(colour, tmp_path):
    """Also for what is trained here, and for datasets whose paths end alike: each keeps its result."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    grey = [images(tmp_path / place / "x.v1.npz", 60, seed=seed) for seed, place in enumerate("ab")]
    arguments = ["--evals=knn,transfer,finetune,geometry,projection", f"--source={grey[0]}", "--eval.knn.k=3"]
    arguments += [f"--eval.transfer.sources={','.join(grey)}", "--eval.transfer.k=3"]
    arguments += ["--eval.finetune.epochs=1", "--eval.finetune.modes=extract", "--eval.projection.methods=pca"]
    arguments += ["--eval.geometry.views=2", "--eval.geometry.max_examples=8", "--eval.projection.max_examples=21"]
    refused = ["--workdir", str(colour), *arguments, "--outdir", str(tmp_path / "out")]
    assert evaluate.main(refused) == 2  # 12 test images are too few for a projection, which was asked for
    arguments[0] = "--evals=knn,transfer,finetune,geometry"
    arguments = [a for a in arguments if "projection" not in a]
    assert evaluate.main(["--workdir", str(colour), *arguments, "--outdir", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["missing"] == {}
    metrics = found["metrics"]
    assert {"test_finetune_extract_top1", "test_rankme", "test_transfer_b-x.v1_linear_top1"} <= set(metrics)
    assert metrics["test_transfer_a-x.v1_knn_top1"] == metrics["test_knn_top1"] > 0.8  # the same images
    notes = found["evaluators"]["transfer"]["notes"]
    assert {notes[f"transfer_{place}-x.v1"] for place in ("a", "b")} == {f"of {spec}" for spec in grey}
    examples = found["evaluators"]["transfer"]["examples"]
    assert examples["test_transfer_a-x.v1_knn_top1"] == found["provenance"]["fingerprints"]["test"]
    assert examples["test_transfer_a-x.v1_knn_top1"] != examples["test_transfer_b-x.v1_knn_top1"]


@pytest.mark.slow
def test_colour_for_a_run_on_grey_images_is_refused(workdirs, colour, tmp_path, capfd):
    spec, common = f"npz:{colour.parent / 'colour.npz'}", ["--workdir", str(workdirs / "simclr")]
    for arguments in (["--source", spec, "--evals=knn"], ["--evals=transfer", f"--eval.transfer.sources={spec}"]):
        assert evaluate.main([*common, *arguments, "--outdir", str(tmp_path / "out")]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "these images are in colour and the encoder takes grey ones" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_data_and_runs_on_different_data(workdirs, colour, tmp_path, capfd):
    """Results on own data stay when others come; runs on different test data are compared by no test."""
    other, out = images(tmp_path / "x.npz", 40), ["--outdir", str(tmp_path / "out")]
    common = ["--workdir", str(colour), "--evals=knn", "--eval.knn.k=3", *out]
    assert evaluate.main(common) == 0
    own = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with folder.lock(tmp_path / "out"):
        assert evaluate.main([*common, "--source", other]) == 2
    assert "another evaluation holds" in capfd.readouterr().err
    assert evaluate.main([*common, "--source", other]) == 0
    both = json.loads((tmp_path / "out" / "evaluation.json").read_text())["data"]
    assert list(both) == [f"npz:{colour.parent / 'colour.npz'}", other]
    assert both[f"npz:{colour.parent / 'colour.npz'}"]["metrics"] == own["metrics"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Main results, one row of each data" in page
    once = sum((tmp_path / "out" / "pictures" / name).is_file() for name in ("curves.png", "views.png"))
    assert once  # they do not depend on the data
    assert page.count("data:image/png") == 2 * own_pictures(tmp_path / "out") - once

    several = ["--workdir", str(colour), str(workdirs / "simclr"), "--outdir", str(tmp_path / "both")]
    assert evaluate.main([*several, "--evals=knn", "--eval.knn.k=3"]) == 0
    found = json.loads((tmp_path / "both" / "evaluation.json").read_text())
    assert found["paired"] == []
    (pair,) = found["not_paired"]
    assert pair["reason"].startswith("measured on different data: npz:")
    assert f"no paired test of run and simclr on test_knn_top1: {pair['reason']}" in capfd.readouterr().out


def own_pictures(place):
    return len(list(place.glob("pictures/*.png"))) + len(list(place.glob("knn/*.png")))


def prepare(run, source, asked=None, options=None):
    """(which evaluators are left out and why, the job) of a default run."""
    said = []
    run = run if isinstance(run, Run) else open_run(run)
    job = _prepare(run, run.workdir / "evaluation", asked, options or {}, source, None, False, None, said.append)
    return [line for line in said if " left out: " in line], job  # beside what the source has to say


def test_a_classifier_is_among_the_default_ones_where_it_suits_the_data(workdirs, tmp_path):
    run = open_run(workdirs / "simclr")

    def classifier(logits, method="supervised"):
        hooks = {"classify": lambda variables, inputs: jnp.zeros((len(inputs), logits))}
        config = ConfigDict(run.config.to_dict() | {"method": {"name": method}})
        return run._replace(method=run.method._replace(hooks=hooks), config=config)

    assert prepare(classifier(10), None)[0] == []
    (line,) = prepare(classifier(1000), None)[0]
    assert line.startswith("classify left out: classify: the network tells 1000 classes apart and the data have 10")
    with pytest.raises(ValueError, match=r"^classify: .*=0,1,2,3,.*,9 if .*; --evals knn,geometry would run$"):
        prepare(classifier(1000), None, ["knn", "classify", "geometry"])
    with pytest.raises(ValueError, match=r"eval.classify.columns=\(1, 2\) must name another logit[^;]*$"):
        prepare(classifier(1000), None, options={"classify": {"columns": (1, 2)}})
    # Of data that it was not trained on, one that was imported may be meant.
    other = images(tmp_path / "x.npz", 40)
    left = [[line.split(" ")[0] for line in prepare(classifier(7, m), other)[0]] for m in ("supervised", "imported")]
    assert left == [["projection"], ["projection", "classify"]]


def test_classes_of_an_imported_network_are_found_by_their_names(workdirs, tmp_path):
    run = open_run(workdirs / "simclr")
    data = images(tmp_path / "x.npz", 40)
    names = ("0", "1")

    def classifier(called):
        hooks = {"classify": lambda variables, inputs: jnp.zeros((len(inputs), len(called)))}
        config = ConfigDict(run.config.to_dict() | {"method": {"name": "imported"}})
        resolved = run.resolved | {"imported": {"class_names": called}}
        return run._replace(method=run.method._replace(hooks=hooks), config=config, resolved=resolved)

    other = [f"other {name}" for name in names]
    for called, words in (
        ([*other, *names[::-1]], "classify: the classes of the data are those of the network that have the same names"),
        (other, f"in their order; no class, or more than one, of the network's is called {names[0]!r}"),
        ([*other, "one more"], f"classify left out: .*; no class, or more than one, .* is called {names[0]!r}$"),
    ):
        said = []
        _prepare(classifier(called), tmp_path / "out", None, {}, data, None, False, None, said.append)
        assert re.search(words, "\n".join(line for line in said if "classify" in line)), said
    both = [classifier(["one"]), open_run(workdirs / "other")]
    with pytest.raises(ValueError, match=rf"^{run.workdir}: classify: the network tells 1 classes apart"):
        evaluation.evaluate(both, ["classify"], {}, outdir=tmp_path / "out", source=data)


def test_the_classifier_alone_costs_one_pass_over_test(workdirs, tmp_path):
    run = open_run(workdirs / "simclr")
    hooks = {"classify": lambda variables, inputs: jnp.zeros((len(inputs), 10))}
    run = run._replace(method=run.method._replace(hooks=hooks))
    data, place, encoded = images(tmp_path / "x.npz", 40, test=20), tmp_path / "out", []
    (place / "pictures").mkdir(parents=True)
    (place / "pictures" / "neighbours.png").write_bytes(b"of another checkpoint")
    both = {"classify": {"columns": (3, 1)}, "knn": {"k": 3}}
    for options, lines in (({"classify": both["classify"]}, 1), (both, 3)):
        said = []
        _prepare(run, place, [*options], options, data, None, False, None, said.append)()
        encoded += [re.sub(r": .*", "", line) for line in said if line.startswith("features of")]
        assert len(encoded) == lines
        assert (place / "pictures" / "neighbours.png").exists() == (lines == 3)
    assert encoded[0] == "features of 20 examples (logits)"
    assert {*encoded[1:]} == {f"features of {n} examples (features)" for n in (20, 40)}


def test_a_restricted_licence_is_said(workdirs, tmp_path):
    run, data = open_run(workdirs / "simclr"), images(tmp_path / "x.npz", 40)
    for licence, restricted in (("CC BY-NC 4.0", True), ("MIT", False)):
        said, came = [], {"licence": licence, "project": "byol", "source": "deepmind/byol", "sha256": None}
        asked = run._replace(resolved=run.resolved | {"imported": came})
        _prepare(asked, tmp_path / "out", ["knn"], {"knn": {"k": 3}}, data, None, False, None, said.append)
        line = f"licence: the weights in {run.workdir} were published under {licence}"
        assert (line in said) == restricted
        assert any("licence" in line for line in said) == restricted


def test_examples_without_a_label_are_counted_and_it_is_said_what_becomes_of_them(workdirs, tmp_path):
    spec = images(tmp_path / "x.npz", 40, test=20)
    with np.load(tmp_path / "x.npz") as held:
        arrays = dict(held)
    arrays["train_labels"][::4] = -1
    arrays["test_labels"][:3] = -1
    np.savez(tmp_path / "x.npz", **arrays)
    said, run = [], open_run(workdirs / "simclr")
    _prepare(run, tmp_path, ["knn"], {"knn": {"k": 3}}, spec, None, False, None, said.append)
    kept = "left out of what needs labels, and part of what needs none"
    assert f"examples without a label: 10 of 40 of train and 3 of 20 of test: {kept}" in said
    assert not any("test split" in line for line in said)  # it is the data's own


def test_what_does_not_suit_the_data_is_left_out_of_a_default_run(workdirs, tmp_path):
    run = workdirs / "simclr"
    said, _ = prepare(run, images(tmp_path / "small.npz", 20))
    assert [line.split(":")[0] for line in said] == ["projection left out"]
    said, _ = prepare(run, images(tmp_path / "one.npz", 20, classes=1))
    left = ["knn left out", "linear_probe left out", "low_label left out", "projection left out"]
    assert [line.split(":")[0] for line in said] == left
    assert "the train split has none (there is one class only, 0)" in said[0]
    said, _ = prepare(run, images(tmp_path / "none.npz", 20, classes=0))
    assert [line.split(":")[0] for line in said] == left
    said, _ = prepare(run, images(tmp_path / "each.npz", 40, classes=40))
    assert "no class of the 8 labelled test examples has one in train" in said[0]
    for asked in ("knn", "low_label", "projection"):
        with pytest.raises(ValueError, match=asked):
            prepare(run, f"npz:{tmp_path / 'one.npz'}", [asked])
    with pytest.raises(ValueError, match=r"nothing can be measured on npz:.*geometry needs 2 or more examples"):
        prepare(run, images(tmp_path / "least.npz", 9, classes=0, test=1))


@pytest.mark.slow
def test_names_that_cannot_be_shown(colour, pictures, tmp_path, capfd):
    """Folders with names that are no UTF-8, mathematics, or lines: to the report, the log and evaluation.json."""
    root = os.fsencode(tmp_path / "data") + b"\xff"
    for name in (b"a_$1", b"caf\xe9\n", rb"\frac"):
        os.makedirs(os.path.join(root, name))
        for i in range(14):
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
            with open(os.path.join(root, name, b"%d \xe9.png" % i), "wb") as file:
                Image.fromarray(pixels).save(file, "png")
    arguments = ["--workdir", str(colour), f"--source=folder:{os.fsdecode(root)}", "--evals=knn", "--eval.knn.k=3"]
    assert evaluate.main([*arguments, "--outdir", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["missing"] == {}
    assert found["provenance"]["evaluated_on"] == f"folder:{os.fsdecode(root)}"
    assert r"data\xff" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_accuracy_remembers_its_hits():
    value = evals.Accuracy([True, False, True, True])
    assert value == 0.75
    assert f"{value:.2f}" == "0.75"
    np.testing.assert_array_equal(value.hits, [True, False, True, True])


def test_no_flips_where_the_run_had_none():
    assert plain_recipe("digits") == "supervised_no_flip"
    assert plain_recipe("simclr_cifar") == "supervised"
