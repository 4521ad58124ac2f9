"""The report is well-formed, needs nothing from elsewhere, shows every number and trusts no name."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from ssl_jax.evals.shared import report, wording

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what is in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.tables = [], [], {}, {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if "aria-label" in attrs:
            self.table = self.tables.setdefault(attrs["aria-label"], [])
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append({"text": "", "note": "", **attrs})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        self.texts.setdefault(inside, []).append(data)
        if "table" in self.open and {"td", "th"} & set(self.open):
            self.table[-1][-1]["note" if inside == "small" else "text"] += data

    def rows(self, table):
        return [[cell["text"].replace("\u00a0", " ") for cell in row] for row in self.tables[table]]

    def text(self, tag):
        return " ".join(self.texts.get(tag, [])).replace("\u00a0", " ")


def evaluation(knn=0.607, method="simclr", **provenance):
    metrics = {
        "test_rankme": 31.23456,
        "test_linear_top1": 0.652,
        "test_knn_top1": knn,
        "test_linear_stage2_top1": 0.5011,
        "test_low_label_5_top1": 0.4,
        "test_low_label_5_top1_std": 0.0123,
        "test_uniformity": -2.913,
        "test_bank_rows": 50000,
        "test_novel": None,
        "test_ridge_top1": math.nan,
    }
    return {
        "metrics": metrics,
        "intervals": {"test_knn_top1": [knn - 0.01, knn + 0.01], "test_ridge_top1": [None, None]},
        "online": {"test_knn_top1": 0.6, "test_probe_top1": 0.631},
        "evaluators": {
            "knn": {
                "settings": {"k": [200, 20], "centre": True},
                "metrics": ["test_knn_top1"],
                "seconds": 1234.5,
                "peak_memory_mb": 812.0,
                "skipped": None,
            },
            "projection": {"settings": {}, "metrics": [], "seconds": None, "skipped": "umap-learn is missing"},
        },
        "provenance": {
            "method": method,
            "model": "resnet18",
            "source": "cifar10",
            "evaluated_on": "cifar10",
            "sizes": {"train": 50000, "test": 10000},
            "seed": 3,
            "step": 9765,
            "commit": "05c9145",
            "versions": {"jax": "0.10.2"},
            "config": {"seed": 3, "optim": {"name": "lars", "rate": 0.5}, "method": {"name": method}},
            **provenance,
        },
    }


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (7, 5), (200, 30, 30)).save(path)
    return path


def pair(a, b, difference, low, high, p=1e-5, metric="test_knn_top1"):
    return {"metric": metric, "a": a, "b": b, "difference": difference, "low": low, "high": high, "p": p}


RUNS = {"one": evaluation(), "two": evaluation(0.51, "byol"), "three": evaluation(0.603, "moco")}


def test_an_evaluator_of_ones_own_stands_beside_knn():
    run = evaluation()
    run["metrics"] |= {"test_spread_knn": 3.5, "test_class_means_top1": 0.55, "test_class_means_2_top1": 0.5}
    run["metrics"] |= {"test_holes": 2.0, "test_more_holes": 1.0}
    run["intervals"]["test_class_means_top1"] = [0.54, 0.56]
    accuracies = ("test_class_means_top1", "test_class_means_2_top1")
    run["evaluators"] |= {
        "means": {"own": {}, "metrics": ["test_spread_knn", *accuracies], "examples": dict.fromkeys(accuracies, "t")},
        "holes": {"own": {}, "metrics": ["test_holes", "test_more_holes"], "examples": {}},
        "ours": {"metrics": ["test_bank_rows"], "examples": {}},
    }
    page = Page(report.html({"one": run}, {}))
    results = page.tables["Main results"][1:]
    assert [row[0]["text"] for row in results[:4]] == ["kNN", "class means", "holes", "linear"]
    assert (results[1][1]["text"], results[1][1]["note"]) == ("55.0\u00a0%", "54.0 to 56.0")
    assert not {"more holes", "class means 2", "bank rows"} & {row[0]["text"] for row in results}
    two = Page(report.html({"one": run, "two": evaluation()}, {}))
    head, first, second = two.rows("Main results, one row a run")
    assert (head[2], first[2], second[2]) == ("class means", "55.0 %", "not measured")


HEALTHY = {"collapsed": False, "loss_spikes": [], "nonfinite": None, "replaced": 0}


@pytest.mark.parametrize(
    ("alarms", "line"),
    [
        ({"collapsed": True}, "collapsed"),
        ({"loss_spikes": [120, 340]}, "loss jumped at steps 120, 340"),
        ({"loss_spikes": [120]}, "loss jumped at step 120"),
        ({"nonfinite": 57}, "step 57 was not finite"),
        ({"nonfinite": 3, "skipped": 18}, "step 3 was not finite; 18 steps skipped"),
        ({"replaced": 1}, "1 unreadable example replaced"),
        ({"replaced": 27}, "27 unreadable examples replaced"),
        ({"damaged": [9999]}, "checkpoint 9999 is damaged: what was evaluated is that of step 9765"),
        ({"lost": "what was logged of steps 2 to 3 is missing"}, "what was logged of steps 2 to 3 is missing"),
        ({"damaged": [9765]}, "checkpoint 9765 is damaged: no run goes on from it, what was evaluated is whole"),
        (
            {"collapsed": True, "loss_spikes": [*range(1, 14)], "nonfinite": 1},
            "collapsed; loss jumped at steps 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more; step 1 was not finite",
        ),
    ],
)
def test_alarms_stand_at_the_top(alarms, line):
    run = evaluation() | {"alarms": HEALTHY | alarms}
    text = report.html({"one": run}, {})
    page = Page(text)
    assert [attrs["role"] for _, attrs in page.tags if attrs.get("class") == "alarm"] == ["alert"]
    assert page.texts["li"][0] == line
    assert text.index(line) < text.index("<nav>")
    several = Page(report.html({"<a>": run, "b": evaluation() | {"alarms": HEALTHY}, "c": run}, {}))
    assert several.texts["li"][:2] == [f"<a>: {line}", f"c: {line}"]


@pytest.mark.parametrize("run", [evaluation(), evaluation() | {"alarms": HEALTHY}])
def test_no_alarm_where_there_was_none(run):
    assert "alert" not in report.html({"one": run}, {})


@pytest.mark.parametrize("runs", [{"one": RUNS["one"]}, RUNS])
def test_well_formed_and_self_contained(runs, png):
    figures = {run: [report.Figure(png, "Curves", "Loss.", "Training")] for run in runs}
    text = report.html(runs, figures, [pair("one", "two", 0.1, 0.05, 0.15)])
    page = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    for tag, attrs in page.tags:
        assert attrs.get("src", "data:").startswith("data:image/png;base64,") or tag != "img"
        assert "src" not in attrs or tag == "img"
        assert re.match("#|data:,$", attrs.get("href", "#"))
        assert not any(name.startswith("on") or name == "style" for name in attrs)
    anchors = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"}
    assert anchors == {attrs["id"] for tag, attrs in page.tags if tag == "section"}
    [policy] = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):  # the policy lets the page's own style and script through, and nothing else
        digest = base64.b64encode(hashlib.sha256("".join(page.texts[tag]).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_number_is_there():
    page = Page(report.html({"one": RUNS["one"]}, {}))
    head, *rows = page.tables["All numbers"]
    names = {(row[0]["note"] or row[0]["text"], row[4]["text"]): row for row in rows}
    expected = {("offline", name): value for name, value in RUNS["one"]["metrics"].items()}
    expected |= {("online", name): value for name, value in RUNS["one"]["online"].items()}
    assert {(when, name) for name, when in names} == set(expected)
    for (when, name), value in expected.items():
        cell = names[name, when][1]
        if value is None or math.isnan(value):
            assert cell["text"] == "not measured"
            assert "data-sort" not in cell
        else:
            assert float(cell["data-sort"]) == value
    shown = {name: row[1]["text"].replace("\u00a0", " ") for (name, when), row in names.items() if when == "offline"}
    assert shown["test_knn_top1"] == "60.7 %"
    assert shown["test_low_label_5_top1_std"] == "1.2 %"
    assert shown["test_rankme"] == "31.23"
    assert shown["test_uniformity"] == "−2.913"
    assert shown["test_bank_rows"] == "50,000"
    row = dict(zip((cell["text"] for cell in head), names["test_knn_top1", "offline"], strict=True))
    assert row["95\u00a0% interval"]["text"] == "59.7 to 61.7"
    assert (row["Split"]["text"], row["Evaluator"]["text"]) == ("test", "knn")
    assert row["Settings"]["text"] == "k = 200, 20, centre = True"


def test_why_a_number_is_missing_stands_beside_it():
    runs = {name: evaluation() for name in ("one", "two")}
    for run in runs.values():
        run["online"] = {"test_probe_top1": None}
        run["not_measured"] = {"test_probe_top1": "no test example has a label"}
    for shown in ({"one": runs["one"]}, runs):
        page = Page(report.html(shown, {}))
        for table in (name for name in page.tables if name.startswith(("Main", "All"))):
            (*_, cell) = [
                cell for row in page.tables[table] for cell in row if cell["note"] == "no test example has a label"
            ]
            assert cell["text"] == "not measured"


def test_answer_first():
    page = Page(report.html({"one": RUNS["one"]}, {}))
    assert page.text("h1") == "simclr on cifar10: kNN 60.7 % (59.7 to 61.7), linear 65.2 % on test"
    assert page.text("title") == page.text("h1")
    assert "10,000 test examples of cifar10, 50,000 labelled" in page.text("p")
    assert page.rows("Main results") == [
        ["Metric", "Value"],
        ["kNN", "60.7 %"],
        ["linear", "65.2 %"],
        ["ridge", "not measured"],
        ["low label, 5 per class", "40.0 % ± 1.2"],
        ["probe, online", "63.1 %"],
        ["RankMe", "31.23"],
    ]
    transfer = Page(report.html({"one": evaluation(evaluated_on="digits")}, {}))
    assert transfer.text("h1").startswith("simclr on cifar10, evaluated on digits: kNN")


def test_several_runs_are_compared():
    paired = [
        pair("two", "one", -0.097, -0.11, -0.085),
        pair("one", "three", 0.004, -0.003, 0.011, 0.25),
        pair("one", "two", -2.5, -3.0, -2.0, 0.012, "test_rankme"),
        pair("two", "three", 0.01, 0.001, 0.02, 0.06),
        pair("two", "three", None, None, None, None),
    ]
    page = Page(report.html(RUNS, {}, paired))
    assert page.text("h1") == (
        "one has the highest kNN of 3 runs on cifar10: 60.7 % (59.7 to 61.7) on test; no difference shown to three"
    )
    rows = page.rows("Main results, one row a run")
    assert rows[0][:3] == ["Run", "kNN", "linear"]
    assert [row[:2] for row in rows[1:]] == [["one", "60.7 %"], ["two", "51.0 %"], ["three", "60.3 %"]]
    assert [text.replace("\u00a0", " ") for text in page.texts["li"]][:5] == [
        "one is 9.7 points above two on kNN (8.5 to 11.0, p < 0.001).",
        "No difference shown between one and three on kNN (0.4 points, −0.3 to 1.1, p = 0.25).",
        "two is 2.5 above one on RankMe (2 to 3, p = 0.012).",
        "No difference shown between two and three on kNN (1.0 points, 0.1 to 2.0, p = 0.06).",
        "two and three were not compared on kNN.",
    ]
    assert "not corrected for there being 5" in page.text("p")
    other = Page(report.html({"a": RUNS["one"], "b": evaluation(0.9, evaluated_on="digits")}, {}))
    assert other.text("h1") == "2 runs evaluated: a, b"  # of different data none is the best


def test_cost_skipped_and_provenance():
    page = Page(report.html(RUNS, {}))
    assert page.rows("Cost")[1] == ["knn", "1,234.5 s", "812 MB", "one"]
    assert "projection: umap-learn is missing (one, two, three)" in page.text("li")
    facts = {row[0]: row[1:] for row in page.rows("Provenance")}
    assert facts["commit"] == ["05c9145"] * 3
    assert facts["versions.jax"] == ["0.10.2"] * 3
    assert page.rows("Config") == [
        ["Setting", "one", "two", "three"],
        ["method.name", "simclr", "byol", "moco"],
        ["seed", "3", "3", "3"],
        ["optim.name", "lars", "lars", "lars"],
        ["optim.rate", "0.5", "0.5", "0.5"],
    ]
    assert "4 settings; the 1 that differ" in page.text("summary")


def test_what_is_left_out_is_said():
    run = evaluation() | {"left_out": {"low_label": "class a has 1"}, "missing": {"views.png": "OSError: full"}}
    run["evaluators"]["knn"] |= {"left_out": {"top5": "3 classes", "p.png": "ParseError"}, "notes": {"rankme": "of 9"}}
    page = Page(report.html({"one": run}, {}))
    lines = ["low_label: class a has 1", "top5: 3 classes", "projection: umap-learn is missing"]
    assert page.texts["li"] == [*lines, "views.png: OSError: full", "p.png: ParseError", "rankme: of 9"]
    assert page.texts["h3"] == ["Not measured", "Pictures that are missing", "To be known"]
    assert "alert" not in report.html({"one": run}, {})


def test_one_run_on_several_data():
    own = evaluation(checkpoint="c") | {"alarms": HEALTHY | {"collapsed": True}}
    other = evaluation(0.4, checkpoint="c", evaluated_on="digits") | {"alarms": HEALTHY | {"collapsed": True}}
    page = Page(report.html({"cifar10": own, "digits": other}, {}))
    assert page.text("h1") == (
        "simclr pretrained on cifar10: kNN 60.7 % (59.7 to 61.7) on cifar10; kNN 40.0 % (39.0 to 41.0) on digits"
    )
    rows = page.rows("Main results, one row of each data")
    assert [row[:2] for row in rows] == [["Data", "kNN"], ["cifar10", "60.7 %"], ["digits", "40.0 %"]]
    assert page.texts["li"][0] == "collapsed"  # of the one run, said once
    assert page.texts["li"].count("collapsed") == 1
    changed = Page(report.html({"digits": other, "digits (0a1b2c3d)": other, "cifar10": own}, {}))
    assert "on digits; " in changed.text("h1")
    assert "on digits (0a1b2c3d), the latest there; " in changed.text("h1")


def test_why_there_is_no_paired_test():
    reason = "measured on different data: x (4 test examples) and y (4)"
    pair = {"metrics": ["test_knn_top1", "test_linear_top1"], "a": "one", "b": "two", "reason": reason}
    page = Page(report.html(RUNS, {}, (), [pair]))
    assert page.texts["li"][0] == f"one and two on kNN, linear: {reason}"
    assert "No paired test" in page.text("h3")


def test_names_that_cannot_be_shown_are_escaped():
    bad = "a\nb\udcff\u202e$"
    text = report.html({bad: evaluation(method=bad, config={bad: bad})}, {}).encode()  # UTF-8 takes no surrogates
    assert rb"a\nb\xff\u202e$" in text


def test_a_dataset_may_be_called_as_a_layer_is():
    assert wording.is_whole("test_transfer_block_layer_knn_top1")
    assert not wording.is_whole("test_transfer_x_linear_top5")
    assert not wording.is_whole("test_linear_stage2_top1")


def test_sorting_keys_are_numbers():
    page = Page(report.html(RUNS, {}))
    keys = [attrs["data-sort"] for _, attrs in page.tags if "data-sort" in attrs]
    assert len(keys) > 50
    assert all(math.isfinite(float(key)) for key in keys)
    for rows in page.tables.values():
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(cell["scope"] == "col" for cell in rows[0])
        assert all(row[0]["scope"] == "row" for row in rows[1:])


def test_names_are_escaped(png):
    bad = """</title><script>alert("1")</script>&amp;'"""
    run = evaluation(method=bad, config={bad: bad}, model=bad)
    run["metrics"] |= {f"test_{bad}": 0.5, f"test_{bad}_top1": 0.5}
    run["evaluators"]["knn"] |= {"settings": {bad: bad}, "skipped": bad}
    figures = {bad: [report.Figure(png, bad, bad, bad)]}
    for runs in ({bad: run}, {bad: run, "two": RUNS["two"]}):
        page = Page(report.html(runs, figures, [pair(bad, "two", 0.1, 0.05, 0.15)]))
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert bad in page.text("h1")
        assert bad in page.text("h3")
        assert bad in page.text("figcaption")
        assert any(bad in row[0] for row in page.rows("Config"))
        assert all(bad in attrs["alt"] for tag, attrs in page.tags if tag == "img")


def test_what_is_missing_is_left_out():
    page = Page(report.html({"bare": {"metrics": {"test_knn_top1": 0.5}}}, {}))
    assert page.text("h1") == "unknown on unknown: kNN 50.0 % on test"
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["#results", "#all-numbers"]
    empty = Page(report.html({"bare": {"metrics": {}, "online": None, "intervals": None, "provenance": {}}}, {}))
    assert empty.text("h1") == "bare: nothing measured"
    with pytest.raises(ValueError, match="no evaluation"):
        report.html({}, {})


def test_what_does_not_depend_on_the_data_is_shown_once(png):
    curves = report.Figure(png, "Curves", "Loss.", "Training", of_data=False)
    near = report.Figure(png, "Near", "", "Training")

    def shown(checkpoints):
        some = {
            name: RUNS["one"] | {"provenance": {"evaluated_on": name, "checkpoint": checkpoint}}
            for name, checkpoint in zip(("a", "b"), checkpoints, strict=True)
        }
        page = Page(report.html(some, {name: [curves, near] for name in some}))
        return [attrs["alt"] for tag, attrs in page.tags if tag == "img"]

    assert shown(["x", "x"]) == ["Curves", "a: Near", "b: Near"]
    assert shown(["x", "y"]) == ["a: Curves", "b: Curves", "a: Near", "b: Near"]


def test_pictures_are_inside(png, tmp_path):
    runs = {"one": RUNS["one"], "two": RUNS["two"]}
    wide = tmp_path / "wide.png"
    Image.new("L", (report.WIDE + 1, 3)).save(wide)
    figures = {
        "one": [report.Figure(png, "Curves", "Loss.", "Training"), report.Figure(wide, "Map", "", "Plane")],
        "two": [report.Figure(png, "Curves", "Loss.", "Training")],
    }
    report.write(tmp_path / "report.html", runs, figures)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["one: Curves", "two: Curves", "one: Map"]
    assert [base64.b64decode(i["src"].split(",")[1]) for i in images] == [p.read_bytes() for p in (png, png, wide)]
    assert (images[0]["width"], images[0]["height"]) == ("7", "5")
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "figure"] == [None, None, "wide"]
    (tmp_path / "x.svg").write_text("<svg/>")
    with pytest.raises(ValueError, match=r"x\.svg is not a PNG file"):
        report.html(runs, {"one": [report.Figure(tmp_path / "x.svg", "a", "b", "c")]})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_knn_top1", "kNN"),
        ("val_linear_top5", "linear, top-5"),
        ("test_linear_stage3_top1", "linear, stage3"),
        ("test_stage3_rankme", "RankMe, stage3"),
        ("test_finetune_extract_top1", "fine-tuning, extract"),
        ("test_low_label_10_top1_std", "low label, 10 per class spread"),
        ("test_low_label_1pct_linear_top1", "low label, 1pct linear"),
        ("test_transfer_digits_knn_top1", "transfer, digits knn"),
        ("test_energy_auc", "energy AUC"),
        ("test_umap_trustworthiness", "trustworthiness, umap"),
        ("test_something_new", "something new"),
    ],
)
def test_names_in_words(name, words):
    assert wording.label(name) == words
