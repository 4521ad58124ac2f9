"""What a line says where a run is to begin with an imported network and has another: overrides that can be pasted."""

from __future__ import annotations

import shlex

import jax
import numpy as np
import pytest
import runs
import weight_files
from test_importing import network, written

from ssl_jax import configs, experiment
from ssl_jax.configs import starts
from ssl_jax.interop import importing, resnet
from ssl_jax.run import imported
from ssl_jax.run.open import load_given


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a small network whose convolutions pad as TensorFlow's."""
    folder = tmp_path_factory.mktemp("imported")
    published = weight_files.Published(
        resnet, "cifar", {"name": "resnet20"}, lambda a: {"state_dict": a}, classifier=True
    )
    (folder / "weights").write_bytes(written(published, network(published)))
    return imported.write(importing.read(folder / "weights", fields={"padding": "same"}), folder / "run")


def begin(source, tmp_path, words=(), channels=3):
    """What a run of another network makes of ``init_from`` and overrides."""
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, channels), np.uint8)
    np.savez(tmp_path / "mine.npz", train_images=images, train_labels=np.arange(200) % 4)
    config = runs.config("supervised", init_from=str(source.workdir), data__source=f"npz:{tmp_path / 'mine.npz'}")
    config.data.update({"mean": (0.5,) * channels, "std": (0.25,) * channels, "num_examples": None})
    config = configs.change(config, [word.removeprefix("--config.") for word in words])
    begun = experiment.build(config)
    return load_given(starts(config), begun.method, begun.modality, config, begun.plan)


def offered(error) -> list[str]:
    assert "\n" not in str(error.value)
    assert "(there: imported)" not in str(error.value)
    return shlex.split(str(error.value).partition("use its model: ")[2])


def test_the_fields_that_differ_are_said_and_fit_when_pasted(source, tmp_path):
    begun = ["--config.model.name=resnet32", "--config.model.pool_padding=same"]
    with pytest.raises(ValueError, match="holds another architecture: ") as error:
        begin(source, tmp_path, begun)
    words = offered(error)
    fields = ["name=resnet20", "padding=same", "pool_padding=torch"]
    assert words == [f"--config.model.{field}" for field in fields]
    given, notes = begin(source, tmp_path, begun + words)
    jax.tree.map(np.testing.assert_array_equal, given["encoder"][0], source.variables.params["encoder"])
    assert "was trained on images with data.mean=" in notes[0]


def test_fields_that_leave_no_trace_in_arrays_are_said_as_overrides(source, tmp_path):
    with pytest.raises(ValueError, match="use its model: ") as error:
        begin(source, tmp_path)
    words = [word.replace("padding=same", "pool_padding=same") for word in offered(error)]
    with pytest.raises(ValueError, match=r"model\.padding is 'same' and 'torch' here") as error:
        begin(source, tmp_path, words)
    assert offered(error) == ["--config.model.padding=same", "--config.model.pool_padding=torch"]


def test_where_the_model_is_the_same_its_channels_are_asked_for(source, tmp_path):
    with pytest.raises(ValueError, match="use its model: ") as error:
        begin(source, tmp_path, channels=1)
    with pytest.raises(ValueError, match=r"fields of its model are alike; use as many image channels as it has$"):
        begin(source, tmp_path, offered(error), channels=1)
