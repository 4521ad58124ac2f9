"""Pairs: ``[CLS] A [SEP] B [SEP]``, where B follows A in its document or, in half of the pairs, is from another one.

Where a document may be parted are its sentences' ends: the ends of its lines, and white space behind ``.``, ``!`` or
``?``. A pair is made at such a place: A is what stands before it and B what stands behind, of the lengths that are
drawn; so A ends with a sentence and B begins with one, whatever the answer. A random B begins at a place of another
document that has as much behind it. The lengths are drawn before the answer is, and a random B is as long as the
true one would have been, so that lengths tell nothing of the answer. No B has the last token of its document, with
which a true one of a short document would end more often.

Differs from the reference code: BERT packs whole sentences until a sequence is full and cuts the longer part, which
makes a random B longer than a true one, and gives a random B to every document of one sentence, more than half of all.
Here such documents have no place and are left out, and the answer is a fair coin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.feed import Feed
from ssl_jax.data.order import FOREVER, indices, permutation, process_rows
from ssl_jax.types import Vocab

ENDS = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
AROUND = 3  # [CLS], [SEP], [SEP]
TRIES = 16  # to find a place in another document by chance; then all are looked through
MEASURED = 100  # batches whose answers are counted for the log


class Corpus(NamedTuple):
    """Documents one after the other.

    Attributes:
      tokens: int32 ``[n]``.
      place: int64 ``[p]``: where they may be parted, before which token.
      document: int32 ``[p]``: of each place.
      before, behind: int64 ``[p]``: tokens of the document on either side of each place; its last one does not count.
      longest: int64 ``[p]``: the most that stands behind a place of any other document.
      order: int64 ``[p]``: the places, those with the most behind them first.
      label: int32 ``[p]``: of the document.
      without: how many documents have no place.
    """

    tokens: np.ndarray
    place: np.ndarray
    document: np.ndarray
    before: np.ndarray
    behind: np.ndarray
    longest: np.ndarray
    order: np.ndarray
    label: np.ndarray
    without: int


class Drawn(NamedTuple):
    """Pairs, an entry each: the places of A and B, how long both are, and whether B is of another document."""

    first: np.ndarray
    second: np.ndarray
    lengths: np.ndarray
    random_next: np.ndarray


def sentences(text: str) -> list[str]:
    """A text parted where its lines and sentences end."""
    return [part for part in ENDS.split(text.strip()) if part]


def corpus(documents: Sequence[Sequence[np.ndarray]], labels: np.ndarray | None = None) -> Corpus:
    """The corpus of documents that are given as the tokens of their sentences.

    Raises:
      ValueError: fewer than two documents have a second sentence of two tokens or more.
    """
    place, document, before, behind = [], [], [], []
    start = 0
    for number, parts in enumerate(documents):
        sizes = [len(part) for part in parts if len(part)]
        inner = np.cumsum(sizes)[:-1]
        inner = inner[inner < sum(sizes) - 1]
        place.append(start + inner)
        document.append(np.full(len(inner), number))
        before.append(inner)
        behind.append(sum(sizes) - 1 - inner)
        start += sum(sizes)
    joined = [np.concatenate([*a, np.zeros(0, np.int64)]).astype(np.int64) for a in (place, document, before, behind)]
    place, document, before, behind = joined
    parted = len(np.unique(document))
    if parted < 2:
        raise ValueError(
            f"pairs of sentences need two documents of two sentences or more, and of {len(documents)} {parted} has as "
            "many; a sentence ends with its line, or with . ! or ? and a space"
        )
    # Of each document the most that stands behind a place is behind its first; of others, the greatest or the second.
    most = np.zeros(len(documents), np.int64)
    np.maximum.at(most, document, behind)
    second, first = np.sort(most)[-2:]
    longest = np.where(document == most.argmax(), second, first)
    label = np.full(len(place), -1, np.int32) if labels is None else labels[document].astype(np.int32)
    tokens = np.concatenate([part for parts in documents for part in parts]).astype(np.int32)
    order = np.argsort(-behind, kind="stable")
    return Corpus(tokens, place, document, before, behind, longest, order, label, len(documents) - parted)


def draw(found: Corpus, at: np.ndarray, length: int, short: float, rng: np.random.Generator) -> Drawn:
    """Pairs of at most ``length`` tokens, special ones included, at the places numbered ``at``.

    Args:
      short: share of the pairs that are shorter, of any number of tokens.
    """
    n = len(at)
    before, behind = found.before[at], np.minimum(found.behind[at], found.longest[at])
    room = length - AROUND
    total = np.where(rng.random(n) < short, rng.integers(2, room + 1, n), room)
    # A short document is not taken as a whole, or its end would tell a true B.
    total = np.where(total < before + behind, total, rng.integers(2, before + behind + 1))
    low, high = np.maximum(1, total - behind), np.minimum(total - 1, before)
    lengths = rng.integers(low, high + 1)
    lengths = np.stack([lengths, total - lengths], axis=1)
    random_next = rng.random(n) < 0.5

    # Any place of another document with enough behind it, all alike.
    enough = np.searchsorted(-found.behind[found.order], -lengths[:, 1], side="right")
    second = at.copy()
    looking = random_next.copy()
    for tried in (rng.random((TRIES, n)) * enough).astype(np.int64):
        chosen = found.order[tried]
        hit = looking & (found.document[chosen] != found.document[at])
        second, looking = np.where(hit, chosen, second), looking & ~hit
    last = rng.random(n)
    for i in np.flatnonzero(looking):
        chosen = found.order[: enough[i]]
        chosen = chosen[found.document[chosen] != found.document[at[i]]]
        second[i] = chosen[int(last[i] * len(chosen))]
    return Drawn(at, second, lengths, random_next)


def batch(found: Corpus, drawn: Drawn, rows: slice, *, length: int, vocab: Vocab, continues: np.ndarray) -> dict:
    """Rows of what was drawn as a training batch.

    Args:
      continues: bool ``[vocab]``: which tokens continue a word.
    """
    n, cls, sep = len(drawn.first[rows]), vocab.cls or 0, vocab.sep or 0  # a recipe for pairs has both
    tokens, segment = np.zeros((n, length), np.int32), np.zeros((n, length), np.int32)
    parts = zip(drawn.first[rows], drawn.second[rows], drawn.lengths[rows], strict=True)
    for row, segments, (first, second, (a, b)) in zip(tokens, segment, parts, strict=True):
        x, y = found.place[first], found.place[second]
        row[0], row[1 : 1 + a], row[1 + a] = cls, found.tokens[x - a : x], sep
        row[2 + a : 2 + a + b], row[2 + a + b] = found.tokens[y : y + b], sep
        segments[2 + a : 3 + a + b] = 1
    return {
        "tokens": tokens,
        "views": (tokens,),
        "segment": segment,
        "continues": continues[tokens],
        "random_next": drawn.random_next[rows],
        "label": found.label[drawn.first[rows]],
        "index": found.document[drawn.first[rows]].astype(np.int32),
    }


def feed(
    found: Corpus, *, length: int, short: float, vocab: Vocab, continues: np.ndarray, seed: int, global_batch_size: int
) -> Feed:
    """How BERT is fed: places in an order that goes through all of them, everything else drawn for each batch.

    An epoch is as many tokens as there are.
    """
    if global_batch_size > len(found.place):
        raise ValueError(
            f"data.global_batch_size={global_batch_size} pairs need as many places between sentences, and train has "
            f"{len(found.place)}; lower it"
        )

    def drawn(step: int) -> Drawn:
        at = indices(len(found.place), global_batch_size, seed, step)
        return draw(found, at, length, short, np.random.default_rng(np.random.SeedSequence([seed, step, length])))

    def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
        rows = process_rows(global_batch_size, process, process_count)
        for step in range(start_step, FOREVER if total_steps is None else total_steps):
            yield batch(found, drawn(step), rows, length=length, vocab=vocab, continues=continues)

    steps = max(1, len(found.tokens) // (global_batch_size * (length - AROUND)))
    answers = np.concatenate([drawn(step).random_next for step in range(min(steps, MEASURED))])
    notes = [
        f"{len(found.tokens):,} tokens, {len(found.place):,} places between sentences; in {answers.mean():.1%} of "
        f"{len(answers):,} pairs the second part is from another document"
    ]
    if found.without:
        notes.append(f"{found.without} documents of one sentence are left out")
    return Feed(batches, steps_per_epoch=steps, num_examples=len(found.place), notes=tuple(notes))


def held_out(
    found: Corpus,
    *,
    length: int,
    short: float,
    vocab: Vocab,
    continues: np.ndarray,
    global_batch_size: int,
    process: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, Any]]:
    """Batches of pairs that are the same every time, as many tokens as there are; ``"index"`` numbers the pairs."""
    number = max(1, len(found.tokens) // (length - AROUND))
    order = permutation(len(found.place), 0, 0)
    drawn = draw(found, order[np.arange(number) % len(order)], length, short, np.random.default_rng(0))
    rows = process_rows(global_batch_size, process, process_count)
    for start in range(0, number, global_batch_size):
        index = np.arange(start + rows.start, start + rows.stop)
        some = Drawn(*(part[np.minimum(index, number - 1)] for part in drawn))
        made = batch(found, some, slice(None), length=length, vocab=vocab, continues=continues)
        yield made | {"index": np.where(index < number, index, -1).astype(np.int32)}
