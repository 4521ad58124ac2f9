"""Attention, as it is computed here and as cuDNN is asked for it on a GPU, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel, testing
from ssl_jax.models.transformer import attention
from tests.oracles.make_models import draw

PRESENT = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [1, 0, 1, 0, 0, 0]], bool)


def attention_numpy(given, seen):
    """Values, and gradients of sum(y * cotangent) by q, k and v; ``seen [b, queries, keys]``."""
    q, k, v, cotangent = given
    root = np.sqrt(q.shape[-1])
    logits = np.where(seen[:, None], np.einsum("bqhd,bkhd->bhqk", q, k) / root, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    of_weights = np.einsum("bqhd,bkhd->bhqk", cotangent, v)
    of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True)) / root
    return (
        np.einsum("bhqk,bkhd->bqhd", weights, v),
        np.einsum("bhqk,bkhd->bqhd", of_logits, k),
        np.einsum("bhqk,bqhd->bkhd", of_logits, q),
        np.einsum("bhqk,bqhd->bkhd", weights, cotangent),
    )


@pytest.fixture
def asked(monkeypatch):
    """What cuDNN is asked for, which its reference in JAX computes here, of any type."""
    calls, dot_product = [], jax.nn.dot_product_attention

    def reference(q, k, v, *, implementation, **kwargs):
        calls.append(implementation)
        return dot_product(q, k, v, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", reference)
    monkeypatch.setattr("ssl_jax.models.transformer._has_cudnn", lambda: True)
    return calls


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("how", ["cpu", "gpu", "cudnn"])
def test_values_and_gradients_are_numpys(how, masked, causal, asked, monkeypatch):
    """In float64, which cuDNN does not take: on a GPU the products. And the call as it is made of what it takes.

    Of that JAX's reference takes the softmax in float32.
    """
    if how == "cudnn":
        monkeypatch.setattr("ssl_jax.models.transformer._fits_cudnn", lambda q, k, masked: True)
    given = [draw(name, (3, 6, 2, 8)) for name in ("q", "k", "v", "g")]
    seen = np.broadcast_to(PRESENT[:, None] if masked else True, (3, 6, 6))
    want = attention_numpy(given, seen & np.tril(np.ones((6, 6), bool)) if causal else seen)
    with testing.double(), parallel.compiling_for("cpu" if how == "cpu" else "gpu"):
        q, k, v, cotangent = map(jnp.asarray, given)
        present = jnp.asarray(PRESENT) if masked else None
        y, back = jax.vjp(lambda q, k, v: attention(q, k, v, present, causal=causal), q, k, v)
        for a, b in zip((y, *back(cotangent)), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 if how == "cudnn" else 1e-12)
    assert asked == (["cudnn"] if how == "cudnn" else [])


def test_queries_may_be_fewer_than_keys():
    given = [draw(name, (3, length, 2, 8)) for name, length in (("q", 4), ("k", 6), ("v", 6), ("g", 4))]
    want = attention_numpy(given, np.broadcast_to(PRESENT[:, None], (3, 4, 6)))
    with testing.double():
        q, k, v, cotangent = map(jnp.asarray, given)
        y, back = jax.vjp(lambda q, k, v: attention(q, k, v, jnp.asarray(PRESENT)), q, k, v)
        for a, b in zip((y, *back(cotangent)), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_bfloat16_is_within_a_rounding_of_weights_and_values():
    """Logits and softmax in float32; the weights are rounded to bfloat16, and so is what comes out: 2^-8 each."""
    given = [jnp.asarray(draw(name, (3, 6, 2, 8)), jnp.bfloat16) for name in ("q", "k", "v")]
    q, k, v = (np.asarray(a, np.float64) for a in given)
    want = attention_numpy((q, k, v, v), np.ones((3, 6, 6), bool))[0]
    np.testing.assert_allclose(np.asarray(attention(*given), np.float64), want, atol=2 * 2**-8 * np.abs(v).max())


def test_cudnn_is_asked_for_what_it_takes_alone(monkeypatch):
    monkeypatch.setattr("ssl_jax.models.transformer._has_cudnn", lambda: True)

    def asked(dtype=jnp.bfloat16, length=6, width=8, platform="gpu", masked=True, **kwargs):
        q, calls = jnp.ones((2, length, 2, width), dtype), []
        monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, *_, **__: calls.append(1) or q)
        with parallel.compiling_for(platform):
            attention(q, q, q, jnp.ones((2, length), bool) if masked else None, **kwargs)
        return bool(calls)

    assert asked()
    assert asked(length=5, masked=False)
    assert not asked(length=5)
    assert not asked(dtype=jnp.float32)
    assert not asked(width=12)
    assert not asked(width=136)
    assert not asked(platform="cpu")
    assert not asked(drop=lambda weights: weights)
