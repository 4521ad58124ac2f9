"""Curves of what a run logged, and of several runs in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from ssl_jax.evals.shared import canvas
from ssl_jax.evals.shared.canvas import COLOURS, FAINT, INK
from ssl_jax.evals.shared.names import shown
from ssl_jax.online.collapse import SKETCH

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
    figure = canvas.blank(4.4 * columns, 3.1 * high)
    for place, (heading, unit, names) in enumerate(panels):
        axes = figure.add_subplot(high, columns, place + 1)
        for number, name in enumerate(names):
            _curve(axes, *series[name], COLOURS[number % len(COLOURS)], name, smooth=heading != "Learning rate")
        most = _most_rank(_width(series), rows) if heading == "Effective rank" else None
        canvas.plain(axes, heading, "step", unit if most is None else f"{unit}, of {most}")
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
    canvas.save(figure, path, title=title)


def learning_curves(
    drawn: Mapping[str, Mapping[str, Sequence[tuple[Any, Any]]]],
    path: str | Path,
    title: str = "",
    table: Sequence[Sequence[str]] = (),
    columns: int | None = None,
    dashed: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Several runs in one picture: a panel per score, a colour per row, its seeds as a mean between least and most.

    Args:
      drawn: score -> row -> ``(epochs, values)`` of each seed. Seeds that were not measured at the same epochs are
        lines of their own. Panels "NAME SCORE" of one score have one scale.
      path: file to write.
      title: a line above all panels.
      table: rows of cells below the panels, the first one of headings.
      columns: panels side by side; default: three, or two of four.
      dashed: rows that are dashed, so that one is seen that lies beneath.
      notes: score -> what stands behind it above its panel.

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
    dashes |= dict.fromkeys(dashed, (0, (3, 3)))
    columns = columns or (2 if len(drawn) == 4 else min(3, len(drawn)))
    high = -(-len(drawn) // columns)
    tall, below = 3.1 * high, 0.24 * len(table)
    figure = canvas.blank(max(6.6 if table else 0, 4.4 * columns), tall + below + 0.22 * len(rows) + 0.2)
    grid = figure.add_gridspec(high + bool(table), columns, height_ratios=[3.1] * high + [below] * bool(table))
    if table:
        _table(figure.add_subplot(grid[high, :]), table)
    limits: dict[str, tuple[float, float]] = {}
    for place, (score, panel) in enumerate(drawn.items()):
        axes = figure.add_subplot(grid[divmod(place, columns)])
        for name, seeds in panel.items():
            style: dict[str, Any] = {"color": colours[name], "linestyle": dashes[name], "linewidth": 1.6}
            if len(seeds) > 1 and len({tuple(epochs) for epochs, _ in seeds}) == 1:
                epochs, values = seeds[0][0], np.array([of_one for _, of_one in seeds])
                axes.fill_between(epochs, values.min(0), values.max(0), color=colours[name], alpha=0.18, linewidth=0)
                seeds = [(epochs, values.mean(0))]
            for epochs, values in seeds:
                axes.plot(epochs, values, marker="o" if len(epochs) <= 25 else "", markersize=3, **style)
        heading = f"{score.replace('_', ' ')}{(notes or {}).get(score, '')}"
        canvas.plain(axes, heading, "epoch", "log scale" if score.endswith("perplexity") else "")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        if axes.dataLim.x0 == axes.dataLim.x1:  # one epoch: whole ones about it
            axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x0 + 1)
            axes.xaxis.set_major_locator(MaxNLocator(2, integer=True, steps=(1, 2, 5, 10)))
        _scale(axes, score)
        least, most = limits.get(kind := score.rpartition(" ")[2], axes.get_ylim())
        limits[kind] = min(least, axes.get_ylim()[0]), max(most, axes.get_ylim()[1])
    for axes, score in zip(figure.axes[bool(table) :], drawn, strict=True):
        axes.set_ylim(limits[score.rpartition(" ")[2]])
    handles = [Line2D([], [], color=colours[name], linestyle=dashes[name], linewidth=1.6) for name in rows]
    named = figure.legend(handles, rows, loc="outside lower left", frameon=False, fontsize=9, labelcolor=INK)
    for text, name in zip(named.get_texts(), rows, strict=True):
        canvas.say(text, name, width=100)
    canvas.save(figure, path, title=title)


def _table(axes: Axes, rows: Sequence[Sequence[str]]) -> None:
    """Cells as text, the first column to the left, others to the right."""
    axes.set_axis_off()
    wide = [max(len(row[i]) for row in rows) + 3 for i in range(len(rows[0]))]
    ends = np.cumsum(wide) / sum(wide)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            x, side = (0.0, "left") if j == 0 else (float(ends[j]), "right")
            place = {"transform": axes.transAxes, "ha": side, "va": "center", "fontsize": 8}
            text = axes.text(x, 1 - (i + 0.5) / len(rows), "", color=INK if i else FAINT, **place)
            canvas.say(text, cell, width=60)


def against_bands(drawn: Mapping[str, tuple[Any, ...]], path: str | Path, title: str = "") -> None:
    """A run against where it is to lie, a panel per metric.

    Args:
      drawn: metric -> (steps, mean, low, high, values of the run, whether it is on track); arrays ``[n]``, in which NaN
        leaves a gap.
      path: file to write.
      title: a line above all panels.

    Raises:
      ValueError: there is nothing to draw.
    """
    if not drawn:
        raise ValueError("no metric of the run has a reference")
    columns = min(3, len(drawn))
    figure = canvas.blank(4.4 * columns, 3.1 * -(-len(drawn) // columns))
    for place, (name, (steps, mean, low, high, values, on_track)) in enumerate(drawn.items()):
        axes = figure.add_subplot(-(-len(drawn) // columns), columns, place + 1)
        known, here = np.isfinite(mean), np.isfinite(values)
        axes.fill_between(steps[known], low[known], high[known], color=FAINT, alpha=0.25, linewidth=0, label="band")
        axes.plot(steps[known], mean[known], color=FAINT, linewidth=1, label="reference")
        colour = canvas.RIGHT if on_track else canvas.WRONG
        axes.plot(steps[here], values[here], color=colour, linewidth=1.6, marker="o", markersize=3, label="this run")
        canvas.plain(axes, f"{name.replace('_', ' ')}: {'on' if on_track else 'off'} track", "step", "")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10)))
        if name.endswith(("top1", "top5", "accuracy")):
            axes.yaxis.set_major_formatter(canvas.PERCENT)
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.4)
    canvas.save(figure, path, title=title)


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
        axes.yaxis.set_major_formatter(canvas.PERCENT)
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
