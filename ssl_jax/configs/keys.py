"""The keys of a config: which there are, what they are where nobody names them, and older forms of some."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.names import nearest_key
from ssl_jax.types import Config

PARTS = ("method", "model")  # whose arguments are keys too, also those that a config does not name


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """``{"optim.name": "sgd", ...}``, tuples as lists, as JSON would give them back."""
    flat = {}
    for key in sorted(config, key=str):  # views have numbers
        value = config[key]
        if isinstance(value, (Mapping, ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def starts(config: Config) -> dict[str, str]:
    """``init_from`` by part; a run or file by itself is the encoder's."""
    given = config.init_from
    return {} if not given else {"encoder": given} if isinstance(given, str) else dict(given)


def loggers(config: Config) -> tuple[str, ...]:
    """The trackers of a run; ``train.tensorboard`` of older config files is one of them."""
    older = ("tensorboard",) if config.train.get("tensorboard") else ()
    return tuple(dict.fromkeys((*(config.train.get("loggers") or ()), *older)))


def arguments(part: str, name: str) -> list[str]:
    """Names of the arguments of a method or a model.

    Raises:
      ValueError: there is none of that name.
    """
    from ssl_jax import methods, models

    return list((methods if part == "method" else models).arguments(name))


def accepted(config: Config, part: str) -> list[str]:
    """Names of the arguments of the method or the model of a config; of one that there is not, none."""
    try:
        return arguments(part, config[part].name)
    except ValueError:
        return []


def defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments of the method and the model are where a config does not name them.

    Args:
      flat: the config, flattened.

    Raises:
      ValueError: there is no such method or model.
    """
    from ssl_jax import methods, models

    of_model = {f"model.{k}": value for k, value in models.defaults(flat["model.name"]).items()}
    return of_model | {
        f"method.{k}": p.default for k, p in methods.arguments(flat["method.name"]).items() if p.default is not p.empty
    }


def known_defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON would give it back; of a method or a model that there is not, nothing."""
    try:
        return flatten(defaults(flat)) if {"method.name", "model.name"} <= set(flat) else {}
    except ValueError:
        return {}


def known_keys(config: Config) -> list[str]:
    """Every key that an override may name: arguments of the chosen method and model, and the recipe's fields, too."""
    from ssl_jax.data import recipes

    keys = [*flatten(config), *(f"{part}.{name}" for part in PARTS for name in accepted(config, part))]
    with contextlib.suppress(ValueError):  # what is wrong with it is told when all is checked
        keys += [f"data.views.{key}" for key in recipes.keys(config.data)]
    return list(dict.fromkeys(keys))


def unknown_key(key: str, known: Iterable[str]) -> str:
    """One line for a key that does not exist, with the nearest that does."""
    known = list(known)
    near = nearest_key(key, known)
    return f"--{key} is unknown" + (f"; did you mean --{near}?" if near else f"; known: {', '.join(known)}")
