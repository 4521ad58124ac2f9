"""Peak memory of exact kNN against the size of the bank, and its time against scikit-learn's.

    python experiments/benchmarks/knn_memory.py
    python experiments/benchmarks/knn_memory.py --sizes 20000 200000 1280000 --dim 2048 --skip_speed

Every row of the table is a process of its own; the bank is mapped from disk. "memory" is the peak of anonymous memory
(RssAnon, sampled), above that of a search in a bank of 1,000 rows: what the search itself allocates, a few chunks of
``bank_chunk`` rows. "with the file" adds the pages of the bank that the system keeps in memory as long as no one else
needs it (VmHWM).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ssl_jax.evals import knn
from ssl_jax.run import command

QUERIES, K = 2_000, 200


def main(arguments: list[str]) -> int:
    parser = command.Parser("Peak memory and time of kNN.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000, 400_000], help="rows of the banks")
    parser.add_argument("--chunks", type=int, nargs="+", default=[4_096, 65_536], help="values of bank_chunk")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--skip_speed", action="store_true", help="do not time scikit-learn")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = [write(Path(folder) / f"{n}.npy", n, given.dim) for n in (1_000, *given.sizes)]
        floor = child(made[0], given.chunks[0])
        print(f"{QUERIES:,} queries, k={K}, d={given.dim}; a bank of 1,000 rows: {floor['anonymous']:.0f} MB\n")
        print(
            f"{'bank_chunk':>10} {'rows':>9} {'bank MB':>8} {'memory MB':>10} {'with the file MB':>17} {'seconds':>8}"
        )
        for chunk in given.chunks:
            peaks = []
            for n, path in zip(given.sizes, made[1:], strict=True):
                found = child(path, chunk)
                peaks.append(found["anonymous"] - floor["anonymous"])
                print(
                    f"{chunk:10,} {n:9,} {n * given.dim * 4 / 1e6:8.0f} {peaks[-1]:10.0f}"
                    f" {found['resident'] - floor['resident']:17.0f} {found['seconds']:8.1f}"
                )
            print(f"{'':10} {given.sizes[-1]:,} rows against {given.sizes[0]:,}: {peaks[-1] - peaks[0]:+.0f} MB")
    if not given.skip_speed:
        speed(given.dim)
    return 0


def write(path: Path, n: int, dim: int) -> Path:
    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, dim))
    for start in range(0, n, 10_000):
        array[start : start + 10_000] = rng.normal(size=(min(10_000, n - start), dim))
    return path


def child(path: Path, chunk: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", str(path), str(chunk)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(path: str, chunk: int) -> None:
    """In a process of its own."""
    peak, done = 0.0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, status("RssAnon"))

    watcher = threading.Thread(target=watch)
    bank = np.load(path, mmap_mode="r")
    queries = np.random.default_rng(1).normal(size=(QUERIES, bank.shape[1])).astype(np.float32)
    watcher.start()
    start = time.perf_counter()
    knn.nearest(bank, queries, k=K, centre=True, bank_chunk=chunk)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(json.dumps({"anonymous": peak, "resident": status("VmHWM"), "seconds": seconds}))


def status(field: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def speed(dim: int, n: int = 50_000, q: int = 10_000) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n + q)
    x = (rng.normal(size=(10, dim))[labels] / 4 + rng.normal(size=(n + q, dim))).astype(np.float32)

    def ours():
        return knn.knn_predict(x[:n], labels[:n], x[n:], k=K, temperature=0.1, num_classes=10)

    def theirs():
        voters: Any = lambda distance: np.exp((1 - distance) / 0.1)  # noqa: E731
        model = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=voters, n_jobs=-1)
        return model.fit(x[:n], labels[:n]).predict(x[n:])

    print(f"\n{n:,} x {q:,} x {dim}, k={K}: wall and processor seconds")
    found = {}
    for name, predict in (("ssl_jax, first call", ours), ("ssl_jax", ours), ("scikit-learn", theirs)):
        wall, processor = time.perf_counter(), time.process_time()
        found[name] = predict()
        print(f"{name:20} {time.perf_counter() - wall:8.1f} {time.process_time() - processor:8.1f}")
    print(f"predictions that differ: {np.sum(found['ssl_jax'] != found['scikit-learn'])} of {q:,}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        command.run(main)
