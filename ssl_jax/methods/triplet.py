"""Triplets: an image lies nearer to its own augmentation than to another image's, by a margin.

    L = mean_i max(0, |z_i - z'_i| - |z_i - z'_n(i)| + margin)

z embeds the image (view 1), z' its augmentation (view 2), and n(i) is another image of the global batch, chosen by
``mining``:

- "random": any, drawn for every image;
- "semihard": the nearest of those farther than the positive; the farthest of all where none is;
- "hard": the nearest;
- "all": every one; the mean is then over the triplets above zero.

The cheapest way out is one point for all images: the loss is then the margin exactly and nothing pulls the points
apart. "hard" finds it when it is used from the start. A loss that stays at the margin, with ``active``, the share of
triplets above zero, at 1, is that. In a healthy run the loss falls; ``active`` falls with "random" and "all", and stays
near 1 with "semihard", which looks for active triplets.

Reference: Schroff et al. 2015, "FaceNet", eqs. 1-2 and section 3.2 (arXiv:1503.03832); an image and its augmentations
as a class: Dosovitskiy et al. 2014, "Discriminative Unsupervised Feature Learning with Exemplar Convolutional Neural
Networks" (arXiv:1406.6909), as triplets Kolesnikov et al. 2019, section 3, "Exemplar" (arXiv:1901.09005).
Differs from the reference code: one augmentation instead of eight crops; Euclidean distances as in
``torch.nn.TripletMarginLoss`` instead of squared ones; and embeddings are normalised one by one, where the code of
Kolesnikov et al. divides each coordinate by its norm over the batch (``l2_normalize`` along axis 0), which leaves their
lengths free.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax.losses import triplet_all, triplet_margin
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.losses.triplet import distance, distances_to_all
from ssl_jax.methods import (
    init_parts,
    make_encode,
    online_trunk,
    run_parts,
    side_by_side,
    two_views,
    view_by_view,
)
from ssl_jax.methods.instance_discrimination import close_up
from ssl_jax.models.heads import linear
from ssl_jax.parallel import all_rows, num_shards, row_ids, row_keys
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables

MINING = ("random", "semihard", "hard", "all")


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    margin: float = 0.5,
    mining: str = "semihard",
    normalize: bool = True,
    projector_dim: int = 128,
) -> Method:
    """The triplet method around ``encoder``, for a recipe whose first view is the anchor and second the positive.

    Args:
      margin: 0.5 on the unit sphere, where distances go from 0 to 2; torch's 1 without normalisation.
      mining: how a negative is chosen: "random", "semihard", "hard" or "all", see above.
      normalize: put embeddings on the unit sphere; without it a network may grow its way past the margin.
      projector_dim: d of the embeddings ``[b, d]``, a linear layer on the features; Kolesnikov et al. have 1000.

    Raises:
      ValueError: an argument outside its meaning.
    """
    if not margin > 0:
        raise ValueError(f"method.margin={margin} must be positive; use 0.5, or 1 without normalisation")
    if mining not in MINING:
        raise ValueError(f"method.mining={mining!r} is not one of {', '.join(MINING)}")
    parts = {"encoder": encoder, "projector": linear(projector_dim, dtype=encoder.dtype)}
    encode = make_encode(parts, mean, std)

    def embedded(z):
        z = z.astype(compute_dtype(z))
        return l2_normalize(z) if normalize else z

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        images = side_by_side(two_views(batch, mean, std))
        out, state = run_parts(parts, variables.params, variables.model_state, images, train=True, axis=axis)
        a, p = view_by_view(embedded(out["projector"]), 2)
        if mining == "all":
            value, active = triplet_all(a, p, margin=margin, axis=axis)
        else:
            n = all_rows(p, axis)[negatives(key, a, p, mining, axis)]
            value = triplet_margin(a, p, n, margin=margin)
            active = (distance(a, p) - distance(a, n) + margin > 0).astype(a.dtype).mean()
        outputs = {"features": view_by_view(out["encoder"]["features"], 2)[0], "projections": a}
        return value, LossOut(state, {"active": active}, outputs=outputs)

    def show(variables, images, key):
        positives = close_up(images)
        a, p = (embedded(encode(variables, x)["projections"]) for x in (images, positives))
        chosen = negatives(key, a, p, "hard" if mining == "all" else mining)
        return {"anchor": images, "positive": positives, "negative": positives[chosen]}

    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks={"show": show})


def negatives(key: Array, a: Array, p: Array, mining: str, axis: Axis = None) -> Array:
    """Which row of the global batch's positives is the negative of each anchor: int32 ``[b]``, never the anchor's own.

    Args:
      key: for "random"; what image i draws depends on its place in the global batch.
      a, p: ``[b, d]`` embeddings of this device's anchors and positives.
      mining: "random", "semihard" or "hard", see above.
      axis: mapped device axis, None in the global view.
    """
    if mining == "random":
        number = len(a) * num_shards(axis)
        draw = jax.vmap(lambda k: jax.random.randint(k, (), 1, number, jnp.int32))
        return (row_ids(len(a), axis) + draw(row_keys(key, len(a), axis))) % number
    a, p = lax.stop_gradient((a, p))
    between, own = distances_to_all(a, p, axis)
    hard = jnp.where(own, jnp.inf, between)
    if mining == "hard":
        return hard.argmin(1).astype(jnp.int32)
    farther = jnp.where(between > distance(a, p)[:, None], hard, jnp.inf)
    farthest = jnp.where(own, -jnp.inf, between).argmax(1)
    return jnp.where(jnp.isfinite(farther).any(1), farther.argmin(1), farthest).astype(jnp.int32)
