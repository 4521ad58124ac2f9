"""iBOT: DINO, and of every hidden patch the student must guess what the teacher, who sees the whole image, makes of it.

    L = L_DINO(class tokens) + w mean_i 1/|M_i| sum_{t in M_i} -sum_k q_itk log p_itk + k sum_v KoLeo(student, v)

q and p are DINO's, of the tokens at patch t, with a centre of their own. In the student's global views the patches M_i,
blocks in half of them, are one learned token. The mean is over all views: half of the log K of a dead run is there to
lose. The teacher is the product. Patches can collapse alone. Parts: ``_distillation.py``; DINOv2: ``ibot_imagenet``.

Reference: Zhou et al. 2022 (arXiv:2111.07832), equations 2 and 3; Oquab et al. 2023, DINOv2 (arXiv:2304.07193), part 4.
Differs from the reference code: heads are shared by default, as in its README's commands, and their BatchNorm takes
class tokens and patches apart; DINOv2's centre of patches is of those that are hidden, here of all, as iBOT's.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from ssl_jax import methods, models, optim
from ssl_jax.methods import _distillation, init_parts, teacher_trunk, view_by_view
from ssl_jax.methods._distillation import check, collapse_of, follow, heads_of, late_last_layer, tokens_of
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.tasks.masks import hidden_blocks
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
    patch_temperature: float | None = None,
    warmup_patch_temperature: float | None = None,
    centre_momentum: float = 0.9,
    out_dim: int = 8192,
    hidden: int = 2048,
    bottleneck: int = 256,
    layers: int = 3,
    head_bn: bool = False,
    norm_last_layer: bool = False,
    freeze_last_layer: float = 1,
    shared_head: bool = True,
    patch_out_dim: int | None = None,
    patch_bottleneck: int | None = None,
    teacher: str = "centre",
    patch_weight: float = 1.0,
    koleo: float = 0.0,
    koleo_group: int | None = None,
    mask_ratio: Sequence[float] = (0.1, 0.5),
    mask_chance: float = 0.5,
    mask_choice: str = "random",
    block_least: int | None = None,
    block_most: float = 1.0,
) -> Method:
    """iBOT around ``encoder``, a ViT with ``model.cls_token=True, pool=cls``.

    Args:
      tau, temperature, teacher_temperature, warmup_teacher_temperature, warmup_teacher_epochs: as of DINO.
      centre_momentum, out_dim, hidden, bottleneck, layers, head_bn, norm_last_layer, freeze_last_layer: as of DINO.
      patch_temperature, warmup_patch_temperature: the teacher's for patches; None: as for class tokens.
      shared_head, patch_out_dim, patch_bottleneck: one head for both, or patches have one; None: its size is the same.
      teacher: "centre", or "sinkhorn", three iterations that use all prototypes equally and need no centre.
      patch_weight, koleo, koleo_group: w, k, and rows that look for neighbours among each other; None: the batch.
      mask_ratio, mask_chance, mask_choice, block_least, block_most: see :func:`~ssl_jax.tasks.masks.hidden_blocks`.

    Raises:
      ValueError: an encoder that is no such ViT, an argument outside its meaning, a grid too coarse to be masked.
    """
    methods.check_vit(encoder, "ibot", "hides patches", " model.cls_token=True model.pool=cls")
    if encoder.pool != "cls":
        raise ValueError(f"method.name='ibot' and model.pool={encoder.pool!r}: set pool='cls' and model.cls_token=True")
    sizes = {"out_dim": out_dim, "hidden": hidden, "bottleneck": bottleneck, "layers": layers}
    check(**sizes, tau=tau, centre_momentum=centre_momentum, freeze_last_layer=freeze_last_layer, koleo=koleo)
    check(patch_temperature=patch_temperature, warmup_patch_temperature=warmup_patch_temperature)
    check(patch_weight=patch_weight)
    _distillation.check_group(koleo_group, plan)
    kind = {"head_bn": head_bn, "norm_last_layer": norm_last_layer, "shared_head": shared_head}
    head, patch_head = heads_of(encoder, sizes, **kind, patch_out_dim=patch_out_dim, patch_bottleneck=patch_bottleneck)
    blocks = {"choice": mask_choice, "least": block_least, "most": block_most}
    hide = hidden_blocks(encoder.grid(*plan.input_shape[:2]), mask_ratio, mask_chance, **blocks)
    how = {"teacher": teacher, "temperature": temperature, "epochs": warmup_teacher_epochs}
    of_class = tokens_of(plan, "", head, warmup_teacher_temperature, teacher_temperature, **how)
    first, last = warmup_patch_temperature or warmup_teacher_temperature, patch_temperature or teacher_temperature
    of_patches = tokens_of(plan, "patch_", patch_head, first, last, **how)
    tau_at = optim.tau_schedule(tau, plan.total_steps)

    def init(key, batch, given=None):
        images = batch["views"][0]
        started = (given or {}).get("encoder") or models.init(encoder, named_key(key, "encoder"), images)
        student = {"encoder": ({"stem_mask": jnp.zeros(encoder.width, jnp.float32), **started[0]}, started[1])}
        made = [init_parts({"encoder": encoder, **parts}, key, images, student) for parts in (head, patch_head)]
        params, state = ({**first, **second} for first, second in zip(*made, strict=True))
        aux = {"target": params, **of_class.first_centre(), **of_patches.first_centre()}
        return Variables(params, state | {"target": state}, aux)

    def look(params, views, key=None, axis=None, **inputs):
        """Class tokens ``[r, d]`` and patches ``[r, n, d]`` of the student, whose branches are dropped, or teacher."""
        keys = None if key is None else row_keys(key, len(views), axis)
        out, _ = models.forward(encoder, params["encoder"], {}, views, train=key is not None, keys=keys, **inputs)
        return out["features"], out[encoder.last_stage].reshape(len(views), -1, encoder.width)

    def teach(variables, views, take, axis):
        """Class tokens, logits of them and of the patches taken, means of all logits, and new statistics."""
        target, state, *_ = methods.teacher(variables)
        cls, patches = look(target, views)
        z, state = of_class.bottlenecks(target, state, cls, axis)
        patch_z, state = of_patches.bottlenecks(target, state, patches, axis)
        means = of_class.mean_logits(target, z, axis) | of_patches.mean_logits(target, patch_z, axis)
        return cls, of_class.logits(target, z), of_patches.logits(target, take(patch_z)), means, state

    def learn(variables, groups, counts, masked, take, key, axis):
        """The student's class tokens of global views, bottlenecks of all and of the patches taken, new statistics."""
        params, state = variables.params, variables.model_state
        seen = [look(params, groups[0], named_key(key, "0"), axis, masked=masked)]
        seen += [look(params, views, named_key(key, str(i)), axis) for i, views in enumerate(groups[1:], 1)]
        z, state = of_class.bottlenecks(params, state, methods.joined([cls for cls, _ in seen], counts), axis)
        patch_z, state = of_patches.bottlenecks(params, state, take(seen[0][1]), axis)
        return seen[0][0], z.reshape(-1, sum(counts), bottleneck), patch_z, state

    def loss(variables, batch, key, step, axis):
        groups, counts = methods.by_size(batch, mean, std)
        masked, take, weights = hide(key, len(groups[0]), axis)
        taught, logits, patch_logits, means, target_state = teach(variables, groups[0], take, axis)
        cls, z, patch_z, state = learn(variables, groups, counts, masked, take, key, axis)
        q = of_class.assign(logits.reshape(-1, counts[0], out_dim), variables.aux, step, axis)
        patch_q = of_patches.assign(patch_logits, variables.aux, step, axis, weights)
        cls_loss = of_class.pairs(variables.params, q, z, counts)
        patch_loss = of_patches.patches(variables.params, patch_q, patch_z, weights)
        value = cls_loss + patch_weight * patch_loss
        metrics = {"cls_loss": cls_loss, "patch_loss": patch_loss, "masked": masked.mean(dtype=value.dtype)}
        metrics["tau"] = jnp.asarray(tau_at(step), value.dtype)
        metrics |= of_class.metrics(q, cls_loss, variables, step, axis)
        metrics |= of_patches.metrics(patch_q, patch_loss, variables, step, axis, weights)
        if koleo:
            metrics |= _distillation.kept_apart(view_by_view(cls, counts[0]), koleo_group, axis)
            value += koleo * metrics["koleo"]
        outputs = {"features": view_by_view(taught, counts[0])[0], "projections": z[:, 0]}
        return value, LossOut(state | {"target": target_state}, metrics, carry=means, outputs=outputs)

    encode = methods.make_teacher_encode({"encoder": encoder, **head}, mean, std)
    update_aux, wrap_tx = follow(tau_at, centre_momentum), late_last_layer(plan, freeze_last_layer)
    return Method(init, loss, teacher_trunk, encode, update_aux, wrap_tx, hooks=collapse_of(of_class, of_patches))
