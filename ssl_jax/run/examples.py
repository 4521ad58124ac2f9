"""Which examples a run was trained on, as short digests: what is measured on them later is memory."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from ssl_jax import methods
from ssl_jax.data import few_labels, overlap
from ssl_jax.data.source import Source
from ssl_jax.experiment import Experiment
from ssl_jax.interop.files import whole, writing

FILE = "examples.npy"


def keep(workdir: Path, experiment: Experiment) -> None:
    """Write ``examples.npy``, uint64 ``[n]``, where it is known what the examples of a run hold."""
    if jax.process_index() != 0 or (workdir / FILE).exists():
        return
    config, train = experiment.config, experiment.splits.train
    if config.data.get("labelled") is not None and config.method.name in methods.FROM_LABELS:  # from those alone
        train = train.take(few_labels.labelled(train))
    found = overlap.short(train)
    if found is not None:
        with writing(workdir / FILE), whole(workdir / FILE) as temporary, temporary.open("wb") as file:
            np.save(file, np.sort(found))


def trained_on(workdir: Path, test: Source) -> int | None:
    """How many examples of ``test`` the run has learned from; None where nobody knows, as of an older run.

    Raises:
      ValueError: what the run keeps of its examples cannot be read; or more than half, in one line.
    """
    path = workdir / FILE
    try:
        kept = np.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); put a copy of it back, or remove it") from None
    asked = overlap.short(test)
    if asked is None:
        return None
    count = int(np.isin(asked, kept).sum())
    if 2 * count > len(test):
        raise ValueError(
            f"{learned_from(workdir, count, test)}; a test score would be memory: measure on "
            "examples that it has not seen (of arrays: images=(to learn from, unseen))"
        )
    return count


def learned_from(workdir: Path, count: int, test: Source) -> str:
    return f"{workdir} was trained on {count} of the {len(test)} examples that are called test, byte for byte"
