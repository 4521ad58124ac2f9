"""The words for data that are no images, and for batches of two parts, by the small ones of ``other_data.py``."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import other_data
import pytest
import runs

import ssl_jax
from experiments import evaluate as command
from ssl_jax import models, train
from ssl_jax.data import readers
from ssl_jax.data.order import permutation
from ssl_jax.experiment import build
from ssl_jax.run import checkpoint, processes
from ssl_jax.run.open import open_run
from ssl_jax.run.writer import read_metrics

CASES = ("letters", "two_parts")


@pytest.fixture(scope="module")
def one():
    """What training on one device makes of each case."""
    return {case: other_data.trained(case, 1) for case in CASES}


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        pytest.param("letters", "jit", marks=pytest.mark.slow),  # the language model shows it, too
        pytest.param("letters", "pmap", marks=pytest.mark.slow),
        ("two_parts", "jit"),
        pytest.param("two_parts", "pmap", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_compute_what_one_does(case, mode, one):
    """``rows`` of a language model and the second part of a batch among it, float64."""
    found = other_data.trained(case, 8, mode)
    assert set(found) == set(one[case])
    assert (case == "letters") == ("rows" in found)
    for name, value in one[case].items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9 * max(1, np.abs(value).max()), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["letters", "two_parts"])
def test_two_processes_of_four_devices_compute_what_one_does(case, one, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(other_data.__file__)
    started = [
        subprocess.Popen(
            [sys.executable, str(script), case, str(rank), "2", str(port), str(tmp_path / "out.npz")],
            stderr=subprocess.PIPE,
            text=True,
            cwd=script.parent.parent,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = np.load(tmp_path / "out.npz")
    for name, value in one[case].items():
        if name != "rows":  # of which each process holds its own
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of letters."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train.fit(build(other_data.config("letters")), folder), folder


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_killed_run_of_letters_ends_in_the_same_bits(whole, tmp_path, monkeypatch):
    """Ended by what nothing catches; ``test_train.py`` kills whole processes."""

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train, "open_writer", runs.ending_after(6, kill))
        with pytest.raises(Killed):
            train.fit(build(other_data.config("letters")), tmp_path / "run")
    assert checkpoint.latest(tmp_path / "run") == 4
    summary = train.fit(build(other_data.config("letters"), folder=tmp_path / "run"), tmp_path / "run")
    assert summary["params_fingerprint"] == whole[0]["params_fingerprint"]
    rates = ("lines_per_sec", "input_wait", "eta")
    lines = [
        [{k: v for k, v in line.items() if k not in rates} for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (whole[1], tmp_path / "run")
    ]
    assert lines[0] == lines[1]


def test_what_a_run_of_letters_measures(whole):
    """Its own score, by the least of which the best checkpoint is kept; the metrics of labels beside it."""
    summary, folder = whole
    losses = [line["val_loss"] for line in read_metrics(folder / "metrics.jsonl") if "val_loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0] < np.log(8)
    assert summary["test_loss"] == pytest.approx(losses[-1], abs=0.5)
    assert summary["lines_per_sec"] > 0
    assert 0 <= summary["test_knn_top1"] <= 1
    assert sorted(p.name for p in (folder / "figures").iterdir()) == ["curves.png", "neighbours.html"]


def test_the_score_counts_every_token_once(whole):
    """Whatever the batches: a mean of their means would not."""
    run = open_run(whole[1])
    built = build(other_data.config("letters"), folder=whole[1])
    from ssl_jax.evals.shared.score import score

    found = [
        score(run.method, run.variables, built.modality.score(built.splits.val, global_batch_size=size), key=None,
              place=lambda batch: batch)["loss"]
        for size in (2, 5, len(built.splits.val))
    ]  # fmt: skip
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_evaluated_and_loaded(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder)
    assert command.main(["--workdir", str(folder), "--evals", "knn", "--eval.knn.k=5"]) == 0, capsys.readouterr().err
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())["metrics"]
    assert 0 <= found["test_knn_top1"] <= 1
    variables, encode, config = ssl_jax.load(folder)
    features = encode(variables, ["abababab", "cd"])["features"]
    assert features.shape == (2, 16)
    found = ssl_jax.embed(folder, ["cd", "abababab", "cd"], batch_size=2)
    np.testing.assert_allclose(found, features[np.array([1, 0, 1])], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="is a run on text; give a list of texts"):
        ssl_jax.embed(folder, "abababab")
    assert config.method.name == "other_data:language_model"


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_run_with_another_tokenizer_is_refused(how, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder)
    file = folder / other_data.TOKENIZER
    file.write_text(json.dumps(sorted("abcdef", reverse=True))) if how == "changed" else file.unlink()
    message = "is not what the run began with" if how == "changed" else "cannot be read"
    with pytest.raises(ValueError, match=message):
        ssl_jax.load(folder)
    with pytest.raises(train.Refused, match=message):
        train.fit(build(other_data.config("letters"), folder=folder if how == "changed" else None), folder)


@pytest.mark.slow
def test_two_parts_train_and_resume(tmp_path):
    summary = train.fit(build(other_data.config("two_parts")), tmp_path, test=False)
    assert summary["steps"] == 12
    state = build(other_data.config("two_parts"))
    drawn = list(state.feed.batches(start_step=3, total_steps=4))
    again = list(state.feed.batches(total_steps=4))[3:]
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    halves = [next(state.feed.batches(process=p, process_count=2)) for p in (0, 1)]
    both = jax.tree.map(lambda *parts: np.concatenate(parts), *halves)
    jax.tree.map(np.testing.assert_array_equal, both, next(state.feed.batches()))


def test_parts_go_through_their_examples_in_orders_of_their_own():
    """The first as a run of one part."""
    whole, *parts = (permutation(50, 3, 1, part) for part in (None, 0, 1, 2))
    for order in parts:
        assert sorted(order) == list(range(50))
    np.testing.assert_array_equal(parts[0], whole)
    assert (parts[0] != parts[1]).any()
    assert (parts[1] != parts[2]).any()


# ------------------------------------------------------------------------------------------------------ own parts


class Bare(nn.Module):
    dim: int = 4

    def __call__(self, x, *, train):
        return x


class Wrong(other_data.Letters):
    def __call__(self, x, *, train, axis=None, rows=None):
        return {"features": jnp.zeros((len(x), 3)), "stage1": x}


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("model", "test_other_data:Bare", "lacks the attributes stages, label, .*, the keyword axis="),
        ("model", "test_other_data:Wrong", r"lacks 'features' of shape \[b, dim=16\]"),
        ("model", "test_other_data:Leters", "test_other_data has no Leters"),
        ("method", "other_data:languagemodel", "other_data has no languagemodel; did you mean 'language_model'"),
        ("method", "not_there:make", "not_there cannot be imported"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(part, name, words):
    config = other_data.config("letters")
    config[part].name = name
    with pytest.raises(ValueError, match=words) as error:
        build(config)
    assert "\n" not in str(error.value)


def test_our_encoders_are_encoders():
    for name in ("convnet", "resnet18", "vit_ti"):
        encoder = models.make(name)
        models.check_encoder(encoder, name, jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32))
    models.check_encoder(models.make("mlp"), "mlp")


def test_a_recipe_or_source_that_is_none_is_refused():
    config = other_data.config("letters")
    config.data.recipe = "other_data:LENGTH"
    with pytest.raises(ValueError, match=r"data.recipe='other_data:LENGTH' is a int and no recipe"):
        build(config)
    with pytest.raises(ValueError, match=r"unknown data.source 'foldr:mine'; did you mean 'folder:<path>'"):
        readers.load("foldr:mine")


def test_labels_not_given_are_in_no_bank(whole):
    """Half of the labels are -1: neighbours come from the others."""
    summary, _ = whole
    splits = build(other_data.config("letters")).splits
    known = sum(int((part.labels >= 0).sum()) for part in (splits.train, splits.val))
    assert summary["eval"]["bank"] == known < len(splits.train) + len(splits.val)


def test_a_config_of_images_is_as_before():
    built = build(runs.config())
    assert built.modality.unit == "images"
    assert (built.modality.vocab, built.plan.vocab) == (None, None)
    assert built.modality.files == {}
