"""ULMFiT: its head and rates against NumPy, and the three stages on small texts."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ssl_jax
from experiments import ulmfit
from ssl_jax import models
from ssl_jax.methods import language_model
from ssl_jax.models.heads import Classifier
from ssl_jax.run import processes
from ssl_jax.types import Plan, Vocab

RNG = np.random.default_rng(0)


def test_the_head_is_batchnorm_dense_relu_batchnorm_dense():
    x = RNG.normal(2, 3, (6, 5)).astype(np.float32)
    head = Classifier((4, 3), (0.0, 0.0))
    params, state = models.init(head, jax.random.key(0), x)
    out, _ = models.forward(head, params, state, x, train=True)
    norm = lambda a: (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-5)  # noqa: E731
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    hidden = np.maximum(norm(x.astype(np.float64)) @ p["dense0"]["kernel"], 0)
    np.testing.assert_allclose(out, norm(hidden) @ p["dense1"]["kernel"], atol=1e-4)
    # Dropout before each Dense: with a key alone, drawn for each row.
    drops = Classifier((4, 3), (0.5, 0.5))
    dropped, same = (
        models.forward(drops, params, state, x, train=True, key=key)[0] for key in (jax.random.key(1), None)
    )
    np.testing.assert_array_equal(same, out)
    assert np.abs(dropped - out).max() > 0.1
    with pytest.raises(ValueError, match=r"method.head_dropout=\(0.5,\) must be 2 numbers in \[0, 1\)"):
        models.init(Classifier((4, 3), (0.5,)), jax.random.key(0), x)


def test_discriminative_rates_fall_from_layer_to_layer():
    plan = Plan(10, 5, 8, (5,), 2, vocab=Vocab(9, unk=1, eos=2))
    encoder = models.make("lstm", vocab=9, width=4, hidden=6, layers=2)
    method = language_model.make(encoder, plan=plan, tied=False, layer_decay=0.5)
    names = {"stem_embedding": 3, "stage1_input": 2, "stage2_bias": 1}
    params = {"encoder": {name: jnp.ones(2) for name in names}, "decoder": {"dense0": {"bias": jnp.ones(2)}}}
    tx = method.wrap_tx(optax.sgd(1.0))
    updates, _ = tx.update(params, tx.init(params), params)
    for name, below in names.items():
        np.testing.assert_array_equal(updates["encoder"][name], np.full(2, -(0.5**below)))
    np.testing.assert_array_equal(updates["decoder"]["dense0"]["bias"], np.full(2, -1.0))
    with pytest.raises(ValueError, match=r"method.layer_decay=2.0 must be in \(0, 1\]"):
        language_model.make(encoder, plan=plan, layer_decay=2.0)


def write(folder, name, texts):
    (folder / name).write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in texts))


@pytest.mark.slow
def test_three_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    general, target, out = tmp_path / "general.txt", tmp_path / "reviews", tmp_path / "out"
    general.write_text("the film was good .\n\nthe day was long .\n\nwe saw a bad road .\n\n" * 40)
    target.mkdir()
    says = {"good": ("fine", "great", "lovely"), "bad": ("dull", "poor", "awful")}
    for split, n in (("train", 60), ("test", 30)):
        rows = []
        for i in range(n):
            label = ("good", "bad")[i % 2]
            word = says[label][i % 3]
            rows.append((f"the film was {word} and the day was {word} {i}", label))
        write(target, f"{split}.csv", rows)
    small = ["data.tokenizer.size=None", "data.tokenizer.min_frequency=1", "data.global_batch_size=8"]
    small += ["model.width=8", "model.hidden=8", "train.log_every=5", "eval.max_queries=20"]
    words = ["--size", "cpu", "--out", str(out), "--target", f"text:{target}", "--set", *small]
    words += ["--set_general", "train.steps=6", "data.length=6", "--set_target", "train.steps=6", "data.length=6"]
    words += ["--set_classifier", "train.steps=120", "data.document_length=12", "method.unfreeze_every=2.0"]
    words += ["optim.learning_rate=0.05"]
    assert ulmfit.main([*words, "--general", f"text:{general}"]) == 0
    said = capsys.readouterr().out
    assert "--- general" in said
    found = json.loads((out / "ulmfit.json").read_text())
    assert found["classifier-all-seed0"]["test_top1"] > 0.9
    assert found["classifier-all-seed0"]["target_val_perplexity"] > 1
    resolved = json.loads((out / "target" / "config.json").read_text())
    assert resolved["config"]["method"]["layer_decay"] == pytest.approx(1 / 2.6)
    # The classifier reads with the language model's words, and a finished stage is not made again.
    names = [out / name / "tokenizer.json" for name in ("target", "classifier-all-seed0")]
    assert names[0].read_bytes() == names[1].read_bytes()
    before = (out / "target" / "summary.json").stat().st_mtime_ns
    assert ulmfit.main([*words, "--general", f"text:{general}", "--labelled", "8", "--last"]) == 0
    assert (out / "target" / "summary.json").stat().st_mtime_ns == before
    last = ssl_jax.load(out / "classifier-last-8-seed0")[0].params["encoder"]
    for name, leaf in ssl_jax.load(out / "target")[0].params["encoder"].items():
        np.testing.assert_array_equal(leaf, last[name])
    assert ulmfit.main([*words, "--without", "general", "target"]) == 0
    assert set(json.loads((out / "ulmfit.json").read_text())) == {
        "classifier-all-seed0",
        "classifier-last-8-seed0",
        "classifier-no_general-no_target-all-seed0",
    }


def test_no_general_text_is_refused(tmp_path, capsys):
    assert ulmfit.main(["--out", str(tmp_path), "--target", "text:x"]) == 2
    assert "--general names no text for stage 1; give it, or --without general" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "needs labels"),
        (["--labelled", "500"], "500"),
        (["--set_target", "data.global_batch_size=0"], "must be positive"),
    ],
)
def test_what_a_later_stage_refuses_is_refused_before_the_first(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    file, out = tmp_path / "texts.txt", tmp_path / "out"
    file.write_text("the film was good .\n\nthe day was long .\n\n" * 40)
    if more:
        file = tmp_path / "texts.csv"
        write(tmp_path, file.name, [(f"the film was good {i}", i % 2) for i in range(80)])
    words = ["--size", "cpu", "--out", str(out), "--general", f"text:{file}", "--target", f"text:{file}"]
    small = ["data.tokenizer.size=None", "data.tokenizer.min_frequency=1"]
    assert ulmfit.main([*words, "--set", *small, *more]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
