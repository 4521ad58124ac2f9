"""InfoNCE, the contrastive loss of predictive coding: which of these did the context predict?"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.losses.normalize import check_pair, check_temperature, compute_dtype, log_sum_exp
from ssl_jax.parallel import all_rows, my_rows, on_any_mesh, row_ids
from ssl_jax.types import Array, Axis


@on_any_mesh
def info_nce(
    pred: Float[Array, "b d"],
    z: Float[Array, "b d"],
    *,
    negatives: Float[Array, "b n d"] | None = None,
    temperature: float | Array = 1.0,
    axis: Axis = None,
) -> Float[Array, ""]:
    """Each prediction must find the encoding that it predicts among others, by inner product.

    With negatives ``n_i1 ... n_iN``, or all other rows ``z_j`` of the global batch where none are given::

        L = mean_i [ -p_i . z_i / T + log( exp(p_i . z_i / T) + sum_j exp(p_i . n_ij / T) ) ]

    which without ``negatives`` is the cross-entropy of logits ``pred @ z.T / T`` with labels 0, 1, 2, ...; uniform
    logits give L = ln(1 + N). Nothing is normalised. Gradient reaches ``pred``, ``z`` and ``negatives``. Where the
    positives are drawn from p(z | c) and the negatives from p(z), ln(1 + N) - L is on average below the mutual
    information of z and c.

    Args:
      pred: ``[b, d]`` predictions, W_k c_t in the paper, on this device.
      z: ``[b, d]`` encodings; row i is the positive of row i of ``pred``.
      negatives: ``[b, n, d]``, each row's own; the positive should not be among them.
      temperature: T > 0; the paper has none.
      axis: mapped device axis, None in the global view.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows.

    Raises:
      ValueError: shapes that do not fit, or a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.eye(2)
      >>> print(f"{info_nce(z, z):.4f}")  # -1 + log(e + 1)
      0.3133

    Reference: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, eqs. 3-5
    (https://arxiv.org/abs/1807.03748).
    """
    return info_nce_and_accuracy(pred, z, negatives=negatives, temperature=temperature, axis=axis)[0]


@on_any_mesh
def info_nce_and_accuracy(
    pred: Float[Array, "b d"],
    z: Float[Array, "b d"],
    *,
    negatives: Float[Array, "b n d"] | None = None,
    temperature: float | Array = 1.0,
    axis: Axis = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(:func:`info_nce`, share of this device's rows whose positive has a larger logit than every negative)."""
    check_pair("info_nce", "pred", pred, "z", z)
    if negatives is not None and (negatives.ndim != 3 or negatives.shape[::2] != pred.shape):
        b, d = pred.shape
        raise ValueError(f"info_nce needs negatives [{b}, n, {d}] for pred {pred.shape}; got {negatives.shape}")
    check_temperature("info_nce", temperature)
    dtype = compute_dtype(pred, z)
    pred, z = pred.astype(dtype), z.astype(dtype)
    if negatives is None:
        others = all_rows(z, axis)
        # The same rows again, but said to be split: left to itself the partitioner may repeat the block everywhere.
        pred, z = my_rows((all_rows(pred, axis), others), axis)
        own = row_ids(len(pred), axis)[:, None] == jnp.arange(len(others), dtype=jnp.int32)[None]
        negative = jnp.where(own, -jnp.inf, pred @ others.T / temperature)
    else:
        negative = jnp.einsum("bd,bnd->bn", pred, negatives.astype(dtype)) / temperature
    positive = (pred * z).sum(1, keepdims=True) / temperature
    losses = log_sum_exp(positive, negative) - positive[:, 0]
    best = lax.stop_gradient(positive[:, 0] > negative.max(1, initial=-jnp.inf))
    return losses.mean(), best.astype(dtype).mean()
