"""Labels as evaluators need them: what an accuracy can be measured on, and what it cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ssl_jax.data.source import Source


def labelled(encoded: Mapping[str, np.ndarray], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of a layer and labels of the rows that have one."""
    features, labels = encoded[layer], np.asarray(encoded["label"])
    rows = labels >= 0
    return (features, labels) if rows.all() else (features[rows], labels[rows])


def check(name: str, train: Source, test: Source) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both.

    Raises:
      ValueError: no example of one of them has a label; there is one class, which any guess gets right; or none of the
        test classes can be learned from train.
    """
    for part, source in (("train", train), ("test", test)):
        if source.labels is None or not (source.labels >= 0).any():
            why = f" ({source.why_unlabelled})" if source.why_unlabelled else ""
            raise ValueError(f"{name} needs labels and the {part} split has none{why}; use a labelled source")
    labels = np.asarray(train.labels), np.asarray(test.labels)
    if len(np.unique(labels[0][labels[0] >= 0])) < 2:
        raise ValueError(f"{name} needs two classes or more and train has one, which any guess gets right")
    missed, of = unseen(*labels)
    if missed == of:
        raise ValueError(f"{name} cannot be right: no class of the {of} labelled test examples has one in train")
    return labels


def of_data(train: Source, test: Source) -> dict[str, str]:
    """What must be known of the examples to read a number: whence those of test are, and how many have no label."""
    found = {}
    if (n := test.cut_from) is not None:
        found["test split"] = (
            f"cut from train: {len(test):,} of {n:,} examples ({len(test) / n:.0%}), the same ones in every run"
        )
    without = {
        name: f"{np.sum(part.labels < 0):,} of {len(part):,} of {name}"
        for name, part in (("train", train), ("test", test))
        if part.labels is not None and (part.labels < 0).any()
    }
    if without:
        said = "left out of what needs labels, and part of what needs none"
        found["examples without a label"] = f"{' and '.join(without.values())}: {said}"
    return found


def unseen(train, test) -> tuple[int, int]:
    """(how many labelled test examples are of classes without a labelled train example, how many there are)."""
    train, test = np.asarray(train), np.asarray(test)
    known = test[test >= 0]
    return int(np.sum(~np.isin(known, train[train >= 0]))), len(known)


def note(train, test) -> str | None:
    """What must be known to read an accuracy: the part of test that cannot be right."""
    missed, of = unseen(train, test)
    if not missed:
        return None
    return f"{missed} of {of} test examples are of classes that train has no label of, and count as wrong"
