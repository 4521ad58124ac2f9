"""The keys of a config as ``--help-config`` shows them: what each means, its type and its value."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from ssl_jax import configs, methods, models
from ssl_jax.data import recipes
from ssl_jax.data.images import changes
from ssl_jax.data.images import recipes as images
from ssl_jax.data.images import values as of_recipes
from ssl_jax.names import imported, is_imported
from ssl_jax.types import Config

STRENGTH = "multiplies brightness, contrast, saturation and hue"
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
    found |= {key.name: key for key in _of_recipe(config)}
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


def _of_recipe(config: Config) -> Iterator[Key]:
    """The fields of the recipe of a config; of views that differ all values, in the order of the views."""
    recipe = recipes.of(config.data)
    if not isinstance(recipe, images.Recipe):
        return
    parts: dict[str, list[Any]] = {"evaluate": [recipe.evaluate]}
    for view in (*recipe.views, *recipe.unlabelled):
        for name, part in (("crop", view.crop), *((of_recipes.named(op), op) for op in view.ops)):
            parts.setdefault(name, []).extend([] if part is None else [part])
    sizes = [view.size for view in recipe.views if view.size is not None]
    yield Key("data.views.local.count", "int", len(sizes), "views with a size of their own; more are copies")
    yield Key("data.views.local.size", "int", sizes[0] if sizes else None, "side of these in pixels")
    for key in changes.keys(recipe):
        name, _, field = key.partition(".")
        if name == "local":
            continue
        first = parts[name][0]
        said = [_field_of(part, field) for part in parts[name]]
        shown = list(dict.fromkeys(str(list(value) if isinstance(value, tuple) else value) for value in said))
        own = isinstance(first, images.Own) and field != "p"
        text = inspect.cleandoc((imported(first.name, "data.recipe") if own else type(first)).__doc__ or "")
        default = STRENGTH if field == "strength" else text.partition("\n")[0]
        kind = type(said[0]).__name__
        yield Key(f"data.views.{key}", kind, " or ".join(shown), _meanings(text).get(field, default))


def _field_of(part: Any, field: str) -> Any:
    if not isinstance(part, images.Own) or field == "p":
        return getattr(part, field, 1.0)  # strength is no field: it multiplies some
    return dict(part.fields).get(field, of_recipes.own_fields(part.name)[field].default)


def _meanings(docstring: str) -> dict[str, str]:
    """``{name: text}`` of the sections Args and Attributes; one text may be of several names with commas."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.M):
        for names, said in re.findall(r"^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)", section, re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(said.split()))
    return found
