"""Examples that are in train and in test: what is measured on them is memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ssl_jax.data.source import Source

HASH_UP_TO = 1 << 30  # bytes of images in memory


def check(train: Iterable[bytes], test: Iterable[bytes], where: str, names: tuple[str, str]) -> tuple[str, ...]:
    """Compare two splits by what their examples hold.

    Two files of one dataset may well hold the same image. Where most of test is in train, the splits intersect.

    Args:
      train, test: of every example its bytes, or a digest of them.
      where: the dataset.
      names: of the two splits.

    Returns:
      What is to be said of a few such examples; nothing where there are none.

    Raises:
      ValueError: more than half of the test examples are in train.
    """
    seen, test = set(train), list(test)
    count = sum(example in seen for example in test)
    if not count:
        return ()
    said = f"{where}: {count} of {len(test)} examples of {names[1]} are in {names[0]}, too, byte for byte"
    if 2 * count > len(test):
        raise ValueError(f"{said}; test examples must not be trained on: take them out of one of the two")
    return (f"WARNING: {said}; what is measured on them is memory",)


def copies(train: Source, held_out: Source, what: str) -> tuple[str, ...]:
    """What is to be said of the examples of a part cut from train that hold what others do, which stay in train.

    Nothing is known of files that are not read when they are listed, and larger sets in memory are not looked through.
    """
    if train.columns.get("image", np.zeros(0)).nbytes > HASH_UP_TO:
        return ()
    if (known := digests(train)) is None or (asked := digests(held_out)) is None:
        return ()
    seen = set(known)
    count = sum(example in seen for example in asked)
    if not count:
        return ()
    return (
        f"WARNING: {what} is cut from train, and of {count} of its {len(held_out)} examples there are copies, byte for "
        "byte, that are trained on; what is measured on them is memory: take copies out, or bring a split of your own",
    )


def short(source: Source) -> np.ndarray | None:
    """What each example of a source holds, as uint64 ``[n]``; None where that is not known."""
    found = digests(source)
    if found is None:
        return None
    return np.array([int.from_bytes(hashlib.sha256(one).digest()[:8], "little") for one in found], np.uint64)


def digests(source: Source) -> Iterator[bytes] | None:
    """What each example of a source holds, as bytes; None where that is not known."""
    if source.digests is not None:
        return iter(source.digests)
    images = source.columns.get("image")
    if images is not None:
        return (hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images)
    return None
