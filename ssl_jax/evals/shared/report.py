"""An evaluation as one HTML file that opens offline: the answer, the pictures, all numbers and where they come from.

Nothing is loaded from elsewhere: pictures are inlined, and the page's own content security policy forbids the rest. Its
parts are functions of values, each escaped where it is written; an engine of templates would add a dependency and a
second language to these.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ssl_jax.evals.shared import text_pages, wording
from ssl_jax.evals.shared.names import printable
from ssl_jax.evals.shared.wording import MISSING, Number, is_measured, is_share, shown
from ssl_jax.names import is_imported, short

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


WIDE = 1400  # pixels: a picture that is wider is not put beside another
SPIKES = 10  # steps of a run that are told
INTERVAL = "95\u00a0% interval"


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
        "alarms", "evaluators", "left_out", "missing", "notes" (name -> what must be known), "provenance",
        "not_measured" (metric -> reason).
      figures: run name -> its pictures; a run may have none.
      paired: paired tests {"metric", "a", "b", "difference", "low", "high", "p"}: a minus b on the same examples, the
        95 % interval of that, and p.
      not_paired: {"metrics", "a", "b", "reason"} where there is no test.

    Raises:
      ValueError: there is no evaluation, or a picture is not a PNG file.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to report; give at least one run")
    numbers = [number for run, evaluation in evaluations.items() for number in wording.numbers(run, evaluation)]
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


def _about(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance, what is unknown said so; parts of the user's own by their short names."""
    known = {key: value for key, value in (evaluation.get("provenance") or {}).items() if value is not None}
    known |= {key: short(known[key]) for key in ("method", "model") if is_imported(known.get(key))}
    return dict.fromkeys(("method", "model", "source", "evaluated_on", "seed", "step"), "unknown") | known


def _data(about: Mapping[str, Any]) -> str:
    same = about["source"] == about["evaluated_on"]
    return str(about["source"]) if same else f"{about['source']}, evaluated on {about['evaluated_on']}"


# the answer


def _headline(evaluations: Evaluations, numbers: Sequence[Number], paired: Paired) -> str:
    found = [n for n in wording.main(numbers) or numbers if is_measured(n.value)]
    found = [n for n in found if is_share(n.name) and not n.online] or found
    if not found:
        return f"{', '.join(evaluations)}: nothing measured"
    name, split = found[0].name, wording.split(found[0].name)[0]
    about = [_about(evaluation) for evaluation in evaluations.values()]
    end = f" on {split}" if split else ""
    if len(evaluations) == 1:
        answer = ", ".join(f"{wording.label(n.name)}\u00a0{wording.with_interval(n)}" for n in found[:2])
        return f"{about[0]['method']} on {_data(about[0])}: {answer}{end}"
    if _kind(evaluations) == "Data":
        each = {n.run: n for n in reversed(found) if n.name == name}
        answer = "; ".join(
            f"{wording.label(name)}\u00a0{wording.with_interval(each[run])} on {run}{_if_last(run, evaluations)}"
            for run in evaluations
            if run in each
        )
        return f"{about[0]['method']} pretrained on {about[0]['source']}: {answer}"
    rivals = [n for n in found if n.name == name]
    if len({_data(a) for a in about}) > 1 or len(rivals) < len(evaluations) or not is_share(name):
        return f"{len(evaluations)} runs evaluated: {', '.join(evaluations)}"
    best = max(rivals, key=lambda n: n.value)
    who = f"{best.run} has the highest {wording.label(name)} of {len(evaluations)} runs on {_data(about[0])}"
    equal = [
        test["b"] if test["a"] == best.run else test["a"]
        for test in paired
        if test["metric"] == name and best.run in (test["a"], test["b"]) and not _is_more_than_chance(test)
    ]
    tie = f"; no difference shown to {', '.join(equal)}" if equal else ""
    return f"{who}: {wording.with_interval(best)}{end}{tie}"


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
        test, train = (shown("", about.get("sizes", {}).get(part)) for part in ("test", "train"))
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


def _results(evaluations: Evaluations, numbers: Sequence[Number]) -> str:
    found = {(number.run, number.name): number for number in wording.main(numbers)}
    if not found:
        return ""

    def value(number: Number | None) -> _Cell:
        if number is None or not is_measured(number.value):
            return _Cell(MISSING, note=number.why if number else "")
        spread = f" ± {shown(number.name, number.spread, percent='')}" if is_measured(number.spread) else ""
        return _Cell(shown(number.name, number.value) + spread, number.value, wording.interval(number))

    def meaning(number: Number) -> str:
        if number.own is not None:
            return f"of your own evaluator, {number.evaluator}"
        return wording.metric_of(number.name).meaning

    labels = {name: wording.label(name) + ", online" * number.online for (_, name), number in found.items()}
    if len(evaluations) == 1:
        rows = [[_Cell(labels[n.name], note=meaning(n)), value(n)] for n in found.values()]
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
    paired = [test for test in paired if wording.is_whole(test["metric"])]
    content = ""
    if paired:
        note = f"Paired tests on the same test examples; in brackets the {INTERVAL} of the difference."
        if len(paired) > 1:
            note += f" Each p is that of its test alone, not corrected for there being {len(paired)}."
        sentences = _list(map(_sentence, paired))
        content = f'<h3>Which differences are more than chance</h3>{sentences}<p class="faint">{escape(note)}</p>'
    if not_paired:
        lines = [
            f"{pair['a']} and {pair['b']} on {', '.join(map(wording.label, pair['metrics']))}: {pair['reason']}"
            for pair in not_paired
        ]
        content += f"<h3>No paired test</h3>{_list(lines)}"
    return content


def _is_more_than_chance(test: Mapping[str, Any]) -> bool:
    known = all(is_measured(test[key]) for key in ("low", "high", "p"))
    return known and test["low"] * test["high"] > 0 and test["p"] < 0.05


def _sentence(test: Mapping[str, Any]) -> str:
    """A paired test in words."""
    a, b, label = test["a"], test["b"], wording.label(test["metric"])
    values = [test[key] for key in ("difference", "low", "high")]
    if not all(map(is_measured, (*values, test["p"]))):
        return f"{a} and {b} were not compared on {label}."
    if values[0] < 0:
        a, b, values = b, a, [-values[0], -values[2], -values[1]]
    size, low, high = (shown(test["metric"], value, percent="") for value in values)
    size += " points" if is_share(test["metric"]) else ""
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


def _all_numbers(numbers: Sequence[Number], kind: str) -> str:
    several, rows = bool(kind), []
    for n in numbers:
        label, interval = wording.label(n.name), wording.interval(n)
        rows.append(
            [
                _Cell(label, note=n.name if label != n.name else ""),
                _Cell(shown(n.name, n.value), n.value, "") if is_measured(n.value) else _Cell(MISSING, note=n.why),
                _Cell(interval, n.interval[0] if n.interval and interval else None),
                *[_Cell(n.run)] * several,
                _Cell(wording.split(n.name)[0]),
                _Cell("online" if n.online else "offline"),
                _Cell(n.evaluator),
                _Cell(n.settings),
            ]
        )
    head = ("Metric", "Value", INTERVAL, *[kind] * several, "Split", "Measured", "Evaluator", "Settings")
    used = {wording.metric_of(n.name) for n in numbers}
    terms = "".join(f"<dt>{metric.words}</dt><dd>{metric.meaning}</dd>" for metric in wording.METRICS if metric in used)
    words = f"<details><summary>What the names mean</summary><dl>{terms}</dl></details>" if terms else ""
    return _table("All numbers", head, rows) + words


def _left_out(evaluations: Evaluations) -> str:
    """What was not measured or drawn and why, and what must be known to read a number; once of what several share."""
    said: dict[str, dict[str, list[str]]] = {"Not measured": {}, "Pictures that are missing": {}, "To be known": {}}
    for run, evaluation in evaluations.items():
        found = [("Not measured", *line) for line in (evaluation.get("left_out") or {}).items()]
        found += [("Pictures that are missing", *line) for line in (evaluation.get("missing") or {}).items()]
        found += [("To be known", *line) for line in (evaluation.get("notes") or {}).items()]
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
                _Cell(f"{value:,.{digits}f} {unit}", value) if is_measured(value := record.get(key)) else _Cell(MISSING)
                for key, digits, unit in cost
            ]
            rows.append([_Cell(evaluator, note=wording.settings(record)), *cells, *[_Cell(run)] * several])
    return _table("Cost", ("Evaluator", "Time", "Peak memory", *[_kind(evaluations)] * several), rows)


def _provenance(evaluations: Evaluations) -> str:
    known = [dict(evaluation.get("provenance") or {}) for evaluation in evaluations.values()]
    configs = _side_by_side([wording.flat(about.pop("config", None) or {}) for about in known])
    facts = _table("Provenance", ("Fact", *evaluations), _side_by_side([wording.flat(about) for about in known]))
    if not configs:
        return facts
    differ = [row for row in configs if len(set(row[1:])) > 1]
    title = f"Whole config: {len(configs)} settings"
    if len(evaluations) > 1 and differ:
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
