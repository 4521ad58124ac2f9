"""The symmetric loss of MoCo v3: the keys of the batch are the negatives, there is no queue."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import check_pair, check_temperature, compute_dtype, l2_normalize, log_sum_exp
from ssl_jax.losses.streaming import choose_block, log_sum_exp_keys
from ssl_jax.parallel import all_rows, my_rows, on_any_mesh
from ssl_jax.types import Array, Axis


@on_any_mesh
def moco_v3(
    q1: Float[Array, "b d"],
    q2: Float[Array, "b d"],
    k1: Float[Array, "b d"],
    k2: Float[Array, "b d"],
    *,
    temperature: float | Array,
    axis: Axis = None,
    block: int | None = None,
) -> Float[Array, ""]:
    """Each query must find the key of its image's other view among that view's keys of the whole batch.

    With all vectors L2-normalised, over the N images of the global batch::

        L = ctr(q1, k2) + ctr(q2, k1)
        ctr(q, k) = 2 T mean_i [ -q_i . k_i / T + log sum_j exp(q_i . k_j / T) ]

    The factor 2 T makes the size of the gradient depend less on T. Uniform logits give L = 4 T ln N. No gradient
    reaches the keys: their encoder is a moving average.

    Args:
      q1, q2: ``[b, d]`` predictions of the query network for the two views, on this device, normalised here.
      k1, k2: ``[b, d]`` projections of the key network for the same views; row i is the same image everywhere.
      temperature: T > 0 (the paper: 1.0 for ResNet-50, 0.2 for ViT).
      axis: mapped device axis, None in the global view.
      block: keys of a block of the streaming form, which never holds the ``[b, N]`` logits; 0 is the plain form, which
        does; None streams large batches.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows; the mean over devices is the loss
      of the global batch.

    Raises:
      ValueError: shapes that differ or are not 2-D, a temperature that is not positive, a block below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.eye(2)
      >>> print(f"{moco_v3(z, z, z, z, temperature=1.0):.4f}")  # 4 (-1 + log(e + 1))
      1.2530

    Reference: Chen et al., "An Empirical Study of Training Vision Transformers with Self-Supervised Learning", 2021,
    eq. 1 and algorithm 1 (https://arxiv.org/abs/2104.02057).
    """
    for name, x in (("q2", q2), ("k1", k1), ("k2", k2)):
        check_pair("moco_v3", "q1", q1, name, x)
    check_temperature("moco_v3", temperature)
    dtype = compute_dtype(q1, q2, k1, k2)
    q1, q2, k1, k2 = (l2_normalize(x.astype(dtype)) for x in (q1, q2, k1, k2))

    def contrast(q, k):
        k = lax.stop_gradient(k)
        positive = (q * k).sum(axis=1) / temperature
        keys = all_rows(k, axis)
        rows = choose_block(block, len(q) * len(keys), size=1024)
        if rows:
            return jnp.mean(log_sum_exp_keys(q / temperature, keys, block=rows) - positive)
        q = my_rows(all_rows(q, axis), axis)  # the same rows, but said to be split, or the logits may be repeated
        return jnp.mean(log_sum_exp(q @ keys.T / temperature) - positive)

    return 2 * temperature * (contrast(q1, k2) + contrast(q2, k1))
