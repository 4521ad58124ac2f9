"""Masked words: how many, which, and what becomes of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssl_jax.parallel import row_keys
from ssl_jax.tasks.masked_words import mask_words, most_masked, special_tokens
from ssl_jax.types import Vocab

VOCAB = Vocab(40, unk=1, eos=2, cls=3, sep=4, mask=5)
LENGTH = 32


def rows(number, words, seed=0):
    """``[CLS] words... [SEP] padding``, its words numbered 6 to 39."""
    tokens = np.zeros((number, LENGTH), np.int32)
    tokens[:, 0], tokens[:, words + 1] = 3, 4
    tokens[:, 1 : words + 1] = np.random.default_rng(seed).integers(6, 40, (number, words))
    return tokens


def masked(tokens, seed=0, **arguments):
    arguments = {"vocab": VOCAB, "rate": 0.15, "most": most_masked(LENGTH, 0.15)} | arguments
    continues = arguments.pop("continues", None)
    keys = row_keys(jax.random.key(seed), len(tokens), None)
    found = jax.jit(lambda t, k, c: mask_words(t, k, continues=c, **arguments))(tokens, keys, continues)
    return jax.tree.map(np.array, found)


@pytest.mark.parametrize("words", [1, 2, 3, 9, 10, 23, 30])
def test_so_many_words_are_asked_for_and_never_special_ones(words):
    tokens = rows(64, words)
    tokens[:, 1 : words + 1][:, :: max(2, words)] = 1  # one unknown word
    n = words - 1 if words > 1 else 0
    found = masked(tokens)
    want = min(most_masked(LENGTH, 0.15), max(1, round(0.15 * n))) if n else 0
    assert (found.asked.sum(1) == want).all()
    asked = np.take_along_axis(tokens, found.places, 1)[found.asked]
    np.testing.assert_array_equal(asked, found.targets[found.asked])
    assert not np.isin(asked, special_tokens(VOCAB)).any()
    for row, places, some in zip(found.tokens, found.places, found.asked, strict=True):
        assert len(set(places[some])) == some.sum()
        row[places[some]] = -1
    elsewhere = found.tokens >= 0
    np.testing.assert_array_equal(found.tokens[elsewhere], tokens[elsewhere])
    few = masked(tokens, most=2)
    assert (few.asked.sum(1) == min(want, 2)).all()


def test_places_and_what_becomes_of_them_have_their_shares():
    tokens = rows(20_000, 20)
    found = masked(tokens, most=3)
    places = found.places[found.asked]
    assert len(places) == 3 * 20_000
    # Of each row three places of twenty, without replacement: the variance is less than a chi-square's by 17 / 19.
    counts = np.bincount(places, minlength=LENGTH)[1:21]
    statistic = ((counts - 3000) ** 2 / 3000).sum() / (17 / 19 * 20 / 20)
    assert 1e-4 < stats.chi2.sf(statistic, 19) < 1 - 1e-4
    seen = np.take_along_axis(found.tokens, found.places, 1)[found.asked]
    targets = found.targets[found.asked]
    # A random token is by chance the right one in 1 of 39, or [MASK] in another.
    kept, hidden = (seen == targets).mean(), (seen == VOCAB.mask).mean()
    shares = np.array([0.8 + 0.1 / 39, 0.1 + 0.1 / 39, 0.1 * 37 / 39])
    observed = np.array([hidden, kept, 1 - hidden - kept]) * len(seen)
    assert stats.chisquare(observed, shares * len(seen)).pvalue > 1e-4
    others = np.bincount(seen[(seen != targets) & (seen != VOCAB.mask)], minlength=40)
    assert others[0] == 0
    assert stats.chisquare(others[[1, 2, 3, 4]]).pvalue > 1e-4  # special ones too, as in BERT
    assert stats.chisquare(others[6:]).pvalue > 1e-4


def test_draws_belong_to_the_example_and_the_step():
    tokens = np.repeat(rows(1, 20), 8, 0)
    first, again, other = masked(tokens), masked(tokens), masked(tokens, seed=1)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any(1).all()
    assert len({tuple(row) for row in first.tokens}) == 8
    half = row_keys(jax.random.key(0), 8, None)[4:]
    late = jax.jit(lambda t, k: mask_words(t, k, vocab=VOCAB, most=5))(tokens[4:], half)
    np.testing.assert_array_equal(late.tokens, first.tokens[4:])


@pytest.mark.slow
def test_whole_words_are_hidden_as_a_whole():
    rng = np.random.default_rng(0)
    tokens = rows(4000, 24)
    continues = (rng.random(tokens.shape) < 0.4) & (tokens > 5)
    continues[:, 1] = False
    found = masked(tokens, continues=continues, most=10, rate=0.25)
    word = np.cumsum(~continues, 1)
    budget = round(0.25 * 24)
    first = []
    for row, places, asked in zip(word, found.places, found.asked, strict=True):
        chosen = places[asked]
        for number in set(row[chosen]):
            assert set(np.flatnonzero(row == number)) <= set(chosen) or len(chosen) == 10
        sizes = [int((row == number).sum()) for number in set(row[chosen])]
        assert len(chosen) <= budget or len(sizes) == 1
        first.append(row[places[0]])
    assert found.asked.any(1).all()
    # Every word is as likely the first, whatever its length.
    lengths = np.array([(row == number).sum() for row, number in zip(word, first, strict=True)])
    wanted = np.array([(np.diff([*np.flatnonzero(~c[1:25]), 24]) == 1).mean() for c in continues])
    z = ((lengths == 1).sum() - wanted.sum()) / np.sqrt((wanted * (1 - wanted)).sum())
    assert abs(z) < 4
    alone = masked(tokens, continues=np.zeros_like(continues), most=10, rate=0.25)
    assert (alone.asked.sum(1) == budget).all()
    long = masked(rows(16, 20), continues=rows(16, 20) > 5, most=3)  # one word longer than may be asked for
    assert (long.asked.sum(1) == 3).all()


def test_nothing_to_ask_for_asks_for_nothing():
    found = masked(np.zeros((3, LENGTH), np.int32))
    assert not found.asked.any()
    assert not found.tokens.any()
    assert jnp.asarray(found.places).dtype == jnp.int32
