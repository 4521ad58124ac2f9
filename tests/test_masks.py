"""Masks of patches: MAE's by hand, how many are kept, and blocks against an algorithm in NumPy without a last try."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.parallel import named_key
from ssl_jax.tasks import masks

KEY = jax.random.key(0)


# So many of them


def test_kept_hidden_and_restored_by_hand():
    shown = masks.shown_by(jnp.asarray([[0.6, 0.1, 0.9, 0.3], [0.1, 0.2, 0.3, 0.4]], jnp.float32), 1)
    np.testing.assert_array_equal(shown.kept, [[1], [0]])
    np.testing.assert_array_equal(shown.restore, [[2, 0, 3, 1], [0, 1, 2, 3]])
    np.testing.assert_array_equal(shown.masked, [[1, 0, 1, 1], [0, 1, 1, 1]])


@pytest.mark.parametrize(
    ("n", "ratio", "keep"),
    [
        *((196, 0.75, 49), (49, 0.75, 12), (64, 0.75, 16), (196, 0.6, 78), (256, 0.9, 25), (196, 0.9, 19)),
        *((100, 0.9, 10), (10, 0.9, 1), (64, 0.6, 25), (9, np.float64(0.75), 2), (10, 0.0, 10), (3, 1.0, 0)),
    ],
)
def test_how_many_are_kept_does_not_hang_on_the_last_bit(n, ratio, keep):
    assert masks.num_kept(n, ratio) == keep


def test_every_patch_is_kept_as_often_as_another():
    shown = jax.jit(lambda key: masks.random_shown(key, 4000, 9, 2))(KEY)
    kept = np.asarray(shown.kept)
    assert (kept[:, 0] != kept[:, 1]).all()
    hidden = np.asarray(shown.masked)
    np.testing.assert_array_equal(hidden.sum(1), 7)
    assert not np.take_along_axis(hidden, kept, 1).any()
    np.testing.assert_allclose(1 - hidden.mean(0), 2 / 9, atol=4 * np.sqrt(2 / 9 * 7 / 9 / 4000))
    in_order = np.concatenate([kept, np.full((4000, 7), -1)], 1)
    back = np.take_along_axis(in_order, np.asarray(shown.restore), 1)
    np.testing.assert_array_equal(back, np.where(hidden, -1, np.arange(9)))


# Blocks


def blocks_by_hand(rng, share, grid, least, most):
    """As the codes have it: block after block, ten tries for each, until enough is hidden or no try is taken."""
    hidden, wanted = np.zeros(grid, bool), share * grid[0] * grid[1]
    while hidden.sum() < wanted:
        bound = min(wanted - hidden.sum(), most or np.inf)
        for _ in range(10):
            area = rng.uniform(*sorted((least, bound)))
            ratio = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if h < grid[0] and w < grid[1]:
                top, left = rng.integers(0, grid[0] - h + 1), rng.integers(0, grid[1] - w + 1)
                new = (~hidden[top : top + h, left : left + w]).sum()
                if 0 < new <= bound:
                    hidden[top : top + h, left : left + w] = True
                    break
        else:
            break
    return hidden


def numbers(hidden):
    """Patches hidden, borders between hidden and seen, patches of the first row and column: mean and its error."""
    x = hidden.astype(np.float64)
    borders = np.abs(np.diff(x, axis=1)).sum((1, 2)) + np.abs(np.diff(x, axis=2)).sum((1, 2))
    rows = np.stack([x.sum((1, 2)), x.sum((1, 2)) ** 2, borders, x[:, 0].sum(1), x[:, :, 0].sum(1)], 1)
    return rows.mean(0), rows.std(0) / np.sqrt(len(rows))


@pytest.mark.parametrize(
    ("grid", "share", "least", "most"),
    [((14, 14), 0.3, 16, None), ((6, 10), 0.4, 4, 30), ((8, 8), 0.1, 4, None)],
)
def test_blocks_are_those_of_the_algorithm(grid, share, least, most):
    rng = np.random.default_rng(0)
    want, error = numbers(np.stack([blocks_by_hand(rng, share, grid, least, most) for _ in range(500)]))
    draw = jax.jit(partial(masks.block_masks, grid=grid, least=least, most=most))
    found = np.asarray(draw(KEY, jnp.full(4000, share, jnp.float32)))
    assert found.shape == (4000, grid[0] * grid[1])
    assert found.sum(1).max() <= share * grid[0] * grid[1]
    mean, more = numbers(found.reshape(-1, *grid))
    assert (np.abs(mean - want) < 4.5 * np.hypot(error, more)).all(), (mean, want, error)


def test_shares_of_single_images():
    coins = np.asarray(jax.jit(lambda key: masks.random_shares(key, 4000, low=0.2, high=0.4))(KEY))
    assert (coins == 0).mean() == pytest.approx(0.5, abs=0.04)
    drawn = np.sort(coins[coins > 0])
    np.testing.assert_allclose(drawn, np.linspace(0.2, 0.4, len(drawn)), atol=0.01)


def test_shares_in_strata():
    shares = np.asarray(jax.jit(lambda key: masks.stratified_shares(key, 12, chance=0.5, low=0.1, high=0.7))(KEY))
    assert (shares[:6] > 0).sum() not in (0, 6)  # in random order
    drawn = np.sort(shares[shares > 0])
    edges = np.linspace(0.1, 0.7, 7)
    assert ((edges[:-1] <= drawn) & (drawn <= edges[1:])).all()
    assert not np.any(masks.stratified_shares(KEY, 1, chance=0.5))


@pytest.mark.parametrize(
    ("how", "shares_of", "least", "most"),
    [
        ({}, masks.random_shares, 4, None),  # iBOT's
        ({"choice": "stratified", "least": 2, "most": 0.25}, masks.stratified_shares, 2, 9),
    ],
)
def test_how_a_method_hides_blocks(how, shares_of, least, most):
    hide = masks.hidden_blocks((6, 6), (0.3, 0.6), 0.5, **how)
    masked, weights = jax.jit(lambda key: hide(key, 64, None)[::2])(KEY)
    shares = shares_of(named_key(KEY, "shares"), 64, low=0.3, high=0.6, chance=0.5)
    draw = jax.jit(partial(masks.block_masks, grid=(6, 6)), static_argnames=("least", "most"))
    np.testing.assert_array_equal(masked, draw(named_key(KEY, "masks"), shares, least=least, most=most))
    assert (masked != draw(named_key(KEY, "masks"), shares, least=least, most=None if most else 9)).any()
    np.testing.assert_array_equal(weights.sum(1), masked.sum(1))


def test_no_mask_depends_on_how_rows_are_split():
    """Eight devices, each with its own four rows, as under pmap."""

    def draw(rows, axis):
        shares = masks.random_shares(KEY, rows, axis=axis)
        strata = masks.stratified_shares(KEY, rows, axis=axis)
        blocks = masks.block_masks(KEY, shares + strata, (4, 5), axis=axis)
        return shares, strata, blocks, masks.random_shown(KEY, rows, 9, 3, axis)

    whole = jax.jit(lambda: draw(32, None))()
    parts = jax.jit(lambda: jax.vmap(lambda _: draw(4, "data"), axis_name="data")(jnp.zeros(8)))()
    for a, b in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_array_equal(a, b.reshape(a.shape))
