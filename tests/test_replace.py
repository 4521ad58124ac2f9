"""Words of low TF-IDF are replaced by others of low TF-IDF; batches of documents in two forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import runs
from ml_collections import ConfigDict
from scipy import stats

from ssl_jax import train
from ssl_jax.data import few_labels
from ssl_jax.data.readers import text as reader
from ssl_jax.data.source import Splits, join
from ssl_jax.data.text import replace
from ssl_jax.experiment import build

SIZE, SPECIAL = 12, (1, 2)
DOCUMENTS = [np.array(d, np.int32) for d in ([3, 4, 3, 5, 1], [3, 6, 7, 7], [3, 4, 8, 1], [9, 3, 4, 4, 4, 10])]


def tf_idf():
    """(IDF, TF-IDF summed over documents) in the plainest way."""
    idf = {w: math.log(len(DOCUMENTS) / sum(w in d for d in DOCUMENTS)) for d in DOCUMENTS for w in d.tolist()}
    score = dict.fromkeys(idf, 0.0)
    for d in DOCUMENTS:
        for w in d.tolist():
            score[w] += idf[w] / len(d)
    return idf, score


def test_chances_are_of_what_a_word_lacks_and_their_mean_is_the_share():
    idf, _ = tf_idf()
    words = replace.corpus(DOCUMENTS, SIZE, SPECIAL)
    for document in DOCUMENTS:
        x = [document.tolist().count(w) / len(document) * idf[w] for w in document.tolist()]
        z = sum(max(x) - a for a in x) / len(x)
        found = replace.chances(document, words.idf, 0.2)
        np.testing.assert_allclose(found, [0.2 * (max(x) - a) / z for a in x])
        assert found.mean() == pytest.approx(0.2)
        assert replace.chances(document, words.idf, 0.9).max() == 1
    np.testing.assert_allclose(replace.chances(np.array([5, 5], np.int32), words.idf, 0.3), 0.3)
    assert len(replace.chances(np.zeros(0, np.int32), words.idf, 0.3)) == 0


def test_words_are_drawn_by_what_they_lack():
    _, score = tf_idf()
    words = replace.corpus(DOCUMENTS, SIZE, SPECIAL)
    able = sorted(set(score) - set(SPECIAL))
    assert words.drawn.tolist() == able
    lack = np.array([max(score[w] for w in able) - score[w] for w in able])
    np.testing.assert_allclose(np.diff(words.cumulative, prepend=0), lack / lack.sum(), atol=1e-12)
    document = np.full(4000, 9, np.int32)  # all words tell as much, so a share of 1 replaces all
    drawn = replace.replaced(document, words, 1.0, (0, 0, 0))
    counts = np.array([(drawn == w).sum() for w in able])
    assert counts[lack == 0].sum() == 0
    assert stats.chisquare(counts[lack > 0], 4000 * (lack / lack.sum())[lack > 0]).pvalue > 1e-3


def test_by_seed_step_and_example_alone():
    words = replace.corpus(DOCUMENTS, SIZE, SPECIAL)
    document = np.tile(DOCUMENTS[3], 20)

    def made(*seed):
        return replace.replaced(document, words, 0.5, seed).tolist()

    assert made(0, 1, 2) == made(0, 1, 2)
    assert len({tuple(made(*s)) for s in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3))}) == 4
    changed = np.mean([np.array(made(0, t, 0)) != document for t in range(200)], axis=0)
    # The commonest word of the document that is in few others stays; a word of all documents goes most often.
    assert changed[document == 3].min() > changed[document == 4].max()


def test_without_words_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="hold no word by which others could be replaced"):
        replace.corpus([np.array([1], np.int32)], SIZE, SPECIAL)


def reviews(n=40):
    rng = np.random.default_rng(0)
    common = ["the", "a", "of", "and", "it", "was", "film", "very"]
    opinion = (["awful", "boring", "bad", "dull"], ["great", "lovely", "good", "fine"])
    texts = [" ".join(rng.permutation([*rng.choice(common, 8), *rng.choice(opinion[i % 2], 3)])) for i in range(n)]
    return reader.of_texts(
        texts, np.arange(n, dtype=np.int32) % 2, ("neg", "pos"), seconds=[text.upper() for text in texts]
    )


def config(recipe="documents_uda", **changes):
    found = runs.config("supervised", **{"data__augment": "device", "data__recipe": recipe} | changes)
    found.method = ConfigDict({"name": "uda", "temperature": 0.85, "tsa": "linear"})
    found.model = ConfigDict({"name": "lstm", "width": 8, "layers": 1, "dropout": 0.1})
    found.data.update({"labelled": 6, "ratio": 2, "global_batch_size": 4, "document_length": 16, "num_examples": None})
    found.data.update({"source": "text:none"})
    found.data.tokenizer.lowercase = True
    found.train.update({"steps": 6, "eval_every": 3, "checkpoint_every": 3})
    return found


@pytest.fixture(scope="module")
def splits():
    whole = reviews()
    return Splits(whole.take(np.arange(24)), whole.take(np.arange(24, 32)), whole.take(np.arange(32, 40)))


@pytest.mark.parametrize("recipe", ["documents_uda", "documents_uda_pairs", "documents_uda_enclosed"])
def test_batches_of_documents_in_two_forms(recipe, splits):
    built = build(config(recipe), splits)
    assert (built.plan.steps_per_epoch, built.plan.num_examples) == (24 // 8, 24)
    known = few_labels.labelled(built.splits.train)
    batch = next(built.feed.batches(total_steps=1))
    assert set(batch["index"]) <= set(known)
    assert (batch["label"] >= 0).all()
    spec = built.modality.spec(4)
    assert set(spec) == set(batch)
    views = ((*part["views"], *part["unlabelled"]["views"]) for part in (batch, spec))
    for a, b in zip(*views, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    plain, other = batch["unlabelled"]["views"]
    assert plain.shape == (8, 16)
    np.testing.assert_array_equal(plain == 0, other == 0)  # the same length, padded the same
    changed = (plain != other)[plain != 0].mean()
    if recipe == "documents_uda_pairs":  # upper case, which the tokenizer makes lower again
        assert changed == 0
    else:
        assert 0.1 < changed < 0.5
    vocab = built.modality.vocab
    if recipe == "documents_uda_enclosed":
        for view in (plain, other):
            assert (view[:, 0] == vocab.cls).all()
            assert ((view == vocab.sep).sum(1) == 1).all()
    shares = [next(built.feed.batches(start_step=2, total_steps=3, process=p, process_count=2)) for p in (0, 1)]
    whole = next(built.feed.batches(start_step=2, total_steps=3))
    for v in (0, 1):
        np.testing.assert_array_equal(
            np.concatenate([share["unlabelled"]["views"][v] for share in shares]), whole["unlabelled"]["views"][v]
        )
    # Supervised training takes the labelled documents alone.
    alone = config(recipe)
    alone.method = ConfigDict({"name": "supervised"})
    assert set(next(build(alone, splits).feed.batches(total_steps=1))) == {"views", "label", "index"}


def test_pairs_need_their_column(splits):
    bare = Splits(*(reader.of_texts(part.columns["text"], part.labels, part.class_names) for part in splits))
    with pytest.raises(ValueError, match=r"name it with data.second_column, or use data.recipe=documents_uda"):
        build(config("documents_uda_pairs"), bare)
    joined = join(splits.train, bare.val)
    assert set(joined.columns) == {"text"}


def test_a_table_with_another_form(tmp_path):
    (tmp_path / "train.csv").write_text("text,back,label\nthe cat,a cat,0\na dog,the dog,1\n")
    (tmp_path / "test.csv").write_text("text,label\nthe cow,0\n")
    with pytest.raises(ValueError, match=r"test.csv has no column 'back' \(data.second_column\)"):
        reader.load(tmp_path, columns=reader.Columns(second="back"))
    (tmp_path / "test.csv").unlink()
    found = reader.load(tmp_path, columns=reader.Columns(second="back")).train
    assert found.columns["text_2"].tolist() == ["a cat", "the dog"]
    assert set(reader.load(tmp_path).train.columns) == {"text"}
    (tmp_path / "train.jsonl").write_text('{"text": "a", "text_2": "b"}\n{"text": "c"}\n')
    (tmp_path / "train.csv").unlink()
    with pytest.raises(ValueError, match=r"train.jsonl, line 2: there is no text in the column 'text_2'"):
        reader.load(tmp_path)


@pytest.mark.slow
def test_a_run_on_documents(tmp_path, splits):
    with runs.no_pictures():
        summary = train.fit(build(config(train__steps=6), splits), tmp_path / "run")
    assert 0 <= summary["test_top1"] <= 1
    assert summary["eval"]["bank"] == 6
