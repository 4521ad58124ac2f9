"""A picture of what a recipe does to images, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.evals.shared import canvas, figures

LABEL, LETTERS = 3.1, 52  # inches of the numbers beside a row, and letters in a line of them
HEAD = 0.5  # of an image's height


class Block(NamedTuple):
    """Rows of images below each other, under one title.

    Attributes:
      title: of the block.
      labels: (name, numbers in words) of each row.
      rows: images ``[n, s, s, c]`` of each row; sizes may differ.
      steps: whether each row is made of the one above it, so that what it changed can be told.
    """

    title: str
    labels: Sequence[tuple[str, str]]
    rows: Sequence[np.ndarray]
    steps: bool = True


def draw(title: str, originals: np.ndarray, blocks: Sequence[Block], group: int, path: str | Path) -> None:
    """Originals above, then the blocks; columns are images, ``group`` draws of each side by side.

    A frame says which images an operation changed; in a row of crops all are.
    """
    n, gap = len(originals), 0.25
    places = np.arange(n) + gap * (np.arange(n) // group)
    height = 1 + sum(HEAD + len(block.rows) for block in blocks)
    figure = canvas.blank(LABEL + 0.95 * (places[-1] + 1), 0.95 * height + 0.75)
    axes = canvas.wall(figure, places[-1] + 1, height)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold", color=canvas.INK)

    def row(y: float, label: tuple[str, str], images: np.ndarray, before: np.ndarray | None = None) -> None:
        name, numbers = label
        lines = figures.wrapped(numbers, LETTERS)
        top = y + 0.5 - 0.075 * len(lines)
        axes.text(-0.12, top, name, ha="right", va="center", fontsize=9, color=canvas.INK, parse_math=False)
        for i, line in enumerate(lines):
            where = -0.12, top + 0.17 + 0.135 * i
            axes.text(*where, line, ha="right", va="center", fontsize=6.5, color=canvas.FAINT, parse_math=False)
        for i, image in enumerate(images):
            changed = before is not None and not np.array_equal(image, before[i])
            canvas.show(axes, image, places[i], y, canvas.COLOURS[0] if changed else None)

    row(0, ("original", ""), originals)
    y, framed = 1.0, False
    for block in blocks:
        axes.text(0, y + HEAD - 0.08, block.title, ha="left", va="bottom", fontsize=9, color=canvas.INK, weight="bold")
        y += HEAD
        for i, (label, images) in enumerate(zip(block.labels, block.rows, strict=True)):
            row(y, label, images, block.rows[i - 1] if block.steps and i else None)
            framed |= block.steps and i > 0
            y += 1
    if framed:
        line = "framed: changed by this operation"
        figure.text(0.995, 0.005, line, ha="right", va="bottom", fontsize=8, color=canvas.COLOURS[0])
    canvas.save(figure, path, bottom=0.24)
