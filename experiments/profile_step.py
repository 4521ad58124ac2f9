"""Where the time of a training step goes: a few steps of a config under the profiler, by kind of work.

    python experiments/profile_step.py --config configs/simclr_cifar10_cpu.py --out runs/profile

Prints a table, writes it as ``profile.json`` and leaves the trace in the folder, for Perfetto or TensorBoard. Every
instruction of the compiled step is put down to the line of ours that it came from; what several threads do at once is
added up, so shares are of work, not of the clock. On a GPU the profiler turns CUDA graphs off: kernels are as they are
without it, the gaps between them are not. Batches are made beforehand: the host's work is not in the table.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax import configs, parallel
from ssl_jax.run import command, processes

# The first pattern that is found in "instruction | file | JAX's name of the operation" names the kind of work.
KINDS = (
    (r"^(all-|reduce-scatter|collective-)", "exchange between devices, and waiting for it"),
    (r"data/images/", "augmentation"),
    (r"losses/", "loss"),
    (r"ssl_jax/optim/|optax|apply_updates", "optimizer"),
    (r"convolution\.py.*(while|weight_gradient)", "convolutions, gradient of weights (blocked)"),
    (r"transpose\(.*conv_general_dilated", "convolutions, backward"),
    (r"conv_general_dilated", "convolutions, forward"),
    (r"dot_general", "matrix products"),
    (r"transpose\(", "normalisation, activations and the rest, backward"),
    (r"", "normalisation, activations and the rest, forward"),
)
UNKNOWN = "on the device, not put down to an instruction"
REST = "in threads of XLA's own (plain convolutions), not put down to an instruction"
CONTAINERS = re.compile(r"^(while|conditional|call)(\.\d+)?$")  # their parts are counted
INSTRUCTION = re.compile(r"%?([\w.-]+) = .*metadata={(.*)}")


def main(arguments: list[str]) -> int:
    parser = command.Parser("Where the time of a training step goes.")
    parser.add_path("--config", required=True)
    parser.add_path("--out", required=True, help="folder of profile.json and the trace")
    parser.add_argument("--steps", type=int, default=5, help="profiled, after two more")
    try:
        options, changes = parser.parse_changes(arguments)
        config = configs.load(options.config, changes)
        configs.check(config)
        processes.configure_as(config.parallel)
        table = profile(config, Path(options.out), options.steps)
    except ValueError as error:
        return command.refuse(error)
    total = sum(table.values())
    for kind, seconds in sorted(table.items(), key=lambda item: -item[1]):
        print(f"{1e3 * seconds:9.1f} ms  {seconds / total:6.1%}  {kind}")
    print(f"{1e3 * total:9.1f} ms  of work in a step")
    (Path(options.out) / "profile.json").write_text(json.dumps(table, indent=1) + "\n")
    return 0


def profile(config: configs.Config, out: Path, steps: int) -> dict[str, float]:
    """Seconds of work in a step by kind."""
    import jax

    from ssl_jax.experiment import build, zeros
    from ssl_jax.step import compile_step, init_state

    experiment = build(config)
    mesh = parallel.make_mesh(parallel.device_count(config.parallel.devices))
    batch = parallel.place(zeros(experiment), mesh)
    state = init_state(experiment.method, experiment.tx, jax.random.key(0), batch, mesh, probe=experiment.probe)
    step = compile_step(experiment.method, experiment.tx, mesh, views=experiment.feed.views, probe=experiment.probe)
    drawn = experiment.feed.batches()
    table = {} if experiment.feed.table is None else step.place({"table": experiment.feed.table})
    batch = {**step.place(next(drawn)), **table}
    names = sources(step.lower(state, batch).compile().as_text())
    for _ in range(2):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's frames are not read
    with jax.profiler.trace(str(out), profiler_options=options):
        began = time.process_time()
        for _ in range(steps):
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
        spent = (time.process_time() - began) / steps
    work: defaultdict[str, float] = defaultdict(float)
    for name, seconds in recorded(out, names).items():
        work[kind_of(names[name]) if name else UNKNOWN] += seconds / steps
    if jax.default_backend() == "cpu":
        work[REST] = max(0.0, spent - sum(work.values()))
    return dict(work)


def recorded(out: Path, names: Collection[str]) -> dict[str, float]:
    """Seconds by instruction in the newest trace of a folder; see :func:`durations`."""
    import jax

    newest = max(out.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    return durations(jax.profiler.ProfileData.from_file(str(newest)).planes, names)


def durations(planes: Iterable[Any], names: Collection[str]) -> dict[str, float]:
    """Seconds of the events of a trace by the instruction that they are of; under "" those of no known one.

    Events of a CPU bear the instruction's name. Kernels of a GPU have names of their own, and the instruction in the
    stat ``hlo_op``; beside the streams that they ran in their plane may have lines that were made of them.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for plane in planes:
        lines, on_gpu = list(plane.lines), plane.name.startswith("/device:GPU")
        streams = [line for line in lines if line.name.startswith("Stream")] if on_gpu else []
        for line in streams or lines:
            for event in line.events:
                name = event.name
                if name not in names and on_gpu:
                    name = str(dict(event.stats).get("hlo_op", "")).lstrip("%")
                if name in names:
                    if not CONTAINERS.match(name):
                        found[name] += event.duration_ns / 1e9
                elif streams:
                    found[""] += event.duration_ns / 1e9
    return dict(found)


def sources(program: str) -> dict[str, str]:
    """Instruction -> "instruction | file | JAX's name of the operation", from the text of a compiled program."""
    files = dict(re.findall(r'^(\d+) "(.*)"$', section(program, "FileNames"), re.M))
    located = re.findall(r"^(\d+) {file_name_id=(\d+)", section(program, "FileLocations"), re.M)
    places = {number: files[file] for number, file in located}
    frames = {
        n: (place, parent)
        for n, place, parent in re.findall(
            r"^(\d+) {file_location_id=(\d+)(?: parent_frame_id=(\d+))?", section(program, "StackFrames"), re.M
        )
    }

    found = {}
    for line in program.splitlines():
        if match := INSTRUCTION.search(line):
            name, metadata = match.groups()
            operation = re.search(r'op_name="([^"]*)"', metadata)
            frame = re.search(r"stack_frame_id=(\d+)", metadata)
            path = places[frames[frame[1]][0]] if frame and frame[1] in frames else ""
            found[name] = f"{name} | {path} | {operation[1] if operation else ''}"
    return found


def section(program: str, title: str) -> str:
    """The numbered lines under a title."""
    match = re.search(rf"^{title}\n((?:\d+ .*\n)*)", program, re.M)
    return match[1] if match else ""


def kind_of(source: str) -> str:
    """The kind of work of an instruction."""
    return next(kind for pattern, kind in KINDS if re.search(pattern, source))


if __name__ == "__main__":
    command.run(main)
