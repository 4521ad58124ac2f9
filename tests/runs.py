"""Tiny real runs for the tests of the loop: 8x8 digits, a network of a few thousand parameters."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ssl_jax.data.images import recipes  # noqa: E402

# Two random boxes: what else recipes do is tested elsewhere, and building it in TensorFlow took a second of each run.
VIEWS = recipes.Recipe(
    (recipes.View(recipes.Crop(area=(0.5, 1.0), aspect=(0.8, 1.25))),) * 2, recipes.Eval("resize", 1.0)
)

# Labelled images, and unlabelled ones in two forms.
TWO_PARTS = VIEWS._replace(
    views=VIEWS.views[:1],
    unlabelled=(VIEWS.views[0], VIEWS.views[0]._replace(ops=(recipes.Cutout(0.5),))),
)

METHODS = {
    "simclr": {"temperature": 0.2, "projector_dim": 16},
    "byol": {"hidden": 32, "projector_dim": 16, "tau": 0.9},
    "moco": {"queue_size": 128, "projector_dim": 16, "temperature": 0.2, "momentum": 0.9, "bn_groups": 4},
    "supervised": {},
}


def config(method: str = "simclr", **overrides):
    """A config of 20 steps; overrides by dotted key with the dots written as two underscores."""
    from configs.common import base

    found = base()
    found.method.update({"name": method} | METHODS[method])
    found.model.update({"name": "convnet", "widths": (8, 16)})
    found.data.update({"num_examples": 160, "image_size": 8, "global_batch_size": 32, "recipe": "runs:VIEWS"})
    found.data.augment = "device"
    found.optim.update({"learning_rate": 0.2, "warmup_epochs": 1.0})
    found.train.update({"steps": 20, "log_every": 2, "eval_every": 8, "checkpoint_every": 5})
    found.eval.update({"knn_k": 5})
    found.parallel.devices = 1
    for key, value in overrides.items():
        *parents, last = key.split("__")
        node = found
        for parent in parents:
            node = node[parent]
        node[last] = value
    return found


def fit(workdir, method: str = "simclr", *, pictures: bool = False, **overrides):
    """Run it; returns the summary. Without ``pictures`` none is drawn: they took half of such a run's time."""
    from ssl_jax.experiment import build
    from ssl_jax.train import fit

    with contextlib.nullcontext() if pictures else no_pictures():
        return fit(build(config(method, **overrides)), workdir)


PIXEL = base64.b64decode(  # a picture of one
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@contextlib.contextmanager
def no_pictures():
    """Runs draw nothing, and evaluations pictures of one pixel."""
    from ssl_jax.evals.shared import canvas
    from ssl_jax.run import measure

    def drawing(experiment, folder, say, variables=None):
        return lambda pictures, always=False: None

    def drawn(folder, draws):
        folder.mkdir(parents=True, exist_ok=True)
        for name in draws:
            (folder / name).write_bytes(PIXEL)
        return {}

    with mock.patch.object(measure, "drawing", drawing), mock.patch.object(canvas, "drawn", drawn):
        yield


def ending_after(last: int, end):
    """``train.open_writer`` whose writer calls ``end`` instead of logging a step after ``last``."""
    from ssl_jax import train

    open_writer = train.open_writer

    def opening(*arguments, **keywords):
        writer = open_writer(*arguments, **keywords)

        def log(step, metrics):
            if step > last:
                end()
            writer.log(step, metrics)

        return writer._replace(log=log)

    return opening


if __name__ == "__main__":  # python tests/runs.py METHOD WORKDIR STEP [KEY=TEXT ...]: a run that is killed after STEP
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    from ssl_jax import train

    # As no handler can prevent.
    train.open_writer = ending_after(int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    fit(sys.argv[2], sys.argv[1], **dict(a.split("=") for a in sys.argv[4:]))
