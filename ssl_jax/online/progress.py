"""A word about what takes long: what is being done, and how far it is.

A phase of a few seconds says nothing. A longer one writes a line to stderr after five seconds, ten seconds later
another, and so on at growing distances: ``measuring once on test: encoding: 1,024 of 2,959 images (35 s)``. The lines
come from a thread, so that a phase which does not come back to Python, as a compilation, speaks too. Of phases within
each other the innermost one speaks for all, each with how far it is, and of several processes the first.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")

FIRST = float(os.environ.get("SSL_JAX_PROGRESS", "5"))  # seconds until a phase speaks; inf: never
NEXT, GROWTH, MOST = 10.0, 1.5, 120.0  # seconds to its second line; each later distance is longer, up to the last

_open: list[Callable[[], str]] = []  # what the phases under way do and how far they are, the innermost last


@contextlib.contextmanager
def phase(what: str, total: int | None = None, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Within it a line is written every now and then, if it lasts.

    Args:
      what: what is being done, as it begins the line.
      total: how much there is to do; None where it is not known: then what is done is counted alone.
      unit: what is counted.

    Yields:
      ``advance(n)``: so much more is done. Cheap, for any loop.
    """
    began, done, over = time.monotonic(), 0, threading.Event()

    def advance(n: int) -> None:
        nonlocal done
        done += n

    def me() -> str:
        if total is None:
            return f"{what}: {done:,} {unit}" if done else what
        return f"{what}: {min(done, total):,} of {total:,} {unit}"

    def watch() -> None:
        wait, following = FIRST, NEXT
        while not over.wait(wait):
            if _open and _open[-1] is me:
                say(f"{': '.join(each() for each in _open)} ({spoken(time.monotonic() - began)})")
            wait, following = following, min(MOST, GROWTH * following)

    speaks = math.isfinite(FIRST)
    thread = threading.Thread(target=watch, name=f"progress of {what}", daemon=True) if speaks else None
    _open.append(me)
    if thread:
        thread.start()
    try:
        yield advance
    finally:
        over.set()
        _open[:] = [other for other in _open if other is not me]
        if thread:
            thread.join()


def counted(items: Iterable[T], what: str, total: int | None = None, unit: str = "images", by: int = 1) -> Iterator[T]:
    """``items``, with the phase of going through them; each counts for ``by`` of the ``total``."""
    with phase(what, total, unit) as advance:
        for item in items:
            yield item
            advance(by)


def say(text: str) -> None:
    """A line on stderr of the first process, above an open bar."""
    if jax.distributed.is_initialized() and jax.process_index() != 0:  # else asking would start the devices
        return
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def spoken(seconds: float) -> str:
    """``12 s``, ``3 min 5 s``, ``2 h 10 min``, ``9.2 days``."""
    if seconds >= 86400:
        return f"{seconds / 86400:.3g} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
