"""What a method makes of the test part, by its own hook "score": the loss of a language model, of masked words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssl_jax.data.source import Source
from ssl_jax.types import Variables


class Evaluator:
    """The method's own measure of the test part, as a run takes it at its end; nothing is trained, labels do not count.

    Yields what the method's hook "score" names: ``loss`` and ``perplexity`` of a language model, ``mlm_top1`` and
    ``nsp_top1`` beside them of BERT.

    Args:
      batch_size: rows of a batch; of a stream they are the places at which the text is begun, each without what stands
        before it.
    """

    def __init__(self, encode: Any, *, train: Source, test: Source, batch_size: int = 32):
        del train  # nothing is learned
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"eval.score.batch_size={batch_size} must be a whole number, 1 or more")
        encode.check_score()
        self.encode, self.test, self.batch_size = encode, test, batch_size
        self.left_out: dict[str, str] = {}

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        for name, value in self.encode.score(variables, self.test, batch_size=self.batch_size).items():
            if math.isfinite(value):
                yield name, value
            else:
                self.left_out[name] = "there was nothing to count in the test part"
