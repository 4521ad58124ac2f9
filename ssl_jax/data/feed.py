"""What a train step is fed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ssl_jax.types import Views


class Feed(NamedTuple):
    """How training examples reach the step.

    Attributes:
      batches: ``(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None)``: an iterator of
        NumPy batches from step ``start_step`` on, this process's rows of each, without ``"table"``. Batch t is a
        function of the seed and t alone, and any ``start_step`` costs the same. To the set ``unreadable`` are added
        the examples that this process found broken and replaced.
      steps_per_epoch: once through the examples (of two parts: through the unlabelled one).
      num_examples: that are drawn from.
      views: what the step makes views with; None where they come ready.
      table: ``[n, ...]``, to be placed on the devices once; None where batches bring all they need.
      notes: what the log says of it.
    """

    batches: Callable[..., Iterator[dict[str, Any]]]
    steps_per_epoch: int
    num_examples: int
    views: Views | None = None
    table: Any = None
    notes: tuple[str, ...] = ()


def together(first: Callable[..., Iterator], second: Callable[..., Iterator] | None = None) -> Callable[..., Iterator]:
    """``Feed.batches`` of two parts: those of ``second`` lie under ``"unlabelled"``, their labels left out.

    Without a second part those of ``first`` as they are.
    """
    if second is None:
        return first

    def batches(**split: Any):
        for batch, more in zip(first(**split), second(**split), strict=True):
            yield batch | {"unlabelled": {name: value for name, value in more.items() if name != "label"}}

    return batches


def stacked(batches: Iterator, first: int, at_once: int) -> Iterator[tuple[int, Any]]:
    """(number of the last step, batch); with ``at_once`` above 1 up to so many batches in one, ``[k, rows, ...]``.

    A stack ends at a multiple of ``at_once``, wherever the run begins.
    """
    if at_once == 1:
        yield from enumerate(batches, start=first)
        return
    number = first - 1
    while several := list(itertools.islice(batches, at_once - number % at_once)):
        number += len(several)
        yield number, jax.tree.map(lambda *leaves: np.stack(leaves), *several)


def placed_ahead(batches: Iterator[tuple[int, Any]], place) -> Iterator[tuple[int, Any]]:
    """Batches on their devices, the next one on its way while the current one is worked on."""
    placed = ((number, place(batch)) for number, batch in batches)
    try:
        current = next(placed)
    except StopIteration:
        return
    for following in placed:
        yield current
        current = following
    yield current
