"""Configs: read a file, apply ``--config.key=value``, refuse what cannot be meant, compare with a stored run.

Everything here happens before a device is touched or a file written. Every refusal is a ``ValueError`` of one line.
"""

from __future__ import annotations

import ast
import contextlib
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

from ssl_jax.names import HOME, WORDS, hint, is_file, nearest, nearest_key, refuse_unknown
from ssl_jax.types import Config

# May differ between a run and its resumption: where things lie, how often one looks, on what it runs, when it gives up.
FREE_ON_RESUME = (
    *("parallel.", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.on_nonfinite"),
    "data.data_dir",  # not init_from: another run's encoder is another experiment
    "data.max_pixels",  # which images are read, their fingerprint says
    "data.table_limit",  # the views have the same bits wherever the images lie
    *("train.loggers", "train.tensorboard", "eval.during"),
)

OF_TEXT = ("data.length", "data.document_length", "data.tokenizer.")  # which runs on images did not always have

LOGGERS = ("tensorboard", "wandb", "mlflow")
LISTS = ("train.loggers", "eval.during")  # of names, which may be written with commas

RENAMED = {"method.autoencoder": "init_from.autoencoder"}  # what older commands say

POSITIVE = (
    *("optim.learning_rate", "data.image_size", "data.global_batch_size", "data.memory_limit"),
    *("eval.knn_k", "eval.knn_temperature", "eval.online_bank", "eval.online_queries"),
)
AT_LEAST_ZERO = (
    *("seed", "optim.weight_decay", "optim.momentum", "optim.warmup_epochs"),
    *("train.log_every", "train.eval_every", "train.checkpoint_every"),
)
POSITIVE_IF_SET = (
    *("train.steps", "train.epochs", "train.keep_checkpoints", "data.num_examples", "optim.clip_norm"),
    *("optim.clip_each", "optim.average_after", "optim.eta", "optim.patch_rate"),
    *("eval.max_bank", "eval.max_queries", "parallel.devices"),
)
COUNTS = ("_dim", "_layers", "_size", "_stride", "_kernel", "_width", ".hidden", ".width")  # of methods and models
CHOICES = {
    "optim.name": ("sgd", "adamw", "lars_simclr", "lars_byol", "larc"),
    "optim.scale": ("linear", "sqrt", "none"),
    "optim.schedule": ("cosine", "cosine_by_epoch", "step", "constant", "linear", "slanted"),
    "parallel.mode": ("jit", "pmap"),
    "data.augment": ("host", "device"),
    "data.verify": (None, "full", "header"),
    "train.on_nonfinite": ("stop", "skip"),
}


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
    *parents, last = key.split(".")
    if parents == ["init_from"]:
        _give(config, last, text)
        return
    if key == "train.tensorboard":  # what older commands say
        _log_to_tensorboard(config, text)
        return
    if key == "data.recipe":
        give_recipe(config, literal(text) if text.startswith("{") else text)
        return
    if key == "data.views" or key.startswith("data.views."):
        _change_views(config, key.split(".")[2:], text)
        return
    node: Any = config
    for parent in parents:
        node = node[parent] if isinstance(node, ConfigDict) and parent in node else None
    if not isinstance(node, ConfigDict) or last not in node or isinstance(node.get(last), ConfigDict):
        # Arguments of a method or a model that the config leaves at their defaults may be named too.
        if parents in (["method"], ["model"]) and last in _accepted(config, parents[0]):
            with config.unlocked():
                config[parents[0]][last] = literal(text)
            return
        raise ValueError(unknown_key(f"config.{key}", [f"config.{k}" for k in known_keys(config)]))
    kind = node.get_type(last)
    fields: Any = node._fields
    may_be_null = isinstance(fields[last], FieldReference)  # a placeholder
    may_be_null |= key.startswith(("method.", "model.")) and _known_defaults(flatten(config)).get(key, "") is None
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
    if last == "name" and parents in (["method"], ["model"]) and value != node.name:
        _drop_arguments(config, parents[0], str(value))
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


def loggers(config: Config) -> tuple[str, ...]:
    """The trackers of a run; ``train.tensorboard`` of older config files is one of them."""
    older = ("tensorboard",) if config.train.get("tensorboard") else ()
    return tuple(dict.fromkeys((*(config.train.get("loggers") or ()), *older)))


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


def starts(config: Config) -> dict[str, str]:
    """``init_from`` by part; a run or file by itself is the encoder's."""
    given = config.init_from
    return {} if not given else {"encoder": given} if isinstance(given, str) else dict(given)


def modern(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with the keys of today.

    ``method.autoencoder=RUN`` was ``init_from.autoencoder`` once, and ``train.tensorboard`` one of ``train.loggers``.
    """
    stored = dict(stored)
    if "train" in stored:
        train = dict(stored["train"])
        older = ["tensorboard"] if train.pop("tensorboard", False) else []
        stored["train"] = {"loggers": older} | train
    if "eval" in stored:
        stored["eval"] = {"during": [], **stored["eval"]}
    method = dict(stored.get("method", {}))
    if "autoencoder" not in method:
        return stored
    run, first = method.pop("autoencoder"), stored.get("init_from")
    if run is None:
        return {**stored, "method": method}
    given = ({"encoder": first} if first else {}) | {"autoencoder": run}
    return {**stored, "method": {**method, "autoencoder_steps": 0}, "init_from": given}


def _drop_arguments(config: Config, part: str, name: str) -> None:
    """Another method or model: what the config says of arguments that it does not have goes."""
    from ssl_jax import methods, models

    known = (methods if part == "method" else models).arguments(name)
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


def _accepted(config: Config, part: str) -> list[str]:
    from ssl_jax import methods, models

    try:
        return list((methods if part == "method" else models).arguments(config[part].name))
    except ValueError:
        return []


def known_keys(config: Config) -> list[str]:
    """Every key that an override may name: arguments of the chosen method and model, and the recipe's fields, too."""
    from ssl_jax.data import recipes

    keys = list(flatten(config))
    keys += [f"{p}.{a}" for p in ("method", "model") for a in _accepted(config, p) if f"{p}.{a}" not in keys]
    with contextlib.suppress(ValueError):  # what is wrong with it is told when all is checked
        keys += [key for k in recipes.keys(config.data) if (key := f"data.views.{k}") not in keys]
    return keys


def unknown_key(key: str, known: Iterable[str]) -> str:
    """One line for a key that does not exist, with the nearest that does."""
    known = list(known)
    near = nearest_key(key, known)
    return f"--{key} is unknown" + (f"; did you mean --{near}?" if near else f"; known: {', '.join(known)}")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """``{"optim.name": "sgd", ...}``, tuples as lists, as JSON would give them back."""
    flat = {}
    for key in sorted(config, key=str):  # views have numbers
        value = config[key]
        if isinstance(value, (Mapping, ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def check(config: Config) -> None:
    """Refuse numbers outside their meaning, unknown names, and arguments that a method or model does not have."""
    from ssl_jax import evals, methods, models
    from ssl_jax.data import recipes
    from ssl_jax.data.images.values import own_operations

    flat = flatten(config)
    for key, value in flat.items():
        numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)]
        _refuse(flat, key, not all(map(math.isfinite, numbers)), "must be finite")
    _check_arguments(flat)
    for key in POSITIVE:
        _refuse(flat, key, flat[key] is None or flat[key] <= 0, "must be positive")
    for key in AT_LEAST_ZERO:
        _refuse(flat, key, flat[key] is None or flat[key] < 0, "must not be negative")
    for key in POSITIVE_IF_SET:
        _refuse(flat, key, flat.get(key) is not None and flat[key] <= 0, "must be positive")
    for key in ("optim.start", "optim.end"):  # keys younger than some stored configs
        _refuse(flat, key, not 0 <= (flat.get(key) or 0) <= 1, "is a share of the peak and must be in [0, 1]")
    _refuse(flat, "optim.momentum", flat["optim.momentum"] >= 1, "must be below 1")
    if (decay := flat.get("optim.layer_decay")) is not None:
        _refuse(flat, "optim.layer_decay", not 0 < decay <= 1, "must be in (0, 1]; null is one rate for all")
        own = "layer_decay" in methods.arguments(config.method.name)
        _refuse(flat, "optim.layer_decay", own, f"is method.layer_decay of {config.method.name}; set it to null")
    for key in ("parallel.heartbeat_timeout", "parallel.fsdp"):  # keys younger than some stored configs
        _refuse(flat, key, flat.get(key, 1) < 1, "must be positive")
    fsdp = flat.get("parallel.fsdp", 1)
    _refuse(flat, "parallel.fsdp", fsdp > 1 and flat["parallel.mode"] != "jit", "is for parallel.mode=jit; set it to 1")
    if flat.get("optim.weight_decay_end") is not None:
        _refuse(flat, "optim.weight_decay_end", flat["optim.weight_decay_end"] < 0, "must not be negative")
    if flat.get("data.table_limit") is not None:  # a key younger than some stored configs
        _refuse(flat, "data.table_limit", flat["data.table_limit"] < 0, "must not be negative")
    _refuse(flat, "data.max_pixels", flat.get("data.max_pixels", 1) < 1, "must be positive")
    for key in ("data.labelled", "data.ratio", "data.length", "data.document_length"):
        _refuse(flat, key, flat.get(key) is not None and flat[key] < 1, "must be positive")
    _check_value_range(flat)
    _check_dispatch(flat)
    _refuse(flat, "data.data_dir", flat["data.data_dir"] == "", "is empty; name a folder, or leave it out")
    _refuse(flat, "data.val_fraction", not 0 < flat["data.val_fraction"] < 1, "must be between 0 and 1")
    _refuse(flat, "data.max_unreadable", not 0 <= flat["data.max_unreadable"] <= 1, "must be in [0, 1]")
    _refuse(flat, "data.std", min(flat["data.std"], default=0) <= 0, "must be positive numbers, one per channel")
    no_length = flat["train.epochs"] is None and flat["train.steps"] is None
    _refuse(flat, "train.epochs", no_length, "or train.steps must be set")
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            named = [str(c) for c in choices if c is not None]
            raise ValueError(
                f"config.{key}={flat[key]!r} is unknown; {hint(flat[key], named)}known: {', '.join(named)}"
            )
    for name in loggers(config):
        refuse_unknown(name, LOGGERS, "config.train.loggers=")
    for name in evals.called(flat.get("eval.during") or ()).values():
        if evals.needs_fit(name):
            raise ValueError(f"config.eval.during={name!r} trains, which no run does beside itself; evaluate it later")
    _refuse(flat, "seed", flat["seed"] >= 1 << 32, "must be below 2**32")
    for key in ("train.steps", "train.epochs"):  # steps are counted in int32
        _refuse(flat, key, flat[key] is not None and flat[key] >= 1 << 31, "must be below 2**31")
    _refuse(flat, "optim.warmup_epochs", flat["optim.warmup_epochs"] >= 1 << 31, "must be below 2**31")
    for op in own_operations(recipes.of(config.data)).values():
        if config.data.augment == "host":
            raise ValueError(
                f"operation {op.name} is a function of JAX, which runs on the device alone; set data.augment=device"
            )
    for part, known in (("method", methods.arguments), ("model", models.arguments)):
        for name in config[part]:
            if name != "name" and name not in known(config[part].name):
                known_here = [f"config.{part}.{k}" for k in known(config[part].name)]
                raise ValueError(
                    f"{unknown_key(f'config.{part}.{name}', known_here)} "
                    f"({config[part].name!r} does not have it; start from one of its own configs)"
                )
    _check_switches(flat)


def _check_switches(flat: Mapping[str, Any]) -> None:
    """Arguments of the method and the model that are true or false by default are never anything else."""
    for key, default in _defaults(flat).items():
        wrong = isinstance(default, bool) and not isinstance(flat.get(key, default), bool)
        _refuse(flat, key, wrong, "must be true or false")


def _defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments of the method and the model are where a config does not name them."""
    from ssl_jax import methods, models

    defaults = {f"model.{k}": value for k, value in models.defaults(flat["model.name"]).items()}
    return defaults | {
        f"method.{k}": p.default for k, p in methods.arguments(flat["method.name"]).items() if p.default is not p.empty
    }


def _check_value_range(flat: Mapping[str, Any]) -> None:
    key = "data.value_range"
    given = flat.get(key)
    pair = isinstance(given, list) and [isinstance(v, (int, float)) and not isinstance(v, bool) for v in given]
    right = given is None or given == "image" or (pair == [True, True] and given[0] < given[1])
    _refuse(flat, key, not right, "must be two numbers, the lower one first (0,4095), or 'image'")


def _check_dispatch(flat: Mapping[str, Any]) -> None:
    """Steps of one program end where the loop has something to do."""
    steps = flat.get("train.steps_per_dispatch", 1)
    _refuse(flat, "train.steps_per_dispatch", steps < 1, "must be positive")
    for key in ("train.log_every", "train.eval_every", "train.checkpoint_every"):
        if flat[key] % steps:
            use = math.gcd(steps, flat[key])
            raise ValueError(f"config.train.steps_per_dispatch={steps} does not divide {key}={flat[key]}; use {use}")
    if steps > 1 and (flat["data.augment"], flat["parallel.mode"]) != ("device", "jit"):
        raise ValueError(
            f"config.train.steps_per_dispatch={steps} needs data.augment=device and parallel.mode=jit, and they are "
            f"{flat['data.augment']} and {flat['parallel.mode']}; set it to 1"
        )


def _check_arguments(flat: Mapping[str, Any]) -> None:
    """Sizes among the arguments of a method or model, and lists of numbers."""
    for key, value in flat.items():
        values = value if isinstance(value, list) else [value]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if key in ("data.mean", "data.std"):
            wrong = not values or len(numbers) < len(values)
            _refuse(flat, key, wrong, "must hold numbers, one per channel or one for all")
        elif key in ("model.widths", "model.blocks", "model.strides") and value is not None:
            wrong = not values or any(not isinstance(v, int) or v < 1 for v in values)
            _refuse(flat, key, wrong, "must hold whole numbers from 1 on")
        elif key.startswith(("method.", "model.")) and numbers:
            _refuse(flat, key, min(numbers) < 0, "must not be negative")
            _refuse(flat, key, key.endswith(COUNTS) and min(numbers) < 1, "must be positive")


def _refuse(flat: Mapping[str, Any], key: str, wrong: bool, why: str) -> None:
    if wrong:
        raise ValueError(f"config.{key}={flat[key]} {why}")


def _moved(key: str, old: Any, new: Any) -> bool:
    """The same kind of source at another path; whether the data are the same, their fingerprint says.

    Or a file of the user's own under the same name in another folder; whether it has changed, its sha256 says.
    """
    if key in WORDS and is_file(old) and is_file(new):
        return os.path.basename(old) == os.path.basename(new)
    schemes = {str(value).partition(":")[0] for value in (old, new)}
    of_paths = {"folder", "tar", "arrayrecord", "npz", "csv", "hf"}
    return key == "data.source" and len(schemes) == 1 and schemes <= of_paths


def _known_defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON would give it back; of a method or a model that there is not, nothing."""
    try:
        return flatten(_defaults(flat)) if {"method.name", "model.name"} <= set(flat) else {}
    except ValueError:
        return {}


def differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict, dict]:
    """What differs between a stored run's config and this one's.

    An argument of the method or the model that one of them does not name has its default there, so that a run from
    before an argument existed goes on where that is named with what it was.

    Returns:
      (refused, free): each ``{key: (stored value, new value)}``; ``free`` holds those that a resumption may change.
    """
    old, new = flatten(modern(stored)), flatten(config)
    before, after = (_known_defaults(flat) | flat for flat in (old, new))
    keys = [k for k in sorted(old | new) if k in old or not k.startswith(OF_TEXT)]
    changed = {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}
    free = {k: v for k, v in changed.items() if k.startswith(FREE_ON_RESUME) or _moved(k, *v)}
    return {k: v for k, v in changed.items() if k not in free}, free
