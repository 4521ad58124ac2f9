"""Runs of a suite side by side: one process per GPU or per group of cores, or one on all chips of a TPU host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.suites import rows
from experiments.suites.rows import Row

ROOT = Path(__file__).resolve().parent.parent.parent
PROBE = """import json, jax
from ssl_jax.run import processes
processes.without_tpu()
print(json.dumps([jax.devices()[0].platform, [d.id for d in jax.local_devices()]]))"""


class Job(NamedTuple):
    """A run that is to be made."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}-{self.seed}"


class Place(NamedTuple):
    """Where one run is made at a time."""

    environment: Mapping[str, str] = {}
    cores: frozenset[int] = frozenset()


class Stopped(BaseException):
    """By a signal."""


def here(cores: int) -> tuple[str, list[Place]]:
    """The platform, and the places on which runs are made side by side; JAX is asked in a process that ends again."""
    if cores < 1:
        raise ValueError(f"--cores {cores} is below 1")
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise ValueError(f"JAX finds no device ({(done.stderr.strip() or 'no reason').splitlines()[-1]})")
    platform, ids = json.loads(done.stdout.splitlines()[-1])
    if platform in ("gpu", "cuda", "rocm"):
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(i) for i in ids]
        return platform, [Place({"CUDA_VISIBLE_DEVICES": name}) for name in names]
    if platform != "cpu" or not hasattr(os, "sched_getaffinity"):
        return platform, [Place()]
    mine = sorted(os.sched_getaffinity(0))
    groups = [mine[i : i + cores] for i in range(0, len(mine) - cores + 1, cores)] or [mine]
    return platform, [Place(cores=frozenset(group)) for group in groups]


def run(
    jobs: Sequence[Job],
    places: Sequence[Place],
    out: Path,
    changes: list[str],
    write: Callable[[], object],
    check: Callable[[], object] = lambda: None,
) -> list[str]:
    """Make all runs; returns the names of those that failed. What one of them does wrong, the others do not feel.

    Args:
      write: called after every run.
      check: called before every process; what it or ``write`` refuses ends all when those that are under way are done.

    Raises:
      ValueError: what was refused.
      Stopped: by a signal.
    """
    waiting, failed, free = list(jobs), [], list(places)
    refused: list[ValueError] = []

    def allowed(call: Callable[[], object]) -> bool:
        try:
            call()
        except ValueError as error:
            refused.append(error)
            waiting.clear()
        return not refused

    running: list[tuple[Job, Place, subprocess.Popen, list[list[str]]]] = []
    number: list[int] = []

    def stop(signum, frame):
        number.append(signum)

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        while (waiting or running) and not number:
            while waiting and free and allowed(check):
                job, place = waiting.pop(0), free.pop(0)
                print(f"{job.name} ...", file=sys.stderr, flush=True)
                words = commands(job, out / "runs", changes)
                running.append((job, place, begin(words[0], place, out / "runs" / f"{job.name}.log", "a"), words[1:]))
            time.sleep(0.1)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                job, place, process, rest = entry
                running.remove(entry)
                if process.returncode == 0 and rest and allowed(check):
                    log = out / "runs" / f"{job.name}.log"
                    running.append((job, place, begin(rest[0], place, log, "a"), rest[1:]))
                    continue
                free.append(place)
                if process.returncode and not number:
                    failed.append(job.name)
                    print(f"{job.name} failed: {tell_failure(out, job, process.returncode)}", file=sys.stderr)
                elif not process.returncode and not rest:
                    (out / "runs" / f"{job.name}.failed").unlink(missing_ok=True)
                if not number:
                    allowed(write)
    finally:
        for _, _, process, _ in running:  # once: a second one would not let them save
            process.send_signal(signal.SIGINT)
        for _, _, process, _ in running:
            process.wait()
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if number:
        raise Stopped(number[0])
    if refused:
        raise refused[0]
    return failed


def commands(job: Job, runs: Path, changes: Sequence[str]) -> list[list[str]]:
    """Train, then evaluate."""
    words = rows.commands(job.row, job.seed, changes, runs)
    scripts = [ROOT / "experiments" / name for name in ("pretrain.py", "evaluate.py")]
    return [[sys.executable, str(script), *more] for script, more in zip(scripts, words, strict=True)]


def begin(words: list[str], place: Place, log: Path, mode: str) -> subprocess.Popen:
    """Start a process on its place, out of reach of the terminal's Ctrl-C, which this one hands on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    all_cores = os.sched_getaffinity(0) if place.cores else set()
    if place.cores:
        os.sched_setaffinity(0, place.cores)  # which a child inherits
    try:
        with log.open(mode) as file:
            return subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **place.environment},
                start_new_session=True,
            )
    finally:
        if all_cores:
            os.sched_setaffinity(0, all_cores)


def tell_failure(out: Path, job: Job, code: int) -> str:
    """The last line of the log of a run that failed, kept beside it for the table."""
    lines = (out / "runs" / f"{job.name}.log").read_text(errors="replace").strip().splitlines()
    why = f"exit code {code}: {lines[-1] if lines else 'it said nothing'}"
    (out / "runs" / f"{job.name}.failed").write_text(why + "\n")
    return why
