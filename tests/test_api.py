"""The package from Python: own arrays and an own encoder, trained, measured, embedded; what a run records of them."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
import runs
from PIL import Image

import ssl_jax
from experiments import compare_runs as compare_command
from experiments import embed as embed_command
from experiments import evaluate as evaluate_command
from experiments import pretrain as pretrain_command
from experiments import sweep as sweep_command
from ssl_jax import api, configs, models
from ssl_jax.data import readers
from ssl_jax.data.source import from_arrays
from ssl_jax.names import SYNONYMS
from ssl_jax.run import processes
from ssl_jax.run.export import export

CHANGES = {
    "data": {"image_size": 8, "global_batch_size": 16, "recipe": "runs:VIEWS"},
    "train": {"steps": 4, "eval_every": 0, "checkpoint_every": 0},
    "eval": {"knn_k": 3, "label_efficiency": False},
    "optim.warmup_epochs": 0,
    "parallel.devices": 1,
}
KNOWN = configs.known_keys(configs.load("simclr_digits"))


class Plain(nn.Module):
    """What somebody has: images in, features out."""

    width: int = 6

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(self.width, (3, 3), strides=2)(x)).mean((1, 2))


def encoder(width: int = 6):
    return models.from_module(Plain(width), dim=width)


@pytest.fixture(scope="module")
def data():
    """Two kinds of images, bright on the left or on the right, which kNN tells apart and labels swapped would not."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.integers(0, 60, (100, 8, 8, 1))
    images[labels == 0, :, :4] += 150
    images[labels == 1, :4] += 150
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    workdir = tmp_path_factory.mktemp("api") / "run"
    config = ssl_jax.config("simclr_digits", **CHANGES)
    with runs.no_pictures():
        return ssl_jax.pretrain(config, workdir, images=data[0], labels=data[1], encoder=encoder())


def elsewhere(run):
    """The run as another process finds it, which was handed nothing."""
    return run._replace(splits=None)


def test_a_run_records_arrays_and_encoder_by_what_they_are(run, data):
    stored = json.loads((run.workdir / "config.json").read_text())
    spec, splits = readers.of_arrays(*data)
    assert stored["config"]["data"]["source"] == spec
    assert spec.startswith("arrays:")
    assert len(spec) == len("arrays:") + 64
    assert stored["resolved"]["data"]["fingerprints"]["test"] == splits.test.fingerprint
    assert stored["resolved"]["data"]["sizes"] == {"train": 72, "val": 8, "test": 20}
    assert stored["config"]["model"] == {"name": models.hand_over(encoder())}
    assert stored["config"]["model"]["name"].startswith("given:Plain:")
    other = data[0].copy()
    other[7, 0, 0] ^= 1
    assert readers.of_arrays(other, data[1])[0] != spec
    assert readers.of_arrays(data[0], 1 - data[1])[0] != spec
    assert readers.of_arrays(from_arrays(*data))[0] == spec
    assert models.hand_over(encoder(7)) != models.hand_over(encoder())


def test_it_is_evaluated_with_its_arrays_alone(run, data, tmp_path):
    said = []
    with runs.no_pictures():
        found = ssl_jax.evaluate(run, ["knn"], outdir=tmp_path / "a", say=said.append)
        assert set(found) == {"test_knn_top1"}
        summary = json.loads((run.workdir / "summary.json").read_text())
        assert found["test_knn_top1"] == pytest.approx(summary["test_knn_top1"], abs=1e-6)
        assert (spec := run.config.data.source) not in (tmp_path / "a" / "report.html").read_text()
        assert f"simclr on {spec[:15]}: kNN" in (tmp_path / "a" / "report.html").read_text()
        again = ssl_jax.evaluate(
            elsewhere(run), ["knn"], images=data[0], labels=data[1], outdir=tmp_path / "a", say=said.append
        )
        assert again == found
        assert not [line for line in said if "WARNING" in line]
        about = json.loads((tmp_path / "a" / "evaluation.json").read_text())["provenance"]
        assert about["evaluated_on"] == about["source"] == run.config.data.source
        # Other images, whose labels mean nothing: these are other data, and are recorded as such.
        noise = np.random.default_rng(1).permutation(data[1])
        other = ssl_jax.evaluate(run, ["knn"], images=data[0] ^ 1, labels=noise, outdir=tmp_path / "a", say=said.append)
        assert not [line for line in said if "WARNING" in line]
        assert other["test_knn_top1"] < found["test_knn_top1"]
        both = json.loads((tmp_path / "a" / "evaluation.json").read_text())["data"]
        assert len({one["provenance"]["evaluated_on"] for one in both.values()}) == 2


def test_images_that_the_run_was_trained_on_are_no_test(run, data, tmp_path):
    images, labels = data
    order = {tuple(x.ravel()) for x in readers.of_arrays(*data)[1].train.columns["image"]}
    seen = np.array([tuple(x.ravel()) in order for x in images])
    assert np.load(run.workdir / "examples.npy").shape == (seen.sum(),) == (72,)
    told, place, again = [], tmp_path / "e", elsewhere(run)

    def evaluate(images, labels):
        with runs.no_pictures():
            ssl_jax.evaluate(again, ["knn"], images=images, labels=labels, outdir=place, say=told.append)

    with pytest.raises(ValueError, match=r"was trained on \d+ of the 20 examples that are called test.*images=\("):
        evaluate(images[::-1], labels[::-1])
    assert not place.exists()
    rows = np.r_[np.flatnonzero(seen)[:3], np.flatnonzero(~seen)[:5]]
    evaluate((images ^ 1, images[rows]), (labels, labels[rows]))
    (line,) = (line for line in told if "WARNING" in line)
    assert "was trained on 3 of the 8 examples" in line
    assert line.endswith(json.loads((place / "evaluation.json").read_text())["notes"]["test"])
    assert "was trained on 3 of the 8 examples" in (place / "report.html").read_text()
    told.clear()
    rows = np.flatnonzero(~seen)
    evaluate((images ^ 1, images[rows]), (labels, labels[rows]))
    assert not [line for line in told if "WARNING" in line]


def test_labels_that_come_later_leave_the_cut_where_it_was(data, tmp_path):
    images, labels = data[0], np.arange(100) // 3 % 7
    told, config = [], ssl_jax.config("simclr_digits", **CHANGES)
    with runs.no_pictures():
        run = ssl_jax.pretrain(config, tmp_path / "run", images=images, encoder=encoder())
        ssl_jax.evaluate(elsewhere(run), ["knn"], images=images, labels=labels, say=told.append)
    found = json.loads((run.workdir / "evaluation" / "evaluation.json").read_text())
    assert found["provenance"]["sizes"] == {"train": 80, "test": 20}
    assert not [line for line in told if "WARNING" in line]
    seen = {x.tobytes() for x in readers.of_arrays(images)[1].train.columns["image"]}
    assert any(x.tobytes() in seen for x in readers.of_arrays(images, labels)[1].test.columns["image"])  # cut anew
    bare, cut = (readers.of_arrays(images, y, stratified=False)[1] for y in (None, labels))
    for mine, theirs in zip(bare, cut, strict=True):
        np.testing.assert_array_equal(mine.columns["image"], theirs.columns["image"])
    rows = [np.flatnonzero((images == x).all((1, 2, 3)))[0] for x in cut.test.columns["image"]]
    np.testing.assert_array_equal(cut.test.labels, labels[rows])


def test_without_its_arrays_it_is_refused_in_one_line(run, capfd, monkeypatch):
    with pytest.raises(ValueError, match=r"arrays that lie in no file; hand them over from Python: .*images="):
        ssl_jax.evaluate(elsewhere(run), ["knn"])
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    for main, words in (
        (evaluate_command.main, ["--workdir", str(run.workdir), "--evals", "knn"]),
        (pretrain_command.main, ["--workdir", str(run.workdir)]),
        (compare_command.main, ["--runs", str(run.workdir), "--out", str(run.workdir / "table"), "--baselines"]),
    ):
        assert main(words) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "arrays that lie in no file" in line


def test_a_resume_with_other_arrays_or_another_encoder_is_refused(run, data):
    config = ssl_jax.config("simclr_digits", **CHANGES)
    with pytest.raises(ValueError, match=r"another config: data.source \('arrays:"):
        ssl_jax.pretrain(config, run.workdir, images=data[0][:90], labels=data[1][:90], encoder=encoder())
    with pytest.raises(ValueError, match=r"another config: .*model.name \('given:Plain"):
        ssl_jax.pretrain(config, run.workdir, images=data[0], labels=data[1], encoder=encoder(7))
    same = ssl_jax.pretrain(config, run.workdir, images=data[0], labels=data[1], encoder=encoder())
    assert same.step == run.step == 4


def test_an_encoder_that_another_process_was_not_handed(run, monkeypatch, data):
    from ssl_jax.models import own

    monkeypatch.setattr(own, "_HANDED", {})
    with pytest.raises(ValueError, match=r"handed over from Python and lies in no file; .*encoder=Plain\(\.\.\.\)"):
        ssl_jax.load(run.workdir)
    with pytest.raises(ValueError, match="hand over the one that it was made with"):
        ssl_jax.load(run.workdir, encoder=encoder(7))
    variables, encode, _ = ssl_jax.load(run.workdir, encoder=encoder())
    np.testing.assert_allclose(
        encode(variables, data[0][:5])["features"], ssl_jax.embed(run, data[0][:5]), rtol=1e-5, atol=1e-6
    )


def test_another_encoder_is_refused_where_the_right_one_was_handed_over(run, data, tmp_path):
    right, wrong = models.hand_over(encoder()), models.hand_over(encoder(7))
    export(run, tmp_path / "w.safetensors")
    for call in (
        lambda one: ssl_jax.evaluate(run, ["knn"], encoder=one),
        lambda one: ssl_jax.evaluate(run.workdir, ["knn"], images=data[0], labels=data[1], encoder=one),
        lambda one: ssl_jax.embed(run, data[0][:2], encoder=one),
        lambda one: ssl_jax.embed(run.workdir, data[0][:2], encoder=one),
        lambda one: ssl_jax.embed(tmp_path / "w.safetensors", data[0][:2], encoder=one),
        lambda one: ssl_jax.load(run.workdir, encoder=one),
    ):
        with pytest.raises(ValueError, match=f"was made with model.name='{right}' and encoder= is '{wrong}'; hand"):
            call(encoder(7))
    assert ssl_jax.embed(run, data[0][:2], encoder=encoder()).shape == (2, 6)
    with pytest.raises(ValueError, match=r"made with model.name='resnet18' and .*; leave encoder= out"):
        models.hand_back(encoder(), "resnet18", "here")


class Dropping(Plain):
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(self.rate, deterministic=not train)(super().__call__(x))


def test_dropout_of_a_whole_batch_is_refused_before_anything_is_written(data, tmp_path):
    config = ssl_jax.config("simclr_digits", **CHANGES)
    with pytest.raises(
        ValueError, match=r"given:Dropping.* draws at random as flax.linen.Dropout .*key= and calls"
    ) as e:
        ssl_jax.pretrain(config, tmp_path / "x", images=data[0], encoder=models.from_module(Dropping(), dim=6))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "x").exists()
    inputs = jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32)
    models.check_encoder(models.from_module(Dropping(rate=0.0), dim=6), "it", inputs)


def test_a_run_prints_in_a_line(run):
    source, name = run.config.data.source, run.config.model.name
    assert repr(run) == f"Run('{run.workdir}', method='simclr', model='{name}', data='{source[:15]}', step=4)"


def test_slips_of_form_are_taken_or_told(run, data, photos, tmp_path):
    from ssl_jax.evals import knn, named

    assert named("knn") == named(["knn"]) == ["knn"]
    assert named(photos) == [str(photos)]
    with pytest.raises(ValueError, match=r"evaluator='./none.py': .*none.py does not exist"):
        ssl_jax.evaluate(run, "./none.py", outdir=tmp_path / "a")
    with pytest.raises(ValueError, match="by its name and not as Evaluator; say 'knn'"):
        ssl_jax.evaluate(run, [knn.Evaluator])
    with pytest.raises(ValueError, match=r"not as Plain; say './FILE.py:Plain'"):
        named(Plain)
    np.testing.assert_array_equal(ssl_jax.embed(run, photos / "a.png"), ssl_jax.embed(run, [photos / "a.png"]))
    one = r"an array \[8, 8(, 1)?\] is one image; give a batch of one, X\[:1\] in place of X\[0\]"
    variables, encode, _ = ssl_jax.load(run.workdir, encoder=encoder())
    for image in (data[0][0], data[0][0, ..., 0]):
        with pytest.raises(ValueError, match=one):
            ssl_jax.embed(run, image)
        with pytest.raises(ValueError, match=one):
            encode(variables, image)
        with pytest.raises(ValueError, match=one):
            readers.of_arrays(image)


def test_a_module_that_is_no_encoder_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="from_module"):
        ssl_jax.pretrain(ssl_jax.config("simclr_digits"), tmp_path / "x", images=data[0], encoder=Plain())
    assert not (tmp_path / "x").exists()


def counted(run):
    """The run, and how often its encoder is traced: each trace is a compilation."""
    traced = []

    def encode(variables, inputs):
        traced.append(inputs.shape)
        return run.method.encode(variables, inputs)

    return run._replace(method=run.method._replace(encode=encode)), traced


def test_images_of_any_sizes_are_embedded_by_one_program(run, data):
    watched, traced = counted(run)
    images = data[0][:7]
    found = ssl_jax.embed(watched, images, batch_size=3)
    assert traced == [(3, 8, 8, 1)]
    assert found.shape == (7, 6)
    assert found.dtype == np.float32
    # Against the network by hand, on all rows at once.
    params = run.variables.params["encoder"]["stage1"]
    x = images / np.float32(255)
    x = (x - np.float32(0.305)) / np.float32(0.376)
    np.testing.assert_allclose(found, Plain().apply({"params": params}, x), rtol=1e-4, atol=1e-5)

    mixed = [images[0], images[1, ..., 0], np.kron(images[2], np.ones((4, 3, 1), np.uint8)), images[3] / 255.0]
    watched, traced = counted(run)
    several = ssl_jax.embed(watched, mixed, batch_size=3)
    assert traced == [(3, 8, 8, 1)]
    np.testing.assert_allclose(several[[0, 1, 3]], found[[0, 1, 3]], rtol=1e-4, atol=1e-5)
    resized = run.modality.prepare(mixed[2][None])
    np.testing.assert_allclose(several[2], run.method.encode(run.variables, resized)["features"][0], atol=1e-5)


@pytest.fixture
def photos(tmp_path, data):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("b.png", "more/a.PNG", "a.png")):
        image = np.kron(data[0][i, ..., 0], np.ones((i + 1, i + 1), np.uint8))
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def test_a_folder_is_embedded_in_the_order_of_its_paths(run, photos, data, tmp_path, capsys):
    paths = ssl_jax.images_of(photos)
    assert [str(path.relative_to(photos)) for path in paths] == ["a.png", "b.png", "more/a.PNG"]
    found = ssl_jax.embed(run, photos, batch_size=2)
    np.testing.assert_allclose(found[1], ssl_jax.embed(run, data[0][:1])[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[[2, 0]], ssl_jax.embed(run, [paths[2], str(paths[0])]), rtol=1e-4, atol=1e-5)

    assert embed_command.main([str(run.workdir), str(photos), "--out", str(tmp_path / "f.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), found, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "f.json").read_text()) == ["a.png", "b.png", "more/a.PNG"]
    assert "3 images, 6 numbers each" in capsys.readouterr().out

    weights = tmp_path / "w.safetensors"
    export(run, weights)
    np.testing.assert_allclose(ssl_jax.embed(weights, photos), found, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="is a file of weights; evaluate its run"):
        ssl_jax.evaluate(weights, ["knn"])


def test_parquet_holds_rows_and_paths(run, photos, tmp_path, capfd, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "f.parquet"
    assert embed_command.main([str(run.workdir), str(photos), "--out", str(out)]) == 0
    table = parquet.read_table(out).to_pydict()
    assert table["path"] == ["a.png", "b.png", "more/a.PNG"]
    np.testing.assert_allclose(np.array(table["embedding"]), ssl_jax.embed(run, photos), rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.parquet", "photos"]


def test_what_cannot_be_embedded_is_refused_in_one_line(run, photos, tmp_path, capfd, monkeypatch):
    def refused(*words):
        assert embed_command.main([str(run.workdir), *map(str, words)]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        return line

    out = tmp_path / "f.npy"
    assert "does not exist" in refused(tmp_path / "none", "--out", out)
    assert "must end in .npy or .parquet" in refused(photos, "--out", tmp_path / "f.txt")
    assert "cannot be written" in refused(photos, "--out", tmp_path / "none" / "f.npy")
    assert "layer='stage9' is none of this encoder's: " in refused(photos, "--out", out, "--layer", "stage9")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(tmp_path / "empty", "--out", out)
    assert "arguments are required: folder" in refused("--out", out)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "c.png").write_bytes(b"no image at all")
    cut = (photos / "a.png").read_bytes()[:-30]
    assert "1 of 1 images cannot be read" in refused(tmp_path / "broken", "--out", out)
    (tmp_path / "broken" / "c.png").write_bytes(cut)  # its header can be read
    assert "1 of 1 images cannot be read" in refused(tmp_path / "broken", "--out", out)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "colour.png")
    assert "colour.png is in colour and the encoder takes grey images" in refused(photos, "--out", out)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow; pip install" in refused(photos, "--out", tmp_path / "f.parquet")
    assert not out.exists()
    with pytest.raises(ValueError, match="no images"):
        ssl_jax.embed(run, [])


def test_files_that_cannot_be_read_are_left_out_and_named(run, photos, tmp_path, capfd, caplog):
    good = ssl_jax.embed(run, photos)
    for name in ("b0.png", "more/x.png"):
        (photos / name).write_bytes(b"no image at all")
    (photos / "b1.png").write_bytes((photos / "b.png").read_bytes()[:-30])  # of which the header can be read
    out = tmp_path / "f.npy"
    capfd.readouterr()
    for words in ([str(run.workdir), str(photos)], [str(photos), "--workdir", str(run.workdir)]):
        assert embed_command.main([*words, "--out", str(out), "--batch_size", "2"]) == 0
        said = capfd.readouterr()
        assert not caplog.records  # which would be raw lines, of files masked that are left out
        assert f"{out}: 3 images, 6 numbers each" in said.out
        assert "3 of 6 files (50 %) cannot be read and are left out: b0.png, more/x.png: no image" in said.out
        np.testing.assert_allclose(np.load(out), good, rtol=1e-4, atol=1e-5)
        assert json.loads((tmp_path / "f.json").read_text()) == ["a.png", "b.png", "more/a.PNG"]
        lines = [line.split("\t") for line in (tmp_path / "f.npy.unreadable.txt").read_text().splitlines()]
        assert [name for name, _ in lines] == ["b0.png", "b1.png", "more/x.png"]
        assert lines[1][1] != lines[0][1] == "no image that Pillow knows"
    with pytest.raises(ValueError, match=r"^3 of 6 images cannot be read \(.*b0.png, .*b1.png.*unreadable='nan'$"):
        ssl_jax.embed(run, photos, batch_size=2)
    found = ssl_jax.embed(run, photos, batch_size=2, unreadable="nan")
    assert np.isnan(found[[2, 3, 5]]).all()
    np.testing.assert_allclose(found[[0, 1, 4]], good, rtol=1e-4, atol=1e-5)
    for name in ("b0.png", "b1.png", "more/x.png"):
        (photos / name).unlink()
    assert embed_command.main([str(run.workdir), str(photos), "--out", str(out)]) == 0
    assert not (tmp_path / "f.npy.unreadable.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": np.zeros((9, 8, 8), np.float32)}, "give uint8"),
        ({"labels": np.zeros(9, int)}, "images are not"),
        ({"images": np.zeros((9, 8, 8), np.uint8), "labels": np.zeros(8, int)}, "one per image"),
        ({"images": (np.zeros((9, 8, 8), np.uint8),) * 2}, "must not be trained on"),
    ],
)
def test_arrays_that_cannot_be_are_refused(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        ssl_jax.pretrain(ssl_jax.config("simclr_digits"), tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_arrays_to_be_measured_on(data):
    images, labels = data
    spec, splits = readers.of_arrays((images[:80], images[80:]), (labels[:80], labels[80:]))
    np.testing.assert_array_equal(splits.test.columns["image"], images[80:])
    np.testing.assert_array_equal(splits.test.labels, labels[80:])
    assert len(splits.train) + len(splits.val) == 80
    assert spec != readers.of_arrays(images, labels)[0]


def test_a_config_by_name_with_changes():
    config = ssl_jax.config("simclr_digits", train={"epochs": 5}, **{"optim.learning_rate": 1e-3, "data.mean": (0.1,)})
    assert (config.train.epochs, config.optim.learning_rate, config.data.mean) == (5, 1e-3, (0.1,))
    assert ssl_jax.config(runs.ROOT / "configs" / "byol_cifar10.py").method.name == "byol"
    wrong = {
        r"config 'simclr_digit' is neither a file nor one of ours; did you mean 'simclr_digits'\?": "simclr_digit",
        "for ours of that name say simclr_digits": "nowhere/simclr_digits.py",
    }
    for words, name in wrong.items():
        with pytest.raises(ValueError, match=words):
            ssl_jax.config(name)
    with pytest.raises(ValueError, match=r"did you mean --config.optim.learning_rate\?"):
        ssl_jax.config("simclr_digits", optim={"learning_rat": 1})
    with pytest.raises(ValueError, match="must be positive"):
        ssl_jax.config("simclr_digits", optim={"learning_rate": -1})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optim.learning_rate"),
        ("optim.lr", "optim.learning_rate"),
        ("optim.base_lr", "optim.learning_rate"),
        ("wd", "optim.weight_decay"),
        ("optimizer", "optim.name"),
        ("train.batch_size", "data.global_batch_size"),
        ("bs", "data.global_batch_size"),
        ("epochs", "train.epochs"),
        ("optim.epochs", "train.epochs"),
        ("train.max_steps", "train.steps"),
        ("arch", "model.name"),
        ("backbone", "model.name"),
        ("train.encoder", "model.name"),
        ("dataset", "data.source"),
        ("data.dataset", "data.source"),
        ("data.img-size", "data.image_size"),
        ("temp", "method.temperature"),
        ("method.tau", "method.temperature"),
        ("method.proj_dim", "method.projector_dim"),
        ("train.seed", "seed"),
        ("random_seed", "seed"),
        ("pretrained", "init_from"),
        ("optim.learning_rat", "optim.learning_rate"),
        ("data.views.crop.are", "data.views.crop.area"),
        ("optim.grad_clip", "optim.clip_norm"),
    ],
)
def test_the_words_of_the_field_lead_to_our_keys(key, meant):
    found = configs.unknown_key(f"config.{key}", [f"config.{k}" for k in KNOWN])
    assert found == f"--config.{key} is unknown; did you mean --config.{meant}?"


def test_synonyms_mean_keys_that_there_are():
    ours = set(KNOWN)
    methods = ("byol", "moco", "uda", "jigsaw", "vicreg", "barlow_twins", "lejepa", "swav", "dino", "mae", "simsiam")
    for name, model in zip(methods, ("wide_resnet", *["vit"] * 10), strict=True):
        ours |= set(configs.known_keys(configs.load("byol_cifar10", [f"method.name={name}", f"model.name={model}"])))
    ours |= {"method.latent_dim", "method.dim"}  # of autoencoders and of many a user's own
    assert {key for keys in SYNONYMS.values() for key in keys} <= ours
    assert all(word == word.lower() and word.isalnum() for word in SYNONYMS)


def test_synonyms_are_told_wherever_a_key_is_given(tmp_path, capsys):
    words = r"config.lr is unknown; did you mean --config.optim.learning_rate\?"
    with pytest.raises(ValueError, match=words):
        ssl_jax.config("simclr_digits", lr=3)
    out = ["--out", str(tmp_path / "out")]
    assert sweep_command.main(["--config", "simclr_digits", "--grid", "lr=.1,.2", *out]) == 2
    assert pretrain_command.main(["--config.lr=3", f"--workdir={tmp_path / 'out'}"]) == 2
    assert [re.search(words, line) is not None for line in capsys.readouterr().err.splitlines()] == [True, True]
    with pytest.raises(
        ValueError, match=r"'simclr' is neither a file .*; those of it: simclr_cifar10, .*simclr_digits"
    ):
        ssl_jax.config("simclr")


@pytest.mark.parametrize("name", ssl_jax.__all__)
def test_help_is_a_screen_with_an_example(name):
    text = getattr(ssl_jax, name).__doc__
    assert len(text.splitlines()) <= 45
    assert "Example:" in text
    assert "Raises:" in text


def test_examples_run():
    result = doctest.testmod(api)
    assert result.attempted >= 3
    assert result.failed == 0


def test_the_package_is_imported_in_a_moment():
    code = "import sys, ssl_jax; print([m for m in ('jax', 'numpy', 'flax', 'tensorflow') if m in sys.modules]); "
    code += "print(ssl_jax.__version__, *[n for n in ssl_jax.__all__ if n not in dir(ssl_jax)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", ssl_jax.__version__]
    with pytest.raises(AttributeError, match="has no attribute 'pretran'"):
        ssl_jax.pretran  # noqa: B018
