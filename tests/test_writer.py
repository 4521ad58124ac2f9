"""metrics.jsonl: strict JSON, nothing lost or twice after a kill; messages, bar, TensorBoard."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.run import writer

ROOT = Path(__file__).resolve().parent.parent


def strict(line: str) -> dict:
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_lines_are_strict_json_with_every_digit(tmp_path):
    out = writer.open_writer(tmp_path / "new", total_steps=3)
    value = np.float32(0.1)
    out.log(1, {"train_loss": jnp.asarray(value), "x": np.float64(1 / 3), "nan": float("nan"), "inf": jnp.inf})
    out.log(np.int64(2), {"n": 3, "flag": np.bool_(True), "bf": jnp.bfloat16(1.1), "minus": np.float32("-inf")})
    path = tmp_path / "new" / "metrics.jsonl"
    first, second = (strict(line) for line in path.read_text().splitlines())  # before close: every line is flushed
    assert list(first) == ["step", "line", "train_loss", "x", "nan", "inf"]
    assert first == {"step": 1, "line": 1, "train_loss": float(value), "x": 1 / 3, "nan": None, "inf": None}
    assert np.float32(first["train_loss"]) == value
    assert second == {"step": 2, "line": 2, "n": 3, "flag": True, "bf": float(jnp.bfloat16(1.1)), "minus": None}
    out.close()
    out.close()
    assert writer.read_metrics(path) == [first, second]


@pytest.mark.parametrize(("step", "kept"), [(None, []), (0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3, 4])])
def test_resume_cuts_back_to_the_restored_step(tmp_path, step, kept):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(f'{{"step": {i}, "train_loss": 0.{i}}}\n' for i in range(1, 5))
    path.write_text(whole + '{"step": 5, "train_l')
    assert [m["step"] for m in writer.read_metrics(path)] == [1, 2, 3, 4]
    out = writer.open_writer(tmp_path, total_steps=9, resume_step=step)
    assert path.read_text() == "".join(line + "\n" for line in whole.splitlines()[: len(kept)])
    out.log((step or 0) + 1, {"train_loss": 1.0})
    out.close()
    assert [m["step"] for m in writer.read_metrics(path)] == [*kept, (step or 0) + 1]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_broken_line_in_the_middle(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer.cut_back(path, 3)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not JSON: .*remove it"):
        writer.read_metrics(path)
    writer.cut_back(path, 3)
    assert [m["step"] for m in writer.read_metrics(path)] == [1, 3]


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda text: text, ""),
        (lambda text: text + '{"step": 45, "tr', ""),  # torn by a kill, after the checkpoint
        (lambda text: text[: text.index('20, "l')], "steps 16 to 40 "),
        (lambda text: text.replace('"step": 20', '"st'), "steps 16 to 24 "),
        (
            lambda text: text.replace('"step": 5,', "\x00").replace('"step": 20', "").replace("30", "x"),
            "1 to 9, 16 to 24, 26",
        ),
        (lambda text: "", "steps 1 to 40 "),
        (None, "steps 1 to 40 "),
    ],
)
def test_lines_lost_before_the_checkpoint_are_told_in_one_line(damage, missing, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    if damage:
        path.write_text(damage("".join(f'{{"step": {i}, "loss": 0.5}}\n' for i in range(5, 50, 5))))
    writer.open_writer(tmp_path, total_steps=90, resume_step=42, logged=40).close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == bool(missing)
    assert not said or (said[0].startswith(f"WARNING: {path} is damaged") and missing in said[0])
    assert all(line["step"] <= 42 for line in writer.read_metrics(path))


@pytest.mark.parametrize(
    ("cut", "missing"),
    [((), ""), ((0,), "1 to 9"), ((2,), "11 to 19"), ((1, 2), "6 to 19"), ((1, 4), "6 to 14, 21 to 29"), ((5,), "")],
)
def test_a_line_cut_out_of_the_middle_is_noticed(cut, missing, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    out = writer.open_writer(tmp_path, total_steps=90)
    for step in (5, 10, 15, 20, 25, 30):
        out.log(step, {"train_loss": 0.5})
    out.close()
    capsys.readouterr()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for number, line in enumerate(lines) if number not in cut))
    with pytest.warns(UserWarning, match=missing) if missing else contextlib.nullcontext():
        records = writer.read_metrics(path)
    assert len(records) == 6 - len(cut)
    for _ in range(2):  # whenever the run goes on
        out = writer.open_writer(tmp_path, total_steps=90, resume_step=32, logged=25)
        out.log(35, {"train_loss": 0.5})
        out.close()
        said = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
        assert len(said) == bool(missing)
        assert not said or f"steps {missing} is missing" in said[0]
    assert strict(path.read_text().splitlines()[-1])["line"] == (6 if cut == (5,) else 7)


def test_lines_of_older_runs_have_no_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "x": 1}\n{"step": 10, "x": 1}\n')
    out = writer.open_writer(tmp_path, total_steps=90, resume_step=10, logged=10)
    out.log(15, {"x": 1})
    out.close()
    assert writer.read_metrics(path) == [{"step": 5, "x": 1}, {"step": 10, "x": 1}, {"step": 15, "line": 3, "x": 1}]


@pytest.mark.parametrize("script", ["pretrain", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_warnings_of_this_package_are_plain_lines_of_a_command(script):
    code = f"""
        import contextlib, runpy, sys, warnings
        sys.argv = ["x", "--list"]
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
            runpy.run_path({str(ROOT / "experiments" / script)!r} + ".py", run_name="__main__")
        import ssl_jax
        place = ssl_jax.__file__.replace("__init__", "train")
        warnings.warn_explicit("checkpoint 60 is damaged", UserWarning, place, 3)
        warnings.warn_explicit("of others", UserWarning, "/elsewhere/ssl.py", 3)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    ours, others = done.stderr.splitlines()
    assert ours == "WARNING: checkpoint 60 is damaged"
    assert others == "/elsewhere/ssl.py:3: UserWarning: of others"


def test_lines_reach_the_disk_before_a_kill(tmp_path):
    code = f"""
        import os, signal
        from ssl_jax.run.writer import open_writer
        out = open_writer({str(tmp_path)!r}, total_steps=9)
        for step in range(1, 6):
            out.log(step, {{"train_loss": step / 2}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [m["train_loss"] for m in writer.read_metrics(tmp_path / "metrics.jsonl")] == [0.5, 1, 1.5, 2, 2.5]


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    out = writer.open_writer(tmp_path, total_steps=100, resume_step=10)
    out.say("devices: 1")
    out.log(10, {"val_probe_top1": 0.5})  # nothing is known of the time yet
    out.tick(11, 125.4)
    out.log(11, {"train_loss": 0.123456})  # too soon after the last line
    out.log(12, {"train_loss": 0.2})
    out.log(13, {"val_knn_top1": 0.75})
    out.log(100, {"train_loss": float("nan"), "val_knn_top1": None})
    out.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "devices: 1"
    assert lines[1:] == [
        "step 10/100 val_probe_top1=0.5",
        "step 13/100 val_knn_top1=0.75 eta 2 min 5 s",
        "step 100/100 train_loss=nan",
    ]
    assert len(writer.read_metrics(tmp_path / "metrics.jsonl")) == 5


def test_plain_lines_on_a_terminal_that_reports_no_size(tmp_path, capsys, monkeypatch):
    """As some consoles of notebooks and clusters do, in which a bar of no width would be nothing."""
    ours, theirs = pty.openpty()
    shown = []
    for columns in (0, 80):
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 24 if columns else 0, columns, 0, 0))
        with open(theirs, "w", closefd=False) as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            out = writer.open_writer(tmp_path / str(columns), total_steps=9)
            out.log(3, {"val_knn_top1": 0.5})
            out.close()
            monkeypatch.undo()
        text = b""
        while select.select([ours], [], [], 0.3)[0]:  # what was written may come in parts
            text += os.read(ours, 10_000)
        shown.append(text.decode())
    assert shown[0] == "step 3/9 val_knn_top1=0.5\r\n"
    assert "3/9 [" in shown[1]
    os.close(ours)
    os.close(theirs)


def test_bar_shows_loss_speed_and_the_last_knn(tmp_path, capsys):
    out = writer.open_writer(tmp_path, total_steps=20, resume_step=5, progress=True)
    out.log(6, {"train_loss": 2.5, "images_per_sec": 1234.5})
    out.log(7, {"val_knn_top1": 0.5})
    out.tick(8, 70)
    out.say("a message")
    out.log(9, {"train_loss": 1.5, "images_per_sec": 1234.5})
    out.close()
    err = capsys.readouterr().err
    assert "a message\n" in err
    last = err.replace("\n", "\r").rstrip("\r").split("\r")[-1]
    assert "9/20" in last
    assert "eta 1 min 10 s loss=1.5 img/s=1234 kNN=0.5" in last


def test_only_process_0_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    out = writer.open_writer(tmp_path / "run", total_steps=2, loggers=("tensorboard",), progress=True)
    out.log(1, {"train_loss": 1.0})
    out.tick(2, 5.0)
    out.say("hello")
    out.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")
