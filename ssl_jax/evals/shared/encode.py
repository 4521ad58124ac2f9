"""Frozen features of sources: the one encoder that runs and evaluations share, and its cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source, sha256
from ssl_jax.evals.shared import features, score
from ssl_jax.interop.leaves import fingerprint
from ssl_jax.online.progress import counted
from ssl_jax.types import Array, Method, Variables

BATCH, VIEWS_BATCH = 512, 64
PIXELS = BATCH * 64 * 64  # of a batch on a CPU, whose memory and caches whole batches of large images do not suit
LOGITS = "logits"  # a layer of methods that are classifiers themselves (the hook "classify")


def with_logits(method: Method) -> Callable[[Variables, Array], dict[str, Array]]:
    """``encode`` with one layer more, :data:`LOGITS`, of a method that is a classifier itself."""
    classify = method.hooks.get("classify")

    def encode(variables: Variables, inputs: Array) -> dict[str, Array]:
        found = dict(method.encode(variables, inputs))
        return found if classify is None else found | {LOGITS: classify(variables, inputs)}

    return encode


@dataclass(frozen=True)
class Encode:
    """:class:`ssl_jax.evals.Encode` of a method: every example of a source in order, in inference mode.

    Attributes:
      max_dim: stages keep places, with at most so many numbers, see ``Method.encode``.
      seed: of random views.
    """

    method: Method
    modality: Modality
    mesh: Mesh
    max_dim: int | None = None
    seed: int = 0

    @property
    def has_views(self) -> bool:
        return self.modality.views is not None

    def accepts(self, source: Source) -> None:
        self.modality.accepts(source)

    def check_score(self) -> None:
        """Raises a ValueError of one line where the method has no measure of its own on held-out batches."""
        if not self.has_score:
            raise ValueError("score: this method has no measure of its own on held-out data; leave it out")

    @property
    def has_score(self) -> bool:
        return "score" in self.method.hooks and self.modality.score is not None

    def score(self, variables: Variables, source: Source, *, batch_size: int) -> dict[str, float]:
        """What the method makes of held-out batches, see ``shared/score.py``; ``batch_size`` rounded up to devices."""
        assert self.modality.score is not None  # check_score
        devices = self.mesh.devices.size
        split = {"process": jax.process_index(), "process_count": jax.process_count()}
        with jax.set_mesh(self.mesh):
            batches = self.modality.score(source, global_batch_size=-(-batch_size // devices) * devices, **split)
            place = partial(parallel.place, mesh=self.mesh)
            key = jax.random.key(self.seed)
            return score.score(self.method, variables._replace(rows=None), batches, key=key, place=place)

    @cached_property
    def _compiled(self):
        classify = self.method.hooks.get("classify")

        def encode(variables, inputs, layers):
            found = dict(self.method.encode(variables, inputs, self.max_dim))
            if classify and LOGITS in layers:
                found[LOGITS] = classify(variables, inputs)
            return {name: found[name] for name in layers}

        def encode_inputs(variables, inputs, layers):
            return encode(parallel.gathered(variables), inputs, layers)

        def encode_views(variables, inputs, layers):
            variables = parallel.gathered(variables)
            found = [encode(variables, inputs[:, v], layers) for v in range(inputs.shape[1])]
            return {name: jnp.stack([f[name] for f in found], axis=1) for name in layers}

        return tuple(jax.jit(f, static_argnames="layers") for f in (encode_inputs, encode_views))

    def layers_of(self, variables: Variables) -> dict[str, int]:
        """What may be asked for, and how many numbers each gives a row."""
        inputs = jax.ShapeDtypeStruct((1, *self.modality.input_shape), self.modality.spec(1)["views"][0].dtype)
        found = dict(jax.eval_shape(lambda v, x: self.method.encode(v, x, self.max_dim), variables, inputs))
        if classify := self.method.hooks.get("classify"):
            found[LOGITS] = jax.eval_shape(classify, variables, inputs)
        return {name: a.shape[1] for name, a in found.items()}

    def __call__(
        self, variables: Variables, source: Source, *, layers: Sequence[str] = ("features",), views: int = 0
    ) -> dict[str, np.ndarray]:
        """``{layer: [n, d], ..., "label": [n]}``; of an example that cannot be read zeros, which no label claims."""
        devices = self.mesh.devices.size
        # Of few examples no whole batch is computed for what fills it up; powers of two are few programs.
        rows = min(VIEWS_BATCH if views else BATCH, 1 << max(len(source) - 1, 0).bit_length())
        shape = self.modality.input_shape
        if len(shape) == 3 and parallel.platform() == "cpu":
            fitting = max(8, PIXELS // (shape[0] * shape[1]))
            rows = min(rows, 1 << fitting.bit_length() - 1)
        split = {
            "global_batch_size": -(-rows // devices) * devices,
            "process": jax.process_index(),
            "process_count": jax.process_count(),
        }
        if not views:
            batches = self.modality.inputs(source, **split)
        elif self.modality.views is None:
            raise ValueError(f"random views of {self.modality.record} are not known; leave out what needs them")
        else:
            batches = self.modality.views(source, count=views, seed=self.seed, **split)
        compiled = self._compiled[bool(views)]
        with jax.set_mesh(self.mesh):
            found = features.extract(
                lambda variables, inputs: compiled(variables, inputs, layers=tuple(layers)),
                variables,
                counted(batches, "encoding", len(source), self.modality.record, by=split["global_batch_size"]),
                place=lambda batch: parallel.place(batch, self.mesh),
            )
        index = found.pop("index")
        if len(index) == len(source):
            return found
        whole = {n: np.zeros((len(source), *a.shape[1:]), a.dtype) for n, a in found.items()}
        whole["label"] -= 1
        for name, values in whole.items():
            values[index] = found[name]
        return whole


class OnceEncode:
    """An :class:`Encode` that, within ``with once:``, makes the features of a source once, of the same variables."""

    def __init__(self, encode: Encode, layers: Mapping[str, int]):
        self.encode, self.layers, self._kept = encode, layers, None

    def __enter__(self) -> None:
        self._kept: dict[Any, dict[str, np.ndarray]] | None = {}

    def __exit__(self, *_: Any) -> None:
        self._kept = None

    @property
    def has_views(self) -> bool:
        return self.encode.has_views

    def accepts(self, source: Source) -> None:
        self.encode.accepts(source)

    def check_score(self) -> None:
        self.encode.check_score()

    def score(self, variables: Variables, source: Source, *, batch_size: int) -> dict[str, float]:
        return self.encode.score(variables, source, batch_size=batch_size)

    def __call__(
        self, variables: Variables, source: Source, *, layers: Sequence[str] = ("features",), views: int = 0
    ) -> dict[str, np.ndarray]:
        if self._kept is None:
            return self.encode(variables, source, layers=layers, views=views)
        found = self._kept.setdefault((source.fingerprint, views), {})
        if missing := tuple(name for name in layers if name not in found):
            found |= self.encode(variables, source, layers=missing, views=views)
        return {name: found[name] for name in (*layers, "label")}


@dataclass(frozen=True)
class CachedEncode:
    """An :class:`Encode` of one checkpoint, whose features are kept under ``folder``.

    A cache is named after checkpoint, data and view, and holds one file for each layer.
    """

    encode: Encode
    variables: Variables
    recipe: Any  # of the run; what the views are is in it
    folder: Path
    say: Callable[[str], None]

    @property
    def layers(self) -> Mapping[str, int]:
        return self._layers

    @property
    def has_views(self) -> bool:
        return self.encode.has_views

    def accepts(self, source: Source) -> None:
        self.encode.accepts(source)

    def check_score(self) -> None:
        self.encode.check_score()

    def score(self, variables: Variables, source: Source, *, batch_size: int) -> dict[str, float]:
        variables = jax.device_put(variables, parallel.replicated(self.encode.mesh))
        return self.encode.score(variables, source, batch_size=batch_size)

    @cached_property
    def _layers(self) -> Mapping[str, int]:
        return self.encode.layers_of(self.variables)

    def __call__(
        self, variables: Variables, source: Source, *, layers: Sequence[str] = ("features",), views: int = 0
    ) -> dict[str, np.ndarray]:
        shape = self.encode.modality.input_shape
        parts = (fingerprint(variables), source.fingerprint, self.recipe, views, shape, self.encode.max_dim)
        folder = self.folder / sha256(*parts, self.encode.seed if views else "")[:16]
        shapes = {name: (*((views,) if views else ()), self.layers[name]) for name in layers} | {"label": ()}
        variables = jax.device_put(variables, parallel.replicated(self.encode.mesh))

        def rows(start: int, stop: int) -> dict[str, np.ndarray]:
            return self.encode(variables, source.take(np.arange(start, stop)), layers=layers, views=views)

        found = features.cached(folder, shapes, len(source), rows, self.say)
        if source.labels is None:
            return found
        # Of the data, not of the cache; there an example without a label can also be one that could not be read.
        return found | {"label": np.where(found["label"] < 0, -1, source.labels).astype(np.int32)}
