"""Rotation, relative patch and jigsaw: their constructions against arithmetic, shortcuts shut, and that they learn."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from scipy.spatial.distance import pdist
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax import methods, models
from ssl_jax.methods import classification, jigsaw, relative_patch, rotation
from ssl_jax.tasks import patches
from ssl_jax.types import Plan

KEY = jax.random.key(0)
TASKS = ("rotation", "relative_patch", "jigsaw")
SMALL = {"embed_dim": 16, "hidden": 32}
ARGUMENTS = {"rotation": {}, "relative_patch": SMALL, "jigsaw": SMALL | {"grid": 2, "per_image": 3}}


def plan(size=32, channels=3, width=None):
    return Plan(100, 10, 1000, (size, width or size, channels), 64, 10)


def encoder(widths=(16, 32), **fields):
    return models.make("convnet", widths=widths, strides=(2,) * len(widths), residual=False, **fields)


def make(name, size=32, channels=3, **arguments):
    chosen = encoder()
    return methods.get(name)(chosen, plan=plan(size, channels), **ARGUMENTS[name] | arguments)


def started(method, batch):
    return jax.jit(method.init)(KEY, batch)


def random_images(number=6, size=32, channels=3, seed=0):
    return np.random.default_rng(seed).random((number, size, size, channels)).astype(np.float32)


def places(number, size):
    """Images whose first channel is the row and second the column of a pixel."""
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).astype(np.float32)
    return np.broadcast_to(np.concatenate([grid, 0 * grid[..., :1]], -1), (number, size, size, 3))


# ------------------------------------------------------------------------------------------------- what all share


def test_classification_is_the_mean_cross_entropy_and_its_gradient():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3, 7)) * 3, rng.integers(0, 7, (5, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    onehot = np.eye(7)[labels]
    run = jax.value_and_grad(lambda x: classification(x, jnp.asarray(labels, jnp.int32)), has_aux=True)
    (value, accuracy), gradient = jax.jit(run)(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(value, -np.log((p * onehot).sum(-1)).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, (p - onehot) / 15, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(accuracy, (logits.argmax(-1) == labels).mean())
    low, _ = jax.eval_shape(classification, jnp.asarray(logits, jnp.bfloat16), jnp.asarray(labels, jnp.int32))
    assert low.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "arguments", "classes"),
    [
        ("rotation", {}, 4),
        pytest.param("relative_patch", {}, 8, marks=pytest.mark.slow),
        ("jigsaw", {}, 24),
        pytest.param("jigsaw", {"grid": 3}, 72, marks=pytest.mark.slow),
    ],
)
def test_a_head_of_zeros_starts_at_the_log_of_the_classes(name, arguments, classes):
    method = make(name, **arguments)
    batch = {"views": (jnp.asarray(random_images()),)}
    variables = started(method, batch)
    part = "classifier" if name == "rotation" else "head"
    last = max(k for k in variables.params[part] if k.startswith("dense"))
    variables.params[part][last] = jax.tree.map(np.zeros_like, variables.params[part][last])
    value, out = jax.jit(lambda v, b: method.loss(v, b, KEY, jnp.int32(0), None))(variables, batch)
    assert float(value) == pytest.approx(math.log(classes), rel=1e-6)
    assert out.outputs["features"].shape == (6, 32)


@pytest.mark.parametrize("name", TASKS)
def test_the_online_probe_and_encode_see_features_of_the_same_images(name):
    """Row i of what the probe is trained on belongs to image i: changing one image changes that row most."""
    method = make(name)
    images = random_images(8)
    variables = started(method, {"views": (images,)})
    run = jax.jit(lambda x: method.loss(variables, {"views": (x,)}, KEY, jnp.int32(0), None)[1].outputs["features"])
    other = images.copy()
    other[5] = images[5] ** 4
    moved = np.abs(np.asarray(run(images)) - np.asarray(run(other))).sum(1)
    assert moved.argmax() == 5
    assert moved[5] > 5 * np.delete(moved, 5).max()


# -------------------------------------------------------------------------------------------------------- rotation


def test_rotations_are_those_of_numpy():
    images = random_images(5, size=6)
    turned, turns = rotation.rotations(jnp.asarray(images))
    assert turned.shape == (20, 6, 6, 3)
    for i, (image, k) in enumerate(zip(turned, turns, strict=True)):
        assert int(k) == i % 4
        np.testing.assert_array_equal(image, np.rot90(images[i // 4], int(k)))


def test_rotation_needs_squares():
    with pytest.raises(ValueError, match="square images and these are 32 x 24"):
        rotation.make(encoder(), plan=plan(32, width=24))
    with pytest.raises(ValueError, match="square"):
        rotation.rotations(jnp.zeros((2, 4, 6, 3)))


def test_rotation_shows_what_it_would_turn_back():
    """A classifier that always answers 1 turns every picture back by one quarter turn."""
    method = make("rotation")
    images = random_images(8)
    variables = started(method, {"views": (images,)})
    variables.params["classifier"]["dense0"] = {"kernel": jnp.zeros((32, 4)), "bias": jnp.array([0.0, 1, 0, 0])}
    rows = jax.jit(method.hooks["show"])(variables, images, KEY)
    for i in range(8):
        np.testing.assert_array_equal(rows["input"][i], np.rot90(images[i], i % 4))
        np.testing.assert_array_equal(rows["turned back as predicted"][i], np.rot90(images[i], i % 4 - 1))


@pytest.mark.slow  # it trains
def test_rotation_of_digits_teaches_features_that_tell_digits():
    """The clearest gain there is at this size: logistic regression on pooled features, before and after."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    method = rotation.make(encoder(), plan=plan(8, 1), mean=(0.3,), std=(0.38,))
    before = after = started(method, {"views": (images[:2],)})
    after, accuracy = train(method, after, lambda t: images[np.random.default_rng(t).integers(0, 1200, 128)], 200)
    scores = []
    for variables in (before, after):
        features = np.asarray(jax.jit(method.encode)(variables, images)["features"])
        features = (features - features[:1200].mean(0)) / (features[:1200].std(0) + 1e-6)
        probe = LogisticRegression(max_iter=2000).fit(features[:1200], labels[:1200])
        scores.append(probe.score(features[1200:], labels[1200:]))
    assert accuracy > 0.85
    assert scores[1] > scores[0] + 0.05, scores


def train(method, variables, images_at, steps, rate=0.1):
    """Variables after ``steps`` steps of SGD on fresh images, and the task accuracy of the last 20 of them."""
    tx = optax.sgd(rate, momentum=0.9)

    @jax.jit
    def step(variables, opt_state, images, t):
        def loss(params):
            key = jax.random.fold_in(KEY, t)
            return method.loss(variables._replace(params=params), {"views": (images,)}, key, t, None)

        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
        updates, opt_state = tx.update(gradient, opt_state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        return variables._replace(params=params, model_state=out.model_state), opt_state, out.metrics["task_accuracy"]

    opt_state, accuracies = tx.init(variables.params), []
    for t in range(steps):
        variables, opt_state, accuracy = step(variables, opt_state, images_at(t), jnp.int32(t))
        accuracies.append(float(accuracy))
    return variables, np.mean(accuracies[-20:])


# --------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize(
    ("size", "side", "gap", "jitter", "patch", "corner"),
    [(32, 3, 1, 2, 8, 0), (32, 2, 2, 3, 12, 0), (255, 3, 0, 21, 64, 0), (34, 3, 0, 2, 9, 0), (35, 3, 0, 3, 8, 1)],
)
def test_the_grid_fills_the_image(size, side, gap, jitter, patch, corner):
    grid = patches.make_grid(encoder(), plan(size), side, gap=gap, jitter=jitter)
    assert (grid.patch, grid.corner) == (patch, corner)


def test_patches_are_where_they_are_said_to_be():
    """In an image that holds its own coordinates: every shift from 0 to the jitter, gaps kept, draws apart."""
    gap, jitter, number = 1, 2, 200
    grid = patches.make_grid(encoder(), plan(), 3, gap=gap, jitter=jitter)
    cut = np.asarray(jax.jit(lambda x: patches.cut(KEY, x, grid))(places(number, 32)))
    assert cut.shape == (number, 9, 8, 8, 3)
    rows, columns = cut[:, :, 0, 0, 0], cut[:, :, 0, 0, 1]
    np.testing.assert_array_equal(
        cut[..., 0] - rows[..., None, None], np.broadcast_to(np.arange(8)[:, None], (8, 8)) + 0 * cut[..., 0]
    )
    k = np.arange(9)
    shifts = np.stack([rows - 11 * (k // 3), columns - 11 * (k % 3)])
    assert set(np.unique(shifts)) == {0, 1, 2}
    np.testing.assert_allclose([(shifts == v).mean() for v in range(3)], 1 / 3, atol=0.03)
    # shifts are independent of each other: of patches of an image, of images, of rows and columns
    flat = shifts.transpose(1, 0, 2).reshape(number, -1)
    correlation = np.corrcoef(flat.T) - np.eye(18)
    assert np.abs(correlation).max() < 0.35
    # neighbours: 'gap' to 'gap + 2 jitter' pixels between them
    between = columns.reshape(-1, 3, 3)[:, :, 1:] - columns.reshape(-1, 3, 3)[:, :, :-1] - 8
    assert (between.min(), between.max()) == (gap, gap + 2 * jitter)


def test_relative_patch_labels_follow_from_the_coordinates():
    grid = patches.make_grid(encoder(), plan(), 3, gap=1, jitter=2)

    @jax.jit
    def asked_of(images):
        corner = patches.cut(KEY, images, grid)[:, :, 0, 0, :2]
        return relative_patch.pairs(corner[:, relative_patch.CENTRE], corner)

    asked, labels = asked_of(places(20, 32))
    assert asked.shape == (20, 8, 4)
    direction = np.round((np.asarray(asked[..., 2:]) - np.asarray(asked[..., :2])) / 11).astype(int)
    order = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]  # row by row without the centre
    for where, label in zip(direction.reshape(-1, 2), np.asarray(labels).reshape(-1), strict=True):
        assert order[label] == tuple(where)


guard_colour = jax.jit(patches.guard_colour, static_argnums=(2, 3), static_argnames="of")


def test_dropped_colours_leave_one_channel():
    images = random_images(50).reshape(50, 16, 8, 8, 3)
    out = np.asarray(guard_colour(KEY, images, "drop", 1.0))
    same = (out == images).all((2, 3))  # [b, n, c]
    assert (same.sum(-1) == 1).all()
    np.testing.assert_allclose(same.mean((0, 1)), 1 / 3, atol=0.06)
    kept = images[same.nonzero()[0], same.nonzero()[1], :, :, same.nonzero()[2]]
    others = out.transpose(0, 1, 4, 2, 3)[~same].reshape(len(kept), 2, 64)
    np.testing.assert_allclose(others.mean(-1), kept.mean((1, 2))[:, None].repeat(2, 1), atol=0.003)
    ratio = others.std(-1) / kept.std((1, 2))[:, None]
    np.testing.assert_allclose(ratio.mean(), 0.01, rtol=0.03)
    assert np.abs(np.mean([np.corrcoef(*pair)[0, 1] for pair in others])) < 0.03  # two noises, not one


@pytest.mark.parametrize("rate", [0.0, 0.66, 1.0])
def test_grey_patches_hold_the_luma(rate):
    images = random_images(50).reshape(50, 16, 8, 8, 3)
    out = np.asarray(guard_colour(KEY, images, "grey", rate))
    luma = (images @ np.array([0.2989, 0.587, 0.114], np.float32))[..., None].repeat(3, -1)
    grey = np.isclose(out, luma, atol=1e-6).all((2, 3, 4))
    np.testing.assert_array_equal(out[~grey], images[~grey])
    assert abs(grey.mean() - rate) < 0.05


def test_whole_images_may_be_greyed_before_they_are_cut():
    """All patches of an image or none, each image by its own draw: the same as to grey the image and then to cut it."""
    images = random_images(400, 12)
    grid = patches.Grid(3, 3, 1, 0, 0)
    cut_of = jax.jit(lambda x: patches.cut(KEY, x, grid))
    cut = np.asarray(cut_of(images))
    out = np.asarray(guard_colour(KEY, cut, "grey", 0.66, of="image"))
    luma = (images @ np.array([0.2989, 0.587, 0.114], np.float32))[..., None].repeat(3, -1)
    greyed = np.asarray(cut_of(luma))
    grey = np.isclose(out, greyed, atol=1e-6).all((1, 2, 3, 4))
    np.testing.assert_array_equal(out[~grey], cut[~grey])
    assert abs(grey.mean() - 0.66) < 4 * (0.66 * 0.34 / 400) ** 0.5


def test_pixels_of_the_small_side_are_uniform():
    """Of patches of 96, sides of 10 to 94, as often as numbers of pixels from 100 to 95^2 have them as their root."""
    number = 40_000
    small_sides = jax.jit(patches.small_sides, static_argnums=(1, 2, 3))
    sides = np.asarray(small_sides(KEY, number, 10, 96))
    assert (sides.min(), sides.max()) == (10, 94)
    edges = np.array([10, 30, 50, 70, 85, 95])
    share = np.diff(edges**2) / (95**2 - 10**2)
    found = np.histogram(sides, edges)[0] / number
    np.testing.assert_array_less(np.abs(found - share), 4 * (share * (1 - share) / number) ** 0.5)
    assert set(np.unique(small_sides(KEY, 100, 2, 3))) == {2}  # of a patch that cannot be smaller
    images = random_images(20).reshape(20, 16, 8, 8, 3)
    out = np.asarray(jax.jit(lambda x: patches.blur(KEY, x, 1.0, draw="pixels"))(images))
    assert not (out == images).all((2, 3, 4)).any()  # the whole side is never drawn


def test_blur_is_shrinking_and_enlarging():
    """Every patch is what Pillow makes of it for one small side, and all sides occur."""
    images = random_images(20).reshape(20, 16, 8, 8, 3)[:, :8]
    blur = jax.jit(lambda x, rate: patches.blur(KEY, x, rate), static_argnums=1)
    out = np.asarray(blur(images, 1.0))
    found = []
    for before, after in zip(images.reshape(-1, 8, 8, 3), out.reshape(-1, 8, 8, 3), strict=True):
        channel = Image.fromarray(before[..., 0])
        there_and_back = {
            side: np.asarray(
                channel.resize((side, side), Image.Resampling.BILINEAR).resize((8, 8), Image.Resampling.BILINEAR)
            )
            for side in range(2, 9)
        }
        found.append(min(there_and_back, key=lambda side: np.abs(there_and_back[side] - after[..., 0]).max()))
        np.testing.assert_allclose(after[..., 0], there_and_back[found[-1]], atol=2e-6)
    assert set(found) == set(range(2, 9))
    some = np.asarray(blur(images, 1 / 3))
    untouched = (some == images).all((2, 3, 4)).mean()
    assert untouched == pytest.approx(2 / 3 + 1 / 21, abs=0.15)


def test_standardised_patches():
    images = random_images(4).astype(np.float64).reshape(4, 16, 8, 8, 3) * 0.2 + 0.3
    standardize = jax.jit(patches.standardize)
    out = np.asarray(standardize(images.astype(np.float32)))
    flat = images.reshape(4, 16, -1)
    want = (flat - flat.mean(-1, keepdims=True)) / flat.std(-1, keepdims=True)
    np.testing.assert_allclose(out.reshape(4, 16, -1), want, atol=2e-5)
    np.testing.assert_array_equal(standardize(np.full((2, 8, 8, 3), 0.5, np.float32)), 0)


def waves(t, period, number=64, size=32):
    """Images of two waves, down and across, whose phases are random: position shows in differences alone."""
    phase = np.random.default_rng(t).random((2, number, 1)) * 2 * np.pi
    down, across = np.cos(2 * np.pi * np.arange(size) / period + phase)
    images = np.stack(np.broadcast_arrays(down[:, :, None], across[:, None, :], 0.0), -1)
    return (images / 2 + 0.5).astype(np.float32)


@pytest.mark.slow  # it trains
@pytest.mark.parametrize(("control", "low", "high", "steps"), [(False, 0.8, 1.0, 150), (True, 0.105, 0.145, 75)])
def test_relative_patch_falls_to_chance_when_the_patches_are_of_two_images(control, low, high, steps):
    method = make("relative_patch", colour="keep", control=control)
    variables = started(method, {"views": (waves(0, 16.5),)})
    _, accuracy = train(method, variables, lambda t: waves(t, 16.5), steps)
    assert low < accuracy < high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "colour"), [pytest.param("relative_patch", "drop", marks=pytest.mark.slow), ("jigsaw", "grey")]
)
def test_patch_tasks_can_be_looked_at(name, colour):
    method = make(name, colour=colour)
    images = random_images(8)
    variables = started(method, {"views": (images,)})
    rows = jax.jit(method.hooks["show"])(variables, images, KEY)
    assert len(rows) == 3
    for row in jax.device_get(rows).values():
        assert len(row) == 8
        assert (row.min() >= 0) & (row.max() <= 1)


def constant_answer(name, answer, **arguments):
    """A method whose head always gives one class, its variables, and what it shows of eight images."""
    method = make(name, colour="keep", **arguments)
    images = random_images(8)
    variables = started(method, {"views": (images,)})
    last = variables.params["head"]["dense1"]
    last |= {"kernel": np.zeros_like(last["kernel"]), "bias": np.float32(np.arange(len(last["bias"])) == answer)}
    return jax.tree.map(np.asarray, jax.jit(method.hooks["show"])(variables, images, KEY))


def test_relative_patch_shows_the_neighbour_where_it_was_put():
    rows = constant_answer("relative_patch", 3)
    both, predicted, target = rows["centre patch and neighbour"], rows["neighbour where predicted"], rows["target"]
    for i, cell in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):  # image i asks for place i
        r, c = 8 * (cell // 3), 8 * (cell % 3)
        np.testing.assert_array_equal(target[i, r : r + 8, c : c + 8], both[i, :, 8:])
        np.testing.assert_array_equal(target[i, 8:16, 8:16], both[i, :, :8])
        np.testing.assert_array_equal(predicted[i, 8:16, :8], both[i, :, 8:])  # place 3 is left of the centre
    assert (predicted[:, :8] == 0.5).all()


# ---------------------------------------------------------------------------------------------------------- jigsaw


@pytest.mark.parametrize(
    ("tiles", "count", "smallest", "mean"),
    [(4, 24, 2, 72 / 23), (9, 72, 8, 8.1127), (9, 64, 7, 8.12), (9, 100, 6, 8.08)],
)
def test_permutations_are_far_apart(tiles, count, smallest, mean):
    """SciPy's distances. All 24 of four are 3 apart on average, each with itself counted: 24 * 3 / 23 without."""
    found = jigsaw.permutation_set(tiles, count)
    assert found.shape == (count, tiles)
    assert (np.sort(found, axis=1) == np.arange(tiles)).all()
    distance = pdist(found, "hamming") * tiles
    assert round(distance.min()) == smallest
    assert distance.mean() == pytest.approx(mean, abs=0.01)


def test_every_order_of_four_tiles_is_in_the_set():
    assert {tuple(row) for row in jigsaw.permutation_set(4, 24)} == set(itertools.permutations(range(4)))


def test_the_inverse_permutation_restores_the_tiles():
    tiles = random_images(10).reshape(10, 16, 8, 8, 3)[:, :9]
    orders = jigsaw.permutation_set(9, 72)
    labels = np.asarray(jax.jit(jigsaw.draw, static_argnums=(1, 2, 3))(KEY, 10, 5, 72))
    shuffled = jax.jit(jigsaw.shuffled)
    asked = np.asarray(shuffled(tiles, orders, labels))
    assert asked.shape == (10, 5, 9, 8, 8, 3)
    for i, j in itertools.product(range(10), range(5)):
        order = orders[labels[i, j]]
        for place in range(9):
            np.testing.assert_array_equal(asked[i, j, place], tiles[i, order[place]])
    back = np.asarray(shuffled(asked[:, 0], np.argsort(orders, axis=1), labels[:, :1]))
    np.testing.assert_array_equal(back[:, 0], tiles)


def test_every_permutation_is_asked_as_often():
    labels = np.asarray(jigsaw.draw(KEY, 2000, 6, 24))
    counts = np.bincount(labels.reshape(-1), minlength=24)
    assert len(counts) == 24
    assert ((counts - 500) ** 2 / 500).sum() < 50  # chi-square of 23 degrees: p = 0.001
    assert abs(np.corrcoef(labels.T) - np.eye(6)).max() < 0.1


@pytest.mark.slow
def test_jigsaw_shows_the_tiles_put_back():
    """The head answers permutation 7; where that was the question, the picture is whole again."""
    rows = constant_answer("jigsaw", 7, grid=2, permutations=9, per_image=1)
    orders = jigsaw.permutation_set(4, 9)
    size = rows["input"].shape[1] // 2

    def tiles(image):
        return image.reshape(2, size, 2, size, 3).transpose(0, 2, 1, 3, 4).reshape(4, size, size, 3)

    back = np.argsort(orders[7])
    whole = []
    for asked, shown, target in zip(*rows.values(), strict=True):
        np.testing.assert_array_equal(tiles(shown), tiles(asked)[back])
        order = [next(k for k in range(4) if (tiles(target)[k] == tile).all()) for tile in tiles(asked)]
        assert order in orders.tolist()
        whole.append((order == orders[7]).all() == (shown == target).all())
    assert all(whole)


def border_solver(tiles):
    """Index of the order of 2 x 2 tiles whose touching lines agree best, a solver that knows no pictures."""
    agree = {"right": np.einsum("birc,bjrc->bij", tiles[:, :, :, -1], tiles[:, :, :, 0]),
             "below": np.einsum("bicx,bjcx->bij", tiles[:, :, -1], tiles[:, :, 0])}  # fmt: skip
    scores = [
        agree["right"][:, a, b] + agree["right"][:, c, d] + agree["below"][:, a, c] + agree["below"][:, b, d]
        for a, b, c, d in itertools.permutations(range(4))
    ]
    return np.argmax(scores, axis=0)


@pytest.mark.parametrize(("gap", "jitter", "low", "high"), [(0, 0, 0.9, 1.0), (2, 3, 0.0, 0.09), (2, 0, 0.0, 0.09)])
def test_borders_tell_nothing_about_the_order_of_tiles(gap, jitter, low, high):
    """In noise in which touching pixels are alike and no others, matching lines solves puzzles without a gap only."""
    noise = np.random.default_rng(0).normal(size=(400, 34, 34, 3)).astype(np.float32)
    noise = noise[:, 1:] + noise[:, :-1]
    images = (noise[:, :, 1:] + noise[:, :, :-1])[:, :32, :32]
    grid = patches.make_grid(encoder(), plan(), 2, gap=gap, jitter=jitter)
    tiles = np.asarray(jax.jit(lambda x: patches.cut(KEY, x, grid))(images))
    assert low <= np.mean(border_solver(tiles) == 0) <= high  # order 0 is the true one; chance is 1 / 24


@pytest.mark.slow  # it trains
def test_jigsaw_learns_where_tiles_lie():
    method = make("jigsaw", colour="keep", gap=2, jitter=1, per_image=8)
    variables = started(method, {"views": (waves(0, 13.6),)})
    _, accuracy = train(method, variables, lambda t: waves(t, 13.6), 150)
    assert accuracy > 0.5  # chance is 1 / 24


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("relative_patch", {"size": 16}, r"patches of 2 pixels .* needs 4; use data.image_size=20"),
        ("relative_patch", {"jitter": 9}, r"patches of 1 pixels .* use data.image_size=41"),
        ("relative_patch", {"gap": -1}, "gap=-1 must not be negative"),
        ("relative_patch", {"colour": "drop", "channels": 1}, "needs images of 3 channels and these have 1"),
        ("relative_patch", {"colour": "sepia"}, "colour='sepia' is not one of keep, grey, drop"),
        ("relative_patch", {"blur_rate": 1.5}, "blur_rate=1.5"),
        ("relative_patch", {"colour_of": "grid"}, "colour_of='grid' is not one of patch, image"),
        ("jigsaw", {"blur_draw": "area"}, "blur_draw='area' is not one of side, pixels"),
        ("jigsaw", {"grid": 4}, "grid=4 is not 2 or 3"),
        ("jigsaw", {"permutations": 25}, "permutations=25 but 4 tiles have 24 orders; use 2 to 24"),
        ("jigsaw", {"permutations": 1}, "permutations=1"),
        ("jigsaw", {"grid": 3, "permutations": 362881}, "9 tiles have 362880 orders"),
        ("jigsaw", {"per_image": 0}, "per_image=0"),
        ("jigsaw", {"size": 8}, "use data.image_size="),
    ],
)
def test_bad_arguments_are_refused_in_one_line(name, arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(name, **arguments)
    assert "\n" not in str(error.value)


def test_the_size_that_an_error_names_is_enough():
    make("relative_patch", size=20)
    with pytest.raises(ValueError, match="image_size=20"):
        make("relative_patch", size=19)


@pytest.mark.parametrize("name", ["relative_patch", pytest.param("jigsaw", marks=pytest.mark.slow)])
def test_grey_images_are_fine_without_a_colour_guard(name):
    method = make(name, channels=1, colour="keep")
    batch = {"views": (random_images(4, channels=1),)}

    @jax.jit
    def begun(batch):
        return method.loss(method.init(KEY, batch), batch, KEY, jnp.int32(0), None)[0]

    assert np.isfinite(begun(batch))
