"""Where a run's numbers go: ``metrics.jsonl`` always, trackers when asked, a progress bar on a terminal.

``metrics.jsonl`` has one object per line: ``"step"`` and ``"line"`` first, by whose count a lost line is noticed, then
scalars; what is not finite is null (strict JSON has no NaN). Each line is on its way to the disk before ``log``
returns. A resumed run first cuts away the steps that it will repeat. Only process 0 writes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ssl_jax.interop.files import whole, writing
from ssl_jax.online.progress import spoken
from ssl_jax.run import trackers

METRICS = "metrics.jsonl"


class Writer(NamedTuple):
    """What :func:`open_writer` gives.

    Attributes:
      log: ``(step, metrics)``: scalars (Python, NumPy or JAX) by name.
      tick: ``(step, left=None)``: moves the bar without writing a line; ``left`` are the seconds to the end, as far as
        they are known, which bar and lines show from then on.
      say: ``(text)``: a message for the human that does not break the bar.
      close: ends the bar and closes the files. Safe to call twice.
      trackers: the trackers, which ``log`` reaches as well and ``close`` closes.
    """

    log: Callable[[int, Mapping[str, Any]], None]
    tick: Callable[..., None]
    say: Callable[[str], None]
    close: Callable[[], None]
    trackers: trackers.Trackers = trackers.NONE


def open_writer(
    workdir: str | os.PathLike[str],
    *,
    total_steps: int,
    loggers: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    resume_step: int | None = None,
    logged: int | None = None,
    progress: bool | None = None,
    every: float = 10.0,
) -> Writer:
    """Open the metric files of a run.

    Args:
      workdir: folder of the run; made if absent.
      total_steps: where the bar ends.
      loggers: trackers by name (:mod:`ssl_jax.run.trackers`).
      config: of the run, for them.
      resume_step: step of the restored checkpoint; later lines of ``metrics.jsonl`` are cut away. None or 0 for a run
        that starts at the beginning: lines of an earlier attempt are cut away, too.
      logged: the last step up to there that was logged, where that is known: lines that should be there and are not
        are told in a warning.
      progress: True for a bar, False for plain lines; None asks whether stderr is a terminal that has a size.
      every: seconds between plain lines of training metrics (lines with ``val_`` or ``test_`` metrics always appear).

    Raises:
      OSError: (log and close, too) a file could not be written; names it.
    """
    if jax.process_index() != 0:
        return Writer(lambda step, metrics: None, lambda step, left=None: None, lambda text: None, lambda: None)
    start = resume_step or 0
    workdir = Path(workdir)
    path = workdir / METRICS
    with writing(path):
        workdir.mkdir(parents=True, exist_ok=True)
        missing = cut_back(path, start, logged)
        lines = _last_line(path)
        file = path.open("a", encoding="utf-8")
    bar = _bar(total_steps, start) if (_has_width() if progress is None else progress) else None
    shown: dict[str, float] = {}
    spoke, to_go = -math.inf, None

    def log(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal lines
        lines += 1
        values = {name: _number(value) for name, value in metrics.items()}
        with writing(path):
            file.write(json.dumps({"step": int(step), "line": lines, **values}, allow_nan=False) + "\n")
            file.flush()
        followed.log(int(step), values)
        shown.update({name: value for name, value in values.items() if value is not None})
        if bar is not None:
            tick(step)
        else:
            plain(int(step), {name: value for name, value in values.items() if metrics[name] is not None})

    def plain(step: int, values: Mapping[str, Any]) -> None:
        nonlocal spoke
        now = time.monotonic()
        evaluated = any(name.startswith(("val_", "test_")) for name in values)
        if not evaluated and step < total_steps and now - spoke < every:
            return
        left = f" eta {spoken(to_go)}" if to_go is not None and step < total_steps else ""
        text = " ".join(f"{name}={_short(value)}" for name, value in values.items())
        spoke = now
        say(f"step {step}/{total_steps} {text}{left}")

    def tick(step: int, left: float | None = None) -> None:
        nonlocal to_go
        to_go = to_go if left is None else left
        if bar is not None:
            eta = "" if to_go is None else f"eta {spoken(to_go)} "
            bar.set_postfix_str(eta + summary(shown), refresh=False)
            bar.update(max(0, int(step) - bar.n))

    def say(text: str) -> None:
        if bar is not None:
            bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close() -> None:
        if bar is not None:
            bar.close()
        followed.close()
        with writing(path):
            file.close()

    if missing:
        say(f"WARNING: {path} is damaged: {_lost(missing)}; the run goes on without it")
    followed = trackers.open_trackers(tuple(loggers), workdir, config or {}, start=start, say=say)
    return Writer(log, tick, say, close, followed)


def summary(values: Mapping[str, float]) -> str:
    """Loss, images per second and the last online kNN of the metrics seen so far, for the bar."""
    parts = []
    for label, names in (
        ("loss", ("train_loss", "loss")),
        ("img/s", ("images_per_sec",)),
        ("kNN", ("val_knn_top1",)),
    ):
        value = next((values[name] for name in names if values.get(name) is not None), None)
        if value is not None:
            parts.append(f"{label}={_short(value)}")
    return " ".join(parts)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl`` as dicts; a torn last line (the run was killed while writing) is left out.

    Lines that are not there are told in a warning, where those that are know their number.

    Raises:
      ValueError: a line before the last is not JSON.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn, or empty
        try:
            records.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}; remove it") from None
    if missing := _gaps(records):
        warnings.warn(f"{path} is not whole: {_lost(missing)}", stacklevel=2)
    return records


def lost(workdir: Path) -> str | None:
    """What is missing of the ``metrics.jsonl`` of a run; None if nothing is, or it logged nothing."""
    path = workdir / METRICS
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    missing = _gaps([_whole(line) for line in lines])
    return _lost(missing) if missing else None


def check_metrics(workdir: Path) -> None:
    """Warn, on process 0, where lines of a finished run's ``metrics.jsonl`` are lost or damaged, or it is gone."""
    if jax.process_index() == 0:
        try:
            read_metrics(workdir / METRICS)
        except (OSError, ValueError) as error:
            warnings.warn(f"the log of the run cannot be read: {error}", stacklevel=2)


def cut_back(path: str | os.PathLike[str], step: int, logged: int | None = None) -> list[tuple[int, int]]:
    """Keep the lines of ``path`` up to and including ``step``, whole ones only; the file is replaced in one move.

    Args:
      logged: the last step up to ``step`` that had a line.

    Returns:
      The steps, (first, last), of which lines were lost: around one that is not whole or whose number is not the next,
      and from the end to ``logged``.
    """
    path = Path(path)
    kept, records = [], []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        record = _whole(line)
        if record is None or record["step"] <= step:
            records.append(record)
            kept += [line + b"\n"] if record else []
    missing = _gaps(records)
    last = max((record["step"] for record in records if record), default=0)
    if logged is not None and last < logged <= step:
        missing.append((last + 1, logged))
    if not path.exists():
        return missing
    with whole(path) as new, new.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    return missing


def _whole(line: bytes) -> dict[str, Any] | None:
    """What a line says; None of one that a kill or a power cut has torn."""
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def _gaps(records: list[dict[str, Any] | None]) -> list[tuple[int, int]]:
    """The steps, (first, last), around lines that are torn (None) or of which only the count tells.

    The lines of older runs have no number.
    """
    found, last, count, torn = [], 0, 0, False
    for record in records:
        count += 1
        if record is None:
            torn = True
            continue
        step, number = record["step"], record.get("line", count)
        if torn or number > count:
            found.append((last + 1, max(last + 1, step - 1)))
        last, count, torn = step, number, False
    return found


def _last_line(path: Path) -> int:
    """The number of the last line of a file of whole ones."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return json.loads(lines[-1]).get("line", len(lines)) if lines else 0


def _lost(missing: list[tuple[int, int]]) -> str:
    spans = ", ".join(f"{a} to {b}" for a, b in missing)
    return f"what was logged of steps {spans} is missing"


def plain_warnings() -> None:
    """Warnings of this package are shown as its other messages are, one line without a place in the code."""
    before, here = warnings.formatwarning, os.path.dirname(os.path.dirname(__file__))

    def plain(message, category, filename, lineno, line=None):
        if issubclass(category, UserWarning) and filename.startswith(here + os.sep):
            return f"WARNING: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = plain


def _number(value: Any) -> float | int | bool | None:
    """A JSON number with every digit it has (float32 through float64: the shortest that gives it back), or None."""
    if value is None or isinstance(value, (bool, int)):
        return value
    value = value.item() if hasattr(value, "item") else float(value)
    if isinstance(value, (bool, int)):
        return value
    return float(value) if math.isfinite(value) else None


def _short(value: Any) -> str:
    return "nan" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _has_width() -> bool:
    """Whether stderr is a terminal in which there is room for a bar; some report no size."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # no file behind it
        return False


def _bar(total_steps: int, start: int) -> Any:
    from tqdm import tqdm  # here, so that a machine without it can still write plain lines

    # Without tqdm's own estimate of what is left, in which the first step, which compiles, is one of many.
    shape = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    return tqdm(total=total_steps, initial=start, bar_format=shape, dynamic_ncols=True, file=sys.stderr)
