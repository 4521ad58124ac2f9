"""Jumps of the loss, told in the log when they happen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SPIKE_MEMORY, SPIKE_AT_LEAST = 20, 8


def spike(losses: Sequence[float], loss: float | None, *, step: int, warmup_steps: int) -> str | None:
    """Whether a logged loss stands far above those before it: by six deviations and a fifth of their size.

    Args:
      losses: the logged losses before it, the newest last; of the last 20 the median, and as deviation 1.4826 times
        the median distance from it.
      loss: the new one.
      step, warmup_steps: of the run; the warmup is passed over.

    Returns:
      A warning, or None.
    """
    recent = np.asarray(losses[-SPIKE_MEMORY:], np.float64)
    if loss is None or step <= warmup_steps or len(recent) < SPIKE_AT_LEAST:
        return None
    middle = float(np.median(recent))
    deviation = 1.4826 * float(np.median(np.abs(recent - middle)))
    if not loss - middle > max(6 * deviation, 0.2 * abs(middle)):
        return None
    return (
        f"step {step}: the loss jumped to {loss:.4g}; it was {middle:.4g} (deviation {deviation:.2g}) over the last "
        f"{len(recent)} lines of the log; if it does not come back, lower optim.learning_rate or set optim.clip_norm"
    )
