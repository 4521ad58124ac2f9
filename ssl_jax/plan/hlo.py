"""The text of a compiled program: its computations, their instructions, sizes of shapes and lines of the source."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8, "c64": 8}
SHAPE = re.compile(r"\b(pred|[subfc]+\d+\w*)\[([\d,]*)\]")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
ROW = re.compile(r"^(\d+) (.*)$")
FRAME = re.compile(r"stack_frame_id=(\d+)")
PACKAGE = re.compile(r".*/((?:ssl_jax|experiments)/.*)")
TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      shape: of its result, as text; a tuple's in parentheses.
      operands: their names.
      rest: the text behind the opening parenthesis: operands, attributes, metadata.
    """

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, name: str) -> str:
        """The value of ``name=value``, braces and quotes left off; empty where there is none."""
        match = re.search(rf'\b{name}=(?:\{{([^}}]*)\}}|"([^"]*)"|%?([^\s,]+))', self.rest)
        return next((part for part in match.groups() if part is not None), "") if match else ""


class Program(NamedTuple):
    """Computations by name, each its instructions by name in their order; lines of the source by stack frame."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    lines: dict[str, str]

    def called(self, instruction: Instruction) -> list[str]:
        """Names of the computations that an instruction runs, branches of a conditional in their order."""
        names = CALLED.findall(instruction.rest)
        if match := BRANCHES.search(instruction.rest):
            names += re.findall(r"[\w.\-]+", match[1])
        return [name for name in names if name in self.computations]

    def line(self, instruction: Instruction) -> str:
        """``ssl_jax/FILE:LINE`` that an instruction, or the last of what it runs, comes of; empty if none is known."""
        if match := FRAME.search(instruction.rest):
            return self.lines.get(match[1], "")
        inner = [i for name in self.called(instruction) for i in self.computations[name].values()]
        return next((self.lines.get(m[1], "") for i in reversed(inner) if (m := FRAME.search(i.rest))), "")


def parse(program: str) -> Program:
    """A program from its text (``jax.stages.Compiled.as_text``)."""
    bodies, entry = computations(program)
    parsed: dict[str, dict[str, Instruction]] = {}
    for name, lines in bodies.items():
        found = filter(None, map(_instruction, lines))
        parsed[name] = {instruction.name: instruction for instruction in found}
    return Program(parsed, entry, _source_lines(program))


def computations(program: str) -> tuple[dict[str, list[str]], str]:
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


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(type, dimensions) of every array in the text of a shape."""
    return [(kind, tuple(map(int, filter(None, dims.split(","))))) for kind, dims in SHAPE.findall(text)]


def elements(text: str) -> int:
    """Numbers in all arrays of a shape."""
    return sum(math.prod(dims) for _, dims in shapes(text))


def size(text: str) -> int:
    """Bytes of all arrays of a shape."""
    return sum(math.prod(dims) * BYTES.get(kind, 1 if kind.startswith("f8") else 4) for kind, dims in shapes(text))


def results(collective: str, shape: str, *, started: bool) -> int:
    """Bytes of the results of a collective; ``started``: of its start, whose shape is (operands, results, ...)."""
    arrays = [f"{kind}[{','.join(map(str, dims))}]" for kind, dims in shapes(shape)]
    if started and collective != "all-reduce":
        half = len(arrays) // 2 if collective != "collective-permute" else 1
        arrays = arrays[half : 2 * half]
    return sum(map(size, arrays))


def _instruction(line: str) -> Instruction | None:
    if not (match := INSTRUCTION.match(line)):
        return None
    root, name, shape, op, rest = match.groups()
    depth = 1
    for end, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return Instruction(name, shape, op, tuple(NAME.findall(rest[:end])), rest, bool(root))
    return None


def _source_lines(program: str) -> dict[str, str]:
    """The innermost line of this project in every stack frame that the program's head lists."""
    tables: dict[str, dict[str, str]] = {name: {} for name in TABLES}
    table = None
    for line in program.splitlines():
        if line in tables:
            table = tables[line]
        elif table is not None and (match := ROW.match(line)):
            table[match[1]] = match[2]
        elif HEAD.match(line):
            break
    files = {number: PACKAGE.match(name.strip('"')) for number, name in tables["FileNames"].items()}
    frames: dict[str, tuple[str, str]] = {}
    for number, value in tables["StackFrames"].items():
        place, parent = re.findall(r"=(\d+)", value)
        location = re.findall(r"=(\d+)", tables["FileLocations"][place])
        file = files[location[0]]
        frames[number] = (f"{file[1]}:{location[2]}" if file else "", str(int(parent) - 1))  # 1 stands for none

    def innermost(number: str) -> str:
        while number in frames and not frames[number][0]:
            number = frames[number][1]
        return frames[number][0] if number in frames else ""

    return {number: innermost(number) for number in frames}
