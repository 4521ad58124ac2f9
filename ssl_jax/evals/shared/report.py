"""An evaluation as one HTML file that opens offline: the answer, the pictures, all numbers and where they come from.

Nothing is loaded from elsewhere: pictures are inlined, and the page's own content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.evals.shared import text_pages
from ssl_jax.evals.shared.names import printable

Evaluations = Mapping[str, Mapping[str, Any]]
Paired = Sequence[Mapping[str, Any]]


class Figure(NamedTuple):
    """A picture of a run.

    Attributes:
      path: a PNG file; or a JSON file of what ``text_pages.nearest`` found.
      title: what it shows, in a few words; runs stand side by side where section and title agree.
      caption: how to read it; may be empty.
      section: the heading it stands under ("Training", "Neighbours"); sections keep the order of first appearance.
      of_data: it is another one on other data; else one of a run evaluated on several data is shown once.
    """

    path: Path
    title: str
    caption: str
    section: str
    of_data: bool = True


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
WIDE = 1400  # pixels: a picture that is wider is not put beside another
MISSING = "not measured"
SPIKES = 10  # steps of a run that are told
INTERVAL = "95\u00a0% interval"


class _Number(NamedTuple):
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


class _Cell(NamedTuple):
    """Of a table: text, the number to sort by (else the text is), and small text below."""

    text: str
    sort: float | None = None
    note: str = ""


def write(
    path: str | Path,
    evaluations: Evaluations,
    figures: Mapping[str, Sequence[Figure]],
    paired: Paired = (),
    not_paired: Paired = (),
) -> None:
    """Write :func:`html` to a file."""
    Path(path).write_text(html(evaluations, figures, paired, not_paired), encoding="utf-8")


def html(
    evaluations: Evaluations,
    figures: Mapping[str, Sequence[Figure]],
    paired: Paired = (),
    not_paired: Paired = (),
) -> str:
    """The report as an HTML page; several runs are compared, and one run on several data is shown on all of them.

    Args:
      evaluations: name of a run, or of its data, -> the result: "metrics" and, where known, "intervals", "online",
        "alarms", "evaluators", "left_out", "missing", "provenance", "not_measured" (metric -> reason).
      figures: run name -> its pictures; a run may have none.
      paired: paired tests {"metric", "a", "b", "difference", "low", "high", "p"}: a minus b on the same examples, the
        95 % interval of that, and p.
      not_paired: {"metrics", "a", "b", "reason"} where there is no test.

    Raises:
      ValueError: there is no evaluation, or a picture is not a PNG file.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to report; give at least one run")
    numbers = [number for run, evaluation in evaluations.items() for number in _numbers(run, evaluation)]
    headline = escape(_headline(evaluations, numbers, paired))
    sections = {
        "Results": _results(evaluations, numbers) + _comparison(paired, not_paired),
        "Pictures": _pictures({run: figures.get(run, ()) for run in evaluations}, _kind(evaluations)),
        "Left out": _left_out(evaluations),
        "All numbers": _all_numbers(numbers, _kind(evaluations) * (len(evaluations) > 1)),
        "Cost": _cost(evaluations),
        "Provenance": _provenance(evaluations),
    }
    named = [(title, title.lower().replace(" ", "-"), content) for title, content in sections.items() if content]
    links = " ".join(f'<a href="#{anchor}">{title}</a>' for title, anchor, _ in named)
    parts = "\n".join(f'<section id="{key}"><h2>{title}</h2>{content}</section>' for title, key, content in named)
    folder = resources.files("ssl_jax.evals.shared")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("report.css", "report.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{headline}</title><style>{style}</style></head>\n"
        f"<body><header><h1>{headline}</h1>{_alarms(evaluations)}{_context(evaluations)}<nav>{links}</nav></header>\n"
        f"<main>{parts}</main>\n<script>{script}</script></body></html>\n"
    )


def escape(text: str) -> str:
    """Of HTML, and of what cannot be shown."""
    return markup.escape(printable(text))


def _kind(evaluations: Evaluations) -> str:
    """What the names of the evaluations are of: "Data" where they are all of one checkpoint."""
    of = {(evaluation.get("provenance") or {}).get("checkpoint") for evaluation in evaluations.values()}
    return "Data" if len(of) == 1 and None not in of else "Run"


def _several_runs(evaluations: Evaluations) -> bool:
    return len(evaluations) > 1 and _kind(evaluations) == "Run"


def _sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _numbers(run: str, evaluation: Mapping[str, Any]) -> Iterator[_Number]:
    metrics, intervals = evaluation["metrics"], evaluation.get("intervals") or {}
    source: dict[str, tuple[str, str]] = {
        name: (evaluator, _settings(record))
        for evaluator, record in (evaluation.get("evaluators") or {}).items()
        for name in record.get("metrics") or ()
    }
    for name, value in metrics.items():
        yield _Number(run, name, value, intervals.get(name), metrics.get(f"{name}_std"), *source.get(name, ("", "")))
    for name, value in (evaluation.get("online") or {}).items():
        yield _Number(run, name, value, online=True, why=(evaluation.get("not_measured") or {}).get(name, ""))


# numbers and names in words


def _split(name: str) -> tuple[str, str]:
    """("test", "knn_top1") of "test_knn_top1"."""
    found = re.fullmatch(r"(train|val|test)_(.+)", name)
    return (found[1], found[2]) if found else ("", name)


def _metric(name: str) -> Metric:
    """What a name means by the first known key in it; an unknown name stands for itself."""
    rest = _split(name)[1]
    known = [metric for metric in METRICS if metric.key in rest]
    return min(known, key=lambda metric: rest.index(metric.key), default=Metric("", name, ""))


def _label(name: str) -> str:
    """A metric's name in plain words."""
    metric = _metric(name)
    rest = _split(name)[1].replace(metric.key, "", 1) if metric.key else ""
    rest = rest.replace("_top1", "").replace("top5", "top-5").replace("std", "spread").strip("_").replace("_", " ")
    rest = re.sub(r"^(\d+)\b", r"\1 per class", rest) if metric.key == "low_label" else rest
    return f"{metric.words}, {rest}" if rest else metric.words


def _is_share(name: str) -> bool:
    return re.search(r"top[15](_|$)", name) is not None


def _measured(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _shown(name: str, value: Any, percent: str = "\u00a0%") -> str:
    """Accuracies in percent, other numbers as they are."""
    if not _measured(value):
        return MISSING
    if _is_share(name):
        text = f"{100 * value:.1f}{percent}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def _interval(number: _Number) -> str:
    if not number.interval or not all(map(_measured, number.interval)):
        return ""
    return " to ".join(_shown(number.name, end, percent="") for end in number.interval)


def _with_interval(number: _Number) -> str:
    interval = _interval(number)
    return _shown(number.name, number.value) + (f" ({interval})" if interval else "")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"optim.name": "sgd"} of {"optim": {"name": "sgd"}}."""
    found = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": _text(value)}
    return found


def _settings(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in _flat(record.get("settings") or {}).items())


def _about(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance, what is unknown said so."""
    known = {key: value for key, value in (evaluation.get("provenance") or {}).items() if value is not None}
    return dict.fromkeys(("method", "model", "source", "evaluated_on", "seed", "step"), "unknown") | known


def _data(about: Mapping[str, Any]) -> str:
    same = about["source"] == about["evaluated_on"]
    return str(about["source"]) if same else f"{about['source']}, evaluated on {about['evaluated_on']}"


# the answer


def _is_whole(name: str) -> bool:
    """Not of a stage, a second setting, the top 5, a spread or a hyper-parameter."""
    name = re.sub(r"transfer_.*_((knn|linear)_)", r"\1", name)  # whatever a dataset is called
    return not re.search(r"stem|stage|block|layer|top5|_k\d|_l2|_loss$|_std$", name)


def _main(numbers: Sequence[_Number]) -> list[_Number]:
    """The main metrics in their order: of the last layer, and online only what was not measured offline."""
    offline = {number.name for number in numbers if not number.online}

    def order(number: _Number) -> int | None:
        metric = _metric(number.name)
        part = not _is_whole(number.name) or (number.online and number.name in offline)
        return METRICS.index(metric) if metric.main and not part else None

    placed = [(place, number) for number in numbers if (place := order(number)) is not None]
    return [number for _, number in sorted(placed, key=lambda pair: pair[0])]


def _headline(evaluations: Evaluations, numbers: Sequence[_Number], paired: Paired) -> str:
    found = [n for n in _main(numbers) or numbers if _measured(n.value)]
    found = [n for n in found if _is_share(n.name) and not n.online] or found
    if not found:
        return f"{', '.join(evaluations)}: nothing measured"
    name, split = found[0].name, _split(found[0].name)[0]
    about = [_about(evaluation) for evaluation in evaluations.values()]
    end = f" on {split}" if split else ""
    if len(evaluations) == 1:
        answer = ", ".join(f"{_label(n.name)}\u00a0{_with_interval(n)}" for n in found[:2])
        return f"{about[0]['method']} on {_data(about[0])}: {answer}{end}"
    if _kind(evaluations) == "Data":
        each = {n.run: n for n in reversed(found) if n.name == name}
        answer = "; ".join(
            f"{_label(name)}\u00a0{_with_interval(each[run])} on {run}{_if_last(run, evaluations)}"
            for run in evaluations
            if run in each
        )
        return f"{about[0]['method']} pretrained on {about[0]['source']}: {answer}"
    rivals = [n for n in found if n.name == name]
    if len({_data(a) for a in about}) > 1 or len(rivals) < len(evaluations) or not _is_share(name):
        return f"{len(evaluations)} runs evaluated: {', '.join(evaluations)}"
    best = max(rivals, key=lambda n: n.value)
    who = f"{best.run} has the highest {_label(name)} of {len(evaluations)} runs on {_data(about[0])}"
    equal = [
        test["b"] if test["a"] == best.run else test["a"]
        for test in paired
        if test["metric"] == name and best.run in (test["a"], test["b"]) and not _is_more_than_chance(test)
    ]
    tie = f"; no difference shown to {', '.join(equal)}" if equal else ""
    return f"{who}: {_with_interval(best)}{end}{tie}"


def _if_last(name: str, evaluations: Evaluations) -> str:
    """Of data that lie in one place and changed: which of them were evaluated last."""
    places = {name: _about(evaluation)["evaluated_on"] for name, evaluation in evaluations.items()}
    alike = [other for other, place in places.items() if place == places[name]]
    return ", the latest there" if len(alike) > 1 and alike[-1] == name else ""


def _alarms(evaluations: Evaluations) -> str:
    """What went wrong while a run was trained, one line a run; nothing where nothing did."""
    lines = []
    for run, evaluation in list(evaluations.items())[: None if _several_runs(evaluations) else 1]:
        found = evaluation.get("alarms") or {}
        about = _about(evaluation)
        damaged = ", ".join(str(step) for step in found.get("damaged") or () if step != about["step"])
        halted = about["step"] in (found.get("damaged") or ())
        steps = [str(step) for step in found.get("loss_spikes") or ()]
        more = f" and {len(steps) - SPIKES} more" if len(steps) > SPIKES else ""
        replaced = found.get("replaced") or 0
        said = [
            "collapsed" if found.get("collapsed") else "",
            f"loss jumped at step{'s' * (len(steps) > 1)} {', '.join(steps[:SPIKES])}{more}" if steps else "",
            f"step {found['nonfinite']} was not finite" if found.get("nonfinite") else "",
            f"{found['skipped']} step{'s' * (found['skipped'] > 1)} skipped" if found.get("skipped") else "",
            f"{replaced} unreadable example{'s' * (replaced > 1)} replaced" if replaced else "",
            f"checkpoint {damaged} is damaged: what was evaluated is that of step {about['step']}" if damaged else "",
            f"checkpoint {about['step']} is damaged: no run goes on from it, what was evaluated is whole" * halted,
            found.get("lost") or "",
        ]
        if any(said):
            lines.append(f"{run}: " * (_several_runs(evaluations)) + "; ".join(filter(None, said)))
    if not lines:
        return ""
    return f'<div class="alarm" role="alert"><strong>Alarms of the training run</strong>{_list(lines)}</div>'


def _context(evaluations: Evaluations) -> str:
    """What was measured and on what; said once where it is the same for several runs."""
    said: dict[str, list[str]] = {}
    for run, about in ((run, _about(evaluation)) for run, evaluation in evaluations.items()):
        test, train = (_shown("", about.get("sizes", {}).get(part)) for part in ("test", "train"))
        sentence = f"measured on {test} test examples of {about['evaluated_on']}, {train} labelled training examples"
        said.setdefault(sentence, []).append(
            f"{about['model']} pretrained on {about['source']} with {about['method']} (seed {about['seed']}, "
            f"step {about['step']})"
            if len(evaluations) == 1
            else run
        )
    lines = [f"{', '.join(who)}: {sentence}." for sentence, who in said.items()]
    lines.append(
        "Numbers are offline, computed afterwards from the saved checkpoint; online ones come from the training run "
        "itself. Ranges are 95\u00a0% intervals from a bootstrap over the test examples, ± is the deviation over draws."
    )
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _results(evaluations: Evaluations, numbers: Sequence[_Number]) -> str:
    found = {(number.run, number.name): number for number in _main(numbers)}
    if not found:
        return ""

    def value(number: _Number | None) -> _Cell:
        if number is None or not _measured(number.value):
            return _Cell(MISSING, note=number.why if number else "")
        spread = f" ± {_shown(number.name, number.spread, percent='')}" if _measured(number.spread) else ""
        return _Cell(_shown(number.name, number.value) + spread, number.value, _interval(number))

    labels = {name: _label(name) + ", online" * number.online for (_, name), number in found.items()}
    if len(evaluations) == 1:
        rows = [[_Cell(labels[n.name], note=_metric(n.name).meaning), value(n)] for n in found.values()]
        return _table("Main results", ("Metric", "Value"), rows)
    rows = []
    for run, evaluation in evaluations.items():
        about = _about(evaluation)
        who = _Cell(run, note=f"{about['method']} on {_data(about)}, seed {about['seed']}")
        rows.append([who, *(value(found.get((run, name))) for name in labels)])
    kind = _kind(evaluations)
    one = "a run" if kind == "Run" else "of each data"
    return _table(f"Main results, one row {one}", (kind, *labels.values()), rows)


def _comparison(paired: Paired, not_paired: Paired) -> str:
    paired = [test for test in paired if _is_whole(test["metric"])]
    content = ""
    if paired:
        note = f"Paired tests on the same test examples; in brackets the {INTERVAL} of the difference."
        if len(paired) > 1:
            note += f" Each p is that of its test alone, not corrected for there being {len(paired)}."
        sentences = _list(map(_sentence, paired))
        content = f'<h3>Which differences are more than chance</h3>{sentences}<p class="faint">{escape(note)}</p>'
    if not_paired:
        lines = [
            f"{pair['a']} and {pair['b']} on {', '.join(map(_label, pair['metrics']))}: {pair['reason']}"
            for pair in not_paired
        ]
        content += f"<h3>No paired test</h3>{_list(lines)}"
    return content


def _is_more_than_chance(test: Mapping[str, Any]) -> bool:
    known = all(_measured(test[key]) for key in ("low", "high", "p"))
    return known and test["low"] * test["high"] > 0 and test["p"] < 0.05


def _sentence(test: Mapping[str, Any]) -> str:
    """A paired test in words."""
    a, b, label = test["a"], test["b"], _label(test["metric"])
    values = [test[key] for key in ("difference", "low", "high")]
    if not all(map(_measured, (*values, test["p"]))):
        return f"{a} and {b} were not compared on {label}."
    if values[0] < 0:
        a, b, values = b, a, [-values[0], -values[2], -values[1]]
    size, low, high = (_shown(test["metric"], value, percent="") for value in values)
    size += " points" if _is_share(test["metric"]) else ""
    p = "p\u00a0<\u00a00.001" if test["p"] < 0.001 else f"p\u00a0=\u00a0{test['p']:.2g}"
    if _is_more_than_chance(test):
        return f"{a} is {size} above {b} on {label} ({low} to {high}, {p})."
    return f"No difference shown between {a} and {b} on {label} ({size}, {low} to {high}, {p})."


# the rest


def _pictures(figures: Mapping[str, Sequence[Figure]], kind: str) -> str:
    groups: dict[str, dict[str, list[str]]] = {}
    for run, pictures in figures.items():
        for picture in pictures:
            place = groups.setdefault(picture.section, {}).setdefault(picture.title, [])
            once = kind == "Data" and not picture.of_data
            if not (once and place):
                title = picture.title if once or len(figures) == 1 else f"{run}: {picture.title}"
                place.append(_picture(picture, title))
    return "".join(
        f"<h3>{escape(section)}</h3>"
        + "".join(f'<div class="pictures">{"".join(pictures)}</div>' for pictures in titles.values())
        for section, titles in groups.items()
    )


def _picture(figure: Figure, title: str) -> str:
    data = Path(figure.path).read_bytes()
    caption = f"<figcaption><b>{escape(title)}</b> {escape(figure.caption)}</figcaption>"
    if Path(figure.path).suffix == ".json":
        return f'<figure class="wide">{caption}{text_pages.neighbours(json.loads(data))}</figure>'
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{figure.path} is not a PNG file; save the picture as .png")
    width, height = struct.unpack(">II", data[16:24])
    wide = ' class="wide"' if width > WIDE else ""
    return (
        f'<figure{wide}><img alt="{escape(title)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">{caption}</figure>'
    )


def _all_numbers(numbers: Sequence[_Number], kind: str) -> str:
    several, rows = bool(kind), []
    for n in numbers:
        label, interval = _label(n.name), _interval(n)
        rows.append(
            [
                _Cell(label, note=n.name if label != n.name else ""),
                _Cell(_shown(n.name, n.value), n.value, "") if _measured(n.value) else _Cell(MISSING, note=n.why),
                _Cell(interval, n.interval[0] if n.interval and interval else None),
                *[_Cell(n.run)] * several,
                _Cell(_split(n.name)[0]),
                _Cell("online" if n.online else "offline"),
                _Cell(n.evaluator),
                _Cell(n.settings),
            ]
        )
    head = ("Metric", "Value", INTERVAL, *[kind] * several, "Split", "Measured", "Evaluator", "Settings")
    used = {_metric(n.name) for n in numbers}
    terms = "".join(f"<dt>{metric.words}</dt><dd>{metric.meaning}</dd>" for metric in METRICS if metric in used)
    words = f"<details><summary>What the names mean</summary><dl>{terms}</dl></details>" if terms else ""
    return _table("All numbers", head, rows) + words


def _left_out(evaluations: Evaluations) -> str:
    """What was not measured or drawn and why, and what must be known to read a number; once of what several share."""
    said: dict[str, dict[str, list[str]]] = {"Not measured": {}, "Pictures that are missing": {}, "To be known": {}}
    for run, evaluation in evaluations.items():
        found = [("Not measured", *line) for line in (evaluation.get("left_out") or {}).items()]
        found += [("Pictures that are missing", *line) for line in (evaluation.get("missing") or {}).items()]
        for evaluator, record in (evaluation.get("evaluators") or {}).items():
            for name, why in (record.get("left_out") or {}).items():
                found.append(("Pictures that are missing" if name.endswith(".png") else "Not measured", name, why))
            found += [("To be known", *line) for line in (record.get("notes") or {}).items()]
            if record.get("skipped"):  # as earlier versions wrote it
                found.append(("Not measured", evaluator, record["skipped"]))
        for heading, name, why in found:
            said[heading].setdefault(f"{name}: {why}", []).append(run)
    parts = []
    for heading, lines in said.items():
        several = [f"{line} ({', '.join(runs)})" if len(evaluations) > 1 else line for line, runs in lines.items()]
        parts += [f"<h3>{heading}</h3>{_list(several)}"] * bool(lines)
    return "".join(parts)


def _cost(evaluations: Evaluations) -> str:
    several = len(evaluations) > 1
    rows: list[list[_Cell]] = []
    for run, evaluation in evaluations.items():
        for evaluator, record in (evaluation.get("evaluators") or {}).items():
            cost = (("seconds", 1, "s"), ("peak_memory_mb", 0, "MB"))
            cells = [
                _Cell(f"{value:,.{digits}f} {unit}", value) if _measured(value := record.get(key)) else _Cell(MISSING)
                for key, digits, unit in cost
            ]
            rows.append([_Cell(evaluator, note=_settings(record)), *cells, *[_Cell(run)] * several])
    return _table("Cost", ("Evaluator", "Time", "Peak memory", *[_kind(evaluations)] * several), rows)


def _provenance(evaluations: Evaluations) -> str:
    known = [dict(evaluation.get("provenance") or {}) for evaluation in evaluations.values()]
    configs = _side_by_side([_flat(about.pop("config", None) or {}) for about in known])
    facts = _table("Provenance", ("Fact", *evaluations), _side_by_side([_flat(about) for about in known]))
    if not configs:
        return facts
    differ = [row for row in configs if len(set(row[1:])) > 1]
    title = f"Whole config: {len(configs)} settings"
    if len(evaluations) > 1:
        title += f"; the {len(differ)} that differ between the runs come first"
    table = _table("Config", ("Setting", *evaluations), [*differ, *(row for row in configs if row not in differ)])
    return f"{facts}<details><summary>{title}</summary>{table}</details>"


def _side_by_side(columns: Sequence[Mapping[str, str]]) -> list[list[_Cell]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [[_Cell(name), *(_Cell(column.get(name, "–")) for column in columns)] for name in names]


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[_Cell]]) -> str:
    """A table that scrolls in its own box: the first cell of a row is its header, numbers stand to the right."""
    if not rows:
        return ""
    number = [any(row[i].sort is not None for row in rows) for i in range(len(head))]

    def cell(c: _Cell, i: int) -> str:
        kinds = {"n": number[i], "none": c.text in ("", MISSING), "long": len(c.text) > 24}
        css = " ".join(kind for kind, it_is in kinds.items() if it_is)
        css = f' class="{css}"' if css else ""
        sort = "" if c.sort is None else f' data-sort="{float(c.sort)!r}"'
        note = f"<small>{escape(c.note)}</small>" if c.note else ""
        tag = "td" if i else 'th scope="row"'
        return f"<{tag}{css}{sort}>{escape(c.text)}{note}</{tag[:2]}>"

    top = "".join(f'<th scope="col" class="{"n" * n}">{escape(h)}</th>' for h, n in zip(head, number, strict=True))
    body = "\n".join(f"<tr>{''.join(cell(c, i) for i, c in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">'
        f"<table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
