"""Rates, weight decay and freezing of groups of parameters, by path and update; parameters that stay on a sphere."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.optim.optimizers import Optimizer
from ssl_jax.optim.schedules import Schedule
from ssl_jax.types import Tree

# States that say which value of a schedule is next: of a rate, of optax's weight decay.
CLOCKS = (optax.ScaleByScheduleState, type(jax.eval_shape(optax.add_decayed_weights(lambda step: 0.0).init, {})))


class Group(NamedTuple):
    """How a group of parameters learns; by default as all.

    Attributes:
      rate: factor of the learning rate, a number or a function of the update; "peak": the schedule's highest rate at
        every update, as SimSiam's predictor has it.
      decay: factor of the weight decay, a number or a function of the update; 0: none.
      first: the update from which the group learns. Before it there is no update, no weight decay and no moment, but
        the schedules go on; None: it never learns.
    """

    rate: float | Schedule | Literal["peak"] = 1.0
    decay: float | Schedule = 1.0
    first: int | None = 0


def by_path(f: Callable) -> Callable[..., Tree]:
    """``f("encoder/stem_conv/kernel", leaf, ...)`` of every leaf of trees."""

    def called(path, *leaves):
        return f(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves)

    return partial(jax.tree_util.tree_map_with_path, called)


def by_group(
    tx: optax.GradientTransformation,
    of_path: Callable[[str], Hashable | None],
    groups: Mapping[Any, Group],
) -> optax.GradientTransformation:
    """``tx`` for groups of parameters with rates, weight decay and beginnings of their own.

    ``tx.clip``, of the norm of the whole gradient, stays one norm over all groups but those that never learn.

    Args:
      tx: what :func:`ssl_jax.optim.make` gives. Any of optax will do where the groups differ in ``first`` and in rates
        that are numbers alone.
      of_path: the group of a parameter by its path, ``"predictor/dense0/kernel"``; None: of none, it learns as ever.
      groups: by name.

    Returns:
      An optax.GradientTransformation, ``tx`` itself where no group differs.

    Raises:
      ValueError: a group's value outside its meaning, one that ``tx`` cannot be made with; from ``init``: a name that
        ``of_path`` gives and ``groups`` does not have, or a group with a word for a name that no parameter is of.

    Example:
      >>> from ssl_jax import optim
      >>> tx = optim.make("sgd", learning_rate=optim.warmup_cosine(0.1, 0, 100), peak=0.1)
      >>> def part(path):
      ...     return "predictor" if path.startswith("predictor/") else None
      >>> tx = optim.by_group(tx, part, {"predictor": optim.Group(rate="peak")})
    """
    learners: dict[Hashable, optax.GradientTransformation] = {
        "never": optax.set_to_zero(),
        "from0": tx.remade() if isinstance(tx, Optimizer) else tx,
    }
    label_of: dict[Hashable, str] = {None: "from0"}
    factor_of: dict[Hashable, float] = {None: 1.0}
    for name, group in groups.items():
        _check(tx, name, group)
        own, factor = _own(tx, group), 1.0 if group.rate == "peak" or callable(group.rate) else group.rate
        label = "never" if group.first is None else f"from{group.first}" + (f"_{name}" if own else "")
        if label not in learners:
            learners[label] = from_update(own or learners["from0"], group.first or 0)
        label_of[name], factor_of[name] = label, factor

    def group_of(path: str) -> Hashable | None:
        if (name := of_path(path)) not in label_of:
            raise ValueError(f"{path} is of group {name!r}, which is none of {', '.join(map(str, groups))}")
        return name

    found: optax.GradientTransformation = tx
    if set(label_of.values()) != {"from0"}:
        found = optax.partition(learners, by_path(lambda path, _: label_of[group_of(path)]))
        if isinstance(tx, Optimizer) and tx.clip is not None:
            learns = by_path(lambda path, _: label_of[group_of(path)] != "never")
            found = optax.chain(optax.masked(tx.clip, learns), found)
    if set(factor_of.values()) != {1.0}:
        found = optax.chain(found, _scaled(lambda path: factor_of[group_of(path)]))
    return found if found is tx else _where_found(found, groups, group_of)


def _where_found(
    tx: optax.GradientTransformation, names: Iterable[Hashable], of_path: Callable[[str], Hashable]
) -> optax.GradientTransformation:
    """``tx`` that begins with parameters of all these names alone: a path that was mistyped says so."""

    def init(params: Tree):
        paths: list[str] = []
        by_path(lambda path, _: paths.append(path))(params)
        there = {of_path(path) for path in paths}
        if empty := [name for name in names if isinstance(name, str) and name not in there]:  # numbers are depths
            shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
            raise ValueError(f"no parameter is of group {empty[0]!r}; there are {shown}")
        return tx.init(params)

    return tx._replace(init=init)


def at_rates(tx: Optimizer, factor_of: Callable[[str], float]) -> Optimizer:
    """``tx`` with a factor of the learning rate for each parameter's path, also where it is made again for a group."""

    def build(rate, decay):
        return optax.chain(tx.build(rate, decay), _scaled(factor_of))

    return Optimizer(build, rate=tx.rate, decay=tx.decay, peak=tx.peak, clip=tx.clip)


def _scaled(factor_of: Callable[[str], float]) -> optax.GradientTransformation:
    """Updates times a factor of their path: last of a chain, so that adaptive optimizers and weight decay feel it."""
    scaled = by_path(lambda path, update: update * factor_of(path))
    return optax.stateless(lambda updates, params: scaled(updates))


def _own(tx: optax.GradientTransformation, group: Group) -> optax.GradientTransformation | None:
    """An optimizer of the group's own, where another rate at the end and another beginning do not make it."""
    if group.first is None or (_is_number(group.rate) and group.decay == 1.0):
        return None
    assert isinstance(tx, Optimizer)  # as _check says
    rate = tx.peak if group.rate == "peak" else _times(tx.rate, group.rate) if callable(group.rate) else tx.rate
    return tx.remade(rate, _times(tx.decay, group.decay))


def _times(value: float | Schedule, factor: float | Schedule) -> float | Schedule:
    if not callable(value) and not callable(factor):
        return value * factor
    return lambda step: _at(value, step) * _at(factor, step)


def _at(value: float | Schedule, step) -> Any:
    return value(step) if callable(value) else value


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(tx: optax.GradientTransformation, name: Hashable, group: Group) -> None:
    rate, decay, first = group
    if not (rate == "peak" or callable(rate) or (_is_number(rate) and 0 <= rate < math.inf)):
        raise ValueError(f"group {name!r}: rate={rate!r} is no factor; give a number from 0 on, a function, or 'peak'")
    if not (callable(decay) or (_is_number(decay) and 0 <= decay < math.inf)):
        raise ValueError(f"group {name!r}: decay={decay!r} is no factor; give a number from 0 on, or a function")
    if first is not None and not (isinstance(first, int) and first >= 0):
        raise ValueError(f"group {name!r}: first={first!r} is no update; give a whole number from 0 on, or None: never")
    if _is_number(rate) and decay == 1.0:
        return
    if not isinstance(tx, Optimizer):
        raise ValueError(
            f"group {name!r} with rate={rate!r} and decay={decay!r} needs an optimizer that can be made again; make it "
            "with ssl_jax.optim.make, or give a number as rate and no decay"
        )
    if rate == "peak" and tx.peak is None:
        raise ValueError(f"group {name!r} learns at the schedule's peak, which is not known; say optim.make(peak=)")


def by_depth(top: int, *, layer_decay: float = 1.0, head_rate: float = 1.0) -> dict[int, Group]:
    """Groups whose rate falls with the depth: ``layer_decay ** (top - d)`` at depth d, times ``head_rate`` at ``top``.

    Args:
      top: depth of what is made anew, the head (``models.depth``).

    Raises:
      ValueError: an argument outside its meaning.

    Reference: Clark et al., "ELECTRA", 2020, appendix B; facebookresearch/mae, util/lr_decay.py.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"method.layer_decay={layer_decay} must be in (0, 1]; 1 is one rate for all")
    if not head_rate > 0:
        raise ValueError(f"method.head_rate={head_rate} must be positive; 1 is one rate for all")
    return {d: Group(rate=layer_decay ** (top - d) * (head_rate if d == top else 1.0)) for d in range(top + 1)}


def from_update(tx: optax.GradientTransformation, first: int) -> optax.GradientTransformation:
    """``tx`` from update ``first`` on; before it no updates, and nothing is remembered but how late it is.

    The schedules' counts go on while the rest of the state waits: what joins late learns at the rate of the others.
    """
    if first == 0:
        return tx

    def init(params: Tree):
        return jnp.int32(0), tx.init(params)

    def update(updates, state, params=None):
        count, waiting = state
        updates, moved = tx.update(updates, waiting, params)

        def if_learning(new, old):
            return new if isinstance(new, CLOCKS) else jnp.where(count >= first, new, old)

        updates = jax.tree.map(lambda u: if_learning(u, jnp.zeros_like(u)), updates)
        return updates, (count + 1, jax.tree.map(if_learning, moved, waiting, is_leaf=lambda s: isinstance(s, CLOCKS)))

    return optax.GradientTransformation(init, update)


def unit_rows(
    tx: optax.GradientTransformation, where: Callable[[str], bool], *, axis: int = 0
) -> optax.GradientTransformation:
    """``tx`` after whose every update the vectors along ``axis`` have unit length: ``w <- (w + u) / |w + u|``.

    A vector that has no update stays as it is, and is to begin with unit length.

    Args:
      where: of a parameter's path, whether its vectors are such; SwAV's prototypes.
      axis: of a Dense kernel ``[in, out]``, 0: what every output is a product with.

    Raises:
      ValueError: from ``init``, no parameter is such.
    """

    def land(path, update, w):
        if not where(path):
            return update
        there = w + update
        there = there / jnp.linalg.norm(there, axis=axis, keepdims=True)
        return jnp.where((update != 0).any(axis, keepdims=True), there - w, update)

    def update(updates, state, params=None):
        updates, state = tx.update(updates, state, params)
        return by_path(land)(updates, params), state

    return _where_found(
        optax.GradientTransformation(tx.init, update), ["unit rows"], lambda path: where(path) and "unit rows"
    )
