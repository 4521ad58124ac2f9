"""Reading a config: a file, and what ``--config.key=value`` changes of it."""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from ssl_jax.configs.keys import (
    PARTS,
    accepted,
    arguments,
    flatten,
    known_defaults,
    known_keys,
    loggers,
    starts,
    unknown_key,
)
from ssl_jax.names import HOME, hint, nearest
from ssl_jax.types import Config

LISTS = ("train.loggers", "train.grad_norms", "eval.during")  # of names, which may be written with commas
RENAMED = {"method.autoencoder": "init_from.autoencoder"}  # what older commands say


def load(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """The config that ``get_config()`` of a file returns, with ``key=value`` overrides applied.

    Args:
      path: a Python file, e.g. ``configs/simclr_digits.py``, or the name of one of ours, ``simclr_digits``.
      overrides: strings ``"optim.learning_rate=0.1"``; values are Python literals, or text for text keys.

    Raises:
      ValueError: the file is missing or has no ``get_config``, a key is unknown (with the nearest right one), or a
        value is of another type than the key's.
    """
    path = find(path)
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} is not Python; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # So that a config file can say "from configs.common import base", wherever it lies.
    roots = [str(path.resolve().parent.parent), str(HOME)]
    sys.path[:0] = roots
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does wrong
        raise ValueError(f"config file {path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        for root in roots:
            sys.path.remove(root)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config file {path} has no get_config(); see configs/simclr_digits.py for the form")
    try:
        config = module.get_config()
        if "views" in config.get("data", {}):  # whose numbers may be numbers
            config.data.views = ConfigDict(_plain(config.data.views))
        config.lock()
    except Exception as error:
        raise ValueError(f"get_config() of {path} fails: {type(error).__name__}: {error}") from error
    return change(config, overrides)


def change(config: Config, overrides: Iterable[str]) -> Config:
    """Apply ``key=value`` overrides, in place; see :func:`load`."""
    # Names first: they decide which arguments there are.
    for override in sorted(overrides, key=lambda o: not o.partition("=")[0].endswith(".name")):
        _apply(config, override)
    return config


def find(path: str | os.PathLike[str]) -> Path:
    """A config file, or the one of ours that is called so: ``simclr_digits``.

    Raises:
      ValueError: there is none, with the nearest that there is.
    """
    path, ours = Path(os.path.expanduser(path)), files()
    if os.path.isfile(path):  # Path's raises where a name is too long
        return path
    if str(path) in ours:
        return ours[str(path)]
    if path.suffix != ".py" and path.name == str(path):
        if begun := [name for name in ours if name.startswith(f"{path}_")]:
            raise ValueError(f"config {str(path)!r} is neither a file nor one of ours; those of it: {', '.join(begun)}")
        raise ValueError(
            f"config {str(path)!r} is neither a file nor one of ours; {hint(path, ours)}see: ssl-jax pretrain --list"
        )
    near = nearest(path.name, [p.name for p in path.parent.glob("*.py")])
    fix = f"did you mean {path.parent / near}?" if near else "see: ssl-jax pretrain --list"
    fix = f"for ours of that name say {path.stem}" if path.stem in ours else fix
    raise ValueError(f"config file {path} does not exist; {fix}")


def files() -> dict[str, Path]:
    """The configs there are, by name."""
    found = sorted((HOME / "configs").glob("*.py"))
    return {path.stem: path for path in found if path.stem not in ("__init__", "common")}


def path(text: str | os.PathLike[str]) -> str:
    """A path that a user gave, with ``~`` expanded.

    Raises:
      ValueError: it is empty, an address, below the home of nobody, or cannot be shown in one line.
    """
    text = os.fspath(text)
    if not text.strip():
        raise ValueError("it is empty; name a path, or leave it out")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError(f"{text!r} has letters that cannot be shown; use another name")
    if "://" in text:
        raise ValueError(f"{text} is an address and no path; mount the bucket and name its folder")
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise ValueError(f"{text} is below a home that is not known; write ./{text} for a folder of that name")
    return os.path.abspath(expanded) if os.path.normpath(expanded).startswith("~") else expanded  # ./~x stays there


def overrides(words: Iterable[str], known: Iterable[str]) -> list[str]:
    """``--config.a.b=value`` and ``--config.a.b value`` of a command line as ``a.b=value``.

    Args:
      words: what the parser of the script left.
      known: the script's own arguments, for the message.

    Raises:
      ValueError: a word is no override.
    """
    found, rest = [], iter(words)
    for word in rest:
        if not word.startswith("--config."):
            raise ValueError(f"argument {word!r} is unknown; known: {', '.join(known)}, --config.KEY=VALUE")
        key = word.removeprefix("--config.")
        value = None if "=" in key else next(rest, None)
        found.append(key if value is None else f"{key}={value}")
    return found


def _apply(config: Config, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"--config.{key} has no value; write --config.{key}=VALUE")
    key = RENAMED.get(key, key)
    group, _, last = key.rpartition(".")
    if group == "init_from":
        _give(config, last, text)
    elif key == "train.tensorboard":  # what older commands say
        _log_to_tensorboard(config, text)
    elif key == "data.recipe":
        give_recipe(config, literal(text) if text.startswith("{") else text)
    elif f"{key}.".startswith("data.views."):
        _change_views(config, key.split(".")[2:], text)
    else:
        _set(config, key, text)


def _set(config: Config, key: str, text: str) -> None:
    """A key that has one value, of the type that it has."""
    group, _, last = key.rpartition(".")
    node: Any = config
    for parent in key.split(".")[:-1]:
        node = node[parent] if isinstance(node, ConfigDict) and parent in node else None
    if not isinstance(node, ConfigDict) or last not in node or isinstance(node.get(last), ConfigDict):
        # Arguments of a method or a model that the config leaves at their defaults may be named too.
        if group not in PARTS or last not in accepted(config, group):
            raise ValueError(unknown_key(f"config.{key}", [f"config.{k}" for k in known_keys(config)]))
        with config.unlocked():
            config[group][last] = literal(text)
        return
    kind = node.get_type(last)
    fields: Any = node._fields
    may_be_null = isinstance(fields[last], FieldReference)  # a placeholder
    may_be_null |= key.startswith(("method.", "model.")) and known_defaults(flatten(config)).get(key, "") is None
    value: Any = text if kind is str else literal(text)
    if may_be_null and text.lower() in ("none", "null"):
        value = None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if key in LISTS and isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if kind is tuple and isinstance(value, (list, int, float)):
        value = tuple(value) if isinstance(value, list) else (value,)
    if key in ("method.name", "model.name") and value != node.name:
        _drop_arguments(config, group, str(value))
    try:
        if (isinstance(value, bool) and kind is not bool) or (value is None and not may_be_null):
            raise TypeError
        node[last] = value
    except (TypeError, ValueError):
        raise ValueError(f"config.{key}={text} is not of type {kind.__name__}, e.g. {node[last]!r}") from None


def _give(config: Config, part: str, source: str) -> None:
    """``init_from.PART``: one of several networks that the run is given at its start."""
    given = starts(config)
    if source.lower() in ("none", "null"):
        given.pop(part, None)
    else:
        given[part] = source
    with config.unlocked():
        del config["init_from"]
        config.init_from = ConfigDict(given) if given else placeholder(str)


def _log_to_tensorboard(config: Config, text: str) -> None:
    """``train.tensorboard=true`` or ``false``, which ``train.loggers`` was once."""
    wanted = literal(text)
    if not isinstance(wanted, bool):
        raise ValueError(f"config.train.tensorboard={text} is not of type bool; say train.loggers=tensorboard instead")
    others = [name for name in loggers(config) if name != "tensorboard"]
    with config.unlocked():
        if "tensorboard" in config.train:
            del config.train["tensorboard"]
        config.train.loggers = (*others, *["tensorboard"] * wanted)


def give_recipe(config: Config, recipe: Any) -> None:
    """``data.recipe``: a name, or a recipe itself."""
    with config.unlocked():
        del config.data["recipe"]
        config.data.recipe = recipe


def _change_views(config: Config, words: list[str], text: str) -> None:
    """``data.views.jitter.strength``: a change of the recipe; which there are, the recipe says (:func:`check`)."""
    views: Any = _plain(config.data.get("views") or {})
    value: Any = text if words[-1:] == ["ops"] and text[:1] not in ("[", "(") else literal(text)
    if isinstance(value, (list, tuple)):
        value = ["..." if part is ... else part for part in value]
    if not words:  # the changes all at once
        views = value or {}
    node: Any = views
    for word in words[:-1]:
        if not isinstance(node.get(word), dict):
            node[word] = {}
        node = node[word]
    if words:
        node[words[-1]] = value
    if not isinstance(views, dict):
        raise ValueError(f"config.data.views={text} names no field; write --config.data.views.crop.area=0.5,1")
    with config.unlocked():
        config.data.views = ConfigDict(views)


def _plain(node: Any) -> Any:
    fields: Any = node._fields if isinstance(node, ConfigDict) else node  # keys of two types have no order
    return {str(k): _plain(v) for k, v in fields.items()} if isinstance(fields, Mapping) else node


def _drop_arguments(config: Config, part: str, name: str) -> None:
    """Another method or model: what the config says of arguments that it does not have goes."""
    known = arguments(part, name)
    gone = [k for k in config[part] if k != "name" and k not in known]
    with config.unlocked():
        for key in gone:
            del config[part][key]
    if gone:
        print(f"config.{part}.name={name}: {', '.join(gone)} of {config[part].name} left out", file=sys.stderr)


def literal(text: str) -> Any:
    """A Python literal, "none", "true", "false", "nan" or "inf" in any case, or the text itself."""
    words = {"none": None, "null": None, "true": True, "false": False, "nan": math.nan, "inf": math.inf}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
