"""How many grey levels are left where pixels of more than 8 bits become 8 bits, by a look at a few images of a set.

12 bits that a camera writes into 16 use one sixteenth of the range, and 17 of 256 levels are left; of signed numbers
the half below zero is lost. No file says so, and a run on it learns from nearly nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.cache import read_cache, write_cache
from ssl_jax.data.images import decode, deep
from ssl_jax.data.source import Decoding, Source, sha256

HEADERS = 256  # images of which the header is read
IMAGES = 8  # of which the pixels are
PIXELS = 1 << 20  # of each
FEW = 128  # of 256 levels


class Found(NamedTuple):
    """What a look found: images whose header was read, those of more than 8 bits, and of the pixels of some of these
    the least and the greatest value, how many values there are, how many levels they become, and the share that lies
    outside the range."""

    headers: int
    deep: int
    least: float = 0.0
    greatest: float = 0.0
    whole: bool = True  # the values are whole numbers
    values: int = 0
    levels: int = 0
    outside: float = 0.0


def told(
    train: Source, test: Source | None, more: Source | None, decoding: Decoding, cache_dir: Path
) -> tuple[Source, Source | None, Source | None]:
    """The parts of a dataset with how they are decoded, and a note on what is lost in 8 bits if that is much.

    The range of values becomes part of their fingerprints: other pixels are other data.

    Args:
      cache_dir: where what a look found is kept.
    """
    files = [part for part in (train, test, more) if part is not None and _may_be_deep(part)]
    note = None
    if files or decoding.value_range is not None:
        note = _note(_cached(files, decoding, cache_dir), decoding)

    def of(part: Source) -> Source:
        part = dataclasses.replace(part, decoding=decoding)
        if decoding.value_range is None or not _may_be_deep(part):
            return part
        limits = decoding.value_range if decoding.value_range == "image" else np.array(decoding.value_range, float)
        return dataclasses.replace(part, fingerprint=sha256(part.fingerprint, "value_range", limits), before=None)

    noted = of(dataclasses.replace(train, notes=(*train.notes, *([] if note is None else [note]))))
    return noted, None if test is None else of(test), None if more is None else of(more)


def _may_be_deep(source: Source) -> bool:
    """Whether it holds image files that are no plain JPEGs; these, and images in memory, have 8 bits."""
    return "plain" in source.columns and not source.columns["plain"].all()


def shown(decoding: Decoding) -> str:
    """The range as it is written on a command line."""
    limits = decoding.value_range
    return str(limits) if limits is None or isinstance(limits, str) else ",".join(map(_number, limits))


def _number(x: float) -> str:
    return str(int(x)) if x == int(x) else f"{x:.6g}"


def _cached(files: list[Source], decoding: Decoding, cache_dir: Path) -> Found:
    key = sha256("levels 1", *(part.fingerprint for part in files), str(decoding))
    cached = cache_dir / "levels" / f"{key[:32]}.npz"
    kept = read_cache(cached)
    if kept is not None and set(kept) == set(Found._fields):
        return Found(**{name: value.item() for name, value in kept.items()})
    found = look(files, decoding)
    write_cache(cached, {name: np.array(value) for name, value in found._asdict().items()})
    return found


def look(files: list[Source], decoding: Decoding) -> Found:
    """Read some headers and some pixels, those evenly spaced over all images that are no plain JPEGs."""
    others = [np.flatnonzero(~part.columns["plain"]) for part in files]
    ends = np.cumsum([0, *map(len, others)])
    opened, with_more = 0, []
    for at in _spread(range(ends[-1]), HEADERS):
        k = int(np.searchsorted(ends, at, "right")) - 1
        row = files[k], int(others[k][at - ends[k]])
        try:
            is_deep = deep.is_deep(_file(*row), decoding)
        except (decode.Unreadable, OSError):  # broken since the index was built
            continue
        opened += 1
        with_more += [row] if is_deep else []
    extremes, distinct, used, outside, n = [], [], np.zeros(256, bool), 0, 0
    whole = True
    for row in _spread(with_more, IMAGES):
        try:
            stored = deep.values(_file(*row), decoding)
        except (decode.Unreadable, OSError):
            continue
        stored = stored[..., :-1] if stored.shape[2:] in ((2,), (4,)) else stored  # without transparency
        colour = stored.ndim == 3
        stored = stored.reshape(-1)[:: -(-stored.size // PIXELS)]
        if not len(stored := stored[np.isfinite(stored)]):
            continue
        whole &= stored.dtype.kind != "f"
        limits = deep.extremes(stored)
        low, high = {None: (0, 65535), "image": limits}.get(decoding.value_range, decoding.value_range)
        shrunk = deep.to_bytes(stored, decoding.value_range)
        if colour and decoding.value_range is None:
            shrunk = (stored >> 8).astype(np.uint8)
        used[shrunk] = True
        outside, n = outside + int(((stored < low) | (stored > high)).sum()), n + len(stored)
        extremes += limits
        distinct.append(np.unique(stored))
    if not extremes:
        return Found(opened, len(with_more))
    values = len(np.unique(np.concatenate(distinct)))
    return Found(opened, len(with_more), min(extremes), max(extremes), whole, values, int(used.sum()), outside / n)


def _spread(rows: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many of them, evenly spaced."""
    return rows if len(rows) <= most else [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _file(source: Source, i: int) -> str | bytes:
    record = source.record(i)
    return record["path"] if "path" in record and "offset" not in record else decode.contents(record)


def _note(found: Found, decoding: Decoding) -> str | None:
    """One line where a set uses few of the levels that it could, or a range has nothing to work on."""
    given = decoding.value_range
    if not found.deep:
        if given is None:
            return None
        looked = f"the {found.headers} images looked at" if found.headers else "the images"
        return f"data.value_range={shown(decoding)} changes nothing: {looked} hold 8 bits, which are taken as they are"
    few = found.levels <= FEW and found.values > 2 * found.levels
    if not few and (given is not None or found.outside < 0.5):
        return None
    said = ",".join(_number(limit) for limit in _range(found))
    lost = f" and {found.outside:.0%} of the pixels lie outside the range" if found.outside >= 0.05 else ""
    where = "" if given is None else f" under data.value_range={shown(decoding)}"
    return (
        f"WARNING: pixels of more than 8 bits (in {found.deep} of {found.headers} images looked at) hold "
        f"{_number(found.least)} to {_number(found.greatest)}, which become {found.levels} of 256 grey levels{where}"
        f"{lost}; data.value_range={said} scales them first, data.value_range=image each image from its own least to "
        "its greatest"
    )


def _range(found: Found) -> tuple[float, float]:
    """What the range probably is: all values of so many bits, 0 to 1, or what was seen."""
    if found.least >= 0 and found.whole:
        most = 2 ** max(8, int(found.greatest).bit_length()) - 1
        if 256 * (found.greatest - found.least) > FEW * most:  # else far from zero, and it would leave few as well
            return 0, most
    if found.least >= 0 and found.greatest <= 1:
        return 0, 1
    return found.least, found.greatest
