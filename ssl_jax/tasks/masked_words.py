"""Masked words: some tokens of a text are hidden, and asked for.

Of the n tokens of an example that are neither special nor padding, ``min(most, max(1, round(rate n)))`` are chosen,
all alike; 80 % of them become ``[MASK]``, 10 % any token but padding, and 10 % stay what they are. Draws are new in
every step, and belong to the example.

Reference: Devlin et al. 2019 (arXiv:1810.04805), section 3.1 and appendix A.1. Differs from the reference code: the
rate is of n and not of n and the special tokens; masks are not drawn ten times beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.types import Array, Vocab

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens


class Masked(NamedTuple):
    """What is seen and what is asked for.

    Attributes:
      tokens: int32 ``[b, t]``, as the encoder sees them.
      places: int32 ``[b, most]``: where a token is asked for.
      targets: int32 ``[b, most]``: which it is.
      asked: bool ``[b, most]``: False where a row asks for fewer.
    """

    tokens: Array
    places: Array
    targets: Array
    asked: Array


def most_masked(length: int, rate: float) -> int:
    """How many tokens of a row of ``length`` are asked for at most."""
    return max(1, round(rate * length))


def special_tokens(vocab: Vocab) -> tuple[int, ...]:
    """Tokens that are never asked for: padding, unknown words, and those that part a text."""
    return tuple(sorted({token for token in vocab[1:] if token is not None}))


def mask_words(
    tokens: Array, keys: Array, *, vocab: Vocab, rate: float = 0.15, most: int, continues: Array | None = None
) -> Masked:
    """Hide tokens of every row.

    Args:
      tokens: int32 ``[b, t]``.
      keys: ``[b]``, of the examples.
      rate: share of the tokens that are chosen.
      most: of them in a row.
      continues: bool ``[b, t]``: tokens that continue the word before them. With it words are chosen as a whole, in a
        random order, while they fit into the number of tokens; the first is, however long, up to ``most``.
    """
    row = lambda tokens, key, continues: _row(tokens, key, continues, vocab, rate, most)  # noqa: E731
    if continues is None:
        return jax.vmap(lambda tokens, key: row(tokens, key, None))(tokens, keys)
    return jax.vmap(row)(tokens, keys, continues)


def _row(tokens: Array, key: Array, continues: Array | None, vocab: Vocab, rate: float, most: int) -> Masked:
    length = len(tokens)
    special = jnp.asarray(special_tokens(vocab), tokens.dtype)
    words = (tokens[:, None] != special[None]).all(1)
    n = words.sum()
    count = jnp.where(n > 0, jnp.clip(jnp.round(rate * n.astype(jnp.float32)), 1, most), 0).astype(jnp.int32)

    chance, kind, other = jax.random.split(key, 3)
    score = jax.random.uniform(chance, (length,), jnp.float32)
    if continues is not None:  # all pieces of a word have the number of its first
        first = jnp.where(continues, 0, jnp.arange(length))
        score = score[jax.lax.cummax(first)]
    score = jnp.where(words, score, 2.0)
    order = jnp.argsort(score)[:most]
    if continues is None:
        asked = jnp.arange(len(order)) < count
    else:
        ordered = jnp.sort(score)
        until = jnp.searchsorted(ordered, ordered, side="right")[:most]  # so many with the whole of this word
        asked = ((until <= count) | (ordered[:most] == ordered[0])) & (ordered[:most] < 2.0)

    targets = tokens[order]
    u = jax.random.uniform(kind, targets.shape, jnp.float32)
    random = jax.random.randint(other, targets.shape, 1, vocab.size, tokens.dtype)
    hidden = jnp.where(u < MASKED, jnp.asarray(vocab.mask, tokens.dtype), random)
    hidden = jnp.where(u < MASKED + RANDOM, hidden, targets)
    seen = tokens.at[jnp.where(asked, order, length)].set(hidden, mode="drop")
    return Masked(seen, jnp.where(asked, order, 0).astype(jnp.int32), targets, asked)
