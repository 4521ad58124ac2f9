"""MoCo v3: the prediction of a view must find the key of its image's other view among those of the whole batch.

    L = ctr(q1, k2) + ctr(q2, k1),    ctr(q, k) = 2 T mean_i -log( exp(q_i . k_i / T) / sum_j exp(q_i . k_j / T) )
    xi <- tau_k xi + (1 - tau_k) theta,    tau_k = 1 - (1 - tau_0) (1 + cos(pi k / K)) / 2

q = predictor(projector(encoder(view))) with parameters theta, k = projector(encoder(view)) with parameters xi, which
carry no gradient; all are unit vectors. There is no queue: keys of the batch are the negatives, so it must be large.
The patch projection of a ViT stays as it was drawn, which is what keeps its training steady.

Reference: Chen et al. 2021, "An Empirical Study of Training Vision Transformers with Self-Supervised Learning",
eq. 1, algorithm 1 and section 4.2 (arXiv:2104.02057).
Differs from the reference code: the key network moves after the optimizer step instead of before the next forward
pass, so tau_k is that of one step earlier; a ViT's dense layers start as those of all our ViTs, normal with .02,
where theirs are uniform by Glorot, queries, keys and values each, and the class token with .02 instead of 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from ssl_jax import optim
from ssl_jax.losses import moco_v3
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_views, two_views
from ssl_jax.models.heads import moco_v3_mlp
from ssl_jax.models.vit import ViT
from ssl_jax.parallel import all_rows, my_rows, row_ids
from ssl_jax.types import LossOut, Method, Plan, Variables

HEADS = {  # layers of the projector, whether the predictor ends in a BatchNorm
    "resnet": (2, False),
    "vit": (3, True),
}


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.2,
    tau: float = 0.99,
    tau_schedule: str = "cosine",
    heads: str | None = None,
    hidden: int = 4096,
    projector_dim: int = 256,
    freeze_patches: bool = True,
) -> Method:
    """MoCo v3 around ``encoder``.

    Args:
      temperature: T; 0.2 for ViTs, 1.0 for ResNet-50 in the paper.
      tau: decay tau_0 of the key network; 0.99, and 0.996 for 1000 epochs of ResNet-50.
      tau_schedule: "cosine" (to 1 at the end of the run) or "constant".
      heads: "resnet", whose projector has 2 layers and whose predictor has no last BatchNorm, or "vit", with 3 layers
        and one; None: by the encoder.
      hidden: width of the hidden layers of projector and predictor.
      projector_dim: d of queries and keys ``[b, d]``.
      freeze_patches: leave a ViT's patch projection as it starts; of other encoders nothing is frozen.

    Raises:
      ValueError: an argument outside its meaning.
    """
    kind = heads or ("vit" if isinstance(encoder, ViT) else "resnet")
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; the paper uses 0.2 (ResNet-50: 1.0)")
    if not 0 <= tau <= 1:
        raise ValueError(f"method.tau={tau} must be between 0 and 1; the paper uses 0.99")
    schedules = {"cosine": optim.tau_schedule(tau, plan.total_steps), "constant": lambda step: tau}
    if tau_schedule not in schedules:
        raise ValueError(f"method.tau_schedule={tau_schedule!r} is not one of {', '.join(schedules)}")
    if kind not in HEADS:
        raise ValueError(f"method.heads={heads!r} is not one of {', '.join(HEADS)}; null: by the encoder")
    tau_at = schedules[tau_schedule]
    layers, predictor_norm = HEADS[kind]
    sizes = {"hidden": hidden, "out_dim": projector_dim, "norm": encoder.norm, "dtype": encoder.dtype}
    whole = encoder.clone(drop_path=0.0) if isinstance(encoder, ViT) else encoder  # keys are made by all blocks
    target_parts = {"encoder": whole, "projector": moco_v3_mlp(layers, **sizes)}
    parts = target_parts | {"encoder": encoder, "predictor": moco_v3_mlp(2, out_norm=predictor_norm, **sizes)}

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        target, target_state = ({k: tree[k] for k in target_parts} for tree in (params, state))
        return Variables(params, state | {"target": target_state}, aux={"target": target})

    def loss(variables, batch, key, step, axis):
        views, state = two_views(batch, mean, std), variables.model_state
        (one, two), online_state = run_views(parts, variables.params, state, views, axis=axis, key=key)
        target, target_state = lax.stop_gradient(
            run_views(target_parts, variables.aux["target"], state["target"], views, axis=axis, key=key)
        )
        q1, q2 = one["predictor"], two["predictor"]
        k1, k2 = (out["projector"] for out in target)
        value = moco_v3(q1, q2, k1, k2, temperature=temperature, axis=axis)
        return value, LossOut(
            model_state=online_state | {"target": target_state},
            metrics={"tau": jnp.asarray(tau_at(step), value.dtype), "accuracy": found(q1, k2, axis)},
            outputs={"features": one["encoder"]["features"], "projections": one["projector"]},
        )

    def found(q, k, axis):
        """Share of queries that have the own key as the nearest; by chance 1 / N."""
        q, k = (lax.stop_gradient(l2_normalize(x.astype(compute_dtype(x)))) for x in (q, k))
        k = all_rows(k, axis)
        q = my_rows(q, axis) if axis is None else q  # said to be split, or the logits may be repeated everywhere
        return (jnp.argmax(q @ k.T, 1).astype(jnp.int32) == row_ids(len(q), axis)).astype(q.dtype).mean()

    def update_aux(variables, carry, step):
        online = {k: variables.params[k] for k in target_parts}
        return {"target": optim.ema(variables.aux["target"], online, tau_at(step))}

    def wrap_tx(tx):
        if not (freeze_patches and isinstance(encoder, ViT)):
            return tx
        return optim.by_group(tx, of_path, {"patches": optim.Group(first=None)})

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode(target_parts, mean, std),
        update_aux=update_aux,
        wrap_tx=wrap_tx,
        grad_norms=("encoder/stem_patches",) if isinstance(encoder, ViT) else (),
    )


def of_path(path: str) -> str | None:
    """Which group of the optimizer a parameter belongs to."""
    return "patches" if path.startswith("encoder/stem_patches/") else None
