"""What a train step is fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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
