"""A network that came with its weights: it is embedded with, measured, exported and started from, and never trained.

``ssl-jax import`` makes such a run of a file of another library. To train from it: ``init_from=<its workdir>``.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from ssl_jax import models
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import init_parts, make_encode, normalize, online_trunk, run_parts
from ssl_jax.models.heads import linear
from ssl_jax.types import Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    classes: int | None = None,
    of_map: bool = False,
) -> Method:
    """``encoder`` as it is, and the classifier that came with it.

    Args:
      classes: of a classifier; None: there is none.
      of_map: the classifier reads every place of the last stage, and the logits are the mean of max(W h + b, 0) over
        places, as in SqueezeNet; else it reads the features.

    Raises:
      ValueError: (loss) it is to be trained.
    """
    del plan
    if classes is not None and classes < 2:
        raise ValueError(f"method.classes={classes} make no classifier; use 2 or more, or leave it out")
    parts: dict[str, nn.Module] = {"encoder": encoder}
    if classes is not None:
        parts["classifier"] = linear(classes)
    read = (lambda out: models.deepest(out)) if of_map else (lambda out: out["features"])

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given, read=read))

    def loss(variables, batch, key, step, axis):
        raise ValueError(
            "method.name='imported' holds a network as it came and is not trained; choose another method, with "
            "init_from=WORKDIR to start from it"
        )

    def classify(variables, images):
        images = normalize(images, mean, std)
        out, _ = run_parts(parts, variables.params, variables.model_state, images, train=False, read=read)
        logits = out["classifier"].astype(compute_dtype(out["classifier"]))
        return nn.relu(logits).mean((1, 2)) if of_map else logits

    hooks = {} if classes is None else {"classify": classify}
    return Method(init, loss, online_trunk, make_encode(parts, mean, std), hooks=hooks)
