"""``get``: what ``data.recipe`` names, a recipe for images or for text, or a user's own."""

from __future__ import annotations

from typing import Any

from ssl_jax.data.images import recipes as images
from ssl_jax.data.text import recipes as text


def get(name: str) -> Any:
    """The recipe of that name, or what ``package.module:name`` names; its type says which kind of data it is for.

    Raises:
      ValueError: no recipe has that name.
    """
    return text.RECIPES[name] if name in text.RECIPES else images.get(name, others=text.RECIPES)
