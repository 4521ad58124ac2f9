"""Weights of other projects become a network of ours: the right one, bit for bit, and nothing is lost unsaid."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files

from ssl_jax import models
from ssl_jax.interop import importing, pairs
from ssl_jax.interop.leaves import by_name
from ssl_jax.run import imported
from ssl_jax.run.open import open_run

LAYOUTS = weight_files.RESNETS | weight_files.VITS


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
        named["classifier"] = {"kernel": np.zeros((encoder.dim, 10)), "bias": np.zeros(10)}
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
        found[name][0].write_bytes(written(published, tree))
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_comes_back_bit_for_bit(files, name):
    path, tree = files[name]
    published = LAYOUTS[name]
    found = importing.read(path, **published.asked)
    assert found.model == published.model
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
