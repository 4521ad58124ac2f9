"""Orbax logs one traceback from each of its threads, hundreds of lines; the error itself reaches the caller."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any


def quieten() -> None:
    """From now on Orbax logs no more than what it raises."""
    for name in ("absl", "root", "asyncio"):  # asyncio's: of tasks that failed beside the one whose error was raised
        logging.getLogger(name).addFilter(_quiet)
    sys.unraisablehook = _quiet_unraisable


def _quiet(record: logging.LogRecord) -> bool:
    if record.name == "asyncio":
        text = record.getMessage()
        return not any(word in text for word in (f"{os.sep}orbax{os.sep}", "OCDBT", "tensorstore"))
    return not (record.levelno in (logging.WARNING, logging.ERROR) and f"{os.sep}orbax{os.sep}" in record.pathname)


def _quiet_unraisable(args: Any, hook: Callable[[Any], Any] = sys.unraisablehook) -> None:
    """Where one array fails, Orbax closes its event loop under the reads or writes of others, and each complains."""
    if str(args.exc_value) != "Event loop is closed":
        hook(args)
