"""Which files are shards: those of a folder or a pattern, and of which split each is."""

from __future__ import annotations

import collections
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssl_jax.data.images import image_files
from ssl_jax.data.readers import split_names, tar_members

SUFFIXES = {"tar": (".tar",), "arrayrecord": (".array_record", ".arrayrecord")}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")


def find(kind: str, path: Path) -> tuple[list[tuple[str, Path]], dict[str, int]]:
    """(split or "", absolute path) of every shard, in order; and what else is there by kind."""
    suffixes, passed = SUFFIXES[kind], collections.Counter()
    if path.is_dir():
        found, root = [], path
        for file in sorted(p for pattern in ("*", "*/*", "*/*/*") for p in path.glob(pattern)):
            parts = file.relative_to(path).parts
            if ends_in(file, (*suffixes, *(COMPRESSED if kind == "tar" else ()))) and not _hidden(parts):
                found.append(file)
            elif not file.is_dir():
                passed[_other(parts)] += 1
    elif path.is_file():
        found, root = [path], path.parent
    else:
        found = [p for pattern in _expanded(str(path)) for p in _matching(pattern)]
        root = Path(os.path.commonpath([p.parent for p in found])) if found else path
    twice = sorted(str(file) for file, times in collections.Counter(found).items() if times > 1)
    if twice:
        raise ValueError(f"{str(path)!r} names {twice[0]} twice, which would be in train and in test; name it once")
    if not found:
        raise ValueError(f"{str(path)!r} holds no file that ends in {suffixes[0]}; give a folder, a file or a pattern")
    for file in found:
        if kind == "tar" and ends_in(file, COMPRESSED):
            raise tar_members.compressed(file)
        if not ends_in(file, suffixes):
            raise ValueError(f"{file} does not end in {' or '.join(suffixes)}; leave it out or rename it")
    splits = [_split(file.relative_to(root)) for file in found]
    if any(split_names.role(split) == "unlabelled" for split in splits):  # beside which labeled-0.tar has a meaning
        splits = [split or _word(file.name, split_names.LABELLED) for split, file in zip(splits, found, strict=True)]
    return [(split, file.absolute()) for split, file in zip(splits, found, strict=True)], dict(passed)


def _other(parts: tuple[str, ...]) -> str:
    """As what a file is passed over that is no shard."""
    if any(map(image_files.is_system, parts)):
        return image_files.SYSTEM_FILE
    return image_files.HIDDEN if _hidden(parts) else image_files.suffix(parts[-1]) or "without suffix"


def ends_in(file: Path, suffixes: tuple[str, ...]) -> bool:
    # TFDS writes x.array_record-00000-of-00002.
    return re.sub(r"-\d+-of-\d+$", "", file.name.lower()).endswith(suffixes)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or image_files.is_system(part) for part in parts)


def _split(relative: Path) -> str:
    """By the folder that the shard is in, else by a word of its name; a folder is a part of the data in any case."""
    *folders, name = relative.parts
    named = next((folder for folder in folders if split_names.role(folder)), None)
    role, word, rest = split_names.parse(name)
    which = [other for other in rest if other in ("public", *split_names.LAST)]
    if named is None and (role == "unlabelled" or which) and word:  # train_unlabeled-0.tar, PublicTest-0.tar
        return "_".join([*which, word])
    words = [split_names.parse(word)[1] for word in re.split(r"[^A-Za-z]+", name)]
    return named or next((word for word in words if word), folders[0] if folders else "")


def _word(name: str, words: tuple[str, ...]) -> str:
    """The first of ``words`` in a name, ``""`` if there is none."""
    return next((word for word in re.split(r"[^a-z]+", name.lower()) if word in words), "")


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
