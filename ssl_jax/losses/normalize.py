"""What the losses share: unit vectors that are safe at zero, the precision to compute in, and argument checks."""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax.types import Array


def compute_dtype(*arrays: Array) -> jnp.dtype:
    """float32 for bfloat16, float16 and float32 inputs, float64 if any input is float64."""
    # Explicit: under strict promotion promote_types refuses to mix bfloat16 and float32.
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.dtype(jnp.float32)
        for x in arrays:
            dtype = jnp.promote_types(dtype, jnp.result_type(x))
    return dtype


def l2_normalize(x: Float[Array, "... d"], *, eps: float = 1e-12) -> Float[Array, "... d"]:
    """Unit vectors along the last dimension: ``x * rsqrt(max(sum x^2, eps))``.

    A zero vector stays zero and its gradient is finite, where ``x / norm(x)`` gives NaN.

    Args:
      x: ``[..., d]``, float32 or float64 (callers cast).
      eps: smallest squared norm that is divided by.

    Returns:
      ``[..., d]`` of the same dtype.
    """
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps))


def log_sum_exp(*blocks: Float[Array, "b _"]) -> Float[Array, " b"]:
    """Log-sum-exp over the columns of several blocks of logits as if they stood side by side; -inf entries count zero.

    Each row needs one finite entry in one of the blocks. The blocks are never copied into one array.
    """
    top = blocks[0].max(axis=1, keepdims=True)
    for block in blocks[1:]:
        top = jnp.maximum(top, block.max(axis=1, keepdims=True))
    top = lax.stop_gradient(top)
    total = jnp.exp(blocks[0] - top).sum(axis=1)
    for block in blocks[1:]:
        total = total + jnp.exp(block - top).sum(axis=1)
    return top[:, 0] + jnp.log(total)


def check_pair(name: str, x_name: str, x: Array, y_name: str, y: Array) -> None:
    """Raises ValueError unless ``x`` and ``y`` are two ``[b, d]`` arrays of one shape."""
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"{name} needs {x_name} and {y_name} of one shape [b, d]; got {x_name} {x.shape} and {y_name} {y.shape}"
        )


def check_weights(name: str, **weights: float) -> None:
    """Raises ValueError where the weight of a term is negative (a traced one is not looked at)."""
    for weight, value in weights.items():
        if not isinstance(value, jax.core.Tracer) and value < 0:
            raise ValueError(f"{name} needs {weight} of 0 or more, got {value}; below 0 the term is made large")


def check_temperature(name: str, temperature: float | Array) -> None:
    """Raises ValueError unless the temperature is positive (a traced one, as when it is learned, is not looked at)."""
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"{name} needs temperature > 0, got {temperature}; papers use 0.05 to 1.0")
