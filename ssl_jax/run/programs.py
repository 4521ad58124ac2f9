"""Compiled programs are kept between runs, so that the second try of a config begins in seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

import jax

from ssl_jax.data.cache import default_cache_dir

LEAST_SECONDS = 0.3  # of compilation, for a program to be kept
MOST_BYTES = 2 << 30


def keep() -> None:
    """Compiled programs go to ``<cache>/programs`` and are taken from there: the same bits as compiled anew.

    Those of one kind of processor apart from those of others, since a home folder may be that of several machines. What
    has not been used for the longest time goes where all are more than ``MOST_BYTES``. Nothing is done where JAX was
    told itself: ``JAX_COMPILATION_CACHE_DIR`` names another place, ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps none.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return
    place = default_cache_dir() / "programs" / _processor()
    with contextlib.suppress(OSError):  # a cache is only ever a saving
        place.mkdir(parents=True, exist_ok=True)
        prune(place, MOST_BYTES)
        if os.access(place, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(place))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def prune(place: Path, most: int) -> None:
    """Remove what was not used for the longest time until at most ``most`` bytes are left."""
    files = sorted(
        ((f.stat(), f) for f in place.iterdir() if f.is_file()),
        key=lambda pair: -max(pair[0].st_atime, pair[0].st_mtime),
    )
    total = 0
    for stat, file in files:
        total += stat.st_size
        if total > most:
            file.unlink(missing_ok=True)


def _processor() -> str:
    """Of processors that can run each other's programs: what they can do, hashed."""
    said = f"{platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(said.encode()).hexdigest()[:8]
