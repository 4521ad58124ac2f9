"""Contrastive predictive coding: from the context so far, which of many encodings comes k places later?

    z_t = f(x_t),    c_t = g(z_1, ..., z_t),    s_k(z, c) = z . W_k c / T,
    L = mean over k, t of -log( exp s_k(z_{t+k}, c_t) / sum_j exp s_k(z_j, c_t) )

The sum has the true encoding and negatives. "image": x are overlapping patches of the image, t counts the rows of their
grid, g is a masked convolution that sees rows up to t, and c_t in each column predicts the patch k rows below it.
"sequence": the image is a row of strips of full height, t counts them from left to right, g is a GRU.

Nothing may give the answer away. f sees one patch at a time and is normalised within it, since BatchNorm would carry
news from one patch to the next; patches that overlap share pixels, so the first ``skip`` steps are not asked; a random
window of each patch can be kept, and its colour taken away. The positive is never among the negatives.

Reference: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, sections 2 and 3.2
(arXiv:1807.03748); patches of small images: Lowe et al., "Greedy InfoNCE", 2019 (arXiv:1905.11786).
Differs from the reference code: z are the encoder's features themselves, not a projection of them; drawn negatives are
without the positive, and with replacement; images keep their colour unless ``colour`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models, parallel
from ssl_jax.losses.info_nce import info_nce_and_accuracy
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import normalize, online_trunk
from ssl_jax.models.context import GRUContext, RowContext
from ssl_jax.models.heads import linear
from ssl_jax.models.norm import ExampleNorm
from ssl_jax.parallel import all_rows, named_key, row_ids, row_keys
from ssl_jax.tasks import patches
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables

FORMS = ("image", "sequence")


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    form: str = "image",
    patch_size: int = 8,
    patch_stride: int | None = None,
    patch_jitter: int = 0,
    steps: int = 5,
    skip: int | None = None,
    context_dim: int = 256,
    context_layers: int = 5,
    negatives: int | None = None,
    temperature: float = 10.0,
    colour: str = "keep",
    colour_rate: float = 0.66,
) -> Method:
    """CPC around ``encoder``, whose normalisation is replaced by one within the patch.

    Args:
      form: "image" or "sequence".
      patch_size: side of a patch, or width of a strip, in pixels. The paper has 64 of 256, small images 16 of 64.
      patch_stride: from one patch to the next; None: half a patch, a whole strip.
      patch_jitter: of an image's patch a random window smaller by so many pixels is seen; the paper has 4 of 64.
      steps: the largest k.
      skip: the first k that are not asked; None: those of overlapping patches.
      context_dim: width of c.
      context_layers: blocks of the masked convolution; the GRU has one layer.
      negatives: number drawn for each prediction among the encodings of the same step in the global batch; None: all.
      temperature: T; 1 in the paper, which scales nothing. 10 is the scale of .1 in the pseudo-code that Hénaff et al.
        give of it for images ("Data-Efficient Image Recognition with Contrastive Predictive Coding", arXiv:1905.09272,
        appendix), there of predictions of 64 numbers.
      colour: what happens to some of the patches: "grey", "drop" two of three channels, or "keep" them.
      colour_rate: the share of them to which that happens.

    Raises:
      ValueError: an argument outside its meaning, or images too small for the grid and the encoder.
    """
    if form not in FORMS:
        raise ValueError(f"method.form={form!r} is not one of {', '.join(FORMS)}")
    if form == "sequence" and patch_jitter:
        raise ValueError(f"method.patch_jitter={patch_jitter} is for form='image'; use 0")
    image = form == "image"
    stride = patch_stride or (max(1, patch_size // 2) if image else patch_size)
    overlapping = -(-patch_size // stride) - 1
    skip = overlapping if skip is None else skip
    _check(encoder, plan, form, patch_size, stride, patch_jitter, steps, skip)
    if temperature <= 0:
        raise ValueError(f"method.temperature={temperature} must be positive; use 10, or the paper's 1")
    asked = range(skip + 1, steps + 1)
    rows, columns = grid_shape(form, plan.input_shape, patch_size, stride)
    fewest = (rows - steps) * columns * plan.global_batch_size
    if negatives is not None and not 1 <= negatives < fewest:
        raise ValueError(f"method.negatives={negatives} must be from 1 to {fewest - 1}, all there are at k={steps}")
    guards = patches.make_guards(plan, colour=colour, colour_rate=colour_rate, blur_rate=0.0)
    encoder = encoder.clone(norm=ExampleNorm)
    kwargs = {"dtype": encoder.dtype}
    context = RowContext(context_dim, context_layers, **kwargs) if image else GRUContext(context_dim, **kwargs)
    predictor = linear(len(asked) * encoder.dim, use_bias=False, dtype=encoder.dtype)  # W_k side by side

    def cut(images, key=None, axis=None):
        """``[b, rows, columns, h, w, c]``: random windows with a key, those in the middle without."""
        if not image:
            return strips(images, patch_size, stride)
        return patch_grid(images, patch_size, stride, jitter=patch_jitter, key=key, axis=axis)

    def look(variables, seen, *, train, axis=None):
        """Every stage of the encoder for every patch, ``[b * rows * columns, ...]``."""
        seen = normalize(seen.reshape(-1, *seen.shape[3:]), mean, std)
        params, state = variables.params["encoder"], variables.model_state["encoder"]
        return models.forward(encoder, params, state, seen, train=train, axis=axis)[0]

    def predict(variables, z, *, train, axis=None):
        """``{k: W_k c}``, ``[b, rows - k, columns, d]`` each."""
        params = variables.params
        c, _ = models.forward(context, params["context"], {}, z, train=train, axis=axis)
        flat, _ = models.forward(predictor, params["predictor"], {}, c.reshape(-1, context_dim), train=train, axis=axis)
        each = flat.reshape(*c.shape[:3], len(asked), encoder.dim)
        return {k: each[:, : c.shape[1] - k, :, i] for i, k in enumerate(asked)}

    def init(key, batch, given=None):
        images = batch["views"][0]
        seen = jax.eval_shape(cut, images)
        one = jax.ShapeDtypeStruct((1, *seen.shape[3:]), seen.dtype)
        grid = jax.ShapeDtypeStruct((1, *seen.shape[1:3], encoder.dim), jnp.float32)
        c = jax.ShapeDtypeStruct((1, context_dim), jnp.float32)
        modules = {"encoder": (encoder, one), "context": (context, grid), "predictor": (predictor, c)}
        made = {name: models.init(module, named_key(key, name), x) for name, (module, x) in modules.items()}
        made |= dict(given or {})
        return Variables({name: p for name, (p, _) in made.items()}, {name: s for name, (_, s) in made.items()})

    def loss(variables, batch, key, step, axis):
        seen = cut(batch["views"][0], named_key(key, "cut"), axis)
        flat = guards(named_key(key, "guards"), seen.reshape(len(seen), -1, *seen.shape[3:]), axis)
        z = look(variables, flat.reshape(seen.shape), train=True, axis=axis)["features"]
        z = z.reshape(*seen.shape[:3], encoder.dim)
        losses, hits, bounds = [], [], []
        for k, pred in predict(variables, z, train=True, axis=axis).items():
            target = z[:, k:]
            others = None
            if negatives is not None:
                others = drawn(jax.random.fold_in(named_key(key, "negatives"), k), target, negatives, axis)
                others = others.reshape(-1, negatives, encoder.dim)
            flat, target = (a.reshape(-1, encoder.dim) for a in (pred, target))
            value, hit = info_nce_and_accuracy(flat, target, negatives=others, temperature=temperature, axis=axis)
            number = len(target) * parallel.num_shards(axis) if negatives is None else negatives + 1
            losses, hits, bounds = [*losses, value], [*hits, hit], [*bounds, np.log(number) - value]
        value, accuracy, bound = (sum(a[1:], a[0]) / len(a) for a in (losses, hits, bounds))
        # No projector stands behind z: what could collapse is the encoding of the patch in the middle.
        outputs = {"features": z.mean((1, 2)), "projections": z[:, z.shape[1] // 2, z.shape[2] // 2]}
        return value, LossOut(
            variables.model_state, {"task_accuracy": accuracy, "information_bound": bound}, outputs=outputs
        )

    def encode(variables, images, max_dim=None):
        seen = cut(images)
        out = look(variables, seen, train=False)
        features = out["features"].reshape(*seen.shape[:3], -1)
        features = features.astype(compute_dtype(features)).mean((1, 2))
        return models.pooled({name: _joined(a, seen.shape[:3]) for name, a in out.items()}, max_dim) | {
            "features": features
        }

    def show(variables, images, key):
        """Below (behind) what is seen: what follows, and the patches whose encodings fit the predictions best."""
        seen = cut(images)
        b, height, across = seen.shape[:3]
        z = look(variables, seen, train=False)["features"].reshape(b, height, across, -1)
        bank, pixels = z.reshape(-1, encoder.dim), seen.reshape(-1, *seen.shape[3:])
        last = height - 1 - steps  # the last place from which all steps can be seen
        context_end = last * stride + patch_size
        along = 1 if image else 2
        visible = (jnp.arange(images.shape[along]) < context_end).reshape((1, -1, 1, 1) if image else (1, 1, -1, 1))
        canvas = jnp.where(visible, images, jnp.full_like(images, 0.5))
        rows = {"input": images, "context": canvas, "target": canvas, "prediction (nearest patch)": canvas}
        for k, pred in predict(variables, z, train=False).items():
            guess = pixels[(pred[:, last] @ bank.T).argmax(-1)]
            for j in range(across):  # of overlapping patches the upper left parts stay
                place = (last + k, j) if image else (j, last + k)
                top, left = (stride * p + patch_jitter // 2 for p in place)
                h, w = seen.shape[3:5]
                where = np.s_[:, top : top + h, left : left + w]
                rows["target"] = rows["target"].at[where].set(seen[:, last + k, j])
                rows["prediction (nearest patch)"] = rows["prediction (nearest patch)"].at[where].set(guess[:, j])
        return rows

    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks={"show": show})


def grid_shape(form: str, shape: Sequence[int], size: int, stride: int) -> tuple[int, int]:
    """Patches down and across, or strips and 1."""
    down, across = ((side - size) // stride + 1 for side in shape[:2])
    return (down, across) if form == "image" else (across, 1)


def patch_grid(
    images: Array, size: int, stride: int, *, jitter: int = 0, key: Array | None = None, axis: Axis = None
) -> Array:
    """Patches ``[b, g, g, p, p, c]`` of square images, p = size - jitter, every ``stride`` pixels.

    Args:
      key: each patch is a random window of its square of ``size`` pixels; None: the window in the middle.
    """
    side, _ = grid_shape("image", images.shape[1:3], size, stride)
    width = size - jitter
    if jitter and key is not None:
        # Cells that overlap: the gap between them is negative.
        cut = patches.cut(key, images, patches.Grid(side, width, jitter, stride - size, 0), axis=axis)
    else:
        at = jitter // 2 + stride * np.arange(side)[:, None] + np.arange(width)[None]
        cut = jnp.swapaxes(images[:, at][:, :, :, at], 2, 3)  # [b, g, p, w, c] -> [b, g, p, g, p, c] -> [b, g, g, ...]
    return cut.reshape(images.shape[0], side, side, width, width, images.shape[-1])


def strips(images: Array, size: int, stride: int) -> Array:
    """Strips ``[b, t, 1, h, p, c]`` of full height, from left to right."""
    number, _ = grid_shape("sequence", images.shape[1:3], size, stride)
    at = stride * np.arange(number)[:, None] + np.arange(size)[None]
    return jnp.moveaxis(images[:, :, at], 2, 1)[:, :, None]


def drawn(key: Array, z: Array, number: int, axis: Axis = None) -> Array:
    """For each of the encodings ``[b, r, c, d]`` ``number`` others of the global batch, ``[b, r, c, number, d]``."""
    b, r, c, d = z.shape
    bank = all_rows(z, axis).reshape(-1, d)
    own = row_ids(b, axis)[:, None, None] * (r * c) + jnp.arange(r * c, dtype=jnp.int32).reshape(1, r, c)

    def others(key, own):
        found = jax.random.randint(key, (r, c, number), 0, len(bank) - 1, jnp.int32)
        return found + (found >= own[:, :, None]).astype(jnp.int32)

    return bank[jax.vmap(others)(row_keys(key, b, axis), own)]


def _joined(a: Array, places: tuple[int, ...]) -> Array:
    """The maps of an image's patches side by side as one map, its tokens as one row of tokens."""
    b, rows, columns = places
    if a.ndim == 4:
        h, w, c = a.shape[1:]
        return jnp.swapaxes(a.reshape(b, rows, columns, h, w, c), 2, 3).reshape(b, rows * h, columns * w, c)
    return a.reshape(b, -1, a.shape[-1]) if a.ndim == 3 else a.reshape(b, rows, columns, -1)


def _check(encoder, plan: Plan, form: str, size: int, stride: int, jitter: int, steps: int, skip: int) -> None:
    height, width = plan.input_shape[:2]
    if form == "image" and height != width:
        raise ValueError(f"form='image' cuts patches from square images and these are {height} x {width}; crop them")
    if jitter < 0:
        raise ValueError(f"method.patch_jitter={jitter} must not be negative")
    smallest = size - jitter if form == "image" else min(size, height)
    if smallest < encoder.min_size:
        raise ValueError(
            f"method.patch_size={size} and method.patch_jitter={jitter} show the encoder {max(smallest, 0)} pixels and "
            f"{encoder.label} needs {encoder.min_size}; use method.patch_size={encoder.min_size + jitter}"
        )
    if not 0 <= skip < steps:
        raise ValueError(
            f"method.steps={steps} must be above method.skip={skip}, steps of overlapping patches that are not asked; "
            f"use method.steps={skip + 1}"
        )
    needed = size + steps * stride
    if width < needed:
        raise ValueError(
            f"method.steps={steps} needs {steps + 1} patches of {size} pixels every {stride} and images of {width} "
            f"pixels hold {max(0, (width - size) // stride + 1)}; use data.image_size={needed} or fewer steps"
        )
