"""Pairs of sentences: where documents are parted, what a batch holds, and that lengths tell nothing."""

from __future__ import annotations

import numpy as np
import pytest

from configs.common import base
from ssl_jax.data import readers
from ssl_jax.data.readers import text
from ssl_jax.data.text import pairs
from ssl_jax.experiment import make_modality
from ssl_jax.types import Vocab

VOCAB = Vocab(200, unk=1, eos=2, cls=3, sep=4, mask=5)
LENGTH = 24
FORM = {"length": LENGTH, "short": 0.1, "vocab": VOCAB, "continues": np.arange(4000) % 7 == 0}


def corpus(documents=30, seed=0):
    """Documents of sentences whose tokens count up in each document: 100 d + 0, 1, 2, ..."""
    rng = np.random.default_rng(seed)
    found = []
    for d in range(documents):
        sizes = rng.integers(1, 9, rng.integers(1, 12))
        ends = np.cumsum(sizes)
        found.append([np.arange(end - size, end) + 100 * d for size, end in zip(sizes, ends, strict=True)])
    return pairs.corpus(found)


def drawn(found, rows, short=0.1, length=LENGTH, seed=0):
    at = np.random.default_rng(seed).integers(0, len(found.place), rows)
    return pairs.draw(found, at, length, short, np.random.default_rng(seed + 1))


def test_sentences_end_with_lines_and_full_stops():
    found = pairs.sentences("One. Two? Yes!  Three 3.5 is\n\n four .\nfive")
    assert found == ["One.", "Two?", "Yes!", "Three 3.5 is", "four .", "five"]


def test_the_second_part_follows_the_first_or_is_of_another_document():
    found = corpus()
    made = drawn(found, 4000)
    for first, second, (a, b), random_next in zip(*made, strict=True):
        x, y = found.place[first], found.place[second]
        one, two = found.tokens[x - a : x], found.tokens[y : y + b]
        assert set(np.diff(one)) | set(np.diff(two)) <= {1}  # each within one document
        assert (one[0] // 100 != two[0] // 100) if random_next else two[0] == one[-1] + 1
        assert min(a, b) >= 1
        assert a + b <= LENGTH - 3
    again = drawn(found, 4000)
    np.testing.assert_array_equal(made.lengths, again.lengths)


def test_a_batch_is_cls_a_sep_b_sep():
    found = pairs.corpus(
        [[np.arange(10, 14), np.arange(14, 18)], [np.arange(50, 60), np.arange(60, 70)]], np.array([7, -1])
    )
    made = pairs.Drawn(np.array([0, 0]), np.array([0, 1]), np.array([[2, 3], [2, 3]]), np.array([False, True]))
    batch = pairs.batch(found, made, slice(None), length=9, vocab=VOCAB, continues=FORM["continues"])
    assert batch["tokens"].tolist() == [[3, 12, 13, 4, 14, 15, 16, 4, 0], [3, 12, 13, 4, 60, 61, 62, 4, 0]]
    assert batch["segment"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 0]] * 2
    assert batch["continues"].tolist() == (batch["tokens"] % 7 == 0).tolist()
    assert batch["label"].tolist() == [7, 7]
    assert batch["index"].tolist() == [0, 0]


@pytest.mark.parametrize("documents", ["short and long", "pydoc"])
def test_lengths_and_the_last_token_tell_nothing(documents):
    """A classifier that knows both lengths and what the row ends with, against chance."""
    if documents == "pydoc":
        source = readers.load("pydoc").train
        data = base()
        data.data.update({"recipe": "pairs", "length": 64})
        data.data.tokenizer.update({"kind": "wordpiece", "size": 600})
        modality = make_modality(data, train=source)
        batches = modality.feed(source, seed=0, global_batch_size=512).batches(total_steps=24)
        parts = [(b["tokens"], b["segment"], b["random_next"]) for b in batches]
        tokens, segment, answer = (np.concatenate(part) for part in zip(*parts, strict=True))
        lengths = np.stack([(tokens != 0).sum(1) - segment.sum(1) - 2, segment.sum(1) - 1], 1)
        ends = tokens[np.arange(len(tokens)), lengths.sum(1) + 1]  # the last of the second part
    else:
        found = corpus(200)
        made = drawn(found, 12_288)
        lengths, answer = made.lengths, made.random_next
        last = found.place[made.second] + lengths[:, 1] - 1
        ends = np.isin(last + 1, [*found.place, *(np.flatnonzero(np.diff(found.tokens) != 1) + 1)]).astype(int)
    half = len(answer) // 2
    assert abs(answer.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(answer))
    for told in (lengths[:, 0] * 100 + lengths[:, 1], lengths[:, 1], ends):
        counts = {}
        for cell, random_next in zip(told[:half], answer[:half], strict=True):
            counts[cell] = counts.get(cell, 0) + (1 if random_next else -1)
        said = np.array([counts.get(cell, 0) > 0 for cell in told[half:]])
        right = (said == answer[half:]).mean()
        assert abs(right - 0.5) / (0.5 / np.sqrt(half)) < 3.5


def test_any_step_and_any_number_of_processes_give_the_same_batches():
    feed = pairs.feed(corpus(), seed=3, global_batch_size=8, **FORM)
    assert feed.steps_per_epoch == max(1, len(corpus().tokens) // (8 * (LENGTH - 3)))
    assert any("pairs the second part is from another document" in note for note in feed.notes)
    whole = [b["tokens"] for b in feed.batches(total_steps=9)]
    later = [b["tokens"] for b in feed.batches(start_step=6, total_steps=9)]
    np.testing.assert_array_equal(whole[6:], later)
    parts = [[b["tokens"] for b in feed.batches(total_steps=9, process=p, process_count=2)] for p in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    other = next(iter(pairs.feed(corpus(), seed=4, global_batch_size=8, **FORM).batches(total_steps=1)))
    assert (other["tokens"] != whole[0]).any()


def test_held_out_pairs_are_the_same_in_batches_of_any_size():
    found = corpus()
    number = len(found.tokens) // (LENGTH - 3)

    def rows(size, **split):
        batches = list(pairs.held_out(found, global_batch_size=size, **split, **FORM))
        return {name: np.concatenate([b[name] for b in batches]) for name in ("tokens", "index", "random_next")}

    large, small = rows(8), rows(6)
    assert large["index"].tolist()[:number] == list(range(number))
    assert (large["index"][number:] == -1).all()
    np.testing.assert_array_equal(large["tokens"][:number], small["tokens"][:number])
    first = rows(8, process=0, process_count=2)
    np.testing.assert_array_equal(first["tokens"][:4], large["tokens"][:4])


def test_one_document_larger_than_all_others_still_has_its_pairs():
    found = pairs.corpus([[np.arange(500), np.arange(500, 1000)], [np.arange(2000, 2003), np.arange(2003, 2007)]])
    made = drawn(found, 50)
    assert (made.lengths[:, 1] <= 4).all()  # what the other document has
    assert (found.document[made.first] != found.document[made.second]).tolist() == made.random_next.tolist()


REFUSED = [
    (lambda: pairs.corpus([[np.arange(3)], [np.arange(3), np.arange(2)]]), "of 2 documents? 1 has|of 2 1 has"),
    (lambda: pairs.feed(corpus(2), seed=0, global_batch_size=400, **FORM), "global_batch_size=400 pairs need as many"),
    (lambda: modality(length=4), "data.length=4 holds no pair of sentences; use 5 or more"),
    (lambda: modality(document_length=2).prepare("a"), "data.document_length=2 leaves no room"),
]


def modality(recipe="pairs", **data):
    config = base()
    config.data.update({"recipe": recipe} | data)
    config.data.tokenizer.min_frequency = 1
    return make_modality(config, train=text.of_texts(["a b. c d", "a c. d"] * 4))


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("recipe", ["pairs", "documents_enclosed"])
def test_documents_stand_in_cls_and_sep(recipe):
    made = modality(recipe, document_length=4)
    cls, sep = made.vocab.cls, made.vocab.sep
    found = made.prepare(["a", "a b c d"])
    assert found[:, 0].tolist() == [cls, cls]
    assert found[0].tolist()[2:] == [sep, 0]
    assert found[1, 3] == sep
    assert made.input_shape == (4,)
    spec = made.spec(3)
    source = text.of_texts(["a b. c d", "a c. d"] * 4)
    batch = next(iter(made.feed(source, seed=0, global_batch_size=3).batches(total_steps=1)))
    assert {k: v.shape for k, v in batch.items() if k != "views"} == {
        k: v.shape for k, v in spec.items() if k != "views"
    }
    assert batch["views"][0].shape == spec["views"][0].shape
