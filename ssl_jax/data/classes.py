"""Classes: which ones the labels of a dataset mean, and how they are numbered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# What 255 stands for in a segmentation mask or a column of bytes is often "no label": the largest numbers of a type.
LARGEST = tuple(int(np.iinfo(f"{kind}{size}").max) for kind in ("uint", "int") for size in (8, 16, 32, 64))

Labels = np.ndarray | None


def number(
    parts: Sequence[Labels], names: tuple[str, ...] | None = None, unlabelled: int | None = None
) -> tuple[list[Labels], tuple[str, ...] | None, tuple[str, ...]]:
    """Number the classes of a dataset from 0, the same way in all of its parts.

    The classes are the labels that occur in any part, in their order, called by what they were: labels 5, 25 and 45
    are the three classes "5", "25" and "45". Where a dataset brings ``names``, label k is the class ``names[k]``.

    Args:
      parts: of each part the integer labels ``[n]``, -1 where unknown, or None.
      names: of all classes, where the dataset has names.
      unlabelled: another label than -1 that means "no label".

    Returns:
      (labels of each part, int32 in 0..classes-1 or -1, None where none is known; class names, None where no label is
      known at all; what is to be said of it, one line each).

    Raises:
      ValueError: labels that are no integers, below -1, or have no name.
    """
    given = [_integers(part) for part in parts if part is not None]
    found, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *given]), return_counts=True)
    no_label = (found == -1) | np.isin(found, [] if unlabelled is None else [unlabelled])
    notes = [] if unlabelled is None else [_left_out(found, counts, unlabelled)]
    known, counts = found[~no_label], counts[~no_label]
    if len(known) and known[0] < -1:
        raise ValueError(
            f"label {known[0]} is below -1; number the classes from 0, or say data.unlabelled={known[0]} if it means "
            "that there is no label"
        )
    if not len(known):
        return [None for _ in parts], None, tuple(notes)
    if names is None:
        notes += _said(known, counts)
        values = known
        names = tuple(str(value) for value in known)
    else:
        if known[-1] >= len(names):
            raise ValueError(
                f"label {known[-1]} is out of range; the labels are 0..{len(names) - 1}, or -1 where unknown"
            )
        values = np.array([k for k in range(len(names)) if k != unlabelled])
        names = tuple(names[k] for k in values)
        if missing := len(names) - len(known):
            notes.append(f"{missing} of the {len(names)} classes have no example")
    return [None if part is None else _numbered(part, values, unlabelled) for part in parts], names, tuple(notes)


def single(train: Labels, names: tuple[str, ...] | None) -> str | None:
    """What the only class of training examples is called, of which any guess is right; None where there are several.

    Args:
      train: their labels as :func:`number` gives them.
      names: of the classes.
    """
    found = np.unique(train[train >= 0]) if train is not None else ()
    return names[int(found[0])] if names is not None and len(found) == 1 else None


def _integers(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; give integers of shape [n], one per image")
    if labels.dtype == np.uint64 and len(labels) and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"label {labels.max()} is too large; use labels below 2**63")
    return labels.astype(np.int64)


def _numbered(labels: np.ndarray, values: np.ndarray, unlabelled: int | None) -> Labels:
    labels = labels.astype(np.int64)
    known = np.isin(labels, values)
    if not known.any():
        return None
    return np.where(known, np.searchsorted(values, labels), -1).astype(np.int32)


def _left_out(found: np.ndarray, counts: np.ndarray, unlabelled: int) -> str:
    said = f"data.unlabelled={unlabelled}"
    count = int(counts[found == unlabelled].sum())
    if not count:
        return f"WARNING: {said}, but no example has that label"
    return f"{count} of {counts.sum()} examples have the label {unlabelled} and count as unlabelled ({said})"


def _said(known: np.ndarray, counts: np.ndarray) -> list[str]:
    """What is odd about labels that have no names; ``counts`` are of the labels ``known``."""
    said, largest, share = [], int(known[-1]), counts[-1] / counts.sum()
    if largest in LARGEST and share > 0.5:
        said.append(
            f"WARNING: {share:.0%} of the labels are {largest}, the largest number of their type; if it means that "
            f"there is no label, say data.unlabelled={largest}"
        )
    if largest != len(known) - 1:
        numbers = [str(value) for value in known]
        shown = ", ".join(numbers if len(numbers) <= 5 else [*numbers[:3], "...", numbers[-1]])
        many = f"the labels {shown} are {len(known)} classes, called by these numbers"
        said.append(many if len(known) > 1 else f"the label {shown} is the only class, called by this number")
    return said
