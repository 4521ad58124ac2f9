"""Evaluators: one file each, found by name: functions of arrays, which ``Evaluator`` ties to data.

One's own are named by file or dotted path (:mod:`ssl_jax.names`) and called by the last word of that.

An evaluator never imports ``train``. One that trains (fine-tuning, the papers' SGD protocols) is handed ``fit``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssl_jax.data.source import Source, Splits
from ssl_jax.names import file_of, imported, is_imported, place, refuse_unknown, said_of, short
from ssl_jax.types import Variables

RUN = "run(self, variables, outdir=None), which yields (name, number)"
DEFAULT = ("knn", "linear_probe", "low_label", "geometry", "projection")  # where none is asked for by name


class Accuracy(float):
    """The share of examples that were right, and which: ``hits`` bool ``[n]``, for intervals and paired tests.

    ``examples`` is the fingerprint of what it is of, where that is not the test data which the evaluator was given.
    """

    hits: np.ndarray
    examples: str | None

    def __new__(cls, hits, examples: str | None = None) -> Accuracy:
        hits = np.asarray(hits, bool)
        self = super().__new__(cls, hits.mean() if len(hits) else float("nan"))
        self.hits, self.examples = hits, examples
        return self


class Encode(Protocol):
    """Frozen features of a whole source; ``layers``: what may be asked for, and how many numbers each gives a row.

    ``has_views``: whether random views of an example are known.
    """

    @property
    def layers(self) -> Mapping[str, int]: ...

    @property
    def has_views(self) -> bool: ...

    def accepts(self, source: Source) -> None:
        """Raises a ValueError of one line where the source's records are not for this encoder."""
        ...

    def __call__(
        self, variables: Variables, source: Source, *, layers: Sequence[str] = ("features",), views: int = 0
    ) -> Mapping[str, np.ndarray]:
        """``{layer: float32 [n, d], ..., "label": int32 [n]}``, every example once, in the order of the source.

        With ``views=v`` of v random views of each example, as the run's recipe makes them: ``[n, v, d]``.
        """
        ...


class Fitted(NamedTuple):
    """A classifier trained by ``fit``: the checkpoint that was best on validation data, and what it does on test.

    ``workdir``: of the run that it was trained in.
    """

    val_top1: float
    hits: np.ndarray  # bool [n]: which test examples it gets right
    steps: int
    seconds: float
    workdir: Path | None = None


class Fit(Protocol):
    """``fit(name, splits, overrides)`` trains ``methods/supervised.py`` from the evaluated checkpoint."""

    def __call__(self, name: str, splits: Splits, overrides: Mapping[str, Any]) -> Fitted:
        """
        Args:
          name: of the run, a folder below the evaluation's; run again, a finished one is read, not trained.
          splits: ``train`` is learned from, ``val`` chooses the checkpoint, ``test`` is read once.
          overrides: of the config, by dotted key: ``{"optim.learning_rate": 0.1, "method.frozen": "encoder"}``.

        Raises:
          Diverged: a step was not finite.
        """
        ...


class Diverged(Exception):
    """What ``fit`` raises where loss, gradients or statistics were not finite."""


def best_fit(fits: Mapping[float, Callable[[], Fitted]]) -> tuple[float, Fitted]:
    """The learning rate that is best on validation data, and what was fitted with it; one that diverges is left out.

    Raises:
      Diverged: all do.
    """
    found: dict[float, Fitted] = {}
    for rate, fit in fits.items():
        try:
            found[rate] = fit()
        except Diverged as error:
            if not found and rate == list(fits)[-1]:
                raise
            print(f"learning rate {rate:g} is left out: {error}")
    chosen = max(found, key=lambda rate: found[rate].val_top1)
    return chosen, found[chosen]


class Evaluator(Protocol):
    """What ``ssl_jax/evals/<name>.py`` holds under the name ``Evaluator``.

    The keyword-only arguments besides ``train``, ``test`` and ``fit`` are its options. What cannot be measured is
    refused here with a ValueError of one line, before anything is computed.

    It may have two mappings, which are read after ``run``: ``left_out``, {what was not measured or drawn: why}, and
    ``notes``, {name: what must be known to read a number}.
    """

    def __init__(self, encode: Encode, *, train: Source, test: Source, **config: Any): ...

    def run(self, variables: Variables, outdir: Path | None = None) -> Iterator[tuple[str, float]]:
        """Yields (name without split, value); pictures go to ``outdir`` where one is given."""
        ...


def names() -> list[str]:
    """The evaluators there are: the files of this folder that hold one."""
    return [n for n in sorted(m.name for m in pkgutil.iter_modules(__path__)) if hasattr(_module(n), "Evaluator")]


def get(name: str) -> type[Evaluator]:
    """``Evaluator`` of ``ssl_jax/evals/<name>.py``, or of a file or module of one's own.

    Raises:
      ValueError: there is none; the message lists those there are. Or it is no evaluator: all that it lacks.
    """
    if is_imported(name):
        found = imported(name, "evaluator")
        _check(found, name)
        return found
    refuse_unknown(name, names(), "evaluator ")
    return _module(name).Evaluator


def _check(evaluator: Any, name: str) -> None:
    missing = []
    if not isinstance(evaluator, type):
        missing.append(f"a class (it is a {type(evaluator).__name__})")
    else:
        taken = inspect.signature(evaluator.__init__).parameters
        words = {p.name for p in taken.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if not {"train", "test"} <= words or len(words) < 4:  # self and encode, too
            missing.append("def __init__(self, encode, *, train, test)")
        if not callable(run := getattr(evaluator, "run", None)):
            missing.append(f"def {RUN}")
        elif inspect.isfunction(run) and not _can_be_called(run, "self", "variables", "outdir"):
            where = f"{Path(run.__code__.co_filename).name} line {run.__code__.co_firstlineno}"
            missing.append(f"def {RUN} ({where} has run{inspect.signature(run)})")
    if missing:
        lacks = " and ".join(missing)
        raise ValueError(f"evaluator {name!r} lacks {lacks}; see Evaluator in ssl_jax/evals/__init__.py")


def named(given: Any) -> list[str]:
    """Evaluators as names: one name alone, several, or paths.

    Raises:
      ValueError: one is no name; of a class, says by which name it is found.
    """
    found = []
    for one in [given] if isinstance(given, (str, os.PathLike)) or not isinstance(given, Iterable) else given:
        if not isinstance(one, (str, os.PathLike)):
            kind = one if isinstance(one, type) else type(one)
            ours = kind.__module__.startswith(f"{__name__}.") and kind.__qualname__ == "Evaluator"
            name = kind.__module__.rpartition(".")[2] if ours else f"./FILE.py:{kind.__qualname__}"
            raise ValueError(f"an evaluator is given by its name and not as {kind.__qualname__}; say {name!r}")
        found.append(os.fspath(one))
    return found


def _can_be_called(function: Any, *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def fails(name: str, error: Exception) -> str:
    """What is said of an evaluator of one's own that raised ``error``: one line, with its file and the line in it."""
    return f"evaluator {name!r} fails: {said_of(error)}{place(error, file_of(name, 'evaluator'))}"


def called(given: Sequence[str]) -> dict[str, str]:
    """Evaluators by what they are called in options and reports: ``{"knn": "knn", "centroid": "./centroid.py"}``.

    Raises:
      ValueError: two are called alike, or one's own like one of ours.
    """
    found: dict[str, str] = {}
    for name in given:
        word = short(name) if is_imported(name) else name
        other = name if word not in found or found[word] == name else found[word]
        if word != name and word in names():
            other = word
        if other != name:
            raise ValueError(f"evaluators {other!r} and {name!r} are both called {word}; give one another name")
        found[word] = name
    return found


def options(name: str) -> dict[str, Any]:
    """The options ``--eval.<name>.*`` of an evaluator and their defaults: what its ``__init__`` takes by keyword."""
    return {k: v for k, v in _arguments(name).items() if k not in ("train", "test", "fit")}


def trains(name: str) -> bool:
    """Whether an evaluator takes ``fit``."""
    return "fit" in _arguments(name)


def needs_fit(name: str) -> bool:
    """Whether it cannot do without."""
    return _arguments(name).get("fit") is inspect.Parameter.empty


def _arguments(name: str) -> dict[str, Any]:
    parameters = inspect.signature(get(name).__init__).parameters
    return {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _module(name: str) -> Any:
    return importlib.import_module(f"ssl_jax.evals.{name}")
