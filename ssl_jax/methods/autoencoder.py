"""Autoencoder: a network squeezes an image into a short code, another makes the image from the code again.

    z = f(x),    L = mean over images, pixels and channels of -x log s(g(z)) - (1 - x) log(1 - s(g(z)))

f is the encoder, g the decoder, s the logistic function, x in [0, 1]; or L = mean (g(z) - x)^2. With the ``mlp``
encoder 784-128-128-10 and back this is the classical autoencoder, z its features. Any convolutional encoder of
``models`` gets a linear bottleneck behind its last map and a convolutional decoder; its features are the pooled map as
everywhere, z the projections. The bottleneck alone stands against the identity.

Grey pixels have a cross-entropy above zero whatever the network does, so the metric ``excess_loss`` is L less the mean
binary entropy of the pixels. Linear networks under squared error find the subspace of PCA.

Reference: Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 2006; Baldi
and Hornik, "Neural Networks and Principal Component Analysis", 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ssl_jax import models, parallel
from ssl_jax.losses import pixel_bce, pixel_entropy, psnr
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import init_parts, make_encode, normalize, online_trunk, run_parts
from ssl_jax.models.decoder import encoder_decoder
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    loss: str = "bce",
    latent_dim: int | None = None,
    decoder_widths: Sequence[int] | None = None,
    spatial: bool = False,
) -> Method:
    """An autoencoder around ``encoder``.

    Args:
      loss: "bce", cross-entropy per pixel, or "mse", squared error per pixel.
      latent_dim: width of the bottleneck behind a convolutional encoder; None: 128. An mlp has its own.
      decoder_widths: of the decoder's layers; None: (128, 64), each doubling the map, or the mlp's in reverse.
      spatial: the code keeps the places of the last map, ``[b, h, w, latent_dim]``, and the decoder starts from them.

    Raises:
      ValueError: an unknown loss, or networks that do not fit the images.
    """
    return reconstruction(
        encoder,
        plan=plan,
        mean=mean,
        std=std,
        loss=loss,
        latent_dim=latent_dim,
        decoder_widths=decoder_widths,
        spatial=spatial,
    )


def reconstruction(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float],
    std: Sequence[float],
    loss: str,
    latent_dim: int | None,
    decoder_widths: Sequence[int] | None,
    spatial: bool = False,
    corrupt: Callable[[Array, Array, Axis], Array] | None = None,
) -> Method:
    """Arguments as in :func:`make`; ``corrupt(key, images, axis)`` makes the input where that is not the image."""
    if loss not in ("bce", "mse"):
        raise ValueError(f"method.loss={loss!r} is not one of bce, mse")
    parts = encoder_decoder(encoder, plan.input_shape, latent_dim=latent_dim, widths=decoder_widths, spatial=spatial)

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given, read=models.deepest))

    def run(variables, images, *, train, axis=None):
        images = normalize(images, mean, std)
        params, state = variables.params, variables.model_state
        return run_parts(parts, params, state, images, train=train, axis=axis, read=models.deepest)

    def picture(decoded):
        """The decoder's output as an image; under squared error it is one already, but for what leaves [0, 1]."""
        decoded = decoded.astype(compute_dtype(decoded))
        return jax.nn.sigmoid(decoded) if loss == "bce" else decoded

    def loss_of(variables, batch, key, step, axis):
        images = batch["views"][0]
        inputs = images if corrupt is None else corrupt(key, images, axis)
        out, model_state = run(variables, inputs, train=True, axis=axis)
        target = images.astype(compute_dtype(images))
        error, input_error = (
            jnp.square(a.astype(target.dtype) - target).mean() for a in (picture(out["decoder"]), inputs)
        )
        value = pixel_bce(out["decoder"], images) if loss == "bce" else error
        error, input_error = parallel.mean((error, input_error), axis)
        metrics = {"psnr": psnr(error)}
        if loss == "bce":
            metrics["excess_loss"] = value - pixel_entropy(images)
        if corrupt is not None:
            metrics["psnr_gain"] = psnr(error) - psnr(input_error)
        features = out["encoder"]["features"]
        code = models.pooled({"code": out.get("bottleneck", features)})["code"]
        outputs = {"features": features, "projections": code}
        return value, LossOut(model_state, metrics=metrics, outputs=outputs)

    def reconstruct(variables, images):
        out, _ = run(variables, images, train=False)
        return jnp.clip(picture(out["decoder"]), 0, 1)

    def show(variables, images, key):
        inputs = images if corrupt is None else corrupt(key, images, None)
        seen = {"image": images} if corrupt is None else {"image": images, "input": jnp.clip(inputs, 0, 1)}
        return seen | {"reconstruction": reconstruct(variables, inputs)}

    return Method(
        init=init,
        loss=loss_of,
        trunk=online_trunk,
        encode=make_encode({"encoder": encoder}, mean, std),
        hooks={"reconstruct": reconstruct, "show": show},
    )
