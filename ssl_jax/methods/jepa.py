"""I-JEPA: from one part of an image predict what a slow copy of the encoder makes of four other parts.

    L = mean over targets (i, p) of smooth_l1(predictor(f(x_C), C, p) - sg(norm(f'(x))_p)),
    xi <- tau_k xi + (1 - tau_k) theta,    tau_k = tau_0 + (1 - tau_0) k / K

f sees the patches C of a context block alone, f' (parameters xi) the whole image; norm is LayerNorm over channels
without parameters, smooth_l1(d) = d^2 / 2 for |d| < 1 and |d| - 1/2 beyond. The four target blocks of an image are
taken out of its context, so no target is seen. The product is the slow copy.

Reference: Assran et al. 2023, "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
section 3 and appendix A (arXiv:2301.08243).
Differs from the reference code: which patches, see :func:`ssl_jax.tasks.masks.multi_block`; tau and the learning rate
follow the run's own length and start, ``optim.warmup_cosine`` from 0 and to 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ssl_jax import models, optim
from ssl_jax.methods import check_vit, make_teacher_encode, normalize, one_view, teacher_trunk
from ssl_jax.models.norm import standardize
from ssl_jax.models.vit import Predictor, patchify, unpatchify
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.tasks.masks import Blocks, Layout, block_sizes, multi_block
from ssl_jax.types import Array, LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    tau: float = 0.996,
    num_targets: int = 4,
    target_scale: Sequence[float] = (0.15, 0.2),
    target_aspect: Sequence[float] = (0.75, 1.5),
    context_scale: Sequence[float] = (0.85, 1.0),
    max_context: float = 0.5,
    predictor_width: int = 384,
    predictor_layers: int = 12,
    predictor_heads: int | None = None,
) -> Method:
    """I-JEPA around ``encoder``, a ViT.

    Args:
      tau: target decay tau_0, linear to 1 at the end of the run.
      num_targets: target blocks of an image.
      target_scale, target_aspect: ranges of a target block's share of the image and of its height over its width.
      context_scale: range of the context block's share of the image, a square.
      max_context: share of the image's patches that the context encoder is shown at most. About 46 % are visible on
        average; at .5 a third of the images lose some of theirs, 5 % of all that are visible; at 1 none does.
      predictor_width: 384 in the paper.
      predictor_layers: 6 for ViT-B, 12 for larger ones.
      predictor_heads: None: as many as the encoder has.

    Raises:
      ValueError: an encoder that is no ViT, an argument outside its meaning, a grid so coarse that no context is left.
    """
    check_vit(encoder, "jepa", "shows its encoder single patches")
    if not 0 <= tau <= 1:
        raise ValueError(f"method.tau={tau} must be between 0 and 1; the paper uses 0.996")
    heads = predictor_heads or encoder.heads
    if predictor_width % 4 or predictor_width % heads:
        raise ValueError(
            f"method.predictor_width={predictor_width} must be a multiple of 4 and of its {heads} heads; "
            f"use {4 * heads * max(1, round(predictor_width / (4 * heads)))}"
        )
    layout = _layout(encoder, plan, num_targets, target_scale, target_aspect, context_scale, max_context)
    predictor = Predictor(
        encoder.dim, layout.grid, predictor_width, predictor_layers, heads, encoder.depth_scaled_init, encoder.dtype
    )
    tau_at = optim.linear(tau, 1.0, plan.total_steps)

    def init(key, batch, given=None):
        images = batch["views"][0]
        encoder_params, state = (given or {}).get("encoder") or models.init(encoder, named_key(key, "encoder"), images)
        blocks = jax.eval_shape(lambda key: multi_block(key, 1, layout), key)
        inputs = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), blocks._asdict())
        tokens = jax.ShapeDtypeStruct((1, layout.max_context, encoder.dim), images.dtype)
        predictor_params, _ = models.init(predictor, named_key(key, "predictor"), tokens, **inputs)
        return Variables(
            params={"encoder": encoder_params, "predictor": predictor_params},
            model_state={"encoder": state, "predictor": {}, "target": {"encoder": state}},
            aux={"target": {"encoder": encoder_params}},
        )

    def predict(params, images, blocks, *, train, axis=None, keys=None):
        """Tokens ``[b, m, t, d]`` of the targets, from the context alone."""
        inputs = {"patches": blocks.context, "present": blocks.present, "keys": keys}
        seen, _ = models.forward(encoder, params["encoder"], {}, images, train=train, axis=axis, **inputs)
        tokens = seen[encoder.last_stage]
        out, _ = models.forward(predictor, params["predictor"], {}, tokens, train=train, axis=axis, **blocks._asdict())
        return out

    def teach(variables, images):
        """Normalised tokens ``[b, n, d]`` of the whole image, and its features ``[b, d]``, from the slow copy."""
        out, _ = models.forward(encoder, variables.aux["target"]["encoder"], {}, images, train=False)
        tokens = out[encoder.last_stage]
        return lax.stop_gradient((standardize(tokens.reshape(len(tokens), -1, encoder.dim), 1e-5), out["features"]))

    def loss(variables, batch, key, step, axis):
        images = one_view(batch, mean, std)
        n = len(images)
        blocks = multi_block(named_key(key, "blocks"), n, layout, axis)
        keys = row_keys(named_key(key, "drop_path"), n, axis)
        tokens, features = teach(variables, images)
        predicted = predict(variables.params, images, blocks, train=True, axis=axis, keys=keys)
        value = jnp.mean(_row_losses(predicted, tokens, blocks))
        centre = mean_over_devices(tokens.mean(0), axis)
        # How far images differ at the same place: 0 where the target knows places only, at most about 1.
        spread = jnp.sqrt(mean_over_devices(jnp.square(tokens - centre[None]).mean(), axis))
        return value, LossOut(
            model_state=variables.model_state,
            metrics={"tau": tau_at(step).astype(value.dtype), "target_std": spread},
            outputs={"features": features, "projections": features},
        )

    def update_aux(variables, carry, step):
        online = {"encoder": variables.params["encoder"]}
        return {"target": optim.ema(variables.aux["target"], online, tau_at(step))}

    def show(variables, images, key):
        """What is given, what is asked, and the patches, of all shown, whose targets are nearest to the guesses."""
        n, size = len(images), encoder.patch_size
        blocks = multi_block(key, n, layout)
        normal = normalize(images, mean, std)
        (tokens, _), guesses = teach(variables, normal), predict(variables.params, normal, blocks, train=False)
        bank = tokens.reshape(-1, encoder.dim)
        distance = jnp.square(bank).sum(1)[None, None, None] - 2 * guesses @ bank.T
        pixels = patchify(images, size)
        nearest = pixels.reshape(-1, pixels.shape[-1])[distance.argmin(-1)]

        def paint(places, present, patches):
            """``patches`` at their places on grey; what fills the rows up falls off the end."""
            canvas = jnp.full((pixels.shape[1] + 1, pixels.shape[2]), 0.5, images.dtype)
            return canvas.at[jnp.where(present, places, len(canvas) - 1)].set(patches)[:-1]

        def rows(places, present, patches):
            places, present = places.reshape(n, -1), present.reshape(n, -1)
            painted = jax.vmap(paint)(places, present, patches.reshape(n, places.shape[1], -1))
            return unpatchify(painted, layout.grid, size)

        def own(places):
            return jnp.take_along_axis(pixels, places.reshape(n, -1, 1), axis=1)

        return {
            "input": images,
            "context": rows(blocks.context, blocks.present, own(blocks.context)),
            "target": rows(blocks.targets, blocks.wanted, own(blocks.targets)),
            "prediction (nearest patch)": rows(blocks.targets, blocks.wanted, nearest),
        }

    return Method(
        init=init,
        loss=loss,
        trunk=teacher_trunk,
        encode=make_teacher_encode({"encoder": encoder}, mean, std),
        update_aux=update_aux,
        hooks={"show": show},
    )


def _layout(encoder, plan, num_targets, target_scale, target_aspect, context_scale, max_context) -> Layout:
    """The grid of the run's images and the blocks that fit it; ValueError where arguments or grid do not."""
    for name, (low, high) in {"target_scale": target_scale, "context_scale": context_scale}.items():
        if not 0 < low <= high <= 1:
            raise ValueError(f"method.{name}={(low, high)} must be two shares of the image, the smaller first")
    if not 0 < target_aspect[0] <= target_aspect[1]:
        raise ValueError(f"method.target_aspect={tuple(target_aspect)} must be two positive numbers, the smaller first")
    if num_targets < 1:
        raise ValueError(f"method.num_targets={num_targets} asks for nothing; the paper uses 4")
    if not 0 < max_context <= 1:
        raise ValueError(f"method.max_context={max_context} must be a share of the image in (0, 1]")
    grid = encoder.grid(*plan.input_shape[:2])
    context = block_sizes(grid, context_scale, (1.0, 1.0))
    targets = block_sizes(grid, target_scale, target_aspect)
    smallest = context.prod(1).min()
    targets = targets[num_targets * targets.prod(1) < smallest]
    if not len(targets):
        raise ValueError(
            f"method.num_targets={num_targets} blocks may cover a context of {smallest} patches, all that "
            f"{grid[0]} x {grid[1]} patches hold; use a smaller model.patch_size, smaller method.target_scale or fewer"
        )
    return Layout(grid, targets, context, num_targets, max(1, round(max_context * grid[0] * grid[1])))


def _row_losses(predicted: Array, tokens: Array, blocks: Blocks) -> Array:
    """Smooth L1 of every image, ``[b]``, over its targets and all channels."""
    b, m, t, _ = predicted.shape
    wanted = jnp.take_along_axis(tokens, blocks.targets.reshape(b, m * t, 1), axis=1).reshape(predicted.shape)
    losses = optax.huber_loss(predicted, wanted.astype(predicted.dtype), delta=1.0).mean(-1)
    weight = blocks.wanted.astype(losses.dtype)
    return (weight * losses).sum((1, 2)) / weight.sum((1, 2))
