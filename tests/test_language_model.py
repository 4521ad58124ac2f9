"""The language model: LSTM and its dropouts against NumPy, what its loss is, and what it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from ml_collections import ConfigDict

import ssl_jax
from experiments import generate
from ssl_jax import models
from ssl_jax.evals.shared.score import score
from ssl_jax.experiment import build
from ssl_jax.interop import vocabulary
from ssl_jax.methods import language_model
from ssl_jax.models.lstm import concat_pool
from ssl_jax.train import fit
from ssl_jax.types import Plan, Vocab

TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 0, 0]], np.int32)
PLAN = Plan(10, 5, 8, (5,), 2, vocab=Vocab(9, unk=1, eos=2))


def lstm(**fields):
    return models.make("lstm", **{"vocab": 9, "width": 4, "hidden": 6, "layers": 2} | fields)


def run(encoder, params, tokens=TOKENS, **inputs):
    return models.forward(encoder, params, {}, jnp.asarray(tokens), **{"train": False} | inputs)[0]


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, models.init(lstm(), jax.random.key(0), TOKENS)[0])


def by_hand(params, tokens, states):
    """The equations, token by token, in float64."""
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    x = p["stem_embedding"][tokens]
    ends = []
    for k, (h, c) in enumerate(states, 1):
        outputs = []
        for t in range(x.shape[1]):
            i, f, g, o = np.split(
                x[:, t] @ p[f"stage{k}_input"] + h @ p[f"stage{k}_state"] + p[f"stage{k}_bias"], 4, -1
            )
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        x = np.stack(outputs, 1)
        ends.append((h, c))
    return x, ends


def test_layers_are_the_equations_and_the_state_goes_on(params):
    rng = np.random.default_rng(0)
    states = [tuple(rng.normal(size=(2, n)) for _ in range(2)) for n in (6, 4)]
    rows = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tuple(states))
    out = run(lstm(), params, rows=rows)
    want, ends = by_hand(params, TOKENS, states)
    np.testing.assert_allclose(out["output"], want, rtol=1e-5, atol=1e-6)
    for got, end in zip(jax.tree.leaves(out["rows"]), jax.tree.leaves(ends), strict=True):
        np.testing.assert_allclose(got, end, rtol=1e-5, atol=1e-6)
    first = run(lstm(), params, TOKENS[:, :2], rows=rows)
    second = run(lstm(), params, TOKENS[:, 2:], rows=first["rows"])
    np.testing.assert_allclose(second["output"], out["output"][:, 2:], rtol=1e-5, atol=1e-6)


def test_carried_state_and_gradients_are_those_of_torch():
    with np.load(Path(__file__).parent / "oracles" / "lstm.npz") as found:
        oracle = dict(found)

    def ours(kind):
        """Weights or their gradients under our names."""
        of = {name.removeprefix(f"{kind}/"): array for name, array in oracle.items() if name.startswith(kind)}
        made = {"stem_embedding": of["embedding"]}
        for k in range(2):
            made |= {f"stage{k + 1}_input": of[f"weight_ih_l{k}"].T, f"stage{k + 1}_state": of[f"weight_hh_l{k}"].T}
            both = of[f"bias_ih_l{k}"], of[f"bias_hh_l{k}"]  # one bias where torch adds two
            made[f"stage{k + 1}_bias"] = sum(both) if kind == "weights" else both[0]
        return made

    encoder, rows, before = lstm(vocab=11, width=6, hidden=6), None, None
    with contract.double():
        params = ours("weights")
        apply = jax.jit(lambda p, x, rows: run(encoder, p, x, rows=rows))
        for i, window in enumerate(oracle["tokens"]):
            before, out = rows, apply(params, window, rows)
            rows = out["rows"]
            np.testing.assert_allclose(out["output"], oracle[f"outputs/{i}"], rtol=1e-9, atol=1e-12)
            for name, parts in zip("hc", zip(*rows, strict=True), strict=True):
                np.testing.assert_allclose(np.stack(parts), oracle[f"{name}/{i}"], rtol=1e-9, atol=1e-12)
        last = oracle["tokens"][-1]
        gradients = jax.jit(jax.grad(lambda p: jnp.square(run(encoder, p, last, rows=before)["output"]).sum()))(params)
    for name, want in ours("gradients").items():
        np.testing.assert_allclose(gradients[name], want, rtol=1e-9, atol=1e-12, err_msg=name)


def test_features_know_nothing_of_padding(params):
    x = np.random.default_rng(0).normal(size=(3, 5, 2))
    present = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    want = [np.concatenate([r[p][-1], r[p].max(0), r[p].mean(0)]) for r, p in zip(x[:2], present[:2], strict=True)]
    found = concat_pool(jnp.asarray(x, jnp.float32), jnp.asarray(present))
    np.testing.assert_allclose(found, [*want, np.zeros(6)], rtol=1e-5, atol=1e-6)
    longer = run(lstm(), params, np.pad(TOKENS, ((0, 0), (0, 3))))
    np.testing.assert_allclose(longer["features"], run(lstm(), params)["features"], rtol=1e-5, atol=1e-6)


DROPS = ("dropout", "inner_dropout", "input_dropout", "word_dropout", "weight_dropout")


@pytest.mark.parametrize("name", DROPS)
def test_each_dropout_drops_where_it_should(params, name):
    encoder, plain = lstm(**{name: 0.5}), run(lstm(), params)
    dropped = run(encoder, params, train=True, key=jax.random.key(1))
    assert any(np.abs(dropped[k] - plain[k]).max() > 1e-3 for k in ("stem", "stage1", "stage2", "output"))
    for inputs in ({"train": True}, {"train": False, "key": jax.random.key(1)}):
        np.testing.assert_allclose(run(encoder, params, **inputs)["output"], plain["output"], rtol=1e-6)
    if name == "dropout":  # one mask for all tokens of an example, kept values twice as large
        ratio = np.asarray(dropped["output"] / plain["output"])
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-4)
        assert set(np.round(ratio.ravel(), 3)) == {0.0, 2.0}
        assert (ratio[0, 0] != ratio[1, 0]).any()
    if name == "word_dropout":  # a word is nothing wherever it stands
        gone = np.asarray(dropped["stem"] == 0).all(-1)
        assert 0 < gone.sum() < gone.size
        assert all(len({bool(g) for g in gone[word == TOKENS]}) == 1 for word in np.unique(TOKENS))


def method(**arguments):
    return language_model.make(lstm(), plan=PLAN, **arguments)


def batch(first=True):
    tokens = np.concatenate([TOKENS, np.array([[9 - 1], [0]], np.int32)], 1)
    return {"tokens": tokens, "views": (tokens[:, :-1],), "first": np.full(2, first)} | {
        "label": np.full(2, -1, np.int32),
        "index": np.arange(2, dtype=np.int32),
    }


@pytest.mark.parametrize("tied", [True, False])
def test_loss_is_the_cross_entropy_of_the_next_word(tied):
    made = method(tied=tied, activity=2.0, change=1.0)
    variables = jax.jit(made.init)(jax.random.key(3), batch())
    value, out = jax.jit(lambda v, b: made.loss(v, b, jax.random.key(0), jnp.int32(0), None))(variables, batch())
    zeros = [(np.zeros((2, n)),) * 2 for n in (6, 4)]
    hidden, _ = by_hand(variables.params["encoder"], TOKENS, zeros)
    decoder = jax.tree.map(lambda a: np.asarray(a, np.float64), variables.params["decoder"])
    kernel = np.asarray(variables.params["encoder"]["stem_embedding"]).T if tied else decoder["dense0"]["kernel"]
    logits = hidden @ kernel + (decoder["bias"] if tied else decoder["dense0"]["bias"])
    each = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, batch()["tokens"][:, 1:, None], -1)[..., 0]
    asked = batch()["tokens"][:, 1:] > 0
    want = each[asked].mean()
    assert float(out.metrics["perplexity"]) == pytest.approx(np.exp(want), rel=1e-4)
    want += 2 * np.square(hidden).mean() + np.square(hidden[:, 1:] - hidden[:, :-1]).mean()
    assert float(value) == pytest.approx(want, rel=1e-5)


def test_an_untrained_model_is_as_good_as_a_guess_and_rows_begin_anew_where_asked():
    made = method()
    variables = jax.jit(made.init)(jax.random.key(3), batch())
    loss = jax.jit(lambda v, b: made.loss(v, b, jax.random.key(0), jnp.int32(0), None))
    value, out = loss(variables, batch())
    assert float(value) == pytest.approx(np.log(9), abs=0.05)
    later = variables._replace(rows=out.rows)
    assert float(loss(later, batch(first=True))[0]) == float(value)
    assert float(loss(later, batch(first=False))[0]) != float(value)


def test_the_score_counts_tokens_and_not_batches():
    made = method()
    variables = jax.jit(made.init)(jax.random.key(3), batch())
    one, few = batch(), batch()
    few["index"] = np.array([0, -1], np.int32)
    found = score(made, variables, [one, few], key=jax.random.key(0), place=lambda b: jax.tree.map(jnp.asarray, b))
    sums = [jax.jit(made.hooks["score"])(variables, b, jax.random.key(0), None)[0]["loss"] for b in (one, few)]
    # The second batch begins anew in every row, as the first does: "first" is True in both.
    total = sum(float(s) for s, _ in sums) / sum(int(n) for _, n in sums)
    assert [int(n) for _, n in sums] == [7, 5]
    assert found["loss"] == pytest.approx(total, rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(total), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: language_model.make(lstm(), plan=PLAN._replace(vocab=None)), "reads text"),
        (lambda: language_model.make(models.make("convnet"), plan=PLAN), "needs an encoder of tokens"),
        (lambda: method(change=-1.0), r"method.change=-1.0 must not be negative"),
        (lambda: language_model.make(transformer(causal=False), plan=PLAN), r"sees it; set model.causal=True"),
        (lambda: language_model.make(transformer(), plan=PLAN, change=1.0), r"change=1.0 is of a recurrent encoder's"),
        (lambda: models.init(lstm(dropout=1.0), jax.random.key(0), TOKENS), r"model.dropout=1.0 must be in"),
        (lambda: models.init(lstm(layers=0), jax.random.key(0), TOKENS), "make no network"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
def test_a_run_learns_goes_on_and_is_opened(tmp_path, capsys):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.txt").write_text("the cat sat on the mat .\nthe dog ate the cat .\n" * 60)
    (folder / "valid.txt").write_text("the dog sat on the mat .\n" * 9)
    (folder / "test.txt").write_text("the cat ate the dog .\n" * 9)

    def config():
        found = runs.config("supervised", train__steps=24, train__eval_every=8, train__checkpoint_every=8)
        found.method, found.model = ConfigDict({"name": "language_model"}), ConfigDict({"name": "lstm"})
        found.model.update({"width": 16, "layers": 1, "dropout": 0.1})
        found.data.update({"source": f"text:{folder}", "recipe": "stream", "length": 7, "global_batch_size": 8})
        found.data.tokenizer.update({"kind": "spaced", "min_frequency": 1})
        found.optim.update({"name": "adamw", "learning_rate": 0.03, "scale": "none"})
        return found

    summary = fit(build(config()), tmp_path / "whole")
    assert summary["test_perplexity"] == pytest.approx(np.exp(summary["test_loss"]))
    assert summary["test_perplexity"] < 8  # of 15 tokens
    assert (tmp_path / "whole" / "tokenizer.json").is_file()
    page = (tmp_path / "whole" / "figures" / "batch.html").read_text()
    assert "<ruby><span class=asked>the</span><rt>cat</rt></ruby>" in page  # the first words, and what follows
    words = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())["model"]["vocab"]
    assert f"<tr><td>the<td>{words['the']}<td>" in page
    assert f"<td>cat ({words['cat']})</tr>" in page
    assert f"The matrix is {len(words)} x 16." in page
    # From an earlier checkpoint it goes on to the same bits: tokenizer, order and carried state are those of the run.
    (tmp_path / "whole" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "24")
    again = fit(build(config(), folder=tmp_path / "whole"), tmp_path / "whole")
    assert again["params_fingerprint"] == summary["params_fingerprint"]
    assert generate.main([str(tmp_path / "whole"), "the dog ate", "--tokens", "4", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("the dog ate the")
    assert generate.main(["the dog", f"--workdir={tmp_path / 'whole'}", "--top", "99"]) == 2
    assert "--top 99 must be from 1 to the" in capsys.readouterr().err
    variables, encode, _ = ssl_jax.load(tmp_path / "whole")
    features = encode(variables, ["the cat sat", "the dog"])["features"]
    assert features.shape == (2, 48)


@pytest.mark.slow
def test_a_cut_state_takes_no_gradient_back(params):
    """At every multiple of ``bptt``: what a token gives to later windows is its own only through what is read there."""
    tokens = jnp.asarray(TOKENS[:1])

    def last(table, bptt):
        return run(lstm(bptt=bptt), {**params, "stem_embedding": table}, tokens)["output"][0, -1].sum()

    table = jnp.asarray(params["stem_embedding"])
    assert float(last(table, 2)) == float(last(table, None))
    whole, cut = (np.abs(np.asarray(jax.grad(last)(table, bptt))).sum(-1) for bptt in (None, 2))
    assert (whole[[3, 1, 4, 5]] > 0).all()
    # The last window holds the token 5 alone; before it are 3, 1 and 4, 1.
    assert cut[5] == pytest.approx(whole[5], rel=1e-5)
    assert not cut[[3, 1, 4]].any()


def test_words_take_their_rows_into_another_vocabulary(tmp_path):
    theirs, ours = ("[PAD]", "<unk>", "cat", "dog"), ("[PAD]", "<unk>", "dog", "owl", "cat")
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    other = {"stage1_bias": np.ones(4, np.float32)}
    (params, state), said = vocabulary.by_word(
        ({"stem_embedding": table, **other}, {}), ("stem_embedding",), theirs, ours
    )
    np.testing.assert_array_equal(params["stem_embedding"], [[0, 1], [2, 3], [6, 7], [3, 4], [4, 5]])
    assert params["stage1_bias"] is other["stage1_bias"]
    assert state == {}
    assert said.startswith("4 of the 5 tokens here are known there and keep their rows; the other 1 begin as the mean")
    same, said = vocabulary.by_word(({"stem_embedding": table}, {}), ("stem_embedding",), theirs, theirs)
    assert same[0]["stem_embedding"] is table
    assert said == ""


def transformer(**fields):
    sizes = {"vocab": 9, "width": 8, "depth": 1, "heads": 2, "dropout": 0.0, "causal": True, "positions": 5}
    return models.make("text_transformer", **sizes | fields)


@pytest.mark.slow
def test_a_causal_transformer_never_sees_what_is_asked_for():
    made = language_model.make(transformer(), plan=PLAN)
    variables = jax.jit(made.init)(jax.random.key(0), batch())
    assert variables.rows is None
    score = jax.jit(lambda tokens: made.hooks["next"](variables, tokens, None)[0])
    out = run(transformer(), variables.params["encoder"])["output"]
    for t in range(1, 5):  # what stands behind a place changes nothing there
        cut = np.where(np.arange(5)[None] < t, TOKENS[:1], 0)
        np.testing.assert_allclose(
            score(cut)[0], out[0, t - 1] @ variables.params["encoder"]["stem_embedding"].T, atol=1e-5
        )
    value, found = jax.jit(lambda b: made.loss(variables, b, jax.random.key(0), jnp.int32(0), None))(batch())
    assert float(value) == pytest.approx(np.log(9), abs=0.1)
    assert found.rows is None


def test_the_fourth_word_from_three():
    """Nothing but what follows each window is asked for, and no state is carried into the next."""
    made = method(last=True)
    variables = jax.jit(made.init)(jax.random.key(3), batch())
    assert variables.rows is None
    value, _ = jax.jit(lambda b: made.loss(variables, b, jax.random.key(0), jnp.int32(0), None))(batch(False))
    zeros = [(np.zeros((2, n)),) * 2 for n in (6, 4)]
    hidden, _ = by_hand(variables.params["encoder"], TOKENS, zeros)
    logits = hidden[:1, -1] @ np.asarray(variables.params["encoder"]["stem_embedding"]).T
    want = np.log(np.exp(logits).sum(-1)) - logits[:, batch()["tokens"][0, -1]]  # the other row ends in padding
    assert float(value) == pytest.approx(want[0], rel=1e-5)


def test_what_is_drawn_is_what_the_logits_say():
    rng = np.random.default_rng(0)
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert generate.draw(scores, 0, None, rng) == 0
    drawn = [generate.draw(scores, 1.0, None, rng) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    two = [generate.draw(scores, 1.0, 2, rng) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(two, minlength=4) / 4000, [0.625, 0.375, 0, 0], atol=0.03)
    sharp = [generate.draw(scores, 0.5, None, rng) for _ in range(4000)]
    want = np.exp(2 * scores)
    np.testing.assert_allclose(np.bincount(sharp, minlength=4) / 4000, want / want.sum(), atol=0.03)
