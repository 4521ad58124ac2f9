"""Spotting artifacts: which of two images was repaired after damage, and where?

    x_0 = g(e(x)),    x_r = g_R(m e(x) + (1 - m) a(e(x)), m)
    L = CE(D(x_0), real) / 2 + CE(D(x_r), repaired) / 2 + w_m BCE(M(x_0), 1) / 2 + w_m BCE(M(x_r), m) / 2
      + CE(D(x_r), real) + w_x sum_p m_p (x_rp - x_p)^2 / sum_p m_p,    images in [-1, 1] in the last term

e and g are encoder and decoder of an autoencoder that has been trained and is frozen. Every place of its code is
dropped by a coin of its own: m = 0, and the mean of the 3 x 3 places around it, a, stands there instead. g_R is g with
residual layers in between that may change its maps where m = 0 and nowhere else; they are trained to make up what is
missing so that the discriminator D does not notice. The encoder trained here is D's. That "real" images go through the
autoencoder, too, keeps D from telling blurred from sharp; that it must also find m (by M, a convolution on its last
map) makes it look at places.

Three roles stand in one scalar: the autoencoder's squared error in the first ``autoencoder_steps`` steps (none with
the weights of a finished run); then the first line of L for D and M, the second for the repair layers, each with a
stop_gradient on the other's parameters. Whoever has no gradient keeps parameters and optimizer state bit for bit.

Reference: Jenni and Favaro, "Self-Supervised Feature Learning by Learning to Spot Artifacts", 2018, section 3
(arXiv:1806.05024).
Differs from the reference code: the networks are those of ``models``, with a linear D on pooled features; D and the
repair layers see a batch of as many real as repaired images, as there, but the layers' first term is a mean over the
repaired ones alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ssl_jax import models, parallel
from ssl_jax.losses import psnr
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import autoencoder as autoencoders
from ssl_jax.methods import classification, init_parts, make_encode, normalize, online_trunk, run_parts
from ssl_jax.models.decoder import encoder_decoder, last_map
from ssl_jax.models.heads import linear
from ssl_jax.models.repair import MaskHead, RepairLayer, enlarge
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import Array, Axis, LossOut, Method, Part, Plan, Variables

REAL, REPAIRED = 0, 1


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    autoencoder_steps: int | None = None,
    latent_dim: int | None = None,
    decoder_widths: Sequence[int] | None = None,
    drop: float = 0.7,
    repair_layers: int | None = None,
    mask_weight: float = 0.1,
    reconstruction_weight: float = 30.0,
    repair_rate: float = 1.0,
) -> Method:
    """The game around ``encoder``, which is also the architecture of the autoencoder's own encoder.

    Args:
      autoencoder_steps: in which the autoencoder is trained first; None: a third of the run; 0: it is given as
        ``init_from.autoencoder``, a run of the method ``autoencoder`` with ``spatial=True`` and ``loss="mse"``. Each
        role starts the schedule of the rate when it begins to move.
      latent_dim: channels of the code; None: 128.
      decoder_widths: as in ``autoencoder``; together they double the encoder's last map to the size of the images.
      drop: the chance of a place to be dropped; 0.7 in the paper's code.
      repair_layers: how many, at the code and after the decoder's stages in turn; None: everywhere, 5 in the paper.
      mask_weight: w_m.
      reconstruction_weight: w_x.
      repair_rate: learning rate of the repair layers as a multiple of the optimizer's.

    Raises:
      ValueError: an argument outside its meaning, or networks that do not fit the images.
    """
    steps = max(1, plan.total_steps // 3) if autoencoder_steps is None else autoencoder_steps
    if steps < 0:
        raise ValueError(f"method.autoencoder_steps={steps} must not be negative; 0 takes init_from.autoencoder")
    if not 0 < drop < 1:
        raise ValueError(f"method.drop={drop} must be between 0 and 1; the paper's code has 0.7")
    for name, value in {"mask_weight": mask_weight, "reconstruction_weight": reconstruction_weight}.items():
        if value < 0:
            raise ValueError(f"method.{name}={value} must not be negative; 0 leaves its term out")
    if not repair_rate > 0:
        raise ValueError(f"method.repair_rate={repair_rate} must be positive; the paper has 1")
    ae_parts: dict[str, Any] = dict(
        encoder_decoder(encoder, plan.input_shape, latent_dim=latent_dim, widths=decoder_widths, spatial=True)
    )
    places = last_map(encoder, plan.input_shape)[:2]
    maps = len(ae_parts["decoder"].widths) + 1
    count = maps if repair_layers is None else repair_layers
    if not 1 <= count <= maps:
        raise ValueError(f"method.repair_layers={count} but the decoder has {maps} maps; use 1 to {maps}")

    ae = autoencoders.make(
        encoder,
        plan=plan,
        mean=mean,
        std=std,
        loss="mse",
        latent_dim=latent_dim,
        decoder_widths=decoder_widths,
        spatial=True,
    )
    widths = (ae_parts["bottleneck"].latent_dim, *ae_parts["decoder"].widths)
    layers = {f"layer{k}": RepairLayer(encoder.norm, dtype=encoder.dtype) for k in range(count)}
    heads = {"classifier": linear(2, dtype=encoder.dtype), "mask": MaskHead(dtype=encoder.dtype)}

    def init(key, batch, given=None):
        images = batch["views"][0]
        own = ae.init(named_key(key, "autoencoder"), batch)
        if given and "autoencoder" in given:
            own = Variables(*given["autoencoder"])
        params, state = init_parts({"encoder": encoder}, key, images, given)
        outputs, _ = models.forward(encoder, params["encoder"], state["encoder"], images, train=False)
        for name, x in {"classifier": outputs["features"], "mask": models.deepest(outputs)}.items():
            params[name], state[name] = models.init(heads[name], named_key(key, name), x)
        repair = {}
        for k, (name, layer) in enumerate(layers.items()):
            shape = (1, places[0] << k, places[1] << k, widths[k])
            kept = jnp.ones((1, *places), bool)
            repair[name] = models.init(
                layer, named_key(key, f"repair{k}"), jax.ShapeDtypeStruct(shape, images.dtype), kept=kept
            )
        params["repair"], state["repair"] = ({name: pair[i] for name, pair in repair.items()} for i in range(2))
        return Variables(params | {"autoencoder": own.params}, state | {"autoencoder": own.model_state})

    def encoded(variables, images):
        """The frozen code ``[b, h, w, latent_dim]`` of images."""
        params, state = lax.stop_gradient((variables.params["autoencoder"], variables.model_state["autoencoder"]))
        parts = {name: ae_parts[name] for name in ("encoder", "bottleneck")}
        out, _ = run_parts(parts, params, state, normalize(images, mean, std), train=False, read=models.deepest)
        return out["bottleneck"]

    def decoded(variables, code, **between):
        """The frozen decoder's images; gradients pass through it and do not reach it."""
        params, state = lax.stop_gradient((variables.params["autoencoder"], variables.model_state["autoencoder"]))
        images, _ = models.forward(
            ae_parts["decoder"], params["decoder"], state["decoder"], code, train=False, **between
        )
        return images.astype(compute_dtype(images))

    def repaired(variables, code, kept, *, train, axis=None):
        """The frozen decoder's images with the repair layers in between, and the layers' new state."""
        params, state = variables.params["repair"], dict(variables.model_state["repair"])

        def between(k, x):
            name = f"layer{k}"
            if name in layers:
                x, state[name] = models.forward(
                    layers[name], params[name], state[name], x, kept=kept, train=train, axis=axis
                )
            return x

        return decoded(variables, code, between=between), state

    def judge(params, state, images, *, train, axis=None):
        """(logits real or repaired ``[b, 2]``, logits of the mask ``[b, h, w]``, features, new state)."""
        state = {name: state[name] for name in ("encoder", *heads)}
        out, state["encoder"] = models.forward(
            encoder, params["encoder"], state["encoder"], normalize(images, mean, std), train=train, axis=axis
        )
        found = {}
        for name, x in {"classifier": out["features"], "mask": models.deepest(out)}.items():
            found[name], state[name] = models.forward(heads[name], params[name], state[name], x, train=train, axis=axis)
        return found["classifier"], found["mask"], out["features"], state

    def play(variables, images, key, axis):
        params, state, number = variables.params, variables.model_state, len(images)
        code = encoded(variables, images)
        damaged, kept = damage(key, code, drop, axis=axis)
        real = decoded(variables, code)
        fake, repair_state = repaired(variables, damaged, kept, train=True, axis=axis)
        both = jnp.concatenate([real, fake])

        logits, mask, features, new = judge(params, state, lax.stop_gradient(both), train=True, axis=axis)
        labels = jnp.repeat(jnp.asarray([REAL, REPAIRED], jnp.int32), number)
        told, accuracy = classification(logits, labels)
        mask = mask.astype(compute_dtype(mask))
        truth = jnp.concatenate([jnp.ones_like(kept), kept]).astype(mask.dtype)
        located = optax.sigmoid_binary_cross_entropy(mask, truth)

        # The same forward pass, which the compiler does once, with gradient for the other role.
        of_fake = judge(lax.stop_gradient(params), state, both, train=True, axis=axis)[0][number:]
        fooled, _ = classification(of_fake, jnp.full(number, REAL, jnp.int32))
        error = kept_error(fake, images, kept, axis)

        value = told + mask_weight * located.mean() + fooled + reconstruction_weight * error
        metrics = {
            "task_accuracy": accuracy,
            "discriminator_loss": told,
            "mask_bce": located[number:].mean(),
            "fool_loss": fooled,
            "kept_error": error,
            "psnr": psnr(parallel.mean(jnp.square(real - images.astype(real.dtype)).mean(), axis)),
        }
        new |= {"repair": repair_state, "autoencoder": state["autoencoder"]}
        return value, LossOut(new, metrics, outputs={"features": features[:number]})

    def loss(variables, batch, key, step, axis):
        images = batch["views"][0]
        value, out = play(variables, images, key, axis)
        if not steps:
            return value, out
        # Both stages are computed and one is chosen: XLA for CPUs has gradients of convolutions inside a conditional
        # that take 30 times as long. A gradient that was not chosen is zero in every digit.
        own = Variables(variables.params["autoencoder"], variables.model_state["autoencoder"])
        first_value, first = ae.loss(own, {"views": (images,)}, key, step, axis)
        early = step < steps
        old = variables.model_state
        state, metrics = jax.tree.map(
            lambda a, b: jnp.where(early, a, b),
            (old | {"autoencoder": first.model_state}, {**out.metrics, **first.metrics}),
            (out.model_state, out.metrics),
        )
        metrics |= {"stage": (~early).astype(value.dtype)}  # whose losses are not compared
        return jnp.where(early, first_value, value), out._replace(model_state=state, metrics=metrics)

    def wrap_tx(tx):
        repair_tx = if_asked(optax.chain(tx, optax.scale(repair_rate)))
        others = ("autoencoder", "repair")
        return optax.partition(
            {"autoencoder": if_asked(tx), "repair": repair_tx, "discriminator": if_asked(tx)},
            lambda params: {part: part if part in others else "discriminator" for part in params},
        )

    def show(variables, images, key):
        code = encoded(variables, images)
        damaged, kept = damage(key, code, drop)
        fake, _ = repaired(variables, damaged, kept, train=False)
        _, mask, _, _ = judge(variables.params, variables.model_state, fake, train=False)
        rows = {"image": images, "autoencoder": decoded(variables, code), "damaged": decoded(variables, damaged)}
        rows |= {"repaired": fake, "kept": kept, "kept, as predicted": jax.nn.sigmoid(mask)}
        for name in ("kept", "kept, as predicted"):
            rows[name] = enlarge(rows[name], images.shape[1] // kept.shape[1])[..., None].astype(images.dtype)
        return {name: jnp.clip(row, 0, 1) for name, row in rows.items()}

    def own_autoencoder(variables):
        return variables.params["autoencoder"], variables.model_state["autoencoder"]

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode({"encoder": encoder}, mean, std),
        wrap_tx=wrap_tx,
        hooks={"show": show},
        parts={"autoencoder": Part(own_autoencoder, partial(check_autoencoder, mean=mean, std=std), needed=not steps)},
    )


def damage(key: Array, code: Array, drop: float, *, axis: Axis = None) -> tuple[Array, Array]:
    """A code ``[b, h, w, d]`` some of whose places hold the mean of the 3 x 3 places around them, fewer at the border.

    Returns:
      (the damaged code, bool ``[b, h, w]``: True where it was kept); every place of row i is dropped with chance
      ``drop`` by a draw of its own from the row's key.
    """
    around, number = (
        lax.reduce_window(a, np.zeros((), a.dtype), lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        for a in (code, jnp.ones((1, *code.shape[1:3], 1), code.dtype))
    )
    keys = row_keys(key, len(code), axis)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - drop, code.shape[1:3]))(keys)
    return jnp.where(kept[..., None], code, around / number), kept


def kept_error(images: Array, target: Array, kept: Array, axis: Axis = None) -> Array:
    """Mean squared error, of values in [-1, 1], over the pixels of the places that were ``kept`` in the whole batch."""
    weight = enlarge(kept, images.shape[1] // kept.shape[1]).astype(images.dtype)
    error = jnp.square(2 * (images - target.astype(images.dtype))).mean(-1)
    return (weight * error).sum() / jnp.maximum(parallel.mean(weight.sum(), axis), 1)


def if_asked(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """``tx`` where any gradient is not zero; else nothing moves, neither parameters nor the optimizer's state.

    Weight decay and momentum would go on without a gradient. That the gradient itself decides keeps the optimizer in
    step with the loss even when updates were skipped.
    """

    def update(updates, state, params=None):
        asked = jnp.stack([jnp.any(g != 0) for g in jax.tree.leaves(updates)]).any()
        rest = jax.tree.map(jnp.zeros_like, updates)
        return lax.cond(asked, lambda: tx.update(updates, state, params), lambda: (rest, state))

    return optax.GradientTransformation(tx.init, update)


def check_autoencoder(config: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse the config of a run that made another autoencoder than this method needs.

    Raises:
      ValueError: a run of another method or form, or on images of another normalisation.
    """
    form = {k: config["method"].get(k) for k in ("name", "spatial", "loss")}
    if form != {"name": "autoencoder", "spatial": True, "loss": "mse"}:
        raise ValueError(
            f"it is a run of {form['name']!r} with spatial={form['spatial']} and loss={form['loss']!r}; use one of "
            "'autoencoder' with spatial=True and loss='mse'"
        )
    for name, mine in {"mean": mean, "std": std}.items():
        if list(mine) != list(config["data"][name]):
            raise ValueError(
                f"it had data.{name}={tuple(config['data'][name])} and this run has {tuple(mine)}; use the same"
            )
