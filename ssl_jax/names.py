"""Names that users give: the nearest one that there is, and ``module:name`` for what is not ours."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


def nearest(word: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like ``word``, None if none is like it."""
    return next(iter(difflib.get_close_matches(str(word), list(known), 1, cutoff)), None)


def hint(word: Any, known: Iterable[str], *, cutoff: float = 0.6, form: str = "{!r}") -> str:
    """``did you mean 'NAME'? `` with a space at its end, or nothing."""
    name = nearest(word, known, cutoff=cutoff)
    return "" if name is None else f"did you mean {form.format(name)}? "


def refuse_unknown(value: Any, known: Iterable[str], what: str) -> None:
    """ValueError in one line, with the nearest known name, for a ``value`` that is not among them.

    Args:
      what: the value is of, e.g. "method.name=", or a word with a space.
    """
    known = list(known)
    if value not in known:
        raise ValueError(f"{what}{value!r} is unknown; {hint(value, known)}known: {', '.join(map(str, known))}")


def is_imported(name: Any) -> bool:
    """Whether a name means something outside of this package: ``package.module:name``."""
    return (
        isinstance(name, str)
        and name.count(":") == 1
        and all(word.isidentifier() for word in name.replace(":", ".").split("."))
    )


def imported(name: str, key: str) -> Any:
    """What ``package.module:name`` names.

    Args:
      key: the key of the config that holds it, for the message.

    Raises:
      ValueError: the module cannot be imported, or has nothing of that name.
    """
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the file does wrong
        raise ValueError(
            f"{key}={name!r}: {module} cannot be imported ({type(error).__name__}: {error}); is its folder in "
            "PYTHONPATH?"
        ) from error
    if not hasattr(found, attribute):
        meant = hint(attribute, vars(found))
        raise ValueError(f"{key}={name!r}: {module} has no {attribute}; {meant or 'name what it holds'}")
    return getattr(found, attribute)
