"""Text as a kind of data: what every recipe for it shares, and the form that each gives to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from ssl_jax.data.feed import Feed
from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source
from ssl_jax.data.text import cooccurrences, documents, pairs, replace, streams, tokens, windows
from ssl_jax.data.text.recipes import Cooccurrences, Documents, Pairs, Recipe, Stream, Windows
from ssl_jax.types import Config, Vocab

TABLE_LIMIT = 1 << 30  # of runs from before the key existed


class Form(NamedTuple):
    """What the type of a recipe says.

    Attributes:
      length: tokens in a row of a training batch.
      leaves: ``(rows) -> {name: shape}`` of a training batch besides views, label and index.
      feed, score: of the modality.
      unit: of the modality.
      enclosed: whether documents stand in ``[CLS]`` and ``[SEP]``.
    """

    length: int
    leaves: Callable[[int], dict[str, Any]]
    feed: Callable[..., Feed]
    score: Callable[..., Iterator[dict[str, Any]]] | None
    unit: str = "documents"
    enclosed: bool = False


class Text(NamedTuple):
    """What a form is made with: the tokenizer, and ``read(source, how)``, which gives ``how(tokenizer, texts)``."""

    tokenizer: Tokenizer
    vocab: Vocab
    read: Callable[[Source, Callable[[Tokenizer, list[str]], Any]], Any]


def make(recipe: Recipe, data: Config, *, train: Source | None, folder: Path | None) -> Modality:
    """The modality of a recipe for text; the tokenizer is the run's own, another's, or learned from ``train``.

    Without ``train`` and ``folder``, as for a plan, one that is as large as the config says stands in for it.

    Raises:
      ValueError: of one line: the source holds no text, or there is no tokenizer, or none can be learned.
    """
    tokenizer = _tokenizer(data, train, folder)
    vocab = tokens.vocab(tokenizer)
    held: dict[Any, tuple[Source, Any]] = {}

    def read(source: Source, how: Callable[[Tokenizer, list[str]], Any]) -> Any:
        """What ``how`` makes of a source's texts; that of the source that was asked for last is kept."""
        if how not in held or held[how][0] is not source:
            held[how] = source, how(tokenizer, [str(text) for text in texts(source)])
        return held[how][1]

    form = FORMS[type(recipe)](recipe, data, Text(tokenizer, vocab, read))
    seen = data.document_length

    def spec(rows: int) -> dict[str, Any]:
        ids = jax.ShapeDtypeStruct((rows,), np.int32)
        views = (jax.ShapeDtypeStruct((rows, form.length), np.int32),)
        return {"views": views, "label": ids, "index": ids} | form.leaves(rows)

    def whole(found: list[np.ndarray]) -> list[np.ndarray]:
        return documents.enclosed(found, vocab, seen) if form.enclosed else found

    def inputs(source: Source, **split: int):
        return documents.inputs(source, whole(read(source, tokens.encode)), length=seen, **split)

    def prepare(given: Any) -> np.ndarray:
        given = [given] if isinstance(given, str) else list(given)
        if other := next((type(one).__name__ for one in given if not isinstance(one, str)), None):
            raise ValueError(f"this run reads text, and what is given holds {other}; give a text or a list of texts")
        return documents.padded(whole(tokens.encode(tokenizer, given)), seen)

    return Modality(
        input_shape=(seen,),
        spec=spec,
        feed=form.feed,
        inputs=inputs,
        prepare=prepare,
        score=form.score,
        sent=lambda rows: (spec(rows), None),
        accepts=lambda source: (texts(source), None)[1],
        vocab=vocab,
        words=tokens.words(tokenizer),
        unit=form.unit,
        record="documents",
        files={tokens.FILE: tokenizer.to_str(pretty=True).encode()},
    )


def _tokenizer(data: Config, train: Source | None, folder: Path | None) -> Tokenizer:
    stored = None if folder is None else folder / tokens.FILE
    if stored is not None and stored.is_file():
        return tokens.read(stored)
    if train is None and folder is None:
        return tokens.stand_in(data)
    if train is None:
        raise ValueError(f"{stored} is not there, without which a run on text cannot be opened; put a copy of it back")
    if data.tokenizer.file is not None:
        return tokens.read(Path(data.tokenizer.file).expanduser())
    return tokens.learn(map(str, texts(train)), data)


def _stream(recipe: Stream, data: Config, text: Text) -> Form:
    length = data.length

    def leaves(rows: int) -> dict[str, Any]:
        whole = jax.ShapeDtypeStruct((rows, length + 1), np.int32)
        return {"tokens": whole, "first": jax.ShapeDtypeStruct((rows,), np.bool_)}

    def feed(source: Source, *, seed: int, global_batch_size: int, mode: str = "jit", among: np.ndarray | None = None):
        found = text.read(source, tokens.lines)
        sizes = {"length": length, "seed": seed, "global_batch_size": global_batch_size}
        # A key younger than some stored configs; under pmap the host sends the windows.
        limit = data.get("table_limit", TABLE_LIMIT) if mode == "jit" else 0
        made = streams.feed(found, shuffle=recipe.shuffle, table_limit=limit, **sizes)
        return made._replace(notes=(*made.notes, _unknown(found, text.vocab)))

    def score(source: Source, **split: int):
        return streams.held_out(text.read(source, tokens.lines), length=length, **split)

    return Form(length, leaves, feed, score, unit="rows")


def _documents(recipe: Documents, data: Config, text: Text) -> Form:
    length = data.document_length

    def feed(source: Source, *, seed: int, global_batch_size: int, mode: str = "jit", among: np.ndarray | None = None):
        found = text.read(source, tokens.encode)
        whole = documents.enclosed(found, text.vocab, length) if recipe.enclosed else found
        sizes = {"length": length, "seed": seed, "global_batch_size": global_batch_size}
        room, second = length - 2 * recipe.enclosed, None
        if recipe.unlabelled:
            second = _second(recipe, source, [document[:room] for document in found], text, length, seed)
        made = documents.feed(source, whole, recipe, among=among, second=second, **sizes)
        notes = [_unknown(found, text.vocab)]
        if cut := sum(len(each) > room for each in found):
            notes.append(f"{cut} of {len(found)} documents are cut at data.document_length={length} tokens")
        return made._replace(notes=(*made.notes, *notes))

    def leaves(rows: int) -> dict[str, Any]:
        if not recipe.unlabelled:
            return {}
        row = jax.ShapeDtypeStruct((rows * recipe.ratio, length), np.int32)
        return {"unlabelled": {"views": (row, row), "index": jax.ShapeDtypeStruct(row.shape[:1], np.int32)}}

    return Form(length, leaves, feed, None, enclosed=recipe.enclosed)


def _second(
    recipe: Documents, source: Source, found: list[np.ndarray], text: Text, length: int, seed: int
) -> Callable[[int, int], np.ndarray]:
    """``(step, i) -> tokens`` of the other form of document i; ``found`` are the documents as they are seen."""

    def whole(tokens: list[np.ndarray]) -> list[np.ndarray]:
        return documents.enclosed(tokens, text.vocab, length) if recipe.enclosed else tokens

    if recipe.unlabelled == "replaced":
        words = replace.corpus(found, text.vocab.size, _special(text.vocab))
        return lambda step, i: whole([replace.replaced(found[i], words, recipe.share, (seed, step, i))])[0]
    if "text_2" not in source.columns:
        raise ValueError(
            "this recipe takes the other form of each document from a column, and there is none; name it with "
            "data.second_column, or use data.recipe=documents_uda"
        )
    others = whole(tokens.encode(text.tokenizer, [str(other) for other in source.columns["text_2"]]))
    return lambda step, i: others[i]


def _pairs(recipe: Pairs, data: Config, text: Text) -> Form:
    length = data.length
    documents.require(text.vocab, "cls", "sep", "mask")
    if length < pairs.AROUND + 2:
        raise ValueError(f"data.length={length} holds no pair of sentences; use {pairs.AROUND + 2} or more")
    form: dict[str, Any] = {"length": length, "short": recipe.short, "vocab": text.vocab}
    form["continues"] = tokens.continues(text.tokenizer)

    def corpus(source: Source) -> pairs.Corpus:
        return pairs.corpus(text.read(source, _sentences), source.labels)

    def leaves(rows: int) -> dict[str, Any]:
        row = jax.ShapeDtypeStruct((rows, length), np.int32)
        flags = {"continues": jax.ShapeDtypeStruct(row.shape, np.bool_)}
        return {"tokens": row, "segment": row, "random_next": jax.ShapeDtypeStruct((rows,), np.bool_)} | flags

    def feed(source: Source, *, seed: int, global_batch_size: int, mode: str = "jit", among: np.ndarray | None = None):
        found = corpus(source)
        made = pairs.feed(found, seed=seed, global_batch_size=global_batch_size, **form)
        return made._replace(notes=(*made.notes, _unknown([found.tokens], text.vocab)))

    def score(source: Source, **split: int):
        sizes: dict[str, Any] = form | split
        return pairs.held_out(corpus(source), **sizes)

    return Form(length, leaves, feed, score, unit="pairs", enclosed=True)


def _sentences(tokenizer: Tokenizer, texts: list[str]) -> list[list[np.ndarray]]:
    return tokens.nested(tokenizer, [pairs.sentences(text) for text in texts])


def _windows(recipe: Windows, data: Config, text: Text) -> Form:
    sizes = windows.Sizes(data.length, recipe.window, recipe.negatives)

    def corpus(source: Source) -> windows.Corpus:
        form = {"window": recipe.window, "subsample": recipe.subsample, "vocab": text.vocab.size}
        return windows.corpus(text.read(source, tokens.encode), special=_special(text.vocab), **form)

    def leaves(rows: int) -> dict[str, Any]:
        found = {"reach": sizes.length, "negatives": sizes.negatives}
        return {name: jax.ShapeDtypeStruct((rows, width), np.int32) for name, width in found.items()}

    def feed(source: Source, *, seed: int, global_batch_size: int, mode: str = "jit", among: np.ndarray | None = None):
        made = windows.feed(corpus(source), sizes, seed=seed, global_batch_size=global_batch_size)
        return made._replace(notes=(*made.notes, _unknown(text.read(source, tokens.encode), text.vocab)))

    def score(source: Source, **split: int):
        return windows.held_out(corpus(source), sizes, **split)

    return Form(sizes.length + 2 * sizes.window, leaves, feed, score, unit="rows")


def _cooccurrences(recipe: Cooccurrences, data: Config, text: Text) -> Form:
    length = data.length

    def leaves(rows: int) -> dict[str, Any]:
        found = {"context": np.int32, "count": np.float32}
        return {name: jax.ShapeDtypeStruct((rows, length), dtype) for name, dtype in found.items()}

    def feed(source: Source, *, seed: int, global_batch_size: int, mode: str = "jit", among: np.ndarray | None = None):
        found = text.read(source, tokens.encode)
        form = {"window": recipe.window, "vocab": text.vocab.size, "special": _special(text.vocab)}
        cells = cooccurrences.cells(found, **form)
        made = cooccurrences.feed(cells, length=length, seed=seed, global_batch_size=global_batch_size)
        return made._replace(notes=(*made.notes, _unknown(found, text.vocab)))

    return Form(length, leaves, feed, None, unit="rows")


def _special(vocab: Vocab) -> list[int]:
    """Tokens that are no words."""
    return [i for i in vocab[1:] if i is not None]


FORMS: Mapping[type, Callable[[Any, Config, Text], Form]] = {
    Stream: _stream,
    Documents: _documents,
    Pairs: _pairs,
    Windows: _windows,
    Cooccurrences: _cooccurrences,
}


def texts(source: Source) -> np.ndarray:
    """The texts of a source; ValueError where it holds images."""
    if "text" not in source.columns:
        raise ValueError(
            "this recipe is for text and the examples are images; use a recipe for images (data.recipe), or a source "
            "of text such as text:PATH"
        )
    return source.columns["text"]


def _unknown(found: list[np.ndarray], vocab: Vocab) -> str:
    total = sum(map(len, found))
    unknown = 0 if vocab.unk is None else sum(int((each == vocab.unk).sum()) for each in found)
    return f"a vocabulary of {vocab.size:,} tokens; {unknown / max(total, 1):.1%} of those of train are unknown"
