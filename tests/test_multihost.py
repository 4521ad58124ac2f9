"""One command in several processes: what they leave behind, and what the others do when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import runs

from ssl_jax.run.folder import lock

LAUNCH = str(runs.ROOT / "experiments" / "launch_pod.sh")
SCRIPT = str(runs.ROOT / "experiments" / "pretrain.py")
SMALL = ["--config.model.widths=(8,16)", "--config.data.image_size=8", "--config.train.log_every=2"]
SMALL += ["--config.train.eval_every=0", "--config.eval.label_efficiency=False", "--config.method.projector_dim=16"]


@pytest.mark.slow
def test_four_processes_are_one_run(tmp_path):
    words = ["--workdir", str(tmp_path / "run"), *SMALL, "--config.train.steps=6", "--config.parallel.devices=4"]
    done = subprocess.run(
        [LAUNCH, "--local", "4", "--", SCRIPT, *words],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert done.stdout.count("test_knn_top1") == 1  # process 0 alone reports
    resolved = json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]
    assert (resolved["processes"], resolved["devices"]) == (4, 4)


@pytest.mark.slow
def test_what_process_0_refuses_ends_all_in_one_line_and_in_order(tmp_path):
    words = ["--workdir", str(tmp_path), *SMALL, "--config.parallel.devices=2"]
    with lock(tmp_path):
        done = subprocess.run(
            [LAUNCH, "--local", "2", "--", SCRIPT, *words],
            env=os.environ | {"PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=80,  # less than the heartbeat's
            check=False,
        )
    assert done.returncode == 2, done.stderr
    said = set(filter(None, done.stderr.splitlines()))
    assert len(said) == 1, done.stderr
    assert said.pop().startswith(f"error: another run holds {tmp_path / '.lock'} (pid {os.getpid()} on ")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_what_one_refuses_before_they_have_met_ends_the_other_in_seconds(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        cluster = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{probe.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    words = ["--workdir", str(tmp_path / "run"), *SMALL, "--config.parallel.devices=4"]
    there = {0: words, 1: ["--config", str(tmp_path / "not_here.py"), *words]}
    two = [
        subprocess.Popen(
            [sys.executable, SCRIPT, *there[rank]],
            env=os.environ | cluster | {"JAX_PROCESS_ID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=150)[1] for process in two]  # JAX waits for 300 seconds
    finally:
        for process in two:
            process.kill()
    assert [process.returncode for process in two] == [2, 2], said
    for lines in said:
        (line,) = lines.splitlines()
        assert line.startswith(f"error: config file {tmp_path / 'not_here.py'} does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "dies"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_when_one_of_two_dies_or_stands_still_the_other_ends_with_a_message(how, dies, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        cluster = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{probe.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    words = ["--workdir", str(tmp_path / "run"), *SMALL, "--config.train.steps=100000", "--config.parallel.devices=2"]
    words += ["--config.parallel.heartbeat_timeout=10"]
    two = [
        subprocess.Popen(
            [sys.executable, SCRIPT, *words],
            env=os.environ | cluster | {"JAX_PROCESS_ID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert [p.poll() for p in two] == [None, None]
        time.sleep(0.1)
    two[dies].send_signal(how)
    try:
        _, said = two[1 - dies].communicate(timeout=300)
    finally:
        two[dies].kill()
        two[dies].communicate()
    assert two[1 - dies].returncode not in (0, None)
    assert "has died or does not answer" in said or "another task died" in said or "coordination service" in said, said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --tpu NAME, --slurm or --local N"),
        (["--local", "two", "--", "x.py"], "--local two is not a number"),
        (["--local", "2"], "no command after --"),
        (["--tpu", "pod", "--", "x.py"], "--tpu needs --zone"),
        (["--pods", "2"], "--pods is unknown"),
        (["--local"], "--local has no value"),
    ],
)
def test_launch_refuses_in_one_line(words, message):
    done = subprocess.run([LAUNCH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_the_launcher_ends_after_its_processes_and_with_their_code(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "rank = os.environ['JAX_PROCESS_ID']\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "def end(*_):\n"
        "    time.sleep(1)\n"
        "    (here / f'saved_{rank}').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "(here / f'up_{rank}').touch()\n"
        "if rank == sys.argv[2]:\n"
        "    time.sleep(0.5)\n"
        "    sys.exit(7)\n"
        "time.sleep(60)\n"
    )
    for fails, code in (("1", 7), ("nobody", 143)):
        place = tmp_path / fails
        place.mkdir()
        launcher = subprocess.Popen(
            [LAUNCH, "--local", "2", "--", str(script), str(place), fails], env=os.environ | {"PYTHON": sys.executable}
        )
        if fails == "nobody":
            deadline = time.monotonic() + 60
            while len(list(place.glob("up_*"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            launcher.terminate()
        assert launcher.wait(timeout=60) == code
        assert sorted(p.name for p in place.glob("saved_*")) == ["saved_0"] + ["saved_1"] * (fails == "nobody")
