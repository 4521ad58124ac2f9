"""Self-supervised learning in JAX: pure methods, one train step, honest evaluation.

>>> import ssl_jax
>>> config = ssl_jax.config("simclr_digits", train={"epochs": 5})
>>> run = ssl_jax.pretrain(config, "runs/mine", images=images, labels=labels)    # doctest: +SKIP
>>> ssl_jax.evaluate(run, ["knn"])                                               # doctest: +SKIP
>>> features = ssl_jax.embed(run, "photos/")                                     # doctest: +SKIP
>>> variables, encode, config = ssl_jax.load("runs/mine")                        # doctest: +SKIP

From a shell the same is called ``ssl-jax``. What these functions are made of lies in the modules beside this one.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Before anything imports TensorFlow, as Flax does where it is installed: no notices on stderr, one order of additions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

if TYPE_CHECKING:
    from ssl_jax.api import config, embed, evaluate, images_of, pretrain
    from ssl_jax.run.open import load

__version__ = "0.2.0"
__all__ = ["config", "embed", "evaluate", "images_of", "load", "pretrain"]

_HOMES = dict.fromkeys(__all__, "ssl_jax.api") | {"load": "ssl_jax.run.open"}


def __getattr__(name: str) -> Any:
    """A public function, whose libraries are imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ssl_jax' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
