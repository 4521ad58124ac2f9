"""Rotation: by how many quarter turns was the image rotated?

    L = 1/(4 N) sum_i sum_{k = 0..3} -log softmax(W f(rot90(x_i, k)) + b)_k

All four rotations of every image are in the batch, N -> 4 N. A quarter turn moves pixels and interpolates nothing, so
no artefact gives it away. What looks the same from all sides (a ball, a texture) has no answer.

Reference: Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations", eqs. 2-3
(arXiv:1803.07728).
Differs from the reference code: any encoder with a linear layer on its pooled features, as in Kolesnikov et al. 2019,
instead of four blocks of a network in network.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from ssl_jax.methods import (
    classification,
    init_parts,
    make_encode,
    normalize,
    one_view,
    online_trunk,
    run_parts,
    side_by_side,
    view_by_view,
)
from ssl_jax.models.heads import linear
from ssl_jax.types import Array, LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Method:
    """A linear classifier of the four rotations on ``encoder``.

    Raises:
      ValueError: images that are not square.
    """
    _check_square(plan.input_shape)
    parts = {"encoder": encoder, "classifier": linear(4, dtype=encoder.dtype)}

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        images, turns = rotations(one_view(batch, mean, std))
        out, state = run_parts(parts, variables.params, variables.model_state, images, train=True, axis=axis)
        value, accuracy = classification(out["classifier"], turns)
        upright = view_by_view(out["encoder"]["features"], 4)[0]
        return value, LossOut(state, {"task_accuracy": accuracy}, outputs={"features": upright})

    def show(variables, images, key):
        turned, _ = rotations(images)
        number = len(images)
        mine = 4 * jnp.arange(number) + jnp.arange(number) % 4  # image i by i quarter turns
        asked = turned[mine]
        out, _ = run_parts(parts, variables.params, variables.model_state, normalize(asked, mean, std), train=False)
        back = -out["classifier"].argmax(-1) % 4
        return {
            "input": asked,
            "turned back as predicted": rotations(asked)[0][4 * jnp.arange(number) + back],
            "target": images,
        }

    encode = make_encode(parts, mean, std)
    return Method(init=init, loss=loss, trunk=online_trunk, encode=encode, hooks={"show": show})


def rotations(images: Array) -> tuple[Array, Array]:
    """Every image ``[b, s, s, c]`` by 0, 1, 2 and 3 quarter turns counter-clockwise, as ``np.rot90`` counts them.

    Returns:
      (images ``[4 b, s, s, c]``: the first one by 0, 1, 2, 3 turns, then the second one; turns int32 ``[4 b]``).

    Raises:
      ValueError: images that are not square.
    """
    _check_square(images.shape[1:])
    turned = side_by_side([jnp.rot90(images, k, axes=(1, 2)) for k in range(4)])
    return turned, jnp.tile(jnp.arange(4, dtype=jnp.int32), len(images))


def _check_square(shape: Sequence[int]) -> None:
    if shape[0] != shape[1]:
        raise ValueError(f"rotation needs square images and these are {shape[0]} x {shape[1]}; crop them")
