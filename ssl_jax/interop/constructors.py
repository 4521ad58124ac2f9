"""What an interpreted pickle may be made of: names, placeholders, arrays not laid out yet, and their constructors.

Each constructor is given plain values and counts what it copies; what is not in :data:`MAKERS` is not called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.interop.plain import DIMENSIONS, Unreadable

OPCODES = 1 << 20  # of one file; 2,000 tensors with their optimizer have 200,000
KEY, ARGUMENTS = 1024, 16  # characters; of a call
COPIES = 4  # times the file's size: views that share numbers, laid out one by one, may not be longer
TORCH = {  # its storages and, below, its dtypes
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64"},
    **{"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}
STORAGES = {f"{module}.{kind}Storage": name for kind, name in TORCH.items() for module in ("torch", "torch.cuda")}
STORAGES |= {"torch.storage.UntypedStorage": "uint8", "torch.UntypedStorage": "uint8"}
NUMBERS = {*TORCH.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"}
NUMBERS |= {"float8_e5m2fnuz"}
SAVE = "load it where you trust it and torch.save(model.state_dict(), 'X.pth') again"


class Global(NamedTuple):
    """A name that a file asks to import."""

    name: str


class Fields(NamedTuple):
    """A namedtuple that a file brings with it: its values become a dict."""

    fields: tuple[str, ...]


class Placeholder:
    """What was not built: the dotted name that made it, and what it was given.

    Attributes:
      name: "argparse.Namespace".
      args: of the call.
      state: what its ``__setstate__`` or ``__dict__`` would have got.
      items: values that were appended, and pairs (key, value).
    """

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: Any = (), state: Any = None, items: Any = ()) -> None:
        self.name, self.args, self.state, self.items = name, args, state, list(items)

    def __repr__(self) -> str:
        return f"<{self.name}: not built>"


class Storage:
    """Numbers of torch; ``data`` comes behind the pickle in a legacy file, and ``start`` counts in it."""

    __slots__ = ("data", "dtype", "numel", "start")

    def __init__(self, dtype: str, numel: int, data: Any = None, start: int = 0) -> None:
        self.dtype, self.numel, self.data, self.start = dtype, numel, data, start

    def bytes(self) -> memoryview:
        size = np.dtype(self.dtype).itemsize
        begin, end = self.start * size, (self.start + self.numel) * size
        if self.data is None or len(self.data) < end:
            raise Unreadable("a storage is shorter than the file says; the file is cut, get it again")
        return memoryview(self.data)[begin:end]


class Array:
    """An array that is not laid out yet: numbers, and which of them; strides count numbers, None is row by row."""

    __slots__ = ("data", "dtype", "made", "offset", "shape", "strides")

    def __init__(self, data: Any, dtype: Any, shape: Any, strides: Any = None, offset: Any = 0) -> None:
        self.data, self.dtype, self.offset = data, dtype, offset
        self.shape: Any = shape
        self.strides: Any = strides
        self.made: np.ndarray | None = None

    def nbytes(self) -> int:
        """Of the whole, after its shape has been found to be one."""
        for name, of in (("shape", self.shape), ("strides", self.strides or ())):
            listed = isinstance(of, (tuple, list)) and len(of) <= DIMENSIONS
            if not listed or not all(type(n) is int and 0 <= n < 1 << 48 for n in of):
                raise Unreadable(f"an array's {name} is none that can be; get the file again")
        if not isinstance(self.dtype, np.dtype):
            raise Unreadable(f"an array is of {kind(self.dtype)} and not of numbers; {SAVE}")
        nbytes = math.prod(self.shape) * self.dtype.itemsize
        if isinstance(self.data, (bytes, bytearray, str)) and len(self.data) != nbytes:
            raise Unreadable(f"an array of {nbytes} bytes has {len(self.data)}; the file is cut or wrong, get it again")
        if isinstance(self.data, Storage) and nbytes:
            self._end(len(self.data.bytes()) // self.dtype.itemsize)
        return nbytes

    def _end(self, length: int) -> int:
        """How many of ``length`` numbers it needs, after that has been found to be no more than there are."""
        strides = _row_by_row(tuple(self.shape)) if self.strides is None else self.strides
        if type(self.offset) is not int or self.offset < 0 or len(strides) != len(self.shape):
            raise Unreadable("an array begins or steps where it cannot; get the file again")
        end = 1 + self.offset + sum((n - 1) * step for n, step in zip(self.shape, strides, strict=True))
        if end > length:
            raise Unreadable(f"an array ends at number {end} of {length}; the file is cut or wrong, get it again")
        return end

    def build(self) -> np.ndarray:
        """Contiguous in C's order, read-only where it is a view of the file; call after :meth:`nbytes`."""
        if self.made is None:
            self.made = self._build()
        return self.made

    def _build(self) -> np.ndarray:
        dtype, shape, start = self.dtype, tuple(self.shape), self.offset
        data = self.data.bytes() if isinstance(self.data, Storage) else self.data
        if isinstance(data, str):  # what Python 2 called bytes
            data = data.encode("latin-1")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise Unreadable(f"an array is made of {kind(data)} and not of numbers; {SAVE}")
        length = len(data) // dtype.itemsize
        strides = _row_by_row(shape) if self.strides is None else tuple(self.strides)
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        end = self._end(length)
        flat = np.frombuffer(data, dtype, end - start, start * dtype.itemsize)
        steps = tuple(step * dtype.itemsize for step in strides)
        view = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
        if dtype == np.bool_:  # a byte that is neither 0 nor 1 would be no truth value of NumPy's
            return view.view(np.uint8) != 0
        native = view if dtype.isnative else view.astype(dtype.newbyteorder("="))
        return np.require(native, requirements=["C", "A"])


def _row_by_row(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps = [1]
    for n in reversed(shape[1:]):
        steps.append(steps[-1] * n)
    return tuple(reversed(steps)) if shape else ()


class Limits:
    """What a file of some bytes may still ask for, over all of its pickles."""

    def __init__(self, size: int) -> None:
        self.opcodes, self.items, self.numbers = OPCODES, 4 * size + 1024, COPIES * size + 1024
        self.commands: dict[str, None] = {}  # what it asks for that runs something, in its order

    def items_of(self, n: int) -> None:
        """Count what a constructor copies and what a tree holds, or refuse."""
        self.items -= n
        if self.items < 0:
            raise Unreadable(f"it unpacks to more values than its length allows; {SAVE}")

    def numbers_of(self, nbytes: int) -> None:
        self.numbers -= nbytes
        if self.numbers < 0:
            raise Unreadable(f"its arrays unpack to more than {COPIES} times the file; save them contiguous, each once")


def kind(value: Any) -> str:
    """What a value is, in a word, whatever it is."""
    if isinstance(value, (Placeholder, Global)):
        return value.name[:80]
    words = {Array: "an array", Storage: "a storage", int: "a number", type(None): "nothing", Fields: "a namedtuple"}
    return words.get(type(value), f"a {type(value).__name__}")


def extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, Placeholder):
        target.items.extend(items)
    else:
        raise Unreadable("a damaged pickle: it adds to what is no list; get the file again")


def put(target: Any, items: list[Any]) -> None:
    """Keys and values in turn into a dict. Keys are text and whole numbers: these hash fast, whatever they are."""
    if len(items) % 2:
        raise Unreadable("a damaged pickle: a key without its value; get the file again")
    if isinstance(target, Placeholder):
        target.items.extend(zip(items[::2], items[1::2], strict=True))
        return
    if not isinstance(target, dict):
        raise Unreadable("a damaged pickle: it puts items into what is no dict; get the file again")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, str):
            if len(key) > KEY or not key.isprintable():
                key = f"?{key[:80]!a}"
        elif isinstance(key, int):
            if not -(1 << 63) <= key < 1 << 63:
                raise Unreadable("a key is a whole number of more than 64 bits; get the file again")
        else:  # an object; its item is kept under what it is
            key = f"<{kind(key)} {len(target)}>"
        target[key] = value


def set_state(made: Any, state: Any) -> Any:
    if isinstance(made, Placeholder):
        made.state = state
        return made
    if isinstance(made, Array) and isinstance(state, tuple):
        return _array_state(made, state)
    if isinstance(made, np.dtype):
        return _dtype_state(made, state)
    return made  # attributes of a dict, as the versions beside a state_dict


# ------------------------------------------------------------------------------------------- what calls may build


def make(function: Global, args: tuple[Any, ...], limits: Limits) -> Any:
    """What a constructor makes of its arguments, and a placeholder where none of ours is called so."""
    maker = MAKERS.get(function.name)
    if maker is None or len(args) > ARGUMENTS:
        return Placeholder(function.name, args)
    try:
        return maker(limits, *args)
    except TypeError:  # as many arguments as it does not take
        return Placeholder(function.name, args)


def _ordered(limits: Limits, items: Any = (), *_: Any) -> Any:
    found: dict[Any, Any] = {}
    if isinstance(items, dict):
        return items
    if not isinstance(items, (list, tuple)) or not all(isinstance(x, (list, tuple)) and len(x) == 2 for x in items):
        return found
    limits.items_of(len(items))
    put(found, [part for item in items for part in item])
    return found


def _mapping(limits: Limits, *args: Any) -> Any:
    inner = [arg for arg in args if isinstance(arg, dict)]
    return inner[-1] if inner else {}


def _listed(limits: Limits, items: Any = ()) -> Any:
    if not isinstance(items, (list, tuple)):
        raise TypeError
    limits.items_of(len(items))
    return list(items)


def _encoded(limits: Limits, text: Any = b"", coding: Any = "utf-8", *_: Any) -> Any:
    if isinstance(text, (bytes, bytearray)):
        return text
    if not isinstance(text, str) or coding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise TypeError
    limits.items_of(len(text))
    return text.encode("latin-1" if coding.startswith("latin") else coding)


def _object(limits: Limits, cls: Any, *args: Any) -> Any:
    return Placeholder(cls.name, args) if isinstance(cls, Global) else Placeholder("object", args)


def _parameter(limits: Limits, data: Any, *_: Any) -> Any:
    return data


def _text(limits: Limits, *args: Any) -> Any:
    return ":".join(str(arg)[:40] for arg in args if isinstance(arg, (str, int)))


def _tensor(limits: Limits, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
    if not isinstance(storage, Storage):
        raise Unreadable(f"a tensor of its is made of {kind(storage)} and not of numbers; {SAVE}")
    if any(more[2:]):  # {"conj": True} or {"neg": True}: the numbers are not those that are stored
        raise Unreadable("a tensor of its is a conjugate or negative view; save tensor.resolve_conj().resolve_neg()")
    return Array(storage, np.dtype(storage.dtype), size, stride, offset)


def _tensor_v3(
    limits: Limits, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *more: Any
) -> Any:
    made = _tensor(limits, storage, offset, size, stride, grad, hooks, *more)
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else ""
    if name not in NUMBERS:
        raise Unreadable(f"a tensor of its is of {kind(dtype)}, which NumPy has not; convert it to float32")
    made.dtype = np.dtype(name)
    return made


def _from_type(limits: Limits, function: Any, cls: Any, args: Any, *_: Any) -> Any:
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise TypeError
    return make(function, args, limits)


def _dtype(limits: Limits, what: Any, *_: Any) -> Any:
    if isinstance(what, Global):
        name = what.name.removeprefix("ml_dtypes.").removeprefix("jax.numpy.")
        return np.dtype(name) if name in NUMBERS else Placeholder(f"numpy.dtype {name}")
    if isinstance(what, str) and re.fullmatch(r"[<>|=]?[biufc]\d{1,2}", what):
        return np.dtype(what)
    if isinstance(what, str) and what[:2].lstrip("<>|=").startswith("O"):
        raise Unreadable("an array of its holds Python objects; write it as numbers")
    return Placeholder(f"numpy.dtype {str(what)[:20]!a}" if isinstance(what, str) else "numpy.dtype")


def _dtype_state(dtype: np.dtype, state: Any) -> np.dtype:
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return dtype.newbyteorder(">") if order == ">" and dtype.itemsize > 1 and dtype.kind != "V" else dtype


def _empty_array(limits: Limits, cls: Any, *_: Any) -> Any:
    if cls != Global("numpy.ndarray"):
        raise TypeError
    return Array(b"", np.dtype("int8"), (0,))


def _array_state(made: Array, state: tuple[Any, ...]) -> Any:
    """NumPy's own: (version, shape, dtype, whether column by column, bytes)."""
    if len(state) == 4:  # before versions were counted
        state = (0, *state)
    if len(state) != 5 or isinstance(made.data, Storage):
        return made
    _, shape, dtype, columns, data = state
    if isinstance(dtype, Placeholder):  # text and dates
        return Placeholder(f"numpy.ndarray of {dtype.name}")
    made.data, made.shape, made.dtype = data, shape, dtype
    if columns is True or columns == 1:
        made.strides = None
        made.nbytes()  # the shape is one
        made.strides = tuple(reversed(_row_by_row(tuple(reversed(shape)))))
    return made


def _from_buffer(limits: Limits, data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> Any:
    """Protocol 5's; axes are those of an array that was neither row by row nor column by column, and is turned."""
    made = _array_state(Array(b"", np.dtype("int8"), (0,)), (1, shape, dtype, order == "F", data))
    if isinstance(made, Array) and order == "K" and axes is not None:
        made.nbytes()  # the shape is one
        few = isinstance(axes, (list, tuple)) and len(axes) == len(shape) and all(type(axis) is int for axis in axes)
        if not few or sorted(axes) != list(range(len(shape))):
            raise Unreadable("an array's axes are none that can be; get the file again")
        made.strides = [_row_by_row(shape)[axis] for axis in axes]
        made.shape = [shape[axis] for axis in axes]
    return made


def _scalar(limits: Limits, dtype: Any, data: Any = b"") -> Any:
    return _array_state(Array(b"", np.dtype("int8"), (0,)), (1, (), dtype, False, data))


def _array_of(limits: Limits, function: Any, args: Any, state: Any, *_: Any) -> Any:
    made = _from_type(limits, function, None, args)
    return set_state(made, state)


def _namedtuple(limits: Limits, name: Any, fields: Any, *_: Any) -> Any:
    few = isinstance(fields, (tuple, list)) and len(fields) <= ARGUMENTS
    if not few or not all(isinstance(field, str) for field in fields):
        raise TypeError
    return Fields(tuple(fields))


ARRAY = "numpy.core.multiarray", "numpy._core.multiarray"
MAKERS: Mapping[str, Callable[..., Any]] = {
    **{"collections.OrderedDict": _ordered, "collections.Counter": _ordered, "builtins.dict": _ordered},
    **{"collections.defaultdict": lambda limits, *_: {}},
    **{f"builtins.{name}": _listed for name in ("list", "set", "frozenset", "tuple")},
    **{"builtins.bytearray": _encoded, "builtins.bytes": _encoded, "_codecs.encode": _encoded},
    **{"copyreg._reconstructor": _object},
    **{f"haiku._src.data_structures.{name}": _mapping for name in ("FlatMapping", "FlatMap", "frozendict")},
    **{"flax.core.frozen_dict.FrozenDict": _mapping},
    **{f"dill.{module}_create_array": _array_of for module in ("_dill.", "dill.")},
    **{f"dill.{module}_create_namedtuple": _namedtuple for module in ("_dill.", "dill.")},
    **{"jax._src.array._reconstruct_array": _array_of},
    **{f"jax.{module}.reconstruct_device_array": _array_of for module in ("_src.device_array", "interpreters.xla")},
    **{f"{module}._reconstruct": _empty_array for module in ARRAY},
    **{f"{module}.scalar": _scalar for module in ARRAY},
    **{"numpy.dtype": _dtype, "numpy.core.numeric._frombuffer": _from_buffer},
    **{"numpy._core.numeric._frombuffer": _from_buffer},
    **{"torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor},
    **{"torch._utils._rebuild_tensor_v3": _tensor_v3, "torch._tensor._rebuild_from_type_v2": _from_type},
    **{f"torch._utils._rebuild_parameter{end}": _parameter for end in ("", "_with_state")},
    **{"torch.Size": _listed, "torch.device": _text},
}
