"""SimCLR: two views of an image attract, all other views of the batch repel.

    L = mean_i -log exp(s(i, j(i)) / T) / sum_{k != i} exp(s(i, k) / T),    s = cosine of projections, i over 2N views

Both views go through the encoder in one forward pass, so BatchNorm statistics are over 2N views, as in the official
code.

Reference: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1
(arXiv:2002.05709); v2 head: Chen et al. 2020, "Big Self-Supervised Models are Strong Semi-Supervised Learners"
(arXiv:2006.10029).
Differs from the reference code: the official loss adds the means over both views, twice the paper's mean over 2N
anchors. ``loss_scale="paper"`` (default) follows equation 1; ``"official"`` doubles it, which matters to parameters
that LARS does not adapt (biases, BatchNorm).
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_jax.losses import nt_xent
from ssl_jax.methods import (
    init_parts,
    make_encode,
    online_trunk,
    run_parts,
    side_by_side,
    two_views,
    view_by_view,
)
from ssl_jax.models.heads import simclr_projector
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.1,
    projector_layers: int = 2,
    projector_hidden: int | None = None,
    projector_dim: int = 128,
    loss_scale: str = "paper",
) -> Method:
    """SimCLR around ``encoder``.

    Args:
      temperature: T; 0.1 for ImageNet, 0.5 for CIFAR-10.
      projector_layers: number of dense layers of the head; 2 is v1, 3 is v2.
      projector_hidden: width of its hidden layers; None takes the encoder's.
      projector_dim: d of the projections ``[b, d]``.
      loss_scale: "paper" (mean over 2N anchors) or "official" (twice that).
    """
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; the paper uses 0.1 (CIFAR-10: 0.5)")
    if loss_scale not in ("paper", "official"):
        raise ValueError(f"method.loss_scale={loss_scale!r} is not one of paper, official")
    projector = simclr_projector(
        encoder.dim,
        num_layers=projector_layers,
        hidden=projector_hidden,
        out_dim=projector_dim,
        norm=encoder.norm,
        dtype=encoder.dtype,
    )
    parts = {"encoder": encoder, "projector": projector}
    scale = {"paper": 1.0, "official": 2.0}[loss_scale]

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        images = side_by_side(two_views(batch, mean, std))
        out, model_state = run_parts(parts, variables.params, variables.model_state, images, train=True, axis=axis)
        z1, z2 = view_by_view(out["projector"], 2)
        value = scale * nt_xent(z1, z2, temperature=temperature, axis=axis)
        outputs = {"features": view_by_view(out["encoder"]["features"], 2)[0], "projections": z1}
        return value, LossOut(model_state=model_state, metrics={}, outputs=outputs)

    return Method(init=init, loss=loss, trunk=online_trunk, encode=make_encode(parts, mean, std))
