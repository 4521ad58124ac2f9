"""The online probe against NumPy and across devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssl_jax.online.probe import online_probe


def batch(seed, b=64, d=6, classes=4):
    rng = np.random.default_rng(seed)
    x = 3 * rng.normal(size=(b, d)) * np.arange(1, d + 1) + 2
    label = rng.integers(0, classes, b).astype(np.int32)
    label[:9] = -1  # the first of eight devices has no label at all
    label[rng.random(b) < 0.3] = -1
    return x, label


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def numpy_probe(batches, d, classes, rate=1e-3, decay=0.99, eps=1e-5):
    """A transcription of the documented equations with Adam written out."""
    params = np.zeros((d + 1, classes))  # the last row is the bias
    m, v, history = np.zeros_like(params), np.zeros_like(params), []
    mean, square, weight = np.zeros(d), np.zeros(d), 0.0
    for t, (x, label) in enumerate(batches, start=1):
        x, label = x[label >= 0], label[label >= 0]
        mean = decay * mean + (1 - decay) * x.mean(0)
        square = decay * square + (1 - decay) * (x**2).mean(0)
        weight = decay * weight + 1 - decay
        variance = square / weight - (mean / weight) ** 2
        x = (x - mean / weight) / np.sqrt(variance + eps * variance.mean())
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        p = softmax(x @ params)
        history.append((-np.log(p[np.arange(len(x)), label]).mean(), (p.argmax(1) == label).mean()))
        gradient = x.T @ (p - np.eye(classes)[label]) / len(x)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        params = params - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return params, history


def test_probe_equals_numpy_and_does_not_depend_on_the_number_of_devices():
    batches = [batch(s) for s in range(6)]
    params, history = numpy_probe(batches, 6, 4)
    probe = online_probe(4)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        one = probe.init(jax.random.key(0), 6)
        assert one.mean.dtype == jnp.float64
        update = jax.jit(lambda s, x, y: probe.update(s, x, y, None))
        over = jax.jit(jax.vmap(lambda s, x, y: probe.update(s, x, y, "data"), in_axes=(None, 0, 0), axis_name="data"))
        eight = one
        for (x, label), (loss, top1) in zip(batches, history, strict=True):
            one, metrics = update(one, x, label)
            assert set(metrics) == {"probe_loss", "probe_top1"}
            assert float(metrics["probe_loss"]) == pytest.approx(loss, abs=1e-10)
            assert float(metrics["probe_top1"]) == pytest.approx(top1, abs=1e-12)
            shards, shard_metrics = over(eight, x.reshape(8, 8, -1), label.reshape(8, 8))
            eight = jax.tree.map(lambda a: a[0], shards)
            for whole, parts in zip(
                jax.tree.leaves((one, metrics)), jax.tree.leaves((shards, shard_metrics)), strict=True
            ):
                np.testing.assert_allclose(parts, np.broadcast_to(whole, parts.shape), rtol=1e-12, atol=1e-12)
    found = np.concatenate([one.params["kernel"], one.params["bias"][None]])
    np.testing.assert_allclose(found, params, rtol=1e-8, atol=1e-11)


def test_rows_without_label_do_not_count():
    probe = online_probe(4)
    x, label = batch(0)
    other = np.where(label[:, None] < 0, 1e6, x)
    state = probe.init(jax.random.key(0), 6)
    update = jax.jit(lambda s, x, y: probe.update(s, x, y, None))
    first, metrics = update(state, jnp.asarray(x, jnp.float32), label)
    second, metrics_of_other = update(state, jnp.asarray(other, jnp.float32), label)
    for a, b in zip(jax.tree.leaves((first, metrics)), jax.tree.leaves((second, metrics_of_other)), strict=True):
        np.testing.assert_array_equal(a, b)
    # no label at all: nothing moves, not even Adam's momentum, and nothing was measured
    third, metrics = update(first, jnp.asarray(x, jnp.float32), np.full_like(label, -1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(third), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(metrics["probe_loss"])
    assert np.isnan(metrics["probe_top1"])


def test_no_gradient_reaches_the_features():
    probe = online_probe(4)
    x, label = batch(0)
    state = probe.init(jax.random.key(0), 6)
    state, _ = probe.update(state, jnp.asarray(x, jnp.float32), label, None)

    def everything(features):
        new, metrics = probe.update(state, features, label, None)
        leaves = [a for a in jax.tree.leaves((new, metrics)) if jnp.issubdtype(a.dtype, jnp.floating)]
        return sum(jnp.sum(a) for a in leaves)

    np.testing.assert_array_equal(jax.grad(everything)(jnp.asarray(x, jnp.float32)), 0)


def test_probe_learns_at_any_scale_and_keeps_its_dtypes():
    x, y = (a.astype(t) for a, t in zip(load_digits(return_X_y=True), (np.float32, np.int32), strict=True))
    probe = online_probe(10)
    update = jax.jit(lambda s, x, y: probe.update(s, x, y, None))
    accuracies = []
    for scale in (1.0, 1e-4, 1e4):
        rng = np.random.default_rng(0)
        state = start = probe.init(jax.random.key(0), 64)
        for _ in range(300):
            rows = rng.integers(0, 1200, 128)
            state, metrics = update(state, x[rows] * np.float32(scale), y[rows])
        logits = np.asarray(probe.predict(state, x[1200:] * np.float32(scale)))
        accuracies.append(np.mean(logits.argmax(1) == y[1200:]))
        assert [a.dtype for a in jax.tree.leaves(state)] == [a.dtype for a in jax.tree.leaves(start)]
        assert float(metrics["probe_top1"]) > 0.9
    assert accuracies[0] > 0.88
    np.testing.assert_allclose(accuracies, accuracies[0], atol=0.005)
    low, _ = update(start, jnp.asarray(x[:128], jnp.bfloat16), y[:128])
    assert [a.dtype for a in jax.tree.leaves(low)] == [a.dtype for a in jax.tree.leaves(start)]
