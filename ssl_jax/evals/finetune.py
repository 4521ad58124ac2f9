"""Feature extraction against full fine-tuning of the same checkpoint, and training from scratch as the row below.

All three are ``methods/supervised.py`` through the ordinary train step, on the same data in the same order. "tune" and
"scratch" differ in their first weights alone. The default rate is tuned for none of your data: give several, and each
mode gets the one that is best on held-out train data.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data.source import Source, Splits, stratified_order
from ssl_jax.evals import Accuracy, Encode, Fit, best_fit
from ssl_jax.evals.shared import labels as check
from ssl_jax.names import refuse_unknown
from ssl_jax.types import Variables

# What sets the modes apart. No weight decay for the linear classifier: SimCLR's linear evaluation (Chen et al. 2020,
# appendix B.6), whose base rate all have by default, times N / 256.
RATE = 0.1
WHOLE = {"optim.weight_decay": 5e-4}
MODES: dict[str, dict[str, Any]] = {
    "extract": {"method.frozen": "encoder", "optim.weight_decay": 0.0},
    "tune": WHOLE,
    "scratch": WHOLE | {"init_from": None},
}


def split(train: Source, test: Source, *, held_out: float, seed: int) -> Splits:
    """The labelled part of ``train`` in two, classes in proportion: to learn from, and to choose the epoch on.

    Args:
      held_out: share that the choice is made on, in (0, 1).
      seed: of the split.

    Raises:
      ValueError: too few labelled examples, or none.
    """
    known = [_labelled(part, name) for part, name in ((train, "train"), (test, "test"))]
    order = stratified_order(known[0].labels, len(known[0]), seed)
    size = max(1, round(held_out * len(order)))
    if len(order) - size < 2:
        raise ValueError(f"{len(order)} labelled examples, {size} of them held out, are too few to train on; give more")
    val, kept = (known[0].take(np.sort(rows)) for rows in (order[:size], order[size:]))
    return Splits(kept, val, known[1])


def _labelled(source: Source, name: str) -> Source:
    if source.labels is None or not (source.labels >= 0).any():
        raise ValueError(f"finetune needs labels and the {name} split has none; use a labelled source")
    return source if (source.labels >= 0).all() else source.take(np.flatnonzero(source.labels >= 0))


def overrides(
    mode: str,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float = RATE,
    layer_decay: float = 1.0,
    head_rate: float = 1.0,
    unfreeze_every: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Config overrides, by dotted key, of one mode: SGD with Nesterov's momentum and a cosine, without warmup.

    Args:
      mode: "extract": only a linear classifier learns, on the frozen encoder in inference mode. "tune": all of it.
        "scratch": all of it, from random weights.
      epochs: length of the run, and of the schedule.
      batch_size: N.
      learning_rate: base rate, times N / 256.
      layer_decay, head_rate, unfreeze_every: of "tune", see :mod:`ssl_jax.methods.supervised`.
      seed: of the classifier's first weights and the order of the data.
    """
    found = {
        "method.name": "supervised",
        "optim.name": "sgd",
        "optim.scale": "linear",
        "optim.schedule": "cosine",
        "optim.warmup_epochs": 0.0,
        "optim.momentum": 0.9,
        "optim.nesterov": True,
        "optim.decay_bias_and_norm": False,
        "optim.learning_rate": learning_rate,
        "train.epochs": epochs,
        "data.global_batch_size": batch_size,
        "seed": seed,
        **MODES[mode],
    }
    if mode == "tune":
        rates = {"layer_decay": layer_decay, "head_rate": head_rate, "unfreeze_every": unfreeze_every}
        found |= {f"method.{name}": value for name, value in rates.items()}
    return found


class Evaluator:
    """Yields ``finetune_<mode>_top1`` of each mode, test accuracy at the epoch that was best on held-out train data.

    Args:
      modes: some of "extract", "tune", "scratch"; one text with commas will do.
      learning_rate: one base rate, or several to choose from.
      epochs, batch_size, layer_decay, head_rate, unfreeze_every, seed: see :func:`overrides`.
      held_out: share of train on which the epoch and the rate are chosen.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        fit: Fit,
        modes: str | Sequence[str] = ("extract", "tune"),
        epochs: int = 10,
        batch_size: int = 128,
        learning_rate: float | Sequence[float] = RATE,
        layer_decay: float = 1.0,
        head_rate: float = 1.0,
        unfreeze_every: float = 0.0,
        held_out: float = 0.1,
        seed: int = 0,
    ):
        self.fit = fit
        modes = modes.split(",") if isinstance(modes, str) else modes
        for mode in modes:
            refuse_unknown(mode, MODES, "finetune.modes=")
        rates = np.atleast_1d(learning_rate).tolist()
        for name, value, right, meaning in (
            ("epochs", epochs, epochs >= 1, "1 or more"),
            ("batch_size", batch_size, batch_size >= 2, "2 or more"),
            ("learning_rate", learning_rate, len(rates) and min(rates) > 0, "positive"),
            ("layer_decay", layer_decay, 0 < layer_decay <= 1, "in (0, 1]"),
            ("head_rate", head_rate, head_rate > 0, "positive"),
            ("unfreeze_every", unfreeze_every, 0 <= unfreeze_every < epochs, f"epochs from 0 to below epochs={epochs}"),
            ("held_out", held_out, 0 < held_out < 1, "between 0 and 1"),
        ):
            if not right:
                raise ValueError(f"finetune.{name}={value} must be {meaning}")
        answers = check.check("finetune", train, test)
        self.notes = {"finetune": said} if (said := check.note(*answers)) else {}
        self.splits = split(train, test, held_out=held_out, seed=seed)
        self.overrides = {
            mode: {
                rate: overrides(
                    mode,
                    epochs=epochs,
                    batch_size=min(batch_size, len(self.splits.train)),
                    learning_rate=rate,
                    layer_decay=layer_decay,
                    head_rate=head_rate,
                    unfreeze_every=unfreeze_every,
                    seed=seed,
                )
                for rate in rates
            }
            for mode in modes
        }

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        """``fit`` starts from the checkpoint that ``variables`` came from."""
        for mode, candidates in self.overrides.items():
            fits = {
                rate: functools.partial(self.fit, f"finetune_{mode}", self.splits, chosen)
                for rate, chosen in candidates.items()
            }
            _, best = best_fit(fits)
            yield f"finetune_{mode}_top1", Accuracy(best.hits)
