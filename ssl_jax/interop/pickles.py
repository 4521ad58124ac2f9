"""Pickles read as data: an interpreter of their opcodes that imports nothing and calls nothing of the file's choosing.

A pickle is a program. Python's own machinery runs it and can only be told which names it may import; a hash of nested
tuples or a length that is claimed still ends the process or fills the memory. Here each opcode is carried out on plain
Python values, a name becomes a :class:`Global` that is never looked up, and what is called is a constructor of
:data:`constructors.MAKERS` or nothing: then the value is an inert :class:`Placeholder` with what it was given. Arrays
stay descriptions until :func:`tree` has compared them with the bytes that are there.
"""

from __future__ import annotations

import pickletools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ssl_jax.interop.constructors import (
    OPCODES,
    SAVE,
    Array,
    Fields,
    Global,
    Limits,
    Placeholder,
    Storage,
    extend,
    kind,
    make,
    put,
    set_state,
)
from ssl_jax.interop.plain import Unreadable

DEPTH, WORD = 100, 32  # levels of a tree; bytes of a whole number
PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Names that run a command or a program: no file of weights has a use for them.
COMMANDS = re.compile(
    r"(os|posix|nt)\.(system|popen\d?|exec\w+|spawn\w+|posix_spawnp?|startfile|fork\w*|kill|remove|unlink|rmdir|rename)"
    r"(\..*)?|(subprocess|commands|pty|runpy|marshal|code|ctypes|socket|shutil|webbrowser|timeit|pdb|importlib|pip)\..*"
    r"|builtins\.(eval|exec|compile|__import__|open|breakpoint|execfile)"
)


@contextmanager
def warned(limits: Limits) -> Iterator[None]:
    """Where a file that is refused is a program: that it must not be loaded, in place of what to do with it."""
    try:
        yield
    except Unreadable as error:
        if not limits.commands:
            raise
        said, names = str(error).partition(f"; {SAVE}")[0], ", ".join(list(limits.commands)[:3])
        raise Unreadable(f"{said}; it would run a command when it is loaded ({names}): do not load it") from None


def load(file: BinaryIO, limits: Limits, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle that begins where the file is; the file is left behind its end.

    Args:
      persistent: what an id that points outside the pickle means; without it there must be none.

    Raises:
      Unreadable: damaged, cut, larger than it may be, or it asks for what data never needs.
    """
    try:
        return _run(file, limits, persistent)
    except Unreadable:
        raise
    except Exception as error:  # whatever broken bytes lead to: an empty stack, a name that is not put, ...
        said = (str(error).splitlines() or [""])[0][:120]
        raise Unreadable(f"a damaged or cut pickle ({type(error).__name__}: {said}); get the file again") from None


def _run(file: BinaryIO, limits: Limits, persistent: Callable[[Any], Any] | None) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # of each mark the stack that it covers
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:  # and `stack` is another list afterwards
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    def named(name: str) -> Global:
        if COMMANDS.fullmatch(name):
            limits.commands[name] = None
        return Global(name)

    def call(function: Any, args: Any) -> Any:
        if isinstance(function, Fields) and isinstance(args, tuple) and len(args) == len(function.fields):
            return dict(zip(function.fields, args, strict=True))
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise Unreadable(f"it calls {kind(function)}; {SAVE}")
        return make(function, args, limits)

    given: Any
    for opcode, given, _ in pickletools.genops(file):
        limits.opcodes -= 1
        if limits.opcodes < 0:
            raise Unreadable(f"it has more than {OPCODES:,} steps; {SAVE}")
        name = opcode.name
        if name in PUSHED:
            if type(given) is int and given.bit_length() > 8 * WORD:
                raise Unreadable(f"a whole number of {given.bit_length()} bits; get the file again")
            stack.append(given)
            continue
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
            continue
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[given])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[given] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = TUPLES[name]
                if len(stack) < n:
                    raise Unreadable("a damaged pickle: it takes what is not there; get the file again")
                stack[-n:] = [tuple(stack[-n:])]
            case "REDUCE" | "NEWOBJ":
                args = stack.pop()
                stack[-1] = call(stack[-1], args)
            case "BINPERSID" | "PERSID":
                pid = stack.pop() if name == "BINPERSID" else given
                if persistent is None:
                    raise Unreadable(f"it points to what lies outside of it; {SAVE}")
                stack.append(persistent(pid))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "LIST":
                items = marked()
                stack.append(items)
            case "TUPLE" | "FROZENSET":
                items = marked()
                stack.append(tuple(items))
            case "DICT":
                items = marked()
                stack.append({})
                put(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                extend(stack[-1], [item])
            case "APPENDS" | "ADDITEMS":
                items = marked()
                extend(stack[-1], items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                put(stack[-1], [key, item])
            case "SETITEMS":
                items = marked()
                put(stack[-1], items)
            case "BUILD":
                state = stack.pop()
                stack[-1] = set_state(stack[-1], state)
            case "GLOBAL":
                stack.append(named(dotted(*given.split(" ", 1))))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(named(dotted(module, attribute)))
            case "INST":
                items = marked()
                stack.append(call(named(dotted(*given.split(" ", 1))), tuple(items)))
            case "OBJ":
                items = marked()
                stack.append(call(items[0], tuple(items[1:])))
            case "NEWOBJ_EX":
                words, args = stack.pop(), stack.pop()
                if not isinstance(words, dict):
                    raise Unreadable(f"it calls something with {kind(words)}; {SAVE}")
                made = call(stack[-1], args)
                stack[-1] = set_state(made, words) if words else made
            case "DUP":
                stack.append(stack[-1])
            case "POP":
                _ = stack.pop() if stack else marked()
            case "POP_MARK":
                marked()
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case _:  # EXT1, EXT2, EXT4, NEXT_BUFFER, READONLY_BUFFER
                raise Unreadable(f"a pickle with {name}, which no file of weights has; {SAVE}")
    raise Unreadable("a pickle without an end; the file is cut, get it again")


def dotted(module: Any, attribute: Any) -> str:
    """ "numpy.dtype", of Python 2's names today's; what cannot be printed is a "?" in it."""
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise Unreadable("a damaged pickle: a name that is no text; get the file again")
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    return "".join(c if c.isprintable() else "?" for c in f"{module[:200]}.{attribute[:200]}")


# ------------------------------------------------------------------------------------------------------- the tree


class Tree(NamedTuple):
    """Attributes:
    value: nested dicts and lists, NumPy arrays, text and numbers, and placeholders.
    passed_over: name of what was not built -> how often.
    arrays: how many arrays lie outside of what was not built.
    """

    value: Any
    passed_over: dict[str, int]
    arrays: int


def tree(value: Any, limits: Limits) -> Tree:
    """What :func:`load` gave, with its arrays laid out; call it when their numbers are there.

    Raises:
      Unreadable: arrays that do not lie within their numbers, a tree that is deeper or larger than the file allows.
    """
    passed: Counter[str] = Counter()
    seen: dict[int, Placeholder] = {}
    arrays = 0

    def walk(value: Any, depth: int, inside: bool) -> Any:
        nonlocal arrays
        limits.items_of(1)
        if depth > DEPTH:
            raise Unreadable(f"it is nested more than {DEPTH} deep; {SAVE}")
        if isinstance(value, Array):
            limits.numbers_of(value.nbytes())
            arrays += not inside
            return value.build()
        if isinstance(value, dict):
            return {key: walk(item, depth + 1, inside) for key, item in value.items()}
        if isinstance(value, np.dtype):
            return value.name
        if isinstance(value, (Global, Storage, Fields)):
            value = Placeholder(kind(value))
        if isinstance(value, (list, tuple)):
            return [walk(item, depth + 1, inside) for item in value]
        if isinstance(value, Placeholder) and id(value) not in seen:
            seen[id(value)] = value  # once, as objects point to each other in circles; it keeps the id alive
            passed[value.name] += 1
            for part in ("args", "state", "items"):
                setattr(value, part, walk(getattr(value, part), depth + 1, True))
        return value

    return Tree(walk(value, 0, False), dict(passed), arrays)
