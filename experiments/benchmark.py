"""How fast the parts are, each against its peers in the same run, as ratios: one JSON and one table.

    make benchmark ARGS="--quick --out docs/benchmark"      # installs the peers into .venv; ten minutes on two cores
    python experiments/benchmark.py --only nt_xent_8192,knn_50k --out runs/benchmark

Every benchmark is a process of its own, on one core where it is said so. It makes ours and its peers, compares what
they give, and then lets them take turns; medians are over the turns. A peer that cannot be imported, or that gives
something else, is "not measured", never beaten. ``ratio`` above 1 means that ours is faster, whatever the unit.
On an accelerator the training steps are larger and in bfloat16, and those of BYOL, MoCo and ResNet-50 are timed, too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PEERS = ("torch", "torchvision", "lightly", "kornia", "transformers", "faiss-cpu", "gensim", "scikit-learn", "pillow")


class Benchmark(NamedTuple):
    """What is timed.

    Attributes:
      ours: one call does the work and waits for it; what it returns is compared.
      peers: name -> make() -> such a call. Made late: it may fail to import.
      same: ``(ours, peer's) -> None`` or what differs between the two results.
      items: units of work of one call; None: the call itself returns the figure (a share in %, less is better).
      unit: of the figure.
      processor: processor time instead of wall time: for one core, and where peers wait in loops.
      details: what else is known, e.g. bytes of temporaries.
      flop: of one call, for the share of the machine's matrix product speed.
    """

    ours: Callable[[], Any]
    peers: Mapping[str, Callable[[], Callable[[], Any]]]
    same: Callable[[Any, Any], str | None] = lambda ours, theirs: None
    items: float | None = 1
    unit: str = "calls/s"
    processor: bool = False
    details: Mapping[str, Any] = {}
    flop: float | None = None


class Entry(NamedTuple):
    """Where a benchmark is made: ``module.function(quick) -> Benchmark``, and on how many cores (None: all)."""

    module: str
    function: str
    cores: int | None = None
    accelerator: bool = False


NAMES = {
    "augment_32": Entry("augment", "small", cores=1),
    "augment_224": Entry("augment", "large", cores=1),
    "step_resnet18_cifar": Entry("step", "simclr_cifar"),
    "step_byol_cifar": Entry("step", "byol_cifar", accelerator=True),
    "step_moco_cifar": Entry("step", "moco_cifar", accelerator=True),
    "step_resnet50_224": Entry("step", "simclr_resnet50", accelerator=True),
    "language_model_step": Entry("text", "language_model", cores=1),
    "bert_step": Entry("text", "bert", cores=1),
    "nt_xent_8192": Entry("contrastive", "nt_xent_8192", cores=1),
    "knn_50k": Entry("neighbours", "knn_50k"),
    "input_uint8": Entry("reading", "uint8", cores=1),
    "input_jpeg": Entry("reading", "jpeg", cores=1),
    "input_crops_1": Entry("reading", "one_crop", cores=1),
    "input_crops_2": Entry("reading", "two_crops", cores=1),
    "word2vec": Entry("words", "word2vec"),
    "loop_overhead": Entry("loop", "overhead"),
}


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        print("\n" + json.dumps(measure(arguments[1], "--quick" in arguments)))
        return 0
    from ssl_jax.run import command

    parser = command.Parser("Every part against its peers.")
    parser.add_path("--out", required=True, help="folder of benchmark.json and benchmark.md")
    parser.add_argument("--quick", action="store_true", help="fewer turns and smaller work: ten minutes on two cores")
    parser.add_argument("--only", default=",".join(NAMES), help="comma-separated names; default: all")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        print(f"error: --only {','.join(unknown)} is unknown; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "benchmark.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in names:
        print(f"{name} ...", end=" ", flush=True)
        began = time.perf_counter()
        found[name] = child(name, options.quick)
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        (out / "benchmark.md").write_text(markdown(found))
    print("\n" + markdown(found))
    return 0


def child(name: str, quick: bool) -> dict[str, Any]:
    """One benchmark in a process of its own, with the cores that it is for."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, *(["--quick"] if quick else [])]
    environment = dict(os.environ)
    if NAMES[name].cores == 1:
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    last = done.stdout.strip().splitlines()[-1:]
    with contextlib.suppress(json.JSONDecodeError, IndexError):
        if done.returncode == 0:
            return json.loads(last[0])
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return {"ours": f"not measured: {reason}", "peers": {}}


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Time a benchmark in this process."""
    entry = NAMES[name]
    if entry.cores == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])  # before any thread is started
    warnings.simplefilter("ignore")
    if entry.module == "step":
        _two_cpu_devices()
    import jax

    if entry.accelerator and jax.default_backend() == "cpu":
        return {"ours": "not measured: needs an accelerator", "peers": {}}
    benchmark: Benchmark = getattr(importlib.import_module(f"benchmarks.{entry.module}"), entry.function)(quick)
    calls, missing = {"ours": benchmark.ours}, {}
    result = benchmark.ours()
    for peer, make in benchmark.peers.items():
        try:
            call = make()
            difference = benchmark.same(result, call())
        except Exception as error:  # whatever a library does when it does not fit the machine
            first = (str(error).strip().splitlines() or [""])[0][:120]
            missing[peer] = f"not measured: {type(error).__name__}: {first}"
            continue
        if difference:
            missing[peer] = f"not measured: {difference}"
        else:
            calls[peer] = call
    times = turns(calls, 3 if quick else 7, benchmark)
    ours = summary(times["ours"], benchmark)
    if benchmark.flop:
        reached = benchmark.flop / statistics.median(times["ours"])
        ours |= {"gflop_per_s": round(reached / 1e9, 1), "share_of_matmul": round(reached / matmul_speed(benchmark), 3)}
    peers: dict[str, Any] = dict(missing)
    for peer in calls.keys() - {"ours"}:
        peers[peer] = summary(times[peer], benchmark)
        # Both as times of equal work, or as figures of which less is better.
        peers[peer]["ratio"] = round(statistics.median(times[peer]) / statistics.median(times["ours"]), 2)
    from ssl_jax.run.provenance import machine

    return {
        "ours": ours,
        "peers": {name: peers[name] for name in benchmark.peers},
        "details": dict(benchmark.details),
        "clock": "processor" if benchmark.processor else "wall",
        "turns": len(times["ours"]),
        "quick": quick,
        "machine": machine() | {"peers": {package: v for package in PEERS if (v := _version(package))}},
    }


def turns(calls: Mapping[str, Callable], number: int, benchmark: Benchmark) -> dict[str, list[float]]:
    """Seconds of every call (or its figure), turn by turn; each turn begins with another."""
    clock = time.process_time if benchmark.processor else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for turn in range(number):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            before = clock()
            result = calls[name]()
            times[name].append(clock() - before if benchmark.items is not None else float(result))
    return times


def summary(times: list[float], benchmark: Benchmark) -> dict[str, Any]:
    """Median, least and greatest figure in the benchmark's unit."""
    figures = sorted(times if benchmark.items is None else (benchmark.items / t for t in times))
    rounded = {"median": statistics.median(figures), "min": figures[0], "max": figures[-1]}
    return {key: float(f"{value:.4g}") for key, value in rounded.items()} | {"unit": benchmark.unit}


def matmul_speed(benchmark: Benchmark) -> float:
    """Operations per second of a float32 matrix product here and now, the best of five."""
    import jax
    import jax.numpy as jnp

    clock = time.process_time if benchmark.processor else time.perf_counter
    x = jnp.ones((2048, 2048), jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    best = 0.0
    for _ in range(5):
        before = clock()
        product(x).block_until_ready()
        best = max(best, 2 * 2048**3 / (clock() - before))
    return best


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, a line for each peer, and below it what was not measured."""
    lines = ["| benchmark | ours (median, range) | peer | peer's median | ratio |", "|---|---|---|---|---|"]
    notes = []
    for name, entry in found.items():
        ours = entry["ours"]
        if isinstance(ours, str):
            notes.append(f"{name}: {ours}.")
            continue
        mine = f"{ours['median']:,.5g} ({ours['min']:,.4g} to {ours['max']:,.4g}) {ours['unit']}"
        measured = {peer: p for peer, p in entry["peers"].items() if not isinstance(p, str)}
        lines += [
            f"| {name} | {mine} | {peer} | {p['median']:,.5g} | **{p['ratio']:.2f}** |" for peer, p in measured.items()
        ] or [f"| {name} | {mine} | | | |"]
        notes += [f"{name}, {peer}: {p}." for peer, p in entry["peers"].items() if isinstance(p, str)]
        if "share_of_matmul" in ours:
            share = f"{100 * ours['share_of_matmul']:.0f} % of the speed of a matrix product here"
            notes.append(f"{name}: {ours['gflop_per_s']:,.0f} GFLOP/s, {share}.")
        if entry["details"]:
            notes.append(f"{name}: {', '.join(f'{key} {value}' for key, value in entry['details'].items())}.")
    where = next((e["machine"] for e in found.values() if "machine" in e), None)
    if where:
        versions = ", ".join(f"{k} {v}" for k, v in (where["versions"] | where["peers"]).items())
        quick = " (--quick)" if any(e.get("quick") for e in found.values()) else ""
        notes.append(
            f"{where['cpu']}, {where['device_kind']}, commit {(where['commit'] or '')[:12]}{quick}; {versions}."
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _two_cpu_devices() -> None:
    """One device per core on a CPU, as the CPU configs have it: before JAX starts; elsewhere it has no effect."""
    from ssl_jax.run import processes

    processes.configure(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


if __name__ == "__main__":
    sys.modules["benchmark"] = sys.modules["__main__"]  # what the benchmarks import is this module
    if sys.argv[1:2] == ["--child"]:  # pinned to its cores before anything is imported that starts threads
        sys.exit(main(sys.argv[1:]))
    from ssl_jax.run.command import run

    run(main)
