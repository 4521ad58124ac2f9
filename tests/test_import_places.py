"""Where in a file a network lies: what the user says replaces what a project does, and nothing is taken by chance."""

from __future__ import annotations

import argparse
import pickle

import jax
import numpy as np
import pytest
from test_importing import LAYOUTS, changed, network, of_file, state, with_nan, without
from torch_writer import torch_zip
from weight_files import FIRST, R18, STATISTICS, junk, mlp, of_npz, other, prefixed

from experiments import import_weights
from ssl_jax.interop import importing, pairs, projects, resnet

FLAT = without("fc.weight", "fc.bias")


def vit_arrays(layout: str = "dino backbone") -> dict:
    published = LAYOUTS[layout]
    table = published.family.pairs(published.model, published.library, classifier=published.classifier)
    return pairs.write(table, network(published))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights"


def kernel(found: importing.Imported) -> np.ndarray:
    return found.params["stem_conv"]["kernel"].transpose(3, 2, 0, 1)


@pytest.mark.parametrize(("plain", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_the_average_of_a_training_is_said_and_taken_by_prefix(file, plain, averaged):
    arrays = state()
    tree = {plain: prefixed("", arrays), averaged: prefixed("module.", other(arrays)) | {"n_averaged": np.array(3)}}
    with pytest.raises(
        ValueError,
        match=rf"it holds 2 networks \({plain}/, {averaged}/\).*: --prefix {averaged}/ takes the averaged one",
    ) as error:
        of_file(file, tree)
    assert "--allow" not in str(error.value)
    with pytest.raises(ValueError, match=f"--prefix {averaged}/ takes the averaged one"):
        of_file(file, tree, project="torchvision")
    for prefix, times in {f"{averaged}/": 2, f"{averaged}/module.": 2, f"{plain}/": 1}.items():
        found = of_file(file, tree, prefix=prefix)
        np.testing.assert_array_equal(kernel(found), times * arrays["conv1.weight"])
        cleaned = prefix.removesuffix("module.")
        assert {rule: len(names) for rule, names in found.report.ignored.items()} == {
            f"outside of --prefix {cleaned}": len(arrays)
        }
        assert (found.project, found.model, found.record["prefix"]) == ("torchvision", R18, cleaned)
        assert found.statistics == projects.IMAGENET  # its classifier's 1000 classes


def test_a_prefix_stands_in_place_of_the_projects_own(file):
    arrays = state(FLAT)
    tree = {"net_a": arrays, "net": {"b": other(arrays), "extra": junk(3)}}
    with pytest.raises(ValueError, match=r"it holds 2 networks \(net/b/, net_a/\)"):
        of_file(file, tree)
    with pytest.raises(ValueError, match="it holds 2 networks"):  # --as says whose, not where
        of_file(file, tree, project="moco")
    found = of_file(file, tree, project="moco", prefix="net/b/")
    np.testing.assert_array_equal(kernel(found), 2 * arrays["conv1.weight"])
    assert (found.project, found.statistics) == ("moco", projects.IMAGENET)
    with pytest.raises(ValueError, match="no classifier of ImageNet's 1000 classes"):  # of whom it is stays open
        of_file(file, tree, prefix="net/b/")
    with pytest.raises(ValueError, match=r"none of its arrays is called nets/.*--prefix net/b/ or --prefix net_a/"):
        of_file(file, tree, prefix="nets/")
    with pytest.raises(ValueError, match=r"below --prefix 'net/' lies no .*; a network begins at --prefix net/b/"):
        of_file(file, tree, prefix="net/", **STATISTICS, project="torchvision")
    with pytest.raises(ValueError, match=r"no place in the network: net_a/more; .*--allow"):
        of_file(file, tree | {"net_a": arrays | {"more": junk(2)}}, prefix="net_a/", **STATISTICS)


def test_one_network_at_an_unknown_place_is_named(file):
    arrays = {f"visual.{name}": array for name, array in state(FLAT).items()} | {"token_embedding.weight": junk(4, 4)}
    with pytest.raises(
        ValueError, match=r"called as in no project .*; a network begins at --prefix visual\.; say that, and --mean 0"
    ):
        of_file(file, arrays)
    with pytest.raises(
        ValueError, match=r"as files of moco have it; a network begins at --prefix visual\.; say that beside --as moco$"
    ):
        of_file(file, arrays, project="moco")
    with pytest.raises(ValueError, match=r"as files of mae have it$"):  # nor where it was looked for
        of_file(file, {"model": {"blocks.0.attn.qkv.weight": junk(3, 3)}}, project="mae")
    assert of_file(file, arrays, project="moco", prefix="visual.").report.ignored == {
        "outside of --prefix visual.": ("token_embedding.weight",)
    }


def test_the_projects_rules_hold_below_a_prefix(file):
    arrays = state(FLAT)
    both = {f"encoder_{which}.fc.{i}.bias": junk(4) for which in "qk" for i in (0, 2)}
    both |= prefixed("encoder_q.", arrays) | prefixed("encoder_k.", other(arrays))
    found = of_file(file, {"state_dict": both | {"queue": junk(4, 4)}}, prefix="state_dict/module.encoder_k.")
    np.testing.assert_array_equal(kernel(found), 2 * arrays["conv1.weight"])
    assert found.project == "moco"
    assert {rule: len(names) for rule, names in found.report.ignored.items()} == {
        "heads of the pretraining": 2,
        "outside of --prefix state_dict/encoder_k.": len(arrays) + 3,
    }


def test_a_dinov2_is_no_mae(file):
    arrays = vit_arrays("dinov2 model") | {"mask_token": junk(1, 192)}
    for asked in ({}, {"project": "dinov2"}):
        assert of_file(file, {"model": arrays}, **asked).project == "dinov2"
    del arrays["mask_token"]
    assert of_file(file, {"model": arrays}, **STATISTICS).project == "timm"  # whose DINOv2 has none
    assert of_file(file, {"model": arrays}, project="dinov2").model["layer_scale"] == 1e-5


@pytest.mark.parametrize(("layout", "said"), [("solo-learn vit", "solo_learn"), ("lightly vit", "lightly")])
def test_heads_of_libraries_that_train_any_vit_are_asked_for(tmp_path, layout, said):
    published = LAYOUTS[layout]
    (tmp_path / "weights").write_bytes(torch_zip(published.wrap(vit_arrays(layout))))
    with pytest.raises(ValueError, match=f"{said} trains any ViT, and the heads of one of width 192.*--model.heads=3"):
        importing.read(tmp_path / "weights", **STATISTICS)
    with pytest.raises(ValueError, match="do not say how images are to be normalised; add --mean"):
        importing.read(tmp_path / "weights", fields={"heads": 3})


def test_a_students_file_says_that_the_teacher_is_missing(file):
    tree = {"student": prefixed("module.backbone.", state(FLAT)), "args": argparse.Namespace(lr=1)}
    with pytest.raises(
        ValueError, match=r"--prefix student/backbone\., the student's \(its teacher, .* is not in the fi"
    ):
        of_file(file, tree)
    assert of_file(file, tree, project="dino", prefix="student/backbone.").project == "dino"
    with pytest.raises(
        ValueError, match=r"networks \(student/backbone., teacher/backbone.\).*--prefix teacher/backbone\."
    ):
        of_file(file, tree | {"teacher": prefixed("backbone.", other(state(FLAT)))})


def test_objects_beside_weights_are_not_blamed(file):
    tree = {"weights": {"a.weight": junk(3, 3), "a.bias": junk(3)}, "args": argparse.Namespace(lr=1)}
    with pytest.raises(ValueError, match=r"its 3 arrays \(weights/a.weight, .*\) are called as in no project") as error:
        of_file(file, tree | {"c": junk(2)})
    assert "Namespace" not in str(error.value)
    with pytest.raises(ValueError, match=r"model is a argparse\.Namespace and no array"):
        of_file(file, {"model": argparse.Namespace(lr=1), "step": np.zeros(())})


NOT_OURS = {
    "Inception v3": {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1)},
    "GoogLeNet": {"conv1.conv.weight": (64, 3, 7, 7), "inception3a.branch1.conv.weight": (64, 192, 1, 1)},
    "a ShuffleNet": {"conv1.0.weight": (24, 3, 3, 3), "stage2.0.branch1.0.weight": (24, 1, 3, 3)},
    "an MNASNet": {"layers.0.weight": (32, 3, 3, 3), "layers.8.0.layers.0.weight": (48, 16, 1, 1)},
    "an EfficientNet or MobileNet": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.0.block.0.0.weight": (32, 1, 3, 3),
    },
    "a MobileNetV3": {"features.0.0.weight": (16, 3, 3, 3), "features.1.block.0.0.weight": (16, 1, 3, 3)},
    "a Swin transformer": {"features.0.0.weight": (96, 3, 4, 4), "features.1.0.attn.logit_scale": (3, 1, 1)},
    "a MaxViT": {
        "stem.0.0.weight": (64, 3, 3, 3),
        "blocks.0.layers.0.layers.MBconv.layers.conv_a.0.weight": (9, 9, 1, 1),
    },
    "a ConvNeXt": {"features.0.0.weight": (96, 3, 4, 4), "features.1.0.layer_scale": (96, 1, 1)},
}


@pytest.mark.parametrize("name", NOT_OURS)
@pytest.mark.parametrize("asked", [{}, {"project": "torchvision"}])
def test_a_known_network_that_is_none_of_ours_is_called_by_its_name(file, name, asked):
    tree = {where: np.zeros(shape, np.float32) for where, shape in NOT_OURS[name].items()}
    with pytest.raises(ValueError, match=rf"{name}, by \S+, is not among the known networks: ResNets, ViTs, "):
        of_file(file, tree, **asked)


def test_one_array_is_no_network(file):
    with pytest.raises(ValueError, match="it is one array, no network; give"):
        of_file(file, junk(3, 3))
    with pytest.raises(ValueError, match=r"its 2 arrays \(0, 1\) are without a second axis, and no network"):
        of_file(file, [junk(3), junk(4)])
    with pytest.raises(ValueError, match=r"its one array \(a\) is without a second axis"):
        of_file(file, {"a": junk(3)})


def test_a_classifier_may_be_left_out(file):
    arrays = changed("fc.weight", with_nan)(state())
    with pytest.raises(
        ValueError, match=r"numbers of fc\.weight are not finite; leave its classifier out: --no-classif"
    ):
        of_file(file, arrays)
    found = of_file(file, arrays, classifier=False)
    assert found.classifier is None
    assert found.report.ignored == {"classifier, which --no-classifier leaves out": ("fc.bias", "fc.weight")}
    assert found.statistics == projects.IMAGENET  # which its 1000 classes tell
    assert of_file(file, {"state_dict": arrays, "more": mlp("", 0)}, classifier=False, allow=["more/.*"]).report.allowed


def test_the_command_takes_a_prefix(tmp_path, capsys):
    path, out = tmp_path / "weights", tmp_path / "run"
    path.write_bytes(torch_zip({"a": state(), "b": other(state())}))
    assert import_weights.main([str(path), "--out", str(out)]) == 2
    assert "2 networks (a/, b/)" in capsys.readouterr().err
    assert import_weights.main([str(path), "--out", "/proc/x", "--prefix", "b/"]) == 2
    assert "--out /proc/x cannot be made" in capsys.readouterr().err
    assert import_weights.main([str(path), "--out", str(out), "--prefix", "b/", "--no-classifier"]) == 0
    said = capsys.readouterr().out
    assert "100 arrays of" in said
    assert "102 left aside: outside of --prefix b/" in said
    assert "2 left aside: classifier, which --no-classifier leaves out" in said
    assert "evals=classify" not in said
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert import_weights.main([str(tmp_path), "--out", str(out), "--prefix=b/"]) == 2
    assert f"--prefix is of networks of images, and {tmp_path} holds a BERT" in capsys.readouterr().err


def of_byol() -> tuple[dict, dict, dict]:
    """(a file as BYOL's, whose target is twice the other network; our names of the one and of the other)."""
    published = LAYOUTS["byol"]
    online = network(published)
    target = jax.tree.map(lambda leaf: 2 * leaf, online)
    table = resnet.pairs(published.model, "haiku")
    tree, twice = (published.wrap(pairs.write(table, arrays))["experiment_state"] for arrays in (online, target))
    targets = {name: twice[name] for name in ("target_params", "target_state")}
    return {"experiment_state": tree | targets, "step": 3}, online, target


def same(found: importing.Imported, want: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, {"params": found.params, "model_state": found.model_state}, want)


def of_pickle(file, tree, **asked):
    file.write_bytes(pickle.dumps(tree, 2))
    return importing.read(file, **asked)


@pytest.mark.parametrize("project", ["byol", None])
def test_a_prefix_reaches_both_trees_of_a_haiku_pair(file, project):
    tree, online, target = of_byol()
    state = "experiment_state/"
    for prefix in ("target_params/", "target_", "target_state/"):
        found = of_pickle(file, tree, project=project, prefix=state + prefix)
        same(found, target)
        outside = f"outside of --prefix {state}target_params/ and {state}target_state/"
        assert found.report.ignored.keys() == {outside, "running means before they were corrected"}
        assert (found.project, found.record["prefix"]) == ("byol", state + prefix)
    same(of_pickle(file, tree, project=project, prefix=f"{state}online_"), online)
    cut = {name: inner for name, inner in tree["experiment_state"].items() if name != "target_state"}
    with pytest.raises(ValueError, match=r"of which it lacks 42 arrays: res_net18/~/initial_batchnorm/~/mean_ema"):
        of_pickle(file, {"experiment_state": cut}, prefix=f"{state}target_params/")


@pytest.mark.parametrize("wrap", [lambda p, s: {"params": p, "state": s}, lambda p, s: (p, s)])
def test_a_plain_haiku_pair(file, wrap):
    tree, online, _ = of_byol()
    tree = wrap(tree["experiment_state"]["online_params"], tree["experiment_state"]["online_state"])
    first = "params/" if isinstance(tree, dict) else "0/"
    with pytest.raises(ValueError, match=f"a network begins at --prefix {first}; say that, and whose it is \\(--as"):
        of_pickle(file, tree)
    for prefix in (None, "", first):
        found = of_pickle(file, tree, project="byol", prefix=prefix)
        same(found, online)
        assert set(found.report.ignored) == {"heads of the pretraining", "running means before they were corrected"}


def test_places_are_said_without_what_makes_patterns_of_them(file):
    for project, said in {
        "byol": "below 'experiment_state/online_params/' or 'params/' or '0/' lies no",
        "lightly": "below 'teacher_backbone.' or 'backbone.' lies no",
        "simclr_finetuned": "below 'base_model/' lies no",
        "transformers": "in it lies no",
    }.items():
        with pytest.raises(ValueError, match=said) as error:
            of_file(file, {"a": junk(3), "b": junk(4)}, project=project)
        assert "\\" not in str(error.value)
        assert "|" not in str(error.value).partition("; say whose")[0]


def of_simclr(classes: int) -> tuple[dict, dict]:
    model = FIRST | {"pool_padding": "same"}
    tree = network(LAYOUTS["byol"]._replace(model=model))
    arrays = {f"base_model/{name}": a for name, a in pairs.write(resnet.pairs(model, "simclr"), tree).items()}
    head = {"kernel": junk(tree["params"]["stage4_block1"]["norm2"]["bias"].size, classes), "bias": junk(classes)}
    arrays |= {f"head_supervised/linear_layer/dense/{name}": array for name, array in head.items()}
    return arrays | {f"{name}/Momentum": a for name, a in arrays.items()} | {"global_step": np.array(5)}, head


def test_the_classifier_of_a_network_that_simclr_finetuned_is_kept(file):
    arrays, head = of_simclr(7)
    file.write_bytes(of_npz(arrays))
    found = importing.read(file)
    assert (found.project, found.statistics) == ("simclr_finetuned", projects.UNIT)
    jax.tree.map(np.testing.assert_array_equal, found.classifier, head)
    assert found.report.ignored.keys() == {"state of the training"}
    without_it = importing.read(file, classifier=False)
    assert without_it.classifier is None
    assert len(without_it.report.ignored["classifier, which --no-classifier leaves out"]) == 2


def test_the_probe_beside_simclrs_pretraining_is_no_classifier_of_the_network(file):
    arrays, _ = of_simclr(7)
    file.write_bytes(of_npz(arrays | {"head_contrastive/nl_0/dense/kernel": junk(4, 4)}))
    found = importing.read(file)
    assert (found.project, found.classifier) == ("simclr", None)
    (probe,) = (names for rule, names in found.report.ignored.items() if rule.startswith("linear probe beside the pre"))
    assert len(probe) == 2
