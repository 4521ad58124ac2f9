"""Any name that a file system allows can be shown, and things are told apart by the shortest names that do."""

from __future__ import annotations

import os

import pytest

from ssl_jax.evals.shared import names

# As os.listdir gives them, not UTF-8 among them.
ODD = {
    "a_$1": "a_$1",
    r"\frac": r"\frac",
    "a\nb\tc": r"a\nb\tc",
    os.fsdecode(b"caf\xe9"): r"caf\xe9",
    "\u202egnp.exe": r"\u202egnp.exe",
    "שלום": "שלום",
    "\U0001f600": "\U0001f600",
    "": "''",
    "  ": "'  '",
    "\u3164": r"\u3164",
    "\u00a0x": "'\u00a0x'",
    "_x": "_x",
}


@pytest.mark.parametrize("name", ODD)
def test_any_name_is_shown(name):
    found = names.shown(name)
    assert found == ODD[name]
    assert "\n" not in found
    found.encode()  # is UTF-8


def test_a_long_name_keeps_both_its_ends():
    a, b = (names.shown("x" * 200 + end) for end in "ab")
    assert len(a) == len(b) == names.WIDTH
    assert a != b
    assert names.printable("x" * 200) == "x" * 200


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([("a",), ("x", "a")], ["a", "x-a"]),
        ([("siteA", "data"), ("siteB", "data")], ["siteA-data", "siteB-data"]),
        ([("imagenet.v1",), ("imagenet.v2",)], ["imagenet.v1", "imagenet.v2"]),
        ([("one",)], ["one"]),
        ([("p", "d"), ("q", "d"), ("q-d",)], ["p-d-1", "q-d-2", "q-d-3"]),
    ],
)
def test_apart(parts, found):
    assert names.apart(parts) == found
    assert len(set(found)) == len(parts)


def test_the_same_twice_is_refused():
    with pytest.raises(ValueError, match="x/a is named twice"):
        names.apart([("x", "a"), ("y", "a"), ("x", "a")])
