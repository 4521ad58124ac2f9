"""Folders of images as sources.

A class is a sub-folder with the images below it, however deep; one flat folder of images is unlabelled. ``train/``
beside ``test/``, ``val/`` or ``validation/`` are splits. Hidden files, hidden folders and files without the suffix of
an image are passed over; what a file holds is read from the file, not from its suffix.

Every file is checked when the index is built; unreadable ones are counted, named and left out. The index is cached by
path, size and modification time, so the check is paid once.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.data import decode
from ssl_jax.data.source import Source, read_cache, sha256, write_cache

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
TESTS = ("test", "validation", "val", "valid")
FULL_UP_TO = 100_000


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
    root = root.resolve()
    train_name, test_name = _splits(root, train_split, test_split)
    listings = [_listing(root, name) for name in (train_name, test_name) if name is not None]
    paths = sorted(path for listing in listings for path in listing)
    full = verify == "full" or (verify is None and len(paths) <= FULL_UP_TO)
    index = build_index(root, paths, full=full, cache_dir=cache_dir)
    _check_unreadable(root, index, max_unreadable)
    rows = {path: i for i, path in enumerate(index.path)}
    sources, names = [], None
    for listing in listings:
        source = _source(root, listing, index, rows, names)
        names = source.class_names
        sources.append(source)
    return sources[0], sources[1] if len(sources) == 2 else None


def _splits(root: Path, train: str | None, test: str | None) -> tuple[str, str | None]:
    """Names of the sub-folders that hold train and test, ``""`` for the folder itself."""
    names = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if train is None and test is None:
        if "train" not in names or not (set(names) <= {"train", *TESTS}):
            # A folder that holds more than splits holds classes, unless train stands beside its test.
            if not ("train" in names and set(names) & set(TESTS)):
                return "", None
            unused = ", ".join(sorted(set(names) - {"train", *TESTS}))
            log.warning("%s: train/ beside a test split are taken as splits; %s is not used", root, unused)
        train = "train"
    train = "train" if train is None else train
    test = next((t for t in TESTS if t in names and t != train), None) if test is None else test
    for key, name in (("train_split", train), ("test_split", test)):
        if name is not None and name not in names:
            raise ValueError(
                f"data.{key}={name!r} is not a folder in {root}; it has {', '.join(sorted(names)) or 'none'}"
            )
    if train == test:
        raise ValueError(
            f"data.train_split and data.test_split are both {train!r}; test examples must not be trained on"
        )
    loose = [p.name for p in root.iterdir() if _is_image(p.name) and p.is_file()]
    if loose:
        raise ValueError(f"{root} has loose images ({_some(loose)}) beside its splits; move them into {train}/")
    return train, test


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _some(names: list[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _listing(root: Path, split: str) -> dict[str, str | None]:
    """Relative path -> class name (None in a flat folder) of the images of one split."""
    top = root / split
    loose = [str(p.relative_to(root)) for p in top.iterdir() if _is_image(p.name) and p.is_file()]
    classes: dict[str, str | None] = {}
    for folder in sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")):
        seen = set()
        for where, subfolders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(where)
            if real in seen:  # a link to a folder above
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = [s for s in subfolders if not s.startswith(".")]
            for file in files:
                if _is_image(file):
                    classes[os.path.relpath(os.path.join(where, file), root)] = folder.name
    if loose and classes:
        folders = _some([str(name) for name in set(classes.values())])
        raise ValueError(
            f"{top} has loose images ({_some(loose)}) beside class folders ({folders}); "
            "move them into a class folder, or all images into one flat folder"
        )
    if not loose and not classes:
        raise ValueError(f"{top} holds no image; images end in {', '.join(SUFFIXES)}")
    return classes or dict.fromkeys(loose)


def _source(root: Path, listing: dict, index: Index, rows: dict[str, int], names: tuple[str, ...] | None) -> Source:
    at = np.array([rows[path] for path in sorted(listing)], np.int64)
    kept = at[index.state[at] > 0]
    paths = [index.path[i] for i in kept]
    labels = None
    classes = sorted({name for name in listing.values() if name is not None})
    if classes:
        names = tuple(classes) if names is None else names
        unknown = [c for c in classes if c not in names]
        if unknown:
            raise ValueError(f"{root}: test has classes that train has not ({_some(unknown)}); rename or remove them")
        number = {name: k for k, name in enumerate(names)}
        labels = np.array([number[listing[path]] for path in paths], np.int32)
    # Content where it was read, else size; never the time, which differs from copy to copy of a dataset.
    content = index.digest[kept] if index.full.all() else index.size[kept]
    return Source(
        {"path": _objects([str(root / path) for path in paths]), "plain": index.plain[kept]},
        labels,
        names if classes else None,
        sha256("folder", content, *(os.fsencode(str(p)) for p in paths)),
        unreadable=tuple(str(index.path[i]) for i in at if index.state[i] == 0),
    )


def _objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _check_unreadable(root: Path, index: Index, max_unreadable: float) -> None:
    broken = [index.path[i] for i in np.flatnonzero(index.state == 0)]
    if not broken:
        return
    count = f"{len(broken)} of {len(index.path)} images in {root} cannot be read ({_some(broken)})"
    if len(broken) > max_unreadable * len(index.path):
        raise ValueError(
            f"{count}, more than data.max_unreadable={max_unreadable:g} of them; remove or repair them, or raise it"
        )
    log.warning("%s and are left out", count)


def build_index(root: Path, paths: list[str], *, full: bool, cache_dir: Path) -> Index:
    """Check the files at ``paths`` (relative, sorted); those checked before and not changed since are not read again.

    Args:
      root: absolute path of the folder.
      paths: relative paths.
      full: decode each file, else read its header alone.
      cache_dir: where the index is kept; a folder that cannot be written to costs only the next start its time.
    """
    n = len(paths)
    stats = [_stat(root / path) for path in paths]
    index = Index(
        _objects(paths),
        np.array([s[0] for s in stats], np.int64),
        np.array([s[1] for s in stats], np.int64),
        np.full(n, full),
        np.zeros(n, np.int8),
        np.zeros(n, bool),
        np.zeros((n, 32), np.uint8),
    )
    file = cache_dir / "folders" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.npz"
    old = read_cache(file)
    known = {} if old is None else {path: i for i, path in enumerate(old["path"].tolist())}
    todo = []
    for i, path in enumerate(paths):
        j = known.get(os.fsencode(path))
        if (
            old is not None
            and j is not None
            and (old["size"][j], old["mtime"][j]) == (index.size[i], index.mtime[i])
            and (old["full"][j] or not full)
        ):
            for name in ("full", "state", "plain", "digest"):
                getattr(index, name)[i] = old[name][j]
        else:
            todo.append(i)
    if not todo:
        return index
    log.info("checking %d of %d images in %s (%s)", len(todo), n, root, "full" if full else "header")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        checks = pool.map(lambda i: _check(root / paths[i], full), todo, chunksize=64)
        for i, (state, plain, digest) in zip(todo, checks, strict=True):
            index.state[i], index.plain[i], index.digest[i] = state, plain, digest
    write_cache(file, index._asdict() | {"path": np.array([os.fsencode(p) for p in paths])})
    return index


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # a dangling link
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


def _check(path: Path, full: bool) -> tuple[int, bool, np.ndarray]:
    digest = np.zeros(32, np.uint8)
    try:
        if not full:
            return 1, decode.is_plain(path), digest
        data = path.read_bytes()
        decode.read(data)
        plain = decode.is_plain(data) and decode.is_whole_to_tensorflow(data)
        return 2, plain, np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    except (decode.Unreadable, OSError):
        return 0, False, digest
