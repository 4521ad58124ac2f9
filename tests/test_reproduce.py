"""Suites: rows that are configs, runs side by side, one table that mixes nothing and fills nothing in."""

from __future__ import annotations

import importlib
import json
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.suites import rows, table, workers
from ssl_jax import configs
from ssl_jax.run import provenance

reproduce = importlib.import_module("experiments.reproduce")

TOY = """
about = "Digits, seconds."
needs = "cpu"
cores = 1
set = [
    "train.steps=4",
    "train.log_every=1",
    "train.eval_every=2",
    "data.num_examples=200",
    "eval.label_efficiency=False",
]
evals = ["knn", "linear_probe"]
scores = ["test_knn_top1", "test_linear_top1", "test_loss"]

[[row]]
name = "fine"
config = "simclr_digits"
cost = "seconds"
published = [
    { score = "test_knn_top1", value = 60, source = "theirs" },
    { score = "test_x_top1", value = 1, source = "x" },
]

[[row]]
name = "broken"
config = "simclr_digits"
set = ["data.global_batch_size=100000"]
cost = "none"

[[row]]
name = "later"
config = "a_method_of_tomorrow"
cost = "a day"

[[row]]
name = "large"
config = "simclr_imagenet"
needs = "tpu"
cost = "a pod"
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "toy.toml").write_text(TOY)
    return rows.read(str(tmp_path / "toy.toml"))


@pytest.fixture
def made(tmp_path, suite):
    """Folders of runs as finished and evaluated ones leave them, without what trains them."""

    def make(seed, knn=0.5, *, row="fine", commit="c" * 40, evaluated_at=None):
        config = rows.config(suite.rows[0], seed, [])
        resolved = {"plan": {"steps_per_epoch": 2, "total_steps": 4}, "commit": commit, "cpu": "x", "cores": 2}
        resolved["data"] = {"sizes": {"test": 3}}
        place = tmp_path / "out" / "runs" / f"{row}-{seed}"
        (place / "evaluation").mkdir(parents=True)
        stored = {"config": json.loads(config.to_json_best_effort()), "resolved": resolved}
        (place / "config.json").write_text(json.dumps(stored))
        lines = [{"step": k, "line": k, "train_loss": 5.0 - k + seed / 10, "val_knn_top1": 0.3} for k in (1, 2, 3, 4)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = {"steps": 4, "seconds": 3000, "test_knn_top1": 0.1, "test_probe_top1": 0.2, "images_per_sec": 100.0}
        summary |= {"collapsed": seed == 2, "peak_memory": {"host": 3 << 30, "device": None}, "params_fingerprint": "f"}
        (place / "summary.json").write_text(json.dumps(summary))
        found = {"metrics": {"test_knn_top1": knn, "test_linear_top1": 0.6, "test_linear_top5": None}}
        found |= {"evaluators": {"knn": {}, "linear_probe": {}}}
        found["provenance"] = {"seconds": 600, "commit": evaluated_at or commit}
        (place / "evaluation" / "evaluation.json").write_text(json.dumps(found))
        return place

    return make


@pytest.mark.parametrize("name", rows.known())
def test_every_row_is_a_config_with_its_cost_and_sources(name):
    suite = rows.read(name)
    assert suite.rows
    for row in suite.rows:
        assert row.cost
        assert all(figure.source and figure.value > 0 for figure in row.published), row.name
        if rows.there_is(row) and not row.command:
            found = configs.flatten(rows.config(row, 3, []))
            assert found["seed"] == 3
            said = dict(change.split("=", 1) for change in row.set)  # of a key that is said twice the last
            for key, text in said.items():
                wanted = text if isinstance(found[key], str) else configs.literal(text)
                assert found[key] == (list(wanted) if isinstance(wanted, tuple) else wanted), (row.name, key)


def test_options_of_a_row_are_the_evaluators():
    row = next(row for row in rows.read("imagenet").rows if row.name == "dino_vit_s_100")
    train, measure = workers.commands(workers.Job(row, 0), Path("runs"), ["data.data_dir=d"])
    assert measure[-1] == "--eval.linear_probe.layers=features,cls_last4"
    assert not any("--eval." in word for word in train)
    assert row.published[0].score == "test_linear_top1_cls_last4"


def test_the_six_suites_are_there():
    assert set(rows.known()) >= {"cpu", "cifar10", "imagenette", "imagenet100", "imagenet", "text"}
    two_views = {"simclr", "byol", "moco", "simsiam", "barlow_twins", "vicreg", "swav", "dino", "moco_v3", "nnclr"}
    names = {row.name for row in rows.read("cifar10").rows}
    assert {f"{method}_200" for method in two_views} <= names
    assert all({f"{method}_800", f"{method}_published"} & names for method in two_views)


def test_a_table_has_mean_spread_and_difference_and_fills_nothing_in(made, suite, tmp_path):
    values = [0.50, 0.56, 0.58]
    for seed, value in enumerate(values):
        made(seed, value)
    out = tmp_path / "out"
    (out / "runs" / "fine-3.failed").write_text("exit code 1: no memory\n")
    (out / "runs" / "broken-0.failed").write_text("exit code 2: error: too large\n")
    text = table.write(suite, out, {"large": "it needs a TPU"}, [], False, "the command")
    content = json.loads((out / "table.json").read_text())
    (row,) = content["rows"]
    knn = row["scores"]["test_knn_top1"]
    assert knn["mean"] == pytest.approx(sum(values) / 3)
    assert knn["spread"] == pytest.approx(statistics.stdev(values))
    assert knn["values"] == values  # of the evaluation, not of the run's own end
    assert row["published"][0]["difference"] == pytest.approx(100 * sum(values) / 3 - 60)
    assert row["published"][1]["difference"] is None  # nobody measured it
    assert row["hours"] == pytest.approx(1.0)
    assert row["memory"] == 3 << 30
    assert row["config_hash"] == [provenance.config_hash(rows.config(suite.rows[0], 7, []))]  # whatever the seed
    assert content["commit"] == "c" * 40
    shown = next(line for line in text.splitlines() if line.startswith("| fine |"))
    cells = [cell.strip() for cell in shown.strip("|").split("|")]
    assert cells[:4] == ["fine", "3", "54.7 ± 4.2", "60.0 ± 0.0"]
    assert cells[4:9] == ["60 (test kNN)", "-5.3", "100 images", "1", "3.0 GiB"]
    assert "seed 3 failed: exit code 1: no memory" in text
    assert "1 of 3 seeds collapsed" in text
    assert {row["row"]: row["why"] for row in content["not_run"]} == {
        "broken": "seed 0 failed: exit code 2: error: too large",
        "later": "not yet",
        "large": "it needs a TPU",
    }
    assert "launch_pod.sh --tpu NAME" in text
    assert json.loads((out / "curves" / "fine.json").read_text())["seeds"] == [0, 1, 2]
    as_it_is = suite._replace(rows=(suite.rows[0]._replace(set=()),))
    table.write(as_it_is, out, {}, [], False, "")
    assert (out / "curves" / "simclr_digits.json").is_file()  # as pretrain --compare calls it


def test_a_change_of_every_row_is_a_try_without_comparison(made, suite, tmp_path):
    made(0)
    text = table.write(suite, tmp_path / "out", {}, ["data.data_dir=x", "train.epochs=1"], False, "")
    assert "**A try, not a result**: train.epochs=1 in every row." in text
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["rows"][0]["published"][0]["difference"] is None


def test_commits_are_not_mixed_and_changed_files_are_refused(made, suite, tmp_path):
    made(0)
    made(1, commit="d" * 40)
    with pytest.raises(ValueError, match=r"several commits .* \(cccccccccccc: fine-0; dddddddddddd: fine-1\)"):
        table.write(suite, tmp_path / "out", {}, [], True, "")


def test_a_run_that_was_evaluated_at_another_commit_is_refused(made, suite, tmp_path):
    made(0, evaluated_at="d" * 40)
    with pytest.raises(ValueError, match="several commits"):
        table.write(suite, tmp_path / "out", {}, [], True, "")


@pytest.mark.parametrize(("commit", "said"), [("c+", "files differ from commit c"), (None, "no checkout of git")])
def test_changed_files_are_no_result(made, suite, tmp_path, commit, said, monkeypatch, capsys):
    made(0, commit=commit)
    with pytest.raises(ValueError, match=said):
        table.write(suite, tmp_path / "out", {}, [], False, "")
    assert "made from files that no commit holds" in table.write(suite, tmp_path / "out", {}, [], True, "")
    monkeypatch.setattr(provenance, "commit", lambda: commit)
    arguments = ["--suite", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "new")]
    assert reproduce.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "cifar"], "did you mean 'cifar10'?"),
        (["--suite", "TOY", "--rows", "fine,none"], "--rows none is unknown; known: fine, broken, later, large"),
        (["--suite", "TOY", "--seeds", "0"], "--seeds 0 is below 1"),
        (["--suite", "TOY", "--config.optim.rate=1"], "did you mean --config.optim.learning_rate?"),
        (["--suite", "TOY", "--config.train.steps=5"], "is a run of another config (train.steps); give another --out"),
        (["--suite", "TOY"], "was made at commit cccccccccccc and this is eeeeeeeeeeee"),
    ],
)
def test_refusals(made, tmp_path, monkeypatch, capsys, words, said):
    made(0)
    monkeypatch.setattr(provenance, "commit", lambda: "e" * 40)
    words = [str(tmp_path / "toy.toml") if word == "TOY" else word for word in words]
    assert reproduce.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_what_is_done_is_skipped_and_failures_are_told(made, suite, tmp_path, monkeypatch, capsys):
    """No run is made here: what the processes would be is replaced by a word of Python each."""
    made(0)
    monkeypatch.setattr(provenance, "commit", lambda: "c" * 40)
    monkeypatch.setattr(workers, "here", lambda cores: ("cpu", [workers.Place(), workers.Place()]))
    begun = tmp_path / "begun"

    def commands(job, folder, changes):
        code = f"open({str(begun)!r}, 'a').write('{job.name}\\n'); "
        return [[sys.executable, "-c", code + ("raise SystemExit('it broke')" if job.row.name == "broken" else "")]]

    monkeypatch.setattr(workers, "commands", commands)
    words = ["--suite", str(tmp_path / "toy.toml"), "--seeds", "2", "--out", str(tmp_path / "out")]
    assert reproduce.main(words) == 1
    assert sorted(begun.read_text().split()) == ["broken-0", "broken-1", "fine-1"]
    said = capsys.readouterr()
    assert "2 runs failed: broken-0, broken-1" in said.err
    assert "exit code 1: it broke" in said.out
    why = {row["row"]: row["why"] for row in json.loads((tmp_path / "out" / "table.json").read_text())["not_run"]}
    assert why["later"] == "there is no config a_method_of_tomorrow yet"
    assert why["large"] == "it needs a TPU"


def test_every_place_has_one_process_and_its_own_cores(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    done = workers.subprocess.CompletedProcess([], 0, '["cpu", [0]]', "")
    monkeypatch.setattr(workers.subprocess, "run", lambda *a, **k: done)
    assert workers.here(2) == ("cpu", [workers.Place(cores=frozenset({0, 1})), workers.Place(cores=frozenset({2, 3}))])
    assert workers.here(8) == ("cpu", [workers.Place(cores=frozenset(range(5)))])
    done.stdout = '["gpu", [0, 1]]'
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place.environment for place in workers.here(2)[1]] == [
        {"CUDA_VISIBLE_DEVICES": "3"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    done.stdout = '["tpu", [0, 1, 2, 3]]'
    assert workers.here(2) == ("tpu", [workers.Place()])


def test_a_signal_reaches_the_runs_once_and_is_waited_for(suite, tmp_path, monkeypatch):
    code = "import signal, sys, time\n"
    code += "def stop(*_): print('saved', flush=True); sys.exit(130)\n"
    code += "signal.signal(signal.SIGINT, stop); print('begun', flush=True); time.sleep(60)"
    monkeypatch.setattr(workers, "commands", lambda job, folder, changes: [[sys.executable, "-c", code]])
    log = tmp_path / "runs" / "fine-0.log"

    def kill():
        while not (log.is_file() and "begun" in log.read_text()):
            time.sleep(0.02)
        signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(workers.Stopped) as stopped:
        workers.run([workers.Job(suite.rows[0], 0)] * 2, [workers.Place()], tmp_path, [], lambda: None)
    thread.join()
    assert stopped.value.args == (signal.SIGTERM,)
    assert log.read_text().split() == ["begun", "saved"]
    assert not (tmp_path / "runs" / "fine-0.failed").exists()


@pytest.mark.slow
def test_a_suite_from_end_to_end(suite, tmp_path):
    words = ["--suite", str(tmp_path / "toy.toml"), "--rows", "fine,broken", "--seeds", "2", "--dirty"]
    assert reproduce.main([*words, "--out", str(tmp_path / "out")]) == 1  # the broken ones
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    (row,) = content["rows"]
    assert row["seeds"] == [0, 1]
    assert {"test_knn_top1", "test_linear_top1", "test_probe_top1", "val_knn_top1"} <= set(row["scores"])
    assert row["memory"] > 100 << 20
    assert "100000" in content["not_run"][0]["why"]
    before = (tmp_path / "out" / "runs" / "fine-0" / "summary.json").stat().st_mtime_ns
    assert reproduce.main([*words, "--out", str(tmp_path / "out"), "--rows", "fine"]) == 0
    assert (tmp_path / "out" / "runs" / "fine-0" / "summary.json").stat().st_mtime_ns == before
