"""Trackers beside ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow (``train.loggers``).

Each is one function that opens it and gives a :class:`Tracker`. None of them can end a run: one that is not installed,
cannot be reached or fails later is told in one line and left out from there on.

A run that goes on goes on in the same run of the tracker, whose id is kept in ``<workdir>/trackers.json``. What it
repeats after a kill is not there twice: TensorBoard is told to forget it, MLflow and W&B are not given what they have.
But for W&B offline, which does not know what it has: those steps are in two of its folders.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssl_jax.interop.files import write_json
from ssl_jax.names import said_of

SAID = 160  # letters of what a library says
PATIENCE = 10  # seconds for a server to answer at the start, where the environment says no other


class Tracker(NamedTuple):
    """What a function of :data:`OPEN` gives; any of these may raise.

    Attributes:
      where: what was written can be found, to be told.
      config: ``(mapping)``, nested; once, before anything is logged.
      log: ``(step, metrics)``, finite numbers alone.
      image: ``(name, path, step)``, a PNG.
      close: ``(done)``: False of a run that was interrupted or failed.
    """

    where: str
    config: Callable[[Mapping[str, Any]], None]
    log: Callable[[int, Mapping[str, float]], None]
    image: Callable[[str, Path, int], None]
    close: Callable[[bool], None]


class Trackers(NamedTuple):
    """Several as one that never raises, see :func:`open_trackers`.

    Attributes:
      log: ``(step, metrics)``; what is no finite number is left out.
      pictures: ``(step)``: the PNGs of ``<workdir>/figures`` that were drawn since.
      close: ``(done=False)``. Safe to call twice.
    """

    log: Callable[[int, Mapping[str, Any]], None]
    pictures: Callable[[int], None]
    close: Callable[..., None]


NONE = Trackers(lambda step, metrics: None, lambda step: None, lambda done=False: None)


def open_trackers(
    names: tuple[str, ...], workdir: Path, config: Mapping[str, Any], *, start: int, say: Callable[[str], None]
) -> Trackers:
    """Open trackers by name, keys of :data:`OPEN`.

    Args:
      workdir: of the run.
      config: of the run, which they are given.
      start: the step that the run goes on from, 0 at its beginning.
      say: where it is told what was opened, and what fails.
    """
    live: dict[str, Tracker] = {}
    figures = workdir / "figures"
    shown = {path: path.stat().st_mtime_ns for path in (figures.glob("*.png") if start else ())}

    def attempt(name: str, act: Callable[[], Any]) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as of a store that will be given up one day
                return act()
        except (Exception, SystemExit) as error:  # whatever a library, a disk or a network does
            live.pop(name, None)
            package = PACKAGES[name]
            gone = isinstance(error, ModuleNotFoundError) and error.name == package.replace("-skinny", "")
            why = f"is not installed (pip install {package})" if gone else f"failed ({_short(error)})"
            say(f"WARNING: train.loggers: {name} {why}; the run goes on without it")

    def each(act: Callable[[Tracker], Any]) -> None:
        for name, tracker in list(live.items()):
            attempt(name, lambda tracker=tracker: act(tracker))

    def log(step: int, metrics: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if numbers:
            each(lambda tracker: tracker.log(step, numbers))

    def pictures(step: int) -> None:
        for path in sorted(figures.glob("*.png")) if live else ():
            with contextlib.suppress(FileNotFoundError):
                if shown.get(path) != (drawn := path.stat().st_mtime_ns):
                    shown[path] = drawn
                    each(lambda tracker, path=path: tracker.image(path.stem, path, step))

    def close(done: bool = False) -> None:
        each(lambda tracker: tracker.close(done))
        live.clear()

    for name in dict.fromkeys(names):
        if tracker := attempt(name, lambda name=name: OPEN[name](workdir, start)):
            live[name] = tracker
            say(f"{name}: {tracker.where}")
    each(lambda tracker: tracker.config(config))
    return Trackers(log, pictures, close)


def _tensorboard(workdir: Path, start: int) -> Tracker:
    """``<workdir>/tensorboard``; steps after ``start`` that an earlier attempt wrote are not shown any more."""
    import numpy as np
    from PIL import Image
    from tensorboardX import SummaryWriter

    place = workdir / "tensorboard"
    # Named by more than its second: the file of an attempt of the same second would be overwritten.
    board = SummaryWriter(str(place), purge_step=start + 1, filename_suffix=f".{time.time_ns()}")

    def config(given: Mapping[str, Any]) -> None:
        lines = json.dumps(given, indent=2).splitlines()
        board.add_text("config", "\n".join(f"    {line}" for line in lines), start)  # as Markdown shows code

    def log(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            board.add_scalar(name, value, step)
        board.flush()

    def image(name: str, path: Path, step: int) -> None:
        with Image.open(path) as opened:
            board.add_image(name, np.asarray(opened.convert("RGB")), step, dataformats="HWC")

    return Tracker(str(place), config, log, image, lambda done: board.close())


def _wandb(workdir: Path, start: int) -> Tracker:
    """A run of W&B, in ``<workdir>/wandb``; ``WANDB_MODE=offline``, ``WANDB_PROJECT`` and the like are W&B's own."""
    os.environ.setdefault("WANDB_SILENT", "true")  # the bar is ours; nor does it ask for a key, for which a run waited
    import wandb  # pyright: ignore[reportMissingImports]: an extra

    patience = float(os.environ.get("WANDB_INIT_TIMEOUT") or PATIENCE)
    settings = wandb.Settings(
        console="off", init_timeout=patience, finish_timeout=30 * PATIENCE, finish_timeout_raises=True
    )
    began = time.monotonic()
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ssl_jax"),
            name=os.environ.get("WANDB_NAME") or workdir.absolute().name,
            id=_known(workdir, "wandb", lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            reinit="create_new",  # of several runs in a process each has its own
            dir=str(workdir),
            settings=settings,
        )
    except Exception as error:
        if time.monotonic() - began < patience:
            raise
        raise TimeoutError(f"no answer in {patience:g} s; WANDB_INIT_TIMEOUT=60 waits longer") from error

    def log(step: int, metrics: Mapping[str, float]) -> None:
        if step >= run.step:  # what is below it W&B has, and would leave out with a warning
            run.log(dict(metrics), step=step)

    def image(name: str, path: Path, step: int) -> None:
        if step >= run.step:
            run.log({name: wandb.Image(str(path))}, step=step)

    place = Path(run.dir).parent
    where = f"{place} (wandb sync {place})" if run.offline else run.url or str(place)
    return Tracker(
        where,
        lambda given: run.config.update(dict(given), allow_val_change=True),
        log,
        image,
        lambda done: run.finish(exit_code=0 if done else 1),
    )


def _mlflow(workdir: Path, start: int) -> Tracker:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says; without it in files, ``<workdir>/mlruns``."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of 7, which take minutes where nobody answers
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE))
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # of each of them a line
    import mlflow  # pyright: ignore[reportMissingImports]: an extra
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

    given = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    uri = given or (workdir.absolute() / "mlruns").as_uri()
    if "://" not in uri or uri.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(uri)

    def begin() -> str:
        called = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ssl_jax")
        found = client.get_experiment_by_name(called)
        number = found.experiment_id if found else client.create_experiment(called)
        return client.create_run(number, run_name=workdir.absolute().name).info.run_id

    run = _known(workdir, f"mlflow {uri}", begin)
    had = client.get_run(run).data
    client.update_run(run, status="RUNNING")
    last = {name: max(m.step for m in client.get_metric_history(run, name)) for name in had.metrics}

    def config(given: Mapping[str, Any]) -> None:
        # What is there stays, since MLflow changes no parameter; the file has what holds now.
        params = [Param(k, str(v)[:500]) for k, v in _flat(given).items() if k not in had.params]
        for i in range(0, len(params), 100):
            client.log_batch(run, params=params[i : i + 100])
        client.log_dict(run, dict(given), "config.json")

    def log(step: int, metrics: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        new = [Metric(name, value, now, step) for name, value in metrics.items() if step > last.get(name, -1)]
        if new:
            client.log_batch(run, metrics=new)

    def image(name: str, path: Path, step: int) -> None:
        client.log_artifact(run, str(path), f"figures/{step}")

    def close(done: bool) -> None:
        client.set_terminated(run, "FINISHED" if done else "KILLED")

    return Tracker(f"{uri}, run {run}", config, log, image, close)


OPEN: Mapping[str, Callable[[Path, int], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow-skinny"}


def _short(error: BaseException) -> str:
    """What went wrong in a few words; of a server that cannot be reached its address and the system's own word."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    ours = type(error).__module__ == "builtins"
    system = [inner for inner in chain[1:] if isinstance(inner, OSError) and not ours]
    address = re.search(r"https?://[^/\s]+", str(error))
    if system:
        return f"{address[0]}: {said_of(system[-1])}"[:SAID] if address else said_of(system[-1])[:SAID]
    return re.sub(r"(https?://[^/\s]+)/\S*", r"\1", said_of(error))[:SAID]


def _known(workdir: Path, name: str, make: Callable[[], str]) -> str:
    """The id of a run's run elsewhere, from ``trackers.json``; a new one is written there."""
    path, known = workdir / "trackers.json", {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # one that a power cut has torn is no reason for less
        known = json.loads(path.read_text())
    if name not in known:
        known[name] = make()
        write_json(path, known)
    return known[name]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
