"""The keys of a config as ``--help-config`` shows them: what each means, its type and its value."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from ssl_jax import configs, methods, models
from ssl_jax.names import imported, is_imported
from ssl_jax.types import Config

GROUPS = ("", "data", "method", "model", "optim", "train", "eval", "parallel")


class Key(NamedTuple):
    """One key; ``meaning`` is empty where nobody wrote one, as in a method of one's own without a docstring."""

    name: str
    kind: str
    value: Any
    meaning: str


def described(config: Config, common: Mapping[str, tuple[Any, str]]) -> list[Key]:
    """Every key that ``--config.KEY=VALUE`` may name, group by group.

    Args:
      common: of the keys that every config has: default, a type where that is null, and meaning (configs/common.py).
    """
    values = {name: {} for name, (default, _) in common.items() if default == {}} | configs.flatten(config)
    found = {}
    for name, value in values.items():
        default, meaning = common.get(name, (value, ""))
        nullable = isinstance(default, type)
        kind = {object: "any"}.get(default, default.__name__) if nullable else type(default).__name__
        found[name] = Key(name, f"{kind} or null" if nullable else kind, value, meaning)
    for part in ("method", "model"):
        for name, kind, default, meaning in _arguments(config, part):
            known = f"{part}.{name}"
            found[known] = Key(known, kind, values.get(known, default), meaning)
    order = {group: i for i, group in enumerate(GROUPS)}
    return sorted(found.values(), key=lambda key: (order.get(key.name.rpartition(".")[0].split(".")[0], 99), key.name))


def text(keys: list[Key], width: int = 100) -> Iterator[str]:
    """Lines that show them."""
    for key in keys:
        value = "null" if key.value is None else key.value
        yield f"--config.{key.name}={value}  ({key.kind})"
        yield from textwrap.wrap(key.meaning, width, initial_indent="    ", subsequent_indent="    ")


def _arguments(config: Config, part: str) -> Iterator[tuple[str, str, Any, str]]:
    """(name, type, default, meaning) of the arguments of the method or the model."""
    name = config[part].name
    if part == "method":
        made, known = methods.get(name), list(methods.arguments(name))
    else:
        maker = imported(name, "model.name") if is_imported(name) else models.ENCODERS.get(name)
        made, known = maker.func if isinstance(maker, partial) else maker, models.arguments(name)
    meanings = _meanings(made.__doc__ or "") if made else {}
    signature = inspect.signature(made).parameters if made else {}
    fixed = models.defaults(name) if part == "model" else {}
    for word in known:
        p = signature[word]
        kind = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", str(p.annotation))
        default = fixed.get(word, p.default)
        yield (
            word,
            "any" if p.annotation is p.empty else kind.replace("| None", "or null"),
            "REQUIRED" if default is p.empty else default,
            meanings.get(word, ""),
        )


def _meanings(docstring: str) -> dict[str, str]:
    """``{name: text}`` of the sections Args and Attributes; one text may be of several names with commas."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.M):
        for names, said in re.findall(r"^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)", section, re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(said.split()))
    return found
