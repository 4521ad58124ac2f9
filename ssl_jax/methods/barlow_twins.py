"""Barlow Twins: each dimension of a projection agrees with itself in the other view and with no other dimension.

    L = sum_i (c_ii - 1)^2 + lambda sum_{i != j} c_ij^2,    c = cross-correlation [d, d] of z1 and z2 over the batch

Each view is forwarded by itself, so BatchNorm statistics are per view; c is of the global batch. L is d where all
images have one z (``diagonal`` falls to 0), and without the second term all dimensions become the same
(``off_diagonal`` goes to 1).

Reference: Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", eqs. 1-2
(arXiv:2103.03230).
Differs from the reference code: the gradient here is that of L. The code adds c over its W devices without a gradient
through the sum, and averages gradients, so its own is 1/W of that. LARS hides it where it adapts the rate, but for
weight decay; biases and norms learn W times more slowly, and their rate was tuned so. What imitates W devices:
``method.bias_rate=.024/W`` and W times the weight decay.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_jax import optim
from ssl_jax.losses import barlow_twins
from ssl_jax.methods import init_parts, make_encode, online_trunk, run_views, two_views
from ssl_jax.models.heads import barlow_projector
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    off_diagonal: float = 0.0051,
    scale: float = 1.0,
    bias_rate: float = 1.0,
    projector_dim: int = 8192,
    projector_layers: int = 3,
    projector_hidden: int | None = None,
) -> Method:
    """Barlow Twins around ``encoder``.

    Args:
      off_diagonal: lambda.
      scale: what L is multiplied by, 1 in the authors' code; solo-learn has .1 for CIFAR-10 and .048 for ImageNet.
        Under LARS it matters to biases and norms alone.
      bias_rate: learning rate of biases and norms, so many times that of weights: with LARS, which adapts that of
        weights alone, .0048 / .2 = .024 in the authors' code.
      projector_dim: d of the projections ``[b, d]``.
      projector_layers: dense layers of the projector, without biases, BatchNorm and ReLU after all but the last.
      projector_hidden: width of its hidden layers; None: ``projector_dim``.

    Raises:
      ValueError: an argument outside its meaning.
    """
    if off_diagonal < 0:
        raise ValueError(f"method.off_diagonal={off_diagonal} must not be negative; the authors have 0.0051")
    if not scale > 0:
        raise ValueError(f"method.scale={scale} must be positive; the authors have 1")
    if not bias_rate > 0:
        raise ValueError(f"method.bias_rate={bias_rate} must be positive; 0.024 as the authors, 1: one rate for all")
    projector = barlow_projector(
        num_layers=projector_layers,
        hidden=projector_hidden,
        out_dim=projector_dim,
        norm=encoder.norm,
        dtype=encoder.dtype,
    )
    parts = {"encoder": encoder, "projector": projector}

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        views = two_views(batch, mean, std)
        networks = (parts, variables.params, variables.model_state)
        (one, two), model_state = run_views(*networks, views, axis=axis, key=key)
        value, seen = barlow_twins(one["projector"], two["projector"], off_diagonal=off_diagonal, axis=axis)
        outputs = {"features": one["encoder"]["features"], "projections": one["projector"]}
        return scale * value, LossOut(model_state=model_state, metrics=seen, outputs=outputs)

    def wrap_tx(tx):
        def group(path):
            return "biases" if path.endswith(("/bias", "/scale")) else None

        return optim.by_group(tx, group, {"biases": optim.Group(rate=bias_rate)})

    return Method(init=init, loss=loss, trunk=online_trunk, encode=make_encode(parts, mean, std), wrap_tx=wrap_tx)
