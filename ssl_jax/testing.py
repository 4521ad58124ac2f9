"""The contract of a method, in one line of one's own test: one device, eight, and eight under pmap compute the same.

    from ssl_jax.testing import check_method

    def test_w_mse():
        check_method("./w_mse.py", dim=16)

A few steps of plain SGD in float64, where what is not the same shows: adaptive optimizers hide a gradient that is too
large by the number of devices, and in float32 a ReLU that flips moves more than most mistakes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import methods, models, optim, parallel
from ssl_jax.interop.leaves import by_name
from ssl_jax.online.probe import online_probe
from ssl_jax.step import Step, compile_step, make_init
from ssl_jax.types import Batch, Method, Plan, Probe, TrainState

ROWS, SIZE, STEPS, CLASSES = 64, 8, 5, 4
DEVICES = 8
TX = optim.Optimizer(lambda rate, decay: optax.sgd(rate), rate=0.05, decay=0.0)
TOLERANCE = 1e-9  # relative to max(1, |a|)
WORK = 1.15  # of the ideal share of one device's operations, each of eight devices
ROUNDED = 1e-6  # differences below it are those of numbers in float32

_SHARED = "what rows share goes through parallel.all_rows, parallel.mean or parallel.row_ids with the axis of the loss"
_DRAWN = "what is drawn for a row through parallel.row_keys(key, n, axis)"
RULES = {  # of the house, by the part of the state in which they show, the first that shows first
    "model_state": "statistics leave the loss global: ssl_jax.models.BatchNorm with axis=axis, or parallel.mean",
    "params": f"{_SHARED}; {_DRAWN}",
    "opt_state": f"{_SHARED}; {_DRAWN}",
    "aux": "LossOut.carry leaves the loss global, on every device alike: parallel.all_rows of what is put into a queue",
    "rows": f"the state of a row depends on that row alone; {_DRAWN}",
    "probe": "LossOut.outputs['features'] are those of the rows of the batch, in their order",
    "losses": _SHARED,
}
RANKS = "shapes are not broadcast by themselves: write the missing dimension, as in `x * scale[None]`"
TYPES = "types are not mixed by themselves: cast with .astype(x.dtype) what is to be added or multiplied"
FLOAT64 = (
    "everything is computed in the type of the inputs: no .astype(jnp.float32), constants as Python numbers or "
    "jnp.asarray(c, x.dtype), draws cast with .astype(x.dtype)"
)
DRAWS = (
    "numpy.random, random and time are read once, when the step is compiled, and by each process for itself: draw with "
    "jax.random from the key of the loss, for a row of parallel.row_keys(key, n, axis)"
)


def check_method(
    make: Callable[..., Method] | str,
    *,
    encoder: Any = None,
    batch: Callable[[int], Batch] | None = None,
    plan: Mapping[str, Any] | None = None,
    modes: tuple[str, ...] = ("jit", "pmap"),
    from_labels: bool = False,
    work: float | None = 4.0,
    **arguments: Any,
) -> None:
    """Prove that a method computes on eight devices what it does on one, under jit and under pmap.

    Needs eight devices; on a CPU it asks JAX for them, where JAX has not begun yet.

    Args:
      make: ``make(encoder, *, plan, ...) -> Method``, or its name as in ``method.name``.
      encoder: default: a small convolutional network with BatchNorm.
      batch: ``batch(step)``, 64 rows; default: two views of 8 x 8 with labels.
      plan: fields of :class:`ssl_jax.types.Plan` other than those of such a batch.
      from_labels: whether the method learns from labels; else that they never reach it is checked, too.
      work: how many times its share a device may compute; None: any number. What every device computes (a loss of all
        rows, the optimizer) counts too, so that small networks reach 2; 8 is no share at all. Ours keep to 1.15.
      **arguments: of ``make``.

    Example:
      >>> check_method("simclr", projector_dim=8)  # doctest: +SKIP

    Raises:
      AssertionError: of one line: what differs, which rule of the house was broken, and how to keep it.
      RuntimeError: there are fewer than eight devices.
    """
    _have_devices()
    make = methods.get(make) if isinstance(make, str) else make
    batch = batch or batch_of
    if methods.takes_images(make):
        arguments = {"mean": (0.5,), "std": (0.25,)} | arguments
    encoder = encoder or models.make("convnet", widths=(4, 8), residual=False)
    method = make(encoder, plan=plan_of(**(plan or {})), **arguments)
    if not isinstance(method, Method):
        raise AssertionError(f"make gives a {type(method).__name__} and no ssl_jax.types.Method")
    case = Case(method, online_probe(CLASSES), batch)
    _trace_strictly(case)
    with double():
        check_trace(case)
        start = initial(case)
        alone = program(case, start, 1, "jit")
        reference = run(alone, batch)
        if not from_labels:
            _check_labels(reference, run(alone, _relabelled(batch)))
        for mode in modes:
            several, where = program(case, start, DEVICES, mode), f"{DEVICES} devices under {mode}"
            # One step tells most of what is wrong: later everything differs.
            same_leaves(run(several, batch, 1).leaves, run(alone, batch, 1).leaves, where)
            compare(run(several, batch), reference, where, work=work)


class Case(NamedTuple):
    """What is trained: a method with a probe beside it, on ``batch(step)``."""

    method: Method
    probe: Probe | None
    batch: Callable[[int], Batch]


class Program(NamedTuple):
    """A compiled step; ``begin()`` is a state before the first one, on its devices."""

    step: Step
    compiled: Any
    begin: Callable[[], TrainState]


class Trained(NamedTuple):
    """What came of some steps: arrays by name, the losses, and operations of a step per device."""

    leaves: dict[str, np.ndarray]
    losses: list[float]
    flops: float


def plan_of(**fields: Any) -> Plan:
    """Of a run on :func:`batch_of`."""
    return Plan(
        **{
            "total_steps": 20,
            "steps_per_epoch": 4,
            "num_examples": 4 * ROWS,
            "input_shape": (SIZE, SIZE, 3),
            "global_batch_size": ROWS,
            "num_classes": CLASSES,
        }
        | fields
    )


def batch_of(step: int, rows: int = ROWS, dtype: Any = np.float64) -> dict[str, Any]:
    """Batch ``step`` of random views that share their low frequencies, with labels, one row unlabelled."""
    rng = np.random.default_rng(step)
    base = rng.random((rows, SIZE // 4, SIZE // 4, 3)).repeat(4, 1).repeat(4, 2)
    views = tuple(((base + rng.random((rows, SIZE, SIZE, 3))) / 2).astype(dtype) for _ in range(2))
    label = rng.integers(0, CLASSES, rows).astype(np.int32)
    label[3] = -1
    return {"views": views, "label": label, "index": np.arange(rows, dtype=np.int32)}


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Float64 throughout."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        yield


def initial(case: Case) -> Any:
    """The state before the first step, on the host: drawn in float32 as always, then cast."""
    first = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, dict(case.batch(0)))
    init = jax.jit(make_init(case.method, TX, probe=case.probe))
    state = init(jax.random.key(0), first, None)
    state = jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))
    return jax.tree.map(lambda a: a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a, state)


def program(case: Case, start: Any, devices: int, mode: str) -> Program:
    """The step of a case, compiled; ``start`` is :func:`initial`'s.

    ``mode``: jit, pmap, or fsdp, which is jit with the state in four parts, of small arrays too.
    """
    mesh = parallel.make_mesh(devices, fsdp=4 if mode == "fsdp" else 1)
    step = compile_step(case.method, TX, mesh, mode="jit" if mode == "fsdp" else mode, probe=case.probe)

    def whole():
        state = jax.device_put(start, shardings)
        state = state.replace(key=jax.random.wrap_key_data(state.key))
        return state if case.probe else state.replace(probe=None)

    def begin():
        state = whole()
        if mode != "pmap" or state.rows is None:
            return state
        by_device = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), start.rows)
        return state.replace(rows=by_device)  # as it is between two steps

    before, parallel.SPLIT_FROM = parallel.SPLIT_FROM, 16
    try:
        shardings = parallel.state_shardings(start, mesh)
        compiled = step.lower(whole(), step.place(local_rows(case.batch(0)))).compile()
    finally:
        parallel.SPLIT_FROM = before
    return Program(step, compiled, begin)


def run(program: Program, batch: Callable[[int], Batch], steps: int = STEPS) -> Trained:
    """Train for some steps."""
    state, losses = program.begin(), []
    for t in range(steps):
        state, metrics = program.compiled(state, program.step.place(local_rows(batch(t))))
        losses.append(float(jax.device_get(metrics["loss"])))
    cost = program.compiled.cost_analysis()
    return Trained(leaves_of(state), losses, (cost[0] if isinstance(cost, list) else cost)["flops"])


def compare(found: Trained, reference: Trained, where: str, *, work: float | None = WORK) -> None:
    """Assert that training gave the same as on one device, that it did train, and that the work was shared.

    Args:
      where: ``found`` was made, for the message.
      work: see :func:`check_method`.

    Raises:
      AssertionError: names the rule that was broken.
    """
    same_leaves(found.leaves, reference.leaves, where)
    _same(np.asarray(found.losses), np.asarray(reference.losses), "losses", where)
    assert np.ptp(found.losses) > 1e-3, f"the loss does not move: {found.losses} in {len(found.losses)} steps of SGD"
    share = found.flops * DEVICES / reference.flops
    assert work is None or share <= work, (
        f"{where}: each computes {share:.2f} times its share (at most {work}); re-indexed rows (x[perm], take) are "
        "replicated from there on until parallel.my_rows puts them back; what every device holds (optimizer, bank) "
        "counts too: take narrower heads, or work="
    )


def same_leaves(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], where: str) -> None:
    """Assert that arrays by name are the same to TOLERANCE."""
    assert found.keys() == reference.keys(), f"{where}: {sorted(found.keys() ^ reference.keys())} are not in both"
    wrong = [name for name in reference if _apart(found[name], reference[name]) > TOLERANCE]
    parts = list(RULES)  # a gradient takes the statistics that are wrong with it, and a target the gradient
    for name in sorted(
        wrong, key=lambda name: (parts.index(name.split("/")[0]), -_apart(found[name], reference[name]))
    ):
        _same(found[name], reference[name], name, where)


def _apart(found: np.ndarray, want: np.ndarray) -> float:
    if found.shape != want.shape:
        return np.inf
    difference = np.abs(found - want) / np.maximum(1, np.abs(want))
    return np.inf if np.isnan(difference).any() else float(difference.max(initial=0))


def _same(found: np.ndarray, want: np.ndarray, name: str, where: str) -> None:
    apart = _apart(found, want)
    if apart <= TOLERANCE:
        return
    rule = RULES.get(name.split("/")[0], _SHARED)
    if apart < ROUNDED:
        rule = f"a difference of this size is float32 in float64: {FLOAT64}"
    raise AssertionError(
        f"{where}: {name} differs from one device's by {apart:.1e} (at most {TOLERANCE:g}); rule: {rule}"
    )


def check_trace(case: Case) -> None:
    """Refuse a loss, traced in float64, that goes below that or holds numbers which are others at each trace."""
    traced, again = _traced(case), _traced(case)
    for eqn, _ in _equations(traced):
        if dtype := _narrowed(eqn):
            raise AssertionError(f"{_line(eqn)} makes {dtype} of float64; rule: {FLOAT64}")
    for one, other in itertools.zip_longest(_constants(traced), _constants(again)):
        if one is None or other is None or one[0] != other[0]:
            where = next(_line(pair[1]) for pair in (one, other) if pair)
            raise AssertionError(f"{where} has other numbers whenever the loss is traced; rule: {DRAWS}")


def _traced(case: Case) -> Any:
    def loss(variables, batch, key):  # a function of its own each time, which JAX has not traced before
        return case.method.loss(variables, batch, key, jnp.int32(0), None)

    first = dict(case.batch(0))
    variables = jax.eval_shape(case.method.init, jax.random.key(0), first)
    wide = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, _doubled(a.dtype)), variables)
    return jax.make_jaxpr(loss)(wide, first, jax.random.key(0))


def _doubled(dtype: Any) -> Any:
    return np.float64 if dtype == np.float32 else dtype


def _equations(closed: Any) -> Iterator[tuple[Any, Mapping[Any, Any]]]:
    """Every equation of a jaxpr and of those inside it, with the arrays that are constants there."""
    jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    held = dict(zip(jaxpr.constvars, consts, strict=False))
    for eqn in jaxpr.eqns:
        yield eqn, held
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _equations(inner)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _narrowed(eqn: Any) -> Any:
    """The type below float64 that an equation makes of it, None of one that does not.

    A Python number, whose type is weak, may be one of a draw in float32.
    """
    types = [v.aval for v in (*eqn.invars[:1], *eqn.outvars[:1]) if hasattr(v.aval, "dtype")]
    if len(types) < 2 or types[0].dtype != np.float64 or types[0].weak_type:
        return None
    calls = any(map(_is_jaxpr, jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)))
    narrow = jnp.issubdtype(types[1].dtype, jnp.floating) and types[1].dtype != np.float64
    return types[1].dtype if narrow and not calls else None


def _constants(closed: Any) -> Iterator[tuple[bytes, Any]]:
    """(Its bytes, the equation that reads it) of every number that stands in a jaxpr."""
    for eqn, held in _equations(closed):
        for v in eqn.invars:
            value = v.val if hasattr(v, "val") else held.get(v)
            if value is not None:
                is_key = jnp.issubdtype(getattr(value, "dtype", np.float64), jax.dtypes.prng_key)
                yield np.asarray(jax.random.key_data(value) if is_key else value).tobytes(), eqn


def _line(eqn: Any) -> str:
    """``v.py line 12`` of an equation."""
    frames = getattr(eqn.source_info.traceback, "frames", ())
    theirs = (f for f in frames if _theirs(f.file_name))
    return next((f"{f.file_name.rpartition('/')[2]} line {f.line_num}" for f in theirs), "the loss")


def _theirs(file: str) -> bool:
    """Whether a file is none of a library's."""
    return "site-packages" not in file and not file.startswith("<")


def _trace_strictly(case: Case) -> None:
    """Trace the loss in float32 with strict promotion of types and of ranks, neither of which hides a mistake then."""

    def loss(variables, batch, key):
        return case.method.loss(variables, batch, key, jnp.int32(0), None)[0]

    first = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, dict(case.batch(0)))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        try:
            variables = jax.eval_shape(case.method.init, jax.random.key(0), first)
            jax.eval_shape(loss, variables, first, jax.random.key(0))
        except (ValueError, TypeError) as error:
            rule = RANKS if "rank_promotion" in str(error) else TYPES if "dtype_promotion" in str(error) else None
            if rule is None:
                raise
            frames = [f for f in traceback.extract_tb(error.__traceback__) if _theirs(f.filename)]
            where = f"{frames[-1].filename.rpartition('/')[2]} line {frames[-1].lineno}: {frames[-1].line}"
            raise AssertionError(f"{where}; rule: {rule}") from error


def _relabelled(batch: Callable[[int], Batch]) -> Callable[[int], Batch]:
    def reversed_labels(step: int) -> Batch:
        found = dict(batch(step))
        return found | {"label": found["label"][::-1].copy()}

    return reversed_labels


def _check_labels(found: Trained, permuted: Trained) -> None:
    for name, leaf in found.leaves.items():
        assert name.startswith("probe/") or leaf.tobytes() == permuted.leaves[name].tobytes(), (
            f"{name} is another when labels are permuted; rule: labels are for the probe, which is none of the "
            "method's; from_labels=True for a method that learns from them"
        )


def _have_devices() -> None:
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has begun
            jax.config.update("jax_num_cpu_devices", DEVICES)
    if (count := jax.device_count()) < DEVICES:
        raise RuntimeError(
            f"check_method compares {DEVICES} devices with one and JAX has begun with {count}; put "
            f'jax.config.update("jax_num_cpu_devices", {DEVICES}) at the top of conftest.py'
        )


def leaves_of(state: TrainState) -> dict[str, np.ndarray]:
    """{leaf name: array} of everything that training changes."""
    parts = {k: getattr(state, k) for k in ("params", "model_state", "aux", "opt_state", "probe")}
    return {name: np.asarray(local_value(leaf)) for name, leaf in by_name(parts).items()}


def local_rows(batch: Batch) -> dict[str, Any]:
    """This process's share of a batch."""

    def share(a):
        rows = len(a) // jax.process_count()
        return a[jax.process_index() * rows :][:rows]

    return jax.tree.map(share, dict(batch))


def local_value(leaf: Any) -> Any:
    """A replicated value as this process holds it."""
    return leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
