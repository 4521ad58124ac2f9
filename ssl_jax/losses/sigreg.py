"""SIGReg, the regulariser of LeJEPA: every projection of the embeddings to a line should be a standard normal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax import parallel
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.parallel import num_shards, on_any_mesh
from ssl_jax.types import Array, Axis


def random_directions(key: Array, dim: int, slices: int, dtype: jnp.dtype | None = None) -> Float[Array, "d s"]:
    """``slices`` uniformly random unit vectors as columns; the same key gives the same ones on every device."""
    normal = jax.random.normal(key, (slices, dim), jnp.float32).astype(dtype or jnp.float32)
    return l2_normalize(normal, eps=1e-24).T


@on_any_mesh
def sigreg(
    z: Float[Array, "b d"],
    directions: Float[Array, "d s"],
    *,
    t_max: float = 3.0,
    knots: int = 17,
    axis: Axis = None,
) -> Float[Array, ""]:
    """The mean over directions of :func:`epps_pulley`, of embeddings that are normalised in no way.

    For standard normal rows it is 1.0525 on average, whatever N and d; for rows that are all zero .40205 N.

    Args:
      z: ``[b, d]`` embeddings of this device's rows.
      directions: ``[d, s]`` unit columns, from :func:`random_directions` with the step's key: new at every step.
      t_max, knots: of the characteristic function that is compared.
      axis: mapped device axis, None in the global view.

    Returns:
      Scalar, float32 (float64 for float64 inputs), that of the global batch on every device.

    Raises:
      ValueError: shapes that do not fit, or an argument outside its meaning.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{sigreg(jnp.zeros((100, 2)), jnp.eye(2)):.3f}")
      40.205

    Reference: Balestriero and LeCun, "LeJEPA", 2025, SIGReg with the Epps-Pulley test (https://arxiv.org/abs/2511.08544).
    """
    return epps_pulley(z, directions, t_max=t_max, knots=knots, axis=axis).mean()


@on_any_mesh
def epps_pulley(
    z: Float[Array, "b d"],
    directions: Float[Array, "d s"],
    *,
    t_max: float = 3.0,
    knots: int = 17,
    axis: Axis = None,
) -> Float[Array, " s"]:
    """How far the projections ``x = z a`` of the N global rows are from a standard normal, for each direction a::

        T(a) = N integral_{-t_max}^{t_max} |mean_i exp(i t x_i) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

    by the trapezoidal rule on ``knots`` points of [0, t_max], the other half being its mirror image.

    Args: as in :func:`sigreg`.

    Returns:
      ``[s]``.
    """
    if z.ndim != 2 or directions.ndim != 2 or directions.shape[0] != z.shape[1]:
        raise ValueError(f"sigreg needs z [b, d] and directions [d, s]; got {z.shape} and {directions.shape}")
    if knots < 2 or not t_max > 0:
        raise ValueError(f"sigreg needs two knots or more and t_max > 0; got knots={knots} and t_max={t_max}")
    dtype = compute_dtype(z)
    t = np.linspace(0, t_max, knots)[1:]  # at t = 0 both are 1
    normal = np.exp(-(t**2) / 2)
    weight = 2 * t[0] * normal
    weight[-1] /= 2
    x = float(t[0]) * (z.astype(dtype) @ directions.astype(dtype))
    # exp(i t x) at the next knot is a product with that at the first: four times as fast as to compute each anew.
    turn_real, turn_imaginary = real, imaginary = jnp.cos(x), jnp.sin(x)
    moments = []
    for _ in t:
        moments.append((real.mean(0), imaginary.mean(0)))
        real, imaginary = real * turn_real - imaginary * turn_imaginary, imaginary * turn_real + real * turn_imaginary
    real, imaginary = parallel.mean(tuple(map(jnp.stack, zip(*moments, strict=True))), axis)
    error = jnp.square(real - jnp.asarray(normal, dtype)[:, None]) + jnp.square(imaginary)
    return len(z) * num_shards(axis) * (jnp.asarray(weight, dtype) @ error)


def view_variance(z: Float[Array, "b v d"], *, centre: int | None = None) -> Float[Array, ""]:
    """``mean (z_ivk - c_ik)^2`` over images, views and dimensions; c is the mean of an image's views.

    Args:
      z: ``[b, v, d]`` embeddings of the v views of this device's images.
      centre: the mean is that of the first so many views, the global ones; None: of all. Gradient flows into it.

    Returns:
      Scalar, whose mean over devices is that of the global batch.
    """
    z = z.astype(compute_dtype(z))
    return jnp.square(z - z[:, :centre].mean(1, keepdims=True)).mean()
