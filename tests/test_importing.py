"""Weights of other projects become a network of ours: the right one, bit for bit, and nothing is lost unsaid."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files

from ssl_jax import models
from ssl_jax.interop import importing, pairs, projects, resnet
from ssl_jax.interop.leaves import by_name
from ssl_jax.run import imported
from ssl_jax.run.open import open_run

LAYOUTS = weight_files.RESNETS | weight_files.VITS
WHOSE = dict.fromkeys(("torchvision legacy", "torchvision safetensors", "torchvision vit"), "torchvision")
WHOSE |= {"moco v1": "moco", "moco v2": "moco", "moco v3 vit": "moco_v3", "mae fine-tuned": "mae_finetuned"}
WHOSE |= {"dino resnet": "dino", "dino backbone": "dino", "timm folder": "timm", "deit": "timm"}
WHOSE |= dict.fromkeys(("lightly dino", "lightly momentum", "lightly flat", "lightly vit"), "lightly")
WHOSE |= dict.fromkeys(("solo-learn momentum", "solo-learn vit"), "solo_learn") | {"vissl trunk": "vissl"}
WHOSE |= dict.fromkeys(("dinov2 model", "dinov2 training"), "dinov2")
WHOSE |= {"ibot backbone": "ibot", "dino teacher": "dino"}
WHOSE |= {"transformers vit": "transformers"}  # of the others the project is called as the layout


def network(published: weight_files.Published) -> dict:
    """Random arrays for what is published, in our names."""
    return _network(tuple(published.model.items()), published.classifier)


@cache
def _network(model: tuple, classifier: bool) -> dict:
    fields = dict(model)
    encoder = models.make(fields.pop("name"), **fields)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    spec = dict(jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False, axis=None), image))
    named = {"params": spec.pop("params"), "model_state": spec}
    if classifier:
        named["classifier"] = {"kernel": np.zeros((encoder.dim, 1000)), "bias": np.zeros(1000)}
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: draw.uniform(0.5, 1.5, leaf.shape).astype(np.float32), named)


def written(published: weight_files.Published, tree: dict) -> bytes:
    table = published.family.pairs(published.model, published.library, classifier=published.classifier)
    return published.write(published.wrap(pairs.write(table, tree)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every layout, each under a name that says nothing."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for number, (name, published) in enumerate(LAYOUTS.items()):
        tree = network(published)
        found[name] = folder / f"{number}.weights", tree
        data = written(published, tree)
        if isinstance(data, dict):
            found[name][0].mkdir()
            for file, content in data.items():
                (found[name][0] / file).write_bytes(content)
        else:
            found[name][0].write_bytes(data)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_comes_back_bit_for_bit(files, name):
    path, tree = files[name]
    published = LAYOUTS[name]
    found = importing.read(path, **published.asked)
    assert found.model == published.model
    assert found.project == WHOSE.get(name, name.replace(" ", "_").replace("-", "_"))
    trees = {"params": found.params, "model_state": found.model_state, "classifier": found.classifier}
    there, here = by_name({k: v for k, v in trees.items() if v}), by_name({k: v for k, v in tree.items() if v})
    assert there.keys() == here.keys()
    for leaf, array in here.items():
        np.testing.assert_array_equal(there[leaf], array, err_msg=leaf)
    assert found.report.matched == sum(
        len(pair.theirs)
        for pair in published.family.pairs(published.model, published.library, classifier=published.classifier)
    )
    assert not found.report.allowed


def test_a_published_network_is_opened_as_a_run(data_dir, tmp_path):
    found = importing.read(data_dir / "weights" / "cifar_resnet" / "resnet20-12fca82f.th")
    assert found.model == {"name": "resnet20"}
    assert found.project == "cifar_resnet"
    assert found.report.numbers == 271_098  # 269,722 and the running statistics of 688 channels
    run = imported.write(found, tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    out = run.method.encode(run.variables, jnp.asarray(run.modality.prepare(images)))
    assert out["features"].shape == (4, 64)
    again = open_run(tmp_path / "run")
    np.testing.assert_array_equal(
        again.variables.params["encoder"]["stem_conv"]["kernel"], found.params["stem_conv"]["kernel"]
    )
    with pytest.raises(ValueError, match="is not empty"):
        imported.write(found, tmp_path / "run")


def test_what_a_folder_says_of_images_is_taken(files):
    found = importing.read(files["transformers"][0])
    assert (found.statistics, found.size) == (((0.1,) * 3, (0.2,) * 3), 64)


@pytest.mark.slow  # TensorFlow is imported
def test_a_checkpoint_of_simclrs_code_comes_back_bit_for_bit(tmp_path):
    import tensorflow as tf

    model = weight_files.FIRST | {"pool_padding": "same"}
    published = weight_files.Published(resnet, "simclr", model, lambda a: a)
    tree = network(published)
    arrays = {f"base_model/{name}": a for name, a in pairs.write(resnet.pairs(model, "simclr"), tree).items()}
    arrays |= {f"{name}/Momentum": 2 * a for name, a in arrays.items()} | {"global_step": np.array(5, np.int64)}
    arrays |= {f"head_contrastive/nl_{j}/dense/kernel": np.ones((4, 4), np.float32) for j in range(3)}
    prefix = str(tmp_path / "model.ckpt-5")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(arrays), shape_and_slices=[""] * len(arrays), tensors=[*arrays.values()]
    )
    found = importing.read(prefix)
    assert (found.model, found.project, found.statistics) == (model, "simclr", projects.UNIT)
    there, here = by_name({"params": found.params, "model_state": found.model_state}), by_name(tree)
    assert there.keys() == here.keys()
    for leaf, array in here.items():
        np.testing.assert_array_equal(there[leaf], array, err_msg=leaf)


def state(change=lambda arrays: arrays) -> dict:
    """A torchvision network's arrays by their names, changed."""
    published = LAYOUTS["torchvision"]
    table = published.family.pairs(published.model, "torchvision", classifier=True)
    return change(pairs.write(table, network(published)))


def without(*names):
    return lambda arrays: {name: a for name, a in arrays.items() if name not in names}


def changed(name, change):
    def of(arrays):
        arrays = dict(arrays)
        arrays[name] = change(arrays[name])
        return arrays

    return of


def with_nan(array):
    array = array.copy()
    array.reshape(-1)[3] = np.nan
    return array


def twice(arrays):
    return {"state_dict": {f"{which}.{name}": a for which in ("first", "second") for name, a in arrays.items()}}


REFUSED = {
    "an array is missing": (
        state(without("layer3.0.bn1.weight")),
        "nearest to a resnet18 of 100 arrays, of which it lacks 1 array: layer3.0.bn1.weight;",
    ),
    "eight are missing": (
        state(lambda a: {name: array for name, array in a.items() if not re.match("bn1|layer1.1.bn1|fc.0", name)}),
        "lacks 8 arrays: bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var, layer1.1.bn1.weight, ...; it is cut",
    ),
    "the stem is missing": (state(without("conv1.weight")), "of which it lacks 1 array: conv1.weight"),

    "an array too much": (
        state(lambda a: a | {"layer5.0.conv1.weight": np.zeros((2, 2, 3, 3), np.float32)}),
        r"more than a resnet18|no place in the network: layer5.0.conv1.weight; .*--allow",
    ),
    "another shape": (
        state(changed("layer2.0.conv2.weight", lambda a: a[:, :-1])),
        r"layer2.0.conv2.weight is \[16, 15, 3, 3\] there and \[16, 16, 3, 3\] in resnet18",
    ),
    "not a number": (state(changed("layer1.0.conv1.weight", with_nan)), "1 of the 576 numbers of layer1.0.conv1"),
    "two encoders": (twice(state()), r"2 networks \(state_dict/first., state_dict/second.\).*--prefix state_dict/f"),
    "nobody's names": ({"a": np.ones((3, 3), np.float32)}, r"its one array \(a\) is called as in no project.*--as"),
    "two trees": (
        {"model_a": state(), "model_b": state()},
        r"it holds 2 networks \(model_a/, model_b/\); .*--prefix model_a/",
    ),
    "an object among the weights": (
        state(lambda a: a | {"layer3.0.bn1.weight": argparse.Namespace(lr=1)}),
        "layer3.0.bn1.weight is a argparse.Namespace and no array; write the arrays alone as .safetensors",
    ),
    "objects for weights": (
        {"a.weight": argparse.Namespace(lr=1), "a.bias": argparse.Namespace(lr=1), "step": np.zeros(())},
        "2 of its weights are objects and no arrays: a.weight is a argparse.Namespace, a.bias is a argparse.Namespace",
    ),
    "objects alone": (argparse.Namespace(lr=1), r"it holds objects or code \(1 x argparse.Namespace\) and no arrays"),
    "no arrays": ({"epoch": 3}, "no arrays"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_what_to_do(tmp_path, case):
    tree, said = REFUSED[case]
    path = tmp_path / "weights.pth"
    path.write_bytes(weight_files.torch_zip(tree))
    with pytest.raises(ValueError, match=said) as error:
        importing.read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_shapes_are_said_in_the_order_of_the_file(tmp_path):
    published = LAYOUTS["deit"]
    arrays = pairs.write(published.family.pairs(published.model, "timm", classifier=True), network(published))
    for name, shape in {"blocks.1.mlp.fc2.weight": (200, 768), "norm.bias": (5,)}.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(weight_files.torch_zip({"model": arrays | {name: np.zeros(shape, np.float32)}}))
        with pytest.raises(
            ValueError, match=re.escape(f"{name} is {list(shape)} there and {list(arrays[name].shape)}")
        ):
            importing.read(path, **weight_files.STATISTICS)


def test_what_has_no_place_may_be_let_pass(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(weight_files.torch_zip(state(lambda a: a | {"extra.bias": np.zeros(2, np.float32)})))
    with pytest.raises(ValueError, match=r"--allow 'extra\\.bias'"):
        importing.read(path)
    assert importing.read(path, allow=[r"extra\..*"]).report.allowed == ("extra.bias",)


def test_the_pattern_that_is_offered_lets_all_pass(tmp_path):
    more = ["extra.bias", "extra.weight", "other/scale", "alone", "other/x.y+z"]
    path = tmp_path / "weights.pth"
    path.write_bytes(weight_files.torch_zip(state(lambda a: a | {name: np.zeros(2, np.float32) for name in more})))
    with pytest.raises(ValueError, match="5 of its arrays have no place") as error:
        importing.read(path)
    offered = shlex.split(str(error.value).split("--allow")[1])[0]
    assert importing.read(path, allow=[offered]).report.allowed == tuple(sorted(more))
    with pytest.raises(ValueError, match=r"--allow '\(' is no regular expression \(missing \)"):
        importing.read(path, allow=["("])


@pytest.mark.parametrize("more", ["embeddings.mask_token", "pooler.dense.weight"])
def test_what_save_pretrained_writes_beside_a_network_is_known(tmp_path, more):
    published = LAYOUTS["transformers vit"]
    table = published.family.pairs(published.model, published.library)
    for name, data in published.write(pairs.write(table, network(published)) | {more: np.zeros((1, 192))}).items():
        (tmp_path / name).write_bytes(data)
    assert importing.read(tmp_path).report.ignored.keys() & {
        "token of hidden patches",
        "layer behind the class token (pooler)",
    }


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((1, 2, 3), (0.2,) * 3, "--mean 1,2,3 is not three numbers, each at least 0 and at most 1"),
        ((0.5,) * 3, (0, 0, 0), "--std 0,0,0 is not three numbers, each more than 0 and at most 1"),
        ((0.5,) * 2, (0.5,) * 2, "--mean 0.5,0.5 is not three"),
        ((0.5,) * 3, (0.5, 0.5, float("nan")), "--std 0.5,0.5,nan is not"),
    ],
)
def test_statistics_that_cannot_be_are_refused(files, mean, std, said):
    with pytest.raises(ValueError, match=said):
        importing.read(files["lightly"][0], statistics=(mean, std))


def test_what_only_the_user_knows_is_asked_for(files):
    path, _ = files["lightly"]
    with pytest.raises(ValueError, match=r"--mean 0\.485,0\.456,0\.406 --std"):
        importing.read(path)
    assert importing.read(path, **weight_files.STATISTICS).statistics == weight_files.STATISTICS["statistics"]
    path, _ = files["torchvision"]
    with pytest.raises(ValueError, match=r"--as torchvison is unknown; did you mean .torchvision.\?"):
        importing.read(path, project="torchvison")
    with pytest.raises(
        ValueError, match="as files of moco have it; its names look like those of simsiam: --as simsiam"
    ):
        importing.read(files["simsiam"][0], project="moco")
    with pytest.raises(ValueError, match=r"--model\.heads is no field of resnet18"):
        importing.read(path, fields={"heads": 12})
    assert importing.read(path, fields={"padding": "same"}).model["padding"] == "same"


def of_file(path, tree, **asked):
    path.write_bytes(weight_files.torch_zip(tree))
    return importing.read(path, **asked)


def test_names_that_several_projects_use_are_asked_for(files, tmp_path):
    with pytest.raises(ValueError, match="--as dino, --as ibot, or --as timm --mean"):
        importing.read(files["dino backbone"][0])
    flat, path = state(without("fc.weight", "fc.bias")), tmp_path / "flat.pth"
    with pytest.raises(ValueError, match=r"no classifier of ImageNet's 1000 classes, .*--as torchvision\|moco"):
        of_file(path, flat)
    with pytest.raises(ValueError, match="no classifier of ImageNet's 1000"):
        of_file(path, flat | {"fc.weight": np.zeros((10, 64), np.float32), "fc.bias": np.zeros(10, np.float32)})
    for project in ("torchvision", "moco", "dino", "barlow_twins", "vicreg"):
        found = of_file(path, flat, project=project)
        assert (found.project, found.statistics) == (project, projects.IMAGENET)
    assert of_file(path, flat, **weight_files.STATISTICS).statistics == weight_files.STATISTICS["statistics"]
    stripped = {f"module.encoder_q.{name}": array for name, array in flat.items()}
    assert of_file(path, stripped, project="moco").model == weight_files.R18


def test_networks_for_small_images_see_them_whole(tmp_path):
    small = state(changed("conv1.weight", lambda a: a[:, :, 2:5, 2:5]))
    for asked in ({}, {"project": "torchvision"}):
        with pytest.raises(
            ValueError, match=r"stem for small images is of no network of torchvision's; .*--as solo_learn"
        ):
            of_file(tmp_path / "small.pth", small, **asked)
    found = of_file(tmp_path / "small.pth", small, **weight_files.STATISTICS)
    assert (found.size, found.view) == (32, ("resize", 1.0, "bilinear"))


def test_what_is_left_aside_is_counted(files):
    found = importing.read(files["moco v2"][0])
    report = found.report
    assert {rule: len(names) for rule, names in report.ignored.items()} == {
        "heads of the pretraining": 3,
        "queue": 2,
        "state of the training": 1,
        "the other network of the pair": report.matched + 3,
    }
    plain = report.plain()
    assert (plain["matched"], plain["missing"], plain["unexpected"]) == (report.matched, [], [])
    assert plain["ignored"]["queue"] == {"count": 2, "names": ["state_dict/queue", "state_dict/queue_ptr"]}
    assert plain["ignored"]["the other network of the pair"]["count"] == report.matched + 3
    assert found.record["assumed"] == {
        "padding": "torch",
        "pool_padding": "torch",
        "stride_first": False,
        "shortcut": "project",
    }
    assert importing.read(files["moco v3 vit"][0]).record["assumed"] == {
        "heads": 12,
        "positions": "moco_v3",
        "positions_rule": "dino",
        "gelu": "exact",
        "eps": 1e-6,
        "pool": "cls",
    }
