"""Image files that something names by their paths, a table or a dataset: checked once, and known by what they hold.

The check is that of :mod:`folder`, kept with size and time of every file. Where it is full, the fingerprint is of the
contents and the labels in order of the paths, whatever the files are called and wherever they lie.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.data.cache import read_cache
from ssl_jax.data.readers import folder
from ssl_jax.data.source import Decoding, Source, sha256


class Checked(NamedTuple):
    """Files that were looked at: ``rows`` are those of ``index`` by path, relative to ``root`` or absolute."""

    root: Path
    index: folder.Index
    rows: Mapping[str, int]
    full: bool
    decoding: Decoding

    def is_readable(self, path: str) -> bool:
        return self.index.state[self.rows[path]] > 0

    def unreadable(self, where: str, max_unreadable: float) -> tuple[str, ...]:
        """What is to be said of files that cannot be read; ValueError where they are many."""
        broken = [path for path in self.rows if not self.is_readable(path)]

        def why(path: str) -> str | None:
            return folder.why_unreadable(self.root / path, self.full, self.decoding)

        return folder.check_unreadable(where, broken, len(self.rows), max_unreadable, why)

    def held(self, paths: Iterable[str]) -> Iterator[bytes]:
        """What the readable of these files hold; where that is not known, which they are."""
        for path in filter(self.is_readable, paths):
            digest = self.index.digest[self.rows[path]].tobytes()
            yield digest if self.full else os.fsencode(os.path.realpath(self.root / path))


def check(
    root: Path, paths: Iterable[str], *, known_as: str, verify: str | None, decoding: Decoding, cache_dir: Path
) -> Checked:
    """Look at the files at ``paths``; those that were looked at before and have not changed are not read again.

    Args:
      root: absolute path of the folder that they are relative to, unless they are absolute.
      known_as: what names them, of which the cache keeps one index.
    """
    began, paths = time.time_ns(), sorted({*paths})
    full = verify == "full" or (verify is None and len(paths) <= folder.FULL_UP_TO)
    key = hashlib.sha256(os.fsencode(f"{known_as}:{decoding.reads}")).hexdigest()[:32]
    kept = cache_dir / "files" / f"{key}.npz"
    listed = {"": folder.Listed(-1, (0, 0), [], paths, {}, False)}  # as one folder, of which the files are known
    how = {"full": full, "decoding": decoding, "file": kept, "began": began}
    index = folder.build_index(root, paths, listed, read_cache(kept) or {}, **how)
    return Checked(root, index, {path: i for i, path in enumerate(index.path)}, full, decoding)


def source(
    checked: Checked, labels: Mapping[str, int], names: tuple[str, ...] | None, why_unlabelled: str = ""
) -> Source:
    """The readable ones of files by path with their labels, -1 where there is none, as these were stored.

    Args:
      names: of the labels 0, 1, ...; None where the labels are numbers.
    """
    index, paths = checked.index, [path for path in sorted(labels) if checked.is_readable(path)]
    kept = np.array([checked.rows[path] for path in paths], np.int64)
    of = np.array([labels[path] for path in paths], np.int64)
    # Content where it is read, else also name and time, which may differ from copy to copy of a dataset.
    content = (index.digest[kept],) if checked.full else (index.size[kept], index.mtime[kept], *map(os.fsencode, paths))
    known = bool((of >= 0).any())
    return Source(
        {"path": folder.objects([os.path.join(checked.root, path) for path in paths]), "plain": index.plain[kept]},
        of if known else None,
        names if known else None,
        sha256("files", *content, of, *(names or ())),
        unreadable=tuple(path for path in sorted(labels) if not checked.is_readable(path)),
        why_unlabelled=why_unlabelled,
        by_content=checked.full,
        digests=folder.objects([digest.tobytes() for digest in index.digest[kept]]) if checked.full else None,
    )
