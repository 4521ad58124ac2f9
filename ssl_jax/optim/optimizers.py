"""Optimizers as the papers mean them, learning-rate and EMA schedules, masks by parameter path.

"LARS" names four optimizers. The first two are equal while the learning rate is constant and part when it varies; the
others have another ratio (a sum of norms, an epsilon), by default on every parameter.

| | used by | update |
|---|---|---|
| ``lars_simclr`` | SimCLR v1/v2, TensorFlow classic | ``v = m v + lr q g;  w -= v`` (lr inside the momentum) |
| ``lars_byol`` | BYOL, MoCo v3, Barlow Twins, VICReg, MAE probe | ``v = m v + q g;  w -= lr v`` (lr outside) |
| ``larc`` | SwAV, linear probe of SimSiam; apex, timm, lightly | as ``lars_byol`` but for q, and on every parameter |
| ``larc(clip_rate=True)`` | solo-learn's LARS, apex's default | ``lr q`` is at most lr, ``v`` as of SGD |

Weight decay of ``adamw`` is decoupled, that of the others coupled (added to the gradient, before ratio and momentum);
like the rate it may be a schedule. ``optax.MultiSteps`` is not offered: EMA, queue and statistics would advance with
every micro-step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from ssl_jax.names import hint
from ssl_jax.optim.schedules import Schedule
from ssl_jax.types import Array, Tree

Mask = Tree | Callable[[Tree], Tree] | None  # True where a parameter is decayed (LARS: and adapted); None: everywhere

OPTIMIZERS = ("sgd", "adamw", "lars_simclr", "lars_byol", "larc")


def not_bias_or_norm(params: Tree) -> Tree:
    """True for weights, False for biases and the scales of norms: False where the path ends in ``bias`` or ``scale``.

    Decided by name and not by the number of dimensions, so that a one-dimensional weight (a class token's, say) stays
    in and a two-dimensional bias stays out. Flax names a norm's parameters ``scale`` and ``bias``. A bias of another
    name is a weight to it: the one there is, ``bias_n`` of ``GRUContext``, is decayed.

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

    if not jax.tree.leaves(grads):  # a group of no parameter
        return grads
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
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    eta: float = 1e-3,
    eps: float = 1e-8,
    clip_rate: bool = False,
    mask: Mask = None,
) -> optax.GradientTransformation:
    """SGD with LARC, which adapts the rate of every parameter, biases and norms too.

    ::

        q = eta |w| / (|g| + wd |w| + eps);   g = q (g + wd w);   v = m v + g;   w -= lr v

    ``g`` stays as it is, without weight decay, where ``|w|`` or ``|g|`` is 0. With ``clip_rate``

    ::

        g = min(q / lr, 1) (g + wd w)

    so that a parameter's rate is q, and lr where that is less.

    Args:
      learning_rate: float or schedule.
      weight_decay: wd, coupled.
      momentum: m.
      eta: trust coefficient.
      eps: added to the denominator.
      clip_rate: apex's ``clip``. solo-learn's LARS has it, with eta=.02 and ``mask=not_bias_or_norm``.
      mask: True where weight decay and the ratio apply.

    Returns:
      An optax.GradientTransformation.

    Reference: NVIDIA apex, parallel/LARC.py; without ``clip_rate`` the linear evaluation of Chen and He, "Exploring
    Simple Siamese Representation Learning", 2021, appendix A; with it vturrisi/solo-learn, solo/utils/lars.py.
    """
    varies = callable(weight_decay) or (clip_rate and callable(learning_rate))

    def adapt(g, w, decay, rate):
        w_norm, g_norm = jnp.sqrt(jnp.sum(w * w)), jnp.sqrt(jnp.sum(g * g))
        q = eta * w_norm / (g_norm + decay * w_norm + eps)
        if clip_rate:
            q = jnp.minimum(q / jnp.maximum(rate, 1e-30), 1.0)  # at a rate of 0, too
        return jnp.where((w_norm > 0) & (g_norm > 0), q * (g + decay * w), g)

    def init(params):
        return optax.ScaleByScheduleState(jnp.int32(0)) if varies else optax.EmptyState()

    def update(updates, state, params=None):
        decay, rate = (a(state.count) if callable(a) and varies else a for a in (weight_decay, learning_rate))
        state = optax.ScaleByScheduleState(state.count + 1) if varies else state
        return jax.tree.map(lambda g, w: adapt(g, w, decay, rate), updates, params), state

    adapted = optax.GradientTransformation(init, update)
    return optax.chain(
        adapted if mask is None else optax.masked(adapted, mask),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


class Optimizer(optax.GradientTransformation):
    """What :func:`make` gives: an optax.GradientTransformation that can be made again with another rate or decay.

    Attributes:
      build: ``(rate, decay) -> tx``, without ``clip``.
      rate: learning rate, a number or a schedule.
      decay: weight decay, a number or a schedule.
      peak: highest learning rate, where it is known.
      clip: what bounds the gradient at first, None: nothing.
    """

    build: Callable[[float | Schedule, float | Schedule], optax.GradientTransformation]
    rate: float | Schedule
    decay: float | Schedule
    peak: float | None
    clip: optax.GradientTransformation | None

    def __new__(cls, build, *, rate, decay, peak=None, clip=None):
        tx = build(rate, decay)
        tx = tx if clip is None else optax.chain(clip, tx)
        made = super().__new__(cls, tx.init, tx.update)
        made.build, made.rate, made.decay, made.clip = build, rate, decay, clip
        made.peak = rate if peak is None and not callable(rate) else peak
        return made

    def remade(
        self, rate: float | Schedule | None = None, decay: float | Schedule | None = None
    ) -> optax.GradientTransformation:
        """The same without ``clip``, with another rate or decay."""
        return self.build(self.rate if rate is None else rate, self.decay if decay is None else decay)


def clip_by_parameter_norm(norm: float) -> optax.GradientTransformation:
    """Bounds the norm of every parameter's own gradient: ``g min(1, norm / (|g| + 1e-6))``; DINO's and iBOT's.

    Reference: facebookresearch/dino, utils.clip_gradients.
    """

    def clip(g):
        return g * jnp.minimum(1.0, norm / (jnp.sqrt(jnp.sum(g * g)) + 1e-6))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def make(
    name: str,
    *,
    learning_rate: float | Schedule,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    clip_each: float | None = None,
    peak: float | None = None,
    nesterov: bool = False,
    eta: float | None = None,
    clip_rate: bool = False,
    b2: float = 0.999,
    decay_bias_and_norm: bool | None = None,
) -> Optimizer:
    """An optimizer by name.

    Args:
      name: "sgd", "adamw", "lars_simclr", "lars_byol" or "larc".
      learning_rate: float or schedule (:func:`warmup_cosine`, ...).
      weight_decay: decoupled in adamw, coupled in the others.
      momentum: b1 of adamw.
      clip_norm: if given, gradients are first scaled down to this global norm (all parameters together).
      clip_each: if given, every parameter's gradient is first scaled down to this norm, one by one.
      peak: highest value of the schedule, for groups that learn at it (:class:`ssl_jax.optim.Group`).
      nesterov: sgd only.
      eta: trust coefficient, lars and larc only; None: .001.
      clip_rate: larc only: no parameter's rate is above the rate.
      b2: adamw only.
      decay_bias_and_norm: whether weight decay (and the ratio of lars and larc) reaches biases and the scales of norms;
        None is the optimizer's own convention: True for sgd and larc, False for adamw and lars.

    Returns:
      An optax.GradientTransformation that :func:`ssl_jax.optim.by_group` can make again for groups of parameters.

    Raises:
      ValueError: an unknown name, a norm or eta that is not positive, both norms, or an argument of another optimizer.
    """
    if name not in OPTIMIZERS:
        meant = hint(name, OPTIMIZERS, cutoff=0.0)
        raise ValueError(f"unknown optimizer {name!r}; {meant}known: {', '.join(OPTIMIZERS)}")
    if nesterov and name != "sgd":
        raise ValueError(f"nesterov=True works with optimizer 'sgd' only, not {name!r}; set nesterov=False")
    if clip_rate and name != "larc":
        raise ValueError(f"clip_rate=True works with optimizer 'larc' only, not {name!r}; set clip_rate=False")
    if eta is not None and (not eta > 0 or name in ("sgd", "adamw")):
        raise ValueError(
            f"eta={eta} is a positive number of lars_simclr, lars_byol and larc, not {name!r}; leave it out"
        )
    for what, norm in {"clip_norm": clip_norm, "clip_each": clip_each}.items():
        if norm is not None and not norm > 0:
            raise ValueError(f"{what}={norm} is not positive; use a positive norm, or None for no clipping")
    if clip_norm is not None and clip_each is not None:
        raise ValueError(f"clip_norm={clip_norm} and clip_each={clip_each} both clip the gradient; set one to None")
    if decay_bias_and_norm is None:
        decay_bias_and_norm = name in ("sgd", "larc")
    mask = None if decay_bias_and_norm else not_bias_or_norm
    eta = 1e-3 if eta is None else eta
    makers = {
        "sgd": partial(sgd, momentum=momentum, nesterov=nesterov),
        "adamw": partial(adamw, b1=momentum, b2=b2),
        "lars_simclr": partial(lars_simclr, momentum=momentum, eta=eta),
        "lars_byol": partial(lars_byol, momentum=momentum, eta=eta),
        "larc": partial(larc, momentum=momentum, eta=eta, clip_rate=clip_rate),
    }
    clip = None
    if clip_norm is not None:
        clip = optax.clip_by_global_norm(clip_norm)
    elif clip_each is not None:
        clip = clip_by_parameter_norm(clip_each)

    def build(rate, decay):
        return makers[name](rate, weight_decay=decay, mask=mask)

    return Optimizer(build, rate=learning_rate, decay=weight_decay, peak=peak, clip=clip)


def ema(target: Tree, online: Tree, tau: float | Array) -> Tree:
    """Exponential moving average of parameters: ``tau * target + (1 - tau) * online``, leaf by leaf.

    Parameters only: a target network's running statistics are its own, no published method averages them.
    ``optax.incremental_update`` is the same sum, whose last digits are others.
    """

    def leaf(old, new):
        weight = jnp.asarray(tau, dtype=old.dtype)
        return weight * old + (1 - weight) * new

    return jax.tree.map(leaf, target, online)
