"""Self-supervised learning in JAX: pure methods, one train step, honest evaluation.

>>> import ssl_jax
>>> variables, encode, config = ssl_jax.load("runs/simclr_digits")    # doctest: +SKIP
>>> features = encode(variables, images)["features"]                  # doctest: +SKIP
"""

import os

# Before anything imports TensorFlow, as Flax does where it is installed: no notices on stderr, one order of additions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from ssl_jax.run.open import load

__all__ = ["load"]
