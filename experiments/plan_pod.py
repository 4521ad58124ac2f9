"""Does a run fit a TPU slice, and how fast could it be: the real train step, compiled ahead of time for it.

    python experiments/plan_pod.py --config configs/simclr_imagenet.py --topology v5e:16x16 --json plan.json
    python experiments/plan_pod.py --config configs/simclr_cifar10_cpu.py --topology cpu:8

No TPU, no dataset and no TensorFlow are needed; for TPU slices the package libtpu is. Three programs at most are
compiled: the batch that is asked for and half of it (twice, if a device has one row), whose memory gives the largest
batch that fits by a straight line, and that largest one; with ``--quick`` the first alone. Devices are XLA's: a chip of
v3 has two, and libtpu describes a v4 with two as well, though a run joins them to one, which has more room. The
roofline is the longest of computing, reading and writing memory, and exchanging in a ring; a real step takes longer.
Exit code 0 for yes and for no, 2 for a refusal.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax import config as configs
from ssl_jax.run import command, processes


class Chip(NamedTuple):
    """Of one device: bytes of memory, operations per second in bfloat16, bytes per second of memory and sent."""

    memory: float
    flops: float
    bandwidth: float
    network: float


# Memory, speed and bandwidth: Google Cloud's pages of each TPU version; a v3 or v4 device is half a chip, one core. The
# network is one axis, both ways: "How to Scale Your Model" (jax-ml.github.io/scaling-book), chapter 2.
CHIPS = {
    "v3": Chip(16 * 2**30, 61.5e12, 450e9, 100e9),
    "v4": Chip(16 * 2**30, 137.5e12, 614e9, 45e9),
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 90e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 180e9),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 180e9),
}
OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT])i?B? of ([\d.]+)([KMGT])")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(arguments: list[str]) -> int:
    parser = command.Parser("Does a run fit a TPU slice, and how fast could it be.")
    parser.add_path("--config", required=True, help="a config file; --config.KEY=VALUE changes it")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v4:2x4x4, ..., or cpu:8 for simulated devices")
    parser.add_path("--json", help="also write the plan to this file")
    parser.add_argument("--quick", action="store_true", help="yes or no alone, without the largest batch that fits")
    options, rest = parser.parse_known_args(arguments)
    try:
        words = configs.overrides(rest, ("--config", "--topology", "--json", "--quick"))
        config = configs.load(options.config, words)
        configs.check(config)
        if options.json and not Path(options.json).absolute().parent.is_dir():
            raise ValueError(f"--json {options.json}: its folder is not there; make it, or name another")
        found = plan(config, options.topology, quick=options.quick)
    except ValueError as error:
        return command.refuse(error)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    show(options, found)
    return 0


def plan(config: configs.Config, name: str, *, quick: bool = False) -> dict[str, Any]:
    """The plan of a config on a topology.

    Args:
      quick: compile the batch that is asked for alone; ``largest_global_batch`` is None.

    Raises:
      ValueError: the topology is unknown, or the config cannot be made.
    """
    count = re.fullmatch(r"cpu:([1-9]\d*)", name)
    processes.configure(int(count[1]) if count else 1)
    import jax

    from ssl_jax.experiment import make_modality
    from ssl_jax.plan import program

    if not count:  # what was compiled for devices that are not here cannot be read again
        jax.config.update("jax_enable_compilation_cache", False)

    mesh = program.topology(name, config.parallel.get("fsdp", 1))
    program.plan_of(config)  # refuses a batch larger than the dataset
    chip = None if count else CHIPS.get(name.partition(":")[0])
    if chip is None and not count:
        raise ValueError(f"--topology {name}: the speed of its chips is not known; known: {', '.join(CHIPS)}, cpu")
    available = chip.memory if chip else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / mesh.size
    asked = config.data.global_batch_size
    began = time.perf_counter()
    found = {"topology": name, "devices": mesh.size, "global_batch_size": asked, "examples": program.examples(config)}
    found["unit"] = make_modality(config, plan=program.plan_of(config)).unit
    # Half of it beside it, in a thread: a compilation keeps one core busy. One row of a device cannot be halved.
    other = asked // 2 // mesh.size * mesh.size or 2 * asked
    with ThreadPoolExecutor(2) as pool:
        first, *second = pool.map(partial(measured, config, mesh), (asked,) if quick else (asked, other))
    available = first.get("limit", available)
    fits = first["memory"] <= available
    found |= {"fits": fits, "bytes_per_device": first["memory"], "bytes_available": int(available)}

    cost, scale = first.get("cost"), 1.0
    found["largest_global_batch"] = None
    if second:
        memory = {asked: first["memory"], other: second[0]["memory"]}
        found["largest_global_batch"] = largest(config, mesh, asked, memory, available)
        if cost is None:
            cost, scale = second[0].get("cost"), asked / other
    found["seconds_of_planning"] = round(time.perf_counter() - began, 1)
    return found | roofline(cost, scale, mesh.size, chip, asked)


def largest(config: configs.Config, mesh, asked: int, memory: dict[int, int], available: float) -> int:
    """The largest batch that fits, no larger than the dataset, from the bytes that two batches take."""
    from ssl_jax.plan import program

    (other,) = memory.keys() - {asked}
    slope = (memory[asked] - memory[other]) / (asked - other)
    most = max((batch for batch in memory if memory[batch] <= available), default=0)
    if slope > 0:
        room = (available - (memory[asked] - slope * asked)) / slope
        most = max(most, int(room) // mesh.size * mesh.size)
        most = min(most, program.examples(config) // mesh.size * mesh.size)
    if not _suits(config, most):  # a queue, say, is a multiple of its batch
        most = asked << (most // asked).bit_length() - 1 if most >= asked else 0
    if most > max(memory):  # the line is a guess until it is compiled; a twentieth less is taken on trust
        checked = measured(config, mesh, most)
        if checked["memory"] > checked.get("limit", available):
            less = int(0.95 * most) // mesh.size * mesh.size
            most = max(asked, less if _suits(config, less) else most // 2)
    return most


def with_batch(config: configs.Config, batch: int) -> configs.Config:
    """The config with another batch, and examples enough for it."""
    from ssl_jax.plan import program

    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.global_batch_size = batch
        config.data.num_examples = max(batch, program.examples(config))
    return config


def _suits(config: configs.Config, batch: int) -> bool:
    """Whether the method can be made with such a batch."""
    from ssl_jax.experiment import make_parts
    from ssl_jax.plan import program

    config = with_batch(config, max(batch, 1))
    try:
        make_parts(config, program.plan_of(config))
    except ValueError:
        return False
    return True


def measured(config: configs.Config, mesh, batch: int) -> dict[str, Any]:
    """Bytes of a device, and the cost of the program if it could be compiled; else the limit that it broke."""
    from ssl_jax.plan import cost, program

    config = with_batch(config, batch)
    try:
        spent = cost.of(program.compile_ahead(config, mesh))
    except Exception as error:  # XLA's, which says how much it would have needed
        if match := OUT_OF_MEMORY.search(str(error)):
            used, limit = (float(match[i]) * UNITS[match[i + 1]] for i in (1, 3))
            return {"memory": int(used), "limit": int(limit)}
        raise
    return {"memory": spent.memory, "cost": spent}


def roofline(cost, scale: float, devices: int, chip: Chip | None, batch: int) -> dict[str, Any]:
    """Operations, bytes and the times that they take at least; those of a CPU are not known."""
    from ssl_jax.plan.cost import sent

    if cost is None:
        return dict.fromkeys(("flops_per_step", "seconds_roofline", "images_per_sec_roofline"))
    found: dict[str, Any] = {
        "flops_per_step": cost.flops * devices * scale,
        "bytes_accessed_per_device": cost.accessed * scale,
        "bytes_sent_per_device": sent(cost.results, devices),
        "collectives": dict(cost.results),
        "seconds_roofline": None,
        "images_per_sec_roofline": None,
    }
    if chip is None:
        return found
    times = {
        "computing": cost.flops * scale / chip.flops,
        "memory": cost.accessed * scale / chip.bandwidth,
        "exchange": found["bytes_sent_per_device"] / chip.network,
    }
    longest = max(times.values())
    return found | {
        "seconds": times,
        "bound_by": max(times, key=lambda name: times[name]),
        "seconds_roofline": longest,
        "images_per_sec_roofline": batch / longest,
    }


def show(options, found: dict[str, Any]) -> None:
    """The plan in a few lines."""
    gib = 2**30
    name, batch, devices = Path(options.config).stem, found["global_batch_size"], found["devices"]
    print(f"{name} at batch {batch} on {devices} devices of {options.topology}")
    print(f"  fits               {'yes' if found['fits'] else 'NO'}")
    print(f"  memory of a device {found['bytes_per_device'] / gib:.2f} of {found['bytes_available'] / gib:.2f} GiB")
    if found["largest_global_batch"] is not None:
        of_all = found["largest_global_batch"] == found["examples"] // devices * devices
        print(f"  largest batch      {found['largest_global_batch']}{' (all there is to learn from)' * of_all}")
    if found["flops_per_step"]:
        print(f"  operations         {found['flops_per_step'] / 1e12:.3g} TFLOP a step, all devices")
        print(f"  memory traffic     {found['bytes_accessed_per_device'] / 1e9:.3g} GB a step and device")
        print(f"  exchange           {found['bytes_sent_per_device'] / 1e6:,.1f} MB a step, sent by a device")
    if found["images_per_sec_roofline"]:
        parts = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in found["seconds"].items())
        print(f"  roofline           {1e3 * found['seconds_roofline']:.2f} ms a step ({parts}), ", end="")
        print(f"{found['images_per_sec_roofline']:,.0f} {found['unit']}/s, bound by {found['bound_by']}")
    print(f"  planned in         {found['seconds_of_planning']} s")


if __name__ == "__main__":
    command.run(main)
