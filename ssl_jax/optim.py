"""Optimizers as the papers mean them, learning-rate and EMA schedules, masks by parameter path.

"LARS" names three optimizers. The first two are equal while the learning rate is constant and part when it varies; the
third has another ratio (a sum of norms, an epsilon) and leaves no parameter out.

| | used by | update |
|---|---|---|
| ``lars_simclr`` | SimCLR v1/v2, TensorFlow classic | ``v = m v + lr q g;  w -= v`` (lr inside the momentum) |
| ``lars_byol`` | BYOL, MoCo v3, Barlow Twins, VICReg, MAE probe | ``v = m v + q g;  w -= lr v`` (lr outside) |
| ``larc`` | linear probe of SimSiam, SwAV; apex, timm, lightly | as ``lars_byol`` but for q, and on every parameter |

Weight decay of ``adamw`` is decoupled, that of the others coupled (added to the gradient, before ratio and momentum);
like the rate it may be a schedule. ``optax.MultiSteps`` is not offered: EMA, queue and statistics would advance with
every micro-step.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.types import Array, Tree

Schedule = Callable[[Any], Any]  # step -> value
Mask = Tree | Callable[[Tree], Tree] | None  # True where a parameter is decayed (LARS: and adapted); None: everywhere

OPTIMIZERS = ("sgd", "adamw", "lars_simclr", "lars_byol", "larc")


def not_bias_or_norm(params: Tree) -> Tree:
    """True for weights, False for every bias and for the scales of norms: False where the path ends in bias or scale.

    Decided by name and not by the number of dimensions, so that a one-dimensional weight (a class token's, say) stays
    in and a two-dimensional bias stays out. Flax names a norm's parameters ``scale`` and ``bias``.

    Args:
      params: tree of parameters.

    Returns:
      Tree of bool of the same structure.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) not in ("bias", "scale"), params
    )


def sgd(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    mask: Mask = None,
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay.

    ``g = g + wd w;  v = m v + g;  w -= lr v``, or with Nesterov's momentum ``w -= lr (g + m v)``.

    Args:
      learning_rate: float or schedule.
      weight_decay: wd, by default on every parameter, biases and norms too, as MoCo and SimSiam have it.
      momentum: m.
      nesterov: use Nesterov's form (the linear evaluations of SimCLR and BYOL do).
      mask: True where weight decay applies, e.g. :func:`not_bias_or_norm`.

    Returns:
      An optax.GradientTransformation.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    mask: Mask = not_bias_or_norm,
) -> optax.GradientTransformation:
    """AdamW, with decoupled weight decay: ``w -= lr (m^ / (sqrt(v^) + eps) + wd w)``.

    Args:
      learning_rate: float or schedule.
      weight_decay: wd, by default on weights only, as DINO and MAE have it (MoCo v3: ``mask=None``).
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator.
      mask: True where weight decay applies.

    Returns:
      An optax.GradientTransformation.

    Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
    """
    tx = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):  # optax's bias correction mixes int and float
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)


def _adapted_gradient(
    weight_decay: float | Schedule, eta: float, mask: Mask
) -> tuple[optax.GradientTransformation, ...]:
    """``q (g + wd w)``, ``q = eta |w| / |g + wd w|`` (1 if either norm is 0); ``g`` alone where the mask is False."""
    ratio = optax.stateless(lambda grads, params: _at_trust_ratios(grads, params, eta))
    decayed = optax.add_decayed_weights(weight_decay, mask)
    return (decayed, ratio if mask is None else optax.masked(ratio, mask))


def _at_trust_ratios(grads: Tree, params: Tree, eta: float) -> Tree:
    """Every leaf of ``grads`` times its q. All ratios are one vector: half the kernels, and each norm is taken once."""

    def norms(tree):
        return jnp.sqrt(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]))

    w, g = norms(params), norms(grads)
    q = jnp.where((w > 0) & (g > 0), eta * w / jnp.where(g > 0, g, 1), 1.0)
    leaves, structure = jax.tree.flatten(grads)
    return jax.tree.unflatten(structure, [leaf * q[i] for i, leaf in enumerate(leaves)])


def lars_simclr(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule,
    momentum: float = 0.9,
    eta: float = 1e-3,
    mask: Mask = not_bias_or_norm,
) -> optax.GradientTransformation:
    """LARS as SimCLR's code has it, the learning rate inside the momentum.

    ::

        g = g + wd w;   q = eta |w| / |g|  (1 if either norm is 0);   v = m v + lr q g;   w -= v

    Args:
      learning_rate: float or schedule.
      weight_decay: wd, coupled.
      momentum: m.
      eta: trust coefficient.
      mask: True where weight decay and the ratio q apply; elsewhere plain momentum, ``v = m v + lr g``.

    Returns:
      An optax.GradientTransformation.

    Reference: You et al., "Large Batch Training of Convolutional Networks", 2017, algorithm 1
    (https://arxiv.org/abs/1708.03888); google-research/simclr, lars_optimizer.py.

    Differs from the reference code: SimCLR also leaves out its linear classification head; ours is a probe with an
    optimizer of its own.
    """
    return optax.chain(
        *_adapted_gradient(weight_decay, eta, mask),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum),
    )


def lars_byol(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule,
    momentum: float = 0.9,
    eta: float = 1e-3,
    mask: Mask = not_bias_or_norm,
) -> optax.GradientTransformation:
    """LARS as BYOL, MoCo v3, Barlow Twins and VICReg have it, the learning rate outside the momentum.

    ::

        g = g + wd w;   q = eta |w| / |g|  (1 if either norm is 0);   v = m v + q g;   w -= lr v

    Args:
      learning_rate: float or schedule.
      weight_decay: wd, coupled.
      momentum: m.
      eta: trust coefficient.
      mask: True where weight decay and the ratio q apply; elsewhere plain momentum, ``v = m v + g``.

    Returns:
      An optax.GradientTransformation.

    Reference: Grill et al., "Bootstrap Your Own Latent", 2020, section 3.2; google-deepmind/deepmind-research,
    byol/utils/optimizers.py.
    """
    return optax.chain(
        *_adapted_gradient(weight_decay, eta, mask),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def larc(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    eta: float = 1e-3,
    eps: float = 1e-8,
    mask: Mask = None,
) -> optax.GradientTransformation:
    """SGD with LARC, which adapts the rate of every parameter, biases and norms too, and does not clip it.

    ::

        q = eta |w| / (|g| + wd |w| + eps);   g = q (g + wd w);   v = m v + g;   w -= lr v

    ``g`` stays as it is, without weight decay, where ``|w|`` or ``|g|`` is 0.

    Args:
      learning_rate: float or schedule.
      weight_decay: wd, coupled.
      momentum: m.
      eta: trust coefficient.
      eps: added to the denominator.
      mask: True where weight decay and the ratio apply.

    Returns:
      An optax.GradientTransformation.

    Reference: NVIDIA apex, parallel/LARC.py, with ``clip=False``; the linear evaluation of Chen and He, "Exploring
    Simple Siamese Representation Learning", 2021, appendix A.
    """

    def adapt(g, w):
        w_norm, g_norm = jnp.sqrt(jnp.sum(w * w)), jnp.sqrt(jnp.sum(g * g))
        q = eta * w_norm / (g_norm + weight_decay * w_norm + eps)
        return jnp.where((w_norm > 0) & (g_norm > 0), q * (g + weight_decay * w), g)

    adapted = optax.stateless(lambda grads, params: jax.tree.map(adapt, grads, params))
    return optax.chain(
        adapted if mask is None else optax.masked(adapted, mask),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def make(
    name: str,
    *,
    learning_rate: float | Schedule,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    nesterov: bool = False,
    eta: float = 1e-3,
    b2: float = 0.999,
    decay_bias_and_norm: bool | None = None,
) -> optax.GradientTransformation:
    """An optimizer by name.

    Args:
      name: "sgd", "adamw", "lars_simclr", "lars_byol" or "larc".
      learning_rate: float or schedule (:func:`warmup_cosine`, ...).
      weight_decay: decoupled in adamw, coupled in the others.
      momentum: b1 of adamw.
      clip_norm: if given, gradients are first scaled down to this global norm (all parameters together).
      nesterov: sgd only.
      eta: trust coefficient, lars and larc only.
      b2: adamw only.
      decay_bias_and_norm: whether weight decay (and the ratio of lars and larc) reaches biases and the scales of norms;
        None is the optimizer's own convention: True for sgd and larc, False for adamw and lars.

    Returns:
      An optax.GradientTransformation.

    Raises:
      ValueError: an unknown name, a clip_norm that is not positive, or nesterov with another optimizer than sgd.
    """
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(str(name), OPTIMIZERS, n=1, cutoff=0.0)
        raise ValueError(f"unknown optimizer {name!r}; did you mean {near[0]!r}? known: {', '.join(OPTIMIZERS)}")
    if nesterov and name != "sgd":
        raise ValueError(f"nesterov=True works with optimizer 'sgd' only, not {name!r}; set nesterov=False")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm={clip_norm} is not positive; use a positive norm, or None for no clipping")
    if decay_bias_and_norm is None:
        decay_bias_and_norm = name in ("sgd", "larc")
    mask = None if decay_bias_and_norm else not_bias_or_norm
    if name == "sgd":
        tx = sgd(learning_rate, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, mask=mask)
    elif name == "adamw":
        tx = adamw(learning_rate, weight_decay=weight_decay, b1=momentum, b2=b2, mask=mask)
    else:
        adaptive = {"lars_simclr": lars_simclr, "lars_byol": lars_byol, "larc": larc}[name]
        tx = adaptive(learning_rate, weight_decay=weight_decay, momentum=momentum, eta=eta, mask=mask)
    return tx if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def _as_float(step: Any) -> Array:
    return jnp.asarray(step).astype(float)  # float: float32, or float64 where x64 is on


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: jnp.full_like(_as_float(step), value)


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warmup from 0, then half a cosine to 0, per step; SimCLR's and BYOL's.

    ``lr(t) = peak t/W`` for t < W, then ``peak (1 + cos(pi (t-W)/(S-W))) / 2``; 0 from S on.

    Args:
      peak: highest value, reached at step W.
      warmup_steps: W, 0 for none.
      total_steps: S, the warmup included.

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
        return jnp.where(t < warmup_steps, peak * t / max(warmup_steps, 1), _half_cosine(peak, progress))

    return schedule


def _half_cosine(peak: float, progress: Array) -> Array:
    return peak * 0.5 * (1.0 + jnp.cos(math.pi * progress))


def cosine_by_epoch(peak: float, steps_per_epoch: int, epochs: int, *, first_epoch: int = 0) -> Schedule:
    """Half a cosine that is constant within an epoch, without warmup; MoCo's and SimSiam's.

    ``lr(t) = peak (1 + cos(pi e/E)) / 2`` with ``e = first_epoch + t // steps_per_epoch``; 0 from epoch E on.

    Args:
      peak: value of epoch 0.
      steps_per_epoch: steps in an epoch.
      epochs: E.
      first_epoch: index of the first epoch: 0, or 1 as MoCo's CIFAR-10 demo counts.

    Returns:
      step -> value.
    """

    def schedule(step):
        epoch = first_epoch + jnp.asarray(step) // steps_per_epoch
        return _half_cosine(peak, jnp.minimum(_as_float(epoch) / epochs, 1.0))

    return schedule


def step_decay(peak: float, total_steps: int, *, at: Sequence[float] = (0.6, 0.8), factor: float = 0.1) -> Schedule:
    """Constant, multiplied by ``factor`` at given fractions of the run; MoCo v1's (epochs 120 and 160 of 200).

    Args:
      peak: first value.
      total_steps: length of the run.
      at: fractions of the run in (0, 1); epoch e of E is e / E.
      factor: what the value is multiplied by at each.

    Returns:
      step -> value.

    Raises:
      ValueError: a fraction outside (0, 1).
    """
    for fraction in at:
        if not 0 < fraction < 1:
            raise ValueError(f"step_decay at={tuple(at)}: {fraction} is not a fraction in (0, 1); use epoch / epochs")
    boundaries = [round(fraction * total_steps) for fraction in at]

    def schedule(step):
        value = jnp.full_like(_as_float(step), peak)
        for boundary in boundaries:
            value = jnp.where(jnp.asarray(step) >= boundary, value * factor, value)
        return value

    return schedule


def linear(first: float, last: float, total_steps: int) -> Schedule:
    """From ``first`` at step 0 to ``last`` at ``total_steps`` and from there on, in equal steps."""
    return lambda step: first + (last - first) * jnp.minimum(_as_float(step) / total_steps, 1.0)


def cosine(first: float, last: float, total_steps: int) -> Schedule:
    """From ``first`` at step 0 to ``last`` at ``total_steps`` and from there on, along half a cosine.

    The weight decay of DINO and I-JEPA, .04 to .4.
    """
    return lambda step: last + _half_cosine(first - last, jnp.minimum(_as_float(step) / total_steps, 1.0))


def tau_schedule(tau0: float, total_steps: int) -> Schedule:
    """BYOL's EMA coefficient, from tau0 at step 0 to 1 at step K = total_steps.

    ``tau(k) = 1 - (1 - tau0) (1 + cos(pi k/K)) / 2``

    For a constant coefficient (MoCo) use :func:`constant`.

    Reference: Grill et al., "Bootstrap Your Own Latent", 2020, section 3.2.
    """
    if not 0 <= tau0 <= 1 or total_steps < 1:
        raise ValueError(f"tau_schedule needs tau0 in [0, 1] and total_steps >= 1, got {tau0} and {total_steps}")
    return lambda step: 1.0 - _half_cosine(1.0 - tau0, jnp.minimum(_as_float(step) / total_steps, 1.0))


def ema(target: Tree, online: Tree, tau: float | Array) -> Tree:
    """Exponential moving average of parameters: ``tau * target + (1 - tau) * online``, leaf by leaf.

    Parameters only: a target network's running statistics are its own, no published method averages them.
    """

    def leaf(old, new):
        weight = jnp.asarray(tau, dtype=old.dtype)
        return weight * old + (1 - weight) * new

    return jax.tree.map(leaf, target, online)


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
