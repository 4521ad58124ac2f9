"""Documents: one in a row, as classifiers read them and as evaluation sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import few_labels
from ssl_jax.data.feed import Feed, together
from ssl_jax.data.order import FOREVER, indices, process_rows
from ssl_jax.data.source import Source
from ssl_jax.types import Vocab


def padded(documents: Sequence[np.ndarray], length: int) -> np.ndarray:
    """int32 ``[n, length]``: the first tokens of each document, 0 behind its end."""
    found = np.zeros((len(documents), length), np.int32)
    for row, tokens in zip(found, documents, strict=True):
        row[: min(len(tokens), length)] = tokens[:length]
    return found


def enclosed(documents: Sequence[np.ndarray], vocab: Vocab, length: int) -> list[np.ndarray]:
    """``[CLS] document [SEP]``, cut so that this has ``length`` tokens at most.

    Raises:
      ValueError: of one line: no such tokens, or no room beside them.
    """
    require(vocab, "cls", "sep")
    if length < 3:
        raise ValueError(f"data.document_length={length} leaves no room beside [CLS] and [SEP]; use 3 or more")
    begin, end = np.array([vocab.cls], np.int32), np.array([vocab.sep], np.int32)
    return [np.concatenate([begin, document[: length - 2], end]) for document in documents]


def require(vocab: Vocab, *roles: str) -> None:
    """Refuse a vocabulary without the special tokens that a recipe needs."""
    if missing := [f"[{role.upper()}]" for role in roles if getattr(vocab, role) is None]:
        raise ValueError(
            f"the tokenizer has no {', '.join(missing)}, which this recipe needs; let one be learned "
            "(data.tokenizer.file=null), or use one of BERT's kind"
        )


def feed(
    source: Source,
    documents: Sequence[np.ndarray],
    recipe: Any,
    *,
    length: int,
    seed: int,
    global_batch_size: int,
    among: np.ndarray | None = None,
    second: Callable[[int, int], np.ndarray] | None = None,
) -> Feed:
    """How a classifier is fed: each epoch goes through all documents, or those ``among``, in an order of its own.

    Args:
      recipe: with ``unlabelled`` and ``ratio``, see :func:`ssl_jax.data.few_labels.parts`.
      second: ``(step, i) -> tokens``: the other form of document i, in the second part of a batch of two.
    """
    number, parts = few_labels.parts(source, recipe, global_batch_size, among)

    def part_of(among, global_batch_size, part):
        pool = len(source) if among is None else among

        def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
            rows = process_rows(global_batch_size, process, process_count)
            for step in range(start_step, FOREVER if total_steps is None else total_steps):
                drawn = indices(pool, global_batch_size, seed, step, part)[rows]
                label = np.full(len(drawn), -1, np.int32) if source.labels is None else source.labels[drawn]
                views = (padded([documents[i] for i in drawn], length),)
                if part and second:
                    views = (*views, padded([second(step, int(i)) for i in drawn], length))
                yield {"views": views, "label": label, "index": drawn.astype(np.int32)}

        return batches

    steps = number // parts[-1]["global_batch_size"]
    return Feed(together(*(part_of(**part) for part in parts)), steps_per_epoch=steps, num_examples=number)


def inputs(
    source: Source,
    documents: Sequence[np.ndarray],
    *,
    length: int,
    global_batch_size: int,
    process: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, Any]]:
    """Batches of evaluation, see :class:`ssl_jax.data.modality.Modality`."""
    rows = process_rows(global_batch_size, process, process_count)
    for start in range(0, len(source), global_batch_size):
        index = np.arange(start + rows.start, start + rows.stop)
        mask = index < len(source)
        nothing = np.zeros(0, np.int32)
        tokens = padded([documents[i] if i < len(source) else nothing for i in index], length)
        index = np.where(mask, index, 0)
        label = -1 if source.labels is None else source.labels[index]
        yield {"inputs": tokens, "label": np.where(mask, label, -1).astype(np.int32)} | {
            "index": index.astype(np.int32),
            "mask": mask,
        }
