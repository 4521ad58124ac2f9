"""Instance discrimination: every image is a class of its own, and a bank of features holds the classes' weights."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ssl_jax.losses.normalize import check_temperature, compute_dtype, l2_normalize, log_sum_exp
from ssl_jax.parallel import all_rows, on_any_mesh
from ssl_jax.types import Array, Axis


@on_any_mesh
def instance_softmax(
    v: Float[Array, "b d"], bank: Float[Array, "n d"], index: Int[Array, " b"], *, temperature: float | Array
) -> Float[Array, ""]:
    """Each image must be told from all others by the features that the bank keeps of them.

    With ``v`` L2-normalised and bank rows ``w_j``::

        L = mean_i [ -v_i . w_index(i) / T + log sum_j exp(v_i . w_j / T) ]

    the cross-entropy of logits ``v . bank / T``. No gradient reaches the bank. With random rows of length 1 in d
    dimensions it is ln n + 1 / (2 d T^2), not ln n: a large logit raises the sum more than a small one lowers it.

    Args:
      v: ``[b, d]`` features, normalised here.
      bank: ``[n, d]`` one row per image of the dataset, taken as it is.
      index: int ``[b]``, which row of the bank is that of row i of ``v``.
      temperature: T > 0 (0.1 on CIFAR-10, 0.07 on ImageNet).

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows.

    Raises:
      ValueError: shapes that do not fit, or a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> v, bank = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
      >>> print(f"{instance_softmax(v, bank, jnp.array([1]), temperature=1.0):.4f}")  # -1 + log(e + 1 + 1)
      0.5514

    Reference: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018, eq. 2
    (https://arxiv.org/abs/1805.01978).
    """
    v, bank = _checked("instance_softmax", v, bank, index, temperature)
    own = (v * bank[index]).sum(axis=1) / temperature
    return jnp.mean(log_sum_exp(v @ bank.T / temperature) - own)


@on_any_mesh
def instance_nce(
    v: Float[Array, "b d"],
    bank: Float[Array, "n d"],
    index: Int[Array, " b"],
    drawn: Int[Array, "b m"],
    *,
    log_z: float | Array,
    temperature: float | Array,
) -> Float[Array, ""]:
    """:func:`instance_softmax` by noise-contrastive estimation: is a row the image's own, or one of m draws?

    With ``P_i(j) = exp(v_i . w_j / T) / Z`` and ``h_i(j) = P_i(j) / (P_i(j) + m / n)``::

        L = mean_i [ -log h_i(index(i)) - sum_{j in drawn(i)} log(1 - h_i(j)) ]

    Z is a constant, so the cost does not grow with n. Where every P is 1 / n this is ln(1 + m) + m ln(1 + 1 / m).

    Args:
      v: ``[b, d]`` features, normalised here.
      bank: ``[n, d]``, as in :func:`instance_softmax`; ``b m d`` numbers of it are gathered.
      index: int ``[b]``, as there.
      drawn: int ``[b, m]`` rows of the bank, uniform; one may be the image's own, as noise may be.
      log_z: ln Z, e.g. from :func:`estimate_log_z`.
      temperature: T > 0.

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows.

    Raises:
      ValueError: shapes that do not fit, or a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> v, bank, own, drawn = jnp.ones((1, 2)), jnp.zeros((9, 2)), jnp.array([1]), jnp.array([[5]])
      >>> loss = instance_nce(v, bank, own, drawn, log_z=jnp.log(9.0), temperature=1.0)
      >>> print(f"{loss:.4f}")  # P = 1/9 everywhere and m = 1: 2 ln 2
      1.3863

    Reference: Wu et al. 2018, eqs. 4, 5 and 7 (https://arxiv.org/abs/1805.01978).

    Differs from the reference code: in logarithms, log h = -log(1 + exp(-(s - ln Z - ln(m / n)))), where the code adds
    1e-7 to the denominators.
    """
    v, bank = _checked("instance_nce", v, bank, index, temperature)
    _check_drawn("instance_nce", v, drawn)
    shift = log_z + math.log(drawn.shape[1] / bank.shape[0])
    own = (v * bank[index]).sum(axis=1) / temperature
    other = jnp.einsum("bd,bmd->bm", v, bank[drawn]) / temperature
    return jnp.mean(jax.nn.softplus(shift - own) + jax.nn.softplus(other - shift).sum(axis=1))


def estimate_log_z(
    v: Float[Array, "b d"],
    bank: Float[Array, "n d"],
    drawn: Int[Array, "b m"],
    *,
    temperature: float | Array,
    axis: Axis = None,
) -> Float[Array, ""]:
    """ln Z of :func:`instance_nce` from the draws of one batch: ``Z = n mean_{i, j in drawn(i)} exp(v_i . w_j / T)``.

    Args:
      v: ``[b, d]`` features of this device's rows, normalised here.
      bank: ``[n, d]``.
      drawn: int ``[b, m]`` rows of the bank, uniform.
      temperature: T > 0.
      axis: mapped device axis, None in the global view.

    Returns:
      Scalar without gradient, the same on every device.

    Raises:
      ValueError: shapes that do not fit, or a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> log_z = estimate_log_z(jnp.ones((1, 2)), jnp.zeros((9, 2)), jnp.array([[5, 6]]), temperature=1.0)
      >>> print(f"{jnp.exp(log_z):.4f}")
      9.0000

    Reference: Wu et al. 2018, eq. 8 (https://arxiv.org/abs/1805.01978).

    Differs from the reference code: the mean there is over the draws and the images' own rows.
    """
    v, bank = _checked("estimate_log_z", v, bank, drawn[:, 0], temperature)
    _check_drawn("estimate_log_z", v, drawn)
    logits = jnp.einsum("bd,bmd->bm", lax.stop_gradient(v), bank[drawn]) / temperature
    rows = all_rows(log_sum_exp(logits), axis)
    return log_sum_exp(rows[None])[0] + math.log(bank.shape[0] / drawn.shape[1] / rows.shape[0])


def _checked(name: str, v: Array, bank: Array, index: Array, temperature: float | Array) -> tuple[Array, Array]:
    """(unit features, bank without gradient) in the precision to compute in."""
    if v.ndim != 2 or bank.ndim != 2 or bank.shape[1] != v.shape[1]:
        raise ValueError(f"{name} needs v [b, d] and a bank [n, d]; got v {v.shape} and bank {bank.shape}")
    if index.shape != v.shape[:1]:
        raise ValueError(f"{name} needs one index for each row of v {v.shape}; got index {index.shape}")
    check_temperature(name, temperature)
    dtype = compute_dtype(v, bank)
    return l2_normalize(v.astype(dtype)), lax.stop_gradient(bank.astype(dtype))


def _check_drawn(name: str, v: Array, drawn: Array) -> None:
    if drawn.ndim != 2 or len(drawn) != len(v) or not drawn.shape[1]:
        raise ValueError(f"{name} needs drawn [b, m] with m > 0 for v {v.shape}; got drawn {drawn.shape}")
