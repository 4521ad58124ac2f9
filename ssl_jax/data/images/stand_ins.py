"""Which examples take the places of those that break during a run.

A stand-in is drawn from the broken example's index alone: the same one in a run that goes on and in every process, and
for each broken one another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np

from ssl_jax.data.images import decode, image_files
from ssl_jax.data.source import Source

log = logging.getLogger(__name__)


class Lost(ValueError):
    """No example is left that can be read."""

    def __init__(self) -> None:
        super().__init__("no example of the dataset can be read any more; is its disk still there?")


def put(planned: tuple[np.ndarray, np.ndarray], replaced: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A plan, (indices, numbers of the rows), in which stand-ins take the places of what broke."""
    drawn, numbers = planned
    return (np.array([replaced.get(int(i), int(i)) for i in drawn], np.int64) if replaced else drawn), numbers


def find(source: Source, i: int, replaced: dict[int, int], error: Exception) -> None:
    """Put whole examples in the places of ``i``, which broke after the index was built: its own, and those it took."""
    replaced[i] = i
    for old in [old for old, new in replaced.items() if new == i]:
        j = next((j for j in _candidates(old, len(source)) if j not in replaced and opens(source, j)), None)
        if j is None:
            raise Lost from error
        replaced[old] = j
    j = replaced[i]
    log.warning("%s cannot be read any more; %s takes its place (%d so far)", *names(source, i, j), len(replaced))


def _candidates(i: int, n: int) -> Iterator[int]:
    """What may take the place of example ``i``, in order: a hundred at random, so that one is whole, or else all."""
    yield from np.random.default_rng(i).integers(n, size=100).tolist()
    yield from range(n)


def check(source: Source, broken: set[int], max_unreadable: float, error: Exception) -> None:
    """Refuse to go on once more than a fraction of the train examples broke."""
    n = len(source)
    if len(broken) > max_unreadable * n:
        some = image_files.some(names(source, *broken))
        raise ValueError(
            f"{len(broken)} of {n} train examples cannot be read any more ({some}), more than "
            f"data.max_unreadable={max_unreadable:g} of them; is their disk still there? repair them, or raise it"
        ) from error


def names(source: Source, *examples: int) -> list[str]:
    """How examples are called in a message."""
    paths = source.columns.get("path") if "offset" not in source.columns else None
    return [f"example {i}" if paths is None else f"{paths[i]} (example {i})" for i in examples]


def opens(source: Source, i: int) -> bool:
    """Whether example ``i`` can be decoded, whole."""
    if "image" in source.columns:
        return True
    try:
        decode.read(decode.contents(source.record(i)), source.channels, source.decoding)
    except (decode.Unreadable, OSError):
        return False
    return True
