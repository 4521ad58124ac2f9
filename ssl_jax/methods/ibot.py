"""iBOT: DINO, and of every hidden patch the student must guess what the teacher, who sees the whole image, makes of it.

    L = L_DINO(class tokens) + w mean_i 1/|M_i| sum_{t in M_i} -sum_k q_itk log p_itk + k sum_v KoLeo(student, v)

q and p are DINO's, of the tokens at patch t, with a centre of their own. In the student's global views the patches M_i,
blocks in half of them, are one learned token. The mean is over all views, so that half of the log K of a dead run is
there to lose. With ``koleo=.1, teacher="sinkhorn", shared_head=False`` it is DINOv2's loss. The teacher is the product.

The metrics are DINO's and those of the patches, which can collapse while the class tokens do not.

Reference: Zhou et al. 2022, "iBOT: Image BERT Pre-Training with Online Tokenizer", equations 2 and 3
(arXiv:2111.07832); Oquab et al. 2023, "DINOv2", section 4 (arXiv:2304.07193).
Differs from the reference code: heads are shared by default, as in its README's commands; DINOv2 chooses images to mask
and neighbours of KoLeo otherwise, here it is all rows of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from ssl_jax import losses, methods, models
from ssl_jax.methods import init_parts, view_by_view
from ssl_jax.methods._distillation import assignment_metrics, distillation_of
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.tasks.masks import block_masks, check_shares, first_masked, random_shares
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    tau: float = 0.996,
    temperature: float = 0.1,
    teacher_temperature: float = 0.07,
    warmup_teacher_temperature: float = 0.04,
    warmup_teacher_epochs: int = 30,
    centre_momentum: float = 0.9,
    out_dim: int = 8192,
    hidden: int = 2048,
    bottleneck: int = 256,
    layers: int = 3,
    norm_last_layer: bool = False,
    freeze_last_layer: float = 1,
    shared_head: bool = True,
    teacher: str = "centre",
    patch_weight: float = 1.0,
    koleo: float = 0.0,
    mask_ratio: Sequence[float] = (0.1, 0.5),
    mask_chance: float = 0.5,
) -> Method:
    """iBOT around ``encoder``, a ViT with ``model.cls_token=True`` and ``pool=cls``.

    Args:
      tau, temperature, teacher_temperature, warmup_teacher_temperature, warmup_teacher_epochs: as DINO's.
      centre_momentum, out_dim, hidden, bottleneck, layers, norm_last_layer, freeze_last_layer: as DINO's.
      shared_head: one head for class tokens and patches, or one for each.
      teacher: "centre", or "sinkhorn", three iterations that use all prototypes equally and need no centre.
      patch_weight, koleo: w and k; DINOv2 has 1 and .1.
      mask_ratio, mask_chance: least and largest share of a view's patches that are hidden, and share of such views.

    Raises:
      ValueError: an encoder that is no such ViT, an argument outside its meaning, a grid too coarse to be masked.
    """
    methods.check_vit(encoder, "ibot", "hides patches")
    if encoder.pool != "cls":
        raise ValueError(f"method.name='ibot' and model.pool={encoder.pool!r}: set pool='cls' and model.cls_token=True")
    numbers = {
        **{"tau": tau, "temperature": temperature, "teacher_temperature": teacher_temperature, "koleo": koleo},
        **{"warmup_teacher_temperature": warmup_teacher_temperature, "warmup_teacher_epochs": warmup_teacher_epochs},
        **{"centre_momentum": centre_momentum, "freeze_last_layer": freeze_last_layer, "patch_weight": patch_weight},
        **{"out_dim": out_dim, "hidden": hidden, "bottleneck": bottleneck, "layers": layers},
    }
    how = distillation_of(encoder, plan, numbers, norm_last_layer=norm_last_layer, teacher=teacher)
    grid, (low, high) = encoder.grid(*plan.input_shape[:2]), mask_ratio
    most = check_shares(grid, low, high, mask_chance)
    patch = "" if shared_head else "patch_"
    parts = {"encoder": encoder, **how.head}
    patch_parts = {"encoder": encoder} | {patch + name: module for name, module in how.head.items()}

    def init(key, batch, given=None):
        images, params, state = batch["views"][0], {}, {}
        started = (given or {}).get("encoder") or models.init(encoder, named_key(key, "encoder"), images)
        encoder_params = {"stem_mask": jnp.zeros(encoder.width, jnp.float32), **started[0]}
        for chain in (parts, patch_parts):
            more, more_state = init_parts(chain, key, images, {"encoder": (encoder_params, started[1])})
            params, state = params | more, state | more_state
        aux = {"target": params, "centre": jnp.zeros(out_dim), "patch_centre": jnp.zeros(out_dim)}
        return Variables(params, state | {"target": state}, aux=aux)

    def run(name, params, x):
        return models.forward(how.head[name.removeprefix("patch_")], params[name], {}, x, train=True)[0]

    def look(params, views, key=None, axis=None, **inputs):
        """Class tokens ``[r, d]`` and patches ``[r, n, d]`` of the student, whose branches are dropped, or teacher."""
        keys = None if key is None else row_keys(key, len(views), axis)
        out, _ = models.forward(encoder, params["encoder"], {}, views, train=key is not None, keys=keys, **inputs)
        return out["features"], out[encoder.last_stage].reshape(len(views), -1, encoder.width)

    def loss(variables, batch, key, step, axis):
        groups, counts = methods.by_size(batch, mean, std)
        params, aux, target, views = variables.params, variables.aux, variables.aux["target"], groups[0]
        shares = random_shares(named_key(key, "shares"), len(views), low=low, high=high, chance=mask_chance, axis=axis)
        masked = block_masks(named_key(key, "masks"), shares, grid, least=(min(grid) // 3) ** 2, axis=axis)
        take, weights = first_masked(masked, most)
        cls, patches = look(target, views)
        z, patch_z = run("projector", target, cls), run(patch + "projector", target, patches)
        logits = run("last_layer", target, z).reshape(-1, counts[0], out_dim)
        patch_logits = run(patch + "last_layer", target, take(patch_z))
        q = how.assign(logits, aux["centre"], step, axis)
        patch_q = how.assign(patch_logits, aux["patch_centre"], step, axis, weights)
        # The last layer is linear: what it makes of the mean is the mean of what it makes of all patches.
        means = mean_over_devices((z.mean(0, keepdims=True), patch_z.mean((0, 1))[None]), axis)
        names = {"centre": "last_layer", "patch_centre": patch + "last_layer"}
        carry = {name: run(names[name], target, x)[0] for name, x in zip(names, means, strict=True)}
        seen = [look(params, views, named_key(key, "0"), axis, masked=masked)]
        seen += [look(params, x, named_key(key, str(i)), axis) for i, x in enumerate(groups[1:], 1)]
        z = run("projector", params, methods.joined([features for features, _ in seen], counts))
        z, patch_z = z.reshape(-1, sum(counts), bottleneck), run(patch + "projector", params, take(seen[0][1]))
        cls_loss = how.pairs(params["last_layer"], q, z, counts)
        patch_loss = how.patches(params[patch + "last_layer"], patch_q, patch_z, weights)
        value = cls_loss + patch_weight * patch_loss
        metrics = how.metrics(step, value.dtype)
        metrics |= {"cls_loss": cls_loss, "patch_loss": patch_loss, "masked": masked.mean(dtype=value.dtype)}
        metrics |= assignment_metrics(q, cls_loss, axis)
        metrics |= assignment_metrics(patch_q, patch_loss, axis, weights, "patch_")
        metrics |= {f"{name}_norm": jnp.linalg.norm(aux[name]) for name in names}
        if koleo:
            near = [losses.koleo(x, axis=axis) for x in view_by_view(seen[0][0], counts[0])]
            metrics["koleo"] = jnp.stack(near).sum()
            value += koleo * metrics["koleo"]
        outputs = {"features": view_by_view(cls, counts[0])[0], "projections": z[:, 0]}
        return value, LossOut(variables.model_state, metrics, carry=carry, outputs=outputs)

    def update_aux(variables, carry, step):
        return how.next_target(variables.aux, variables.params, step, carry)

    return Method(
        init=init,
        loss=loss,
        trunk=methods.teacher_trunk,
        encode=methods.make_teacher_encode(parts, mean, std),
        update_aux=update_aux,
        wrap_tx=how.wrap_tx,
    )
