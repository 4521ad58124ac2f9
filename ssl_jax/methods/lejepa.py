"""LeJEPA: views of an image have one embedding, and embeddings of images are spread as a standard normal.

    L = lambda mean_v SIGReg(z_v) + (1 - lambda) mean_{i, v, k} (z_ivk - c_ik)^2

z = projector(encoder(view)), normalised in no way; c is the mean of an image's views, into which the gradient flows.
SIGReg compares random projections of the N embeddings of a view with a standard normal (``losses/sigreg.py``). There
is no teacher, no predictor and no stop-gradient: without SIGReg (lambda = 0) one embedding for all is the best.

Reference: Balestriero and LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(arXiv:2511.08544). lambda weighs as in the authors' minimal script and in lightly, with a statistic for each view.
Differs from the authors' minimal script: the projector stands on the encoder's features, without a linear layer of
512 between that becomes part of the product; the learning rate ends where ``optim`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ssl_jax import parallel
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.losses.sigreg import epps_pulley, random_directions, view_variance
from ssl_jax.methods import by_size, init_parts, make_encode, online_trunk, run_sizes, view_by_view
from ssl_jax.models.heads import MLP, torch_bias, torch_kernel
from ssl_jax.parallel import named_key
from ssl_jax.types import LossOut, Method, Plan, Variables

CENTRES = ("all", "global")


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    sigreg_weight: float = 0.05,
    centre: str = "all",
    slices: int = 1024,
    t_max: float = 3.0,
    knots: int = 17,
    projector_hidden: int = 2048,
    projector_dim: int = 64,
) -> Method:
    """LeJEPA around ``encoder``, for two views or more of one size or several.

    ``sigreg`` is about 1.05 where the embeddings are normal, whatever their number, and grows with it where they are
    not; ``sigreg_worst`` is that of the worst direction. ``std_least`` is the least deviation of a dimension: 1 if all
    is well, 0 where one is dead.

    Args:
      sigreg_weight: lambda; 0.05 in the authors' scripts, 0.02 in the minimal one.
      centre: c is the mean of "all" views (the minimal script) or of the "global" ones, the largest (lightly).
      slices: directions of SIGReg, new in every step; 1024 to 4096, 256 in the minimal script.
      t_max, knots: of the characteristic function that is compared.
      projector_hidden: width of the projector's two hidden layers.
      projector_dim: d of the embeddings ``[b, d]``; 16 to 1024.

    Raises:
      ValueError: an argument outside its meaning.
    """
    if not 0 <= sigreg_weight <= 1:
        raise ValueError(f"method.sigreg_weight={sigreg_weight} must be between 0 and 1; the authors use 0.02 to 0.1")
    if centre not in CENTRES:
        raise ValueError(f"method.centre={centre!r} is not one of {', '.join(CENTRES)}")
    if slices < 1 or knots < 2 or t_max <= 0:
        raise ValueError(
            f"method.slices={slices}, knots={knots}, t_max={t_max} compare nothing; the authors use 1024, 17 and 3"
        )
    test = partial(epps_pulley, t_max=t_max, knots=knots)
    sizes = (projector_hidden, projector_hidden, projector_dim)
    kind = {"kernel_init": torch_kernel, "bias_init": torch_bias, "norm": encoder.norm, "dtype": encoder.dtype}
    parts = {"encoder": encoder, "projector": MLP(sizes, **kind)}

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        groups, counts = by_size(batch, mean, std)
        out, model_state = run_sizes(parts, variables.params, variables.model_state, groups, counts, axis=axis, key=key)
        z = out["projector"].astype(compute_dtype(out["projector"])).reshape(-1, sum(counts), projector_dim)
        directions = random_directions(named_key(key, "directions"), projector_dim, slices, z.dtype)
        statistics = jax.vmap(partial(test, axis=axis), in_axes=(1, None))(z, directions)
        sigreg = statistics.mean()
        invariance = view_variance(z, centre=counts[0] if centre == "global" else None)
        first, second = parallel.mean((z.mean((0, 1)), jnp.square(z).mean((0, 1))), axis)
        metrics = {
            "sigreg": sigreg,
            "sigreg_worst": statistics.max(),
            "invariance": invariance,
            "std_least": jnp.sqrt(jnp.maximum(second - first**2, 0).min()),
        }
        return sigreg_weight * sigreg + (1 - sigreg_weight) * invariance, LossOut(
            model_state=model_state,
            metrics=metrics,
            outputs={"features": view_by_view(out["encoder"], sum(counts))[0], "projections": z[:, 0]},
        )

    def collapse(metrics):
        """Embeddings that are nearly one, of which directions tell nothing."""
        one = plan.global_batch_size * float(test(jnp.zeros((1, 1)), jnp.ones((1, 1)))[0])
        if metrics["sigreg"] > 0.8 * one:
            return (
                f"sigreg is {metrics['sigreg']:.3g}, where one embedding for all images has {one:.3g} and normal ones "
                "1.05; raise method.sigreg_weight"
            )
        return None

    encode, hooks = make_encode(parts, mean, std), {"collapse": collapse}
    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks=hooks)
