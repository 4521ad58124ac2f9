"""The max-pool's gradient against XLA's own, bit for bit, and against NumPy."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.models.pool import max_pool
from tests.oracles.make_models import draw


def of_xla(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]


def both_ways(f, x, cotangent):
    y, back = jax.vjp(f, x)
    return y, back(cotangent)[0]


def numpy_gradient(x, cotangent):
    """Window after window, to the first of its greatest places."""
    dx = np.zeros_like(x)
    for b, i, j, c in np.ndindex(cotangent.shape):
        rows, columns = (slice(max(2 * k - 1, 0), 2 * k + 2) for k in (i, j))
        window = x[b, rows, columns, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        dx[b, rows.start + row, columns.start + column, c] += cotangent[b, i, j, c]
    return dx


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradient_are_xlas_to_the_bit(size, ties):
    x = draw("x", (2, *size, 3)).astype(np.float32)
    x = np.maximum(np.round(x), 0) if ties else x  # as behind a ReLU
    cotangent = draw("cotangent", (2, -(-size[0] // 2), -(-size[1] // 2), 3)).astype(np.float32)
    got, want = (jax.jit(partial(both_ways, f))(x, cotangent) for f in (max_pool, of_xla))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    np.testing.assert_array_equal(got[1], numpy_gradient(x, cotangent))


PADS = {  # of sides of 7, 8 and 9, by hand: TensorFlow's rule, and torch's ceil_mode
    "same": {7: (1, 1), 8: (0, 1), 9: (1, 1)},
    "none": {7: (0, 0), 8: (0, 0), 9: (0, 0)},
    "ceil": {7: (0, 0), 8: (0, 1), 9: (0, 0)},
}


@pytest.mark.parametrize("padding", PADS)
def test_other_paddings_are_xlas_to_the_bit(padding):
    x = np.maximum(np.round(draw("x", (2, 8, 9, 3)).astype(np.float32)), 0)

    def of_xla(x):
        return nn.max_pool(x, (3, 3), (2, 2), (PADS[padding][8], PADS[padding][9]))  # pyright: ignore[reportArgumentType]

    cotangent = draw("cotangent", of_xla(x).shape).astype(np.float32)
    got, want = (jax.jit(partial(both_ways, f))(x, cotangent) for f in (partial(max_pool, padding=padding), of_xla))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert (
        max_pool(x[:, :7], padding).shape
        == nn.max_pool(
            x[:, :7],
            (3, 3),
            (2, 2),
            (PADS[padding][7], PADS[padding][9]),  # pyright: ignore[reportArgumentType]
        ).shape
    )


def test_windows_of_two():
    x = draw("x", (2, 5, 6, 3)).astype(np.float32)
    y, dx = both_ways(partial(max_pool, padding="none", size=2), x, jnp.ones((2, 2, 3, 3)))
    by_hand = x[:, :4].reshape(2, 2, 2, 3, 2, 3).max((2, 4))
    np.testing.assert_array_equal(y, by_hand)
    np.testing.assert_array_equal(np.asarray(dx) == 1, np.isin(x, by_hand))
    with pytest.raises(
        ValueError, match="padding='valid' of a max-pool is unknown; use one of torch, same, none, ceil"
    ):
        max_pool(x, "valid")


def test_bfloat16_adds_up_in_float32():
    x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16).at[0, 1, 1].set(1)  # the greatest of four windows
    y, dx = both_ways(max_pool, x, jnp.asarray([256, 1, 1, 1], jnp.bfloat16).reshape(1, 2, 2, 1))
    assert y.dtype == dx.dtype == jnp.bfloat16
    assert dx[0, 1, 1, 0] == 260
    assert jnp.count_nonzero(dx) == 1


def test_forward_mode_is_the_gradients_transpose():
    x, direction = (jnp.asarray(draw(name, (2, 6, 6, 3)), jnp.float32) for name in ("x", "direction"))
    got, want = (jax.jvp(f, (x,), (direction,)) for f in (max_pool, of_xla))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_nothing_is_scattered():
    x = jnp.ones((2, 8, 8, 3))
    text = jax.jit(partial(both_ways, max_pool)).lower(x, x[:, ::2, ::2]).as_text()
    assert "scatter" not in text
    assert "scatter" in jax.jit(partial(both_ways, of_xla)).lower(x, x[:, ::2, ::2]).as_text()
