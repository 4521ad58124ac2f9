"""Geometry against closed forms, NumPy in float64 and scikit-learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from scipy.linalg import sqrtm
from scipy.special import i0
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from ssl_jax import experiment
from ssl_jax.data import source
from ssl_jax.evals import geometry

# Compiled whole, once for all tests.
uniformity = jax.jit(geometry.uniformity, static_argnums=1, static_argnames="block")
alignment = jax.jit(geometry.alignment)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def circle(n, phase=0.0):
    angle = 2 * np.pi * np.arange(n) / n + phase
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def with_spectrum(singular_values, n=300, d=20, seed=0):
    """Rows with exactly these singular values and mean zero."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, len(singular_values)))
    u = np.linalg.qr(u - u.mean(0))[0]
    v = np.linalg.qr(rng.normal(size=(d, len(singular_values))))[0]
    return (u * np.asarray(singular_values)) @ v.T


def test_alignment():
    theta = 0.3
    found = alignment(jnp.asarray(3 * circle(50)), jnp.asarray(circle(50, theta)))
    assert float(found) == pytest.approx(2 - 2 * np.cos(theta), rel=1e-5)
    assert float(alignment(np.ones((4, 3), np.float32), np.full((4, 3), 2, np.float32))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("block", [1024, 7, 59])
def test_uniformity_on_a_circle(block):
    n, t = 60, 2.0
    k = np.arange(1, n)
    exact = np.log(np.mean(np.exp(-t * (2 - 2 * np.cos(2 * np.pi * k / n)))))
    assert float(uniformity(jnp.asarray(5 * circle(n)), t, block=block)) == pytest.approx(exact, rel=1e-5)


def test_uniformity_of_the_uniform_distribution():
    # equally spaced points tend to E exp(-t (2 - 2 cos)) = exp(-2t) I0(2t)
    found = float(uniformity(jnp.asarray(circle(3000)), 2.0))
    assert found == pytest.approx(np.log(np.exp(-4) * i0(4.0)), abs=2e-3)
    assert float(uniformity(jnp.ones((10, 4)))) == pytest.approx(0, abs=1e-5)


def test_uniformity_equals_numpy_and_its_gradient_is_finite():
    x = np.random.default_rng(0).normal(size=(37, 5))
    z = unit(x)
    distance = ((z[:, None] - z[None]) ** 2).sum(-1)
    expected = np.log(np.exp(-3 * distance)[~np.eye(37, dtype=bool)].mean())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert float(uniformity(jnp.asarray(x), 3.0, block=10)) == pytest.approx(expected, rel=1e-12)
    gradient = jax.jit(jax.grad(lambda a: geometry.uniformity(a, 3.0, block=10)))(jnp.asarray(x, jnp.float32))
    assert np.isfinite(np.asarray(gradient)).all()
    with pytest.raises(ValueError, match="at least 2"):
        geometry.uniformity(jnp.ones((1, 3)))


def test_rankme():
    assert geometry.rankme(with_spectrum([3.0] * 6)) == pytest.approx(6, rel=1e-4)
    values = np.array([5.0, 2.0, 1.0, 0.5])
    p = values / values.sum()
    assert geometry.rankme(with_spectrum(values)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)
    s = np.linalg.svd(x := np.random.default_rng(1).normal(size=(30, 50)) + 1, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert geometry.rankme(x.astype(np.float32)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)
    # uncentred: a shift adds a direction
    assert geometry.rankme(with_spectrum([3.0] * 6) + 0.1) > 6.3


def test_effective_rank():
    assert geometry.effective_rank(circle(100)) == pytest.approx(2, rel=1e-6)
    assert geometry.effective_rank(circle(100) + 7) == pytest.approx(2, rel=1e-6)
    assert geometry.effective_rank(with_spectrum([2.0] * 9)) == pytest.approx(9, rel=1e-6)
    gaussian = np.random.default_rng(0).normal(size=(20000, 8))
    assert geometry.effective_rank(gaussian) == pytest.approx(8, rel=1e-3)
    assert geometry.effective_rank(np.ones((10, 4))) == 0.0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req(alpha):
    k = np.arange(1.0, 16.0)
    x = with_spectrum(k ** (-alpha / 2), d=40)
    assert geometry.alpha_req(x) == pytest.approx(alpha, rel=1e-6)
    broken = with_spectrum(np.concatenate([[100.0, 50.0], k[2:] ** (-alpha / 2)]), d=40)
    assert geometry.alpha_req(broken, first=3, last=12) == pytest.approx(alpha, rel=1e-6)
    with pytest.raises(ValueError, match="needs 2 eigenvalues"):
        geometry.alpha_req(x, first=15, last=15)


def test_alpha_of_the_ranks_of_the_authors_code():
    """Least squares of log e on log k over ranks 4 to 100, weights 1 / k, written out."""
    e = np.sort(np.random.default_rng(0).exponential(size=150) * np.arange(1.0, 151) ** -1.2)[::-1]
    k = np.arange(4, 101)
    x, y, w = np.log(k), np.log(e[3:100]), 1 / k
    centred = x - (w * x).sum() / w.sum()
    slope = (w * centred * y).sum() / (w * centred**2).sum()
    assert geometry.power_law(e, first=4, last=100)[0] == pytest.approx(-slope, rel=1e-9)
    evaluator = geometry.Evaluator(Encoded(), train=data(), test=data(), alpha_ranks=(4, 100))
    assert geometry.power_law(e, **evaluator.alpha_ranks)[0] == pytest.approx(-slope, rel=1e-9)
    assert geometry.Evaluator(Encoded(), train=data(), test=data()).alpha_ranks == {}


def test_isotropic_features_have_full_rank_and_a_flat_spectrum():
    gaussian = np.random.default_rng(0).normal(size=(20000, 16)).astype(np.float32)
    assert geometry.rankme(gaussian) == pytest.approx(16, rel=1e-2)
    assert geometry.alpha_req(gaussian) == pytest.approx(0, abs=0.05)
    assert geometry.dead_dimensions(gaussian) == 0


@pytest.mark.parametrize("shape", [(300, 20), (15, 40)])
@pytest.mark.parametrize("rows", [7, 8192])
def test_spectrum_equals_numpy(monkeypatch, shape, rows):
    monkeypatch.setattr(geometry, "ROWS", rows)
    x = (np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 5).astype(np.float32)
    expected = np.sort(np.linalg.eigvalsh(np.cov(x.astype(np.float64).T, bias=True)))[::-1][: min(shape)]
    np.testing.assert_allclose(geometry.spectrum(x), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(geometry.spectrum(jnp.asarray(x)), expected, rtol=1e-9, atol=1e-12)
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    p = singular / singular.sum()
    assert geometry.rankme(x) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)


def test_power_law_gives_back_alpha_and_scale():
    alpha, scale = geometry.power_law(3 * np.arange(1.0, 50.0) ** -1.3)
    assert (alpha, scale) == (pytest.approx(1.3), pytest.approx(3))
    e = np.sort(np.random.default_rng(0).uniform(size=30))[::-1]
    k = np.arange(1, 31)
    weighted = LinearRegression().fit(np.log(k)[:, None], np.log(e), sample_weight=1 / k)
    alpha, scale = geometry.power_law(e)
    assert (alpha, np.log(scale)) == (pytest.approx(-weighted.coef_[0]), pytest.approx(weighted.intercept_))


def views_of(between, within, seed=0):
    """``[n, v, d]`` with exactly these standard deviations of image means and, in each image, of its views."""
    rng = np.random.default_rng(seed)
    d = len(between)
    means = np.linalg.qr((a := rng.normal(size=(60, d))) - a.mean(0))[0] * np.sqrt(60) * np.asarray(between)
    offsets = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt(d) * np.asarray(within)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (means[:, None] + offsets[None] + 4) @ rotation


def test_lidar_closed_forms():
    # isotropic noise: every direction in which images differ counts one
    for rank in (1, 3, 8):
        views = views_of([2.0] * rank + [0.0] * (8 - rank), [0.5] * 8)
        assert geometry.lidar(views) == pytest.approx(rank, rel=1e-5)
    # e = b^2 / (w^2 + delta)
    between, within, delta = np.array([3.0, 2.0, 1.0, 0.5]), np.array([0.1, 1.0, 0.2, 0.7]), 0.3
    e = between**2 / (within**2 + delta)
    p = e / e.sum()
    found = geometry.lidar(views_of(between, within), delta=delta)
    assert found == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)
    assert geometry.lidar(np.ones((5, 4, 3), np.float32)) == pytest.approx(1, abs=1e-6)


def test_lidar_equals_numpy():
    views = np.random.default_rng(0).normal(size=(40, 5, 7)) * np.linspace(0.2, 2, 7)
    views += np.random.default_rng(1).normal(size=(40, 1, 7))
    means = views.mean(1)
    between, within = np.zeros((7, 7)), np.zeros((7, 7))
    for i in range(40):
        between += np.outer(means[i] - means.mean(0), means[i] - means.mean(0)) / 40
        for row in views[i]:
            within += np.outer(row - means[i], row - means[i]) / 200
    root = np.linalg.inv(sqrtm(within + 1e-4 * np.eye(7)))
    e = np.linalg.eigvalsh(root @ between @ root)
    p = e / e.sum() + 1e-8
    assert geometry.lidar(views) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-8)
    with pytest.raises(ValueError, match="at least 2 images and 2 views"):
        geometry.lidar(views[:, :1])
    with pytest.raises(ValueError, match="must be positive"):
        geometry.lidar(views, delta=0)


def test_dead_dimensions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 10)) + 3
    x[:, [2, 5]] = 0.1
    x[:, 7] = 3 + 1e-5 * rng.normal(size=500)
    assert geometry.dead_dimensions(x.astype(np.float32)) == 3
    assert geometry.dead_dimensions(1e-6 * x) == 3
    assert geometry.dead_dimensions(x, tolerance=1e-7) == 2
    constant = np.full((777, 4), 0.1)
    assert constant.std(axis=0).min() > 0  # the mean is not exact
    assert geometry.dead_dimensions(constant) == 4


def test_energy_histograms():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6))
    y = x + 0.8 * rng.normal(size=(80, 6))
    found = geometry.energy_histograms(3 * x, 0.1 * y, bins=40)
    energies = -unit(x) @ unit(y).T
    same = np.eye(80, dtype=bool)
    assert found.auc == pytest.approx(roc_auc_score(~same.ravel(), energies.ravel()), rel=1e-12)
    assert found.means == (pytest.approx(energies[same].mean()), pytest.approx(energies[~same].mean()))
    assert found.gap == pytest.approx(energies[~same].mean() - energies[same].mean())
    assert found.gap > 0.5
    for shares, values in ((found.positive, energies[same]), (found.other, energies[~same])):
        np.testing.assert_allclose(shares, np.histogram(values, 40, (-1, 1))[0] / len(values))
    collapsed = geometry.energy_histograms(np.ones((9, 3)), np.ones((9, 3)))
    assert (collapsed.gap, collapsed.auc) == (0, 0.5)
    with pytest.raises(ValueError, match="do not fit"):
        geometry.energy_histograms(x, y[:-1])


class Encoded:
    """An encoder that stands still: features from pixels, views from noise."""

    layers = {"features": 6, "stage1": 4}  # noqa: RUF012
    has_views = True

    def __init__(self, noise=0.1):
        self.noise = noise

    def __call__(self, variables, source, *, layers=("features",), views=0):
        pixels = source.columns["image"].reshape(len(source), -1).astype(np.float32)
        found = {layer: pixels[:, : self.layers[layer]] * variables for layer in layers}
        if views:
            rng = np.random.default_rng(0)
            noise = {k: rng.normal(size=(len(x), views, x.shape[1])).astype(np.float32) for k, x in found.items()}
            found = {layer: x[:, None] + self.noise * noise[layer] for layer, x in found.items()}
        return found


def data(n=90, labels=True):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 255, (n, 4, 4, 1), np.uint8)
    return source.from_arrays(images, np.arange(n) % 3 if labels else None)


@pytest.mark.parametrize("labels", [True, False])
def test_evaluator(tmp_path, labels):
    test, encode = data(labels=labels), Encoded()
    evaluator = geometry.Evaluator(
        encode, train=test, test=test, max_examples=30, views=3, layers=("features", "stage1"), seed=1
    )
    found = dict(evaluator.run(1.0, tmp_path))
    h = encode(1.0, test)["features"]
    assert found["rankme"] == geometry.rankme(h)
    assert found["effective_rank"] == geometry.effective_rank(h)
    assert found["alpha_req"] == geometry.alpha_req(h)
    assert found["uniformity"] == float(geometry.uniformity(h))
    assert found["dead_dimensions"] == 0
    assert len(evaluator.subset) == 30
    views = encode(1.0, evaluator.subset, layers=("features", "stage1"), views=3)
    assert found["lidar"] == geometry.lidar(views["features"])
    assert found["stage1_lidar"] == geometry.lidar(views["stage1"])
    assert found["alignment"] == float(geometry.alignment(*np.moveaxis(views["features"][:, :2], 1, 0)))
    assert found["energy_auc"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {
        "energy.png",
        "spectrum.png",
        "stage1_energy.png",
        "stage1_spectrum.png",
    }
    for picture in tmp_path.iterdir():
        picture.unlink()
    assert dict(evaluator.run(1.0)) == found
    assert not list(tmp_path.iterdir())


def test_evaluator_of_a_collapsed_representation(tmp_path):
    evaluator = geometry.Evaluator(Encoded(noise=0), train=data(), test=data(), views=2)
    found = dict(evaluator.run(0.0, tmp_path))
    assert "alpha_req" not in found
    assert "needs 2 eigenvalues" in evaluator.left_out["alpha_req"]
    expected = {"alignment": 0, "uniformity": 0, "rankme": 1, "effective_rank": 0, "lidar": 1, "dead_dimensions": 6}
    assert found == pytest.approx(expected | {"energy_gap": 0, "energy_auc": 0.5}, abs=2e-5)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 1}, "2 or more"),
        ({"max_examples": 1}, "2 or more examples"),
        ({"layers": "stage9"}, "known: features, stage1"),
        ({"t": 0}, "must be positive"),
        ({"alpha_ranks": 4}, "alpha_ranks=4 must be a first and a last rank"),
        ({"alpha_ranks": (4, "all")}, "a first and a last rank"),
        ({"alpha_ranks": (4, 4)}, r"alpha_ranks=\(4, 4\) must be"),
    ],
)
def test_evaluator_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        geometry.Evaluator(Encoded(), train=data(), test=data(), **options)


def test_ranks_of_few_images_have_a_note(tmp_path):
    few = data().take(np.arange(5))
    evaluator = geometry.Evaluator(Encoded(), train=few, test=few, views=2)
    found = dict(evaluator.run(1.0, tmp_path))
    assert found["rankme"] <= 5
    assert set(evaluator.notes) == {"rankme", "effective_rank", "lidar"}
    assert evaluator.notes["rankme"].startswith("5 examples in ")
    assert "at most 4" in evaluator.notes["effective_rank"]


@pytest.mark.parametrize(("recipe", "random"), [("none", False), ("digits", True)])
def test_views_of_a_recipe_without_anything_random_are_none(recipe, random):
    """Of them alignment would be 0 and an energy tell all pairs apart."""
    built = experiment.build(runs.config("supervised", data__recipe=recipe))
    assert (built.modality.views is not None) == random
