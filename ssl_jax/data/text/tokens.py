"""Tokenizers: text as numbers.

A tokenizer is learned from the training text alone, with the ``tokenizers`` library, and lies as ``tokenizer.json`` in
the folder of the run. Its numbers are canonical: the special tokens, then all others as they sort, so that the same
text gives the same numbers whatever a trainer does with threads and hashes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ssl_jax.names import hint
from ssl_jax.types import Config, Vocab

FILE = "tokenizer.json"
PAD, UNK, EOS, CLS, SEP, MASK = SPECIAL = ("[PAD]", "<unk>", "<eos>", "[CLS]", "[SEP]", "[MASK]")
KINDS = ("spaced", "words", "wordpiece", "bpe")
# How the tokenizers of others spell the same.
SPELLED = {
    "pad": (PAD, "<pad>"),
    "unk": (UNK, "[UNK]"),
    "eos": (EOS, "</s>", "<|endoftext|>"),
    "cls": (CLS, "<s>", "<cls>"),
    "sep": (SEP, "<sep>"),
    "mask": (MASK, "<mask>"),
}


def learn(texts: Iterable[str], data: Config) -> Tokenizer:
    """A tokenizer of the kind ``data.tokenizer.kind``.

    "spaced": words are what stands between spaces, as in corpora that come in tokens (WikiText); "words": words and
    punctuation; "wordpiece" (Schuster and Nakajima 2012) and "bpe" (on bytes; Sennrich et al. 2016, Radford et al.
    2019): the most useful pieces of those.

    Args:
      texts: of train.
      data: that part of a config: ``data.tokenizer``, with ``size`` (of the vocabulary, special tokens included; None:
        all words), ``min_frequency`` and ``lowercase``.

    Raises:
      ValueError: of one line: no text, or a vocabulary that the text does not give.
    """
    asked = data.tokenizer
    if asked.kind not in KINDS:
        raise ValueError(
            f"data.tokenizer.kind={asked.kind!r} is unknown; {hint(str(asked.kind), KINDS)}known: {', '.join(KINDS)}"
        )
    if asked.size is None and asked.kind in ("wordpiece", "bpe"):
        raise ValueError(f"data.tokenizer.kind={asked.kind!r} needs data.tokenizer.size, e.g. 8000")
    if asked.size is not None and asked.size <= len(SPECIAL):
        raise ValueError(f"data.tokenizer.size={asked.size} leaves no room beside {len(SPECIAL)} special tokens")
    lower = normalizers.Lowercase() if asked.lowercase else None
    found = _words(texts, asked, lower) if asked.kind in ("spaced", "words") else _pieces(texts, asked, lower)
    if asked.size is not None and found.get_vocab_size() > asked.size:
        raise ValueError(
            f"data.tokenizer.size={asked.size}, but the characters of the training text (of bpe all bytes) and the "
            f"special tokens are {found.get_vocab_size()} already; raise it to that at least"
        )
    if asked.size is not None and found.get_vocab_size() < asked.size:
        raise ValueError(
            f"data.tokenizer.size={asked.size}, but the training text gives {found.get_vocab_size()} tokens that occur "
            f"{asked.min_frequency} times or more (data.tokenizer.min_frequency); lower the size to that at most"
        )
    return found


def stand_in(data: Config) -> Tokenizer:
    """A tokenizer of the size that a config says and of no text at all, for what depends on the size alone.

    Raises:
      ValueError: the config names neither a size nor a file.
    """
    if data.tokenizer.file is not None:
        return read(Path(data.tokenizer.file).expanduser())
    size = data.tokenizer.size
    if size is None:
        raise ValueError(
            "how many tokens there are is not known without reading the text; set --config.data.tokenizer.size"
        )
    vocab = {word: i for i, word in enumerate((*SPECIAL, *(f"word {i}" for i in range(len(SPECIAL), size))))}
    return _finished(Tokenizer(models.WordLevel(vocab, unk_token=UNK)), None)


def _words(texts: Iterable[str], asked: Config, lower: Any) -> Tokenizer:
    split = pre_tokenizers.WhitespaceSplit() if asked.kind == "spaced" else pre_tokenizers.Whitespace()
    counts: Counter[str] = Counter()
    for text in texts:
        text = lower.normalize_str(text) if lower else text
        spaced = asked.kind == "spaced"
        counts.update(text.split() if spaced else (word for word, _ in split.pre_tokenize_str(text)))
    for word in SPECIAL:
        counts.pop(word, None)
    frequent = sorted((-n, word) for word, n in counts.items() if n >= asked.min_frequency)
    if not frequent:
        raise ValueError(
            f"the training text has no word that occurs data.tokenizer.min_frequency={asked.min_frequency} times; "
            "lower it, or give more text"
        )
    kept = frequent[: None if asked.size is None else asked.size - len(SPECIAL)]
    vocab = {word: i for i, word in enumerate((*SPECIAL, *sorted(word for _, word in kept)))}
    found = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    found.pre_tokenizer = split
    return _finished(found, lower)


def _pieces(texts: Iterable[str], asked: Config, lower: Any) -> Tokenizer:
    if asked.kind == "wordpiece":
        found = Tokenizer(models.WordPiece(unk_token=UNK))
        found.pre_tokenizer, found.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer
        more: dict[str, Any] = {}
    else:
        found = Tokenizer(models.BPE())
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder, trainer = decoders.ByteLevel(), trainers.BpeTrainer
        more = {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    if lower:
        found.normalizer = lower
    sizes = {"vocab_size": asked.size, "min_frequency": asked.min_frequency}
    found.train_from_iterator(texts, trainer(special_tokens=list(SPECIAL), show_progress=False, **sizes, **more))
    return _finished(_numbered(found), lower)


def _numbered(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with canonical numbers."""
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = []
    others = sorted(set(spec["model"]["vocab"]) - set(SPECIAL))
    spec["model"]["vocab"] = {piece: i for i, piece in enumerate((*SPECIAL, *others))}
    return Tokenizer.from_str(json.dumps(spec))


def _finished(tokenizer: Tokenizer, lower: Any) -> Tokenizer:
    if lower:
        tokenizer.normalizer = lower
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def read(path: Path | str) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``.

    Raises:
      ValueError: of one line: there is none, or it is damaged, or its padding is not token 0.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); put a copy of the tokenizer there") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no tokenizer of the tokenizers library ({error})") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Tokenizer:
    """The tokenizer that a text describes; ValueError as of :func:`read`."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare ones
        raise ValueError(f"{where} is no tokenizer of the tokenizers library ({error})") from error
    vocab(tokenizer, where)
    tokenizer.no_padding()  # which methods and recipes see to
    tokenizer.no_truncation()
    return tokenizer


def vocab(tokenizer: Tokenizer, where: str = "the tokenizer") -> Vocab:
    """How many tokens there are, and which are special.

    Raises:
      ValueError: padding is not token 0.
    """
    special = {
        role: next((i for word in words if (i := tokenizer.token_to_id(word)) is not None), None)
        for role, words in SPELLED.items()
    }
    if special["pad"] != 0:
        raise ValueError(f"{where} has no padding token {PAD} numbered 0, which all methods count on; renumber it")
    return Vocab(tokenizer.get_vocab_size(), **{**special, "pad": 0})


def words(tokenizer: Tokenizer) -> tuple[str, ...]:
    """What each token is, by its number."""
    return tuple(sorted(known := tokenizer.get_vocab(), key=known.__getitem__))


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """int32 tokens of each text, without special tokens around them."""
    found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(each.ids, np.int32) for each in found]


def nested(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> list[list[np.ndarray]]:
    """The same of texts that are given in parts."""
    numbers = iter(encode(tokenizer, [part for parts in texts for part in parts]))
    return [[next(numbers) for _ in parts] for parts in texts]


def decode(tokenizer: Tokenizer, numbers: Sequence[int]) -> str:
    """The text of some tokens; the end of a line is one."""
    eos, found = vocab(tokenizer).eos, [[]]
    for number in numbers:
        if number == eos:
            found.append([])
        else:
            found[-1].append(number)
    return "\n".join(tokenizer.decode(line, skip_special_tokens=False) for line in found)


def lines(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """int32 tokens of each text, every line of it ended by ``<eos>``, as language models of words are trained."""
    eos = vocab(tokenizer).eos
    if eos is None:
        raise ValueError(f"the tokenizer has no token {EOS} for the end of a line, which a stream of text needs")
    end = np.array([eos], np.int32)
    parted = nested(tokenizer, [text.split("\n") for text in texts])
    return [np.concatenate([part for line in parts for part in (line, end)]) for parts in parted]


def continues(tokenizer: Tokenizer) -> np.ndarray:
    """bool ``[vocab]``: which tokens continue a word, as WordPiece marks them (``##ing``); of other kinds none do."""
    found = np.zeros(tokenizer.get_vocab_size(), bool)
    found[[i for word, i in tokenizer.get_vocab().items() if word.startswith("##") and len(word) > 2]] = True
    return found
