"""BYOL: an online network predicts what a slow copy of itself, the target, makes of the other view.

    L = mean 2 - 2 cos(q(z1), sg(z2')) + 2 - 2 cos(q(z2), sg(z1'))
    xi <- tau_k xi + (1 - tau_k) theta,    tau_k = 1 - (1 - tau_0) (1 + cos(pi k / K)) / 2

z = projector(encoder(view)) with online parameters theta, z' with target parameters xi, q the predictor. The target
is updated after the optimizer, with the new theta; only parameters are averaged. The target's BatchNorm runs in train
mode on its own batches and its running statistics are its own.

Reference: Grill et al. 2020, "Bootstrap Your Own Latent", eqs. 1-2 and appendix (arXiv:2006.07733).
Differs from the reference code: the target starts as a copy of the online network, as in most later codebases
(``target_init="copy"``); the official code draws it from another key (``"fresh"``). Weights of the heads start from
flax's truncated normal (``head_init="lecun"``); the code has haiku's (``"haiku"``, and ``model.conv_init="haiku"``),
which is not corrected for what truncation takes: deviations are .88 of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import optim
from ssl_jax.losses import byol_regression
from ssl_jax.methods import (
    init_parts,
    make_encode,
    online_trunk,
    run_parts,
    run_views,
    side_by_side,
    two_views,
    view_by_view,
)
from ssl_jax.models.heads import KERNEL_INITS, byol_mlp
from ssl_jax.parallel import named_key
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    tau: float = 0.996,
    tau_schedule: str = "cosine",
    hidden: int = 4096,
    projector_dim: int = 256,
    per_view_bn: bool = True,
    target_init: str = "copy",
    head_init: str = "lecun",
) -> Method:
    """BYOL around ``encoder``.

    Args:
      tau: target decay tau_0; the paper has 0.996 for 1000 epochs, 0.99 for 100 and 300.
      tau_schedule: "cosine" (to 1 at the end of the run) or "constant".
      hidden: width of the hidden layer of projector and predictor.
      projector_dim: d of projections and predictions ``[b, d]``.
      per_view_bn: forward each view alone, so BatchNorm statistics are per view (the paper); False concatenates both,
        which is one larger forward instead of two.
      target_init: "copy" of the online network or "fresh" parameters of its own.
      head_init: of the weights of projector and predictor, "lecun" or "haiku", see above.
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"method.tau={tau} must be between 0 and 1; the paper uses 0.996")
    schedules = {"cosine": optim.tau_schedule(tau, plan.total_steps), "constant": lambda step: tau}
    if tau_schedule not in schedules:
        raise ValueError(f"method.tau_schedule={tau_schedule!r} is not one of {', '.join(schedules)}")
    if target_init not in ("copy", "fresh"):
        raise ValueError(f"method.target_init={target_init!r} is not one of copy, fresh")
    if head_init not in KERNEL_INITS:
        raise ValueError(f"method.head_init={head_init!r} is not one of {', '.join(KERNEL_INITS)}")
    tau_at = schedules[tau_schedule]
    head = byol_mlp(hidden=hidden, out_dim=projector_dim, init=head_init, norm=encoder.norm, dtype=encoder.dtype)
    target_parts = {"encoder": encoder, "projector": head}
    parts = target_parts | {"predictor": head}

    def init(key, batch, given=None):
        images = batch["views"][0]
        params, state = init_parts(parts, key, images, given)
        target, target_state = {k: params[k] for k in target_parts}, {k: state[k] for k in target_parts}
        if target_init == "fresh":
            target, target_state = init_parts(target_parts, named_key(key, "target"), images, given)
        return Variables(params, state | {"target": target_state}, aux={"target": target})

    def both_views(parts, params, state, views, axis):
        """Outputs of every part for each view, and the state after both."""
        if not per_view_bn:
            out, state = run_parts(parts, params, state, side_by_side(views), train=True, axis=axis)
            return [jax.tree.map(lambda a, i=i: view_by_view(a, 2)[i], out) for i in range(2)], state
        return run_views(parts, params, state, views, axis=axis)

    def loss(variables, batch, key, step, axis):
        views = two_views(batch, mean, std)
        state = variables.model_state
        (one, two), online_state = both_views(parts, variables.params, state, views, axis)
        target, target_state = lax.stop_gradient(
            both_views(target_parts, variables.aux["target"], state["target"], views, axis)
        )
        value = byol_regression(one["predictor"], target[1]["projector"])
        value += byol_regression(two["predictor"], target[0]["projector"])
        return value, LossOut(
            model_state=online_state | {"target": target_state},
            metrics={"tau": jnp.asarray(tau_at(step), value.dtype)},
            outputs={"features": one["encoder"]["features"], "projections": one["projector"]},
        )

    def update_aux(variables, carry, step):
        online = {k: variables.params[k] for k in target_parts}
        return {"target": optim.ema(variables.aux["target"], online, tau_at(step))}

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode(target_parts, mean, std),
        update_aux=update_aux,
    )
