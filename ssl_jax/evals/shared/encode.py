"""Frozen features of a run's checkpoint, as evaluators ask for them: each once, cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax import parallel
from ssl_jax.data.images import recipes, stream
from ssl_jax.data.source import Source, sha256
from ssl_jax.evals.shared import features
from ssl_jax.evals.shared.pictures import EVAL_BATCH
from ssl_jax.run import checkpoint
from ssl_jax.run.open import Run
from ssl_jax.types import Variables

VIEWS_BATCH = 64


@dataclass(frozen=True)
class CachedEncode:
    """:class:`ssl_jax.evals.Encode` of a run's checkpoint, cached under ``folder``.

    A cache is named after checkpoint, data and view, and holds one file for each layer.
    """

    run: Run
    mesh: Mesh
    folder: Path
    max_dim: int | None
    seed: int
    say: Callable[[str], None]

    @property
    def layers(self) -> dict[str, int]:
        return self._layers

    @cached_property
    def _layers(self) -> dict[str, int]:
        size, _, channels = self.run.plan.input_shape
        images = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
        return {name: a.shape[1] for name, a in jax.eval_shape(self._encode, self.run.variables, images).items()}

    def __call__(
        self, variables: Variables, source: Source, *, layers: Sequence[str] = ("features",), views: int = 0
    ) -> dict[str, np.ndarray]:
        recipe = recipes.get(self.run.config.data.recipe)
        what = [recipe.views[v % len(recipe.views)] for v in range(views)] or recipe.evaluate
        parts = (checkpoint.fingerprint(variables), source.fingerprint, what, self.run.plan.input_shape, self.max_dim)
        folder = self.folder / sha256(*parts, self.seed if views else "")[:16]
        shape = (views,) if views else ()
        shapes = {name: (*shape, self.layers[name]) for name in layers} | {"label": ()}
        found = features.cached(
            folder, shapes, len(source), lambda a, b: self._rows(variables, source, a, b, tuple(layers), what), self.say
        )
        if source.labels is None:
            return found
        # Of the data, not of the cache; there an image without a label can also be one that could not be read.
        return found | {"label": np.where(found["label"] < 0, -1, source.labels).astype(np.int32)}

    def _encode(self, variables: Variables, images):
        return self.run.method.encode(variables, images, self.max_dim)

    @cached_property
    def _compiled(self):
        def encode(variables, images, layers):
            found = self._encode(variables, images)
            return {name: found[name] for name in layers}

        def encode_views(variables, images, layers):
            found = [encode(variables, images[:, v], layers) for v in range(images.shape[1])]
            return {name: jnp.stack([f[name] for f in found], axis=1) for name in layers}

        return tuple(jax.jit(f, static_argnames="layers") for f in (encode, encode_views))

    def _rows(self, variables: Variables, source: Source, start: int, stop: int, layers: tuple[str, ...], what):
        size, devices = self.run.plan.input_shape[0], self.mesh.devices.size
        part = source.take(np.arange(start, stop))
        several = isinstance(what, list)
        arguments = {
            "image_size": size,
            "global_batch_size": -(-(VIEWS_BATCH if several else EVAL_BATCH) // devices) * devices,
            "process": jax.process_index(),
            "process_count": jax.process_count(),
        }
        if several:
            batches = stream.view_batches(part, views=what, seed=self.seed, **arguments)
        else:
            batches = stream.eval_batches(part, recipe_eval=what, **arguments)
        compiled = self._compiled[several]
        with jax.set_mesh(self.mesh):
            found = features.extract(
                lambda variables, images: compiled(variables, images, layers=layers),
                jax.device_put(variables, parallel.replicated(self.mesh)),
                batches,
                place=lambda batch: parallel.place(batch, self.mesh),
            )
        if len(found["index"]) == len(part):
            return found
        # An image that cannot be read any more: a row of zeros that no label claims.
        whole = {n: np.zeros((len(part), *a.shape[1:]), a.dtype) for n, a in found.items()}
        whole["label"] -= 1
        for name, values in whole.items():
            values[found["index"]] = found[name]
        return whole
