"""Instance discrimination: losses against NumPy and optax, the bank, Z, where it starts, what it refuses."""

from __future__ import annotations

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numeric import numeric_gradient

from ssl_jax import configs, experiment, methods, models
from ssl_jax.data.images import published, recipes
from ssl_jax.losses import instance
from ssl_jax.methods import instance_discrimination
from ssl_jax.types import Plan, Variables

KEY, AXIS = jax.random.key(0), "data"

# Compiled whole: operation by operation they were some hundred programs.
instance_softmax = jax.jit(instance.instance_softmax, static_argnames="temperature")
instance_nce = jax.jit(instance.instance_nce, static_argnames="temperature")
estimate_log_z = jax.jit(instance.estimate_log_z, static_argnames=("temperature", "axis"))
draws = jax.jit(instance_discrimination.draws, static_argnums=(1, 2, 3, 4))


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def arrays(rows=5, size=9, dim=4, drawn=6):
    rng = np.random.default_rng(0)
    v, bank = rng.normal(size=(rows, dim)), rng.uniform(-1, 1, (size, dim))
    return v, bank, rng.permutation(size)[:rows].astype(np.int32), rng.integers(0, size, (rows, drawn)).astype(np.int32)


def singles(**sizes):
    """Of float32."""
    return [a.astype(np.int32 if a.dtype == np.int32 else np.float32) for a in arrays(**sizes)]


def softmax_numpy(v, bank, index, temperature):
    """Equation 2 of the paper, image by image."""
    total = 0.0
    for f, i in zip(unit(v), index, strict=True):
        p = np.exp(bank @ f / temperature)
        total -= np.log(p[i] / p.sum()) / len(v)
    return total


def nce_numpy(v, bank, index, drawn, z, temperature):
    """Equations 4, 5 and 7: the posterior that a row is the image's and not noise, image by image, draw by draw."""
    noise = drawn.shape[1] / len(bank)

    def h(f, j):
        p = np.exp(bank[j] @ f / temperature) / z
        return p / (p + noise)

    total = 0.0
    for f, i, others in zip(unit(v), index, drawn, strict=True):
        total -= np.log(h(f, i)) + sum(np.log(1 - h(f, j)) for j in others)
    return total / len(v)


# ---------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_softmax_is_equation_2_and_optax(x64, temperature):
    v, bank, index, _ = arrays()
    run = jax.jit(jax.value_and_grad(lambda a: instance_softmax(a, bank, index, temperature=temperature)))
    value, gradient = run(v)
    np.testing.assert_allclose(value, softmax_numpy(v, bank, index, temperature), rtol=1e-12)
    numeric = numeric_gradient(lambda a: softmax_numpy(a, bank, index, temperature), v)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
    logits = jnp.asarray(unit(v) @ bank.T / temperature)
    other = jax.jit(lambda *a: optax.softmax_cross_entropy_with_integer_labels(*a).mean())(logits, index)
    np.testing.assert_allclose(value, other, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nce_is_the_papers_equations(x64, temperature):
    v, bank, index, drawn = arrays()
    z = 3.7 * len(bank)

    def loss(a):
        arguments = (jnp.asarray(x) for x in (bank, index, drawn))
        return instance_nce(a, *arguments, log_z=np.log(z), temperature=temperature)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(v))
    np.testing.assert_allclose(value, nce_numpy(v, bank, index, drawn, z, temperature), rtol=1e-12)
    numeric = numeric_gradient(lambda a: nce_numpy(a, bank, index, drawn, z, temperature), v)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("negatives", [1, 7])
def test_nce_of_flat_logits(negatives):
    v, bank, index, drawn = arrays(drawn=negatives)
    flat = np.zeros_like(bank)
    value = instance_nce(*map(jnp.asarray, (v, flat, index, drawn)), log_z=math.log(len(bank)), temperature=0.1)
    assert float(value) == pytest.approx(math.log(1 + negatives) + negatives * math.log(1 + 1 / negatives), rel=1e-6)


def test_nce_with_logits_of_hundreds_is_finite():
    v, bank, index, drawn = (jnp.asarray(x) for x in arrays())
    run = jax.jit(jax.value_and_grad(lambda a: instance_nce(a, bank, index, drawn, log_z=500.0, temperature=1e-3)))
    value, gradient = run(v)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_z_is_n_times_the_mean_over_the_draws(x64):
    v, bank, _, drawn = arrays()
    want = len(bank) * np.mean([np.exp(bank[j] @ f / 0.3) for f, row in zip(unit(v), drawn, strict=True) for j in row])
    found = estimate_log_z(*map(jnp.asarray, (v, bank, drawn)), temperature=0.3)
    np.testing.assert_allclose(np.exp(found), want, rtol=1e-12)
    # every row of the bank drawn once by everyone: Z is the mean of the sums, no estimate any more
    all_of_it = np.tile(np.arange(len(bank), dtype=np.int32), (len(v), 1))
    found = estimate_log_z(*map(jnp.asarray, (v, bank, all_of_it)), temperature=0.3)
    np.testing.assert_allclose(np.exp(found), np.exp(unit(v) @ bank.T / 0.3).sum(1).mean(), rtol=1e-12)


def test_z_is_the_same_on_every_device():
    v, bank, _, drawn = singles(rows=6)
    whole = estimate_log_z(v, bank, drawn, temperature=0.3)
    split = jax.jit(jax.vmap(
        lambda a, d: estimate_log_z(a, bank, d, temperature=0.3, axis=AXIS), axis_name=AXIS
    ))(v.reshape(3, 2, -1), drawn.reshape(3, 2, -1))  # fmt: skip
    np.testing.assert_allclose(split, np.full(3, whole), rtol=1e-6)


@pytest.mark.parametrize(("size", "dim", "temperature"), [(5000, 128, 0.1), (3000, 512, 0.07)])
def test_a_random_bank_starts_above_the_log_of_its_size(size, dim, temperature):
    """ln n + 1 / (2 d T^2): rows of length 1 have logits of variance 1 / (d T^2)."""
    bank = np.asarray(jax.jit(instance_discrimination.random_bank, static_argnums=(1, 2))(KEY, size, dim))
    lengths = np.linalg.norm(bank, axis=1)
    np.testing.assert_allclose((lengths.mean(), lengths.std()), (1, math.sqrt(0.2 / dim)), rtol=0.05)
    assert np.abs(bank).max() <= np.float32((3 / dim) ** 0.5)
    # All images in turn, so that their own rows count with their mean, and with features that are nearly one direction.
    v = np.random.default_rng(1).normal(size=(size, dim)).astype(np.float32) + 2
    value = instance_softmax(v, bank, np.arange(size, dtype=np.int32), temperature=temperature)
    assert float(value) - math.log(size) == pytest.approx(1 / (2 * dim * temperature**2), abs=0.05)  # .78 and .20


def test_no_gradient_reaches_the_bank():
    v, bank, index, drawn = singles()

    def gradients(v, bank):
        yield jax.grad(lambda b: instance_softmax(v, b, index, temperature=0.1))(bank)
        yield jax.grad(lambda b: instance_nce(v, b, index, drawn, log_z=2.0, temperature=0.1))(bank)
        yield jax.grad(lambda a: estimate_log_z(a, bank, drawn, temperature=0.1))(v)

    assert not any(np.any(g) for g in jax.jit(lambda *a: list(gradients(*a)))(v, bank))


def test_half_precision_is_computed_in_float32():
    v, bank, index, _ = (jnp.asarray(x) for x in arrays())
    low, bank = v.astype(jnp.bfloat16), bank.astype(jnp.float32)
    value = instance_softmax(low, bank, index, temperature=0.1)
    assert value.dtype == jnp.float32
    again = instance_softmax(low.astype(jnp.float32), bank, index, temperature=0.1)
    np.testing.assert_allclose(value, again, rtol=1e-6)


def test_what_the_losses_refuse():
    v, bank, index, drawn = (jnp.asarray(x) for x in arrays())
    with pytest.raises(ValueError, match=r"bank \[n, d\].*\(9, 3\)"):
        instance_softmax(v, bank[:, :3], index, temperature=0.1)
    with pytest.raises(ValueError, match=r"one index for each row.*\(4,\)"):
        instance_softmax(v, bank, index[:4], temperature=0.1)
    with pytest.raises(ValueError, match=r"drawn \[b, m\].*\(4, 6\)"):
        instance_nce(v, bank, index, drawn[:4], log_z=0.0, temperature=0.1)
    with pytest.raises(ValueError, match=r"drawn \[b, m\].*\(5, 0\)"):
        instance_nce(v, bank, index, drawn[:, :0], log_z=0.0, temperature=0.1)
    with pytest.raises(ValueError, match="temperature > 0, got 0"):
        instance_nce(v, bank, index, drawn, log_z=0.0, temperature=0)


def test_examples_in_docstrings():
    result = doctest.testmod(instance)
    assert result.attempted > 0
    assert result.failed == 0


# ---------------------------------------------------------------------------------------------------------- method


def make(images=40, rows=8, **arguments):
    encoder = models.make("convnet", widths=(8,), strides=(2,), residual=False)
    return methods.get("instance_discrimination")(
        encoder, plan=Plan(20, 4, images, (8, 8, 3), rows), **{"projector_dim": 16} | arguments
    )


def batch_of(index, seed=0):
    rng = np.random.default_rng(seed)
    return {"views": (rng.random((len(index), 8, 8, 3)).astype(np.float32),), "index": np.asarray(index, np.int32)}


INDEX = (7, 39, 0, 12, 3, 25, 30, 9)


def first(method, batch, key=KEY):
    variables = jax.jit(method.init)(KEY, batch)
    return variables, *jax.jit(lambda v: method.loss(v, batch, key, jnp.int32(0), None))(variables)


def test_the_loss_is_of_the_images_own_rows_and_their_drift():
    variables, value, out = first(make(proximal=3.0), batch_of(INDEX))
    v, bank = (np.asarray(a, np.float64) for a in (out.outputs["projections"], variables.aux["bank"]))
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-5)
    drift = ((v - bank[list(INDEX)]) ** 2).sum(1).mean()
    assert float(value) == pytest.approx(softmax_numpy(v, bank, INDEX, 0.1) + 3 * drift, rel=1e-5)
    assert float(out.metrics["own_similarity"]) == pytest.approx((v * bank[list(INDEX)]).sum(1).mean(), rel=1e-4)


def test_the_bank_is_written_where_the_images_are():
    method = make(momentum=0.8)
    variables, _, out = first(method, batch_of(INDEX))
    found = jax.jit(method.update_aux)(variables, out.carry, jnp.int32(0))["bank"]
    bank, v = np.array(variables.aux["bank"]), np.asarray(out.outputs["projections"])
    for i, features in zip(INDEX, v, strict=True):
        row = 0.8 * bank[i] + 0.2 * features
        bank[i] = row / np.linalg.norm(row)
    np.testing.assert_allclose(found, bank, atol=1e-6)
    others = np.setdiff1d(np.arange(40), INDEX)
    np.testing.assert_array_equal(found[others], np.asarray(variables.aux["bank"])[others])


def test_z_is_estimated_once_and_kept():
    method = make(negatives=6)
    variables, value, out = first(method, batch_of(INDEX))
    assert np.isneginf(variables.aux["log_z"])
    drawn = np.asarray(draws(KEY, 8, 6, 40, None))
    v, bank = (np.asarray(a, np.float64) for a in (out.outputs["projections"], variables.aux["bank"]))
    z = 40 * np.exp((v[:, None] * bank[drawn]).sum(-1) / 0.1).mean()
    assert float(value) == pytest.approx(nce_numpy(v, bank, INDEX, drawn, z, 0.1), rel=1e-4)
    aux = jax.jit(method.update_aux)(variables, out.carry, jnp.int32(0))
    assert float(jnp.exp(aux["log_z"])) == pytest.approx(z, rel=1e-4)
    later = Variables(variables.params, variables.model_state, aux)
    again = jax.jit(lambda v: method.loss(v, batch_of(INDEX, seed=1), jax.random.key(9), jnp.int32(1), None)[1].carry)
    assert float(again(later)["log_z"]) == float(aux["log_z"])


def test_every_image_has_draws_of_its_own_on_any_number_of_devices():
    drawn = np.asarray(draws(KEY, 12, 500, 40, None))
    assert drawn.dtype == jnp.int32
    assert set(np.unique(drawn)) == set(range(40))
    counts = np.bincount(np.asarray(drawn).reshape(-1), minlength=40)
    np.testing.assert_allclose(counts, 150, atol=5 * 150**0.5)  # uniform: five standard deviations
    assert len(np.unique(drawn, axis=0)) == 12
    each = jax.vmap(lambda _: instance_discrimination.draws(KEY, 4, 500, 40, AXIS), axis_name=AXIS)
    split = jax.jit(each)(np.arange(3))
    np.testing.assert_array_equal(np.asarray(split).reshape(12, 500), drawn)


def test_the_bank_comes_to_know_its_images():
    """Eight images seen again and again: each is told from the other rows of the bank."""
    method, batch = make(images=64), batch_of(np.arange(8) * 8)
    variables = jax.jit(method.init)(KEY, batch)

    @jax.jit
    def step(variables):
        def loss(params):
            return method.loss(variables._replace(params=params), batch, KEY, jnp.int32(0), None)

        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables.params, gradient)
        new = Variables(params, out.model_state, variables.aux)
        return new._replace(aux=method.update_aux(new, out.carry, jnp.int32(0))), value, out.metrics["own_similarity"]

    values = []
    for _ in range(60):
        variables, value, similarity = step(variables)
        values.append(float(value))
    assert values[0] > math.log(64)
    assert values[-1] < 0.5
    assert similarity > 0.9


def test_it_can_be_looked_at():
    method = make()
    images = batch_of(INDEX)["views"][0]
    variables = jax.jit(method.init)(KEY, batch_of(INDEX))
    rows = jax.jit(method.hooks["show"])(variables, images, KEY)
    assert list(rows) == ["input", "most alike of the shown", "target"]
    assert all(row.shape == images.shape for row in rows.values())
    assert all((np.asarray(row) >= 0).all() and (np.asarray(row) <= 1).all() for row in rows.values())
    shown = np.asarray(rows["most alike of the shown"])
    assert all(any((picture == image).all() for image in images) for picture in shown)


def test_a_close_up_is_the_middle_enlarged():
    ramp = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[None, :, None, None], (2, 32, 32, 3))
    out = np.asarray(jax.jit(instance_discrimination.close_up)(ramp))
    inside = slice(2, -2)  # at the edge the interpolation has nothing to go on with
    position = ((np.arange(32) + 0.5) * 0.75 + 4 - 0.5) / 31
    np.testing.assert_allclose(out[0, inside, 0, 0], position[inside], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"negatives": -1}, "negatives=-1"),
        ({"proximal": -1.0}, "proximal=-1.0"),
        ({"bank_size": 39}, "bank_size=39 is smaller than the 40 training examples; use 40"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


def test_the_recipe_is_the_scripts():
    (view,) = published.get("npid_cifar").views
    assert (view.crop, view.size) == (recipes.Crop((0.2, 1.0)), None)
    jitter, grey = view.ops  # in this order, and no flip
    assert grey == recipes.Gray(0.2)
    assert jitter == recipes.Jitter(0.4, 0.4, 0.4, 0.4, p=1.0, flavour="torch")


def test_the_schedule_is_the_scripts():
    """lr * .1 ** ((epoch - 80) // 40) from epoch 80 on: nothing at 80, a tenth at 120 and again at 160."""
    config = configs.load("configs/instance_discrimination.py")
    plan = Plan(200 * 390, 390, 50_000, (32, 32, 3), 128, 10)
    schedule, warmup, _ = experiment.make_schedule(config, plan)
    for epoch in (0, 79, 80, 119, 120, 159, 160, 199):
        want = 0.03 * (0.1 ** ((epoch - 80) // 40) if epoch >= 80 else 1)
        np.testing.assert_allclose([schedule(epoch * 390), schedule(epoch * 390 + 389)], want, rtol=1e-6)
    assert warmup == 0


def test_a_larger_bank_is_allowed():
    variables = jax.eval_shape(make(bank_size=50).init, KEY, batch_of(INDEX))
    assert variables.aux["bank"].shape == (50, 16)
