"""The features in the plane: PCA, kernel PCA, LLE, Isomap, t-SNE and UMAP, each with its time and trustworthiness."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.source import Source, stratified_order
from ssl_jax.evals import Encode
from ssl_jax.evals.shared import canvas, figures
from ssl_jax.online.progress import phase
from ssl_jax.types import Variables

METHODS = {
    "pca": "PCA",
    "kernel_pca": "kernel PCA",
    "lle": "LLE",
    "isomap": "Isomap",
    "tsne": "t-SNE",
    "umap": "UMAP",
}
NEIGHBOURS = 10
LEAST = 2 * NEIGHBOURS + 1  # rows that trustworthiness asks for
DIMENSIONS = 50


class Projection(NamedTuple):
    """``points [n, 2]``, the seconds they took, and their trustworthiness in [0, 1]: 1 invents no neighbours."""

    points: np.ndarray
    seconds: float
    trustworthiness: float


def project(features, *, methods: Sequence[str] = tuple(METHODS), seed: int = 0) -> dict[str, Projection]:
    """Features in the plane, by each of the methods.

    ``pca`` takes the features as they are. The others take their first 50 principal components, scaled by one number
    to unit variance, as t-SNE's authors do: it costs less. Kernel PCA has a Gaussian kernel with
    ``gamma = 1 / median squared distance``; LLE and Isomap have 10 neighbours (Isomap joins the parts of a graph that
    falls apart), t-SNE starts from PCA, UMAP has its own defaults (about 10 of its seconds are compilation, the first
    time).

    Trustworthiness is scikit-learn's, with 10 neighbours, against Euclidean distances between the features given.

    Args:
      features: ``[n, d]``.
      methods: some of ``METHODS``; ``umap`` is left out with a line where umap-learn is not installed.
      seed: of t-SNE, UMAP and iterative eigensolvers.

    Returns:
      Method -> :class:`Projection`, in the order asked for.

    Raises:
      ValueError: an unknown method, fewer than 21 rows, or rows that are all the same.

    Reference: Venna & Kaski 2001, "Neighborhood preservation in nonlinear projection methods", for trustworthiness.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import trustworthiness
    from threadpoolctl import threadpool_limits

    _check(methods)
    features = np.asarray(features, np.float64)
    n, d = features.shape
    if n < LEAST:
        raise ValueError(f"a projection of {n} examples says nothing; use {LEAST} or more")
    if np.ptp(features, axis=0).max() == 0:
        raise ValueError("all examples have the same features: there is nothing to project")
    features = np.pad(features, ((0, 0), (0, max(0, 2 - d))))  # two components need two columns
    reduced = PCA(min(DIMENSIONS, *features.shape), svd_solver="full").fit_transform(features)
    reduced /= reduced.std()
    found = {}
    for number, method in enumerate(methods, 1):
        try:
            transform = _transform(method, reduced, seed)
        except ImportError:
            print(f"projection: {method} left out; pip install umap-learn", flush=True)
            continue
        began = time.perf_counter()
        # Threads that wait by spinning: on two busy cores two of them took 38 s for a t-SNE that one does in 3.
        with phase(f"{METHODS[method]}, method {number} of {len(methods)}"):
            with threadpool_limits(1), _quiet():
                points = transform(features if method == "pca" else reduced)
            seconds = time.perf_counter() - began
            trusted = float(trustworthiness(features, points, n_neighbors=NEIGHBOURS))
        found[method] = Projection(points, seconds, trusted)
    return found


class Evaluator:
    """Pictures of the features in the plane, coloured by class where there are labels, and how far to trust them.

    Yields ``projection_<method>_trustworthiness``. Draws ``projection.png``, ``<layer>_projection.png`` of layers other
    than ``"features"``.

    Args:
      methods: some of ``METHODS``.
      max_examples: test examples shown, the classes in proportion.
      layers: what is projected.
      seed: of the choice of the examples, and of the methods.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        methods: Sequence[str] = tuple(METHODS),
        max_examples: int = 1000,
        layers: Sequence[str] = ("features",),
        seed: int = 0,
    ):
        del train  # nothing is learned
        self.encode, self.test, self.seed = encode, test, seed
        self.methods, self.layers = ((a,) if isinstance(a, str) else tuple(a) for a in (methods, layers))
        _check(self.methods)
        for layer in self.layers:
            if layer not in encode.layers:
                raise ValueError(f"eval.projection.layers: {layer!r} is unknown; known: {', '.join(encode.layers)}")
        if max_examples < LEAST:
            raise ValueError(f"projection needs {LEAST} examples or more; eval.projection.max_examples={max_examples}")
        if len(test) < LEAST:
            raise ValueError(f"projection needs {LEAST} examples or more; there are {len(test)} test examples")
        self.left_out: dict[str, str] = {}
        self.shown = np.sort(stratified_order(test.labels, len(test), seed)[:max_examples])

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        rows = self.encode(variables, self.test, layers=self.layers)
        for layer in self.layers:
            prefix = "" if layer == "features" else f"{layer}_"
            features = rows[layer][self.shown]
            if not np.ptp(features, axis=0).any():
                self.left_out[f"{prefix}projection"] = f"all examples have the same {layer}: there is nothing to draw"
                continue
            found = project(features, methods=self.methods, seed=self.seed)
            absent = [method for method in self.methods if method not in found]
            self.left_out |= {f"{prefix}projection_{method}": "its package is not installed" for method in absent}
            for method, projection in found.items():
                yield f"{prefix}projection_{method}_trustworthiness", projection.trustworthiness
            if outdir is not None and found:
                panels = {
                    METHODS[method]: (p.points, f"trustworthiness {p.trustworthiness:.2f}   {p.seconds:.2f} s")
                    for method, p in found.items()
                }
                about = {"labels": rows["label"][self.shown], "class_names": self.test.class_names}
                draw = partial(figures.projection, panels, **about)
                self.left_out |= canvas.drawn(outdir, {f"{prefix}projection.png": draw})


def _check(methods: Sequence[str]) -> None:
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"projection method {method!r} is unknown; known: {', '.join(METHODS)}")
    if not methods:
        raise ValueError(f"no projection method is named; known: {', '.join(METHODS)}")


def _transform(method: str, reduced: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """``fit_transform`` of a method with its settings."""
    if method == "umap":
        model = _import_umap().UMAP(random_state=seed, n_jobs=1)
    else:
        from scipy.spatial.distance import pdist
        from sklearn import decomposition, manifold

        model = {
            "pca": lambda: decomposition.PCA(2, svd_solver="full"),
            "kernel_pca": lambda: decomposition.KernelPCA(
                2, kernel="rbf", gamma=1 / max(np.median(pdist(reduced, "sqeuclidean")), 1e-12), random_state=seed
            ),
            # dense eigensolvers: the iterative ones fail on singular matrices, which duplicates bring
            "lle": lambda: manifold.LocallyLinearEmbedding(n_neighbors=NEIGHBOURS, eigen_solver="dense"),
            "isomap": lambda: manifold.Isomap(n_neighbors=NEIGHBOURS, eigen_solver="dense"),
            "tsne": lambda: manifold.TSNE(init="pca", random_state=seed, perplexity=min(30, (len(reduced) - 1) / 3)),
        }[method]()
    return model.fit_transform


def _import_umap() -> Any:
    """umap-learn without its parametric part, which would bring TensorFlow and torch along."""
    parametric = "umap.parametric_umap"
    absent = parametric not in sys.modules
    if absent:
        sys.modules[parametric] = None  # type: ignore[assignment]  # what Python reads as "cannot be imported"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("umap")
    finally:
        if absent:
            del sys.modules[parametric]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the libraries about what is meant here: a neighbour graph in parts, a fixed seed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of connected components")
        warnings.filterwarnings("ignore", message="Changing the sparsity structure")
        warnings.filterwarnings("ignore", module=r"(umap|numba)\b")
        yield
