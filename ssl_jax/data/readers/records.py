"""Record files: where the images in TFRecord and ArrayRecord files are.

A TFRecord file is a row of (length uint64, its checksum uint32, a ``tf.train.Example``, its checksum uint32). The bytes
of an image are one stretch of the Example, so (offset, length) is all it takes to read it again. That index is made
from the headers alone, through a memory map that passes over the pages of pixels. An ArrayRecord file compresses its
records and brings an index of them: there it is (record, offset, length), the offset inside the record.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data.cache import of_file
from ssl_jax.data.images import decode
from ssl_jax.data.source import DEFAULT_DECODING, Decoding
from ssl_jax.online.progress import counted

HEAD = 1 << 16  # bytes that nearly always hold an image's header
BROKEN = (
    struct.error,
    IndexError,
    KeyError,
    UnicodeDecodeError,
    ValueError,
    StopIteration,
)  # what is no Example raises
Columns = dict[str, Any]


def record_index(
    file: Path, image: str, label: str | None, cache_dir: Path, decoding: Decoding = DEFAULT_DECODING
) -> dict[str, np.ndarray]:
    """Where the images of one file are, TFRecord or (by its suffix) ArrayRecord.

    Args:
      file: path of the file.
      image: name of the feature that holds an image file's bytes.
      label: name of the feature that holds an integer, or None.
      cache_dir: where the index is kept, by the file's path, size and times.
      decoding: how the images are decoded.

    Returns:
      ``"offset"``, ``"length"`` and ``"label"`` (-1 if ``label`` is None), int64 ``[n]``; ``"plain"`` bool ``[n]``; of
      an ArrayRecord file also ``"record"``, int64 ``[n]``.

    Raises:
      ValueError: if the file is cut short or holds something else.
    """
    what = f"{image}:{label}" + (f":{decoding.reads}" if decoding.reads else "")
    return of_file(file, what, cache_dir / "records", lambda: _index(file, image, label, decoding))


def _index(file: Path, image: str, label: str | None, decoding: Decoding) -> dict[str, np.ndarray]:
    kind = "ArrayRecord" if is_array_record(file) else "TFRecord"
    try:
        if kind == "ArrayRecord":
            rows = [_row(data, 0, len(data), image, label, decoding) for data in array_records(file)]
        else:
            with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                rows = [_row(data, start, stop, image, label, decoding) for start, stop in _records(data)]
    except decode.Refused as error:
        raise ValueError(f"{file} holds an image that cannot be read: {error}") from error
    except (*BROKEN, decode.Unreadable) as error:
        raise ValueError(f"{file} is not a whole {kind} file of images ({error}); prepare it again") from error
    offset, length, number, plain = zip(*rows, strict=True) if rows else ((), (), (), ())
    found = {
        "offset": np.array(offset, np.int64),
        "length": np.array(length, np.int64),
        "label": np.array(number, np.int64),
        "plain": np.array(plain, bool),
    }
    return found | ({"record": np.arange(len(rows))} if kind == "ArrayRecord" else {})


def file_digest(file: Path, cache_dir: Path) -> str:
    """The sha256 of all of a file, kept by its path, size and times."""

    def make() -> dict[str, np.ndarray]:
        with open(file, "rb") as opened:
            return {"sha256": np.array(hashlib.file_digest(opened, "sha256").hexdigest())}

    return str(of_file(file, "sha256", cache_dir / "digests", make)["sha256"])


def is_array_record(file: Path) -> bool:
    """``x.array_record``, or TFDS's ``x.array_record-00000-of-00002``."""
    return any(word in file.name for word in (".array_record", ".arrayrecord"))


def array_records(file: Path) -> Iterator[bytes]:
    """The records of an ArrayRecord file, one after the other.

    Raises:
      decode.Unreadable: it is cut short or damaged.
    """
    decode.array_record_reader.cache_clear()  # the file may be another than when it was opened
    for i in range(decode.array_record_reader(str(file)).num_records()):
        yield decode.array_record(str(file), i)


def held(columns: Columns, memory_limit: int) -> Columns:
    """Columns with the bytes of the image files in place of where they are, if all fit in ``memory_limit`` bytes."""
    if columns["length"].sum() > memory_limit:
        return columns
    encoded = np.empty(len(columns["path"]), object)
    rows = counted(range(len(encoded)), "reading into memory", len(encoded))
    encoded[:] = [decode.contents({k: columns[k][i] for k in columns}) for i in rows]
    return {"encoded": encoded, "plain": columns["plain"]}


def _records(data: Any) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        start += 12
        if start + length + 4 > len(data):
            raise ValueError(f"cut short at byte {start}")
        yield start, start + length
        start += length + 4


def _row(
    data: Any, start: int, stop: int, image: str, label: str | None, decoding: Decoding
) -> tuple[int, int, int, bool]:
    first, last, number = stretch(data, start, stop, (image,), () if label is None else (label,))
    if label is not None and number is None:
        raise KeyError(label)
    return first, last - first, -1 if number is None else number, is_plain(data, first, last, decoding)


def is_plain(data: Any, first: int, last: int, decoding: Decoding) -> bool:
    """See ``decode.is_plain``; of an image file that lies at ``data[first:last]``."""
    head = bytes(data[first : min(last, first + HEAD)])
    try:
        return decode.is_plain(head, decoding)
    except decode.Unreadable:
        return decode.is_plain(bytes(data[first:last]), decoding)


def stretch(
    data: Any, start: int, stop: int, images: tuple[str, ...], labels: tuple[str, ...]
) -> tuple[int, int, int | None]:
    """Where the image file of the Example at ``data[start:stop]`` lies, and its label.

    Args:
      images: names of features, of which the first that is there holds the bytes of an image file.
      labels: names of features, of which the first that is there holds an integer.

    Returns:
      (first byte, end, label or None).

    Raises:
      What ``BROKEN`` lists, if it is no such Example.
    """
    features = _features(data, start, stop)
    image = next((name for name in images if name in features), None)
    if image is None:
        raise KeyError(f"no feature {' or '.join(images)}, only {', '.join(sorted(features)) or 'none'}")
    (_, first, last) = next(_fields(data, *features[image]))  # Feature.bytes_list
    (_, first, last) = next(_fields(data, first, last))  # BytesList.value
    label = next((name for name in labels if name in features), None)
    if label is None:
        return first, last, None
    (_, begin, end) = next(_fields(data, *features[label]))  # Feature.int64_list
    (_, begin, end) = next(_fields(data, begin, end))  # Int64List.value, packed
    number = _varint(data, begin)[0] if end > begin else -1
    return first, last, number - ((number >> 63) << 64)  # two's complement


def _features(data: Any, start: int, stop: int) -> dict[str, tuple[int, int]]:
    """Name -> where its Feature message lies, of the Example at ``start:stop``."""
    found = {}
    for _, first, last in _fields(data, start, stop):  # Example.features
        for _, entry_first, entry_last in _fields(data, first, last):  # Features.feature, a map
            parts = {tag: (a, b) for tag, a, b in _fields(data, entry_first, entry_last)}
            found[bytes(data[slice(*parts[1])]).decode()] = parts[2]
    return found


def _fields(data: Any, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(tag, first byte, end) of each field of a message; a number that is not packed is its own stretch."""
    while start < stop:
        key, start = _varint(data, start)
        tag, wire = key >> 3, key & 7
        if wire == 2:
            length, start = _varint(data, start)
            end = start + length
        elif wire == 0:
            _, end = _varint(data, start)
        else:
            raise ValueError(f"unexpected wire type {wire}")
        if end > stop:
            raise ValueError("a field reaches past its message")
        yield tag, start, end
        start = end


def _varint(data: Any, start: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, start
