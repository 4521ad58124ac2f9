"""The collapse alarm: moments of the projections, taken on the device in every step, read by the host now and then."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax import parallel
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.types import Array, Axis

MIN_RANK = 2.0  # dimensions, below which a report is suspicious
SKETCH = 512  # the covariance never has more columns than this


def projection_moments(z: Array, axis: Axis) -> dict[str, Array]:
    """First and second moments of the l2-normalised projections of one batch: what :func:`collapse_report` reads.

    Cheap enough for every step: ``b m^2`` multiply-adds. For d > 512 the covariance is taken of a count sketch
    (Charikar et al. 2002): coordinates with fixed random signs, folded and added into 512 columns.

    Args:
      z: ``[b, d]`` projections of this device's rows.
      axis: mapped device axis or None.

    Returns:
      ``{"mean": [d], "square": [d], "second": [m, m]}``, m = min(d, 512), averaged over all devices.
    """
    z = l2_normalize(z.astype(compute_dtype(z)), eps=1e-24)
    sketch = _sketch(z, jnp)
    second = jnp.matmul(sketch.T, sketch, precision=lax.Precision.HIGHEST) / len(z)
    return parallel.mean({"mean": jnp.mean(z, axis=0), "square": jnp.mean(z * z, axis=0), "second": second}, axis)


def collapse_report(moments) -> dict[str, float]:
    """Host side of :func:`projection_moments`.

    Returns:
      ``proj_std``: mean over coordinates of the standard deviation of unit projections;
      ``proj_std_ratio``: ``proj_std * sqrt(d)``, about 1 when healthy and 0 when all examples coincide;
      ``effective_rank``: that of the centred covariance (of the sketch when d > 512; a batch of b allows b - 1).
    """
    mean, square, second = (np.asarray(moments[name], np.float64) for name in ("mean", "square", "second"))
    if not (np.isfinite(mean).all() and np.isfinite(second).all()):
        return {"proj_std": float("nan"), "proj_std_ratio": float("nan"), "effective_rank": float("nan")}
    deviation = float(np.mean(np.sqrt(np.maximum(square - mean**2, 0))))
    centre = _sketch(mean[None], np)[0]
    eigenvalues = np.linalg.eigvalsh(second - np.outer(centre, centre))
    return {
        "proj_std": deviation,
        "proj_std_ratio": deviation * float(np.sqrt(len(mean))),
        "effective_rank": entropy_rank(eigenvalues),
    }


class Watched(NamedTuple):
    """Which of the alarm's two signs mean something at the size of a run."""

    spread: bool = True
    rank: bool = True


BOTH = Watched()


def watched(rows: int, dim: int) -> Watched:
    """The signs that a healthy run of this size shows less than once in a thousand reports.

    Counted on uniformly random directions: the spread of few examples in few dimensions is small by chance, and their
    rank is at most ``min(rows - 1, dim)``, which must be well above what the alarm asks for.

    Args:
      rows: different examples in a batch.
      dim: of the projections.
    """
    freedom = (rows - 1) * dim
    return Watched(spread=freedom >= 8, rank=freedom >= 28 and min(rows - 1, dim) >= 2 * MIN_RANK)


def unwatched(rows: int, dim: int) -> str | None:
    """What there is to say of the signs that are left out; None where both are watched."""
    signs = [name for name, seen in watched(rows, dim)._asdict().items() if not seen]
    if not signs:
        return None
    left = "no collapse alarm" if len(signs) == 2 else f"the collapse alarm leaves the {signs[0]} out"
    return f"{left}: that of {rows} examples in {dim} dimensions is small in a healthy run, too"


def alarm(
    history: int,
    report,
    *,
    step: int,
    warmup_steps: int,
    signs: Watched = BOTH,
    own: str | None = None,
    min_ratio: float = 0.2,
    min_rank: float = MIN_RANK,
) -> tuple[int, str | None]:
    """Has the representation collapsed? Speaks once, when two reports running after the warmup say so.

    It speaks again when two say no more so: I-JEPA's small run passes through two dimensions and leaves them.

    Args:
      history: suspicious reports in a row so far, -1 after the first sound one of a collapse; 0 at the start, then what
        this function returned.
      report: from :func:`collapse_report`; one that is not finite says nothing (another guard's business).
      step: the step that the report belongs to.
      warmup_steps: reports up to here never count: at initialisation projections are close together.
      signs: that count, from :func:`watched`.
      own: what the method's own numbers show of a collapse, ``hooks["collapse"]``; a sign that counts, too. "": they
        show that there is none, and no other sign counts.
      min_ratio: suspicious below this ``proj_std_ratio``.
      min_rank: suspicious below this ``effective_rank``.

    Returns:
      ``(history, message or None)``; see :func:`collapsed`.
    """
    ratio, rank = report["proj_std_ratio"], report["effective_rank"]
    if not math.isfinite(ratio):
        return history, None
    narrow, flat = (own != "" and sign for sign in (signs.spread and ratio < min_ratio, signs.rank and rank < min_rank))
    if step <= warmup_steps or not (narrow or flat or own):
        if history >= 2:
            return -1, None
        return 0, f"step {step}: the representation looks collapsed no more" if collapsed(history) else None
    if collapsed(history):
        return 2, None
    history = int(history) + 1
    if history < 2:
        return history, None
    if own:
        return history, f"step {step}: the representation looks collapsed: {own}"
    said = [
        f"differ by {ratio:.2g} of what a healthy run shows (alarm below {min_ratio:g})" if narrow else "",
        f"fill {rank:.1f} dimensions (alarm below {min_rank:g})" if flat else "",
    ]
    so = "every image gets nearly the same vector" if narrow else "images differ in next to nothing"
    return history, (
        f"step {step}: the representation looks collapsed: projections of different images "
        f"{' and '.join(filter(None, said))}, so {so} and the loss value means nothing. Try: a smaller learning rate "
        "or a longer warmup; weight decay and LARS that leave biases and norms "
        "alone; for BYOL and SimSiam a predictor with BatchNorm and no gradient into the target; for contrastive "
        "losses a higher temperature; for Barlow Twins and VICReg no weight of 0; for DINO and iBOT a lower teacher "
        "temperature and a centre that moves; for SwAV a lower epsilon."
    )


def collapsed(history: int) -> bool:
    """Whether the representation counts as collapsed, of what :func:`alarm` returned."""
    return history >= 2 or history < 0


def entropy_rank(eigenvalues: np.ndarray) -> float:
    """``exp(entropy of e / sum e)``; 0 where there is no variance at all."""
    eigenvalues = np.maximum(eigenvalues, 0)
    total = eigenvalues.sum()
    if not total > 0:
        return 0.0
    p = eigenvalues / total
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def _sketch(x, xp):
    d = x.shape[-1]
    if d <= SKETCH:
        return x
    width = d + -d % SKETCH
    signs = np.random.default_rng(0).choice([-1.0, 1.0], width).astype(x.dtype)
    x = xp.pad(x, ((0, 0), (0, width - d))) * signs[None]
    return x.reshape(len(x), -1, SKETCH).sum(axis=1)
