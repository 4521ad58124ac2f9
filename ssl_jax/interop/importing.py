"""Weights of another library as one of our networks: whose they are, what fits where, what was left aside and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models
from ssl_jax.interop import archives, classic, pairs, projects, resnet, vit
from ssl_jax.interop.constructors import Placeholder
from ssl_jax.interop.leaves import by_name
from ssl_jax.names import hint
from ssl_jax.types import Tree

FAMILIES = {"resnet": resnet, "vit": vit, "classic": classic}


class Report(NamedTuple):
    """What became of the arrays of a file.

    Attributes:
      matched: how many are in the network.
      ignored: rule -> how many it left aside.
      allowed: names that no rule knows and the user let pass.
      numbers: in the network.
    """

    matched: int
    ignored: dict[str, int]
    allowed: tuple[str, ...]
    numbers: int

    def lines(self) -> Iterator[str]:
        yield f"{self.matched} arrays of {self.numbers:,} numbers are in the network"
        for rule, count in self.ignored.items():
            yield f"{count} left aside: {rule}"
        if self.allowed:
            yield f"{len(self.allowed)} let pass: {', '.join(self.allowed[:5])}{', ...' if self.allowed[5:] else ''}"


class Imported(NamedTuple):
    """A network of another library.

    Attributes:
      model: the ``config.model`` that it is.
      params, model_state: of the encoder; NumPy arrays.
      classifier: {"kernel", "bias"} that came with it, or None.
      of_map: the classifier reads every place of the last stage (SqueezeNet).
      project: whose file it is, a key of ``projects.PROJECTS``.
      statistics: (mean, std) of the channels.
      view: (kind, fraction, interpolation) of evaluation.
      size: of images in pixels.
      record: where it came from: file, sha256, kind of file, licence, source.
      report: what became of the arrays.
    """

    model: dict[str, Any]
    params: Tree
    model_state: Tree
    classifier: Tree | None
    of_map: bool
    project: str
    statistics: tuple[Sequence[float], Sequence[float]]
    view: tuple[str, float, str]
    size: int
    record: dict[str, Any]
    report: Report


def read(
    path: str | os.PathLike[str],
    *,
    project: str | None = None,
    allow: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    size: int | None = None,
) -> Imported:
    """The network in a file (or in a folder of Hugging Face's).

    Args:
      project: whose it is, a key of ``projects.PROJECTS``; None: found by the names in it.
      allow: regular expressions of names that may stay without a place in the network.
      fields: of ``config.model``, over what was found.
      statistics: (mean, std) of the channels; None: those of the project.
      size: of images in pixels; None: that of the project.

    Raises:
      ValueError: one line that begins with the path: what the file is instead, what fits no network, what is missing or
        left over, what only the user can know and how to say it.
    """
    try:
        archive = archives.read(path)
        return _network(archive, Path(path), project, allow, dict(fields or {}), statistics, size)
    except pairs.Missing as error:
        raise ValueError(f"{path}: {error}; it is of another architecture, or cut") from None
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(str(path)) else f"{path}: {said}") from None


def _network(archive, path, asked, allow, fields, statistics, size) -> Imported:
    arrays = named(archive.tree)
    if any(name.startswith(("params/encoder/", "params/stem_")) for name in arrays):
        raise ValueError(
            "it is of ssl_jax: a file of `ssl-jax export RUN --out X.safetensors` is taken by embed and init_from as "
            "it is; in place of one of --format flax write that one"
        )
    chosen = _choose(arrays, asked)
    project = projects.PROJECTS[chosen]
    inner, model, theirs, family = _trunk(arrays, project, chosen)
    config, shapes = _config(archive), {name: array.shape for name, (_, array) in inner.items()}
    said = project.fields.get(family, {}) | config.get("fields", {})
    model |= {k: v for k, v in said.items() if _fits(model, k)} | _checked(model, fields)
    model = _complete(model, family)
    size = size or config.get("size") or _size(model, shapes)
    flat = {name: array for name, (_, array) in inner.items()}
    again = vit.check_fixed(model, theirs, flat) if family == "vit" and not _learned(model) else set()
    model = model if _learned(model) else {k: v for k, v in model.items() if k != "positions_grid"}
    table = _table(FAMILIES[family], model, theirs, shapes)
    tree, used = pairs.read(table, flat)
    used, again = ({inner[name][0] for name in names} for names in (used, again))
    report = _report(arrays, used, again, project, allow, tree)
    encoder = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    _check(tree, encoder, size, {pair.ours: pair.theirs for pair in table})
    statistics = statistics or config.get("statistics") or project.statistics
    if statistics is None:
        raise ValueError(
            f"files of {chosen} do not say how images are to be normalised; add --mean 0.485,0.456,0.406 --std "
            "0.229,0.224,0.225 (ImageNet), or what it was trained with"
        )
    licence = config.get("licence") or project.licence
    record = {
        **{"file": str(path), "sha256": archive.sha256, "kind": archive.kind, "project": chosen},
        **{"licence": licence, "source": project.source, "passed_over": dict(archive.passed_over)},
    }
    classifier = tree.get("classifier")
    return Imported(
        model=model,
        params=tree["params"],
        model_state=tree.get("model_state", {}),
        classifier=classifier,
        of_map=classifier is not None and classic.family(model["name"]) == "squeezenet",
        project=chosen,
        statistics=statistics,
        view=project.view,
        size=size,
        record=record,
        report=report,
    )


def named(tree: Any) -> dict[str, Any]:
    """The arrays of a file by name, "state_dict/encoder_q.conv1.weight", without counters and wrappers.

    What could not be built without code of others stands among them as it is.
    """
    found: dict[str, Any] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, Mapping):
            for key, inner in node.items():
                walk(inner, f"{name}/{key}" if name else str(key))
        elif isinstance(node, (list, tuple)):
            for i, inner in enumerate(node):
                walk(inner, f"{name}/{i}")
        elif isinstance(node, (np.ndarray, Placeholder)):
            cleaned = projects.clean(name)
            if cleaned in found:
                raise ValueError(f"two of its arrays are both called {cleaned}; it holds a network twice")
            if not projects.COUNTERS.search(cleaned):
                found[cleaned] = node

    walk(tree, "")
    if not any(isinstance(leaf, np.ndarray) for leaf in found.values()):
        raise ValueError("it holds no arrays; give a file of weights")
    return found


def _choose(arrays: Mapping[str, Any], asked: str | None) -> str:
    if asked is not None:
        if asked not in projects.PROJECTS:
            known = ", ".join(projects.PROJECTS)
            raise ValueError(f"--as {asked} is unknown; {hint(asked, projects.PROJECTS)}known: {known}")
        return asked
    if found := projects.found(arrays):
        return found[0]
    several = sorted({name.rsplit("layer1.", 1)[0] for name in arrays if "layer1.0.conv1.weight" in name})
    several += sorted({name.rsplit("blocks.", 1)[0] for name in arrays if name.endswith("blocks.0.attn.qkv.weight")})
    if len(several) > 1:
        raise ValueError(
            f"it holds {len(several)} encoders ({', '.join(several)}) and the names are of no project that is known; "
            f"say whose it is (--as {'|'.join(projects.PROJECTS)}), or write the one you want as its own file"
        )
    shown = ", ".join(list(arrays)[:4])
    raise ValueError(
        f"its {len(arrays)} arrays ({shown}, ...) are called as in no project that is known; say whose it is "
        f"(--as {'|'.join(projects.PROJECTS)})"
    )


def _trunk(arrays, project: projects.Project, chosen: str):
    """(names of the network -> (name in the file, array), config.model, whose names, family)."""
    refused = None
    for prefix in project.trunk:
        start = re.compile(prefix)
        inner = {
            name[match.end() :]: (name, array)
            for name, array in arrays.items()
            if (match := start.match(name)) and _rule(name, project) is None
        }
        unbuilt = [leaf for leaf in inner.values() if isinstance(leaf[1], Placeholder)]
        shapes = {name: array.shape for name, (_, array) in inner.items() if not isinstance(array, Placeholder)}
        for family, module in FAMILIES.items():
            try:
                recognised = module.recognise(shapes)
            except ValueError as error:
                refused = error
                continue
            if recognised is not None and unbuilt:
                name, what = unbuilt[0]
                raise ValueError(f"{name} is a {what.name} and no array; write the arrays alone as .safetensors")
            if recognised is not None:
                return inner, recognised, module.library(shapes), family
    if refused is not None:
        raise refused
    raise ValueError(
        f"below {' or '.join(repr(p) for p in project.trunk)} lies no ResNet, ViT or other network that is known, as "
        f"files of {chosen} have it; say whose it is (--as {'|'.join(projects.PROJECTS)})"
    )


def _table(family: Any, model: Mapping[str, Any], theirs: str, shapes: Mapping[str, Any]) -> list[pairs.Pair]:
    """The names of a network, with those of its classifier where that came with it."""
    try:
        whole = family.pairs(model, theirs, classifier=True)
    except ValueError:  # these names have none
        return family.pairs(model, theirs)
    last = {name for pair in whole if pair.ours.startswith("classifier/") for name in pair.theirs}
    return whole if last <= shapes.keys() else family.pairs(model, theirs)


def _learned(model: Mapping[str, Any]) -> bool:
    return str(model.get("positions", "learned")).startswith("learned")


def _complete(model: Mapping[str, Any], family: str) -> dict[str, Any]:
    """A ViT with its heads, and with what its features are: the class token where there is one."""
    if family != "vit":
        return dict(model)
    model = {"pool": "cls" if model.get("cls_token") else "mean", **model}
    if "heads" not in model:
        if model["width"] not in vit.HEADS:
            raise ValueError(f"the heads of a ViT of width {model['width']} leave no trace in it; add --model.heads=N")
        model["heads"] = vit.HEADS[model["width"]]
    return model


def _size(model: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Side in pixels of the images that such a network was published for."""
    if "positions_grid" in model:
        return model["positions_grid"] * model["patch_size"]
    small = "stem" not in models.arguments(model["name"]) and model["name"].startswith("resnet")
    return 32 if small or model.get("stem") == "cifar" else 224


def _rule(name: str, project: projects.Project) -> str | None:
    for pattern, what in project.ignored.items():
        if re.fullmatch(pattern, name):
            return what
    return "state of the training" if re.fullmatch(projects.TRAINING, name) else None


def _report(arrays, used: set[str], again: set[str], project: projects.Project, allow: Sequence[str], tree) -> Report:
    rules, left = Counter({"fixed positions, which the network makes": len(again)} if again else {}), []
    for name in {name for name, leaf in arrays.items() if not isinstance(leaf, Placeholder)} - used - again:
        rule = _rule(name, project)
        rules.update([rule] if rule else [])
        left += [] if rule else [name]
    allowed = sorted(name for name in left if any(re.fullmatch(pattern, name) for pattern in allow))
    if unexpected := sorted(set(left) - set(allowed)):
        more = f" and {len(unexpected) - 4} more" if len(unexpected) > 4 else ""
        raise ValueError(
            f"{len(unexpected)} of its arrays have no place in the network: {', '.join(unexpected[:4])}{more}; if they "
            f"do not matter, let them pass: --allow '{re.escape(unexpected[0])}'"
        )
    leaves = by_name(tree).values()
    return Report(len(used), dict(sorted(rules.items())), tuple(allowed), sum(leaf.size for leaf in leaves))


def _fits(model: Mapping[str, Any], field: str) -> bool:
    """Whether a project's field is one of this network: padding 2 is of the stem for small images.

    A pool that was recognised, by the norm or the classifier behind it, is that of a fine-tuned network.
    """
    known = models.arguments(model["name"])
    other = field == "stem_padding" and model.get("stem") != "cifar"
    return field in known and not other and not (field == "pool" and "pool" in model)


def _checked(model: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    known = models.arguments(model["name"])
    for field in fields:
        if field not in known:
            raise ValueError(f"--model.{field} is no field of {model['name']}; {hint(field, known)}{', '.join(known)}")
    return dict(fields)


def _config(archive) -> dict[str, Any]:
    """What a ``config.json`` or ``preprocessor_config.json`` beside the weights says of images."""
    said = archive.metadata.get("preprocessor", {})
    pretrained = archive.metadata.get("config", {}).get("pretrained_cfg", {})
    mean, std = said.get("image_mean", pretrained.get("mean")), said.get("image_std", pretrained.get("std"))
    found: dict[str, Any] = {} if mean is None or std is None else {"statistics": (tuple(mean), tuple(std))}
    size = said.get("crop_size") or said.get("size") or (pretrained.get("input_size") or [None])[-1]
    size = next(iter(size.values()), None) if isinstance(size, Mapping) else size
    licence, config = pretrained.get("license"), archive.metadata.get("config", {})
    fields = {"eps": config.get("layer_norm_eps"), "heads": config.get("num_attention_heads")}
    if "image_size" in config and not size:
        size = config["image_size"]
    if kept := {k: v for k, v in fields.items() if v is not None}:
        found["fields"] = kept
    return found | ({"size": int(size)} if size else {}) | ({"licence": licence} if licence else {})


def _check(tree: Mapping[str, Tree], encoder: Any, size: int, theirs: Mapping[str, Sequence[str]]) -> None:
    """Refuse arrays of other shapes than the network's, and numbers that are not finite."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    spec = dict(jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False, axis=None), image))
    here = by_name({"params": spec.pop("params"), "model_state": spec})
    there = by_name({k: v for k, v in tree.items() if k != "classifier"})
    for name, leaf in here.items():
        shape = there[name].shape if name in there else None
        if shape != leaf.shape:
            called = ", ".join(theirs.get(name, (name,)))
            raise ValueError(f"{called} is {shape and list(shape)} there and {list(leaf.shape)} in {encoder.label}")
    if left := there.keys() - here.keys():
        raise ValueError(f"{sorted(left)[0]} is no part of {encoder.label}; say --model.KEY=VALUE")
    for name, array in by_name(tree).items():
        wrong = int((~np.isfinite(array)).sum()) if jnp.issubdtype(array.dtype, jnp.inexact) else 0
        if wrong:
            called = ", ".join(theirs.get(name, (name,)))
            raise ValueError(f"{wrong} of the {array.size} numbers of {called} are not finite; use other weights")
