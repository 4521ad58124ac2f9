"""Examples that are in train and in test: what is measured on them is memory."""

from __future__ import annotations

from collections.abc import Iterable


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
