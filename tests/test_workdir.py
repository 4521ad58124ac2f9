"""The files of a run's folder: damaged, or on a full disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import runs

from ssl_jax.interop.files import write_json
from ssl_jax.run import checkpoint, folder

WHOLE = {
    "config": {"seed": 0, "data": {"source": "s"}},
    "resolved": {"plan": {"n": 1}, "data": {"sizes": {"train": 9}}},
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        json.dumps(WHOLE)[:40],
        "[1]",
        "null",
        json.dumps(WHOLE | {"resolved": {}}),
        json.dumps(WHOLE | {"resolved": None}),
        json.dumps(WHOLE | {"resolved": {"plan": {"n": 1}, "data": {}}}),
        json.dumps(WHOLE | {"resolved": {"plan": {"n": 1}, "data": {"sizes": None}}}),
        json.dumps(WHOLE | {"config": "seed"}),
        json.dumps(WHOLE | {"config": {}}),
        json.dumps(WHOLE | {"resumed": 3}),
        b"\xff\xfe{",
    ],
)
def test_a_damaged_config_is_refused_naming_the_file_and_the_way_out(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(WHOLE))
    assert folder.stored(tmp_path, WHOLE["config"], WHOLE["resolved"]) == WHOLE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"config\.json cannot be read \(.+\); put a copy of it back, or ") as error:
        folder.stored(tmp_path, WHOLE["config"], WHOLE["resolved"])
    assert "\n" not in str(error.value)


NOW = {"sizes": {"train": 9}, "fingerprints": {"train": "abc"}, "of": "content"}
OLDER = {"sizes": {"train": 9}, "fingerprints": {"train": "size"}}  # from when no content was looked at


def stored(tmp_path, then, now, resumed=(), classes=(3, 3)):
    """What the run that knew ``then`` of its data, and went on with ``resumed``, gives one that knows ``now``."""
    resolved = [{"plan": {"num_classes": k}, "data": data} for k, data in zip(classes, (then, now), strict=True)]
    found = {"config": WHOLE["config"], "resolved": resolved[0]}
    found["resumed"] = [{"step": 1, "changed": {}, "resolved": {"data": data}} for data in resumed]
    (tmp_path / "config.json").write_text(json.dumps(found))
    return folder.stored(tmp_path, WHOLE["config"], resolved[1]), resolved[1]


def warnings(found, resolved):
    machine = dict.fromkeys(("devices", "processes", "platform", "cores", "cpu", "versions", "commit"))
    lines = folder.resume_notes(found, WHOLE["config"], resolved | machine | {"own": {}}, 3)
    return [line for line in lines if line.startswith("WARNING")]


def test_a_run_on_changed_data_is_refused(tmp_path):
    assert stored(tmp_path, NOW, NOW)
    with pytest.raises(
        ValueError, match=r"the data at s are not those that the run in .* began with \(as many, \{'train': 9"
    ):
        stored(tmp_path, NOW, NOW | {"fingerprints": {"train": "abd"}})
    times = NOW | {"of": "times"}
    with pytest.raises(ValueError, match=r"; sizes and times of files are all that is known of them, which `cp -a`"):
        stored(tmp_path, times, times | {"fingerprints": {"train": "abd"}})
    with pytest.raises(ValueError, match="was made with 4 classes, and the labels at s are 3, since those count"):
        stored(tmp_path, NOW, NOW, classes=(4, 3))


def test_an_older_run_goes_on_and_knows_its_data_from_then_on(tmp_path):
    now = NOW | {"before": {"train": "size"}}
    found, resolved = stored(tmp_path, OLDER, now)
    (said,) = warnings(found, resolved)
    assert said.endswith("and these are the same; from now on their content count")
    with pytest.raises(ValueError, match="are not those"):
        stored(tmp_path, OLDER, now | {"before": {"train": "other size"}})
    found, resolved = stored(tmp_path, OLDER, now, resumed=[now])
    assert warnings(found, resolved) == []
    with pytest.raises(ValueError, match="are not those"):  # of the same names and sizes
        stored(tmp_path, OLDER, now | {"fingerprints": {"train": "other"}}, resumed=[now])


def test_checkpoints_that_lie_on_a_disk_that_is_not_there(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(ValueError, match=r"run/checkpoints is a link to .*disk, which is not there; mount it"):
        folder.check(tmp_path / "run")
    (tmp_path / "disk").mkdir()
    folder.check(tmp_path / "run")


def test_checkpoints_that_cannot_be_looked_into_are_no_reason_to_begin_anew(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(checkpoint.os, "listdir", denied)
    for look in (folder.check, checkpoint.latest, checkpoint.restore_variables):
        with pytest.raises(ValueError, match=r"/checkpoints cannot be read \(Permission denied\); mend that"):
            look(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        (" ", "it is empty"),
        ("file", "is a file; name a folder"),
        ("file/run", "cannot be made or written to (Not a directory)"),
        ("nowhere", "cannot be made or written to (No such file or directory)"),
        ("nowhere/run", "cannot be made or written to (No such file or directory)"),
        ("a" * 300, "cannot be made or written to (File name too long)"),
        ("ab/" * 1300 + "c", "cannot be made or written to (File name too long)"),
        ("/proc/run", "cannot be made or written to"),
        ("gs://bucket/run", "is an address and no path"),
        ("gs:/bucket/run", "has a backslash or 'gs:' in it"),
        ("back\\slash", "has a backslash or 'gs:' in it"),
        ("two\nlines", "letters that cannot be shown"),
        ("caf\udce9", "letters that cannot be shown"),
        ("nul\0", "letters that cannot be shown"),
        ("~no_such_user/run", "below a home that is not known"),
    ],
)
def test_a_workdir_that_cannot_be_is_refused_in_one_line_with_nothing_made(name, why, tmp_path, monkeypatch):
    if name == "/proc/run" and os.access("/proc", os.W_OK):
        pytest.skip("the system lets anything be made in /proc")
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(why)) as error:
        folder.check(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert sorted(os.listdir(tmp_path)) == ["file", "nowhere"]


@pytest.mark.parametrize(
    "name", ["a/b/", "exp[1]", "*", "-x", "../run", "ünï 日本", 'it\'s "q"', "link", "50%20", "./~x"]
)
def test_any_other_name_is_taken_as_it_is(name, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    path = folder.check(name)
    assert os.path.abspath(path) == os.path.abspath(name)
    with folder.lock(path):
        assert (Path(os.path.abspath(name)) / ".lock").is_file()
    assert folder.check(path) == path


@pytest.mark.parametrize("content", ["", '{"steps": 20, "par', "[]", '{"steps": 20}'])
def test_a_part_of_a_summary_is_none(content, tmp_path):
    assert folder.read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text(content)
    assert folder.read_summary(tmp_path) is None
    write_json(tmp_path / "summary.json", {"params_fingerprint": "0"})
    assert folder.read_summary(tmp_path) == {"params_fingerprint": "0"}


def test_what_cannot_be_written_is_named(tmp_path):
    code = """
        import resource, signal, sys
        from pathlib import Path
        from ssl_jax.interop.files import write_json
        from ssl_jax.run import folder
        from ssl_jax.run.writer import open_writer
        place = Path(sys.argv[1])
        writer = open_writer(place, total_steps=9)
        writer.log(1, {"train_loss": 0.5})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # every write fails, as on a full disk
        def held():
            with folder.lock(place):
                raise AssertionError
        for action in (
            held,
            lambda: write_json(place / "summary.json", {"steps": 123456789}),
            lambda: open_writer(place, total_steps=9, resume_step=1),
            lambda: writer.log(2, {"train_loss": 0.25}),
            writer.close,
        ):
            try:
                action()
            except (OSError, ValueError) as error:
                print(type(error).__name__, error)
    """
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    metrics = f"OSError [Errno 27] {tmp_path / 'metrics.jsonl'} could not be written"
    expected = [
        f"ValueError {tmp_path} cannot be made or written to (File too large)",
        f"OSError [Errno 27] {tmp_path / 'summary.json'} could not be written: File too large",
        *[f"{metrics}: File too large"] * 3,
    ]
    found = done.stdout.splitlines()
    assert len(found) == len(expected), done.stdout
    for line, want in zip(found, expected, strict=True):
        assert line.startswith(f"{want}; free some space"), line
    assert sorted(os.listdir(tmp_path)) == [".lock", "metrics.jsonl"]  # nothing half-written
