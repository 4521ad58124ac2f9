"""Transfer: the frozen encoder on other datasets, one row of kNN and linear accuracy for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.data import readers, source
from ssl_jax.data.source import Source
from ssl_jax.evals import Accuracy, Encode, knn, linear_probe
from ssl_jax.evals.shared import names
from ssl_jax.types import Variables


class Evaluator:
    """The frozen encoder on a list of target datasets, with the settings of the fast probe and of kNN for all of them.

    Each target's own train part is the bank and what the probe learns from; its test part is read once. Yields
    ``"transfer_<dataset>_knn_top1"`` and ``"transfer_<dataset>_linear_top1"``, a dataset by the last part of its path,
    by more of them where two are alike; its notes say which is which.

    Args:
      sources: what ``data.source`` may be: ``("tfds:fashion_mnist", "folder:PATH")``.
      data_dir: where TFDS datasets lie.
      k: neighbours; at most as many as a target has labelled train examples.
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
        data, called = {}, names.apart([_parts(names.printable(spec)) for spec in sources])
        for name, spec in zip(called, sources, strict=True):
            splits = readers.load(spec, data_dir=data_dir, decoding=train.decoding)
            for note in splits.notes:
                print(names.printable(note))
            try:
                for part in splits:
                    encode.accepts(part)
                splits = source.Splits(*(source.with_channels(part, train.channels) for part in splits))
                bank, queries = source.join(splits.train, splits.val), splits.test
                known = int(np.sum(bank.labels >= 0)) if bank.labels is not None else 0
                neighbours = knn.Evaluator(encode, train=bank, test=queries, k=min(k, known), temperature=temperature)
                probe = linear_probe.Evaluator(encode, train=bank, test=queries)
            except ValueError as error:
                raise ValueError(f"eval.transfer.sources {spec}: {error}") from None
            data[name] = spec, queries.fingerprint, (neighbours, probe)
        self.targets = data
        self.notes = {f"transfer_{name}": f"of {names.printable(spec)}" for name, (spec, _, _) in data.items()}
        self.left_out: dict[str, str] = {}

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        for name, (_, examples, evaluators) in self.targets.items():
            for evaluator in evaluators:
                for metric, value in evaluator.run(variables):
                    hits = value.hits if isinstance(value, Accuracy) else None
                    yield f"transfer_{name}_{metric}", value if hits is None else Accuracy(hits, examples)
                self.left_out |= _named(name, getattr(evaluator, "left_out", {}))
                self.notes |= _named(name, getattr(evaluator, "notes", {}))


def _parts(spec: str) -> tuple[str, ...]:
    """Of a source: its scheme, folders and name, the latter without the ending of an archive."""
    scheme, _, path = spec.partition(":")
    parts = [part for part in (path or spec).split("/") if part not in ("", ".")]
    return (scheme, *parts[:-1], parts[-1].removesuffix(f".{scheme}")) if parts else (spec,)


def _named(name: str, said: Mapping[str, str]) -> dict[str, str]:
    return {f"transfer_{name}_{what}": text for what, text in said.items()}
