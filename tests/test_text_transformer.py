"""The transformer over tokens: padding, causality, dropout by example, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import models

TOKENS = np.array([[3, 1, 4, 1, 5, 8], [2, 6, 5, 0, 0, 0]], np.int32)


def encoder(**fields):
    return models.make("text_transformer", **{"vocab": 9, "width": 8, "depth": 2, "heads": 2, "positions": 8} | fields)


def variables(made):
    """Weights large enough that everything shows."""
    params, _ = models.init(made, jax.random.key(0), TOKENS)
    return jax.tree.map(lambda a: np.asarray(a) * (5 if a.ndim > 1 else 1), params)


def run(made, params, tokens=TOKENS, **inputs):
    return models.forward(made, params, {}, jnp.asarray(tokens), **{"train": False} | inputs)[0]


@pytest.mark.slow
@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_is_seen_by_nobody(norm_first):
    made = encoder(norm_first=norm_first)
    params = variables(made)
    longer = run(made, params, np.pad(TOKENS, ((0, 0), (0, 2))))
    out = run(made, params)
    np.testing.assert_allclose(longer["features"], out["features"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(longer["output"][:, :3], out["output"][:, :3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out["features"][1], out["output"][1, :3].mean(0), rtol=1e-5, atol=1e-6)
    nothing = run(made, params, np.zeros((1, 4), np.int32))
    assert (np.asarray(nothing["features"]) == 0).all()
    first = run(encoder(norm_first=norm_first, pool="cls"), params)
    np.testing.assert_array_equal(first["features"], out["output"][:, 0])
    assert set(out) == {"stem", "stage1", "stage2", "output", "features"}


@pytest.mark.parametrize("causal", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_causal_one_sees_what_is_before_it_alone(causal):
    made = encoder(causal=causal, norm_first=True)
    params = variables(made)
    other = TOKENS.copy()
    other[0, 4] = 7
    moved = np.abs(run(made, params)["output"] - run(made, params, other)["output"]).max(-1)[0]
    assert moved[4:].min() > 1e-3
    assert (moved[:4].max() < 1e-6) == causal


def test_segments_part_a_pair_and_words_have_places():
    made = encoder()
    params = variables(made)
    segment = np.array([[0, 0, 0, 1, 1, 1]] * 2, np.int32)
    out = run(made, params)
    np.testing.assert_array_equal(run(made, params, segment=np.zeros_like(segment))["output"], out["output"])
    assert np.abs(run(made, params, segment=segment)["output"] - out["output"]).max() > 1e-2
    swapped = run(made, params, TOKENS[:, [1, 0, 2, 3, 4, 5]])
    assert np.abs(swapped["features"] - out["features"]).max() > 1e-2


def test_dropout_is_drawn_by_example_and_only_in_training():
    made = encoder(dropout=0.5)
    params = variables(made)
    plain = run(made, params)
    for inputs in ({"train": True}, {"key": jax.random.key(1)}):
        np.testing.assert_array_equal(run(made, params, **inputs)["output"], plain["output"])
    twice = np.repeat(TOKENS[:1], 2, 0)
    one = run(made, params, twice, train=True, key=jax.random.key(1))
    assert np.abs(one["stem"][0] - one["stem"][1]).max() > 1e-2
    assert {0.0, 2.0} == set(np.round(np.asarray(one["stem"] / run(made, params, twice)["stem"]), 4).ravel())
    frozen = run(made.clone(frozen_stages=3), params, train=True, key=jax.random.key(1))
    np.testing.assert_array_equal(frozen["output"], plain["output"])
    stem = run(made.clone(frozen_stages=1), params, train=True, key=jax.random.key(1))
    np.testing.assert_array_equal(stem["stem"], plain["stem"])
    assert np.abs(stem["output"] - plain["output"]).max() > 1e-2


@pytest.mark.slow
def test_remat_and_bfloat16_keep_the_numbers():
    made = encoder()
    params = variables(made)
    out = run(made, params)
    np.testing.assert_allclose(run(encoder(remat="blocks"), params)["output"], out["output"], rtol=1e-6, atol=1e-6)
    low = run(encoder(dtype="bfloat16"), params)
    assert (low["output"].dtype, low["features"].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(low["features"], out["features"], atol=0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 3}, "make no transformer"),
        ({"depth": 0}, "make no transformer"),
        ({"pool": "max"}, "model.pool='max' is not one of mean, cls"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must be in \[0, 1\)"),
        ({"positions": 5}, "sequences of 6 tokens are longer than model.positions=5; lower data.length"),
    ],
)
def test_what_cannot_be_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        models.init(encoder(**fields), jax.random.key(0), TOKENS)


def test_presets_have_the_published_sizes():
    for name, millions in {"bert_tiny": 4.4, "bert_mini": 11.2, "bert_small": 28.8, "bert_base": 109.5}.items():
        made = models.make(name, vocab=30_522)
        shapes = jax.eval_shape(lambda key, m=made: m.init(key, TOKENS, train=False), jax.random.key(0))
        total = sum(a.size for a in jax.tree.leaves(shapes))
        pooler = made.width * (made.width + 1)  # which the published counts hold
        assert round((total + pooler) / 1e6, 1) == millions
