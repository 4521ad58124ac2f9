"""Runs of text are measured like those of images, and what their features find alike is shown as text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs.common import base
from experiments import evaluate, pretrain
from ssl_jax.data import readers
from ssl_jax.data.readers import text
from ssl_jax.evals.shared import report, text_pages
from ssl_jax.evaluation import plain_recipe
from ssl_jax.experiment import make_modality
from ssl_jax.run import processes

LONG = "a very  long\n story " * 100


def documents(texts, labels=None):
    return text.of_texts(texts, None if labels is None else np.array(labels, np.int32), ("bad", "good & <b>"))


def test_nearest_documents_are_those_of_the_greatest_cosine():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(9, 4)), rng.normal(size=(7, 4))
    known = documents([f"bank {i}" for i in range(9)], [i % 2 for i in range(9)])
    found = text_pages.nearest(bank, known, queries, documents([f"test {i}" for i in range(7)]))
    assert [query["text"] for query in found] == [f"test {i}" for i in (0, 1, 3, 4, 6)]  # far apart, in order
    assert all(query["label"] is None for query in found)
    h, q = bank - bank.mean(0), queries[[0, 1, 3, 4, 6]] - bank.mean(0)
    cosines = (q @ h.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(h, axis=1)
    for query, row in zip(found, cosines, strict=True):
        nearest = np.argsort(-row)[:5]
        assert [one["text"] for one in query["near"]] == [f"bank {i}" for i in nearest]
        assert [one["label"] for one in query["near"]] == [("bad", "good & <b>")[i % 2] for i in nearest]
        np.testing.assert_allclose([one["cosine"] for one in query["near"]], row[nearest], atol=1e-12)


def test_documents_are_cut_and_are_no_markup(tmp_path):
    bank, test = documents([LONG, "<script>alert(1)</script> & more", "short"], [0, 1, -1]), documents(["<i>which</i>"])
    found = text_pages.nearest(np.eye(3), bank, np.eye(3)[:1], test)
    assert json.loads(json.dumps(found)) == found
    cut = next(one["text"] for one in found[0]["near"] if one["label"] == "bad")
    assert cut.endswith(" ...")
    assert len(cut) <= 304
    assert cut.startswith("a very long story a very")
    text_pages.neighbours_page(found, tmp_path / "figures" / "neighbours.html")
    page = (tmp_path / "figures" / "neighbours.html").read_text()
    # The report takes them from a file, which anyone may have written.
    (tmp_path / "neighbours.json").write_text(json.dumps(found))
    figure = report.Figure(tmp_path / "neighbours.json", "Nearest neighbours", "By cosine.", "pictures")
    for shown in (page, report.html({"run": {"metrics": {"test_knn_top1": 0.5}}}, {"run": [figure]})):
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown
        assert "<script>alert" not in shown
        assert "&lt;i&gt;which&lt;/i&gt;" in shown
        assert "good &amp; &lt;b&gt;" in shown
        assert shown.count("<li>") == 3


def test_fine_tuning_reads_whole_documents_as_the_run_read_text():
    plain = (
        "stream",
        "stream_shuffled",
        "windows",
        "cooccurrences",
        "documents",
        "documents_uda",
        "documents_uda_pairs",
    )
    assert {plain_recipe(name) for name in plain} == {"documents"}
    enclosed = ("pairs", "documents_enclosed", "documents_uda_enclosed")
    assert {plain_recipe(name) for name in enclosed} == {"documents_enclosed"}


def test_an_encoder_of_images_takes_no_text():
    modality = make_modality(base(), train=readers.load("digits").train)
    with pytest.raises(ValueError, match="this recipe is for images and the examples are text"):
        modality.accepts(documents(["a"]))


def corpus(folder, seed):
    """Files of two classes, whose words tell them."""
    rng = np.random.default_rng(seed)
    said = {"neg": ["bad", "awful", "dull", "weak", "cold"], "pos": ["good", "great", "warm", "superb", "fine"]}
    filler = ["the", "film", "was", "a", "story", "of", "people", "in", "their", "town"]
    for part, number in (("train", 60), ("test", 24)):
        for i in range(number):
            label = ("neg", "pos")[i % 2]
            sentences = [" ".join([*rng.choice(filler, 5), rng.choice(said[label])]) + "." for _ in range(4)]
            path = folder / part / label / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(sentences) + " <b>&")
    return f"text:{folder}"


SMALL = {
    "language_model_demo": ["model.width=8", "model.hidden=8", "data.length=8"],
    "bert_demo": ["data.length=24", "data.tokenizer.size=60", "optim.b2=0.98"],
    "uda_imdb_cpu": ["model.width=8", "model.hidden=8", "data.tokenizer.size=24", "data.labelled=20"],
}
OPTIONS = ["--eval.linear_probe.l2=0.01", "--eval.finetune.epochs=1", "--eval.transfer.k=5", "--eval.knn.k=5"]
OPTIONS += ["--eval.projection.methods=pca", "--eval.low_label.per_class=2", "--eval.low_label.draws=2"]
OPTIONS += ["--eval.low_label.tuned=true", "--eval.low_label.steps=2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_evaluator_measures_a_run_of_text(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)  # the eight devices there are
    here, there, run = corpus(tmp_path / "here", 0), corpus(tmp_path / "there", 1), tmp_path / "run"
    keys = [f"data.source={here}", "data.document_length=24", "data.tokenizer.min_frequency=1", "train.steps=4"]
    keys += ["train.eval_every=4", "train.checkpoint_every=4", "data.global_batch_size=8", "eval.knn_k=5"]
    keys += ["eval.knn=true", "parallel.devices=1", "optim.warmup_epochs=0.0"]
    overrides = [f"--config.{key}" for key in (*keys, *SMALL[name])]
    assert pretrain.main(["--config", f"configs/{name}.py", "--workdir", str(run), *overrides]) == 0
    assert "bad" in (run / "figures" / "neighbours.html").read_text()
    capsys.readouterr()
    everything = "knn,linear_probe,low_label,finetune,transfer,geometry,projection"
    everything += "" if name == "uda_imdb_cpu" else ",score"
    arguments = ["--workdir", str(run), "--evals", everything, f"--eval.transfer.sources={there}", *OPTIONS]
    assert evaluate.main(arguments) == 0
    said = capsys.readouterr().out
    assert "image" not in said
    assert "WARNING" not in said
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    metrics, summary = found["metrics"], json.loads((run / "summary.json").read_text())
    for metric in ("knn_top1", "linear_top1", "low_label_2_top1", "low_label_tuned_2_top1", "transfer_there_knn_top1"):
        assert 0 <= metrics[f"test_{metric}"] <= 1
    assert {"test_finetune_extract_top1", "test_finetune_tune_top1", "test_rankme"} <= metrics.keys()
    assert "test_projection_pca_trustworthiness" in metrics
    assert "test_alignment" not in metrics
    again = {key: value for key, value in summary.items() if key in metrics}
    assert {key: metrics[key] for key in again} == pytest.approx(again)
    assert ("test_perplexity" in again) == (name != "uda_imdb_cpu")
    page = (run / "evaluation" / "report.html").read_text()
    assert 'class="row document"' in page
    assert "&lt;b&gt;&amp;" in page
    assert "are missing" not in page

    for refused in (["--source=digits"], ["--evals=transfer", "--eval.transfer.sources=digits"]):
        assert evaluate.main(["--workdir", str(run), "--outdir", str(tmp_path / "none"), *refused]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "none").exists()
