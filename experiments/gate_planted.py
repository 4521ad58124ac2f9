"""Whether the gate sees what it is for: five mistakes that are easily made, planted one by one, and what turns red.

    python experiments/gate_planted.py --out runs/gate_planted
    python experiments/gate_planted.py --out runs/gate_planted --only blur,queue

Writes ``planted.json``; the same command goes on with the mistakes that are missing there, if the code is that of the
same commit. Exit codes: 0 the gate catches each, 1 it does not, 2 refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import gate
import jax
from benchmarks import gate_parts
from jax import lax

from ssl_jax import methods
from ssl_jax.data.images import device_ops
from ssl_jax.interop.files import write_json
from ssl_jax.methods import moco
from ssl_jax.parallel import all_rows
from ssl_jax.run import command, folder, processes, provenance


class Plant(NamedTuple):
    """A mistake.

    Attributes:
      what: in words.
      make: a context in which the code has it.
      parts: of the gate that are run, one after the other until one is red.
      methods: that have it.
    """

    what: str
    make: Callable[[], contextlib.AbstractContextManager]
    parts: tuple[str, ...]
    methods: tuple[str, ...]


def main(arguments: list[str]) -> int:
    parser = command.Parser("Plant mistakes and see whether the gate turns red.")
    parser.add_path("--out", required=True, help="folder of planted.json")
    parser.add_argument("--only", default=",".join(PLANTS), help="mistakes with commas between; default: all")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in PLANTS]:
        return command.refuse(ValueError(f"--only {','.join(unknown)} is unknown; known: {', '.join(PLANTS)}"))
    try:
        path = folder.check(options.out, "--out") / "planted.json"
    except ValueError as error:
        return command.refuse(error)
    processes.configure(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    commit, kept = provenance.commit(), json.loads(path.read_text()) if path.is_file() else {}
    reused = kept.get("commit") == commit and not gate.unsettled(commit)
    found = kept["mistakes"] if reused else {}
    for name in names:
        if name not in found:
            found[name] = {"what": PLANTS[name].what, "red": caught(PLANTS[name])}
            write_json(path, {"commit": commit, "mistakes": found})
        red = found[name]["red"]
        print(f"{name} ({found[name]['what']}): {'; '.join(red) or 'NOT CAUGHT'}", flush=True)
    return int(any(not found[name]["red"] for name in names))


def caught(plant: Plant) -> list[str]:
    """The figures that are red with a mistake, of the first part in which any is."""
    bands = gate.recorded()
    with plant.make(), mock.patch.object(gate_parts, "METHODS", plant.methods):
        for part in plant.parts:
            gate_parts._maker.cache_clear()
            found = gate.measure(part, 0)
            known = {name: values for name, values in bands["values"].get(part, {}).items() if name in found}
            checks = gate.checked(part, found, bands | {"values": {part: known}}, {})
            if red := [check["check"] for check in checks if check["state"] == "red"]:
                break
    gate_parts._maker.cache_clear()
    return [f"{part}: {name}" for name in red]


def _gathered() -> contextlib.AbstractContextManager:
    whole = lax.all_gather
    return mock.patch.object(lax, "all_gather", lambda *a, **k: lax.stop_gradient(whole(*a, **k)))


@contextlib.contextmanager
def _changed(change: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Every method's ``LossOut`` as ``change(variables, out)`` makes it."""
    get = methods.get

    def changed(name: str):
        make = get(name)

        @functools.wraps(make)
        def made(*args, **kwargs):
            method = make(*args, **kwargs)

            def loss(variables, *rest):
                value, out = method.loss(variables, *rest)
                return value, change(variables, out)

            return method._replace(loss=loss)

        return made

    with mock.patch.object(methods, "get", changed):
        yield


def _averaged(variables: Any, out: Any) -> Any:
    then = variables.model_state
    target = jax.tree.map(lambda t, o: 0.97 * t + 0.03 * o, then["target"], {k: then[k] for k in then["target"]})
    return out._replace(model_state=out.model_state | {"target": target})


def _projections(variables: Any, out: Any) -> Any:
    return out._replace(outputs=out.outputs | {"features": out.outputs["projections"]})


def _blur() -> contextlib.AbstractContextManager:
    right = device_ops.gaussian_blur
    return mock.patch.object(device_ops, "gaussian_blur", lambda x, sigma, *a, **k: right(x, 2 * sigma, *a, **k))


def _queue() -> contextlib.AbstractContextManager:
    right = moco.info_nce_queue

    def wrong(q, k, queue, **how):
        keys = all_rows(lax.stop_gradient(moco.l2_normalize(k)), None)
        return right(q, k, lax.dynamic_update_slice_in_dim(queue, keys.astype(queue.dtype), 0, 0), **how)

    return mock.patch.object(moco, "info_nce_queue", wrong)


PLANTS = {
    "gathered": Plant("negatives of other devices without gradient", _gathered, ("laws",), ("simclr",)),
    "statistics": Plant(
        "the target's BatchNorm statistics an average of the online network's",
        functools.partial(_changed, _averaged),
        ("laws",),
        ("byol",),
    ),
    "blur": Plant("a blur of twice the sigma", _blur, ("views",), ()),
    "probe": Plant("a probe that reads projections", functools.partial(_changed, _projections), ("runs",), ("simclr",)),
    "queue": Plant("a queue that holds the batch's own keys", _queue, ("laws",), ("moco",)),
}


if __name__ == "__main__":
    command.run(main)
