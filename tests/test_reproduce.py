"""Suites: rows that are configs, runs side by side, one table that mixes nothing and fills nothing in."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
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

    def make(seed, knn=0.5, *, row="fine", commit="c" * 40, evaluated_at=None, resumed_at=(), test="t"):
        config = rows.config(suite.rows[0], seed, [])
        resolved = {"plan": {"steps_per_epoch": 2, "total_steps": 4}, "commit": commit, "cpu": "x", "cores": 2}
        resolved["versions"] = {"jax": "0.10.2", "libtpu": "1"}
        resolved["data"] = {"sizes": {"test": 3}, "fingerprints": {"test": test}}
        resumed = [{"step": 2, "resolved": {"commit": other, "cpu": "y", "cores": 4}} for other in resumed_at]
        place = tmp_path / "out" / "runs" / f"{row}-{seed}"
        (place / "evaluation").mkdir(parents=True)
        stored = {"config": json.loads(config.to_json_best_effort()), "resolved": resolved, "resumed": resumed}
        (place / "config.json").write_text(json.dumps(stored))
        lines = [{"step": k, "line": k, "train_loss": 5.0 - k + seed / 10, "val_knn_top1": 0.3} for k in (1, 2, 3, 4)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = {"steps": 4, "seconds": 3000, "test_knn_top1": 0.1, "test_probe_top1": 0.2, "images_per_sec": 100.0}
        summary |= {"collapsed": seed == 2, "peak_memory": {"host": 3 << 30, "device": None}, "params_fingerprint": "f"}
        (place / "summary.json").write_text(json.dumps(summary))
        found = {"metrics": {"test_knn_top1": knn, "test_linear_top1": 0.6, "test_linear_top5": None}}
        settings = {"k": [200], "temperature": [0.1], "centre": True}
        found |= {"evaluators": {"knn": {"settings": settings}, "linear_probe": {"settings": {"layers": ["features"]}}}}
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
            for key, text in ((key, text) for key, text in said.items() if not key.startswith("data.views")):
                wanted = text if isinstance(found[key], str) else configs.literal(text)
                assert found[key] == (list(wanted) if isinstance(wanted, tuple) else wanted), (row.name, key)


def test_options_of_a_row_are_the_evaluators():
    row = next(row for row in rows.read("imagenet").rows if row.name == "dino_vit_s_100")
    train, measure = workers.commands(workers.Job(row, 0), Path("runs"), ["data.data_dir=d"])
    assert "--eval.linear_probe.layers=features,cls_last4" in measure
    assert not any("--eval." in word for word in train)
    assert row.published[0].score == "test_linear_top1_cls_last4"


def test_the_suites_are_there():
    assert set(rows.known()) == {"cpu", "methods", "cifar10", "imagenette", "imagenet100", "imagenet", "text"}
    small = {path.stem for path in configs.files().values() if path.stem.endswith("_cpu")}
    in_suites = {row.config for name in ("cpu", "methods") for row in rows.read(name).rows}
    others = ("wikitext2", "imdb", "bert", "ulmfit", "folder", "uda")  # of text, of one's own images, of few labels
    assert {name for name in small - in_suites if not any(word in name for word in others)} == set()
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
    assert "evaluate.py --workdir OUT/runs/large-SEED --evals knn,linear_probe" in text
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


@pytest.mark.parametrize(
    ("key", "free"),
    [
        *(("data.download", True), ("train.log_every", True), ("parallel.devices", True)),
        *(("parallel.matmul_precision", False), ("optim.learning_rate", False)),
    ],
)
def test_keys_that_change_no_result_leave_the_comparison(made, suite, tmp_path, key, free):
    made(0)
    table.write(suite, tmp_path / "out", {}, [f"{key}=1"], False, "")
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert (row["published"][0]["difference"] is not None) == free


def test_a_figure_of_another_recipe_has_no_difference(made, suite, tmp_path):
    made(0)
    figure = suite.rows[0].published[0]._replace(other="twice as long")
    other = suite._replace(rows=(suite.rows[0]._replace(published=(figure,)),))
    text = table.write(other, tmp_path / "out", {}, [], False, "")
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert row["published"][0]["difference"] is None
    assert "- `fine`: published test kNN 60: theirs; of another recipe: twice as long\n" in text


@pytest.mark.parametrize(
    ("seed_1", "said"),
    [
        ({"commit": "d" * 40}, r"several commits .* \(cccccccccccc: fine-0; dddddddddddd: fine-1\)"),
        ({"commit": "c" * 40 + "+"}, r"several commits .* \(cccccccccccc: fine-0; cccccccccccc\+: fine-1\)"),
        ({"resumed_at": ["d" * 40]}, r"several commits .* \(cccccccccccc: fine-0, fine-1; dddddddddddd: fine-1\)"),
        ({"test": "u"}, "fine-0 and fine-1 have other test examples, both called digits"),
    ],
)
def test_commits_and_data_are_not_mixed(made, suite, tmp_path, seed_1, said):
    made(0)
    made(1, **seed_1)
    with pytest.raises(ValueError, match=said):
        table.write(suite, tmp_path / "out", {}, [], True, "")


def test_a_resumption_on_another_machine_is_told(made, suite, tmp_path):
    made(0, resumed_at=["c" * 40])
    assert "Hardware: 2 x x, then 4 x y." in table.write(suite, tmp_path / "out", {}, [], False, "")


def test_how_and_with_what_was_measured_is_told(made, suite, tmp_path):
    made(0)
    text = table.write(suite, tmp_path / "out", {}, [], False, "c")
    assert "kNN: k = 200, T = 0.1, centred." in text
    assert "kNN against no more than 10,000 train images" in text
    assert f"Commit {'c' * 40}; jax 0.10.2. The last command: `c`." in text


def test_speeds_are_from_the_least_to_the_most_of_the_seeds():
    assert table._range([1200.0, None, 850.4], ",.0f", "images") == "850 to 1,200 images"
    assert table._range([0.201, 0.199], ".2g") == "0.2"
    assert table._range([None], ",.0f", "images") == ""


def test_files_that_no_commit_holds_are_told(made, suite, tmp_path):
    """The suite here, and a config of one's own; those of the checkout are in its commit."""
    made(0)
    own = tmp_path / "own.py"
    own.write_text("1")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in (own, tmp_path / "toy.toml")]
    with_own = suite._replace(rows=(*suite.rows, suite.rows[0]._replace(name="own", config=str(own))))
    text = table.write(with_own, tmp_path / "out", {}, [], False, "")
    assert f"The commit does not hold own.py (sha256 {digests[0]}), toy.toml (sha256 {digests[1]})." in text
    assert rows.brought(rows.read("cpu")) == {}


def test_a_place_where_nothing_can_be_written_is_one_line(suite, tmp_path, monkeypatch, capsys):
    def full(path, value):
        raise OSError(f"{path} could not be written: why")

    monkeypatch.setattr(table, "write_json", full)
    words = ["--suite", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "out"), "--dirty"]
    assert reproduce.main(words) == 1
    assert capsys.readouterr().err == f"the suite ended: {tmp_path / 'out' / 'table.json'} could not be written: why\n"


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "imagenet100", "imagenette", "text"])
def test_the_pages_list_what_was_not_run(name, tmp_path, capsys):
    """``docs/suites`` is what --show writes of an empty folder."""
    assert reproduce.main(["--suite", name, "--show", "--out", str(tmp_path)]) == 0
    page = Path(reproduce.__file__).parent.parent / "docs" / "suites" / f"{name}.md"
    assert page.read_text() == (tmp_path / "table.md").read_text(), f"reproduce.py --suite {name} --show made {page}"


def test_the_page_of_the_other_methods_has_every_row():
    """Of these some were run: the page is the table with them."""
    page = (Path(reproduce.__file__).parent.parent / "docs" / "suites" / "methods.md").read_text()
    told = re.findall(r"^\| (\w+) \|(?! seeds| why)", page, re.MULTILINE)
    assert sorted(told) == sorted(row.name for row in rows.read("methods").rows)


def test_a_seed_that_other_rows_have_is_missed(made, suite, tmp_path):
    made(0)
    made(1)
    made(1, row="broken")
    assert "- `broken`: seeds that other rows have and this has not: 0\n" in table.write(
        suite, tmp_path / "out", {}, [], False, ""
    )


def test_a_try_is_shown_as_it_was_made(made, suite, tmp_path, capsys):
    place = made(0)
    table.write(suite, place.parent.parent, {}, ["train.epochs=1"], False, "")
    words = ["--suite", str(tmp_path / "toy.toml"), "--out", str(place.parent.parent), "--show"]
    assert reproduce.main(words) == 2  # this run has not that key
    assert "is a run of another config (train.epochs)" in capsys.readouterr().err


def test_show_names_the_command_that_made_runs(made, suite, tmp_path, capsys):
    out = made(0).parent.parent
    table.write(suite, out, {}, [], False, "made by this")
    words = ["--suite", str(tmp_path / "toy.toml"), "--out", str(out), "--show", "--rows", "fine"]
    assert reproduce.main(words) == 0
    assert "The last command: `made by this`." in capsys.readouterr().out
    (tmp_path / "other.toml").write_text(TOY)
    before = (out / "table.json").read_text()
    assert reproduce.main(["--suite", str(tmp_path / "other.toml"), "--out", str(out), "--show"]) == 2
    assert capsys.readouterr().err == f"error: {out} holds the table of the suite toy; give another --out\n"
    assert (out / "table.json").read_text() == before


def test_why_nothing_is_run_is_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "here", lambda cores: ("cpu", [0]))
    words = ["--suite", "cifar10", "--dirty", "--out", str(tmp_path / "out")]
    assert reproduce.main(words) == 2
    assert capsys.readouterr().err.count("it needs an accelerator") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("how", "changes", "why"),
    [
        ({"evaluated_at": "d" * 40}, {}, "seed 0 was made at cccccccccccc and evaluated at dddddddddddd"),
        ({}, {"options": ("knn.k=20",)}, "seed 0 was evaluated with knn.k=[200], not 20"),
        ({}, {"options": ("knn.centre=False",)}, "seed 0 was evaluated with knn.centre=True, not False"),
        ({}, {"options": ("linear_probe.layers=features,x",)}, "seed 0 was evaluated with linear_probe.layers=['fea"),
        ({}, {"evals": ("knn", "geometry")}, "seed 0 is not evaluated by geometry yet"),
        ({}, {"options": ("knn.k=200", "knn.centre=true", "linear_probe.layers=features")}, None),
    ],
)
def test_what_is_not_evaluated_as_the_row_asks_is_not_in_the_table(made, suite, tmp_path, how, changes, why):
    made(0, **how)
    asked = suite._replace(rows=(suite.rows[0]._replace(**changes),))
    table.write(asked, tmp_path / "out", {}, [], False, "")
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (content["rows"] == []) == (why is not None)
    assert why is None or content["not_run"][0]["why"].startswith(why)


def test_a_row_of_another_command_may_say_more_than_its_config(made, suite, tmp_path, capsys):
    place = made(0)
    other = TOY.replace('cost = "seconds"', 'cost = "seconds"\nset = ["train.steps=9"]\ncommand = "by hand"', 1)
    (tmp_path / "toy.toml").write_text(other)
    words = ["--suite", str(tmp_path / "toy.toml"), "--out", str(place.parent.parent), "--show"]
    assert reproduce.main(words) == 0
    assert "| fine | 1 |" in capsys.readouterr().out


def test_one_name_of_data_is_one_dataset_in_all_rows(made, suite, tmp_path):
    made(0)
    made(0, row="broken", test="u")
    with pytest.raises(ValueError, match="fine-0 and broken-0 have other test examples, both called digits"):
        table.write(suite, tmp_path / "out", {}, [], False, "")
    assert not (tmp_path / "out" / "table.json").exists()


def test_a_row_may_have_a_dot_in_its_name(made, suite, tmp_path):
    made(0, row="t0.5")
    (tmp_path / "out" / "runs" / "t0.5-1.failed").write_text("exit code 1: no memory\n")
    dotted = suite._replace(rows=(suite.rows[0]._replace(name="t0.5"),))
    text = table.write(dotted, tmp_path / "out", {}, [], False, "")
    assert "| t0.5 | 1 |" in text
    assert "seed 1 failed: exit code 1: no memory" in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "fine"', 'name = "a/b"', "row 'a/b' names folders; use letters"),
        ('cost = "none"', 'cost = "none"\nuse = ["longer"]', "row broken: use 'longer' is none of sets ()"),
        ("cores = 1", "core = 1", "'core' is unknown"),
    ],
)
def test_suites_that_make_no_sense(tmp_path, old, new, said):
    (tmp_path / "toy.toml").write_text(TOY.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(said)):
        rows.read(str(tmp_path / "toy.toml"))


def test_named_sets_come_between_those_of_the_suite_and_of_the_row(tmp_path):
    given = '[sets]\na = ["train.steps=9", "seed=1"]\n\n[[row]]\nuse = ["a"]\nset = ["seed=2"]'
    (tmp_path / "toy.toml").write_text(TOY.replace("[[row]]", given, 1))
    row = rows.read(str(tmp_path / "toy.toml")).rows[0]
    assert row.set[0] == "train.steps=4"
    assert row.set[-3:] == ("train.steps=9", "seed=1", "seed=2")


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
        (["--suite", "TOY", "--config.seed=7"], "--config.seed is not for a suite"),
        (["--suite", "TOY", "--config.optim.rate=1"], "did you mean --config.optim.learning_rate?"),
        (["--suite", "KNNN"], "'knnn' is unknown; did you mean 'knn'?"),
        (["--suite", "TOY", "--config.train.steps=5"], "is a run of another config (train.steps); give another --out"),
        (["--suite", "TOY"], "was made at commit cccccccccccc and this is eeeeeeeeeeee"),
    ],
)
def test_refusals(made, tmp_path, monkeypatch, capsys, words, said):
    made(0)
    monkeypatch.setattr(provenance, "commit", lambda: "e" * 40)
    (tmp_path / "knnn.toml").write_text(TOY.replace('evals = ["knn"', 'evals = ["knnn"', 1))
    files = {"TOY": "toy.toml", "KNNN": "knnn.toml"}
    words = [str(tmp_path / files[word]) if word in files else word for word in words]
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


def test_a_checkout_that_moves_ends_the_suite_when_what_runs_is_done(suite, tmp_path, monkeypatch, capsys):
    """The commit is another one from the second process on: the first run ends, is told, and no other begins."""
    commits = iter(["c" * 40] * 2)
    monkeypatch.setattr(provenance, "commit", lambda: next(commits, "d" * 40))
    monkeypatch.setattr(workers, "here", lambda cores: ("cpu", [workers.Place()]))
    monkeypatch.setattr(workers, "commands", lambda job, folder, changes: [[sys.executable, "-c", "print(1)"]])
    words = ["--suite", str(tmp_path / "toy.toml"), "--seeds", "2", "--out", str(tmp_path / "out"), "--rows", "fine"]
    assert reproduce.main(words) == 2
    said = capsys.readouterr().err
    assert "fine-0 ..." in said
    assert "fine-1 ..." not in said
    assert "the suite began at commit cccccccccccc and this is dddddddddddd" in said


@pytest.mark.parametrize(
    ("change", "same"),
    [
        *(("data.source=folder:elsewhere/photos", True), ("data.data_dir=d", True), ("seed=7", True)),
        *(("train.log_every=3", True), ("parallel.devices=4", True), ("optim.clip_norm=null", True)),
        *(("data.source=folder:/a/b/paintings", False), ("data.source=tar:/a/b/photos", False)),
        *(("parallel.matmul_precision=highest", False), ("optim.clip_norm=1", False)),
    ],
)
def test_the_hash_of_a_config_is_of_what_a_run_computes(change, same):
    one, two = (
        provenance.config_hash(configs.load("simclr_folder_cpu", ["data.source=folder:/a/b/photos", *more]))
        for more in ([], [change])
    )
    assert (one == two) == same


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
