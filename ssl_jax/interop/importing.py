"""Weights of another library as one of our networks: whose they are, what fits where, what was left aside and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models
from ssl_jax.interop import (
    archives,
    classic,
    folders,
    huggingface,
    keras,
    labels,
    pairs,
    places,
    plain,
    projects,
    report,
    sound,
    vit,
)
from ssl_jax.interop.constructors import Placeholder
from ssl_jax.interop.leaves import by_name
from ssl_jax.models import positions
from ssl_jax.names import hint
from ssl_jax.types import Tree

# Fields of which names and shapes tell nothing: they come from the project, or are as torchvision and timm have them.
UNTOLD = ("padding", "stem_padding", "pool_padding", "stride_first", "shortcut", "heads", "positions", "positions_rule")
UNTOLD += ("gelu", "eps", "pool")
CLASSIFIER = "classifier, which --no-classifier leaves out"


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
      record: where it came from: file, sha256, kind of file, licence, source; what beside it was not followed, and
        remarks on what may be other than it seems.
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
    prefix: str | None = None,
    classifier: bool = True,
) -> Imported:
    """The network in a file (or in a folder of Hugging Face's).

    Args:
      project: whose it is, a key of ``projects.PROJECTS`` or an alias ("moco_v2"); None: found by the names in it.
      allow: regular expressions of names (of the whole name) that may stay without a place in the network.
      fields: of ``config.model``, over what was found.
      statistics: (mean, std) of the channels; None: those of the project.
      size: of images in pixels; None: that of the project.
      prefix: what begins the names of the network, as errors show them ("state_dict_ema/"), in place of where files of
        the project have it; whatever lies elsewhere is left aside.
      classifier: whether a classifier that lies there comes along.

    Raises:
      ValueError: one line that begins with the path: what the file is instead, what fits no network, what is missing or
        left over, what only the user can know and how to say it.
    """
    report.check_patterns(allow)
    _check_statistics(statistics)
    try:
        plain.check_local(path)
        project = None if project is None else _called(project)
        archive = archives.read(path)
        prefix = None if prefix is None else projects.clean(prefix)
        return _network(archive, Path(path), project, prefix, allow, dict(fields or {}), statistics, size, classifier)
    except ValueError as error:
        said = f"{error}{archives.folder_beside(path, str(error))}"
        raise ValueError(said if said.startswith(str(path)) else f"{path}: {said}") from None


def _called(asked: str) -> str:
    """The project that a user names, by its own name."""
    if (project := projects.called(asked)) is None:
        known = ", ".join(projects.PROJECTS)
        raise ValueError(f"--as {asked} is unknown; {hint(asked, projects.PROJECTS)}known: {known}")
    return project


def _check_statistics(statistics: tuple[Sequence[float], Sequence[float]] | None) -> None:
    if statistics is None:
        return
    for option, numbers, least in zip(("--mean", "--std"), statistics, ("at least 0", "more than 0"), strict=True):
        if len(numbers) != 3 or not all(0 <= x <= 1 and (x > 0 or option == "--mean") for x in numbers):
            raise ValueError(
                f"{option} {','.join(f'{x:g}' for x in numbers)} is not three numbers, each {least} and at most 1 "
                "(pixels lie in [0, 1]); divide by 255 what counts pixels to 255"
            )


def _network(archive, path, asked, prefix, allow, fields, statistics, size, with_classifier) -> Imported:
    arrays = named(archive.tree)
    if any(name.startswith(("params/encoder/", "params/stem_")) for name in arrays):
        raise ValueError(
            "it is of ssl_jax: a file of `ssl-jax export RUN --out X.safetensors` is taken by embed and init_from as "
            "it is; in place of one of --format flax write that one"
        )
    described, normalised = bool(archive.metadata.get("config")), statistics is not None
    chosen = places.choose(arrays, asked, prefix, described, normalised)
    project, beside = projects.PROJECTS[chosen], folders.said(archive.metadata)
    inner, model, theirs, family = places.trunk(arrays, chosen, asked, prefix, normalised)
    huggingface.check(archive.metadata.get("config", {}), family, model)
    shapes = {name: array.shape for name, (_, array) in inner.items()}
    said = {**project.fields.get(family, {}), **project.fields.get(f"{theirs} {family}", {}), **beside.fields}
    model |= {k: v for k, v in said.items() if _fits(model, k)} | _checked(model, fields)
    model = _complete(model, family, chosen)
    size = size or beside.size or keras.size(archive.metadata.get("h5", {}).get("model_config")) or _size(model, shapes)
    _check_rule(model, family, chosen, size)
    flat = {name: array for name, (_, array) in inner.items()}
    again = vit.check_fixed(model, theirs, flat) if family == "vit" and not _learned(model) else set()
    model = model if _learned(model) else {k: v for k, v in model.items() if k != "positions_grid"}
    encoder = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    table, classes, last, below = _table(places.FAMILIES[family], model, theirs, shapes, with_classifier, encoder.dim)
    of_classifier = {name for pair in table if pair.ours.startswith("classifier/") for name in pair.theirs}
    flat, converted = archives.as_float32(flat, {name for pair in table for name in pair.theirs}, of_classifier)
    tree, used = pairs.read(table, flat)
    used, again, last = ({inner[name][0] for name in names} for names in (used, again, last))
    aside = {"fixed positions, which the network makes": again, CLASSIFIER: last}
    begins = None if prefix is None else places.beginnings(prefix, arrays)
    found = _report(arrays, used, aside, project, begins, allow, tree)._replace(converted=converted)
    remarks = _check(tree, encoder, size, {pair.ours: pair for pair in table}, shapes) + below
    remarks += places.doubts(asked, sorted(last | {inner[name][0] for name in of_classifier}), classes)
    if chosen == "keras":
        remarks.append(f"changed, so that features are the same: {keras.CHANGED[keras.family(model['name'])]}")
    statistics = statistics or beside.statistics or _statistics(chosen, asked, model, classes, theirs)
    record = {
        **{"file": str(path), "sha256": archive.sha256, "kind": archive.kind, "project": chosen},
        **{"licence": beside.licence or project.licence, "source": project.source},
        **({} if prefix is None else {"prefix": prefix}),
        **{"assumed": _untold(model)},
        **({} if asked is None else {"asked": asked}),
        **{"passed_over": dict(archive.passed_over), "notes": list(beside.notes), "remarks": remarks},
    }
    classifier = tree.get("classifier")
    if classifier is not None:
        called, wrong = labels.read(archive.metadata.get("config", {}), np.shape(classifier["bias"])[-1])
        record |= {"class_names": list(called)} if called else {}
        record["notes"] += [] if wrong is None else [wrong]
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
                walk(inner, f"{name}/{i}" if name else str(i))
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


def _table(
    family: Any, model: Mapping[str, Any], theirs: str, shapes: Mapping[str, Any], with_classifier: bool, dim: int
) -> tuple[list[pairs.Pair], int | None, set[str], list[str]]:
    """(names of a network, with its classifier's where that came with it; its classes; names left out; remarks)."""
    trunk, below = family.pairs(model, theirs), []
    try:
        whole = family.pairs(model, theirs, classifier=True)
    except ValueError:  # these names have none
        return trunk, None, set(), []
    last = {pair.ours: pair.theirs[0] for pair in whole if pair.ours.startswith("classifier/")}
    if not shapes.keys() >= {*last.values()}:
        usual = last["classifier/kernel"].removesuffix(".weight")
        inputs = (dim, 1, 1) if any(pair.layout == "1x1" for pair in whole[len(trunk) :]) else (dim,)
        used = {name for pair in trunk for name in pair.theirs}
        layer = _one_layer(usual, {k: v for k, v in shapes.items() if k not in used}, inputs)
        if layer is None:
            return trunk, None, set(), []
        last = {"classifier/kernel": f"{layer}.weight", "classifier/bias": f"{layer}.bias"}
        whole = [pair._replace(theirs=(last.get(pair.ours, pair.theirs[0]), *pair.theirs[1:])) for pair in whole]
        below = [f"its classifier is {layer}, the one layer in place of {usual}"]
    classes = max(shapes[last["classifier/bias"]], default=None)
    return (whole, classes, set(), below) if with_classifier else (trunk, classes, {*last.values()}, [])


def _one_layer(usual: str, shapes: Mapping[str, Sequence[int]], inputs: tuple[int, ...]) -> str | None:
    """The linear layer that stands, alone, where a classifier is usually called so; None: there is none.

    Fine-tuned networks have ``Sequential(Dropout, Linear)`` there ("fc.1"), or one ``Linear`` for the whole ("heads").
    """
    for place in (usual, usual.rpartition(".")[0]):
        found = sorted(name for name in shapes if place and name.startswith(f"{place}."))
        layer = found[-1].removesuffix(".weight") if found else ""
        if found == [f"{layer}.bias", f"{layer}.weight"] and tuple(shapes[found[1]][1:]) == inputs:
            return layer
    return None


def _learned(model: Mapping[str, Any]) -> bool:
    return str(model.get("positions", "learned")).startswith("learned")


def _complete(model: Mapping[str, Any], family: str, chosen: str) -> dict[str, Any]:
    """A ViT with its heads, and with what its features are: the class token where there is one."""
    if family != "vit":
        return dict(model)
    model = {"pool": "cls" if model.get("cls_token") else "mean", **model}
    usual = vit.HEADS.get(model["width"])
    if "heads" in model and model["heads"] is None:
        of_timm = f" (timm's of that width has {usual})" if usual else ""
        raise ValueError(
            f"{chosen} trains any ViT, and the heads of one of width {model['width']} leave no trace in its file; add "
            f"--model.heads={usual or 'N'}{of_timm}"
        )
    if model.get("heads") is None:
        if usual is None:
            raise ValueError(f"the heads of a ViT of width {model['width']} leave no trace in it; add --model.heads=N")
        model["heads"] = usual
    return model


def _statistics(chosen: str, asked: str | None, model: Mapping[str, Any], classes: int | None, theirs: str) -> Any:
    """(mean, std) of a project; torchvision's only of a network with ImageNet's classes, or of whoever says so."""
    if chosen == "keras":
        return keras.STATISTICS[keras.family(model["name"])]
    found = projects.PROJECTS[chosen].statistics
    if found is None:
        raise ValueError(f"files of {chosen} do not say how images are to be normalised; add {places.NORMALISED}")
    if chosen != "torchvision":
        return found
    if _small(model):
        raise ValueError(
            f"its stem for small images is of no network of torchvision's; add {places.OF_CIFAR}"
            + ("" if theirs == "cifar" else ", and --as solo_learn or --model.stem_padding=2 if its stem pads by 2")
        )
    if asked is None and classes != 1000:
        raise ValueError(
            "its names are torchvision's, and it has no classifier of ImageNet's 1000 classes, so that how its images "
            "are normalised is open; say whose it is (--as torchvision|moco|dino|barlow_twins|vicreg), "
            f"or add {places.NORMALISED}"
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


def _report(arrays, used: set[str], aside: Mapping[str, set[str]], project, begins, allow: Sequence[str], tree):
    ignored = {why: sorted(names) for why, names in aside.items() if names}
    left = []
    known = used.union(*aside.values())
    for name in sorted({name for name, leaf in arrays.items() if not isinstance(leaf, Placeholder)} - known):
        rule = places.rule(name, project, begins)
        (left if rule is None else ignored.setdefault(rule, [])).append(name)
    passed = report.allowed(left, allow)
    leaves = by_name(tree).values()
    rules = {rule: tuple(ignored[rule]) for rule in sorted(ignored)}
    numbers = sum(leaf.size for leaf in leaves)
    return report.Report(len(used), rules, passed, numbers, idle=report.idle(left, allow))


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


def _check_rule(model: Mapping[str, Any], family: str, chosen: str, size: int) -> None:
    """Refuse images of another size than a learned table's, where nobody said how it is made to fit them."""
    side = model.get("positions_grid", 0) * model.get("patch_size", 0)
    if family == "vit" and _learned(model) and "positions_rule" not in model and size != side:
        raise ValueError(
            f"its positions are those of images of {side} pixels, and how {chosen} makes them fit {size} is not known; "
            f"say --size {side}, or --model.positions_rule={'|'.join(positions.RULES)}"
        )


def _check(tree: Mapping[str, Tree], encoder: Any, size: int, table: Mapping[str, pairs.Pair], shapes) -> list[str]:
    """Refuse arrays of other shapes than the network's, and numbers that cannot be; what is odd of the others."""
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

    def called(name: str) -> str:
        return ", ".join(table[name].theirs if name in table else (name,))

    for name, array in by_name(tree).items():
        if wrong := sound.wrong(name, array):
            out = name.startswith("classifier/")
            do = "leave its classifier out: --no-classifier" if out else "use other weights"
            raise ValueError(f"{wrong.format(called(name))}; {do}")
    variances = [name for name in there if name in table and sound.VARIANCE.fullmatch(name)]
    zero = sound.never_varied({name: pairs.layout(table[name].layout)[1](there[name]) for name in variances})
    shown = f"{', '.join(map(called, zero[:3]))}{', ...' if zero[3:] else ''}"
    said = f"{len(zero)} running {'variance is' if len(zero) == 1 else 'variances are'} zero throughout ({shown}): "
    return [f"{said}what they norm never varied, or was never measured"] if zero else []


def _shapes(pair: pairs.Pair | None, shapes: Mapping[str, Sequence[int]], name: str, there: Any, here: Any) -> str:
    """An array's shape in a file and in the network, in the file's order of axes where that can be told."""
    if pair is None or pair.row is not None:
        return f"{', '.join(pair.theirs) if pair else name} is {there and list(there)} there and {list(here)}"
    wanted = pairs.write([pair], {pair.ours: np.zeros(here, np.int8)})
    called = next((one for one in pair.theirs if tuple(shapes[one]) != wanted[one].shape), pair.theirs[0])
    return f"{called} is {list(shapes[called])} there and {list(wanted[called].shape)}"
