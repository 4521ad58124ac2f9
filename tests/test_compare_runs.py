"""Finished runs in one table: those that were not measured on the same examples are refused."""

from __future__ import annotations

import importlib
import json

import pytest

compare_runs = importlib.import_module("experiments.compare_runs")


@pytest.fixture
def runs(tmp_path):
    """Folders of runs that were measured on the test examples of that fingerprint."""

    def make(**fingerprints):
        for name, digest in fingerprints.items():
            data = {"sizes": {"test": 30}, "fingerprints": {"test": digest}}
            resolved = {"plan": {"steps_per_epoch": 5}, "data": data, "commit": "c", "cpu": "x", "cores": 2}
            config = {"seed": 1, "method": {"name": "simclr"}, "train": {"epochs": 200}}
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(json.dumps({"config": config, "resolved": resolved}))
            summary = {"steps": 4, "seconds": 60, "images_per_sec": 9, "test_knn_top1": 0.5, "test_probe_top1": None}
            (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        return [str(tmp_path / name) for name in fingerprints]

    return make


def test_runs_on_other_data_are_refused_before_anything_is_written(runs, tmp_path, capsys):
    given = runs(a="1", b="2")
    assert compare_runs.main(["--runs", *given, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{given[0]} and {given[1]} are not measured on the same test examples (30 and 30, of other "
                         "content); compare runs on the same data")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_rows_tell_runs_apart_and_epochs_are_those_that_were_run(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_runs, "baselines", lambda run, data_dir: [])
    monkeypatch.setattr(compare_runs, "draw", lambda given, path: None)
    assert compare_runs.main(["--runs", *runs(a="1", b="1"), "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "table.md").read_text().splitlines()[2:]
    assert table == [f"| simclr, seed 1 ({name}) | 0.500 |  | 0.8 | 1 | 9 |" for name in "ab"]
