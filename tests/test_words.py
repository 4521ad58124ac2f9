"""word2vec and GloVe: what their batches hold, their losses and gradients against NumPy, and what they learn."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax import models
from ssl_jax.data.text import cooccurrences, windows
from ssl_jax.experiment import build, make_method
from ssl_jax.methods import glove, language_model, supervised, word2vec
from ssl_jax.train import fit
from ssl_jax.types import Plan, Vocab

VOCAB, SPECIAL = 12, [0, 1]
PLAN = Plan(10, 5, 8, (5,), 2, vocab=Vocab(VOCAB, unk=1))
DOCUMENTS = [np.array(d, np.int32) for d in ([2, 3, 1, 4, 5, 2, 6], [7, 8, 2], [9, 10, 11, 2, 3, 4, 2, 2])]
SIZES = windows.Sizes(length=4, window=2, negatives=3)


def corpus(subsample=0.0, documents=DOCUMENTS):
    return windows.corpus(documents, window=2, subsample=subsample, vocab=VOCAB, special=SPECIAL)


# --- batches


def pairs_of(batch):
    """How often which (centre, context) is in a batch."""
    view, reach = batch["views"][0], batch["reach"]
    found = Counter()
    for row, far in zip(view, reach, strict=True):
        for i, r in enumerate(far):
            near = [j for j in range(i + 2 - r, i + 2 + r + 1) if j != i + 2 and row[j]]
            found.update((int(row[i + 2]), int(row[j])) for j in near)
    return found


def test_an_epoch_has_every_word_as_centre_once_and_no_neighbour_of_another_document():
    feed = windows.feed(corpus(), SIZES, seed=0, global_batch_size=2)
    batches = list(feed.batches(total_steps=feed.steps_per_epoch))
    centres = np.concatenate([b["views"][0][:, 2:-2][b["reach"] > 0] for b in batches])
    words = np.concatenate(DOCUMENTS)
    assert sorted(centres) == sorted(words[words > 1])
    wide = set()
    for document in DOCUMENTS:
        left = document[document > 1]  # what is unknown is no word, and those beside it are neighbours
        wide |= {(a, b) for i, a in enumerate(left) for j, b in enumerate(left) if 0 < abs(i - j) <= 2}
    narrow = {(a, b) for d in DOCUMENTS for left in [d[d > 1]] for a, b in pairwise(left)}
    found = set(sum((pairs_of(b) for b in batches), Counter()))
    assert narrow | {(b, a) for a, b in narrow} <= found <= wide


def test_batches_depend_on_seed_and_step_alone_and_are_split_over_processes():
    feed = windows.feed(corpus(0.05), SIZES, seed=3, global_batch_size=2)
    whole = list(feed.batches(total_steps=7))
    later = next(feed.batches(start_step=5))
    parts = [list(feed.batches(total_steps=7, process=p, process_count=2))[5] for p in range(2)]
    other = next(windows.feed(corpus(0.05), SIZES, seed=4, global_batch_size=2).batches(start_step=5))
    for name in ("reach", "negatives", "index"):
        np.testing.assert_array_equal(later[name], whole[5][name])
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[5][name])
    np.testing.assert_array_equal(later["views"][0], whole[5]["views"][0])
    np.testing.assert_array_equal(np.concatenate([p["views"][0] for p in parts]), whole[5]["views"][0])
    assert any((other[name] != later[name]).any() for name in ("reach", "negatives"))


def test_draws_are_as_often_as_they_should_be():
    rng = np.random.default_rng(0)
    text = rng.choice(np.arange(2, VOCAB), 40_000, p=np.arange(10, 0, -1) / 55).astype(np.int32)
    found, sizes = corpus(0.02, [text]), windows.Sizes(100, 5, 64)
    counts = np.bincount(text, minlength=VOCAB)
    share = counts[2:] / counts.sum()
    want = np.minimum(1, np.sqrt(0.02 / share) + 0.02 / share)
    left = np.bincount(windows.keep(found, np.random.default_rng(1), sizes), minlength=VOCAB)[2:]
    error = np.sqrt(counts[2:] * want * (1 - want)) + 1e-9
    assert (np.abs(left - counts[2:] * want) < 4 * error).all()
    assert 0.4 < want.min() < 0.5
    feed = windows.feed(found, sizes, seed=0, global_batch_size=50)
    batches = list(feed.batches(total_steps=4))
    drawn = np.bincount(np.concatenate([b["negatives"].ravel() for b in batches]), minlength=VOCAB)[2:]
    expected = share**0.75 / (share**0.75).sum() * drawn.sum()
    assert ((drawn - expected) ** 2 / expected).sum() < 27.9  # chi-square of 9 degrees, 1 in 1,000
    reach = np.bincount(np.concatenate([b["reach"].ravel() for b in batches]), minlength=6)
    assert reach[0] == 0
    assert (np.abs(reach[1:] / reach.sum() - 0.2) < 0.02).all()


def test_held_out_words_are_centres_once_whatever_the_batch():
    for rows in (2, 4):
        batches = list(windows.held_out(corpus(), SIZES, global_batch_size=rows))
        counted = [b["views"][0][:, 2:-2][(b["reach"] > 0) & (b["index"] >= 0)[:, None]] for b in batches]
        words = np.concatenate(DOCUMENTS)
        assert sorted(np.concatenate(counted)) == sorted(words[words > 1])


def test_too_few_words_are_refused_in_a_line():
    with pytest.raises(ValueError, match=r"the 17 words of train are too few for data.global_batch_size=64 rows"):
        windows.feed(corpus(), SIZES, seed=0, global_batch_size=64)
    found = cooccurrences.cells(DOCUMENTS, window=2, vocab=VOCAB, special=SPECIAL)
    with pytest.raises(ValueError, match=r"too few for data.global_batch_size=64 rows of data.length=4"):
        cooccurrences.feed(found, length=4, seed=0, global_batch_size=64)


def test_cells_are_counts_by_distance_and_an_epoch_goes_through_them():
    found = cooccurrences.cells(DOCUMENTS, window=3, vocab=VOCAB, special=SPECIAL)
    want = np.zeros((VOCAB, VOCAB))
    for document in DOCUMENTS:
        left = document[document > 1]
        for i, a in enumerate(left):
            for j, b in enumerate(left):
                if 0 < abs(i - j) <= 3:
                    want[a, b] += 1 / abs(i - j)
    dense = np.zeros_like(want)
    np.add.at(dense, (found.words, found.contexts), found.counts)
    np.testing.assert_allclose(dense, want, rtol=1e-6)
    assert len(found.counts) == (want > 0).sum()
    feed = cooccurrences.feed(found, length=3, seed=0, global_batch_size=2)
    batches = list(feed.batches(total_steps=feed.steps_per_epoch))
    seen = [
        (a, b) for batch in batches for a, b in zip(batch["views"][0].ravel(), batch["context"].ravel(), strict=True)
    ]
    assert len(seen) == len(set(seen)) == feed.steps_per_epoch * 6
    assert all(want[a, b] > 0 for a, b in seen)


# --- losses


def table(**fields):
    return models.make("embedding", **{"vocab": VOCAB, "width": 3} | fields)


def batch_of(found=None, rows=4):
    batch = next(windows.feed(found or corpus(), SIZES, seed=0, global_batch_size=rows).batches())
    return jax.tree.map(jnp.asarray, batch)


def with_tables(variables, names=("encoder/stem_embedding", "output/table")):
    """The variables with numbers of some size in all tables."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), variables.params)
    return variables._replace(params=params)


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def by_hand(form, v, u, batch, k):
    """(loss, its gradients), pair by pair, by the equations and their derivatives."""
    view, reach, noise = (np.asarray(a) for a in (batch["views"][0], batch["reach"], batch["negatives"]))
    total, number, dv, du = 0.0, 0, np.zeros_like(v), np.zeros_like(u)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for row, far, negatives in zip(view, reach, noise, strict=True):
        for i, r in enumerate(far):
            near = [j for j in range(i + 2 - r, i + 2 + r + 1) if j != i + 2 and row[j]]
            if not near:
                continue
            asked = [([row[i + 2]], row[j]) for j in near]
            if form == "cbow":
                asked = [([row[j] for j in near], row[i + 2])]
            for inputs, target in asked:
                h = v[inputs].mean(0)
                number += 1
                terms = [(target, 1.0, 1.0)] + [(n, -1.0, k / len(negatives)) for n in negatives]
                for word, sign, weight in terms:
                    x = sign * u[word] @ h
                    total -= weight * log_sigmoid(x)
                    slope = -weight * sigmoid(-x) * sign
                    du[word] += slope * h
                    for word_in in inputs:
                        dv[word_in] += slope * u[word] / len(inputs)
    return total / number, dv / number, du / number


@pytest.mark.parametrize("form", ["skipgram", "cbow"])
def test_word2vec_is_its_equation_and_so_is_its_gradient(form):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        made, batch = word2vec.make(table(), plan=PLAN, form=form, negatives=4), batch_of()
        variables = with_tables(jax.jit(made.init)(jax.random.key(0), batch))

        def loss(params):
            return made.loss(variables._replace(params=params), batch, jax.random.key(0), jnp.int32(0), None)[0]

        value, slope = jax.jit(jax.value_and_grad(loss))(variables.params)
        v, u = (np.asarray(variables.params[a][b]) for a, b in (("encoder", "stem_embedding"), ("output", "table")))
        want, dv, du = by_hand(form, v, u, batch, k=4)
        assert float(value) == pytest.approx(want, rel=1e-9)
        np.testing.assert_allclose(slope["encoder"]["stem_embedding"], dv, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(slope["output"]["table"], du, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("form", ["skipgram", "cbow"])
def test_untrained_it_knows_nothing(form):
    made, batch = word2vec.make(table(), plan=PLAN, form=form, negatives=4), batch_of()
    variables = jax.jit(made.init)(jax.random.key(0), batch)
    value, _ = jax.jit(lambda v, b: made.loss(v, b, jax.random.key(0), jnp.int32(0), None))(variables, batch)
    assert float(value) == pytest.approx(5 * np.log(2), rel=1e-6)
    sums = [
        jax.jit(made.hooks["score"])(variables, jax.tree.map(jnp.asarray, b), jax.random.key(0), None)[0]["loss"]
        for b in windows.held_out(corpus(), SIZES, global_batch_size=4)
    ]
    assert sum(float(s) for s, _ in sums) / sum(int(n) for _, n in sums) == pytest.approx(5 * np.log(2), rel=1e-6)


def test_glove_is_its_equation_and_so_is_its_gradient():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        found = cooccurrences.cells(DOCUMENTS, window=3, vocab=VOCAB, special=SPECIAL)
        batch = next(cooccurrences.feed(found, length=5, seed=0, global_batch_size=4).batches())
        batch = jax.tree.map(jnp.asarray, batch)
        made = glove.make(table(), plan=PLAN, x_max=1.5)
        variables = with_tables(jax.jit(made.init)(jax.random.key(0), batch))

        def loss(params):
            return made.loss(variables._replace(params=params), batch, jax.random.key(0), jnp.int32(0), None)[0]

        value, slope = jax.jit(jax.value_and_grad(loss))(variables.params)
        p = jax.tree.map(np.asarray, variables.params)
        w, other = p["encoder"]["stem_embedding"], p["context"]["table"]
        i, j, x = (np.asarray(a, np.float64).ravel() for a in (batch["views"][0], batch["context"], batch["count"]))
        i, j = i.astype(int), j.astype(int)
        residual = (w[i] * other[j]).sum(1) + p["word"]["bias"][i] + p["context"]["bias"][j] - np.log(x)
        f = np.minimum(1, (x / 1.5) ** 0.75)
        assert (f < 1).any()
        assert (f == 1).any()
        assert float(value) == pytest.approx((f * residual**2).mean(), rel=1e-6)
        want = np.zeros_like(w)
        np.add.at(want, i, (2 * f * residual / len(x))[:, None] * other[j])
        np.testing.assert_allclose(slope["encoder"]["stem_embedding"], want, rtol=1e-5, atol=1e-9)
        bias = np.zeros(VOCAB)
        np.add.at(bias, j, 2 * f * residual / len(x))
        np.testing.assert_allclose(slope["context"]["bias"], bias, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(made.trunk(variables)[0]["stem_embedding"], w + other)


def test_a_document_is_the_mean_of_its_words():
    encoder = table()
    params, _ = models.init(encoder, jax.random.key(0), np.zeros((1, 4), np.int32))
    tokens = np.array([[2, 3, 3, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    out, _ = models.forward(encoder, params, {}, jnp.asarray(tokens), train=False)
    vectors = np.asarray(params["stem_embedding"])
    np.testing.assert_allclose(out["features"], [vectors[[2, 3, 3]].mean(0), np.zeros(3)], rtol=1e-6, atol=1e-9)
    assert (np.abs(vectors) <= 0.5 / 3).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: word2vec.make(table(), plan=PLAN._replace(vocab=None)), "reads text; use data.recipe=windows"),
        (lambda: word2vec.make(models.make("lstm"), plan=PLAN), "learns a table of words"),
        (lambda: word2vec.make(table(), plan=PLAN, form="skip"), "method.form='skip' is not one of skipgram, cbow"),
        (lambda: word2vec.make(table(), plan=PLAN, negatives=0), "method.negatives=0 must be 1 or more"),
        (lambda: glove.make(table(), plan=PLAN, x_max=0.0), "method.x_max=0.0 must be positive"),
        (
            lambda: glove.make(table(), plan=PLAN).init(jax.random.key(0), batch_of()),
            "method.name='glove' needs data.recipe=cooccurrences",
        ),
        (
            lambda: language_model.make(models.make("lstm", vocab=9), plan=PLAN).init(jax.random.key(0), batch_of()),
            "method.name='language_model' reads text as a stream; use data.recipe=stream",
        ),
        (
            lambda: supervised.make(table(), plan=PLAN._replace(num_classes=2)).init(jax.random.key(0), batch_of()),
            "'supervised' reads whole documents with their labels, and this recipe gives other rows .*=documents",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_encoder_of_tokens_is_refused_for_images():
    found = runs.config("simclr")
    found.model = ConfigDict({"name": "embedding", "width": 8})
    with pytest.raises(
        ValueError, match=r"model\.name='embedding' reads tokens and data\.recipe='runs:VIEWS' gives images"
    ):
        make_method(found, Plan(1, 1, 8, (8, 8, 1), 8))


# --- runs


def config(folder, method):
    found = runs.config("supervised", train__steps=60, train__eval_every=20, train__checkpoint_every=20)
    found.method, found.model = ConfigDict({"name": method}), ConfigDict({"name": "embedding", "width": 8})
    recipe, length = ("windows", 8) if method == "word2vec" else ("cooccurrences", 4)
    found.data.update({"source": f"text:{folder}", "recipe": recipe, "length": length, "global_batch_size": 8})
    found.data.tokenizer.update({"kind": "spaced", "min_frequency": 1})
    found.optim.update({"name": "adamw", "learning_rate": 0.05, "scale": "none", "weight_decay": 0.0})
    return found


@pytest.fixture
def folder(tmp_path):
    """Words of two kinds that never stand together."""
    rng = np.random.default_rng(0)
    kinds = [["cat", "dog", "owl", "cow"], ["red", "blue", "green", "pink"]]
    lines = [" ".join(rng.choice(kinds[i % 2], 12)) for i in range(150)]
    path = tmp_path / "corpus"
    path.mkdir()
    for name, part in {"train": lines[:120], "valid": lines[120:135], "test": lines[135:]}.items():
        (path / f"{name}.txt").write_text("\n".join(part) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", ["word2vec", "glove"])
def test_a_run_learns_which_words_are_alike(method, folder, tmp_path):
    summary = fit(build(config(folder, method)), tmp_path / "run")
    if method == "word2vec":
        assert summary["test_loss"] < 0.9 * 6 * np.log(2)
    variables, encode, _ = ssl_jax.load(tmp_path / "run")
    h = np.asarray(encode(variables, ["cat", "dog", "red", "blue"])["features"])
    h = h - h.mean(0)  # what all words have in common
    h = h / np.linalg.norm(h, axis=1, keepdims=True)
    alike = h @ h.T
    assert min(alike[0, 1], alike[2, 3]) > max(alike[:2, 2:].max(), 0) + 0.2
