"""Ours against lightly (PyTorch): the same images, views, initial weights, optimizer and steps; curves, kNN, seconds.

    python experiments/duel.py --out runs/duel --config.data.data_dir=PATH/tfds              # pip install '.[peers]'
    python experiments/duel.py --out runs/duel --methods simclr --seeds 1 --config.train.epochs=1

One pipeline, ours, makes the views of both, so that a pair of runs sees the very same arrays and differs in what is
compared here: networks in training, loss, BatchNorm, average, queue, optimizer. That the views follow torchvision's law
is tested elsewhere. The first step is compared in float64, loss and every gradient, to ``SAME`` of the largest. Then
both train in float32, epoch by epoch in turn on all cores, and one kNN, ours, measures the features of both: on
validation examples while they train, on test examples once. Runs of a seed are a pair: the table says by a paired t
test over the seeds whether they differ. Seconds are those of steps on views that lie ready, normalised for torch;
where others use the machine, the processor's are the ones to believe.

Writes METHOD_SEED.json of each pair, ``duel.json``, ``duel.md`` and ``duel.png``. The same command goes on with the
pairs that are missing; one that was cut short begins anew.
Exit codes: 0 done, 1 a first step is not the same, 2 refused, 130 stopped.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import lightlies
from benchmarks.duel_table import SAME, SIDES, drawn, markdown, table

from configs.common import base, cifar10_cpu
from ssl_jax import configs, methods, models, parallel
from ssl_jax.evals import knn
from ssl_jax.evals.shared import curves
from ssl_jax.experiment import Experiment, build, load_splits, to_json, zeros
from ssl_jax.interop.files import write_json
from ssl_jax.run import command, folder, measure, processes
from ssl_jax.run.provenance import machine, version
from ssl_jax.step import compile_step, init_state
from ssl_jax.types import Variables

# Small, and without what lightly has not: groups of BatchNorm, rates of parts, an average that slows down.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.2, "projector_hidden": 256, "projector_dim": 128},
    "byol": {"tau": 0.97, "tau_schedule": "constant", "hidden": 512, "projector_dim": 128},
    "moco": {"temperature": 0.1, "momentum": 0.99, "queue_size": 4096, "projector_version": 2, "bn_groups": 1},
    "simsiam": {"projector_dim": 512, "projector_layers": 2, "predictor_rate": "scheduled"},
    "barlow_twins": {"off_diagonal": 0.0051, "scale": 0.1, "bias_rate": 1.0, "projector_dim": 512},
    "vicreg": {"projector_dim": 512},
}
RATES = {"simclr": 0.4, "barlow_twins": 0.05, "vicreg": 0.02}


def main(arguments: list[str]) -> int:
    parser = command.Parser(
        "Ours against lightly, pair by pair.", epilog="--config.KEY=VALUE changes both sides alike."
    )
    parser.add_path("--out", required=True, help="folder of the pairs, the table and the picture")
    there = [name for name in lightlies.METHODS if name in methods.names()]
    parser.add_argument("--methods", default=",".join(there), help="with commas between; default: all there are")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of each method, from seed 0 on")
    try:
        options, changes = parser.parse_changes(arguments)
        out, names = Path(folder.check(options.out, "--out")), options.methods.split(",")
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds} is below 1")
        for name in names:
            if name not in there:
                raise ValueError(f"--methods {name} has no counterpart in lightly here; there are {', '.join(there)}")
        if missing := lightlies.available():
            raise ValueError(f"lightly cannot be used ({missing}); pip install '.[peers]'")
        wanted = {(name, seed): config_of(name, seed, changes) for seed in range(options.seeds) for name in names}
        for config in wanted.values():
            configs.check(config)
        processes.configure_as(next(iter(wanted.values())).parallel)
        out.mkdir(parents=True, exist_ok=True)
        splits = None
        for number, ((name, seed), config) in enumerate(wanted.items(), 1):
            path = out / f"{name}_{seed}.json"
            if path.is_file():
                if json.loads(path.read_text())["config"] != to_json(config):
                    raise ValueError(f"{path} is of another config; use another --out")
                continue
            print(f"--- {number} of {len(wanted)}: {name}, seed {seed}", file=sys.stderr, flush=True)
            splits = splits or load_splits(config)
            write_json(path, pair(build(config, splits, asked=changes)))
    except ValueError as error:
        return command.refuse(error)
    pairs = [json.loads(path.read_text()) for path in sorted(out.glob("*_*.json"))]
    rows = table(pairs)
    write_json(out / "duel.json", {"rows": rows, "machine": pairs[-1]["machine"]})
    (out / "duel.md").write_text(markdown(rows, pairs))
    curves.learning_curves(drawn(pairs), out / "duel.png", f"ssl_jax and lightly, {len(pairs)} pairs of runs")
    print(markdown(rows, pairs))
    return int(any(row["first_step"] > SAME for row in rows))


def config_of(name: str, seed: int, changes: Sequence[str] = ()) -> configs.Config:
    """The config of both sides."""
    config = cifar10_cpu(base())
    config.method.update({"name": name, **ARGUMENTS[name]})
    config.data.update({"recipe": "simclr_cifar", "num_examples": 10_000})
    config.optim.update({"learning_rate": RATES.get(name, 0.2), "decay_bias_and_norm": True, "warmup_epochs": 1.0})
    config.train.epochs, config.seed, config.eval.probe = 20, seed, False
    config.parallel.devices = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return configs.change(config, changes)


def pair(experiment: Experiment) -> dict[str, Any]:
    """Both sides of one seed."""
    import torch

    config, plan = experiment.config, experiment.plan
    mesh = parallel.make_mesh(parallel.device_count(config.parallel.devices))
    placed = parallel.place(zeros(experiment), mesh)
    state = init_state(experiment.method, experiment.tx, jax.random.key(config.seed), placed, mesh)
    began = jax.device_get(measure.variables_of(state))
    pixels = tuple(config.data.mean), tuple(config.data.std)
    batches = views(experiment, mesh)
    first = next(batches)
    found: dict[str, Any] = {"config": to_json(config), "first_step": first_step(experiment, began, first)}

    step = compile_step(experiment.method, experiment.tx, mesh)
    peer = lightlies.make(config.method.name, encoder_of(config), began, config.method)
    learning = [parameter for parameter in peer.parts.parameters() if parameter.requires_grad]
    o = config.optim
    optimizer = torch.optim.SGD(learning, lr=0.0, momentum=o.momentum, weight_decay=o.weight_decay)

    def one_of_ours(number: int, both: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        nonlocal state
        batch = step.place({"views": tuple(both), "index": np.zeros(len(both[0]), np.int32)})
        before = clocks()
        state, metrics = step(state, batch)
        return float(metrics["loss"]), clocks() - before

    def one_of_theirs(number: int, both: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        given = [lightlies.tensor(view, *pixels) for view in both]
        optimizer.param_groups[0]["lr"] = float(np.asarray(experiment.schedule(number)))
        before = clocks()
        optimizer.zero_grad(set_to_none=True)
        loss = peer.loss(*given)
        loss.backward()
        optimizer.step()
        peer.after()
        return float(loss.detach()), clocks() - before

    encode = jax.jit(experiment.method.encode)

    def ours(images: np.ndarray) -> np.ndarray:
        parts = (images[i : i + 512] for i in range(0, len(images), 512))
        return np.concatenate([encode(measure.variables_of(state), part)["features"] for part in parts])

    features = dict(zip(SIDES, (ours, partial(lightlies.encode, peer, mean=pixels[0], std=pixels[1])), strict=True))
    one = dict(zip(SIDES, (one_of_ours, one_of_theirs), strict=True))
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    seconds: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    curve: dict[str, list[float]] = {side: [] for side in SIDES}
    epochs = []
    ready = [first]
    for number in range(plan.total_steps):
        if number:
            ready.append(next(batches))
        if len(ready) < plan.steps_per_epoch and number + 1 < plan.total_steps:
            continue
        for side in SIDES:  # a whole epoch each: neither library's threads wait for work while the other has it
            for i, both in enumerate(ready, number + 1 - len(ready)):
                loss, took = one[side](i, both)
                losses[side].append(loss)
                seconds[side].append(took)
            curve[side].append(knn_top1(experiment, features[side], "val"))
        ready = []
        epochs.append((number + 1) / plan.steps_per_epoch)
    test = {side: knn_top1(experiment, features[side], "test") for side in SIDES}
    packages = {name: version(name) for name in ("torch", "lightly")}
    return found | {
        "epochs": epochs,
        "steps_per_epoch": plan.steps_per_epoch,
        "val_knn_top1": curve,
        "test_knn_top1": test,
        "losses": {side: [float(f"{loss:.6g}") for loss in losses[side]] for side in SIDES},
        "milliseconds": {side: list(np.round(1e3 * np.median(seconds[side][1:], 0), 2)) for side in SIDES},
        "machine": machine() | {"peers": packages},
    }


def clocks() -> np.ndarray:
    """Seconds of the wall's clock and of the processor's."""
    return np.array([time.perf_counter(), time.process_time()])


def views(experiment: Experiment, mesh: Any) -> Iterator[Sequence[np.ndarray]]:
    """The two views of every step, on the host."""
    feed = experiment.feed
    if feed.views is None:
        raise ValueError(f"data.augment={experiment.config.data.augment}: the duel's views are those of device")
    augment = feed.views
    make = jax.jit(lambda batch, key: augment(batch, key, None)["views"])
    table = {} if feed.table is None else parallel.place({"table": feed.table}, mesh)
    root = parallel.named_key(jax.random.key(experiment.config.seed), "views")
    for number, batch in enumerate(feed.batches(total_steps=experiment.plan.total_steps)):
        batch.pop("label")
        with jax.set_mesh(mesh):
            made = make({**parallel.place(batch, mesh), **table}, jax.random.fold_in(root, number))
        yield tuple(np.asarray(view) for view in made)


def first_step(experiment: Experiment, began: Variables, both: Sequence[np.ndarray]) -> dict[str, float]:
    """How far apart loss and gradients are in float64, of the loss and of the largest gradient."""
    config = experiment.config
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64) if a.dtype == np.float32 else a, began)
        given = tuple(view.astype(np.float64) for view in both)

        def loss(params):
            variables = wide._replace(params=params)
            return experiment.method.loss(variables, {"views": given}, jax.random.key(0), jnp.int32(0), None)[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(wide.params)
        peer = lightlies.make(config.method.name, encoder_of(config), wide, config.method, double=True)
        theirs = peer.loss(*(lightlies.tensor(v, tuple(config.data.mean), tuple(config.data.std)) for v in given))
        theirs.backward()
        mine = lightlies.flat(jax.device_get(gradient))
        largest = max(np.abs(a).max() for a in mine.values())
        apart = max(np.abs(a - lightlies.ours(peer.weights[path].grad)).max() for path, a in mine.items())
        return {
            "loss": abs(float(value) - theirs.item()) / abs(float(value)),
            "gradients": float(apart / largest),
            "ssl_jax": float(value),
            "lightly": theirs.item(),
        }


def encoder_of(config: configs.Config) -> Any:
    return models.make(config.model.name, **{k: v for k, v in config.model.items() if k != "name"})


def knn_top1(experiment: Experiment, features: Any, split: str) -> float:
    """Top-1 of the held-out examples by the nearest train examples."""
    e, splits = experiment.config.eval, experiment.splits
    bank, asked = splits.train, splits.val if split == "val" else splits.test
    if split == "val":
        asked = measure.subset(asked, e.online_queries)
    shape, raw, classes = experiment.plan.input_shape, experiment.modality.raw, experiment.plan.num_classes
    if raw is None or classes is None:
        raise ValueError(f"data.source={experiment.config.data.source} has no labelled images; kNN needs them")
    rows = [features(raw(part).reshape(-1, *shape)) for part in (bank, asked)]
    settings = {"k": min(e.knn_k, len(bank)), "temperature": e.knn_temperature, "centre": e.knn_centre}
    return float(knn.knn_accuracy(rows[0], bank.labels, rows[1], asked.labels, num_classes=classes, **settings))


if __name__ == "__main__":
    command.run(main)
