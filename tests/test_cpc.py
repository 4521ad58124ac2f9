"""CPC: InfoNCE against arithmetic and a known mutual information, what a context may see, and that it learns digits."""

from __future__ import annotations

import doctest
import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax import methods, models
from ssl_jax.losses import info_nce
from ssl_jax.losses.info_nce import info_nce_and_accuracy
from ssl_jax.methods import cpc
from ssl_jax.models.context import GRUContext, RowContext
from ssl_jax.models.norm import ExampleNorm
from ssl_jax.types import Plan

KEY = jax.random.key(0)


def encoder(widths=(8, 16), **fields):
    return models.make("convnet", widths=widths, strides=(2,) * len(widths), residual=False, **fields)


def make(size=32, width=None, channels=3, batch_size=6, widths=(8, 16), **arguments):
    plan = Plan(100, 10, 1000, (size, width or size, channels), batch_size, 10)
    small = {"context_dim": 16} | ({} if arguments.get("form") == "sequence" else {"context_layers": 2})
    return methods.get("cpc")(encoder(widths), plan=plan, **small | arguments)


def random_images(number=6, height=32, width=32, channels=3, seed=0):
    return np.random.default_rng(seed).random((number, height, width, channels)).astype(np.float32)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_all_in_batch_is_cross_entropy_of_the_diagonal(temperature):
    rng = np.random.default_rng(0)
    pred, z = rng.normal(size=(2, 7, 5))
    p = softmax(pred @ z.T / temperature)
    off = (p - np.eye(7)) / 7 / temperature

    def both(a, b):
        return info_nce_and_accuracy(a, b, temperature=temperature)

    with jax.enable_x64(True):
        run = jax.jit(jax.value_and_grad(both, argnums=(0, 1), has_aux=True))
        (value, accuracy), grads = run(jnp.asarray(pred), jnp.asarray(z))
        assert value.dtype == jnp.float64
        alone = jax.jit(lambda a, b: info_nce(a, b, temperature=temperature))
        np.testing.assert_allclose(alone(jnp.asarray(pred), jnp.asarray(z)), value)
    np.testing.assert_allclose(value, -np.log(np.diag(p)).mean(), rtol=1e-12)
    np.testing.assert_allclose(grads[0], off @ z, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grads[1], off.T @ pred, rtol=1e-9, atol=1e-12)
    assert float(accuracy) == pytest.approx((p.argmax(1) == np.arange(7)).mean())


def test_with_negatives_of_its_own_each_row_is_a_softmax_with_label_0():
    rng = np.random.default_rng(0)
    pred, z, negatives = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), rng.normal(size=(7, 3, 5))
    p = softmax(np.einsum("bd,bnd->bn", pred, np.concatenate([z[:, None], negatives], 1)))
    off = (p - np.eye(4)[0]) / 7
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in (pred, z, negatives)]
        run = jax.value_and_grad(lambda a, b, c: info_nce_and_accuracy(a, b, negatives=c), (0, 1, 2), has_aux=True)
        (value, accuracy), grads = jax.device_get(jax.jit(run)(*arrays))
    np.testing.assert_allclose(value, -np.log(p[:, 0]).mean(), rtol=1e-12)
    np.testing.assert_allclose(grads[1], off[:, :1] * pred, rtol=1e-9)
    np.testing.assert_allclose(grads[2], off[:, 1:, None] * pred[:, None], rtol=1e-9)
    stacked = np.concatenate([z[:, None], negatives], 1)
    np.testing.assert_allclose(grads[0], np.einsum("bn,bnd->bd", off, stacked), rtol=1e-9, atol=1e-12)
    assert float(accuracy) == pytest.approx((p.argmax(1) == 0).mean())


def test_rows_of_other_devices_are_negatives_too():
    pred, z = np.random.default_rng(0).normal(size=(2, 8, 5)).astype(np.float32)
    run = jax.jit(jax.vmap(lambda a, b: info_nce(a, b, axis="data"), axis_name="data"))
    found = np.asarray(run(pred.reshape(4, 2, 5), z.reshape(4, 2, 5)))
    np.testing.assert_allclose(found.mean(), jax.jit(info_nce)(pred, z), rtol=1e-5)


each_info_nce = jax.jit(jax.vmap(info_nce))


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_information_of_gaussians_is_bounded_from_below(rho):
    """With the density ratio as critic, an inner product here, log N - L nears -log(1 - rho^2) / 2 and stays below."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(40, 500))
    z = rho * c + math.sqrt(1 - rho**2) * rng.normal(size=c.shape)
    true = -0.5 * math.log(1 - rho**2)
    scale = rho / (1 - rho**2)
    pred = np.stack([scale * c, np.full_like(c, -scale * rho / 2)], -1)  # what depends on c alone cancels
    found = math.log(500) - np.asarray(
        each_info_nce(pred.astype(np.float32), np.stack([z, z**2], -1, dtype=np.float32))
    )
    error = found.std() / math.sqrt(len(found))
    # Above the information only by the noise of 40 means; below it by what 500 examples leave, less than 0.05 nats.
    assert true - 0.05 < found.mean() < true + 3 * error
    worse = math.log(500) - np.asarray(
        each_info_nce(0.5 * pred.astype(np.float32), np.stack([z, z**2], -1, dtype=np.float32))
    )
    assert worse.mean() < found.mean()


def test_the_loss_refuses_what_does_not_fit():
    a = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"pred \(4, 3\) and z \(4, 2\)"):
        info_nce(a, a[:, :2])
    with pytest.raises(ValueError, match=r"needs negatives \[4, n, 3\] .* got \(4, 5, 2\)"):
        info_nce(a, a, negatives=jnp.ones((4, 5, 2)))
    with pytest.raises(ValueError, match="temperature > 0"):
        info_nce(a, a, temperature=0.0)


def test_the_example_of_the_loss_is_right():
    module = importlib.import_module("ssl_jax.losses.info_nce")  # the package's attribute of that name is the function
    assert doctest.testmod(module) == (0, 3)


@pytest.mark.parametrize(
    ("form", "negatives"),
    [
        ("image", None),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("image", 5), ("sequence", 5), ("sequence", None))),
    ],
)
def test_predictors_of_zeros_start_at_the_log_of_the_candidates(form, negatives):
    method = make(form=form, negatives=negatives, steps=3 if form == "sequence" else 5)
    images = jnp.asarray(random_images())
    variables = jax.jit(method.init)(KEY, {"views": (images,)})
    kernel = variables.params["predictor"]["dense0"]["kernel"]
    variables.params["predictor"]["dense0"]["kernel"] = np.zeros_like(kernel)
    value, out = jax.jit(lambda v: method.loss(v, {"views": (images,)}, KEY, jnp.int32(0), None))(variables)
    number = {"image": [6 * 7 * (7 - k) for k in (2, 3, 4, 5)], "sequence": [6 * (4 - k) for k in (1, 2, 3)]}[form]
    want = math.log(6) if negatives else np.mean(np.log(number))
    assert float(value) == pytest.approx(want, rel=1e-6)
    assert float(out.metrics["information_bound"]) == pytest.approx(0, abs=1e-5)
    assert variables.model_state["encoder"] == {}  # no BatchNorm anywhere


# --------------------------------------------------------------------------------------- what is cut and what is drawn


def test_patches_lie_where_loops_put_them():
    images = random_images(3)
    found = np.asarray(cpc.patch_grid(jnp.asarray(images), 8, 4))
    assert found.shape == (3, 7, 7, 8, 8, 3)
    for r in range(7):
        for c in range(7):
            np.testing.assert_array_equal(found[:, r, c], images[:, 4 * r : 4 * r + 8, 4 * c : 4 * c + 8])
    middle = np.asarray(cpc.patch_grid(jnp.asarray(images), 8, 4, jitter=2))
    np.testing.assert_array_equal(middle, found[..., 1:7, 1:7, :])


def test_random_windows_stay_in_their_patch_and_differ():
    where = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), -1)[None].repeat(8, 0)
    found = jax.jit(lambda x, key: cpc.patch_grid(x, 8, 4, jitter=3, key=key))(where.astype(np.float32), KEY)
    found = np.asarray(found)
    assert found.shape == (8, 7, 7, 5, 5, 2)
    corners = found[..., 0, 0, :] - 4 * np.stack(np.meshgrid(np.arange(7), np.arange(7), indexing="ij"), -1)[None]
    assert set(np.unique(corners)) == {0, 1, 2, 3}
    assert np.abs(corners.mean((0, 1, 2)) - 1.5).max() < 0.2


def test_strips_go_from_left_to_right():
    images = random_images(3, height=8, width=40)
    found = np.asarray(cpc.strips(jnp.asarray(images), 8, 8))
    assert found.shape == (3, 5, 1, 8, 8, 3)
    for t in range(5):
        np.testing.assert_array_equal(found[:, t, 0], images[:, :, 8 * t : 8 * t + 8])


def test_negatives_are_all_others_alike_and_never_the_positive():
    b, r, c = 4, 3, 2
    z = np.arange(b * r * c, dtype=np.float32).reshape(b, r, c, 1)
    found = (
        np.asarray(jax.jit(lambda key, z: cpc.drawn(key, z, 2000, None))(KEY, z))[..., 0].reshape(24, 2000).astype(int)
    )
    for own, row in enumerate(found):
        counts = np.bincount(row, minlength=24)
        assert counts[own] == 0
        expected = 2000 / 23
        assert ((np.delete(counts, own) - expected) ** 2 / expected).sum() < 60  # chi-square of 22: p = 2e-5
    assert (found[0] != found[1]).any()


# ----------------------------------------------------------------------------------------------- networks and causality


def test_example_norm_is_that_of_numpy_and_tells_nothing_to_others():
    x = np.random.default_rng(0).normal(size=(4, 3, 3, 5)).astype(np.float32) * 2 + 1
    module = ExampleNorm()
    params, state = models.init(module, KEY, jnp.asarray(x))
    assert state == {}
    params = {"scale": params["scale"] * 2, "bias": params["bias"] + 0.5}
    run = jax.jit(lambda params, x: module.apply({"params": params}, x, train=True))
    found = run(params, x)
    mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, 2 * (x - mean) / np.sqrt(var + 1e-5) + 0.5, rtol=1e-4, atol=1e-5)
    other = x.copy()
    other[1] += np.arange(5)
    np.testing.assert_array_equal(np.asarray(run(params, other))[2:], np.asarray(found)[2:])


def test_gru_is_the_recurrence_step_by_step():
    z = np.random.default_rng(0).normal(size=(2, 5, 1, 3)).astype(np.float32)
    module = GRUContext(4)
    params, _ = models.init(module, KEY, jnp.asarray(z))
    params["bias_n"] = params["bias_n"] + 0.3
    w, b = (np.asarray(params["input"][name], np.float64) for name in ("kernel", "bias"))
    u = {gate: np.asarray(params[f"recurrent_{gate}"], np.float64) for gate in "run"}
    h = np.zeros((2, 4))
    found = np.asarray(jax.jit(lambda params, z: module.apply({"params": params}, z, train=True))(params, z))
    for t in range(5):
        xr, xu, xn = np.split(z[:, t, 0] @ w + b, 3, axis=1)
        reset, keep = (1 / (1 + np.exp(-a)) for a in (xr + h @ u["r"], xu + h @ u["u"]))
        h = (1 - keep) * np.tanh(xn + reset * (h @ u["n"] + 0.3)) + keep * h
        np.testing.assert_allclose(found[:, t, 0], h, atol=1e-5)


@pytest.mark.parametrize("form", [pytest.param("image", marks=pytest.mark.slow), "sequence"])
def test_a_context_knows_nothing_of_what_comes_after_it(form):
    """d c_t / d x_s from pixels to contexts: zero for s > t, exactly, not zero for s <= t."""
    chosen = encoder().clone(norm=ExampleNorm)
    context = RowContext(4, 4) if form == "image" else GRUContext(4)
    size = 4

    def cut(x):
        return cpc.patch_grid(x, size, size) if form == "image" else cpc.strips(x, size, size)

    x = jnp.asarray(random_images(1, 16 if form == "image" else 4, 16))
    seen = cut(x)
    params = models.init(chosen, KEY, seen.reshape(-1, *seen.shape[3:]))[0]
    grid = jax.ShapeDtypeStruct((*seen.shape[:3], chosen.dim), jnp.float32)
    context_params = models.init(context, KEY, grid)[0]

    def contexts(x):
        seen = cut(x)
        z, _ = models.forward(chosen, params, {}, seen.reshape(-1, *seen.shape[3:]), train=True)
        c, _ = models.forward(context, context_params, {}, z["features"].reshape(grid.shape), train=True)
        return c[0].sum(1)  # [t, 4]

    along = 2 if form == "image" else 3
    jacobian = np.asarray(jax.jit(jax.jacobian(contexts))(x))[:, :, 0]  # [t, 4, h, w, c]
    jacobian = np.moveaxis(jacobian, along, 0).reshape(4, size, 4, -1)  # [s, ., t, rest]
    reach = np.abs(jacobian).max((1, 3))
    s, t = np.indices(reach.shape)
    assert (reach[s > t] == 0).all()
    assert (reach[s <= t] > 1e-9).all()


@pytest.mark.parametrize("form", ["image", "sequence"])
def test_the_loss_is_the_equation(form):
    """Each context against the encoding k below it (behind it) in its own column, all others of that k as negatives."""
    method = make(form=form, steps=3, temperature=1.0)
    images = random_images(2)
    variables = jax.jit(method.init)(KEY, {"views": (images,)})
    params, image = variables.params, form == "image"
    chosen = encoder().clone(norm=ExampleNorm)
    context = RowContext(16, 2) if image else GRUContext(16)

    @jax.jit
    def encodings(images):
        seen = cpc.patch_grid(images, 8, 4) if image else cpc.strips(images, 8, 8)
        z, _ = models.forward(chosen, params["encoder"], {}, seen.reshape(-1, *seen.shape[3:]), train=True)
        z = z["features"].reshape(*seen.shape[:3], -1)
        return z, models.forward(context, params["context"], {}, z, train=True)[0]

    z, c = encodings(images)
    z, c = np.asarray(z, np.float64), np.asarray(c, np.float64)
    asked = (2, 3) if image else (1, 2, 3)
    kernels = np.split(np.asarray(params["predictor"]["dense0"]["kernel"], np.float64), len(asked), axis=1)
    b, rows, columns, _ = z.shape
    losses = []
    for k, w in zip(asked, kernels, strict=True):
        places = [(i, r, j) for i in range(b) for r in range(rows - k) for j in range(columns)]
        targets = np.stack([z[i, r + k, j] for i, r, j in places])
        scores = np.stack([targets @ (c[place] @ w) for place in places])
        losses.append(-np.log(np.diag(softmax(scores))).mean())
    value, _ = jax.jit(lambda v: method.loss(v, {"views": (images,)}, KEY, jnp.int32(0), None))(variables)
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-4)


def test_overlapping_steps_are_not_asked():
    """Of 7 rows the first step asked is 2; strips do not overlap, so there it is 1."""
    images = jnp.asarray(random_images(2))
    for form, number in (("image", 4), ("sequence", 3)):
        method = make(form=form, steps=5 if form == "image" else 3)
        kernel = jax.eval_shape(method.init, KEY, {"views": (images,)}).params["predictor"]["dense0"]["kernel"]
        assert kernel.shape == (16, number * 16)


# -------------------------------------------------------------------------------------------------------- the whole


def test_features_are_the_mean_over_the_patches():
    method = make()
    images = random_images(3)
    variables = jax.jit(method.init)(KEY, {"views": (images,)})
    out = jax.jit(method.encode, static_argnums=2)(variables, images, 64)
    chosen = encoder().clone(norm=ExampleNorm)
    params = variables.params["encoder"]
    total, maps = 0, np.zeros((3, 28, 28, 8), np.float32)
    patch_of = jax.jit(lambda x: models.forward(chosen, params, {}, x, train=False)[0])
    for r in range(7):
        for c in range(7):
            seen = patch_of(images[:, 4 * r : 4 * r + 8, 4 * c : 4 * c + 8])
            total = total + np.asarray(seen["features"]) / 49
            maps[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = seen["stage1"]
    np.testing.assert_allclose(out["features"], total, rtol=1e-4, atol=1e-5)
    coarse = models.pooled({"stage1": jnp.asarray(maps)}, 64)["stage1"]
    np.testing.assert_allclose(out["stage1"], coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["image", "sequence"])
def test_the_right_patch_is_shown_where_it_belongs(form):
    """Painted targets are the image itself, what is seen ends where the context does, guesses are patches."""
    method = make(form=form, steps=5 if form == "image" else 3)
    images = random_images(4)
    variables = jax.jit(method.init)(KEY, {"views": (images,)})
    rows = {k: np.asarray(v) for k, v in jax.jit(method.hooks["show"])(variables, images, KEY).items()}
    end = 12 if form == "image" else 8  # of rows 0 and 1, of strip 0
    shown = (images, rows["context"], rows["target"], rows["prediction (nearest patch)"])
    image, context, target, guess = (np.swapaxes(a, 1, 2) if form == "sequence" else a for a in shown)
    np.testing.assert_array_equal(context[:, :end], image[:, :end])
    assert (context[:, end:] == 0.5).all()
    last = 28 if form == "image" else 32
    np.testing.assert_array_equal(target[:, :last], image[:, :last])
    np.testing.assert_array_equal(guess[:, :end], image[:, :end])
    corners = {image[i, 4 * r, 4 * c].tobytes() for i in range(4) for r in range(8) for c in range(8)}
    step = 8
    for r in range(end, last, step):
        assert all(guess[i, r, 0].tobytes() in corners for i in range(4))


def digit_sequences(which, number, length, seed):
    """Digits in counting order from a random first one, ``[number, 8, 8 length, 1]``."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    of_class = [which[digits.target[which] == k] for k in range(10)]
    first = rng.integers(0, 10, number)
    rows = [[digits.images[rng.choice(of_class[(s + t) % 10])] / 16 for t in range(length)] for s in first]
    return np.concatenate(np.transpose(np.asarray(rows, np.float32), (1, 0, 2, 3)), axis=2)[..., None]


@pytest.mark.slow
def test_counting_is_learned_and_with_it_the_digits():
    """Sorted digits: with 16 sequences the next digit is found among 64 candidates, of which 6 are of its class."""
    order = np.random.default_rng(0).permutation(1797)
    train, test = order[:1400], order[1400:]
    method = make(
        size=8, width=40, channels=1, batch_size=16, form="sequence", patch_size=8, steps=2, temperature=1.0,
        context_dim=64, widths=(16, 16),
    )  # fmt: skip
    batches = digit_sequences(train, 16 * 150, 5, 1).reshape(150, 16, 8, 40, 1)
    variables = method.init(KEY, {"views": (batches[0],)})
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))

    def loss(params, images):
        value, out = method.loss(variables._replace(params=params), {"views": (images,)}, KEY, jnp.int32(0), None)
        return value, out.metrics

    @jax.jit
    def update(params, state, images):
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, images)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    params, state, values = variables.params, tx.init(variables.params), []
    for images in batches:
        params, state, value = update(params, state, images)
        values.append(float(value))
    held_out = digit_sequences(test, 16 * 20, 5, 2).reshape(20, 16, 8, 40, 1)
    measured = jax.jit(jax.vmap(loss, in_axes=(None, 0)))(params, held_out)[1]
    accuracy, bound = (float(measured[k].mean()) for k in ("task_accuracy", "information_bound"))
    scores = [probe(method, variables._replace(params=p), train[:200], test) for p in (variables.params, params)]
    assert np.mean(values[-20:]) < np.mean(values[:20]) - 0.5
    assert accuracy > 0.12  # chance is 1/64 and 1/48 at the two steps
    assert 1.2 < bound < math.log(64)
    assert scores[1] > scores[0] + 0.15, scores


def probe(method, variables, train, test):
    """Accuracy on held-out digits of a classifier of 200 labels."""
    digits = load_digits()
    images = np.tile((digits.images / 16).astype(np.float32)[..., None], (1, 1, 5, 1))
    features = np.asarray(jax.jit(method.encode)(variables, images)["features"])
    shift, scale = features[train].mean(0), features[train].std(0) + 1e-6
    features = (features - shift) / scale
    classifier = LogisticRegression(max_iter=2000).fit(features[train], digits.target[train])
    return classifier.score(features[test], digits.target[test])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"form": "audio"}, "form='audio' is not one of image, sequence"),
        ({"size": 24}, "steps=5 needs 6 patches of 8 pixels every 4 and images of 24 pixels hold 5.*image_size=28"),
        ({"form": "sequence"}, "steps=5 needs 6 patches of 8 pixels every 8 .* hold 4; use data.image_size=48"),
        ({"width": 40}, "square images and these are 32 x 40"),
        ({"patch_size": 2}, "patch_size=2 and .*patch_jitter=0 show the encoder 2 pixels .* needs 4; use .*=4"),
        ({"patch_jitter": 5}, "show the encoder 3 pixels .* use method.patch_size=9"),
        ({"patch_jitter": -1}, "patch_jitter=-1 must not be negative"),
        ({"patch_jitter": 1, "form": "sequence", "steps": 2}, "patch_jitter=1 is for form='image'"),
        ({"steps": 1}, "steps=1 must be above method.skip=1.*use method.steps=2"),
        ({"negatives": 0}, "negatives=0 must be from 1 to 83"),
        ({"negatives": 84}, "negatives=84 must be from 1 to 83"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"colour": "sepia"}, "colour='sepia'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


def test_the_size_that_an_error_names_is_enough():
    make(size=28)
    make(size=8, width=48, form="sequence")
