"""Relative patch prediction: on which side of the centre patch does its neighbour lie?

    L = 1/(8 N) sum_i sum_{k = 0..7} -log softmax(h([z_i,centre, z_i,k]))_k,    z = embedding of a patch

An image is cut into 3 x 3 patches; k counts the eight around the centre row by row. One trunk sees all nine, and all
eight pairs of an image are asked. The guards against answering from borders, lenses and brightness are in
``patches.py``. ``control=True`` pairs every neighbour with the centre of another image: what accuracy is left is read
off single patches (the sky is above), not off the relation.

Reference: Doersch et al. 2015, "Unsupervised Visual Representation Learning by Context Prediction", sections 3 and 3.1
(arXiv:1505.05192); all pairs of a 3 x 3 grid: Kolesnikov et al. 2019, section 3 (arXiv:1901.09005).
Differs from the reference code: no dropout in the head; every BatchNorm has scale and shift; by default
(``colour_of="patch"``) each patch loses its colour by its own draw, where Kolesnikov et al. make the whole image grey
before they cut it (``"image"``); grey is luma, theirs the mean of the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.methods import classification, init_parts, make_encode, online_trunk, run_parts
from ssl_jax.models.heads import MLP, linear
from ssl_jax.parallel import all_rows, my_rows, named_key
from ssl_jax.tasks import patches
from ssl_jax.types import Array, Axis, LossOut, Method, Plan, Variables

CENTRE = 4
NEIGHBOURS = (0, 1, 2, 3, 5, 6, 7, 8)  # cells of the grid, in the order of the labels


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    gap: int = 1,
    jitter: int = 2,
    colour: str = "grey",
    colour_rate: float = 0.66,
    colour_of: str = "patch",
    blur_rate: float = 0.0,
    blur_draw: str = "side",
    embed_dim: int = 1000,
    hidden: int = 4096,
    control: bool = False,
) -> Method:
    """Relative patch prediction around ``encoder``, which sees patches in training and whole images in ``encode``.

    Args:
      gap: pixels between the cells of the grid. The paper's 48 +- 14 between patches of 96 is gap 34, jitter 14; our
        default suits 32-pixel images, whose patches have 8.
      jitter: a patch lies 0 to so many pixels into its cell, in both directions.
      colour: what happens to some of the patches: "grey", "drop" two of three channels, or "keep" them.
      colour_rate: the share of them to which that happens.
      colour_of: "patch": each by its own draw; "image": all patches of an image or none.
      blur_rate: share of the patches that are shrunk and enlarged again; the paper has 1/3.
      blur_draw: how far: "side", the small side is uniform, or, as in the paper, "pixels", their number is.
      embed_dim: width of a patch's embedding; two of them go into the head.
      hidden: width of the head's hidden layer.
      control: pair every neighbour with the centre of another image.

    Raises:
      ValueError: an argument outside its meaning, or images too small for the grid and the encoder.
    """
    grid = patches.make_grid(encoder, plan, 3, gap=gap, jitter=jitter)
    guards = patches.make_guards(
        plan, colour=colour, colour_rate=colour_rate, colour_of=colour_of, blur_rate=blur_rate, blur_draw=blur_draw
    )

    def questions(key, z, axis):
        centre = z[:, CENTRE]
        if control:
            centre = my_rows(jnp.roll(all_rows(centre, axis), 1, axis=0), axis)
        return pairs(centre, z)

    def pictures(cut, place, predicted):
        neighbour = jnp.take_along_axis(cut, jnp.asarray(NEIGHBOURS)[place][:, None, None, None, None], axis=1)
        return {
            "centre patch and neighbour": jnp.concatenate([cut[:, CENTRE], neighbour[:, 0]], axis=2),
            "neighbour where predicted": _placed(cut[:, CENTRE], neighbour[:, 0], predicted),
            "target": _placed(cut[:, CENTRE], neighbour[:, 0], place),
        }

    head = MLP((hidden, 8), norm=encoder.norm, dtype=encoder.dtype)
    return siamese(encoder, head, grid, guards, questions, pictures, embed_dim=embed_dim, mean=mean, std=std, joined=2)


def pairs(centre: Array, z: Array) -> tuple[Array, Array]:
    """All eight questions of every image.

    Args:
      centre: ``[b, d]`` embeddings of centre patches.
      z: ``[b, 9, d]`` embeddings of the patches of the grid, row by row.

    Returns:
      (``[b, 8, 2 d]`` centre and neighbour side by side; the neighbour's place ``[b, 8]``, 0 to 7 row by row).
    """
    others = jnp.concatenate([z[:, :CENTRE], z[:, CENTRE + 1 :]], axis=1)
    places = jnp.broadcast_to(jnp.arange(8, dtype=jnp.int32)[None], others.shape[:2])
    return jnp.concatenate([jnp.broadcast_to(centre[:, None], others.shape), others], axis=-1), places


Questions = Callable[[Array, Array, Axis], tuple[Array, Array]]
Pictures = Callable[[Array, Array, Array], Mapping[str, Array]]


def siamese(
    encoder,
    head,
    grid: patches.Grid,
    guards,
    questions: Questions,
    pictures: Pictures,
    *,
    joined: int,
    embed_dim: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Method:
    """A method that classifies how the patches of an image lie to each other; ``jigsaw`` is one, too.

    One encoder and one linear embedding see every patch alone; only the head sees ``joined`` embeddings side by side.

    Args:
      head: module ``[n, joined * embed_dim] -> [n, classes]``.
      guards: ``(key, patches, axis) -> patches``.
      questions: ``(key, embeddings [b, n, d], axis) -> (joined embeddings [b, m, joined * d], labels [b, m])``.
      pictures: ``(patches [b, n, p, p, c], labels [b], predicted [b]) -> {title: images}``, for the hook ``"show"``.
    """
    parts = {"encoder": encoder, "embed": linear(embed_dim, dtype=encoder.dtype)}
    encode = make_encode({"encoder": encoder}, mean, std)

    def init(key, batch, given=None):
        params, state = init_parts(parts, key, batch["views"][0], given)
        asked = jax.ShapeDtypeStruct((1, joined * embed_dim), jnp.float32)
        params["head"], state["head"] = models.init(head, named_key(key, "head"), asked)
        return Variables(params, state)

    def answers(variables, images, key, *, train, axis=None):
        """(patches, embeddings ``[b, n, d]``, logits ``[b, m, k]``, labels ``[b, m]``, the new statistics)."""
        params, old = variables.params, variables.model_state
        cut = guards(key, patches.cut(named_key(key, "cut"), images, grid, axis=axis), axis)
        flat = patches.standardize(cut).reshape(-1, *cut.shape[2:])
        out, state = run_parts(parts, params, old, flat, train=train, axis=axis)
        z = out["embed"].reshape(*cut.shape[:2], embed_dim)
        asked, labels = questions(named_key(key, "questions"), z, axis)
        flat = asked.reshape(-1, asked.shape[-1])
        logits, state["head"] = models.forward(head, params["head"], old["head"], flat, train=train, axis=axis)
        return cut, z, logits.reshape(*labels.shape, -1), labels, state

    def loss(variables, batch, key, step, axis):
        images = batch["views"][0]
        _, z, logits, labels, state = answers(variables, images, key, train=True, axis=axis)
        value, accuracy = classification(logits, labels)
        # The probe is told what encode will tell it, the features of whole images, not of patches.
        outputs = {"features": encode(variables, images)["features"], "projections": z.mean(1)}
        return value, LossOut(state, {"task_accuracy": accuracy}, outputs=outputs)

    def show(variables, images, key):
        cut, _, logits, labels, _ = answers(variables, images, key, train=False)
        one = (jnp.arange(len(images)) % labels.shape[1])[:, None]  # one question for every image, of many kinds
        label, predicted = (jnp.take_along_axis(a, one, axis=1)[:, 0] for a in (labels, logits.argmax(-1)))
        return {title: jnp.clip(rows, 0, 1) for title, rows in pictures(cut, label, predicted).items()}

    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks={"show": show})


def _placed(centre: Array, neighbour: Array, place: Array) -> Array:
    """Pictures ``[b, 3 p, 3 p, c]``: the neighbour at its place around the centre patch, grey elsewhere."""
    rows, columns = jnp.divmod(jnp.asarray(NEIGHBOURS)[place], 3)
    size = centre.shape[1]

    def one(centre, neighbour, row, column):
        canvas = jnp.full((3 * size, 3 * size, centre.shape[-1]), 0.5, centre.dtype)
        canvas = canvas.at[size : 2 * size, size : 2 * size].set(centre)
        return jax.lax.dynamic_update_slice(canvas, neighbour, (row * size, column * size, jnp.zeros_like(row)))

    return jax.vmap(one)(centre, neighbour, rows, columns)
