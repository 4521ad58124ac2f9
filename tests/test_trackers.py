"""Trackers: what they were given is read back from them; none of them ends a run."""

from __future__ import annotations

import importlib
import io
import json
import sys
import time
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from PIL import Image

from ssl_jax import configs, train
from ssl_jax.experiment import build
from ssl_jax.run import measure, trackers
from ssl_jax.run.writer import open_writer, read_metrics

CONFIG = {"seed": 3, "optim": {"name": "sgd", "learning_rate": 0.5}, "train": {"loggers": ["tensorboard"]}}
LINES = {1: {"train_loss": 0.5, "epoch": 0.25}, 2: {"train_loss": 0.25, "epoch": 0.5}, 3: {"epoch": 0.75}}


def picture(folder: Path, name: str = "views", level: int = 200) -> np.ndarray:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 6, 3), level, np.uint8)
    pixels[0] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / "figures" / f"{name}.png")
    return pixels


def follow(workdir: Path, name: str, *, steps=(1, 2, 3), start: int = 0, done: bool = True) -> None:
    """A run of three steps as a tracker sees it, from after ``start`` on."""
    out = open_writer(workdir, total_steps=3, loggers=(name,), config=CONFIG, resume_step=start, progress=False)
    out.trackers.pictures(start)
    for step in steps:
        out.log(step, {**LINES[step], "bad": float("nan"), "val_knn_top1": None})
    out.trackers.close(done=done)
    out.close()


# ----------------------------------------------------------------------------------------------------- TensorBoard


def events(workdir: Path) -> list:
    """The events of all files of a TensorBoard folder, in the order in which they were written."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # a TFRecord: length, its checksum, bytes, their checksum
            length = int.from_bytes(data[:8], "little")
            record = data[12 : 12 + length]
            assert int.from_bytes(data[12 + length : 16 + length], "little") == masked_crc32c(record)
            found.append(event_pb2.Event.FromString(record))
            data = data[16 + length :]
    return found


def scalars(seen) -> list[tuple[int, str, float]]:
    """Scalars as a reader has them who forgets, at every start, what is not before it."""
    kept: list[tuple[int, str, float]] = []
    for event in seen:
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            kept = [one for one in kept if one[0] < event.step]
        kept += [(event.step, v.tag, v.simple_value) for v in event.summary.value if v.HasField("simple_value")]
    return kept


def test_tensorboard_holds_scalars_pictures_and_config(tmp_path, capfd):
    pixels = picture(tmp_path)
    follow(tmp_path, "tensorboard", steps=(1, 2), done=False)
    assert "NaN" not in capfd.readouterr().err
    first = [(step, name, value) for step in (1, 2) for name, value in LINES[step].items()]
    assert scalars(events(tmp_path)) == first
    values = {value.tag: value for event in events(tmp_path) for value in event.summary.value}
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(values["views"].image.encoded_image_string))), pixels
    )
    (text,) = values["config/text_summary"].tensor.string_val
    assert json.loads(text) == CONFIG

    # On from step 1: what was repeated is forgotten, and the picture is not sent again.
    follow(tmp_path, "tensorboard", steps=(2, 3), start=1)
    assert scalars(events(tmp_path)) == [*first, (3, "epoch", 0.75)]
    assert sum(value.tag == "views" for event in events(tmp_path) for value in event.summary.value) == 1
    # Begun again at the beginning, killed before its first checkpoint.
    follow(tmp_path, "tensorboard", steps=(1,))
    assert scalars(events(tmp_path)) == first[:2]


# ----------------------------------------------------------------------------------------- the packages' own readers


def wandb_records(folder: Path) -> list:
    """The protocol buffers that W&B keeps offline, its own classes, once the last of them is there."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        (file,) = folder.glob("*.wandb")
        found = wandb_log(file.read_bytes())
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.2)
    pytest.fail(f"W&B has not ended {folder}")


def wandb_log(data: bytes) -> list:
    """Records of LevelDB's log: heads of 7 bytes and parts, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    place, part, found = 7, b"", []  # after a head of its own
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the end of a block has no room for a head
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


def items(update) -> dict:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in update}


def test_wandb_offline_holds_scalars_pictures_and_config(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    pixels = picture(tmp_path)
    follow(tmp_path, "wandb", steps=(1, 2), done=False)
    follow(tmp_path, "wandb", steps=(2, 3), start=1)
    said = capfd.readouterr().err
    assert "WARNING" not in said
    assert "wandb sync" in said
    ids = json.loads((tmp_path / "trackers.json").read_text())
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    # Of two in the same second the later has a number behind its id.
    assert [folder.name.split("-")[3] for folder in folders] == [ids["wandb"]] * 2
    for folder, steps, code in zip(folders, ((1, 2), (2, 3)), (1, 0), strict=True):
        records = wandb_records(folder)
        history = [items(record.history.item) for record in records if record.HasField("history")]
        logged = {line["_step"]: line for line in history if "epoch" in line}
        assert sorted(logged) == list(steps)
        for step in steps:
            assert LINES[step].items() <= logged[step].items()
            assert "bad" not in logged[step]
        asked = {}
        for record in records:
            asked |= items(record.config.update) | items(record.run.config.update)
        assert CONFIG.items() <= asked.items()
        (run,) = (record.run for record in records if record.HasField("run"))
        assert (run.run_id, run.project, run.display_name) == (ids["wandb"], "ssl_jax", tmp_path.name)
        assert [record.exit.exit_code for record in records if record.HasField("exit")] == [code]
        sent = [line["views.path"] for line in history if "views.path" in line]
        assert len(sent) == (1 if folder == folders[0] else 0)
        for one in sent:
            np.testing.assert_array_equal(np.asarray(Image.open(folder / "files" / one)), pixels)


def test_mlflow_in_files_holds_scalars_pictures_and_config(tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pixels = picture(tmp_path)
    follow(tmp_path, "mlflow", steps=(1, 2), done=False)
    ids = json.loads((tmp_path / "trackers.json").read_text())
    uri = (tmp_path / "mlruns").as_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = mlflow.MlflowClient(uri)
        run = client.get_run(ids[f"mlflow {uri}"])
        assert run.info.status == "KILLED"
        follow(tmp_path, "mlflow", steps=(2, 3), start=1)
        (run,) = client.search_runs([client.get_experiment_by_name("ssl_jax").experiment_id])
        assert "WARNING" not in capfd.readouterr().err
        assert (run.info.run_id, run.info.status, run.info.run_name) == (
            ids[f"mlflow {uri}"],
            "FINISHED",
            tmp_path.name,
        )
        for name in ("train_loss", "epoch"):
            history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            assert history == [(step, line[name]) for step, line in LINES.items() if name in line]
        assert sorted(run.data.metrics) == ["epoch", "train_loss"]
        params = {"seed": "3", "optim.name": "sgd", "optim.learning_rate": "0.5", "train.loggers": "['tensorboard']"}
        assert run.data.params == params
        place = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
        assert json.loads((place / "config.json").read_text()) == CONFIG
        (sent,) = place.glob("figures/*/views.png")
        np.testing.assert_array_equal(np.asarray(Image.open(sent)), pixels)
        assert sent.parent.name == "0"


# ------------------------------------------------------------------------------------------------- what goes wrong


def stand_in(name: str, fails: str, monkeypatch) -> mock.MagicMock:
    """A package of which a function fails; returns that."""
    package = mock.MagicMock()
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, f"{name}.entities", mock.MagicMock())
    package.is_tracking_uri_set.return_value = False
    run, client = package.init.return_value, package.MlflowClient.return_value
    run.configure_mock(offline=False, url="https://there", dir="/a/b", step=0)
    client.create_run.return_value.info.run_id = "new"
    client.get_run.return_value.data.configure_mock(metrics={}, params={})
    owner = {"wandb": run, "mlflow": client}[name]
    broken = {"init": package, "Image": package, "config.update": run.config}.get(fails, owner)
    failing = getattr(broken, fails.rpartition(".")[2])
    failing.side_effect = ConnectionError(f"no {fails} today\nand a second line")
    return failing


def lines_of(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if not line.startswith("step ")]


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        *[("wandb", what) for what in ("init", "config.update", "log", "Image", "finish")],
        *[("mlflow", what) for what in ("get_experiment_by_name", "log_batch", "log_dict", "log_artifact")],
        ("mlflow", "set_terminated"),
    ],
)
def test_a_tracker_that_fails_is_one_line_and_the_others_go_on(name, fails, tmp_path, monkeypatch, capfd):
    failing = stand_in(name, fails, monkeypatch)
    picture(tmp_path)
    out = open_writer(tmp_path, total_steps=3, loggers=(name, "tensorboard"), config=CONFIG, progress=False)
    out.trackers.pictures(0)
    for step, line in LINES.items():
        out.log(step, line)
    out.close()
    told = [line for line in lines_of(capfd) if line.startswith("WARNING")]
    assert told == [
        f"WARNING: train.loggers: {name} failed (ConnectionError: no {fails} today); the run goes on without it"
    ]
    assert failing.call_count == 1  # nothing is asked of it any more
    want = [(step, key, value) for step, line in LINES.items() for key, value in line.items()]
    assert scalars(events(tmp_path)) == want
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_server_that_does_not_answer_is_waited_for_ten_seconds_and_told_shortly(tmp_path, monkeypatch, capfd):
    stand_in("wandb", "init", monkeypatch)
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    clock = mock.Mock(wraps=time, monotonic=iter([0.0, 10.5]).__next__)
    monkeypatch.setattr(trackers, "time", clock)
    trackers.open_trackers(("wandb",), tmp_path, CONFIG, start=0, say=print)
    assert sys.modules["wandb"].Settings.call_args.kwargs["init_timeout"] == 10
    assert "wandb failed (TimeoutError: no answer in 10 s; WANDB_INIT_TIMEOUT=60" in capfd.readouterr().out

    class Told(Exception):
        pass

    def refused():
        """As MLflow tells it: what the system says is the cause of the cause."""
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise Told(f"API request to http://there:9/api/2.0/{'x' * 300} failed: {error}") from error

    stand_in("mlflow", "create_run", monkeypatch).side_effect = lambda *a, **k: refused()
    trackers.open_trackers(("mlflow",), tmp_path, CONFIG, start=0, say=print)
    assert capfd.readouterr().out.splitlines() == [
        "WARNING: train.loggers: mlflow failed (http://there:9: ConnectionRefusedError: [Errno 111] Connection refused)"
        "; the run goes on without it"
    ]


@pytest.mark.parametrize("name", configs.LOGGERS)
def test_a_tracker_that_is_not_installed_is_one_line(name, tmp_path, monkeypatch, capfd):
    package = trackers.PACKAGES[name]
    monkeypatch.setitem(sys.modules, package.removesuffix("-skinny"), None)
    follow(tmp_path, name)
    assert lines_of(capfd) == [
        f"WARNING: train.loggers: {name} is not installed (pip install {package}); the run goes on without it"
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3


def test_packages_are_loaded_where_they_are_asked_for_alone(tmp_path, monkeypatch):
    for package in ("tensorboardX", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    open_writer(tmp_path, total_steps=2, progress=False).close()
    importlib.import_module("ssl_jax.run.trackers")
    assert not (tmp_path / "tensorboard").exists()


def test_a_torn_record_of_ids_is_begun_anew(tmp_path):
    assert trackers._known(tmp_path, "wandb", lambda: "a") == "a"
    assert trackers._known(tmp_path, "wandb", lambda: "b") == "a"
    (tmp_path / "trackers.json").write_text('{"wand')
    assert trackers._known(tmp_path, "wandb", lambda: "c") == "c"


# --------------------------------------------------------------------------------------------------------- config


def test_names_are_refused_with_the_nearest():
    assert set(configs.LOGGERS) == set(trackers.OPEN) == set(trackers.PACKAGES)
    with pytest.raises(ValueError, match=r"config.train.loggers='wanb' is unknown; did you mean 'wandb'\? known: tens"):
        configs.check(runs.config(train__loggers=("tensorboard", "wanb")))


@pytest.mark.parametrize(
    ("said", "loggers"),
    [
        (["train.loggers=wandb"], ("wandb",)),
        (["train.loggers=wandb, mlflow"], ("wandb", "mlflow")),
        (['train.loggers=("wandb","mlflow")'], ("wandb", "mlflow")),
        (["train.loggers=()"], ()),
        (["train.tensorboard=true"], ("tensorboard",)),
        (["train.loggers=wandb", "train.tensorboard=true"], ("wandb", "tensorboard")),
        (["train.loggers=wandb,tensorboard", "train.tensorboard=false"], ("wandb",)),
    ],
)
def test_loggers_from_the_command_line(said, loggers):
    loaded = configs.load(runs.ROOT / "configs" / "simclr_digits.py", said)
    configs.check(loaded)
    assert configs.loggers(loaded) == loggers


def test_what_older_configs_say(tmp_path):
    with pytest.raises(ValueError, match=r"config.train.tensorboard=2 is not of type bool; say train.loggers=tensorb"):
        configs.load(runs.ROOT / "configs" / "simclr_digits.py", ["train.tensorboard=2"])
    file = tmp_path / "old.py"
    file.write_text(
        "from configs.common import base\n\n\ndef get_config():\n    config = base()\n"
        "    config.train.tensorboard = True\n    return config\n"
    )
    (tmp_path / "configs").symlink_to(runs.ROOT / "configs")
    assert configs.loggers(configs.load(file)) == ("tensorboard",)
    assert configs.loggers(configs.load(file, ["train.tensorboard=false"])) == ()

    stored = runs.config().to_dict()
    for section, key in (("train", "loggers"), ("eval", "during")):
        del stored[section][key]
    stored["train"]["tensorboard"] = False
    assert configs.differences(stored, runs.config()) == ({}, {})
    stored["train"]["tensorboard"] = True
    assert configs.differences(stored, runs.config()) == ({}, {"train.loggers": (["tensorboard"], [])})


# ------------------------------------------------------------------------------------------------------------ a run


def test_a_run_is_followed_from_its_views_to_its_test(tmp_path, monkeypatch, capfd):
    """TensorBoard has the lines of metrics.jsonl, pictures and test metrics; another one fails on the way."""
    seen = []

    def failing(workdir, start):
        def log(step, metrics):
            seen.append(step)
            if len(seen) == 2:
                raise TimeoutError("nobody there")

        return trackers.Tracker("there", lambda given: None, log, lambda *a: None, lambda done: seen.append("closed"))

    def drawing(experiment, folder, say, variables=None):
        picture(folder.parent, "views")

        def draw(drawn, always=False):
            if drawn:
                picture(folder.parent, "curves", 100 if always else 50)

        return draw

    monkeypatch.setitem(trackers.OPEN, "wandb", failing)
    monkeypatch.setattr(measure, "drawing", drawing)
    steps = {"train__steps": 8, "train__log_every": 2, "train__eval_every": 4, "train__checkpoint_every": 4}
    asked = runs.config(**steps, train__loggers=("wandb", "tensorboard"))
    summary = train.fit(build(asked), tmp_path)
    told = [line for line in lines_of(capfd) if "train.loggers" in line]
    assert told == ["WARNING: train.loggers: wandb failed (TimeoutError: nobody there); the run goes on without it"]
    assert seen == [2, 4]
    found = scalars(events(tmp_path))
    want = [
        (line["step"], name, float(jnp.float32(value)))
        for line in read_metrics(tmp_path / "metrics.jsonl")
        for name, value in line.items()
        if name not in ("step", "line") and value is not None
    ]
    tests = [(8, name, float(jnp.float32(value))) for name, value in summary.items() if name.startswith("test_")]
    assert len(tests) == 2
    assert found == want + tests
    pictures = [(e.step, v.tag) for e in events(tmp_path) for v in e.summary.value if v.HasField("image")]
    assert pictures == [(0, "views"), (4, "curves"), (8, "curves")]
