"""``fit_logistic`` against scikit-learn's LogisticRegression at an equal objective, on made features.

    python experiments/benchmarks/probe_speed.py
    taskset -c 0 python experiments/benchmarks/probe_speed.py    # on a busy machine: processor time on one core

The features are correlated as those of a network are: a spectrum that falls as a power of the rank, turned, shifted
and rectified, then standardised. Objective values are computed in float64; both fit in float32, with lbfgs. Of
scikit-learn that run counts which stopped earliest within 1e-5 of our objective.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sklearn.linear_model import LogisticRegression

from ssl_jax.evals import linear_probe
from ssl_jax.run import command

CLOSE = 1e-5
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)  # scikit-learn's default is 1e-4


def made(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[n, d]`` and labels ``[n]``: Gaussian classes, eigenvalues ``k^-1``, turned and rectified."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    z = rng.normal(size=(n, d)) + 0.25 * rng.normal(size=(classes, d))[labels]
    z = 4 * z / np.sqrt(1 + np.arange(d)) @ turn + 0.1 * rng.normal(size=d)
    return np.maximum(z, 0).astype(np.float32), labels.astype(np.int32)


def objective(kernel, bias, x, y, l2: float) -> float:
    scores = x.astype(np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(y)), y]
    return losses.mean() + 0.5 * l2 * np.sum(np.asarray(kernel, np.float64) ** 2)


def sklearn_fit(x, y, *, l2: float, tolerance: float):
    fitted = LogisticRegression(C=1 / (len(x) * l2), tol=tolerance, max_iter=5000).fit(x, y)
    return fitted.coef_.T, fitted.intercept_


def timed(f):
    """Wall and processor seconds, and the result."""
    start = time.perf_counter(), time.process_time()
    result = f()
    return time.perf_counter() - start[0], time.process_time() - start[1], result


def main(arguments: list[str]) -> int:
    parser = command.Parser("fit_logistic against scikit-learn.")
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--l2", type=float, nargs="+", default=[1e-2, 1e-4])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    n, classes = given.n, given.classes
    h, labels = made(n + 10_000, given.d, classes)
    x, test = linear_probe.standardise(h[:n], h[n:])
    y, answers = labels[:n], labels[n:]
    cores = len(os.sched_getaffinity(0))
    print(f"{n} x {given.d}, {classes} classes, {cores} cores, load {os.getloadavg()[0]:.1f}")
    for l2 in given.l2:
        fits = {"ours": lambda l2=l2: linear_probe.fit_logistic(x, y, l2=l2, num_classes=classes)}
        for tolerance in TOLERANCES:
            fits[f"scikit-learn, tol {tolerance:g}"] = lambda l2=l2, tolerance=tolerance: sklearn_fit(
                x, y, l2=l2, tolerance=tolerance
            )
        compiling = np.array(timed(fits["ours"])[:2])
        found = {}
        for name, fit in fits.items():
            wall, cpu, fitted = zip(*(timed(fit) for _ in range(given.repeats)), strict=True)
            kernel, bias = fitted[0]
            seconds, value = np.median([wall, cpu], axis=1), objective(kernel, bias, x, y, l2)
            accuracy = np.mean(linear_probe.ranks(fitted[0], test, answers) == 0)
            found[name] = seconds, value
            print(
                f"l2 {l2:g}  {name:23} {seconds[0]:7.2f} s ({min(wall):.2f} to {max(wall):.2f}), processor "
                f"{seconds[1]:7.2f} s ({min(cpu):.2f} to {max(cpu):.2f})  objective {value:.7f}  test {accuracy:.4f}",
                flush=True,
            )
        ours, best = found.pop("ours")
        equal = [seconds for seconds, value in found.values() if value < best + CLOSE]
        for i, kind in enumerate(("wall", "processor")):
            least = min((seconds[i] for seconds in equal), default=np.nan)
            print(
                f"l2 {l2:g}  at equal objective {least / ours[i]:.1f} times faster in {kind} time, "
                f"{least / compiling[i]:.1f} times where it has to be compiled ({compiling[i]:.2f} s)"
            )
    return 0


if __name__ == "__main__":
    command.run(main)
