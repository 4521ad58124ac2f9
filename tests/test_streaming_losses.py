"""The streaming forms against the plain ones and NumPy: values, gradients, devices, bits, memory, extreme inputs.

MoCo v3 also against solo-learn.
"""

from __future__ import annotations

import doctest
import importlib
import re
from collections import Counter
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import numeric_gradient

from ssl_jax import parallel
from ssl_jax.losses import info_nce_queue, moco_v3, nt_xent, streaming, sup_con
from ssl_jax.losses.normalize import compute_dtype

LABEL = np.array([2, 0, -1, 0, 2, 2, -1, 1, 0, 1, 2, 7, -1, 0, 2, 1], np.int32)
SOLO = np.load(Path(__file__).parent / "oracles" / "solo.npz")
SIXTEEN = 16  # rows of a view in most tests


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def close(a, b, tol=1e-9):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tol * max(1.0, np.abs(b).max())


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Each loss as f(z1, z2, ...) of two arrays [b, d] whose rows are the batch, and what else it takes of the batch.


def queue(dim=6):
    return unit(normal(21, dim, seed=7))


def loss_of(name, z1, z2, label, *, temperature=0.2, block=None, axis=None):
    if name == "nt_xent":
        return nt_xent(z1, z2, temperature=temperature, block=block, axis=axis)
    if name == "sup_con":
        return sup_con(z1, z2, label, temperature=temperature, block=block, axis=axis)
    if name == "moco_v3":  # keys that depend on what is differentiated: a gradient that reached them would show
        return moco_v3(z1, z2, z1 * z2, z1 + z2, temperature=temperature, block=block, axis=axis)
    return info_nce_queue(
        z1, z2, jnp.asarray(queue(z1.shape[1]), compute_dtype(z1)), temperature=temperature, block=block
    )


def in_numpy(name, z1, z2, label, temperature=0.2, keys=None):
    """The papers' formulas, anchor by anchor."""
    if name == "info_nce_queue":
        q, k = unit(z1), unit(z2 if keys is None else keys[0])
        return np.mean(
            [_cross_entropy(np.array([q[i] @ k[i], *(queue() @ q[i])]) / temperature) for i in range(len(q))]
        )
    if name == "moco_v3":
        k1, k2 = map(unit, (z1 * z2, z1 + z2) if keys is None else keys)
        q1, q2 = unit(z1), unit(z2)
        return sum(
            2 * temperature * np.mean([_cross_entropy(k @ q[i] / temperature, i) for i in range(len(q))])
            for q, k in ((q1, k2), (q2, k1))
        )
    u, image = unit(np.concatenate([z1, z2])), np.tile(np.arange(len(z1)), 2)
    label = np.tile(np.full(len(z1), -1) if name == "nt_xent" else label, 2)
    total = 0.0
    for i in range(len(u)):
        others = [k for k in range(len(u)) if k != i]
        positive = [k for k in others if image[k] == image[i] or (label[i] >= 0 and label[k] == label[i])]
        log_sum = np.log(sum(np.exp(u[i] @ u[k] / temperature) for k in others))
        total -= np.mean([u[i] @ u[p] / temperature - log_sum for p in positive])
    return total / len(u)


def _cross_entropy(logits, place=0):
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[place]


def keys_of(name, z1, z2):
    """What NumPy's numeric gradient must hold still."""
    return (z2,) if name == "info_nce_queue" else (z1 * z2, z1 + z2)


@partial(jax.jit, static_argnames=("name", "temperature", "block"))
def grads(z1, z2, label, *, name, temperature=0.2, block=None):
    f = partial(loss_of, name, temperature=temperature, block=block)
    return jax.value_and_grad(f, argnums=(0, 1))(z1, z2, label)


every_loss = pytest.mark.parametrize("name", ["nt_xent", "sup_con", "moco_v3", "info_nce_queue"])
one_of_each_kernel = pytest.mark.parametrize(  # NT-Xent is SupCon without labels, and MoCo v3 has the queue's kernel
    "name", ["sup_con", "info_nce_queue", *(pytest.param(n, marks=pytest.mark.slow) for n in ("nt_xent", "moco_v3"))]
)


# Values and gradients


@every_loss
@pytest.mark.parametrize("block", [0, pytest.param(4, marks=pytest.mark.slow)])  # blocks: the test below
def test_both_forms_are_the_papers(x64, name, block):
    z1, z2, label = *normal(2, 5, 6), LABEL[2:7]
    loss, (g1, g2) = grads(z1, z2, label, name=name, block=block)
    close(loss, in_numpy(name, z1, z2, label), 1e-12)
    keys = keys_of(name, z1, z2)
    close(g1, numeric_gradient(lambda z: in_numpy(name, z, z2, label, keys=keys), z1), 1e-7)
    if name == "info_nce_queue":
        assert not np.any(g2)
    else:
        close(g2, numeric_gradient(lambda z: in_numpy(name, z1, z, label, keys=keys), z2), 1e-7)


@pytest.mark.parametrize(("case", "block"), [(0, 0), (1, 0), (2, 0), (2, 4)])
def test_moco_v3_is_solo_learns(x64, case, block):
    """Theirs is one direction with the factor 2 T in it, ctr(q1, k2): ours is the sum of both."""
    q1, q2, k1, k2 = *SOLO[f"p/{case}"], *SOLO[f"z/{case}"]
    f = partial(moco_v3, temperature=float(SOLO["temperatures"][case]), block=block)
    value, found = jax.jit(jax.value_and_grad(f, argnums=range(4)))(q1, q2, k1, k2)
    np.testing.assert_allclose(value, sum(SOLO[f"moco_v3/loss/{case}/{v}"] for v in (0, 1)), rtol=1e-12)
    for v in (0, 1):
        np.testing.assert_allclose(found[v], SOLO[f"moco_v3/gradient/{case}/{v}"], rtol=1e-10, atol=1e-13)
    assert not np.any(found[2:])


@every_loss
@pytest.mark.parametrize(
    "block",  # one block of the 30 rows; five, the last not full; three; four, the last not full
    [100, 7, pytest.param(10, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def test_blocks_of_any_size_are_the_whole(x64, name, block):
    z1, z2, label = *normal(2, 15, 6), LABEL[:15]
    loss, got = grads(z1, z2, label, name=name, block=block)
    plain, expected = grads(z1, z2, label, name=name, block=0)
    close(loss, plain, 1e-12)
    close(got, expected, 1e-12)


def test_sup_con_without_labels_is_nt_xent(x64):
    (z1, z2), label = normal(2, 15, 6), LABEL[:15]  # as above, where these programs are compiled
    plain, expected = grads(z1, z2, label, name="nt_xent", block=0)
    for block in (0, 7):
        close(grads(z1, z2, np.full_like(label, -1), name="sup_con", block=block)[1], expected)
        assert abs(float(grads(z1, z2, label, name="sup_con", block=block)[0]) - float(plain)) > 1e-2


@every_loss
def test_large_batches_stream(name, monkeypatch):
    """The size chooses the form, unless the caller does."""
    chosen = []

    def watched(f, *x):
        chosen.append(f)
        return f(*x)

    for kernel in ("_others", "_keys"):
        monkeypatch.setattr(streaming, kernel, partial(watched, getattr(streaming, kernel)))
    shape = jax.ShapeDtypeStruct((4096 if name == "info_nce_queue" else 1024, 8), jnp.float32)
    small = jax.ShapeDtypeStruct((64, 8), jnp.float32)

    def streams(z, **options):
        chosen.clear()
        label = jax.ShapeDtypeStruct(z.shape[:1], jnp.int32)
        if name == "info_nce_queue":
            jax.eval_shape(lambda z: info_nce_queue(z[:128], z[:128], z, temperature=0.2, **options), z)
        else:
            jax.eval_shape(partial(loss_of, name, **options), z, z, label)
        return bool(chosen)

    assert streams(shape)
    assert not streams(shape, block=0)
    assert not streams(small)
    assert streams(small, block=16)


# Devices


def shared(name, block, w, x1, x2, label, axis=None):
    """A shared matrix w, as a network's parameters are."""
    return loss_of(name, x1 @ w, x2 @ w, label, temperature=0.3, block=block, axis=axis)


@cache
def of_one_device(name):
    return jax.jit(jax.value_and_grad(partial(shared, name, 0)))(*arrays())


def arrays():
    return normal(5, 6), normal(SIXTEEN, 5, seed=1), normal(SIXTEEN, 5, seed=2), LABEL


@every_loss
@pytest.mark.parametrize(("world", "block"), [("jit", 3), ("pmap", 3), pytest.param("jit", 4, marks=pytest.mark.slow)])
def test_eight_devices_are_one(x64, name, block, world):
    w, *batch = arrays()
    f = partial(shared, name, block)
    if world == "jit":
        mesh = parallel.make_mesh(8)
        placed = parallel.place({str(i): x for i, x in enumerate(batch)}, mesh)
        with jax.set_mesh(mesh):
            got = jax.jit(jax.value_and_grad(f))(jax.device_put(w, parallel.replicated(mesh)), *placed.values())
    else:

        def step(*x):
            return parallel.mean(jax.value_and_grad(f)(*x, parallel.DATA), parallel.DATA)

        got = jax.pmap(step, axis_name=parallel.DATA, in_axes=(None, 0, 0, 0))(
            w, *(x.reshape(8, -1, *x.shape[1:]) for x in batch)
        )
        got = jax.tree.map(lambda x: x[0], jax.device_get(got))
    loss, grad = of_one_device(name)
    close(got[0], loss, 1e-12)
    close(got[1], grad, 1e-12)


def test_the_slow_form_on_eight_devices_is_that_of_one(x64):
    """The one for temperatures that are learned or very low, of which the gradient is JAX's own."""
    w, x1, x2, _ = arrays()

    def f(t, w, x1, x2):
        return nt_xent(x1 @ w, x2 @ w, temperature=t, block=4)

    mesh = parallel.make_mesh(8)
    batch = parallel.place({"x1": x1, "x2": x2}, mesh)
    with jax.set_mesh(mesh):
        t, w_ = jax.device_put((0.3, w), parallel.replicated(mesh))
        loss, (to_t, to_w) = jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(t, w_, *batch.values())
    whole = jax.value_and_grad(lambda t, w: nt_xent(x1 @ w, x2 @ w, temperature=t, block=0), argnums=(0, 1))
    plain, (plain_t, plain_w) = jax.jit(whole)(0.3, w)
    for got, expected in ((loss, plain), (to_t, plain_t), (to_w, plain_w)):
        close(got, expected, 1e-12)


@pytest.mark.parametrize(
    "name", ["sup_con", "moco_v3", "info_nce_queue", pytest.param("nt_xent", marks=pytest.mark.slow)]
)
def test_devices_share_the_work_and_meet_once(name):
    """Eight devices: an eighth of the turns of the loops each, and no collective in them."""
    rows = 512

    def compiled(devices):
        mesh = parallel.make_mesh(devices)
        place = parallel.sharded(mesh)
        z = jax.ShapeDtypeStruct((rows, 32), jnp.float32, sharding=place)
        label = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=place)
        f = partial(loss_of, name, block=64 if name in ("nt_xent", "sup_con") else 16)
        with jax.set_mesh(mesh):
            return jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(z, z, label).compile()

    one, eight = compiled(1).as_text(), compiled(8).as_text()
    for computation in eight.split("\n\n"):
        if not computation.startswith("ENTRY"):
            assert not re.search(
                r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\(", computation
            )
    turns = [Counter(int(n) for n in re.findall(r'known_trip_count":{"n":"(\d+)"', text)) for text in (one, eight)]
    # Loops that are the same in both: over keys inside one over queries; the search of labels.
    pairs = zip(*(sorted((a - b).elements()) for a, b in (turns, turns[::-1])), strict=True)
    assert {a / b for a, b in pairs} == {8}


# Bits, memory, precision


@one_of_each_kernel
def test_the_same_bits_twice(name):
    z1, z2 = jnp.asarray(normal(2, 64, 6), jnp.float32)
    label = np.tile(LABEL, 4)
    first, second = (jax.device_get(grads(z1, z2, label, name=name, block=16)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def temporaries(f, *shapes):
    x = [jax.ShapeDtypeStruct(shape, jnp.int32 if len(shape) == 1 else jnp.float32) for shape in shapes]
    return jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(*x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("name", "views", "most"),
    [
        pytest.param("nt_xent", 8192, 16, marks=pytest.mark.slow),
        ("sup_con", 8192, 32),
        ("moco_v3", 8192, 32),
        ("nt_xent", 65536, 128),
    ],
)
def test_memory_is_bounded(name, views, most):
    view = (views // 2, 128)
    assert temporaries(partial(loss_of, name), view, view, view[:1]) <= most * 2**20


def test_memory_of_a_queue_is_bounded():
    f = partial(info_nce_queue, temperature=0.2)
    assert temporaries(f, (256, 128), (256, 128), (65536, 128)) <= 8 * 2**20
    assert temporaries(partial(f, block=0), (256, 128), (256, 128), (65536, 128)) >= 64 * 2**20


@every_loss
def test_bfloat16_is_computed_in_float32(name):
    z1, z2 = jnp.asarray(normal(2, SIXTEEN, 6), jnp.bfloat16)
    loss, got = grads(z1, z2, LABEL, name=name, block=4)
    assert loss.dtype == jnp.float32
    assert {g.dtype for g in got} == {jnp.dtype(jnp.bfloat16)}
    if name != "moco_v3":  # whose keys are made of products in bfloat16 here
        close(loss, in_numpy(name, *(np.asarray(z, np.float64) for z in (z1, z2)), LABEL), 2e-6)


def extreme_inputs():
    """Similarities of 1 / T and -1 / T, alone and together."""
    z1, z2 = normal(2, SIXTEEN, 6)
    yield z1, z2
    yield (np.tile(z1[:1], (SIXTEEN, 1)),) * 2
    opposed = np.outer(np.where(np.arange(SIXTEEN) == 0, -1, 1), z1[0])  # to all others; its own other view to it
    yield opposed, opposed * np.where(np.arange(SIXTEEN) == 0, -1, 1)[:, None]
    yield 1e4 * z1, 1e-3 * z2
    z1, z2 = z1.copy(), z2.copy()
    z1[:3] = z2[2:5] = 0
    yield z1, z2


@jax.jit(static_argnames="name")
def plain_grads(z1, z2, temperature, *, name):
    f = partial(loss_of, name, temperature=temperature, block=0)
    return jax.value_and_grad(f, argnums=(0, 1))(z1, z2, LABEL)


@pytest.mark.parametrize(
    ("name", "temperature"),  # NT-Xent above and below where it begins to subtract a maximum
    [("nt_xent", 1 / 64), ("nt_xent", 0.008), ("sup_con", 0.05), ("moco_v3", 0.004), ("info_nce_queue", 0.004)],
)
def test_extreme_inputs_in_float32(name, temperature):
    for z1, z2 in extreme_inputs():
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            expected, gradient = jax.device_get(plain_grads(z1, z2, temperature, name=name))
        z1, z2 = jnp.asarray(z1, jnp.float32), jnp.asarray(z2, jnp.float32)
        loss, got = grads(z1, z2, LABEL, name=name, temperature=temperature, block=4)
        close(loss, expected, 2e-6 / temperature)
        for a, b, z in zip(got, gradient, (z1, z2), strict=True):
            length = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)  # the gradient goes as 1 / |z|
            close(a * length, b * length, 2e-6 / temperature**2)


@every_loss
def test_a_temperature_can_be_learned(x64, name):
    z1, z2 = normal(2, SIXTEEN, 6)

    def f(t, block):
        return loss_of(name, z1, z2, LABEL, temperature=t, block=block)

    slope = jax.jit(jax.value_and_grad(f), static_argnums=1)
    for temperature in (0.3, 0.004):
        close(slope(temperature, 4), slope(temperature, 0))


# What is refused, and what the docstrings show


def test_a_negative_block_is_refused():
    z = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="block=-1 must be 0"):
        nt_xent(z, z, temperature=0.1, block=-1)


def test_shapes_that_do_not_fit_are_refused():
    a, b = jnp.ones((6, 4)), jnp.ones((5, 4))
    with pytest.raises(ValueError, match=r"z1 \(6, 4\).*label \(5,\)"):
        sup_con(a, a, jnp.zeros(5, jnp.int32), temperature=0.1)
    with pytest.raises(ValueError, match=r"k2 \(5, 4\)"):
        moco_v3(a, a, a, b, temperature=0.1)
    with pytest.raises(ValueError, match="moco_v3 needs temperature > 0"):
        moco_v3(a, a, a, a, temperature=0.0)
    with pytest.raises(ValueError, match="sup_con needs temperature > 0"):
        sup_con(a, a, jnp.zeros(6, jnp.int32), temperature=-1.0)


@pytest.mark.parametrize("name", ["sup_con", "moco_v3"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"ssl_jax.losses.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
