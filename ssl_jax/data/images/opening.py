"""Opening of image files by Pillow: what is an image, how large it may be, and which way up it is."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

from ssl_jax.data.source import DEFAULT_DECODING, Decoding

ORIENTATION = 0x0112  # the EXIF tag
warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")  # `opened` refuses it with the fix


class Unreadable(Exception):
    """A file that cannot be decoded; caught inside ``ssl_jax.data``, where the file is left out and named."""


class Refused(Unreadable):
    """One that another ``data.max_pixels`` or ``data.value_range`` would read."""


@contextlib.contextmanager
def opened(file: Any, decoding: Decoding = DEFAULT_DECODING) -> Iterator[Any]:
    """The image in ``file`` (a path or bytes), of which the header has been read; Pillow's.

    Raises:
      Unreadable: if it is no image or larger than ``decoding.max_pixels``.
    """
    from PIL import Image, UnidentifiedImageError

    most = decoding.max_pixels
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # Pillow's own limit, which it has for the whole process
    # Opened here, since Pillow leaves a path open where a plugin raises what it does not expect.
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as stream:
        try:
            if is_heif(head := stream.read(12)):
                _allow_heif()
            stream.seek(0)
            image = Image.open(stream)
        except Unreadable:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            found = re.search(r"\d+", str(error))
            raise Refused(_too_large(f"{found[0] if found else 'its'} pixels", most)) from error
        except UnidentifiedImageError as error:
            tiff = head[:4] in (b"II*\0", b"MM\0*")
            more = "; of TIFFs it knows up to 16 bits, and 32 in grey" if tiff else ""
            raise Unreadable(f"no image that Pillow knows{more}") from error
        except Exception as error:  # plugins raise what they like: SyntaxError, struct.error, OSError, ...
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        with image:
            width, height = image.size
            if width * height > most:
                raise Refused(_too_large(f"{width} x {height} pixels", most))
            yield image


def _too_large(what: str, most: int) -> str:
    return f"{what} are more than data.max_pixels={most}; raise it where memory holds several of them"


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIC, as telephones write it."""
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


@functools.cache
def reads_heif() -> bool:
    """Whether pillow-heif is installed, with which Pillow reads HEIC."""
    return importlib.util.find_spec("pillow_heif") is not None


def _allow_heif() -> None:
    if not reads_heif():
        raise Unreadable("HEIC, which is read where pillow-heif is installed; `pip install pillow-heif`")
    import pillow_heif  # pyright: ignore[reportMissingImports]: optional

    pillow_heif.register_heif_opener()


def orientation(image: Any) -> int:
    """As EXIF has it; 1 is upright."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF is common, and no reason to drop an image
        return 1


def turned(image: Any) -> Any:
    """The first frame, upright."""
    from PIL import ImageOps

    try:
        image.load()
        # Asked after load, which turns a TIFF itself.
        return image if orientation(image) == 1 else ImageOps.exif_transpose(image)
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
