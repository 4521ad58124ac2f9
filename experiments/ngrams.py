"""What counting words predicts of the text that a run is measured on: the rows below a language model's, or a BERT's.

    python experiments/ngrams.py runs/lstm_wikitext2_cpu --out ngrams.json

The run's tokenizer, train text and test text (``--split val`` for the other). With c of train, N tokens, V in the
vocabulary and T(v) different words seen behind v:

    word frequencies    p(w) = (c(w) + 1) / (N + V)
    pairs of words      p(w | v) = (c(v, w) + T(v) p(w)) / (c(v) + T(v))       (Witten and Bell 1991, their method C)

A language model is asked for every token but the first; of a BERT's pairs all tokens are counted here that it may be
asked for, so its own 15 % are a draw of them. Whether a second part follows the first is asked of ``--pairs`` pairs:
z is of a fair coin, were all of them independent. Beside it stands what the two lengths alone tell, by
gradient-boosted trees trained on as many pairs of train. Exit codes: 0 done, 2 refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from ssl_jax.data.from_config import load_splits
from ssl_jax.data.source import Source
from ssl_jax.data.text import tokens
from ssl_jax.evals.shared.score import score
from ssl_jax.run import command
from ssl_jax.run.open import Run, open_run


def nats(train: np.ndarray, asked: Iterable[tuple[np.ndarray, np.ndarray]], vocab: int) -> tuple[float, float, int]:
    """Mean ``-log p`` of what is asked for by frequencies and by pairs of words, and how many tokens that is.

    Args:
      train: int ``[n]`` the tokens that are counted.
      asked: (the token before, the token) ``[k]`` each.
    """
    counts = np.bincount(train, minlength=vocab)
    single = (counts + 1) / (len(train) + vocab)
    pairs, seen = np.unique(train[:-1].astype(np.int64) * vocab + train[1:], return_counts=True)
    before = np.bincount(train[:-1], minlength=vocab)
    kinds = np.bincount(pairs // vocab, minlength=vocab)
    sums, number = np.zeros(2), 0
    for v, w in asked:
        key = v.astype(np.int64) * vocab + w
        at = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
        both = np.where(pairs[at] == key, seen[at], 0)
        whole = before[v] + kinds[v]
        double = np.where(whole > 0, (both + kinds[v] * single[w]) / np.maximum(whole, 1), single[w])
        sums += -np.log(single[w]).sum(), -np.log(double).sum()
        number += len(w)
    return float(sums[0] / number), float(sums[1] / number), number


def asked(run: Run, batches: Iterable[dict[str, Any]]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """(the token before, the token) of held-out batches: what a language model is asked for, or BERT may be."""
    for batch in batches:
        if run.config.method.name == "bert":
            before, found = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
            kept = ~np.isin(found, [i for i in run.plan.vocab or () if i is not None][1:])  # all but the special ones
        else:
            both = run.method.hooks["asked"](batch, jax.random.key(0))
            before, found = np.asarray(both["tokens"]), np.asarray(both["targets"])
            kept = found != 0
        kept &= (batch["index"] >= 0)[:, None]
        yield before[kept], found[kept]


def next_sentences(run: Run, train: Source, held_out: Source, number: int) -> dict[str, float]:
    """How often the run, and lengths alone, tell whether the second part of a pair follows the first."""
    size = int(run.config.data.global_batch_size)

    def drawn(source: Source, seed: int) -> list[dict[str, Any]]:
        feed = run.modality.feed(source, seed=seed, global_batch_size=size)
        batches = enumerate(feed.batches(total_steps=-(-number // size)))
        return [batch | {"index": np.arange(step * size, (step + 1) * size, dtype=np.int32)} for step, batch in batches]

    def lengths(batches: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        second = np.concatenate([batch["segment"].sum(1) for batch in batches])
        whole = np.concatenate([(batch["tokens"] != 0).sum(1) for batch in batches])
        return np.stack([whole - second, second], 1), np.concatenate([batch["random_next"] for batch in batches])

    test = drawn(held_out, 1)
    # Of one seed both would have the same lengths with the same answers, which trees remember.
    trees = HistGradientBoostingClassifier(random_state=0).fit(*lengths(drawn(train, 2)))
    found = score(run.method, run.variables, test, key=jax.random.key(0), place=lambda b: jax.tree.map(jnp.asarray, b))
    pairs = size * len(test)
    return {
        "nsp_top1": found["nsp_top1"],
        "nsp_z": (found["nsp_top1"] - 0.5) * 2 * pairs**0.5,
        "nsp_lengths_alone_top1": float(trees.score(*lengths(test))),
        "nsp_pairs": pairs,
    }


def main(arguments: list[str]) -> int:
    parser = command.Parser("What counting words predicts of the text that a run is measured on.")
    parser.add_path("workdir", help="folder of a run of language_model or bert")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--pairs", type=int, default=4096, help="of sentences, for a run of bert")
    parser.add_path("--out", help="a .json of the same figures")
    options = parser.parse_args(arguments)
    try:
        run = open_run(options.workdir)
        vocab, name = run.plan.vocab, run.config.method.name
        if vocab is None or run.modality.score is None or not {"language_model", "bert"} & {name}:
            raise ValueError(f"{options.workdir} is a run of {name}, and this is for language_model and bert")
        if options.pairs < 1:
            raise ValueError(f"--pairs {options.pairs} must be 1 or more")
        splits = load_splits(run.config)
        held_out = getattr(splits, options.split)
        if held_out is None:
            raise ValueError(f"the data of {options.workdir} have no {options.split} part")
    except ValueError as error:
        return command.refuse(error)
    tokenizer = tokens.read(run.workdir / tokens.FILE)
    read = tokens.encode if name == "bert" else tokens.lines
    train = np.concatenate(read(tokenizer, [str(text) for text in splits.train.columns["text"]]))
    batches = list(run.modality.score(held_out, global_batch_size=int(run.config.data.global_batch_size)))
    single, double, number = nats(train, asked(run, batches), vocab.size)
    own = score(run.method, run.variables, batches, key=jax.random.key(0), place=lambda b: jax.tree.map(jnp.asarray, b))
    loss = "mlm_loss" if name == "bert" else "loss"
    rows = {"word frequencies": single, "pairs of words": double, f"{name}, step {run.step}": own[loss]}
    print(f"| {number:,} tokens of {options.split} | nats | perplexity |\n|---|---|---|")
    for row, value in rows.items():
        print(f"| {row} | {value:.3f} | {np.exp(value):.1f} |")
    content: dict[str, Any] = {"split": options.split, "tokens": number, "nats": rows, "run": own, "step": run.step}
    if name == "bert":
        content |= next_sentences(run, splits.train, held_out, options.pairs)
        print(
            f"next sentences: {content['nsp_top1']:.1%} of {content['nsp_pairs']:,} pairs, z = {content['nsp_z']:.1f}; "
            f"by their lengths alone {content['nsp_lengths_alone_top1']:.1%}"
        )
    if options.out:
        Path(options.out).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
