"""``experiments/ngrams.py``: the formulas, word by word."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest

from experiments import ngrams


def test_nats_are_the_formulas_and_all_words_together_have_probability_one():
    rng, vocab = np.random.default_rng(0), 7
    train, v, w = rng.integers(1, 6, 40), rng.integers(0, vocab, 30), rng.integers(0, vocab, 30)
    words, pairs = (
        collections.Counter(train.tolist()),
        collections.Counter(itertools.pairwise(train.tolist())),
    )
    before = collections.Counter(train[:-1].tolist())

    def single(word):
        return (words[word] + 1) / (len(train) + vocab)

    def double(first, word):
        kinds = sum(a == first for a, _ in pairs)
        if not before[first]:
            return single(word)
        return (pairs[first, word] + kinds * single(word)) / (before[first] + kinds)

    for first in range(vocab):
        assert sum(double(first, word) for word in range(vocab)) == pytest.approx(1)
    found = ngrams.nats(train, [(v[:10], w[:10]), (v[10:], w[10:])], vocab)
    want = [
        -np.mean([math.log(single(b)) for b in w]),
        -np.mean([math.log(double(a, b)) for a, b in zip(v, w, strict=True)]),
    ]
    assert found[:2] == pytest.approx(want, rel=1e-12)
    assert found[2] == 30


def test_refused(tmp_path, capsys):
    assert ngrams.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
