"""Where in a file of weights a network lies, and whose it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_jax.interop import classic, keras, projects, resnet, vit
from ssl_jax.interop.constructors import SAVE, Placeholder

# What timm's ViTs may have and DINO's encoder has not: a classifier, registers, LayerScale, a norm behind the pooling.
OF_TIMM = r"(^|/)(head\.|reg_token|fc_norm\.|blocks\.0\.ls1\.)"
NORMALISED = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (ImageNet), or what it was trained with"
OF_CIFAR = "--mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616 (CIFAR-10), or what it was trained with"
FAMILIES = {"resnet": resnet, "vit": vit, "classic": classic, "keras": keras}
WHOSE = f"--as {'|'.join(projects.PROJECTS)}"
# Whose networks are published without a classifier.
UNCLASSIFIED = ("moco", "moco_v3", "simsiam", "swav", "barlow_twins", "vicreg", "ibot", "dino", "dinov2", "mae")
UNCLASSIFIED += ("ijepa",)
# Names that are no project's own: whoever publishes a plain network has them.
PLAIN = ("torchvision", "timm", "transformers")

# One array of each network by every library's names; what stands before it is where the network begins.
FIRST = re.compile(
    r"(layer1\.0\.conv1\.weight|[24]\.0\.conv1\.weight"
    r"|blocks\.0\.(0\.)?attn\.qkv\.weight|encoder\.layers\.encoder_layer_0\.ln_1\.weight"
    r"|encoder\.layer\.0\.layernorm_before\.weight|encoder\.layer\.0\.norm1\.weight|embedder\.embedder\.convolution\.weight"
    r"|Transformer/encoderblock(_0)?/LayerNorm_0/scale|features\.(conv)?0\.(0\.)?weight"
    r"|res_net\d+/~/initial_conv/w|conv2d/kernel|(conv1_conv|block1_conv1|Conv1)/kernel)$"
)
AVERAGED = r"(^|[._/])ema($|[._/])"

# Regular expressions of names -> networks of other libraries that are often published and are none of ours.
OTHERS = {
    r"Conv2d_1a_3x3\.conv\.weight": "Inception v3",
    r"inception3a\..*": "GoogLeNet",
    r"stage2\.0\.branch1\..*": "a ShuffleNet",
    r"layers\.8\.0\.layers\.0\.weight": "an MNASNet",
    r"trunk_output\.block1\..*": "a RegNet",
    r"(features|blocks)\.1\.0\.block\.0\.0\.weight|blocks\.1\.0\.conv_pw\.weight": "an EfficientNet or MobileNet",
    r"features\.1\.block\.0\.0\.weight": "a MobileNetV3",
    r"features\.1\.0\.(layer_scale|block\.0\.weight)|stages\.0\.blocks\.0\.gamma": "a ConvNeXt",
    r"(features\.1\.0|layers\.0\.blocks\.0)\.attn\.(relative_position_bias_table|logit_scale)": "a Swin transformer",
    r"blocks\.0\.layers\.0\.layers\.MBconv\..*": "a MaxViT",
} | keras.OTHERS

# What arrays are called, and what holds the arrays of a network: an object in their place is in the place of weights.
ARRAYS = r"weight|bias|running_(mean|var)|kernel|scale|gamma|beta|offset|average|w|b|\w+_(token|embed|embedding)"
NETWORKS = r"(model|state_dict|net|network|encoder|backbone|module|student|teacher)(_\w+)?"


def choose(arrays: Mapping[str, Any], asked: str | None, prefix: str | None, described: bool, normalised: bool) -> str:
    """The project of a file.

    Args:
      arrays: by name, as :func:`~ssl_jax.interop.importing.named` gives them.
      asked: the project that the user says, or None.
      prefix: what the user says that begins the names of the network, or None.
      described: whether a config.json lies beside it.
      normalised: whether the user says how images are normalised.

    Raises:
      ValueError: nothing tells, with what to say.
    """
    begins = None if prefix is None else beginnings(prefix, arrays)
    if begins is not None and not any(name.startswith(begins) for name in arrays):
        raise ValueError(
            f"none of its arrays is called {prefix}..., as --prefix says{_where(arrays, prefix, asked, normalised)}"
        )
    if prefix is not None:
        _check_prefix(prefix, arrays, asked)
    if asked is not None:
        return asked
    found, names = projects.found(arrays), set(arrays)
    if begins is not None and (not found or found[0] in PLAIN):
        names = {_below(name, begins) for name in arrays if name.startswith(begins)}
        found = projects.found(names)
    if found:
        if found[0] == "timm" and not described and _like_dinov2(arrays, prefix or ""):
            raise ValueError(
                "LayerScale with patches of 14 pixels and a table of 37 x 37, or registers, are DINOv2's and those of "
                f"a timm ViT, which nothing in it tells apart; say whose it is: --as dinov2, or --as timm {NORMALISED}"
            )
        if found[0] == "timm" and not described and not any(re.search(OF_TIMM, name) for name in names):
            raise ValueError(
                "its names are those of DINO's and iBOT's encoders and of a timm ViT without classifier, which nothing "
                f"in it tells apart; say whose it is: --as dino, --as ibot, or --as timm {NORMALISED}"
            )
        return found[0]
    if prefix is None:
        one_network(arrays)
    if objects := in_place_of_arrays(arrays.items()):
        raise ValueError(f"{objects}; {SAVE}")
    if "" in arrays:
        raise ValueError("it is one array, no network; give the file of a whole network's weights")
    if other := _other(arrays):
        raise ValueError(other)
    whole = [name for name, leaf in arrays.items() if not isinstance(leaf, Placeholder)]
    shown = f"{', '.join(whole[:4])}{', ...' if len(whole) > 4 else ''}"
    many = f"its {len(whole)} arrays ({shown}) are" if len(whole) > 1 else f"its one array ({shown}) is"
    if max(len(arrays[name].shape) for name in whole) < 2:
        raise ValueError(f"{many} without a second axis, and no network; give the file of a whole network's weights")
    where = _where(arrays, prefix, asked, normalised) or f"; say whose it is ({WHOSE})"
    raise ValueError(f"{many} called as in no project that is known{where}")


def trunk(arrays: Mapping[str, Any], chosen: str, asked: str | None, prefix: str | None, normalised: bool):
    """(names of the network -> (name in the file, array), config.model, whose names, family).

    Raises:
      ValueError: no network lies there, or several do, or one that ours cannot hold.
    """
    project, refused = projects.PROJECTS[chosen], None
    if prefix is None:
        one_network([name for name in arrays if rule(name, project) is None])
    begins = None if prefix is None else beginnings(prefix, arrays)
    places = project.trunk if begins is None else ["|".join(map(re.escape, begins))]
    for place in places:
        start = re.compile(place)
        inner = {
            name[match.end() :]: (name, array)
            for name, array in arrays.items()
            if (match := start.match(name)) and rule(name, project, begins) is None
        }
        shapes = {name: array.shape for name, (_, array) in inner.items() if not isinstance(array, Placeholder)}
        objects, before = in_place_of_arrays(inner.values()), refused
        for family, module in FAMILIES.items():
            try:
                recognised = module.recognise(shapes)
            except ValueError as error:
                refused = refused or error
                continue
            if recognised is not None and not objects:
                arrays_of_it = {name: inner[name] for name in shapes}  # an object of another name is passed over
                return arrays_of_it, recognised, module.library(shapes), family
        if objects and before is None:
            raise ValueError(f"{objects}; write the arrays alone as .safetensors")
    likely = [name for name in projects.found(arrays) if name != chosen]
    like = f"; its names look like those of {likely[0]}: --as {likely[0]}" if likely and prefix is None else ""
    if refused is not None:
        raise ValueError(f"{refused}{like}")
    if other := _other(_below(name, begins or ("",)) for name in arrays if name.startswith(begins or "")):
        raise ValueError(other)
    where = _where(arrays, prefix, asked, normalised, places)
    if likely and likely[0] in PLAIN:  # whoever's they are, they may be at another place
        like = f"{where}{like}"
    whose = like or where or (f"; say whose it is ({WHOSE})" if asked is None else "")
    if prefix is not None:
        raise ValueError(f"below --prefix {prefix!r} lies no ResNet, ViT or other network that is known{where}")
    if asked is None and where:
        raise ValueError(f"its network lies at no usual place{where}")
    raise ValueError(
        f"{_shown(project.trunk)} lies no ResNet, ViT or other network that is known, as "
        f"files of {chosen} have it{whose}"
    )


def rule(name: str, project: projects.Project, begins: tuple[str, ...] | None = None) -> str | None:
    """What an array that is no part of the network is, by the rules of its project; None: no rule knows it.

    Below a prefix of the user's, as :func:`beginnings` gives it, the rules hold as they do at the project's own places,
    and all else is left aside.
    """
    if begins is None:
        names = [name]
    elif not name.startswith(begins):
        return f"outside of --prefix {' and '.join(begins)}"
    else:
        inner = _below(name, begins)
        names = [place + inner for place in project.trunk if not re.search(r"[()?\\|[]", place)] + [inner]
    for called in names:
        for pattern, what in project.ignored.items():
            if re.fullmatch(pattern, called):
                return what
    return "state of the training" if any(re.fullmatch(projects.TRAINING, called) for called in names) else None


def beginnings(prefix: str, names: Iterable[str]) -> tuple[str, ...]:
    """What begins the names of a network, by what a user's ``--prefix`` says: that alone, or two trees of a Haiku pair.

    Of those the parameters (``.../target_params/``) or what both begin with (``.../target_``) may be said.
    """
    names = list(names)
    for pair in (("params/", "state/"), ("0/", "1/")):  # a dict or named tuple; a tuple
        for start in (prefix, *(prefix.removesuffix(end) for end in pair if prefix.endswith(end))):
            first, second = (start + end for end in pair)
            haiku = re.compile(rf"{re.escape(first)}res_net\d+/~/.*")
            if any(haiku.fullmatch(name) for name in names) and any(name.startswith(second) for name in names):
                return first, second
    return (prefix,)


def _below(name: str, begins: tuple[str, ...]) -> str:
    return next(name.removeprefix(begin) for begin in begins if name.startswith(begin))


def _shown(trunk: Iterable[str]) -> str:
    """Where a project has its networks, in words and without what makes patterns of them."""
    places = []
    for place in trunk:
        place = re.sub(r"\|\(\?=[^)]*\)", "", place)  # what lies beside the network
        place = re.sub(r"\((?:[^()]|\([^()]*\))*\)\?", "", place)  # what may be missing
        place = re.sub(r"\((\w+)\|[^)]*\)|\[(\w)\w*\]", lambda found: found[1] or found[2], place).replace("\\", "")
        places += [repr(place)] if place else []
    return f"below {' or '.join(dict.fromkeys(places))}" if places else "in it"


def one_network(names: Iterable[str]) -> None:
    """Refuse a file with several networks of which no rule says which to take.

    Raises:
      ValueError: names where they begin.
    """
    found = networks(names)
    if len(found) < 2:
        return
    said = ", ".join(prefix or "without a prefix" for prefix in found)
    averaged = next((prefix for prefix in found if re.search(AVERAGED, prefix)), None)
    teacher = next((prefix for prefix in found if "teacher" in prefix), found[0])
    example = f"as --prefix {shlex.quote(teacher)}"
    if averaged is not None:
        example = f"--prefix {shlex.quote(averaged)} takes the averaged one"
    raise ValueError(f"it holds {len(found)} networks ({said}); say where the one that you want begins: {example}")


def networks(names: Iterable[str]) -> list[str]:
    """What begins the names of each network in a file, sorted."""
    starts = {name[: match.start()] for name in names if (match := FIRST.search(name))}
    starts = {start for start in starts if start[-1:] in ("", ".", "/")}
    return sorted(start for start in starts if f"{start}features." not in starts)  # a Sequential of a ResNet's children


def doubts(asked: str | None, classifier: Sequence[str], classes: int | None) -> list[str]:
    """What speaks against the project that the user says, a sentence each.

    Args:
      classifier: names in the file.
      classes: that it tells apart, None: there is none.
    """
    if asked not in UNCLASSIFIED or classes is None:
        return []
    return [
        f"its classifier of {classes} classes ({', '.join(classifier)}) is none of {asked}'s, whose networks are "
        f"published without one: how images are normalised and the licence are as --as {asked} says"
    ]


def _like_dinov2(arrays: Mapping[str, Any], prefix: str) -> bool:
    """Whether a ViT by timm's names may be DINOv2's, which lacks its token of hidden patches."""

    def shape(name: str) -> tuple[int, ...]:
        starts = [prefix] if prefix else projects.PROJECTS["timm"].trunk
        found = next((arrays[start + name] for start in starts if start + name in arrays), None)
        return getattr(found, "shape", ()) or (0,)

    scaled, size, rows = shape("blocks.0.ls1.gamma"), shape("patch_embed.proj.weight"), shape("pos_embed")
    published = size[-1] == 14 and rows[-2:-1] in ((37 * 37,), (37 * 37 + 1,)) and shape("reg_token") == (0,)
    return scaled != (0,) and (published or shape("register_tokens") != (0,))


def _check_prefix(prefix: str, arrays: Mapping[str, Any], asked: str | None) -> None:
    """Refuse a prefix that ends before or behind the place where a network begins.

    Raises:
      ValueError: names that place.
    """
    found = networks(arrays)
    if prefix in found:
        return
    near = [place for place in found if place.rstrip("./") == prefix.rstrip("./")]
    if not near and not any(place.startswith(prefix) for place in found):
        near = [place for place in found if prefix.startswith(place)][-1:]  # the prefix is of a part of a network
    if near and (near[0] or not _left_out(arrays, asked)):
        raise ValueError(f"no network begins at --prefix {prefix}; did you mean --prefix {shlex.quote(near[0])}?")
    if near:
        raise ValueError(f"no network begins at --prefix {prefix}; one begins without a prefix: leave --prefix out")


def _left_out(arrays: Mapping[str, Any], asked: str | None) -> bool:
    """Whether a network whose names begin with nothing is found where the user says no prefix."""
    whose = asked or next(iter(projects.found(arrays)), None)
    return whose is not None and "" in projects.PROJECTS[whose].trunk


def _where(
    arrays: Mapping[str, Any], prefix: str | None, asked: str | None, normalised: bool, tried: Iterable[str] = ()
) -> str:
    """A half-sentence of where networks lie besides places that were tried, and of all that has to be said."""
    found = [place for place in networks(arrays) if not any(re.fullmatch(one, place) for one in tried)]
    if "" in found and prefix is not None and _left_out(arrays, asked):
        return "; a network begins without a prefix: leave --prefix out"
    found = [place for place in found if place != prefix]
    if not found:
        return ""
    shown = " or ".join(f"--prefix {shlex.quote(place)}" for place in found[:6])
    teacher = any(name.startswith("teacher/") for name in arrays)
    if not teacher and any(place.startswith("student/") for place in found):
        shown += ", the student's (its teacher, whose features DINO's and iBOT's are, is not in the file)"
    more = _besides({name: a for name, a in arrays.items() if name.startswith(found[0])}, found[0], asked, normalised)
    return f"; a network begins at {shown}; say {'that' if len(found) == 1 else 'one of them'}{more}"


def _besides(arrays: Mapping[str, Any], place: str, asked: str | None, normalised: bool) -> str:
    """What has to be said besides the place of a network, which has these arrays."""
    if asked is not None:
        return f" beside --as {asked}"
    whose = next(iter(projects.found([name.removeprefix(place) for name in arrays])), None)
    if whose is None:
        return f", and whose it is ({WHOSE})"
    imagenet = whose == "torchvision" and any(getattr(a, "shape", ()) == (1000,) for a in arrays.values())
    if normalised or imagenet or whose == "keras" or (whose != "torchvision" and projects.PROJECTS[whose].statistics):
        return ""
    return f", and {NORMALISED}"


def _other(names: Iterable[str]) -> str:
    """What the network is, where it is a well-known one that is none of ours; "" where nothing tells."""
    names = list(names)
    if name := next((name for name in names if re.fullmatch(rf"(.*/)?{keras.NUMBERED}/\d+", name)), None):
        return (
            f"its layers are numbered and not named, by {name}, so that names do not tell what they are; load it in "
            "Keras and write it with save('X.h5'), or with save_weights of a Keras 3 that names them"
        )
    for pattern, what in OTHERS.items():
        known = re.compile(rf"(^|.*[./])({pattern})")
        if name := next((name for name in names if known.fullmatch(name)), None):
            return (
                f"{what}, by {name}, is not among the known networks: ResNets, ViTs, AlexNet, VGG-11 and 16, "
                "SqueezeNet, DenseNet-121 and MobileNetV2"
            )
    return ""


def in_place_of_arrays(named: Iterable[tuple[str, Any]]) -> str:
    """What stands where arrays are expected and was not built, in words; "" where nothing does."""
    expected = re.compile(rf"(^|.*[./])({ARRAYS}|{NETWORKS})")
    found = [
        f"{name} is a {leaf.name}" for name, leaf in named if isinstance(leaf, Placeholder) and expected.fullmatch(name)
    ]
    if len(found) < 2:
        return f"{found[0]} and no array" if found else ""
    return (
        f"{len(found)} of its weights are objects and no arrays: {', '.join(found[:3])}{', ...' if found[3:] else ''}"
    )
