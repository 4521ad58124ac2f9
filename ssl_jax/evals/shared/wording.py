"""The numbers of an evaluation: what they are called in plain words, how they are shown, and which come first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Metric(NamedTuple):
    """What a part of a metric's name means; ``main`` ones stand in the first table."""

    key: str
    words: str
    meaning: str
    main: bool = False


# in the order of the first table
METRICS = (
    Metric("knn", "kNN", "vote of the nearest training examples in feature space; nothing is trained", True),
    Metric("linear", "linear", "linear classifier trained on frozen features", True),
    Metric("ridge", "ridge", "closed-form least-squares classifier on frozen features", True),
    Metric("finetune", "fine-tuning", "trained with labels: head only (extract), whole network (tune)", True),
    Metric("low_label", "low label", "trained with few labels; the mean over several draws of them", True),
    Metric("transfer", "transfer", "the same frozen encoder on another dataset", True),
    Metric("probe", "probe", "linear classifier trained beside the method, without influence on it", True),
    Metric("perplexity", "perplexity", "exp of the mean loss of a word that is to be predicted; lower is better", True),
    Metric("mlm", "masked words", "of held-out text: what stood where a word was masked, changed or kept", True),
    Metric("nsp", "next sentence", "of held-out pairs: does the second part follow the first; half is chance", True),
    Metric("loss", "loss", "what the method minimises, on held-out data; lower is better"),
    Metric("rankme", "RankMe", "effective number of dimensions; higher is richer", True),
    Metric("effective_rank", "effective rank", "dimensions in use by the entropy of the spectrum; higher is richer"),
    Metric("lidar", "LiDAR", "effective rank of what tells examples apart from their views; higher is richer"),
    Metric("alpha_req", "alpha-ReQ", "decay exponent of the feature spectrum; near 1 is best"),
    Metric("alignment", "alignment", "squared distance between two views of an example; lower is more invariant"),
    Metric("uniformity", "uniformity", "how evenly features cover the sphere; lower is more even"),
    Metric("dead_dimensions", "dead dimensions", "feature dimensions that do not vary"),
    Metric("energy_gap", "energy gap", "energy of other pairs minus energy of positive pairs; 0 is collapse"),
    Metric("energy_auc", "energy AUC", "how often a positive pair has less energy than another; 0.5 is chance"),
    Metric("trustworthiness", "trustworthiness", "whether neighbours in the picture are true ones; 1 invents none"),
)
MISSING = "not measured"


class Number(NamedTuple):
    """One metric of one run; ``spread`` is the deviation that its evaluator gives as ``<name>_std``."""

    run: str
    name: str
    value: Any
    interval: Sequence[float | None] | None = None
    spread: Any = None
    evaluator: str = ""
    settings: str = ""
    online: bool = False
    why: str = ""  # it was not measured
    own: bool | None = None  # of an evaluator of the user's own: whether it stands for it; None of ours


def numbers(run: str, evaluation: Mapping[str, Any]) -> Iterator[Number]:
    metrics, intervals = evaluation["metrics"], evaluation.get("intervals") or {}
    source: dict[str, dict[str, Any]] = {}
    for evaluator, record in (evaluation.get("evaluators") or {}).items():
        of_it = record.get("metrics") or ()
        first = next(iter(record.get("examples") or of_it), None)  # an accuracy, if there is one
        for name in of_it:
            own = name == first if "own" in record else None
            source[name] = {"evaluator": evaluator, "settings": settings(record), "own": own}
    for name, value in metrics.items():
        about = source.get(name, {})
        yield Number(run, name, value, intervals.get(name), metrics.get(f"{name}_std"), **about)
    for name, value in (evaluation.get("online") or {}).items():
        yield Number(run, name, value, online=True, why=(evaluation.get("not_measured") or {}).get(name, ""))


def split(name: str) -> tuple[str, str]:
    """("test", "knn_top1") of "test_knn_top1"."""
    found = re.fullmatch(r"(train|val|test)_(.+)", name)
    return (found[1], found[2]) if found else ("", name)


def metric_of(name: str) -> Metric:
    """What a name means by the first known key in it; an unknown name stands for itself."""
    rest = split(name)[1]
    known = [metric for metric in METRICS if metric.key in rest]
    return min(known, key=lambda metric: rest.index(metric.key), default=Metric("", name, ""))


def label(name: str) -> str:
    """A metric's name in plain words."""
    metric = metric_of(name)
    if not metric.key:
        return split(name)[1].removesuffix("_top1").replace("_", " ")
    rest = split(name)[1].replace(metric.key, "", 1)
    rest = rest.replace("_top1", "").replace("top5", "top-5").replace("std", "spread").strip("_").replace("_", " ")
    rest = re.sub(r"^(\d+)\b", r"\1 per class", rest) if metric.key == "low_label" else rest
    return f"{metric.words}, {rest}" if rest else metric.words


def is_share(name: str) -> bool:
    return re.search(r"top[15](_|$)", name) is not None


def is_measured(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def shown(name: str, value: Any, percent: str = "\u00a0%") -> str:
    """Accuracies in percent, other numbers as they are."""
    if not is_measured(value):
        return MISSING
    if is_share(name):
        text = f"{100 * value:.1f}{percent}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def interval(number: Number) -> str:
    if not number.interval or not all(map(is_measured, number.interval)):
        return ""
    return " to ".join(shown(number.name, end, percent="") for end in number.interval)


def with_interval(number: Number) -> str:
    span = interval(number)
    return shown(number.name, number.value) + (f" ({span})" if span else "")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"optim.name": "sgd"} of {"optim": {"name": "sgd"}}."""
    found = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": _text(value)}
    return found


def settings(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in flat(record.get("settings") or {}).items())


def is_whole(name: str) -> bool:
    """Not of a stage, a second setting, the top 5, a spread or a hyper-parameter."""
    name = re.sub(r"transfer_.*_((knn|linear)_)", r"\1", name)  # whatever a dataset is called
    return not re.search(r"stem|stage|block|layer|top5|_k\d|_l2|_loss$|_std$", name)


def main(numbers: Sequence[Number]) -> list[Number]:
    """The main metrics in their order: of the last layer, and online only what was not measured offline.

    Each evaluator of the user's own has one, which comes after kNN.
    """
    offline = {number.name for number in numbers if not number.online}

    def order(number: Number) -> float | None:
        if number.own is not None:
            return 0.5 if number.own else None
        metric = metric_of(number.name)
        part = not is_whole(number.name) or (number.online and number.name in offline)
        return METRICS.index(metric) if metric.main and not part else None

    placed = [(place, number) for number in numbers if (place := order(number)) is not None]
    return [number for _, number in sorted(placed, key=lambda pair: pair[0])]
