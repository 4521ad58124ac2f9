"""Names of files, classes and datasets: the shortest that tell them apart, and any of them in a form that can be shown.

A file system allows what no page, terminal or JSON reader does: bytes that are no UTF-8 (Python holds them as lone
surrogates), line breaks, marks that turn the direction of the text around.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ssl_jax.names import brief

EMPTY = "\u115f\u1160\u2800\u3164\uffa0"  # letters, by Unicode, that look like nothing
WIDTH = 40


def printable(text: object) -> str:
    r"""Text with escapes in place of what cannot be shown, and data in memory by 8 digits of their sha256.

    >>> printable("a\nb\udcff") == "a\\nb\\xff"
    True
    """
    return "".join(map(_character, brief(text)))


def _character(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # how Python holds a byte of a file name that is no UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    seen = (c.isprintable() or unicodedata.category(c) == "Zs") and c not in EMPTY
    return c if seen else c.encode("unicode_escape").decode()


def shown(name: object, width: int = WIDTH) -> str:
    """A name as a label: printable, in quotes where its blanks would not be seen, its middle left out of a long one."""
    text = printable(name)
    if text != text.strip() or not text:
        text = f"'{text}'"
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 1]}…{text[-tail:]}"


def apart(parts: Sequence[tuple[str, ...]]) -> list[str]:
    """The last parts of paths that tell them apart, joined by "-".

    >>> apart([("siteA", "data"), ("siteB", "data")])
    ['siteA-data', 'siteB-data']

    Raises:
      ValueError: two are the same.
    """
    if len(set(parts)) < len(parts):
        twice = next(path for path in parts if parts.count(path) > 1)
        raise ValueError(f"{printable('/'.join(twice))} is named twice; leave one out")
    names = [path[-1] for path in parts]
    for depth in range(1, 1 + max(map(len, parts))):
        names = ["-".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name}-{number}" for number, name in enumerate(names, 1)]  # a/b and a-b
