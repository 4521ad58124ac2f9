"""What a method makes of held-out batches, by its own hook "score": the loss of a language model, of masked words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.data.source import Source
from ssl_jax.online.progress import counted
from ssl_jax.types import Array, Batch, Method, Variables


def score(
    method: Method, variables: Variables, batches: Iterable[Batch], *, key: Array, place: Callable[[Batch], Batch]
) -> dict[str, float]:
    """``{name: sum / count}`` over all batches, in inference mode.

    Args:
      batches: this process's rows, in the form of training batches; rows whose ``"index"`` is -1 are padding.
      key: of whatever the hook draws; every batch gets the same, since draws belong to examples.
      place: puts a batch on the devices.

    Returns:
      Means over what the hook counts; sums are in float64 on the host, so that a long text loses no digits. NaN where
      nothing was counted. What is called "perplexity" is ``exp`` of its mean.

    Reference: perplexity is ``exp`` of the mean loss over all tokens, each counted once, not the mean of the batches'.
    """
    hook = jax.jit(method.hooks["score"])
    sums: dict[str, np.ndarray] = {}
    rows = None
    for batch in counted(batches, "scoring held-out batches", unit="batches"):
        found, rows = hook(variables, place(batch), key, rows)
        for name, pair in jax.device_get(dict(found)).items():
            sums[name] = sums.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    means = {name: float(total / count) if count else float("nan") for name, (total, count) in sums.items()}
    return {name: math.exp(mean) if name == "perplexity" else mean for name, mean in means.items()}


class Evaluator:
    """The method's own measure of the test part, as a run takes it at its end; nothing is trained, labels do not count.

    Yields what the method's hook "score" names: ``loss`` and ``perplexity`` of a language model, ``mlm_top1`` and
    ``nsp_top1`` beside them of BERT.

    Args:
      batch_size: rows of a batch; of a stream they are the places at which the text is begun, each without what stands
        before it.
    """

    def __init__(self, encode: Any, *, train: Source, test: Source, batch_size: int = 32):
        del train  # nothing is learned
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"eval.score.batch_size={batch_size} must be a whole number, 1 or more")
        encode.check_score()
        self.encode, self.test, self.batch_size = encode, test, batch_size
        self.left_out: dict[str, str] = {}

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        for name, value in self.encode.score(variables, self.test, batch_size=self.batch_size).items():
            if math.isfinite(value):
                yield name, value
            else:
                self.left_out[name] = "there was nothing to count in the test part"
