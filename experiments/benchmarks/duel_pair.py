"""A pair of the duel: ours and lightly's run of one method and seed, fed with the same views."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import lightlies, lightly_networks
from benchmarks.duel_table import SIDES

from ssl_jax import configs, models, parallel
from ssl_jax.configs import to_json
from ssl_jax.evals import knn
from ssl_jax.experiment import Experiment, zeros
from ssl_jax.run import measure
from ssl_jax.run.provenance import machine, version
from ssl_jax.step import compile_step, gradients, init_state, make_train_step
from ssl_jax.types import TrainState, Variables

FIRST = 5  # steps that are compared in float64


def pair(experiment: Experiment) -> dict[str, Any]:
    """Both sides of one seed."""
    config, plan = experiment.config, experiment.plan
    mesh = parallel.make_mesh(parallel.device_count(config.parallel.devices))
    placed = parallel.place(zeros(experiment), mesh)
    state = init_state(experiment.method, experiment.tx, jax.random.key(config.seed), placed, mesh)
    began = jax.device_get(state)
    batches = views(experiment, mesh)
    first = list(itertools.islice(batches, min(FIRST, plan.steps_per_epoch)))
    found: dict[str, Any] = {"config": to_json(config), "first_steps": first_steps(experiment, began, first)}

    step = compile_step(experiment.method, experiment.tx, mesh)
    peer, optimizer = theirs(experiment, measure.variables_of(began))

    def one_of_ours(number: int, both: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        nonlocal state
        batch = step.place({"views": tuple(both), "index": np.zeros(len(both[0]), np.int32)})
        before = clocks()
        state, metrics = step(state, batch)
        return float(metrics["loss"]), clocks() - before

    def one_of_theirs(number: int, both: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        return step_of(peer, optimizer, experiment, number, pixels(config, both))[:2]

    encode = jax.jit(experiment.method.encode)

    def ours(images: np.ndarray) -> np.ndarray:
        parts = (images[i : i + 512] for i in range(0, len(images), 512))
        return np.concatenate([encode(measure.variables_of(state), part)["features"] for part in parts])

    theirs_encode = partial(lightlies.encode, peer, mean=tuple(config.data.mean), std=tuple(config.data.std))
    features = dict(zip(SIDES, (ours, theirs_encode), strict=True))
    one = dict(zip(SIDES, (one_of_ours, one_of_theirs), strict=True))
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    seconds: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    untrained = {split: knn_top1(experiment, ours, split) for split in ("val", "test")}
    curve: dict[str, list[float]] = {side: [untrained["val"]] for side in SIDES}
    epochs = [0.0]
    ready: list[Sequence[np.ndarray]] = []
    for number, made in enumerate(itertools.chain(first, batches)):
        ready.append(made)
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
        "images": plan.num_examples,
        "val_knn_top1": curve,
        "test_knn_top1": test,
        "untrained_test_knn_top1": untrained["test"],
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


def first_steps(experiment: Experiment, began: TrainState, ready: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """How far apart float64 leaves them: the first loss, its gradients, then losses and all that goes on from a step.

    That is weights and BatchNorm's running statistics, those of the slow copy, too, DINO's centre and MoCo's queue.
    """
    config, method = experiment.config, experiment.method
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, began)
        peer, optimizer = theirs(experiment, measure.variables_of(state), double=True)
        slope, step = jax.jit(gradients(method)), jax.jit(make_train_step(method, experiment.tx))
        found: dict[str, Any] = {"steps": len(ready)}
        for number, both in enumerate(ready):
            wide = tuple(view.astype(np.float64) for view in both)
            batch = {"views": wide, "index": np.zeros(len(wide[0]), np.int32)}
            value, _, grads = step_of(peer, optimizer, experiment, number, pixels(config, wide))
            if number == 0:
                mine = lightly_networks.flat(jax.device_get(slope(state, batch)[2]))
                found["gradients"] = apart(mine, {path: lightly_networks.ours(grads[path]) for path in mine})
            state, metrics = step(state, batch)
            difference = abs(float(metrics["loss"]) - value) / abs(value)
            found.setdefault("loss", difference)
            found["losses"] = float(np.maximum(difference, found.get("losses", 0.0)))  # keeps what is not a number
        last, running, aux = jax.device_get((state.params, state.model_state, state.aux or {}))
        compared = {
            "weights": (last, peer.weights),
            "statistics": (statistics(running), lightly_networks.statistics(peer.parts)),
        }
        if peer.target is not None:
            compared["target"] = (aux["target"], peer.target_weights())
            compared["target statistics"] = (statistics(running["target"]), lightly_networks.statistics(peer.target))
        for name, value in peer.held().items():
            compared[name] = ({name: aux[name]}, {name: value})
        for name, (tree, others) in compared.items():
            mine = lightly_networks.flat(tree)
            found[name] = apart(mine, {path: lightly_networks.ours(others[path]) for path in mine})
    return found


def statistics(model_state: Mapping[str, Any]) -> dict[str, Any]:
    """BatchNorm's, of every part that has them."""
    return {part: held["batch_stats"] for part, held in model_state.items() if "batch_stats" in held}


def apart(mine: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> float:
    """The largest difference, of the largest value."""
    differences = [np.abs(mine[k] - others[k]).max() for k in mine]
    return float(np.max(differences) / np.max([np.abs(a).max() for a in mine.values()]))


def theirs(experiment: Experiment, began: Variables, *, double: bool = False) -> tuple[lightlies.Peer, Any]:
    """lightly's side, and its optimizer."""
    config = experiment.config
    method, encoder = config.method, encoder_of(config)
    peer = lightlies.make(method.name, encoder, jax.device_get(began), method, experiment.plan, double=double)
    return peer, lightlies.optimizer(peer, config.optim)


def step_of(peer: lightlies.Peer, optimizer: Any, experiment: Experiment, number: int, given: Sequence[Any]):
    """(loss, seconds, gradients by our paths) of a step of lightly's side on views that lie ready."""
    optimizer.param_groups[0]["lr"] = float(np.asarray(experiment.schedule(number)))
    before = clocks()
    optimizer.zero_grad(set_to_none=True)
    loss = peer.loss(*given)
    loss.backward()
    grads = {path: parameter.grad for path, parameter in peer.weights.items()}
    peer.before(number)
    optimizer.step()
    peer.after(number)
    return float(loss.detach()), clocks() - before, grads


def pixels(config: configs.Config, both: Sequence[np.ndarray]) -> list[Any]:
    return [lightly_networks.tensor(view, tuple(config.data.mean), tuple(config.data.std)) for view in both]


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
