"""What all pictures are drawn with: canvas and file, axes, images on a wall, names that may be anything."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from ssl_jax.evals.shared.names import shown

# Which weight of a font stands in for another is nothing that whoever evaluates a run could change.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e4e4e4"
# Okabe & Ito 2008: told apart by the colour-blind, too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b5b5b")
RIGHT, WRONG = "#009e73", "#d55e00"
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%")


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


def blank(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, facecolor="white")


def save(figure: Figure, path: str | Path, bottom: float = 0, title: str = "") -> None:
    """Write the file; ``bottom`` inches stay free for a line of text, and ``title`` stands above all."""
    if title:
        say(figure.suptitle("", x=0.005, ha="left", fontsize=9, color=FAINT), title, width=100)
    share = bottom / figure.get_figheight()
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def plain(axes: Axes, title: str, x: str, y: str) -> None:
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


def wall(figure: Figure, width: float, height: float) -> Axes:
    """Axes without lines for images of size 1: one for all of them, since hundreds of axes take seconds to lay out."""
    axes = figure.add_subplot()
    axes.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal", anchor="E", autoscale_on=False)
    axes.set_axis_off()
    return axes


def show(axes: Axes, image: np.ndarray, x: float, y: float, frame: str | None = None) -> None:
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


def say(text: Text, name: str, width: int = 28) -> None:
    """Put a name that may be anything: no mathematics, and escapes for what no font here has a glyph of."""
    label, families = shown(name, width), [*rcParams["font.sans-serif"][:1]]
    for c in sorted(set(label)):
        family = next((family for family in (*families, *_installed()) if ord(c) in _glyphs(family)), None)
        if family is None:
            label = label.replace(c, c.encode("unicode_escape").decode())
        elif family not in families:
            families.append(family)
    text.set(parse_math=False, fontfamily=families, text=label)


def say_within(text: Text, name: str, inches: float, renderer: RendererAgg) -> None:
    """A name whose middle is left out until it is so wide."""
    room, width = inches * renderer.dpi, len(name) + 2
    say(text, name, width)
    while width > 5 and (wide := text.get_window_extent(renderer).width) > room:
        width = min(width - 1, round(len(text.get_text()) * room / wide))
        say(text, name, width)


@functools.cache
def _glyphs(family: str) -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=[family]))).get_charmap())


@functools.cache
def _installed() -> tuple[str, ...]:
    """Families to look for a letter in; not those of one glyph for everything, nor those that come for formulas."""
    found = dict.fromkeys(font.name for font in sorted(fontManager.ttflist, key=lambda font: font.name))
    return tuple(name for name in found if not name.startswith(("Last Resort", "STIX", "cm")))
