"""Few labels: all but some labels of the train examples are hidden before anything sees them (``data.labelled``)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ssl_jax.data.order import enough
from ssl_jax.data.source import Source, Splits, sha256


def hide(splits: Splits, number: int, seed: int) -> Splits:
    """The same splits, ``number`` of whose train examples keep their labels; the others' are -1.

    As many of each class as of any other, or one more, where ``number`` is no multiple of the classes; of a class that
    has fewer all, and more of the others. The labels of a smaller number are among those of a larger one. Validation
    and test, which are there to measure with, keep theirs.

    Args:
      number: N.
      seed: of the choice.

    Raises:
      ValueError: no label, fewer labels than N, or more classes.
    """
    train = splits.train
    if train.labels is None or train.class_names is None:
        why = f": {train.why_unlabelled}" if train.why_unlabelled else ""
        raise ValueError(f"data.labelled={number}, but no train example has a label{why}; set it to null")
    known = np.flatnonzero(train.labels >= 0)
    _, group = np.unique(train.labels[known], return_inverse=True)
    classes = int(group.max(initial=-1)) + 1
    if number > len(known):
        raise ValueError(
            f"data.labelled={number}, but {len(known)} of the {len(train)} train examples have labels; use at most "
            f"{len(known)}"
        )
    if number < classes:
        raise ValueError(f"data.labelled={number} gives some of the {classes} classes no label; use {classes} or more")
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(train)]))
    order = rng.permutation(len(known))
    group, known = group[order], known[order]
    sizes = np.bincount(group, minlength=classes)
    rank = np.empty(len(known), np.int64)  # 0, 1, ... within each class
    rank[np.argsort(group, kind="stable")] = np.arange(len(known)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    given = np.sort(known[np.lexsort((rng.permutation(classes)[group], rank))[:number]])
    labels = np.full(len(train), -1, np.int32)
    labels[given] = train.labels[given]
    counts = np.unique(labels[given], return_counts=True)[1]
    each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    note = f"labels of {number:,} of {len(train):,} train examples are given, {each} of each class"
    hidden = dataclasses.replace(
        train,
        labels=labels,
        fingerprint=sha256(train.fingerprint, "labelled", given),
        before=None,  # no older run has hidden labels
        notes=(*train.notes, note),
    )
    return splits._replace(train=hidden)


def labelled(source: Source) -> np.ndarray:
    """Which examples have a label, int64."""
    return np.flatnonzero(np.zeros(0) if source.labels is None else source.labels >= 0)


def bank(splits: Splits, number: int | None) -> list[Source]:
    """Whose labels predict those of test: train and validation; the given labels alone where others are hidden."""
    return [splits.train, splits.val] if number is None else [splits.train.take(labelled(splits.train))]


def parts(source: Source, recipe: Any, rows: int, among: np.ndarray | None) -> tuple[int, tuple[dict[str, Any], ...]]:
    """What each part of a batch is drawn from.

    Args:
      recipe: with ``unlabelled``, whether there is a second part, and ``ratio``.
      rows: of the first part.
      among: the examples that are drawn where there is one part; None: all.

    Returns:
      (how many examples an epoch goes through, of each part ``{"among", "global_batch_size", "part"}``): one part as
      asked for, or the labelled examples, over and over where a batch has more rows, and all of them.

    Raises:
      ValueError: no example has a label, or there are fewer examples than rows of the second part.
    """
    if not recipe.unlabelled:
        number = len(source) if among is None else len(among)
        return number, ({"among": among, "global_batch_size": rows, "part": None},)
    known, more = labelled(source), rows * recipe.ratio
    if not len(known):
        why = f" ({source.why_unlabelled})" if source.why_unlabelled else ""
        raise ValueError(f"no train example has a label{why}, and data.recipe draws one part of a batch from those")
    if more > len(source):
        raise ValueError(
            f"data.global_batch_size={rows} with {recipe.ratio} unlabelled for each (data.ratio) makes {more} rows, "
            f"more than the {len(source)} train examples; lower one of them"
        )
    return len(source), (
        {"among": enough(known, rows), "global_batch_size": rows, "part": 0},
        {"among": None, "global_batch_size": more, "part": 1},
    )
