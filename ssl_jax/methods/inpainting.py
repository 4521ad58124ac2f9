"""In-painting (context encoder): a network sees an image with a hole and must paint what was there.

    L = (1 - a) L2 + a E -log D(x^) + E [-log D(x) - log(1 - D(x^))],    L2 = sum_p w_p (x^_p - x_p)^2 / sum_p w_p

x^ = g(f(image with the hole)), images in [-1, 1]. The hole is filled with the mean colour. A rim around it is seen and
painted all the same, with weight w = 10 against 1 inside, so that no seam shows; elsewhere w = 0. "centre": the hole is
a square, and g paints just it and its rim. "random": the hole is a random region, so that no border can be learned by
heart, and g paints the whole image, which counts in hole and rim alone.

With a > 0 a discriminator D learns to tell x from x^, whole patches without their surroundings. Its term and the
painter's stand in one scalar, each with a stop_gradient on the other's parameters, and D has a rate of its own.

Reference: Pathak et al., "Context Encoders: Feature Learning by Inpainting", 2016, section 3 (arXiv:1604.07379).
Differs from the reference code: L2 is divided by the sum of the weights; the networks are those of ``models``; D and
painter step together instead of in turn; the painter gets the optimizer's rate and D a tenth, where the code gives D
the rate and the painter ten times as much. As there, the painter's term is -log D(x^) and not log(1 - D(x^)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ssl_jax import models, optim, parallel
from ssl_jax.losses import psnr
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import init_parts, make_encode, normalize, online_trunk, run_parts
from ssl_jax.models.decoder import encoder_decoder
from ssl_jax.models.discriminator import Discriminator
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Tree, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    mask: str = "centre",
    hole_size: int | None = None,
    fraction: float = 0.25,
    overlap: int = 1,
    overlap_weight: float = 10.0,
    latent_dim: int | None = None,
    decoder_widths: Sequence[int] | None = None,
    adversarial: float = 0.0,
    discriminator_widths: Sequence[int] = (64, 128),
    discriminator_rate: float = 0.1,
) -> Method:
    """A context encoder around ``encoder``.

    Args:
      mask: "centre" or "random".
      hole_size: side of the painted square in the centre, its rim included; None: half the image.
      fraction: share of the image that is hidden by a random region.
      overlap: width of the rim in pixels; the paper has 4 on images of 128.
      overlap_weight: w in the rim.
      latent_dim, decoder_widths: as in ``autoencoder``; the paper's bottleneck has 4000.
      adversarial: a; the paper has 0.001, and 0 (no discriminator) for the features that it evaluates.
      discriminator_widths: channels of D's stages, each of which halves what it sees.
      discriminator_rate: D's learning rate as a multiple of the optimizer's.

    Raises:
      ValueError: an argument outside its meaning, or networks that do not fit the images.
    """
    size, channels = plan.input_shape[0], plan.input_shape[-1]
    hole = size // 2 if hole_size is None else hole_size
    painted = hole if mask == "centre" else size
    if mask not in ("centre", "random"):
        raise ValueError(f"method.mask={mask!r} is not one of centre, random")
    if not 2 * overlap < hole <= size:
        raise ValueError(
            f"method.hole_size={hole} must be above twice method.overlap={overlap} and at most data.image_size={size}; "
            f"use {max(size // 2, 2 * overlap + 1)}"
        )
    if not 0 < fraction < 1:
        raise ValueError(f"method.fraction={fraction} must be between 0 and 1; the paper hides up to a quarter")
    if not overlap_weight > 0:
        raise ValueError(f"method.overlap_weight={overlap_weight} must be positive; the paper has 10")
    if not 0 <= adversarial < 1:
        raise ValueError(f"method.adversarial={adversarial} must be in [0, 1); the paper has 0.001")
    if not discriminator_rate > 0:
        raise ValueError(f"method.discriminator_rate={discriminator_rate} must be positive; the paper has 0.1")
    if adversarial and painted < 2 ** len(discriminator_widths):
        raise ValueError(
            f"method.discriminator_widths={tuple(discriminator_widths)} halves {painted} pixels "
            f"{len(discriminator_widths)} times; use fewer widths"
        )
    parts = encoder_decoder(encoder, (painted, painted, channels), latent_dim=latent_dim, widths=decoder_widths)
    discriminator = Discriminator(tuple(discriminator_widths), norm=encoder.norm, dtype=encoder.dtype)
    margin = (size - painted) // 2
    inner = slice(margin, margin + painted)

    def hide(key, images, axis=None):
        if mask == "centre":
            blank = centre_square(images, hole - 2 * overlap)
        else:
            blank = random_region(key, images, fraction, axis=axis)
        return task(images, blank, fill=mean, overlap=overlap, overlap_weight=overlap_weight)

    def init(key, batch, given=None):
        images = batch["views"][0]
        params, state = init_parts(parts, key, images, given, read=models.deepest)
        if adversarial:
            seen = jax.eval_shape(lambda a: a[:, inner, inner], images)
            key = parallel.named_key(key, "discriminator")
            params["discriminator"], state["discriminator"] = models.init(discriminator, key, seen)
        return Variables(params, state)

    def paint(variables, context, *, train, axis=None):
        """The painted pixels in [-1, 1], the outputs of all networks, their new state."""
        images = normalize(context, mean, std)
        params, state = variables.params, variables.model_state
        out, state = run_parts(parts, params, state, images, train=train, axis=axis, read=models.deepest)
        return jnp.tanh(out["decoder"].astype(compute_dtype(out["decoder"]))), out, state

    def loss(variables, batch, key, step, axis):
        hidden = hide(key, batch["views"][0], axis)
        painting, out, model_state = paint(variables, hidden.context, train=True, axis=axis)
        target, context, weight, blank = (
            a[:, inner, inner].astype(painting.dtype)
            for a in (hidden.target, hidden.context, hidden.weight, hidden.blank)
        )
        target, context = 2 * target - 1, 2 * context - 1
        value = (1 - adversarial) * weighted_error(painting, target, weight)
        errors = [weighted_error(a, target, blank) for a in (painting, context)]
        of_painting, of_filling = (psnr(error, peak=2.0) for error in parallel.mean(errors, axis))
        metrics = {"psnr": of_painting, "psnr_gain": of_painting - of_filling}
        if adversarial:
            params, state = variables.params["discriminator"], variables.model_state["discriminator"]

            def judge(params, state, images):
                return models.forward(discriminator, params, state, images, train=True, axis=axis)

            painter, critic, state = roles(judge, params, state, target, painting)
            value += adversarial * painter + critic
            metrics |= {"painter_loss": painter, "discriminator_loss": critic}
            model_state |= {"discriminator": state}
        features = out["encoder"]["features"]
        outputs = {"features": features, "projections": out.get("bottleneck", features)}
        return value, LossOut(model_state, metrics, outputs=outputs)

    def wrap_tx(tx):
        if not adversarial:
            return tx
        groups = {"discriminator": optim.Group(rate=discriminator_rate)}
        return optim.by_group(tx, lambda path: "discriminator" if path.startswith("discriminator/") else None, groups)

    def fill_in(variables, images, key):
        """The image with the hole, and with the painting in the hole."""
        hidden = hide(key, images)
        painting, _, _ = paint(variables, hidden.context, train=False)
        border = [(0, 0), *2 * [(margin, size - painted - margin)], (0, 0)]
        painting = jnp.pad((painting + 1) / 2, border).astype(images.dtype)
        return hidden.context, jnp.where(hidden.blank[..., None], painting, images)

    def show(variables, images, key):
        context, filled = fill_in(variables, images, key)
        return {"image": images, "input": context, "painting": filled}

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode({"encoder": encoder}, mean, std),
        wrap_tx=wrap_tx,
        # A random region is the same one at every call: that of key 0.
        hooks={"show": show, "reconstruct": lambda variables, images: fill_in(variables, images, jax.random.key(0))[1]},
    )


class Hidden(NamedTuple):
    """The task of a batch: the ``target`` ``[b, h, w, c]``, the ``context`` that is seen of it, where it is ``blank``
    (bool ``[b, h, w]``) and the ``weight`` ``[b, h, w]`` of every pixel in the loss."""

    context: Array
    target: Array
    blank: Array
    weight: Array


def task(images: Array, blank: Array, *, fill: Sequence[float], overlap: int, overlap_weight: float) -> Hidden:
    """Hide what is ``blank`` of images behind the colour ``fill``.

    Args:
      images: ``[b, h, w, c]`` in [0, 1].
      blank: bool ``[b, h, w]``.
      fill: colour, one number for each channel or one for all.
      overlap: width of the rim that is seen and counts nevertheless, in both directions and diagonally.
      overlap_weight: of the rim's pixels; those of the hole have 1.
    """
    colour = jnp.broadcast_to(jnp.asarray(fill, images.dtype), images.shape[-1:])[None, None, None]
    window = (2 * overlap + 1, 2 * overlap + 1)
    near = nn.max_pool(blank.astype(images.dtype)[..., None], window, padding="SAME")[..., 0]
    weight = jnp.where(blank, jnp.ones_like(near), overlap_weight * near)
    return Hidden(jnp.where(blank[..., None], colour, images), images, blank, weight)


def centre_square(images: Array, side: int) -> Array:
    """True in the square of ``side`` pixels in the middle of every image, ``[b, h, w]``."""
    height, width = images.shape[1:3]
    rows, columns = (jnp.arange(n, dtype=jnp.int32) - (n - side) // 2 for n in (height, width))
    square = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))[None, :]
    return jnp.broadcast_to(square[None], (len(images), height, width))


def random_region(key: Array, images: Array, fraction: float, *, axis: Axis = None) -> Array:
    """True where a smooth random field is lowest: ``round(fraction * h * w)`` pixels of every image, ``[b, h, w]``.

    The field is noise on 8 x 8 cells (fewer where they would be below 4 pixels), interpolated; row i draws its own.
    """
    height, width = images.shape[1:3]
    grid = tuple(max(2, min(8, n // 4)) for n in (height, width))
    count = round(fraction * height * width)

    def one(key):
        field = jax.image.resize(jax.random.normal(key, grid, images.dtype), (height, width), "cubic")
        return field < jnp.sort(field.reshape(-1))[count]

    return jax.vmap(one)(parallel.row_keys(key, len(images), axis))


def weighted_error(prediction: Array, target: Array, weight: Array) -> Array:
    """``mean_i sum_p w_ip |x^_ip - x_ip|^2 / (c sum_p w_ip)`` for ``[b, h, w, c]`` and weights ``[b, h, w]``."""
    error = jnp.square(prediction - target).mean(-1)
    return ((weight * error).sum((1, 2)) / weight.sum((1, 2))).mean()


def roles(judge, params: Tree, state: Tree, real: Array, fake: Array) -> tuple[Array, Array, Tree]:
    """What the maker of ``fake`` minimises, what the discriminator minimises, and the discriminator's new state.

    ``E -log D(fake)``, with gradient for ``fake`` alone, and ``E -log D(real) - log(1 - D(fake))``, with gradient for
    ``params`` alone; ln 2 and 2 ln 2 where D knows nothing.

    Args:
      judge: ``(params, state, images) -> (logits [b], state)``.
    """
    fooled, _ = judge(lax.stop_gradient(params), state, fake)
    real, fake = lax.stop_gradient((real, fake))
    on_real, state = judge(params, state, real)
    on_fake, state = judge(params, state, fake)
    fooled, on_real, on_fake = (a.astype(compute_dtype(a)) for a in (fooled, on_real, on_fake))
    return jax.nn.softplus(-fooled).mean(), (jax.nn.softplus(-on_real) + jax.nn.softplus(on_fake)).mean(), state
