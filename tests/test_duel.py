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
from ssl_jax.configs import to_json
from ssl_jax.data.source import Splits, from_arrays
from ssl_jax.experiment import build
from ssl_jax.run import provenance

# Of DINO's four steps two have the last layer frozen, two do not.
SMALL = {"moco": ["method.queue_size=64"], "dino": ["method.freeze_last_layer=0.5", "method.out_dim=64"]}
MACHINE = {"commit": "c" * 40, "cpu": "x", "cores": 2, "versions": {"jax": "0.10"}, "peers": {"torch": "2.13.0"}}


def a_pair(seed, ours, theirs, apart=1e-13):
    data = {"num_examples": 100, "source": "s", "global_batch_size": 8, "val_fraction": 0.1}
    return {
        "config": {"method": {"name": "simclr"}, "seed": seed, "data": data},
        "first_steps": {"steps": 5, "loss": 1e-15, "gradients": apart, "losses": 1e-14, "weights": 1e-14},
        "epochs": [0.0, 1.0, 2.0],
        "steps_per_epoch": 2,
        "images": 100,
        "val_knn_top1": {"ssl_jax": [0.05, 0.1, 0.2], "lightly": [0.05, 0.1, 0.3]},
        "test_knn_top1": {"ssl_jax": ours, "lightly": theirs},
        "untrained_test_knn_top1": 0.06,
        "losses": {"ssl_jax": [4.0, 3.0, 2.0, 1.0], "lightly": [4.0, 3.0, 3.0, 1.0]},
        "milliseconds": {"ssl_jax": [10.0, 10.0], "lightly": [20.0, 30.0]},
        "machine": MACHINE,
    }


def lying(out, name, seed, commit="c" * 40, cpu="x", **found):
    """A pair in the folder, of the config that the same command asks for."""
    made = a_pair(seed, 0.5, 0.5) | {"machine": MACHINE | {"commit": commit, "cpu": cpu}}
    made |= {"config": to_json(duel.config_of(name, seed))} | found
    (out / f"{name}_{seed}.json").write_text(json.dumps(made))


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder for pairs; of other code than theirs, which trains nothing."""
    monkeypatch.setattr(lightlies, "available", lambda: None)
    monkeypatch.setattr(provenance, "commit", lambda: "d" * 40)
    monkeypatch.setattr(duel, "pair", lambda experiment: pytest.fail("a pair was trained"))
    return tmp_path


def test_the_table_says_whether_sides_differ_beyond_the_seeds():
    near = [a_pair(0, 0.50, 0.51), a_pair(1, 0.54, 0.52), a_pair(2, 0.52, 0.53)]
    (row,) = duel_table.table(near)
    assert row["within"]
    assert row["p"] == pytest.approx(stats.ttest_rel([0.50, 0.54, 0.52], [0.51, 0.52, 0.53]).pvalue)
    assert (row["ratio"], row["ssl_jax"]["loss"], row["lightly"]["loss"]) == ([2.0, 3.0], 1.5, 2.0)
    text = duel_table.markdown([row], near)
    assert "| simclr | 3 | 0.060 | 0.520 ± 0.020 | 0.520 ± 0.010 |" in text
    assert "| yes |" in text
    far = [a_pair(0, 0.50, 0.60), a_pair(1, 0.54, 0.64), a_pair(2, 0.52, 0.63, apart=1e-3)]
    (row,) = duel_table.table(far)
    text = duel_table.markdown([row], far)
    assert "| **no** |" in text
    assert "**1e-03**" in text
    assert row["first_steps"] == 1e-3
    far[0]["first_steps"]["centre"] = 2e-3
    assert duel_table.table(far)[0]["first_steps"] == 2e-3
    far[0]["first_steps"]["queue"] = float("nan")
    assert np.isnan(duel_table.table(far)[0]["first_steps"])
    (row,) = duel_table.table(near[:1])
    assert "one seed" in duel_table.markdown([row], near[:1])


def test_within_is_as_large_as_seeds_are_apart_however_sure_a_test_is():
    large = [a_pair(i, *scores) for i, scores in enumerate([(0.50, 0.45), (0.52, 0.45), (0.51, 0.49)])]
    (row,) = duel_table.table(large)
    assert row["p"] > 0.05
    assert row["pooled"] == pytest.approx(np.sqrt((0.01**2 + 0.0016 / 3) / 2))
    assert not row["within"]
    small = [a_pair(i, *scores) for i, scores in enumerate([(0.50, 0.502), (0.52, 0.5221), (0.48, 0.4819)])]
    (row,) = duel_table.table(small)
    assert row["p"] < 0.01
    assert row["within"]


def test_p_is_corrected_for_the_number_of_methods():
    pairs = [a_pair(seed, *scores) for seed, scores in enumerate([(0.50, 0.60), (0.54, 0.64), (0.52, 0.63)])]
    more = [one | {"config": one["config"] | {"method": {"name": "byol"}}} for one in pairs]
    rows = duel_table.table([*pairs, *more])
    assert [row["p_holm"] for row in rows] == pytest.approx([2 * rows[0]["p"]] * 2)
    text = duel_table.markdown(rows, pairs)
    assert f"| {rows[0]['p_holm']:.2f} |" in text
    assert "p by Holm for 2 methods: the interval reaches 2.5 standard deviations" in text
    assert "√((s₁² + s₂²) / 2)" in text


def test_the_table_is_of_the_pairs_that_were_asked_for(there):
    lying(there, "simclr", 0)
    lying(there, "simclr", 1, cpu="y")
    lying(there, "simclr", 2, "e" * 40)
    lying(there, "byol", 0, config={}, first_steps={"steps": 5, "loss": 1.0})
    assert duel.main(["--out", str(there), "--methods", "simclr", "--seeds", "2"]) == 0
    found, text = json.loads((there / "duel.json").read_text()), (there / "duel.md").read_text()
    assert [(row["method"], row["seeds"]) for row in found["rows"]] == [("simclr", [0, 1])]
    assert [machine["cpu"] for machine in found["machines"]] == ["x", "y"]
    assert "2 cores of x, jax 0.10, torch 2.13.0; 2 cores of y, jax 0.10, torch 2.13.0; commit cccccccccccc." in text
    assert "byol" not in text
    assert (there / "duel.png").is_file()


def test_a_table_is_of_one_commit(there, capsys):
    lying(there, "simclr", 0)
    lying(there, "simclr", 1, "c" * 40 + "+")
    asked = ["--out", str(there), "--methods", "simclr", "--seeds"]
    assert duel.main([*asked, "2"]) == 2
    said = capsys.readouterr().err
    assert f"{there / 'simclr_0.json'} is of commit cccccccccccc and {there / 'simclr_1.json'} is of commit " in said
    assert "cccccccccccc+, and a table is of one commit; use another --out" in said
    (there / "simclr_1.json").unlink()  # it would be made by this code
    assert duel.main([*asked, "2"]) == 2
    assert "this code is of commit dddddddddddd, and a table" in capsys.readouterr().err
    assert not (there / "duel.md").exists()
    assert duel.main([*asked, "1"]) == 0


def test_changed_files_are_said(there, monkeypatch):
    commit = "d" * 40 + "+"
    lying(there, "simclr", 0, commit)
    monkeypatch.setattr(provenance, "commit", lambda: commit)
    monkeypatch.setattr(duel, "load_splits", lambda config: config)
    monkeypatch.setattr(duel, "build", lambda config, splits, asked: config)
    meanwhile = {"machine": MACHINE | {"commit": "e" * 40}}
    monkeypatch.setattr(duel, "pair", lambda config: a_pair(1, 0.5, 0.5) | {"config": to_json(config)} | meanwhile)
    assert duel.main(["--out", str(there), "--methods", "simclr", "--seeds", "2"]) == 0
    text = (there / "duel.md").read_text()
    assert "commit dddddddddddd+, **a try: made from files that no commit holds**." in text
    pairs = [a_pair(0, 0.5, 0.5)]
    assert "a try" not in duel_table.markdown(duel_table.table(pairs), pairs)
    assert [provenance.short(c) for c in ("c" * 40, "c" * 40 + "+", None)] == ["c" * 12, "c" * 12 + "+", "None"]


def test_curves_are_by_epoch_and_side():
    drawn = duel_table.drawn([a_pair(0, 0.5, 0.5), a_pair(1, 0.5, 0.5)])
    assert drawn["simclr_loss"]["lightly"] == [([1.0, 2.0], [3.5, 2.0])] * 2
    assert drawn["simclr_val_knn_top1"]["ssl_jax"] == [([0.0, 1.0, 2.0], [0.05, 0.1, 0.2])] * 2


def test_where_the_curves_of_the_sides_do_not_meet_is_counted():
    """At the second epoch kNN is .2 with all seeds of one and .3 of the other, and losses are 1.5 and 2."""
    pairs = [a_pair(seed, 0.5, 0.5) for seed in range(3)]
    said = duel_table.courses(duel_table.drawn(pairs))
    assert said.startswith("By epoch, of 4 points of the curves: at 2 (simclr val knn top1 2; simclr loss 2) the ")
    assert "do not meet, where two draws of one law would have 0; at 2 (" in said
    assert said.endswith("by more than the pooled standard deviation, where two draws would have 1.")  # .288 of 4
    assert said in duel_table.markdown(duel_table.table(pairs), pairs)
    pairs[0]["val_knn_top1"]["ssl_jax"][2] = 0.31
    assert "of 4 points of the curves: at 1 (simclr loss 2)" in duel_table.courses(duel_table.drawn(pairs))


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
    assert duel.main([*out, "--methods", "byol", "--config.optim.name=larc"]) == 2
    assert "optim.name=larc: the duel has sgd and adamw" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    (tmp_path / "simclr_0.json").write_text(json.dumps({"config": {}}))
    assert duel.main([*out, "--methods", "simclr", "--seeds", "1"]) == 2
    assert "is of another config (data.augment, " in capsys.readouterr().err
    config = duel.config_of("simclr", 0, ["data.data_dir=elsewhere", "optim.learning_rate=1"])
    lying(tmp_path, "simclr", 0, config=to_json(config))
    assert duel.main([*out, "--methods", "simclr", "--seeds", "1"]) == 2
    assert "is of another config (optim.learning_rate); use another --out" in capsys.readouterr().err


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
    slow = {"target", "target statistics"}
    of_averages = {"byol": slow, "moco": slow | {"queue"}, "dino": slow | {"centre"}}.get(name, set())
    assert found["first_steps"].keys() == {"loss", "gradients", "losses", "weights", "statistics"} | of_averages
    assert max(found["first_steps"].values()) < 1e-9
    losses = [found["losses"][side][:2] for side in duel_table.SIDES]  # later ones are of rounding that grew
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert all(len(found["val_knn_top1"][side]) == 2 for side in duel_table.SIDES)
