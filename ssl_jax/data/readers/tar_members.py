"""What is in a tar of images: members by WebDataset's rules for names.

Of ``a/0001.v2.JPG`` the key is ``a/0001``, up to the first dot of the base name, and the rest its extension, in lower
case; files of one key are one example. Its image is the file whose last suffix is that of an image, before others the
one with that suffix alone: ``0001.jpg`` beside ``0001.seg.png``. Where the rest is but a number (``cat.0.jpg``,
``cat.1.jpg``) the key does not tell examples apart, and each image is one. The class of an example is an integer in
``0001.cls`` or ``"label"`` in ``0001.json``. Links are followed inside the tar. Of members of one name the last counts,
as when a tar is extracted.
"""

from __future__ import annotations

import collections
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.images import image_files

BLOCK = 512  # bytes, of which a tar is made
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gz, bz2, xz, zst, lz4
FIRST = ("image", "img", "rgb", "input", "photo")  # of several images of an example, the one that is meant


class Member(NamedTuple):
    name: str
    offset: int
    length: int


def list_tar(shard: Path) -> dict[str, np.ndarray]:
    """``"offset"``, ``"length"``, ``"label"`` (-1 if unknown) and ``"name"`` of the images of a tar.

    Also ``"stray"``: of a tar in which there are labels, but for none of its images, a file of a label; ``"shared"``:
    of images that share a key, two names; ``"passed"``: JSON, how many files of which kind are not used.

    Raises:
      ValueError: it is compressed, not whole, or says two things of one example.
    """
    try:
        with open(shard, "rb") as stream:
            if stream.read(5).startswith(COMPRESSED):
                raise compressed(shard)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                members, passed = _members(tar)
                _check_end(stream, tar.offset, os.path.getsize(shard))
            return _examples(members, passed, stream, shard)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{shard} is not a whole tar file ({error}); make it again") from error


def compressed(file: Path) -> ValueError:
    return ValueError(f"{file} is compressed, which has no random access; decompress it (gunzip, tar files stay)")


def _check_end(stream: Any, offset: int, size: int) -> None:
    """A tar ends in zeros; without them it is cut short, and with more behind them, tarfile would not read it."""
    stream.seek(offset)
    if size < offset + BLOCK:
        raise tarfile.ReadError(f"cut short at byte {size}")
    while part := stream.read(1 << 20):
        if part.strip(b"\0"):
            raise tarfile.ReadError(f"neither a member nor zeros from byte {offset} on; tars joined by cat?")


def _members(tar: tarfile.TarFile) -> tuple[list[Member], collections.Counter[str]]:
    """The files of a tar, links as what they lead to, and how many are passed over."""
    at: dict[str, tuple[int, int]] = {}  # name -> where its bytes lie
    leads: dict[str, str] = {}  # name of a link -> what it leads to
    names: dict[str, str] = {}  # name -> as it is written
    passed = collections.Counter()
    for member in tar:
        name = posixpath.normpath(member.name).lstrip("/")
        if member.isdir():
            continue
        if names.pop(name, None) is not None:
            passed[image_files.REPLACED] += 1
        if member.issparse():  # does not lie in one piece
            kind = image_files.SPARSE
        elif member.isreg() or member.islnk() or member.issym():
            kind = _left_behind(name)
        else:
            kind = image_files.NO_FILE
        if kind is not None:
            passed[kind] += 1
            continue
        names[name] = member.name
        leads.pop(name, None)
        if member.isreg():
            at[name] = member.offset_data, member.size
        elif member.islnk():
            leads[name] = posixpath.normpath(member.linkname).lstrip("/")
        else:
            leads[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname)).lstrip("/")
    members = []
    for name, given in names.items():
        seen = set()
        while name in leads and name not in seen:
            seen.add(name)
            name = leads[name]
        if name in at and name not in leads:
            members.append(Member(given, *at[name]))
        else:
            passed[image_files.DEAD] += 1
    return members, passed


def _left_behind(name: str) -> str | None:
    """As what a file is passed over that is hidden, or that a system left behind; None if it is neither."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if any(map(image_files.is_system, parts)):
        return image_files.SYSTEM_FILE
    return image_files.HIDDEN if any(part.startswith(".") for part in parts) else None


def _examples(
    members: Sequence[Member], passed: collections.Counter[str], stream: Any, shard: Path
) -> dict[str, np.ndarray]:
    images: dict[str, list[tuple[str, str, Member]]] = {}  # key -> (name without suffix, extension, member)
    labels: dict[str, dict[str, int]] = {}  # key -> name without suffix -> class
    named: list[tuple[str, str, str]] = []  # (key, suffix, name) of the files of classes
    for member in members:
        head, _, base = member.name.rpartition("/")
        stem, dot, rest = base.partition(".")
        key, suffix, extension = f"{head}/{stem}", image_files.suffix(base), (dot + rest).lower()
        name = f"{head}/{base.removesuffix(base[len(base) - len(suffix) :])}"
        kind = "image" if suffix in image_files.suffixes() else suffix
        if not suffix:
            stream.seek(member.offset)
            kind = image_files.kind_of_head(stream.read(min(member.length, image_files.HEAD)))
        if kind == "image":
            images.setdefault(key, []).append((name, extension, member))
            continue
        label = None
        if suffix in (".cls", ".json"):
            stream.seek(member.offset)
            label = _label(stream.read(member.length), suffix, f"{member.name} in {shard}", extension != suffix)
        if label is None:
            passed[kind] += 1
        else:
            said = labels.setdefault(key, {}).setdefault(name, label)
            if said != label:
                raise ValueError(f"{member.name} in {shard} says class {label}, another file {said}; keep one")
            named.append((key, suffix, member.name))
    rows, shared = [], []
    for key, found in images.items():
        kept = _images_of(found, shard)
        if len(kept) < len(found):
            passed.update(extension for _, extension, member in found if member is not kept[0][2])
        if len(kept) > 1 and not shared:
            shared = [member.name for _, _, member in kept[:2]]
        known = labels.get(key, {})
        alone = next(iter(known.values())) if len(known) == len(kept) == 1 else -1
        rows += [(member, known.get(name, known.get(key, alone))) for name, _, member in kept]
    passed.update(suffix for key, suffix, _ in named if key not in images)
    stray = [name for _, _, name in named[:1]] if not images.keys() & labels.keys() else []
    return {
        "name": np.array([os.fsencode(member.name) for member, _ in rows], "S"),
        "offset": np.array([member.offset for member, _ in rows], np.int64),
        "length": np.array([member.length for member, _ in rows], np.int64),
        "label": np.array([label for _, label in rows], np.int64),
        "stray": np.array([os.fsencode(name) for name in stray], "S"),
        "shared": np.array([os.fsencode(name) for name in shared], "S"),
        "passed": np.array(json.dumps(passed)),
    }


def _images_of(found: list[tuple[str, str, Member]], shard: Path) -> list[tuple[str, str, Member]]:
    """Which of the images of one key are examples."""
    if len(found) == 1:
        return found
    middle = [extension[: len(extension) - len(image_files.suffix(f"x{extension}"))] for _, extension, _ in found]
    plain = [image for image, between in zip(found, middle, strict=True) if not between]
    if not plain and all(re.fullmatch(r"[\d._-]+", between) for between in middle):
        return found
    first = plain or [image for word in FIRST for image, m in zip(found, middle, strict=True) if m == f".{word}"][:1]
    if len(first) != 1:
        one, two = (member.name for _, _, member in (first or found)[:2])
        base, suffix = os.path.splitext(posixpath.basename(one))
        raise ValueError(
            f"{shard} holds {one!r} and {two!r} of one key, which is a name up to its first dot; rename them "
            f"({base.replace('.', '_')}{suffix}) if they are two examples, else keep one image for each key"
        )
    return first


def _label(data: bytes, suffix: str, where: str, lenient: bool) -> int | None:
    try:
        value = int(data) if suffix == ".cls" else json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and value.get("label") is None:
        return None
    value = value["label"] if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 31:
        if lenient and suffix == ".json":  # what 0001.boxes.json is about, nobody said
            return None
        want = "an integer" if suffix == ".cls" else 'an object in which "label" is an integer'
        raise ValueError(f"{where} is {data[:40]!r}; write {want} (0, 1, ...; -1 if unknown)")
    return value
