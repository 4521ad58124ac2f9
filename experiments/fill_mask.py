"""What a BERT puts where a word is missing: a table of words and probabilities.

    python experiments/fill_mask.py runs/bert "The quick [MASK] fox jumped over the [MASK] dog."

The first argument is the folder of a run of ``bert``, or one with config.json, model.safetensors and tokenizer.json of
a BertForPreTraining or BertForMaskedLM (Hugging Face). ``--top 5`` says how many words. Exit codes: 0 done, 2 refused.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from ssl_jax.run import command
from ssl_jax.run.open_text import TextNetwork, open_text


def filled(network: TextNetwork, text: str, top: int) -> list[list[tuple[str, float]]]:
    """For each ``[MASK]`` the likeliest tokens, with their probabilities.

    Raises:
      ValueError: the text has no ``[MASK]``, or the network no head of words.
    """
    if "words" not in network.variables.params:
        raise ValueError("these weights have no head of words (an encoder of sentences has none); give a BERT's")
    if not 1 <= top <= network.vocab.size:
        raise ValueError(f"--top {top} must be from 1 to the {network.vocab.size} tokens of the vocabulary")
    inputs = network.inputs([text])
    places = np.flatnonzero(inputs[0] == network.vocab.mask)
    if not len(places):
        raise ValueError(f"{text!r} has no {network.tokenizer.id_to_token(network.vocab.mask)}; put it for a word")
    logits = network.run("fill", inputs)[0, places].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    return [
        [(network.tokenizer.id_to_token(int(i)), float(row[i])) for i in chosen]
        for row, chosen in zip(shares, best, strict=True)
    ]


def main(arguments: list[str]) -> int:
    parser = command.Parser("Words and probabilities where a text says [MASK].")
    parser.add_run("network", help="folder of a run of bert, or of a BERT as Hugging Face has it")
    parser.add_argument("text", type=command.named, help="a text with one [MASK] or several")
    parser.add_argument("--top", type=int, default=5, help="how many words are shown")
    options = parser.parse_args(arguments)
    try:
        found = filled(open_text(options.network), options.text, options.top)
    except ValueError as error:
        return command.refuse(error)
    width = max(len(word) for column in found for word, _ in column) + 2
    print(options.text)
    print("".join(f"{f'[MASK] {i}':<{width + 8}}" for i in range(1, len(found) + 1)).rstrip())
    for row in zip(*found, strict=True):
        print("".join(f"{word:<{width}}{share:6.1%}  " for word, share in row).rstrip())
    return 0


if __name__ == "__main__":
    command.run(main)
