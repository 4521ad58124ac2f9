"""VICReg (Bardes et al. 2022), as a user's own method: a file beside one's other files."""

import jax.numpy as jnp

from ssl_jax.methods import init_parts, make_encode, online_trunk, run_parts, two_views
from ssl_jax.models.heads import byol_mlp
from ssl_jax.parallel import all_rows
from ssl_jax.types import LossOut, Method, Variables


def make(encoder, *, plan, mean=(0.0,), std=(1.0,), dim=32, variance=25.0, covariance=1.0):
    parts = {"encoder": encoder, "projector": byol_mlp(hidden=dim, out_dim=dim, norm=encoder.norm)}

    def init(key, batch, trunk=None):
        return Variables(*init_parts(parts, key, batch["views"][0], trunk))

    def spread(z):
        """(how far every number's deviation lies below 1, squared covariances beside the diagonal)."""
        z = z - z.mean(0, keepdims=True)
        cov = z.T @ z / (len(z) - 1)
        off = jnp.square(cov).sum() - jnp.square(jnp.diagonal(cov)).sum()
        return jnp.maximum(0, 1 - jnp.sqrt(jnp.diagonal(cov) + 1e-4)).mean(), off / dim

    def loss(variables, batch, key, step, axis):
        state, outs = variables.model_state, []
        for view in two_views(batch, mean, std):
            out, state = run_parts(parts, variables.params, state, view, train=True, axis=axis)
            outs.append(out)
        one, two = (all_rows(out["projector"], axis) for out in outs)
        apart = jnp.square(one - two).mean()
        (v1, c1), (v2, c2) = spread(one), spread(two)
        value = variance * (apart + (v1 + v2) / 2) + covariance * (c1 + c2) / 2
        shown = {"features": outs[0]["encoder"]["features"], "projections": outs[0]["projector"]}
        return value, LossOut(state, {"invariance": apart, "covariance": (c1 + c2) / 2}, outputs=shown)

    return Method(init, loss, online_trunk, make_encode(parts, mean, std))
