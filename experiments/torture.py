"""Faults on purpose: how many were tried, survived, lost.

    python experiments/torture.py --out runs/torture
    python experiments/torture.py --quick --only kills,checkpoints --out runs/torture

kills: kill -9 of a run at a random moment or while a checkpoint is written, then the same command again; survived if
the run ends in the bits of an uninterrupted one and no step of ``metrics.jsonl`` is doubled or missing.
checkpoints: a bit flipped in a file of the newest checkpoint, or its end cut off; survived if named, set aside and
the one before it used, or if nothing of the state was hit.
images: a mutated image file in a folder; survived if it is counted as unreadable, or if its pixels are those that an
independent decoder (Pillow) reads from the very same bytes.
configs: a wrong value, key or name; survived if refused in one line before anything is compiled or written.

``torture.json``: {kind: {"tried", "survived", "lost"}}, tried = survived + lost. ``--quick`` takes some ten minutes on
two cores, all of it about forty.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import numpy as np

from ssl_jax.run import command

COUNTS = {"kills": (12, 51), "checkpoints": (60, 300), "images": (200, 1000), "configs": (60, 200)}  # quick, all
METHODS = ("simclr", "byol", "moco")
ARGUMENTS = {
    "simclr": ["--config.method.projector_dim=16"],
    "byol": ["--config.method.hidden=32", "--config.method.projector_dim=16"],
    "moco": ["--config.method.queue_size=128", "--config.method.projector_dim=16", "--config.method.bn_groups=4"],
}
SMALL = ["--config.model.widths=(8,16)", "--config.data.image_size=8", "--config.data.global_batch_size=32"]
SMALL += ["--config.train.steps=300", "--config.train.log_every=5", "--config.train.checkpoint_every=15"]
SMALL += ["--config.train.eval_every=0", "--config.eval.label_efficiency=False"]
TIMING = ("images_per_sec", "input_wait")


def main(arguments: list[str]) -> int:
    parser = command.Parser("Faults on purpose.")
    parser.add_path("--out", required=True, help="a folder for torture.json and what is broken on the way")
    parser.add_argument("--quick", action="store_true", help="fewer of each")
    parser.add_argument("--only", default=",".join(COUNTS), help=f"kinds, comma-separated: {','.join(COUNTS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, the damage and the mutations")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in options.only.split(",") if kind]
    if not kinds or set(kinds) - set(COUNTS):
        print(f"error: --only={options.only} is unknown; known: {', '.join(COUNTS)}", file=sys.stderr)
        return 2
    out, found = Path(options.out).absolute(), {}
    out.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        place = out / kind
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        began = time.perf_counter()
        found[kind] = KINDS[kind](COUNTS[kind][0 if options.quick else 1], place, options.seed)
        found[kind]["seconds"] = round(time.perf_counter() - began, 1)
        (out / "torture.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{'faults':12}{'tried':>8}{'survived':>10}{'lost':>6}{'seconds':>10}")
    for kind, row in found.items():
        print(f"{kind:12}{row['tried']:8}{row['survived']:10}{row['lost']:6}{row['seconds']:10}")
        for line in row.get("examples", [])[:5]:
            print(f"  {line}")
    return int(any(row["lost"] for row in found.values()))


def tally(tried: int, lost: list[str]) -> dict[str, Any]:
    """A row of the table; ``lost``: a line about each that did not survive."""
    return {"tried": tried, "survived": tried - len(lost), "lost": len(lost), "examples": lost[:20]}


def kills(count: int, out: Path, seed: int) -> dict[str, Any]:
    """Kill runs of three methods ``count`` times in all, each run until it ends."""
    rng, lost = np.random.default_rng(seed), []
    for i, method in enumerate(METHODS):
        share = count // len(METHODS) + (i < count % len(METHODS))
        whole, killed = out / f"{method}_whole", out / f"{method}_killed"
        if code := start(method, whole).wait():
            lost += [f"{method}: the uninterrupted run ended with {code}"] * share
            continue
        for number in range(share):
            kill_once(start(method, killed), killed, rng, while_writing=number % 2 == 1)
        code = start(method, killed).wait()
        if why := difference(whole, killed) if code == 0 else f"ended with {code}":
            lost += [f"{method}: {why}"] * share
    return tally(count, lost)


def start(method: str, workdir: Path) -> subprocess.Popen:
    """The command; the same each time. Compiled programs are kept, or starting would be most of the time."""
    script = [sys.executable, str(ROOT / "experiments" / "pretrain.py"), "--workdir", str(workdir)]
    words = [f"--config.method.name={method}", *ARGUMENTS[method], *SMALL]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "torture")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen([*script, *words], stdout=log, stderr=log, env=environment)


def kill_once(process: subprocess.Popen, workdir: Path, rng: np.random.Generator, *, while_writing: bool) -> None:
    """SIGKILL at a random moment after the first line of this start, or while a checkpoint is being written."""
    lines = workdir / "metrics.jsonl"
    before = lines.stat().st_mtime_ns if lines.exists() else 0
    while process.poll() is None and not (lines.exists() and lines.stat().st_mtime_ns > before):
        time.sleep(0.005)
    time.sleep(float(rng.uniform(0, 0.3)))
    while while_writing and process.poll() is None and not any((workdir / "checkpoints").glob("*tmp*")):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def difference(whole: Path, killed: Path) -> str | None:
    """How a run that was killed differs from the one that was not, None if it does not."""
    summaries = [json.loads((place / "summary.json").read_text()) for place in (whole, killed)]
    if summaries[0]["params_fingerprint"] != summaries[1]["params_fingerprint"]:
        return "the final state has other bits"
    logs = [
        [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()] for place in (whole, killed)
    ]
    kept = [[{k: v for k, v in line.items() if k not in TIMING} for line in log] for log in logs]
    return None if kept[0] == kept[1] else "metrics.jsonl has other lines"


def checkpoints(count: int, out: Path, seed: int) -> dict[str, Any]:
    """Damage the newest of two checkpoints, ``count`` times."""
    import jax

    from ssl_jax import parallel
    from ssl_jax.experiment import build
    from ssl_jax.run import checkpoint
    from ssl_jax.run.open import read_run
    from ssl_jax.step import make_init

    workdir = out / "run"
    if start("simclr", workdir).wait():
        return tally(count, ["the run did not end"] * count)
    config, _ = read_run(workdir)
    built = build(config)
    init = make_init(built.method, built.tx, probe=built.probe)
    spec = built.modality.spec(built.plan.global_batch_size)
    abstract = jax.eval_shape(init, jax.random.key(0), spec, None)
    place = parallel.replicated(parallel.make_mesh(1))
    known = checkpoint.steps(workdir)[-2:]

    def read(where):
        found = checkpoint.restore(where, abstract, sharding=place)
        return None if found is None else (found[1]["step"], checkpoint.fingerprint(found[0]))

    good = dict(filter(None, (read(only(workdir, out / f"step_{step}", [step])) for step in known)))
    rng, lost = np.random.default_rng(seed), []
    for number in range(count):
        copy = only(workdir, out / "damaged", known)
        files = sorted(p for p in (copy / "checkpoints" / str(known[-1])).rglob("*") if p.is_file())
        what = damage(files[int(rng.integers(len(files)))], rng, cut=number % 2 == 1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                step, digest = read(copy) or (0, "")
            except Exception as error:  # whatever it is, the run would not have gone on
                lost.append(f"{what}: {type(error).__name__}: {error}")
                continue
        told = any(f"checkpoint {known[-1]} is damaged" in str(w.message) for w in said)
        if good.get(step) != digest or (step != known[-1]) != told:
            lost.append(f"{what}: went on from step {step} {'' if told else 'silently'}")
    return tally(count, lost)


def only(workdir: Path, copy: Path, steps: list[int]) -> Path:
    """A copy of a run with some of its checkpoints alone."""
    shutil.rmtree(copy, ignore_errors=True)
    for step in steps:
        shutil.copytree(workdir / "checkpoints" / str(step), copy / "checkpoints" / str(step))
    return copy


def damage(file: Path, rng: np.random.Generator, *, cut: bool) -> str:
    """Flip a bit of a file or cut off its end; says what was done."""
    data = bytearray(file.read_bytes())
    if cut or not data:
        keep = int(rng.integers(len(data))) if data else 0
        file.write_bytes(data[:keep])
        return f"{file.name} cut to {keep} of {len(data)} bytes"
    at, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[at] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {at} of {file.name} flipped"


def images(count: int, out: Path, seed: int) -> dict[str, Any]:
    """Mutated files through the folder source."""
    from faults_images import tried

    return tried(count, out, seed)


def mutated_configs(count: int, out: Path, seed: int) -> dict[str, Any]:
    """Wrong configs through the command."""
    from faults_configs import tried

    return tried(count, out, seed)


KINDS = {"kills": kills, "checkpoints": checkpoints, "images": images, "configs": mutated_configs}


if __name__ == "__main__":
    command.run(main)
