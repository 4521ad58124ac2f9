"""What a compiled program launches, counted in its text: kernels with their bytes, operations and source lines.

A kernel reads its operands and writes its results once: of a slice or a gather what is taken, of an update in place
what is put. That is a bound from below for a kernel that reads something twice, and from above for one whose operands
lie in a cache. Operations are those of products and convolutions, inside fusions as well; loops are multiplied out
where the number of their turns is known, and of a conditional's branches the one that moves more is counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ssl_jax.plan.hlo import TURNS, Instruction, Program, elements, parse, results, shapes, size

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
IDLE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id"}
IDLE |= {"optimization-barrier", "opt-barrier", "add-dependency", "async-update", "iota"}
SLICES = {"dynamic-slice", "slice", "gather"}
MOVES = {"copy", "transpose", "bitcast", "parameter", "reshape", "tuple", "get-tuple-element"}


class Kernel(NamedTuple):
    """One instruction that runs.

    Attributes:
      kind: ``convolution``, ``gemm``, ``attention``, ``reduction``, ``fusion`` (elementwise), ``copy``, ``transpose``,
        ``scatter``, ``sort``, ``collective``, ``loop``, ``conditional``, or the name of a library's call.
      number: how often in a run of the program.
      bytes, flops: each time.
      precision: ``bfloat16`` (float16 too), ``tf32`` (float32 at default precision) or ``float32`` of its products.
      line: ``ssl_jax/FILE:LINE``, empty where none is known.
      exchange: which collective, and the bytes of its results; else None.
      name: of the instruction, by which a profile calls it; empty of loops and conditionals, whose parts are counted.
    """

    kind: str
    number: int
    bytes: int
    flops: float = 0.0
    precision: str = "bfloat16"
    line: str = ""
    exchange: tuple[str, int] | None = None
    name: str = ""


class Counted(NamedTuple):
    """Kernels of one kind, or of one line."""

    number: int
    bytes: int
    flops: float
    seconds: float


def launched(text: str) -> list[Kernel]:
    """The kernels of an optimised program, from its text."""
    program = parse(text)
    return list(_run(program, program.entry, 1))


def unknown_turns(text: str) -> int:
    """Loops whose number of turns XLA does not say; their bodies are counted once."""
    bodies = parse(text).computations.values()
    return sum(i.op == "while" and not TURNS.search(i.rest) for body in bodies for i in body.values())


def moved(kernels: Iterable[Kernel]) -> int:
    """Bytes read and written in a run."""
    return sum(kernel.number * kernel.bytes for kernel in kernels)


def by(key: str, kernels: Iterable[Kernel], seconds: Callable[[Kernel], float]) -> dict[str, Counted]:
    """Kernels added up by ``"kind"`` or ``"line"``, the longest first.

    Args:
      seconds: of one kernel, once.
    """
    found: dict[str, Counted] = {}
    for kernel in kernels:
        n, name = kernel.number, getattr(kernel, key)
        number, size, flops, took = found.get(name, (0, 0, 0.0, 0.0))
        more = n * seconds(kernel)
        found[name] = Counted(number + n, size + n * kernel.bytes, flops + n * kernel.flops, took + more)
    return dict(sorted(found.items(), key=lambda item: (-item[1].seconds, -item[1].bytes, item[0])))


def _run(program: Program, name: str, times: int):
    """The kernels that a computation launches, each ``times`` as often."""
    body = program.computations[name]
    for i in body.values():
        if i.op in IDLE or i.op.endswith("-done"):
            continue
        called = program.called(i)
        if i.op == "while":
            turns = int(match[1]) if (match := TURNS.search(i.rest)) else 1
            yield Kernel("loop", times, 0, line=program.line(i))
            yield from _run(program, i.attribute("body"), times * turns)
        elif i.op == "conditional":
            yield Kernel("conditional", times, 0, line=program.line(i))
            yield from max((list(_run(program, branch, times)) for branch in called), key=lambda k: (moved(k), len(k)))
        elif i.op in ("call", "async-start") and called:
            yield from _run(program, called[0], times)
        else:
            yield _kernel(program, body, i)._replace(number=times, name=i.name)


def _kernel(program: Program, body: dict[str, Instruction], i: Instruction) -> Kernel:
    collective = i.op.removesuffix("-start")
    given = [body[name].shape if name in body else "" for name in i.operands]
    if collective in COLLECTIVES:
        out = results(collective, i.shape, started=i.op.endswith("-start"))
        traffic = out + sum(map(size, given))
        return Kernel("collective", 1, traffic, line=program.line(i), exchange=(collective, out))
    inside = program.called(i) if i.op == "fusion" else []
    flops, precision = _flops(program, inside[0]) if inside else _product(i, given)
    if inside:
        fused = program.computations[inside[0]]
        traffic = _written(fused, i.shape) + sum(_read(fused, n, size(shape)) for n, shape in enumerate(given))
    elif i.op in SLICES:
        traffic = 2 * size(i.shape) + sum(map(size, given[1:]))
    elif i.op in ("dynamic-update-slice", "scatter"):
        traffic = 2 * size(given[-1 if i.op == "scatter" else 1]) + (size(given[1]) if i.op == "scatter" else 0)
    elif i.op == "copy-start":
        traffic = 2 * sum(map(size, given))
    else:
        traffic = size(i.shape) + sum(map(size, given))
    return Kernel(_kind(program, i, inside), 1, traffic, flops, precision, program.line(i))


def _kind(program: Program, i: Instruction, inside: list[str]) -> str:
    if i.op == "custom-call":
        target = i.attribute("custom_call_target")
        words = {"conv": "convolution", "fmha": "attention", "gemm": "gemm", "matmul": "gemm", "Sort": "sort"}
        return next((kind for word, kind in words.items() if word in target), f"call {target}")
    ops = _ops(program, inside[0]) if inside else {i.op}
    for op, kind in (("convolution", "convolution"), ("dot", "gemm"), ("sort", "sort"), ("scatter", "scatter")):
        if op in ops:
            return kind
    if ops & {"reduce", "reduce-window", "select-and-scatter"}:
        return "reduction"
    if i.op in ("copy", "copy-start") or (inside and ops <= MOVES and "copy" in ops):
        return "copy"
    return "transpose" if "transpose" in ops or "transpose" in i.name else "fusion"


def _ops(program: Program, name: str) -> set[str]:
    """What is done in a computation and in those that its fusions call."""
    ops: set[str] = set()
    for i in program.computations[name].values():
        ops.add(i.op)
        if i.op in ("fusion", "call"):
            ops = ops.union(*(_ops(program, inner) for inner in program.called(i)))
    return ops


def _read(fused: dict[str, Instruction], number: int, full: int) -> int:
    """Bytes that a fusion reads of its operand: of slices alone what they take, of an update in place nothing."""
    parameter = next((i for i in fused.values() if i.op == "parameter" and i.rest.startswith(f"{number})")), None)
    if parameter is None:
        return full
    names, users = {parameter.name}, []
    for i in fused.values():
        if not names.isdisjoint(i.operands):
            if i.op == "bitcast":
                names.add(i.name)
            else:
                users.append(i)
    taken = 0
    for user in users:
        first = user.operands[0] in names and names.isdisjoint(user.operands[1:])
        if first and user.op in SLICES:
            taken += size(user.shape)
        elif first and user.op == "scatter":
            taken += size(fused[user.operands[-1]].shape)
        elif not (first and user.op == "dynamic-update-slice"):
            return full
    return min(full, taken)


def _written(fused: dict[str, Instruction], shape: str) -> int:
    """Bytes that a fusion writes: its results, of those that are updates in place what is put."""
    root = next((i for i in fused.values() if i.root), None)
    if root is None:
        return size(shape)

    def put(i: Instruction) -> int:
        if i.op == "bitcast" and i.operands[0] in fused:
            return put(fused[i.operands[0]]) if size(fused[i.operands[0]].shape) == size(i.shape) else size(i.shape)
        if i.op == "dynamic-update-slice":
            return size(fused[i.operands[1]].shape)
        if i.op == "scatter" and not i.shape.startswith("("):
            return size(fused[i.operands[-1]].shape)
        return size(i.shape)

    return sum(put(fused[name]) for name in root.operands) if root.op == "tuple" else put(root)


def _flops(program: Program, name: str) -> tuple[float, str]:
    """Operations of the products in a computation, and the precision of the most exact of them."""
    body, total, found = program.computations[name], 0.0, set()
    for i in body.values():
        if i.op in ("fusion", "call"):
            parts = [_flops(program, inner) for inner in program.called(i)]
        else:
            parts = [_product(i, [body[operand].shape if operand in body else "" for operand in i.operands])]
        for flops, precision in parts:
            total += flops
            found |= {precision} if flops else set()
    return total, next((kind for kind in ("float32", "tf32") if kind in found), "bfloat16")


def _product(i: Instruction, given: list[str]) -> tuple[float, str]:
    """Operations of one product or convolution, 0 of anything else, and the precision of its operands."""
    if i.op not in ("dot", "convolution", "custom-call") or not given:
        return 0.0, "bfloat16"
    target = i.attribute("custom_call_target")
    out = next(iter(shapes(i.shape)), ("", ()))[1]
    flops = 0.0
    if i.op == "convolution" or "conv" in target:
        # Every output is a sum over a window and the channels of its group: elements of the kernel per output feature.
        kernel, grad = given[1], out
        if "BackwardFilter" in target:
            kernel, grad = i.shape, shapes(given[1])[0][1]
        elif "BackwardInput" in target:
            grad = shapes(given[0])[0][1]
        dims = shapes(kernel)[0][1]
        features = dims[re.split("[_>-]+", i.attribute("dim_labels"))[1].index("o")]
        flops = 2.0 * math.prod(grad) * math.prod(dims) / features / _dilation(i)
    elif i.op == "dot" or "gemm" in target or "matmul" in target:
        left = shapes(given[0])[0][1]
        found = i.attribute("lhs_contracting_dims") if i.op == "dot" else _config(i, "lhs_contracting_dimensions")
        flops = 2.0 * math.prod(out) * math.prod(left[int(dim)] for dim in re.findall(r"\d+", found))
    elif "fmha" in target:  # two products forward, five backward, which computes the logits again
        logits = [int(dim) for dim in re.findall(r"\d+", _config(i, "dimensions"))]
        if len(logits) == 4:
            width = elements(given[0]) // math.prod(logits[:3])
            flops = (10.0 if "Backward" in target else 4.0) * math.prod(logits) * width
    kinds = {kind for shape in given[:2] for kind, _ in shapes(shape)}
    if kinds.isdisjoint({"f32", "f64"}):
        return flops, "bfloat16"
    return flops, "float32" if "highest" in i.rest.lower() else "tf32"


def _dilation(i: Instruction) -> int:
    """Of a convolution whose operand is spread with zeros: that many times fewer products are of numbers."""
    window = i.attribute("window")
    match = re.search(r"lhs_dilate=([\dx]+)", window)
    return math.prod(map(int, match[1].split("x"))) if match else 1


def _config(i: Instruction, name: str) -> str:
    """The list ``"name":[...]`` in the configuration of a library's call, as text."""
    match = re.search(rf'"{name}": ?\[([^\]]*)\]', i.rest)
    return match[1] if match else ""
