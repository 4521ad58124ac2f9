"""Sharded datasets as sources: tar files as WebDataset writes them, and ArrayRecord files of ``tf.train.Example``.

``tar:PATH``: files whose names agree up to the first dot are an example, see :mod:`tar_members`. Where no file says a
class, the folders inside are classes, as on disk (:mod:`layout`). Nothing is extracted: an image is read again from
where it lies in the tar, so what names there are in it does not matter.

``arrayrecord:PATH``: the image file's bytes are feature ``"image"`` or ``"image/encoded"``, its class the integer
``"label"`` or ``"image/class/label"``.

PATH is a folder, one file, or a pattern with ``*``, ``?``, ``[...]``, ``{a,b}`` or ``{000..099}``. Shards in
sub-folders ``train/`` and ``test/``, or with one of these words in their names (``x-train-0000.tar``), are splits, and
so are such folders inside tars; :mod:`split_names` knows the words. What is in a shard is listed once and checked once,
both cached by the shard's path, size and modification time, so a start only looks at the shards themselves. Examples
are read one by one, in any order, so the order of an epoch is a permutation of them all and knows nothing of shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import overlap
from ssl_jax.data.cache import read_cache, write_cache
from ssl_jax.data.images import decode, image_files
from ssl_jax.data.readers import folder, layout, records, shard_files, split_names, splits, tar_members
from ssl_jax.data.source import Decoding, Source, sha256
from ssl_jax.online.progress import counted

log = logging.getLogger(__name__)

IMAGES, LABELS = ("image", "image/encoded"), ("label", "image/class/label")

Arrays = dict[str, np.ndarray]


def load(
    kind: str,
    path: Path,
    *,
    train_split: str | None,
    test_split: str | None,
    verify: str | None,
    max_unreadable: float,
    decoding: Decoding,
    cache_dir: Path,
    memory_limit: int,
) -> tuple[Source, Source | None, Source | None]:
    """Train, test and more unlabelled examples of a sharded dataset; see :func:`ssl_jax.data.readers.load`.

    Args:
      kind: ``"tar"`` or ``"arrayrecord"``.
      path: of a folder or file, or a pattern.
    """
    where = str(path)
    shards, passed = shard_files.find(kind, path)
    groups: dict[str, list[Path]] = {}
    for split, shard in shards:
        groups.setdefault(split, []).append(shard)
    names = [name for name in groups if name]
    # A folder of shards is no class, so a word for a split is enough (PublicTest).
    holds = lambda name: split_names.parse(name)[0] is not None  # noqa: E731
    # Where no shard is of a split, the folders inside a tar may be.
    inside = kind == "tar" and not names
    chosen = None if inside else split_names.choose(where, names, train_split, test_split, holds)
    if chosen is None:
        chosen, groups = split_names.Chosen("", (), ()), {"": [shard for _, shard in shards]}
    elif "" in groups:
        loose = image_files.some([shard.name for shard in groups[""]])
        raise ValueError(f"{where} has shards of no split ({loose}) beside {chosen.train}; move or rename them")
    parts = (chosen.train, *chosen.tests, *chosen.unlabelled)
    images = _Images.of_shards(
        [(name, shard, _listed(kind, shard, cache_dir)) for name in parts for shard in groups[name]]
    )
    if not len(images.shard):
        ends = f"; images in a tar end in {', '.join(image_files.SUFFIXES)}" if kind == "tar" else ""
        raise ValueError(f"{where} holds no image{ends}")
    given = {i: str(label) for i, label in enumerate(images.column("label").tolist()) if label >= 0}
    by_folder = kind == "tar" and not given
    trees = {name: _tree(f"{where}/{name}", images, name, None if by_folder else given) for name in parts}
    if chosen.train:
        found = splits.divide(
            where,
            chosen,
            lambda name: layout.part(trees[name], name),
            lambda name: dict.fromkeys(images.of(name)),
            asked=test_split is not None,
            check=by_folder,
        )
        others = sorted(set(names) - set(found.used))
        notes = [*found.notes, *([splits.not_used(where, others)] if others else [])]
    else:
        found = layout.read(trees[""]._replace(where=where), train_split, test_split)
        like = [name for name in names if split_names.parse(name)[0]]
        said = f"{where}: no shard is named for training, so all are learned from, also {', '.join(like)}"
        notes = [*found.notes, *([said] if like else [])]
    kept = [np.array(sorted(part), np.int64) for part in (found.train, found.test or {}, found.unlabelled)]
    n = sum(map(len, kept))
    full = verify == "full" or (verify is None and n <= folder.FULL_UP_TO)
    used = sorted({int(k) for rows in kept for k in np.unique(images.shard[rows])})
    for k in used:
        images.tables[k].update(checked(images.shards[k], images.tables[k], full, decoding, cache_dir))
    notes += _said(where, [images.shards[k] for k in used], [images.tables[k] for k in used], passed)
    broken = [found for rows in kept for found in _unreadable(images, rows)]

    def why(name: str) -> str | None:
        _, k, i = next(found for found in broken if found[0] == name)
        data = _contents(images.shards[k], images.tables[k], i, full, decoding)
        return folder.why_unreadable(data, full, decoding)

    notes += folder.check_unreadable(where, [name for name, _, _ in broken], n, max_unreadable, why)
    if len(kept[2]) and sum(images.column("length", kept[i]).sum() for i in (0, 2)) > memory_limit:
        memory_limit = -1  # the two are joined, so both are held or neither

    def source(rows: np.ndarray, classes: splits.Classes, names: tuple[str, ...] | None, why: str) -> Source:
        found = _source(kind, images, rows, full, memory_limit)
        if not by_folder:
            return found
        readable = rows[images.column("state", rows) > 0]
        labels, names = splits.numbered(where, [classes[i] for i in readable.tolist()], splits.known(classes), names)
        return _with_classes(found, labels, names, f"no .cls or .json file says a class, and {why}")

    train, test, more = source(kept[0], found.train, None, found.why[0]), None, None
    if found.unlabelled:
        more = source(kept[2], found.unlabelled, None, "")
        notes.append(splits.more_unlabelled(where, len(more)))
    if found.test is not None:
        test = source(kept[1], found.test, train.class_names, found.why[1])
        learned = _held(images, np.sort(np.concatenate([kept[0], kept[2]])), full)
        notes += overlap.check(learned, _held(images, kept[1], full), where, (found.used[0], found.tested))
    return dataclasses.replace(train, notes=tuple(notes)), test, more


def _held(images: _Images, rows: np.ndarray, full: bool) -> Iterator[bytes]:
    """What the readable images of a split hold; where that is not known, where they lie."""
    for k, inside in images.by_shard(rows):
        table, real = images.tables[k], os.path.realpath(images.shards[k])
        for i in inside[table["state"][inside] > 0]:
            where = f"{real} {table['offset'][i]} {table['record'][i] if 'record' in table else ''}"
            yield table["digest"][i].tobytes() if full else os.fsencode(where)


class _Images(NamedTuple):
    """The images of shards, numbered one after the other."""

    splits: list[str]  # of each shard
    shards: list[Path]
    tables: list[Arrays]
    shard: np.ndarray  # of each image
    first: np.ndarray  # image of each shard

    @classmethod
    def of_shards(cls, listed: list[tuple[str, Path, Arrays]]) -> _Images:
        splits, shards, tables = (list(part) for part in zip(*listed, strict=True))
        sizes = [len(table["offset"]) for table in tables]
        return cls(splits, shards, tables, np.repeat(np.arange(len(sizes)), sizes), np.cumsum([0, *sizes]))

    def of(self, split: str) -> list[int]:
        return np.flatnonzero(np.array([name == split for name in self.splits])[self.shard]).tolist()

    def by_shard(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(shard, rows of its table) of images in order."""
        ends = np.searchsorted(rows, self.first)
        for k in range(len(self.shards)):
            if ends[k] < ends[k + 1]:
                yield k, rows[ends[k] : ends[k + 1]] - self.first[k]

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(len(self.shard)) if rows is None else rows
        parts = [self.tables[k][name][inside] for k, inside in self.by_shard(rows)]
        return np.concatenate(parts) if parts else self.tables[0][name][:0]


def _tree(where: str, images: _Images, split: str, given: Mapping[int, str] | None) -> layout.Tree:
    """The folders that the names of the images of a split are in; images by number."""
    rows = np.array(images.of(split), np.int64)
    folders: dict[str, set[str]] = {"": set()}
    inside: dict[str, list[int]] = {}
    for k, of_table in images.by_shard(rows):
        stem = re.sub(r"\.tar$", "", images.shards[k].name, flags=re.IGNORECASE)
        for i in of_table.tolist():
            parts = os.fsdecode(images.tables[k]["name"].item(i)).split("/")[:-1]
            parts = [part for part in parts if part not in ("", ".", "..")]
            if parts and parts[0] == stem and re.search(r"\d", stem):  # x-000/ in x-000.tar says nothing
                parts = parts[1:]
            at = "/".join(parts)
            inside.setdefault(at, []).append(int(images.first[k]) + i)
    for at in list(inside):
        while at:
            above = posixpath.dirname(at)
            folders.setdefault(above, set()).add(at)
            at = above
    listed = {at: _Folder(at, sorted(folders.get(at, ())), inside.get(at, [])) for at in {*folders, *inside}}

    def name(i: int) -> str:
        k = images.shard[i]
        return f"{os.fsdecode(images.tables[k]['name'].item(i - images.first[k]))} in {images.shards[k].name}"

    return layout.Tree(where, listed.__getitem__, strict=False, name=name, given=given)


class _Folder(NamedTuple):
    inode: str
    folders: list[str]
    images: list[int]


def _said(where: str, shards: list[Path], tables: list[Arrays], passed: Mapping[str, int]) -> list[str]:
    """What is to be said of what lies in shards."""

    def named(column: str) -> list[str]:
        pairs = zip(shards, tables, strict=True)
        return [f"{os.fsdecode(name)} in {shard.name}" for shard, table in pairs for name in table.get(column, ())]

    notes = []
    if strays := named("stray"):
        notes.append(
            f"{where}: in {len(strays)} tar(s) no label belongs to an image, which are unlabelled "
            f"({image_files.some(strays)}); a label has the name of its image up to the first dot"
        )
    if shared := named("shared"):
        notes.append(
            f"{where}: in {sum(len(table.get('shared', ())) > 0 for table in tables)} tar(s) the names of images are "
            f"alike up to the first dot ({', '.join(shared[:2])}); each image is taken as an example of its own"
        )
    inside = [json.loads(table["passed"].item()) for table in tables if "passed" in table]
    return [*notes, *image_files.passed_over(where, image_files.total([passed, *inside]))]


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

    Of a tar also what :func:`tar_members.list_tar` says.
    """
    if kind == "arrayrecord":
        return _cached(shard, kind, cache_dir, lambda: _list_array_record(shard))
    # What can be read depends on what is installed.
    rules = f"tar 4 {' '.join(image_files.suffixes())}"
    return _cached(shard, rules, cache_dir, lambda: tar_members.list_tar(shard))


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


def checked(shard: Path, table: Arrays, full: bool, decoding: Decoding, cache_dir: Path, column: str = "") -> Arrays:
    """``"state"``, ``"plain"`` and ``"digest"`` as in :class:`folder.Index`; ``column``: of which it is of several."""

    def check() -> Arrays:
        n = len(table["offset"])
        log.info("checking %d images in %s (%s)", n, shard, "full" if full else "header")
        checks = folder.check_all(lambda i: _contents(shard, table, i, full, decoding), range(n), full, decoding)
        found = list(counted(checks, f"checking {shard.name}", n))
        return {
            "state": np.array([state for state, _, _ in found], np.int8),
            "plain": np.array([plain for _, plain, _ in found], bool),
            "digest": np.array([digest for _, _, digest in found], np.uint8).reshape(n, 32),
        }

    what = f"full {folder.CHECK}" if full else "header"
    what = " ".join(filter(None, (what, decoding.reads, column)))
    found = _cached(shard, what, cache_dir, check)
    # Those of another listing, by other rules, are others.
    n = len(table["offset"])
    return found if len(found["state"]) == n else _cached(shard, f"{what} {n} images", cache_dir, check)


def _contents(shard: Path, table: Arrays, i: int, full: bool, decoding: Decoding) -> bytes:
    """The bytes of an image, of a long one the head alone where that holds its header."""
    where = {name: table[name][i] for name in ("offset", "length", "record") if name in table}
    head = where | {"length": min(where["length"], records.HEAD)}
    if not full and "record" not in where and head != where:
        data = decode.contents({"path": str(shard), **head})
        try:
            decode.is_plain(data, decoding)
        except decode.Unreadable:
            pass
        else:
            return data
    return decode.contents({"path": str(shard), **where})


def _unreadable(images: _Images, rows: np.ndarray) -> list[tuple[str, int, int]]:
    """Name, shard and row in it of every image that cannot be read."""
    return [
        (f"{images.shards[k].name}/{os.fsdecode(images.tables[k]['name'].item(i))}", k, int(i))
        for k, inside in images.by_shard(rows)
        for i in inside[images.tables[k]["state"][inside] == 0]
    ]


def _source(kind: str, images: _Images, rows: np.ndarray, full: bool, memory_limit: int) -> Source:
    kept = rows[images.column("state", rows) > 0]
    columns: dict[str, Any] = {name: images.column(name, kept) for name in ("offset", "length", "plain")}
    columns["path"] = np.array([str(shard) for shard in images.shards], object)[images.shard[kept]]
    labels = images.column("label", kept)
    # The names of the shards, not where they are: the same shards elsewhere are the same data.
    inside = list(images.by_shard(rows))
    within = [part for k, i in inside for part in (images.shards[k].name, sha256(images.tables[k]["name"][i]))]
    before = sha256(kind, images.column("digest" if full else "length", kept), labels, *within)
    times = [f"{stat.st_size} {stat.st_mtime_ns}" for stat in (os.stat(images.shards[k]) for k, _ in inside)]
    if kind == "arrayrecord":
        columns = records.held(columns | {"record": images.column("record", kept)}, memory_limit)
    return Source(
        columns,
        labels,
        None,
        before if full else sha256(before, *times),
        unreadable=tuple(name for name, _, _ in _unreadable(images, rows)),
        by_content=full,
        before=None if full else before,
        digests=folder.objects([digest.tobytes() for digest in images.column("digest", kept)]) if full else None,
    )


def _with_classes(source: Source, labels: np.ndarray | None, names: tuple[str, ...] | None, why: str) -> Source:
    """A source of which folders say the classes."""
    if labels is None or names is None:
        return dataclasses.replace(source, labels=None, why_unlabelled=why)
    fingerprint = sha256(source.fingerprint, labels, *map(os.fsencode, names))
    return dataclasses.replace(source, labels=labels, class_names=names, fingerprint=fingerprint, before=None)
