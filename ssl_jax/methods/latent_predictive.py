"""Prediction with a latent variable: how badly does x go with y, given the best excuse?

    F(x, y) = min_z [ C(y, Pred(h_x, z)) + R(z) ],   C(y, y^) = |y - y^|^2,   Pred(h, z) = p(h) + z D,   h_x = f(x)
    L = mean_i F(x_i, y_i) + v mean_j max(0, 1 - std_j(h)) + w / d sum_{i != j} cov_ij(h)^2
    xi <- tau_k xi + (1 - tau_k) theta

x and y are two views of an image. What y holds and x does not tell, the latent z may say: "discrete", z is one of K
rows of D and R = 0; "sparse", z is any vector, R = l1 |z|_1 and the rows of D have length 1; "none". The minimum is
found without gradient and the loss taken at z*, which has the gradient of the minimum (envelope theorem). y is
"features", what a slow copy (xi) of encoder and projector makes of the view, as a unit vector, or "pixels", normalised
and over the square root of their number, so that C is their mean squared error. Without ``context`` p is zero: then C
with discrete z is K-means, with sparse z sparse coding.

An energy F must be low where x and y belong together and nowhere else; flat energy is collapse. What is done about it
tells families of methods apart: contrastive ones push F up elsewhere (``simclr``, ``cpc``); a latent that may say
everything lets Pred ignore x, so its capacity is limited, here by K codes or by l1; joint embedding, here with
target="features", can make y constant, against which stand the slow copy with a predictor in front of it (as in
``byol``), the spread of h over the batch and the difference of its directions (v and w, as in VICReg). The last matters
with a latent: without it y of a short run filled three directions, and 16 codes told all of them without x. The metric
``energy_gap`` is the mean of F(x_i, y_j) for the next image's y less that of F(x_i, y_i): zero where F is flat.

Reference: LeCun, "A Path Towards Autonomous Machine Intelligence", 2022, sections 4.2 to 4.5 (openreview BZ5a1r-kVsf);
variance and covariance: Bardes et al. 2022, eqs. 1-4 (arXiv:2105.04906).
Differs from the reference code: there is none. The heads are those of BYOL, variance and covariance are those of h_x
alone, the covariance over the batch is divided by N and not N - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import optim, parallel
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.methods import init_parts, make_encode, normalize, online_trunk, run_parts, two_views
from ssl_jax.models.heads import MLP, byol_mlp
from ssl_jax.parallel import all_rows, my_rows, named_key, row_keys
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables

LATENTS = ("discrete", "sparse", "none")
TARGETS = ("features", "pixels")


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    target: str = "features",
    latent: str = "discrete",
    latent_size: int = 16,
    latent_updates: int = 50,
    l1: float = 0.1,
    context: bool = True,
    tau: float = 0.99,
    variance_weight: float = 1.0,
    covariance_weight: float = 0.04,
    hidden: int = 512,
    embed_dim: int = 128,
) -> Method:
    """A latent-variable predictive architecture around ``encoder``.

    Args:
      target: "features" or "pixels".
      latent: "discrete", "sparse" or "none".
      latent_size: K, the number of rows of D.
      latent_updates: iterations of FISTA for a sparse z.
      l1: weight of |z|_1.
      context: False: Pred knows z only, with target="pixels"; the encoder stays as it is.
      tau: target decay tau_0, to 1 at the end of the run along half a cosine.
      variance_weight: v, with target="features"; VICReg has v : w = 25 : 1 and v as large as the weight of F.
      covariance_weight: w.
      hidden: width of the hidden layers of projector and predictor.
      embed_dim: width of h and of y with target="features"; with "pixels" h are the encoder's features.

    Raises:
      ValueError: an argument outside its meaning, or nothing left that could predict.
    """
    _check(target, latent, latent_size, latent_updates, l1, context, tau)
    _check_weights(variance_weight, covariance_weight)
    heads = {"norm": encoder.norm, "dtype": encoder.dtype}
    joint = target == "features"
    head = byol_mlp(hidden=hidden, out_dim=embed_dim, **heads)
    target_parts = {"encoder": encoder} | ({"projector": head} if joint else {})
    pixels = plan.input_shape[0] * plan.input_shape[1] * plan.input_shape[2]
    width = embed_dim if joint else pixels
    predictor = head if joint else MLP((hidden, pixels), **heads)
    parts = target_parts | ({"predictor": predictor} if context else {})
    last = "projector" if joint else "encoder"
    tau_at = optim.tau_schedule(tau, plan.total_steps)

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        if latent != "none":
            # Codes start small beside y, which has length 1: all near enough to be somebody's nearest.
            scale = 0.3 if latent == "discrete" else 1.0
            codes = jax.random.normal(named_key(key, "codes"), (latent_size, width))
            params["latent"] = {"codes": scale * l2_normalize(codes)}
        if not joint:
            return Variables(params, state)
        slow, slow_state = ({k: tree[k] for k in target_parts} for tree in (params, state))
        return Variables(params, state | {"target": slow_state}, aux={"target": slow})

    def predict(variables, x, *, train, axis=None):
        """(p(h) ``[b, d]``, h ``[b, d]``, features, new state) of normalised images."""
        out, state = run_parts(parts, variables.params, variables.model_state, x, train=train and context, axis=axis)
        features = out["encoder"]["features"]
        h = out["projector"] if joint else features
        guess = out["predictor"] if context else jnp.zeros((len(x), width), x.dtype)
        guess = guess.astype(compute_dtype(guess)) / width**0.5  # as long as y, which has length 1
        return guess, h.astype(compute_dtype(h)), features, state

    def targets(variables, y, *, train, axis=None):
        """(y ``[b, d]``, the slow copy's new statistics or None), without gradient."""
        if not joint:
            return y.reshape(len(y), -1) / pixels**0.5, None
        slow, state = variables.aux["target"], variables.model_state["target"]
        out, state = lax.stop_gradient(run_parts(target_parts, slow, state, y, train=train, axis=axis))
        return l2_normalize(out[last].astype(compute_dtype(out[last]))), state

    def best(variables, rest):
        """(what z* adds to the prediction ``[b, d]``, R(z*) ``[b]``, z* ``[b, K]``) for y - p(h) ``[b, d]``."""
        if latent == "none":
            return jnp.zeros_like(rest), jnp.zeros_like(rest[:, 0]), jnp.zeros_like(rest[:, :0])
        codes = variables.params["latent"]["codes"].astype(rest.dtype)
        if latent == "sparse":
            codes = l2_normalize(codes)
            z = sparse_latent(*lax.stop_gradient((rest, codes)), l1=l1, updates=latent_updates)
            return z @ codes, l1 * jnp.abs(z).sum(1), z
        z = jax.nn.one_hot(nearest_code(*lax.stop_gradient((rest, codes))), latent_size, dtype=rest.dtype)
        return z @ codes, jnp.zeros_like(rest[:, 0]), z

    def energies(variables, guess, y):
        """(F ``[b]``, z*)."""
        added, penalty, z = best(variables, y - guess)
        return jnp.square(y - guess - added).sum(1) + penalty, z

    def loss(variables, batch, key, step, axis):
        one, two = two_views(batch, mean, std)
        guess, h, features, state = predict(variables, one, train=True, axis=axis)
        y, slow_state = targets(variables, two, train=True, axis=axis)
        y = y.astype(guess.dtype)
        each, z = energies(variables, guess, y)
        value = each.mean()
        other = my_rows(jnp.roll(all_rows(y, axis), 1, axis=0), axis)
        metrics = {
            "energy": value,
            "energy_gap": lax.stop_gradient(energies(variables, guess, other)[0].mean() - value),
        }
        if latent == "discrete":
            metrics["code_perplexity"] = perplexity(parallel.mean(z.mean(0), axis))
        if latent == "sparse":
            metrics["active_latents"] = (z != 0).astype(value.dtype).sum(1).mean()
        if joint:
            state = state | {"target": slow_state}
            spread = deviation(h, axis)
            value += variance_weight * jax.nn.relu(1 - spread).mean()
            value += covariance_weight * covariance(h, axis)
            # Of unit vectors, so about 1 when they point everywhere and 0 when all are one.
            target_std = jnp.sqrt(embed_dim * jnp.square(deviation(y, axis)).mean())
            metrics |= {"tau": jnp.asarray(tau_at(step), value.dtype), "feature_std": spread.mean()}
            metrics |= {"target_std": target_std}
        return value, LossOut(state, metrics, outputs={"features": features, "projections": h})

    def update_aux(variables, carry, step):
        if not joint:
            return variables.aux
        online = {k: variables.params[k] for k in target_parts}
        return {"target": optim.ema(variables.aux["target"], online, tau_at(step))}

    def energy(variables, pair):
        """F ``[b]`` of image pairs (x, y) in [0, 1], in inference mode."""
        x, y = (normalize(images, mean, std) for images in pair)
        guess, *_ = predict(variables, x, train=False)
        y, _ = targets(variables, y, train=False)
        return energies(variables, guess, y.astype(guess.dtype))[0]

    def show(variables, images, key):
        """Two crops; the crop whose target is nearest to the prediction from the first with the best z, or pixels."""
        x = crops(named_key(key, "x"), images)
        y = crops(named_key(key, "y"), images)[:, :, ::-1]
        guess, *_ = predict(variables, normalize(x, mean, std), train=False)
        wanted, _ = targets(variables, normalize(y, mean, std), train=False)
        wanted = wanted.astype(guess.dtype)
        guess = guess + best(variables, wanted - guess)[0]
        if joint:
            distance = jnp.square(wanted).sum(1)[None] - 2 * guess @ wanted.T
            return {"x": x, "y": y, "prediction (nearest y)": y[distance.argmin(1)]}
        shift, scale = (jnp.asarray(a, guess.dtype)[None, None, None] for a in (mean, std))
        painted = guess.reshape(images.shape) * pixels**0.5 * scale + shift
        return {"x": x, "y": y, "prediction": jnp.clip(painted, 0, 1)}

    return Method(
        init=init,
        loss=loss,
        trunk=online_trunk,
        encode=make_encode(target_parts, mean, std),
        update_aux=update_aux,
        hooks={"energy": energy, "show": show},
    )


def nearest_code(rest: Array, codes: Array) -> Array:
    """Row of ``codes [K, d]`` nearest to each of ``rest [b, d]``, int32 ``[b]``."""
    product = jnp.matmul(rest, codes.T, precision=lax.Precision.HIGHEST)
    return (jnp.square(codes).sum(1)[None] - 2 * product).argmin(1).astype(jnp.int32)


def sparse_latent(rest: Array, codes: Array, *, l1: float, updates: int) -> Array:
    """``argmin_z |rest - z codes|^2 + l1 |z|_1`` by FISTA, ``[b, K]``, exact zeros included.

    Half of it is the lasso of scikit-learn with alpha = l1 / 2. The step is one over the largest absolute row sum of
    the Gram matrix, which bounds its largest eigenvalue.

    Reference: Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm", 2009, section 4.
    """
    gram = jnp.matmul(codes, codes.T, precision=lax.Precision.HIGHEST)
    product = jnp.matmul(rest, codes.T, precision=lax.Precision.HIGHEST)
    rate = 1 / jnp.abs(gram).sum(1).max()

    def update(_, carry):
        z, ahead, t = carry
        moved = ahead - rate * (jnp.matmul(ahead, gram, precision=lax.Precision.HIGHEST) - product)
        new = jnp.sign(moved) * jax.nn.relu(jnp.abs(moved) - rate * l1 / 2)
        longer = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return new, new + (t - 1) / longer * (new - z), longer

    zero = jnp.zeros_like(product)
    return lax.fori_loop(0, updates, update, (zero, zero, jnp.ones((), product.dtype)))[0]


def deviation(h: Array, axis: Axis) -> Array:
    """Standard deviation ``[d]`` of ``[b, d]`` over the rows of all devices, as VICReg has it, 1e-4 on the variance."""
    centre = parallel.mean(h.mean(0), axis)
    return jnp.sqrt(parallel.mean(jnp.square(h - centre[None]).mean(0), axis) + 1e-4)


def covariance(h: Array, axis: Axis) -> Array:
    """Sum of squares of the covariances of ``[b, d]`` off the diagonal, over d; rows of all devices."""
    h = h - parallel.mean(h.mean(0), axis)[None]
    cov = parallel.mean(jnp.matmul(h.T, h, precision=lax.Precision.HIGHEST) / len(h), axis)
    return (jnp.square(cov).sum() - jnp.square(jnp.diagonal(cov)).sum()) / len(cov)


def perplexity(usage: Array) -> Array:
    """exp of the entropy of shares ``[K]``: how many codes are in use."""
    return jnp.exp(-jnp.sum(usage * jnp.log(jnp.maximum(usage, 1e-12))))


def crops(key: Array, images: Array) -> Array:
    """A square of three quarters of each image, from its row's own place, enlarged to the image's size."""
    b, height, width, channels = images.shape
    size = (3 * height // 4, 3 * width // 4, channels)

    def one(key, image):
        room = jnp.array([height - size[0] + 1, width - size[1] + 1], jnp.int32)
        top, left = jax.random.randint(key, (2,), 0, room, jnp.int32)
        return lax.dynamic_slice(image, (top, left, jnp.int32(0)), size)

    cut = jax.vmap(one)(row_keys(key, b, None), images)
    return jnp.clip(jax.image.resize(cut, images.shape, "bilinear"), 0, 1)


def _check(target, latent, latent_size, updates, l1, context, tau) -> None:
    if target not in TARGETS:
        raise ValueError(f"method.target={target!r} is not one of {', '.join(TARGETS)}")
    if latent not in LATENTS:
        raise ValueError(f"method.latent={latent!r} is not one of {', '.join(LATENTS)}")
    if latent_size < 1:
        raise ValueError(f"method.latent_size={latent_size} leaves no code to choose; use 2 or more")
    if updates < 1:
        raise ValueError(f"method.latent_updates={updates} leaves z at zero; use 1 or more")
    if l1 < 0:
        raise ValueError(f"method.l1={l1} must not be negative; below zero a larger z would be rewarded")
    if not context and latent == "none":
        raise ValueError("method.context=False with method.latent='none' predicts nothing; use latent='discrete'")
    if not context and target == "features":
        raise ValueError("method.context=False trains no encoder for method.target='features'; use target='pixels'")
    if not 0 <= tau <= 1:
        raise ValueError(f"method.tau={tau} must be between 0 and 1; BYOL has 0.99 for short runs")


def _check_weights(variance: float, covariance: float) -> None:
    for name, weight in {"variance_weight": variance, "covariance_weight": covariance}.items():
        if weight < 0:
            raise ValueError(f"method.{name}={weight} must not be negative; 0 switches the term off")
