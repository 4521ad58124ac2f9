"""BatchNorm's derivative by hand against the plain form, in which JAX takes its own, and against NumPy in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssl_jax.models.norm import BatchNorm
from tests.oracles.make_models import draw
from tests.test_models import batchnorm_numpy, members


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def plain(x, scale=1.0, bias=0.0, *, groups=1, strided=False, eps=1e-5):
    """Two passes for the statistics, one group at a time, and nothing that says how to differentiate it."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    parts = []
    scale, bias = (jnp.broadcast_to(a, x.shape[1:]) for a in (scale, bias))
    for ids in members(len(x), groups, strided):
        rows = wide[ids]
        mean = rows.mean(range(x.ndim - 1), keepdims=True)
        var = jnp.square(rows - mean).mean(range(x.ndim - 1), keepdims=True)
        parts.append((rows - mean) * (lax.rsqrt(var + eps) * scale[None]) + bias[None])
    order = np.argsort(np.concatenate(members(len(x), groups, strided)))
    return jnp.concatenate(parts)[order].astype(x.dtype)


def own(x, *weights, groups=1, strided=False):
    given: dict[str, Any] = {}
    given.update(zip(("scale", "bias"), weights, strict=False))
    zeros = jnp.zeros(x.shape[-1], jnp.float32)
    module = BatchNorm(groups=groups, strided=strided, use_scale="scale" in given, use_bias="bias" in given)
    return module.apply({"params": given, "batch_stats": {"mean": zeros, "var": zeros}}, x, train=True)


def results(f, x, *weights, cotangent):
    """Output, and gradients of sum(y * cotangent) by every argument."""
    y, back = jax.vjp(f, x, *weights)
    return y, *back(cotangent)


def in_float64(x, scale, bias, cotangent):
    """The same as ``results``, in NumPy."""
    x, scale, bias, cotangent = (a.astype(np.float64) for a in (x, scale, bias, cotangent))
    return batchnorm_numpy(x, scale, bias, np.zeros_like(bias), np.ones_like(bias), cotangent, 1, False)[:4]


@pytest.mark.parametrize("given", [0, 1, 2], ids=["neither", "scale", "both"])
@pytest.mark.parametrize(
    ("shape", "groups", "strided"),
    [((16, 3, 4, 5), 1, False), ((16, 5), 4, True), ((16, 7, 5), 4, False)],
    ids=["images", "strided vectors", "groups of sequences"],
)
def test_values_and_gradients_are_those_of_the_plain_form(float64, shape, groups, strided, given):
    x, cotangent = jnp.asarray(draw("x", shape) * 2 + 1), jnp.asarray(draw("cotangent", shape))
    weights = [jnp.asarray(draw(name, (5,))) for name in ("scale", "bias")[:given]]
    got, want = (
        jax.jit(partial(results, partial(f, groups=groups, strided=strided)))(x, *weights, cotangent=cotangent)
        for f in (own, plain)
    )
    assert len(got) == 2 + given
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), got, want)


@pytest.mark.parametrize("groups", [1, 4])
def test_remat_forward_mode_and_second_derivatives_are_right_too(float64, groups):
    x, cotangent = jnp.asarray(draw("x", (8, 3, 4, 5)) + 1), jnp.asarray(draw("cotangent", (8, 3, 4, 5)))
    weights = [jnp.asarray(draw(name, (5,))) for name in ("scale", "bias")]

    def slopes(f):
        gradient = jax.grad(lambda x: jnp.sum(f(x, *weights, groups=groups) ** 3 * cotangent))
        again = jax.checkpoint(lambda x: f(x, *weights, groups=groups))
        once = jax.grad(lambda x: jnp.sum(again(x) ** 3 * cotangent))(x)
        return once, jax.jvp(gradient, (x,), (cotangent,)), jax.vjp(gradient, x)[1](cotangent)

    got, want = jax.jit(partial(slopes, own))(), jax.jit(partial(slopes, plain))()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), got, want)


@pytest.mark.parametrize("middle", [0.0, 0.3], ids=["even", "a middle place 30 deviations away"])
def test_far_from_zero_it_is_as_exact_as_the_plain_form(middle):
    """Mean 1000 and deviation .01 in float32: the squares E[x^2] and E[x]^2 have no digit of the variance."""
    x = 1000 + 0.01 * draw("x", (32, 6, 6, 4))
    x[:, 3, 3] += middle
    x = x.astype(np.float32)
    weights = [draw(name, (4,)).astype(np.float32) for name in ("scale", "bias")]
    cotangent = draw("cotangent", x.shape).astype(np.float32)
    exact = in_float64(x, *weights, cotangent=cotangent)
    errors = {}
    for f in (own, plain):
        found = jax.jit(partial(results, f))(x, *weights, cotangent=cotangent)
        errors[f] = [np.abs(np.float64(a) - b).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True)]
    assert max(errors[own]) < 5e-3  # neighbours in float32 are .006 deviations apart
    for got, of_plain in zip(errors[own], errors[plain], strict=True):
        assert got <= 1.5 * of_plain + 1e-6, errors


def test_float32_is_no_further_from_float64_than_the_plain_form():
    x, cotangent = (draw(name, (64, 8, 8, 16)).astype(np.float32) for name in ("x", "cotangent"))
    x = 2 * x + 1
    weights = [draw(name, (16,)).astype(np.float32) for name in ("scale", "bias")]
    exact = in_float64(x, *weights, cotangent=cotangent)
    error = {
        f: [
            np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b)
            for a, b in zip(jax.jit(partial(results, f))(x, *weights, cotangent=cotangent), exact, strict=True)
        ]
        for f in (own, plain)
    }
    assert max(error[own]) < 1e-6
    assert all(a <= 1.2 * b + 2e-8 for a, b in zip(error[own], error[plain], strict=True)), error


def test_bfloat16_is_the_plain_form_to_a_rounding():
    x, cotangent = (jnp.asarray(draw(name, (64, 4, 4, 8)), jnp.bfloat16) for name in ("x", "cotangent"))
    weights = [jnp.asarray(draw(name, (8,)), jnp.float32) for name in ("scale", "bias")]
    got, want = (jax.jit(partial(results, f))(x, *weights, cotangent=cotangent) for f in (own, plain))
    assert [a.dtype for a in got] == [a.dtype for a in want] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    for a, b in zip(got, want, strict=True):
        a, b = np.float32(a), np.float32(b)
        assert np.abs(a - b).max() <= 2.0**-7 * np.abs(b).max()


@pytest.mark.parametrize("groups", [1, 4])
def test_activations_are_summed_twice_forward_and_twice_backward(groups):
    x, weights = jnp.ones((8, 4, 4, 3)), (jnp.ones(3), jnp.zeros(3))

    def sums(f):
        text = jax.jit(partial(results, f)).lower(x, *weights, cotangent=x).as_text()
        whole = [line for line in text.splitlines() if "stablehlo.reduce(" in line and "x4x4x3xf32>, " in line]
        assert "dot_general" not in text  # groups are a dimension of a view
        return len(whole)

    assert sums(partial(own, groups=groups)) == 4
    assert sums(plain) > 4
