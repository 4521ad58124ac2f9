"""How far an accuracy can be trusted: an interval for one, tests for the difference of two, by examples or by seeds."""

from __future__ import annotations

import numpy as np
from scipy import stats


def bootstrap_interval(hits, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy, exact.

    The mean of n draws with replacement from n zeros and ones of which a share p is one is ``Binomial(n, p) / n``
    itself, so its quantiles take the place of resampling. They say how the number would move with other test examples
    of the same kind, not with another seed; with p = 0 or 1 there is nothing to resample and the interval is a point.

    Args:
      hits: ``[n]`` bool or 0 and 1: which examples were right.
      level: share of the bootstrap distribution between the two ends.

    Returns:
      ``(low, high)``.

    Raises:
      ValueError: no hits, or something else than zeros and ones; level outside (0, 1).

    Reference: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    hits, tails = _binary(hits), _tails(level)
    low, high = stats.binom.ppf(tails, len(hits), hits.mean()) / len(hits)
    return float(low), float(high)


def mcnemar(hits_a, hits_b) -> float:
    """P value of McNemar's exact test that two classifiers are equally accurate on the same examples.

    Of the ``m`` examples that just one of them gets right, the number that is a's is Binomial(m, 1/2) if neither is
    better. Two-sided; 1 where they never differ.

    Args:
      hits_a: ``[n]`` which examples a gets right.
      hits_b: ``[n]`` the same of b, in the same order.

    Raises:
      ValueError: see :func:`bootstrap_interval`; different lengths.

    Reference: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages"; Dietterich 1998, "Approximate statistical tests", section 3.1 (there with the chi-squared form).
    """
    a, b = _pair(hits_a, hits_b)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_difference(
    hits_a, hits_b, *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float, float, float]:
    """Accuracy of a minus that of b on the same examples, with its paired bootstrap interval and McNemar's p.

    An example contributes 1, 0 or -1, so a resampled difference is that of two counts of a multinomial distribution:
    ``samples`` of those are drawn, which is the percentile bootstrap of pairs without a loop over examples.

    Args:
      hits_a: ``[n]`` which examples a gets right.
      hits_b: ``[n]`` the same of b, in the same order.
      level: share of the bootstrap distribution between low and high.
      samples: bootstrap samples.
      seed: of the samples.

    Returns:
      ``(difference, low, high, p)``.

    Raises:
      ValueError: see :func:`mcnemar`.
    """
    a, b = _pair(hits_a, hits_b)
    tails, n = _tails(level), len(a)
    shares = np.array([np.mean(a & ~b), np.mean(b & ~a), np.mean(a == b)])
    drawn = np.random.default_rng(seed).multinomial(n, shares, samples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, tails)
    return float(a.mean() - b.mean()), float(low), float(high), mcnemar(a, b)


def paired_seeds(a, b, *, level: float = 0.95) -> tuple[float, float, float, float]:
    """Mean of a's scores minus b's over the same seeds, with its interval and p by the paired t test.

    Seeds stand for what is drawn again by another run: order, views, initial weights. Where these are shared by the two
    runs of a pair, their differences hold less of it than the scores.

    Args:
      a: ``[seeds]`` scores of runs, two or more.
      b: ``[seeds]`` the other's, in the same order.
      level: share of such intervals that hold the true difference, of normal differences.

    Returns:
      ``(difference, low, high, p)``; where all differences are one, low and high are that, and p is 0, or 1 of zero.

    Raises:
      ValueError: fewer than two pairs, or lengths that differ.

    Reference: Student 1908, "The probable error of a mean", section 9.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"scores {a.shape} and {b.shape}; a paired test needs those of the same two or more seeds")
    tails, differences = _tails(level), a - b
    mean, error = differences.mean(), stats.sem(differences)
    if error == 0:
        return float(mean), float(mean), float(mean), float(mean == 0)
    low, high = mean + stats.t.ppf(tails, len(a) - 1) * error
    return float(mean), float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, len(a) - 1))


def holm(ps) -> list[float]:
    """P values of several tests, each raised so that one below 5 % comes up by chance in 5 % of such tables.

    The smallest is multiplied by the number of tests, the next by one less, and so on; none ends below a smaller one.

    Args:
      ps: ``[tests]`` p values.

    Reference: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    ps = np.asarray(ps, np.float64)
    order = np.argsort(ps)
    raised = np.empty_like(ps)
    raised[order] = np.minimum(np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1)), 1)
    return raised.tolist()


def _binary(hits) -> np.ndarray:
    hits = np.asarray(hits)
    if hits.ndim != 1 or not len(hits) or not np.isin(hits, (0, 1)).all():
        raise ValueError(f"hits {hits.dtype} {hits.shape} must be zeros and ones, one per example, and not empty")
    return hits.astype(bool)


def _pair(hits_a, hits_b) -> tuple[np.ndarray, np.ndarray]:
    a, b = _binary(hits_a), _binary(hits_b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} hits against {len(b)}; a paired test needs the same examples in the same order")
    return a, b


def _tails(level: float) -> list[float]:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must be between 0 and 1; 0.95 is usual")
    return [(1 - level) / 2, (1 + level) / 2]
