"""The duel: its table and curves of pairs, what it refuses, and, where lightly is, that first steps are the same."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import runs
from scipy import stats

sys.path.insert(0, str(runs.ROOT / "experiments"))
import duel
from benchmarks import duel_pair, duel_table, lightlies

from ssl_jax import methods
from ssl_jax.data.source import Splits, from_arrays
from ssl_jax.experiment import build

# Of DINO's four steps two have the last layer frozen, two do not.
SMALL = {"moco": ["method.queue_size=64"], "dino": ["method.freeze_last_layer=0.5", "method.out_dim=64"]}
MACHINE = {"commit": "c" * 40, "cpu": "x", "cores": 2, "versions": {"jax": "0.10"}, "peers": {"torch": "2.13.0"}}


def a_pair(seed, ours, theirs, apart=1e-13):
    data = {"num_examples": 100, "source": "s", "global_batch_size": 8}
    return {
        "config": {"method": {"name": "simclr"}, "seed": seed, "data": data},
        "first_steps": {"steps": 5, "loss": 1e-15, "gradients": apart, "losses": 1e-14, "weights": 1e-14},
        "epochs": [1.0, 2.0],
        "steps_per_epoch": 2,
        "val_knn_top1": {"ssl_jax": [0.1, 0.2], "lightly": [0.1, 0.3]},
        "test_knn_top1": {"ssl_jax": ours, "lightly": theirs},
        "losses": {"ssl_jax": [4.0, 3.0, 2.0, 1.0], "lightly": [4.0, 3.0, 3.0, 1.0]},
        "milliseconds": {"ssl_jax": [10.0, 10.0], "lightly": [20.0, 30.0]},
        "machine": MACHINE,
    }


def test_the_table_says_whether_sides_differ_beyond_the_seeds():
    near = [a_pair(0, 0.50, 0.51), a_pair(1, 0.54, 0.52), a_pair(2, 0.52, 0.53)]
    (row,) = duel_table.table(near)
    assert row["within"]
    assert row["p"] == pytest.approx(stats.ttest_rel([0.50, 0.54, 0.52], [0.51, 0.52, 0.53]).pvalue)
    assert (row["ratio"], row["ssl_jax"]["loss"], row["lightly"]["loss"]) == ([2.0, 3.0], 1.5, 2.0)
    text = duel_table.markdown([row], near)
    assert "| simclr | 3 | 0.520 ± 0.020 | 0.520 ± 0.010 |" in text
    assert "| yes |" in text
    far = [a_pair(0, 0.50, 0.60), a_pair(1, 0.54, 0.64), a_pair(2, 0.52, 0.63, apart=1e-3)]
    (row,) = duel_table.table(far)
    text = duel_table.markdown([row], far)
    assert "| **no** |" in text
    assert "**1e-03**" in text
    assert row["first_steps"] == 1e-3
    far[0]["first_steps"]["centre"] = 2e-3
    assert duel_table.table(far)[0]["first_steps"] == 2e-3
    (row,) = duel_table.table(near[:1])
    assert "one seed" in duel_table.markdown([row], near[:1])


def test_curves_are_by_epoch_and_side():
    drawn = duel_table.drawn([a_pair(0, 0.5, 0.5), a_pair(1, 0.5, 0.5)])
    assert drawn["simclr_loss"]["lightly"] == [([1.0, 2.0], [3.5, 2.0])] * 2
    assert drawn["simclr_val_knn_top1"]["ssl_jax"] == [([1.0, 2.0], [0.1, 0.2])] * 2


def test_what_cannot_be_is_refused(tmp_path, capsys, monkeypatch):
    out = ["--out", str(tmp_path)]
    assert duel.main([*out, "--methods", "rotation"]) == 2
    assert "no counterpart in lightly here" in capsys.readouterr().err
    assert duel.main([*out, "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err
    monkeypatch.setattr(lightlies, "available", lambda: "ImportError: no torch")
    assert duel.main(out) == 2
    assert "pip install '.[peers]'" in capsys.readouterr().err
    monkeypatch.setattr(lightlies, "available", lambda: None)
    for change in ("layers=2", "head_bn=True", "warmup_teacher_epochs=3"):
        assert duel.main([*out, "--methods", "dino", f"--config.method.{change}"]) == 2
        assert f"method.{change}: the duel's dino has" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    (tmp_path / "simclr_0.json").write_text(json.dumps({"config": {}}))
    assert duel.main([*out, "--methods", "simclr", "--seeds", "1"]) == 2
    assert "is of another config" in capsys.readouterr().err


@pytest.mark.parametrize("name", lightlies.METHODS)
def test_both_sides_get_the_same_arguments(name):
    assert duel.ARGUMENTS[name].keys() <= methods.arguments(name).keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and lightly
@pytest.mark.parametrize("name", lightlies.METHODS)
def test_first_steps_are_the_same_and_pairs_run(name):
    if missing := lightlies.available():
        pytest.skip(missing)
    rng = np.random.default_rng(0)
    parts = [
        from_arrays(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 3, n).astype(np.int32))
        for n in (64, 32, 32)
    ]
    changes = ["data.global_batch_size=16", "train.epochs=1", "eval.knn_k=5", "parallel.devices=1"]
    changes += ["model.widths=(8,16)", "model.stem_width=8", *SMALL.get(name, [])]
    found = duel_pair.pair(build(duel.config_of(name, 0, changes), Splits(*parts)))
    assert found["first_steps"].pop("steps") == 4
    of_averages = {"byol": {"target"}, "moco": {"target"}, "dino": {"target", "centre"}}.get(name, set())
    assert found["first_steps"].keys() == {"loss", "gradients", "losses", "weights"} | of_averages
    assert max(found["first_steps"].values()) < 1e-9
    losses = [found["losses"][side][:2] for side in duel_table.SIDES]  # later ones are of rounding that grew
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert all(len(found["val_knn_top1"][side]) == 1 for side in duel_table.SIDES)
