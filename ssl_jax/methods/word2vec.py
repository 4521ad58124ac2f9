"""word2vec: a word is told from words that do not stand there, by what stands near it.

Skip-gram, of every centre c and every word o near it:

    L = -log s(u_o . v_c) - k/K sum_n log s(-u_n . v_c)

CBOW, of every centre, with ``h`` the mean of v over the words near it:

    L = -log s(u_c . h) - k/K sum_n log s(-u_n . h)

s is the sigmoid, v the encoder's table, u that of the method. The K negatives n of a row are shared by its centres and
count as k. L is the mean over pairs, or over centres.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import EMBEDDING, init_parts, online_trunk
from ssl_jax.models.embedding import Embedding
from ssl_jax.parallel import mean as mean_over_devices
from ssl_jax.types import Array, LossOut, Method, Plan, Variables


def make(encoder, *, plan: Plan, form: Literal["skipgram", "cbow"] = "skipgram", negatives: int = 5) -> Method:
    """A second table beside ``encoder``, which is one.

    Args:
      form: "skipgram" or "cbow".
      negatives: k, as many as the negatives of a row count for each pair.

    ``init_from.embedding`` is a file of word vectors that the table begins with.

    Raises:
      ValueError: data that are no windows of text, another encoder than a table, an argument out of its meaning.

    Reference: Mikolov et al. 2013 (arXiv:1310.4546), eq. 4, and 2013 (arXiv:1301.3781), section 3. Differs from their
    code: steps of whole batches and any optimizer; a negative that happens to be the word itself counts, and of two
    words it is the centre that has v, both as in the paper; negatives are shared, see ``data/text/windows.py``.
    """
    check_table(encoder, plan, "word2vec", "windows")
    if form not in ("skipgram", "cbow"):
        raise ValueError(f"method.form={form!r} is not one of skipgram, cbow")
    if negatives < 1:
        raise ValueError(
            f"method.negatives={negatives} must be 1 or more; word2vec uses 5 to 20, or 2 to 5 of much text"
        )

    def init(key, batch, given=None):
        check_leaves(batch, "reach", "windows", "word2vec")
        params, state = init_parts({"encoder": encoder}, key, batch["views"][0], given)
        output = jnp.zeros_like(params["encoder"]["stem_embedding"])
        return Variables(params | {"output": {"table": output}}, state)

    def pairs(variables, batch):
        """(encoder's outputs, -log s of what is there, of what is not, how much both count), each ``[b, l, ...]``."""
        view, reach = batch["views"][0], batch["reach"]
        length, window = reach.shape[1], (view.shape[1] - reach.shape[1]) // 2
        table = variables.params["output"]["table"].astype(encoder.dtype or variables.params["output"]["table"].dtype)
        out, _ = models.forward(encoder, variables.params["encoder"], {}, view, train=False)
        near = _near(view, reach, window)
        number = near.sum(2)
        if form == "skipgram":
            h = out["stem"][:, window : window + length]
            there = _band(jnp.einsum("bid,bjd->bij", h, table[view]), window)
            weight, each = _band(near, window), number
        else:
            h = jnp.einsum("bij,bjd->bid", near.astype(out["stem"].dtype), out["stem"])
            h = h / jnp.maximum(number, 1)[:, :, None].astype(h.dtype)
            there = (h * table[view[:, window : window + length]]).sum(-1)
            weight = each = (number > 0).astype(jnp.int32)
        noise = jnp.einsum("bid,bnd->bin", h, table[batch["negatives"]])
        real = compute_dtype(there)
        there, noise = -jax.nn.log_sigmoid(there.astype(real)), -jax.nn.log_sigmoid(-noise.astype(real))
        return out, there * weight.astype(real), noise.mean(2) * each.astype(real) * negatives, each

    def loss(variables, batch, key, step, axis):
        out, there, noise, each = pairs(variables, batch)
        total = jnp.maximum(mean_over_devices(each.sum().astype(there.dtype), axis), 1e-9)
        there, noise = there.sum() / total, noise.sum() / total
        metrics = {"positive_loss": there, "negative_loss": noise / negatives}
        return there + noise, LossOut(variables.model_state, metrics, outputs={"features": out["features"]})

    def score(variables, batch, key, rows):
        batch = {**batch, "reach": jnp.where((batch["index"] >= 0)[:, None], batch["reach"], 0)}
        _, there, noise, each = pairs(variables, batch)
        return {"loss": (there.sum() + noise.sum(), each.sum())}, None

    return Method(
        init,
        loss,
        online_trunk,
        lambda variables, inputs, max_dim=None: of_documents(encoder, online_trunk(variables), inputs),
        hooks={"score": score},
        parts={"embedding": EMBEDDING},
    )


def _near(view: Array, reach: Array, window: int) -> Array:
    """bool ``[b, l, l + 2 window]``: which words of a row each centre looks at; itself is none of them."""
    distance = jnp.abs(jnp.arange(view.shape[1])[None] - window - jnp.arange(reach.shape[1])[:, None])[None]
    return (distance > 0) & (distance <= reach[:, :, None]) & (view != 0)[:, None]


def _band(x: Array, window: int) -> Array:
    """``[b, l, 2 window + 1]`` of ``[b, l, l + 2 window]``: of row i columns i to i + 2 window.

    With a column more than there is, each row lies one place farther to the left than the one before.
    """
    rows, length, width = x.shape
    flat = jnp.pad(x.reshape(rows, length * width), ((0, 0), (0, length)))
    return flat.reshape(rows, length, width + 1)[:, :, : 2 * window + 1]


# --- what methods share whose encoder is a table of words


def check_table(encoder, plan: Plan, name: str, recipe: str) -> None:
    """Refuse an encoder that is more than a table, and data that are no text."""
    if plan.vocab is None:
        raise ValueError(f"method.name={name!r} reads text; use data.recipe={recipe} and a source of text")
    if not isinstance(encoder, Embedding):
        raise ValueError(f"method.name={name!r} learns a table of words (model.name=embedding), no {encoder.label}")


def check_leaves(batch, leaf: str, recipe: str, name: str) -> None:
    """Refuse the batches of another recipe."""
    if leaf not in batch:
        raise ValueError(f"method.name={name!r} needs data.recipe={recipe}, which gives {leaf!r}; use it")


def of_documents(encoder, trunk, inputs) -> dict[str, Array]:
    """``Method.encode`` of a table: the mean of a document's words, which is all there is at any stage."""
    features = models.forward(encoder, trunk[0], trunk[1], inputs, train=False)[0]["features"]
    return {"stem": features, "stage1": features, "features": features}
