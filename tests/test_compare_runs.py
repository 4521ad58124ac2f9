"""Runs beside each other: rows by the keys that differ, seeds as one row, curves; sweeps choose on validation."""

from __future__ import annotations

import importlib
import json
import statistics
from unittest import mock

import pytest

from ssl_jax.evals.shared import curves
from ssl_jax.run import several

compare_runs, sweep = (importlib.import_module(f"experiments.{name}") for name in ("compare_runs", "sweep"))


@pytest.fixture
def made(tmp_path):
    """Folders of runs as a finished run leaves them, without what trains them."""

    def make(name, *, changes=None, seed=0, val=0.5, test="1", finished=True):
        config = {"seed": seed, "method": {"name": "simclr"}, "optim": {"learning_rate": 0.1}, "data": {"source": "x"}}
        for key, value in (changes or {}).items():
            part, _, word = key.partition(".")
            config.setdefault(part, {})
            config[part] = config[part] | {word: value} if word else value
        data = {"sizes": {"val": 20, "test": 30}, "fingerprints": {"val": "v", "test": test}}
        resolved = {"plan": {"steps_per_epoch": 5}, "data": data, "commit": "c", "cpu": "x", "cores": 2}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"config": config, "resolved": resolved}))
        lines = [{"step": 4, "line": 1, "train_loss": 2.0}, {"step": 5, "line": 2, "val_knn_top1": val - 0.2}]
        lines += [{"step": 10, "line": 3, "val_knn_top1": val, "val_probe_top1": None}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if finished:
            summary = {"steps": 10, "seconds": 60, "test_knn_top1": val + 0.1, "test_probe_top1": None}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


def test_rows_are_called_by_the_keys_that_differ_and_seeds_are_one_row(made):
    values = {(0.1, 0): 0.5, (0.1, 1): 0.6, (0.1, 2): 0.55, (0.2, 0): 0.7}
    runs = [
        several.read(made(f"{rate}-{seed}", changes={"optim.learning_rate": rate}, seed=seed, val=value))
        for (rate, seed), value in values.items()
    ]
    table = several.scores(several.rows(runs), "val")
    assert [row["row"] for row in table] == ["learning_rate=0.1", "learning_rate=0.2"]
    first = table[0]["scores"]["knn_top1"]
    assert first["mean"] == pytest.approx(0.55)
    assert first["spread"] == pytest.approx(statistics.stdev([0.5, 0.6, 0.55]))
    assert table[1]["scores"]["knn_top1"]["spread"] is None
    shown = several.markdown(table, "val", best="learning_rate=0.2").splitlines()
    assert shown[0] == "| run | seeds | val knn_top1 | epochs | minutes |"
    assert shown[2:] == [
        "| learning_rate=0.1 | 3 | 0.550 ± 0.050 | 2 | 1 |",
        "| **learning_rate=0.2** | 1 | 0.700 | 2 | 1 |",
    ]
    lines = several.curves(several.rows(runs))["val_knn_top1"]["learning_rate=0.1"]
    assert lines[0] == ([1.0, 2.0], [pytest.approx(0.3), 0.5])
    assert len(lines) == 3


def test_methods_come_first_and_are_told_apart_among_themselves(made):
    changes = [{}, {"optim.learning_rate": 0.4}, {"method.name": "byol", "optim.learning_rate": 0.4}]
    runs = [several.read(made(str(n), changes=change)) for n, change in enumerate(changes)]
    names = [row.name for row in several.rows(runs)]
    assert names == ["simclr, learning_rate=0.1", "simclr, learning_rate=0.4", "byol"]


def test_keys_that_cannot_matter_tell_no_rows_apart(made):
    changes = [{}, {"train": {"loggers": ["wandb"], "log_every": 5}, "parallel": {"fsdp": 2}}]
    changes += [{"eval": {"label_efficiency": True}, "data.table_limit": 7}]
    runs = [several.read(made(f"a{n}", changes=change, seed=n)) for n, change in enumerate(changes)]
    (row,) = several.rows(runs)
    assert (row.name, len(row.runs)) == ("simclr", 3)
    moved = [several.read(made(f"b{n}", changes={"data.source": f"folder:/{n}/d"}, seed=n)) for n in range(2)]
    assert [row.name for row in several.rows(moved)] == ["simclr"]  # the same data at another place
    other = several.read(made("c", changes={"data.source": "folder:/2/d"}, test="2", seed=2))
    assert [len(row.runs) for row in several.rows([*moved, other])] == [2, 1]
    for n, key in enumerate(("parallel.matmul_precision", "eval.knn_k")):
        part, _, word = key.partition(".")
        told = [several.read(made(f"d{n}{v}", changes={part: {word: v}})) for v in ("x", "y")]
        assert [row.name for row in several.rows(told)] == [f"{word}=x", f"{word}=y"]
    start = {"optim.average_after": 3, "train": {"eval_every": 9}}
    late = [several.read(made(f"e{n}", changes=start | {"train": {"eval_every": n}})) for n in (5, 9)]
    assert [row.name for row in several.rows(late)] == ["eval_every=5", "eval_every=9"]


def test_files_among_folders_are_passed_over_and_counted(made, tmp_path, capsys):
    given = [str(made("a")), str(made("b", changes={"optim.learning_rate": 0.3}))]
    (tmp_path / "table.md").write_text("")
    with mock.patch.object(curves, "learning_curves") as drawn:
        assert compare_runs.main(["--runs", *given, str(tmp_path / "table.md"), "--out", str(tmp_path / "out")]) == 0
    assert drawn.call_args.args[2] == "simclr on x, 2 runs"
    shown = capsys.readouterr()
    assert f"1 that are no folder are passed over: {tmp_path}/table.md" in shown.err
    assert "learning_rate=0.3" in shown.out
    for wrong in ("table.md", "gone"):
        assert compare_runs.main(["--runs", str(tmp_path / wrong), "--out", str(tmp_path / "no")]) == 2
        assert "holds no run" in capsys.readouterr().err


def test_the_same_run_twice_is_two_rows(made):
    assert [row.name for row in several.rows([several.read(made(n)) for n in "ab"])] == ["simclr (a)", "simclr (b)"]


def test_a_run_under_way_is_compared_on_validation_alone(made, tmp_path, capsys):
    runs = [str(made("a")), str(made("b", changes={"optim.learning_rate": 0.3}, finished=False))]
    assert compare_runs.main(["--runs", *runs, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "| learning_rate=0.3 | 0.500 | 2 |  |" in shown
    assert f"not finished, its last measurement is shown: {runs[1]}" in shown
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    assert compare_runs.main(["--runs", *runs, "--out", str(tmp_path / "no"), "--split", "test"]) == 2
    assert "is not finished, so nothing of it is measured on test" in capsys.readouterr().err


def test_runs_on_other_data_are_refused_before_anything_is_written(made, tmp_path, capsys):
    given = [str(made("a")), str(made("b", test="2"))]
    assert compare_runs.main(["--runs", *given, "--out", str(tmp_path / "out"), "--split", "test"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{given[0]} and {given[1]} are not measured on the same test examples (30 and 30, of other "
                         "content); compare runs on the same data")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_grid_is_every_value_with_every_other():
    assert sweep.grid(["a=1,2", "b.c=(1,2),'x,y'"]) == [
        ["a=1", "b.c=(1,2)"],
        ["a=1", "b.c='x,y'"],
        ["a=2", "b.c=(1,2)"],
        ["a=2", "b.c='x,y'"],
    ]
    assert sweep.grid(["method.tsa=,log"]) == [["method.tsa="], ["method.tsa=log"]]  # an empty text is a value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--grid", "optim.learning_rate"], "'optim.learning_rate' has no value; write KEY=VALUE,VALUE"),
        (["--grid", "optim.learning_rate=.1,.1"], "has a value twice"),
        (["--grid", "optim.learning_rate=.1", "optim.learning_rate=.2"], "names optim.learning_rate twice"),
        (["--grid", "optim.learning_rat=.1,.2"], "did you mean --config.optim.learning_rate?"),
        (["--grid", "optim.learning_rate=.1,-1"], "optim.learning_rate=-1"),
        (["--grid", "seed=1", "--config.optim.momentum=-1"], "optim.momentum=-1"),
        (["--grid", "seed=1", "--set", "optim.momentum=-1", "--config.optim.momentum", "-2"], "optim.momentum=-2"),
        (
            ["--grid", "seed=1", "--conf.optim.momentum=1"],
            "known: --config, --grid, --seeds, --out, --set, --score, --",
        ),
        (["--grid", "optim.learning_rate=.1", "--seeds", "0"], "--seeds 0 is below 1"),
    ],
)
def test_a_sweep_is_refused_as_a_whole_before_its_first_run(given, said, tmp_path, capsys):
    arguments = ["--config", "configs/simclr_digits.py", "--out", str(tmp_path / "out"), *given]
    assert sweep.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_best_is_chosen_by_the_sign_of_its_score(made):
    runs = [
        several.read(made(n, changes={"optim.learning_rate": r}, val=v)) for n, r, v in (("a", 1, 0.3), ("b", 2, 0.6))
    ]
    table = several.scores(several.rows(runs), "val")
    assert sweep.chosen(table, None) == "learning_rate=2"
    for row in table:
        row["scores"]["perplexity"] = row["scores"]["knn_top1"]
    assert sweep.chosen(table, "val_perplexity") == "learning_rate=1"
    with pytest.raises(ValueError, match="--score top1 is not measured on validation; there are knn_top1, perplexity"):
        sweep.chosen(table, "top1")
