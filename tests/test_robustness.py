"""Intervals and paired tests against scipy's bootstrap and binomial test, and sums by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats

from ssl_jax.evals.shared import robustness


def flips(n, p, seed):
    return np.random.default_rng(seed).random(n) < p


@pytest.mark.parametrize(("n", "p", "level"), [(200, 0.7, 0.95), (37, 0.3, 0.8), (1000, 0.97, 0.99)])
def test_interval_equals_scipys_bootstrap(n, p, level):
    hits = flips(n, p, seed=n)
    theirs = stats.bootstrap(
        (hits.astype(float),), np.mean, confidence_level=level, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    found = robustness.bootstrap_interval(hits, level=level)
    np.testing.assert_allclose(found, theirs, atol=1.01 / n)  # scipy's is itself drawn: one example at most


def test_interval_by_hand():
    """Smallest k with P(Binomial(8, 3/4) <= k) >= tail, from the sum of its terms."""
    masses = [comb(8, k) * 0.75**k * 0.25 ** (8 - k) for k in range(9)]
    below = np.cumsum(masses)
    low, high = (int(np.argmax(below >= tail)) / 8 for tail in (0.025, 0.975))
    assert robustness.bootstrap_interval([1, 1, 1, 1, 1, 1, 0, 0]) == (low, high) == (0.375, 1.0)
    assert robustness.bootstrap_interval([True] * 9) == (1.0, 1.0)
    assert robustness.bootstrap_interval([0]) == (0.0, 0.0)


def test_interval_covers():
    """Of 400 accuracies of 300 examples with p = 0.6 the 95 % intervals hold p in 95 %, give or take."""
    drawn = np.random.default_rng(0).random((400, 300)) < 0.6
    ends = np.array([robustness.bootstrap_interval(hits) for hits in drawn])
    assert 0.92 < np.mean((ends[:, 0] <= 0.6) & (ends[:, 1] >= 0.6)) < 0.98


def test_mcnemar_by_hand_and_by_scipy():
    a = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 1], bool)
    b = np.array([0, 0, 0, 0, 0, 1, 1, 0, 0, 1], bool)
    # 5 against 1 of 6 that differ: twice P(Binomial(6, 1/2) >= 5) = 2 (6 + 1) / 64
    assert robustness.mcnemar(a, b) == pytest.approx(14 / 64, abs=1e-12)
    assert robustness.mcnemar(b, a) == pytest.approx(14 / 64, abs=1e-12)
    assert robustness.mcnemar(a, a) == 1
    a, b = flips(500, 0.8, 1), flips(500, 0.7, 2)
    only = np.sum(a & ~b), np.sum(~a & b)
    assert robustness.mcnemar(a, b) == pytest.approx(2 * stats.binom.cdf(min(only), sum(only), 0.5), rel=1e-9)


def test_paired_difference_equals_scipys_bootstrap():
    a = flips(300, 0.75, 3)
    b = np.where(flips(300, 0.2, 4), flips(300, 0.5, 5), a)  # mostly the same examples
    difference, low, high, p = robustness.paired_difference(a, b, samples=20_000)
    assert difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    theirs = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    np.testing.assert_allclose((low, high), theirs, atol=1.01 / 300)
    assert p == robustness.mcnemar(a, b)
    # pairing matters: of independent examples the interval would be much wider
    assert high - low < 0.7 * 2 * 1.96 * np.sqrt(2 * 0.75 * 0.25 / 300)
    swapped = robustness.paired_difference(b, a, samples=20_000)
    np.testing.assert_allclose(swapped[:3], (-difference, -high, -low), atol=1.01 / 300)
    assert robustness.paired_difference(a, a) == (0, 0, 0, 1)
    assert robustness.paired_difference(a, b, seed=1) == robustness.paired_difference(a, b, seed=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: robustness.bootstrap_interval([]), "not empty"),
        (lambda: robustness.bootstrap_interval([0.5, 1]), "zeros and ones"),
        (lambda: robustness.bootstrap_interval([[1, 0]]), "one per example"),
        (lambda: robustness.bootstrap_interval([1, 0], level=95), "level=95"),
        (lambda: robustness.mcnemar([1, 0], [1]), "2 hits against 1"),
        (lambda: robustness.paired_difference([1, 0], [1, 2]), "zeros and ones"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_scores_of_the_same_seeds_are_compared_in_pairs():
    a, b = np.array([0.61, 0.66, 0.58, 0.63]), np.array([0.60, 0.63, 0.57, 0.64])
    known = stats.ttest_rel(a, b)
    interval = known.confidence_interval(0.95)
    expected = ((a - b).mean(), interval.low, interval.high, known.pvalue)
    assert robustness.paired_seeds(a, b) == pytest.approx(expected, rel=1e-9)
    assert robustness.paired_seeds([1, 2], [1, 2]) == (0, 0, 0, 1)
    assert robustness.paired_seeds([2, 3], [1, 2]) == (1, 1, 1, 0)
    for wrong in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="the same two or more seeds"):
            robustness.paired_seeds(wrong, wrong[:2])


def test_holm_multiplies_the_smallest_by_all_and_the_next_by_one_less():
    assert robustness.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert robustness.holm([0.5, 0.9]) == [1, 1]
    assert robustness.holm([0.04]) == [0.04]
