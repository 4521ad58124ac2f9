"""How much a representation is worth when labels are few: the same probe on 1, 2, 5, 10, ... labels per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data.source import Source, Splits, stratified_order
from ssl_jax.evals import Accuracy, Encode, Fit, finetune
from ssl_jax.evals.linear_probe import fit_logistic, ranks, standardise
from ssl_jax.evals.shared import canvas, figures
from ssl_jax.evals.shared import labels as check
from ssl_jax.evals.shared.names import shown
from ssl_jax.online.progress import counted, phase
from ssl_jax.types import Variables

USUAL = (1, 5, 10)  # labels per class
OFFICIAL = {"1pct": "1percent.txt", "10pct": "10percent.txt"}


def label_efficiency(
    features: Mapping[str, tuple],
    train_labels,
    test_labels,
    *,
    per_class: Sequence[int | str] = (1, 2, 5, 10, "all"),
    draws: int = 10,
    l2: float = 0.01,
    seed: int = 0,
) -> dict[str, dict[str, list[float | None]]]:
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
      ``{"1": {row: [mean, standard deviation over draws], ...}, ..., "all": ...}``, accuracies as fractions; where all
      draws are the same there is one fit, and None instead of a deviation.

    Raises:
      ValueError: a class has fewer examples than asked for; arrays that do not fit.
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    whole = [np.flatnonzero(train_labels >= 0)]
    chosen = {
        str(m): whole if m == "all" else _different(random_rows(train_labels, int(m), draws=draws, seed=seed))
        for m in per_class
    }
    table: dict[str, dict[str, list[float | None]]] = {entry: {} for entry in chosen}
    for name, (train, test) in features.items():
        if len(train) != len(train_labels) or len(test) != len(test_labels):
            raise ValueError(
                f"row {name!r} has {len(train)} train and {len(test)} test features for {len(train_labels)} and "
                f"{len(test_labels)} labels; extract both from the same splits"
            )
    fits = len(features) * sum(map(len, chosen.values()))
    with phase("few labels", fits, "fits") as advance:
        for name, (train, test) in features.items():
            train, test = standardise(train, test)
            for entry, several in chosen.items():
                accuracies = []
                for rows in several:
                    accuracies.append(hits(train, train_labels, test, test_labels, rows, l2=l2).mean())
                    advance(1)
                table[entry][name] = _mean_and_deviation(accuracies)
    return table


def random_rows(
    labels, amount: float, *, draws: int, seed: int, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Random labelled subsets: the row numbers of each draw, which do not depend on which other amounts are drawn.

    Args:
      labels: ``[n]``; rows with -1 are not drawn.
      amount: from 1 on, examples of each class; below 1 the share of each class, at least one example.
      draws: how many subsets.
      seed: of the draws.
      names: of the classes, by which an error calls them.

    Raises:
      ValueError: a class has fewer examples, the amount is not positive, or a share of less than one per class.
    """
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    fraction = 0 < amount < 1
    counts = np.maximum(1, np.round(amount * sizes)).astype(int) if fraction else np.full(len(sizes), int(amount))
    if not fraction and (amount < 1 or amount != int(amount) or sizes.min() < amount):
        raise ValueError(
            f"{amount} labels per class asked for but {_called(classes[sizes.argmin()], names)} has {sizes.min()}; "
            f'use 1 to {sizes.min()}, or "all"'
        )
    if fraction and amount * sizes.sum() < len(classes):
        raise ValueError(
            f"{amount:g} of {sizes.sum()} labelled examples leaves some of the {len(classes)} classes without any; "
            f"use {np.ceil(1e4 * len(classes) / sizes.sum()) / 1e4:g} or more"
        )
    members = [np.flatnonzero(labels == c) for c in classes]
    rngs = [np.random.default_rng([seed, int(1e9 * amount) if fraction else int(amount), k]) for k in range(draws)]
    return [
        np.sort(np.concatenate([rng.choice(m, count, replace=False) for m, count in zip(members, counts, strict=True)]))
        for rng in rngs
    ]


def hits(train, train_labels, test, test_labels, rows: np.ndarray, *, l2: float) -> np.ndarray:
    """Which labelled test examples logistic regression on ``rows`` of train gets right, bool ``[m]``."""
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    rows = rows[train_labels[rows] >= 0]  # an image that cannot be read any more has lost its label
    linear = fit_logistic(train[rows], train_labels[rows], l2=l2, num_classes=num_classes, tolerance=1e-4)
    known = test_labels >= 0
    return ranks(linear, test[known], test_labels[known]) == 0


def official_rows(source: Source, file: Path) -> np.ndarray:
    """Rows of ``source`` that a list of image file names holds, one name a line: TFDS's subsets of ImageNet.

    Raises:
      ValueError: the source does not know its images' file names, or lacks some of the list.
    """
    column = source.columns.get("file_name")
    if column is None and "offset" not in source.columns:  # with one, paths are those of record files
        column = source.columns.get("path")
    if column is None:
        raise ValueError(f"{file.name} lists file names and the source has none; use a folder of image files")
    row = {os.path.basename(name): i for i, name in enumerate(column)}
    names = file.read_text().split()
    missing = [name for name in names if name not in row]
    if missing or not names:
        raise ValueError(f"{len(missing)} of {len(names)} images of {file} are not in the source, e.g. {missing[:1]}")
    return np.sort([row[name] for name in names])


class Evaluator:
    """Logistic regression on the frozen encoder with few labels, and fine-tuning with the same ones.

    Yields ``low_label_5_top1``, the mean over draws of five labels per class, and ``low_label_5_top1_std``, the
    deviation; of a share of 1 % of the labels ``low_label_1pct_top1``; of TFDS's list, which is one draw,
    ``low_label_official_1pct_top1``; fine-tuned ``low_label_tuned_5_top1`` and so on.

    Args:
      per_class: labels per class; None: those of 1, 5 and 10 that the smallest class has.
      fractions: shares of the labels, classes in proportion, at least one per class.
      draws: random labelled subsets of each.
      l2: penalty of the logistic regression; there are no labels to choose it on.
      tuned: fine-tune from the checkpoint, too, ``draws`` runs of each: SGD for ``steps`` steps on batches of at most
        64, rate 0.01, 0.1 for the classifier, along a cosine; the best epoch is chosen on as many other labelled
        examples of train as the draw has.
      steps: of fine-tuning.
      seed: of the draws and of fine-tuning.
      subsets: folder with TFDS's ``1percent.txt`` or ``10percent.txt`` of ImageNet, or both.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        fit: Fit | None = None,
        per_class: int | Sequence[int] | None = None,
        fractions: float | Sequence[float] = (),
        draws: int = 5,
        l2: float = 0.01,
        tuned: bool = False,
        steps: int = 200,
        seed: int = 0,
        subsets: str | None = None,
    ):
        labels, test_labels = check.check("low_label", train, test)
        if tuned and fit is None:
            raise ValueError("low_label.tuned trains and there is no fit; leave it out")
        self.left_out: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        names = train.class_names
        counts = _usual(labels, names, self.left_out) if per_class is None else np.atleast_1d(per_class).tolist()
        shares = np.atleast_1d(fractions).tolist()
        for name, value, right, meaning in (
            ("per_class", counts, all(isinstance(m, int) and m >= 1 for m in counts), "whole numbers from 1 on"),
            ("fractions", shares, all(isinstance(m, float) and 0 < m < 1 for m in shares), "between 0 and 1"),
            ("draws", draws, draws >= 1, "1 or more"),
            ("l2", l2, l2 > 0, "positive"),
            ("steps", steps, steps >= 1, "1 or more"),
        ):
            if not right:
                raise ValueError(f"low_label.{name}={value} must be {meaning}")
        unseen = np.setdiff1d(test_labels[test_labels >= 0], labels)
        if len(unseen):
            raise ValueError(
                f"low_label: {_called(unseen[0], test.class_names)} of the test split has no labelled example in train"
            )
        self.encode, self.train, self.test, self.labels = encode, train, test, labels
        self.fit: Any = fit
        self.l2, self.steps, self.seed = l2, steps, seed
        amounts = {f"{m}": m for m in counts} | {f"{100 * m:g}pct": m for m in shares}
        self.draws = {name: random_rows(labels, m, draws=draws, seed=seed, names=names) for name, m in amounts.items()}
        for name, several in self.draws.items():
            self.draws[name] = _different(several)
            if len(self.draws[name]) < len(several):
                self.notes[f"low_label_{name}"] = "every draw is all there is: one fit, without a deviation"
        self.draws |= {f"official_{name}": [rows] for name, rows in _official(train, labels, subsets).items()}
        if not self.draws:
            raise ValueError("low_label has nothing to draw; give per_class, fractions or subsets")
        self.splits = {name: [self._split(rows) for rows in several] for name, several in self.draws.items() if tuned}

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        train, test = self.encode(variables, self.train), self.encode(variables, self.test)
        h, queries = standardise(train["features"], test["features"])
        table: dict[str, dict[str, list[float | None]]] = {}
        for name, several in self.draws.items():
            draws = counted(several, f"fitting {name} labels", len(several), "draws")
            found = [hits(h, train["label"], queries, test["label"], rows, l2=self.l2) for rows in draws]
            scores = {"frozen": found}
            yield from _named(f"low_label_{name}", found)
            if self.splits:
                tuned = f"low_label_tuned_{name}"
                found = [self._tune(f"{tuned}_{k}", splits) for k, splits in enumerate(self.splits[name])]
                scores["fine-tuned"] = found
                yield from _named(tuned, found)
            table[name.replace("pct", " %").replace("official_", "list of ")] = {
                row: _mean_and_deviation([a.mean() for a in found]) for row, found in scores.items()
            }
        if outdir is not None:
            draw = partial(figures.label_efficiency, table)
            self.left_out |= canvas.drawn(outdir, {"low_label.png": draw})

    def _split(self, rows: np.ndarray) -> Splits:
        """The draw to learn from, and as many others to choose the epoch on."""
        others = np.setdiff1d(np.flatnonzero(self.labels >= 0), rows)
        if not len(others):
            raise ValueError(f"low_label: a draw of {len(rows)} leaves nothing to choose the epoch on; ask for less")
        order = others[stratified_order(self.labels[others], len(others), self.seed)]
        return Splits(self.train.take(rows), self.train.take(np.sort(order[: len(rows)])), self.test)

    def _tune(self, name: str, splits: Splits) -> np.ndarray:
        settings = {"epochs": 1, "batch_size": min(64, len(splits.train)), "learning_rate": 0.01, "head_rate": 10.0}
        chosen = finetune.overrides("tune", **settings, seed=self.seed)
        return self.fit(name, splits, chosen | {"optim.scale": "none", "train.steps": self.steps}).hits


def _usual(labels: np.ndarray, names: Sequence[str] | None, left_out: dict[str, str]) -> list[int]:
    """Labels per class where none are asked for; what the smallest class lacks is put down in ``left_out``."""
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    smallest = f"{_called(classes[sizes.argmin()], names)} has {sizes.min()} labelled examples in train"
    left_out |= {f"low_label_{m}": smallest for m in USUAL if m > sizes.min()}
    return [m for m in USUAL if m <= sizes.min()]


def _called(label: int, names: Sequence[str] | None) -> str:
    return f"class {label if names is None else shown(names[label])}"


def _different(draws: list[np.ndarray]) -> list[np.ndarray]:
    """One draw where all of them are the same, as where a class has no more labels than are drawn."""
    return draws[:1] if all(np.array_equal(rows, draws[0]) for rows in draws) else draws


def _official(source: Source, labels: np.ndarray, folder: str | None) -> dict[str, np.ndarray]:
    """Rows of each official list that lies in ``folder``."""
    if folder is None:
        return {}
    files = {name: Path(folder) / file for name, file in OFFICIAL.items() if (Path(folder) / file).is_file()}
    if not files:
        raise ValueError(f"low_label.subsets={folder} holds neither {' nor '.join(OFFICIAL.values())}")
    found = {name: official_rows(source, file) for name, file in files.items()}
    for name, rows in found.items():
        unseen = np.setdiff1d(labels[labels >= 0], labels[rows])
        if len(unseen):
            raise ValueError(
                f"low_label: {_called(unseen[0], source.class_names)} has no image in {files[name]}; each needs one"
            )
    return found


def _named(name: str, found: Sequence[np.ndarray]) -> Iterator[tuple[str, float]]:
    """Mean and deviation over draws; of a single one which examples are right."""
    if len(found) == 1:
        yield f"{name}_top1", Accuracy(found[0])
        return
    accuracies = [a.mean() for a in found]
    yield f"{name}_top1", float(np.mean(accuracies))
    yield f"{name}_top1_std", float(np.std(accuracies))


def _mean_and_deviation(values: Sequence[float]) -> list[float | None]:
    """Of one value there is no deviation."""
    return [float(np.mean(values)), float(np.std(values)) if len(values) > 1 else None]
