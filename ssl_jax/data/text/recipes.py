"""How text becomes batches: a recipe's type says what a method reads, its fields how.

Sizes belong to the config: ``data.length`` tokens in a row of a batch, ``data.document_length`` of a document that is
evaluated, ``data.tokenizer`` how text becomes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Stream(NamedTuple):
    """All documents one after the other, for language models: row i of a batch continues row i of the one before.

    Attributes:
      shuffle: another order of the documents in every epoch; False: as they stand, as a book is read.
    """

    shuffle: bool = False


class Pairs(NamedTuple):
    """Two parts of documents in a row of ``data.length`` tokens, the second what follows the first or not, for BERT.

    Attributes:
      short: share of the rows that are not filled, but of any number of tokens.
    """

    short: float = 0.1


class Documents(NamedTuple):
    """One document in a row, cut at ``data.document_length`` tokens or padded to it, for classifiers.

    Attributes:
      enclosed: ``[CLS]`` stands before it and ``[SEP]`` behind it, as in BERT's rows.
    """

    enclosed: bool = False


Recipe = Stream | Pairs | Documents

RECIPES: Mapping[str, Recipe] = {
    # Corpora in their order: WikiText, books.
    "stream": Stream(),
    # Collections of documents that have none: reviews, articles.
    "stream_shuffled": Stream(shuffle=True),
    "pairs": Pairs(),
    "documents": Documents(),
    "documents_enclosed": Documents(enclosed=True),
}
