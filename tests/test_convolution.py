"""The weight gradient of large maps on a CPU against NumPy, alone, over devices and inside a network."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssl_jax import models, parallel
from ssl_jax.models import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")


def by_hand(x, g, size, strides, pads):
    """Sum over every output place of the patch it saw times its gradient."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    total = np.zeros((*size, x.shape[-1], g.shape[-1]))
    for row in range(g.shape[1]):
        for column in range(g.shape[2]):
            top, left = row * strides[0], column * strides[1]
            patch = x[:, top : top + size[0], left : left + size[1]]
            total += np.einsum("bijc,bo->ijco", patch, g[:, row, column])
    return total


# size, strides, pads, input height and width, channels in and out
SHAPES = [
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (8, 8), 3, 5),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (8, 12), 4, 2),
    ((1, 1), (2, 2), ((0, 0), (0, 0)), (8, 8), 3, 4),
    ((4, 4), (2, 2), ((1, 1), (1, 1)), (8, 8), 2, 3),
    ((2, 3), (1, 1), ((1, 0), (1, 1)), (6, 7), 3, 1),
    ((5, 3), (2, 1), ((0, 0), (2, 2)), (11, 6), 1, 2),
]


def arrays(shape, rows=16):
    size, strides, pads, (height, width), c_in, c_out = shape
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(rows, height, width, c_in)), rng.normal(size=(*size, c_in, c_out))
    out = jax.eval_shape(
        lambda x, k: lax.conv_general_dilated(x, k, strides, pads, dimension_numbers=LAYOUT), x, kernel
    )
    return x, kernel, rng.normal(size=out.shape)


@pytest.fixture
def blocks_everywhere(monkeypatch):
    monkeypatch.setattr(convolution, "SMALLEST", 1)
    monkeypatch.setattr(convolution, "BLOCK", 48)  # three columns of 16 rows


@pytest.mark.parametrize("devices", [None, 1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_by_hand(shape, devices, blocks_everywhere):
    size, strides, pads = shape[:3]
    x, kernel, g = arrays(shape)

    def gradients(x, kernel, g):
        f = partial(
            convolution.convolve,
            window_strides=strides,
            padding=pads,
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            dimension_numbers=lax.conv_dimension_numbers(x.shape, kernel.shape, LAYOUT),
        )
        return jax.vjp(f, x, kernel)[1](g)

    with jax.enable_x64(True):
        if devices is None:
            to_x, to_kernel = jax.jit(gradients)(x, kernel, g)
        else:
            mesh = parallel.make_mesh(devices)
            rows, whole = parallel.sharded(mesh), parallel.replicated(mesh)
            placed = [jax.device_put(a, s) for a, s in ((x, rows), (kernel, whole), (g, rows))]
            with jax.set_mesh(mesh):
                compiled = jax.jit(gradients).lower(*placed).compile()
                to_x, to_kernel = compiled(*placed)
            if devices == 8:  # added over devices once, outside the loop
                assert compiled.as_text().count("all-reduce(") == 1
                assert "while" in compiled.as_text()
        assert to_kernel.dtype == np.float64
    np.testing.assert_allclose(to_kernel, by_hand(x, g, size, strides, pads), rtol=1e-11, atol=1e-11)
    # <g, conv(x)> is linear in x and in the kernel, so each gradient gives back its value.
    np.testing.assert_allclose((np.asarray(to_x) * x).sum(), (np.asarray(to_kernel) * kernel).sum(), rtol=1e-10)


def test_same_and_bfloat16(blocks_everywhere):
    """SAME pads as lax does; bfloat16 inputs are summed in float32."""
    rng = np.random.default_rng(1)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((16, 8, 8, 4), (3, 3, 4, 6)))
    g = jnp.asarray(rng.normal(size=(16, 4, 4, 6)), jnp.bfloat16)
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, LAYOUT)
    found = jax.vjp(lambda k: convolution.convolve(x, k, (2, 2), "SAME", dimension_numbers=numbers), kernel)[1](g)[0]
    assert found.dtype == jnp.bfloat16
    pads = ((0, 1), (0, 1))  # of TensorFlow: the odd one goes to the end
    want = by_hand(np.asarray(x, np.float64), np.asarray(g, np.float64), (3, 3), (2, 2), pads)
    np.testing.assert_allclose(np.asarray(found, np.float64), want, rtol=2**-7, atol=1e-2)  # one rounding of the sum


@pytest.mark.slow
def test_a_network_of_it_has_the_gradient_of_plain_convolutions(monkeypatch):
    """Every convolution of a residual network, the stride-2 shortcuts included."""
    encoder = models.make("convnet", widths=(4, 8), stem_width=3)
    x = jnp.asarray(np.random.default_rng(2).random((4, 8, 8, 3)), jnp.float32)
    params, state = models.init(encoder, jax.random.key(0), x)

    def gradient():
        def loss(params):
            out, _ = models.forward(encoder, params, state, x, train=True)
            return (out["features"] ** 2).sum()

        return jax.jit(jax.grad(loss))(params)

    plain = gradient()
    used = []
    rule = convolution.weight_gradient
    monkeypatch.setattr(convolution, "SMALLEST", 1)
    monkeypatch.setattr(convolution, "weight_gradient", lambda *a: used.append(a[0]) or rule(*a))
    for ours, theirs in zip(jax.tree.leaves(gradient()), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert sorted(used) == [(1, 1)] * 2 + [(3, 3)] * 5


def test_small_maps_and_other_layouts_stay_with_xla(monkeypatch):
    monkeypatch.setattr(convolution, "_convolve", None)
    numbers = lax.conv_dimension_numbers((2, 8, 8, 3), (3, 3, 3, 4), LAYOUT)
    out = convolution.convolve(
        jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4)), (1, 1), "SAME", dimension_numbers=numbers
    )
    assert out.shape == (2, 8, 8, 4)
    monkeypatch.setattr(convolution, "SMALLEST", 1)
    grouped = convolution.convolve(
        jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 4)), (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    assert float(grouped[0, 4, 4, 0]) == 18


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [((3, 3), (1, 1), "SAME"), ((3, 3), (2, 2), ((1, 1), (1, 1))), ((5, 3), (2, 1), ((2, 0), (-1, 1)))],
)
def test_depthwise_is_a_sum_of_shifts_with_the_values_and_gradients_of_xlas(size, strides, padding):
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(3, 9, 8, 5)).astype(np.float32), rng.normal(size=(*size, 1, 5)).astype(np.float32)
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, LAYOUT)

    def of(conv, x, kernel):
        return conv(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=5)

    found, want = (partial(of, conv) for conv in (convolution.convolve, lax.conv_general_dilated))
    assert "conv_general" not in str(jax.make_jaxpr(found)(x, kernel))
    np.testing.assert_allclose(found(x, kernel), want(x, kernel), rtol=0, atol=1e-5)
    grads = (jax.grad(lambda *a, f=f: jnp.square(f(*a)).sum(), (0, 1))(x, kernel) for f in (found, want))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)
    half = found(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float32), want(x, kernel), atol=0.2)
