"""The names that splits have: what ``Training``, ``test_set``, ``val2017`` and ``unlabeled`` mean.

A name is read as words, whatever the case: numbers and words such as "set", "data" and "images" mean nothing, nor does
"labelled" beside the word of a split. A name is that of a split if nothing else is left (``train_set_01``,
``train_labeled``), or if the same words are left of a name for training and of one for testing (``seg_train`` beside
``seg_test``). Other words may be left where the folders hold classes, which say that they are no classes themselves
(``Training`` beside ``PublicTest`` and ``PrivateTest``). ``labeled`` is to train on beside ``unlabeled``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

# In the order in which one is taken where there are several.
SPELLED = {
    "train": ("train", "training", "trainval", "trn", "tr"),
    "test": ("test", "testing", "tst"),
    "validation": (
        "validation",
        "val",
        "valid",
        "validate",
        "validating",
        "dev",
        "development",
        "eval",
        "evaluation",
        "holdout",
    ),
    "unlabelled": ("unlabelled", "unlabeled", "unlabel", "unlab", "unsupervised", "unsup", "unannotated", "nolabel"),
}
LABELLED = ("labelled", "labeled", "annotated", "supervised")
LAST = ("private", "final")  # of several tests, those by which results are told
ROLES = {form: role for role, words in SPELLED.items() for word in words for form in (word, f"{word}s")}
FILLERS = ("set", "sets", "data", "dataset", "split", "part", "folder", "images", "image", "imgs", "img", "pictures")


class Chosen(NamedTuple):
    """The parts of a dataset by name: to learn from, to be measured on in order of preference, and without labels."""

    train: str
    tests: tuple[str, ...]
    unlabelled: tuple[str, ...]


def parse(name: str) -> tuple[str | None, str, tuple[str, ...]]:
    """The role of a name (``"train"``, ``"test"``, ``"validation"``, ``"unlabelled"``), its word, and what is left.

    Example:
      >>> parse("Training_set2"), parse("seg-val")
      (('train', 'training', ()), ('validation', 'val', ('seg',)))
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    text = re.sub(r"(?<![a-z])(un|non?|not)[^a-z]+(?=label|supervised|annotated)", "un", text)
    found, rest = {}, []
    for word in re.findall(r"[^\W\d_]+", text):
        bare = next((word.removesuffix(f) for f in FILLERS if word.removesuffix(f) in ROLES), word)
        if bare in ROLES:
            found.setdefault(ROLES[bare], bare)
        elif word not in FILLERS:
            rest.append(word)
    if found.keys() - {"unlabelled"} == {"train", "validation"}:
        found.pop("validation")
    if found.keys() == {"train", "unlabelled"}:
        found.pop("train")
    role = next(iter(found)) if len(found) == 1 else None
    if role in ("train", "test", "validation"):
        rest = [word for word in rest if word not in LABELLED]
    return role, found.get(role or "", ""), tuple(rest)


def role(name: str) -> str | None:
    """What a name means if it means nothing but a split."""
    role, _, rest = parse(name)
    return None if rest else role


def is_labelled(name: str) -> bool:
    """Whether a name says that what it holds has labels, and nothing else."""
    role, _, rest = parse(name)
    return role is None and bool(rest) and set(rest) <= set(LABELLED)


def choose(
    where: str,
    names: Sequence[str],
    train: str | None,
    test: str | None,
    holds_classes: Callable[[str], bool] = lambda name: False,
) -> Chosen | None:
    """Which of the parts ``names`` of a dataset are its splits; None if it is not divided into splits.

    Args:
      where: the dataset, for what is said.
      names: of its parts.
      train: the part that is asked for, or None.
      test: the part that is asked for, or None.
      holds_classes: whether a part holds classes itself, so that it is none.

    Raises:
      ValueError: a part that is asked for is not there, or several could be meant.
    """
    by_role = _by_role(names, train, holds_classes)
    if train is None and test is None:
        others = [name for name in names if all(name not in group for group in by_role.values())]
        held_out = by_role["test"] or by_role["validation"]
        if by_role["train"]:
            # A train/ that stands neither beside other splits nor alone is a class (trains beside cars), except where
            # it holds classes and the others do not.
            beside = held_out or by_role["unlabelled"] or not others
            nested = beside or (any(map(holds_classes, by_role["train"])) and sum(map(holds_classes, others)) < 2)
            if not nested:
                return None
        elif not (by_role["unlabelled"] and held_out):
            return None
    if train is not None:
        chosen = _asked(where, names, by_role, "train_split", train)
    elif by_role["train"] or test is not None:
        ranked = _ranked(where, by_role["train"], "train_split")
        chosen = ranked[0] if ranked else _asked(where, names, by_role, "train_split", "train")
    else:
        chosen = by_role["unlabelled"][0]
    if test is not None:
        tests = [_asked(where, names, by_role, "test_split", test)]
        if tests == [chosen]:
            raise ValueError(
                f"data.train_split and data.test_split are both {chosen!r}; test examples must not be trained on"
            )
    else:
        tests = [
            name
            for role in ("test", "validation")
            for name in _ranked(where, [name for name in by_role[role] if name != chosen], "test_split")
        ]
    # What is asked for by name is taken as it is.
    unlabelled = [n for n in by_role["unlabelled"] if train is None and n != chosen and n not in tests]
    return Chosen(chosen, tuple(tests), tuple(unlabelled))


def _by_role(names: Sequence[str], train: str | None, holds_classes: Callable[[str], bool]) -> dict[str, list[str]]:
    """The names of splits by their role; see the head of the module."""
    parsed = {name: parse(name) for name in names}
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, (role, _, rest) in parsed.items():
        if role is not None:
            groups.setdefault(rest, {r: [] for r in SPELLED})[role].append(name)
    plain = groups.get((), {role: [] for role in SPELLED})
    if plain["unlabelled"] and not plain["train"]:
        plain["train"] = [name for name, (_, _, rest) in parsed.items() if rest and set(rest) <= {*LABELLED}]
    pairs = [g for rest, g in groups.items() if rest and g["train"] and (g["test"] or g["validation"])]
    asked = [pair for pair in pairs if train in pair["train"]]
    if not plain["train"] and (len(pairs) == 1 or asked):
        return (asked or pairs)[0]
    if plain["train"] and (plain["test"] or plain["validation"]):
        return plain
    nested = [name for name in names if holds_classes(name)]
    like = [name for name in nested if parsed[name][0] in ("train", "test", "validation")]
    known = {role: plain[role] or [name for name in like if parsed[name][0] == role] for role in SPELLED}
    told = any(name in nested for name in known["train"]) and (known["test"] or known["validation"])
    return known if told and 2 * len(like) >= len(nested) else plain


def _ranked(where: str, names: Sequence[str], key: str) -> list[str]:
    """The names of one role, those as they are usually spelled before others."""

    def rank(name: str) -> tuple[bool, int, bool]:
        role, word, rest = parse(name)
        spelled = SPELLED[role or "train"]
        return name.lower() != word, spelled.index(word) if word in spelled else len(spelled), not {*rest} & {*LAST}

    ranked = sorted(names, key=lambda name: (rank(name), name))
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        raise ValueError(f"{where} holds {', '.join(ranked)}, of which one can be used; name it with data.{key}")
    return ranked


def _asked(where: str, names: Sequence[str], by_role: dict[str, list[str]], key: str, asked: str) -> str:
    if asked in names:
        return asked
    same = [name for name in names if name.lower() == asked.lower()] or by_role.get(role(asked) or "", [])
    if len(same) != 1:
        raise ValueError(
            f"data.{key}={asked!r} is not a folder in {where}; it has {', '.join(sorted(names)) or 'none'}"
        )
    return same[0]
