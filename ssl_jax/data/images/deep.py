"""Pixels of more than 8 bits: the numbers that a file holds, and what they become in 8.

16-bit grey and colour, signed and 32-bit integers, floating point in grey. Pillow has no 16-bit colours and gets some
signed numbers wrong, so it is told here what to read.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Literal

import numpy as np

from ssl_jax.data.images.opening import Refused, opened, turned
from ssl_jax.data.source import DEFAULT_DECODING, Decoding

NO_RANGE = "floating-point pixels have no known range; give data.value_range=(LOW, HIGH), or 'image' for each its own"
# Pillow holds colours of 16 bits as 8, the high bytes. With the other order of bytes it holds the low ones.
DEEP_COLOUR = re.compile(r"(RGB|RGBA|RGBX|CMYK|LA);16([BLN])")
NATIVE = "L" if sys.byteorder == "little" else "B"
# What libtiff unpacks is in the order of the machine already, and Pillow turns these round once more.
TURNED_TWICE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}


def is_deep(file: Any, decoding: Decoding = DEFAULT_DECODING) -> bool:
    """Whether the pixels of ``file`` (a path or bytes) have more than 8 bits. Reads the header alone.

    Raises:
      Unreadable: as :func:`opening.opened`.
    """
    with opened(file, decoding) as image:
        return holds_deep(image)


def holds_deep(image: Any) -> bool:
    return image.mode.startswith(("I", "F")) or DEEP_COLOUR.fullmatch(_stored(image)) is not None


def _stored(image: Any) -> str:
    """How Pillow calls what is in the file, its raw mode; empty where it does not say."""
    if not getattr(image, "tile", None):
        return ""
    args = image.tile[0].args
    args = args if isinstance(args, tuple) else (args,)
    return args[0] if args and isinstance(args[0], str) else ""


def values(file: Any, decoding: Decoding = DEFAULT_DECODING) -> np.ndarray:
    """The numbers that are stored in a ``file`` with pixels of more than 8 bits, turned as its EXIF orientation says.

    Returns:
      ``[h, w]``, or ``[h, w, c]`` with the channels of the file, of an integer or floating-point dtype.

    Raises:
      Unreadable: it cannot be decoded in whole.
    """
    with opened(file, decoding) as image:
        stored = _stored(image)
        colour = DEEP_COLOUR.fullmatch(stored)
        if colour is None:
            by_ppm = image.tile and image.tile[0].codec_name.startswith("ppm")
            most: Any = image.tile[0].args[-1] if by_ppm else None
            if stored in TURNED_TWICE and image.tile[0].codec_name == "libtiff":
                return _told(file, decoding, TURNED_TWICE[stored])
            grey = np.asarray(turned(image))
            if stored in ("I;32N", "I;32B") and image.format == "TIFF":
                return grey.view(np.uint32)  # Pillow has signed ones alone
            if by_ppm and decoding.value_range is not None:  # of a PGM Pillow makes the maximum 65535
                return np.rint(grey * (most / 65535)).astype(np.int32)
            return grey
    assert colour is not None
    order = {"N": NATIVE}.get(colour[2], colour[2])
    if colour[1] == "LA":  # which Pillow knows in one order, but all four bytes of a pixel can be asked for
        pairs = _told(file, decoding, "RGBA").astype(np.uint16)
        return pairs[..., ::2] << 8 | pairs[..., 1::2]
    high = _told(file, decoding, f"{colour[1]};16{order}").astype(np.uint16)
    return high << 8 | _told(file, decoding, f"{colour[1]};16{'L' if order == 'B' else 'B'}")


def _told(file: Any, decoding: Decoding, stored: str) -> np.ndarray:
    """What Pillow makes of a file if it is told that it holds something else, of as many bits."""
    with opened(file, decoding) as image:
        image.tile = [
            tile._replace(args=(stored, *tile.args[1:]) if isinstance(tile.args, tuple) else stored)
            for tile in image.tile
        ]
        return np.asarray(turned(image))


def to_bytes(stored: np.ndarray, value_range: tuple[float, float] | Literal["image"] | None) -> np.ndarray:
    """Numbers as uint8: the range onto 0 to 255, rounded, cut off beyond it; what is not a number is 0."""
    if value_range is None:
        if stored.dtype.kind == "f":
            raise Refused(NO_RANGE)
        return ((np.clip(stored.astype(np.int64), 0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
    low, high = value_range if value_range != "image" else extremes(stored)
    if not low < high:  # an image of one value
        return np.zeros(stored.shape, np.uint8)
    scaled = np.clip((stored.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    return np.nan_to_num(np.floor(scaled * 255.0 + 0.5)).astype(np.uint8)


def colours(stored: np.ndarray, mode: str, decoding: Decoding) -> Any:
    """Colours of more than 8 bits as an image of 8; what is transparent stays so."""
    from PIL import Image

    if mode in ("RGB", "CMYK"):
        return Image.fromarray(to_bytes(stored, decoding.value_range), mode)
    opaque = (stored[..., -1:] >> 8).astype(np.uint8)
    return Image.fromarray(np.concatenate([to_bytes(stored[..., :-1], decoding.value_range), opaque], axis=-1))


def extremes(stored: np.ndarray) -> tuple[float, float]:
    """The least and the greatest of those that are numbers."""
    finite = stored[np.isfinite(stored)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
