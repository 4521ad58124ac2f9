"""Deep InfoMax: the vector of an image must tell which places' features are its own, among those of other images.

    L = beta L_info(l, g) + alpha L_info(l', g) + gamma E -log D(y),    g = G(y),  l_p = F(c_p),  l' = F'(c)

c are the features of the places of one of the encoder's maps, and y = sigmoid(projector(features)) is the vector of the
image; F, F' and G embed them so that an inner product is the score of a place, of a whole map, with an image. L_info is
minus the Jensen-Shannon estimate of their mutual information, or InfoNCE (``losses/deep_infomax.py``). D tells y from
uniform noise in [0, 1]^d, and y learns to be taken for it; D's own loss, -log D(noise) - log(1 - D(y)), is added to L.

The image is shown once, so a map whose places see the whole image makes the task trivial: it is one of a lower stage.
In a ViT every block sees everything.

Reference: Hjelm et al. 2019, "Learning deep representations by mutual information estimation and maximization",
eqs. 4-8 and appendix (arXiv:1808.06670).
Differs from the paper: encoders are this package's, so y stands on pooled features; the encoder maximises log D(y)
instead of minimising log(1 - D(y)), the same game with a gradient where D wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.losses.deep_infomax import FORMS, deep_infomax_and_accuracy
from ssl_jax.methods import init_parts, make_encode, one_view, online_trunk, run_parts
from ssl_jax.methods.inpainting import roles
from ssl_jax.models.heads import MLP, ShortcutMLP
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    form: str = "jsd",
    stage: str | None = None,
    local_weight: float = 1.0,
    global_weight: float = 0.0,
    prior_weight: float = 0.1,
    projector_hidden: int = 1024,
    projector_dim: int = 64,
    score_dim: int = 2048,
) -> Method:
    """Deep InfoMax around ``encoder``, of any kind that gives maps; the first view of a batch is used.

    ``local_accuracy`` is the share of places that score highest with their own image, 1 / N where nothing is learned.

    Args:
      form: "jsd" or "info_nce".
      stage: the map of which the places are, as "stage2"; None: of the last stage but one that gives a map.
      local_weight, global_weight: beta and alpha; DIM(L) has 1 and 0, DIM(G) 0 and 1.
      prior_weight: gamma; DIM(L) has 0.1, DIM(G) 1. With 0 there is no discriminator, and y has no sigmoid.
      projector_hidden: width of the projector's hidden layer.
      projector_dim: d of y ``[b, d]``.
      score_dim: width of the embeddings whose inner product is the score.

    Raises:
      ValueError: an argument outside its meaning, or an encoder without maps.
    """
    if form not in FORMS:
        raise ValueError(f"method.form={form!r} is not one of {', '.join(FORMS)}")
    weights = {"local_weight": local_weight, "global_weight": global_weight, "prior_weight": prior_weight}
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"method.{name}={weight} must not be negative; 0 leaves that term out")
    if not local_weight + global_weight > 0:
        raise ValueError("method.local_weight=0 and global_weight=0 leave nothing to learn; the paper has 1 in one")
    dtype = encoder.dtype
    parts = {"encoder": encoder, "projector": MLP((projector_hidden, projector_dim), norm=encoder.norm, dtype=dtype)}
    scorers = {"of_image": ShortcutMLP(score_dim, dtype=dtype)}
    if local_weight:
        scorers["of_place"] = ShortcutMLP(score_dim, layer_norm=True, dtype=dtype)
    if global_weight:
        scorers["of_map"] = ShortcutMLP(score_dim, dtype=dtype)
    discriminator = MLP((1000, 200, 1), hidden_norm=False, dtype=dtype)

    def run(params, state, images, train, axis=None, key=None):
        """What scorers and discriminator get, by their names, and the outputs of all parts with their state."""
        out, state = run_parts(parts, params, state, images, train=train, axis=axis, key=key)
        maps = {name: a for name, a in out["encoder"].items() if a.ndim == 4}
        stages = sorted(int(name[5:]) for name in maps if name[:5] == "stage" and name[5:].isdigit())
        if not (stages or stage in maps):
            raise ValueError(
                f"method.name='deep_infomax' learns from the places of a map and {encoder.label} makes none; use a "
                "ResNet, a ConvNet or a ViT as model.name"
            )
        if stage and stage not in maps:
            raise ValueError(f"method.stage={stage!r} is no map of {encoder.label}; it has {', '.join(maps)}")
        places = maps[stage or f"stage{stages[-2:][0]}"]
        y = jax.nn.sigmoid(out["projector"]) if prior_weight else out["projector"]
        b, *_, channels = places.shape
        given = {"of_image": y, "of_place": places.reshape(b, -1, channels), "of_map": places.reshape(b, -1)}
        return given | {"discriminator": y}, out, state

    others = scorers | ({"discriminator": discriminator} if prior_weight else {})

    def init(key, batch, given=None):
        images = batch["views"][0]
        params, state = init_parts(parts, key, images, given)
        seen, _, _ = jax.eval_shape(lambda a: run(params, state, a, False), images)
        for name, module in others.items():
            params[name], state[name] = models.init(module, named_key(key, name), seen[name])
        return Variables(params, state)

    def loss(variables, batch, key, step, axis):
        params, state = variables.params, variables.model_state
        given, out, new_state = run(params, state, one_view(batch, mean, std), True, axis, key)
        u = {
            name: models.forward(module, params[name], {}, given[name], train=True, axis=axis)[0]
            for name, module in scorers.items()
        }
        g, terms, metrics = u["of_image"], [], {}
        for name, weight, part in (("local", local_weight, "of_place"), ("global", global_weight, "of_map")):
            if weight:
                tokens = u[part] if part == "of_place" else u[part][:, None]
                term, accuracy = deep_infomax_and_accuracy(tokens, g, form=form, axis=axis)
                terms.append(weight * term)
                metrics |= {f"{name}_loss": term, f"{name}_accuracy": accuracy}
        if prior_weight:
            y = given["discriminator"]

            def judge(params, state, rows):
                return models.forward(discriminator, params, state, rows, train=True, axis=axis)

            keys = row_keys(named_key(key, "prior"), len(y), axis)
            noise = jax.vmap(lambda key: jax.random.uniform(key, y.shape[1:], jnp.float32))(keys).astype(y.dtype)
            maker, critic, _ = roles(judge, params["discriminator"], {}, noise, y)
            terms += [prior_weight * maker, critic]
            metrics |= {"prior_loss": maker, "discriminator_loss": critic}
        outputs = {"features": out["encoder"]["features"], "projections": out["projector"]}
        return sum(terms[1:], terms[0]), LossOut(state | new_state, metrics, outputs=outputs)

    return Method(init=init, loss=loss, trunk=online_trunk, encode=make_encode(parts, mean, std))
