"""Does a run fit TPUs or GPUs that are not here, and how fast could it be: its train step, compiled ahead of time.

    ssl-jax plan --config simclr_imagenet --topology v5e:16x16 --json plan.json
    ssl-jax plan --config simclr_cifar10 --topology h100:8 --quick
    ssl-jax plan --config simclr_cifar10_cpu --topology cpu:8

No TPU, no GPU, no dataset and no TensorFlow are needed; for TPU slices the package libtpu is (extra ``plan``), for GPUs
(h100, a100, v100, a6000, rtx6000pro; 1 to 8 of one machine) XLA's compiler for CUDA (extra ``plan-cuda``). Three
programs at most are compiled: the batch that is asked for and half of it (twice, if a device has one row), whose memory
gives the largest batch that fits by a straight line, and that largest one; with ``--quick`` the first alone. Devices
are XLA's: a chip of v3 has two, and libtpu describes a v4 with two as well, though a run joins them to one, which has
more room. A GPU's memory is the share that XLA takes of it (.75; XLA_PYTHON_CLIENT_MEM_FRACTION), in which cuDNN's
workspaces, which are not known here, must fit as well.

A step takes at least two times, and a real one longer than either. Its bound is the longest of computing, reading and
writing memory, and exchanging in a ring, each of the whole step (``bound_seconds``; ``seconds_roofline`` is the same
under the name that it had first). Its roofline adds up, kernel by kernel, the longer of the kernel's own bytes,
operations and exchange, counted in the program's text (``roofline_seconds``; ``ssl_jax/plan/kernels.py``). Exit code 0
for yes and for no, 2 for a refusal.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_jax.plan.devices import Chip

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax import configs
from ssl_jax.run import command, processes

OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT])i?B? of ([\d.]+)([KMGT])")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# XLA finds no tiles for some products, the one behind attention for example, where nothing can be tried on a GPU.
UNTILED = "find output tile sizes"
WITHOUT_TRITON = {"xla_gpu_enable_triton_gemm": False}
LINES = 10  # of the source, those that take longest
MEANING = {  # of what the JSON calls alike, said in it
    "bound_seconds": "the longest of computing, memory and exchange of the whole step",
    "images_per_sec_bound": "examples of a batch over bound_seconds",
    "seconds_roofline": "bound_seconds, by its first name",
    "images_per_sec_roofline": "images_per_sec_bound, by its first name",
    "roofline_seconds": "of every kernel the longer of its bytes, operations and exchange, added up",
}


def main(arguments: list[str]) -> int:
    parser = command.Parser("Does a run fit TPUs or GPUs that are not here, and how fast could it be.")
    parser.add_path(
        "--config", required=True, help="a config file, or one of ours by name; --config.KEY=VALUE changes it"
    )
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16, v4:2x4x4, h100:8, ..., or cpu:8 for simulated devices"
    )
    parser.add_path("--json", help="also write the plan to this file")
    parser.add_argument("--quick", action="store_true", help="yes or no alone, without the largest batch that fits")
    try:
        options, changes = parser.parse_changes(arguments)
        config = configs.load(options.config, changes)
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
    from ssl_jax.plan import devices, program

    devices.prepare(name)
    count = re.fullmatch(r"cpu:([1-9]\d*)", name)
    processes.configure(int(count[1]) if count else 1)
    from ssl_jax.experiment import make_modality

    mesh = devices.topology(name, config.parallel.get("fsdp", 1))
    program.plan_of(config)  # refuses a batch larger than the dataset
    chip = devices.chip(name)
    if chip:
        available = chip.memory * chip.share
    else:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / mesh.size
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
    found |= {"share_of_memory": chip.share if chip else 1.0, "flags": first.get("flags", {})}

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
    """Bytes of a device, and the cost of the program if it could be compiled; else the limit that it broke.

    ``flags``: without which XLA did not compile it.
    """
    from ssl_jax.plan import cost, program

    config, flags = with_batch(config, batch), {}
    try:
        try:
            compiled = program.compile_ahead(config, mesh)
        except Exception as error:  # XLA's
            if UNTILED not in str(error):
                raise
            flags = WITHOUT_TRITON
            compiled = program.compile_ahead(config, mesh, **flags)
        spent = cost.of(compiled)
    except Exception as error:  # XLA's, which says how much it would have needed
        if match := OUT_OF_MEMORY.search(str(error)):
            used, limit = (float(match[i]) * UNITS[match[i + 1]] for i in (1, 3))
            return {"memory": int(used), "limit": int(limit)}
        raise
    return {"memory": spent.memory, "cost": spent, "flags": flags}


def roofline(cost, scale: float, devices: int, chip: Chip | None, batch: int) -> dict[str, Any]:
    """Operations, bytes and the times that they take at least; those of a CPU are not known.

    Args:
      scale: the cost is that of a batch so many times smaller.
    """
    from ssl_jax.plan.cost import sent
    from ssl_jax.plan.kernels import by, moved

    if cost is None:
        keys = ("flops_per_step", *MEANING, "kernels", "bytes_moved", "temporaries", "kinds", "lines")
        return dict.fromkeys(keys)

    def seconds(kernel) -> float:
        return chip.seconds(kernel, devices) if chip else 0.0

    def row(counted) -> dict[str, Any]:
        known = {"seconds": counted.seconds * scale if chip else None}
        return {"number": counted.number, "bytes": round(counted.bytes * scale), "flops": counted.flops * scale} | known

    kinds, lines = by("kind", cost.kernels, seconds), by("line", cost.kernels, seconds)
    found: dict[str, Any] = dict.fromkeys(MEANING) | {
        "meaning": MEANING,
        "flops_per_step": cost.flops * devices * scale,
        "bytes_accessed_per_device": cost.accessed * scale,
        "bytes_sent_per_device": sent(cost.results, devices),
        "collectives": dict(cost.results),
        "kernels": sum(kernel.number for kernel in cost.kernels),
        "bytes_moved": round(moved(cost.kernels) * scale),
        "roofline_seconds": sum(counted.seconds for counted in kinds.values()) * scale if chip else None,
        "temporaries": int(cost.temporaries * scale),
        "loops_of_unknown_turns": cost.unknown_turns,
        "kinds": {kind: row(counted) for kind, counted in kinds.items()},
        "lines": {line or "not known": row(counted) for line, counted in list(lines.items())[:LINES]},
    }
    if chip is None:
        return found
    times = {
        "computing": chip.computing(cost) * scale,
        "memory": cost.accessed * scale / chip.bandwidth,
        "exchange": found["bytes_sent_per_device"] / chip.network,
    }
    longest = max(times.values())
    return found | {
        "seconds": times,
        "collective_seconds": {k: sent({k: size}, devices) / chip.network for k, size in cost.results.items()},
        "bound_by": max(times, key=lambda name: times[name]),
        **dict.fromkeys(("bound_seconds", "seconds_roofline"), longest),
        **dict.fromkeys(("images_per_sec_bound", "images_per_sec_roofline"), batch / longest),
    }


def show(options, found: dict[str, Any]) -> None:
    """The plan in a few lines."""
    gib = 2**30
    name, batch, devices = Path(options.config).stem, found["global_batch_size"], found["devices"]
    share = "" if found["share_of_memory"] == 1 else f", {found['share_of_memory']:.0%} of it all, as XLA takes"
    print(f"{name} at batch {batch} on {devices} devices of {options.topology}")
    print(f"  fits               {'yes' if found['fits'] else 'NO'}")
    print(
        f"  memory of a device {found['bytes_per_device'] / gib:.2f} of {found['bytes_available'] / gib:.2f} GiB{share}"
    )
    if found["largest_global_batch"] is not None:
        of_all = found["largest_global_batch"] == found["examples"] // devices * devices
        print(f"  largest batch      {found['largest_global_batch']}{' (all there is to learn from)' * of_all}")
    if found["flops_per_step"]:
        print(f"  temporaries        {found['temporaries'] / gib:.2f} GiB of a device{_workspaces(options.topology)}")
        print(f"  operations         {found['flops_per_step'] / 1e12:.3g} TFLOP a step, all devices")
        print(f"  memory traffic     {found['bytes_accessed_per_device'] / 1e9:.3g} GB a step and device")
        each = ", ".join(f"{kind} {_exchanged(found, kind)}" for kind in found["collectives"])
        print(f"  exchange           {found['bytes_sent_per_device'] / 1e6:,.1f} MB a step, sent by a device", end="")
        print(f" ({each})" if each else "")
    if found["bound_seconds"]:
        parts = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in found["seconds"].items())
        print(f"  bound              {1e3 * found['bound_seconds']:.2f} ms a step, the longest of {parts}; ", end="")
        print(f"{found['images_per_sec_bound']:,.0f} {found['unit']}/s, bound by {found['bound_by']}")
    if found["flops_per_step"]:
        _show_kernels(found, batch)
    if found["flags"]:
        flags = " ".join(f"--{name}={str(value).lower()}" for name, value in found["flags"].items())
        print(f"  compiled with      XLA_FLAGS={flags}, without which XLA does not; a run may need it, too")
    print(f"  planned in         {found['seconds_of_planning']} s")


def _show_kernels(found: dict[str, Any], batch: int) -> None:
    """Kernels by kind and by line of the source, each with number, GB, GFLOP and, where speeds are known, ms."""
    least = found["roofline_seconds"]
    if least:
        print(f"  roofline           {1e3 * least:.2f} ms a step, kernels added up; ", end="")
        print(f"{batch / least:,.0f} {found['unit']}/s")
    print(f"  kernels            {found['kernels']:,} a step and device, {found['bytes_moved'] / 1e9:.3g} GB moved")
    if found["loops_of_unknown_turns"]:
        print(f"                     {found['loops_of_unknown_turns']} loops of unknown turns are counted as one turn")
    for heading, rows in (("by kind", found["kinds"]), ("by line of the source, the longest", found["lines"])):
        print(f"    {heading:45s} {'number':>7s} {'GB':>8s} {'GFLOP':>9s}{'ms' if least else '':>9s}".rstrip())
        for name, counted in rows.items():
            time_ = "" if counted["seconds"] is None else f"{1e3 * counted['seconds']:9.3f}"
            print(
                f"      {name:43s} {counted['number']:7,d} {counted['bytes'] / 1e9:8.3f} {counted['flops'] / 1e9:9.1f}"
                f"{time_}"
            )


def _exchanged(found: dict[str, Any], kind: str) -> str:
    took = found.get("collective_seconds", {}).get(kind)
    return f"{found['collectives'][kind] / 1e6:,.1f} MB" + ("" if took is None else f" in {1e3 * took:.2f} ms")


def _workspaces(topology: str) -> str:
    from ssl_jax.plan import devices

    return ", without cuDNN's workspaces, which are not known here" if devices.is_gpu(topology) else ""


if __name__ == "__main__":
    command.run(main)
