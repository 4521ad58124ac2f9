"""How text becomes batches: a recipe's type says what a method reads, its fields how.

Sizes belong to the config: ``data.length`` tokens in a row of a batch, ``data.document_length`` of a document that is
evaluated, ``data.tokenizer`` how text becomes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


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
      unlabelled: of a batch of two parts the other form of each unlabelled document, beside the document itself:
        "replaced" (words that tell little of it are others, see ``replace.py``) or "text_2" (a column of that name,
        such as a translation there and back); "": batches have one part.
      ratio: rows of the second part for each of the first, where ``data.ratio`` says no other.
      share: of the words that are replaced.
    """

    enclosed: bool = False
    unlabelled: Literal["", "replaced", "text_2"] = ""
    ratio: int = 3
    share: float = 0.3


class Windows(NamedTuple):
    """Words and what stands near them, ``data.length`` centres in a row, for word2vec.

    Attributes:
      window: how far a centre looks at most; how far it does is drawn.
      subsample: t: a word of the share f of all is kept with the probability sqrt(t / f) + t / f; 0: all are.
      negatives: words that are drawn for each row, all of which its centres share.
    """

    window: int = 5
    subsample: float = 1e-3
    negatives: int = 32


class Cooccurrences(NamedTuple):
    """How often which words stand near each other, ``data.length`` pairs of words in a row, for GloVe.

    Attributes:
      window: how far apart they are at most.
    """

    window: int = 10


Recipe = Stream | Pairs | Documents | Windows | Cooccurrences

OF_CORPORA = (Stream, Pairs)  # whose rows are no documents but cut from all of them

RECIPES: Mapping[str, Recipe] = {
    "stream": Stream(),
    "stream_shuffled": Stream(shuffle=True),
    "pairs": Pairs(),
    "windows": Windows(),
    "cooccurrences": Cooccurrences(),
    "documents": Documents(),
    "documents_enclosed": Documents(enclosed=True),
    "documents_uda": Documents(unlabelled="replaced"),
    "documents_uda_pairs": Documents(unlabelled="text_2"),
    "documents_uda_enclosed": Documents(enclosed=True, unlabelled="replaced"),
}

SOURCES = {
    "stream": "text: corpora in their order, WikiText or books, for language models",
    "stream_shuffled": "text: collections of documents that have no order, reviews or articles",
    "pairs": "text: Devlin et al. 2019: two parts of documents, the second what follows the first or not",
    "windows": "text: Mikolov et al. 2013: words and what stands near them",
    "cooccurrences": "text: Pennington et al. 2014: how often which words stand near each other",
    "documents": "text: one document in a row, for classifiers",
    "documents_enclosed": "text: the same in [CLS] and [SEP]",
    "documents_uda": "text: Xie et al. 2020: few labelled documents, and all without labels in two forms",
    "documents_uda_pairs": "text: the same with the second form in a column, such as a translation there and back",
    "documents_uda_enclosed": "text: the first of these in [CLS] and [SEP]",
}
