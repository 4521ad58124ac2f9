"""Colorization: which colours belong on this grey image?

    L = mean over places of -sum_q z_q log softmax(g(f(L)))_q,    gradient of a place times w_q*,
    w_q ~ 1 / ((1 - m) p_q + m / Q),    E_p[w] = 1

The network sees the lightness of an image in Lab and classifies, for every 4 x 4 pixels, their mean (a, b), or that of
one of them, into Q bins of side 10. z is soft: the K nearest bins by a Gaussian of their distance, q* the nearest. Dull
colours are so common that no network would dare another, so rare ones weigh more: p counts the bins of all batches so
far, and m = .5 mixes it with the uniform. The weights act on gradients; the loss that is reported is without them. It
need not fall below the entropy of p, since w makes the network say rare colours more often than they are. The metric
``prior_gain`` is fair: by how many nats of weighted loss the network is better than one that sees nothing and knows p
and w; ``rare_accuracy`` is weighted, too. With m = 1 nothing is weighted. Images without any colour (all |a|, |b| up to
5) count nowhere. Predictions are shown as annealed means, T = .38.

Reference: Zhang, Isola and Efros, "Colorful Image Colorization", 2016, section 2 (arXiv:1603.08511).
Differs from the reference code: its 313 bins cannot be derived again, ours are those of ``colours.ab_bins``; p is
counted while training instead of before, from coloured images alone, without smoothing; K = 5 as in the paper, the code
has 10; the lightness comes in three equal channels, so the trunk fits whatever takes colour images. The code asks for
the colour of every fourth pixel (``subsample="stride"``), by default we ask for the mean of the cell (``"mean"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ssl_jax import models, parallel
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_parts
from ssl_jax.models.pixels import PlaceClassifier, quarter_size
from ssl_jax.tasks import colours
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables

COLOURED = 5.0  # what |a| or |b| must exceed somewhere in an image with colour
PAPER = {"sigma": 5, "temperature": 0.38}
SUBSAMPLE = {"mean": colours.pool, "stride": colours.every}


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    grid: float = 10,
    neighbours: int = 5,
    sigma: float = 5.0,
    rebalance: float = 0.5,
    temperature: float = 0.38,
    head_width: int = 64,
    subsample: str = "mean",
) -> Method:
    """Colorization by ``encoder``, which sees lightness only, in training and in ``encode``.

    Args:
      mean, std: not used, Lab has ranges of its own.
      grid: side of a bin in a and b; Goyal et al. 2019 vary it from 5 (969 bins) to 20 (77).
      neighbours: K.
      sigma: of the Gaussian of soft encoding.
      rebalance: 1 - m: the part of p in the weights; 0 weighs all colours alike.
      temperature: T; 1 shows mean colours, towards 0 the likeliest.
      head_width: channels of the head between the encoder's last map and the logits.
      subsample: the colour of 4 x 4 pixels: their "mean" or, "stride", that of the upper left one.

    Raises:
      ValueError: an argument outside its meaning, images without colour, or an encoder without a fitting map.
    """
    bins, size = make_bins(plan, grid), quarter_size(encoder, plan.input_shape)
    if not 1 <= neighbours <= len(bins):
        raise ValueError(
            f"method.neighbours={neighbours} must be from 1 to the {len(bins)} bins of grid {grid}; the paper has 5"
        )
    for name, value in {"sigma": sigma, "temperature": temperature}.items():
        if not value > 0:
            raise ValueError(f"method.{name}={value} must be positive; the paper has {PAPER[name]}")
    if not 0 <= rebalance <= 1:
        raise ValueError(f"method.rebalance={rebalance} must be in [0, 1]; the paper has 0.5")
    if subsample not in SUBSAMPLE:
        raise ValueError(f"method.subsample={subsample!r} is not one of {', '.join(SUBSAMPLE)}")
    head = PlaceClassifier(size, len(bins), head_width, norm=encoder.norm, dtype=encoder.dtype)
    parts = {"encoder": encoder, "head": head}
    trunk_features = make_encode({"encoder": encoder}, (0.0,), (1.0,))

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given, read=models.deepest)
        # The uniform prior counts as much as one batch.
        return Variables(params, state, aux={"counts": jnp.full(len(bins), 1 / len(bins), jnp.float32)})

    def predict(variables, lightness, *, train, axis=None):
        out, state = run_parts(
            parts, variables.params, variables.model_state, lightness, train=train, axis=axis, read=models.deepest
        )
        return out["head"].astype(compute_dtype(out["head"])), out, state

    def loss(variables, batch, key, step, axis):
        asked = task(batch["views"][0], size, bins, neighbours=neighbours, sigma=sigma, subsample=subsample)
        logits, out, state = predict(variables, asked.lightness, train=True, axis=axis)
        counts = variables.aux["counts"].astype(logits.dtype)
        prior = counts / counts.sum()
        found = rebalanced(logits, asked, prior, colours.rarity(prior, 1 - rebalance), axis)
        outputs = {"features": out["encoder"]["features"]}
        return found.value, LossOut(state, found.metrics, carry=found.histogram, outputs=outputs)

    def update_aux(variables, carry, step):
        counts = variables.aux["counts"]
        return {"counts": counts + carry.astype(counts.dtype)}

    def reconstruct(variables, images):
        logits, _, _ = predict(variables, grey(images), train=False)
        return paint(images, colours.annealed_mean(logits, bins, temperature))

    def show(variables, images, key):
        colours = reconstruct(variables, images)
        return {"input": paint(images, None), "predicted colours": colours, "target": images}

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=lambda variables, images, max_dim=None: trunk_features(variables, grey(images), max_dim),
        update_aux=update_aux,
        hooks={"reconstruct": reconstruct, "show": show},
    )


def make_bins(plan: Plan, grid: float) -> np.ndarray:
    """The table of colours ``[Q, 2]``.

    Raises:
      ValueError: images that are not in colour, or a grid that is no division of colours.
    """
    if plan.input_shape[-1] != 3:
        raise ValueError(
            f"colour cannot be learned from images of {plan.input_shape[-1]} channel(s); use colour images"
        )
    if not 2 <= grid <= 100:
        raise ValueError(f"method.grid={grid} must be from 2 to 100; papers have 10, or 5 to 20")
    return colours.ab_bins(grid)


def grey(images: Array) -> Array:
    """The lightness of sRGB images ``[b, h, w, 3]`` in three equal channels, -1 to 1."""
    return jnp.repeat(colours.scaled(colours.rgb_to_lab(images))[..., :1], 3, axis=-1)


def paint(images: Array, ab: Array | None) -> Array:
    """Images ``[b, h, w, 3]`` with their own lightness and the colours ``ab [b, s, s, 2]`` enlarged, or none."""
    lightness = colours.rgb_to_lab(images)[..., :1]
    shape = (*images.shape[:3], 2)
    ab = jnp.zeros(shape, images.dtype) if ab is None else jax.image.resize(ab, shape, "bilinear").astype(images.dtype)
    return colours.lab_to_rgb(jnp.concatenate([lightness, ab], axis=-1))


class Task(NamedTuple):
    """The task of a batch: ``lightness`` ``[b, h, w, 3]`` is seen; at every place, memberships ``member``
    ``[b, s, s, Q]`` and the ``nearest`` bin int32 ``[b, s, s]``; ``coloured`` ``[b]``, 0 or 1."""

    lightness: Array
    member: Array
    nearest: Array
    coloured: Array


def task(images: Array, size: int, bins: np.ndarray, *, neighbours: int, sigma: float, subsample: str = "mean") -> Task:
    """Take the colour from sRGB images ``[b, h, w, 3]`` and ask for it at ``size`` x ``size`` places."""
    ab = SUBSAMPLE[subsample](colours.rgb_to_lab(images)[..., 1:], size)
    member, nearest = colours.soft_encode(ab, bins, neighbours=neighbours, sigma=sigma)
    return Task(grey(images), member, nearest, (jnp.abs(ab).max((1, 2, 3)) > COLOURED).astype(ab.dtype))


class Rebalanced(NamedTuple):
    """``value`` is the loss without weights, its gradient the one with; ``histogram`` ``[Q]`` is global."""

    value: Array
    metrics: dict[str, Array]
    histogram: Array


def rebalanced(logits: Array, asked: Task, prior: Array, rarity: Array, axis: Axis = None) -> Rebalanced:
    """Cross-entropy over the places of coloured images, whose gradient at a place is times its nearest bin's rarity.

    Args:
      logits: ``[b, s, s, Q]``.
      prior: p, ``[Q]``.
      rarity: w, ``[Q]``, with sum_q p_q w_q = 1.
    """
    counts = jnp.broadcast_to(asked.coloured[:, None, None], logits.shape[:3]).astype(logits.dtype)
    weight = rarity[asked.nearest] * counts
    places, total = parallel.mean((counts.mean(), weight.mean()), axis)
    places, total = (jnp.where(a > 0, a, jnp.ones_like(a)) for a in (places, total))  # a batch all grey: loss 0
    member = asked.member.astype(logits.dtype)
    error = optax.softmax_cross_entropy(logits, member)
    # What a network knows that sees nothing: under weights its best answer is not p but p w.
    ignorant = -jnp.einsum("bhwq,q->bhw", member, jnp.log(prior * rarity), precision=lax.Precision.HIGHEST)
    hit = (logits.argmax(-1).astype(jnp.int32) == asked.nearest).astype(logits.dtype)
    plain, weighted = ((w * error).mean() / places for w in (counts, weight))
    metrics = {
        "task_accuracy": (counts * hit).mean() / places,
        "rare_accuracy": (weight * hit).mean() / total,
        "prior_gain": (weight * (ignorant - error)).mean() / total,
    }
    histogram = parallel.mean((counts[..., None] * member).mean((0, 1, 2)), axis) / places
    return Rebalanced(weighted + lax.stop_gradient(plain - weighted), metrics, histogram)
