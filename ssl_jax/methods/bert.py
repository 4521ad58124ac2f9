"""BERT: words that were hidden, from both sides, and whether one part of a text follows the other.

    L = -1/m sum_j log softmax(E f(h_j) + b)[x_j]  -  1/n sum_i log softmax(W tanh(U c_i))[r_i]

over the m masked words of the batch, h the encoder's output where they stand, f a dense layer, GELU and LayerNorm, E
the encoder's embedding; and over its n pairs, c the output at ``[CLS]``, r whether the second part is a random one.
Masks are those of ``tasks/masked_words.py``, drawn anew in every step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from ssl_jax import models
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import classification, init_parts, online_trunk
from ssl_jax.models.heads import NextSentence, TiedDecoder, WordTransform
from ssl_jax.models.transformer import mean_token
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.tasks.masked_words import Masked, mask_words, most_masked
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(
    encoder,
    *,
    plan: Plan,
    nsp: bool = True,
    mask_rate: float = 0.15,
    max_masked: int | None = None,
    whole_word: bool = False,
) -> Method:
    """Two heads on ``encoder``, which takes tokens with ``segment=`` and gives ``"output"`` ``[b, t, w]``.

    Args:
      nsp: whether it is asked if the second part follows the first; else its term is left out.
      mask_rate: share of the words that are asked for.
      max_masked: of them in a row; None: ``mask_rate`` of a full row.
      whole_word: words of several pieces (of a WordPiece tokenizer, ``##ing``) are hidden as a whole.

    Raises:
      ValueError: data that are no pairs of sentences, an encoder that does not read pairs, an argument out of its
        meaning.

    Reference: Devlin et al., "BERT", 2019 (arXiv:1810.04805), section 3.1 and appendix A.
    """
    vocab = plan.vocab
    if vocab is None or vocab.mask is None:
        raise ValueError("method.name='bert' reads pairs of sentences; use data.recipe=pairs and a source of text")
    if not models.takes(encoder, "segment"):
        raise ValueError(
            f"method.name='bert' needs an encoder of pairs (text_transformer), and this is {encoder.label}"
        )
    if not 0 < mask_rate < 1:
        raise ValueError(f"method.mask_rate={mask_rate} must be in (0, 1); BERT uses 0.15")
    if max_masked is not None and max_masked < 1:
        raise ValueError(f"method.max_masked={max_masked} must be 1 or more, or null")
    parts = {"encoder": encoder, "words": WordTransform(encoder.dtype), "decoder": TiedDecoder(vocab.size)}
    following = NextSentence(encoder.dtype)

    def init(key, batch, given=None):
        if "random_next" not in batch:
            raise ValueError("method.name='bert' reads pairs of sentences; use data.recipe=pairs")
        x = batch["views"][0]
        params, state = init_parts(parts, key, x, given, read=lambda out: out["output"])
        if nsp:
            out, _ = models.forward(encoder, params["encoder"], {}, x, train=False)  # for its shape
            params["next"], state["next"] = models.init(following, named_key(key, "next"), out["output"][:, 0])
        return Variables(params, state)

    def run(part, variables, x, train: bool = False, **inputs):
        module = following if part == "next" else parts[part]
        return models.forward(module, variables.params[part], {}, x, train=train, **inputs)[0]

    def words(variables, output, places):
        """Logits ``[b, most, vocab]`` of the tokens at some places."""
        x = jnp.take_along_axis(output, places[:, :, None], axis=1)
        table = variables.params["encoder"]["stem_embedding"]
        logits = run("decoder", variables, run("words", variables, x), table=table)
        return logits.astype(compute_dtype(logits))

    def hide(batch, keys) -> Masked:
        tokens = batch["views"][0]
        most = most_masked(tokens.shape[1], mask_rate) if max_masked is None else max_masked
        continues = batch["continues"] if whole_word else None
        return mask_words(
            tokens, keys, vocab=vocab, rate=mask_rate, most=min(most, tokens.shape[1]), continues=continues
        )

    def predict(variables, batch, keys, **drawn):
        """(masked, encoder's outputs, logits of the words asked for)."""
        masked = hide(batch, keys)
        out = run("encoder", variables, masked.tokens, segment=batch["segment"], **drawn)
        return masked, out, words(variables, out["output"], masked.places)

    def answer(variables, out, batch):
        """Logits ``[b, 2]`` of whether the second part is a random one, and whether it is."""
        logits = run("next", variables, out["output"][:, 0])
        return logits.astype(compute_dtype(logits)), batch["random_next"].astype(jnp.int32)

    def loss(variables, batch, key, step, axis):
        keys = row_keys(named_key(key, "masks"), len(batch["views"][0]), axis)
        masked, out, logits = predict(variables, batch, keys, train=True, axis=axis, key=key)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, masked.targets)
        weight = masked.asked.astype(each.dtype)
        count = jnp.maximum(mean_over_devices(weight.sum(), axis), 1e-9)
        value = (each * weight).sum() / count
        right = (logits.argmax(-1) == masked.targets).astype(each.dtype)
        metrics = {"mlm_loss": value, "mlm_top1": (right * weight).sum() / count}
        if nsp:
            term, metrics["nsp_top1"] = classification(*answer(variables, out, batch))
            value, metrics["nsp_loss"] = value + term, term
        return value, LossOut(variables.model_state, metrics, outputs={"features": out["features"]})

    def score(variables, batch, key, rows):
        """Of held-out pairs; "loss" is the mean over examples of their own L."""
        index = batch["index"]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
        masked, out, logits = predict(variables, batch, keys)
        real = index >= 0
        asked = masked.asked & real[:, None]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, masked.targets)
        each, count = jnp.where(asked, each, jnp.zeros_like(each)), asked.sum()
        own = each.sum(1) / jnp.maximum(asked.sum(1), 1).astype(each.dtype)
        found = {"mlm_loss": (each.sum(), count), "perplexity": (each.sum(), count)}
        found["mlm_top1"] = (asked & (logits.argmax(-1) == masked.targets)).sum(), count
        if nsp:
            after, label = answer(variables, out, batch)
            own = own + optax.softmax_cross_entropy_with_integer_labels(after, label)
            found["nsp_top1"] = (real & (after.argmax(-1) == label)).sum(), real.sum()
        found["loss"] = jnp.where(real, own, jnp.zeros_like(own)).sum(), real.sum()
        return found, rows

    def asked(batch, key):
        masked = hide(batch, row_keys(named_key(key, "masks"), len(batch["views"][0]), None))
        rows = jnp.arange(len(masked.places))[:, None]
        targets = jnp.where(masked.asked, masked.targets, 0)
        return {"tokens": masked.tokens, "targets": jnp.zeros_like(masked.tokens).at[rows, masked.places].max(targets)}

    def encode(variables, inputs, max_dim=None):
        out = run("encoder", variables, inputs)
        stages = {k: mean_token(a, inputs != 0) for k, a in out.items() if k == "stem" or k.startswith("stage")}
        cls = out["output"][:, 0].astype(compute_dtype(out["output"]))
        return stages | {"features": out["features"], "mean": mean_token(out["output"], inputs != 0), "cls": cls}

    def fill(variables, inputs):
        """Logits ``[b, t, vocab]`` of what each token is, those that are ``[MASK]`` among them."""
        out = run("encoder", variables, inputs)
        return words(variables, out["output"], jnp.broadcast_to(jnp.arange(inputs.shape[1])[None], inputs.shape))

    def contextual(variables, inputs):
        """``[b, t, w]``: what each token is in its text."""
        return run("encoder", variables, inputs)["output"]

    hooks = {"asked": asked, "score": score, "fill": fill, "contextual": contextual}
    return Method(init, loss, online_trunk, encode, hooks=hooks)
