"""SupCon: all views of a class attract, those of other classes repel. It learns from labels.

    L = mean_i -1/|P(i)| sum_{p in P(i)} log [ exp(s(i, p) / T) / sum_{k != i} exp(s(i, k) / T) ]

s = cosine of projections, i over the 2N views of the global batch, P(i) the other views of i's class: the form called
L_out, :func:`ssl_jax.losses.sup_con`. An image without a label (-1) has its own other view as its only positive. Both
views go through the encoder in one forward pass. L is ln(2N - 1) where all images have one z; ``similarity``, the
cosine of any two images' z, is 1 then.

Reference: Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2 (arXiv:2004.11362).
Differs from the reference code: equation 2 is a sum over anchors; both codes take the mean. The authors' PyTorch code
(SupContrast) multiplies it by T / .07, google-research's by T, 14 times apart, which moves the rate of an optimizer
that does not adapt it: ``loss_scale``.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from ssl_jax.losses import sup_con
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.methods import (
    check_labels,
    init_parts,
    make_encode,
    online_trunk,
    run_parts,
    side_by_side,
    two_views,
    view_by_view,
)
from ssl_jax.models.heads import MLP, torch_bias, torch_kernel
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.1,
    loss_scale: str = "mean",
    normalize_features: bool = True,
    projector_hidden: int | None = None,
    projector_dim: int = 128,
) -> Method:
    """SupCon around ``encoder``.

    Args:
      temperature: T; the paper has 0.1.
      loss_scale: "mean" over the anchors of equation 2, "supcontrast": times T / .07, or "google": times T.
      normalize_features: whether features are unit vectors before the projector, as in the paper and google-research;
        SupContrast leaves them.
      projector_hidden: width of the projector's hidden layer; None: the encoder's.
      projector_dim: d of the projections ``[b, d]``; no BatchNorm in the projector.

    Raises:
      ValueError: an argument outside its meaning, data without labels.
    """
    check_labels("supcon", plan)
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; the paper uses 0.1")
    scales = {"mean": 1.0, "supcontrast": temperature / 0.07, "google": temperature}
    if loss_scale not in scales:
        raise ValueError(f"method.loss_scale={loss_scale!r} is not one of {', '.join(scales)}")
    sizes = (projector_hidden or encoder.dim, projector_dim)
    projector = MLP(sizes, hidden_norm=False, kernel_init=torch_kernel, bias_init=torch_bias, dtype=encoder.dtype)
    parts = {"encoder": encoder, "projector": projector}

    def read(outputs):
        features = outputs["features"]
        return l2_normalize(features) if normalize_features else features

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given, read=read))

    def loss(variables, batch, key, step, axis):
        images = side_by_side(two_views(batch, mean, std))
        out, model_state = run_parts(
            parts, variables.params, variables.model_state, images, train=True, axis=axis, read=read, key=key
        )
        z1, z2 = view_by_view(out["projector"], 2)
        value = scales[loss_scale] * sup_con(z1, z2, batch["label"], temperature=temperature, axis=axis)
        centre = mean_over_devices(l2_normalize(z1.astype(compute_dtype(z1))).mean(0), axis)
        labelled = (batch["label"] >= 0).astype(centre.dtype).mean()
        return value, LossOut(
            model_state=model_state,
            metrics={"similarity": jnp.square(centre).sum(), "labelled": labelled},
            outputs={"features": view_by_view(out["encoder"]["features"], 2)[0], "projections": z1},
        )

    return Method(init=init, loss=loss, trunk=online_trunk, encode=make_encode(parts, mean, std, read=read))
