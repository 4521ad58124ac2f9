"""SwAV: every view must predict to which prototypes another view of its image is assigned.

    L = mean_{g, v != g} -sum_k q_gk log softmax(z_v . c_k / T)_k
    q = Sinkhorn's assignment of the global view g: rows to prototypes, of which each gets an equal share

z = projector(encoder(view)) and the prototypes c have length 1, these after every update. The encoder sees the views of
one size at a time, the projector, its BatchNorm too, all together. With few rows in a batch a queue of earlier z of the
global views joins in the assignment, by the prototypes as they are now; it is used once it is full. At first the
prototypes are frozen: no update, no decay, no moments.

Collapse shows in the metrics: the loss stays at log K, "assignment_max" falls to 1/K (all images alike), or
"top_share", of the batch that one prototype gets, rises and "assignment_perplexity" falls from K.

Reference: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", equations
1 to 5 and appendix A (arXiv:2006.09882).
Differs from the reference code: the queue holds the z of all devices, there each device has its own, and it is filled
from the front again, there shifted; prototypes start in directions that are all as likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import methods, optim
from ssl_jax.losses import cross_entropies, mean_over_pairs, perplexity, sinkhorn
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_sizes, view_by_view
from ssl_jax.models.heads import MLP, torch_bias, torch_kernel
from ssl_jax.parallel import all_rows, my_rows, named_key
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    prototypes: int = 3000,
    hidden: int = 2048,
    projector_dim: int = 128,
    freeze_prototypes: float = 1,
    queue_size: int = 0,
    queue_from: float = 15,
) -> Method:
    """SwAV around ``encoder``.

    Args:
      temperature: T of the predictions.
      epsilon: of the assignments; .03 where the loss stays at log K.
      iterations: of Sinkhorn's algorithm.
      prototypes: K.
      hidden: width of the projector's hidden layer.
      projector_dim: d of the projections ``[b, d]``.
      freeze_prototypes: epochs in which the prototypes stay as they are; the paper: one (313 steps of 4096 images).
      queue_size: earlier projections of each global view, a multiple of the batch; 0: none. The paper: 3840 at batch
        256.
      queue_from: epoch from which the queue is filled.

    Raises:
      ValueError: an argument outside its meaning.
    """
    batch_size = plan.global_batch_size
    if min(temperature, epsilon) <= 0:
        raise ValueError(f"method.temperature={temperature}, epsilon={epsilon} must be positive; SwAV has .1 and .05")
    least = {"iterations": (iterations, 1), "prototypes": (prototypes, 2), "hidden": (hidden, 1)}
    least |= {"projector_dim": (projector_dim, 1), "freeze_prototypes": (freeze_prototypes, 0)}
    for name, (value, low) in (least | {"queue_size": (queue_size, 0), "queue_from": (queue_from, 0)}).items():
        if value < low:
            raise ValueError(f"method.{name}={value} must be {low} or more")
    if queue_size % batch_size:
        raise ValueError(
            f"method.queue_size={queue_size} is no multiple of data.global_batch_size={batch_size}; "
            f"use {max(1, round(queue_size / batch_size)) * batch_size}, or 0 for none"
        )
    per_row, first = queue_size // batch_size, round(queue_from * plan.steps_per_epoch)
    kind = {"kernel_init": torch_kernel, "bias_init": torch_bias, "norm": encoder.norm, "dtype": encoder.dtype}
    parts = {"encoder": encoder, "projector": MLP((hidden, projector_dim), **kind)}

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        directions = jax.random.normal(named_key(key, "prototypes"), (prototypes, projector_dim))
        params["prototypes"] = {"kernel": l2_normalize(directions).T}
        count = methods.by_size(batch, mean, std)[1][0]
        aux = {"queue": jnp.zeros((count, queue_size, projector_dim)), "batches": jnp.int32(0)} if queue_size else None
        return Variables(params, state, aux)

    def assign(scores, kernel, queue, full, axis):
        """Assignments ``[b, k]`` of one global view's scores, beside its queue."""
        how = {"epsilon": epsilon, "iterations": iterations, "axis": axis}
        if queue is None:
            return sinkhorn(scores, **how)
        # As many of the queue as each row of the batch gets stand beside it, so that no row leaves its device.
        b, k = scores.shape
        earlier = (my_rows(queue, axis) @ kernel).reshape(b, per_row, k)
        rows = jnp.concatenate([scores[:, None], earlier], axis=1).reshape(-1, k)
        counts = (jnp.arange(len(rows)) % (per_row + 1) == 0) | full
        return sinkhorn(rows, present=counts, **how).reshape(b, per_row + 1, k)[:, 0]

    def loss(variables, batch, key, step, axis):
        groups, counts = methods.by_size(batch, mean, std)
        networks, key = (parts, variables.params, variables.model_state), named_key(key, "encoder")
        out, state = run_sizes(*networks, groups, counts, axis=axis, key=key)
        large, per_image = counts[0], sum(counts)
        z = l2_normalize(out["projector"].astype(compute_dtype(out["projector"]))).reshape(-1, per_image, projector_dim)
        kernel = variables.params["prototypes"]["kernel"].astype(z.dtype)
        scores, earlier = z @ kernel, lax.stop_gradient(kernel)
        queue = variables.aux["queue"].astype(z.dtype) if queue_size else [None] * large
        full = queue_size > 0 and variables.aux["batches"] >= per_row
        q = jnp.stack([assign(scores[:, g], earlier, queue[g], full, axis) for g in range(large)], axis=1)
        value = mean_over_pairs(cross_entropies(q, scores, temperature=temperature))
        metrics = {"assignment_perplexity": perplexity(q, axis), "assignment_max": q.max(-1).mean()}
        metrics["top_share"] = mean_over_devices(q.mean((0, 1)), axis).max()
        metrics |= {"queue_full": jnp.asarray(full, value.dtype)} if queue_size else {}
        carry = all_rows(lax.stop_gradient(z[:, :large]), axis) if queue_size else None
        outputs = {"features": view_by_view(out["encoder"], per_image)[0], "projections": z[:, 0]}
        return value, LossOut(variables.model_state | state, metrics, carry=carry, outputs=outputs)

    def update_aux(variables, carry, step):
        if not queue_size:
            return variables.aux
        queue, batches = variables.aux["queue"], variables.aux["batches"]
        at = (batches % per_row) * batch_size
        filled = lax.dynamic_update_slice_in_dim(queue, jnp.swapaxes(carry, 0, 1).astype(queue.dtype), at, axis=1)
        due = step >= first
        return {"queue": jnp.where(due, filled, queue), "batches": batches + due.astype(batches.dtype)}

    def wrap_tx(tx):
        frozen = {"prototypes": optim.Group(first=round(freeze_prototypes * plan.steps_per_epoch))}
        waits = optim.by_group(tx, lambda path: "prototypes" if path.startswith("prototypes/") else None, frozen)
        return optim.unit_rows(waits, lambda path: path.startswith("prototypes/"))

    def collapse(metrics):
        even = metrics["assignment_max"] < 1.5 / prototypes
        return "assignment_max is near 1 / K; lower method.epsilon" if even else None

    encode, hooks = make_encode(parts, mean, std), {"collapse": collapse}
    return Method(init, loss, online_trunk, encode, update_aux, wrap_tx, hooks=hooks)
