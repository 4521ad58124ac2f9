"""What the training loop costs beyond its compiled step: Python, placing batches, logging, waiting."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path

import jax
from benchmark import Benchmark

from ssl_jax import config as configs
from ssl_jax import experiment, parallel, train
from ssl_jax.data import feed, pipeline
from ssl_jax.step import compile_step, init_state

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "simclr_digits.py"
BATCH = 256


def overhead(quick: bool) -> Benchmark:
    """Share of the step that a whole run takes beyond it, input prepared beforehand; batch 256, log every 20 steps."""
    steps = 60 if quick else 200
    config = configs.load(CONFIG)
    config.data.update({"global_batch_size": BATCH})
    config.train.update({"steps": steps, "epochs": None, "log_every": 20, "eval_every": 0, "checkpoint_every": 0})
    config.parallel.devices = 1
    built = experiment.build(config)
    batch = next(
        pipeline.batches(
            built.splits.train,
            recipe=experiment.recipes.get(config.data.recipe),
            image_size=config.data.image_size,
            global_batch_size=BATCH,
            seed=0,
        )
    )
    mesh = parallel.make_mesh(1)
    step = compile_step(built.method, built.tx, mesh, probe=built.probe)
    placed = step.place(batch)
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def bare() -> float:
        state = init_state(built.method, built.tx, jax.random.key(0), placed, mesh, probe=built.probe)
        state, _ = step(state, placed)
        before_compiling = len(compiled)
        jax.block_until_ready(state)
        before = time.perf_counter()
        for _ in range(steps - 1):
            state, metrics = step(state, placed)
        jax.block_until_ready(metrics)
        details["programs compiled after the first step"] = len(compiled) - before_compiling
        return (steps - 1) * BATCH / (time.perf_counter() - before)

    def whole() -> float:
        make, feed.batches = feed.batches, lambda *_, **__: iter([batch] * steps)
        try:
            with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
                return train.fit(built, workdir, test=False)["images_per_sec"]
        finally:
            feed.batches = make

    details: dict[str, int] = {}
    bare()
    whole()
    return Benchmark(
        ours=lambda: 100 * (bare() / whole() - 1),
        peers={},
        items=None,
        unit="% of the step",
        details=details,
    )
