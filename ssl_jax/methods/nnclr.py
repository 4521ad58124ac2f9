"""NNCLR: the positive of an image is its nearest neighbour in a queue of earlier ones, not the image itself.

    L = 1/2 [ctr(NN(z1), p2) + ctr(NN(z2), p1)]
    ctr(n, p) = mean_i -log( exp(n_i . p_i / T) / sum_j exp(n_i . p_j / T) )

z = projector(encoder(view)), p = predictor(z), all unit vectors; NN(z) is the row of the queue with the highest cosine
and carries no gradient. The queue is looked up first; then view 1's z of the whole batch replaces its oldest rows.

Reference: Dwibedi et al. 2021, "With a Little Help from My Friends", eqs. 2-4 and section 3.3 (arXiv:2104.14548).
There is no official code; the order of look-up and queue, and that one view is kept, are those of solo-learn, and heads
start as torch's do.
Differs from lightly's: the logits are those of the batch's N predictions, one-sided, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import parallel
from ssl_jax.losses.nnclr import nearest, nnclr_of
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_views, two_views
from ssl_jax.models.heads import MLP, torch_bias, torch_kernel
from ssl_jax.parallel import all_rows, named_key
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.1,
    queue_size: int = 98304,
    projector_hidden: int = 2048,
    projector_dim: int = 256,
    predictor_hidden: int = 4096,
) -> Method:
    """NNCLR around ``encoder``.

    ``nn_same_image`` near 1 says that the look-up is useless: a queue longer than the data holds every image itself.
    ``nn_age`` is how many steps ago, on average, what was found was put in; 0 while only what the queue began with is.

    Args:
      temperature: T; 0.1 in the paper, 0.2 for CIFAR-10 in solo-learn.
      queue_size: K, a multiple of the global batch.
      projector_hidden: width of the projector's two hidden layers.
      projector_dim: d of projections and predictions ``[b, d]``.
      predictor_hidden: width of the predictor's hidden layer.

    Raises:
      ValueError: an argument outside its meaning.
    """
    batch_size = plan.global_batch_size
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; the paper uses 0.1")
    if queue_size <= 0 or queue_size % batch_size:
        raise ValueError(
            f"method.queue_size={queue_size} is not a multiple of the {batch_size} embeddings enqueued per step; "
            f"use {max(1, round(queue_size / batch_size)) * batch_size}"
        )
    kind = {"norm": encoder.norm, "dtype": encoder.dtype, "hidden_bias": False, "kernel_init": torch_kernel}
    projector_sizes = (projector_hidden, projector_hidden, projector_dim)
    parts = {
        "encoder": encoder,
        "projector": MLP(projector_sizes, out_bias=False, out_norm=(), **kind),
        "predictor": MLP((predictor_hidden, projector_dim), bias_init=torch_bias, **kind),
    }

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        queue = l2_normalize(jax.random.normal(named_key(key, "queue"), (queue_size, projector_dim)))
        # Of which image a row is; -1: of none, as it starts.
        of_image = jnp.full(queue_size, -1, jnp.int32)
        return Variables(params, state, aux={"queue": queue, "index": of_image, "pointer": jnp.int32(0)})

    def loss(variables, batch, key, step, axis):
        aux, views = variables.aux, two_views(batch, mean, std)
        (one, two), model_state = run_views(parts, variables.params, variables.model_state, views, axis=axis, key=key)
        z1, z2 = one["projector"], two["projector"]
        unit = lax.stop_gradient(l2_normalize(z1.astype(compute_dtype(z1))))
        near1, near2 = nearest(z1, aux["queue"]), nearest(z2, aux["queue"])
        value, accuracy = nnclr_of(near1, near2, one["predictor"], two["predictor"], temperature=temperature, axis=axis)
        age = (aux["pointer"] - 1 - near1.place) % queue_size // batch_size + 1
        known = (aux["index"][near1.place] >= 0).astype(value.dtype)  # the others are random rows of the beginning
        seen, ages = parallel.mean((known.mean(), (known * age.astype(value.dtype)).mean()), axis)
        metrics = {
            "accuracy": accuracy,
            "nn_same_image": (aux["index"][near1.place] == batch["index"]).astype(value.dtype).mean(),
            "nn_cosine": near1.cosine.mean(),
            "nn_age": ages / jnp.maximum(seen, 1 / queue_size),
        }
        return value, LossOut(
            model_state,
            metrics,
            carry=all_rows({"queue": unit, "index": batch["index"]}, axis),
            outputs={"features": one["encoder"]["features"], "projections": z1},
        )

    def update_aux(variables, carry, step):
        aux = variables.aux
        new = {
            name: lax.dynamic_update_slice_in_dim(aux[name], rows.astype(aux[name].dtype), aux["pointer"], 0)
            for name, rows in carry.items()
        }
        return new | {"pointer": (aux["pointer"] + batch_size) % queue_size}

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode(parts, mean, std),
        update_aux=update_aux,
    )
