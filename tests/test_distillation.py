"""Losses and head of DINO and iBOT against lightly, torch and closed forms: values and gradients."""

from __future__ import annotations

import doctest
import importlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, models, parallel
from ssl_jax.models.heads import WeightNormDense, dino_head

ORACLE = np.load(Path(__file__).parent / "oracles" / "distillation.npz")
NO_CENTRE = {"centre": jnp.zeros(7), "teacher_temperature": 0.05, "temperature": 0.1}


# Op by op they take many times as long.
distillation, patch_distillation = jax.jit(losses.distillation), jax.jit(losses.patch_distillation)
koleo = jax.jit(losses.koleo, static_argnames="group")


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def close(a, b, tol=1e-12):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tol * max(1.0, np.abs(b).max())


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_distillation_is_lightlys_with_its_centre_of_the_step_before(x64):
    centre = jnp.zeros(7)
    for step in range(2):
        case = {k: ORACLE[f"dino/{step}/{k}"] for k in ("teacher", "student", "loss", "grad", "centre")}
        loss = partial(losses.distillation, case["teacher"], centre=centre, teacher_temperature=0.05, temperature=0.1)
        value, grad = jax.jit(jax.value_and_grad(loss))(case["student"])
        close(value, case["loss"], 1e-8)  # lightly's temperature and first centre are float32
        close(grad, case["grad"], 1e-7)
        centre = losses.next_centre(centre, case["teacher"].mean((0, 1)), momentum=0.9)
        close(centre, case["centre"], 1e-7)
    assert np.abs(centre).max() > 1e-3


def test_distillation_of_two_prototypes_by_hand(x64):
    views = jnp.array([[[0.1, 0.0], [0.0, 0.2]]])
    arguments = {"teacher_temperature": 0.04, "temperature": 0.1}
    assert float(distillation(views, views, centre=jnp.zeros(2), **arguments)) == pytest.approx(1.640890, abs=1e-6)
    close(losses.next_centre(jnp.zeros(2), views.mean((0, 1)), momentum=0.9), [0.005, 0.010])


def test_the_order_of_local_views_and_what_all_prototypes_share_do_not_count(x64):
    teacher, student = normal(3, 2, 7), normal(3, 5, 7, seed=1)
    value = distillation(teacher, student, **NO_CENTRE)
    close(distillation(teacher, student[:, [0, 1, 4, 2, 3]], **NO_CENTRE), value)
    close(distillation(teacher + normal(3, 2, 1, seed=2), student + normal(3, 5, 1, seed=3), **NO_CENTRE), value)
    assert abs(float(distillation(teacher, student[:, [1, 0, 2, 3, 4]], **NO_CENTRE)) - float(value)) > 1e-3


def test_a_constant_is_absorbed_by_the_centre(x64):
    teacher, student, shift = normal(3, 2, 7), normal(3, 5, 7, seed=1), normal(7, seed=2)
    value = distillation(teacher, student, **NO_CENTRE)
    close(distillation(teacher + shift, student, **NO_CENTRE | {"centre": jnp.asarray(shift)}), value)


def test_a_constant_network_has_the_logarithm_of_the_prototypes_for_loss(x64):
    close(distillation(np.zeros((3, 2, 7)), np.zeros((3, 4, 7)), **NO_CENTRE), np.log(7))
    q, half = np.full((4, 5, 7), 1 / 7), np.array([1.0, 0.0, 0.0, 1.0])[:, None] * np.ones((4, 5))
    close(patch_distillation(q, np.zeros((4, 5, 7)), weights=half, temperature=0.1), 0.5 * np.log(7))


def test_no_gradient_reaches_the_teacher():
    teacher, student = jnp.asarray(normal(3, 2, 7), jnp.float32), jnp.asarray(normal(3, 3, 7), jnp.float32)
    grad = jax.jit(jax.grad(lambda t: distillation(t, student, **NO_CENTRE)))(teacher)
    assert not np.any(grad)
    weights = jnp.ones((3, 2))
    grad = jax.jit(jax.grad(lambda q: patch_distillation(q, student[:, :2], weights=weights, temperature=0.1)))(teacher)
    assert not np.any(grad)


def test_patch_distillation_is_lightlys(x64):
    mask = ORACLE["ibot/mask"].reshape(4, 9)
    teacher, student = (np.zeros((4, 9, 7)) for _ in range(2))
    teacher[mask], student[mask] = ORACLE["ibot/teacher"], ORACLE["ibot/student"]
    student[~mask] = 3.0 * normal(*student[~mask].shape)  # of patches that fill rows up
    q = losses.sharpened(teacher, centre=jnp.zeros(7), temperature=0.05)
    loss = partial(losses.patch_distillation, q, weights=jnp.asarray(mask), temperature=0.1)
    value, grad = jax.jit(jax.value_and_grad(loss))(student)
    close(value, ORACLE["ibot/loss"], 1e-7)  # lightly's weights are float32
    close(np.asarray(grad)[mask], ORACLE["ibot/grad"], 1e-7)
    assert not np.asarray(grad)[~mask].any()


def test_an_image_with_one_masked_patch_counts_as_much_as_one_with_all(x64):
    q, student = np.full((2, 9, 7), 1 / 7), np.broadcast_to(normal(7), (2, 9, 7))
    weights = np.ones((2, 9))
    whole = patch_distillation(q, student, weights=weights, temperature=0.1)
    weights[1, 1:] = 0
    close(patch_distillation(q, student, weights=weights, temperature=0.1), whole)


def test_koleo_is_lightlys(x64):
    value, grad = jax.jit(jax.value_and_grad(losses.koleo))(ORACLE["koleo/x"])
    close(value, ORACLE["koleo/loss"])
    close(grad, ORACLE["koleo/grad"], 1e-7)
    close(koleo(ORACLE["koleo/x"] * normal(6, 1) ** 2), value)  # only directions count


def test_koleo_of_equal_rows_is_finite_and_large(x64):
    value, grad = jax.jit(jax.value_and_grad(losses.koleo))(jnp.ones((3, 3)))
    close(value, 17.4156, 1e-5)
    assert np.isfinite(grad).all()
    close(koleo(jnp.ones((4, 384), jnp.float32)), 15.39, 1e-3)


def test_the_nearest_of_koleo_is_the_least_distance_and_has_no_gradient(x64):
    x = normal(8, 5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=2) + 9 * np.eye(8)
    nearest = jax.jit(lambda x, group=None: losses.koleo_and_nearest(x, group=group)[1], static_argnames="group")
    close(nearest(x), apart.min(), 1e-6)
    close(nearest(x, group=4), min(apart[:4, :4].min(), apart[4:, 4:].min()), 1e-6)
    of_devices = jax.vmap(lambda x: losses.koleo_and_nearest(x, axis="data")[1], axis_name="data")
    close(of_devices(x.reshape(4, 2, 5)), np.full(4, apart.min()), 1e-6)
    assert not np.any(jax.grad(nearest)(x))


def test_koleo_looks_for_neighbours_in_groups(x64):
    x = normal(8, 5)
    halves = [koleo(x[:4]), koleo(x[4:])]
    close(koleo(x, group=4), np.mean(halves))
    assert abs(float(koleo(x)) - np.mean(halves)) > 1e-3


@pytest.mark.parametrize("group", [None, 2])
def test_koleo_over_devices_is_that_of_one_large_batch(x64, group):
    x = normal(8, 5)
    loss = partial(losses.koleo, group=group)
    value, grad = jax.jit(jax.value_and_grad(loss))(x)

    def mapped(x):
        each = jax.vmap(lambda x: loss(x, axis="data"), axis_name="data")(x.reshape(4, 2, 5))
        return each.mean()

    several, several_grad = jax.jit(jax.value_and_grad(mapped))(x)
    close(several, value)
    close(several_grad, grad, 1e-9)
    mesh = parallel.make_mesh(4)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, P("data")))
        split, split_grad = jax.jit(jax.value_and_grad(loss))(placed)
    close(split, value)
    close(split_grad, grad, 1e-9)


def test_weight_normalisation_is_torchs(x64):
    x, weights = ORACLE["norm/x"], ORACLE["norm/weights"]
    params = {"v": jnp.asarray(ORACLE["norm/v"]), "g": jnp.asarray(ORACLE["norm/g"])}
    layer = WeightNormDense(7, learned_scale=True)

    def run(params, x):
        return models.forward(layer, params, {}, x, train=True)[0]

    close(run(params, x), ORACLE["norm/y"])
    grads, grad_x = jax.jit(jax.grad(lambda *a: (run(*a) * weights).sum(), argnums=(0, 1)))(params, x)
    close(grads["v"], ORACLE["norm/grad_v"])
    close(grads["g"], ORACLE["norm/grad_g"])
    close(grad_x, ORACLE["norm/grad_x"])


def test_dinos_head_gives_cosines_of_unit_vectors():
    head = dino_head(11, hidden=8, bottleneck=5)
    x = jnp.asarray(normal(6, 4), jnp.float32)
    params = {}
    for name, module in head.items():
        params[name], _ = models.init(module, jax.random.key(0), x)
        x, _ = models.forward(module, params[name], {}, x, train=True)
        if name == "projector":
            np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
            unit = x
    assert set(params["projector"]) == {"dense0", "dense1", "dense2"}
    assert set(params["last_layer"]) == {"v"}
    assert np.abs(x).max() <= 1 + 1e-6
    v = np.asarray(params["last_layer"]["v"], np.float64)
    close(x, np.asarray(unit, np.float64) @ (v / np.linalg.norm(v, axis=0)), 1e-6)
    longer = models.forward(head["last_layer"], {"v": 3 * params["last_layer"]["v"]}, {}, unit, train=True)[0]
    np.testing.assert_allclose(longer, x, rtol=1e-4, atol=1e-6)
    assert np.abs(v).max() <= 5**-0.5  # torch's own start of a Linear
    with_g, _ = models.init(dino_head(11, learned_scale=True)["last_layer"], jax.random.key(0), unit)
    np.testing.assert_array_equal(with_g["g"], np.ones(11))


@pytest.mark.parametrize("name", ["distillation", "koleo"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"ssl_jax.losses.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: losses.distillation(jnp.ones((3, 2, 7)), jnp.ones((3, 4, 6)), **NO_CENTRE),
            r"\(3, 2, 7\).*\(3, 4, 6\)",
        ),
        (lambda: losses.distillation(jnp.ones((3, 1, 7)), jnp.ones((3, 1, 7)), **NO_CENTRE), "1 of the teacher and 1"),
        (
            lambda: losses.distillation(
                jnp.ones((3, 2, 7)), jnp.ones((3, 2, 7)), **NO_CENTRE | {"teacher_temperature": 0.0}
            ),
            "temperature > 0, got 0.0",
        ),
        (
            lambda: losses.patch_distillation(
                jnp.ones((3, 2, 7)), jnp.ones((3, 2, 7)), weights=jnp.ones(3), temperature=0.1
            ),
            r"weights \[b, t\].*\(3,\)",
        ),
        (lambda: losses.koleo(jnp.ones((1, 3))), "one has no neighbour"),
        (lambda: losses.koleo(jnp.ones((6, 3)), group=4), "group=4 does not divide the 6 rows"),
        (lambda: losses.koleo(jnp.ones(3)), r"\(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
