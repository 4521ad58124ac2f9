"""How much a representation is worth when labels are few: the same probe on 1, 2, 5, 10, ... labels per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from ssl_jax.evals.linear_probe import fit_logistic, standardise


def label_efficiency(
    features: Mapping[str, tuple],
    train_labels,
    test_labels,
    *,
    per_class: Sequence[int | str] = (1, 2, 5, 10, "all"),
    draws: int = 10,
    l2: float = 0.01,
    seed: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """Test accuracy of logistic regression by number of labels per class, for several representations of one dataset.

    Every row gets the same treatment: columns standardised with statistics of all its train features (which need no
    labels), the same ``l2``, and the same labelled examples in every draw, so rows may be compared pairwise.

    Args:
      features: row name -> ``(train [n, d], test [m, d])``; d may differ between rows.
      train_labels: ``[n]``; rows with -1 are not drawn.
      test_labels: ``[m]``; rows with -1 are not counted.
      per_class: labelled examples per class; ``"all"`` is every labelled example, fitted once.
      draws: random labelled subsets per entry.
      l2: penalty of :func:`ssl_jax.evals.linear_probe.fit_logistic`.
      seed: of the draws.

    Returns:
      ``{"1": {row: [mean, standard deviation over draws], ...}, ..., "all": ...}``, accuracies as fractions.

    Raises:
      ValueError: a class has fewer examples than asked for; arrays that do not fit.
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    subsets = {str(m): _subsets(train_labels, m, draws, seed) for m in per_class}
    counted = test_labels >= 0
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    table: dict[str, dict[str, list[float]]] = {entry: {} for entry in subsets}
    for name, (train, test) in features.items():
        if len(train) != len(train_labels) or len(test) != len(test_labels):
            raise ValueError(
                f"row {name!r} has {len(train)} train and {len(test)} test features for {len(train_labels)} and "
                f"{len(test_labels)} labels; extract both from the same splits"
            )
        train, test = standardise(train, test)
        for entry, draws_of_entry in subsets.items():
            accuracies = []
            for rows in draws_of_entry:
                kernel, bias = fit_logistic(
                    train[rows], train_labels[rows], l2=l2, num_classes=num_classes, tolerance=1e-4
                )
                predicted = np.asarray(jnp.argmax(test @ kernel + bias[None], axis=-1))
                accuracies.append(np.mean(predicted[counted] == test_labels[counted]))
            table[entry][name] = [float(np.mean(accuracies)), float(np.std(accuracies))]
    return table


def _subsets(labels: np.ndarray, per_class: int | str, draws: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each draw; the draws of one entry do not depend on which other entries are asked for."""
    if per_class == "all":
        return [np.flatnonzero(labels >= 0)]
    m = int(per_class)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if m < 1 or counts.min() < m:
        raise ValueError(
            f"{m} labels per class asked for but class {classes[counts.argmin()]} has {counts.min()}; "
            f'use 1 to {counts.min()}, or "all"'
        )
    members = [np.flatnonzero(labels == c) for c in classes]
    rngs = [np.random.default_rng([seed, m, draw]) for draw in range(draws)]
    return [np.sort(np.concatenate([rng.choice(rows, m, replace=False) for rows in members])) for rng in rngs]
