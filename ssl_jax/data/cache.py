"""A cache of what takes long to find out about data: arrays in files, written whole or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/ssl_jax``, by default ``~/.cache/ssl_jax``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl_jax"


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
