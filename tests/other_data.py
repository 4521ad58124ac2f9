"""Data that are no images, or not in one part, for the tests of the words: letters in streams, and two parts of images.

``other_data:LETTERS`` and ``other_data:TWO_PARTS`` are recipes, ``other_data:lines`` a source, ``other_data:Letters``
an encoder and ``other_data:language_model`` and ``other_data:consistency`` methods, as a user's own would be.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ssl_jax import models, parallel
from ssl_jax.data.feed import Feed
from ssl_jax.data.images import modality as images
from ssl_jax.data.images import recipes
from ssl_jax.data.modality import Modality
from ssl_jax.data.order import FOREVER, indices, process_rows
from ssl_jax.data.source import Source, sha256
from ssl_jax.methods import init_parts, online_trunk, run_parts
from ssl_jax.models.heads import linear
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import LossOut, Method, Variables, Vocab

LENGTH = 8
TOKENIZER = "letters.json"


def lines(data_dir=None, n=96, seed=0):
    """Lines of a text in which two letters alternate, the pair given by the class; half of the labels are unknown."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n).astype(np.int32)
    text = np.array([("ab", "cd", "ef")[k] * (LENGTH // 2) for k in label], object)
    label = np.where(np.arange(n) % 2, label, -1).astype(np.int32)
    return Source({"text": text}, label, ("ab", "cd", "ef"), sha256(*text)), None


class Recipe(NamedTuple):
    """Letters as tokens; training reads all lines as one text, in streams of which batch row i continues row i."""

    length: int

    def modality(self, data, *, train, plan, folder):
        stored = None if folder is None else folder / TOKENIZER
        if stored is not None and stored.is_file():
            letters = json.loads(stored.read_text())
        elif train is not None:
            letters = sorted(set("".join(train.columns["text"])))
        else:
            raise ValueError(f"{stored} is not there; put a copy of it back")
        number = {letter: i for i, letter in enumerate(letters, 1)}  # 0 is padding
        length = self.length

        def tokens(text) -> np.ndarray:
            found = np.zeros(length, np.int32)
            words = [number.get(letter, 0) for letter in text[:length]]
            found[: len(words)] = words
            return found

        def spec(rows: int) -> dict[str, Any]:
            ids = jax.ShapeDtypeStruct((rows,), np.int32)
            whole = jax.ShapeDtypeStruct((rows, length + 1), np.int32)
            view = jax.ShapeDtypeStruct((rows, length), np.int32)
            return {"tokens": whole, "views": (view,), "first": jax.ShapeDtypeStruct((rows,), bool)} | {
                "label": ids,
                "index": ids,
            }

        def feed(source, *, seed, global_batch_size, mode="jit"):
            text = np.concatenate([tokens(t) for t in source.columns["text"]])
            streams = text[: len(text) // global_batch_size * global_batch_size].reshape(global_batch_size, -1)
            steps = (streams.shape[1] - 1) // length

            def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
                rows = process_rows(global_batch_size, process, process_count)
                for step in range(start_step, FOREVER if total_steps is None else total_steps):
                    at = step % steps * length
                    part = streams[rows, at : at + length + 1]
                    yield {"tokens": part, "views": (part[:, :-1],), "first": np.full(len(part), step % steps == 0)} | {
                        "label": np.full(len(part), -1, np.int32),
                        "index": np.arange(rows.start, rows.stop, dtype=np.int32),
                    }

            return Feed(batches, steps_per_epoch=steps, num_examples=len(source))

        def inputs(source, *, global_batch_size, process=0, process_count=1):
            rows = process_rows(global_batch_size, process, process_count)
            for start in range(0, len(source), global_batch_size):
                index = np.arange(start + rows.start, start + rows.stop)
                mask = index < len(source)
                index = np.where(mask, index, 0).astype(np.int32)
                found = np.stack([tokens(source.columns["text"][i]) for i in index]) * mask[:, None]
                label = np.full(len(index), -1, np.int32) if source.labels is None else source.labels[index]
                label = np.where(mask, label, -1).astype(np.int32)
                yield {"inputs": found.astype(np.int32), "label": label, "index": index, "mask": mask}

        def score(source, **split):
            for batch in inputs(source, **split):
                shifted = np.concatenate([batch["inputs"], np.zeros((len(batch["inputs"]), 1), np.int32)], 1)
                index = np.where(batch["mask"], batch["index"], -1).astype(np.int32)
                yield {"tokens": shifted, "views": (batch["inputs"],), "first": np.ones(len(index), bool)} | {
                    "label": batch["label"],
                    "index": index,
                }

        return Modality(
            input_shape=(length,),
            spec=spec,
            feed=feed,
            inputs=inputs,
            prepare=lambda texts: np.stack([tokens(text) for text in texts]),
            score=score,
            vocab=Vocab(len(letters) + 1),
            unit="lines",
            files={TOKENIZER: json.dumps(letters).encode()},
        )


LETTERS = Recipe(LENGTH)


class Letters(nn.Module):
    """An Elman network on one-hot letters; its state goes from batch to batch as ``rows``."""

    vocab: int = 7
    width: int = 16
    norm: Any = None
    frozen_stages: int = 0
    dtype: Any = None

    stages = 1
    min_size = 2
    label = "letters"
    by_token = ("stem_embedding",)

    @property
    def dim(self):
        return self.width

    @nn.compact
    def __call__(self, x, *, train, axis=None, rows=None):
        draw = nn.initializers.normal(0.3)
        embedding = self.param("stem_embedding", draw, (self.vocab, self.width))
        recurrent = self.param("stage1_recurrent", draw, (self.width, self.width))
        state = jnp.zeros((len(x), self.width), embedding.dtype) if rows is None else rows

        def step(state, token):
            state = jnp.tanh(embedding[token] + state @ recurrent)
            return state, state

        state, states = jax.lax.scan(step, state, x.T)
        return {"stage1": jnp.swapaxes(states, 0, 1), "features": states.mean(0), "rows": state}


def language_model(encoder, *, plan, drop: float = 0.1) -> Method:
    """The next letter; a letter of the input is hidden with chance ``drop``, drawn for its row."""
    head = linear(plan.vocab.size)
    parts = {"encoder": encoder, "head": head}

    def init(key, batch, given=None):
        x = batch["views"][0]
        params, state = init_parts(parts, key, x, given, read=lambda out: out["stage1"])
        return Variables(params, state, rows=jnp.zeros((len(x), encoder.dim)))

    def losses(variables, batch, x, rows):
        rows = jnp.where(batch["first"][:, None], jnp.zeros_like(rows), rows)
        out, _ = models.forward(encoder, variables.params["encoder"], {}, x, train=False, rows=rows)
        logits, _ = models.forward(head, variables.params["head"], {}, out["stage1"], train=False)
        asked = batch["tokens"][:, 1:]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, asked)
        return each * (asked > 0).astype(each.dtype), (asked > 0), out

    def loss(variables, batch, key, step, axis):
        x = batch["views"][0]
        keys = row_keys(key, len(x), axis)
        hidden = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], jnp.float32))(keys) < drop
        each, asked, out = losses(variables, batch, jnp.where(hidden, 0, x), variables.rows)
        count = parallel.mean(asked.sum().astype(each.dtype), axis)
        shown = {"features": out["features"]}
        return each.sum() / count, LossOut({"encoder": {}, "head": {}}, {}, rows=out["rows"], outputs=shown)

    def score(variables, batch, key, rows):
        rows = jnp.zeros((len(batch["index"]), encoder.dim)) if rows is None else rows
        each, asked, out = losses(variables, batch, batch["views"][0], rows)
        real = (batch["index"] >= 0)[:, None]
        return {"loss": (jnp.where(real, each, 0).sum(), (asked & real).sum())}, out["rows"]

    def encode(variables, inputs, max_dim=None):
        out, _ = models.forward(encoder, variables.params["encoder"], {}, inputs, train=False)
        return {"stage1": out["stage1"].mean(1), "features": out["features"]}

    return Method(init, loss, online_trunk, encode, hooks={"score": score})


class TwoParts(NamedTuple):
    """Batches of labelled images, and beside them twice as many unlabelled ones in an order of their own."""

    images: recipes.Recipe
    ratio: int = 2

    def modality(self, data, *, train, plan, folder):
        channels = plan.input_shape[-1] if train is None else train.channels
        whole = images.make(self.images, data, channels)

        def spec(rows):
            more = whole.spec(rows * self.ratio)
            return {**whole.spec(rows), "unlabelled": {"views": more["views"], "index": more["index"]}}

        def feed(source, *, seed, global_batch_size, mode="jit"):
            known = np.flatnonzero(source.labels >= 0)
            first, second = source.take(known), source

            def batches(*, start_step=0, total_steps=None, process=0, process_count=1, unreadable=None):
                def part(part_source, rows, number, step):
                    mine = process_rows(rows, process, process_count)
                    drawn = indices(len(part_source), rows, seed, step, number)[mine]
                    view = part_source.columns["image"][drawn] / np.float32(255)
                    return (view,) * len(self.images.views), drawn

                for step in range(start_step, FOREVER if total_steps is None else total_steps):
                    views, drawn = part(first, global_batch_size, 0, step)
                    more, others = part(second, global_batch_size * self.ratio, 1, step)
                    unlabelled = {"views": more, "index": others.astype(np.int32)}
                    found = {"views": views, "label": first.labels[drawn], "index": known[drawn].astype(np.int32)}
                    yield found | {"unlabelled": unlabelled}

            steps = len(second) // (global_batch_size * self.ratio)
            return Feed(batches, steps_per_epoch=steps, num_examples=len(second))

        return whole._replace(spec=spec, feed=feed)


TWO_PARTS = TwoParts(recipes.Recipe((recipes.View(None),)))


def consistency(encoder, *, plan, mean=(0.0,), std=(1.0,), weight: float = 1.0) -> Method:
    """Cross-entropy on the first part; on the second the squared change of the prediction under noise of its row."""
    parts = {"encoder": encoder, "classifier": linear(plan.num_classes)}

    def init(key, batch, given=None):
        return Variables(*init_parts(parts, key, batch["views"][0], given))

    def loss(variables, batch, key, step, axis):
        x, more = batch["views"][0], batch["unlabelled"]["views"][0]
        keys = row_keys(named_key(key, "noise"), len(more), axis)
        noise = jax.vmap(lambda k: jax.random.normal(k, more.shape[1:], jnp.float32))(keys).astype(more.dtype)
        out, state = run_parts(parts, variables.params, variables.model_state, x, train=True, axis=axis)
        plain, _ = run_parts(parts, variables.params, variables.model_state, more, train=False)
        moved, _ = run_parts(parts, variables.params, variables.model_state, more + 0.1 * noise, train=False)
        supervised = optax.softmax_cross_entropy_with_integer_labels(out["classifier"], batch["label"]).mean()
        target = jax.lax.stop_gradient(jax.nn.softmax(plain["classifier"]))
        change = jnp.square(jax.nn.softmax(moved["classifier"]) - target).sum(-1).mean()
        shown = {"features": out["encoder"]["features"]}
        return supervised + weight * change, LossOut(state, {"change": change}, outputs=shown)

    def encode(variables, inputs, max_dim=None):
        out, _ = run_parts(parts, variables.params, variables.model_state, inputs, train=False)
        return models.pooled(out["encoder"], max_dim)

    return Method(init, loss, online_trunk, encode)


def config(case: str, **overrides):
    """Of a run of 12 steps of ``letters`` or ``two_parts``."""
    import runs

    steps = {"train__steps": 12, "train__eval_every": 4, "train__checkpoint_every": 4}
    found = runs.config("supervised", **steps | overrides)
    found.data.update({"global_batch_size": 8, "num_examples": None})
    found.optim.update({"learning_rate": 0.1, "scale": "none"})
    if case == "letters":
        found.method = ConfigDict({"name": "other_data:language_model"})
        found.model = ConfigDict({"name": "other_data:Letters"})
        found.data.update({"source": "other_data:lines", "recipe": "other_data:LETTERS"})
    else:
        found.method = ConfigDict({"name": "other_data:consistency"})
        found.data.update({"recipe": "other_data:TWO_PARTS", "num_examples": 64})
        found.model.widths = (4,)
    return found


def trained(case: str, devices: int, mode: str = "jit", steps: int = 5) -> dict[str, np.ndarray]:
    """What training changes, {name: array}, after some steps of plain SGD in float64."""
    import contract

    from ssl_jax.experiment import build
    from ssl_jax.interop.leaves import by_name
    from ssl_jax.step import compile_step, make_init

    built = build(config(case, parallel__mode=mode, parallel__devices=None if jax.process_count() > 1 else devices))
    tx, mesh = contract.TX, parallel.make_mesh(devices)

    def widened(tree):
        return jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, tree)

    spec = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), built.modality.spec(8))
    state = jax.jit(make_init(built.method, tx))(jax.random.key(0), spec, None)
    state = jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))
    with contract.double():
        state = jax.device_put(widened(state), parallel.state_shardings(state, mesh))
        state = state.replace(key=jax.random.wrap_key_data(state.key))
        step = compile_step(built.method, tx, mesh, mode=mode)
        split = {"process": jax.process_index(), "process_count": jax.process_count()}
        for batch in built.feed.batches(total_steps=steps, **split):
            state, _ = step(state, step.place(widened(batch)))
        found = {k: getattr(state, k) for k in ("params", "model_state", "rows")}
        return {name: np.asarray(contract.local_value(leaf)) for name, leaf in by_name(found).items()}


def main(case: str, rank: str, count: str, port: str, out: str) -> None:
    """Train a case as one of several processes."""
    jax.config.update("jax_num_cpu_devices", 8 // int(count))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(rank))
    found = trained(case, 8)
    if int(rank) == 0:
        np.savez(out, **found)
    jax.distributed.shutdown()


if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    jax.config.update("jax_platforms", "cpu")
    main(*sys.argv[1:])
