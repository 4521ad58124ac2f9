"""The loop as its user meets it: what a run leaves behind, what a kill costs (nothing), what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import runs
from PIL import Image

import ssl_jax
from experiments import pretrain
from ssl_jax import train
from ssl_jax.evals.shared import canvas
from ssl_jax.experiment import build
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.online import progress
from ssl_jax.run import checkpoint, processes, signals
from ssl_jax.run.folder import lock
from ssl_jax.run.writer import read_metrics
from ssl_jax.types import LossOut

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def standard_promotion():
    # optax's schedules and user code run under JAX's own default here, as they do outside the tests
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run of each method: {method: (workdir, summary)}."""
    found = {}

    def get(method):
        if method not in found:
            workdir = tmp_path_factory.mktemp(method)
            found[method] = workdir, runs.fit(workdir, method, pictures=method == "simclr")
        return found[method]

    return get


def test_more_neighbours_than_there_are_examples_are_refused_only_where_they_were_asked_for(tmp_path):
    config = runs.config(eval__knn_k=200, eval__online_bank=40)
    (said,) = [note for note in build(config).notes if "knn_k" in note]
    assert said == "eval.knn_k=200 is larger than the bank of 40 examples, which are all taken as neighbours"
    with pytest.raises(ValueError, match=r"eval\.knn_k=200 is larger than the bank of 40 examples; lower it"):
        build(config, asked=["seed=1", "eval.knn_k=200"])
    config.eval.knn_k = 40
    assert not [note for note in build(config, asked=["eval.knn_k=40"]).notes if "knn_k" in note]


def lines(workdir):
    return read_metrics(Path(workdir) / "metrics.jsonl")


def test_a_run_leaves_what_scripts_rely_on(finished):
    workdir, summary = finished("simclr")
    assert {"config.json", "metrics.jsonl", "summary.json", "checkpoints", "figures"} <= set(os.listdir(workdir))
    assert summary == json.loads((workdir / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["collapsed"] is False
    assert 0 < summary["test_knn_top1"] <= 1
    assert 0 < summary["test_probe_top1"] <= 1
    assert re.fullmatch("[0-9a-f]{64}", summary["params_fingerprint"])
    assert {"curves.png", "views.png", "neighbours.png"} <= {p.name for p in (workdir / "figures").iterdir()}

    logged = lines(workdir)
    assert [line["step"] for line in logged] == list(range(2, 21, 2))
    assert {"train_loss", "images_per_sec", "train_effective_rank", "learning_rate"} <= set(logged[0])
    assert [line["step"] for line in logged if "val_knn_top1" in line] == [8, 16, 20]
    assert logged[-1]["train_loss"] < logged[0]["train_loss"]

    stored = json.loads((workdir / "config.json").read_text())
    assert stored["config"]["method"]["temperature"] == 0.2
    resolved = stored["resolved"]
    assert resolved["devices"] == 1
    assert resolved["plan"]["total_steps"] == 20
    assert resolved["versions"]["jax"] == jax.__version__
    assert resolved["data"]["sizes"] == {"train": 160, "val": 144, "test": 359}


def test_a_finished_run_is_not_run_again(finished):
    workdir, summary = finished("simclr")
    before = (workdir / "metrics.jsonl").read_bytes()
    assert runs.fit(workdir, "simclr") == summary
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_whose_files_are_damaged_measures_again(finished, tmp_path, capfd):
    workdir, summary = finished("simclr")
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "summary.json").write_text('{"test_knn_top1": 0.5, "test_pr')
    (copy / "metrics.jsonl").unlink()
    shutil.rmtree(copy / "figures")
    again = runs.fit(copy, "simclr", pictures=True)
    assert again == json.loads((copy / "summary.json").read_text())
    memory = {"peak_memory": again["peak_memory"]}  # of the process that measured, this time
    assert again == summary | memory
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(said) == 3
    assert "metrics.jsonl is damaged: what was logged of steps 1 to 20 is missing" in said[0]
    assert f"{copy / 'summary.json'} is damaged" in said[1]
    assert said[2].startswith("WARNING: figures/curves could not be drawn: no metric to draw")
    assert {p.name for p in (copy / "figures").iterdir()} == {"views.png", "neighbours.png"}


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(finished, tmp_path):
    workdir, _ = finished("simclr")
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "checkpoints").rename(tmp_path / "unmounted")
    with pytest.warns(UserWarning, match="holds no checkpoint of the finished run; its summary is shown"):
        runs.fit(copy, "simclr")
    (copy / "summary.json").unlink()
    (copy / "checkpoints").mkdir()
    before = sizes_and_times(copy)
    with pytest.raises(train.Refused, match=r"has written checkpoints and \S+ holds none \(.+\); bring them back, or"):
        runs.fit(copy, "simclr")
    assert sizes_and_times(copy) == before


def sizes_and_times(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.slow
def test_the_same_command_gives_the_same_bits_and_pictures_from_the_first_step_on(
    finished, tmp_path, monkeypatch, capfd
):
    """Pictures cost no bit: views at first, curves and neighbours at each evaluation; a broken one is named alone."""
    _, summary = finished("simclr")
    seen = {}
    folder = tmp_path / "run" / "figures"
    opening = train.open_writer

    def watched(*arguments, **keywords):
        writer = opening(*arguments, **keywords)

        def log(number, metrics):
            writer.log(number, metrics)
            seen[number] = {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.png")}

        return writer._replace(log=log)

    def broken(*_, **__):
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(train, "open_writer", watched)
    monkeypatch.setattr(train.measure, "DRAWING", 0)
    monkeypatch.setattr(canvas, "save", small_picture)  # the real ones are those of ``finished``
    phases = []

    def thread(target, name, daemon):
        phases.append(name.removeprefix("progress of "))
        return SimpleNamespace(start=lambda: None, join=lambda: None)

    monkeypatch.setattr(progress, "threading", SimpleNamespace(Thread=thread, Event=threading.Event))
    monkeypatch.setattr(progress, "FIRST", 5.0)
    again = runs.fit(tmp_path / "run", "simclr", pictures=True)
    assert list(dict.fromkeys(phases)) == [
        "looking through digits",
        "compiling the initial state",
        "drawing views",
        "reading the first batches",
        "compiling the train step",
        "making the first step",
        "saving the checkpoint of step 5",
        "measuring on validation data",
        "encoding",
        "compiling the encoder",
        "comparing with the bank",
        "saving the checkpoint of step 8",
        "drawing curves",
        "drawing neighbours",
        "saving the checkpoint of step 10",
        "saving the checkpoint of step 15",
        "saving the checkpoint of step 16",
        "saving the checkpoint of step 20",
        "writing the last checkpoint",
        "measuring once on test",
    ]
    assert again["params_fingerprint"] == summary["params_fingerprint"]
    assert set(seen[2]) == set(seen[8]) == {"views"}
    assert set(seen[10]) == {"views", "curves", "neighbours"}  # after the evaluation of step 8
    assert seen[18]["curves"] > seen[10]["curves"]
    assert seen[18]["neighbours"] > seen[10]["neighbours"]
    assert seen[20]["views"] == seen[2]["views"]
    assert "WARNING" not in capfd.readouterr().err

    shutil.rmtree(folder)
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr(train.measure.figures, "neighbours", broken)
    third = runs.fit(tmp_path / "run", "simclr", pictures=True)
    assert third == summary | {k: again[k] for k in TIMES} | {"peak_memory": third["peak_memory"]}  # of the process
    assert capfd.readouterr().err.count("WARNING: figures/neighbours could not be drawn: no font\n") == 1
    assert {path.stem for path in folder.glob("*.png")} == {"views", "curves"}


def small_picture(figure, path, bottom=0, title=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(runs.PIXEL)


TIMES = ("seconds", "images_per_sec", "input_wait")


@pytest.mark.slow
def test_another_seed_gives_other_bits(finished, tmp_path):
    other = runs.fit(tmp_path, "simclr", seed=1, train__eval_every=0)
    assert other["params_fingerprint"] != finished("simclr")[1]["params_fingerprint"]


@pytest.mark.slow
def test_a_run_that_measures_nothing_ends_in_the_same_bits(finished, tmp_path):
    """Frozen evaluation changes nothing: parameters, statistics and method state are those of a run measured less."""
    _, summary = finished("simclr")
    blind = runs.fit(tmp_path / "blind", "simclr", train__eval_every=0, train__checkpoint_every=0)
    assert blind["params_fingerprint"] == summary["params_fingerprint"]


@pytest.mark.slow
def test_a_run_without_a_probe_is_the_same_run(finished, tmp_path):
    """Its step is another program, which XLA may round otherwise; ``test_methods.py`` compares in float64."""
    workdir, _ = finished("byol")
    bare = runs.fit(tmp_path, "byol", train__eval_every=0, eval__probe=False)
    assert bare["test_probe_top1"] is None
    for with_probe, without in zip(lines(workdir), lines(tmp_path), strict=True):
        for name in ("train_loss", "train_grad_norm", "train_effective_rank"):
            assert without[name] == pytest.approx(with_probe[name], rel=1e-3)


@pytest.mark.slow
def test_killed_and_started_again_is_the_uninterrupted_run_bit_for_bit(tmp_path):
    """Augmented on the host, at a known moment; ``test_faults.py`` kills at others, and other methods."""
    method, host = "moco", {"data__augment": "host"}
    workdir, killed = tmp_path / "whole", tmp_path / method
    summary = runs.fit(workdir, method, **host)
    script = [sys.executable, runs.__file__, method, str(killed), "13", "data__augment=host"]  # SIGKILLs itself
    process = subprocess.run(script, stderr=subprocess.PIPE, text=True, timeout=600, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    at = checkpoint.latest(killed)
    assert at in (8, 10)  # the save of step 10 runs beside the steps and may or may not have ended
    assert lines(killed)[-1]["step"] == 12

    resumed = runs.fit(killed, method, **host)
    assert resumed["params_fingerprint"] == summary["params_fingerprint"]
    the_same(workdir, killed)
    assert json.loads((killed / "config.json").read_text())["resumed"][0]["step"] == at


def the_same(workdir, killed):
    """Variables and log, but for what the clock says."""
    want, _ = checkpoint.restore_variables(workdir)
    got, _ = checkpoint.restore_variables(killed)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_array_equal(a, b)
    timing = {"images_per_sec", "input_wait"}
    assert [{k: v for k, v in line.items() if k not in timing} for line in lines(killed)] == [
        {k: v for k, v in line.items() if k not in timing} for line in lines(workdir)
    ]


@pytest.mark.slow  # `test_other_data.py` kills a run in `make test`
def test_augmented_on_the_device_without_tensorflow_killed_and_resumed(finished, tmp_path):
    """Bit for bit; and no step of it needs TensorFlow where images have their size already."""
    workdir, summary = finished("simclr")
    logged = lines(workdir)
    assert logged[-1]["train_loss"] < logged[0]["train_loss"]
    arguments = [runs.__file__, "simclr", str(tmp_path / "killed"), "13"]
    code = (
        f"import runpy, sys; sys.modules['tensorflow'] = None; sys.path.insert(0, {str(runs.ROOT / 'tests')!r}); "
        f"sys.argv = {arguments!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=600, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    at = checkpoint.latest(tmp_path / "killed")
    assert at in (8, 10)  # the save of step 10 runs beside the steps and may or may not have ended
    assert lines(tmp_path / "killed")[-1]["step"] == 12
    resumed = runs.fit(tmp_path / "killed", "simclr")
    assert resumed["params_fingerprint"] == summary["params_fingerprint"]
    the_same(workdir, tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "config.json").read_text())["resumed"][0]["step"] == at


def command(workdir, *arguments):
    script = runs.ROOT / "experiments" / "pretrain.py"
    small = ["--config.train.steps=4000", "--config.train.eval_every=0", "--config.train.log_every=5"]
    small += ["--config.model.widths=(8,16)", "--config.data.image_size=8", "--config.method.projector_dim=16"]
    return [sys.executable, str(script), "--workdir", str(workdir), *small, *arguments]


@pytest.mark.slow
def test_interrupted_saves_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(command(tmp_path / "run"), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    says_how_to_go_on(errors, tmp_path / "run")


def says_how_to_go_on(errors, workdir):
    last = errors.strip().splitlines()[-1]
    saved = checkpoint.latest(workdir)
    assert f"after step {saved}; saved" in last
    assert str(workdir) in last
    assert "Traceback" not in errors
    assert lines(workdir)[-1]["step"] <= saved


def test_ctrl_c_does_so_too(tmp_path, monkeypatch, capfd):
    """The same command in this process, stopped once it has logged step 6."""
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    monkeypatch.setattr(train, "open_writer", stopping(6, signal.SIGINT))
    (tmp_path / "tiny.py").write_text("import runs\n\n\ndef get_config():\n    return runs.config()\n")
    with runs.no_pictures():
        code = pretrain.main(["--config", str(tmp_path / "tiny.py"), "--workdir", str(tmp_path / "run")])
    assert code == 130
    says_how_to_go_on(capfd.readouterr().err, tmp_path / "run")


def test_another_config_is_refused_naming_the_keys(finished):
    workdir, _ = finished("simclr")
    with pytest.raises(train.Refused, match=r"optim.learning_rate \(0.2 there, 0.3 here\)"):
        runs.fit(workdir, "simclr", optim__learning_rate=0.3)
    with pytest.raises(train.Refused, match="init_from="):
        runs.fit(workdir, "simclr", train__steps=40)


@pytest.mark.slow
def test_what_a_resumption_may_change_is_recorded(tmp_path):
    with pytest.raises(signals.Interrupted):
        interrupted_after(6, tmp_path)
    summary = runs.fit(tmp_path, "simclr", train__log_every=5, parallel__mode="pmap", parallel__devices=2)
    assert summary["steps"] == 20
    resumption = json.loads((tmp_path / "config.json").read_text())["resumed"][0]
    changed = {"parallel.devices": [1, 2], "parallel.mode": ["jit", "pmap"], "train.log_every": [2, 5]}
    assert resumption["changed"] == changed
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == sorted(set(steps))


def interrupted_after(step, workdir):
    """A run that is sent SIGTERM once it has logged ``step``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_writer", stopping(step, signal.SIGTERM))
        runs.fit(workdir, "simclr")


def stopping(step, signum):
    """``train.open_writer``, which sends its own process the signal once it has logged ``step``."""
    original = train.open_writer

    def opening(*arguments, **keywords):
        writer = original(*arguments, **keywords)

        def log(number, metrics):
            writer.log(number, metrics)
            if number == step:
                os.kill(os.getpid(), signum)

        return writer._replace(log=log)

    return opening


def test_two_runs_on_one_folder_the_second_is_refused(tmp_path):
    with lock(tmp_path), pytest.raises(train.Refused, match="another"):
        runs.fit(tmp_path, "simclr")


@pytest.mark.slow
def test_not_a_number_stops_the_run_and_no_later_state_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(train.nonfinite, "explain", lambda *_, **__: "why")  # which test_faults.py looks at
    broken = {"optim__learning_rate": 1e30, "optim__scale": "none", "optim__warmup_epochs": 0.0}
    broken |= {"train__steps": 6, "train__eval_every": 0, "train__checkpoint_every": 1}
    with pytest.raises(train.NotFinite, match=r"step \d+ was not finite"):
        runs.fit(tmp_path / "stop", "simclr", **broken)
    *_, bad = lines(tmp_path / "stop")
    assert bad["train_loss"] is None
    assert (checkpoint.latest(tmp_path / "stop") or 0) < bad["step"]
    assert not (tmp_path / "stop" / "summary.json").exists()

    summary = runs.fit(tmp_path / "skip", "simclr", train__on_nonfinite="skip", **broken)
    assert summary["steps"] == 6
    kept, _ = checkpoint.restore_variables(tmp_path / "skip")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept["params"]))


def collapsing(method):
    """The method with its loss replaced by bare attraction to the mean: nothing holds the projections apart."""

    def loss(variables, batch, key, step, axis):
        _, out = method.loss(variables, batch, key, step, axis)
        z = l2_normalize(out.outputs["projections"])
        return 100 * ((z - z.mean(0, keepdims=True)) ** 2).sum(-1).mean(), LossOut(
            out.model_state, metrics={}, outputs={**out.outputs, "projections": z}
        )

    return method._replace(loss=loss)


def test_a_forced_collapse_is_reported_and_a_healthy_run_is_not(finished, tmp_path, capfd):
    assert finished("simclr")[1]["collapsed"] is False
    experiment = build(runs.config("byol", optim__learning_rate=1.0, train__eval_every=0))
    with runs.no_pictures():
        summary = train.fit(experiment._replace(method=collapsing(experiment.method)), tmp_path, test=False)
    assert summary["collapsed"] is True
    printed = capfd.readouterr()
    assert (printed.err + printed.out).count("WARNING") == 1
    assert lines(tmp_path)[-1]["train_proj_std_ratio"] < 0.2


def test_load_gives_features_of_images_of_any_size(finished):
    workdir, _ = finished("simclr")
    variables, encode, config = ssl_jax.load(workdir)
    assert config.method.name == "simclr"
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    features = encode(variables, images)["features"]
    assert features.shape == (5, 16)
    np.testing.assert_allclose(encode(variables, images / np.float32(255))["features"], features, atol=1e-5)
    larger = np.random.default_rng(1).integers(0, 256, (2, 19, 23, 1), np.uint8)
    resized = [Image.fromarray(i[..., 0].astype(np.float32)).resize((8, 8), Image.Resampling.BILINEAR) for i in larger]
    by_pillow = np.stack([np.asarray(i) for i in resized])[..., None] / np.float32(255)
    np.testing.assert_allclose(
        encode(variables, larger)["features"], encode(variables, by_pillow)["features"], rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="3 channel"):
        encode(variables, images.repeat(3, 3))
    with pytest.raises(ValueError, match="uint8 or floats in"):
        encode(variables, images.astype(np.float32))


@pytest.mark.parametrize("other", ["runs/a", None])
def test_another_init_from_is_another_run(other):
    from ssl_jax import configs

    stored = configs.flatten(runs.config()) | {"init_from": "runs/b"}
    refused, free = configs.differences(stored, stored | {"init_from": other})
    assert (refused, free) == ({"init_from": ("runs/b", other)}, {})


@pytest.mark.slow
def test_init_from_takes_the_encoder_and_nothing_else(finished, tmp_path):
    workdir, _ = finished("simclr")
    source, _ = checkpoint.restore_variables(workdir)
    runs.fit(tmp_path / "tuned", "supervised", init_from=str(workdir), train__steps=1, optim__learning_rate=1e-12)
    tuned, _ = checkpoint.restore_variables(tmp_path / "tuned")
    for a, b in zip(
        jax.tree.leaves(source["params"]["encoder"]), jax.tree.leaves(tuned["params"]["encoder"]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert set(tuned["params"]) == {"encoder", "classifier"}
    with pytest.raises(train.Refused, match="another architecture"):
        runs.fit(tmp_path / "wide", "supervised", init_from=str(workdir), model__widths=(8, 32))
    with pytest.raises(train.Refused, match="holds no run"):
        runs.fit(tmp_path / "none", "supervised", init_from=str(tmp_path / "nothing"))


@pytest.mark.slow
def test_a_run_without_labels_measures_what_it_can(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", train_images=images)
    short = {"train__steps": 2, "train__eval_every": 2, "data__num_examples": None, "pictures": True}
    summary = runs.fit(tmp_path / "run", "simclr", data__source=f"npz:{tmp_path / 'mine.npz'}", **short)
    assert summary["test_knn_top1"] is None
    assert summary["test_probe_top1"] is None
    why = "no training example has a label: there is no train_labels in mine.npz"
    why += "; " + why.replace("no training", "no test")
    assert summary["not_measured"] == {"test_knn_top1": why, "test_probe_top1": why}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["not_measured"] == summary["not_measured"]
    pretrain.report(summary, tmp_path / "run")
    assert f"  test_knn_top1    not measured ({why})\n" in capsys.readouterr().out
    assert all(line.get("val_knn_top1") is None for line in lines(tmp_path / "run"))
    assert (tmp_path / "run" / "figures" / "views.png").is_file()
