"""One word, two meanings: "bank" has a vector for each sentence in BERT, and one for all in word2vec.

    python experiments/one_word_two_meanings.py runs/bert --out bank.png

The first argument is as in fill_mask.py; a sentence encoder such as MiniLM will do, too. Of each sentence the vector of
the word is what the encoder gives at its tokens, their mean where there are several. Shown are the mean cosine distance
of two sentences of one meaning and of two meanings, and how often the nearest other sentence has the same meaning. A
table of words (``--vectors``: a run of word2vec or GloVe, or a file of vectors) has one vector for the word: every
distance is 0, and no sentence is the nearest.

Sentences of one's own: ``--word WORD --sentences FILE``, a line each, ``meaning<TAB>sentence``. Exit codes: 0 done,
2 refused.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from experiments import word_vectors
from ssl_jax.run import command
from ssl_jax.run.open_text import TextNetwork, open_text

BANK = {
    "money": (
        "She put her savings into the bank.",
        "The bank raised its interest rates last week.",
        "He asked the bank for a loan to buy a house.",
        "The robbers left the bank with the cash.",
        "My salary is paid to my bank every month.",
        "The clerk at the bank counted the coins.",
        "Our bank charges a fee for each transfer.",
        "The bank refused to give them credit.",
    ),
    "river": (
        "They sat on the bank and watched the river.",
        "The boat was tied to the bank with a rope.",
        "Trees grow along the muddy bank of the stream.",
        "The flood washed away the left bank.",
        "He swam across and climbed up the steep bank.",
        "Ducks were sleeping on the grassy bank.",
        "The river broke its bank after the rain.",
        "We walked along the bank until we reached the bridge.",
    ),
}


class Distances(NamedTuple):
    """Mean cosine distance of two sentences, of one meaning and of two, and how often the nearest has the same."""

    within: float
    between: float
    nearest: float


def contextual(network: TextNetwork, word: str, sentences: Sequence[str]) -> np.ndarray:
    """``[n, w]``: the vector of a word in each sentence.

    Raises:
      ValueError: a sentence without the word.
    """
    spans = []
    for sentence in sentences:
        found = re.search(rf"\b{re.escape(word)}\b", sentence, re.IGNORECASE)
        if found is None:
            raise ValueError(f"the sentence {sentence!r} does not have the word {word!r}")
        spans.append(found.span())
    outputs = network.run("contextual", network.inputs(sentences)).astype(np.float64)
    vectors = []
    for output, sentence, (start, stop) in zip(outputs, sentences, spans, strict=True):
        offsets = network.tokenizer.encode(sentence, add_special_tokens=False).offsets
        places = [i + 1 for i, (a, b) in enumerate(offsets) if a < stop and b > start]  # behind [CLS]
        vectors.append(output[places].mean(0))
    return np.stack(vectors)


def of_table(vector: Callable[[str], np.ndarray], word: str, sentences: Sequence[str]) -> np.ndarray:
    """The same of a table of words, ``vector(word) -> [w]``, which does not look at the sentence."""
    return np.stack([vector(word)] * len(sentences))


def distances(vectors: np.ndarray, meaning: np.ndarray) -> Distances:
    """How vectors ``[n, w]`` part the meanings ``[n]``; ties count as chance."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.round(1 - unit @ unit.T, 12) + 0.0  # no -0.0
    same = meaning[:, None] == meaning[None]
    other = ~np.eye(len(vectors), dtype=bool)
    nearest = []
    for row, alike, others in zip(apart, same, other, strict=True):
        ties = others & (row == row[others].min())
        nearest.append(alike[ties].mean())
    return Distances(float(apart[same & other].mean()), float(apart[~same].mean()), float(np.mean(nearest)))


def draw(vectors: np.ndarray, names: Sequence[str], word: str, found: Distances, path: str) -> None:
    """The vectors on their first two principal components, a colour for each meaning."""
    from matplotlib.figure import Figure

    from ssl_jax.evals.shared.canvas import COLOURS

    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    figure = Figure((5, 4), layout="constrained")
    panel = figure.add_subplot()
    for colour, name in zip(COLOURS, dict.fromkeys(names), strict=False):
        x = centred[[n == name for n in names]] @ axes[:2].T
        panel.scatter(x[:, 0], x[:, 1], color=colour, label=name)
    panel.set_title(f'"{word}": {found.within:.2f} apart within a meaning, {found.between:.2f} between', fontsize=10)
    panel.set_xlabel("first principal component")
    panel.set_ylabel("second")
    panel.legend()
    figure.savefig(path, dpi=150)


def read(path: str) -> tuple[list[str], list[str]]:
    """(meanings, sentences) of a file; ValueError with the line where it has not both."""
    names, sentences = [], []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, tab, sentence = line.partition("\t")
            if not tab or not sentence.strip():
                raise ValueError(f"{path}, line {number}: no meaning and sentence with a tab between them")
            names.append(name.strip())
            sentences.append(sentence.strip())
    if len(set(names)) < 2 or min(names.count(name) for name in names) < 2:
        raise ValueError(f"{path} needs two meanings or more, of two sentences or more each")
    return names, sentences


def main(arguments: list[str]) -> int:
    parser = command.Parser("One word in sentences of two meanings: how far its vectors are apart.")
    parser.add_path("network", help="folder of a run of bert, or of a BERT as Hugging Face has it")
    parser.add_argument("--word", type=command.named, default="bank")
    parser.add_path("--sentences", help="a file with a line for each: meaning, tab, sentence")
    parser.add_argument("--vectors", type=command.path, help="a run of word2vec or glove, or a file of word vectors")
    parser.add_path("--out", help="a picture, e.g. bank.png")
    options = parser.parse_args(arguments)
    try:
        if options.sentences is None and options.word != "bank":
            raise ValueError(f"sentences with {options.word!r} are not known here; give --sentences FILE")
        names = [name for name, some in BANK.items() for _ in some]
        sentences = [sentence for some in BANK.values() for sentence in some]
        if options.sentences is not None:
            names, sentences = read(options.sentences)
        network = open_text(options.network)
        vectors = contextual(network, options.word, sentences)
        pieces = network.tokenizer.encode(options.word, add_special_tokens=False).tokens
        if len(pieces) != 1:
            print(f"{options.word!r} is {len(pieces)} tokens here: {' '.join(pieces)}", file=sys.stderr)
        elif network.tokenizer.token_to_id(pieces[0]) == network.vocab.unk:
            raise ValueError(f"the word {options.word!r} is unknown to {options.network}; give a word of its texts")
        rows = {"contextual vectors": distances(vectors, np.array(names))}
        if options.vectors:
            words, vector = word_vectors.table(options.vectors)
            at = word_vectors.row(options.word, {known: i for i, known in enumerate(words)})
            fixed = of_table(lambda word: vector[at], options.word, sentences)
            rows[f"{Path(options.vectors).name}"] = distances(fixed, np.array(names))
        if options.out:
            draw(vectors, names, options.word, rows["contextual vectors"], options.out)
    except ValueError as error:
        return command.refuse(error)
    chance = np.mean([(names.count(name) - 1) / (len(names) - 1) for name in names])
    print(f'"{options.word}" in {len(sentences)} sentences of {len(set(names))} meanings, mean cosine distance')
    wide = max(map(len, rows))
    print(f"{'':<{wide}}  within a meaning  between meanings  nearest has the same")
    for name, found in rows.items():
        print(f"{name:<{wide}}  {found.within:16.4f}  {found.between:16.4f}  {found.nearest:20.1%}")
    print(f"by chance the nearest has the same in {chance:.1%}")
    if options.out:
        print(f"picture: {options.out}")
    return 0


if __name__ == "__main__":
    command.run(main)
