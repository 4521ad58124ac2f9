"""The table of every method: gains over the untrained network of the same seed, and rows that stay."""

from __future__ import annotations

import json
import sys

import pytest
import runs

sys.path.insert(0, str(runs.ROOT / "experiments"))
import pretext_table


def write(out, row, seed, knn, linear, **more):
    found = {"row": row, "seed": seed, "task_accuracy": None, "collapsed": False, "encoder_mflop": 12.0}
    found |= {"knn": {"features": knn, "stem": 0.1}, "linear": {"features": linear, "stem": 0.2}}
    found |= {"seconds": 60.0, "processor_seconds": 30.0, "cpu": "x", "cores": 2, "device_kind": "cpu", "commit": "c"}
    (out / "runs").mkdir(exist_ok=True, parents=True)
    (out / "runs" / f"{row}_{seed}.json").write_text(json.dumps(found | more))


def test_a_gain_is_over_the_untrained_network_of_the_same_seed(tmp_path):
    for seed, (before, after) in enumerate([(0.20, 0.30), (0.30, 0.46)]):
        write(tmp_path, "random", seed, before, 0.5)
        write(tmp_path, "simclr", seed, after, 0.6)
    write(tmp_path, "simclr", 7, 0.9, 0.9)  # of this seed nobody measured the untrained one
    lines = {line.split(" ")[1]: line for line in pretext_table.write_table(tmp_path).splitlines()[2:]}
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["simclr"]["knn_gain"] == pytest.approx([0.13, 0.03 * 2**0.5])
    assert found["random"]["knn_gain"] is None
    assert "| +13.0 ± 4.2 | 70.0 ± 17.3 | +10.0 ± 0.0 | 10 | 20 | 0.5 | 3 |" in lines["simclr"]


def test_a_network_of_its_own_is_its_own_baseline_and_is_named(tmp_path):
    own = {"untrained": {"knn": {"features": 0.25}, "linear": {"features": 0.5}}, "config": {"model.name": "vit"}}
    write(tmp_path, "mae", 0, 0.5, 0.7, **own)
    write(tmp_path, "random_vit", 0, 0.1, 0.1)
    assert "| mae (vit) | 50.0 | +25.0 | 70.0 | +20.0 |" in pretext_table.write_table(tmp_path)


def test_rows_without_runs_here_stay(tmp_path):
    write(tmp_path, "byol", 0, 0.5, 0.5)
    write(tmp_path, "moco", 0, 0.5, 0.5)
    before = pretext_table.write_table(tmp_path).splitlines()
    (tmp_path / "runs" / "byol_0.json").unlink()
    write(tmp_path, "moco", 0, 0.75, 0.5)
    write(tmp_path, "simclr", 0, 0.6, 0.6)
    after = pretext_table.write_table(tmp_path).splitlines()
    assert before[2] in after  # BYOL's
    assert [line.split(" ")[1] for line in after[2:]] == ["simclr", "byol", "moco"]  # in the order of ROWS
    assert "| moco | 75.0 |" in after[4]
