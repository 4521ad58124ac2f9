"""The shape of a representation, without labels: alignment, uniformity, rank, spectrum, energies of pairs of views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax

from ssl_jax.data.source import Source, stratified_order
from ssl_jax.evals import Encode
from ssl_jax.evals.shared import canvas, figures
from ssl_jax.evals.shared.figures import Energies
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.online.collapse import entropy_rank
from ssl_jax.online.progress import phase
from ssl_jax.types import Array, Variables

ROWS = 8192  # turned into float64 at a time
TINY = np.finfo(np.float64).tiny
OF_VIEWS = ("alignment", "lidar", "energy_gap", "energy_auc")


def alignment(x, y) -> Array:
    """Mean squared distance of positive pairs on the sphere: ``mean_i ||x_i/|x_i| - y_i/|y_i| ||^2``, rows ``[n, d]``.

    Reference: Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity
    on the Hypersphere", section 4.1.1 with alpha = 2.
    """
    return jnp.mean(jnp.sum((_unit(x) - _unit(y)) ** 2, axis=-1))


def uniformity(x, t: float = 2.0, *, block: int = 512) -> Array:
    """How evenly unit rows cover the sphere: ``log mean_{i != j} exp(-t ||x_i - x_j||^2)``, lower is more even.

    Args:
      x: ``[n, d]``, normalised here.
      t: inverse width of the Gaussian kernel.
      block: pairs are compared in tiles of ``block x block``.

    Reference: Wang & Isola 2020, section 4.1.2. Pairs are distinct examples, as in the paper's published code.
    """
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity of {n} row(s) is not defined; pass at least 2")
    x = _unit(x)
    block = min(block, n)
    rows = jnp.pad(x, ((0, -n % block), (0, 0))).reshape(-1, block, x.shape[1])
    squares = jnp.sum(rows * rows, axis=2)  # 1, but 0 of a row of zeros, which lies in the centre
    ids = jnp.arange(rows.shape[0] * block, dtype=jnp.int32).reshape(-1, block)

    def tile(pair):
        i, j = pair
        products = jnp.matmul(rows[i], rows[j].T, precision=lax.Precision.HIGHEST)
        distance = squares[i][:, None] + squares[j][None, :] - 2 * products
        counts = (ids[i][:, None] < ids[j][None, :]) & (ids[j] < n)[None, :]
        return jnp.sum(jnp.exp(-t * distance), where=counts)

    tiles = tuple(jnp.asarray(part, jnp.int32) for part in np.triu_indices(len(rows)))
    return jnp.log(jnp.sum(lax.map(tile, tiles))) - jnp.log(jnp.asarray(n * (n - 1) / 2, x.dtype))


def rankme(x) -> float:
    """``exp(-sum_k p_k log p_k)``, ``p_k = s_k / sum s + 1e-7``, with s the singular values of ``x [n, d]``, uncentred.

    Reference: Garrido et al. 2023, "RankMe", equations 1 and 2.
    """
    return _smooth_rank(np.sqrt(_gram_eigenvalues(x)), 1e-7)


def spectrum(x) -> np.ndarray:
    """Eigenvalues of the covariance of the rows of ``x [n, d]``, float64 ``[min(n, d)]``, largest first."""
    return _gram_eigenvalues(x, centred=True)[::-1] / len(x)


def effective_rank(x) -> float:
    """``exp(entropy of e / sum e)`` with e the eigenvalues of the covariance of the rows of ``x [n, d]``.

    Reference: Roy & Vetterli 2007, "The effective rank", section 2, applied to the covariance matrix.
    """
    return entropy_rank(spectrum(x))


def alpha_req(x, *, first: int = 1, last: int | None = None) -> float:
    """Decay exponent of the covariance spectrum of the rows of ``x [n, d]``: alpha of :func:`power_law`.

    A good representation has alpha near 1, a collapsed one a large alpha, isotropic features 0.

    Differs from the reference code: all ranks are fitted; the authors' code fits ranks 4 to 100, so that their numbers
    are those of ``first=4, last=100`` (the paper names no ranks).
    """
    return power_law(spectrum(x), first=first, last=last)[0]


def power_law(eigenvalues: np.ndarray, *, first: int = 1, last: int | None = None) -> tuple[float, float]:
    """(alpha, scale) of ``e_k ~ scale k^-alpha``, by least squares in log-log.

    Ranks ``first..last`` count with weight ``1/k``, hence evenly in ``log k``; eigenvalues below 1e-12 of the largest
    are left out.

    Args:
      eigenvalues: ``[d]``, largest first.

    Raises:
      ValueError: fewer than 2 eigenvalues are left.

    Reference: Agrawal et al. 2022, "alpha-ReQ", section 3; the fit follows Stringer et al. 2019.
    """
    e = np.asarray(eigenvalues, np.float64)
    rank = np.arange(1, len(e) + 1)
    last = last or len(e)
    use = (rank >= first) & (rank <= last) & (e > 1e-12 * max(e[0], TINY))
    if use.sum() < 2:
        raise ValueError(f"alpha_req needs 2 eigenvalues between ranks {first} and {last}, found {use.sum()}")
    slope, offset = np.polyfit(np.log(rank[use]), np.log(e[use]), 1, w=rank[use] ** -0.5)  # polyfit squares its weights
    return float(-slope), float(np.exp(offset))


def lidar(views, *, delta: float = 1e-4, epsilon: float = 1e-8) -> float:
    """How many directions tell images apart, in units of how views of one image differ: a rank of linear discriminants.

    ``exp(-sum_k p_k log p_k)``, ``p_k = e_k / sum e + epsilon``, e the eigenvalues of ``W^-1/2 B W^-1/2`` with
    ``B = mean_i (m_i - m)(m_i - m)'`` and ``W = mean_iv (x_iv - m_i)(x_iv - m_i)' + delta I``, where ``m_i`` is the
    mean of the views of image i and ``m`` the mean of these.

    Directions in which images do not differ keep an eigenvalue of about ``1/v``, the noise of ``m_i``: compare values
    at equal v and d, with n above d. It is a ratio, so that features which collapse to a point up to rounding are
    measured by their rounding: read it beside ``energy_gap``.

    Args:
      views: ``[n, v, d]``, v views of n images, not normalised.
      delta: ridge on W, in units of squared features.
      epsilon: floor of ``p_k``.

    Raises:
      ValueError: fewer than 2 images or views; delta not positive.

    Reference: Thilak et al. 2023, "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures",
    section 4, equations 1 and 2 (1 to 4 in arXiv version 1).
    """
    views = np.asarray(views)
    if views.ndim != 3 or min(views.shape[:2]) < 2:
        raise ValueError(f"lidar needs views [n, v, d] of at least 2 images and 2 views, got {views.shape}")
    if not delta > 0:
        raise ValueError(f"delta={delta} must be positive: it keeps the within-image covariance invertible; use 1e-4")
    n, v, d = views.shape
    means = views.mean(axis=1, dtype=np.float64)
    deviations, centred = (views - means[:, None]).reshape(-1, d), means - means.mean(axis=0)
    within = deviations.T @ deviations / (n * v) + delta * np.eye(d)
    # B u = e W u has the eigenvalues of W^-1/2 B W^-1/2
    eigenvalues = scipy.linalg.eigh(centred.T @ centred / n, within, eigvals_only=True)
    return _smooth_rank(np.maximum(eigenvalues, 0), epsilon)


def dead_dimensions(x, *, tolerance: float = 1e-3) -> int:
    """How many columns of ``x [n, d]`` are the same for all rows.

    A column is dead when its standard deviation is at most ``tolerance`` times the mean one of all columns, or no
    more than float32 rounding of the column's mean.
    """
    x = np.asarray(x)
    deviation, mean = np.std(x, axis=0, dtype=np.float64), np.mean(x, axis=0, dtype=np.float64)
    rounding = np.finfo(np.float32).eps * np.abs(mean)
    return int(np.sum(deviation <= np.maximum(tolerance * deviation.mean(), rounding)))


def energy_histograms(x, y, *, bins: int = 100) -> Energies:
    """Energies ``-cos`` of the positive pairs ``(x_i, y_i)`` and of all other pairs ``(x_i, y_j)``; memory is ``n^2``.

    An energy-based model gives low energy to what belongs together and higher energy to all else; where it does not,
    it has collapsed.

    Args:
      x: ``[n, d]``, one view of each image.
      y: ``[n, d]``, another view of each.
      bins: of equal width over [-1, 1].

    Raises:
      ValueError: shapes that do not fit, or a single image.

    Reference: Dawid & LeCun 2022, "Introduction to Latent Variable Energy-Based Models: A Path Towards Autonomous
    Machine Intelligence", the sections on energy-based models and on collapse.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"x {x.shape} and y {y.shape} do not fit; pass two views [n, d] of at least 2 images")
    x, y = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (x, y))
    energies = np.clip(-(x @ y.T), -1, 1)
    positive, other = np.diag(energies), np.sort(energies[~np.eye(len(x), dtype=bool)])
    below, upto = (np.searchsorted(other, positive, side) for side in ("left", "right"))
    edges = np.linspace(-1, 1, bins + 1)
    return Energies(
        edges,
        *(np.histogram(e, edges)[0] / len(e) for e in (positive, other)),
        means=(float(positive.mean()), float(other.mean())),
        gap=float(other.mean() - positive.mean()),
        auc=float(1 - np.mean(below + upto) / (2 * len(other))),
    )


class Evaluator:
    """The shape of the representation: rank, spectrum, uniformity, and what its views say. Needs no labels.

    Yields ``alignment``, ``uniformity``, ``rankme``, ``effective_rank``, ``lidar``, ``alpha_req`` (left out where fewer
    than two directions vary), ``dead_dimensions``, ``energy_gap``, ``energy_auc``; of layers other than ``"features"``
    as ``<layer>_rankme`` and so on. Draws ``energy.png`` and ``spectrum.png``. Ranks that the number of examples bounds
    more closely than the dimensions do have a note of it. What is of views is left out of data that have none, as text.

    Args:
      max_examples: test examples of which random views are taken, for alignment, LiDAR and the energies; the other
        numbers are of all test examples, seen once.
      views: of each of these; LiDAR uses all, alignment and the energies the first two.
      layers: what is measured.
      t: of :func:`uniformity`.
      seed: of the choice of the examples.
      alpha_ranks: first and last rank that alpha-ReQ is fitted to, as far as there are so many; None: all. The
        authors' code has (4, 100).
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        max_examples: int = 2000,
        views: int = 10,
        layers: Sequence[str] = ("features",),
        t: float = 2.0,
        seed: int = 0,
        alpha_ranks: Sequence[int] | None = None,
    ):
        del train  # nothing is learned
        self.encode, self.test, self.t, self.views = encode, test, t, views
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        for layer in self.layers:
            if layer not in encode.layers:
                raise ValueError(f"eval.geometry.layers: {layer!r} is unknown; known: {', '.join(encode.layers)}")
        if views < 2:
            raise ValueError(f"eval.geometry.views={views}: pairs are made of 2 or more; the default is 10")
        if min(max_examples, len(test)) < 2:
            raise ValueError(
                f"geometry needs 2 or more examples; max_examples={max_examples}, {len(test)} test examples"
            )
        if not t > 0:
            raise ValueError(f"eval.geometry.t={t} must be positive; the paper uses 2")
        self.alpha_ranks = {} if alpha_ranks is None else _ranks(alpha_ranks)
        self.subset = test.take(np.sort(stratified_order(test.labels, len(test), seed)[:max_examples]))
        self.left_out: dict[str, str] = {}
        self.notes: dict[str, str] = {}

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        whole = self.encode(variables, self.test, layers=self.layers)
        several = None
        if self.encode.has_views:
            several = self.encode(variables, self.subset, layers=self.layers, views=self.views)
        else:
            self.left_out |= dict.fromkeys(OF_VIEWS, "the run's recipe makes no random views that are known")
        for layer in self.layers:
            h, views = whole[layer], None if several is None else several[layer]
            with phase(f"layer {layer}"):
                eigenvalues = spectrum(h)
                energies = None if views is None else energy_histograms(views[:, 0], views[:, 1])
                prefix, alpha, scale = "" if layer == "features" else f"{layer}_", float("nan"), float("nan")
                try:
                    alpha, scale = power_law(eigenvalues, **self.alpha_ranks)
                except ValueError as error:  # a collapsed representation has no spectrum to speak of
                    self.left_out[f"{prefix}alpha_req"] = str(error)
                self._note_bounds(prefix, h, views)
                values = {} if views is None else {"alignment": float(alignment(views[:, 0], views[:, 1]))}
                values |= {
                    "uniformity": float(uniformity(h, self.t)),
                    "rankme": rankme(h),
                    "effective_rank": entropy_rank(eigenvalues),
                    **({} if views is None else {"lidar": lidar(views)}),
                    **({"alpha_req": alpha} if np.isfinite(alpha) else {}),
                    "dead_dimensions": float(dead_dimensions(h)),
                }
                values |= {} if energies is None else {"energy_gap": energies.gap, "energy_auc": energies.auc}
            for name, value in values.items():
                yield prefix + name, value
            if outdir is not None:
                draws = {f"{prefix}spectrum.png": partial(figures.spectrum, eigenvalues, alpha, scale)}
                if energies is not None:
                    draws = {f"{prefix}energy.png": partial(figures.energy, energies)} | draws
                self.left_out |= canvas.drawn(outdir, draws)

    def _note_bounds(self, prefix: str, h: np.ndarray, views: np.ndarray | None) -> None:
        """A rank is at most that of the matrix: of few examples it says how few they are."""
        bounded = [("rankme", len(h), 0), ("effective_rank", len(h), 1)]
        bounded += [] if views is None else [("lidar", len(views), 1)]
        for name, n, centred in bounded:
            if n - centred < h.shape[1]:
                bound = f"{n} examples in {h.shape[1]} dimensions: at most {n - centred}"
                self.notes[prefix + name] = f"{bound}, to be compared at the same number of examples only"


def _ranks(given: Any) -> dict[str, int]:
    match given:
        case [int(first), int(last)] if 0 < first < last:
            return {"first": first, "last": last}
    raise ValueError(f"eval.geometry.alpha_ranks={given} must be a first and a last rank, as in 4,100")


def _unit(x) -> Array:
    x = jnp.asarray(x)
    return l2_normalize(x.astype(compute_dtype(x)), eps=1e-24)


def _smooth_rank(values: np.ndarray, epsilon: float) -> float:
    p = values / max(values.sum(), TINY) + epsilon
    return float(np.exp(-np.sum(p * np.log(p))))


def _gram_eigenvalues(x, centred: bool = False) -> np.ndarray:
    """Squared singular values of x, smallest first; float64 keeps those down to 1e-16 of the largest."""
    x = np.asarray(x)
    mean = x.mean(axis=0, dtype=np.float64) if centred else np.zeros(x.shape[1])
    if len(x) < x.shape[1]:
        rows = x - mean
        gram = rows @ rows.T
    else:
        parts = (x[start : start + ROWS] - mean for start in range(0, len(x), ROWS))
        gram = sum(part.T @ part for part in parts)
    return np.maximum(np.linalg.eigvalsh(gram), 0)
