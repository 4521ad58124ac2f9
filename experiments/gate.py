"""The gate: fixed small runs and checks whose figures must lie where they lay; says what moved.

    make gate                                                # digits alone: no data to fetch
    python experiments/gate.py --out runs/gate --only laws,views
    python experiments/gate.py --out runs/gate --record 5    # after a change that was meant: docs/gate/bands.json

Four parts. ``laws`` need no record: in float64 gradients are compared with differences of the loss, in one part and in
eight; a target's statistics must be its own; NT-Xent and the losses of BYOL and MoCo must be those of their equations.
``views``: which share of images each operation of a recipe changes, which must be as published, and by how much.
``runs``: SimCLR, BYOL and MoCo on digits, kNN and probe on validation examples, loss by quarters, means of eight runs.
``pace``: seconds of lightly's step over ours on one core, where processor, torch, lightly and jax are those recorded.

What is measured is seed 0, which was recorded: a figure is red further from its value than those of all seeds lie apart
(pace: below four fifths of the least). Another order of sums stays within; another order of random draws has to be
recorded. So the gate sees a probability of a recipe that is off by a twentieth, and nine times in ten kNN that is off
by three points with BYOL, by one and a half with SimCLR and MoCo, or a probe by six and by three. Smaller changes are
told where machine and versions are those of the record, as "moved", which is not red.

Exit codes: 0 green, 1 red, 2 refused.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
PARTS = ("laws", "views", "runs", "pace")
BANDS = HERE.parent / "docs" / "gate" / "bands.json"
SLACK = 2e-3  # of a figure: what rounding may do to one that is the same with all seeds, and what is not worth a word
EXACT = ("cpu", "cores", "jax", "jaxlib", "flax", "optax", "numpy")  # with which the same code gives the same figures
HANGS_ON = {"laws": EXACT, "views": EXACT, "runs": EXACT, "pace": ("cpu", "torch", "lightly", "jax")}


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--pace"]:
        print("\n" + json.dumps(pace_here(int(arguments[1]))))
        return 0
    from ssl_jax.interop.files import write_json
    from ssl_jax.run import command, folder, processes, provenance

    parser = command.Parser("Whether all is as it was.")
    parser.add_path("--out", required=True, help="folder of gate.json, and of what --record has so far")
    parser.add_argument("--only", default=",".join(PARTS), help="parts with commas between; default: all")
    parser.add_argument("--record", type=int, metavar="SEEDS", help="write the bands anew, over so many seeds")
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    try:
        out = folder.check(options.out, "--out")
    except ValueError as error:
        return command.refuse(error)
    if unknown := [part for part in parts if part not in PARTS]:
        return command.refuse(ValueError(f"--only {','.join(unknown)} is unknown; known: {', '.join(PARTS)}"))
    if options.record is not None and options.record < 5:
        return command.refuse(ValueError(f"--record {options.record}: a band is of 5 seeds or more"))
    if options.record is not None and parts == ["laws"]:
        return command.refuse(ValueError("--record --only laws: laws have no record"))
    if options.record is not None and (why := unsettled(provenance.commit())):
        return command.refuse(ValueError(f"--record: {why}"))
    processes.configure(None)
    out.mkdir(parents=True, exist_ok=True)
    here = provenance.machine() | {name: provenance.version(name) for name in ("torch", "lightly")}
    if options.record is not None:
        parts = [part for part in parts if part != "laws"]
        new = [record(part, options.record, out / f"record_{part}.json", here) for part in parts]
        bands = recorded()  # now: parts may be recorded side by side
        for part, found in zip(parts, new, strict=True):
            bands = {key: bands[key] | {part: value} for key, value in found.items()}
        BANDS.parent.mkdir(parents=True, exist_ok=True)
        write_json(BANDS, bands)  # last, as it is a file that then differs from the commit
        print(f"{BANDS}: {sum(map(len, bands['values'].values()))} bands")
        return 0
    bands = recorded()
    found, began = {}, time.perf_counter()
    for part in parts:
        why = unlike(part, bands, here) if part == "pace" else ""
        found[part] = checked(part, {"skipped": why} if why else measure(part, 0), bands, here)
        print(f"{part}: {summed(found[part])}", flush=True)
    seconds = round(time.perf_counter() - began)
    write_json(out / "gate.json", {"checks": found, "machine": here, "seconds": seconds})
    states = [check["state"] for checks in found.values() for check in checks]
    words = ["red" if "red" in states else "green"]
    words += [f"{states.count('moved')} moved"] if "moved" in states else []
    words += [f"{part} not measured" for part in parts if any(check["state"] == "skipped" for check in found[part])]
    print(f"{', '.join(words)} after {seconds} s; all figures: {out / 'gate.json'}")
    return int("red" in states)


def measure(part: str, seed: int) -> dict[str, Any]:
    """Figures of a part by name; ``{"error": why}`` beside those before it, or ``{"skipped": why}``."""
    if part == "pace":
        done = subprocess.run(
            [sys.executable, __file__, "--pace", str(seed)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no"])[-1]}
        return json.loads(done.stdout.strip().splitlines()[-1])
    from benchmarks import gate_parts

    found: dict[str, Any] = {}
    try:
        for name, figure in getattr(gate_parts, part)(seed):
            found[name] = figure._asdict()
    except Exception as error:  # whatever is broken
        found["error"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    return found


def pace_here(seed: int) -> dict[str, Any]:
    """The part pace, in a process pinned to one core before anything starts threads."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    from benchmarks import gate_parts

    try:
        return {name: figure._asdict() for name, figure in gate_parts.pace(seed)}
    except ImportError as error:
        return {"skipped": str(error)}


def recorded() -> dict[str, Any]:
    """The bands there are: ``{"values": {part: {figure: [of each seed]}}, "machines": {part: where}}``."""
    return json.loads(BANDS.read_text()) if BANDS.is_file() else {"values": {}, "machines": {}}


def record(part: str, seeds: int, path: Path, here: Mapping[str, Any]) -> dict[str, Any]:
    """Values and machine of a part; goes on with the seeds that are in ``path``, if of the same commit."""
    from ssl_jax.interop.files import write_json

    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept = kept if kept.get("commit") == here["commit"] else {"commit": here["commit"], "seeds": {}}
    for seed in range(seeds):
        if str(seed) not in kept["seeds"]:
            found = measure(part, seed)
            if "error" in found or "skipped" in found:
                raise SystemExit(f"{part}, seed {seed}: {found.get('error') or found.get('skipped')}")
            kept["seeds"][str(seed)] = {name: float(f"{figure['value']:.6g}") for name, figure in found.items()}
            write_json(path, kept)
            print(f"{part}: seed {seed} of {seeds}", flush=True)
    of_seeds = [kept["seeds"][str(seed)] for seed in range(seeds)]
    values = {name: [one[name] for one in of_seeds] for name in of_seeds[0]}
    kept = ("commit", "cpu", "cores", "versions", "torch", "lightly")
    return {"values": values, "machines": {key: here[key] for key in kept}}


def unsettled(commit: str | None) -> str:
    """Why figures of the code that runs are not those of a commit; empty if they are."""
    from ssl_jax.run.provenance import short

    if commit is None:
        return "the code that runs has no commit; run it in a checkout"
    return f"files differ from commit {short(commit.rstrip('+'))}: commit them first" if commit.endswith("+") else ""


def unlike(part: str, bands: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs here from where a part was recorded, of that on which its figures hang; empty if nothing does."""
    then, now = (where | where.get("versions", {}) for where in (bands["machines"].get(part, {}), here))
    different = [name for name in HANGS_ON[part] if name in then and public(then[name]) != public(now.get(name))]
    return ", ".join(f"{name} is {now.get(name) or 'missing'}, recorded with {then[name]}" for name in different)


def checked(part: str, found: Mapping[str, Any], bands: Mapping[str, Any], here: Mapping[str, Any]) -> list[dict]:
    """Each figure with its range and "green", "moved", "red" or "skipped"."""
    if "skipped" in found:
        return [{"check": part, "state": "skipped", "why": found["skipped"]}]
    recorded = bands["values"].get(part, {})
    first = {} if part == "pace" or unlike(part, bands, here) else {name: of[0] for name, of in recorded.items()}
    checks = []
    for name, figure in found.items():
        if name == "error":
            checks.append({"check": part, "state": "red", "why": figure})
            continue
        low, high, value = figure["low"], figure["high"], figure["value"]
        if low is None:
            low, high = band(recorded[name], part) if name in recorded else (None, None)
        if low is None:
            checks.append({"check": name, "state": "red", "value": value, "why": "no record; --record it"})
            continue
        inside = low <= value <= (float("inf") if high is None else high)
        was = first.get(name)
        moved = was is not None and abs(value - was) > SLACK * abs(was)
        state = "red" if not inside else "moved" if moved else "green"
        checks.append({"check": name, "state": state, "value": value, "was": was, "low": low, "high": high})
    if "error" not in found:
        gone = recorded.keys() - found.keys()
        checks += [{"check": name, "state": "red", "why": "recorded, and no longer measured"} for name in sorted(gone)]
    return checks


def public(version: str | None) -> str:
    """Without what follows a plus: a build for a GPU computes on a CPU as one for CPUs alone."""
    return str(version).partition("+")[0]


def band(values: Sequence[float], part: str) -> tuple[float, float | None]:
    """As far from the value of seed 0, which is measured, as those of all seeds lie apart; pace may become better."""
    if part == "pace":
        return 0.8 * min(values), None
    room = max(max(values) - min(values), SLACK * abs(values[0]))
    return values[0] - room, values[0] + room


def summed(checks: Sequence[Mapping[str, Any]]) -> str:
    """How many are green, and each that is not in a line."""
    lines = [f"{sum(check['state'] == 'green' for check in checks)} of {len(checks)} green"]
    for check in (check for check in checks if check["state"] != "green"):
        lines.append(f"  {check['state'].upper()} {check['check']}: {said(check)}")
    return "\n".join(lines)


def said(check: Mapping[str, Any]) -> str:
    """Why a figure is not green."""
    if "why" in check:
        return check["why"]
    if check["state"] == "moved":
        return f"{check['value']:.5g}, was {check['was']:.5g}"
    if check["high"] is None:
        return f"{check['value']:.5g} is below {check['low']:.5g}"
    return f"{check['value']:.5g} is not in {check['low']:.5g} to {check['high']:.5g}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pace"]:
        sys.exit(main(sys.argv[1:]))
    from ssl_jax.run.command import run

    run(main)
