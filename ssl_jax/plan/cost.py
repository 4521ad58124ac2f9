"""What a compiled program costs, read off it without running it: operations, bytes of memory, bytes exchanged.

Sizes are per device. XLA counts the operations of a loop's body once, whatever its number of turns; what is exchanged
is counted here as often as the loops around it turn, where XLA knows how often that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8, "c64": 8}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COLLECTIVE = re.compile(rf" = (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
CHANNEL = re.compile(r"channel_id=(\d+)")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$", re.M)
CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Cost(NamedTuple):
    """Of one run of a program.

    Attributes:
      flops: floating-point operations of one device.
      accessed: bytes that its instructions read and write.
      arguments, outputs, donated, temporaries: bytes; ``donated`` are counted in the two before it.
      results: bytes of the results of its collective operations, by kind (``all-reduce``, ...).
    """

    flops: float
    accessed: float
    arguments: int
    outputs: int
    donated: int
    temporaries: int
    results: Mapping[str, int]

    @property
    def memory(self) -> int:
        """Bytes that must be there at once: arguments, outputs that take no argument's place, temporaries."""
        return self.arguments + self.outputs - self.donated + self.temporaries


def of(compiled: Any) -> Cost:
    """The cost of a compiled program (``jax.stages.Compiled``)."""
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    memory = compiled.memory_analysis()
    return Cost(
        flops=analysis.get("flops", 0.0),
        accessed=analysis.get("bytes accessed", 0.0),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        results=collectives(compiled.as_text()),
    )


def collectives(program: str) -> dict[str, int]:
    """Bytes of the results of the collective operations of a program's text, by kind; loops multiplied out.

    An operation that is split into a start and a done counts once, and so does one that TPUs spread over several
    fusions, which all name its channel.
    """
    bodies, entry = _computations(program)
    found: Counter[str] = Counter()
    channels: set[str] = set()

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            channel = CHANNEL.search(line)
            if (match := COLLECTIVE.search(line)) and not (channel and channel[1] in channels):
                channels.update(channel.groups() if channel else ())
                shapes = SHAPE.findall(match[1])
                if match[3] and match[2] != "all-reduce":  # (operands, results, ...)
                    half = len(shapes) // 2 if match[2] != "collective-permute" else 1
                    shapes = shapes[half : 2 * half]
                found[match[2]] += times * sum(map(_bytes, shapes))
            turns = int(match[1]) if (match := TURNS.search(line)) else 1
            called = CALLED.findall(line)
            if match := BRANCHES.search(line):
                called += re.findall(r"[\w.\-]+", match[1])
            for other in called:
                visit(other, times * turns)

    visit(entry, 1)
    return dict(found)


def sent(results: Mapping[str, int], devices: int) -> float:
    """Bytes that a device sends in a ring of all devices for results of so many bytes.

    An all-reduce sends its bytes 2 (n - 1) / n times, an all-gather and an all-to-all (n - 1) / n times, a
    reduce-scatter n - 1 times those of its result, a permutation once.
    """
    n = devices
    factor = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
    return sum(factor.get(kind, (n - 1) / n) * size for kind, size in results.items())


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """(lines of every computation by name, name of the entry)."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if line[:1] not in (" ", "}") and (match := HEAD.match(line)):
            name = match[2]
            bodies[name] = []
            entry = name if match[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _bytes(shape: tuple[str, str]) -> int:
    kind, sizes = shape
    count = 1
    for size in filter(None, sizes.split(",")):
        count *= int(size)
    return count * BYTES.get(kind, 4)
