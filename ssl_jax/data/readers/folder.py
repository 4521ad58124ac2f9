"""Folders of images as sources.

Splits and classes are folders, see :mod:`layout`. Hidden files, what systems leave behind (``__MACOSX``, ``@eaDir``)
and files with the suffix of something else than an image are passed over and counted; a file without suffix is looked
at. What a file holds is read from the file, not from its suffix.

Every file is checked when the index is built; unreadable ones are counted, named and left out. The index is cached
with size and modification time of every file and the modification time of every folder, so listing and check are paid
once. To add, remove or rename a file changes its folder's time, so a start looks at the folders' times, lists again
those that changed, and looks at size and time of every file. Where verification is full (the default up to 100,000
files) the content is known, and a copy of the folder is the same data; under ``data.verify=header`` sizes and times
are all that is known, and a copy is the same data if it has kept them (``cp -a``, ``rsync -a``).

A full check also refuses a JPEG whose codes libjpeg finds damaged (``decode.refuse_damage``), of which a header knows
nothing. A JPEG has no checksum, so damage that still decodes without a warning cannot be noticed by anybody.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.data import overlap
from ssl_jax.data.cache import read_cache, write_cache
from ssl_jax.data.images import decode, image_files
from ssl_jax.data.readers import layout, splits
from ssl_jax.data.source import DEFAULT_DECODING, Decoding, Source, sha256
from ssl_jax.online.progress import counted

log = logging.getLogger(__name__)

FULL_UP_TO = 100_000
RULES = 3  # of what is listed; folders that a cached index knows by older ones are listed again
RUN = {"config.json", ".lock"}  # what a folder with a run of ours holds from its beginning on
CHECK = 2  # of the full check; what an older one found readable in a cached index is checked again
# A folder whose newest time is no older is listed again: it may change once more without a change of its time, where
# times are kept in steps (two seconds on FAT), and a file may still be being written.
UNSETTLED = 2 * 10**9  # nanoseconds


class Index(NamedTuple):
    """What is known of ``n`` files, in the order of their relative paths.

    ``state`` is 0 for unreadable, 1 if the header was read, 2 if all of it was decoded; ``digest`` is the sha256 of
    the content, zero unless ``state`` is 2.
    """

    path: np.ndarray  # objects: str, relative to the folder
    size: np.ndarray  # int64
    mtime: np.ndarray  # int64, nanoseconds
    full: np.ndarray  # bool: checked in full
    state: np.ndarray  # int8
    plain: np.ndarray  # bool, see decode.is_plain
    digest: np.ndarray  # uint8 [n, 32]


class Listed(NamedTuple):
    """What a folder holds, sorted by name; paths are relative to the root of all."""

    mtime: int  # nanoseconds, -1 if it must be listed again
    inode: tuple[int, int]
    folders: list[str]
    images: list[str]
    passed: dict[str, int]  # kind -> files that are passed over, see image_files.passed_over
    fresh: bool  # listed at this start


def load(
    root: Path,
    *,
    train_split: str | None,
    test_split: str | None,
    verify: str | None,
    max_unreadable: float,
    decoding: Decoding,
    cache_dir: Path,
) -> tuple[Source, Source | None, Source | None]:
    """Train, test and more unlabelled examples of an image folder; see :func:`ssl_jax.data.readers.load`."""
    if not root.is_dir():
        raise ValueError(f"image folder {str(root)!r} is not there; give data.source=folder:<path of a folder>")
    began, root = time.time_ns(), root.resolve()
    known_by = os.fsencode(f"{root}:{decoding.reads}" if decoding.reads else root)
    file = cache_dir / "folders" / f"{hashlib.sha256(known_by).hexdigest()[:32]}.npz"
    old = read_cache(file) or {}
    looked: dict[str, Listed] = {}
    tree = layout.Tree(str(root), _looker(root, _known(old), looked))
    found = layout.read(tree, train_split, test_split)
    parts = [found.train, found.unlabelled, found.test or {}]
    paths = sorted(path for part in parts for path in part)
    full = verify == "full" or (verify is None and len(paths) <= FULL_UP_TO)
    passed = image_files.passed_over(str(root), *_passed(looked, found.unused))
    index = build_index(root, paths, looked, old, full=full, decoding=decoding, file=file, began=began)
    broken = [index.path[i] for i in np.flatnonzero(index.state == 0)]
    why = lambda path: why_unreadable(root / path, full, decoding)  # noqa: E731
    notes = (*found.notes, *passed, *check_unreadable(str(root), broken, len(paths), max_unreadable, why))
    rows = {path: i for i, path in enumerate(index.path)}
    train, test, more = _source(root, found.train, index, rows, None, full, found.why[0]), None, None
    if found.unlabelled:
        more = _source(root, found.unlabelled, index, rows, None, full, "")
        notes += (splits.more_unlabelled(str(root), len(more)),)
    if found.test is not None:
        test = _source(root, found.test, index, rows, train.class_names, full, found.why[1])
        learned = _held(found.train | found.unlabelled, index, rows, looked, full)
        measured = _held(found.test, index, rows, looked, full)
        notes += overlap.check(learned, measured, str(root), (f"{found.used[0]}/", f"{found.tested}/"))
    return dataclasses.replace(train, notes=notes), test, more


def _held(
    listing: splits.Classes, index: Index, rows: dict[str, int], looked: Mapping[str, Listed], full: bool
) -> Iterator[bytes]:
    """What the readable images of a split hold; where that is not known, which files they are, be it by a link."""
    for path in listing:
        if index.state[rows[path]] > 0:
            folder, name = os.path.split(path)
            yield index.digest[rows[path]].tobytes() if full else os.fsencode(f"{looked[folder].inode} {name}")


def _passed(looked: Mapping[str, Listed], unused: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """What was passed over by kind, and which folders hold no image; but not in folders that are not used."""
    inside = {where: listed for where, listed in looked.items() if not _within(where, unused)}
    holding = {""}
    for where, listed in inside.items():
        used = listed.images or image_files.RUN in listed.passed  # a run's folder is told as such
        while used and where not in holding:
            holding.add(where)
            where = os.path.dirname(where)
    empty = [where for where in inside if where not in holding and os.path.dirname(where) in holding]
    once = {listed.inode: listed.passed for listed in inside.values()}  # links show a folder twice
    return image_files.total(list(once.values())), empty


def _within(where: str, folders: Iterable[str]) -> bool:
    return any(where == folder or where.startswith(f"{folder}/") for folder in folders)


def _known(old: Mapping[str, np.ndarray]) -> dict[str, Listed]:
    """The folders of a cached index."""
    if "rules" not in old or old["rules"].item() != _rules():
        return {}
    names = [os.fsdecode(name) for name in old["folder"].tolist()]
    passed = map(json.loads, old["passed"].tolist())
    known = [Listed(m, (0, 0), [], [], p, False) for m, p in zip(old["folder_mtime"].tolist(), passed, strict=True)]
    at = dict(zip(names, known, strict=True))
    for name in names:
        if name:
            at[os.path.dirname(name)].folders.append(name)
    for path, k in zip(old["path"].tolist(), old["within"].tolist(), strict=True):
        known[k].images.append(os.fsdecode(path))
    return at


def _rules() -> str:
    """By which folders are listed; what can be read depends on what is installed."""
    return f"{RULES} {' '.join(image_files.suffixes())}"


def _looker(root: Path, known: Mapping[str, Listed], looked: dict[str, Listed]) -> Callable[[str], Listed]:
    """``look(folder)``, by its path relative to ``root``: as known if its time is the same, else listed now."""

    def look(where: str) -> Listed:
        if where not in looked:
            looked[where] = _look(root, where, known.get(where))
        return looked[where]

    return look


def _look(root: Path, where: str, known: Listed | None) -> Listed:
    at = os.path.join(root, where)
    try:
        # Before the listing: what changes meanwhile is seen next time.
        stat = os.stat(at)
        inode = (stat.st_dev, stat.st_ino)
        if known is not None and known.mtime == stat.st_mtime_ns:
            return known._replace(inode=inode)
        with os.scandir(at) as entries:
            shown = sorted(entries, key=lambda e: e.name)
        folders, images, passed = [], [], collections.Counter()
        if where and {entry.name for entry in shown} >= RUN:  # whose pictures are no examples
            shown, passed[image_files.RUN] = [], 1
        for entry in shown:
            kind = _kind(entry)
            if kind in ("folder", "image"):
                (folders if kind == "folder" else images).append(os.path.join(where, entry.name))
            else:
                passed[kind] += 1
    except OSError as error:
        raise ValueError(f"image folder {at!r} cannot be listed ({error}); make it readable or move it away") from error
    return Listed(stat.st_mtime_ns, inode, folders, images, dict(passed), True)


def _kind(entry: os.DirEntry) -> str:
    """``"folder"``, ``"image"``, or as what an entry is passed over."""
    folder = entry.is_dir()
    if image_files.is_system(entry.name):
        return image_files.SYSTEM_FOLDER if folder else image_files.SYSTEM_FILE
    if entry.name.startswith("."):
        return image_files.HIDDEN
    if folder:
        return "folder"
    suffix = image_files.suffix(entry.name)
    if not (entry.is_file() or entry.is_symlink()):  # a dangling link is told of as an image that cannot be read
        return image_files.NO_FILE
    if suffix:
        return "image" if suffix in image_files.suffixes() else suffix
    try:
        with open(entry.path, "rb") as file:
            return image_files.kind_of_head(file.read(image_files.HEAD))
    except OSError:
        return image_files.SUFFIXLESS


def _source(
    root: Path,
    listing: splits.Classes,
    index: Index,
    rows: dict[str, int],
    names: tuple[str, ...] | None,
    full: bool,
    why: str,
) -> Source:
    at = np.array([rows[path] for path in sorted(listing)], np.int64)
    kept = at[index.state[at] > 0]
    paths = [index.path[i] for i in kept]
    labels, names = splits.numbered(str(root), [listing[path] for path in paths], splits.known(listing), names)
    within = [os.fsencode(str(p)) for p in paths]
    # Content where it is read, else also the time, which may differ from copy to copy of a dataset.
    content = (index.digest[kept],) if full else (index.size[kept], index.mtime[kept])
    before = sha256("folder", index.digest[kept] if index.full.all() else index.size[kept], *within)
    return Source(
        {"path": objects([os.path.join(root, str(path)) for path in paths]), "plain": index.plain[kept]},
        labels,
        names,
        sha256("folder", *content, *within),
        unreadable=tuple(str(index.path[i]) for i in at if index.state[i] == 0),
        why_unlabelled=why,
        by_content=full,
        before=None if full else before,
        digests=objects([digest.tobytes() for digest in index.digest[kept]]) if full else None,
    )


def objects(values: list) -> np.ndarray:
    """An array of Python objects."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def check_unreadable(
    where: str, broken: list[str], n: int, max_unreadable: float, why: Callable[[str], str | None]
) -> tuple[str, ...]:
    """What is to be said of images that cannot be read; ValueError if more than ``max_unreadable`` of ``n`` are so.

    Args:
      why: what is wrong with an image of that name; asked of three.
    """
    if not broken:
        return ()
    reasons: dict[str | None, list[str]] = {}
    for name in sorted(broken)[:3]:
        reasons.setdefault(why(name), []).append(name)
    said = "; ".join(", ".join(named) + (f": {reason}" if reason else "") for reason, named in reasons.items())
    more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
    count = f"{len(broken)} of {n} images in {where} cannot be read ({said}{more})"
    if len(broken) > max_unreadable * n:
        raise ValueError(
            f"{count}, more than data.max_unreadable={max_unreadable:g} of them; remove or repair them, or raise it"
        )
    return (f"{count} and are left out",)


def build_index(
    root: Path,
    paths: list[str],
    looked: Mapping[str, Listed],
    old: Mapping[str, np.ndarray],
    *,
    full: bool,
    decoding: Decoding = DEFAULT_DECODING,
    file: Path,
    began: int,
) -> Index:
    """Check the files at ``paths`` (relative, sorted); those checked before and not changed since are not read again.

    Args:
      root: absolute path of the folder.
      paths: relative paths.
      looked: the folders that they are in.
      old: the index as it was kept, empty if there was none.
      full: decode each file, else read its header alone.
      decoding: how they are decoded.
      file: where the index is kept; a folder that cannot be written to costs only the next start its time.
      began: time before the folders were listed, nanoseconds.
    """
    n = len(paths)
    within = {path: k for k, listed in enumerate(looked.values()) for path in listed.images}
    folder = np.array([within[path] for path in paths], np.int64)
    row = {path: i for i, path in enumerate(old["path"].tolist())} if old else {}
    was = np.array([row.get(os.fsencode(path), -1) for path in paths], np.int64)
    kept = was >= 0
    index = Index(
        objects(paths),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.full(n, full),
        np.zeros(n, np.int8),
        np.zeros(n, bool),
        np.zeros((n, 32), np.uint8),
    )
    for name in Index._fields[1:] if kept.any() else ():
        getattr(index, name)[kept] = old[name][was[kept]]
    if old and old.get("check") != CHECK:
        index.full[kept] = False
    fresh = np.array([listed.fresh for listed in looked.values()])
    stats = _stats([os.path.join(root, path) for path in paths])
    for i, (size, mtime) in enumerate(stats):
        kept[i] &= (index.size[i], index.mtime[i]) == (size, mtime)
        index.size[i], index.mtime[i] = size, mtime
    # New or changed, or checked by its header alone and now asked for in full.
    todo = np.flatnonzero(~kept | (full & ~index.full))
    if len(todo):
        log.info("checking %d of %d images in %s (%s)", len(todo), n, root, "full" if full else "header")
        checks = check_all(lambda i: Path(root, paths[i]), todo, full, decoding)
        checks = counted(checks, "checking", len(todo), "files")
        for i, (state, plain, digest) in zip(todo, checks, strict=True):
            index.full[i], index.state[i], index.plain[i], index.digest[i] = full, state, plain, digest
    if len(todo) or fresh.any():  # a new listing is worth keeping also where it brought no new file
        newest = np.array([listed.mtime for listed in looked.values()], np.int64)
        times = newest.copy()
        np.maximum.at(newest, folder, index.mtime)
        # What is not in the index is listed again, too: images that a circle of links shows twice, and other folders.
        whole = np.bincount(folder, minlength=len(looked)) == [len(listed.images) for listed in looked.values()]
        times[~whole | (newest >= began - UNSETTLED)] = -1
        passed = [listed.passed for listed in looked.values()]
        others = [name for listed in looked.values() for name in listed.folders if name not in looked]
        kept_folders = {
            "folder": np.array([os.fsencode(name) for name in [*looked, *others]]),
            "folder_mtime": np.concatenate([times, np.full(len(others), -1)]),
            "within": folder,
            "passed": np.array([json.dumps(p).encode() for p in passed + [{}] * len(others)]),
            "rules": np.array(_rules()),
            "check": np.array(CHECK),
        }
        write_cache(file, index._asdict() | {"path": np.array([os.fsencode(p) for p in paths])} | kept_folders)
    return index


def _inode(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # gone since it was listed; looking into it says so
        return -1, -1
    return stat.st_dev, stat.st_ino


def _stat(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:  # a dangling link
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


def _stats(paths: list[str]) -> Iterator[tuple[int, int]]:
    """Size and time of each file; on a network every look takes its time."""
    parts = [paths[i : i + 1024] for i in range(0, len(paths), 1024)]
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda part: [*map(_stat, part)], parts):
            yield from found


Checked = tuple[int, bool, np.ndarray]


def check_all(
    file_of: Callable[[int], Path | bytes], rows: Iterable[int], full: bool, decoding: Decoding
) -> Iterator[Checked]:
    """State, plain and digest of the image files ``file_of(row)``, as :class:`Index` has them."""

    def one(i: int) -> Checked:
        try:
            return _check(file_of(i), full, decoding)
        except (decode.Unreadable, OSError):
            return 0, False, np.zeros(32, np.uint8)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        yield from pool.map(one, rows, chunksize=64)


def _check(file: Path | bytes, full: bool, decoding: Decoding) -> Checked:
    if not full:
        return 1, decode.is_plain(file, decoding), np.zeros(32, np.uint8)
    data = file if isinstance(file, bytes) else file.read_bytes()
    decode.read(data, 3, decoding)
    decode.refuse_damage(data)
    plain = decode.is_plain(data, decoding) and decode.is_whole_to_tensorflow(data)
    return 2, plain, np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def why_unreadable(file: Path | bytes, full: bool, decoding: Decoding) -> str | None:
    """What is wrong with an image file; None if nothing is any more."""
    try:
        _check(file, full, decoding)
    except (decode.Unreadable, OSError) as error:
        return str(error)
    return None
