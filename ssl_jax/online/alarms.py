"""What a run's own log says of its health: a loss that jumps, a representation that collapses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ssl_jax.online import collapse, spikes

NEW = {
    "losses": [],  # the last logged ones, of this stage of the method
    "stage": None,
    "jumped": False,  # the last one
    "loss_spikes": [],  # steps
    "suspicious": None,  # reports in a row that look like a collapse; None before the first
    "collapsed": False,  # as the last report has it; None where nobody knows
    "named": False,  # that collapse, by the method's own sign
}


def judge(
    progress: dict[str, Any],
    line: Mapping[str, float | None],
    report: Mapping[str, float],
    *,
    step: int,
    warmup_steps: int,
    rows: int,
    own: Callable[[Mapping[str, float]], str | None],
) -> Iterator[str]:
    """What there is to say of one line of the log; ``progress``, as :data:`NEW`, is brought up to date in place.

    Args:
      line: of the log, ``train_loss`` among it; where a metric ``train_stage`` of the method changes, its loss is
        another one than before.
      report: from :func:`collapse.collapse_report`, with "dim" of the projections; {} where there are none.
      step, warmup_steps: of the run.
      rows: of a batch.
      own: ``hooks["collapse"]`` of the method; a number that is not finite is NaN, above and below nothing. It speaks
        once in a collapse, also where another sign has spoken before.
    """
    loss = line["train_loss"]
    if (stage := line.get("train_stage")) != progress["stage"]:
        progress |= {"stage": stage, "losses": []}
    jumped = spikes.spike(progress["losses"], loss, step=step, warmup_steps=warmup_steps)
    if jumped and not progress["jumped"]:  # one that stays there has jumped once
        progress["loss_spikes"] = [*progress["loss_spikes"], step]
        yield f"WARNING: {jumped}"
    progress["jumped"] = bool(jumped)
    if loss is not None and math.isfinite(loss):
        progress["losses"] = [*progress["losses"], loss][-spikes.SPIKE_MEMORY :]
    if not report:
        return
    signs = collapse.watched(rows, int(report["dim"]))
    if progress["suspicious"] is None and (left_out := collapse.unwatched(rows, int(report["dim"]))):
        yield left_out
    seen = {name.removeprefix("train_"): math.nan if value is None else value for name, value in line.items()}
    sign, history = own(seen), progress["suspicious"] or 0
    how: dict[str, Any] = {"step": step, "warmup_steps": warmup_steps, "signs": signs}
    progress["suspicious"], said = collapse.alarm(history, report, own=sign, **how)
    collapsed = collapse.collapsed(progress["suspicious"])
    progress["collapsed"] = collapsed or (False if any(signs) else None)
    if collapsed and sign and not progress["named"]:
        said = said or f"step {step}: the representation looks collapsed: {sign}"
    progress["named"] = collapsed and (progress["named"] or bool(sign))
    if said:
        yield f"WARNING: {said}" if collapsed else said
