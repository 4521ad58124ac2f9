"""Supervised classification: the upper row of every table and, with ``init_from``, the way to fine-tune.

    L = mean over labelled rows of -sum_c y_c log softmax(W h + b)_c,    y = (1 - s) onehot + s / C

Rows with label -1 do not count. Only the first view is used.

A part of the network has a depth: the stem 0, stage k k, the classifier stages + 1. What is frozen gets no gradient and
no update, and its BatchNorm uses and keeps its running statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ssl_jax import models, optim
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import check_labels, init_parts, make_encode, normalize, online_trunk, run_parts
from ssl_jax.models.heads import Classifier, linear
from ssl_jax.models.vit import ViT
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import LossOut, Method, Plan, Variables

OF_OTHER_ROWS = ("first", "reach", "count", "random_next")  # leaves of text as streams, windows, cells and pairs


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    label_smoothing: float = 0.0,
    frozen: str = "",
    layer_decay: float = 1.0,
    head_rate: float = 1.0,
    unfreeze_every: float = 0.0,
    head_init: float | None = None,
    head_hidden: int | None = None,
    head_dropout: Sequence[float] = (0.0, 0.0),
) -> Method:
    """A classifier on ``encoder``, both trained.

    Args:
      label_smoothing: s in [0, 1).
      frozen: what never learns: "" nothing, "stem", "stage2" stem and stages 1 and 2, "encoder" all but the classifier.
      layer_decay: factor of the learning rate from one depth to the one below; the classifier has the rate itself.
      head_rate: the classifier's rate is so many times that.
      unfreeze_every: epochs after which the next part from the top joins, at first only the classifier learns; 0: all
        learn from the start. A part that joins has an optimizer of its own on the common schedule.
      head_init: standard deviation of the classifier's first weights, 0 for zeros; None: truncated normal,
        1/sqrt(fan_in).
      head_hidden: width of a hidden layer, for ULMFiT's classifier: BatchNorm, dropout, Dense, ReLU and BatchNorm,
        dropout, Dense; None: a linear one.
      head_dropout: of the features and of the hidden layer, with ``head_hidden``.

    Raises:
      ValueError: an argument outside its meaning, a part that the encoder does not have, data without labels.

    Reference: gradual unfreezing: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification",
    2018, section 3.3 (one epoch for each part); layer-wise rates: the same, section 3.1, and Clark et al., "ELECTRA",
    2020, appendix B.
    """
    num_classes = check_labels("supervised", plan)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"method.label_smoothing={label_smoothing} must be in [0, 1)")
    top = encoder.stages + 1
    below = {"": 0, "stem": 1, **{f"stage{k}": k + 1 for k in range(1, top)}, "encoder": top}
    if frozen not in below:
        raise ValueError(f"method.frozen={frozen!r} is no part of {encoder.label}; use {', '.join([*below][1:])} or ''")
    if frozen == "encoder" and unfreeze_every:
        raise ValueError(f"method.unfreeze_every={unfreeze_every} but method.frozen='encoder' never learns; drop one")
    every = max(1, round(unfreeze_every * plan.steps_per_epoch)) if unfreeze_every else 0
    # How many depths stand still in each phase of the run.
    phases = range(top if every else below[frozen], below[frozen] - 1, -1)
    groups = optim.by_depth(top, layer_decay=layer_decay, head_rate=head_rate)
    first = {d: None if d < below[frozen] else every * (top - d) for d in groups}
    head = linear(num_classes, init=head_init)
    if head_hidden is not None:
        head = Classifier((head_hidden, num_classes), tuple(head_dropout), head_init)
    elif any(head_dropout):
        raise ValueError(
            f"method.head_dropout={tuple(head_dropout)} is for a hidden layer; set method.head_hidden, too"
        )
    parts = {"encoder": encoder, "classifier": head}

    def depth(path) -> int:
        return models.depth(path, stages=encoder.stages)

    def init(key, batch, given=None):
        if found := [leaf for leaf in OF_OTHER_ROWS if leaf in batch]:
            raise ValueError(
                f"method.name='supervised' reads whole documents with their labels, and this recipe gives other rows "
                f"(with {', '.join(map(repr, found))}); use data.recipe=documents or documents_enclosed"
            )
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        def forward(still, params, state, images):
            networks = parts | {"encoder": encoder.clone(frozen_stages=still)}
            params = optim.by_path(lambda path, w: lax.stop_gradient(w) if depth(path) < still else w)(params)
            out, state = run_parts(networks, params, state, images, train=True, axis=axis, key=key)
            return out["encoder"]["features"], out["classifier"], state

        phase = step // every if every else 0  # switch stays at the last
        operands = variables.params, variables.model_state, normalize(batch["views"][0], mean, std)
        features, logits, model_state = lax.switch(phase, [partial(forward, still) for still in phases], *operands)
        logits = logits.astype(compute_dtype(logits))
        label = batch["label"]
        known = (label >= 0).astype(logits.dtype)
        targets = optax.smooth_labels(jax.nn.one_hot(label, num_classes, dtype=logits.dtype), label_smoothing)
        # A ratio of sums over the global batch: the count is averaged over devices before the division.
        count = jnp.maximum(mean_over_devices(known.sum(), axis), 1e-9)
        value = (known * optax.softmax_cross_entropy(logits, targets)).sum() / count
        top1 = (known * (logits.argmax(-1) == label).astype(known.dtype)).sum() / count
        return value, LossOut(model_state, metrics={"top1": top1}, outputs={"features": features})

    def group_of(path) -> int | str:
        return "last norm" if models.is_last_norm(path, encoder) else depth(path)

    def wrap_tx(tx):
        given = {d: group._replace(first=first[d]) for d, group in groups.items()}
        last_norm = {"last norm": optim.Group(first=first[encoder.stages])} if isinstance(encoder, ViT) else {}
        return optim.by_group(tx, group_of, given | last_norm)

    def classify(variables, images):
        images = normalize(images, mean, std)
        out, _ = run_parts(parts, variables.params, variables.model_state, images, train=False)
        return out["classifier"].astype(compute_dtype(out["classifier"]))

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode(parts, mean, std),
        wrap_tx=wrap_tx,
        hooks={"classify": classify},
    )
