"""What vectors of words know: neighbours, analogies, a file of questions; and their file in GloVe's format.

    ssl-jax word_vectors runs/word2vec_demo --words list string --analogy int integer str
    ssl-jax word_vectors glove.6B.50d.txt --questions questions-words.txt
    ssl-jax word_vectors runs/word2vec_demo --write vectors.txt

SOURCE is a run whose encoder has a table of words, or a file of vectors. ``--analogy A B C`` asks what is to C as B is
to A.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from ssl_jax.evals import words as evaluator
from ssl_jax.interop import word_vectors
from ssl_jax.names import hint
from ssl_jax.run import command


def main(arguments: list[str]) -> int:
    parser = command.Parser("Neighbours and analogies of words.")
    parser.add_run("source", help="folder of a run, or a file of word vectors")
    parser.add_argument("--words", nargs="+", default=[], help="whose neighbours to show")
    parser.add_argument("--analogy", nargs=3, action="append", default=[], metavar=("A", "B", "C"))
    parser.add_path("--questions", help="file of analogies, as questions-words.txt")
    parser.add_path("--write", help="file to write the vectors to, in GloVe's format")
    parser.add_argument("--number", type=int, default=8, help="of neighbours")
    options = parser.parse_args(arguments)
    if options.number < 1:
        raise command.Misuse(f"--number={options.number} must be 1 or more")
    try:
        words, vectors = table(options.source)
        print(f"{len(words):,} words, {vectors.shape[1]} wide")
        at = {word: i for i, word in enumerate(words)}
        if options.words:
            asked = np.array([row(word, at) for word in options.words])
            near = evaluator.neighbours(vectors, vectors[asked], options.number, without=asked[:, None])
            show(options.words, words, *near)
        if options.analogy:
            asked = np.array([[row(word, at) for word in three] for three in options.analogy])
            show([f"{b} - {a} + {c}" for a, b, c in options.analogy], words, *evaluator.answers(vectors, asked, 3))
        if options.questions:
            sections = evaluator.read_questions(options.questions, words)
            for name, value in evaluator.by_section(vectors, sections).items():
                some = [sections[name]] if name in sections else list(sections.values())
                known, unknown = sum(len(s.questions) for s in some), sum(s.unknown for s in some)
                print(f"{name:<32} {value:7.2%} of {known:,}; {unknown:,} with words that are not known left out")
        if options.write:
            word_vectors.write(options.write, words, vectors)
            print(f"wrote {options.write}")
    except ValueError as error:
        return command.refuse(error)
    return 0


def table(source: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Words and their vectors; of a run without its special tokens."""
    if word_vectors.is_vectors(source):
        return word_vectors.read(source)
    from ssl_jax.run.open import open_run

    run = open_run(source)
    params = run.method.trunk(run.variables)[0]
    if run.modality.words is None or run.modality.vocab is None or "stem_embedding" not in params:
        raise ValueError(f"{source}: {run.config.model.name} has no table of words; give a run on text")
    special = {i for i in run.modality.vocab[1:] if i is not None}
    rows = [i for i in range(len(run.modality.words)) if i not in special]
    return tuple(run.modality.words[i] for i in rows), np.asarray(params["stem_embedding"], np.float32)[rows]


def row(word: str, at: dict[str, int]) -> int:
    if word not in at:
        raise ValueError(f"the word {word!r} is not known; {hint(word, at)}".rstrip("; "))
    return at[word]


def show(names: Sequence[str], words: Sequence[str], rows: np.ndarray, cosines: np.ndarray) -> None:
    wide = max(map(len, names))
    for name, near, cosine in zip(names, rows, cosines, strict=True):
        print(f"{name:<{wide}}  " + "  ".join(f"{words[i]} {c:.3f}" for i, c in zip(near, cosine, strict=True)))


if __name__ == "__main__":
    command.run(main)
