"""The words everyone uses: a batch, variables, the state of a run, a method, a probe.

Nothing else lives here. Images between rooms are float32 in [0, 1]; mean and std are applied once, inside a method's
``loss`` and ``encode``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.struct
import jax

Array = jax.Array
Tree = Any  # a pytree of arrays
Config = Any  # an ml_collections.ConfigDict, whose attributes no type checker can know
# The mapped device axis: None in the global view (jit), "data" under pmap; inside parallel.on_own_rows all of a mesh's.
Axis = str | tuple[str, ...] | None
Batch = Mapping[str, Any]
"""Nested mapping of arrays, every leaf ``[rows of its part, ...]`` except ``"table"``.

``"views"`` = (view, view, ...): what an encoder takes, images float32 ``[b, h, w, c]``, which may differ in size, or
tokens int32 ``[b, t]``; ``"label"`` int32 ``[b]`` (-1 where unknown) and ``"index"`` int32 ``[b]``, the example of the
source. Images of which the step makes views come as ``"image"`` uint8 ``[b, h, w, c]``. A modality may add leaves of
its own (a language model's ``"tokens"``). A batch of two parts holds the second, of as many or more rows, under
``"unlabelled"``: ``{"views", "label", "index", "unlabelled": {"views", "index"}}``. Batches of evaluation hold
``"inputs"``, ``"label"``, ``"index"`` and ``"mask"`` bool ``[b]``, False where a row is padding.
``"table"``: the whole dataset on the device, replicated, never donated.
"""


class Variables(NamedTuple):
    """What a method computes with.

    Attributes:
      params: trained parameters by part; ``params["encoder"]`` is the trained trunk in every method.
      model_state: running statistics of every network that is run, the target's too (``model_state["target"]``).
      aux: what the method owns besides (EMA target, queue, bank): replicated, the same on every device.
      rows: per-example state with a leading batch dimension, sharded over devices.
    """

    params: Tree
    model_state: Tree
    aux: Tree = None
    rows: Tree = None


WHOLE = ("params", "model_state", "aux")  # of variables: all that a method learned


@flax.struct.dataclass
class TrainState:
    """Everything a run is, arrays only. ``key`` never advances: step t draws from ``fold_in(key, t)``.

    ``step`` counts batches, those skipped for not being finite too (data order and keys follow it); optax's own count
    counts updates. ``bad`` is -1 or the first step that was not finite.
    """

    step: Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    aux: Tree
    rows: Tree
    probe: Tree
    bad: Array
    key: Array

    if TYPE_CHECKING:  # what flax.struct adds

        def replace(self, **changes: Any) -> TrainState: ...


class LossOut(NamedTuple):
    """What ``Method.loss`` returns beside the scalar.

    ``model_state`` and ``carry`` leave the loss already global (the same on every device). ``outputs`` holds
    ``"features"`` ``[b, d]`` and ``"projections"`` for the online probe and the collapse alarm; step.py puts a
    stop_gradient around them and averages loss, gradients and metrics over devices. Where the metric ``"stage"``
    changes, the loss is another one, and its step up or down no jump to warn of.
    """

    model_state: Tree
    metrics: Mapping[str, Array]
    rows: Tree = None
    carry: Tree = None
    outputs: Mapping[str, Array] = {}


class Vocab(NamedTuple):
    """How many tokens there are, and which are special; padding is 0 everywhere, None: there is no such token."""

    size: int
    pad: int = 0
    unk: int | None = None
    eos: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None


class Plan(NamedTuple):
    """What a method may need to know before anything is compiled; ``vocab`` is None where there are no tokens."""

    total_steps: int
    steps_per_epoch: int
    num_examples: int
    input_shape: tuple[int, ...]
    global_batch_size: int
    num_classes: int | None = None
    vocab: Vocab | None = None


class Part(NamedTuple):
    """A trained network that a run may be given at its start besides the encoder, as ``init_from.NAME``.

    Attributes:
      read: ``(variables) -> (params, model_state)``: where it lies in the method's own variables, whose structure and
        shapes it must have.
      check: ``(config)`` of the run that it comes from, as plain JSON values; raises a ValueError of one line.
      needed: whether the method cannot do without.
    """

    read: Callable[[Variables], tuple[Tree, Tree]]
    check: Callable[[Mapping[str, Any]], None] = lambda config: None
    needed: bool = False


def _keep_aux(variables: Variables, carry: Tree, step: Array) -> Tree:
    return variables.aux


def _same_tx(tx):
    return tx


class Method(NamedTuple):
    """A self-supervised method as pure functions; hyper-parameters live in its ``make()``.

    Attributes:
      init: ``(key, batch, given=None) -> Variables``; ``batch`` after views; ``given`` holds trained networks by name,
        ``{"encoder": (params, model_state)}`` as ``Method.trunk`` returns them and those of ``parts``; they go in
        before any target is copied from them. A method reads no file.
      loss: ``(variables, batch, key, step, axis) -> (scalar, LossOut)``.
      trunk: ``(variables) -> (params, model_state)`` of the network that is the product.
      encode: ``(variables, inputs, max_dim=None) -> {"features": [b, d], stage: [b, c], ...}`` in inference mode,
        global view; with ``max_dim`` stages keep places, on the finest grid with at most so many numbers.
      update_aux: ``(variables, carry, step) -> aux``, after the optimizer: NEW params and model_state, OLD aux; no
        collectives.
      wrap_tx: ``(tx) -> tx``: parts with rates of their own, frozen parts (``optim.by_group``), projected parameters
        (``optim.unit_rows``).
      hooks: optional, name -> ``f(variables, inputs)``: "classify" (logits ``[b, k]``), "reconstruct", "energy",
        "show"; and "score": ``f(variables, batch, key, rows) -> ({name: (sum, count)}, rows)``, what the method makes
        of held-out batches, in inference mode; rows whose ``"index"`` is -1 are padding and do not count. ``rows`` is
        None at first. One name is "loss", by the least of which the best checkpoint is kept. Of a language model
        "next": ``f(variables, tokens [b, t], rows) -> (logits [b, vocab] of the next token, rows)``.
        Of methods of text "asked": ``f(batch, key) -> {"tokens", "targets" [b, t]}``, what is read and asked for, 0:
        nothing, for pictures. "collapse": ``f(metrics) -> str | None``, on the host, what the method's own numbers of a
        step show of a collapse that the directions of projections do not; "": that there is none, whatever those say.
      parts: what ``init`` may be given besides the encoder, by name.
      grad_norms: starts of paths of parameters the norm of whose gradients says how the method does: "predictor".
    """

    init: Callable[..., Variables]
    loss: Callable[[Variables, Batch, Array, Array, Axis], tuple[Array, LossOut]]
    trunk: Callable[[Variables], tuple[Tree, Tree]]
    encode: Callable[..., Mapping[str, Array]]
    update_aux: Callable[[Variables, Tree, Array], Tree] = _keep_aux
    wrap_tx: Callable[[Any], Any] = _same_tx
    hooks: Mapping[str, Callable[..., Any]] = {}
    parts: Mapping[str, Part] = {}
    grad_norms: tuple[str, ...] = ()


class Probe(NamedTuple):
    """A classifier trained on stop-gradient features beside the method, with its own optimizer.

    Attributes:
      init: ``(key, dim) -> state``.
      update: ``(state, features [b, d], label [b], axis) -> (state, metrics)``; rows with label -1 do not count.
      predict: ``(state, features [b, d]) -> logits [b, classes]``.
    """

    init: Callable[[Array, int], Tree]
    update: Callable[[Tree, Array, Array, Axis], tuple[Tree, Mapping[str, Array]]]
    predict: Callable[[Tree, Array], Array]


Views = Callable[[Batch, Array, Axis], Batch]  # on-device augmentation: (batch, key, axis) -> batch without "table"
