"""Splits and classes of images: which split is measured on, which classes are kept, how they are numbered.

However the images lie: in folders, in tars, in tables. Where an accuracy would say nothing, the images are unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.images.image_files import some
from ssl_jax.data.readers import split_names

FLAT = "the images lie in no folders of classes"

Classes = dict[Any, str | None]  # image -> its class, None where there is none
Part = tuple[Classes, Classes, list[str], list[str]]  # classes, images of no class beside, unused folders, what is said


class Layout(NamedTuple):
    """What is to be done with the images of a dataset.

    Attributes:
      train: to learn from.
      test: to be measured on; None where it is to be cut from train.
      unlabelled: more to learn from, no label known.
      unused: folders with images that are in none of these.
      notes: what was decided.
      why: no label is known of train and of test, where none is.
      used: names of the splits that were looked into, train first.
      tested: name of the test split.
    """

    train: Classes
    test: Classes | None
    unlabelled: Classes
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    why: tuple[str, str]
    used: tuple[str, ...] = ()
    tested: str = ""


def divide(
    where: str,
    chosen: split_names.Chosen,
    part: Callable[[str], Part],
    images: Callable[[str], Classes],
    *,
    asked: bool,
    check: bool,
    same: Sequence[str] = (),
) -> Layout:
    """The layout of a dataset of which the splits are known by name.

    Args:
      where: the dataset, for what is said.
      chosen: names of the splits.
      part: what is in a split.
      images: all that is in a split.
      asked: whether the test split was asked for by name, and is taken as it is.
      check: whether classes are folders, which may be none.
      same: names of folders that several classes hold, so that these may be the classes.
    """
    train, unlabelled, unused, notes = part(chosen.train)
    train, why, _ = sensible(train, same=same) if check else (train, "", [])
    test, tested, why_test, used = None, "", why, [chosen.train, *chosen.unlabelled]
    for name in chosen.tests:
        found, left, masks, said = part(name)
        used.append(name)
        if known(train) and not known(found) and not asked:
            unused.append(name)
            notes.append(
                f"{where}: {name}/ is not used: no label is known of its {len(found)} images, by which they could be "
                "measured"
            )
            continue
        why_test = FLAT if check and not known(found) else ""
        if check and not known(train):
            found, why_test, _ = sensible(found, same=same)
        if left:
            said.append(f"{where}: {len(left)} unlabelled images in {name}/ are not used")
        test, tested, unused, notes = found, name, unused + masks, notes + said
        break
    if test is not None and not asked and split_names.parse(tested)[2] != split_names.parse(chosen.train)[2]:
        notes.append(f"{where}: {chosen.train}/ is to train on and {tested}/ is the test, by their names")
    if chosen.tests and test is None:
        notes.append(f"{where}: the test split is cut from {chosen.train}/")
    for name in chosen.unlabelled:
        unlabelled |= images(name)
    return Layout(train, test, unlabelled, tuple(unused), tuple(notes), (why, why_test), tuple(used), tested)


def numbered(
    where: str, given: Sequence[str | None], classes: set[str], names: tuple[str, ...] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels and class names of images, None where there are no classes.

    Args:
      where: the dataset, for what is said.
      given: the class of each image, None where there is none.
      classes: all of them.
      names: of the training examples' classes; None if these have none, or for these themselves.

    Raises:
      ValueError: classes that training examples do not have.
    """
    if not classes:
        return None, None
    names = tuple(sorted(classes)) if names is None else names
    if unknown := classes - set(names):
        raise ValueError(f"{where}: test has classes that train has not ({some([*unknown])}); rename or remove them")
    number = {name: k for k, name in enumerate(names)}
    return np.array([-1 if name is None else number[name] for name in given], np.int32), names


def known(classes: Classes) -> set[str]:
    """The classes that there are."""
    return {name for name in classes.values() if name is not None}


def sensible(classes: Classes, *, of_splits: bool = False, same: Sequence[str] = ()) -> tuple[Classes, str, list[str]]:
    """Classes without those of which an accuracy would say nothing, why there are none then, and what is to be said.

    Args:
      classes: of the images of a split.
      of_splits: whether names of splits are no names of classes here.
      same: names of folders that several classes hold, so that these may be the classes.
    """
    names = sorted(known(classes))
    parsed = {name: split_names.parse(name)[0] for name in names if of_splits and split_names.parse(name)[0]}
    # Of names with other words (trainA, testB) each alone may be that of a class.
    several = len(set(parsed.values())) > 1
    like = [name for name in names if of_splits and split_names.role(name) is not None]
    if not names or (of_splits and all(split_names.role(name) == "unlabelled" for name in names)):
        return dict.fromkeys(classes), FLAT, []
    if len(names) == 1 and not like:
        return dict.fromkeys(classes), f"there is one class only, {names[0]}", []
    if 2 * len(like) >= len(names) or (several and 2 * len(parsed) > len(names)):
        why = (
            f"the folders have names of splits ({some([*parsed])}), but it is not clear what to train on: name it with "
            "data.train_split, or rename the folders if they are classes"
        )
        return dict.fromkeys(classes), why, []
    if same:
        fix = "name what to train on with data.train_split" if of_splits else "give one of them as data.source"
        why = (
            f"the folders ({some(names)}) hold folders of the same names ({some(same)}), so they may be parts of the "
            f"data and those the classes: {fix}, or put the images of a class straight into its folder"
        )
        return dict.fromkeys(classes), why, []
    # A class may be called "train", none "test" or "validation".
    if tests := [name for name in like if split_names.role(name) in ("test", "validation")]:
        why = (
            f"{some(tests)} beside {some([n for n in names if n not in like])} is named like a split: move the classes "
            "to train on into train/ beside it, or rename it if it is a class"
        )
        return dict.fromkeys(classes), why, []
    like = [*parsed] if several else like
    notes = [f"{some(like)} among the {len(names)} folders is taken as a class, not as a split"] if like else []
    return classes, "", notes


def not_used(where: str, names: Sequence[str]) -> str:
    return f"{where}: {', '.join(sorted(names))} not used; data.train_split and data.test_split name what is"


def more_unlabelled(where: str, n: int) -> str:
    return f"{where}: {n} unlabelled images are added to the training examples"
