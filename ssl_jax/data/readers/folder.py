"""Folders of images as sources.

A class is a sub-folder with the images below it, however deep; one flat folder of images is unlabelled. ``train/``
beside ``test/``, ``val/`` or ``validation/`` are splits. Hidden files, hidden folders and files without the suffix of
an image are passed over; what a file holds is read from the file, not from its suffix.

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

import dataclasses
import functools
import hashlib
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
from ssl_jax.data.images import decode
from ssl_jax.data.source import Source, sha256

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
TESTS = ("test", "validation", "val", "valid")
FULL_UP_TO = 100_000
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
    fresh: bool  # listed at this start


Look = Callable[[str], Listed]


def load(
    root: Path,
    *,
    train_split: str | None,
    test_split: str | None,
    verify: str | None,
    max_unreadable: float,
    cache_dir: Path,
) -> tuple[Source, Source | None]:
    """Train and test of an image folder; see :func:`ssl_jax.data.source.load`. Test is None if there is none."""
    if not root.is_dir():
        raise ValueError(f"image folder {str(root)!r} is not there; give data.source=folder:<path of a folder>")
    began, root = time.time_ns(), root.resolve()
    file = cache_dir / "folders" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.npz"
    old = read_cache(file) or {}
    looked: dict[str, Listed] = {}
    look = _looker(root, _known(old), looked)
    train_name, test_name = choose_splits(str(root), look("").folders, train_split, test_split)
    if train_name and look("").images:
        loose = some(look("").images)
        raise ValueError(f"{root} has loose images ({loose}) beside its splits; move them into {train_name}/")
    listings = [_listing(root, look, name) for name in (train_name, test_name) if name is not None]
    paths = sorted(path for listing in listings for path in listing)
    full = verify == "full" or (verify is None and len(paths) <= FULL_UP_TO)
    index = build_index(root, paths, looked, old, full=full, file=file, began=began)
    broken = [index.path[i] for i in np.flatnonzero(index.state == 0)]
    check_unreadable(str(root), broken, len(paths), max_unreadable)
    rows = {path: i for i, path in enumerate(index.path)}
    sources, names = [], None
    for listing in listings:
        source = _source(root, listing, index, rows, names, full)
        names = source.class_names
        sources.append(source)
    if len(sources) == 1:
        return sources[0], None
    seen = [_held(listing, index, rows, looked, full) for listing in listings]
    notes = overlap.check(*seen, str(root), (f"{train_name}/", f"{test_name}/"))
    return sources[0], dataclasses.replace(sources[1], notes=(*sources[1].notes, *notes))


def _held(
    listing: dict, index: Index, rows: dict[str, int], looked: Mapping[str, Listed], full: bool
) -> Iterator[bytes]:
    """What the readable images of a split hold; where that is not known, which files they are, be it by a link."""
    for path in listing:
        if index.state[rows[path]] > 0:
            folder, name = os.path.split(path)
            yield index.digest[rows[path]].tobytes() if full else os.fsencode(f"{looked[folder].inode} {name}")


def choose_splits(where: str, names: list[str], train: str | None, test: str | None) -> tuple[str, str | None]:
    """Which of the parts ``names`` of a dataset hold train and test, ``""`` if it is not divided into splits."""
    if train is None and test is None:
        if "train" not in names or not (set(names) <= {"train", *TESTS}):
            # A folder that holds more than splits holds classes, unless train stands beside its test.
            if not ("train" in names and set(names) & set(TESTS)):
                return "", None
            unused = ", ".join(sorted(set(names) - {"train", *TESTS}))
            log.warning("%s: train/ beside a test split are taken as splits; %s is not used", where, unused)
        train = "train"
    train = "train" if train is None else train
    test = next((t for t in TESTS if t in names and t != train), None) if test is None else test
    for key, name in (("train_split", train), ("test_split", test)):
        if name is not None and name not in names:
            raise ValueError(
                f"data.{key}={name!r} is not a folder in {where}; it has {', '.join(sorted(names)) or 'none'}"
            )
    if train == test:
        raise ValueError(
            f"data.train_split and data.test_split are both {train!r}; test examples must not be trained on"
        )
    return train, test


def is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def some(names: list[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _known(old: Mapping[str, np.ndarray]) -> dict[str, Listed]:
    """The folders of a cached index."""
    if "folder" not in old:  # none, or from before folders were kept
        return {}
    names = [os.fsdecode(name) for name in old["folder"].tolist()]
    known = [Listed(mtime, (0, 0), [], [], False) for mtime in old["folder_mtime"].tolist()]
    at = dict(zip(names, known, strict=True))
    for name in names:
        if name:
            at[os.path.dirname(name)].folders.append(name)
    for path, k in zip(old["path"].tolist(), old["within"].tolist(), strict=True):
        known[k].images.append(os.fsdecode(path))
    return at


def _looker(root: Path, known: Mapping[str, Listed], looked: dict[str, Listed]) -> Look:
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
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        folders = [entry.name for entry in shown if entry.is_dir()]
        images = [e.name for e in shown if is_image(e.name) and (e.is_file() or (e.is_symlink() and not e.is_dir()))]
    except OSError as error:
        raise ValueError(f"image folder {at!r} cannot be listed ({error}); make it readable or move it away") from error
    inside = functools.partial(os.path.join, where)
    return Listed(stat.st_mtime_ns, inode, [*map(inside, folders)], [*map(inside, images)], True)


def _below(look: Look, where: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """The images in a folder and in those below it."""
    here = look(where)
    if here.inode not in seen:  # else a link to a folder above, or to another class
        seen.add(here.inode)
        yield from here.images
        for folder in here.folders:
            yield from _below(look, folder, seen)


def _listing(root: Path, look: Look, split: str) -> dict[str, str | None]:
    """Relative path -> class name (None in a flat folder) of the images of one split."""
    top = root / split
    loose = look(split).images
    classes: dict[str, str | None] = {}
    # Where a link in a class must not lead: to all of it, to other classes, to other splits.
    above = {look(folder).inode for folder in ("", split, *look(split).folders)}
    above |= {_inode(root / folder) for folder in look("").folders if split and folder != split}
    for folder in look(split).folders:
        images = _below(look, folder, above - {look(folder).inode})
        classes |= dict.fromkeys(images, os.path.basename(folder))
    if loose and classes:
        folders = some([str(name) for name in set(classes.values())])
        raise ValueError(
            f"{top} has loose images ({some(loose)}) beside class folders ({folders}); "
            "move them into a class folder, or all images into one flat folder"
        )
    if not loose and not classes:
        raise ValueError(f"{top} holds no image; images end in {', '.join(SUFFIXES)}")
    return classes or dict.fromkeys(loose)


def _source(
    root: Path, listing: dict, index: Index, rows: dict[str, int], names: tuple[str, ...] | None, full: bool
) -> Source:
    at = np.array([rows[path] for path in sorted(listing)], np.int64)
    kept = at[index.state[at] > 0]
    paths = [index.path[i] for i in kept]
    labels = None
    classes = sorted({name for name in listing.values() if name is not None})
    if classes:
        names = tuple(classes) if names is None else names
        unknown = [c for c in classes if c not in names]
        if unknown:
            raise ValueError(f"{root}: test has classes that train has not ({some(unknown)}); rename or remove them")
        number = {name: k for k, name in enumerate(names)}
        labels = np.array([number[listing[path]] for path in paths], np.int32)
    within = [os.fsencode(str(p)) for p in paths]
    # Content where it is read, else also the time, which may differ from copy to copy of a dataset.
    content = (index.digest[kept],) if full else (index.size[kept], index.mtime[kept])
    before = sha256("folder", index.digest[kept] if index.full.all() else index.size[kept], *within)
    return Source(
        {"path": objects([os.path.join(root, str(path)) for path in paths]), "plain": index.plain[kept]},
        labels,
        names if classes else None,
        sha256("folder", *content, *within),
        unreadable=tuple(str(index.path[i]) for i in at if index.state[i] == 0),
        why_unlabelled="" if classes else "the images lie in no folders of classes",
        by_content=full,
        before=None if full else before,
    )


def objects(values: list) -> np.ndarray:
    """An array of Python objects."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def check_unreadable(where: str, broken: list[str], n: int, max_unreadable: float) -> None:
    """Say which of ``n`` images are left out; ValueError if they are more than a share of ``max_unreadable``."""
    if not broken:
        return
    count = f"{len(broken)} of {n} images in {where} cannot be read ({some(broken)})"
    if len(broken) > max_unreadable * n:
        raise ValueError(
            f"{count}, more than data.max_unreadable={max_unreadable:g} of them; remove or repair them, or raise it"
        )
    log.warning("%s and are left out", count)


def build_index(
    root: Path,
    paths: list[str],
    looked: Mapping[str, Listed],
    old: Mapping[str, np.ndarray],
    *,
    full: bool,
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
        checks = check_all(lambda i: Path(root, paths[i]), todo, full)
        for i, (state, plain, digest) in zip(todo, checks, strict=True):
            index.full[i], index.state[i], index.plain[i], index.digest[i] = full, state, plain, digest
    if len(todo) or fresh.any():  # a new listing is worth keeping also where it brought no new file
        newest = np.array([listed.mtime for listed in looked.values()], np.int64)
        times = newest.copy()
        np.maximum.at(newest, folder, index.mtime)
        # What is not in the index is listed again, too: images that a circle of links shows twice, and other folders.
        whole = np.bincount(folder, minlength=len(looked)) == [len(listed.images) for listed in looked.values()]
        times[~whole | (newest >= began - UNSETTLED)] = -1
        others = [name for listed in looked.values() for name in listed.folders if name not in looked]
        kept_folders = {
            "folder": np.array([os.fsencode(name) for name in [*looked, *others]]),
            "folder_mtime": np.concatenate([times, np.full(len(others), -1)]),
            "within": folder,
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


def check_all(file_of: Callable[[int], Path | bytes], rows: Iterable[int], full: bool) -> Iterator[Checked]:
    """State, plain and digest of the image files ``file_of(row)``, as :class:`Index` has them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        yield from pool.map(lambda i: _check(file_of, i, full), rows, chunksize=64)


def _check(file_of: Callable[[int], Path | bytes], i: int, full: bool) -> Checked:
    digest = np.zeros(32, np.uint8)
    try:
        file = file_of(i)
        if not full:
            return 1, decode.is_plain(file), digest
        data = file if isinstance(file, bytes) else file.read_bytes()
        decode.read(data)
        decode.refuse_damage(data)
        plain = decode.is_plain(data) and decode.is_whole_to_tensorflow(data)
        return 2, plain, np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    except (decode.Unreadable, OSError):
        return 0, False, digest
