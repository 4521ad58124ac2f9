"""Fits against scikit-learn, on one device and eight; how the penalty is chosen; the evaluator."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from ssl_jax import parallel
from ssl_jax.data.source import from_arrays, join
from ssl_jax.evals import Accuracy, Fitted, linear_probe
from ssl_jax.evals.shared import protocols


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int32)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def objective(kernel, bias, x, y, l2):
    p = softmax(x @ kernel + bias)
    return -np.log(p[np.arange(len(x)), y]).mean() + 0.5 * l2 * np.sum(kernel**2)


@pytest.mark.parametrize(
    ("n", "l2"), [(300, 1e-2), (300, 1e-3), (40, 1e-2), pytest.param(1200, 1e-4, marks=pytest.mark.slow)]
)
def test_fit_equals_sklearn(digits, n, l2):
    x, y = digits
    train, test = (np.asarray(a, np.float64) for a in linear_probe.standardise(x[:1200], x[1200:]))
    train, labels = train[:n], y[:n]
    theirs = LogisticRegression(C=1 / (n * l2), tol=1e-7, max_iter=5000).fit(train, labels)
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
    x = np.asarray(linear_probe.standardise(x)[0], np.float64)[:200]
    y = y[:200]
    theirs = LogisticRegression(C=1 / (200 * 1e-2), tol=1e-12, max_iter=20000).fit(x, y)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        kernel, bias = linear_probe.fit_logistic(x, y, l2=1e-2, num_classes=10, tolerance=1e-9)
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    residual = softmax(x @ kernel + bias) - np.eye(10)[y]
    assert np.abs(x.T @ residual / 200 + 1e-2 * kernel).max() < 2e-9
    assert np.abs(residual.mean(0)).max() < 2e-9
    # scikit-learn stops a little earlier; a shift common to all biases changes nothing
    np.testing.assert_allclose(kernel, theirs.coef_.T, atol=1e-5)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-5)


@pytest.mark.slow
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
    before = linear_probe._fit._cache_size()
    for l2 in (2e-3, 2e-2, 2e-1):
        linear_probe.fit_logistic(x[:300], y[:300], l2=l2, num_classes=10, tolerance=1e-2)
    assert linear_probe._fit._cache_size() - before <= 1  # 0 where another test has had this shape


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


def test_path_equals_single_fits_and_rounding_ends_a_fit(digits):
    (x,), y = linear_probe.standardise(digits[0][:300]), digits[1][:300]
    l2s = (1e-1, 1e-2, 1e-3)
    path = linear_probe.fit_logistic_path(x, y, l2s=l2s, num_classes=10)
    for l2, (kernel, bias) in zip(l2s, path, strict=True):
        alone = linear_probe.fit_logistic(x, y, l2=l2, num_classes=10)
        assert objective(kernel, bias, x, y, l2) == pytest.approx(objective(*alone, x, y, l2), abs=1e-6)
    start = jnp.zeros((10, 64)), jnp.zeros(10)
    arrays = jnp.asarray(x), jnp.asarray(y)
    _, (_, count) = linear_probe._fit(*arrays, linear_probe._gram(*arrays, 10), jnp.float32(0.1), start, 1e-12, 1000)
    assert count < 200


@pytest.mark.slow
@pytest.mark.parametrize(("n", "devices"), [(300, (8,)), (40, (1, 8))])
def test_rows_over_devices_change_nothing(digits, n, devices):
    """300 rows on eight devices leave four of padding; 40 are fewer than dimensions."""
    (x,), y = linear_probe.standardise(digits[0][:n] + 1), digits[1][:n]
    settings = {"l2s": (1e-1, 3e-2), "num_classes": 10, "tolerance": 1e-5}
    one = linear_probe.fit_logistic_path(x, y, **settings)
    for number in devices:
        over = linear_probe.fit_logistic_path(x, y, **settings, mesh=parallel.make_mesh(number))
        for (kernel, bias), (kernel_of_one, bias_of_one) in zip(over, one, strict=True):
            np.testing.assert_allclose(kernel, kernel_of_one, atol=2e-3)  # float32, stopped at a gradient
            np.testing.assert_allclose(bias, bias_of_one, atol=2e-3)
    rows = linear_probe._split_rows(x, np.float32, 0, parallel.make_mesh(8))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(-(-n // 8), 64)}
    np.testing.assert_array_equal(np.asarray(rows)[:n], x)


@pytest.mark.parametrize(("n", "block"), [(1200, 8192), (1200, 77), (50, 8192), (40, 16)])
def test_ridge_equals_sklearn(digits, monkeypatch, n, block):
    monkeypatch.setattr(linear_probe, "BLOCK", block)
    x, y = digits[0][:n] + 30, digits[1][:n]
    l2s = (1.0, 1e-3)
    path = linear_probe.fit_ridge_path(x, y, l2s=l2s, num_classes=10)
    for l2, (kernel, bias) in zip(l2s, path, strict=True):
        theirs = Ridge(alpha=n * l2).fit(x.astype(np.float64), np.eye(10)[y])
        assert kernel.dtype == bias.dtype == np.float32
        np.testing.assert_allclose(kernel, theirs.coef_.T, atol=1e-6)
        np.testing.assert_allclose(bias, theirs.intercept_, rtol=1e-6, atol=1e-6)
    alone = linear_probe.fit_ridge(x, y, l2=1e-3, num_classes=10)
    np.testing.assert_array_equal(alone[0], path[1][0])
    with pytest.raises(ValueError, match="drop unlabelled"):
        linear_probe.fit_ridge(x, y - 1, l2=1.0, num_classes=10)


def test_ranks():
    rng = np.random.default_rng(0)
    x, kernel, bias, labels = (
        rng.normal(size=(30, 4)),
        rng.normal(size=(4, 7)),
        rng.normal(size=7),
        rng.integers(0, 7, 30),
    )
    x, kernel, bias = (a.astype(np.float32) for a in (x, kernel, bias))
    order = np.argsort(-(x @ kernel + bias), axis=1)
    expected = np.argmax(order == labels[:, None], axis=1)
    np.testing.assert_array_equal(linear_probe.ranks((kernel, bias), x, labels), expected)
    equal = np.zeros((4, 7), np.float32), np.zeros(7, np.float32)
    np.testing.assert_array_equal(linear_probe.ranks(equal, x, labels), labels)  # as argmax: the first
    nothing = np.full((30, 4), np.nan, np.float32)
    np.testing.assert_array_equal(linear_probe.ranks(equal, nothing, labels), np.full(30, 7))


def test_choice_of_the_penalty():
    """Right 2 of 4 times at 1 and 0.01, 3 times at 0.1 and between 0.1 and 0.01: the larger of equals wins."""
    asked = []

    def fit_path(features, labels, *, l2s, num_classes):
        asked.append(list(l2s))
        return [(np.eye(2, dtype=np.float32), np.float32([0, 1.0 if 0.02 < l2 < 0.2 else 3.0])) for l2 in l2s]

    held_out = np.float32([[2, 0], [2, 0], [0, 0], [0, 9]])
    held_out[0] = [4, 0]
    labels = [0, 0, 0, 1]
    best = linear_probe.choose_l2(fit_path, None, None, held_out, labels, grid=(0.01, 1, 0.1), num_classes=2)
    assert best == 0.1
    assert asked == [[1, 0.1, 0.01], [pytest.approx(0.1**0.5), pytest.approx(0.1**1.5)]]


class Pixels:
    """Stands in for a frozen encoder: layers are cuts of the pixels."""

    def __init__(self):
        self.layers = {"features": 64, "stage1": 32}

    def __call__(self, variables, source, *, layers=("features",), views=0):
        x = source.columns["image"].reshape(len(source), 64).astype(np.float32)
        return {name: x[:, -self.layers[name] :] for name in layers} | {"label": source.labels}


@pytest.fixture(scope="module")
def sources(digits):
    images, labels = digits[0].reshape(-1, 8, 8).astype(np.uint8), digits[1].copy()
    train, test = from_arrays(images[:600], labels[:600]), from_arrays(images[600:1100], labels[600:1100])
    return {"train": train, "test": test}


def relabelled(source, labels):
    return from_arrays(source.columns["image"], labels.astype(np.int32))


@pytest.mark.parametrize(
    ("protocol", "name", "layers"), [("fast", "linear", ["features"]), ("ridge", "ridge", ["features", "stage1"])]
)
def test_evaluator(sources, protocol, name, layers):
    found = dict(linear_probe.Evaluator(Pixels(), **sources, protocol=protocol, layers=tuple(layers)).run(None))
    named = ["", "_stage1"][: len(layers)]
    assert list(found) == [f"{name}_{what}{layer}" for layer in named for what in ("top1", "top5", "l2")]
    right = [found[f"{name}_{what}"] for what in ("top5", "top1", "top1_stage1")[: 1 + len(layers)]]
    assert right[0] <= 1
    assert all(a > b for a, b in itertools.pairwise(right))
    assert right[-1] > 0.6
    train, test = sources["train"], sources["test"]
    h, queries = linear_probe.standardise(*(Pixels()(None, s)["features"] for s in (train, test)))
    l2, n = found[f"{name}_l2"], len(train)
    if protocol == "fast":
        theirs = LogisticRegression(C=1 / (n * l2), tol=1e-7, max_iter=5000).fit(h, train.labels).predict(queries)
    else:
        theirs = Ridge(alpha=n * l2).fit(h, np.eye(10)[train.labels]).predict(queries).argmax(1)
    assert isinstance(found[f"{name}_top1"], Accuracy)
    assert np.sum(found[f"{name}_top1"].hits != (theirs == test.labels)) <= 1  # 0.2 points of 500


def test_rows_without_label_do_not_count(sources):
    train, test = sources["train"], sources["test"]
    labels = [np.where(np.arange(len(s)) < 20, -1, s.labels) for s in (train, test)]
    unknown = {"train": relabelled(train, labels[0]), "test": relabelled(test, labels[1])}
    fewer = {"train": train.take(np.arange(20, 600)), "test": test.take(np.arange(20, 500))}
    found, expected = (
        dict(linear_probe.Evaluator(Pixels(), **s, protocol="ridge").run(None)) for s in (unknown, fewer)
    )
    assert found == expected


@pytest.mark.parametrize("protocol", [pytest.param("fast", marks=pytest.mark.slow), "ridge"])
def test_test_labels_choose_nothing_and_permuted_ones_teach_nothing(sources, protocol):
    rng = np.random.default_rng(0)
    train, test = sources["train"], sources["test"]
    scrambled = relabelled(test, rng.permutation(test.labels))
    name = {"fast": "linear", "ridge": "ridge"}[protocol]
    right, wrong = (
        dict(linear_probe.Evaluator(Pixels(), train=train, test=t, protocol=protocol).run(None))
        for t in (test, scrambled)
    )
    assert right[f"{name}_l2"] == wrong[f"{name}_l2"]
    assert wrong[f"{name}_top1"] < 0.17  # 0.1 and five standard deviations of 500 guesses
    permuted = relabelled(train, rng.permutation(train.labels))
    found = dict(linear_probe.Evaluator(Pixels(), train=permuted, test=test, protocol=protocol).run(None))
    assert found[f"{name}_top1"] < 0.17
    given = dict(linear_probe.Evaluator(Pixels(), train=train, test=test, protocol=protocol, l2=0.25).run(None))
    assert given[f"{name}_l2"] == 0.25


def test_evaluator_of_a_papers_protocol(sources):
    seen = []

    def fit(name, splits, overrides):
        seen.append((name, splits, overrides))
        hits = np.arange(len(splits.test)) < 10 * len(seen)
        return Fitted((0.1, 0.7, 0.4, 0.7, 0.2)[len(seen) - 1], hits, 1, 1.0)

    evaluator = linear_probe.Evaluator(Pixels(), **sources, fit=fit, protocol="byol", epochs=3, seed=5)
    ((metric, value),) = evaluator.run(None)
    assert (metric, value) == ("linear_byol_top1", 20 / 500)  # of the second rate, the first of the best
    assert [name for name, _, _ in seen] == [f"linear_byol_{i}" for i in range(5)]
    rates = [overrides["optim.learning_rate"] for _, _, overrides in seen]
    assert rates == list(protocols.PROTOCOLS["byol"]["optim.learning_rate"])
    assert all(o["train.epochs"] == 3 and o["seed"] == 5 and o["method.frozen"] == "encoder" for _, _, o in seen)
    _, splits, _ = seen[0]
    assert (len(splits.train), len(splits.val)) == (540, 60)
    both = join(splits.train, splits.val).columns["image"].reshape(600, -1)
    np.testing.assert_array_equal(
        np.sort(both.sum(1)), np.sort(sources["train"].columns["image"].reshape(600, -1).sum(1))
    )
    assert splits.test.fingerprint == sources["test"].fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "mooco"}, "did you mean 'moco'"),
        ({"protocol": "moco"}, "there is no fit"),
        ({"protocol": "moco", "fit": print, "layers": "stage1"}, "need protocol fast or ridge"),
        ({"protocol": "moco", "fit": print, "epochs": 0}, "epochs=0 must be positive"),
        ({"layers": "stage9"}, "did you mean 'stage1'"),
        ({"l2": 0.0}, "l2=0.0 must be positive"),
        ({"held_out": 0.0001}, "must leave examples in both parts"),
        ({"held_out": 1.0}, "must leave examples in both parts"),
        (
            {"train": from_arrays(np.zeros((5, 8, 8), np.uint8))},
            "linear_probe needs labels and the train split has none",
        ),
        ({"test": from_arrays(np.zeros((5, 8, 8), np.uint8))}, "the test split has none"),
    ],
)
def test_evaluator_errors(sources, change, words):
    with pytest.raises(ValueError, match=words):
        linear_probe.Evaluator(Pixels(), **(sources | change))
