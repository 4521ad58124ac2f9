"""A cache of what takes long to find out about data: arrays in files, written whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/ssl_jax``, by default ``~/.cache/ssl_jax``; below the temporary folder for who has no home."""
    named, home = os.environ.get("XDG_CACHE_HOME"), os.path.expanduser("~")
    if named or os.path.isabs(home):
        return Path(named or os.path.join(home, ".cache")) / "ssl_jax"
    place = Path(tempfile.gettempdir()) / f"ssl_jax_{os.getuid()}"  # each user has another
    warnings.warn(
        f"there is no home folder (HOME): indices of datasets are kept in {place}; XDG_CACHE_HOME names another place",
        stacklevel=2,
    )
    return place


def read_cache(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file, None if it is not there or not whole."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # a cache is only ever a saving
        return None


def write_cache(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a cache file in one move, so that no reader ever sees a part of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
        with os.fdopen(handle, "wb") as out:
            np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]: no array is called allow_pickle
        os.replace(part, file)
    except OSError as error:
        log.warning("the index of the dataset could not be kept (%s); it is built again next time", error)


def of_file(file: Path, what: str, folder: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """``make()``, ``what`` there is to know of a file; made again when it changes.

    The file is known again by path, size and its two times: a copy over it may keep the one that is shown.
    """
    stat = file.stat()
    key = f"{what}:{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    kept = folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz"
    found = read_cache(kept)
    if found is None:
        found = make()
        write_cache(kept, found)
    return found
