"""The online probe against NumPy and across devices; the fitted one against scikit-learn; few labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax.evals import linear_probe, low_label


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int32)


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
    probe = linear_probe.online_probe(4)
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
    probe = linear_probe.online_probe(4)
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
    probe = linear_probe.online_probe(4)
    x, label = batch(0)
    state = probe.init(jax.random.key(0), 6)
    state, _ = probe.update(state, jnp.asarray(x, jnp.float32), label, None)

    def everything(features):
        new, metrics = probe.update(state, features, label, None)
        leaves = [a for a in jax.tree.leaves((new, metrics)) if jnp.issubdtype(a.dtype, jnp.floating)]
        return sum(jnp.sum(a) for a in leaves)

    np.testing.assert_array_equal(jax.grad(everything)(jnp.asarray(x, jnp.float32)), 0)


def test_probe_learns_at_any_scale_and_keeps_its_dtypes(digits):
    x, y = digits
    probe = linear_probe.online_probe(10)
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


def objective(kernel, bias, x, y, l2):
    p = softmax(x @ kernel + bias)
    return -np.log(p[np.arange(len(x)), y]).mean() + 0.5 * l2 * np.sum(kernel**2)


@pytest.mark.parametrize(("n", "l2"), [(1200, 1e-2), (1200, 1e-4), (40, 1e-2)])
def test_fit_equals_sklearn(digits, n, l2):
    x, y = digits
    train, test = (np.asarray(a, np.float64) for a in linear_probe.standardise(x[:1200], x[1200:]))
    train, labels = train[:n], y[:n]
    theirs = LogisticRegression(C=1 / (n * l2), tol=1e-9, max_iter=20000).fit(train, labels)
    kernel, bias = linear_probe.fit_logistic(train.astype(np.float32), labels, l2=l2, num_classes=10)
    assert kernel.dtype == jnp.float32
    kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
    best = objective(theirs.coef_.T, theirs.intercept_, train, labels, l2)
    assert objective(kernel, bias, train, labels, l2) == pytest.approx(best, abs=1e-5)
    ours = np.mean((test @ kernel + bias).argmax(1) == y[1200:])
    assert ours == pytest.approx(theirs.score(test, y[1200:]), abs=0.002)
    gradient = train.T @ (softmax(train @ kernel + bias) - np.eye(10)[labels]) / n + l2 * kernel
    assert np.abs(gradient).max() < 3e-5


def test_fit_in_float64_is_the_minimum(digits):
    x, y = digits
    x = np.asarray(linear_probe.standardise(x)[0], np.float64)[:500]
    theirs = LogisticRegression(C=1 / (500 * 1e-2), tol=1e-12, max_iter=20000).fit(x, y[:500])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        kernel, bias = linear_probe.fit_logistic(x, y[:500], l2=1e-2, num_classes=10, tolerance=1e-9)
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    residual = softmax(x @ kernel + bias) - np.eye(10)[y[:500]]
    assert np.abs(x.T @ residual / 500 + 1e-2 * kernel).max() < 2e-9
    assert np.abs(residual.mean(0)).max() < 2e-9
    # scikit-learn stops a little earlier; a shift common to all biases changes nothing
    np.testing.assert_allclose(kernel, theirs.coef_.T, atol=1e-5)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-5)


def test_fit_of_repeated_examples_in_many_dimensions(digits):
    x, y = digits
    x = np.asarray(linear_probe.standardise(x)[0])
    once = linear_probe.fit_logistic(x[:25], y[:25], l2=1e-2, num_classes=10, tolerance=1e-6)
    twice = linear_probe.fit_logistic(
        np.tile(x[:25], (2, 1)), np.tile(y[:25], 2), l2=1e-2, num_classes=10, tolerance=1e-6
    )
    values = [objective(np.asarray(k), np.asarray(b), x[:25], y[:25], 1e-2) for k, b in (once, twice)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    np.testing.assert_allclose(once[0], twice[0], atol=2e-4)


def test_fit_compiles_once_per_shape(digits):
    x, y = digits
    linear_probe._fit.clear_cache()
    for l2 in (1e-3, 1e-2, 1e-1):
        linear_probe.fit_logistic(x[:300], y[:300], l2=l2, num_classes=10, tolerance=1e-2)
    assert linear_probe._fit._cache_size() == 1


def test_standardise():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(50, 4)).astype(np.float32) * [1, 100, 0, 1e-3] + [0, 5, 7, 0]
    train, other = train.astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    found, moved = linear_probe.standardise(train, other)
    np.testing.assert_allclose(np.mean(found, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(found, 0), [1, 1, 0, 1], atol=1e-5)
    scale = np.where(train.std(0) > 1e-5, train.std(0), 1)
    np.testing.assert_allclose(moved, (other - train.mean(0)) / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"l2": 0.0}, "must be positive"),
        ({"num_classes": 3}, "raise num_classes"),
        ({"labels": np.array([0, 1, -1, 2])}, "drop unlabelled"),
        ({"labels": np.zeros(3, int)}, "do not fit"),
    ],
)
def test_fit_errors(change, words):
    call = {"features": np.eye(4, dtype=np.float32), "labels": np.arange(4), "l2": 0.1, "num_classes": 4} | change
    with pytest.raises(ValueError, match=words):
        linear_probe.fit_logistic(**call)


def test_label_efficiency(digits):
    x, y = digits
    labels = y[:1200].copy()
    labels[::7] = -1
    noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    rows = {"pixels": (x[:1200], x[1200:]), "noise": (noise[:1200], noise[1200:])}
    table = low_label.label_efficiency(rows, labels, y[1200:], per_class=(1, 5, "all"), draws=4)
    assert list(table) == ["1", "5", "all"]
    assert all(list(row) == ["pixels", "noise"] for row in table.values())
    means = [table[entry]["pixels"][0] for entry in table]
    assert means == sorted(means)
    assert means[0] > 0.3
    assert means[-1] > 0.9
    assert all(0.04 < table[entry]["noise"][0] < 0.17 for entry in table)
    assert table["5"]["pixels"][1] > 0
    assert table["all"]["pixels"][1] == 0
    # an entry does not depend on its company, and scikit-learn finds the same on the same draw
    alone = low_label.label_efficiency({"again": rows["pixels"]}, labels, y[1200:], per_class=(5,), draws=1)
    (drawn,) = low_label._subsets(labels, 5, 1, 0)
    np.testing.assert_array_equal(np.bincount(labels[drawn]), np.full(10, 5))
    train, test = (np.asarray(a) for a in linear_probe.standardise(*rows["pixels"]))
    theirs = LogisticRegression(C=1 / (50 * 0.01), tol=1e-6, max_iter=5000).fit(train[drawn], labels[drawn])
    assert alone["5"]["again"] == [pytest.approx(theirs.score(test, y[1200:]), abs=0.005), 0.0]


def test_label_efficiency_errors(digits):
    x, _ = digits
    with pytest.raises(ValueError, match=r"class 0 has 2; use 1 to 2"):
        low_label.label_efficiency({"a": (x[:4], x[:4])}, [0, 0, 1, 1], [0, 0, 1, 1], per_class=(3,))
    with pytest.raises(ValueError, match="row 'a' has 4 train"):
        low_label.label_efficiency({"a": (x[:4], x[:4])}, [0, 0, 1], [0, 0, 1, 1], per_class=("all",))
