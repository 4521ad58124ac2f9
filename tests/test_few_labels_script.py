"""``experiments/few_labels.py``: a method against supervised training on the same labels."""

from __future__ import annotations

import json

import pytest
import runs

from experiments import few_labels as command
from ssl_jax.run import processes

CONFIG = """
import sys
sys.path.insert(0, "tests")
import runs

def get_config():
    config = runs.config("supervised", data__augment="device", data__recipe="runs:TWO_PARTS", eval__knn=False)
    config.method.update({"name": "uda"})
    config.data.update({"labelled": 20, "ratio": 2, "global_batch_size": 8})
    config.train.update({"steps": 2, "eval_every": 2, "checkpoint_every": 2})
    return config
"""


def test_the_table_is_of_pairs():
    runs = [
        {"labelled": 20, "seed": s, "supervised": {"test_top1": 0.5 + s / 10}, "method": {"test_top1": 0.7 + s / 10}}
        for s in range(3)
    ]
    found = command.table(runs, 20, ("supervised", "method"))
    assert (found["seeds"], found["supervised"]["text"], found["method"]["text"]) == (
        [0, 1, 2],
        "60.0 ± 10.0",
        "80.0 ± 10.0",
    )
    assert found["paired"]["text"] == "+20.0 ± 0.0"
    assert command.table(runs[:1], 20, ("supervised", "method"))["paired"]["spread"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "data.labelled=none"], "the config gives all labels; say how many with --labelled"),
        (["--set", "train.steps=none"], "the config counts epochs"),
        (["--config.train.steps=none"], "the config counts epochs"),
        (["--labelled", "3"], "data.labelled=3 gives some of the 10 classes no label"),
    ],
)
def test_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    (tmp_path / "config.py").write_text(CONFIG)
    code = command.main(["--config", str(tmp_path / "config.py"), "--out", str(tmp_path / "out"), *words])
    assert code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_both_runs_see_the_same_labels_and_a_second_command_reads_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    (tmp_path / "config.py").write_text(CONFIG)
    words = ["--config", str(tmp_path / "config.py"), "--out", str(tmp_path / "out"), "--seeds"]
    with runs.no_pictures():
        assert command.main([*words, "0"]) == 0, capsys.readouterr().err
        assert command.main([*words, "0", "1"]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "few_labels.json").read_text())
    assert [entry["seed"] for entry in found["runs"]] == [0, 1]
    records = [
        json.loads((tmp_path / "out" / f"{row}-20-seed{seed}" / "config.json").read_text())["resolved"]["data"]
        for seed in (0, 1)
        for row in ("supervised", "method")
    ]
    assert records[0] == records[1] != records[2] == records[3]
    assert "| 20 |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_start_is_of_the_second_row_alone_and_a_folder_holds_one_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    text = CONFIG.replace('"name": "uda"', '"name": "supervised"').replace("runs:TWO_PARTS", "runs:VIEWS")
    (tmp_path / "config.py").write_text(text.replace('"ratio": 2, ', ""))
    words = ["--config", str(tmp_path / "config.py"), "--out", str(tmp_path / "out"), "--seeds", "0"]
    with runs.no_pictures():
        runs.fit(tmp_path / "start", "simclr", train__steps=2, train__eval_every=0)
        start = [*words, "--start", str(tmp_path / "start"), "--set_second", "method.layer_decay=0.5"]
        assert command.main(start) == 0, capsys.readouterr().err
    assert "| labels | scratch | pretrained | difference |" in capsys.readouterr().out
    for row, given, decay in (("scratch", None, 1.0), ("pretrained", str(tmp_path / "start"), 0.5)):
        stored = json.loads((tmp_path / "out" / f"{row}-20-seed0" / "config.json").read_text())["config"]
        assert (stored["init_from"], stored["method"].get("layer_decay", 1.0)) == (given, decay)
    (entry,) = json.loads((tmp_path / "out" / "few_labels.json").read_text())["runs"]
    assert entry["set_second"] == ["method.layer_decay=0.5"]
    assert entry["scratch"]["params_fingerprint"] != entry["pretrained"]["params_fingerprint"]
    assert command.main(words) == 2
    assert "holds another comparison than supervised and method; give another --out" in capsys.readouterr().err
