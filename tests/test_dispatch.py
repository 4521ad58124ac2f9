"""Several steps in one program, and a loop that waits for the device only where it has something to read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import contract
import jax
import numpy as np
import pytest
import runs

from ssl_jax import configs, experiment, step, train
from ssl_jax.data import feed
from ssl_jax.run import signals

EVERY = {"train__log_every": 4, "train__eval_every": 8, "train__checkpoint_every": 4, "data__augment": "device"}
EVERY |= {"optim__learning_rate": 5e-4}  # at 0.2, rounding came to 0.8 % of a loss in 20 steps, at 0.02 to 0.5 %
SEVERAL = EVERY | {"train__steps_per_dispatch": 4}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_steps_of_one_program_are_those_of_many(devices):
    """Three steps of MoCo in float64: parameters, statistics, target, queue, probe, and the metrics of the last."""
    case, count = "moco", 3
    batches = [contract.batch_of(t, dtype=np.float64) for t in range(count)]
    with contract.double():
        single, compiled, begin = contract.program(case, devices, "jit")
        state = begin()
        for batch in batches:
            state, metrics = compiled(state, single.place(batch))
        method, probe = contract.make(case)
        several = step.compile_step(method, contract.TX, single.mesh, probe=probe, several=True)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        at_once, last = several(begin(), several.place(stacked))
        assert int(at_once.step) == count
        for name, value in contract.leaves_of(state).items():
            np.testing.assert_allclose(contract.leaves_of(at_once)[name], value, rtol=0, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(last["loss"], metrics["loss"], atol=1e-12)


def test_stacks_end_at_multiples_wherever_the_run_begins():
    def ends(first, total):
        batches = ({"index": np.full(2, t)} for t in range(first, total + 1))
        return [(number, stack["index"][:, 0].tolist()) for number, stack in feed.stacked(batches, first, 4)]

    assert ends(1, 10) == [(4, [1, 2, 3, 4]), (8, [5, 6, 7, 8]), (10, [9, 10])]
    assert ends(7, 9) == [(8, [7, 8]), (9, [9])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 20 steps, four in a program."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, runs.fit(workdir, "simclr", **SEVERAL)


def lines(workdir):
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_of_several_steps_at_once_logs_the_same_steps(whole, tmp_path):
    workdir, summary = whole
    one_by_one = runs.fit(tmp_path, "simclr", **EVERY)
    assert summary["steps"] == one_by_one["steps"] == 20
    assert [line["step"] for line in lines(workdir)] == [line["step"] for line in lines(tmp_path)]
    for line, other in zip(lines(workdir), lines(tmp_path), strict=True):
        np.testing.assert_allclose(line["train_loss"], other["train_loss"], rtol=2e-3)  # float32, 20 steps at most
        assert line["learning_rate"] == other["learning_rate"]


@pytest.mark.slow
def test_interrupted_and_continued_it_is_the_uninterrupted_run(whole, tmp_path, monkeypatch):
    workdir, summary = whole
    original = signals.agreed
    monkeypatch.setattr(signals, "agreed", lambda signum, number: 15 if number == 8 else original(signum, number))
    with pytest.raises(signals.Interrupted, match="after step 8; saved"):
        runs.fit(tmp_path, "simclr", **SEVERAL)
    monkeypatch.setattr(signals, "agreed", original)
    assert runs.fit(tmp_path, "simclr", **SEVERAL)["params_fingerprint"] == summary["params_fingerprint"]
    assert [line["step"] for line in lines(tmp_path)] == [line["step"] for line in lines(workdir)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__steps_per_dispatch": 3}, r"=3 does not divide train.log_every=4; use 1"),
        ({"train__steps_per_dispatch": 0}, "=0 must be positive"),
        ({"data__augment": "host"}, "needs data.augment=device and parallel.mode=jit, and they are host and jit"),
        ({"parallel__mode": "pmap"}, "and they are device and pmap; set it to 1"),
        ({"data__table_limit": 10}, r"those of digits do not \(data.table_limit=10"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment.build(runs.config("simclr", **(SEVERAL | changes)))


def text_of(name, *keys):
    common = ["data.source=pydoc", "data.global_batch_size=8", "data.tokenizer.size=200", "data.val_fraction=0.5"]
    common += ["train.log_every=4", "train.eval_every=0", "train.checkpoint_every=4", "train.steps=12"]
    return configs.load(str(runs.ROOT / "configs" / name), [*common, "parallel.devices=1", *keys])


LSTM = ["model.width=8", "model.hidden=8", "data.length=8", "optim.warmup_epochs=0.0"]


@pytest.mark.slow
def test_a_language_model_learns_the_same_wherever_its_text_lies(tmp_path):
    """Sent by the host, or cut in the step: the same bits; several steps in a program: the same but for rounding."""
    prints, losses = {}, {}
    for name, keys in {
        "host": ["data.table_limit=0"],
        "device": [],
        "several": ["train.steps_per_dispatch=4"],
    }.items():
        with runs.no_pictures():
            built = experiment.build(text_of("language_model_demo.py", *LSTM, *keys))
            summary = train.fit(built, tmp_path / name)
        assert (built.feed.table is None) == (name == "host")
        prints[name], losses[name] = (
            summary["params_fingerprint"],
            [line["train_loss"] for line in lines(tmp_path / name)],
        )
    assert prints["host"] == prints["device"]
    np.testing.assert_allclose(losses["several"], losses["host"], rtol=2e-3)


def test_text_that_lies_on_no_device_is_refused():
    keys = ["train.steps_per_dispatch=4", *LSTM]
    for other in ("data.recipe=stream_shuffled", "data.table_limit=10"):
        with pytest.raises(ValueError, match=r"those of pydoc do not .* or text of data.recipe=stream, alone"):
            experiment.build(text_of("language_model_demo.py", *keys, other))


def steps_through(after, monkeypatch):
    """What every step of a run returns goes through ``after``."""
    making = train.compile_step

    def compile_step(*arguments, **keywords):
        made = making(*arguments, **keywords)

        class Watched:
            place = made.place

            def __call__(self, state, batch):
                return after(made(state, batch))

        return Watched()

    monkeypatch.setattr(train, "compile_step", compile_step)


@pytest.mark.slow
def test_the_loop_waits_only_where_it_logs_and_compiles_once(monkeypatch, tmp_path):
    """On one device: after the first step and the third, to know its speed, and at each line; no program later on."""
    waits, compiled = [], []
    now = {"step": 0}
    for name in ("block_until_ready", "device_get"):
        original = getattr(jax, name)

        def counted(*arguments, original=original, name=name):
            waits.append((name, now["step"]))
            return original(*arguments)

        monkeypatch.setattr(jax, name, counted)

    def counted_step(out):
        now["step"] += 1
        return out

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(now["step"])

    steps_through(counted_step, monkeypatch)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        quiet = {"train__log_every": 5, "train__eval_every": 0, "train__checkpoint_every": 0, "eval__knn": False}
        built = experiment.build(runs.config("simclr", data__augment="device", **quiet))
        monkeypatch.setattr(train.measure, "online", lambda *_: lambda state: {})
        with runs.no_pictures():
            train.fit(built, tmp_path, test=False)
    finally:
        jax.monitoring.clear_event_listeners()
    assert [at for name, at in waits if at < 20] == [1, 3, 5, 10, 15]
    # The first line reads its schedule and counters by small programs of their own.
    assert not [at for at in compiled if 1 < at < 5 or 5 < at < 20]


@pytest.mark.slow
def test_waiting_for_input_is_seen(tmp_path, monkeypatch):
    """Of a feed that is asked when the device has nothing to do, all the time is counted, however long steps take."""
    steps_through(jax.block_until_ready, monkeypatch)
    quiet = {"train__eval_every": 0, "train__checkpoint_every": 0, "train__log_every": 5, "train__steps": 10}
    built = experiment.build(runs.config("simclr", data__augment="device", **quiet))

    def slow(**keywords):
        for batch in built.feed.batches(**keywords):
            time.sleep(0.2)
            yield batch

    summary = train.fit(built._replace(feed=built.feed._replace(batches=slow)), tmp_path, test=False)
    images = 9 * built.plan.global_batch_size  # the first step is not counted, and the last has its batch already
    assert summary["input_wait"] * images / summary["images_per_sec"] > 0.99 * 8 * 0.2
