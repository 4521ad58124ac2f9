"""DINO: a student must give the distribution over prototypes that a slow copy of it gives of another view.

    L = mean_{g, v != g} -sum_k q_gk log p_vk,   q = softmax((t - c) / T_t),   p = softmax(s / T_s)
    c <- m c + (1 - m) mean t,                   xi <- tau xi + (1 - tau) theta

The teacher, xi, sees the global views g; the student, theta, sees all views v, in one pass for each size, and their
heads' bottlenecks in one pass for all. The centre c keeps one prototype from taking all images, the low T_t keeps all
from being used alike. A batch is centred by what the batches before it left. The last layer is frozen at first: no
update, no decay, no moments. Teacher BatchNorm runs in train mode and its statistics are its own; drop-path is the
student's. The teacher is the product.

Collapse shows in the metrics: "teacher_entropy" towards 0 or log K, "assignment_perplexity" towards 1, "kl" towards 0.
What iBOT has, too, assignments, schedules and metrics, is in ``methods/_distillation.py``.

Reference: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", equations 1 to 4 and
algorithm 1 (arXiv:2104.14294).
Differs from the reference code: weights of the encoder start as ``model.*`` says. Its clipping of each parameter is
``optim.clip_each``, its schedule of the weight decay ``optim.weight_decay_end``.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from ssl_jax import methods, optim
from ssl_jax.methods import init_parts, run_parts, view_by_view
from ssl_jax.methods._distillation import check, collapse_of, follow, head_of, late_last_layer, tokens_of
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.parallel import named_key
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    tau: float = 0.996,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    warmup_teacher_temperature: float = 0.04,
    warmup_teacher_epochs: int = 0,
    centre_momentum: float = 0.9,
    out_dim: int = 65536,
    hidden: int = 2048,
    bottleneck: int = 256,
    layers: int = 3,
    head_bn: bool = False,
    norm_last_layer: bool = True,
    freeze_last_layer: float = 1,
) -> Method:
    """DINO around ``encoder``, a ViT (``model.cls_token=True``, ``pool=cls``) or any other.

    Args:
      tau: decay of the teacher tau_0, to 1 along half a cosine; .9995 at batch 256.
      temperature: T_s.
      teacher_temperature: T_t; above .07 training is unstable.
      warmup_teacher_temperature, warmup_teacher_epochs: where T_t starts, and in how many epochs it gets there.
      centre_momentum: m; 1 is no centring.
      out_dim: K, the number of prototypes.
      hidden, bottleneck, layers: of the head, see :func:`~ssl_jax.models.heads.dino_head`.
      head_bn: whether the head has BatchNorm.
      norm_last_layer: whether prototypes have length 1 (the paper's ViT-B); else the length of each is learned (ViT-S).
      freeze_last_layer: epochs in which the prototypes stay as they are.

    Raises:
      ValueError: an argument outside its meaning.
    """
    sizes = {"out_dim": out_dim, "hidden": hidden, "bottleneck": bottleneck, "layers": layers}
    check(**sizes, tau=tau, centre_momentum=centre_momentum, freeze_last_layer=freeze_last_layer)
    tau_at = optim.tau_schedule(tau, plan.total_steps)
    head = head_of(encoder, sizes, head_bn=head_bn, norm_last_layer=norm_last_layer)
    how = {"temperature": temperature, "epochs": warmup_teacher_epochs}
    tokens = tokens_of(plan, "", head, warmup_teacher_temperature, teacher_temperature, **how)
    parts = {"encoder": encoder, **head}
    student_parts = {"encoder": encoder, "projector": head["projector"]}
    teacher_parts = parts | {"encoder": methods.for_teacher(encoder)}

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        return Variables(params, state | {"target": state}, aux={"target": params, "centre": jnp.zeros(out_dim)})

    def teach(variables, views, count, axis):
        """Outputs of the teacher, its logits ``[b, g, k]`` and its new statistics."""
        params, state, *_ = methods.teacher(variables)
        out, state = run_parts(teacher_parts, params, state, views, train=True, axis=axis)
        return out, out["last_layer"].reshape(-1, count, out_dim), state

    def loss(variables, batch, key, step, axis):
        groups, counts = methods.by_size(batch, mean, std)
        params, state, key = variables.params, variables.model_state, named_key(key, "student")
        taught, logits, target_state = teach(variables, groups[0], counts[0], axis)
        out, state = methods.run_sizes(student_parts, params, state, groups, counts, axis=axis, key=key)
        z = out["projector"].reshape(-1, sum(counts), bottleneck)
        q = tokens.assign(logits, variables.aux, step, axis)
        value = tokens.pairs(params, q, z, counts)
        metrics = {"tau": jnp.asarray(tau_at(step), value.dtype)}
        metrics |= tokens.metrics(q, value, variables, step, axis)
        return value, LossOut(
            model_state=state | {"target": target_state},
            metrics=metrics,
            carry={"centre": mean_over_devices(logits.mean((0, 1)), axis)},
            outputs={"features": view_by_view(taught["encoder"]["features"], counts[0])[0], "projections": z[:, 0]},
        )

    return Method(
        init=init,
        loss=loss,
        trunk=methods.teacher_trunk,
        encode=methods.make_teacher_encode(teacher_parts, mean, std),
        update_aux=follow(tau_at, centre_momentum),
        wrap_tx=late_last_layer(plan, freeze_last_layer),
        hooks=collapse_of(tokens),
    )
