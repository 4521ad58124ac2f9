"""Split-brain autoencoder: lightness predicts colour, colour predicts lightness, by networks that share nothing.

    L = CE(g1(f1(L)), bin of (a, b)) + CE(g2(f2(a, b)), bin of L),    features [f1(L), f2(a, b)]

Of an image in Lab the half f1 sees the lightness only and the half f2 the colours only, each with half the channels in
every layer. Since neither sees what it must predict it cannot copy, and together they see everything, so the features
are of the whole image, unlike those of ``colorization``. Both targets are means over 4 x 4 pixels: one of the bins of
``colours.ab_bins``, one of 50 bins of width 2 of L.

Reference: Zhang, Isola and Efros, "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction", 2017,
sections 3.1 and 3.2 (arXiv:1611.09842).
Differs from the reference code: the bins of (a, b), as in ``colorization``; halves are those of ``models`` instead of
AlexNet's, and see three channels, the lightness three times or the colours and zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models
from ssl_jax.methods import classification, init_parts, make_encode, online_trunk
from ssl_jax.methods.colorization import make_bins, paint
from ssl_jax.models.pixels import PlaceClassifier, quarter_size
from ssl_jax.models.split import Split, half_width, halves
from ssl_jax.parallel import named_key
from ssl_jax.tasks import colours
from ssl_jax.types import Array, LossOut, Method, Plan, Variables

FROM = {"colours": 0, "lightness": 1}  # what is predicted, and from which half


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    grid: float = 10,
    temperature: float = 0.38,
    head_width: int = 32,
) -> Method:
    """Two halves of ``encoder`` that predict each other's input; ``encode`` gives the channels of both.

    Args:
      mean, std: not used, Lab has ranges of its own.
      grid: side of a bin in a and b.
      temperature: of the annealed means that are shown.
      head_width: channels of either head between a half's last map and the logits.

    Raises:
      ValueError: an argument outside its meaning, images without colour, or an encoder that has no halves.
    """
    bins, size = make_bins(plan, grid), quarter_size(encoder, plan.input_shape)
    if not temperature > 0:
        raise ValueError(f"method.temperature={temperature} must be positive; the paper on colorization has 0.38")
    trunk_net = Split(half_width(encoder))
    classes = {"colours": len(bins), "lightness": colours.L_BINS}
    heads = {
        name: PlaceClassifier(size, number, head_width, norm=encoder.norm, dtype=encoder.dtype)
        for name, number in classes.items()
    }
    features = make_encode({"encoder": trunk_net}, (0.0,), (1.0,))

    def init(key, batch, given=None):
        images = batch["views"][0]
        params, state = init_parts({"encoder": trunk_net}, key, images, given)
        out, _ = models.forward(trunk_net, params["encoder"], state["encoder"], images, train=False)  # for its shape
        seen = halves(models.deepest(out))[0]
        for name, head in heads.items():
            params[name], state[name] = models.init(head, named_key(key, name), seen)
        return Variables(params, state)

    def predict(variables, images, *, train, axis=None):
        """Logits ``[b, s, s, classes]`` by name from Lab images, the trunk's outputs, the new statistics."""
        params, old, state = variables.params, variables.model_state, {}
        x = colours.scaled(images)
        out, state["encoder"] = models.forward(trunk_net, params["encoder"], old["encoder"], x, train=train, axis=axis)
        seen, logits = halves(models.deepest(out)), {}
        for name, head in heads.items():
            logits[name], state[name] = models.forward(
                head, params[name], old[name], seen[FROM[name]], train=train, axis=axis
            )
        return logits, out, state

    def loss(variables, batch, key, step, axis):
        asked = task(batch["views"][0], size, bins)
        logits, out, state = predict(variables, asked.lab, train=True, axis=axis)
        colours, colour_accuracy = classification(logits["colours"], asked.colours)
        lightness, lightness_accuracy = classification(logits["lightness"], asked.lightness)
        metrics = {
            **{"colour_loss": colours, "lightness_loss": lightness},
            **{"colour_accuracy": colour_accuracy, "lightness_accuracy": lightness_accuracy},
        }
        return colours + lightness, LossOut(state, metrics, outputs={"features": out["features"]})

    def encode(variables, images, max_dim=None):
        return features(variables, colours.scaled(colours.rgb_to_lab(images)), max_dim)

    def show(variables, images, key):
        seen = colours.rgb_to_lab(images)
        logits, _, _ = predict(variables, seen, train=False)
        middle = (np.arange(colours.L_BINS)[:, None] + 0.5) * (100 / colours.L_BINS)
        lightness = colours.annealed_mean(logits["lightness"], middle, temperature)
        lightness = jax.image.resize(lightness, (*images.shape[:3], 1), "nearest").astype(images.dtype)
        flat, none = jnp.full_like(lightness, 60), jnp.zeros_like(seen[..., 1:])
        return {
            "half 1 input: lightness": paint(images, None),
            "half 1 output: colours": paint(images, colours.annealed_mean(logits["colours"], bins, temperature)),
            "half 2 input: colours": colours.lab_to_rgb(jnp.concatenate([flat, seen[..., 1:]], axis=-1)),
            "half 2 output: lightness": colours.lab_to_rgb(jnp.concatenate([lightness, none], axis=-1)),
            "image": images,
        }

    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks={"show": show})


class Task(NamedTuple):
    """The task of a batch: images in Lab ``[b, h, w, 3]``, and for every place the bins of its mean colour and mean
    lightness, int32 ``[b, s, s]``."""

    lab: Array
    colours: Array
    lightness: Array


def task(images: Array, size: int, bins: np.ndarray) -> Task:
    """Ask for both parts of sRGB images ``[b, h, w, 3]`` at ``size`` x ``size`` places."""
    images = colours.rgb_to_lab(images)
    means = colours.pool(images, size)
    _, nearest = colours.soft_encode(means[..., 1:], bins, neighbours=1, sigma=1.0)
    return Task(images, nearest, colours.l_bins(means[..., 0]))
