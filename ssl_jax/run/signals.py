"""SIGINT and SIGTERM: a run saves and ends, on all processes after the same step."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to stop and has been saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; saved")
        self.exit_code = 128 + signum


@contextlib.contextmanager
def caught():
    """Catch SIGINT and SIGTERM; yields a function that tells the first one received, or None.

    The third one ends without saving: two come easily when nothing seems to happen, as while a step compiles.
    """
    received: list[int] = []

    def handler(signum, frame):
        if len(received) == 2:
            raise KeyboardInterrupt
        received.append(signum)
        if len(received) == 1:  # at once, and past what is being printed: the step under way may take minutes
            os.write(2, b"\nstopping: the step under way is finished and saved; two more of it end the run at once\n")

    previous = _handle(handler)
    try:
        yield lambda: received[0] if received else None
    finally:
        _restore_handlers(previous)


def _handle(handler) -> dict[int, Any]:
    """Install a handler for SIGINT and SIGTERM; returns the ones before."""
    with contextlib.suppress(ValueError):  # not the main thread: the caller keeps its handlers
        return {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    return {}


def _restore_handlers(previous: Mapping[int, Any]) -> None:
    for signum, handler in previous.items():
        signal.signal(signum, handler)


def agreed(signum: int | None, number: int) -> int | None:
    """The signal to stop for, on which all processes agree: asked every 10 steps where there are several."""
    if jax.process_count() == 1:
        return signum
    if number % 10:
        return None
    return int(multihost_utils.process_allgather(np.int32(signum or 0)).max()) or None


@contextlib.contextmanager
def leaving(step: int, asked_to_stop):
    """After training everything is saved: a signal may end the run at once."""

    def handler(signum, frame):
        raise Interrupted(signum, step)

    if stop := asked_to_stop():
        raise Interrupted(stop, step)
    previous = _handle(handler)
    try:
        yield
    finally:
        _restore_handlers(previous)
