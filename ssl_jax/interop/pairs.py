"""Names of another library beside ours: one table for a family of networks, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from ssl_jax.types import Tree


class Pair(NamedTuple):
    """One of our arrays and what it is in another library.

    Attributes:
      ours: its path, "params/stem_conv/kernel", "model_state/batch_stats/stem_norm/mean", "classifier/kernel".
      theirs: its name there; several where ours holds them side by side, along the last axis.
      layout: how one becomes the other, as :func:`layout` takes it.
      shape: of one of theirs, where ours does not tell (heads of an attention).
      row: which one it is of those that theirs stacks on a first axis (blocks under ``nn.scan``); None: it is all.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: str = "same"
    shape: tuple[int, ...] | None = None
    row: int | None = None


Way = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]  # theirs to ours, ours to theirs


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


def _patches(size: int) -> Way:
    """A convolution of patches: [out, c, size, size] there, [size size c, out] here, pixels row by row."""

    def theirs(a: np.ndarray) -> np.ndarray:
        return a.reshape(size, size, -1, a.shape[-1]).transpose(3, 2, 0, 1)

    return lambda a: a.transpose(2, 3, 1, 0).reshape(-1, len(a)), theirs


def _rows(cells: int) -> Way:
    """A layer on a flattened map of ``cells`` x ``cells`` places: [out, c h w] there, [h w c, out] here."""

    def ours(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), -1, cells, cells).transpose(2, 3, 1, 0).reshape(-1, len(a))

    def theirs(a: np.ndarray) -> np.ndarray:
        return a.reshape(cells, cells, -1, a.shape[-1]).transpose(3, 2, 0, 1).reshape(a.shape[-1], -1)

    return ours, theirs


# Axes of torch: [out, in, h, w] and [out, in].
LAYOUTS: dict[str, Way] = {
    "same": (lambda a: a, lambda a: a),
    "dense": (lambda a: a.T, lambda a: a.T),
    "conv": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),
    "flat": (_flat, _flat),  # one that theirs holds with axes of length 1
    "1x1": (lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None]),  # a convolution there, a dense layer here
    "rows": (lambda a: a.reshape(-1, a.shape[-1]), lambda a: a),  # several axes before the last; the way back by shape
    "columns": (lambda a: a.reshape(len(a), -1), lambda a: a),  # several behind the first
    "rows6": _rows(6),
    "rows7": _rows(7),
    "bgr": (lambda a: a[:, :, ::-1], lambda a: a[:, :, ::-1]),  # a first convolution of Keras's, blue before red
    "depthwise": (lambda a: a.transpose(0, 1, 3, 2), lambda a: a.transpose(0, 1, 3, 2)),  # of Keras: [h, w, c, 1]
    "minus": (lambda a: a, lambda a: a),  # ours is the first of theirs less the second; the way back: less zeros
}
EPS = 1e-5  # of our BatchNorm


def layout(name: str) -> Way:
    """One of :data:`LAYOUTS`, "patchesN" of a convolution that cuts images into patches of N x N pixels, or "epsX" of
    a variance to which X is added there, and :data:`EPS` here."""
    if name.startswith("eps"):
        more = float(name.removeprefix("eps")) - EPS
        return lambda a: a + more, lambda a: a - more
    return _patches(int(name.removeprefix("patches"))) if name.startswith("patches") else LAYOUTS[name]


class Missing(ValueError):
    """Arrays that a network needs and a file does not have."""


def lacking(pairs: Iterable[Pair], names: Container[str]) -> str:
    """Which of theirs are not among ``names``, in words: "6 arrays: A, B, C, D, E, ..."; "" where none is missing."""
    missing = list(dict.fromkeys(name for pair in pairs for name in pair.theirs if name not in names))
    many = f"{len(missing)} array{'s' if missing[1:] else ''}: {', '.join(missing[:5])}{', ...' if missing[5:] else ''}"
    return many if missing else ""


def read(pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Tree], set[str]]:
    """({"params", "model_state", "classifier"} as far as there are such, names of theirs that went in).

    Raises:
      Missing: says how many are not there, and names the first five.
    """
    pairs = list(pairs)
    if missing := lacking(pairs, arrays):
        raise Missing(f"it lacks {missing}; it is cut, or of another architecture")
    found = {}
    for pair in pairs:
        parts = [np.asarray(arrays[name]) for name in pair.theirs]
        parts = [layout(pair.layout)[0](part if pair.row is None else part[pair.row]) for part in parts]
        if pair.layout == "minus":
            parts = [parts[0] - parts[1]]
        found[pair.ours] = np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))
    tree = flax.traverse_util.unflatten_dict(found, "/")
    return tree, {name for pair in pairs for name in pair.theirs}


def write(pairs: Iterable[Pair], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of :func:`read`: theirs by name, contiguous."""
    arrays = flax.traverse_util.flatten_dict(dict(tree), sep="/")
    found, stacked = {}, {}
    for pair in pairs:
        whole = np.asarray(arrays[pair.ours])
        parts = np.split(whole, len(pair.theirs), axis=-1) if pair.layout != "minus" else [whole, np.zeros_like(whole)]
        for name, part in zip(pair.theirs, parts, strict=True):
            part = layout(pair.layout)[1](part)
            part = np.ascontiguousarray(part if pair.shape is None else part.reshape(pair.shape))
            if pair.row is None:
                found[name] = part
            else:
                stacked.setdefault(name, {})[pair.row] = part
    return found | {name: np.stack([rows[k] for k in sorted(rows)]) for name, rows in stacked.items()}
