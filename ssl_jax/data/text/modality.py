"""Text as a kind of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source
from ssl_jax.data.text import documents, streams, tokens
from ssl_jax.data.text.recipes import Recipe, Stream
from ssl_jax.types import Config


def make(recipe: Recipe, data: Config, *, train: Source | None, folder: Path | None) -> Modality:
    """The modality of a recipe for text; the tokenizer is the run's own, another's, or learned from ``train``.

    Raises:
      ValueError: of one line: the source holds no text, or there is no tokenizer, or none can be learned.
    """
    stored = None if folder is None else folder / tokens.FILE
    if stored is not None and stored.is_file():
        tokenizer = tokens.read(stored)
    elif train is None:
        raise ValueError(f"{stored} is not there, without which a run on text cannot be opened; put a copy of it back")
    elif data.tokenizer.file is not None:
        tokenizer = tokens.read(Path(data.tokenizer.file).expanduser())
    else:
        tokenizer = tokens.learn(map(str, texts(train)), data)
    vocab = tokens.vocab(tokenizer)
    stream, seen = isinstance(recipe, Stream), data.document_length
    length = data.length if stream else seen
    held: dict[str, tuple[Source, list[np.ndarray]]] = {}

    def numbers(source: Source, lines: bool) -> list[np.ndarray]:
        """The tokens of a source's documents; those of the source that was asked for last are kept."""
        kind = "lines" if lines else "documents"
        if kind not in held or held[kind][0] is not source:
            encode = tokens.lines if lines else tokens.encode
            held[kind] = source, encode(tokenizer, [str(text) for text in texts(source)])
        return held[kind][1]

    def spec(rows: int) -> dict[str, Any]:
        ids = jax.ShapeDtypeStruct((rows,), np.int32)
        batch: dict[str, Any] = {"views": (jax.ShapeDtypeStruct((rows, length), np.int32),), "label": ids, "index": ids}
        if stream:
            batch["tokens"] = jax.ShapeDtypeStruct((rows, length + 1), np.int32)
            batch["first"] = jax.ShapeDtypeStruct((rows,), np.bool_)
        return batch

    def feed(source: Source, *, seed: int, global_batch_size: int, mode: str = "jit", among: np.ndarray | None = None):
        found = numbers(source, stream)
        sizes = {"length": length, "seed": seed, "global_batch_size": global_batch_size}
        made = (
            streams.feed(found, shuffle=recipe.shuffle, **sizes)
            if isinstance(recipe, Stream)
            else documents.feed(source, found, among=among, **sizes)
        )
        return made._replace(notes=(*made.notes, *_notes(found, vocab, None if stream else length)))

    def inputs(source: Source, **split: int):
        return documents.inputs(source, numbers(source, False), length=seen, **split)

    def score(source: Source, **split: int):
        return streams.held_out(numbers(source, True), length=length, **split)

    def prepare(given: Any) -> np.ndarray:
        given = [given] if isinstance(given, str) else list(given)
        return documents.padded(tokens.encode(tokenizer, given), seen)

    return Modality(
        input_shape=(length,),
        spec=spec,
        feed=feed,
        inputs=inputs,
        prepare=prepare,
        score=score if stream else None,
        accepts=lambda source: (texts(source), None)[1],
        vocab=vocab,
        unit="rows" if stream else "documents",
        files={tokens.FILE: tokenizer.to_str(pretty=True).encode()},
    )


def texts(source: Source) -> np.ndarray:
    """The texts of a source; ValueError where it holds images."""
    if "text" not in source.columns:
        raise ValueError(
            "this recipe is for text and the examples are images; use a recipe for images (data.recipe), or a source "
            "of text such as text:PATH"
        )
    return source.columns["text"]


def _notes(found: list[np.ndarray], vocab, length: int | None) -> tuple[str, ...]:
    total = sum(map(len, found))
    unknown = 0 if vocab.unk is None else sum(int((each == vocab.unk).sum()) for each in found)
    notes = [f"a vocabulary of {vocab.size:,} tokens; {unknown / max(total, 1):.1%} of those of train are unknown"]
    if length is not None and (cut := sum(len(each) > length for each in found)):
        notes.append(f"{cut} of {len(found)} documents are cut at data.document_length={length} tokens")
    return tuple(notes)
