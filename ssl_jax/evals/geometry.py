"""The shape of a representation without labels: alignment, uniformity, rank, spectrum, and the collapse alarm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax import parallel
from ssl_jax.types import Array, Axis

SKETCH = 512  # the alarm's covariance never has more columns than this


def alignment(x: Array, y: Array) -> Array:
    """Mean squared distance of positive pairs on the sphere: ``mean_i ||x_i/|x_i| - y_i/|y_i| ||^2``, rows ``[n, d]``.

    Reference: Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity
    on the Hypersphere", section 4.1.1 with alpha = 2.
    """
    return jnp.mean(jnp.sum((_unit(x) - _unit(y)) ** 2, axis=-1))


def uniformity(x: Array, t: float = 2.0, *, block: int = 1024) -> Array:
    """How evenly unit rows cover the sphere: ``log mean_{i != j} exp(-t ||x_i - x_j||^2)``, lower is more even.

    Args:
      x: ``[n, d]``, normalised here.
      t: inverse width of the Gaussian kernel.
      block: rows compared with all others at a time; memory is ``block * n``.

    Reference: Wang & Isola 2020, section 4.1.2. Pairs are distinct examples, as in the paper's published code.
    """
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity of {n} row(s) is not defined; pass at least 2")
    x = _unit(x)
    block = min(block, n)
    ids = jnp.arange(n + -n % block, dtype=jnp.int32).reshape(-1, block)
    rows = jnp.pad(x, ((0, -n % block), (0, 0))).reshape(-1, block, x.shape[1])

    def one(entry):
        number, part = entry
        distance = 2 - 2 * jnp.matmul(part, x.T, precision=lax.Precision.HIGHEST)
        pair = (number[:, None] < n) & (number[:, None] != jnp.arange(n, dtype=jnp.int32)[None, :])
        return jax.nn.logsumexp(-t * distance, where=pair)

    return jax.nn.logsumexp(lax.map(one, (ids, rows))) - jnp.log(jnp.asarray(n * (n - 1), x.dtype))


def rankme(x) -> float:
    """``exp(-sum_k p_k log p_k)``, ``p_k = s_k / sum s + 1e-7``, with s the singular values of ``x [n, d]``, uncentred.

    Reference: Garrido et al. 2023, "RankMe", equations 1 and 2.
    """
    s = np.sqrt(np.maximum(_gram_eigenvalues(np.asarray(x, np.float64)), 0))
    p = s / max(s.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def effective_rank(x) -> float:
    """``exp(entropy of e / sum e)`` with e the eigenvalues of the centred covariance of the rows of ``x [n, d]``.

    Reference: Roy & Vetterli 2007, "The effective rank", section 2, applied to the covariance matrix.
    """
    x = np.asarray(x, np.float64)
    return _entropy_rank(_gram_eigenvalues(x - x.mean(axis=0)))


def alpha_req(x, *, first: int = 1, last: int | None = None) -> float:
    """Decay exponent alpha of the covariance spectrum: ``e_k ~ k^-alpha``, by least squares in log-log.

    Ranks ``first..last`` count with weight ``1/k``, hence evenly in ``log k``; eigenvalues below 1e-12 of the largest
    are left out. A good representation has alpha near 1, a collapsed one a large alpha.

    Reference: Agrawal et al. 2022, "alpha-ReQ", section 3; the fit follows Stringer et al. 2019.
    """
    x = np.asarray(x, np.float64)
    e = np.sort(_gram_eigenvalues(x - x.mean(axis=0)))[::-1]
    rank = np.arange(1, len(e) + 1)
    use = (rank >= first) & (rank <= (last or len(e))) & (e > 1e-12 * max(e[0], np.finfo(np.float64).tiny))
    if use.sum() < 2:
        raise ValueError(f"alpha_req needs 2 eigenvalues between ranks {first} and {last or len(e)}, found {use.sum()}")
    k, y, w = np.log(rank[use]), np.log(e[use]), 1 / rank[use]
    k = k - np.average(k, weights=w)
    return float(-np.sum(w * k * y) / np.sum(w * k * k))


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
    z = _unit(z)
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
        "effective_rank": _entropy_rank(eigenvalues),
    }


def alarm(
    history: int, report, *, step: int, warmup_steps: int, min_ratio: float = 0.2, min_rank: float = 2.0
) -> tuple[int, str | None]:
    """Has the representation collapsed? Speaks once, when two reports running after the warmup say so.

    Args:
      history: suspicious reports in a row so far; 0 at the start, then what this function returned.
      report: from :func:`collapse_report`; one that is not finite is not suspicious (another guard's business).
      step: the step that the report belongs to.
      warmup_steps: reports up to here never count: at initialisation projections are close together.
      min_ratio: suspicious below this ``proj_std_ratio``.
      min_rank: suspicious below this ``effective_rank``.

    Returns:
      ``(history, message or None)``.
    """
    ratio, rank = report["proj_std_ratio"], report["effective_rank"]
    if step <= warmup_steps or not (ratio < min_ratio or rank < min_rank):
        return 0, None
    history = int(history) + 1
    if history != 2:
        return history, None
    return history, (
        f"step {step}: the representation looks collapsed: projections of different images differ by "
        f"{ratio:.2g} of what a healthy run shows (alarm below {min_ratio:g}) and fill {rank:.1f} dimensions (alarm "
        f"below {min_rank:g}), so every image gets nearly the same vector and the loss value means nothing. Try: a "
        "smaller learning rate or a longer warmup; weight decay and LARS that leave biases and norms alone; for BYOL "
        "and SimSiam a predictor with BatchNorm and no gradient into the target; for contrastive losses a higher "
        "temperature."
    )


def _unit(x: Array) -> Array:
    x = x.astype(np.promote_types(x.dtype, np.float32))
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squares, 1e-24))


def _sketch(x, xp):
    d = x.shape[-1]
    if d <= SKETCH:
        return x
    width = d + -d % SKETCH
    signs = np.random.default_rng(0).choice([-1.0, 1.0], width).astype(x.dtype)
    x = xp.pad(x, ((0, 0), (0, width - d))) * signs[None]
    return x.reshape(len(x), -1, SKETCH).sum(axis=1)


def _gram_eigenvalues(x: np.ndarray) -> np.ndarray:
    """Squared singular values of x. Float64 keeps singular values down to 1e-8 of the largest."""
    return np.maximum(np.linalg.eigvalsh(x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T), 0)


def _entropy_rank(eigenvalues: np.ndarray) -> float:
    eigenvalues = np.maximum(eigenvalues, 0)
    total = eigenvalues.sum()
    if not total > 0:
        return 0.0
    p = eigenvalues / total
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))
