"""Instance discrimination (NPID): every image is a class; which of the N images is this?

    L = mean_i -log exp(v_i . w_i / T) / sum_j exp(v_i . w_j / T) + lambda |v_i - w_i|^2,    v = f(x) / |f(x)|
    w_i <- normalise(m w_i + (1 - m) v_i)    after the step, for the images of the batch

The weights of the N classes are not learned: row i of the bank is what the network made of image i about one epoch ago,
and no gradient reaches it. With ``negatives`` = k > 0 the sum over N becomes noise-contrastive estimation with k draws,
for datasets whose N is too large. ``batch["index"]`` says which images a batch holds.

A random bank starts at ln N + 1 / (2 d T^2), above ln N. In the first epoch the rows asked for are still random: there
is nothing to learn, and the loss rises while the bank fills with features that are like each other. A run of few epochs
over many images stops there; with little time use fewer images, more often.

Reference: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", eqs. 2, 4-8 and
10 (arXiv:1805.01978).
Differs from the reference code: lambda (30 in the paper, absent from the code) is an argument, 0 by default; Z is
estimated without the images' own rows; the bank is written after the optimizer's step, which changes no number, instead
of in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax.losses import estimate_log_z, instance_nce, instance_softmax
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.methods import init_parts, make_encode, one_view, online_trunk, run_parts
from ssl_jax.models.heads import moco_projector
from ssl_jax.parallel import all_rows, named_key, row_keys
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    temperature: float = 0.1,
    momentum: float = 0.5,
    projector_dim: int = 128,
    negatives: int = 0,
    bank_size: int | None = None,
    proximal: float = 0.0,
) -> Method:
    """Instance discrimination around ``encoder``.

    Args:
      temperature: T; 0.1 on CIFAR-10, 0.07 on ImageNet.
      momentum: m, what stays of a bank row when its image is seen again.
      projector_dim: d of the features ``[b, d]``; the head is one linear layer.
      negatives: draws per image for noise-contrastive estimation (the paper: 4096); 0: the softmax over the whole bank.
        They are gathered: ``rows * negatives * projector_dim`` numbers on each device. Z is that of the random bank;
        where features lie close together at first, as on small datasets, it is far too small and the draws drown the
        images' own rows: on 1,200 digits this ended below a random encoder, which the softmax passed.
      bank_size: rows of the bank; None: one for each training example, the fewest there can be.
      proximal: lambda; 30 in the paper, where it keeps the loss from trembling while an image is seen once per epoch.

    Raises:
      ValueError: an argument outside its meaning, or a bank smaller than the training data.
    """
    size = plan.num_examples if bank_size is None else bank_size
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; the paper uses 0.07 (CIFAR-10: 0.1)")
    if not 0 <= momentum < 1:
        raise ValueError(f"method.momentum={momentum} must be at least 0 and below 1; the paper uses 0.5")
    if negatives < 0:
        raise ValueError(f"method.negatives={negatives} must not be negative; 0 is the softmax over the whole bank")
    if proximal < 0:
        raise ValueError(f"method.proximal={proximal} must not be negative; the paper has 30, its code 0")
    if size < plan.num_examples:
        raise ValueError(
            f"method.bank_size={size} is smaller than the {plan.num_examples} training examples; "
            f"use {plan.num_examples} or leave it out"
        )
    head = moco_projector(
        encoder.dim, version=1, out_dim=projector_dim, dtype=encoder.dtype
    )  # MoCo v1 took it from here
    parts = {"encoder": encoder, "projector": head}
    encode = make_encode(parts, mean, std)

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        aux = {"bank": random_bank(named_key(key, "bank"), size, projector_dim)}
        if negatives:
            aux["log_z"] = jnp.float32(-jnp.inf)  # not estimated yet
        return Variables(params, state, aux=aux)

    def loss(variables, batch, key, step, axis):
        images, index = one_view(batch, mean, std), batch["index"]
        out, state = run_parts(parts, variables.params, variables.model_state, images, train=True, axis=axis)
        v = l2_normalize(out["projector"].astype(compute_dtype(out["projector"])))
        bank = lax.stop_gradient(variables.aux["bank"])
        own = bank[index]
        carry = {"index": all_rows(index, axis), "features": all_rows(v, axis)}
        if negatives:
            drawn = draws(key, len(index), negatives, size, axis)
            estimate = estimate_log_z(v, bank, drawn, temperature=temperature, axis=axis)
            known = variables.aux["log_z"]
            carry["log_z"] = jnp.where(jnp.isfinite(known), known, estimate)
            value = instance_nce(v, bank, index, drawn, log_z=carry["log_z"], temperature=temperature)
        else:
            value = instance_softmax(v, bank, index, temperature=temperature)
        if proximal:
            value += proximal * jnp.square(v - own).sum(1).mean()
        metrics = {"own_similarity": (v * own).sum(1).mean()}
        outputs = {"features": out["encoder"]["features"], "projections": v}
        return value, LossOut(state, metrics, carry=carry, outputs=outputs)

    def update_aux(variables, carry, step):
        aux = variables.aux
        new = {"bank": write(aux["bank"], carry["index"], carry["features"], momentum=momentum)}
        return new | ({"log_z": carry["log_z"].astype(aux["log_z"].dtype)} if negatives else {})

    def show(variables, images, key):
        asked = close_up(images)
        found, known = (l2_normalize(encode(variables, a)["projections"]) for a in (asked, images))
        return {"input": asked, "most alike of the shown": images[(found @ known.T).argmax(1)], "target": images}

    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, update_aux=update_aux, hooks={"show": show})


def random_bank(key: Array, size: int, dim: int) -> Array:
    """``[size, dim]``, uniform in +-sqrt(3 / dim): rows are of length about 1 and become 1 when they are written."""
    limit = (3 / dim) ** 0.5
    return jax.random.uniform(key, (size, dim), minval=-limit, maxval=limit)


def write(bank: Array, index: Array, features: Array, *, momentum: float) -> Array:
    """The bank ``[n, d]`` after the images ``index`` ``[b]`` were seen with unit ``features`` ``[b, d]``."""
    rows = momentum * bank[index] + (1 - momentum) * features.astype(bank.dtype)
    return bank.at[index].set(l2_normalize(rows))


def draws(key: Array, rows: int, number: int, size: int, axis: Axis = None) -> Array:
    """Uniform rows of a bank of ``size``, int32 ``[rows, number]``; every image draws its own."""
    return jax.vmap(lambda k: jax.random.randint(k, (number,), 0, size, jnp.int32))(row_keys(key, rows, axis))


def close_up(images: Array) -> Array:
    """The middle three quarters of images ``[b, h, w, c]``, enlarged to their size: an augmentation to look at."""
    top, left = images.shape[1] // 8, images.shape[2] // 8
    middle = images[:, top : images.shape[1] - top, left : images.shape[2] - left]
    return jax.image.resize(middle, images.shape, "linear")
