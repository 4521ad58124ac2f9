"""What a network's classifier calls its classes: ``id2label`` of transformers, ``label_names`` of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 200  # of a name, in characters
PLACEHOLDER = re.compile(r"LABEL_\d+")  # what transformers calls classes that have no name


def read(config: Mapping[str, Any], classes: int) -> tuple[tuple[str, ...], str | None]:
    """(names of so many classes, what is to be said of names that cannot be those).

    Args:
      config: the content of ``config.json``.
      classes: of the classifier in the arrays.

    Returns:
      The names in the order of the logits; none where the file has none, or calls them LABEL_0, LABEL_1, ...
    """
    key = "id2label" if "id2label" in config else "label_names"
    said = config.get(key)
    if not said:
        return (), None
    if isinstance(said, Mapping):
        said = [said.get(str(i)) for i in range(max(classes, len(said)))]
    if not isinstance(said, list) or not all(isinstance(name, str) and _is_name(name) for name in said):
        return (), f"config.json: {key}, which does not name the classes 0 to {classes - 1}"
    if len(said) != classes:
        return (), f"config.json: {key} of {len(said)} classes, where the classifier has {classes}"
    names = tuple(str(name) for name in said)
    return () if all(PLACEHOLDER.fullmatch(name) for name in names) else names, None


def columns(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """The logit of each wanted class, by its name; None where one has no class of its name, or several.

    Upper and lower case are one, and so are a space and an underscore.
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(_plain(name), []).append(i)
    at = [found.get(_plain(name), []) for name in wanted]
    if not at or not all(len(places) == 1 for places in at):
        return None
    chosen = tuple(places[0] for places in at)
    return chosen if len({*chosen}) == len(chosen) else None


def _is_name(name: str) -> bool:
    return 0 < len(name) <= LONGEST and name.isprintable()


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
