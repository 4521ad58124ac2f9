"""The train step: the only place where a method's gradients are taken and its optimizer is called.

``make_train_step`` builds a pure function ``(state, batch) -> (state, metrics)`` that runs unchanged in two worlds
(see ``parallel.py``); ``compile_step`` compiles it as ``jit`` over a mesh or as ``pmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.multihost_utils import global_array_to_host_local_array, host_local_array_to_global_array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.online.collapse import projection_moments
from ssl_jax.optim import by_path
from ssl_jax.types import WHOLE, Array, Axis, Batch, LossOut, Method, Probe, TrainState, Tree, Variables, Views

Metrics = Mapping[str, Any]
MODES = ("jit", "pmap")


def init_state(
    method: Method,
    tx: optax.GradientTransformation,
    key: Array,
    batch: Batch,
    mesh: Mesh,
    *,
    views: Views | None = None,
    probe: Probe | None = None,
    given: Mapping[str, tuple[Tree, ...]] | None = None,
) -> TrainState:
    """The state before the first step, built inside one jit so that every leaf is born where it belongs.

    Args:
      key: root of all random bits of the run; stored in the state and never advanced.
      batch: a global batch as the step will see it, placed on ``mesh``.
      given: trained networks by part, as ``run.open.load_given`` reads them for ``init_from``; "all" is everything
        that a method holds: params, model_state and aux.
    """
    init = make_init(method, tx, views=views, probe=probe)
    with jax.set_mesh(mesh):
        shardings = parallel.state_shardings(jax.eval_shape(init, key, batch, given), mesh)
        return jax.jit(init, out_shardings=shardings)(key, batch, given)


def make_init(
    method: Method, tx: optax.GradientTransformation, *, views: Views | None = None, probe: Probe | None = None
):
    """A pure ``init(key, batch, given) -> TrainState``, to be jitted or only traced for the shapes of a state."""

    def init(key, batch, given):
        if views is not None:
            batch = views(batch, parallel.named_key(key, "views"), None)
        parts, whole = dict(given or {}), None
        if "all" in parts:
            whole = parts.pop("all")
        variables = method.init(parallel.named_key(key, "init"), batch, parts or None)
        if whole is not None:
            variables = variables._replace(**dict(zip(WHOLE, whole, strict=True)))
        probe_state = None
        if probe is not None:
            _, out = jax.eval_shape(lambda v, b: method.loss(v, b, key, jnp.int32(0), None), variables, batch)
            probe_state = probe.init(parallel.named_key(key, "probe"), out.outputs["features"].shape[-1])
        return TrainState(
            step=jnp.int32(0),
            params=variables.params,
            model_state=variables.model_state,
            opt_state=method.wrap_tx(tx).init(variables.params),
            aux=variables.aux,
            rows=variables.rows,
            probe=probe_state,
            bad=jnp.int32(-1),
            key=key,
        )

    return init


def gradients(method: Method, *, views: Views | None = None, axis: Axis = None):
    """A pure ``(state, batch) -> (loss, LossOut, gradients, batch after views)``, averaged over devices."""

    def run(state: TrainState, batch: Batch) -> tuple[Array, LossOut, Tree, Batch]:
        key = jax.random.fold_in(state.key, state.step)
        if views is not None:
            batch = views(batch, parallel.named_key(key, "views"), axis)

        def loss_fn(params):
            variables = Variables(params, state.model_state, parallel.gathered(state.aux), state.rows)
            return method.loss(variables, batch, parallel.named_key(key, "loss"), state.step, axis)

        (loss, out), grads = parallel.value_and_grad(loss_fn, state.params)
        loss, grads, scalars = parallel.mean((loss, _as_weights_lie(grads), dict(out.metrics)), axis)
        return loss, out._replace(metrics=scalars), grads, batch

    return run


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    *,
    views: Views | None = None,
    probe: Probe | None = None,
    axis: Axis = None,
    on_nonfinite: Literal["stop", "skip"] = "stop",
    grad_norms: Sequence[str] = (),
):
    """A pure ``step(state, batch) -> (state, metrics)``.

    Loss and gradients are averaged over devices once, here. When loss, gradients or the new statistics hold a
    not-a-number, nothing is applied: parameters, statistics, optimizer, aux, rows and probe stay as they were and
    ``state.bad`` keeps the first such step; in ``stop`` mode nothing is applied after it either.

    Metrics are scalars under ``"loss"``, ``"grad_norm"``, ``"START_grad_norm"`` of the parameters whose paths begin
    with each of ``grad_norms`` and of the method's, the method's and the probe's own names, and ``"moments"``, what
    the collapse alarm needs of the projections (``online/collapse.py``). Gradients are those before they are clipped.
    """
    tx = method.wrap_tx(tx)

    run = gradients(method, views=views, axis=axis)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, out, grads, batch = run(state, batch)
        outputs = lax.stop_gradient(dict(out.outputs))

        metrics: dict[str, Any] = {"loss": loss, "grad_norm": optax.tree.norm(grads), **out.metrics}
        for start in dict.fromkeys((*method.grad_norms, *grad_norms)):
            metrics[f"{start}_grad_norm"] = optax.tree.norm(_beginning(grads, start))
        if "projections" in outputs:
            metrics["moments"] = projection_moments(outputs["projections"], axis)
        probe_state = state.probe
        if probe is not None and "label" in batch:
            probe_state, probe_metrics = probe.update(state.probe, outputs["features"], batch["label"], axis)
            metrics |= probe_metrics

        ok = _all_finite((loss, grads, out.model_state, out.rows, out.carry))
        if axis is not None:
            ok = lax.pmin(ok.astype(jnp.int32), axis).astype(bool)
        bad = jnp.where((state.bad < 0) & ~ok, state.step, state.bad)
        if on_nonfinite == "stop":
            ok &= state.bad < 0

        def apply():
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            aux = method.update_aux(Variables(params, out.model_state, state.aux), out.carry, state.step)
            return params, out.model_state, opt_state, aux, out.rows, probe_state

        def keep():
            return state.params, state.model_state, state.opt_state, state.aux, state.rows, state.probe

        params, model_state, opt_state, aux, rows, probe_state = _either(ok, apply, keep)
        state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            aux=aux,
            rows=rows,
            probe=probe_state,
            bad=bad,
        )
        return state, metrics

    return train_step


def _beginning(tree: Tree, start: str) -> Tree:
    """The leaves whose paths begin so, and None elsewhere."""
    return by_path(lambda path, leaf: leaf if path.startswith(start) else None)(tree)


@dataclass(frozen=True)
class Step:
    """A compiled train step: ``state, metrics = step(state, step.place(batch))``; the old state is donated.

    ``several``: it makes a step for each of the batches that are stacked in its argument, and gives the last metrics.
    """

    mesh: Mesh
    mode: str
    function: Any
    several: bool = False

    def place(self, batch: Batch) -> Batch:
        """Put this process's NumPy rows of a batch where the step wants them."""
        if self.mode == "jit":
            return parallel.place(batch, self.mesh, stacked=self.several)
        local = len(self.mesh.local_devices)

        def split(a):
            a = np.asarray(a)
            return a.reshape(local, a.shape[0] // local, *a.shape[1:])

        return jax.tree.map(split, dict(batch))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if self.mode == "pmap":
            state, metrics = self._mapped(batch)(self._by_device(state), batch)
            return self._whole(state), metrics
        with jax.set_mesh(self.mesh):
            return self.function(state, batch)

    def lower(self, state: TrainState, batch: Batch, platform: str | None = None):
        """The lowered program, for cost analysis and ahead-of-time compilation.

        ``platform``: of another kind of device than the mesh's, under jit: ``"cuda"`` or ``"tpu"``.
        """
        if self.mode == "pmap":
            return self._mapped(batch).lower(self._by_device(state), batch)
        with jax.set_mesh(self.mesh):
            return self.function.trace(state, batch).lower(lowering_platforms=platform and (platform,))

    def _by_device(self, state: TrainState) -> TrainState:
        """``rows`` as pmap has them, this process's ``[devices, b / devices, ...]``; elsewhere ``[b, ...]``."""
        if state.rows is None:
            return state
        local = len(self.mesh.local_devices)
        rows = global_array_to_host_local_array(state.rows, self.mesh, P(parallel.DATA))
        return state.replace(rows=jax.tree.map(lambda a: a.reshape(local, -1, *a.shape[1:]), rows))

    def _whole(self, state: TrainState) -> TrainState:
        if state.rows is None:
            return state
        rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), state.rows)
        return state.replace(rows=host_local_array_to_global_array(rows, self.mesh, P(parallel.DATA)))

    def _mapped(self, batch: Batch):
        if "table" in batch:
            raise ValueError("a dataset on the device is for parallel.mode=jit; under pmap send its rows as 'image'")
        # pmap wants an axis for every key of the batch, so it is built per set of keys.
        return self.function(tuple(sorted(batch)))


def compile_step(
    method: Method,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    mode: str = "jit",
    views: Views | None = None,
    probe: Probe | None = None,
    on_nonfinite: Literal["stop", "skip"] = "stop",
    grad_norms: Sequence[str] = (),
    several: bool = False,
) -> Step:
    """The train step as one program over ``mesh``; the state is donated.

    Args:
      grad_norms: see :func:`make_train_step`.
      mode: ``"jit"``, the global view that XLA partitions (default), or ``"pmap"``, the same function per device with
        explicit collectives. Both compute the same (tested in float64).
      several: the program makes one step after the other of batches whose leaves are stacked, ``[k, b, ...]`` (but for
        ``"table"``), without coming back to the host in between.
    """
    if mode not in MODES:
        raise ValueError(f"parallel.mode={mode!r} is not one of {', '.join(MODES)}")
    axis = parallel.DATA if mode == "pmap" else None
    how = {"on_nonfinite": on_nonfinite, "grad_norms": grad_norms}
    step = make_train_step(method, tx, views=views, probe=probe, axis=axis, **how)
    if mode == "jit":
        function = _laid_out(_one_after_the_other(step) if several else step, mesh)
        return Step(mesh, mode, jax.jit(function, donate_argnums=0), several)
    if parallel.FSDP in mesh.axis_names:
        raise ValueError("parallel.fsdp is for parallel.mode=jit; set it to 1 under pmap")
    if several:
        raise ValueError("several steps in one program are for parallel.mode=jit; set train.steps_per_dispatch=1")

    mapped = {}

    def for_keys(keys):
        if keys not in mapped:
            fields: dict[str, Any] = dict.fromkeys(TrainState.__dataclass_fields__)
            fields["rows"] = 0
            state_axes = TrainState(**fields)
            mapped[keys] = jax.pmap(
                step,
                axis_name=parallel.DATA,
                in_axes=(state_axes, dict.fromkeys(keys, 0)),
                out_axes=(state_axes, None),
                devices=list(mesh.devices.flat),
                donate_argnums=0,
            )
        return mapped[keys]

    return Step(mesh, mode, for_keys)


def _one_after_the_other(step):
    """``step`` over the leading dimension of a batch's leaves, ``"table"`` aside; the metrics are the last step's."""

    def steps(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        shared = {name: value for name, value in batch.items() if name == "table"}
        stacked = {name: value for name, value in batch.items() if name != "table"}
        state, metrics = lax.scan(lambda state, rows: step(state, rows | shared), state, stacked)
        return state, jax.tree.map(lambda m: m[-1], metrics)

    return steps


def _laid_out(step, mesh: Mesh):
    """``step``, whose new state lies on the mesh as the old one did."""

    def laid_out(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        shardings = parallel.state_shardings(state, mesh)
        return lax.with_sharding_constraint(step(state, batch), (shardings, parallel.replicated(mesh)))

    return laid_out


def _as_weights_lie(grads: Tree) -> Tree:
    """The same values; on a GPU those of convolutions in the memory order of their weights.

    cuDNN makes them with the output's channels first. What is fused with turning them cannot write where it reads, so
    that every update would copy the weights and their moments. Where the state lies in parts they stay as they are:
    XLA would gather them first.
    """
    if parallel.platform() != "gpu" or parallel.has_fsdp():
        return grads
    rows = Layout((0, 1, 2, 3))
    return jax.tree.map(
        lambda g: lax.optimization_barrier(with_layout_constraint(g, rows)) if g.ndim == 4 else g, grads
    )


def _either(ok: Array, apply: Callable[[], Tree], keep: Callable[[], Tree]) -> Tree:
    """``apply()`` where ``ok``, else ``keep()``, leaf by leaf the same.

    By a conditional, which copies no bank and no queue. On a GPU by selects: there a conditional copies every leaf of
    its result to where the next step expects it, and cuts the step into pieces.
    """
    if parallel.platform() != "gpu":
        return lax.cond(ok, apply, keep)
    return jax.tree.map(lambda new, old: lax.select(ok, new, old), apply(), keep())


def _all_finite(tree: Tree) -> Array:
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(a).all() for a in leaves]))
