"""TFDS datasets as sources. Reads what lies on disk and never writes there, unless told to download.

Images of one known shape that fit in memory are decoded once, by TFDS (tf.image), into one uint8 array. Others are
decoded as :mod:`ssl_jax.data.decode` says, from their bytes in memory or, where those do not fit either, from where
they lie in the TFRecord files. A TFRecord file is a row of (length uint64, its checksum uint32, a
``tf.train.Example``, its checksum uint32) and the bytes of an image are one stretch of the Example, so (offset,
length) is all it takes to read it again. That index is made from the headers alone, through a memory map that passes
over the pages of pixels.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import mmap
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import decode, tensorflow
from ssl_jax.data.source import Source, check_labels, read_cache, sha256, write_cache

READ_BATCH = 512
HEAD = 1 << 16  # bytes that nearly always hold an image's header
Columns = dict[str, Any]


def load(
    name: str,
    *,
    data_dir: str | None,
    train_split: str | None,
    test_split: str | None,
    download: bool,
    cache_dir: Path,
    memory_limit: int,
) -> tuple[Source, Source | None]:
    """Train and test of a TFDS dataset; see :func:`ssl_jax.data.source.load`. Test is None if there is none."""
    tfds = _import()
    if Path(name).is_absolute() or ".." in Path(name.partition(":")[0]).parts:
        raise ValueError(f"tfds:{name} names no dataset; give name[/config][:version], and data.data_dir=<path>")
    try:
        root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
        folder = _find(root, name)
    except (OSError, RuntimeError) as error:  # too long, not ours to see, or below the home of nobody
        raise ValueError(f"tfds:{name} cannot be looked for in {data_dir} ({error}); give another") from error
    if folder is None and download:
        folder = _download(tfds, name, root)
    if folder is None:
        raise ValueError(_missing(root, name))
    builder = tfds.builder_from_directory(str(folder))
    splits = builder.info.splits
    train_split = train_split or "train"
    test_split = test_split or next((s for s in ("test", "validation") if s in splits), None)
    sources = [_read(tfds, builder, s, memory_limit, cache_dir) for s in (train_split, test_split) if s is not None]
    return sources[0], sources[1] if len(sources) == 2 else None


def _import() -> Any:
    tensorflow()
    os.environ.setdefault("NO_GCE_CHECK", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ValueError(f"tfds: needs tensorflow-datasets ({error}); `pip install tensorflow-datasets`") from error
    return tfds


def _find(root: Path, name: str) -> Path | None:
    """The folder of ``name[/config][:version]``, newest version; None if it is not on disk."""
    base, _, version = name.partition(":")
    found = [p.parent for pattern in ("*", "*/*") for p in sorted((root / base).glob(f"{pattern}/dataset_info.json"))]
    if version:
        found = [p for p in found if p.name == version]
    configs = sorted({p.parent for p in found})
    if len(configs) > 1:
        names = ", ".join(f"tfds:{c.relative_to(root)}" for c in configs)
        raise ValueError(f"tfds:{name} has several configurations on disk; choose one of {names}")
    return max(found, key=lambda p: _version(p.name), default=None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _missing(root: Path, name: str) -> str:
    here = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    close = difflib.get_close_matches(name.partition(":")[0], here, n=1)
    hint = f" (did you mean tfds:{close[0]}?)" if close else f" (there: {', '.join(here) or 'nothing'})"
    return (
        f"dataset {name!r} is not in {root}{hint}; nothing is downloaded unless asked: "
        "--config.data.download=True would fetch it, --config.data.data_dir=<path> says where it lies"
    )


def _download(tfds, name: str, root: Path) -> Path:
    try:
        builder = tfds.builder(name, data_dir=str(root))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        close = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=1)
        hint = f"; did you mean tfds:{close[0]}?" if close else ""
        raise ValueError(f"TFDS knows no dataset {name!r}{hint}") from error
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _read(tfds, builder, split: str, memory_limit: int, cache_dir: Path) -> Source:
    info = builder.info
    full_name = f"tfds:{info.full_name}"
    try:
        chosen = info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{full_name} has no split {split!r}; it has {', '.join(info.splits)}") from error
    n = chosen.num_examples
    image, label = _image_and_label(tfds, info.features, full_name)
    shape = info.features[image].shape
    channels = shape[-1] or 3
    if channels not in (1, 3):
        raise ValueError(f"{full_name}: images have {channels} channels; 1 or 3 can be used")
    if None not in shape and n * int(np.prod(shape)) <= memory_limit:
        columns, labels = _decoded(tfds, builder, split, image, label, n)
    else:
        columns, labels = _encoded(builder, chosen, image, label, memory_limit, cache_dir, f"{full_name}:{split}")
    if len(labels) != n:
        raise ValueError(f"{full_name}:{split} has {len(labels)} examples on disk, its info says {n}; prepare it again")
    names = tuple(info.features[label].names) if label else None
    labels, names = check_labels(labels, n, names) if (labels >= 0).any() else (None, None)
    return Source(columns, labels, names, sha256(full_name, split, str(n)), channels)


def _decoded(tfds, builder, split: str, image: str, label: str | None, n: int) -> tuple[Columns, np.ndarray]:
    features = builder.info.features
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={name: tfds.decode.SkipDecoding() for name in features if name not in (image, label)},
        # One file after the other: the order of the records, whatever the number of files.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    ).map(lambda example: (example[image], example[label] if label else np.int64(-1)))
    images, labels, start = np.empty((n, *features[image].shape), np.uint8), np.full(n, -1, np.int64), 0
    for image_batch, label_batch in dataset.batch(READ_BATCH).prefetch(2).as_numpy_iterator():
        stop = start + len(image_batch)
        images[start:stop], labels[start:stop] = image_batch, label_batch
        start = stop
    return {"image": images}, labels[:start]


def _encoded(
    builder, chosen, image: str, label: str | None, memory_limit: int, cache_dir: Path, what: str
) -> tuple[Columns, np.ndarray]:
    """Image files as they lie in the records: their bytes if they fit in memory, else where they are on disk."""
    if builder.info.file_format.value != "tfrecord":
        raise ValueError(f"{what} lies in {builder.info.file_format.value} files; only tfrecord can be read in part")
    parts = [record_index(Path(part.filename), image, label, cache_dir) for part in chosen.file_instructions]
    columns: Columns = {name: [] for name in ("path", "offset", "length", "plain")}
    labels = []
    for part, found in zip(chosen.file_instructions, parts, strict=True):
        rows = slice(part.skip, part.skip + (part.take if part.take >= 0 else part.examples_in_shard))
        for name in ("offset", "length", "plain"):
            columns[name].append(found[name][rows])
        columns["path"].append(np.full(len(columns["offset"][-1]), str(part.filename), object))
        labels.append(found["label"][rows])
    columns = {name: np.concatenate(column) for name, column in columns.items()}
    if columns["length"].sum() <= memory_limit:
        encoded = np.empty(len(columns["path"]), object)
        encoded[:] = [decode.contents({k: columns[k][i] for k in columns}) for i in range(len(encoded))]
        columns = {"encoded": encoded, "plain": columns["plain"]}
    return columns, np.concatenate(labels)


def _image_and_label(tfds, features, full_name: str) -> tuple[str, str | None]:
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise ValueError(
            f"{full_name} has no image feature, only {', '.join(sorted(features))}; choose an image dataset"
        )
    image = "image" if "image" in images else images[0]
    if features[image].np_dtype != np.uint8:
        raise ValueError(f"{full_name}: images are {np.dtype(features[image].np_dtype)}; uint8 can be used")
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    return image, "label" if "label" in labels else next(iter(labels), None)


def record_index(file: Path, image: str, label: str | None, cache_dir: Path) -> dict[str, np.ndarray]:
    """Where the images of one TFRecord file are.

    Args:
      file: path of the file.
      image: name of the feature that holds an image file's bytes.
      label: name of the feature that holds an integer, or None.
      cache_dir: where the index is kept, by the file's path, size and time.

    Returns:
      ``"offset"``, ``"length"`` and ``"label"`` (-1 if ``label`` is None), int64 ``[n]``; ``"plain"`` bool ``[n]``.

    Raises:
      ValueError: if the file is cut short or holds something else.
    """
    stat = file.stat()
    key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{image}:{label}"
    cached = cache_dir / "records" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    found = read_cache(cached)
    if found is None:
        try:
            with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                rows = [_row(data, start, stop, image, label) for start, stop in _records(data)]
        except (
            struct.error,
            IndexError,
            KeyError,
            UnicodeDecodeError,
            ValueError,
            decode.Unreadable,
            StopIteration,
        ) as error:
            raise ValueError(f"{file} is not a whole TFRecord file of images ({error}); prepare it again") from error
        offset, length, number, plain = zip(*rows, strict=True) if rows else ((), (), (), ())
        found = {
            "offset": np.array(offset, np.int64),
            "length": np.array(length, np.int64),
            "label": np.array(number, np.int64),
            "plain": np.array(plain, bool),
        }
        write_cache(cached, found)
    return found


def _records(data: Any) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        start += 12
        if start + length + 4 > len(data):
            raise ValueError(f"cut short at byte {start}")
        yield start, start + length
        start += length + 4


def _row(data: Any, start: int, stop: int, image: str, label: str | None) -> tuple[int, int, int, bool]:
    features = _features(data, start, stop)
    (_, first, last) = next(_fields(data, *features[image]))  # Feature.bytes_list
    (_, first, last) = next(_fields(data, first, last))  # BytesList.value
    number = -1
    if label is not None:
        (_, begin, end) = next(_fields(data, *features[label]))  # Feature.int64_list
        (_, begin, end) = next(_fields(data, begin, end))  # Int64List.value, packed
        number = _varint(data, begin)[0] if end > begin else -1
        number -= (number >> 63) << 64  # two's complement
    head = bytes(data[first : min(last, first + HEAD)])
    try:
        plain = decode.is_plain(head)
    except decode.Unreadable:
        plain = decode.is_plain(io.BytesIO(data[first:last]))
    return first, last - first, number, plain


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
