"""Losses against NumPy, lightly, torch and optax: values and gradients, on one device and on several."""

from __future__ import annotations

import doctest
import importlib
import inspect
from functools import partial
from pathlib import Path

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numeric import numeric_gradient

from ssl_jax import losses, parallel
from ssl_jax.losses import byol_regression, info_nce_queue, nt_xent

ORACLE = np.load(Path(__file__).parent / "oracles" / "losses.npz")
TEMPERATURES = (0.07, 0.1, 0.5)


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


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# NT-Xent


@jax.jit
def nt_xent_grads(z1, z2, temperature):
    return jax.value_and_grad(lambda a, b: nt_xent(a, b, temperature=temperature), argnums=(0, 1))(z1, z2)


def nt_xent_numpy(z1, z2, temperature):
    """Algorithm 1 of the paper, pair by pair."""
    u = unit(np.stack([z1, z2], axis=1).reshape(-1, z1.shape[1]))  # x_1, x_1', x_2, x_2', ...
    s = u @ u.T / temperature

    def pair(i, j):
        return -s[i, j] + np.log(sum(np.exp(s[i, k]) for k in range(len(u)) if k != i))

    return sum(pair(2 * k, 2 * k + 1) + pair(2 * k + 1, 2 * k) for k in range(len(z1))) / len(u)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_is_algorithm_1_of_the_paper(x64, temperature):
    z1, z2 = normal(2, 4, 3)
    loss, grads = nt_xent_grads(z1, z2, temperature)
    close(loss, nt_xent_numpy(z1, z2, temperature))
    close(grads[0], numeric_gradient(lambda z: nt_xent_numpy(z, z2, temperature), z1), 1e-7)
    close(grads[1], numeric_gradient(lambda z: nt_xent_numpy(z1, z, temperature), z2), 1e-7)


@pytest.mark.parametrize("n", [8, 32])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_is_lightly_and_optax(x64, n, temperature):
    z1, z2 = ORACLE[f"nt_xent/{n}/z1"], ORACLE[f"nt_xent/{n}/z2"]
    loss, grads = nt_xent_grads(z1, z2, temperature)
    case = f"nt_xent/{n}/{temperature}/"
    close(loss, ORACLE[case + "loss"])
    close(grads[0], ORACLE[case + "grad1"])
    close(grads[1], ORACLE[case + "grad2"])
    labels = jnp.tile(jnp.arange(n), 2)
    close(loss, jax.jit(optax.losses.ntxent)(jnp.concatenate([z1, z2]), labels, temperature))


def test_official_simclr_loss_is_twice_ours(x64):
    """objective.py as text: the sum of two cross-entropies over [ab | aa - 1e9 I] and [ba | bb - 1e9 I]."""
    z1, z2 = normal(2, 8, 5)
    a, b, temperature, mask = unit(z1), unit(z2), 0.5, np.eye(8) * 1e9

    def cross_entropy(logits):
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))

    loss_a = cross_entropy(np.hstack([a @ b.T, a @ a.T - mask]) / temperature)
    loss_b = cross_entropy(np.hstack([b @ a.T, b @ b.T - mask]) / temperature)
    close(2 * nt_xent_grads(z1, z2, temperature)[0], loss_a + loss_b)


def test_nt_xent_invariances(x64):
    z1, z2 = normal(2, 8, 5)
    f = partial(nt_xent_grads, temperature=0.2)
    loss, (g1, g2) = f(z1, z2)
    order = np.random.default_rng(1).permutation(8)
    permuted, (p1, p2) = f(z1[order], z2[order])
    close(permuted, loss)
    close(p1, g1[order])
    close(p2, g2[order])
    swapped, (s2, s1) = f(z2, z1)
    close(swapped, loss)
    close(s1, g1)
    close(s2, g2)
    scale = np.exp(normal(8, 1))
    scaled, (c1, _) = f(z1 * scale, z2)
    close(scaled, loss)
    close(c1 * scale, g1)
    # A pairing that is wrong is not the same loss: the invariances above are not those of a constant.
    assert abs(f(z1, z2[order])[0] - loss) > 1e-2


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_of_a_collapsed_batch_is_the_log_of_its_negatives(temperature):
    z = jnp.tile(jnp.asarray(normal(1, 7), jnp.float32), (16, 1))
    close(nt_xent_grads(z, z, temperature)[0], np.log(2 * 16 - 1), 1e-5)


def test_nt_xent_of_one_pair_is_zero():
    z = jnp.asarray(normal(1, 7), jnp.float32)
    loss, grads = nt_xent_grads(z, -z, 0.1)
    close(loss, 0.0, 1e-6)
    close(grads, np.zeros((2, 1, 7)), 1e-5)


def test_temperature_can_be_learned(x64):
    z1, z2 = normal(2, 4, 3)
    grad = jax.jit(jax.grad(lambda t: nt_xent(z1, z2, temperature=t)))(0.3)
    step = 1e-6
    close(grad, (nt_xent_numpy(z1, z2, 0.3 + step) - nt_xent_numpy(z1, z2, 0.3 - step)) / (2 * step), 1e-7)


# NT-Xent on several devices: a shared matrix w, as a network's parameters are


def shared(w, x1, x2, axis=None):
    return nt_xent(x1 @ w, x2 @ w, temperature=0.3, axis=axis)


shared_grad = jax.jit(jax.value_and_grad(shared))


def one_device(w, x1, x2):
    return parallel.mean(jax.value_and_grad(shared)(w, x1, x2, parallel.DATA), parallel.DATA)


def arrays():
    return normal(6, 5), normal(16, 6, seed=1), normal(16, 6, seed=2)


def vmapped(f, **options):
    return jax.jit(jax.vmap(f, **options))


def split(x, n):
    return x.reshape(n, -1, *x.shape[1:])


@pytest.mark.parametrize("devices", [8, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("world", ["vmap", "pmap", "jit"])
def test_nt_xent_on_several_devices_is_that_of_one(x64, devices, world):
    w, x1, x2 = arrays()
    loss, grad = shared_grad(w, x1, x2)
    if world == "jit":
        mesh = parallel.make_mesh(devices)
        batch = parallel.place({"x1": x1, "x2": x2}, mesh)
        with jax.set_mesh(mesh):
            got = shared_grad(jax.device_put(w, parallel.replicated(mesh)), *batch.values())
    else:
        mapped = vmapped if world == "vmap" else partial(jax.pmap, devices=jax.devices()[:devices])
        f = mapped(one_device, in_axes=(None, 0, 0), axis_name=parallel.DATA)
        got = jax.device_get(f(w, split(x1, devices), split(x2, devices)))
        close(np.ptp(got[1], axis=0), np.zeros_like(w))
        got = jax.tree.map(lambda a: a[0], jax.device_get(got))
    close(got[0], loss)
    close(got[1], grad)


EXPLICIT = {
    "nt_xent": lambda f, x, y, rows: f(x, y, temperature=0.5),
    "nt_xent in blocks": lambda f, x, y, rows: f(x, y, temperature=0.5, block=8),
    "moco_v3": lambda f, x, y, rows: f(x, y, y, x, temperature=0.5),
    "sup_con": lambda f, x, y, rows: f(x, y, rows % 3, temperature=0.5),
    "info_nce": lambda f, x, y, rows: f(x, y, temperature=0.5),
    "info_nce_queue": lambda f, x, y, rows: f(x, y, y[::-1], temperature=0.5),
    "instance_softmax": lambda f, x, y, rows: f(x, y, rows, temperature=0.5),
    "triplet_all": lambda f, x, y, rows: f(x, y, margin=0.5)[0],
    "byol_regression": lambda f, x, y, rows: f(x, y),
}


@pytest.mark.parametrize("case", EXPLICIT)
def test_losses_under_a_mesh_with_explicit_axes(case):
    """``jax.make_mesh`` gives such a mesh by default: rows that lie on eight devices, value and gradient of one."""
    f = getattr(losses, case.split()[0])
    whole = jax.jit(jax.value_and_grad(lambda x, y, rows: EXPLICIT[case](f, x, y, rows)))
    given = normal(16, 6).astype(np.float32), normal(16, 6, seed=1).astype(np.float32), np.arange(16, dtype=np.int32)
    want = whole(*given)
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        got = whole(*(jax.device_put(x, NamedSharding(mesh, P("data"))) for x in given))
    jax.tree.map(lambda a, b: close(a, b, 2e-6), got, want)


def test_negatives_without_gradient_would_be_seen(x64, monkeypatch):
    """The negative control of the test above: gathering without gradient leaves the value and changes the gradient."""
    w, x1, x2 = arrays()
    loss, grad = shared_grad(w, x1, x2)
    module = importlib.import_module("ssl_jax.losses.nt_xent")
    monkeypatch.setattr(module, "all_rows", lambda x, axis: lax.stop_gradient(parallel.all_rows(x, axis)))
    f = vmapped(one_device, in_axes=(None, 0, 0), axis_name=parallel.DATA)
    losses, grads = f(w, split(x1, 4), split(x2, 4))
    close(losses[0], loss)
    assert np.linalg.norm(grads[0] - grad) > 0.05 * np.linalg.norm(grad)


def test_nt_xent_splits_its_work_over_devices():
    """In the global view XLA's partitioner splits the program, even where a caller has re-indexed the rows before."""

    def flops(loss, devices):
        mesh = parallel.make_mesh(devices)
        z = jax.ShapeDtypeStruct((128, 64), jnp.float32, sharding=parallel.sharded(mesh))
        step = jax.value_and_grad(loss, argnums=(0, 1))
        with jax.set_mesh(mesh):
            return jax.jit(step).lower(z, z).compile().cost_analysis()["flops"]

    def permuted(z1, z2):
        order = jax.random.permutation(jax.random.key(0), 128)
        return nt_xent(z1[order], z2[order], temperature=0.1)

    plain = partial(nt_xent, temperature=0.1)
    for loss in (plain, permuted):  # without the loss's own constraint the second costs eight times as much
        assert 0.9 / 8 <= flops(loss, 8) / flops(loss, 1) <= 1.15 / 8


# InfoNCE with a queue


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_info_nce_queue_is_lightly_and_torch(x64, temperature):
    q, k, queue = (ORACLE[f"info_nce_queue/{name}"] for name in ("q", "k", "queue"))
    f = jax.jit(jax.value_and_grad(partial(info_nce_queue, temperature=temperature), argnums=(0, 1, 2)))
    loss, (grad, to_keys, to_queue) = f(q, k, queue)
    case = f"info_nce_queue/{temperature}/"
    for oracle in ("", "torch_"):
        close(loss, ORACLE[case + oracle + "loss"])
        close(grad, ORACLE[case + oracle + "grad"])
    assert not np.any(to_keys)
    assert not np.any(to_queue)


def test_info_nce_queue_is_its_formula(x64):
    q, k, queue = normal(3, 4), normal(3, 4, seed=1), unit(normal(6, 4, seed=2))

    def formula(q):
        a, b = unit(q), unit(k)
        logits = np.array([[a[i] @ b[i], *(a[i] @ row for row in queue)] for i in range(3)]) / 0.3
        return np.mean(-logits[:, 0] + np.log(np.exp(logits).sum(axis=1)))

    loss, grad = jax.jit(jax.value_and_grad(partial(info_nce_queue, temperature=0.3)))(q, k, queue)
    close(loss, formula(q))
    close(grad, numeric_gradient(formula, q), 1e-7)


def test_info_nce_queue_of_uniform_logits_is_the_log_of_their_number():
    z = jnp.tile(jnp.asarray(unit(normal(1, 8)), jnp.float32), (64, 1))
    run = jax.jit(lambda z: info_nce_queue(z[:4], 3.0 * z[:4], z, temperature=0.07))
    close(run(z), np.log(64 + 1), 1e-5)


# BYOL


def test_byol_regression_is_torch(x64):
    p, z = ORACLE["byol/p"], ORACLE["byol/z"]
    loss, (grad, to_target) = jax.jit(jax.value_and_grad(byol_regression, argnums=(0, 1)))(p, z)
    close(loss, ORACLE["byol/loss"])
    close(grad, ORACLE["byol/grad"])
    assert not np.any(to_target)


def test_byol_regression_is_the_squared_distance_of_unit_vectors(x64):
    p, z = normal(2, 5, 3)

    def formula(p):
        return np.mean(np.sum((unit(p) - unit(z)) ** 2, axis=1))

    loss, grad = jax.jit(jax.value_and_grad(byol_regression))(p, z)
    close(loss, formula(p))
    close(grad, numeric_gradient(formula, p), 1e-8)
    plain = jax.jit(byol_regression)
    close(plain(p, 3.0 * p), 0.0)
    close(plain(p, -p), 4.0)
    close(plain(p, z), np.mean(2 * np.asarray(jax.jit(optax.losses.cosine_distance)(p, z))))


# What all losses promise

LOSSES = {
    "nt_xent": jax.jit(lambda a, b: nt_xent(a, b, temperature=0.1)),
    "info_nce_queue": jax.jit(lambda a, b: info_nce_queue(a, b, jnp.eye(4, dtype=a.dtype), temperature=0.1)),
    "byol_regression": jax.jit(byol_regression),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
@pytest.mark.parametrize(
    ("given", "computed"), [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32")]
)
def test_low_precision_inputs_are_computed_in_float32(loss, given, computed):
    a, b = jnp.asarray(normal(2, 6, 4), given)
    value, grad = jax.jit(jax.value_and_grad(loss))(a, b)
    assert value.dtype == computed
    assert grad.dtype == given
    close(value, loss(a.astype(computed), b.astype(computed)), 1e-6)  # computing in bfloat16 is 1e-3 off


@every_loss
def test_float64_inputs_are_computed_in_float64(x64, loss):
    a, b = jnp.asarray(normal(2, 6, 4))
    assert loss(a, b).dtype == jnp.float64
    assert loss(a.astype(jnp.float32), b.astype(jnp.float32)).dtype == jnp.float32


@every_loss
@pytest.mark.parametrize("rows", [1, 6])
def test_zero_vectors_are_finite(loss, rows):
    a, b = jnp.asarray(normal(2, 6, 4), jnp.float32)
    a, b = (x * (np.arange(6) >= rows)[:, None].astype(np.float32) for x in jax.device_get((a, b)))
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(a, b)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


@every_loss
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(5, 4\)"):
        loss(jnp.zeros((6, 4)), jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"\[b, d\].*\(4,\)"):
        loss(jnp.zeros(4), jnp.zeros(4))


def test_a_queue_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(8, 5\)"):
        info_nce_queue(jnp.zeros((6, 4)), jnp.zeros((6, 4)), jnp.zeros((8, 5)), temperature=0.1)


@pytest.mark.parametrize("temperature", [0.0, -0.5, float("nan")])
def test_temperatures_that_are_not_positive_are_refused(temperature):
    z = jnp.ones((6, 4))
    with pytest.raises(ValueError, match=f"temperature > 0, got {temperature}"):
        nt_xent(z, z, temperature=temperature)
    with pytest.raises(ValueError, match=f"temperature > 0, got {temperature}"):
        info_nce_queue(z, z, z, temperature=temperature)


def test_annotated_shapes_hold():
    a, b = jnp.asarray(normal(2, 6, 4), jnp.float32)
    for loss, arrays, options in (
        (nt_xent, (a, b), {"temperature": 0.1}),
        (info_nce_queue, (a, b, b), {"temperature": 0.1}),
        (byol_regression, (a, b), {}),
    ):
        checked = jaxtyping.jaxtyped(typechecker=beartype.beartype)(inspect.unwrap(loss))
        checked(*arrays, **options)
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(a, b[:, :2], *arrays[2:], **options)


@pytest.mark.parametrize("name", LOSSES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"ssl_jax.losses.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
