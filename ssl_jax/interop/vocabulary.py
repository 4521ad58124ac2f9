"""Encoders of tokens between vocabularies: each word takes its row along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from ssl_jax.types import Tree


def of_files(files: Mapping[str, str]) -> tuple[str, ...] | None:
    """The words of an exported encoder, by the tokenizer that came with it; None: it came without."""
    from ssl_jax.data.text import tokens

    text = files.get(tokens.FILE)
    return None if text is None else tokens.words(tokens.parse(text, tokens.FILE))


def by_word(
    found: tuple[Tree, Tree], by_token: Sequence[str], theirs: Sequence[str] | None, ours: Sequence[str]
) -> tuple[tuple[Tree, Tree], str]:
    """An encoder for another vocabulary.

    Args:
      found: (params, model_state) as it was trained.
      by_token: names of its parameters whose rows are tokens.
      theirs: the words of its rows; None: not known.
      ours: those that are needed.

    Returns:
      The encoder with a row for each of ``ours``, the mean of all rows where it does not know the word (Howard and
      Ruder 2018, ULMFiT's code), and a line that says how many; empty where the words are the same.
    """
    if theirs is None:
        return found, "it does not say what its tokens are; its rows are taken as they are numbered"
    if tuple(theirs) == tuple(ours):
        return found, ""
    at = {word: i for i, word in enumerate(theirs)}
    rows = np.array([at.get(word, -1) for word in ours])
    params: dict[Any, Any] = dict(flax.traverse_util.flatten_dict(found[0]))
    for path, table in params.items():
        if path[-1] in by_token and len(table) == len(theirs):
            table = np.asarray(table)
            mean = table.mean(0, dtype=np.float64).astype(table.dtype)
            params[path] = np.where((rows >= 0)[:, None], table[rows], mean)
    known, left = int((rows >= 0).sum()), len(set(theirs) - set(ours))
    said = f"{known:,} of the {len(ours):,} tokens here are known there and keep their rows; the other "
    said += f"{len(ours) - known:,} begin as the mean of all; {left:,} of its {len(theirs):,} are not needed"
    return (flax.traverse_util.unflatten_dict(params), found[1]), said
