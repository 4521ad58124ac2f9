"""VICReg: embeddings of two views agree, every dimension varies over the batch, and no two vary together.

    L = 25 s(z1, z2) + 25 (v(z1) + v(z2)) / 2 + (c(z1) + c(z2))

s the mean squared difference, v the mean over dimensions of max(0, 1 - deviation), c the squared covariances over d:
:func:`ssl_jax.losses.vicreg`. Each view is forwarded by itself, so BatchNorm statistics are per view; v and c are of
the global batch. L is 24.75 where all images have one z (``variance`` .99, ``below_one`` 1); a low ``covariance``
with deviations near 0 is the same failure.

Reference: Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
eqs. 1-6 and appendix C (arXiv:2105.04906).
Differs from the reference code: hidden layers of the expander have biases there, which the BatchNorm behind each takes
away again; here they have none. The code has the 1/2, the paper's equation 6 does not: ``variance_of_views``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_jax.losses import vicreg
from ssl_jax.losses.vicreg import VIEWS
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_views, two_views
from ssl_jax.models.heads import barlow_projector
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    variance_of_views: str = "mean",
    projector_dim: int = 8192,
    projector_layers: int = 3,
    projector_hidden: int | None = None,
) -> Method:
    """VICReg around ``encoder``.

    Args:
      invariance, variance, covariance: weights of s, v and c.
      variance_of_views: "mean" of both views' v (the authors' code, and lightly) or their "sum" (the paper's equation
        6, and solo-learn), which doubles the weight.
      projector_dim: d of the embeddings ``[b, d]``, what the paper calls the expander's output.
      projector_layers: dense layers of the expander, without biases, BatchNorm and ReLU after all but the last.
      projector_hidden: width of its hidden layers; None: ``projector_dim``.

    Raises:
      ValueError: an argument outside its meaning.
    """
    for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        if weight < 0:
            raise ValueError(f"method.{name}={weight} must not be negative; the paper has 25, 25 and 1")
    if variance_of_views not in VIEWS:
        raise ValueError(f"method.variance_of_views={variance_of_views!r} is not one of {', '.join(VIEWS)}")
    projector = barlow_projector(
        num_layers=projector_layers,
        hidden=projector_hidden,
        out_dim=projector_dim,
        norm=encoder.norm,
        dtype=encoder.dtype,
    )
    parts = {"encoder": encoder, "projector": projector}
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        views = two_views(batch, mean, std)
        networks = (parts, variables.params, variables.model_state)
        (one, two), model_state = run_views(*networks, views, axis=axis, key=key)
        z1, z2 = one["projector"], two["projector"]
        value, seen = vicreg(z1, z2, variance_of_views=variance_of_views, axis=axis, **weights)
        outputs = {"features": one["encoder"]["features"], "projections": z1}
        return value, LossOut(model_state=model_state, metrics=seen, outputs=outputs)

    def collapse(metrics):
        """Deviations near 0, of which directions tell nothing."""
        if metrics["variance"] > 0.8:
            return f"dimensions deviate by {1 - metrics['variance']:.2g} where 1 is asked for; raise method.variance"
        return None

    encode, hooks = make_encode(parts, mean, std), {"collapse": collapse}
    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks=hooks)
