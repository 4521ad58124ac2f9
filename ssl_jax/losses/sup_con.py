"""SupCon, the supervised contrastive loss: all views of a class attract."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.losses.normalize import check_pair, check_temperature, compute_dtype, l2_normalize, log_sum_exp
from ssl_jax.losses.streaming import choose_block, log_sum_exp_others
from ssl_jax.parallel import all_rows, my_rows, num_shards, on_any_mesh, row_ids
from ssl_jax.types import Array, Axis


@on_any_mesh
def sup_con(
    z1: Float[Array, "b d"],
    z2: Float[Array, "b d"],
    label: Int[Array, " b"],
    *,
    temperature: float | Array,
    axis: Axis = None,
    block: int | None = None,
) -> Float[Array, ""]:
    """NT-Xent in which every other view of the anchor's class is a positive: the form called L_out.

    With ``u = z / |z|``, ``s_ij = u_i . u_j / T`` over the 2N views of the global batch and ``P(i)`` the views other
    than i of images with i's label::

        L = 1/(2N) sum_i -1/|P(i)| sum_{p in P(i)} [ s_ip - log sum_{k != i} exp(s_ik) ]

    An image without a label (-1) has its own other view as its only positive, and is a negative of all others; with no
    labels at all this is :func:`nt_xent`. Where all views of a class coincide, at right angles to the other classes, L
    is still above zero: other positives stand in the denominator.

    Args:
      z1: ``[b, d]`` projections of the first view, not normalised, on this device.
      z2: ``[b, d]`` projections of the second view; row i is the same image as row i of ``z1``.
      label: ``[b]`` classes, -1 where unknown.
      temperature: T > 0 (the paper: 0.1 for ImageNet).
      axis: mapped device axis, None in the global view.
      block: rows of a block of the streaming form, which never holds the matrix of s; 0 is the plain form, which does;
        None streams large batches.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's 2b anchors; the mean over devices is the
      loss of the global batch.

    Raises:
      ValueError: shapes that do not fit, a temperature that is not positive, a block below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.eye(2)
      >>> print(f"{sup_con(z, z, jnp.array([0, 0]), temperature=1.0):.4f}")  # -1/3 + log(e + 1 + 1)
      1.2181

    Reference: Khosla et al., "Supervised Contrastive Learning", 2020, eq. 2 (https://arxiv.org/abs/2004.11362).

    Differs from the reference code: equation 2 is a sum over anchors, the authors' code a mean, as here; the code also
    multiplies by T / 0.07, which is 1 at its default temperature.
    """
    check_pair("sup_con", "z1", z1, "z2", z2)
    if label.shape != z1.shape[:1]:
        raise ValueError(f"sup_con needs one label for each row of z1 {z1.shape}; got label {label.shape}")
    check_temperature("sup_con", temperature)
    dtype = compute_dtype(z1, z2)
    u1, u2 = l2_normalize(z1.astype(dtype)), l2_normalize(z2.astype(dtype))
    ids = row_ids(len(label), axis).astype(label.dtype)
    label = jnp.where(label < 0, -1 - ids, label)  # a class of its own for each image without one
    block = choose_block(block, (2 * len(u1) * num_shards(axis)) ** 2)
    if not block:
        return _plain(u1, u2, label, temperature, axis)
    lse1, lse2 = log_sum_exp_others((u1, u2), temperature=temperature, axis=axis, block=block)
    total, count = _of_class(u1 + u2, label, axis)
    # Sum over both views i of s_ip over p in P(i): the class's sum without the view itself.
    positive = ((u1 + u2) * total - u1 * u1 - u2 * u2).sum(axis=1) / temperature
    return jnp.mean(lse1 + lse2 - positive / (2 * count - 1)) / 2


def _of_class(x: Float[Array, "b d"], label: Int[Array, " b"], axis: Axis) -> tuple[Array, Array]:
    """Of each row's class, over all devices: the sum of x ``[b, d]`` and the number of rows ``[b]``."""
    x, label = all_rows((x, label), axis)
    place = jnp.searchsorted(jnp.sort(label), label)  # of the class's first row in order of labels: a name below N
    # O(N d), where a mask of the pairs takes N^2 d. On a GPU the order of the additions is fixed by deterministic=True.
    ones = jnp.ones(len(x), x.dtype)
    total, count = (jax.ops.segment_sum(a, place, num_segments=len(x))[place] for a in (x, ones))
    return my_rows((total, count), axis)


def _plain(u1: Array, u2: Array, label: Array, temperature: float | Array, axis: Axis) -> Array:
    all1, all2, classes = all_rows((u1, u2, label), axis)
    u1, u2, label = my_rows((all1, all2, classes), axis)
    own = row_ids(len(u1), axis)[:, None] == jnp.arange(len(all1), dtype=jnp.int32)[None, :]
    same = label[:, None] == classes[None, :]

    def anchors(u, view, other):
        to_view, to_other = u @ view.T / temperature, u @ other.T / temperature
        positive = jnp.where(same & ~own, to_view, 0).sum(1) + jnp.where(same, to_other, 0).sum(1)
        return log_sum_exp(to_other, jnp.where(own, -jnp.inf, to_view)) - positive / (
            2 * same.sum(1).astype(u.dtype) - 1
        )

    return jnp.mean(anchors(u1, all1, all2) + anchors(u2, all2, all1)) / 2
