"""What made a step not finite: its batch is drawn again from (seed, step), run again operation by operation, and kept.

The train step carries the first step that was not finite in ``TrainState.bad`` and applies nothing of it; everything
else about it is found here, on the host, afterwards and once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ssl_jax import parallel
from ssl_jax.experiment import Experiment
from ssl_jax.run import checkpoint
from ssl_jax.step import gradients
from ssl_jax.types import TrainState, Tree

INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2")
SHOWN = 8  # positions of the bad values that are told


class Origin(NamedTuple):
    """Where a value that is not finite comes from.

    Attributes:
      path: name of the tensor: of a parameter or a part of the batch, else of the module and operation that made it.
      kind: "nan" or "inf".
      count: how many of its numbers are not finite.
      positions: indices of the first of them.
      rows: the first of their leading indices, none where every row has such a number.
      shape: of the tensor.
      parents: those of its inputs that were not finite.
    """

    path: str
    kind: str
    count: int
    positions: list[list[int]]
    rows: list[int]
    shape: tuple[int, ...]
    parents: tuple[Origin, ...] = ()


def explain(experiment: Experiment, state: TrainState, bad: int, workdir: Path) -> str:
    """Find the origin of what was not finite in step ``bad`` (counted from 0); every process calls it.

    Writes ``<workdir>/nonfinite/step_<bad + 1>/``: ``batch.npz``, the batch as the step saw it, views included;
    ``variables.npz``, the parameters, statistics and method state of before it; ``report.json``.

    Args:
      state: of after the step, to which nothing of it was applied. Where steps after it were applied (``skip``), it is
        run on their parameters, which the report says.

    Returns:
      One line: the first bad tensor, the positions in it, and the examples of the batch.
    """
    host = jax.tree.map(checkpoint.host, state.replace(key=jax.random.key_data(state.key)))
    if jax.process_index() != 0:
        return ""
    same = experiment.config.train.on_nonfinite == "stop"
    state = host.replace(step=np.int32(bad), bad=np.int32(-1), key=jax.random.wrap_key_data(jnp.asarray(host.key)))
    batch = regenerate(experiment, state)
    folder = workdir / "nonfinite" / f"step_{bad + 1}"
    folder.mkdir(parents=True, exist_ok=True)
    _savez(folder / "batch.npz", batch)
    _savez(folder / "variables.npz", {k: getattr(state, k) for k in checkpoint.VARIABLES})
    report: dict[str, Any] = {"step": bad + 1, "seed": experiment.config.seed, "same_parameters": same}
    report["examples"] = np.asarray(batch["index"]).tolist()
    try:
        origin = find(experiment, state, batch)
    except Exception as error:  # the batch of many devices may be too much for one
        report["origin"] = None
        said = f"it could not be run again here ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    else:
        report["origin"] = None if origin is None else origin._asdict() | {"parents": []}
        said = "run again on one device it was finite" if origin is None else _said(origin, report["examples"])
    report["said"] = said
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return f"{said}; the batch is in {folder}"


def skipped(state: TrainState) -> int:
    """How many steps were not applied: ``state.step`` counts batches, the optimizer its updates."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    counts = [int(leaf) for path, leaf in leaves if jax.tree_util.keystr(path[-1:], simple=True) == "count"]
    return int(state.step) - max(counts, default=int(state.step))


def regenerate(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """The whole global batch that a state's next step sees, after views."""
    feed, step = experiment.feed, int(state.step)
    batch = dict(next(iter(feed.batches(start_step=step, total_steps=step + 1))))
    views = feed.views
    if views is None:
        return batch
    if feed.table is not None:
        batch["table"] = feed.table
    key = parallel.named_key(jax.random.fold_in(state.key, step), "views")
    return dict(jax.jit(lambda batch: views(batch, key, None))(batch))


def find(experiment: Experiment, state: TrainState, batch: Mapping[str, Any]) -> Origin | None:
    """The first origin of a loss, gradient or statistic that is not finite; None if all are finite.

    Args:
      state: before the step; batch: after views.
    """
    run = gradients(experiment.method)

    def results(state, batch):
        loss, out, grads, _ = run(state, batch)
        return loss, out.model_state, out.carry, out.rows, grads

    closed = jax.make_jaxpr(results)(state, batch)
    inputs = jax.tree_util.tree_flatten_with_path((state, batch))[0]
    values = [(value, _origin(_name(path[1:]), value, ())) for path, value in inputs]
    found = _evaluate(closed.jaxpr, [(c, None) for c in closed.consts], values, "")
    bad = [origin for _, origin in found if origin is not None]
    return _first(bad[0]) if bad else None


def _evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], scope: str) -> list[tuple[Any, Origin | None]]:
    """A program, one operation after the other; every value beside its origin where it is not finite."""
    known: dict[Any, tuple[Any, Origin | None]] = {}
    known.update(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if not isinstance(v, core.Literal)}
    stay = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}

    def read(v):
        return (v.val, None) if isinstance(v, core.Literal) else known[v]

    for i, eqn in enumerate(jaxpr.eqns):
        given = [read(v) for v in eqn.invars]
        where = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if eqn.primitive.name in INLINED and inner is not None:
            inner, consts = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
            made = _evaluate(inner, [(c, None) for c in consts], given, where)
            known.update(zip(eqn.outvars, made, strict=True))
        else:
            kept = [v for v in eqn.outvars if not isinstance(v, core.DropVar)]
            read_in = zip(eqn.invars, given, strict=True)
            arguments = {v: value for v, (value, _) in read_in if not isinstance(v, core.Literal)}
            one = core.Jaxpr([], list(arguments), kept, [eqn], debug_info=jaxpr.debug_info)
            made = core.jaxpr_as_fun(core.ClosedJaxpr(one, ()))(*arguments.values())
            parents = tuple(origin for _, origin in given if origin is not None)
            for v, value in zip(kept, made, strict=True):
                known[v] = value, _origin(f"{where}: {eqn.primitive.name}".lstrip(": "), value, parents)
        for v in {v for v in eqn.invars if not isinstance(v, core.Literal)}:
            if last[v] == i and v not in stay:
                known.pop(v, None)
    return [read(v) for v in jaxpr.outvars]


def _origin(path: str, value: Any, parents: tuple[Origin, ...]) -> Origin | None:
    if not jnp.issubdtype(value.dtype, jnp.inexact) or np.isfinite(value := np.asarray(value)).all():
        return None
    array = np.asarray(value, np.float64)
    wrong = np.argwhere(~np.isfinite(array))
    kind = "nan" if np.isnan(array).any() else "inf"
    rows = np.unique(wrong[:, 0]).tolist() if array.ndim else []
    rows = rows[:SHOWN] if array.ndim and len(rows) < len(array) else []
    return Origin(path, kind, len(wrong), wrong[:SHOWN].tolist(), rows, array.shape, parents)


def _first(origin: Origin) -> Origin:
    """Up the inputs, not-a-number before infinite: an infinity is often meant, as in a mask."""
    while origin.parents:
        origin = min(origin.parents, key=lambda parent: parent.kind != "nan")
    return origin


def _said(origin: Origin, examples: Sequence[int]) -> str:
    """The origin in words."""
    per_example = origin.shape and origin.shape[0] in (len(examples), 2 * len(examples))
    named = sorted({examples[row % len(examples)] for row in origin.rows if per_example})
    of = f", of the examples {', '.join(map(str, named))} of the dataset" if named else ""
    at = f" at {', '.join(str(tuple(p)) for p in origin.positions[:3])}" if origin.shape else ""
    number = f"{origin.count} of {int(np.prod(origin.shape))} numbers" if origin.shape else "a number"
    return f"the first bad tensor is {origin.path} ({number} {origin.kind}{at}{of})"


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _savez(file: Path, tree: Tree) -> None:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = {
        _name(path): np.asarray(leaf) for path, leaf in flat if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]: no leaf is called allow_pickle
