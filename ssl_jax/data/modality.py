"""What a run has to know of its kind of data: the only thing that tells images from text.

The recipe that ``data.recipe`` names says how records become batches, and its type which kind of data they are: it has
a method ``modality``. Everything else, the loop, the step, evaluation, asks the modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssl_jax.data.feed import Feed
from ssl_jax.data.source import Source
from ssl_jax.types import Batch, Config, Plan, Views, Vocab


class Modality(NamedTuple):
    """A kind of data, with a recipe and its sizes.

    Attributes:
      input_shape: of one example as the encoder takes it.
      spec: ``(rows) -> batch``: shapes of a training batch after views, as ``jax.ShapeDtypeStruct``.
      feed: ``(source, *, seed, global_batch_size, mode="jit") -> Feed``: how training examples reach the step; ``mode``
        is ``parallel.mode``. With ``among``, int64, those examples alone are drawn, of which there are enough.
      inputs: ``(source, *, global_batch_size, process=0, process_count=1)``: batches of evaluation, every example once
        and in order, ``{"inputs": [b, *input_shape], "label": [b], "index": [b], "mask": bool [b]}``; the last one is
        padded, its inputs zero, its label -1 and its index 0 there.
      prepare: ``(what a user has) -> inputs [b, *input_shape]``, as evaluation sees them.
      views: as ``inputs`` with ``count`` and ``seed``: random views, ``"inputs"`` ``[b, count, *input_shape]``; None
        where there are none.
      raw: ``(source) -> [n, d]``, the data themselves as features; None where they make none.
      score: as ``inputs``: held-out batches in the form of training batches, for the method's hook "score"; rows that
        are padding have ``"index"`` -1.
      sent: ``(rows) -> (batch, views)``: shapes of a batch as the host sends it where examples lie in files, and what
        the step makes views with, for plans.
      accepts: ``(source)``: raises a ValueError of one line where a source's records are not for this encoder.
      vocab: of tokens.
      words: what each token is, by its number, where encoders have a row for each.
      unit: what the rows of a training batch are called in the log.
      record: what an example of a source is called.
      shown: whether inputs are pictures.
      done: of each view that a picture of the views shows what is done, (operation, its numbers in words) in order.
      files: what the run's folder must hold of it (a tokenizer): name -> content.
    """

    input_shape: tuple[int, ...]
    spec: Callable[[int], Batch]
    feed: Callable[..., Feed]
    inputs: Callable[..., Iterator[dict[str, np.ndarray]]]
    prepare: Callable[[Any], np.ndarray]
    views: Callable[..., Iterator[dict[str, np.ndarray]]] | None = None
    raw: Callable[[Source], np.ndarray] | None = None
    score: Callable[..., Iterator[dict[str, Any]]] | None = None
    sent: Callable[[int], tuple[Batch, Views | None]] | None = None
    accepts: Callable[[Source], None] = lambda source: None
    vocab: Vocab | None = None
    words: tuple[str, ...] | None = None
    unit: str = "images"
    record: str = "examples"
    shown: bool = False
    done: tuple[list[tuple[str, str]], ...] = ()
    files: Mapping[str, bytes] = {}


class Recipe(Protocol):
    """What ``data.recipe`` names; a run of examples that are no images has one of another type than images have."""

    def modality(self, data: Config, *, train: Source | None, plan: Plan | None, folder: Path | None) -> Modality:
        """The modality of a run.

        Args:
          data: that part of the run's config.
          train: the examples of a run that begins or goes on, from which a tokenizer may be learned.
          plan: of a finished run, which is opened without its data; ``train`` is then None.
          folder: of the run where there is one, with the modality's ``files``.
        """
        ...
