"""Deep InfoMax: do these features of a place belong to that image?"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ssl_jax import parallel
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.parallel import all_rows, my_rows, num_shards, on_any_mesh, row_ids
from ssl_jax.types import Array, Axis

FORMS = ("jsd", "info_nce")


@on_any_mesh
def deep_infomax(
    places: Float[Array, "b p d"], images: Float[Array, "b d"], *, form: str = "jsd", axis: Axis = None
) -> Float[Array, ""]:
    """Minus an estimate of the information that the parts of an image and the whole have of each other.

    With scores ``u_ijp = g_i . l_jp`` of image i and place p of image j, over N images and P places::

        jsd:       L = mean_{i,p} softplus(-u_iip) + mean_{i != j, p} softplus(u_ijp)
        info_nce:  L = mean_{i,p} [-u_iip + log( exp(u_iip) + sum_{j != i, q} exp(u_ijq) )]

    Scores that are all equal give 2 ln 2 and ln(1 + (N - 1) P). Gradient reaches both.

    Args:
      places: ``[b, p, d]``, l, of this device's images; one place is the form for whole images.
      images: ``[b, d]``, g; row i is the same image.
      form: "jsd" or "info_nce".
      axis: mapped device axis, None in the global view.

    Returns:
      Scalar, float32 (float64 for float64 inputs). The mean over devices is the loss of the global batch.

    Raises:
      ValueError: shapes that do not fit, an unknown form, fewer than two images in the global batch.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{deep_infomax(jnp.zeros((3, 4, 2)), jnp.zeros((3, 2))):.4f}")  # 2 ln 2
      1.3863

    Reference: Hjelm et al., "Learning deep representations by mutual information estimation and maximization", 2019,
    eqs. 4-6 (https://arxiv.org/abs/1808.06670).
    """
    return deep_infomax_and_accuracy(places, images, form=form, axis=axis)[0]


@on_any_mesh
def deep_infomax_and_accuracy(
    places: Float[Array, "b p d"], images: Float[Array, "b d"], *, form: str = "jsd", axis: Axis = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(:func:`deep_infomax`, share of this device's places that score highest with their own image; by chance 1/N)."""
    if places.ndim != 3 or images.ndim != 2 or places.shape[::2] != images.shape:
        raise ValueError(
            f"deep_infomax needs places [b, p, d] and images [b, d]; got {places.shape} and {images.shape}"
        )
    if form not in FORMS:
        raise ValueError(f"deep_infomax form={form!r} is not one of {', '.join(FORMS)}")
    b, p, _ = places.shape
    n = b * num_shards(axis)
    if n < 2:
        raise ValueError("deep_infomax tells images apart and the batch holds 1; use two or more")
    dtype = compute_dtype(places, images)
    # Each device scores its own places with all images, which are the smaller part to move.
    whole = all_rows(images.astype(dtype), axis)
    places = places.astype(dtype)
    places = my_rows(places, axis) if axis is None else places  # said to be split, or the scores may be repeated
    scores = jnp.einsum("jpd,id->jpi", places, whole)
    own = (row_ids(b, axis)[:, None] == jnp.arange(n, dtype=jnp.int32)[None])[:, None]
    positive = jnp.where(own, scores, 0).sum(2)
    others = jnp.where(own, -jnp.inf, scores)
    right = lax.stop_gradient(positive > others.max(2)).astype(dtype).mean()
    if form == "jsd":
        negative = jnp.where(own, 0, jax.nn.softplus(scores)).sum() / (b * p * (n - 1))
        return jax.nn.softplus(-positive).mean() + negative, right
    rest = _log_sum_exp_images(others, axis)
    own_rest = my_rows(rest, axis)[:, None]
    return (jnp.logaddexp(positive, own_rest) - positive).mean(), right


def _log_sum_exp_images(scores: Array, axis: Axis) -> Array:
    """``[n]``: for each image the log-sum-exp over the places of all devices; ``scores`` ``[b, p, n]`` of these."""
    top = lax.stop_gradient(all_rows(scores.max((0, 1))[None], axis).max(0))
    total = parallel.mean(jnp.exp(scores - top[None, None]).sum((0, 1)), axis) * num_shards(axis)
    return top + jnp.log(total)
