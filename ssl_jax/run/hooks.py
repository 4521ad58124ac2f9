"""Functions of one's own that a run calls as it goes: ``hook(step, metrics, state)``, see :func:`ssl_jax.train.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.names import place, said_of
from ssl_jax.run import processes
from ssl_jax.types import TrainState

Call = Callable[[int, Mapping[str, Any], TrainState], object]

RESERVED = ("step", "line", "input_wait")  # of every line or of some, beside what begins with val_ or test_


class HookFailed(ValueError):
    """A hook has raised; the run was saved."""


class Hook(NamedTuple):
    """A function and when it is called: at every so many steps; None: wherever a line goes into ``metrics.jsonl``."""

    call: Call
    every: int | None = None


Hooks = Call | Hook | Iterable[Call | Hook]


def every(steps: int, call: Call) -> Hook:
    """Have a hook called after each step whose number is a multiple of ``steps``.

    The run waits for the device there, as it does where it logs: many calls cost speed.

    Args:
      steps: 1 or more.
      call: ``(step, metrics, state)``; numbers that it returns by name are logged at that step, all else it returns is
        not looked at.

    Example:
      >>> every(100, print).every
      100

    Raises:
      ValueError: no whole number from 1 on.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"a hook every {steps!r} steps: use a whole number from 1 on")
    return Hook(call, steps)


def check_hooks(hooks: Hooks, at_once: int = 1) -> tuple[Hook, ...]:
    """Hooks as a run was given them, one or several, each with when it is called.

    Args:
      at_once: steps in one program, between which nothing can be called.

    Raises:
      ValueError: one is no function, or would have to be called inside a program.
    """
    given: Any = hooks if isinstance(hooks, Iterable) and not isinstance(hooks, (Hook, str)) else (hooks,)
    found = tuple(hook if isinstance(hook, Hook) else Hook(hook) for hook in given)
    for hook in found:
        if not callable(hook.call):
            raise ValueError(f"hook {hook.call!r} is no function; give f(step, metrics, state), or every(n, f)")
        if hook.every and hook.every % at_once:
            raise ValueError(
                f"hook {_name(hook)} every {hook.every} steps falls between the {at_once} of one program; use a "
                "multiple of train.steps_per_dispatch"
            )
    return found


def due_hooks(hooks: Iterable[Hook], step: int, logged: bool) -> list[Hook]:
    """Those to be called after a step; ``logged``: it has a line in ``metrics.jsonl``."""
    return [hook for hook in hooks if (logged if hook.every is None else step % hook.every == 0)]


def call_hooks(
    hooks: Iterable[Hook], step: int, metrics: Mapping[str, Any], state: TrainState
) -> tuple[dict[str, Any], HookFailed | None]:
    """Call hooks in the order in which they were given; each has the metrics to itself.

    Returns:
      The numbers that they returned, by name; and what one of them raised, in this process or, where there are several,
      in another; those after it are not called.
    """
    found: dict[str, Any] = {}
    try:
        with processes.refusing_together():
            for hook in hooks:
                found |= _call(hook, step, metrics, found, state)
    except ValueError as error:
        return found, error if isinstance(error, HookFailed) else HookFailed(str(error))
    return found, None


def _call(
    hook: Hook, step: int, metrics: Mapping[str, Any], found: Mapping[str, Any], state: TrainState
) -> dict[str, Any]:
    try:
        given = hook.call(step, dict(metrics), state)
        return _numbers(given, {*metrics, *found, *RESERVED}) if isinstance(given, Mapping) else {}
    except Exception as error:  # whatever it does wrong
        code = getattr(hook.call, "__code__", None)
        where = place(error, Path(code.co_filename) if code else None)
        raise HookFailed(
            f"hook {_name(hook)} failed after step {step} ({said_of(error)}{where}); the run is saved and goes on from "
            "there when it is started again"
        ) from error


def _numbers(given: Mapping[Any, Any], taken: set[str]) -> dict[str, Any]:
    """What a hook returned, as numbers of Python's under names that a line has not."""
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"it returned a number called {name!r}; call it by a word")
        if name in taken or name.startswith(("val_", "test_")) or name.endswith("_per_sec"):
            raise ValueError(f"it returned {name}, which is a name of the run's own numbers; call it otherwise")
        number = value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
        if not isinstance(number, (bool, int, float)):
            raise ValueError(f"it returned {name}, a {type(value).__name__} and no number; return single numbers")
        found[name] = number
    return found


def _name(hook: Hook) -> str:
    return getattr(hook.call, "__qualname__", type(hook.call).__qualname__)
