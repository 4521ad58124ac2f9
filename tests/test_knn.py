"""kNN against scikit-learn and a brute-force vote in NumPy float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ssl_jax.evals import knn


def examples(n=500, q=200, d=16, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    labels = rng.integers(0, classes, n + q)
    x = (centres[labels] + 1.5 * rng.normal(size=(n + q, d))).astype(np.float32)
    return x[:n], labels[:n], x[n:], labels[n:]


def brute_force(bank, labels, queries, *, k, temperature, num_classes):
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    predicted = []
    for row in queries @ bank.T:
        nearest = np.argsort(-row, kind="stable")[:k]
        votes = np.zeros(num_classes)
        np.add.at(votes, labels[nearest], np.exp(row[nearest] / temperature))
        predicted.append(votes.argmax())
    return np.array(predicted)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.07), (200, 0.1), (500, 1.0)])
def test_equals_brute_force_and_sklearn(k, temperature):
    bank, labels, queries, _ = examples()
    ours = knn.knn_predict(bank, labels, queries, k=k, temperature=temperature, num_classes=5)
    assert ours.dtype == np.int32
    expected = brute_force(bank, labels, queries, k=k, temperature=temperature, num_classes=5)
    np.testing.assert_array_equal(ours, expected)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    theirs.fit(bank.astype(np.float64), labels)
    np.testing.assert_array_equal(ours, theirs.predict(queries.astype(np.float64)))


@pytest.mark.parametrize(("query_block", "bank_block", "k"), [(7, 13, 5), (64, 499, 20), (200, 11, 30)])
def test_blocks_change_nothing(monkeypatch, query_block, bank_block, k):
    bank, labels, queries, _ = examples()
    plain = knn.knn_predict(bank, labels, queries, k=k, temperature=0.1, num_classes=5)
    monkeypatch.setattr(knn, "QUERY_BLOCK", query_block)
    monkeypatch.setattr(knn, "BANK_BLOCK", bank_block)
    blocked = knn.knn_predict(bank, labels, queries, k=k, temperature=0.1, num_classes=5)
    np.testing.assert_array_equal(blocked, plain)


def test_ragged_last_block_does_not_compile_again(monkeypatch):
    bank, labels, queries, _ = examples(n=90, q=50)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 16)
    knn._vote.clear_cache()
    assert len(knn.knn_predict(bank, labels, queries, k=3, temperature=0.1, num_classes=5)) == 50
    assert knn._vote._cache_size() == 1


def test_odd_inputs():
    bank, labels, queries, _ = examples(n=1, q=3)
    one = knn.knn_predict(bank, labels, queries, k=1, temperature=0.1, num_classes=5)
    np.testing.assert_array_equal(one, np.full(3, labels[0]))
    assert knn.knn_predict(bank, labels, queries[:0], k=1, temperature=0.1, num_classes=5).shape == (0,)
    zero = knn.knn_predict(np.zeros((2, 4), np.float32), [1, 1], np.zeros((1, 4), np.float32), k=2, temperature=0.1,
                           num_classes=2)  # fmt: skip
    assert zero[0] == 1


def test_ties_go_to_the_lower_row_and_the_lower_class(monkeypatch):
    x = np.eye(4, dtype=np.float32)
    bank, labels = np.concatenate([x, x, x]), np.array([0, 1, 2, 3] + [4] * 8)
    monkeypatch.setattr(knn, "BANK_BLOCK", 5)
    nearest = knn.knn_predict(bank, labels, x, k=1, temperature=0.1, num_classes=5)
    np.testing.assert_array_equal(nearest, [0, 1, 2, 3])
    two = knn.knn_predict(
        bank, np.array([3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]), x[:1], k=3, temperature=0.1, num_classes=5
    )
    assert two[0] == 1


def test_padding_is_never_a_neighbour(monkeypatch):
    monkeypatch.setattr(knn, "BANK_BLOCK", 5)
    x = np.eye(7, dtype=np.float32) - 9  # every bank row is far from the query: a row of zeros would be nearer
    query, labels = np.full((1, 7), 1, np.float32), np.array([1, 0, 0, 0, 0, 0, 2])
    x[0] += 2
    assert (
        knn.knn_predict(x, labels, query + np.eye(7, dtype=np.float32)[:1], k=1, temperature=0.1, num_classes=3)[0] == 1
    )


def test_small_temperature_does_not_overflow():
    bank, labels, queries, _ = examples()
    cold = knn.knn_predict(bank, labels, queries, k=20, temperature=1e-3, num_classes=5)
    nearest = knn.knn_predict(bank, labels, queries, k=1, temperature=1.0, num_classes=5)
    assert np.mean(cold == nearest) > 0.95


def test_dtypes():
    bank, labels, queries, _ = examples()
    low = knn.knn_predict(
        jnp.asarray(bank, jnp.bfloat16), labels, jnp.asarray(queries, jnp.bfloat16), k=5, temperature=0.1, num_classes=5
    )
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (bank, queries)]
    np.testing.assert_array_equal(low, brute_force(rounded[0], labels, rounded[1], k=5, temperature=0.1, num_classes=5))
    host = knn.knn_predict(bank.astype(np.float64), labels, queries, k=9, temperature=0.1, num_classes=5)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        double = knn.knn_predict(bank.astype(np.float64), labels, queries, k=9, temperature=0.1, num_classes=5)
    np.testing.assert_array_equal(host, double)
    np.testing.assert_array_equal(double, brute_force(bank, labels, queries, k=9, temperature=0.1, num_classes=5))


def test_accuracy_and_centring():
    bank, labels, queries, targets = examples()
    shifted = [x + np.float32(20) for x in (bank, queries)]
    kwargs = {"k": 20, "temperature": 0.1, "num_classes": 5}
    mean = bank.astype(np.float64).mean(0)
    expected = np.mean(brute_force(bank - mean, labels, queries - mean, **kwargs) == targets)
    assert knn.knn_accuracy(shifted[0], labels, shifted[1], targets, centre=True, **kwargs) == pytest.approx(expected)
    centred_bank, centred_queries = knn.centred(*shifted)
    np.testing.assert_allclose(centred_bank.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(centred_queries, queries - mean, atol=1e-5)


def test_digits():
    digits = load_digits()
    x, y = digits.data.astype(np.float32), digits.target
    accuracy = knn.knn_accuracy(x[:1000], y[:1000], x[1000:], y[1000:], k=5, temperature=0.1, num_classes=10)
    assert accuracy > 0.94


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 501}, "use a k from 1 to 500"),
        ({"k": 0}, "use a k from 1 to 500"),
        ({"temperature": 0.0}, "must be positive"),
        ({"num_classes": 4}, "raise num_classes"),
        ({"labels": np.full(500, -1)}, "drop unlabelled"),
        ({"labels": np.zeros(499, int)}, "do not fit"),
        ({"queries": np.zeros((3, 15), np.float32)}, "do not fit"),
    ],
)
def test_errors(change, words):
    bank, labels, queries, _ = examples()
    call = {"bank": bank, "labels": labels, "queries": queries, "k": 5, "temperature": 0.1, "num_classes": 5} | change
    with pytest.raises(ValueError, match=words):
        knn.knn_predict(**call)
