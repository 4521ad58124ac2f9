"""MAE: from a quarter of an image's patches paint the others.

    L = mean over hidden patches i of |x^_i - x_i|^2 / P,    x^ = decoder(encoder(patches that are shown))

x_i are the P numbers of a patch, by default less their mean and over their deviation. Which patches are shown is
random; the encoder sees no others and so costs a quarter, and the decoder is narrow. The product is the encoder, run on
whole images.

Of a dead run, whose decoder knows places and no image, ``explained`` stays near 0 and ``prediction_std`` is 0. A low
kNN accuracy beside a good fine-tuned one is MAE's nature, not a collapse.

Reference: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3 and appendix A.1
(arXiv:2111.06377).
Differs from the reference code: the number of patches that are shown is exact, see ``tasks/masks.num_kept``; targets
are standardised by default, as in its README's commands; weights of the blocks start at a deviation of .02, and not
uniform after Glorot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.losses import masked_mse, standardized_patches
from ssl_jax.methods import check_vit, make_encode, normalize, one_view, online_trunk
from ssl_jax.models.vit import PatchDecoder, patchify, unpatchify
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.tasks.masks import num_kept, random_shown
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    mask_ratio: float = 0.75,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    norm_pix: bool = True,
) -> Method:
    """MAE around ``encoder``, a ViT.

    Args:
      mask_ratio: share of the patches that are hidden.
      decoder_width, decoder_depth, decoder_heads: the paper's for ViT-B, L and H alike.
      norm_pix: targets are patches less their own mean and over their own deviation.

    Raises:
      ValueError: an encoder that is no ViT, a ratio that shows or hides no patch, a decoder that cannot be.
    """
    check_vit(encoder, "mae", "shows its encoder a part of the patches")
    grid, size = encoder.grid(*plan.input_shape[:2]), encoder.patch_size
    n = grid[0] * grid[1]
    keep = num_kept(n, mask_ratio) if 0 < mask_ratio < 1 else 0
    if not 0 < keep < n:
        raise ValueError(
            f"method.mask_ratio={mask_ratio} of {grid[0]} x {grid[1]} patches leaves none to see or none to paint; "
            "the paper hides 0.75, or use a smaller model.patch_size"
        )
    if decoder_depth < 1 or decoder_heads < 1 or decoder_width % 4 or decoder_width % decoder_heads:
        raise ValueError(
            f"method.decoder_width={decoder_width}, decoder_depth={decoder_depth} and decoder_heads={decoder_heads} "
            "make no decoder; use at least one block, and a multiple of 4 and of the heads as width"
        )
    numbers = size * size * plan.input_shape[2]
    decoder = PatchDecoder(numbers, grid, decoder_width, decoder_depth, decoder_heads, encoder.dtype)

    def targets_of(images):
        """(What is to be painted ``[b, n, P]``, how a painting becomes pixels again)."""
        patches = patchify(images, size)
        if not norm_pix:
            return patches, lambda painted: painted
        targets, centre, deviation = standardized_patches(patches)
        return targets, lambda painted: painted * deviation + centre

    def paint(params, images, shown, *, train, axis=None, keys=None):
        """All patches ``[b, n, P]``, and what the encoder gives of those that are shown."""
        run = partial(models.forward, state={}, train=train, axis=axis)
        out, _ = run(encoder, params["encoder"], x=images, patches=shown.kept, keys=keys)
        tokens, cls = out[encoder.last_stage], out.get("cls")
        painted, _ = run(decoder, params["decoder"], x=tokens, restore=shown.restore, cls=cls)
        return painted, out

    def init(key, batch, given=None):
        images = batch["views"][0]
        encoder_params, _ = (given or {}).get("encoder") or models.init(encoder, named_key(key, "encoder"), images)
        shown = random_shown(key, 1, n, keep)
        cls = jnp.zeros((1, encoder.width), images.dtype) if encoder.cls_token else None
        tokens = jax.ShapeDtypeStruct((1, keep, encoder.width), images.dtype)
        inputs = {"restore": shown.restore, "cls": cls}
        decoder_params, _ = models.init(decoder, named_key(key, "decoder"), tokens, **inputs)
        return Variables({"encoder": encoder_params, "decoder": decoder_params}, {"encoder": {}, "decoder": {}})

    def loss(variables, batch, key, step, axis):
        images = one_view(batch, mean, std)
        b = len(images)
        shown = random_shown(named_key(key, "mask"), b, n, keep, axis)
        keys = row_keys(named_key(key, "drop_path"), b, axis)
        painted, out = paint(variables.params, images, shown, train=True, axis=axis, keys=keys)
        targets, _ = targets_of(images)
        value = masked_mse(painted, targets, shown.masked)
        of_nothing = masked_mse(jnp.zeros_like(painted), targets, shown.masked)
        error, greatest = mean_over_devices((value, of_nothing), axis)
        # How far paintings of one place differ from image to image, where it was hidden.
        weight = shown.masked.astype(painted.dtype)[:, :, None]
        total, count = mean_over_devices(((weight * painted).sum(0), weight.sum(0)), axis)
        off = weight * jnp.square(painted - (total / jnp.maximum(count, 1e-6))[None])
        spread = jnp.sqrt(mean_over_devices(off.sum() / (weight.sum() * numbers), axis))
        # The alarm watches the mean of the patches: class tokens of healthy runs lie close together, too.
        return value, LossOut(
            model_state=variables.model_state,
            metrics={"explained": 1 - error / greatest, "prediction_std": spread},
            outputs={"features": out["features"], "projections": out["mean"]},
        )

    def show(variables, images, key):
        """The image, what is kept of it, all that is painted, and that with what was kept pasted in.

        Standardised targets leave mean and contrast of a patch open: the picture takes the true ones.
        """
        shown = random_shown(key, len(images), n, keep)
        normal = normalize(images, mean, std)
        painted, _ = paint(variables.params, normal, shown, train=False)
        painted = unpatchify(targets_of(normal)[1](painted), grid, size)
        shift, scale = (jnp.asarray(a, images.dtype)[None, None, None] for a in (mean, std))
        painted = jnp.clip(painted.astype(images.dtype) * scale + shift, 0, 1)
        hidden = unpatchify(jnp.repeat(shown.masked[:, :, None], size * size, axis=2), grid, size)
        title = "reconstruction (true mean and contrast)" if norm_pix else "reconstruction"
        return {
            "input": images,
            "kept": jnp.where(hidden, jnp.asarray(0.5, images.dtype), images),
            title: painted,
            "with what was kept": jnp.where(hidden, painted, images),
        }

    encode = make_encode({"encoder": encoder}, mean, std)
    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks={"show": show})
