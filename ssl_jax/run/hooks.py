"""Functions of one's own that a run calls as it goes: ``hook(step, metrics, state)``, see :func:`ssl_jax.train.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssl_jax.names import place, said_of
from ssl_jax.run import processes
from ssl_jax.types import TrainState

Call = Callable[[int, Mapping[str, Any], TrainState], object]


class HookFailed(ValueError):
    """A hook has raised; the run was saved."""


class Hook(NamedTuple):
    """A function and when it is called: at every so many steps; None: wherever a line goes into ``metrics.jsonl``."""

    call: Call
    every: int | None = None


def every(steps: int, call: Call) -> Hook:
    """Have a hook called after each step whose number is a multiple of ``steps``.

    The run waits for the device there, as it does where it logs: many calls cost speed.

    Args:
      steps: 1 or more.
      call: ``(step, metrics, state)``; what it gives is not looked at.

    Example:
      >>> every(100, print).every
      100

    Raises:
      ValueError: no whole number from 1 on.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"a hook every {steps!r} steps: use a whole number from 1 on")
    return Hook(call, steps)


def check_hooks(hooks: Iterable[Call | Hook], at_once: int = 1) -> tuple[Hook, ...]:
    """Hooks as a run was given them, each with when it is called.

    Args:
      at_once: steps in one program, between which nothing can be called.

    Raises:
      ValueError: one is no function, or would have to be called inside a program.
    """
    found = tuple(hook if isinstance(hook, Hook) else Hook(hook) for hook in hooks)
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


def call_hooks(hooks: Iterable[Hook], step: int, metrics: Mapping[str, Any], state: TrainState) -> HookFailed | None:
    """Call hooks in the order in which they were given; each has the metrics to itself.

    Returns:
      What one of them raised, in this process or, where there are several, in another; those after it are not called.
    """
    try:
        with processes.refusing_together():
            for hook in hooks:
                _call(hook, step, dict(metrics), state)
    except ValueError as error:
        return error if isinstance(error, HookFailed) else HookFailed(str(error))
    return None


def _call(hook: Hook, step: int, metrics: dict[str, Any], state: TrainState) -> None:
    try:
        hook.call(step, metrics, state)
    except Exception as error:  # whatever it does wrong
        code = getattr(hook.call, "__code__", None)
        where = place(error, Path(code.co_filename) if code else None)
        raise HookFailed(
            f"hook {_name(hook)} failed after step {step} ({said_of(error)}{where}); the run is saved and goes on from "
            "there when it is started again"
        ) from error


def _name(hook: Hook) -> str:
    return getattr(hook.call, "__qualname__", type(hook.call).__qualname__)
