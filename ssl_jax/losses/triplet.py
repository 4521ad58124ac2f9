"""Triplet losses: an anchor must lie nearer to its positive than to a negative, by a margin."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import check_pair, compute_dtype
from ssl_jax.parallel import all_rows, mean, my_rows, num_shards, on_any_mesh, row_ids
from ssl_jax.types import Array, Axis


@on_any_mesh
def triplet_margin(
    a: Float[Array, "b d"], p: Float[Array, "b d"], n: Float[Array, "b d"], *, margin: float = 1.0, eps: float = 1e-6
) -> Float[Array, ""]:
    """One negative for every anchor.

    ::

        L = mean_i max(0, |a_i - p_i| - |a_i - n_i| + margin),    |x| = sqrt(sum_k (x_k + eps)^2)

    ``torch.nn.TripletMarginLoss`` with its defaults: nothing is normalised here, and eps is added to every difference,
    so that the distance of two equal points has a gradient. A representation that maps everything to one point has
    L = margin exactly.

    Args:
      a, p, n: ``[b, d]`` anchors, positives and negatives.
      margin: by how much the negative must be farther.
      eps: added to differences; 0 makes equal points a gradient of 0.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows.

    Raises:
      ValueError: shapes that differ or are not 2-D, or a margin that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[0.3, 0.4]]), jnp.array([[0.0, 1.0]])
      >>> print(f"{triplet_margin(a, p, n, margin=1.0):.4f}")  # 0.5 - 1 + 1
      0.5000

    Reference: Schroff et al., "FaceNet", 2015, eq. 2, with squared distances (https://arxiv.org/abs/1503.03832);
    Balntas et al., "Learning local feature descriptors with triplets", 2016, section 3.1.

    Differs from the reference code: ``optax.losses.triplet_margin_loss`` adds eps under the root instead and returns
    ``[b]``; for distances well above sqrt(eps) the two agree.
    """
    check_pair("triplet_margin", "a", a, "p", p)
    check_pair("triplet_margin", "a", a, "n", n)
    _check_margin("triplet_margin", margin)
    dtype = compute_dtype(a, p, n)
    a, p, n = (x.astype(dtype) for x in (a, p, n))
    return jnp.maximum(distance(a, p, eps=eps) - distance(a, n, eps=eps) + margin, 0).mean()


@on_any_mesh
def triplet_all(
    a: Float[Array, "b d"], p: Float[Array, "b d"], *, margin: float = 1.0, axis: Axis = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Every other image's positive is a negative; the mean is over the triplets that are active, those above zero.

    ::

        L = sum_ij l_ij / |{l_ij > 0}|,    l_ij = max(0, |a_i - p_i| - |a_i - p_j| + margin),    j != i

    Satisfied triplets, soon the most, do not water the mean down. L is 0 where none is active.

    Args:
      a: ``[b, d]`` anchors of this device's rows.
      p: ``[b, d]`` positives; row i is another view of row i of ``a``. Negatives are the rows of all devices.
      margin: by how much negatives must be farther.
      axis: mapped device axis, None in the global view.

    Returns:
      (scalar, whose mean over devices is the loss of the global batch; the share of this device's triplets that are
      active). float32, or float64 for float64 inputs.

    Raises:
      ValueError: shapes that differ or are not 2-D, or a margin that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> a, p = jnp.array([[0.0], [4.0], [9.0]]), jnp.array([[2.0], [3.0], [9.0]])
      >>> loss, active = triplet_all(a, p, margin=1.5)
      >>> print(f"{loss:.4f} {active:.4f}")  # two of six: 2 - 3 + 1.5 and 1 - 2 + 1.5
      0.5000 0.3333

    Reference: Hermans et al., "In Defense of the Triplet Loss", 2017, eq. 6 and section 3.2, "batch all, != 0"
    (https://arxiv.org/abs/1703.07737), without labels: an image's only positive is its other view.
    """
    check_pair("triplet_all", "a", a, "p", p)
    _check_margin("triplet_all", margin)
    dtype = compute_dtype(a, p)
    a, p = a.astype(dtype), p.astype(dtype)
    between, own = distances_to_all(a, p, axis)
    terms = jnp.where(own, 0, jnp.maximum(distance(a, p)[:, None] - between + margin, 0))
    active = (terms > 0).astype(dtype).sum()
    # The loss is a ratio of sums over the global batch; step.py takes the mean over devices of the numerators.
    count = mean(active, axis)
    value = terms.sum() / jnp.where(count > 0, count, 1)
    return value, active / (len(a) * max(1, len(a) * num_shards(axis) - 1))


def distance(x: Array, y: Array, *, eps: float = 1e-6) -> Array:
    """``sqrt(sum_k (x_k - y_k + eps)^2)`` over the last dimension; where it is zero, so is its gradient."""
    return _safe_sqrt(jnp.square(x - y + eps).sum(-1))


def distances_to_all(
    a: Float[Array, "b d"], p: Float[Array, "b d"], axis: Axis = None
) -> tuple[Float[Array, "b N"], Array]:
    """Euclidean distances of this device's ``a`` to every device's ``p``, and (bool ``[b, N]``) which are of one image.

    By the square's expansion, without an array ``[b, N, d]``: off by up to sqrt(1e-7) |a| between points that coincide.
    """
    rows, (everywhere, every) = len(a), all_rows((a, p), axis)
    a = my_rows(everywhere, axis)  # the same rows, but said to be split, or the partitioner may repeat the block
    inner = jnp.matmul(a, every.T, precision=lax.Precision.HIGHEST)
    squares = jnp.square(a).sum(1)[:, None] + jnp.square(every).sum(1)[None, :] - 2 * inner
    own = row_ids(rows, axis)[:, None] == jnp.arange(len(every), dtype=jnp.int32)[None, :]
    return _safe_sqrt(squares), own


def _check_margin(name: str, margin: float) -> None:
    """Raises ValueError unless the margin is positive: with 0, one point for all images costs nothing."""
    if not margin > 0:
        raise ValueError(f"{name} needs margin > 0, got {margin}; 1 without normalised embeddings, 0.5 with them")


def _safe_sqrt(x: Array) -> Array:
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
