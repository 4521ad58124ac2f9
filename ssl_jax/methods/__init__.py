"""One file per method, each ``make(encoder, *, plan, ...) -> Method``; found by name, no registry."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from ssl_jax import models
from ssl_jax.losses.normalize import compute_dtype, l2_normalize
from ssl_jax.models.vit import ViT
from ssl_jax.names import imported as found_by_path
from ssl_jax.names import is_imported, refuse_unknown
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import Array, Axis, Batch, Part, Plan, Tree, Variables


def names() -> list[str]:
    """The methods there are: the files of this folder, but for those of what some of them share (``_*.py``)."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Callable:
    """``make`` of ``ssl_jax/methods/<name>.py``, or of a file or module of one's own (:mod:`ssl_jax.names`).

    Raises:
      ValueError: there is no such file; the message lists those there are.
    """
    if is_imported(name):
        make = found_by_path(name, "method.name")
        known = inspect.signature(make).parameters if callable(make) else {}
        if not (len(known) > 1 and ("plan" in known or any(p.kind is p.VAR_KEYWORD for p in known.values()))):
            found = f"takes {', '.join(known) or 'nothing'}" if callable(make) else f"is a {type(make).__name__}"
            raise ValueError(f"method.name={name!r} {found}; write it as make(encoder, *, plan, ...) -> Method")
        return make
    refuse_unknown(name, names(), "method.name=")
    return importlib.import_module(f"ssl_jax.methods.{name}").make


def arguments(name: str) -> dict[str, inspect.Parameter]:
    """The hyper-parameters that ``method.*`` may hold for this method."""
    parameters = list(inspect.signature(get(name)).parameters.items())[1:]  # the first is the encoder
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {k: p for k, p in parameters if p.kind in named and k not in ("plan", "mean", "std")}


IN_EPOCHS = {  # arguments, and what is so if the run ends first
    **dict.fromkeys(("freeze_last_layer", "freeze_prototypes"), "the prototypes never learn"),
    "warmup_teacher_epochs": "the teacher's temperature does not reach method.teacher_temperature",
}


def doubts(given: Mapping[str, Any], plan: Plan) -> tuple[str, ...]:
    """A line for each argument of ``method`` for which the run is too short or its batch too small."""
    known, epochs = arguments(given["name"]), plan.total_steps / plan.steps_per_epoch
    has = {name: given.get(name, parameter.default) for name, parameter in known.items()}
    has = {name: value for name, value in has.items() if isinstance(value, int | float)}
    lines = [
        f"WARNING: method.{name}={value:g} epochs are not shorter than the run of {epochs:.3g}: {IN_EPOCHS[name]}"
        for name in IN_EPOCHS
        if (value := has.get(name, 0)) >= epochs and value > 0
    ]
    prototypes, rows = has.get("prototypes", 0), plan.global_batch_size
    if prototypes > rows and not has.get("queue_size"):
        lines.append(
            f"WARNING: {rows} rows of a batch cannot use method.prototypes={prototypes} alike; set method.queue_size, "
            "a multiple of the batch, or fewer prototypes"
        )
    size, start = has.get("queue_size", 0), has.get("queue_from")  # MoCo's and NNCLR's are used from the first step
    full_at = round((start or 0) * plan.steps_per_epoch) + size // rows
    if size and start is not None and full_at >= plan.total_steps:
        lines.append(
            f"WARNING: method.queue_size={size}, filled from epoch queue_from={start:g} on, is full after step "
            f"{full_at} and the run has {plan.total_steps}: it is never used"
        )
    return tuple(lines)


OF_TEXT_TOO = ("supervised", "uda", "imported")  # methods that take what a recipe gives, images or tokens
UNTRAINED = ("imported",)  # networks as they came
FROM_LABELS = ("supcon", "supervised")  # methods that are taught by labels: of few they draw those examples alone


def check_labels(name: str, plan: Plan) -> int:
    """The number of classes of what the method ``name`` learns from.

    Raises:
      ValueError: the data have no labels.
    """
    if plan.num_classes is None:
        raise ValueError(
            f"method.name={name!r} needs labels and data.source has none; give class sub-folders, or of a table the "
            "column (data.label_column)"
        )
    return plan.num_classes


def check_vit(encoder: nn.Module, name: str, why: str, more: str = "") -> None:
    """Refuse an encoder that is no ViT, of the method ``name`` that ``why`` ("shows its encoder single patches").

    ``more`` is what it needs of a ViT, too.
    """
    if not isinstance(encoder, ViT):
        label = getattr(encoder, "label", type(encoder).__name__)
        raise ValueError(f"method.name={name!r} {why}, which takes a ViT and no {label}; use model.name=vit_ti{more}")
    if encoder.norm_after_pool:
        raise ValueError(f"method.name={name!r} reads patches, which model.norm_after_pool=True leaves without a norm")


def takes_images(make: Callable) -> bool:
    """Whether a method normalises images, by the ``mean`` and ``std`` of the config."""
    return {"mean", "std"} <= inspect.signature(make).parameters.keys()


def normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """``(images - mean) / std`` per channel; images are float in [0, 1], ``[b, h, w, c]``. Tokens are left alone."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images
    shift, scale = (jnp.asarray(a, images.dtype)[None, None, None] for a in (mean, std))
    return (images - shift) / scale


def one_view(batch: Batch, mean: Sequence[float], std: Sequence[float]) -> Array:
    """The first view of a batch, normalised: what a method sees that needs only one."""
    return normalize(batch["views"][0], mean, std)


def two_views(batch: Batch, mean: Sequence[float], std: Sequence[float]) -> tuple[Array, Array]:
    """The two normalised views of a batch.

    Raises:
      ValueError: the recipe makes another number of views, or views of two sizes.
    """
    views = batch["views"]
    if len(views) != 2 or views[0].shape != views[1].shape:
        shapes = ", ".join(str(v.shape[1:]) for v in views)
        raise ValueError(f"this method needs two views of one size and data.recipe makes {shapes}; use another recipe")
    return normalize(views[0], mean, std), normalize(views[1], mean, std)


def side_by_side(views: Sequence[Array]) -> Array:
    """n views ``[b, ...]`` as one batch ``[b n, ...]``, those of an example next to each other.

    Unlike a concatenation it moves no row to another device where rows lie on several.
    """
    return jnp.stack(views, axis=1).reshape(-1, *views[0].shape[1:])


def view_by_view(x: Array, n: int) -> list[Array]:
    """``[b n, ...]`` as the n views ``[b, ...]`` that :func:`side_by_side` was given."""
    x = x.reshape(-1, n, *x.shape[1:])
    return [x[:, i] for i in range(n)]


def by_size(batch: Batch, mean: Sequence[float], std: Sequence[float]) -> tuple[list[Array], list[int]]:
    """The normalised views of a batch, those of one size as one batch, so that an encoder runs once for each size.

    Returns:
      (one ``[b v, s, s, c]`` for each size, as :func:`side_by_side` makes it, the largest first; v of each).

    Raises:
      ValueError: the recipe makes one view, or does not put views of one size together and the largest first.
    """
    views = batch["views"]
    groups = [list(group) for _, group in itertools.groupby(views, key=lambda view: view.shape[1:])]
    sizes = [group[0].shape[1] for group in groups]
    if len(views) < 2:
        raise ValueError("this method needs two views or more and data.recipe makes 1; use another recipe")
    if any(a <= b for a, b in itertools.pairwise(sizes)):
        shown = ", ".join(str(view.shape[1]) for view in views)
        raise ValueError(f"this method needs the largest views first and data.recipe makes sizes {shown}; order them")
    return [normalize(side_by_side(group), mean, std) for group in groups], [len(group) for group in groups]


def joined(groups: Sequence[Array], counts: Sequence[int]) -> Array:
    """What became of the views that :func:`by_size` gave, side by side as one batch: ``[b V, ...]``, V all views.

    :func:`view_by_view` takes them apart, in the order of the recipe. Rows stay on their devices.
    """
    apart = [x.reshape(-1, n, *x.shape[1:]) for x, n in zip(groups, counts, strict=True)]
    return jnp.concatenate(apart, axis=1).reshape(-1, *groups[0].shape[1:])


Parts = Mapping[str, nn.Module]  # networks in the order they are run: the encoder, then heads on its features
Given = Mapping[str, tuple[Tree, ...]] | None  # what a run starts from, as ``Method.init`` gets it
Read = Callable[[Mapping[str, Array]], Array]  # what of the encoder's outputs the first head gets


# A table of words that an encoder of text begins with: init_from.embedding, a run or a file of vectors.
EMBEDDING = Part(lambda variables: ({"stem_embedding": variables.params["encoder"]["stem_embedding"]}, {}))


def _features(outputs: Mapping[str, Array]) -> Array:
    return outputs["features"]


def init_parts(
    parts: Parts, key: Array, images: Array, given: Given = None, *, read: Read = _features
) -> tuple[Tree, Tree]:
    """(params, model_state) of every part; those in ``given`` are taken as they are, ``read`` as in ``run_parts``.

    ``given["embedding"]`` goes into the encoder, of methods whose ``parts`` hold :data:`EMBEDDING`.
    """
    params, state, x = {}, {}, images
    for name, module in parts.items():
        params[name], state[name] = (given or {}).get(name) or models.init(module, named_key(key, name), x)
        if name == "encoder" and given and "embedding" in given:
            params[name] = {**params[name], **given["embedding"][0]}
        out, _ = models.forward(module, params[name], state[name], x, train=False)  # dead code under jit, for its shape
        x = read(out) if name == "encoder" else out
    return params, state


def run_parts(
    parts: Parts,
    params: Tree,
    state: Tree,
    images: Array,
    *,
    train: bool,
    axis: Axis = None,
    read: Read = _features,
    key: Array | None = None,
):
    """Images through the encoder, what is read of its outputs through the heads in turn.

    Args:
      key: of what a part draws that takes one (dropout) or one for each row (drop-path); others draw nothing.

    Returns:
      (outputs of every part by name, new model_state): ``outputs["encoder"]`` holds every stage and ``"features"``.
    """
    outputs, new_state, x = {}, {}, images
    for name, module in parts.items():
        drawn = {}
        if key is not None and models.takes(module, "key"):
            drawn = {"key": key if name == "encoder" else named_key(key, name)}
        elif key is not None and models.takes(module, "keys"):
            drawn = {"keys": row_keys(named_key(key, "drop_path"), len(x), axis)}
        out, new_state[name] = models.forward(module, params[name], state[name], x, train=train, axis=axis, **drawn)
        outputs[name] = out
        x = read(out) if name == "encoder" else out
    return outputs, new_state


def run_views(
    parts: Parts, params: Tree, state: Tree, views: Sequence[Array], *, axis: Axis = None, key: Array | None = None
) -> tuple[list[dict[str, Any]], Tree]:
    """Each view by itself through :func:`run_parts`, so that BatchNorm's statistics are those of one view.

    Returns:
      (outputs of every part, for each view; model_state after all of them).
    """
    outs = []
    for i, view in enumerate(views):
        drawn = None if key is None else jax.random.fold_in(key, i)
        out, state = run_parts(parts, params, state, view, train=True, axis=axis, key=drawn)
        outs.append(out)
    return outs, state


def spread(x: Array, axis: Axis) -> Array:
    """How far the directions of ``[b, d]`` lie apart: ``sqrt(d)`` times their mean deviation, over all devices.

    About 1 where they are even, 0 where all examples have one.
    """
    u = l2_normalize(lax.stop_gradient(x).astype(compute_dtype(x)))
    first, second = mean_over_devices((u.mean(0), jnp.square(u).mean(0)), axis)
    return jnp.sqrt(jnp.maximum(second - jnp.square(first), 0)).mean() * x.shape[-1] ** 0.5


def run_sizes(
    parts: Parts,
    params: Tree,
    state: Tree,
    groups: Sequence[Array],
    counts: Sequence[int],
    *,
    axis: Axis = None,
    key: Array | None = None,
) -> tuple[dict[str, Array], Tree]:
    """:func:`run_parts` in train mode on views as :func:`by_size` gives them.

    The encoder runs once for each size, so its BatchNorm has statistics of each; the heads run once, on all views.

    Returns:
      (``[b V, ...]`` of every part by name, side by side, of the encoder its features; new model_state).
    """
    encoder, features = {"encoder": parts["encoder"]}, []
    for i, views in enumerate(groups):
        drawn = None if key is None else jax.random.fold_in(key, i)
        out, new = run_parts(encoder, params, state, views, train=True, axis=axis, key=drawn)
        state = {**state, **new}
        features.append(out["encoder"]["features"])
    x = joined(features, counts)
    heads = {name: module for name, module in parts.items() if name != "encoder"}
    outputs, new = run_parts(heads, params, state, x, train=True, axis=axis, key=key)
    return {"encoder": x, **outputs}, {**state, **new}


def make_encode(parts: Parts, mean: Sequence[float], std: Sequence[float], *, read: Read = _features):
    """``encode(variables, images, max_dim=None)``: pooled stages, ``"features"`` and, where there is one, the
    projector's ``"projections"``; ``max_dim`` as in ``models.pooled``, ``read`` as in :func:`run_parts`."""

    def encode(variables: Variables, images: Array, max_dim: int | None = None) -> Mapping[str, Array]:
        images = normalize(images, mean, std)
        outputs, _ = run_parts(parts, variables.params, variables.model_state, images, train=False, read=read)
        present = images != 0 if jnp.issubdtype(images.dtype, jnp.integer) else None
        pooled = models.pooled(outputs["encoder"], max_dim, present)
        return pooled | ({"projections": outputs["projector"]} if "projector" in parts else {})

    return encode


def online_trunk(variables: Variables) -> tuple[Tree, Tree]:
    """The trained encoder: the product of every method without a teacher."""
    return variables.params["encoder"], variables.model_state["encoder"]


def teacher(variables: Variables) -> Variables:
    """The slow copy, of a method that holds it as ``aux["target"]``, with its own statistics."""
    return Variables(variables.aux["target"], variables.model_state["target"])


def teacher_trunk(variables: Variables) -> tuple[Tree, Tree]:
    """The encoder of the slow copy, the product of a method whose paper evaluates the teacher; without a mask token."""
    params, state = online_trunk(teacher(variables))
    return {name: value for name, value in params.items() if name != "stem_mask"}, state


def make_teacher_encode(parts: Parts, mean: Sequence[float], std: Sequence[float]):
    """:func:`make_encode` of the slow copy."""
    encode_with = make_encode(parts, mean, std)

    def encode(variables: Variables, images: Array, max_dim: int | None = None) -> Mapping[str, Array]:
        return encode_with(teacher(variables), images, max_dim)

    return encode


def for_teacher(encoder: nn.Module) -> nn.Module:
    """``encoder`` without drop-path, which is the student's alone; BatchNorm still runs in train mode."""
    return encoder.clone(drop_path=0.0) if getattr(encoder, "drop_path", 0) else encoder


def classification(logits: Array, labels: Array) -> tuple[Array, Array]:
    """(mean cross-entropy, accuracy) of logits ``[..., k]`` for labels ``[...]`` that the task itself made."""
    logits = logits.astype(compute_dtype(logits))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).astype(losses.dtype).mean()
