"""Next-word language model: what comes next in a text, from all that was read so far.

    L = -1/n sum_t log softmax(W o_t + b)[x_{t+1}]  (+ alpha mean |o_t|^2 + beta mean |h_{t+1} - h_t|^2)

over the tokens of the batch that are not padding; ``o`` is the encoder's output after dropout, ``h`` before it. The
state of a recurrent encoder at the end of a window is where the next one of the same row begins (truncated
backpropagation through time); a causal transformer reads each window for itself. Perplexity is ``exp(L)`` without the
terms in brackets.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from ssl_jax import models, optim
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import EMBEDDING, init_parts, online_trunk
from ssl_jax.models.heads import TiedDecoder, linear
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    tied: bool = True,
    activity: float = 0.0,
    change: float = 0.0,
    layer_decay: float = 1.0,
    last: bool = False,
) -> Method:
    """A decoder over the vocabulary on ``encoder``, which gives ``"output"`` ``[b, t, w]`` and may carry ``"rows"``.

    Args:
      tied: W is the encoder's embedding (Press and Wolf 2017, Inan et al. 2017); else the decoder's own.
      activity: alpha, of the activation regularisation (AR; 2 in AWD-LSTM).
      change: beta, of the temporal one (TAR; 1 in AWD-LSTM).
      layer_decay: factor of the learning rate from one layer to the one below; the decoder has the rate itself, a tied
        embedding that of its place, the lowest (ULMFiT's discriminative rates: 1/2.6).
      last: nothing but what follows a window is asked for, and each is read for itself: with ``data.length=3`` the
        fourth word from three, as the subject is taught. Perplexity is then over every third word.

    Raises:
      ValueError: data that are no stream of text, an encoder that does not read tokens, an argument out of its meaning.

    Reference: Merity et al. 2018 (arXiv:1708.02182), sections 4 and 5. Differs from the reference code: every window
    has the same length, see ``data/text/streams.py``; the rate is not scaled with it.
    """
    if plan.vocab is None:
        raise ValueError("method.name='language_model' reads text; use data.recipe=stream and a source of text")
    if not hasattr(encoder, "by_token"):
        raise ValueError(f"method.name='language_model' needs an encoder of tokens (lstm), and this is {encoder.label}")
    carries = models.takes(encoder, "rows")
    if not carries and not getattr(encoder, "causal", True):
        raise ValueError(
            f"method.name='language_model' asks for the next word, and {encoder.label} sees it; set model.causal=True"
        )
    if change and not carries:
        raise ValueError(f"method.change={change} is of a recurrent encoder's state; set it to 0 for {encoder.label}")
    carries = carries and not last
    for name, value in {"activity": activity, "change": change}.items():
        if value < 0:
            raise ValueError(f"method.{name}={value} must not be negative; 0 leaves its term out")
    depth = partial(models.depth, stages=encoder.stages)
    groups = optim.by_depth(encoder.stages + 1, layer_decay=layer_decay)
    size = plan.vocab.size
    parts = {"encoder": encoder, "decoder": TiedDecoder(size) if tied else linear(size, dtype=encoder.dtype)}

    def init(key, batch, given=None):
        if "first" not in batch:
            raise ValueError("method.name='language_model' reads text as a stream; use data.recipe=stream")
        x = batch["views"][0]
        params, state = init_parts(parts, key, x, given, read=lambda out: out["output"])
        return Variables(params, state, rows=fresh(params, x) if carries else None)

    def fresh(params, x):
        """The state before any text, of as many rows as ``x``."""
        out = jax.eval_shape(lambda p: models.forward(encoder, p, {}, x, train=False)[0]["rows"], params["encoder"])
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), out)

    def predict(variables, batch, rows, **drawn):
        """(encoder's outputs, cross-entropy ``[b, t]`` of what comes next, whether it counts ``[b, t]``)."""
        params, asked = variables.params, batch["tokens"][:, 1:]
        if carries:
            first = batch["first"]
            rows = jax.tree.map(lambda a: jnp.where(first[:, None], jnp.zeros_like(a), a), rows)
            drawn["rows"] = rows
        out, _ = models.forward(encoder, params["encoder"], {}, batch["views"][0], **drawn)
        x = out["output"]
        if last:
            x, asked = x[:, -1:], asked[:, -1:]
        return out, optax.softmax_cross_entropy_with_integer_labels(decode(params, x), asked), asked != 0

    def decode(params, x):
        table = {"table": params["encoder"]["stem_embedding"]} if tied else {}
        logits, _ = models.forward(parts["decoder"], params["decoder"], {}, x, train=False, **table)
        return logits.astype(compute_dtype(logits))

    def loss(variables, batch, key, step, axis):
        out, each, counts = predict(variables, batch, variables.rows, train=True, axis=axis, key=key)
        weight = counts.astype(each.dtype)
        total = jnp.maximum(mean_over_devices(weight.sum(), axis), 1e-9)
        value = (each * weight).sum() / total
        metrics = {"perplexity": jnp.exp(mean_over_devices(value, axis))}
        if activity:
            value = value + activity * jnp.square(out["output"].astype(each.dtype)).mean()
        if change:
            hidden = out[f"stage{encoder.stages}"].astype(each.dtype)
            value = value + change * jnp.square(hidden[:, 1:] - hidden[:, :-1]).mean()
        shown = {"features": out["features"]}
        return value, LossOut(variables.model_state, metrics, rows=out["rows"] if carries else None, outputs=shown)

    def score(variables, batch, key, rows):
        rows = fresh(variables.params, batch["views"][0]) if carries and rows is None else rows
        out, each, counts = predict(variables, batch, rows, train=False)
        counts = counts & (batch["index"] >= 0)[:, None]
        pair = jnp.where(counts, each, jnp.zeros_like(each)).sum(), counts.sum()
        return {"loss": pair, "perplexity": pair}, out["rows"] if carries else None

    def following(variables, tokens, rows):
        """Logits ``[b, vocab]`` of what comes after the last token that is no padding, and the state then."""
        given = {"rows": rows} if carries and rows is not None else {}
        out, _ = models.forward(encoder, variables.params["encoder"], {}, tokens, train=False, **given)
        at = jnp.where(tokens != 0, jnp.arange(tokens.shape[1])[None], 0).max(1)
        x = jnp.take_along_axis(out["output"], at[:, None, None], axis=1)
        return decode(variables.params, x)[:, 0], out["rows"] if carries else None

    def asked(batch, key):
        targets = batch["tokens"][:, 1:]
        if last:
            targets = jnp.where(jnp.arange(targets.shape[1])[None] == targets.shape[1] - 1, targets, 0)
        return {"tokens": batch["views"][0], "targets": targets}

    def encode(variables, inputs, max_dim=None):
        out, _ = models.forward(encoder, variables.params["encoder"], {}, inputs, train=False)
        return models.pooled(out, present=inputs != 0)

    def wrap_tx(tx):
        return optim.by_group(tx, depth, groups)

    hooks = {"score": score, "next": following, "asked": asked}
    return Method(init, loss, online_trunk, encode, wrap_tx=wrap_tx, hooks=hooks, parts={"embedding": EMBEDDING})
