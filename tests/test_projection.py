"""Projections against scikit-learn on the same features; what is odd, missing or refused."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA, KernelPCA
from sklearn.manifold import Isomap, trustworthiness
from sklearn.metrics.pairwise import euclidean_distances

from ssl_jax.data import source
from ssl_jax.evals import projection

ROOT = Path(__file__).resolve().parent.parent
FAST = ("pca", "kernel_pca", "lle", "isomap", "tsne")  # umap takes 15 s to compile


def clusters(n=90, d=12, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = 4 * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) * np.linspace(0.5, 2, d)
    return x.astype(np.float32), labels


def same_up_to_sign(a, b, tolerance):
    np.testing.assert_allclose(a * np.sign((a * b).sum(0)), b, atol=tolerance * np.abs(b).max())


def test_points_are_those_of_sklearn():
    x, _ = clusters(classes=1)  # one neighbour graph
    found = projection.project(x, methods=("isomap", "kernel_pca", "pca"))
    assert list(found) == ["isomap", "kernel_pca", "pca"]
    same_up_to_sign(found["pca"].points, PCA(2).fit_transform(x), 1e-4)
    reduced = PCA(12).fit_transform(x.astype(np.float64))
    reduced /= reduced.std()
    squares = euclidean_distances(reduced, squared=True)[np.triu_indices(90, 1)]
    kernel = KernelPCA(2, kernel="rbf", gamma=1 / np.median(squares), eigen_solver="dense")
    same_up_to_sign(found["kernel_pca"].points, kernel.fit_transform(reduced), 1e-6)
    same_up_to_sign(found["isomap"].points, Isomap(n_neighbors=10).fit_transform(reduced), 1e-6)


def test_trustworthiness_is_that_of_the_points_and_the_seed_fixes_them():
    x, _ = clusters(d=70)  # more than are kept for the methods
    found = projection.project(x, methods=FAST, seed=3)
    for name, (points, seconds, trust) in found.items():
        assert points.shape == (90, 2), name
        assert seconds > 0
        assert trust == pytest.approx(trustworthiness(x.astype(np.float64), points, n_neighbors=10), rel=1e-9)
        assert trust > 0.6
    again = projection.project(x, methods=("tsne",), seed=3)
    np.testing.assert_array_equal(again["tsne"].points, found["tsne"].points)


@pytest.mark.parametrize(
    "x",
    [
        np.repeat(clusters(30)[0], 3, axis=0),  # duplicates
        clusters(40)[0] + 1e4 * (np.arange(40) % 2)[:, None],  # a neighbour graph in two parts
        clusters(40)[0][:, :1] * np.linspace(1, 2, 5),  # rank one
        clusters(40)[0][:, :1],
        1 + 1e-6 * clusters(40)[0],
        clusters(21, d=80)[0],
    ],
    ids=["duplicates", "two parts", "rank one", "one column", "nearly collapsed", "wide"],
)
def test_odd_features_are_drawn_without_a_warning(x, recwarn):
    found = projection.project(x, methods=FAST)
    for name, (points, _, trust) in found.items():
        assert np.isfinite(points).all(), name
        assert 0 <= trust <= 1
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_without_its_parametric_part():
    code = """
import sys, warnings
import numpy as np
from ssl_jax.evals import projection
assert "umap" not in sys.modules and "sklearn" not in sys.modules
x = np.random.default_rng(0).normal(size=(24, 6))
x[12:] += 50
found = projection.project(x, methods=("umap",))["umap"]
assert found.points.shape == (24, 2) and np.isfinite(found.points).all()
print(sorted({"tensorflow", "torch", "umap.parametric_umap"} & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},  # compilation took half a minute
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
    assert not run.stderr


def test_missing_umap_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "umap", None)
    found = projection.project(clusters()[0], methods=("umap", "pca"))
    assert list(found) == ["pca"]
    assert capsys.readouterr().out == "projection: umap left out; pip install umap-learn\n"
    assert "umap.parametric_umap" not in sys.modules


class Encoded:
    layers = {"features": 12, "stage1": 4}  # noqa: RUF012

    def __call__(self, variables, source, *, layers=("features",), views=0):
        pixels = source.columns["image"].reshape(len(source), -1).astype(np.float32)
        labels = np.full(len(source), -1) if source.labels is None else source.labels
        return {layer: pixels[:, : self.layers[layer]] * variables for layer in layers} | {"label": labels}


def data(n=90, labels=True):
    x, classes = clusters(n, d=16)
    images = np.clip(8 * x + 128, 0, 255).astype(np.uint8).reshape(n, 4, 4)
    return source.from_arrays(images, classes if labels else None)


@pytest.mark.parametrize("labels", [True, False])
def test_evaluator(tmp_path, labels, monkeypatch):
    test, drawn = data(labels=labels), {}
    draw = projection.figures.projection
    monkeypatch.setattr(
        projection.figures,
        "projection",
        lambda panels, path, **k: drawn.update({path.name: k}) or draw(panels, path, **k),
    )
    evaluator = projection.Evaluator(
        Encoded(), train=test, test=test, methods="pca", max_examples=30, layers=("features", "stage1")
    )
    found = dict(evaluator.run(1.0, tmp_path))
    assert list(found) == ["projection_pca_trustworthiness", "stage1_projection_pca_trustworthiness"]
    shown = evaluator.shown
    assert len(np.unique(shown)) == 30
    pixels = test.columns["image"].reshape(90, -1)[shown][:, :12]
    points = PCA(2).fit_transform(pixels.astype(np.float64))
    expected = trustworthiness(pixels, points, n_neighbors=10)
    assert found["projection_pca_trustworthiness"] == pytest.approx(expected, rel=1e-9)
    assert {p.name for p in tmp_path.iterdir()} == {"projection.png", "stage1_projection.png"}
    np.testing.assert_array_equal(drawn["projection.png"]["labels"], test.labels[shown] if labels else [-1] * 30)


def test_evaluator_of_a_collapsed_representation(tmp_path):
    evaluator = projection.Evaluator(Encoded(), train=data(), test=data())
    assert not list(evaluator.run(0.0, tmp_path))
    assert evaluator.left_out == {"projection": "all examples have the same features: there is nothing to draw"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ("pca", "mds")}, "'mds' is unknown; known: pca, kernel_pca"),
        ({"methods": ()}, "no projection method"),
        ({"max_examples": 20}, "21 examples or more"),
        ({"test": data(20)}, "20 test examples"),
        ({"layers": "stage9"}, "known: features, stage1"),
    ],
)
def test_evaluator_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        projection.Evaluator(Encoded(), **({"train": data(), "test": data()} | options))


def test_project_refuses():
    with pytest.raises(ValueError, match="use 21 or more"):
        projection.project(np.eye(20))
    with pytest.raises(ValueError, match="nothing to project"):
        projection.project(np.ones((30, 4)))
    with pytest.raises(ValueError, match="unknown"):
        projection.project(np.eye(30), methods=("mds",))
