"""What a network's own classifier makes of the test part: no neighbour, no probe, nothing is learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.data.source import Source
from ssl_jax.evals import Accuracy, Encode
from ssl_jax.evals.shared import labels as check
from ssl_jax.evals.shared.encode import LOGITS
from ssl_jax.evals.shared.labels import labelled
from ssl_jax.types import Variables

SHOWN = 10  # columns of an example
AMONG = {
    "all": "and the greatest of all {} counts: a third class is a miss (eval.classify.among=named: of these alone)",
    "named": "and the greatest of these alone counts, of {} that there are",
}


class Evaluator:
    """The greatest of all the network's logits against the label, ``top1``; the label among five, ``top5``.

    Of a network that was trained on these classes, in their order: a supervised run, or one that was imported with its
    classifier. Yields ``classify_top1`` and, of more than five logits, ``classify_top5``.

    Args:
      columns: of other classes, the logit of each class of the data in order, 310,309 for ants and bees by
        ImageNet's thousand; ``ssl-jax evaluate`` finds them where both know their classes by the same names.
      among: "all": the greatest is sought among all logits of the network, so that a photo that it takes for a third
        class is a miss; "named": among the columns alone, as if the network knew no other class.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        columns: Sequence[int] | int | None = None,
        among: str = "all",
    ):
        check.check("classify", train, test)
        if LOGITS not in encode.layers:
            raise ValueError("classify: this network has no classifier of its own; use knn or linear_probe")
        if among not in AMONG:
            raise ValueError(f"eval.classify.among={among!r} is unknown; known: {', '.join(AMONG)}")
        self.encode, self.test, self.wide = encode, test, encode.layers[LOGITS]
        classes = test.num_classes or 0
        if columns is None and self.wide != classes:
            said = f"classify: the network tells {self.wide} classes apart and the data have {classes}; "
            if self.wide < classes:
                raise ValueError(f"{said}so it cannot name them all; use knn or linear_probe")
            some = [*map(str, range(classes))] if classes <= SHOWN else ["0", "1", "...", str(classes - 1)]
            raise ValueError(
                f"{said}say which of its classes those are, a logit of 0 to {self.wide - 1} for each in their order "
                f"(--eval.classify.columns={','.join(some)} if they are its first {classes})"
            )
        given = range(classes) if columns is None else np.atleast_1d(columns).tolist()
        if len(given) != classes or len(set(given)) != classes or not all(0 <= c < self.wide for c in given):
            raise ValueError(
                f"eval.classify.columns={tuple(given)} must name another logit, of 0 to {self.wide - 1}, for each of "
                f"the {classes} classes of the data"
            )
        self.columns, self.among = np.array(given), among
        self.notes: dict[str, str] = {}
        if len(given) < self.wide:
            shown = ", ".join([*map(str, given[:SHOWN]), *["..."] * (len(given) > SHOWN)])
            self.notes["classify_top1"] = (
                f"logits {shown} stand for the {classes} classes of the data, {AMONG[among]}".format(self.wide)
            )

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        logits, labels = labelled(self.encode(variables, self.test, layers=(LOGITS,)), LOGITS)
        answers = self.columns[labels]
        if self.among == "named":
            logits, answers = logits[:, self.columns], labels
        best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        yield "classify_top1", Accuracy(best[:, 0] == answers)
        if logits.shape[1] > 5:
            yield "classify_top5", Accuracy((best == answers[:, None]).any(1))
