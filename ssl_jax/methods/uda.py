"""Unsupervised data augmentation (UDA): few labels, and the same answer for an example and for what it is altered to.

    L = 1/|K| sum over K of -log p(y | x)  +  lambda/n sum_j [max p(u_j) > beta] KL(p(u_j)^(1/T) / Z || p(a(u_j)))

over the labelled part of a batch and over its unlabelled one, of n examples u, plain and augmented to a(u). The target
gets no gradient. K are the labelled examples that training signal annealing (TSA) keeps: those whose label the network
does not yet give more than eta_t, which rises from 1/C to 1 in the course of the run; without TSA all.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from ssl_jax import optim
from ssl_jax.losses import consistency
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import init_parts, make_encode, normalize, run_parts
from ssl_jax.models.heads import linear
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import Array, Batch, LossOut, Method, Plan, Variables

ANNEALING = {
    "linear": lambda t: t,
    "exp": lambda t: jnp.exp(5 * (t - 1)),
    "log": lambda t: 1 - jnp.exp(-5 * t),
}


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.4,
    threshold: float = 0.8,
    weight: float = 1.0,
    tsa: str = "",
    ema: float = 0.0,
) -> Method:
    """A linear classifier on ``encoder``, both trained on batches of two parts (``data.recipe``: uda_cifar, ...).

    Labelled, plain and augmented examples go through the network as one batch, so BatchNorm's statistics are of all.

    Args:
      temperature: T of the target; 0.4 is the paper's for CIFAR-10, 0.85 for text.
      threshold: beta, 0.8 there.
      weight: lambda.
      tsa: how eta_t rises over the run: "linear", "exp" (late, for few labels) or "log" (early); "": no annealing.
      ema: evaluation, and what is kept of the encoder, is by the moving average of the parameters with this decay
        (0.9999 in the paper), less in the first steps: min(ema, (1 + t) / (10 + t)). 0: by the parameters themselves.

    Raises:
      ValueError: an argument outside its meaning, data without labels; from the loss: a batch of one part.

    Reference: Xie et al. 2020 (arXiv:1904.12848), sections 3 and 4. Differs from the reference code: BatchNorm's
    running statistics, averages already, are not averaged again.
    """
    num_classes = plan.num_classes
    if num_classes is None:
        raise ValueError("method.name='uda' needs some labels and data.source has none; use class sub-folders")
    if not temperature > 0:
        raise ValueError(f"method.temperature={temperature} must be positive; 1 leaves the target as it is")
    if not 0 <= threshold < 1:
        raise ValueError(f"method.threshold={threshold} must be in [0, 1); 0 takes every prediction as a target")
    if not weight >= 0:
        raise ValueError(f"method.weight={weight} must not be negative")
    if tsa and tsa not in ANNEALING:
        raise ValueError(f"method.tsa={tsa!r} is not one of {', '.join(ANNEALING)}, or '' for none")
    if not 0 <= ema < 1:
        raise ValueError(f"method.ema={ema} must be in [0, 1); 0 evaluates the parameters themselves")
    parts = {"encoder": encoder, "classifier": linear(num_classes)}

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        return Variables(params, state, aux={"average": params} if ema else None)

    def loss(variables, batch, key, step, axis):
        x, ratio = _as_one(batch)
        params, state = variables.params, variables.model_state
        out, model_state = run_parts(parts, params, state, normalize(x, mean, std), train=True, axis=axis, key=key)
        logits = out["classifier"].astype(compute_dtype(out["classifier"]))
        labelled, plain, augmented = _apart(logits, ratio)

        label = batch["label"]
        each = optax.softmax_cross_entropy_with_integer_labels(labelled, jnp.maximum(label, 0))
        known = (label >= 0).astype(each.dtype)
        kept = known
        if tsa:
            progress = step.astype(each.dtype) / plan.total_steps
            eta = ANNEALING[tsa](progress) * (1 - 1 / num_classes) + 1 / num_classes
            kept = known * jax.lax.stop_gradient(jnp.exp(-each) <= eta).astype(each.dtype)
        # A ratio of sums over the global batch: the count is averaged over devices before the division.
        supervised = (kept * each).sum() / _count(kept, axis)
        change, confident = consistency(plain, augmented, temperature=temperature, threshold=threshold)
        right = (labelled.argmax(-1) == label).astype(each.dtype)
        metrics = {
            "supervised": supervised,
            "consistency": change,
            "confident": confident,
            "top1": (known * right).sum() / _count(known, axis),
        }
        metrics |= {"kept": kept.sum() / _count(known, axis)} if tsa else {}
        shown = {"features": _apart(out["encoder"]["features"], ratio)[0]}
        return supervised + weight * change, LossOut(model_state, metrics, outputs=shown)

    def update_aux(variables, carry, step):
        if not ema:
            return variables.aux
        decay = jnp.minimum(ema, (1 + step) / (10 + step))
        return {"average": optim.ema(variables.aux["average"], variables.params, decay)}

    def evaluated(variables):
        return variables._replace(params=variables.aux["average"]) if ema else variables

    def trunk(variables):
        return evaluated(variables).params["encoder"], variables.model_state["encoder"]

    encode_with = make_encode(parts, mean, std)

    def encode(variables, inputs, max_dim=None):
        return encode_with(evaluated(variables), inputs, max_dim)

    def classify(variables, inputs):
        params, state = evaluated(variables).params, variables.model_state
        out, _ = run_parts(parts, params, state, normalize(inputs, mean, std), train=False)
        return out["classifier"].astype(compute_dtype(out["classifier"]))

    return Method(init, loss, trunk, encode, update_aux=update_aux, hooks={"classify": classify})


def _count(weights: Array, axis) -> Array:
    return jnp.maximum(mean_over_devices(weights.sum(), axis), 1e-9)


def _as_one(batch: Batch) -> tuple[Array, int]:
    """(Labelled, plain and augmented examples as one batch ``[b (1 + 2 r), ...]``, r).

    An example with a label stands before r plain and r augmented ones: no row moves to another device.
    """
    if len(batch.get("unlabelled", {}).get("views", ())) != 2:
        raise ValueError(
            "method.name='uda' needs labelled examples and two forms of unlabelled ones; use data.recipe=uda_cifar, "
            "uda_digits or documents_uda, or one of your own with two views in `unlabelled`"
        )
    first, (plain, augmented) = batch["views"][0], batch["unlabelled"]["views"]
    if not first.shape[1:] == plain.shape[1:] == augmented.shape[1:]:
        shapes = ", ".join(str(x.shape[1:]) for x in (first, plain, augmented))
        raise ValueError(
            f"method.name='uda' needs views of one size and data.recipe makes {shapes}; use another recipe"
        )
    ratio = len(plain) // len(first)
    groups = [x.reshape(len(first), -1, *x.shape[1:]) for x in (first, plain, augmented)]
    x = jnp.concatenate(groups, axis=1)
    return x.reshape(-1, *first.shape[1:]), ratio


def _apart(x: Array, ratio: int) -> list[Array]:
    """What :func:`_as_one` put together, three parts."""
    x = x.reshape(-1, 1 + 2 * ratio, *x.shape[1:])
    return [part.reshape(-1, *x.shape[2:]) for part in jnp.split(x, (1, 1 + ratio), axis=1)]
