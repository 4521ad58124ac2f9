"""What a method makes of held-out batches, by its own hook "score": the loss of a language model, of masked words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import jax
import numpy as np

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
