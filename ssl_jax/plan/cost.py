"""What a compiled program costs, read off it without running it: operations, bytes of memory, bytes exchanged.

Sizes are per device. XLA counts the operations of a loop's body once, whatever its number of turns; what is exchanged
is counted here as often as the loops around it turn, where XLA knows how often that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.plan import hlo
from ssl_jax.plan.kernels import Kernel, launched, moved, unknown_turns

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COLLECTIVE = re.compile(rf" = (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
CHANNEL = re.compile(r"channel_id=(\d+)")


class Cost(NamedTuple):
    """Of one run of a program.

    Attributes:
      flops: floating-point operations of one device.
      accessed: bytes that its instructions read and write.
      arguments, outputs, donated, temporaries: bytes; ``donated`` are counted in the two before it.
      results: bytes of the results of its collective operations, by kind (``all-reduce``, ...).
      kernels: what it launches, counted in its text.
      unknown_turns: loops among them of which XLA does not say how often they turn.
    """

    flops: float
    accessed: float
    arguments: int
    outputs: int
    donated: int
    temporaries: int
    results: Mapping[str, int]
    kernels: Sequence[Kernel] = ()
    unknown_turns: int = 0

    @property
    def memory(self) -> int:
        """Bytes that must be there at once: arguments, outputs that take no argument's place, temporaries."""
        return self.arguments + self.outputs - self.donated + self.temporaries


def of(compiled: Any) -> Cost:
    """The cost of a compiled program (``jax.stages.Compiled``).

    Of a program for a GPU that is not here XLA counts nothing: then operations and bytes are those of its kernels.
    """
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    memory, text = compiled.memory_analysis(), compiled.as_text()
    kernels = launched(text)
    if analysis is None:
        flops = sum(kernel.number * kernel.flops for kernel in kernels)
        analysis = {"flops": flops, "bytes accessed": float(moved(kernels))}
    return Cost(
        flops=analysis.get("flops", 0.0),
        accessed=analysis.get("bytes accessed", 0.0),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        results=collectives(text),
        kernels=tuple(kernels),
        unknown_turns=unknown_turns(text),
    )


def collectives(program: str) -> dict[str, int]:
    """Bytes of the results of the collective operations of a program's text, by kind; loops multiplied out.

    An operation that is split into a start and a done counts once, and so does one that TPUs spread over several
    fusions, which all name its channel.
    """
    bodies, entry = hlo.computations(program)
    found: Counter[str] = Counter()
    channels: set[str] = set()

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            channel = CHANNEL.search(line)
            if (match := COLLECTIVE.search(line)) and not (channel and channel[1] in channels):
                channels.update(channel.groups() if channel else ())
                found[match[2]] += times * hlo.results(match[2], match[1], started=bool(match[3]))
            turns = int(match[1]) if (match := hlo.TURNS.search(line)) else 1
            called = hlo.CALLED.findall(line)
            if match := hlo.BRANCHES.search(line):
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
