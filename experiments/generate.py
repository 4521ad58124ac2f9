"""Continue a text with a language model.

    ssl-jax generate runs/language_model_demo "The for statement is used to" --tokens 40

The first argument is the folder of a run of ``language_model``. Each token is drawn from softmax(logits / temperature)
over the ``--top`` likeliest, padding and other special tokens but the end of a line left out; temperature 0 takes the
likeliest. The same seed gives the same text. Exit codes: 0 done, 2 refused.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from ssl_jax.data.text import tokens
from ssl_jax.run import command
from ssl_jax.run.open import Run, open_run


def generate(
    run: Run, start: np.ndarray, count: int, *, temperature: float, top: int | None, seed: int
) -> Iterator[int]:
    """The next ``count`` tokens after ``start`` ``[t]``.

    A recurrent model reads each token once; another reads again what it can see of the text, as far back as the run's
    windows went.
    """
    vocab, rng = run.plan.vocab, np.random.default_rng(seed)
    assert vocab is not None
    step = jax.jit(run.method.hooks["next"])
    never = [i for i in (vocab.pad, vocab.unk, vocab.cls, vocab.sep, vocab.mask) if i is not None]
    text, length = [int(token) for token in start], int(run.config.data.length)
    logits, rows = step(run.variables, np.asarray(text[-length:] if run.variables.rows is None else text)[None], None)
    for _ in range(count):
        scores = np.asarray(logits[0], np.float64)
        scores[never] = -np.inf
        token = draw(scores, temperature, top, rng)
        yield token
        text.append(token)
        if rows is None:  # of one shape, or each length would be compiled anew
            seen = text[-length:]
            window = np.zeros((1, length), np.int32)
            window[0, : len(seen)] = seen
            logits, _ = step(run.variables, window, None)
        else:
            logits, rows = step(run.variables, np.full((1, 1), token, np.int32), rows)


def draw(scores: np.ndarray, temperature: float, top: int | None, rng: np.random.Generator) -> int:
    """A token by its score ``[vocab]``."""
    if temperature == 0:
        return int(scores.argmax())
    if top is not None:
        scores = np.where(scores >= np.sort(scores)[-top], scores, -np.inf)
    shares = np.exp((scores - scores.max()) / temperature)
    return int(rng.choice(len(shares), p=shares / shares.sum()))


def main(arguments: list[str]) -> int:
    parser = command.Parser("Continue a text.")
    parser.add_run("workdir", help="folder of a run of language_model")
    parser.add_argument("text", type=command.named, help="how it begins")
    parser.add_argument("--tokens", type=int, default=40, help="how many more")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top", type=int, help="of how many likeliest tokens; default: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        run = open_run(options.workdir)
        if "next" not in run.method.hooks or run.plan.vocab is None:
            raise ValueError(f"{options.workdir} is a run of {run.config.method.name}, and this is for language_model")
        if options.tokens < 1:
            raise ValueError(f"--tokens {options.tokens} must be 1 or more")
        if not options.temperature >= 0:
            raise ValueError(f"--temperature {options.temperature} must be 0 or more")
        if options.top is not None and not 1 <= options.top <= run.plan.vocab.size:
            raise ValueError(
                f"--top {options.top} must be from 1 to the {run.plan.vocab.size} tokens of the vocabulary"
            )
        tokenizer = tokens.read(run.workdir / tokens.FILE)
        start = tokens.encode(tokenizer, [options.text])[0]
        if not len(start):
            raise ValueError(f"{options.text!r} holds no token; give some words")
    except ValueError as error:
        return command.refuse(error)
    if unknown := int((start == run.plan.vocab.unk).sum()):
        print(f"{unknown} of the {len(start)} tokens of the text are unknown to the model", file=sys.stderr)
    sampled = {"temperature": options.temperature, "top": options.top, "seed": options.seed}
    found = [*map(int, start), *generate(run, start, options.tokens, **sampled)]
    print(tokens.decode(tokenizer, found))
    return 0


if __name__ == "__main__":
    command.run(main)
