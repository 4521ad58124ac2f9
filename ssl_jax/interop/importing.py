"""Weights of another library as one of our networks: whose they are, what fits where, what was left aside and why."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models
from ssl_jax.interop import archives, classic, folders, huggingface, pairs, projects, report, resnet, vit
from ssl_jax.interop.constructors import SAVE, Placeholder
from ssl_jax.interop.leaves import by_name
from ssl_jax.names import hint
from ssl_jax.types import Tree

# What timm's ViTs may have and DINO's encoder has not: a classifier, registers, LayerScale, a norm behind the pooling.
OF_TIMM = r"(^|/)(head\.|reg_token|fc_norm\.|blocks\.0\.ls1\.)"
NORMALISED = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (ImageNet), or what it was trained with"
# Fields of which names and shapes tell nothing: they come from the project, or are as torchvision and timm have them.
UNTOLD = ("padding", "stem_padding", "pool_padding", "stride_first", "shortcut", "heads", "positions", "positions_rule")
UNTOLD += ("gelu", "eps", "pool")
FAMILIES = {"resnet": resnet, "vit": vit, "classic": classic}


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
      record: where it came from: file, sha256, kind of file, licence, source; what beside it was not followed.
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
    report: report.Report


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
      allow: regular expressions of names (of the whole name) that may stay without a place in the network.
      fields: of ``config.model``, over what was found.
      statistics: (mean, std) of the channels; None: those of the project.
      size: of images in pixels; None: that of the project.

    Raises:
      ValueError: one line that begins with the path: what the file is instead, what fits no network, what is missing or
        left over, what only the user can know and how to say it.
    """
    report.check_patterns(allow)
    _check_statistics(statistics)
    try:
        archive = archives.read(path)
        return _network(archive, Path(path), project, allow, dict(fields or {}), statistics, size)
    except ValueError as error:
        said = f"{error}{archives.folder_beside(path, str(error))}"
        raise ValueError(said if said.startswith(str(path)) else f"{path}: {said}") from None


def _check_statistics(statistics: tuple[Sequence[float], Sequence[float]] | None) -> None:
    if statistics is None:
        return
    for option, numbers, least in zip(("--mean", "--std"), statistics, ("at least 0", "more than 0"), strict=True):
        if len(numbers) != 3 or not all(0 <= x <= 1 and (x > 0 or option == "--mean") for x in numbers):
            raise ValueError(
                f"{option} {','.join(f'{x:g}' for x in numbers)} is not three numbers, each {least} and at most 1 "
                "(pixels lie in [0, 1]); divide by 255 what counts pixels to 255"
            )


def _network(archive, path, asked, allow, fields, statistics, size) -> Imported:
    arrays = named(archive.tree)
    if any(name.startswith(("params/encoder/", "params/stem_")) for name in arrays):
        raise ValueError(
            "it is of ssl_jax: a file of `ssl-jax export RUN --out X.safetensors` is taken by embed and init_from as "
            "it is; in place of one of --format flax write that one"
        )
    chosen = _choose(arrays, asked, bool(archive.metadata.get("config")))
    project, beside = projects.PROJECTS[chosen], folders.said(archive.metadata)
    inner, model, theirs, family = _trunk(arrays, project, chosen)
    huggingface.check(archive.metadata.get("config", {}), family, model)
    shapes = {name: array.shape for name, (_, array) in inner.items()}
    said = {**project.fields.get(family, {}), **beside.fields}
    model |= {k: v for k, v in said.items() if _fits(model, k)} | _checked(model, fields)
    model = _complete(model, family)
    size = size or beside.size or _size(model, shapes)
    flat = {name: array for name, (_, array) in inner.items()}
    again = vit.check_fixed(model, theirs, flat) if family == "vit" and not _learned(model) else set()
    model = model if _learned(model) else {k: v for k, v in model.items() if k != "positions_grid"}
    table = _table(FAMILIES[family], model, theirs, shapes)
    flat, converted = archives.as_float32(flat, {name for pair in table for name in pair.theirs})
    tree, used = pairs.read(table, flat)
    used, again = ({inner[name][0] for name in names} for names in (used, again))
    found = _report(arrays, used, again, project, allow, tree)._replace(converted=converted)
    encoder = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    _check(tree, encoder, size, {pair.ours: pair for pair in table}, shapes)
    statistics = statistics or beside.statistics or _statistics(chosen, asked, model, tree.get("classifier"))
    record = {
        **{"file": str(path), "sha256": archive.sha256, "kind": archive.kind, "project": chosen},
        **{"licence": beside.licence or project.licence, "source": project.source},
        **{"assumed": _untold(model)},
        **{"passed_over": dict(archive.passed_over), "notes": list(beside.notes)},
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
        view=beside.view or (("resize", 1.0, project.view[2]) if _small(model) else project.view),
        size=size,
        record=record,
        report=found,
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


def _choose(arrays: Mapping[str, Any], asked: str | None, described: bool) -> str:
    """The project of a file; ``described``: a config.json lies beside it."""
    if asked is not None:
        if asked not in projects.PROJECTS:
            known = ", ".join(projects.PROJECTS)
            raise ValueError(f"--as {asked} is unknown; {hint(asked, projects.PROJECTS)}known: {known}")
        return asked
    if found := projects.found(arrays):
        if found[0] == "timm" and not described and not any(re.search(OF_TIMM, name) for name in arrays):
            raise ValueError(
                "its names are those of DINO's encoder and of a timm ViT without classifier, which nothing in it tells "
                f"apart; say whose it is: --as dino, or --as timm {NORMALISED}"
            )
        return found[0]
    _refuse_several(arrays)
    if objects := _objects(arrays.items()):
        raise ValueError(f"{objects}; {SAVE}")
    shown = ", ".join(list(arrays)[:4])
    raise ValueError(
        f"its {len(arrays)} arrays ({shown}, ...) are called as in no project that is known; say whose it is "
        f"(--as {'|'.join(projects.PROJECTS)})"
    )


def _refuse_several(arrays: Mapping[str, Any]) -> None:
    several = sorted({name.rsplit("layer1.", 1)[0] for name in arrays if "layer1.0.conv1.weight" in name})
    several += sorted({name.rsplit("blocks.", 1)[0] for name in arrays if name.endswith("blocks.0.attn.qkv.weight")})
    if len(several) > 1:
        said = ", ".join(where or "without a prefix" for where in several)
        raise ValueError(
            f"it holds {len(several)} encoders ({said}) and the names are of no project that is known; "
            f"say whose it is (--as {'|'.join(projects.PROJECTS)}), or write the one you want as its own file"
        )


def _objects(named: Iterable[tuple[str, Any]]) -> str:
    """What stands where arrays are expected and was not built, in words; "" where nothing does."""
    found = [f"{name} is a {leaf.name}" for name, leaf in named if isinstance(leaf, Placeholder)]
    if len(found) < 2:
        return f"{found[0]} and no array" if found else ""
    return (
        f"{len(found)} of its weights are objects and no arrays: {', '.join(found[:3])}{', ...' if found[3:] else ''}"
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
        shapes = {name: array.shape for name, (_, array) in inner.items() if not isinstance(array, Placeholder)}
        objects, before = _objects(inner.values()), refused
        for family, module in FAMILIES.items():
            try:
                recognised = module.recognise(shapes)
            except ValueError as error:
                refused = refused or error
                continue
            if recognised is not None and not objects:
                return inner, recognised, module.library(shapes), family
        if objects and before is None:
            raise ValueError(f"{objects}; write the arrays alone as .safetensors")
    likely = [name for name in projects.found(arrays) if name != chosen]
    like = f"; its names look like those of {likely[0]}: --as {likely[0]}" if likely else ""
    if refused is not None:
        raise ValueError(f"{refused}{like}")
    if not like:
        _refuse_several(arrays)
    whose = like or f"; say whose it is (--as {'|'.join(projects.PROJECTS)})"
    raise ValueError(
        f"below {' or '.join(repr(p) for p in project.trunk)} lies no ResNet, ViT or other network that is known, as "
        f"files of {chosen} have it{whose}"
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


def _statistics(chosen: str, asked: str | None, model: Mapping[str, Any], classifier: Tree | None) -> Any:
    """(mean, std) of a project; torchvision's only of a network with ImageNet's classes, or of whoever says so."""
    found = projects.PROJECTS[chosen].statistics
    if found is None:
        raise ValueError(f"files of {chosen} do not say how images are to be normalised; add {NORMALISED}")
    if chosen != "torchvision":
        return found
    if _small(model):
        raise ValueError(
            "its stem for small images is of no network of torchvision's; say whose it is (--as solo_learn), or add "
            f"{NORMALISED}, and --model.stem_padding=2 if its stem pads by 2"
        )
    if asked is None and (classifier is None or classifier["bias"].shape != (1000,)):
        raise ValueError(
            "its names are torchvision's, and it has no classifier of ImageNet's 1000 classes, so that how its images "
            f"are normalised is open; say whose it is (--as torchvision|moco|barlow_twins|vicreg), or add {NORMALISED}"
        )
    return found


def _small(model: Mapping[str, Any]) -> bool:
    """Whether a network is one for images of 32 pixels."""
    small = "stem" not in models.arguments(model["name"]) and model["name"].startswith("resnet")
    return small or model.get("stem") == "cifar"


def _size(model: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Side in pixels of the images that such a network was published for."""
    if "positions_grid" in model:
        return model["positions_grid"] * model["patch_size"]
    return 32 if _small(model) else 224


def _rule(name: str, project: projects.Project) -> str | None:
    for pattern, what in project.ignored.items():
        if re.fullmatch(pattern, name):
            return what
    return "state of the training" if re.fullmatch(projects.TRAINING, name) else None


def _report(arrays, used: set[str], again: set[str], project: projects.Project, allow: Sequence[str], tree):
    ignored = {"fixed positions, which the network makes": sorted(again)} if again else {}
    left = []
    for name in sorted({name for name, leaf in arrays.items() if not isinstance(leaf, Placeholder)} - used - again):
        rule = _rule(name, project)
        (left if rule is None else ignored.setdefault(rule, [])).append(name)
    passed = report.allowed(left, allow)
    leaves = by_name(tree).values()
    rules = {rule: tuple(ignored[rule]) for rule in sorted(ignored)}
    return report.Report(len(used), rules, passed, sum(leaf.size for leaf in leaves))


def _untold(model: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**models.defaults(model["name"]), **model}
    if whole.get("stem") != "cifar":
        whole.pop("stem_padding", None)
    return {field: whole[field] for field in UNTOLD if field in whole}


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


def _check(tree: Mapping[str, Tree], encoder: Any, size: int, table: Mapping[str, pairs.Pair], shapes) -> None:
    """Refuse arrays of other shapes than the network's, and numbers that are not finite."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    spec = dict(jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False, axis=None), image))
    here = by_name({"params": spec.pop("params"), "model_state": spec})
    there = by_name({k: v for k, v in tree.items() if k != "classifier"})
    for name, leaf in here.items():
        shape = there[name].shape if name in there else None
        if shape != leaf.shape:
            raise ValueError(_shapes(table.get(name), shapes, name, shape, leaf.shape) + f" in {encoder.label}")
    if left := there.keys() - here.keys():
        raise ValueError(f"{sorted(left)[0]} is no part of {encoder.label}; say --model.KEY=VALUE")
    for name, array in by_name(tree).items():
        wrong = int((~np.isfinite(array)).sum()) if jnp.issubdtype(array.dtype, jnp.inexact) else 0
        if wrong:
            called = ", ".join(table[name].theirs if name in table else (name,))
            raise ValueError(f"{wrong} of the {array.size} numbers of {called} are not finite; use other weights")


def _shapes(pair: pairs.Pair | None, shapes: Mapping[str, Sequence[int]], name: str, there: Any, here: Any) -> str:
    """An array's shape in a file and in the network, in the file's order of axes where that can be told."""
    if pair is None or pair.row is not None:
        return f"{', '.join(pair.theirs) if pair else name} is {there and list(there)} there and {list(here)}"
    wanted = pairs.write([pair], {pair.ours: np.zeros(here, np.int8)})
    called = next((one for one in pair.theirs if tuple(shapes[one]) != wanted[one].shape), pair.theirs[0])
    return f"{called} is {list(shapes[called])} there and {list(wanted[called].shape)}"
