"""What ``data.recipe`` names or is, for images, text or data of a user's own, with the changes of ``data.views``.

A run keeps its recipe whole, as :func:`plain` writes it: that it goes on and is opened depends on no name in the code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from ml_collections import ConfigDict

from ssl_jax.data.images import changes as changes_of
from ssl_jax.data.images import published, values
from ssl_jax.data.images import recipes as images
from ssl_jax.data.text import recipes as text
from ssl_jax.types import Config

KINDS = {kind.__name__.lower(): kind for kind in get_args(text.Recipe)}  # of recipes for text


def get(name: str) -> Any:
    """The recipe of that name, or what ``package.module:name`` names; its type says which kind of data it is for.

    Raises:
      ValueError: no recipe has that name.
    """
    return text.RECIPES[name] if name in text.RECIPES else published.get(name, others=text.RECIPES)


def of(data: Config) -> Any:
    """The recipe of a run that begins: what ``data.recipe`` names or is, with the changes of ``data.views``.

    Raises:
      ValueError: one line; no recipe has that name, or it has not what is changed.
    """
    given, changes = data.recipe, data.get("views")  # a key younger than some stored configs
    if isinstance(given, str):
        recipe = get(given)
    elif isinstance(given, (Mapping, ConfigDict)):
        recipe = of_plain(given.to_dict() if isinstance(given, ConfigDict) else given)
    elif isinstance(given, (images.Recipe, text.Recipe)):
        recipe = given
    else:
        raise ValueError(f"data.recipe={given!r} is no recipe; name one, or give a Recipe or its fields")
    if isinstance(recipe, images.Recipe):
        return changes_of.changed(recipe, changes or {}, called(data))
    if changes:
        raise ValueError(f"data.views is for recipes for images, and data.recipe={called(data)} is none; leave it out")
    return recipe


def keys(data: Config) -> Iterator[str]:
    """Every key that ``data.views`` may have with the recipe of a config; none where it is for no images."""
    recipe = of(data)
    yield from changes_of.keys(recipe) if isinstance(recipe, images.Recipe) else ()


def called(data: Config) -> str:
    """The name of a config's recipe, or that it stands in the config itself."""
    return data.recipe if isinstance(data.recipe, str) else "the config's own recipe"


def plain(recipe: Any) -> dict[str, Any] | None:
    """A recipe as JSON gives it back; None of a user's own for data that are neither images nor text."""
    if isinstance(recipe, images.Recipe):
        return values.plain(recipe)
    return {"kind": type(recipe).__name__.lower()} | recipe._asdict() if isinstance(recipe, text.Recipe) else None


def of_plain(given: Mapping[str, Any], *, own: bool = True) -> Any:
    """The recipe that :func:`plain` wrote, or a user did in its form.

    Args:
      own: False: operations of the user's own are not looked up.

    Raises:
      ValueError: one line.
    """
    if "kind" not in given:
        return values.recipe_of(given, own=own)
    kind, fields = given["kind"], {word: value for word, value in given.items() if word != "kind"}
    if kind not in KINDS:
        raise ValueError(f"data.recipe.kind={kind!r} is unknown; known: {', '.join(KINDS)}")
    return values.made(KINDS[kind], fields, "data.recipe")


def begun(folder: Path | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(config, recipe) of the run in a folder, as it lies there; ({}, None) where there is none that can be read."""
    try:
        found = json.loads((Path(folder or "") / "config.json").read_text()) if folder else {}
        return dict(found["config"]), found["resolved"].get("recipe")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, None  # whoever goes on with it is told


def listed() -> Iterator[str]:
    """The name of each recipe and where it comes from, one per line."""
    width = max(map(len, (*published.RECIPES, *text.RECIPES)))
    for name, source in (published.SOURCES | text.SOURCES).items():
        yield f"{name:{width}}  {source}"
