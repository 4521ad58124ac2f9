"""Sharded datasets as sources: tar files as WebDataset writes them, and ArrayRecord files of ``tf.train.Example``.

``tar:PATH``: the files of a tar whose names agree up to the first dot of the base name are an example: one image
(``0001.jpg``, any suffix of ``folder.SUFFIXES``) and its class as ``0001.cls`` (an integer as text) or ``"label"`` in
``0001.json``. Other files, links and devices are passed over. Nothing is extracted: an image is read again from where
it lies in the tar, so what names there are in it does not matter.

``arrayrecord:PATH``: the image file's bytes are feature ``"image"`` or ``"image/encoded"``, its class the integer
``"label"`` or ``"image/class/label"``.

PATH is a folder, one file, or a pattern with ``*``, ``?``, ``[...]``, ``{a,b}`` or ``{000..099}``. Shards in
sub-folders ``train/`` and ``test/`` (``val/``, ``validation/``), or with one of these words in their names
(``x-train-0000.tar``), are splits. What is in a shard is listed once and checked once, both cached by the shard's path,
size and modification time, so a start only looks at the shards themselves. Examples are read one by one, in any order,
so the order of an epoch is a permutation of them all and knows nothing of shards.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import overlap
from ssl_jax.data.cache import read_cache, write_cache
from ssl_jax.data.images import decode
from ssl_jax.data.readers import folder, records
from ssl_jax.data.source import Source, sha256

log = logging.getLogger(__name__)

SUFFIXES = {"tar": (".tar",), "arrayrecord": (".array_record", ".arrayrecord")}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # of the same five
SPLITS = ("train", *folder.TESTS)
IMAGES, LABELS = ("image", "image/encoded"), ("label", "image/class/label")
BLOCK = 512  # bytes, of which a tar is made

Arrays = dict[str, np.ndarray]


def load(
    kind: str,
    path: Path,
    *,
    train_split: str | None,
    test_split: str | None,
    verify: str | None,
    max_unreadable: float,
    cache_dir: Path,
    memory_limit: int,
) -> tuple[Source, Source | None]:
    """Train and test of a sharded dataset; see :func:`ssl_jax.data.source.load`. Test is None if there is none.

    Args:
      kind: ``"tar"`` or ``"arrayrecord"``.
      path: of a folder or file, or a pattern.
    """
    shards = _shards(kind, path)
    groups: dict[str, list[Path]] = {}
    for split, shard in shards:
        groups.setdefault(split, []).append(shard)
    chosen = folder.choose_splits(str(path), [name for name in groups if name], train_split, test_split)
    if chosen == ("", None):
        parts = [[shard for _, shard in shards]]
    elif "" in groups:
        names = folder.some([shard.name for shard in groups[""]])
        raise ValueError(f"{path} has shards of no split ({names}) beside {chosen[0]}; move or rename them")
    else:
        parts = [groups[name] for name in chosen if name is not None]
    listed = [[_listed(kind, shard, cache_dir) for shard in part] for part in parts]
    _say_strays(str(path), parts, listed)
    n = sum(len(found["offset"]) for part in listed for found in part)
    if not n:
        ends = f"; images in a tar end in {', '.join(folder.SUFFIXES)}" if kind == "tar" else ""
        raise ValueError(f"{path} holds no image{ends}")
    full = verify == "full" or (verify is None and n <= folder.FULL_UP_TO)
    for part, tables in zip(parts, listed, strict=True):
        for shard, table in zip(part, tables, strict=True):
            table |= _checked(shard, table, full, cache_dir)
    broken = [name for part, tables in zip(parts, listed, strict=True) for name in _unreadable(part, tables)]
    folder.check_unreadable(str(path), broken, n, max_unreadable)
    sources = [_source(kind, part, tables, full, memory_limit) for part, tables in zip(parts, listed, strict=True)]
    if len(sources) == 1:
        return sources[0], None
    seen = [_held(part, tables, full) for part, tables in zip(parts, listed, strict=True)]
    notes = overlap.check(*seen, str(path), (str(chosen[0]), str(chosen[1])))
    return sources[0], dataclasses.replace(sources[1], notes=(*sources[1].notes, *notes))


def _held(part: list[Path], tables: list[Arrays], full: bool) -> Iterator[bytes]:
    """What the readable images of a split hold; where that is not known, where they lie."""
    for shard, table in zip(part, tables, strict=True):
        real = os.path.realpath(shard)
        for i in np.flatnonzero(table["state"] > 0):
            where = f"{real} {table['offset'][i]} {table['record'][i] if 'record' in table else ''}"
            yield table["digest"][i].tobytes() if full else os.fsencode(where)


# --- which files


def _shards(kind: str, path: Path) -> list[tuple[str, Path]]:
    """(split or "", absolute path) of every shard, in order."""
    suffixes = SUFFIXES[kind]
    if path.is_dir():
        found = sorted(p for pattern in ("*", "*/*") for p in path.glob(pattern) if not _hidden(p.relative_to(path)))
        found = [p for p in found if _ends(p, (*suffixes, *(COMPRESSED if kind == "tar" else ())))]
        root = path
    elif path.is_file():
        found, root = [path], path.parent
    else:
        found = [p for pattern in _expanded(str(path)) for p in _matching(pattern)]
        root = Path(os.path.commonpath([p.parent for p in found])) if found else path
    twice = sorted(str(file) for file, times in Counter(found).items() if times > 1)
    if twice:
        raise ValueError(f"{str(path)!r} names {twice[0]} twice, which would be in train and in test; name it once")
    if not found:
        raise ValueError(f"{str(path)!r} holds no file that ends in {suffixes[0]}; give a folder, a file or a pattern")
    for file in found:
        if kind == "tar" and _ends(file, COMPRESSED):
            raise _compressed(file)
        if not _ends(file, suffixes):
            raise ValueError(f"{file} does not end in {' or '.join(suffixes)}; leave it out or rename it")
    return [(_split(file.relative_to(root)), file.absolute()) for file in found]


def _compressed(file: Path) -> ValueError:
    return ValueError(f"{file} is compressed, which has no random access; decompress it (gunzip, tar files stay)")


def _ends(file: Path, suffixes: tuple[str, ...]) -> bool:
    # TFDS writes x.array_record-00000-of-00002.
    return re.sub(r"-\d+-of-\d+$", "", file.name.lower()).endswith(suffixes)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _split(relative: Path) -> str:
    if len(relative.parts) > 1:
        return relative.parts[0]
    return next((word for word in re.split(r"[^a-z]+", relative.name.lower()) if word in SPLITS), "")


def _expanded(pattern: str) -> Iterator[str]:
    """``x{a,b}`` as ``xa`` and ``xb``; ``x{08..10}`` as ``x08``, ``x09`` and ``x10``."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", brace[1])
    words: Any = brace[1].split(",")
    if numbers:
        words = (f"{i:0{len(numbers[1])}}" for i in range(int(numbers[1]), int(numbers[2]) + 1))
    for word in words:
        yield from _expanded(pattern[: brace.start()] + word + pattern[brace.end() :])


def _matching(pattern: str) -> list[Path]:
    found = sorted(Path(name) for name in glob.glob(pattern))
    if not found:
        raise ValueError(f"no file matches {pattern!r}; give a folder, a file or a pattern such as x-{{000..099}}.tar")
    return found


# --- what is in a file


def _cached(file: Path, what: str, cache_dir: Path, make: Callable[[], Arrays]) -> Arrays:
    stat = file.stat()
    key = f"{what}:{file}:{stat.st_size}:{stat.st_mtime_ns}"
    cached = cache_dir / "shards" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz"
    found = read_cache(cached)
    if found is None:
        found = make()
        write_cache(cached, found)
    return found


def _listed(kind: str, shard: Path, cache_dir: Path) -> Arrays:
    """``"offset"``, ``"length"``, ``"label"`` (-1 if unknown) and ``"name"`` of the images of one shard.

    Also ``"stray"``: of a tar in which there are labels, but for none of its images, a file of a label.
    """
    make = _list_tar if kind == "tar" else _list_array_record
    return _cached(shard, "tar 2" if kind == "tar" else kind, cache_dir, lambda: make(shard))


def _list_tar(shard: Path) -> Arrays:
    try:
        with open(shard, "rb") as stream:
            if stream.read(5).startswith(MAGIC):
                raise _compressed(shard)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                images, labels, named = _members(tar, stream, shard)
                _check_end(stream, tar.offset, os.path.getsize(shard))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{shard} is not a whole tar file ({error}); make it again") from error
    return {
        "name": np.array([os.fsencode(name) for name, _, _ in images.values()], "S"),
        "offset": np.array([offset for _, offset, _ in images.values()], np.int64),
        "length": np.array([length for _, _, length in images.values()], np.int64),
        "label": np.array([labels.get(key, -1) for key in images], np.int64),
        "stray": np.array([] if images.keys() & labels.keys() else [os.fsencode(name) for name in named], "S"),
    }


def _say_strays(where: str, parts: list[list[Path]], listed: list[list[Arrays]]) -> None:
    """Say where labels lie beside images of other names: by a mistake all of them might count as unlabelled."""
    strays = [
        f"{os.fsdecode(name)} in {shard.name}"
        for part, tables in zip(parts, listed, strict=True)
        for shard, table in zip(part, tables, strict=True)
        for name in table.get("stray", ())
    ]
    if strays:
        log.warning(
            "%s: in %d tar(s) no label belongs to an image, which are unlabelled (%s); a label has the name of its "
            "image up to the first dot",
            *(where, len(strays), folder.some(strays)),
        )


def _members(
    tar: tarfile.TarFile, stream: Any, shard: Path
) -> tuple[dict[str, tuple[str, int, int]], dict[str, int], list[str]]:
    """Key -> (name, offset, length) of the image, key -> class, and the name of the first file of a class."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    named: list[str] = []
    for member in tar:
        head, _, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        # Hidden files are those that macOS adds (._0001.jpg). A sparse file does not lie in one piece.
        if not member.isreg() or member.issparse() or not stem:
            continue
        key, suffix = f"{head}/{stem}", (dot + suffix).lower()
        if suffix in folder.SUFFIXES:
            if key in images:
                raise ValueError(f"{shard} holds {images[key][0]!r} and {member.name!r}; keep one image for each key")
            images[key] = (member.name, member.offset_data, member.size)
        elif suffix in (".cls", ".json"):
            stream.seek(member.offset_data)
            label = _label(stream.read(member.size), suffix, f"{member.name} in {shard}")
            if label is not None and labels.setdefault(key, label) != label:
                raise ValueError(f"{member.name} in {shard} says class {label}, another file {labels[key]}; keep one")
            if label is not None and not named:
                named.append(member.name)
    return images, labels, named


def _label(data: bytes, suffix: str, where: str) -> int | None:
    try:
        value = int(data) if suffix == ".cls" else json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and value.get("label") is None:
        return None
    value = value["label"] if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 31:
        want = "an integer" if suffix == ".cls" else 'an object in which "label" is an integer'
        raise ValueError(f"{where} is {data[:40]!r}; write {want} (0, 1, ...; -1 if unknown)")
    return value


def _check_end(stream: Any, offset: int, size: int) -> None:
    """A tar ends in zeros; without them it is cut short, and with more behind them, tarfile would not read it."""
    stream.seek(offset)
    if size < offset + BLOCK:
        raise tarfile.ReadError(f"cut short at byte {size}")
    while part := stream.read(1 << 20):
        if part.strip(b"\0"):
            raise tarfile.ReadError(f"neither a member nor zeros from byte {offset} on; tars joined by cat?")


def _list_array_record(shard: Path) -> Arrays:
    offset, length, label = [], [], []
    try:
        for i, data in enumerate(records.array_records(shard)):
            try:
                first, last, number = records.stretch(data, 0, len(data), IMAGES, LABELS)
            except records.BROKEN as error:
                raise ValueError(f"record {i} of {shard} is no tf.train.Example of an image ({error})") from error
            offset.append(first)
            length.append(last - first)
            label.append(-1 if number is None else number)
    except decode.Unreadable as error:
        raise ValueError(f"{shard} is not a whole ArrayRecord file ({error}); make it again") from error
    n = len(offset)
    numbers = {"offset": offset, "length": length, "label": label, "record": range(n)}
    return {"name": np.array([b"%d" % i for i in range(n)], "S")} | {
        k: np.array(v, np.int64) for k, v in numbers.items()
    }


# --- what can be read


def _checked(shard: Path, table: Arrays, full: bool, cache_dir: Path) -> Arrays:
    """``"state"``, ``"plain"`` and ``"digest"`` as in :class:`folder.Index`."""

    def check() -> Arrays:
        n = len(table["offset"])
        log.info("checking %d images in %s (%s)", n, shard, "full" if full else "header")
        found = list(folder.check_all(lambda i: _contents(shard, table, i, full), range(n), full))
        return {
            "state": np.array([state for state, _, _ in found], np.int8),
            "plain": np.array([plain for _, plain, _ in found], bool),
            "digest": np.array([digest for _, _, digest in found], np.uint8).reshape(n, 32),
        }

    return _cached(shard, f"full {folder.CHECK}" if full else "header", cache_dir, check)


def _contents(shard: Path, table: Arrays, i: int, full: bool) -> bytes:
    """The bytes of an image, of a long one the head alone where that holds its header."""
    where = {name: table[name][i] for name in ("offset", "length", "record") if name in table}
    head = where | {"length": min(where["length"], records.HEAD)}
    if not full and "record" not in where and head != where:
        data = decode.contents({"path": str(shard), **head})
        try:
            decode.is_plain(data)
        except decode.Unreadable:
            pass
        else:
            return data
    return decode.contents({"path": str(shard), **where})


def _unreadable(part: list[Path], tables: list[Arrays]) -> list[str]:
    return [
        f"{shard.name}/{os.fsdecode(table['name'][i])}"
        for shard, table in zip(part, tables, strict=True)
        for i in np.flatnonzero(table["state"] == 0)
    ]


def _source(kind: str, part: list[Path], tables: list[Arrays], full: bool, memory_limit: int) -> Source:
    kept = [np.flatnonzero(table["state"] > 0) for table in tables]

    def column(name: str) -> np.ndarray:
        return np.concatenate([table[name][rows] for table, rows in zip(tables, kept, strict=True)])

    columns: dict[str, Any] = {name: column(name) for name in ("offset", "length", "plain")}
    paths = [np.full(len(rows), str(shard), object) for shard, rows in zip(part, kept, strict=True)]
    columns["path"] = np.concatenate(paths)
    labels = column("label")
    # The names of the shards, not where they are: the same shards elsewhere are the same data.
    within = [name for shard, table in zip(part, tables, strict=True) for name in (shard.name, sha256(table["name"]))]
    before = sha256(kind, column("digest" if full else "length"), labels, *within)
    times = [f"{stat.st_size} {stat.st_mtime_ns}" for stat in map(os.stat, part)]
    if kind == "arrayrecord":
        columns = records.held(columns | {"record": column("record")}, memory_limit)
    return Source(
        columns,
        labels,
        None,
        before if full else sha256(before, *times),
        unreadable=tuple(_unreadable(part, tables)),
        by_content=full,
        before=None if full else before,
    )
