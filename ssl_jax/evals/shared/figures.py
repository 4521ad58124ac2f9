"""Pictures of a run: images, accuracy with few labels, geometry, projections. To files, no global state."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ssl_jax.evals.shared import canvas
from ssl_jax.evals.shared.canvas import COLOURS, FAINT, GRID, INK, RIGHT, WRONG


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
    figure = canvas.blank(width, 0.25 + 1.05 * len(rows) + room)
    for i, line in enumerate(reversed(lines)):
        where = 0.06 / figure.get_figwidth(), (0.06 + 0.13 * i) / figure.get_figheight()
        figure.text(*where, line, ha="left", va="bottom", fontsize=6.5, color=FAINT, parse_math=False)
    axes = canvas.wall(figure, n, len(rows))
    for r, (row, name) in enumerate(zip(rows, named, strict=True)):
        canvas.say(axes.text(-0.12, r + 0.5, "", ha="right", va="center", fontsize=9, color=INK), name)
        for i in range(n):
            canvas.show(axes, row[i], i, r)
    canvas.save(figure, path, bottom=room, title=title)


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
    figure = canvas.blank(1.7 + 1.0 * (k + 1), 0.75 + high * q)
    first = 1.25  # the column of the nearest, a little apart from that of the queries
    axes = canvas.wall(figure, first + k, high * q)
    renderer = FigureCanvasAgg(figure).get_renderer()
    columns = [0, *(first + j for j in range(k))]
    for place, word in zip(columns, ("query", "nearest", *map(str, range(2, k + 1))), strict=False):
        axes.text(place + 0.5, -0.08, word, ha="center", va="bottom", fontsize=9, color=INK)
    for i in range(q):
        y = high * i
        canvas.show(axes, queries[i], 0, y)
        if query_labels is not None:
            text = axes.text(-0.12, y + 0.5, "", ha="right", va="center", fontsize=9, color=INK)
            canvas.say(text, _class_name(query_labels[i], class_names))
        for j in range(k):
            canvas.show(axes, found[i, j], first + j, y, None if agrees is None else (RIGHT if agrees[i, j] else WRONG))
        for place, caption in zip(columns, captions[i] if captions else (), strict=False):
            for n, line in enumerate(caption.splitlines()):
                where = place + 0.5, y + 0.99 + 0.12 * n
                text = axes.text(*where, "", ha="center", va="top", fontsize=6.5, color=FAINT)
                canvas.say_within(text, line, 0.92, renderer)  # inches; an image has about one
    if agrees is not None:
        line = f"{np.mean(agrees):.0%} of the neighbours shown share the query's class"
        second = 0.005 + 0.85 / figure.get_figwidth()
        figure.text(0.995, 0.005, line, ha="right", va="bottom", fontsize=8, color=FAINT)
        figure.text(0.005, 0.005, "same class", ha="left", va="bottom", fontsize=8, color=RIGHT, weight="bold")
        figure.text(second, 0.005, "other class", ha="left", va="bottom", fontsize=8, color=WRONG, weight="bold")
    canvas.save(figure, path, bottom=0 if agrees is None else 0.24, title=title)


def label_efficiency(table: Mapping[str, Mapping[str, Sequence[float | None]]], path: str | Path) -> None:
    """Accuracy by number of labels per class, one line per representation, bands of one deviation over the draws.

    Args:
      table: what :func:`ssl_jax.evals.low_label.label_efficiency` returns.
      path: file to write.
    """
    entries = list(table)
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    figure = canvas.blank(6.2, 4.0)
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
    canvas.plain(axes, "Accuracy with few labels", "labels per class", "test accuracy of a linear classifier")
    axes.set_xticks(where, entries)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    canvas.save(figure, path)


def energy(energies: Energies, path: str | Path) -> None:
    """Histograms of the energy of positive and of other pairs, and the gap between their means.

    Args:
      energies: what :func:`ssl_jax.evals.geometry.energy_histograms` returns.
      path: file to write.
    """
    figure = canvas.blank(6.2, 3.8)
    axes = figure.add_subplot()
    pairs = (("two views of one image", energies.positive), ("views of two images", energies.other))
    for (name, shares), mean, colour in zip(pairs, energies.means, COLOURS, strict=False):
        label = f"{name}, mean {mean:.2f}".replace("-", "−")
        axes.stairs(shares, energies.edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(shares, energies.edges, color=colour, linewidth=1.4, label=label)
        axes.axvline(mean, color=colour, linewidth=1, linestyle=(0, (4, 3)))
    title = f"Energy of pairs: gap {energies.gap:.2f}, AUC {energies.auc:.3f}"
    canvas.plain(axes, title, "energy: −cosine", "share of pairs")
    occupied = energies.edges[1:][(energies.positive + energies.other) > 0]
    axes.set_xlim(-1.02, occupied.max() + 0.02)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(canvas.PERCENT)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.4, loc="upper right")
    canvas.save(figure, path)


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
    figure = canvas.blank(6.2, 3.8)
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
    canvas.plain(axes, "Covariance spectrum of the features", "rank k", "eigenvalue")
    axes.tick_params(which="minor", length=0)
    canvas.save(figure, path)


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
    figure = canvas.blank(3.9 * columns + 1.3 * legend, 3.9 * rows)
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
            canvas.say(text, name)
    canvas.save(figure, path)


def _class_name(label, class_names: Sequence[str] | None) -> str:
    return str(class_names[int(label)]) if class_names and 0 <= label < len(class_names) else str(label)


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
