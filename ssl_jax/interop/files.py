"""Files that are written whole or not at all, and what is said where one cannot be."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write into, which takes its place at the end; after an error nothing is left of it."""
    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all.

    Raises:
      OSError: names the file.
    """
    with writing(path), whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=float) + "\n")


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within it an OSError, as on a full disk, names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{path} could not be written: {reason}; {again(error)}") from error


def again(error: OSError) -> str:
    """What to do before one starts again."""
    return f"{advice(error) or 'use another place'} and start again"


def advice(error: OSError) -> str | None:
    """What to do about what could not be written, but for writing elsewhere; None where there is nothing else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space"
    return "make it writable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else None
