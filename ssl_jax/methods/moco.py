"""MoCo: a query must find the key of its other view among a queue of keys of earlier batches.

    L = mean_i -log exp(q_i . k_i / T) / (exp(q_i . k_i / T) + sum_j exp(q_i . queue_j / T))
    theta_k <- m theta_k + (1 - m) theta_q

Keys come from a slow copy of the query network (m constant) and carry no gradient. They are enqueued after the loss,
so a batch never meets its own keys. BatchNorm statistics are kept in ``bn_groups`` groups of the global batch, the
papers' eight GPUs, whatever the number of devices here; the keys' images are permuted before they are grouped and the
keys put back in order ("shuffling BN"), so that the statistics of a group do not give the answer away.

Reference: He et al. 2020, "Momentum Contrast", eq. 1-2 and section 3.3 (arXiv:1911.05722); v2 head, temperature and
blur: Chen et al. 2020 (arXiv:2003.04297); the symmetric CIFAR form: the authors' CIFAR-10 demo.
Differs from the reference code: the momentum update stands after the optimizer step instead of before the next key
forward, which gives the same key network at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import optim
from ssl_jax.losses import info_nce_queue
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_parts, two_views
from ssl_jax.models.heads import moco_projector
from ssl_jax.parallel import all_rows, my_rows, named_key, num_shards
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.07,
    momentum: float = 0.999,
    queue_size: int = 65536,
    projector_version: int = 2,
    projector_dim: int = 128,
    symmetric: bool = False,
    shuffle: bool = True,
    bn_groups: int = 8,
    bn_strided: bool = False,
) -> Method:
    """MoCo around ``encoder``.

    Args:
      temperature: T; 0.07 in v1, 0.2 in v2, 0.1 in the CIFAR demo.
      momentum: m; 0.999 on ImageNet, 0.99 in the CIFAR demo.
      queue_size: K, a multiple of the keys enqueued per step (N, or 2N when symmetric).
      projector_version: 1, a linear layer (and the CIFAR demo's), or 2, an MLP without BatchNorm.
      projector_dim: d of the projections ``[b, d]``.
      symmetric: add the loss of the views' exchange and enqueue the keys of both views after both losses.
      shuffle: permute the keys' batch before its BatchNorm groups are formed.
      bn_groups: number G of BatchNorm groups of the global batch; devices must divide it. 1 is global BatchNorm.
      bn_strided: row i is in group i mod G (as the CIFAR demo's reshape does) instead of in contiguous groups.
    """
    batch_size = plan.global_batch_size
    enqueued = batch_size * (2 if symmetric else 1)
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; MoCo v1 uses 0.07, v2 0.2")
    if not 0 <= momentum <= 1:
        raise ValueError(f"method.momentum={momentum} must be between 0 and 1; the paper uses 0.999")
    if queue_size <= 0 or queue_size % enqueued:
        raise ValueError(
            f"method.queue_size={queue_size} is not a multiple of the {enqueued} keys enqueued per step; "
            f"use {max(1, round(queue_size / enqueued)) * enqueued}"
        )
    if bn_groups < 1 or batch_size % bn_groups or batch_size // bn_groups < 2:
        raise ValueError(
            f"method.bn_groups={bn_groups} does not split data.global_batch_size={batch_size} into equal groups of two "
            f"or more; use a divisor of {batch_size}, or 1"
        )
    norm = partial(encoder.norm, groups=bn_groups, strided=bn_strided)
    head = moco_projector(encoder.dim, version=projector_version, out_dim=projector_dim, dtype=encoder.dtype)
    parts = {"encoder": encoder.clone(norm=norm), "projector": head}

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        queue = l2_normalize(jax.random.normal(named_key(key, "queue"), (queue_size, projector_dim)))
        aux = {"target": params, "queue": queue, "pointer": jnp.int32(0)}
        return Variables(params, state | {"target": state}, aux=aux)

    def keys_of(images, target, state, key, axis):
        """Unit keys of every row of the global batch, ``[N, d]``, in order, and the key network's new statistics."""
        if not shuffle:
            out, state = run_parts(parts, target, state, images, train=True, axis=axis)
            return all_rows(l2_normalize(out["projector"]), axis), state
        order = jax.random.permutation(key, images.shape[0] * num_shards(axis))
        shuffled = my_rows(all_rows(images, axis)[order], axis)
        out, state = run_parts(parts, target, state, shuffled, train=True, axis=axis)
        return all_rows(l2_normalize(out["projector"]), axis)[jnp.argsort(order)], state

    def loss(variables, batch, key, step, axis):
        one, two = two_views(batch, mean, std)
        aux, state = variables.aux, variables.model_state
        target, target_state = lax.stop_gradient((aux["target"], state["target"]))
        losses, keys, outputs = [], [], {}
        for i, (query_images, key_images) in enumerate([(one, two), (two, one)] if symmetric else [(one, two)]):
            out, state = run_parts(parts, variables.params, state, query_images, train=True, axis=axis)
            k, target_state = keys_of(key_images, target, target_state, jax.random.fold_in(key, i), axis)
            q = out["projector"]
            losses.append(info_nce_queue(q, my_rows(k, axis), aux["queue"], temperature=temperature))
            keys.append(k)
            outputs = outputs or {"features": out["encoder"]["features"], "projections": q}
        model_state = state | {"target": target_state}
        return sum(losses[1:], losses[0]), LossOut(
            model_state, metrics={}, carry=jnp.concatenate(keys), outputs=outputs
        )

    def update_aux(variables, carry, step):
        aux = variables.aux
        queue = lax.dynamic_update_slice_in_dim(aux["queue"], carry.astype(aux["queue"].dtype), aux["pointer"], 0)
        return {
            "target": optim.ema(aux["target"], variables.params, momentum),
            "queue": queue,
            "pointer": (aux["pointer"] + carry.shape[0]) % queue_size,
        }

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode(parts, mean, std),
        update_aux=update_aux,
    )
