"""Colorization and split-brain: Lab against scikit-image, bins and weights against NumPy, halves that share nothing."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.neighbors import NearestNeighbors

from ssl_jax import methods, models
from ssl_jax.methods import colorization, split_brain
from ssl_jax.models.pixels import PlaceClassifier
from ssl_jax.models.split import Split, half_width, halves
from ssl_jax.run import open as opened
from ssl_jax.run.open import load_given
from ssl_jax.tasks import colours
from ssl_jax.types import Plan

KEY = jax.random.key(0)
ORACLE = Path(__file__).parent / "oracles" / "lab.npz"
BINS = colours.ab_bins(10)


def plan(size=8, channels=3, width=None):
    return Plan(100, 10, 1000, (size, width or size, channels), 64, 10)


def encoder(**fields):
    return models.make("convnet", **{"widths": (8, 16), "residual": False} | fields)


def make(name, size=8, channels=3, width=None, chosen=None, **arguments):
    return methods.get(name)(chosen or encoder(), plan=plan(size, channels, width), **{"grid": 20} | arguments)


def random_images(number=6, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).random((number, size, size, channels)).astype(np.float32)


@functools.cache
def oracle():
    with np.load(ORACLE) as found:
        return dict(found)


def in_float64(f, *arrays):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(f)(*(jnp.asarray(a, jnp.float64) for a in arrays)))


@functools.cache
def started(name):
    """(method, images, variables, jitted loss) of a small case."""
    method, images = make(name), random_images()
    variables = jax.jit(method.init)(KEY, {"views": (images,)})
    loss = jax.jit(lambda v, x: method.loss(v, {"views": (x,)}, KEY, jnp.int32(0), None))
    return method, images, variables, loss


# ------------------------------------------------------------------------------------------------------------- Lab


def test_lab_is_that_of_scikit_image():
    found = oracle()
    np.testing.assert_allclose(in_float64(colours.rgb_to_lab, found["rgb"]), found["rgb_lab"], atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(in_float64(colours.lab_to_rgb, found["lab"]), found["lab_rgb"], atol=1e-12)
    np.testing.assert_allclose(in_float64(colours.lab_to_rgb, found["rgb_lab"]), found["rgb"], atol=2e-6)
    single = jax.jit(colours.rgb_to_lab)(jnp.asarray(found["rgb"], jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, found["rgb_lab"], atol=2e-4)


def test_what_networks_see_is_within_one():
    x = np.asarray(jax.jit(colours.scaled)(jnp.asarray(oracle()["rgb_lab"], jnp.float32)))
    np.testing.assert_allclose(x, oracle()["rgb_lab"] / [50, 110, 110] - [1, 0, 0], atol=1e-6)
    assert np.abs(x).max() <= 1 + 1e-6


def test_cells_are_averaged():
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 2))
    want = [[x[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((1, 2)) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(
        in_float64(lambda a: colours.pool(a, 3), x), np.transpose(want, (2, 0, 1, 3)), atol=1e-14
    )


@pytest.mark.parametrize(("grid", "number"), [(5, 969), (10, 261), (15, 126), (20, 77)])
def test_bins_are_the_cells_that_colours_occupy(grid, number):
    """The numbers are those of all 2^24 colours; every colour here lies in a cell of the table, edges apart."""
    bins = colours.ab_bins(grid)
    assert bins.shape == (number, 2)
    assert len(np.unique(bins, axis=0)) == number
    assert [0, 0] in bins.tolist()
    np.testing.assert_array_equal(bins / grid, np.round(bins / grid))
    lattice = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 15) / 255], indexing="ij"), -1).reshape(-1, 3)
    ab = in_float64(colours.rgb_to_lab, lattice)[:, 1:]
    cells = {tuple(c) for c in np.round(ab / grid) * grid + 0.0}
    assert cells <= {tuple(c) for c in bins}


def test_lightness_bins_have_width_two():
    lightness = jnp.array([0.0, 1.99, 2.0, 49.9, 50.0, 97.9, 99.0, 100.0, 100.00001])
    np.testing.assert_array_equal(jax.jit(colours.l_bins)(lightness), [0, 0, 1, 24, 25, 48, 49, 49, 49])


@pytest.mark.parametrize(("neighbours", "sigma"), [(1, 5.0), (5, 5.0), (10, 3.0)])
def test_soft_encoding_is_that_of_nearest_neighbours(neighbours, sigma):
    ab = np.random.default_rng(1).uniform(-110, 110, (3, 4, 5, 2))
    encode = jax.jit(lambda x: colours.soft_encode(x, BINS, neighbours=neighbours, sigma=sigma))
    member, nearest = in_float64(encode, ab)
    distance, index = NearestNeighbors(n_neighbors=neighbours).fit(BINS).kneighbors(ab.reshape(-1, 2))
    weight = np.exp(-(distance**2 - distance[:, :1] ** 2) / (2 * sigma**2))
    want = np.zeros((60, len(BINS)))
    np.put_along_axis(want, index, weight / weight.sum(1, keepdims=True), axis=1)
    np.testing.assert_allclose(member.reshape(60, -1), want, atol=1e-12)
    np.testing.assert_array_equal(nearest.reshape(-1), index[:, 0])


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_rare_colours_weigh_more(mixing):
    p = np.random.default_rng(0).dirichlet(np.full(261, 0.1)) + 1e-5
    p /= p.sum()
    w = in_float64(lambda a: colours.rarity(a, mixing), p)
    want = np.array([1 / ((1 - mixing) * x + mixing / 261) for x in p])
    want /= sum(x * y for x, y in zip(p, want, strict=True))
    np.testing.assert_allclose(w, want, rtol=1e-12)
    assert (p * w).sum() == pytest.approx(1, rel=1e-12)


def test_annealed_mean_goes_from_the_mean_to_the_mode():
    logits = np.random.default_rng(0).normal(size=(4, len(BINS))) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for temperature in (1.0, 0.38):
        sharp = p ** (1 / temperature)
        want = sharp @ BINS / sharp.sum(1, keepdims=True)
        got = in_float64(lambda a, t=temperature: colours.annealed_mean(a, BINS, t), logits)
        np.testing.assert_allclose(got, want, atol=1e-10)
    mode = in_float64(lambda a: colours.annealed_mean(a, BINS, 1e-3), logits)
    np.testing.assert_allclose(mode, BINS[logits.argmax(1)], atol=1e-3)


# ---------------------------------------------------------------------------------------------------- colorization


def coloured_and_grey():
    """Images of which two have no colour, one of them only nearly so."""
    images = random_images(5, 16, seed=3)
    images[1] = images[1].mean(-1, keepdims=True)
    images[3] = 0.5 + np.array([0.01, 0, -0.01])[None, None]
    return images


def test_the_task_is_the_mean_colour_of_cells():
    images = coloured_and_grey()
    found = in_float64(lambda x: colorization.task(x, 4, BINS, neighbours=5, sigma=5.0), images)
    in_lab = in_float64(colours.rgb_to_lab, images)
    ab = in_lab[..., 1:].reshape(5, 4, 4, 4, 4, 2).mean((2, 4))
    nearest = np.linalg.norm(ab[..., None, :] - BINS, axis=-1).argmin(-1)
    np.testing.assert_array_equal(found.nearest, nearest)
    np.testing.assert_array_equal(found.coloured, [1, 0, 1, 0, 1])
    np.testing.assert_allclose(found.lightness, in_lab[..., :1].repeat(3, -1) / 50 - 1, atol=1e-12)
    np.testing.assert_allclose(found.member.sum(-1), 1, atol=1e-12)


def test_the_task_may_be_the_colour_of_every_fourth_pixel():
    images = coloured_and_grey()
    ask = functools.partial(colorization.task, size=4, bins=BINS, neighbours=1, sigma=5.0)
    found = in_float64(lambda x: ask(x, subsample="stride"), images)
    corners = in_float64(lambda x: ask(x, subsample="mean"), images[:, ::4, ::4])
    np.testing.assert_array_equal(found.nearest, corners.nearest)
    np.testing.assert_array_equal(found.coloured, corners.coloured)
    assert (found.nearest != in_float64(ask, images).nearest).any()


@jax.jit
def asked_of(images):
    return colorization.task(images, 2, colours.ab_bins(20), neighbours=5, sigma=5.0)


def weighted_case():
    rng = np.random.default_rng(5)
    member, prior, rarity = rng.dirichlet(np.full(7, 0.3), (4, 2, 2)), rng.dirichlet(np.ones(7)), rng.uniform(0.2, 5, 7)
    coloured = np.array([1.0, 0, 1, 1])
    return rng.normal(size=(4, 2, 2, 7)), member, member.argmax(-1), coloured, prior, rarity / (prior @ rarity)


def loss_on(logits, member, nearest, coloured, prior, rarity, axis=None):
    asked = colorization.Task(member, member, nearest.astype(jnp.int32), coloured)
    return colorization.rebalanced(logits, asked, prior, rarity, axis)


def test_weights_act_on_the_gradient_and_not_on_the_loss():
    logits, member, nearest, coloured, prior, rarity = weighted_case()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    error = -(member * np.log(p)).sum(-1)
    mask = coloured[:, None, None] * np.ones((4, 2, 2))
    weight = rarity[nearest] * mask
    hit = p.argmax(-1) == nearest

    def value(*arrays):
        found = loss_on(*arrays)
        return found.value, found

    run = jax.jit(jax.value_and_grad(value, has_aux=True))
    (plain, found), got = in_float64(run, logits, member, nearest, coloured, prior, rarity)
    np.testing.assert_allclose(got, weight[..., None] * (p - member) / mask.sum(), atol=1e-13)
    assert plain == pytest.approx((mask * error).sum() / mask.sum(), rel=1e-12)
    np.testing.assert_allclose(found.histogram, (mask[..., None] * member).sum((0, 1, 2)) / mask.sum(), atol=1e-13)
    known = -(member * np.log(prior * rarity)).sum(-1)
    want = {
        "task_accuracy": (hit * mask).sum() / mask.sum(),
        "rare_accuracy": (hit * weight).sum() / weight.sum(),
        "prior_gain": (weight * (known - error)).sum() / weight.sum(),
    }
    assert found.metrics.keys() == want.keys()
    for name, number in want.items():
        assert found.metrics[name] == pytest.approx(number, rel=1e-12), name


def test_grey_images_are_counted_over_all_devices():
    """Two devices, one with an image in grey and one without: every ratio is one of sums over both."""
    logits, member, nearest, coloured, prior, rarity = weighted_case()
    with jax.enable_x64(True):
        rows = [jnp.asarray(a) for a in (logits, member, nearest, coloured)]
        table = jnp.asarray(prior), jnp.asarray(rarity)

        def run(*arrays, axis=None):
            x, z, q, c = arrays
            return loss_on(x, z, q, c, *table, axis=axis)

        whole = jax.jit(run)(*rows)
        parts = [a.reshape(2, 2, *a.shape[1:]) for a in rows]
        found = jax.jit(jax.vmap(functools.partial(run, axis="data"), axis_name="data"))(*parts)
        for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(got.mean(0), want, rtol=1e-12)
        np.testing.assert_array_equal(found.histogram[0], found.histogram[1])


def test_a_batch_without_colour_teaches_nothing():
    method, images, variables, loss = started("colorization")
    value, out = loss(variables, np.full_like(images, 0.3))
    assert float(value) == 0
    np.testing.assert_array_equal(out.carry, 0)
    assert all(np.isfinite(m) for m in out.metrics.values())
    kept = method.update_aux(variables, out.carry, jnp.int32(0))
    np.testing.assert_array_equal(kept["counts"], variables.aux["counts"])


def test_colorization_starts_at_the_log_of_the_bins_and_counts_them():
    method, images, variables, loss = started("colorization")
    last = variables.params["head"]["logits"]
    params = variables.params | {"head": variables.params["head"] | {"logits": jax.tree.map(np.zeros_like, last)}}
    value, out = loss(variables._replace(params=params), images)
    assert float(value) == pytest.approx(math.log(77), rel=1e-6)
    assert float(out.metrics["prior_gain"]) == pytest.approx(0, abs=1e-5)
    asked = asked_of(images)
    np.testing.assert_allclose(out.carry, np.asarray(asked.member).mean((0, 1, 2)), atol=1e-6)
    aux = method.update_aux(variables, out.carry, jnp.int32(0))
    np.testing.assert_allclose(aux["counts"], np.asarray(out.carry) + 1 / 77, atol=1e-6)
    # Now that p is known, a head that always answers p w gains nothing, nor anything less than nothing.
    prior = np.asarray(aux["counts"], np.float64) / 2
    logit = np.log(prior / (0.5 * prior + 0.5 / 77))
    bias = {"kernel": np.zeros_like(last["kernel"]), "bias": jnp.asarray(logit, jnp.float32)}
    params["head"] |= {"logits": bias}
    _, out = loss(variables._replace(params=params, aux=aux), images)
    assert float(out.metrics["prior_gain"]) == pytest.approx(0, abs=1e-5)


def test_the_gradient_of_a_step_uses_the_counted_prior():
    """Through the whole loss: the bias of the logits moves by the mean of w (p - z), with w of the counts in aux."""
    _, images, variables, loss = started("colorization")
    counts = np.random.default_rng(0).random(77).astype(np.float32)
    variables = variables._replace(aux={"counts": jnp.asarray(counts)})

    def of_bias(bias):
        head = variables.params["head"] | {"logits": variables.params["head"]["logits"] | {"bias": bias}}
        kernel = jnp.zeros_like(head["logits"]["kernel"])
        head |= {"logits": {"kernel": kernel, "bias": bias}}
        return loss(variables._replace(params=variables.params | {"head": head}), images)[0]

    bias = np.random.default_rng(1).normal(size=77).astype(np.float32)
    asked = asked_of(images)
    p, q = counts / counts.sum(), np.exp(bias) / np.exp(bias).sum()
    w = 1 / (0.5 * p + 0.5 / 77)
    w = (w / (p * w).sum())[np.asarray(asked.nearest)]
    want = (w[..., None] * (q - np.asarray(asked.member))).mean((0, 1, 2))
    np.testing.assert_allclose(jax.jit(jax.grad(of_bias))(bias), want, rtol=1e-4, atol=1e-6)


def grey_of(images):
    return np.asarray(jax.jit(lambda x: colorization.paint(x, None))(images))


def test_colorization_sees_no_colour():
    """Two images of one lightness in every pixel are one image to ``encode``; images of two lightnesses are not."""
    method, _, variables, _ = started("colorization")
    images = random_images(2, seed=7) * np.float32(0.5) + np.float32(0.25)
    plain = grey_of(images)
    assert np.abs(plain - images).max() > 0.1
    encode = jax.jit(method.encode)
    first, second, third = (np.asarray(encode(variables, x)["features"]) for x in (images, plain, 1 - images))
    np.testing.assert_allclose(first, second, atol=2e-4)
    assert np.abs(first - third).max() > 0.01


def test_pictures_have_the_lightness_that_was_given():
    method, images, variables, _ = started("colorization")
    images = images * 0.2 + 0.4
    rows = jax.jit(method.hooks["show"])(variables, images, KEY)
    assert list(rows) == ["input", "predicted colours", "target"]
    np.testing.assert_allclose(rows["predicted colours"], jax.jit(method.hooks["reconstruct"])(variables, images))
    np.testing.assert_array_equal(rows["target"], images)
    want = oracle_lightness(images)
    np.testing.assert_allclose(oracle_lightness(rows["input"]), want, atol=0.02)
    assert np.ptp(np.asarray(rows["input"]), axis=-1).max() < 1e-3  # grey
    ab = np.full((6, 2, 2, 2), 15.0, np.float32)
    painted = in_float64(colours.rgb_to_lab, jax.jit(colorization.paint)(images, ab))
    np.testing.assert_allclose(painted[..., 1:], 15, atol=0.01)
    np.testing.assert_allclose(painted[..., 0], want, atol=0.02)


def oracle_lightness(images):
    """L by the formula of the standard, in NumPy."""
    x = np.asarray(images, np.float64)
    y = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92) @ [0.212671, 0.715160, 0.072169]
    return 116 * np.where(y > 0.008856, np.cbrt(y), 7.787 * y + 16 / 116) - 16


# ----------------------------------------------------------------------------------------------------- split-brain


def test_the_halves_share_nothing():
    """Derivatives of everything that one half gives with respect to what the other sees are exactly zero."""
    net = Split(half_width(encoder()))
    x = jax.jit(lambda x: colours.scaled(colours.rgb_to_lab(x)))(random_images())
    params, state = models.init(net, KEY, x)
    direction = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    run = lambda x: models.forward(net, params, state, x, train=True)[0]  # noqa: E731
    slope = jax.jit(lambda x, only: jax.jvp(run, (x,), (only,))[1])

    def moved(channels):
        return jax.device_get(slope(x, direction * np.asarray(channels, np.float32)))

    by_lightness, by_colour = moved([1, 0, 0]), moved([0, 1, 1])
    assert set(by_lightness) == {"stem", "stage1", "stage2", "features"}
    for name in by_lightness:
        first, second = halves(by_lightness[name])
        assert np.abs(first).max() > 0
        np.testing.assert_array_equal(second, 0)
        first, second = halves(by_colour[name])
        np.testing.assert_array_equal(first, 0)
        assert np.abs(second).max() > 0


@pytest.mark.slow
def test_no_prediction_depends_on_its_target(monkeypatch):
    """Gradients of the method's own losses with respect to images that are in Lab already, channel by channel."""
    method, images, variables, _ = started("split_brain")
    in_lab = jax.jit(colours.rgb_to_lab)(images)
    monkeypatch.setattr(colours, "rgb_to_lab", lambda images: images)

    @jax.jit
    def slopes(x):
        def losses(x):
            _, out = method.loss(variables, {"views": (x,)}, KEY, jnp.int32(0), None)
            return jnp.stack([out.metrics["colour_loss"], out.metrics["lightness_loss"]])

        return jax.jacrev(losses)(x)

    for slope, seen, hidden in zip(np.asarray(slopes(in_lab)), ([0], [1, 2]), ([1, 2], [0]), strict=True):
        np.testing.assert_array_equal(slope[..., hidden], 0)
        assert all(np.abs(slope[..., c]).max() > 0 for c in seen)


def test_split_brain_asks_for_both_parts():
    images = random_images(4, 16, seed=2)
    found = in_float64(lambda x: split_brain.task(x, 4, BINS), images)
    means = in_float64(colours.rgb_to_lab, images).reshape(4, 4, 4, 4, 4, 3).mean((2, 4))
    np.testing.assert_array_equal(found.lightness, np.floor(means[..., 0] / 2))
    nearest = np.linalg.norm(means[..., None, 1:] - BINS, axis=-1).argmin(-1)
    np.testing.assert_array_equal(found.colours, nearest)


def test_split_brain_starts_at_the_logs_of_its_bins():
    _, images, variables, loss = started("split_brain")
    params = dict(variables.params)
    for name in ("colours", "lightness"):
        params[name] = params[name] | {"logits": jax.tree.map(np.zeros_like, params[name]["logits"])}
    value, out = loss(variables._replace(params=params), images)
    assert float(out.metrics["colour_loss"]) == pytest.approx(math.log(77), rel=1e-6)
    assert float(out.metrics["lightness_loss"]) == pytest.approx(math.log(50), rel=1e-6)
    assert float(value) == pytest.approx(math.log(77) + math.log(50), rel=1e-6)
    value, out = loss(variables, images)  # and each head is asked its own question
    assert float(value) == pytest.approx(float(out.metrics["colour_loss"] + out.metrics["lightness_loss"]), rel=1e-6)


def test_split_brain_features_are_as_wide_as_those_of_the_whole_encoder():
    method, images, variables, _ = started("split_brain")
    encode = jax.jit(method.encode)
    out = jax.device_get(encode(variables, images))
    assert {name: a.shape[1] for name, a in out.items()} == {"stem": 8, "stage1": 8, "stage2": 16, "features": 16}
    np.testing.assert_allclose(out["features"], out["stage2"], atol=1e-6)
    grey = jax.device_get(encode(variables, grey_of(images)))
    (same, other), (same_grey, other_grey) = halves(out["features"]), halves(grey["features"])
    np.testing.assert_allclose(same, same_grey, atol=1e-3)
    assert np.abs(other - other_grey).max() > 0.01
    # every parameter of an encoder is there twice, as a half
    sizes = jax.tree.map(jnp.size, dict(variables.params["encoder"]))
    assert sizes["first"] == sizes["second"]


def test_split_brain_can_be_looked_at():
    method, images, variables, _ = started("split_brain")
    rows = jax.jit(method.hooks["show"])(variables, images, KEY)
    assert len(rows) == 5
    for row in jax.device_get(rows).values():
        assert row.shape == images.shape
        assert (row.min() >= 0) & (row.max() <= 1)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet18", {"stem": "cifar"}),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
        ("convnet", {"stem_width": 6, "widths": (8, 16)}),
    ],
)
def test_half_an_encoder_has_half_the_channels(name, fields):
    whole = models.make(name, **fields)
    half = half_width(whole)
    assert half.dim * 2 == whole.dim
    shapes = [
        jax.eval_shape(lambda e=e: models.init(e, KEY, jnp.zeros((1, 32, 32, 3)))[0]["stem_conv"]["kernel"])
        for e in (whole, half)
    ]
    assert shapes[0].shape[-1] == 2 * shapes[1].shape[-1]


def test_a_split_trunk_does_not_start_another_run(monkeypatch):
    split, other = make("split_brain"), make("colorization")
    batch = {"views": (random_images(),)}

    class Other:
        method = split
        modality = SimpleNamespace(words=None)
        variables = jax.eval_shape(split.init, KEY, batch)
        config = ConfigDict({"model": {"name": "convnet"}, "method": {"name": "split_brain"}})

    monkeypatch.setattr(opened, "open_run", lambda workdir: Other)
    monkeypatch.setattr(opened, "variables_spec", lambda method, *_: jax.eval_shape(method.init, KEY, batch))
    with pytest.raises(
        ValueError, match="init_from=runs/x holds another architecture: params/first/stage1_block0"
    ) as error:
        load_given({"encoder": "runs/x"}, other, SimpleNamespace(words=None), Other.config, plan())
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------------------- heads and input


@pytest.mark.parametrize(("side", "size"), [(4, 8), (2, 8), (4, 4), (8, 2)])
def test_logits_have_the_asked_size(side, size):
    head = PlaceClassifier(size, 5, 8)
    x = jnp.ones((2, side, side, 3))
    shape = jax.eval_shape(lambda: models.forward(head, *models.init(head, KEY, x), x, train=True)[0]).shape
    assert shape == (2, size, size, 5)


def test_logits_keep_their_place():
    """A change in one corner of the map moves the logits of that corner, not of the other."""
    head = PlaceClassifier(16, 5, 8)
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    params, state = models.init(head, KEY, x)
    moved = x.copy()
    moved[:, 0, 0] += 1
    run = jax.jit(lambda x: models.forward(head, params, state, x, train=False)[0])
    change = np.abs(np.asarray(run(moved)) - np.asarray(run(x)))[0].max(-1)
    assert change[:4, :4].max() > 0
    np.testing.assert_array_equal(change[11:], 0)
    np.testing.assert_array_equal(change[:, 11:], 0)


MLP, VIT = models.make("mlp"), models.make("vit", patch_size=4, width=16, depth=1, heads=2)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("colorization", {"channels": 1}, "images of 1 channel"),
        ("split_brain", {"channels": 1}, "images of 1 channel"),
        ("colorization", {"grid": 0}, "grid=0 must be from 2 to 100"),
        ("split_brain", {"grid": 1000}, "grid=1000 must be from 2 to 100"),
        ("colorization", {"neighbours": 0}, "neighbours=0 must be from 1 to the 77 bins"),
        ("colorization", {"neighbours": 78}, "neighbours=78 must be from 1 to the 77 bins"),
        ("colorization", {"sigma": 0.0}, "sigma=0.0 must be positive; the paper has 5"),
        ("colorization", {"temperature": 0.0}, "temperature=0.0 must be positive; the paper has 0.38"),
        ("split_brain", {"temperature": -1.0}, "temperature=-1.0 must be positive"),
        ("colorization", {"rebalance": 1.5}, "rebalance=1.5"),
        ("colorization", {"subsample": "max"}, "subsample='max' is not one of mean, stride"),
        ("colorization", {"size": 10}, "image_size=10 .* use a multiple of 4: 8"),
        ("split_brain", {"size": 20, "chosen": encoder(widths=(8, 16, 16, 16))}, "image_size=20 .* multiple of 8: 16"),
        ("colorization", {"width": 12}, "square images and these are 8 x 12"),
        ("colorization", {"chosen": MLP}, "mlp has no map"),
        ("split_brain", {"chosen": MLP}, "mlp has no map"),
        ("split_brain", {"chosen": VIT}, "vit of 1 blocks .* cannot be split"),
        ("split_brain", {"chosen": encoder(widths=(7, 16))}, "has 7, 16 channels; use even numbers"),
        ("colorization", {"chosen": encoder(strides=(1, 3)), "size": 12}, "power of two"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(name, arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(name, **arguments)
    assert "\n" not in str(error.value)


def test_a_transformer_can_colour():
    method = make("colorization", chosen=VIT)
    batch = {"views": (random_images(),)}
    variables = jax.eval_shape(method.init, KEY, batch)
    value, _ = jax.eval_shape(lambda v: method.loss(v, batch, KEY, jnp.int32(0), None), variables)
    assert value.shape == ()
