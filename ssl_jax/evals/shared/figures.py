"""Pictures of a run: curves, images, accuracy with few labels, geometry, projections. To files, no global state."""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from ssl_jax.evals.shared.names import shown
from ssl_jax.online.collapse import SKETCH

# Which weight of a font stands in for another is nothing that whoever evaluates a run could change.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e4e4e4"
# Okabe & Ito 2008: told apart by the colour-blind, too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b5b5b")
RIGHT, WRONG = "#009e73", "#d55e00"
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%")

# one panel per quantity: title, unit of the axis, what the metric's name ends in
PANELS = (
    ("Loss", "loss", ("loss",)),
    ("Accuracy", "top-1 accuracy", ("top1", "top5", "accuracy")),
    ("Perplexity", "perplexity, log scale", ("perplexity",)),
    ("Spread of projections", "std × √d (healthy: 1)", ("std_ratio",)),
    ("Effective rank", "dimensions", ("effective_rank",)),
    ("Learning rate", "learning rate", ("learning_rate", "lr")),
    ("Gradient norm", "norm", ("grad_norm",)),
)
# Whose size means something, by the last words of a name: their axes begin at zero, however little they change.
FROM_ZERO = ("top1", "top5", "accuracy", "rank", "rankme", "lidar", "std_ratio", "learning_rate", "lr", "grad_norm")
# What says how a run goes and not what it learns, and what a panel shows in other words. All else a method reports has
# a panel of its own.
_NOT_DRAWN = ("line", "input_wait", "epoch", "train_proj_std", "proj_std")  # and rates, "images_per_sec"


class Energies(NamedTuple):
    """Energies ``-cos`` of pairs of views: histograms on ``edges [bins + 1]`` over [-1, 1], as shares of the pairs.

    Attributes:
      positive: two views of one image, ``[bins]``.
      other: views of two images, ``[bins]``.
      means: of the positive and of the other pairs.
      gap: how much higher other pairs lie than positive ones; about 0 when the energy is flat, i.e. collapsed.
      auc: chance that a positive pair lies below another pair, ties counting one half; 1/2 when collapsed.
    """

    edges: np.ndarray
    positive: np.ndarray
    other: np.ndarray
    means: tuple[float, float]
    gap: float
    auc: float


def drawn(folder: Path, draws: Mapping[str, Callable[[Path], None]]) -> dict[str, str]:
    """Draw pictures; one that cannot be drawn ends nothing.

    Args:
      folder: where they go.
      draws: file name -> function that draws this picture to the path it is given.

    Returns:
      File name -> reason, of those that are missing.
    """
    missing = {}
    for name, draw in draws.items():
        try:
            (folder / name).unlink(missing_ok=True)  # one of an earlier time is not this one
            draw(folder / name)
        except Exception as error:  # of matplotlib, a decoder, the disk: a picture is worth no measurement
            missing[name] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return missing


def curves(records: Iterable[Mapping[str, Any]], path: str | Path, title: str = "", *, rows: int | None = None) -> None:
    """Metrics against steps, one panel per quantity that the run recorded; the method's own come last.

    Args:
      records: the lines of ``metrics.jsonl`` as mappings with ``"step"``; None and not-a-number leave a gap.
      path: file to write; the ending chooses the format.
      title: a line above all panels, such as the run's name.
      rows: of a batch, which bounds the effective rank as the width of the projections does.

    Raises:
      ValueError: there is nothing to draw.
    """
    series = _series(records)
    panels = []
    for heading, unit, endings in PANELS:
        names = [n for n in series if n.endswith(endings)]
        if names:
            panels.append((heading, unit, names))
    taken = {name for _, _, names in panels for name in names}
    own: dict[str, list[str]] = {}
    for name in (n for n in series if n not in (*taken, *_NOT_DRAWN) and not n.endswith("_per_sec")):
        own.setdefault(name.removeprefix("train_").removeprefix("val_"), []).append(name)
    panels += [(shown(word.replace("_", " ")).capitalize(), shown(word), names) for word, names in own.items()]
    if not panels:
        raise ValueError(f"no metric to draw among {sorted(series)}; log the loss at least once")
    columns = min(3, len(panels))
    high = -(-len(panels) // columns)
    figure = _figure(4.4 * columns, 3.1 * high)
    for place, (heading, unit, names) in enumerate(panels):
        axes = figure.add_subplot(high, columns, place + 1)
        for number, name in enumerate(names):
            _curve(axes, *series[name], COLOURS[number % len(COLOURS)], name, smooth=heading != "Learning rate")
        most = _most_rank(_width(series), rows) if heading == "Effective rank" else None
        _plain(axes, heading, "step", unit if most is None else f"{unit}, of {most}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10)))
        _scale(axes, names[0])
        if most is not None and axes.dataLim.y1 <= most <= 3 * axes.dataLim.y1:  # else it would flatten the curve
            _reference(axes, most, f"the most there can be: {most}")
            axes.set_ylim(0, 1.1 * most)
        if heading == "Spread of projections":
            _reference(axes, 0.2, "collapse alarm")
            axes.set_ylim(0, 1.08 * max(1.0, axes.dataLim.y1))
        if len(names) > 1 or heading in ("Loss", "Accuracy"):
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.4)
    _save(figure, path, title=title)


def learning_curves(
    drawn: Mapping[str, Mapping[str, Sequence[tuple[Any, Any]]]], path: str | Path, title: str = ""
) -> None:
    """Several runs in one picture: a panel per score, a colour per row, its seeds as a mean between least and most.

    Args:
      drawn: score -> row -> ``(epochs, values)`` of each seed. Seeds that were not measured at the same epochs are
        lines of their own.
      path: file to write.
      title: a line above all panels.

    Raises:
      ValueError: there is nothing to draw.
    """
    if not drawn:
        raise ValueError("no metric to draw; log the loss at least once")
    rows = list(dict.fromkeys(name for panel in drawn.values() for name in panel))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(rows)}
    dashes: dict[str, Any] = {
        name: ("-", "--", ":", "-.")[number // len(COLOURS) % 4] for number, name in enumerate(rows)
    }
    columns = min(3, len(drawn))
    high = -(-len(drawn) // columns)
    figure = _figure(4.4 * columns, 3.1 * high + 0.22 * len(rows) + 0.2)
    for place, (score, panel) in enumerate(drawn.items()):
        axes = figure.add_subplot(high, columns, place + 1)
        for name, seeds in panel.items():
            style: dict[str, Any] = {"color": colours[name], "linestyle": dashes[name], "linewidth": 1.6}
            if len(seeds) > 1 and len({tuple(epochs) for epochs, _ in seeds}) == 1:
                epochs, values = seeds[0][0], np.array([of_one for _, of_one in seeds])
                axes.fill_between(epochs, values.min(0), values.max(0), color=colours[name], alpha=0.18, linewidth=0)
                seeds = [(epochs, values.mean(0))]
            for epochs, values in seeds:
                axes.plot(epochs, values, marker="o" if len(epochs) <= 25 else "", markersize=3, **style)
        _plain(axes, score.replace("_", " "), "epoch", "log scale" if score.endswith("perplexity") else "")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        _scale(axes, score)
    handles = [Line2D([], [], color=colours[name], linestyle=dashes[name], linewidth=1.6) for name in rows]
    named = figure.legend(handles, rows, loc="outside lower left", frameon=False, fontsize=9, labelcolor=INK)
    for text, name in zip(named.get_texts(), rows, strict=True):
        _say(text, name, width=100)
    _save(figure, path, title=title)


def image_rows(named: Mapping[str, Any], path: str | Path, below: Sequence[str] = (), title: str = "") -> None:
    """Images and what was made of them: one column per example, one row per name.

    Args:
      named: title of the row -> ``[n, h, w, c]`` in [0, 1] or uint8; sizes may differ.
      path: file to write.
      below: sentences that say more, in small letters below the images; they are wrapped at commas.
      title: a line above the images.
    """
    rows = [np.asarray(row) for row in named.values()]
    n = len(rows[0])
    width = 0.9 + 1.05 * n
    lines = [line for text in below for line in wrapped(text, int(width / 0.062))]
    room = 0.13 * len(lines) + 0.1 * bool(lines)
    figure = _figure(width, 0.25 + 1.05 * len(rows) + room)
    for i, line in enumerate(reversed(lines)):
        where = 0.06 / figure.get_figwidth(), (0.06 + 0.13 * i) / figure.get_figheight()
        figure.text(*where, line, ha="left", va="bottom", fontsize=6.5, color=FAINT, parse_math=False)
    axes = _wall(figure, n, len(rows))
    for r, (row, name) in enumerate(zip(rows, named, strict=True)):
        _say(axes.text(-0.12, r + 0.5, "", ha="right", va="center", fontsize=9, color=INK), name)
        for i in range(n):
            _show(axes, row[i], i, r)
    _save(figure, path, bottom=room, title=title)


def wrapped(text: str, letters: int) -> list[str]:
    """Lines of so many letters; a word and its number, ``p 0.8``, stay together."""
    kept = [part.strip().replace(" ", "\u00a0") for part in text.split(",")]
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(", ".join(kept), letters)] if text else []


def neighbours(
    query_images,
    neighbour_images,
    path: str | Path,
    *,
    query_labels=None,
    neighbour_labels=None,
    class_names: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    title: str = "",
) -> None:
    """Test images and their nearest train images by cosine, nearest first; the frame says whether the class agrees.

    Args:
      query_images: ``[q, h, w, c]``.
      neighbour_images: ``[q, k, h, w, c]``.
      path: file to write.
      query_labels: ``[q]`` or None.
      neighbour_labels: ``[q, k]`` or None.
      class_names: names of the classes; without them the numbers are shown.
      captions: ``[q][1 + k]`` of small letters below each query and its neighbours, such as a cosine and, on a line of
        its own, a file's name, whose middle is left out where it is too long.
      title: a line above the images.
    """
    queries, found = np.asarray(query_images), np.asarray(neighbour_images)
    q, k = found.shape[:2]
    agrees = None
    if query_labels is not None and neighbour_labels is not None:
        agrees = np.asarray(query_labels)[:, None] == np.asarray(neighbour_labels)
    lines = max((caption.count("\n") + 1 for row in captions or () for caption in row), default=0)
    high = 1.0 + 0.03 * bool(lines) + 0.12 * lines
    figure = _figure(1.7 + 1.0 * (k + 1), 0.75 + high * q)
    first = 1.25  # the column of the nearest, a little apart from that of the queries
    axes = _wall(figure, first + k, high * q)
    renderer = FigureCanvasAgg(figure).get_renderer()
    columns = [0, *(first + j for j in range(k))]
    for place, word in zip(columns, ("query", "nearest", *map(str, range(2, k + 1))), strict=False):
        axes.text(place + 0.5, -0.08, word, ha="center", va="bottom", fontsize=9, color=INK)
    for i in range(q):
        y = high * i
        _show(axes, queries[i], 0, y)
        if query_labels is not None:
            text = axes.text(-0.12, y + 0.5, "", ha="right", va="center", fontsize=9, color=INK)
            _say(text, _class_name(query_labels[i], class_names))
        for j in range(k):
            _show(axes, found[i, j], first + j, y, None if agrees is None else (RIGHT if agrees[i, j] else WRONG))
        for place, caption in zip(columns, captions[i] if captions else (), strict=False):
            for n, line in enumerate(caption.splitlines()):
                where = place + 0.5, y + 0.99 + 0.12 * n
                text = axes.text(*where, "", ha="center", va="top", fontsize=6.5, color=FAINT)
                _say_within(text, line, 0.92, renderer)  # inches; an image has about one
    if agrees is not None:
        line = f"{np.mean(agrees):.0%} of the neighbours shown share the query's class"
        second = 0.005 + 0.85 / figure.get_figwidth()
        figure.text(0.995, 0.005, line, ha="right", va="bottom", fontsize=8, color=FAINT)
        figure.text(0.005, 0.005, "same class", ha="left", va="bottom", fontsize=8, color=RIGHT, weight="bold")
        figure.text(second, 0.005, "other class", ha="left", va="bottom", fontsize=8, color=WRONG, weight="bold")
    _save(figure, path, bottom=0 if agrees is None else 0.24, title=title)


def label_efficiency(table: Mapping[str, Mapping[str, Sequence[float | None]]], path: str | Path) -> None:
    """Accuracy by number of labels per class, one line per representation, bands of one deviation over the draws.

    Args:
      table: what :func:`ssl_jax.evals.low_label.label_efficiency` returns.
      path: file to write.
    """
    entries = list(table)
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    figure = _figure(6.2, 4.0)
    axes = figure.add_subplot()
    where = np.arange(len(entries))
    ends = []
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        mean, deviation = np.array([table[entry][name] for entry in entries], float).T
        axes.fill_between(where, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        axes.plot(where, mean, color=colour, marker="o", markersize=4.5, linewidth=1.8)
        ends.append((mean[-1], f"{name}  {mean[-1]:.1%}", colour))
    axes.set_ylim(0, 1.01)  # the same one in the panels of every run
    for height, (_, text, colour) in zip(_spread([e[0] for e in ends], 0.055), ends, strict=True):
        beside = {"xytext": (8, 0), "textcoords": "offset points", "annotation_clip": False}  # 100 % is at the edge
        axes.annotate(text, (where[-1], height), **beside, va="center", fontsize=9, color=colour)
    _plain(axes, "Accuracy with few labels", "labels per class", "test accuracy of a linear classifier")
    axes.set_xticks(where, entries)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _save(figure, path)


def energy(energies: Energies, path: str | Path) -> None:
    """Histograms of the energy of positive and of other pairs, and the gap between their means.

    Args:
      energies: what :func:`ssl_jax.evals.geometry.energy_histograms` returns.
      path: file to write.
    """
    figure = _figure(6.2, 3.8)
    axes = figure.add_subplot()
    pairs = (("two views of one image", energies.positive), ("views of two images", energies.other))
    for (name, shares), mean, colour in zip(pairs, energies.means, COLOURS, strict=False):
        label = f"{name}, mean {mean:.2f}".replace("-", "−")
        axes.stairs(shares, energies.edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(shares, energies.edges, color=colour, linewidth=1.4, label=label)
        axes.axvline(mean, color=colour, linewidth=1, linestyle=(0, (4, 3)))
    title = f"Energy of pairs: gap {energies.gap:.2f}, AUC {energies.auc:.3f}"
    _plain(axes, title, "energy: −cosine", "share of pairs")
    occupied = energies.edges[1:][(energies.positive + energies.other) > 0]
    axes.set_xlim(-1.02, occupied.max() + 0.02)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.4, loc="upper right")
    _save(figure, path)


def spectrum(eigenvalues, alpha: float, scale: float, path: str | Path) -> None:
    """Eigenvalues of the covariance by rank, with the line ``scale k^-alpha``; both axes are logarithmic.

    Args:
      eigenvalues: ``[d]``, largest first; those that are not positive are left out.
      alpha: of :func:`ssl_jax.evals.geometry.power_law`; NaN draws no line.
      scale: of the same.
      path: file to write.
    """
    e = np.asarray(eigenvalues, np.float64)
    rank = np.arange(1, len(e) + 1)
    figure = _figure(6.2, 3.8)
    axes = figure.add_subplot()
    if (e > 0).any():
        axes.loglog(rank[e > 0], e[e > 0], color=COLOURS[0], linewidth=1.8, label="eigenvalues")
    else:
        axes.text(0.5, 0.5, "all features are constant", transform=axes.transAxes, ha="center", color=FAINT)
    if np.isfinite(alpha):
        line, dashes = scale * rank**-alpha, (0, (4, 3))
        label = f"$k^{{-α}}$, α = {alpha:.2f}"
        axes.loglog(rank, line, color=COLOURS[1], linewidth=1.2, linestyle=dashes, label=label)
        # a tail of rounding noise would flatten all that matters
        low = max(e[0] * 1e-12, min(line[-1], e[e > 0][-1]))
        axes.set_ylim(low / 2, 2 * max(e[0], line[0]))
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=2, loc="lower left")
    _plain(axes, "Covariance spectrum of the features", "rank k", "eigenvalue")
    axes.tick_params(which="minor", length=0)
    _save(figure, path)


def projection(
    panels: Mapping[str, tuple[np.ndarray, str]],
    path: str | Path,
    *,
    labels=None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Points in the plane, one panel per method, coloured by class.

    Args:
      panels: title -> (points ``[n, 2]``, a line about them).
      path: file to write.
      labels: ``[n]``, -1 where unknown, or None; up to 20 classes get a legend.
      class_names: names of the classes; without them the numbers are shown.
    """
    n = len(next(iter(panels.values()))[0])
    labels = np.full(n, -1) if labels is None else np.asarray(labels)
    classes = np.unique(labels[labels >= 0])
    palette = colormaps["tab10" if len(classes) <= 10 else "tab20" if len(classes) <= 20 else "hsv"]
    colours = palette(np.arange(len(classes)) if len(classes) <= 20 else np.linspace(0, 0.95, len(classes)))
    rows, columns = -(-len(panels) // 3), min(3, len(panels))
    legend = 0 < len(classes) <= 20
    figure = _figure(3.9 * columns + 1.3 * legend, 3.9 * rows)
    grid = figure.add_gridspec(rows, columns, wspace=0.04, hspace=0.06)
    order = np.random.default_rng(0).permutation(n)  # no class lies on top of the others
    dots = np.empty((n, 4))
    dots[:] = to_rgba(COLOURS[0] if not len(classes) else FAINT)
    for label, colour in zip(classes, colours, strict=True):
        dots[labels == label] = colour
    for place, (title, (points, about)) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        axes.scatter(*points[order].T, s=float(np.clip(9000 / n, 3, 22)), c=dots[order], linewidth=0, alpha=0.8)
        axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
        axes.set_title(about, loc="right", fontsize=8.5, color=FAINT)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(GRID)
    if legend:
        names = [_class_name(label, class_names) for label in classes]
        handles = [Line2D([], [], marker="o", linewidth=0, markersize=5, color=c) for c in colours]
        blank = [" "] * len(names)  # matplotlib leaves out what begins with "_"
        made = figure.legend(handles, blank, loc="outside right center", frameon=False, fontsize=9, labelcolor=INK)
        for text, name in zip(made.get_texts(), names, strict=True):
            _say(text, name)
    _save(figure, path)


def _class_name(label, class_names: Sequence[str] | None) -> str:
    return str(class_names[int(label)]) if class_names and 0 <= label < len(class_names) else str(label)


def _say(text: Text, name: str, width: int = 28) -> None:
    """Put a name that may be anything: no mathematics, and escapes for what no font here has a glyph of."""
    label, families = shown(name, width), [*rcParams["font.sans-serif"][:1]]
    for c in sorted(set(label)):
        family = next((family for family in (*families, *_installed()) if ord(c) in _glyphs(family)), None)
        if family is None:
            label = label.replace(c, c.encode("unicode_escape").decode())
        elif family not in families:
            families.append(family)
    text.set(parse_math=False, fontfamily=families, text=label)


def _say_within(text: Text, name: str, inches: float, renderer: RendererAgg) -> None:
    """A name whose middle is left out until it is so wide."""
    room, width = inches * renderer.dpi, len(name) + 2
    _say(text, name, width)
    while width > 5 and (wide := text.get_window_extent(renderer).width) > room:
        width = min(width - 1, round(len(text.get_text()) * room / wide))
        _say(text, name, width)


@functools.cache
def _glyphs(family: str) -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=[family]))).get_charmap())


@functools.cache
def _installed() -> tuple[str, ...]:
    """Families to look for a letter in; not those of one glyph for everything, nor those that come for formulas."""
    found = dict.fromkeys(font.name for font in sorted(fontManager.ttflist, key=lambda font: font.name))
    return tuple(name for name in found if not name.startswith(("Last Resort", "STIX", "cm")))


def _series(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values by metric name, in the order of first appearance."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and (value is None or isinstance(value, int | float | np.number)):
                found.setdefault(name, []).append((record["step"], np.nan if value is None else float(value)))
    series = {name: tuple(np.array(sorted(points, key=lambda p: p[0])).T) for name, points in found.items()}
    return {name: (x, y) for name, (x, y) in series.items() if np.isfinite(y).any()}


def _scale(axes: Axes, name: str) -> None:
    """The vertical axis of what a metric is called so: from zero where its numbers are not negative, or said so."""
    if name.endswith(("top1", "top5", "accuracy")):
        axes.yaxis.set_major_formatter(_PERCENT)
    if name.endswith("perplexity"):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        if axes.dataLim.y1 > 5 * axes.dataLim.y0:  # else labels of all would run into each other
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axes.tick_params(which="minor", length=0, labelsize=8, labelcolor=FAINT)
        return
    least, most = axes.dataLim.y0, axes.dataLim.y1
    if least < -0.02 * abs(most):
        return
    if name.endswith(FROM_ZERO) or least <= 0.75 * most:
        axes.set_ylim(min(0, 1.05 * least), 1.05 * most or 1)
        for line in axes.lines:  # a point at zero is a whole one
            line.set_clip_on(False)
    else:  # little would be seen of it
        begins = f"axis from {axes.get_ylim()[0]:.3g}"
        axes.set_ylabel(", ".join(filter(None, (axes.get_ylabel(), begins))))


def _reference(axes: Axes, height: float, said: str) -> None:
    """A dashed line across, and what it is."""
    axes.axhline(height, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    beside = {"xytext": (-2, 2), "textcoords": "offset points", "fontsize": 7.5, "color": FAINT}
    axes.annotate(said, (1, height), xycoords=axes.get_yaxis_transform(), ha="right", va="bottom", **beside)


def _most_rank(width: int | None, rows: int | None) -> int | None:
    """What the effective rank of projections of a batch can be at most; None where their width is not known."""
    bounds = (width, SKETCH, None if rows is None else rows - 1)
    return None if width is None else min(bound for bound in bounds if bound is not None)


def _width(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> int | None:
    """d of the projections: their spread is logged, and that times the root of d."""
    for name, (_, ratios) in series.items():
        spreads = series.get(name.removesuffix("_ratio"))
        if name.endswith("proj_std_ratio") and spreads is not None and spreads[1][-1] > 0:
            return round(float(ratios[-1] / spreads[1][-1]) ** 2) if np.isfinite(ratios[-1]) else None
    return None


def _curve(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, name: str, *, smooth: bool = True) -> None:
    """A line; where there are many noisy points, a faint line and its moving average."""
    few = len(steps) <= 60
    style = {"marker": "o", "markersize": 3.5} if len(steps) <= 25 else {}
    if few or not smooth or not np.isfinite(values).all():
        axes.plot(steps, values, color=colour, linewidth=1.6, label=name, **style)
        return
    width = max(5, len(steps) // 40)
    kernel = np.ones(width)
    average = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(steps, average, color=colour, linewidth=1.6, label=name)


def _wall(figure: Figure, width: float, height: float) -> Axes:
    """Axes without lines for images of size 1: one for all of them, since hundreds of axes take seconds to lay out."""
    axes = figure.add_subplot()
    axes.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal", anchor="E", autoscale_on=False)
    axes.set_axis_off()
    return axes


def _show(axes: Axes, image: np.ndarray, x: float, y: float, frame: str | None = None) -> None:
    """An image on the wall, with its upper left corner at (x, y)."""
    image = np.asarray(image)
    grey = image.ndim == 2 or image.shape[-1] == 1
    image = image.reshape(image.shape[:2]) if grey else image[..., :3]
    top = 255 if image.dtype == np.uint8 else 1
    if image.dtype != np.uint8:
        image = np.clip(image.astype(np.float32), 0, 1)
    gap = 0.02 if frame is None else 0.05
    corners = (x + gap, x + 1 - gap, y + 1 - gap, y + gap)
    cmap = "gray" if grey else None
    axes.imshow(image, cmap=cmap, vmin=0, vmax=top, interpolation="nearest", extent=corners)
    if frame is not None:
        size = 1 - 2 * gap
        axes.add_patch(Rectangle((x + gap, y + gap), size, size, fill=False, edgecolor=frame, linewidth=2.2))


def _plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
    axes.set_xlabel(x, fontsize=9, color=FAINT)
    axes.set_ylabel(y, fontsize=9, color=FAINT)
    axes.tick_params(labelsize=8, colors=FAINT, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def _spread(heights, gap: float) -> np.ndarray:
    """The heights, moved apart until neighbours are ``gap`` from each other, in their old order."""
    heights = np.asarray(heights, float)
    order = np.argsort(heights, kind="stable")
    moved = heights[order]
    for _ in range(50):
        for i in range(1, len(moved)):
            lack = gap - (moved[i] - moved[i - 1])
            if lack > 0:
                moved[i - 1], moved[i] = moved[i - 1] - lack / 2, moved[i] + lack / 2
    result = np.empty_like(moved)
    result[order] = moved
    return result


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, facecolor="white")


def _save(figure: Figure, path: str | Path, bottom: float = 0, title: str = "") -> None:
    """Write the file; ``bottom`` inches stay free for a line of text, and ``title`` stands above all."""
    if title:
        _say(figure.suptitle("", x=0.005, ha="left", fontsize=9, color=FAINT), title, width=100)
    share = bottom / figure.get_figheight()
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
