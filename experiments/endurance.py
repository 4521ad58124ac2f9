"""Does a long run stay as it began: its memory, the time of a step, and its bits beside other runs.

    python experiments/endurance.py --out runs/endurance

Memory and files: a small SimCLR on digits for 10,000 steps with a checkpoint each 100, once with views on the device
and once by tf.data; the resident memory of its process and its open files are read after every 100th step. Seeds: three
seeds one after the other, then side by side on the same machine; each must end in the same bits. ``endurance.json`` has
the figures. Linux only (/proc).
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ssl_jax.run import command

SMALL = ["--config.model.widths=(8,16)", "--config.data.image_size=8", "--config.data.global_batch_size=32"]
SMALL += ["--config.method.projector_dim=16", "--config.eval.label_efficiency=False", "--config.train.eval_every=0"]
EVERY, SEEDS, WARM = 100, (0, 1, 2), 0.1  # WARM: share of a run that does not count, where caches fill
PAGE = os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str]) -> int:
    parser = command.Parser("Does a long run stay as it began.")
    parser.add_path("--out", required=True, help="a folder for endurance.json and the runs")
    parser.add_argument("--steps", type=int, default=10_000, help="of each of the two long runs")
    options = parser.parse_args(arguments)
    if options.steps < 10 * EVERY:
        print(f"error: --steps={options.steps} is too few to tell; use {10 * EVERY} or more", file=sys.stderr)
        return 2
    out = Path(options.out).absolute()
    if out.exists() and any(out.iterdir()):
        print(f"error: --out={out} is not empty; name another folder", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {way: long_run(out / way, way, options.steps) for way in ("device", "host")}
    found["seeds"] = side_by_side(out)
    (out / "endurance.json").write_text(json.dumps(found, indent=1) + "\n")
    for way in ("device", "host"):
        row = found[way]
        print(
            f"{way:8}{row['steps']} steps, checkpoints each {EVERY}: {row['first_mib']:.0f} MiB after the first tenth, "
            f"{row['last_mib']:.0f} at the end, {row['first_files']} and {row['last_files']} open files; a step in the "
            f"last tenth takes {row['last_to_first_step']:.2f} times one in the second"
        )
    print(f"seeds   {found['seeds']['same']} of {len(SEEDS)} runs end side by side in the bits they have alone")
    return int(found["seeds"]["same"] < len(SEEDS))


def start(workdir: Path, *words: str) -> subprocess.Popen:
    script = [sys.executable, str(ROOT / "experiments" / "pretrain.py"), "--workdir", str(workdir)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "programs")}
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen([*script, *SMALL, *words], stdout=log, stderr=log, env=environment)


def long_run(workdir: Path, way: str, steps: int) -> dict[str, Any]:
    """Memory, open files and step time of one run, from outside."""
    words = [f"--config.data.augment={way}", f"--config.train.steps={steps}", f"--config.train.log_every={EVERY}"]
    process = start(workdir, *words, f"--config.train.checkpoint_every={EVERY}")
    resident: dict[int, int] = {}
    files: dict[int, int] = {}
    while process.poll() is None:
        lines = logged(workdir)
        if lines and (step := lines[-1]["step"]) not in resident:
            resident[step], files[step] = memory_of(process.pid), files_of(process.pid)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"error: the run ended with {process.returncode}; see {workdir}.log")
    training = sorted(step for step, size in resident.items() if WARM * steps <= step < steps and size)
    tenth = max(1, len(training) // 9)
    first, last = training[:tenth], training[-tenth:]
    seconds = [1 / line["images_per_sec"] for line in logged(workdir) if line.get("images_per_sec")]
    part = len(seconds) // 10
    return {
        "steps": steps,
        "first_mib": statistics.median(resident[step] for step in first) / 2**20,
        "last_mib": statistics.median(resident[step] for step in last) / 2**20,
        "first_files": round(statistics.median(files[step] for step in first)),
        "last_files": round(statistics.median(files[step] for step in last)),
        "last_to_first_step": statistics.median(seconds[-part:]) / statistics.median(seconds[part : 2 * part]),
        "resident_mib": {step: round(size / 2**20, 1) for step, size in resident.items()},
    }


def side_by_side(out: Path) -> dict[str, Any]:
    """How many seeds end in the same bits alone and beside the others."""
    short = ["--config.train.steps=300", "--config.train.checkpoint_every=50"]
    for seed in SEEDS:
        start(out / f"alone_{seed}", *short, f"--config.seed={seed}").wait()
    for process in [start(out / f"beside_{seed}", *short, f"--config.seed={seed}") for seed in SEEDS]:
        process.wait()

    def bits(name: str) -> str:
        return json.loads((out / name / "summary.json").read_text())["params_fingerprint"]

    pairs = {seed: [bits(f"alone_{seed}"), bits(f"beside_{seed}")] for seed in SEEDS}
    return {"same": sum(a == b for a, b in pairs.values()), "fingerprints": pairs}


def logged(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of the log so far."""
    try:
        text = (workdir / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def memory_of(pid: int) -> int:
    """Resident bytes of a process, 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def files_of(pid: int) -> int:
    """Open files of a process, 0 once it is gone."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


if __name__ == "__main__":
    command.run(main)
