"""Self-supervised learning in JAX: pure methods, one train step, honest evaluation.

>>> import ssl_jax
>>> variables, encode, config = ssl_jax.load("runs/simclr_digits")    # doctest: +SKIP
>>> features = encode(variables, images)["features"]                  # doctest: +SKIP
"""

from ssl_jax.experiment import load

__all__ = ["load"]
