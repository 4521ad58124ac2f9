"""How text becomes batches: a recipe's type says what a method reads, its fields how.

Sizes belong to the config: ``data.length`` tokens in a row of a batch, ``data.document_length`` of a document that is
evaluated, ``data.tokenizer`` how text becomes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source
from ssl_jax.types import Config, Plan


class Stream(NamedTuple):
    """All documents one after the other, for language models: row i of a batch continues row i of the one before.

    Attributes:
      shuffle: another order of the documents in every epoch; False: as they stand, as a book is read.
    """

    shuffle: bool = False

    def modality(self, data: Config, *, train: Source | None, plan: Plan | None, folder: Path | None) -> Modality:
        from ssl_jax.data.text import modality

        return modality.make(self, data, train=train, folder=folder)


class Documents(NamedTuple):
    """One document in a row, cut at ``data.document_length`` tokens or padded to it, for classifiers."""

    def modality(self, data: Config, *, train: Source | None, plan: Plan | None, folder: Path | None) -> Modality:
        from ssl_jax.data.text import modality

        return modality.make(self, data, train=train, folder=folder)


Recipe = Stream | Documents

RECIPES: Mapping[str, Recipe] = {
    # Corpora in their order: WikiText, books.
    "stream": Stream(),
    # Collections of documents that have none: reviews, articles.
    "stream_shuffled": Stream(shuffle=True),
    "documents": Documents(),
}
