"""SimSiam: one network predicts from one view what it makes of the other, through which no gradient goes.

    L = -1/2 mean [ cos(q(z1), sg(z2)) + cos(q(z2), sg(z1)) ]

z = projector(encoder(view)), q the predictor, sg no gradient. No negatives, no moving average. Each view is forwarded
by itself, so BatchNorm statistics are per view. L is -1 where all images have one z; without sg it goes there, and the
effective rank of z, which the collapse alarm watches, below 2; ``feature_spread`` need not fall with it.

Reference: Chen and He 2021, "Exploring Simple Siamese Representation Learning", eqs. 1-4 and section 4
(arXiv:2011.10566).
Differs from the reference code: the last layer of the projector has a random bias there that is never trained, which
the BatchNorm behind it takes away again; here it has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_jax import optim
from ssl_jax.losses import byol_regression
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_views, spread, two_views
from ssl_jax.models.heads import MLP, NOT_AFFINE, torch_bias, torch_kernel
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    projector_dim: int = 2048,
    projector_layers: int = 3,
    predictor_hidden: int | None = None,
    predictor_rate: str = "constant",
) -> Method:
    """SimSiam around ``encoder``.

    Args:
      projector_dim: width of every layer of the projector, and d of projections and predictions ``[b, d]``.
      projector_layers: its dense layers, each with BatchNorm, the last without scale and bias; the paper has 3, for
        CIFAR-10 2.
      predictor_hidden: width of the predictor's hidden layer; None: a quarter of ``projector_dim``.
      predictor_rate: the predictor's learning rate: "constant", at the schedule's peak (the paper: 68.1 % with it, 67.7
        without), or "scheduled" as the rest has it.

    Raises:
      ValueError: an argument outside its meaning.
    """
    rates = {"constant": "peak", "scheduled": 1.0}
    if predictor_rate not in rates:
        raise ValueError(f"method.predictor_rate={predictor_rate!r} is not one of {', '.join(rates)}")
    if projector_layers < 1:
        raise ValueError(f"method.projector_layers={projector_layers} must be 1 or more; the paper has 3, CIFAR-10 2")
    hidden = max(1, projector_dim // 4) if predictor_hidden is None else predictor_hidden
    shared = {"hidden_bias": False, "kernel_init": torch_kernel, "norm": encoder.norm, "dtype": encoder.dtype}
    parts = {
        "encoder": encoder,
        "projector": MLP((projector_dim,) * projector_layers, out_bias=False, out_norm=NOT_AFFINE, **shared),
        "predictor": MLP((hidden, projector_dim), bias_init=torch_bias, **shared),
    }

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        views = two_views(batch, mean, std)
        networks = (parts, variables.params, variables.model_state)
        (one, two), model_state = run_views(*networks, views, axis=axis, key=key)
        value = byol_regression(one["predictor"], two["projector"])  # 2 - 2 cos
        value += byol_regression(two["predictor"], one["projector"])
        features = one["encoder"]["features"]
        return value / 4 - 1, LossOut(
            model_state=model_state,
            metrics={"feature_spread": spread(features, axis)},
            outputs={"features": features, "projections": one["projector"]},
        )

    def wrap_tx(tx):
        def group(path):
            return "predictor" if path.startswith("predictor/") else None

        return optim.by_group(tx, group, {"predictor": optim.Group(rate=rates[predictor_rate])})

    encode = make_encode({k: parts[k] for k in ("encoder", "projector")}, mean, std)
    watched = ("predictor",)
    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, wrap_tx=wrap_tx, grad_norms=watched)
