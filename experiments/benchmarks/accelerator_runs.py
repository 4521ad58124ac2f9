"""Whole runs on a device: killed and resumed, and CIFAR-10 towards the published accuracy."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ["model.widths=(8,16)", "method.projector_dim=16", "data.image_size=8", "data.global_batch_size=32"]
DIGITS += ["train.eval_every=0", "eval.label_efficiency=False", "train.log_every=5", "train.checkpoint_every=15"]
ENDING = 45  # seconds in which a run that is told to end saves itself
# Epochs: SimCLR's of the published 84.8 % kNN (lightly, 200 epochs), and those of MoCo's config.
RUNS = {"cifar10_simclr": ("simclr_cifar10", 200), "cifar10_moco": ("moco_cifar10", 200)}


def kill_and_resume(name: str, *, toy: bool, work: Path, **_: Any) -> dict[str, Any]:
    """A run that was killed in its middle and begun again against one that was not, with and without determinism."""
    place, found = work / name, {}
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    steps = 60 if toy else 600
    for how, deterministic in (("deterministic", True), ("default", False))[: 1 if toy else 2]:  # a CPU knows no other
        words = [*DIGITS, f"train.steps={steps}", f"parallel.deterministic={deterministic}"]
        whole, killed = place / f"{how}_whole", place / f"{how}_killed"
        began = time.perf_counter()
        end(start("simclr_digits", whole, words), whole)
        kills = kill(start("simclr_digits", killed, words), killed, steps // 2)
        end(start("simclr_digits", killed, words), killed)
        prints = [summary(folder)["params_fingerprint"] for folder in (whole, killed)]
        seconds = time.perf_counter() - began
        found[how] = {"same": prints[0] == prints[1], "fingerprints": prints, "kills": kills, "seconds": seconds}
    return found


def start(config: str, workdir: Path, words: list[str]) -> subprocess.Popen:
    """``experiments/pretrain.py`` as users begin it."""
    script = [sys.executable, str(ROOT / "experiments" / "pretrain.py"), "--workdir", str(workdir)]
    script += ["--config", str(ROOT / "configs" / f"{config}.py"), *(f"--config.{word}" for word in words)]
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(script, stdout=log, stderr=log)


def end(process: subprocess.Popen, workdir: Path) -> None:
    """Wait for it.

    Raises:
      RuntimeError: it did not end well.
    """
    if code := process.wait():
        said = workdir.with_suffix(".log").read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"{workdir.name} ended with {code}: {said[-1][:200] if said else ''}")


def kill(process: subprocess.Popen, workdir: Path, step: int) -> int:
    """SIGKILL once its log has come to a step; returns how often it was killed, 0 if it was through before."""
    while process.poll() is None and last_step(workdir) < step:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return int(process.wait() == -signal.SIGKILL)


def last_step(workdir: Path) -> int:
    """The last step of a run's log, 0 before there is one."""
    return max((line.get("step", 0) for line in log(workdir)), default=0)


def log(workdir: Path) -> list[dict[str, Any]]:
    """Whole lines of a run's metrics."""
    file = workdir / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "summary.json").read_text())


def cifar10(name: str, *, toy: bool, work: Path, data: str, left: float, **_: Any) -> dict[str, Any]:
    """A published recipe in bfloat16; told to save itself when the time is over, it goes on next time."""
    config, epochs = RUNS[name]
    workdir = work / name
    words = ["model.dtype=bfloat16", f"train.epochs={epochs}"]
    if data.endswith(".npz"):
        words += [f"data.source=npz:{data}"]
    else:
        words += [f"data.data_dir={data}"]
    if toy:
        words = [word for word in words if not word.startswith(("model", "train"))]
        words += ["model.name=convnet", "model.widths=(8,16)", "data.global_batch_size=32", "train.steps=4"]
        words += ["train.log_every=2", "train.eval_every=0", "eval.knn_k=20", "optim.warmup_epochs=0.0"]
        words += ["method.queue_size=64"] if "moco" in name else []
    process = start(config, workdir, words)
    try:
        process.wait(max(left - ENDING, 5))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode == 143:
        return {"unfinished": f"saved at step {last_step(workdir)} when the time was over; it goes on from there"}
    end(process, workdir)
    whole = summary(workdir)
    scores = {key: value for key, value in whole.items() if key.startswith("test_") and isinstance(value, int | float)}
    keep = ("step", "train_loss", "val_knn_top1", "val_probe_top1", "images_per_sec")
    lines = log(workdir)
    every = max(1, len(lines) // 40)
    kept = [{key: line[key] for key in keep if key in line} for line in lines[::every]]
    found = {"scores": scores, "steps": whole["steps"], "seconds_of_run": whole["seconds"], "log": kept}
    return found | {"per_second": whole.get("images_per_sec")}
