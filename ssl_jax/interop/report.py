"""What became of every array of a file that was imported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

NAMES = 36  # of a rule that are written down


class Report(NamedTuple):
    """What became of the arrays of a file.

    Attributes:
      matched: how many are in the network.
      ignored: rule -> names that it left aside.
      allowed: names that no rule knows and the user let pass.
      numbers: in the network.
      converted: dtype -> how many of those in the network were of it, and are float32 now.
      idle: what the user let pass that nothing needed.
    """

    matched: int
    ignored: Mapping[str, tuple[str, ...]]
    allowed: tuple[str, ...]
    numbers: int
    converted: Mapping[str, int] = MappingProxyType({})
    idle: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        yield f"{self.matched} arrays of {self.numbers:,} numbers are in the network"
        for dtype, count in self.converted.items():
            was, now = ("array was", "is") if count == 1 else ("arrays were", "are")
            yield f"{count} {was} {dtype}, {now} float32 now"
        for rule, names in self.ignored.items():
            yield f"{len(names)} left aside: {rule}"
        if self.allowed:
            yield f"{len(self.allowed)} let pass: {', '.join(self.allowed[:5])}{', ...' if self.allowed[5:] else ''}"
        for pattern in self.idle:
            yield f"--allow {shlex.quote(pattern)} let nothing pass: no array that is left over is called so"

    def plain(self) -> dict[str, Any]:
        """For ``config.json``; none is missing, as a file that lacks one is refused."""
        ignored = {rule: {"count": len(names), "names": list(names[:NAMES])} for rule, names in self.ignored.items()}
        matched = {"matched": self.matched, "numbers": self.numbers, "ignored": ignored}
        matched |= {"converted": dict(self.converted)}
        return matched | {"missing": [], "unexpected": list(self.allowed)}


def check_patterns(allow: Sequence[str]) -> None:
    """Refuse what is no regular expression.

    Raises:
      ValueError: names it.
    """
    for pattern in allow:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"--allow {pattern!r} is no regular expression ({error}); as --allow 'head\\..*'"
            ) from None


def allowed(left: Sequence[str], allow: Sequence[str]) -> tuple[str, ...]:
    """The names that have no place in the network, after all of them were let pass.

    Args:
      allow: regular expressions, each of whole names.

    Raises:
      ValueError: names that were not, and a pattern that would let them pass.
    """
    unexpected = sorted(name for name in left if not any(re.fullmatch(pattern, name) for pattern in allow))
    if unexpected:
        more = f" and {len(unexpected) - 4} more" if len(unexpected) > 4 else ""
        raise ValueError(
            f"{len(unexpected)} of its arrays have no place in the network: {', '.join(unexpected[:4])}{more}; if they "
            f"do not matter, let them pass: --allow {shlex.quote(_pattern(unexpected))}"
        )
    return tuple(sorted(left))


def idle(left: Sequence[str], allow: Sequence[str]) -> tuple[str, ...]:
    """The regular expressions of ``allow`` that let none of the names pass."""
    return tuple(pattern for pattern in allow if not any(re.fullmatch(pattern, name) for name in left))


def _pattern(names: Sequence[str]) -> str:
    """A regular expression that matches each of these names as a whole."""
    if len(names) == 1:
        return re.escape(names[0])
    starts = sorted({re.match(r"[^./]*[./]?", name)[0] for name in names})  # pyright: ignore[reportOptionalSubscript]
    return "|".join(re.escape(start) + (".*" if start[-1:] in (".", "/") else "") for start in starts)
