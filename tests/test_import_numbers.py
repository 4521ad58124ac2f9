"""Numbers of a file that cannot be, or are other than they seem: what is refused, and what is said of the others."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import safetensors.numpy
import weight_files
from test_importing import LAYOUTS, changed, network, of_file, state, without
from torch_writer import torch_zip
from weight_files import STATISTICS, junk

from experiments import import_weights
from ssl_jax.interop import importing, pairs, sound, weights
from ssl_jax.interop.leaves import by_name
from ssl_jax.models.positions import RULES

VARIANCES = [name for name in state() if name.endswith("running_var")]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights"


def by_layout(layout: str) -> dict:
    published = LAYOUTS[layout]
    table = published.family.pairs(published.model, published.library, classifier=published.classifier)
    return dict(pairs.write(table, network(published)))


def lowered(array, by=2.0):
    array = array.copy()
    array.reshape(-1)[:3] -= by
    return array


# Running variances


@pytest.mark.parametrize("write", [torch_zip, weight_files.of_npz, weight_files.of_safetensors])
def test_a_variance_below_zero_is_refused_in_every_kind_of_file(file, write):
    file.write_bytes(write(state(changed("layer2.0.bn1.running_var", lowered))))
    said = r"weights: 3 of the 16 numbers of layer2\.0\.bn1\.running_var are below 0, which no variance is; use other"
    with pytest.raises(ValueError, match=said):
        importing.read(file)
    file.write_bytes(write(state(changed("layer2.0.bn1.running_mean", lowered))))  # which a mean may be
    importing.read(file)


def test_a_variance_below_zero_is_refused_in_haikus_and_our_own_files(file, tmp_path):
    arrays = by_layout("byol")
    name = next(name for name in arrays if "initial_batchnorm" in name and name.endswith("var_ema/average"))
    file.write_bytes(pickle.dumps(LAYOUTS["byol"].wrap(arrays | {name: lowered(arrays[name])}), 2))
    with pytest.raises(ValueError, match=r"3 of the 8 numbers of res_net18/.*var_ema/average are below 0"):
        importing.read(file)
    nearly = np.full_like(arrays[name], -1e-9)  # rounding: E[x^2] - E[x]^2 of what is nearly constant
    file.write_bytes(pickle.dumps(LAYOUTS["byol"].wrap(arrays | {name: nearly}), 2))
    assert (importing.read(file).model_state["batch_stats"]["stem_norm"]["var"] < 0).all()
    ours = {"params/a/kernel": junk(2, 2), "model_state/batch_stats/a_norm/var": np.array([1, -1], np.float32)}
    np.savez(tmp_path / "ours.npz", **ours)
    with pytest.raises(ValueError, match="1 of the 2 numbers of model_state/batch_stats/a_norm/var are below 0"):
        weights.read(tmp_path / "ours.npz")
    safetensors.numpy.save_file(
        ours | {"model_state/batch_stats/a_norm/var": junk(2) ** 2}, tmp_path / "ours.safetensors"
    )
    weights.read(tmp_path / "ours.safetensors")


def test_variances_that_are_zero_throughout_are_told_and_all_of_them_refused(file, tmp_path, capsys):
    zero = {name: np.zeros_like(array) for name, array in state().items() if name in VARIANCES}
    with pytest.raises(ValueError, match=rf"variances of all its {len(VARIANCES)} BatchNorms are zero throughout"):
        of_file(file, state() | zero)
    some = {name: zero[name] for name in VARIANCES[:4]}
    found = of_file(file, state() | some)
    (said,) = found.record["remarks"]
    shown = re.fullmatch(
        r"4 running variances are zero throughout \((.*), \.\.\.\): what they norm never varied, .*", said
    )
    assert shown is not None
    assert set(shown[1].split(", ")) < set(some)
    assert import_weights.main([str(file), "--out", str(tmp_path / "run")]) == 0
    assert said in capsys.readouterr().out
    dead = {VARIANCES[0]: np.where(np.arange(8) == 5, np.float32(1), np.float32(0))}  # all channels but one
    assert of_file(file, state() | dead).record["remarks"] == []


def test_names_of_variances_are_those_of_every_network():
    for layout in ("torchvision", "byol"):
        published = LAYOUTS[layout]
        tree = by_name({k: v for k, v in network(published).items() if k != "classifier"})
        assert sum(bool(sound.VARIANCE.fullmatch(name)) for name in tree) == sum("/var" in name for name in tree) > 9


# Dtypes


def test_a_classifier_of_whole_numbers_may_be_left_out(file):
    def whole(array):
        return array.astype(np.int8)

    def of(arrays, **asked):
        file.write_bytes(weight_files.of_safetensors(arrays))
        return importing.read(file, **asked)

    arrays = changed("fc.weight", whole)(state())
    with pytest.raises(ValueError, match=r"fc\.weight is int8.*in float32, or leave its classifier out: --no-classifi"):
        of(arrays)
    assert of(arrays, classifier=False).classifier is None
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is int8.*in float32$"):  # the first to say
        of(changed("layer1.0.conv1.weight", whole)(arrays))


# Whose it is


@pytest.mark.slow
def test_a_classifier_that_a_project_does_not_publish_is_said(file, tmp_path, capsys):
    for project, kept in (("dino", True), ("moco", True), ("swav", True), ("dino", False)):
        found = of_file(file, state(), project=project, classifier=kept)
        said = f"its classifier of 1000 classes (fc.bias, fc.weight) is none of {project}'s, whose networks are publi"
        assert [said in remark for remark in found.record["remarks"]] == [True]
    for asked in ({}, {"project": "torchvision"}):
        assert of_file(file, state(), **asked).record["remarks"] == []
    assert of_file(file, state(without("fc.weight", "fc.bias")), project="dino").record["remarks"] == []
    of_file(file, state())
    assert import_weights.main([str(file), "--out", str(tmp_path / "run"), "--as", "dino"]) == 0
    said = capsys.readouterr().out
    assert "how images are normalised and the licence are as --as dino says" in said
    assert "licence of the weights: Apache-2.0, as --as dino says\n" in said


def test_a_dinov2_without_its_token_is_asked_for(file):
    arrays = by_layout("dinov2 model")
    published = arrays | {
        "patch_embed.proj.weight": junk(192, 3, 14, 14),
        "pos_embed": np.zeros((1, 1 + 37 * 37, 192), np.float32),
    }
    for tree in (published, {"model": published}, by_layout("dinov2")):
        with pytest.raises(ValueError, match=r"LayerScale .*37 x 37.*DINOv2.*: --as dinov2, or --as timm --mean"):
            of_file(file, tree, **STATISTICS)
        assert of_file(file, tree, project="dinov2").project == "dinov2"
        assert of_file(file, tree, project="timm", **STATISTICS).model["positions_rule"] == "timm"
    assert of_file(file, arrays, **STATISTICS).project == "timm"  # of other sizes, as anybody's


# Images of another size than the positions


def test_positions_are_fitted_as_their_project_does(file):
    for layout, rule in (("torchvision vit", "torchvision"), ("mae fine-tuned", "transformers")):
        arrays = LAYOUTS[layout].wrap(by_layout(layout))
        head = {"heads.head.weight": junk(1000, 192), "heads.head.bias": junk(1000)} if rule == "torchvision" else {}
        assert of_file(file, arrays | head, size=64).model["positions_rule"] == rule
    arrays = by_layout("torchvision vit")
    lightly = {"state_dict": {f"backbone.vit.{name}": a for name, a in arrays.items() if "heads" not in name}}
    lightly["state_dict"]["projection_head.layers.0.weight"] = junk(4, 4)
    found = of_file(file, lightly, **STATISTICS, fields={"heads": 3}, size=64)
    assert (found.project, found.model["positions_rule"]) == ("lightly", "transformers")


def test_a_rule_that_is_not_known_is_asked_for(file):
    arrays = by_layout("torchvision vit")
    for size in (None, 32):
        assert of_file(file, arrays, project="moco", size=size).model["positions_grid"] == 4
    with pytest.raises(
        ValueError, match=r"images of 32 pixels, and how moco makes them fit 64 is not known; say --size 32"
    ):
        of_file(file, arrays, project="moco", size=64)
    for rule in RULES:
        found = of_file(file, arrays, project="moco", size=64, fields={"positions_rule": rule})
        assert found.model["positions_rule"] == rule


# What the user says without effect


def test_a_pattern_that_lets_nothing_pass_is_said(file, tmp_path, capsys):
    tree = {"state_dict": state(), "more": {"a": junk(2)}}
    found = of_file(file, tree, allow=["more/.*", "layer1.*", "no"])
    assert (found.report.allowed, found.report.idle) == (("more/a",), ("layer1.*", "no"))
    arguments = [str(file), "--out", str(tmp_path / "run"), "--allow", "more/.*", "--allow", "layer1.*"]
    assert import_weights.main(arguments) == 0
    said = capsys.readouterr().out
    assert "--allow 'layer1.*' let nothing pass" in said
    assert said.count("let nothing pass") == 1


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("b", r"no network begins at --prefix b; did you mean --prefix b/\?"),
        ("b.", r"none of its arrays is called b\..*; a network begins at --prefix b/ or --prefix b_ema/"),
        ("b_ema", r"did you mean --prefix b_ema/\?"),
        ("b/layer1.", r"no network begins at --prefix b/layer1\.; did you mean --prefix b/\?"),
    ],
)
def test_a_prefix_beside_a_network_names_its_own(file, prefix, said):
    for asked in ({}, {"project": "moco"}):
        with pytest.raises(ValueError, match=said):
            of_file(file, {"b": state(), "b_ema": state()}, prefix=prefix, **asked)


@pytest.mark.parametrize("prefix", ["layer1.", "/", "conv1"])
def test_a_prefix_where_none_belongs_is_to_be_left_out(file, prefix):
    for asked in ({}, {"project": "moco"}):
        with pytest.raises(ValueError, match="begins without a prefix: leave --prefix out"):
            of_file(file, state(), prefix=prefix, **asked)
    with pytest.raises(ValueError, match="--prefix ''"):  # which this project would not look for
        of_file(file, state(), prefix=prefix, project="simsiam")
