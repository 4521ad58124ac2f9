"""Views of several sizes, from the recipe to the method, on host and device."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_jax import methods

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def views_of(*sizes, rows=3):
    """View v of row r is r + v / 10 everywhere."""
    return tuple(
        np.broadcast_to((np.arange(rows) + v / 10)[:, None, None, None], (rows, size, size, 3)).astype(np.float32)
        for v, size in enumerate(sizes)
    )


def test_views_of_one_size_are_one_batch():
    views = views_of(8, 8, 4, 4, 4)
    groups, counts = methods.by_size({"views": views}, MEAN, STD)
    assert counts == [2, 3]
    assert [g.shape for g in groups] == [(6, 8, 8, 3), (9, 4, 4, 3)]
    want = [[(r + v / 10 - MEAN[1]) / STD[1] for r in range(3) for v in vs] for vs in ((0, 1), (2, 3, 4))]
    for group, values in zip(groups, want, strict=True):
        np.testing.assert_allclose(group[:, 1, 2, 1], values, rtol=1e-5)
    alone, (count,) = methods.by_size({"views": views[:2]}, MEAN, STD)
    assert count == 2
    np.testing.assert_array_equal(alone[0], groups[0])


def test_what_becomes_of_them_comes_apart_in_the_order_of_the_recipe():
    groups, counts = methods.by_size({"views": views_of(8, 8, 4, 4, 4)}, (0.0,), (1.0,))
    every = methods.joined([g[:, 0, 0] for g in groups], counts)
    assert every.shape == (15, 3)
    for v, view in enumerate(methods.view_by_view(every, 5)):
        np.testing.assert_allclose(view[:, 0], np.arange(3) + v / 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [((8,), "two views or more"), ((4, 4, 8), "sizes 4, 4, 8; order them"), ((8, 4, 8), "the largest views first")],
)
def test_views_that_cannot_be_grouped_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        methods.by_size({"views": views_of(*sizes)}, MEAN, STD)
