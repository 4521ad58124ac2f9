"""The loop: batch -> step -> log -> evaluate -> save. Plain Python; no jax transformation is made in here.

A run is a folder. The same command on it continues after the newest checkpoint, and on a finished one prints its
summary. Step t draws its batch, views and random bits from (seed, t) alone, so a continued run is the uninterrupted
one, bit for bit, on the same versions, devices and cores.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from ssl_jax import parallel
from ssl_jax.configs import loggers, starts, to_json
from ssl_jax.data.feed import placed_ahead, stacked
from ssl_jax.experiment import Experiment, zeros
from ssl_jax.interop.files import write_json
from ssl_jax.online import alarms, average, collapse, pace
from ssl_jax.online.progress import phase
from ssl_jax.optim.from_config import make_schedule
from ssl_jax.run import checkpoint, examples, measure, nonfinite, processes, signals
from ssl_jax.run import folder as workdirs
from ssl_jax.run.extend import note, steps_before
from ssl_jax.run.hooks import Hooks, call_hooks, check_hooks, due_hooks
from ssl_jax.run.open import load_given
from ssl_jax.run.provenance import describe, peak_memory
from ssl_jax.run.saver import open_saver
from ssl_jax.run.writer import check_metrics, open_writer
from ssl_jax.step import compile_step, init_state, make_init
from ssl_jax.types import TrainState, Tree


class Refused(ValueError):
    """The run was not started: what was asked does not fit the folder it was asked for."""


class NotFinite(Exception):
    """Loss, gradients or statistics held a not-a-number."""


def fit(
    experiment: Experiment,
    workdir: str | os.PathLike,
    *,
    test: bool = True,
    hooks: Hooks = (),
    extend: bool = False,
) -> dict[str, Any]:
    """Train, from the beginning or from the newest checkpoint in ``workdir``, and measure once at the end.

    Args:
      experiment: from :func:`ssl_jax.experiment.build`.
      workdir: folder of the run.
      test: False leaves the test data unread and draws no pictures: for a run that is part of an evaluation.
      hooks: called as ``hook(step, metrics, state)``, in this order, by every process, with what the line of
        ``metrics.jsonl`` holds, wherever there is one; ``run.hooks.every(n, hook)`` every n steps. The state is the
        run's own until the hook returns; what is to be kept of it ``jax.device_get`` copies. Numbers that one returns
        by name go into the line, and make one where there is none.
      extend: the run in ``workdir`` may be a shorter one: it goes on to the length that is asked for now. One that was
        finished keeps its summary as ``summary_<steps>.json``.

    Returns:
      The summary, also in ``summary.json``.

    Raises:
      Refused: the folder holds another run, or the run cannot be made.
      signals.Interrupted: SIGINT or SIGTERM; saved.
      HookFailed: a hook raised; saved.
      NotFinite: a step was not finite and ``train.on_nonfinite`` is "stop"; no checkpoint is from after it.
    """
    config = experiment.config
    asked, resolved = to_json(config), describe(experiment)
    with contextlib.ExitStack() as stack:
        with _refusing():
            with processes.refusing_together():
                workdir = workdirs.check(workdir)
                stored = workdirs.stored(workdir, asked, resolved, extend=extend)
                before = steps_before(workdir, stored, experiment.plan) if extend else experiment.plan.total_steps
                finished = workdirs.read_summary(workdir) if stored else None
                to_measure = finished and test and "test" in (finished.get("not_measured") or {})
                if finished and not to_measure and before == experiment.plan.total_steps:
                    check_metrics(workdir)
                    checkpoint.check_there(workdir)
                    return finished
                checkpoint.refuse_lost(workdir)
                # Refused, if it must be, before the folder is made.
                given, given_notes = _given(experiment, workdir)
                called = check_hooks(hooks, config.train.get("steps_per_dispatch", 1))
                mesh = parallel.make_mesh(resolved["devices"], config.parallel.get("fsdp", 1))
                encode = measure.encoder(experiment, mesh)
                evaluators = measure.evaluators(experiment, encode)
                stack.enter_context(workdirs.lock(workdir))
            state, progress = _start(experiment, workdir, mesh, given)
            del given  # its memory
        start = int(state.step)
        with processes.refusing_together():
            examples.keep(workdir, experiment)
            workdirs.write_config(workdir, stored, asked, resolved, start, experiment.modality.files)
            writer = open_writer(
                workdir,
                total_steps=experiment.plan.total_steps,
                loggers=loggers(config),
                config=asked,
                resume_step=start or None,
                logged=progress["logged"],
            )
        stack.callback(writer.close)
        for line in (
            *experiment.notes,
            *given_notes,
            *measure.notes(experiment.splits),
            *workdirs.resume_notes(stored, asked, resolved, start),
            *_extension(experiment, before, start),
        ):
            writer.say(line)
        summary_file = workdir / "summary.json"
        if stored and summary_file.is_file() and not finished:
            writer.say(f"WARNING: {summary_file} is damaged; the run measures again and writes a new one")

        saver = open_saver(workdir, keep=config.train.keep_checkpoints, best=best_metric(experiment))
        stack.callback(saver.close)
        progress |= {"config": asked, "resolved": resolved}
        extract = measure.extractor(experiment, mesh, encode)
        asked_to_stop = stack.enter_context(signals.caught())
        explain = partial(nonfinite.explain, experiment, workdir=workdir)
        scored = measure.scorer(experiment, mesh)
        online = measure.online(experiment, extract, scored, partial(evaluators, say=writer.say), encode)
        draw = None
        if test:
            draw = measure.drawing(experiment, workdir / "figures", writer.say, measure.variables_of(state))
            writer.trackers.pictures(start)
        state = _loop(experiment, mesh, state, progress, writer, saver, online, draw, explain, asked_to_stop, called)
        with phase("writing the last checkpoint"):
            saver.wait()
        if progress["skipped"]:
            writer.say(f"WARNING: {progress['skipped']} of {int(state.step)} steps were not finite and were skipped")

        found, pictures = {"not_measured": {"test": "it was left out"}}, {}
        if test:
            writer.say("training is done; measuring once on test")
            with signals.leaving(experiment.plan.total_steps, asked_to_stop), phase("measuring once on test"):
                found, pictures = measure.final(experiment, state, extract, scored)
        rate = f"{experiment.modality.unit}_per_sec"
        summary = found | {
            "collapsed": progress["collapsed"],
            "loss_spikes": progress["loss_spikes"],
            "nonfinite": progress["nonfinite"],
            "skipped": progress["skipped"],
            **({"replaced": len(progress["unreadable"])} if progress["unreadable"] else {}),  # by process 0 alone
            "steps": experiment.plan.total_steps,
            "seconds": round(progress["seconds"], 1),
            rate: round(progress["images"] / progress["train_seconds"], 1) if progress["images"] else None,
            "input_wait": round(progress["waited"] / progress["train_seconds"], 4) if progress["images"] else None,
            "peak_memory": peak_memory(),  # bytes, of the process that ended the run
            "params_fingerprint": checkpoint.fingerprint(measure.variables_of(state)._asdict()),
        }
        if jax.process_index() == 0:
            write_json(summary_file, summary)
        if draw:
            draw(pictures, always=True)
            writer.trackers.log(experiment.plan.total_steps, found)
            writer.trackers.pictures(experiment.plan.total_steps)
        writer.trackers.close(done=True)
    return summary


def best_metric(experiment: Experiment) -> str:
    """The validation metric by which the best checkpoint is kept, with a minus before it where less is better."""
    if "score" in experiment.method.hooks and experiment.modality.score is not None:
        return "-val_loss"
    return "val_top1" if "classify" in experiment.method.hooks else "val_knn_top1"


def _extension(experiment: Experiment, before: int, start: int) -> Iterator[str]:
    """What is said of a run that had ``before`` steps."""
    plan = experiment.plan
    if before != plan.total_steps:
        then, _, _ = make_schedule(experiment.config, plan._replace(total_steps=before))
        yield note(then, experiment.schedule, before, plan, start)


@contextlib.contextmanager
def _refusing():
    try:
        yield
    except ValueError as error:
        raise Refused(error) from error


def _loop(experiment, mesh, state, progress, writer, saver, online, draw, explain, asked_to_stop, hooks) -> TrainState:
    """Steps ``state.step`` to the end of the plan; ``progress`` is brought up to date in place."""
    config, plan = experiment.config, experiment.plan
    at_once = config.train.get("steps_per_dispatch", 1)
    step = compile_step(
        experiment.method,
        experiment.tx,
        mesh,
        mode=config.parallel.mode,
        views=experiment.feed.views,
        probe=experiment.probe,
        on_nonfinite=config.train.on_nonfinite,
        grad_norms=config.train.get("grad_norms", ()),
        several=at_once > 1,
    )
    rate = f"{experiment.modality.unit}_per_sec"
    first = int(state.step) + 1
    unreadable = set(progress["unreadable"])
    batches = experiment.feed.batches(
        start_step=first - 1,
        total_steps=plan.total_steps,
        process=jax.process_index(),
        process_count=jax.process_count(),
        unreadable=unreadable,
    )
    # Placed once: an argument of the step, which is neither donated nor compiled in.
    table = {} if experiment.feed.table is None else step.place({"table": experiment.feed.table})

    def place(batch):
        return {**step.place(batch), **table}

    # Several simulated devices abort when many programs wait in line: there, never more than two in flight.
    few_in_flight = jax.default_backend() == "cpu" and mesh.size > 1
    began = mark = time.perf_counter()
    seconds_before, logged, previous, waited = progress["seconds"], first - 1, None, 0.0

    def when(number: int) -> dict[str, float]:
        decay: Any = getattr(experiment.tx, "decay", None)
        used = {} if decay is None or isinstance(decay, int | float) else {"weight_decay": float(decay(number - 1))}
        rate = float(experiment.schedule(number - 1))
        return {"learning_rate": rate, **used, "epoch": number / plan.steps_per_epoch}

    judge = partial(
        alarms.judge,
        rows=plan.global_batch_size,
        warmup_steps=experiment.warmup_steps,
        own=experiment.method.hooks.get("collapse", lambda metrics: None),
    )
    pacing, foretell = pace.Pace(), _foreteller(experiment, writer)
    stream = placed_ahead(stacked(batches, first, at_once), place)

    for calls in itertools.count(1):
        asked = time.perf_counter()
        with phase("reading the first batches") if calls == 1 else contextlib.nullcontext():
            number, placed = next(stream, (0, None))
        if placed is None:
            break
        if previous is not None and previous.is_ready():  # else the device had work to do in the meantime
            waited += time.perf_counter() - asked
        with phase("compiling the train step") if calls == 1 else contextlib.nullcontext():
            state, metrics = step(state, placed)
        if few_in_flight and previous is not None:
            jax.block_until_ready(previous)
        if calls == 1:  # images per second are those of the steps after compilation
            with phase("making the first step"):
                jax.block_until_ready(metrics)
            mark, logged = time.perf_counter(), number
        elif calls == 3:  # what the run will take is told early
            jax.block_until_ready(metrics)
            foretell(number, pacing.trained(number - logged, time.perf_counter() - mark))
        previous = metrics["loss"]
        writer.tick(number)

        last = number == plan.total_steps
        logs = last or _due(number, config.train.log_every)
        measures = config.train.eval_every > 0 and (last or _due(number, config.train.eval_every))
        saves = last or _due(number, config.train.checkpoint_every)
        stop = signals.agreed(asked_to_stop(), number)
        looks = logs or measures or saves or stop
        calls_for, given, failed = due_hooks(hooks, number, logs or measures), {}, None
        if not looks and calls_for:  # a hook of its own step, of which the run sees nothing
            line, _ = _read_metrics(metrics)
            _check_finite(state, config.train.on_nonfinite, progress, writer, explain)
            asked = time.perf_counter()
            given, failed = call_hooks(calls_for, number, line | when(number), state)
            if given and failed is None:
                writer.log(number, line | when(number) | given)
                progress["logged"] = number
            mark += time.perf_counter() - asked
        if not looks and failed is None:
            continue

        progress["unreadable"] = sorted(unreadable)
        line, report = _read_metrics(metrics)  # waits for the step
        now = time.perf_counter()
        images, seconds = (number - logged) * plan.global_batch_size, now - mark
        line |= {rate: images / seconds or None, "input_wait": waited / seconds if images else None}
        for name, value in (("images", images), ("train_seconds", seconds), ("waited", waited)):
            progress[name] += value
        pacing = pacing.trained(number - logged, seconds)
        logged, waited = number, 0.0
        line |= when(number)

        _check_finite(state, config.train.on_nonfinite, progress, writer, explain)
        for said in judge(progress, line, report, step=number):
            writer.say(said)
        asked = time.perf_counter()
        measured, pictures = online(state) if measures else ({}, {})
        if measures:
            pacing = pacing.measured(time.perf_counter() - asked)
        foretell(number, pacing)
        scores = {name: value for name, value in measured.items() if value is not None}
        progress["seconds"] = seconds_before + time.perf_counter() - began
        if measures and config.optim.get("average_after") is not None and average.waits(state):
            metric = best_metric(experiment)
            if (found := measured.get(metric.lstrip("-"))) is not None:
                progress["checks"] = [*progress["checks"], found if metric[0] == "-" else -found]
            if average.due(progress["checks"], config.optim.average_after):
                state = average.begin(state, number)
                writer.say(
                    f"the mean of the parameters from step {number} on is what is measured (optim.average_after)"
                )
        if calls_for and looks:
            given, failed = call_hooks(calls_for, number, line | measured, state)
        if logs or measures or given:
            writer.log(number, line | measured | given)
            progress["logged"] = number
        if saves or stop or failed or (scores and config.train.checkpoint_every):
            with phase(f"saving the checkpoint of step {number}"):
                saver.save(state, dict(progress), scores)
        if draw and measures and not (stop or last or failed):
            draw(pictures)
            writer.trackers.pictures(number)
        if failed:
            saver.wait()
            raise failed
        if stop and not last:
            saver.wait()
            raise signals.Interrupted(stop, number)
        mark = time.perf_counter()
    return state


def _foreteller(experiment: Experiment, writer) -> Callable[[int, pace.Pace], None]:
    """``foretell(step, pace)``: how long the run will take, shown from then on; once a line where that is very long."""
    config, plan, said = experiment.config, experiment.plan, []
    kind = {"network": config.model.name, "unit": experiment.modality.unit, "cpu": jax.default_backend() == "cpu"}

    def foretell(number: int, pacing: pace.Pace) -> None:
        writer.tick(number, pacing.left(number, plan.total_steps, config.train.eval_every))
        if not said and (hint := pace.too_slow(pacing, plan.total_steps, plan.global_batch_size, **kind)):
            said.append(hint)
            writer.say(hint)

    return foretell


def _check_finite(
    state: TrainState, on_nonfinite: str, progress: dict[str, Any], writer, explain: Callable[..., str]
) -> None:
    """``state.bad`` is -1 or the index of the first batch whose step was not finite."""
    bad = int(state.bad)
    if bad >= 0 and on_nonfinite == "skip":
        progress["skipped"] = nonfinite.skipped(state)
    if bad < 0 or progress["nonfinite"]:
        return
    with phase(f"looking for what was not finite in step {bad + 1}"):
        said = explain(state, bad)
    progress["nonfinite"] = bad + 1
    if on_nonfinite == "skip":
        writer.say(f"WARNING: step {bad + 1} was not finite and was skipped, as will be any other: {said}")
        return
    writer.log(bad + 1, {"train_loss": None})
    raise NotFinite(
        f"step {bad + 1} was not finite: {said}; nothing was applied from it on, nor saved; go on with "
        "train.on_nonfinite=skip, or in another --workdir lower optim.learning_rate, lengthen optim.warmup_epochs or "
        "set optim.clip_norm"
    )


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0


def _read_metrics(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """(line of the log, collapse report or {}, with "dim" of the projections) of a step's metrics; waits for it."""
    values = dict(jax.device_get(metrics))
    moments = values.pop("moments", None)
    report = collapse.collapse_report(moments) if moments is not None else {}
    line = {f"train_{name}": float(value) for name, value in (values | report).items()}
    return line, report | {"dim": len(moments["mean"])} if moments is not None else {}


Given = dict[str, tuple[Tree, ...]] | None


def _given(experiment: Experiment, workdir: Path) -> tuple[Given, tuple[str, ...]]:
    """What ``init_from`` gives a run that begins, and notes; one that goes on does not need it any more."""
    init_from = starts(experiment.config)
    if not init_from or checkpoint.latest(workdir) is not None:
        return None, ()
    return load_given(init_from, experiment.method, experiment.modality, experiment.config, experiment.plan)


def _start(experiment: Experiment, workdir: Path, mesh, given: Given) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from, the newest checkpoint's or a new one, and what the run knows of itself beside it."""
    method, tx, probe = experiment.method, experiment.tx, experiment.probe
    key = jax.random.key(experiment.config.seed)
    fresh = {
        "seconds": 0.0,
        "train_seconds": 0.0,
        "waited": 0.0,
        "images": 0,
        **alarms.NEW,
        "nonfinite": None,  # the first step that was not finite
        "skipped": 0,  # steps
        "checks": [],  # of validation, lower is better, until averaging begins
        "logged": None,  # the last step in metrics.jsonl
        "unreadable": [],  # train examples that this process found broken and replaced
    }

    if checkpoint.latest(workdir) is not None:
        spec = experiment.modality.spec(experiment.plan.global_batch_size)
        abstract = jax.eval_shape(make_init(method, tx, probe=probe), key, spec, None)
        with phase("reading the newest checkpoint"):
            found = checkpoint.restore(workdir, parallel.laid_out(abstract, mesh))
        if found is not None:
            state, record = found
            return state, {k: record["metadata"].get(k, v) for k, v in fresh.items()}
    batch = parallel.place(zeros(experiment, jax.process_count()), mesh)
    with phase("compiling the initial state"):
        return init_state(method, tx, key, batch, mesh, probe=probe, given=given), fresh
