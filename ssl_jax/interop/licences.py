"""What a licence of weights allows who passes them on, as far as it is a matter of names."""

from __future__ import annotations

import re

from ssl_jax.names import hint

NOT_STATED, OTHER = "not stated", "other:"
RESTRICTED = re.compile(r"\bnc\b|non ?commercial|research only|dinov3", re.IGNORECASE)
# Front matter of the Hub knows these, and "other".
KNOWN = ("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0")
KNOWN += ("isc", "zlib", "unlicense", "gpl-2.0", "lgpl-2.1", "bsl-1.0", "epl-2.0", "eupl-1.2", "ecl-2.0", "afl-3.0")
KNOWN += ("artistic-2.0", "ms-pl", "osl-3.0", "ofl-1.1", "wtfpl", "odbl", "odc-by", "pddl", "cdla-permissive-2.0")
KNOWN += ("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "cc-by-sa-3.0", "cc-by-3.0")
KNOWN += tuple(f"cc-by{kind}-4.0" for kind in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd"))


def key(licence: str) -> str:
    """ "CC BY-NC 4.0" -> "cc-by-nc-4.0", "MIT (relicensed 2023)" -> "mit": what licences are compared by."""
    return re.sub(r"[\s_]+", "-", re.sub(r"\(.*?\)", "", licence).strip().lower())


def restricted(licence: str) -> bool:
    """Whether a licence has to be said again by whoever passes the weights on."""
    return bool(RESTRICTED.search(licence.replace("-", " ")))


def chosen(asked: str | None, published: dict[str, str]) -> str:
    """The licence that goes with weights.

    Args:
      asked: by whoever passes them on.
      published: what the weights are, or were started from -> the licence that these were published under.

    Raises:
      ValueError: a restricted one is not repeated; one that is not known, unless it is said as "other:TEXT".
    """
    other = asked is not None and asked.lower().startswith(OTHER)
    asked = asked[len(OTHER) :] if asked is not None and other else asked
    for where, licence in published.items():
        if not restricted(licence):
            continue
        if asked is None or key(asked) != key(licence):
            said = "say so" if asked is None else f"they cannot be passed on under {asked!r}"
            raise ValueError(f"{where} were published under {licence}: {said}, with --license {key(licence)}")
    if asked is None:
        return next(iter(published.values()), NOT_STATED)
    if not asked.strip() or "\n" in asked:
        raise ValueError(f"--license {asked!r} names no licence; give a word as apache-2.0")
    plain = re.sub(r"-(only|or-later)$", "", key(asked))
    if not other and plain not in {*KNOWN, *map(key, published.values())}:
        raise ValueError(
            f"--license {asked} is no licence that is known; {hint(plain, KNOWN, cutoff=0.4)}known are "
            f"{', '.join(KNOWN[:4])}, ...; of another give --license '{OTHER}{asked}'"
        )
    return asked
