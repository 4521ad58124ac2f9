"""Self-distillation: a student must give the distribution over prototypes that a centred, sharpened teacher gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from ssl_jax.losses.normalize import check_temperature, compute_dtype
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import Array, Axis


def distillation(
    teacher: Float[Array, "b g k"],
    student: Float[Array, "b v k"],
    *,
    centre: Float[Array, " k"],
    teacher_temperature: float | Array,
    temperature: float,
) -> Float[Array, ""]:
    """DINO's loss: every global view as the teacher sees it, against every other view as the student sees it.

    ::

        L = mean_i mean_{g, v != g} -sum_k q_igk log p_ivk
        q = softmax((t - c) / T_t),  p = softmax(s / T_s)

    No gradient reaches the teacher. If both are uniform, L = log K.

    Args:
      teacher: ``[b, g, k]`` logits of the g global views.
      student: ``[b, v, k]`` logits of all views, the same global ones first.
      centre: c ``[k]``, the running mean of the teacher's logits before this batch (:func:`next_centre`).
      teacher_temperature: T_t > 0 (the paper: .04, or .04 to .07 in 30 epochs).
      temperature: T_s > 0 (the paper: .1).

    Returns:
      Scalar, float32 (float64 for float64 inputs): the mean over this device's rows; the mean over devices is the loss
      of the global batch.

    Raises:
      ValueError: shapes that do not fit, fewer than two views, a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[[0.1, 0.0], [0.0, 0.2]]])
      >>> print(f"{distillation(views, views, centre=jnp.zeros(2), teacher_temperature=0.04, temperature=0.1):.6f}")
      1.640890

    Reference: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021, equations 1 to 3 and
    algorithm 1 (https://arxiv.org/abs/2104.14294).
    """
    if teacher.ndim != 3 or student.ndim != 3 or teacher.shape[::2] != student.shape[::2]:
        raise ValueError(
            "distillation needs teacher [b, g, k] and student [b, v, k] of one b and k; got teacher "
            f"{teacher.shape} and student {student.shape}"
        )
    if not 1 <= teacher.shape[1] <= student.shape[1] or student.shape[1] < 2:
        raise ValueError(
            f"distillation pairs different views; got {teacher.shape[1]} of the teacher and {student.shape[1]} of the "
            "student, which has them all and at least two"
        )
    q = sharpened(teacher, centre=centre, temperature=teacher_temperature)
    return mean_over_pairs(cross_entropies(q, student, temperature=temperature))


def sharpened(
    teacher: Float[Array, "... k"], *, centre: Float[Array, " k"], temperature: float | Array
) -> Float[Array, "... k"]:
    """The teacher's distributions ``softmax((t - c) / T)``, without gradient, in float32 or better."""
    check_temperature("sharpened", temperature)
    dtype = compute_dtype(teacher)
    centred = teacher.astype(dtype) - jnp.expand_dims(centre.astype(dtype), range(teacher.ndim - 1))
    return lax.stop_gradient(jax.nn.softmax(centred / temperature, axis=-1))


def assigned(
    teacher: Float[Array, "... k"],
    *,
    centre: Float[Array, " k"] | None,
    temperature: float | Array,
    present: Bool[Array, "*rows"] | None = None,
    axis: Axis = None,
) -> Float[Array, "... k"]:
    """The teacher's distributions, :func:`sharpened` or, without a centre, by three iterations of :func:`sinkhorn`.

    Args:
      present: False for what is not to count in Sinkhorn's sums, see there.
      axis: mapped device axis, over whose devices those are taken, too.

    Reference: Oquab et al. 2023 (DINOv2, arXiv:2304.07193), section 4, has the iterations in place of the centre.
    """
    if centre is not None:
        return sharpened(teacher, centre=centre, temperature=temperature)
    rows, present = teacher.reshape(-1, teacher.shape[-1]), None if present is None else present.reshape(-1)
    return sinkhorn(rows, epsilon=temperature, present=present, axis=axis).reshape(teacher.shape)


def cross_entropies(
    q: Float[Array, "b g k"], student: Float[Array, "b v k"], *, temperature: float
) -> Float[Array, "b g v"]:
    """``-sum_k q_igk log softmax(s_iv / T)_k`` of each of the g distributions with each of the v views.

    As q sums to 1 it is ``log sum_k exp(s_k / T) - q . s / T``: nothing of the size ``[b, g, v, k]`` is made.
    """
    check_temperature("cross_entropies", temperature)
    dtype = compute_dtype(q, student)
    logits = student.astype(dtype) / temperature
    agreement = jnp.einsum("bgk,bvk->bgv", q.astype(dtype), logits, precision=lax.Precision.HIGHEST)
    return jax.nn.logsumexp(logits, axis=-1)[:, None] - agreement


def mean_over_pairs(table: Float[Array, "b g v"]) -> Float[Array, ""]:
    """Mean over rows and over pairs of different views, of which the g are the first of the v."""
    _, g, v = table.shape
    different = 1 - jnp.eye(g, v, dtype=table.dtype)
    return (table.mean(0) * different).sum() / (g * (v - 1))


def patch_distillation(
    q: Float[Array, "b t k"], student: Float[Array, "b t k"], *, weights: Float[Array, "*rows"], temperature: float
) -> Float[Array, ""]:
    """iBOT's loss: of every masked patch, what the teacher sees there against what the student guesses.

    ::

        L = mean_i (1 / sum_t w_it) sum_t -w_it sum_k q_itk log softmax(s_it / T)_k

    The mean is over all images, also those of which no patch is masked, whose term is 0: an image with one masked patch
    counts as much as one with many.

    Args:
      q: ``[b, t, k]`` distributions of the teacher, which sees the whole image; no gradient goes there.
      student: ``[b, t, k]`` logits at the same patches of the masked image.
      weights: ``[b, t]``, 1 for a masked patch, 0 for one that fills the row up.
      temperature: T > 0.

    Returns:
      Scalar, float32 or better: the mean over this device's rows.

    Reference: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", 2022, equation 2
    (https://arxiv.org/abs/2111.07832); the mean over images is that of its code.
    """
    if not q.shape == student.shape == (*weights.shape, q.shape[-1]):
        raise ValueError(
            f"patch_distillation needs q and student [b, t, k] and weights [b, t]; got {q.shape}, {student.shape} and "
            f"{weights.shape}"
        )
    check_temperature("patch_distillation", temperature)
    dtype = compute_dtype(q, student)
    logits, weights = student.astype(dtype) / temperature, weights.astype(dtype)
    q = lax.stop_gradient(q.astype(dtype))
    losses = jax.nn.logsumexp(logits, axis=-1) - (q * logits).sum(-1)
    return ((weights * losses).sum(1) / jnp.maximum(weights.sum(1), 1)).mean()


def entropy(q: Float[Array, "... k"]) -> Array:
    """``-sum_k q_k log q_k``: log K of the uniform distribution, 0 of one that is all at one place."""
    return jax.scipy.special.entr(q).sum(-1)


def perplexity(
    q: Float[Array, "... k"], axis: Axis = None, *, weights: Float[Array, "*rows"] | None = None
) -> Float[Array, ""]:
    """How many of the K prototypes are in use, 1 to K: ``exp`` of the entropy of the mean of all distributions.

    Args:
      axis: mapped device axis, over whose devices the mean is taken, too.
      weights: of the distributions; None: all alike.
    """
    q = q.reshape(-1, q.shape[-1])
    weights = jnp.ones(len(q), q.dtype) if weights is None else weights.astype(q.dtype).reshape(-1)
    total, weight = mean_over_devices((weights @ q, weights.sum()), axis)
    return jnp.exp(entropy(total / jnp.maximum(weight, jnp.finfo(q.dtype).tiny)))


def next_centre(centre: Float[Array, " k"], batch_mean: Float[Array, " k"], *, momentum: float) -> Float[Array, " k"]:
    """``c <- m c + (1 - m) mean t``, with the mean of the teacher's logits over rows, views and devices.

    Reference: Caron et al. 2021, equation 4. It is of use from the next step on: the batch that moves it does not see
    it moved.
    """
    return momentum * centre + (1 - momentum) * batch_mean.astype(centre.dtype)
