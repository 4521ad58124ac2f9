"""Schedules, functions of the step: of the learning rate, of weight decay, of an EMA's tau.

optax has several of them. Its cosines and lines add in another order and differ from these in the last digit (6e-8 of a
rate of 0.3), with which a run that has begun would not go on bit for bit; its step decay holds one drop at a step, and
two that fall on one step of a short run are to count twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ssl_jax.types import Array

Schedule = Callable[[Any], Any]  # step -> value


def _as_float(step: Any) -> Array:
    return jnp.asarray(step).astype(float)  # float: float32, or float64 where x64 is on


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: jnp.full_like(_as_float(step), value)


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, *, start: float = 0.0, end: float = 0.0
) -> Schedule:
    """Linear warmup, then half a cosine, per step; SimCLR's and BYOL's, which begin and end at 0.

    ``lr(t) = peak (start + (1 - start) t/W)`` for t < W, then ``peak (end + (1 - end) (1 + cos(pi (t-W)/(S-W))) / 2)``;
    ``peak end`` from S on.

    Args:
      peak: highest value, reached at step W.
      warmup_steps: W, 0 for none.
      total_steps: S, the warmup included.
      start: first value of the warmup, as a share of the peak.
      end: last value, as a share of the peak.

    Returns:
      step -> value.

    Raises:
      ValueError: unless 0 <= W < S (:func:`cut_warmup` shortens W).
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} is not in [0, total_steps={total_steps}); "
            f"use {max(total_steps // 10, 0)} (cut_warmup)"
        )

    def schedule(step):
        t = _as_float(step)
        progress = jnp.minimum((t - warmup_steps) / (total_steps - warmup_steps), 1.0)
        falling = _half_cosine(peak, progress, peak * end)
        return jnp.where(t < warmup_steps, _rising(peak, peak * start, t, warmup_steps), falling)

    return schedule


def _half_cosine(first: float, progress: Array, last: float = 0.0) -> Array:
    return last + (first - last) * 0.5 * (1.0 + jnp.cos(math.pi * progress))


def _rising(peak: float, start: float, t: Array, warmup_steps: int) -> Array:
    return start + (peak - start) * t / max(warmup_steps, 1)


def cosine_by_epoch(
    peak: float, steps_per_epoch: int, epochs: int, *, first_epoch: int = 0, end: float = 0.0
) -> Schedule:
    """Half a cosine that is constant within an epoch, without warmup; MoCo's and SimSiam's.

    ``lr(t) = peak (end + (1 - end) (1 + cos(pi e/E)) / 2)`` with ``e = first_epoch + t // steps_per_epoch``;
    ``peak end`` from epoch E on.

    Args:
      peak: value of epoch 0.
      steps_per_epoch: steps in an epoch.
      epochs: E.
      first_epoch: index of the first epoch: 0, or 1 as MoCo's CIFAR-10 demo counts.
      end: last value, as a share of the peak.

    Returns:
      step -> value.
    """

    def schedule(step):
        epoch = first_epoch + jnp.asarray(step) // steps_per_epoch
        return _half_cosine(peak, jnp.minimum(_as_float(epoch) / epochs, 1.0), peak * end)

    return schedule


def step_decay(
    peak: float,
    total_steps: int,
    *,
    at: Sequence[float] = (0.6, 0.8),
    factor: float = 0.1,
    warmup_steps: int = 0,
    start: float = 0.0,
) -> Schedule:
    """Constant, multiplied by ``factor`` at given fractions of the run.

    The default is that of MoCo v1 and of instance discrimination, epochs 120 and 160 of 200. Kolesnikov et al. 2019
    have epochs 15 and 25 of 35, behind a warmup of 5.

    Args:
      peak: first value.
      total_steps: length of the run.
      at: fractions of the run in (0, 1); epoch e of E is e / E.
      factor: what the value is multiplied by at each.
      warmup_steps: W, a linear rise before step W.
      start: where the rise begins, as a share of the peak.

    Returns:
      step -> value.

    Raises:
      ValueError: a fraction outside (0, 1), or W not in [0, total_steps).
    """
    for fraction in at:
        if not 0 < fraction < 1:
            raise ValueError(f"step_decay at={tuple(at)}: {fraction} is not a fraction in (0, 1); use epoch / epochs")
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise ValueError(f"warmup_steps={warmup_steps} is not in [0, total_steps={total_steps}); use 0")
    boundaries = [round(fraction * total_steps) for fraction in at]

    def schedule(step):
        value = jnp.full_like(_as_float(step), peak)
        for boundary in boundaries:
            value = jnp.where(jnp.asarray(step) >= boundary, value * factor, value)
        t = _as_float(step)
        return jnp.where(t < warmup_steps, _rising(peak, peak * start, t, warmup_steps), value)

    return schedule


def slanted_triangular(peak: float, total_steps: int, *, cut: float = 0.1, ratio: float = 32.0) -> Schedule:
    """A short rise and a long fall, both linear; ULMFiT's.

    ``lr(t) = peak (1 + p (ratio - 1)) / ratio``, with ``p = t / C`` for t < C and ``(T - t) / (T - C)`` from there on;
    ``C = max(1, floor(T cut))``. So ``peak / ratio`` at 0 and from T on, ``peak`` at C.

    Args:
      peak: highest value.
      total_steps: T.
      cut: share of the steps in which it rises, in (0, 1).
      ratio: of the highest to the lowest value, 1 or more.

    Reference: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, equation 3, whose
    ``C (1 / cut - 1)`` is T - C where T cut is whole.
    """
    if not 0 < cut < 1 or not ratio >= 1 or total_steps < 2:
        raise ValueError(
            f"slanted_triangular needs cut in (0, 1), ratio >= 1 and total_steps >= 2, got "
            f"{cut}, {ratio}, {total_steps}"
        )
    top = max(1, math.floor(total_steps * cut))

    def schedule(step):
        t = _as_float(step)
        p = jnp.where(t < top, t / top, jnp.maximum(total_steps - t, 0) / (total_steps - top))
        return peak * (1 + p * (ratio - 1)) / ratio

    return schedule


def warmup_linear(
    peak: float, warmup_steps: int, total_steps: int, *, start: float = 0.0, end: float = 0.0
) -> Schedule:
    """Linear warmup, then linear to ``peak end`` at ``total_steps``; BERT's, which begins and ends at 0.

    Args:
      start: first value of the warmup, as a share of the peak.
      end: last value, as a share of the peak.

    Raises:
      ValueError: unless 0 <= warmup_steps < total_steps (:func:`cut_warmup` shortens the warmup).
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} is not in [0, total_steps={total_steps}); use 0 (cut_warmup)")

    def schedule(step):
        t = _as_float(step)
        falling = jnp.maximum(total_steps - t, 0) / (total_steps - warmup_steps)
        rising = start + (1 - start) * t / max(warmup_steps, 1)
        return peak * jnp.where(t < warmup_steps, rising, end + (1 - end) * falling)

    return schedule


def linear(first: float, last: float, total_steps: int) -> Schedule:
    """From ``first`` at step 0 to ``last`` at ``total_steps`` and from there on, in equal steps."""
    return lambda step: first + (last - first) * jnp.minimum(_as_float(step) / total_steps, 1.0)


def linear_by_epoch(first: float, last: float, epochs: int, steps_per_epoch: int) -> Schedule:
    """From ``first`` in epoch 0 to ``last`` in epoch ``epochs - 1``, constant within each, and ``last`` from there on.

    The teacher's temperature of DINO and iBOT, .04 to .07 in 30 epochs; 0 epochs: ``last`` at once.
    """

    def schedule(step):
        epoch = _as_float(jnp.asarray(step) // steps_per_epoch)
        return jnp.where(epoch < epochs, first + (last - first) * epoch / max(epochs - 1, 1), last)

    return schedule


def cosine(first: float, last: float, total_steps: int) -> Schedule:
    """From ``first`` at step 0 to ``last`` at ``total_steps`` and from there on, along half a cosine.

    The weight decay of DINO and I-JEPA, .04 to .4.
    """
    return lambda step: _half_cosine(first, jnp.minimum(_as_float(step) / total_steps, 1.0), last)


def tau_schedule(tau0: float, total_steps: int) -> Schedule:
    """BYOL's EMA coefficient, from tau0 at step 0 to 1 at step K = total_steps.

    ``tau(k) = 1 - (1 - tau0) (1 + cos(pi k/K)) / 2``

    For a constant coefficient (MoCo) use :func:`constant`.

    Reference: Grill et al., "Bootstrap Your Own Latent", 2020, section 3.2.
    """
    if not 0 <= tau0 <= 1 or total_steps < 1:
        raise ValueError(f"tau_schedule needs tau0 in [0, 1] and total_steps >= 1, got {tau0} and {total_steps}")
    return lambda step: 1.0 - _half_cosine(1.0 - tau0, jnp.minimum(_as_float(step) / total_steps, 1.0))


def peak_rate(base: float, global_batch_size: int, scale: str) -> float:
    """Peak learning rate for a global batch of N images.

    Args:
      base: base rate.
      global_batch_size: N.
      scale: "linear": ``base * N / 256`` (Goyal et al., 2017); "sqrt": ``base * sqrt(N)``, the form of SimCLR v2, whose
        base is 0.1 (and of SimCLR v1's table B.1, base 0.075), not relative to 256; "none": ``base``.

    Returns:
      The rate.

    Raises:
      ValueError: an unknown scale.
    """
    if scale == "linear":
        return base * global_batch_size / 256
    if scale == "sqrt":
        return base * math.sqrt(global_batch_size)
    if scale == "none":
        return base
    raise ValueError(f"unknown learning-rate scale {scale!r}; use 'linear', 'sqrt' or 'none'")


def cut_warmup(warmup_steps: int, total_steps: int) -> tuple[int, str | None]:
    """A warmup not shorter than the run is cut to 10 % of it, so that a short trial of a long recipe runs.

    Returns:
      The warmup steps to use, and a message if they were cut.
    """
    if warmup_steps < total_steps:
        return warmup_steps, None
    cut = total_steps // 10
    return cut, f"warmup of {warmup_steps} steps does not fit a run of {total_steps}; using {cut} (10 %)"
