"""Configs: read a file, apply ``--config.key=value``, refuse what cannot be meant, compare with a stored run.

Everything here happens before a device is touched or a file written. Every refusal is a ``ValueError`` of one line.
"""

from ssl_jax.configs.checks import LOGGERS, check
from ssl_jax.configs.keys import flatten, known_keys, loggers, starts, unknown_key
from ssl_jax.configs.reading import change, files, find, give_recipe, literal, load, overrides, path
from ssl_jax.configs.stored import differences, matters, modern, placeless, to_json
from ssl_jax.types import Config

__all__ = [
    "LOGGERS",
    "Config",
    "change",
    "check",
    "differences",
    "files",
    "find",
    "flatten",
    "give_recipe",
    "known_keys",
    "literal",
    "load",
    "loggers",
    "matters",
    "modern",
    "overrides",
    "path",
    "placeless",
    "starts",
    "to_json",
    "unknown_key",
]
