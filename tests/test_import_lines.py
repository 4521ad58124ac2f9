"""Each line that refuses a file names what is taken: what it offers is said again, and the network comes out."""

from __future__ import annotations

import argparse
import os
import re
import shlex

import numpy as np
import pytest
from test_importing import LAYOUTS, changed, network, of_file, state, without
from torch_writer import torch_zip
from weight_files import STATISTICS, Published, junk, mlp, of_npz, prefixed

from experiments import import_weights
from ssl_jax.interop import classic, importing, pairs, projects, resnet

FLAT = without("fc.weight", "fc.bias")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights"


def of_children(names="children") -> dict:
    """The Sequential of a ResNet's children."""
    published = LAYOUTS["torchvision"]
    tree = {k: v for k, v in network(published).items() if k != "classifier"}
    return pairs.write(resnet.pairs(published.model, names), tree)


def said_again(file, error, **asked) -> importing.Imported:
    """What is read where all is said that a line offers."""
    words = str(error.value).rpartition("; a network begins at ")[2].partition("; its names")[0]
    words = shlex.split(re.sub(r"[;,](?= )|\(.*?\)|, or what.*", "", words))
    flags = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i].startswith("--")}
    if "--mean" in flags:
        asked["statistics"] = [[float(x) for x in flags[flag].split(",")] for flag in ("--mean", "--std")]
    return importing.read(file, prefix=flags["--prefix"], **asked)


def test_a_sequential_of_children_is_taken_without_and_with_a_prefix(file):
    arrays = of_children()
    for asked in ({}, {"prefix": ""}, {"project": "lightly"}, {"project": "lightly", "prefix": ""}):
        found = of_file(file, arrays, **asked, **STATISTICS)
        kernel = found.params["stem_conv"]["kernel"]
        np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), arrays["0.weight"])
    with pytest.raises(ValueError, match="no classifier of ImageNet's 1000 classes"):
        of_file(file, arrays)
    with pytest.raises(ValueError, match="files of lightly do not say how images are to be normalised; add --mean"):
        of_file(file, arrays, project="lightly")


@pytest.mark.parametrize("project", ["simsiam", "mae"])
def test_a_network_without_a_prefix_is_said_beside_the_project(file, project):
    with pytest.raises(ValueError, match=f"at --prefix ''; say that beside --as {project}") as error:
        of_file(file, state(FLAT), project=project)
    assert said_again(file, error, project=project).project == project


def test_names_that_no_project_has_ask_whose_they_are_and_not_for_the_prefix_again(file):
    tree = {k: v for k, v in network(LAYOUTS["byol"]).items() if k != "classifier"}
    arrays = pairs.write(resnet.pairs(LAYOUTS["byol"].model | {"padding": "torch"}, "simclr"), tree)
    file.write_bytes(of_npz(arrays))
    with pytest.raises(ValueError, match=r"begins at --prefix ''; say that, and whose it is \(--as") as error:
        importing.read(file)
    assert said_again(file, error, project="simclr").project == "simclr"
    with pytest.raises(ValueError, match=r"no project that is known; say whose it is \(--as"):
        importing.read(file, prefix="")
    with pytest.raises(ValueError, match=r"at --prefix ''; say that, and whose it is \(--as"):
        importing.read(file, prefix="model/")


@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize("asked", [{}, STATISTICS])
def test_an_unknown_wrapper_asks_for_the_prefix_and_what_else_is_needed(file, classifier, asked):
    for place, wrap in {
        "state_dict/net.": lambda a: {"state_dict": prefixed("net.", a), "hyper_parameters": argparse.Namespace(lr=1)},
        "weights/": lambda a: {"weights": prefixed("module.", a)},
    }.items():
        with pytest.raises(ValueError, match=f"; a network begins at --prefix {re.escape(place)}; say that") as error:
            of_file(file, wrap(state(lambda a: a if classifier else FLAT(a))), **asked)
        text = str(error.value)
        assert ("--mean 0.485" in text) == (not asked and not classifier)
        assert "--as" not in text
        assert "torchvision" not in text
        found = said_again(file, error, **asked)
        assert (found.project, found.classifier is None) == ("torchvision", not classifier)


def test_the_checkpoint_of_many_codes_for_cifar_is_taken(file):
    def small(arrays):
        arrays = changed("conv1.weight", lambda a: a[:, :, 2:5, 2:5])(arrays)
        found = {re.sub("^fc", "linear", k).replace("downsample", "shortcut"): v for k, v in arrays.items()}
        return {"net": prefixed("module.", found), "acc": 95.0, "epoch": 3}

    tree = small(state())
    with pytest.raises(ValueError, match=r"add --mean 0\.4914,0\.4822,0\.4465 --std .*trained with$") as error:
        of_file(file, tree)
    assert "--as" not in str(error.value)  # solo-learn's names are others
    found = of_file(file, tree, **STATISTICS)
    assert (found.project, found.model["stem"], found.size) == ("torchvision", "cifar", 32)
    assert found.classifier is not None


@pytest.mark.parametrize("place", ["state_dict", None])
def test_a_moco_v2_of_one_encoder_is_known_by_its_head(file, place):
    arrays = state(FLAT)
    inner = prefixed("module.encoder_q.", arrays) | mlp("module.encoder_q.fc.", 0, 2)
    found = of_file(file, {place: inner, "epoch": 800} if place else inner)
    assert (found.project, found.statistics) == ("moco", projects.IMAGENET)
    assert {rule: len(names) for rule, names in found.report.ignored.items()} == {"heads of the pretraining": 4}
    with pytest.raises(ValueError, match="called as in no project"):  # whatever else has an encoder called so
        of_file(file, prefixed("encoder_q.", arrays) | {"encoder_q.fc.weight": junk(4, 64)})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("moco_v1", "moco"), ("moco_v2", "moco"), ("MoCo-v3", "moco_v3"), ("dino_v2", "dinov2"), ("DINOv1", "dino")),
        *(("simclr_v2", "simclr"), ("barlow-twins", "barlow_twins"), ("solo-learn", "solo_learn"), ("timm", "timm")),
    ],
)
def test_names_that_people_type(typed, meant):
    assert projects.called(typed) == meant


def test_a_project_by_another_name_is_stored_by_its_own(file):
    found = of_file(file, state(FLAT), project="MoCo_v2")
    assert (found.project, found.record["asked"], found.record["project"]) == ("moco",) * 3
    with pytest.raises(ValueError, match=r"--as torchvison is unknown; did you mean .torchvision.\? known: moco,"):
        of_file(file, state(FLAT), project="torchvison")
    assert projects.ALIASES.keys().isdisjoint(projects.PROJECTS)
    assert {*projects.ALIASES.values()} <= projects.PROJECTS.keys()


def test_an_address_is_refused_as_it_was_given(tmp_path, capsys):
    address = "https://download.pytorch.org/models/resnet18.pth"
    assert import_weights.main([address, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {address} is an address, and nothing is fetched; download it")


def test_a_command_beside_the_arrays_is_said(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'mark'}",)

    (tmp_path / "weights").write_bytes(torch_zip(state() | {"hook": Bomb(), "args": argparse.Namespace(lr=1)}))
    assert import_weights.main([str(tmp_path / "weights"), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert (
        f"1 x {os.system.__module__}.system in the file was not built, for it would run a command: do not load" in said
    )
    assert "1 x argparse.Namespace in the file was not built, for it could execute code" in said
    assert not (tmp_path / "mark").exists()


REPLACED = {
    ("torchvision", "fc", "fc.1"),  # Sequential(Dropout, Linear)
    ("torchvision", "fc", "fc.head.0"),
    ("torchvision vit", "heads.head", "heads.1"),
    ("torchvision vit", "heads.head", "heads"),
    ("deit", "head", "head.1"),
    ("mobilenet_v2", "classifier.1", "classifier"),
    ("squeezenet1_1", "classifier.1", "classifier.0"),
}


@pytest.mark.parametrize(("layout", "usual", "name"), sorted(REPLACED))
def test_one_layer_in_place_of_the_classifier_is_the_classifier(file, layout, usual, name):
    published = LAYOUTS.get(layout) or Published(classic, "torchvision", {"name": layout}, dict, classifier=True)
    tree = network(published)
    arrays = pairs.write(published.family.pairs(published.model, published.library, classifier=True), tree)
    arrays = {re.sub(rf"^{re.escape(usual)}\.(?=weight|bias)", f"{name}.", k): v for k, v in arrays.items()}
    found = of_file(file, published.wrap(arrays), **STATISTICS)
    assert found.classifier is not None
    for part, array in tree["classifier"].items():
        np.testing.assert_array_equal(found.classifier[part], array)
    assert found.record["remarks"] == [f"its classifier is {name}, the one layer in place of {usual}"]
    assert not found.report.ignored.keys() - {"state of the training"}
    left = of_file(file, published.wrap(arrays), classifier=False, **STATISTICS)
    assert left.classifier is None
    weight, bias = left.report.ignored[importing.CLASSIFIER][::-1]
    assert (weight.endswith(f"{name}.weight"), bias.endswith(f"{name}.bias")) == (True, True)


@pytest.mark.parametrize(
    "more",
    [
        {"fc.0.weight": (32, 64), "fc.0.bias": (32,), "fc.2.weight": (10, 32), "fc.2.bias": (10,)},  # two layers
        {"fc.1.weight": (10, 32), "fc.1.bias": (10,)},  # of other features
        {"fc.0.weight": (64,), "fc.0.bias": (64,)},  # a norm
        {"fc.1.weight": (10, 64), "fc.2.bias": (10,)},
        {"fc.1.weight": (10, 64)},
    ],
)
def test_what_else_stands_there_is_no_classifier(file, more):
    with pytest.raises(ValueError, match=rf"{len(more)} of its arrays have no place in the network: fc\."):
        of_file(file, FLAT(state()) | {name: junk(*shape) for name, shape in more.items()}, **STATISTICS)


def test_the_list_has_two_columns(capsys):
    assert import_weights.main(["--list"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert dict(lines) == {name: project.source for name, project in projects.PROJECTS.items()}
