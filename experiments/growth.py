"""How a training step grows: time and memory against batch, image size and devices, and what the devices exchange.

    python experiments/growth.py --out docs/growth

Small network, SimCLR, simulated CPU devices; the programs are those of any machine, the times this one's. Writes
``growth.json`` and ``growth.png``. A device's memory is that of the compiled step: arguments, outputs, temporaries.
What a device sends is counted off the compiled program, beside what data parallelism cannot do without: the gradients
summed, and the projections gathered.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax import configs, parallel
from ssl_jax.run import command, processes

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "simclr_cifar10_cpu.py"
BATCH, SIZE, DEVICES = 128, 32, 8
BATCHES, SIZES, COUNTS = (32, 64, 128, 256, 512), (16, 32, 48, 64), (1, 2, 4, 8)
GLOBAL, DIM = (1024, 4096, 16_384, 65_536), 128


def main(arguments: list[str]) -> int:
    parser = command.Parser("How a training step grows.")
    parser.add_path("--out", required=True, help="folder of growth.json and growth.png")
    options = parser.parse_args(arguments)
    processes.configure(DEVICES)
    from ssl_jax.run.provenance import machine

    found = {
        "batch": [measured(batch=n) for n in BATCHES],
        "image_size": [measured(size=n) for n in SIZES],
        "devices": [measured(devices=n) for n in COUNTS],
        "loss": [losses(n) for n in GLOBAL],
        "machine": machine(),
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, out / "growth.png")
    return 0


def measured(batch: int = BATCH, size: int = SIZE, devices: int = 1) -> dict[str, Any]:
    """A step of one setting: seconds (a median), bytes of memory, bytes that a device sends, and the least of those."""
    import jax

    from ssl_jax.plan import cost, program

    settings = {"data.num_examples": 50_000, "data.image_size": size, "data.global_batch_size": batch}
    settings |= {"parallel.devices": devices, "data.augment": "host", "eval.probe": False}
    config = configs.load(CONFIG, [f"{key}={value}" for key, value in settings.items()])
    mesh = parallel.make_mesh(devices)
    compiled = program.compile_ahead(config, mesh)
    spent = cost.of(compiled)
    (state, given), _ = compiled.args_info
    projections = 2 * batch * DIM * 4
    least = cost.sent({"all-reduce": _bytes(state.params), "all-gather": projections}, devices)

    state = program.initial(config, mesh)
    rows = parallel.place(jax.tree.map(_random, {k: v for k, v in given.items()}), mesh)
    times = []
    for _ in range(6):
        before = time.perf_counter()
        with jax.set_mesh(mesh):
            state, metrics = compiled(state, rows)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - before)
    print(f"batch {batch}, {size} px, {devices} device(s): {statistics.median(times[1:]):.3f} s", flush=True)
    return {
        **{"batch": batch, "size": size, "devices": devices, "seconds": statistics.median(times[1:])},
        **{"memory": spent.memory, "sent": cost.sent(spent.results, devices), "least": least, "results": spent.results},
    }


def _random(info) -> Any:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.random(info.shape, np.float32) if info.dtype == np.float32 else np.zeros(info.shape, info.dtype)


def _bytes(tree) -> int:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def losses(batch: int) -> dict[str, Any]:
    """Bytes of temporaries per device of NT-Xent and its gradient at a global batch, on all devices; compiled only.

    "plain" is what one copy of a device's rows of the matrix of similarities takes.
    """
    import jax
    import jax.numpy as jnp

    from ssl_jax.losses import nt_xent
    from ssl_jax.plan import cost

    mesh = parallel.make_mesh(DEVICES)
    z = jax.ShapeDtypeStruct((batch, DIM), jnp.float32, sharding=parallel.sharded(mesh))
    step = jax.jit(jax.value_and_grad(partial(nt_xent, temperature=0.5), argnums=(0, 1)))
    with jax.set_mesh(mesh):
        compiled = step.lower(z, z).compile()
    used = cost.of(compiled).temporaries
    print(f"NT-Xent at {batch}: {used / 2**20:.1f} MiB", flush=True)
    return {"batch": batch, "temporaries": used, "plain": 4 * (2 * batch) ** 2 // DEVICES}


def draw(found: dict[str, Any], path: Path) -> None:
    """Four panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.2), layout="constrained")
    plain, other = "#0072B2", "#D55E00"
    for axis, key, label in ((axes[0, 0], "batch", "batch"), (axes[0, 1], "image_size", "pixels of a side")):
        rows = found[key]
        x = [row["batch" if key == "batch" else "size"] for row in rows]
        axis.plot(x, [1e3 * row["seconds"] for row in rows], "o-", color=plain)
        axis.set(xlabel=label, ylabel="ms per step", title=f"Time and memory against {label}", ylim=0, xticks=x)
        axis.yaxis.label.set_color(plain)
        twin = axis.twinx()
        twin.plot(x, [row["memory"] / 2**20 for row in rows], "s--", color=other)
        twin.set(ylabel="MiB of a device", ylim=0)
        twin.yaxis.label.set_color(other)
    rows = found["devices"]
    x = range(len(rows))
    axis = axes[1, 0]
    axis.bar([i - 0.2 for i in x], [row["least"] / 1e6 for row in rows], 0.4, color="#999999", label="the least")
    axis.bar([i + 0.2 for i in x], [row["sent"] / 1e6 for row in rows], 0.4, color=plain, label="compiled")
    axis.set(
        xticks=x, xticklabels=[row["devices"] for row in rows], xlabel="devices", ylabel="MB sent by a device per step"
    )
    axis.set_title(f"Bytes exchanged and time, batch {BATCH}, simulated devices")
    axis.set_ylim(0, 1.35 * max(row["sent"] for row in rows) / 1e6)
    axis.legend(frameon=False, loc=(0.02, 0.53))
    twin = axis.twinx()
    twin.plot(list(x), [1e3 * row["seconds"] for row in rows], "o-", color=other)
    twin.set(ylabel="ms per step", ylim=0)
    twin.yaxis.label.set_color(other)
    axis = axes[1, 1]
    rows = found["loss"]
    x = [row["batch"] for row in rows]
    axis.loglog(
        x, [row["plain"] / 2**20 for row in rows], "s--", color="#999999", label="a device's rows of the matrix"
    )
    axis.loglog(x, [row["temporaries"] / 2**20 for row in rows], "o-", color=plain, label="temporaries, compiled")
    axis.set(xticks=x, xticklabels=[f"{n:,}" for n in x], xlabel="global batch", ylabel="MiB of a device")
    axis.minorticks_off()
    axis.set_title(f"NT-Xent and its gradient on {DEVICES} devices")
    axis.legend(frameon=False)
    for axis in axes.flat:
        axis.spines[["top"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    command.run(main)
