"""Supervised classification: the upper row of every table and, with ``init_from``, the way to fine-tune.

    L = mean over labelled rows of -sum_c y_c log softmax(W h + b)_c,    y = (1 - s) onehot + s / C

Rows with label -1 do not count. Only the first view is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import init_parts, make_encode, normalize, online_trunk, run_parts
from ssl_jax.models.heads import linear
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    label_smoothing: float = 0.0,
) -> Method:
    """A linear classifier on ``encoder``, both trained.

    Args:
      label_smoothing: s in [0, 1).
    """
    num_classes = plan.num_classes
    if num_classes is None:
        raise ValueError("method.name='supervised' needs labels and data.source has none; use class sub-folders")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"method.label_smoothing={label_smoothing} must be in [0, 1)")
    parts = {"encoder": encoder, "classifier": linear(num_classes)}

    def init(key, batch, trunk=None):
        return Variables(*init_parts(parts, key, batch["views"][0], trunk))

    def loss(variables, batch, key, step, axis):
        images = normalize(batch["views"][0], mean, std)
        out, model_state = run_parts(parts, variables.params, variables.model_state, images, train=True, axis=axis)
        logits = out["classifier"].astype(compute_dtype(out["classifier"]))
        label = batch["label"]
        known = (label >= 0).astype(logits.dtype)
        targets = optax.smooth_labels(jax.nn.one_hot(label, num_classes, dtype=logits.dtype), label_smoothing)
        # A ratio of sums over the global batch: the count is averaged over devices before the division.
        count = jnp.maximum(mean_over_devices(known.sum(), axis), 1e-9)
        value = (known * optax.softmax_cross_entropy(logits, targets)).sum() / count
        top1 = (known * (logits.argmax(-1) == label).astype(known.dtype)).sum() / count
        outputs = {"features": out["encoder"]["features"]}
        return value, LossOut(model_state, metrics={"top1": top1}, outputs=outputs)

    return Method(init=init, loss=loss, trunk=online_trunk, encode=make_encode(parts, mean, std))
