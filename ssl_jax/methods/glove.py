"""GloVe: vectors whose products are the logarithms of how often words stand near each other.

    L = 1/n sum_ij f(X_ij) (w_i . w~_j + b_i + b~_j - log X_ij)^2,    f(x) = min(1, (x / x_max)^a)

over the n cells of a batch. The product is ``w + w~``.
"""

from __future__ import annotations

import jax.numpy as jnp

from ssl_jax import models
from ssl_jax.losses.normalize import compute_dtype
from ssl_jax.methods import EMBEDDING, init_parts
from ssl_jax.methods.word2vec import check_leaves, check_table, of_documents
from ssl_jax.parallel import named_key
from ssl_jax.types import LossOut, Method, Plan, Variables


def make(encoder, *, plan: Plan, x_max: float = 100.0, exponent: float = 0.75) -> Method:
    """A second table beside ``encoder``, which is one, and a bias for every word of both.

    Args:
      x_max: from which count on all cells weigh the same; 100 for corpora of billions of words, 10 for small ones.
      exponent: a.

    The run's encoder, which is evaluated and exported, has ``w + w~``. ``init_from.embedding`` is a file of word
    vectors that w begins with.

    Raises:
      ValueError: data that are no co-occurrences, another encoder than a table, an argument out of its meaning.

    Reference: Pennington et al., "GloVe: Global Vectors for Word Representation", 2014, eq. 8 and 9. Differs from their
    code: any optimizer (there AdaGrad), steps of whole batches; biases begin with 0.
    """
    check_table(encoder, plan, "glove", "cooccurrences")
    for name, value in {"x_max": x_max, "exponent": exponent}.items():
        if value <= 0:
            raise ValueError(f"method.{name}={value} must be positive; GloVe uses 100 and 0.75")

    def init(key, batch, given=None):
        check_leaves(batch, "count", "cooccurrences", "glove")
        x = batch["views"][0]
        params, state = init_parts({"encoder": encoder}, key, x, given)
        table = models.init(encoder, named_key(key, "context"), x)[0]["stem_embedding"]
        bias = jnp.zeros(len(table), table.dtype)
        return Variables(params | {"context": {"table": table, "bias": bias}, "word": {"bias": bias}}, state)

    def loss(variables, batch, key, step, axis):
        params, x, count = variables.params, batch["views"][0], batch["count"]
        out, _ = models.forward(encoder, params["encoder"], {}, x, train=False)
        other = params["context"]["table"].astype(out["stem"].dtype)[batch["context"]]
        found = (out["stem"] * other).sum(-1)
        found = found.astype(compute_dtype(found))
        count = count.astype(found.dtype)
        bias = params["word"]["bias"][x] + params["context"]["bias"][batch["context"]]
        weight = jnp.minimum(1.0, (count / x_max) ** exponent)
        value = (weight * jnp.square(found + bias.astype(found.dtype) - jnp.log(count))).mean()
        return value, LossOut(variables.model_state, {}, outputs={"features": out["features"]})

    def trunk(variables):
        params = variables.params
        both = params["encoder"]["stem_embedding"] + params["context"]["table"]
        return {"stem_embedding": both}, variables.model_state["encoder"]

    def encode(variables, inputs, max_dim=None):
        return of_documents(encoder, trunk(variables), inputs)

    return Method(init, loss, trunk, encode, parts={"embedding": EMBEDDING})
