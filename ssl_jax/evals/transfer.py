"""Transfer: the frozen encoder on other datasets, one row of kNN and linear accuracy for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_jax.data import readers, source
from ssl_jax.data.source import Source
from ssl_jax.evals import Encode, knn, linear_probe
from ssl_jax.types import Variables


class Evaluator:
    """The frozen encoder on a list of target datasets, with the settings of the fast probe and of kNN for all of them.

    Each target's own train part is the bank and what the probe learns from; its test part is read once. Yields
    ``"transfer_<dataset>_knn_top1"`` and ``"transfer_<dataset>_linear_top1"``.

    Args:
      sources: what ``data.source`` may be: ``("tfds:fashion_mnist", "folder:PATH")``.
      data_dir: where TFDS datasets lie.
      k: neighbours; at most as many as a target has labelled train images.
      temperature: of the vote.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        train: Source,
        test: Source,
        sources: Sequence[str] = (),
        data_dir: str | None = None,
        k: int = 20,
        temperature: float = 0.07,
    ):
        sources = (sources,) if isinstance(sources, str) else tuple(sources)
        if not sources:
            raise ValueError("eval.transfer.sources is empty; name datasets, e.g. --eval.transfer.sources=tfds:cifar10")
        self.targets = {}
        for spec in sources:
            splits = readers.load(spec, data_dir=data_dir, decoding=train.decoding)
            for note in splits.notes:
                print(note)
            bank, test = source.join(splits.train, splits.val), splits.test
            try:
                neighbours = knn.Evaluator(encode, train=bank, test=test, k=min(k, len(bank)), temperature=temperature)
                self.targets[_short(spec)] = (neighbours, linear_probe.Evaluator(encode, train=bank, test=test))
            except ValueError as error:
                raise ValueError(f"eval.transfer.sources {spec}: {error}") from None

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        for name, evaluators in self.targets.items():
            for evaluator in evaluators:
                for metric, value in evaluator.run(variables):
                    yield f"transfer_{name}_{metric}", value


def _short(spec: str) -> str:
    """The name of a dataset without its scheme and folders."""
    return Path(spec.partition(":")[2] or spec).stem.replace(".", "_")
