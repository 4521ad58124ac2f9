"""Numbers that weights cannot be, whatever file they came in."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

VARIANCE = re.compile(r"(model_state/)?batch_stats/.+/var")
ROUNDED = 1e-6  # below 0, where a variance was computed as E[x^2] - E[x]^2; a tenth of the eps that is added to it


def wrong(name: str, array: np.ndarray) -> str:
    """What of an array cannot be, "3 of the 64 numbers of {} are not finite"; "" where nothing.

    Args:
      name: ours, "model_state/batch_stats/stem_norm/var".
    """
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return ""
    if infinite := int((~np.isfinite(array)).sum()):
        return f"{infinite} of the {array.size} numbers of {{}} are not finite"
    if VARIANCE.fullmatch(name) and (below := int((array < -ROUNDED).sum())):
        return f"{below} of the {array.size} numbers of {{}} are below 0, which no variance is"
    return ""


def never_varied(arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Names of the running variances that are zero throughout.

    One such may be of a layer that was pruned, whose numbers are all alike; a network's all are only of one whose
    norms never saw a batch: what it gives is not what was trained.

    Raises:
      ValueError: all of them are.
    """
    variances = [name for name in arrays if VARIANCE.fullmatch(name)]
    zero = tuple(name for name in variances if not np.any(arrays[name]))
    if zero and len(zero) == len(variances):
        raise ValueError(
            f"the running variances of all its {len(zero)} BatchNorms are zero throughout, so that none of them ever "
            "saw a batch; use other weights"
        )
    return zero
