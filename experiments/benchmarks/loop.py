"""What the training loop costs beyond its compiled step: Python, drawing and placing batches, logging, metrics."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path

import jax
from benchmark import Benchmark

from ssl_jax import configs, experiment, parallel, train
from ssl_jax.step import compile_step, init_state

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "simclr_digits.py"
BATCH, STEPS = 256, 400


def overhead(quick: bool) -> Benchmark:
    """Seconds that the loop takes for a step which does nothing, as a share of those that the step takes; batch 256.

    A line is logged every 20 steps. On a device that works by itself the loop runs beside the step, so this is the most
    that it can cost.
    """
    config = configs.load(CONFIG)
    config.data.update({"global_batch_size": BATCH})
    config.train.update({"steps": STEPS, "log_every": 20, "eval_every": 0, "checkpoint_every": 0})
    config.eval.update({"knn": False, "label_efficiency": False})
    config.parallel.devices = 1
    built = experiment.build(config)
    mesh = parallel.make_mesh(1)
    step = compile_step(built.method, built.tx, mesh, views=built.feed.views, probe=built.probe)
    first = parallel.place(experiment.zeros(built), mesh)
    state = init_state(built.method, built.tx, jax.random.key(0), first, mesh, probe=built.probe)
    batches = built.feed.batches()
    batch = {**step.place(next(batches)), **step.place({"table": built.feed.table})}
    state, metrics = jax.block_until_ready(step(state, batch))

    def step_seconds() -> float:
        nonlocal state
        count = 5 if quick else 20
        before = time.perf_counter()
        for _ in range(count):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - before) / count

    class Nothing:
        place = step.place

        def __call__(self, state, batch):
            return state, metrics

    def loop_seconds() -> float:
        made, train.compile_step = train.compile_step, lambda *_, **__: Nothing()
        try:
            with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
                return BATCH / train.fit(built, workdir, test=False)["images_per_sec"]
        finally:
            train.compile_step = made

    def share() -> float:
        loop, whole = loop_seconds(), step_seconds()
        details.update({"loop": f"{1e6 * loop:.0f} us a step", "step": f"{1e3 * whole:.1f} ms"})
        return 100 * loop / whole

    details: dict[str, str] = {}
    return Benchmark(ours=share, peers={}, items=None, unit="% of the step", details=details)
