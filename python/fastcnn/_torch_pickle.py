"""A machine for the pickles in PyTorch's files that can build tensors and plain containers, and nothing else.

It reads opcodes with pickletools.genops and knows a short list of them and of names; whatever else stands in the file
is refused by name, or becomes a Skipped where the caller asks for that. Nothing is imported, looked up or called
because a file says so. Not a reader of whole files, see torch_files.py.
"""

from __future__ import annotations

import math
import pickletools
from collections import Counter, OrderedDict
from dataclasses import dataclass

import numpy as np

MAX_OPCODES = 20_000_000

# storage class of PyTorch, or dtype of an untyped one -> (fastcnn's dtype, NumPy dtype of the bytes)
STORAGES = {
    "DoubleStorage": ("float64", "<f8"),
    "FloatStorage": ("float32", "<f4"),
    "HalfStorage": ("float16", "<f2"),
    "BFloat16Storage": ("bfloat16", "<u2"),
    "LongStorage": ("int64", "<i8"),
    "IntStorage": ("int32", "<i4"),
    "ShortStorage": ("int32", "<i2"),
    "CharStorage": ("int8", "i1"),
    "ByteStorage": ("uint8", "u1"),
    "BoolStorage": ("bool", "?"),
}
_UNTYPED = {"uint16": ("int32", "<u2"), "uint32": ("int64", "<u4")}
_KINDS = {**STORAGES, **_UNTYPED, "UntypedStorage": ("uint8", "u1")}
DTYPES = {
    name: name
    for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex128 "
    "complex64 float8_e4m3fn float8_e5m2".split()
} | {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32", "short": "int16"}


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory that tensors of the file share: its key there, its kind (see _KINDS) and its number of elements."""

    key: str
    kind: str
    numel: int

    @property
    def dtype(self):
        """Name of fastcnn's dtype."""
        return _KINDS[self.kind][0]

    @property
    def raw(self):
        """NumPy dtype of the bytes."""
        return np.dtype(_KINDS[self.kind][1])


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor of the file without its values: elements of a storage, all within it; negative: they change sign."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Stands for an object of the file that was not made: the name of its class or function there, no content."""

    name: str


@dataclass(frozen=True, slots=True)
class _Name:
    """A name of the file that the machine knows; it is no object of Python."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


_MARK = object()
_SCALARS = (str, bytes, int, float, bool, type(None))
_PLAIN = (dict, list, tuple, set, Storage, _Name)


def _fail(text):
    raise ValueError(text)


def _need(ok, text):
    if not ok:
        _fail(text)


def _show(v):
    """Short text of any value; nested ones by their type alone, for they may be deep."""
    return f"{v!s:.80}" if isinstance(v, (*_SCALARS, _Name)) else f"a {type(v).__name__}"


def _is_count(v):
    return isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62


def _ordered_dict(args):
    _need(len(args) <= 1, f"collections.OrderedDict takes 0 or 1 argument, got {len(args)}")
    result = OrderedDict()
    for pair in args[0] if args else ():
        _need(isinstance(pair, (tuple, list)) and len(pair) == 2, "collections.OrderedDict expects pairs")
        _set_item(result, pair[0], pair[1])
    return result


def _set(args):
    items = args[0] if args else ()
    _need(
        len(args) <= 1 and isinstance(items, (list, tuple)) and all(isinstance(i, _SCALARS) for i in items),
        "a set is made of something other than text and numbers",
    )
    return set(items)


def _size(args):
    _need(
        len(args) == 1 and isinstance(args[0], (tuple, list)) and all(map(_is_count, args[0])),
        "torch.Size expects a tuple of sizes",
    )
    return tuple(args[0])


def _device(args):
    _need(1 <= len(args) <= 2 and isinstance(args[0], str), "torch.device expects a name and a number")
    return ":".join(map(str, args))


def _encode(args):
    """How bytes stand in pickles of protocol 2."""
    ok = len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1"
    _need(ok, "_codecs.encode expects text and 'latin1'")
    return args[0].encode("latin1")


def _empty_bytes(args):
    _need(not args, f"bytes takes no argument, got {len(args)}")
    return b""


def _counter(args):
    _need(len(args) <= 1 and all(isinstance(a, dict) for a in args), "collections.Counter expects a dict")
    return Counter(*args)


def _rebuild_tensor(args):
    _need(len(args) >= 4, f"a tensor needs storage, offset, size and stride, got {len(args)} values")
    _need(getattr(args[0], "kind", "") not in ("UntypedStorage", *_UNTYPED), "a tensor of untyped storage has no dtype")
    return _view(args, args[6] if len(args) > 6 else None)


def _rebuild_untyped(args):
    """As torch writes the dtypes that have no storage class."""
    _need(len(args) >= 7, f"a tensor needs storage, offset, size, stride and dtype, got {len(args)} values")
    storage, dtype = args[0], args[6]
    _need(isinstance(storage, Storage) and storage.kind == "UntypedStorage", "a tensor expects untyped storage")
    _need(dtype in _UNTYPED, f"tensors of {_show(dtype)} are not supported")
    storage = Storage(storage.key, dtype, storage.numel // np.dtype(_UNTYPED[dtype][1]).itemsize)
    return _view((storage, *args[1:]), args[7] if len(args) > 7 else None)


def _view(args, metadata):
    storage, offset, shape, strides = args[:4]
    _need(isinstance(storage, Storage), f"a tensor expects a storage, got {type(storage).__name__}")
    for what, value in (("size", shape), ("stride", strides)):
        _need(
            isinstance(value, (tuple, list)) and all(map(_is_count, value)),
            f"a tensor of storage {storage.key!r} has {what} {_show(value)}, expected a tuple of sizes",
        )
    shape, strides = tuple(shape), tuple(strides)
    _need(_is_count(offset) and len(shape) == len(strides) <= 64, f"a tensor of storage {storage.key!r} has no shape")
    if math.prod(shape):
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides))
        _need(
            last < storage.numel,
            f"a tensor of shape {shape} and strides {strides} ends at element {last} of storage {storage.key!r}, which "
            f"has {storage.numel}",
        )
    _need(metadata is None or isinstance(metadata, dict), f"a tensor has metadata {_show(metadata)}, expected a dict")
    marks = {k for k, v in (metadata or {}).items() if v}
    _need(
        marks <= {"neg"} and (not marks or storage.raw.kind == "f"),
        f"a tensor of {storage.dtype} is marked {_show(next(iter(marks), None))}, which is not supported",
    )
    return TensorView(storage, offset, shape, strides, bool(marks))


def _rebuild_parameter(args):
    _need(len(args) >= 1 and not isinstance(args[0], (*_SCALARS, *_PLAIN)), "a parameter expects a tensor")
    return args[0]


# What REDUCE may call: functions of this file that take the tuple of arguments. A TensorView becomes a tensor.
_CALLS = {
    _Name("collections", "OrderedDict"): _ordered_dict,
    _Name("collections", "Counter"): _counter,
    _Name("builtins", "set"): _set,
    _Name("__builtin__", "set"): _set,
    _Name("builtins", "bytes"): _empty_bytes,
    _Name("__builtin__", "bytes"): _empty_bytes,
    _Name("_codecs", "encode"): _encode,
    _Name("torch", "Size"): _size,
    _Name("torch", "device"): _device,
    _Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    _Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    _Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_untyped,
    _Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
_STORAGE_NAMES = {_Name("torch", name): name for name in STORAGES}
_STORAGE_NAMES[_Name("torch.storage", "UntypedStorage")] = "UntypedStorage"
_DTYPE_NAMES = {_Name("torch", name): kind for name, kind in DTYPES.items()}
_KNOWN = _CALLS.keys() | _STORAGE_NAMES.keys() | _DTYPE_NAMES.keys()


def _find(module, name, skip_unknown):
    found = _Name(module, name)
    if found in _DTYPE_NAMES:
        return _DTYPE_NAMES[found]
    if found in _KNOWN:
        return found
    if module.startswith("torch") and name.endswith("Storage"):
        _fail(f"tensors of {found} are not supported; expected one of {', '.join(STORAGES)}")
    if skip_unknown:
        return Skipped(str(found))
    _fail(
        f"refused {found}: the file asks for an object that is neither a tensor nor a plain container, and no code of "
        "a file is run. load_torch(path, skip_unknown=True) reads the rest; files of whole models need "
        "torch.save(model.state_dict(), path) in PyTorch first"
    )


def _set_item(target, key, value):
    if isinstance(target, Skipped):
        return
    _need(isinstance(target, dict), f"items are set on a {type(target).__name__}, expected a dict")
    _need(isinstance(key, _SCALARS), f"a key of a dict is a {type(key).__name__}, expected text or a number")
    target[key] = _member(value)


def _member(value):
    """A value that may stand in the result."""
    plain = not isinstance(value, (Storage, _Name))
    _need(plain, f"the file holds {_show(value)} itself, expected tensors and plain values")
    return value


def _persistent(pid):
    """The storage that a persistent id names: ("storage", type, key, place, numel, view of the storage or None)."""
    _need(
        isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage",
        "a persistent id is not ('storage', type, key, location, numel)",
    )
    key, numel = pid[2], pid[4]
    kind = _STORAGE_NAMES.get(pid[1]) if isinstance(pid[1], _Name) else None
    _need(kind is not None, f"a storage has type {_show(pid[1])}, expected one of {', '.join(STORAGES)}")
    _need(isinstance(key, str) and _is_count(numel), f"a storage has key {_show(key)} and {_show(numel)} elements")
    _need(len(pid) == 5 or pid[5] is None, f"storage {key!r} is a view of another storage, which is not supported")
    return Storage(key, kind, numel)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES "
    "BINBYTES8 BINSTRING SHORT_BINSTRING".split()
)
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MAKES = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}  # with their operands, the function or class first
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(self, make_tensor, skip_unknown):
        self.stack, self.memo, self.make_tensor, self.skip_unknown = [], {}, make_tensor, skip_unknown

    def pop(self):
        _need(self.stack and self.stack[-1] is not _MARK, "the stack is empty where a value is needed")
        return self.stack.pop()

    def top(self):
        _need(self.stack and self.stack[-1] is not _MARK, "the stack is empty where a value is needed")
        return self.stack[-1]

    def since_mark(self):
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        _need(at >= 0, "a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def step(self, name, arg):
        """One opcode; False at the end of the pickle."""
        stack = self.stack
        if name in _LITERALS:
            stack.append(arg)
        elif name in _PUTS:
            self.memo[int(arg)] = self.top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif name in _GETS:
            _need(int(arg) in self.memo, f"memo {arg} is read before it is written")
            stack.append(self.memo[int(arg)])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            n = _TUPLES[name]
            stack.append(tuple([self.pop() for _ in range(n)][::-1]))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name == "LIST":
            stack.append(list(map(_member, self.since_mark())))
        elif name in ("DICT", "SETITEMS"):
            items = self.since_mark()
            _need(len(items) % 2 == 0, "a dict gets a key without a value")
            if name == "DICT":
                stack.append({})
            for key, value in zip(items[::2], items[1::2]):
                _set_item(self.top(), key, value)
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            _set_item(self.top(), key, value)
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.since_mark()
            _need(isinstance(self.top(), (list, Skipped)), f"items are appended to a {type(self.top()).__name__}")
            if isinstance(self.top(), list):
                self.top().extend(map(_member, items))
        elif name == "ADDITEMS":
            items = self.since_mark()
            _need(
                isinstance(self.top(), set) and all(isinstance(i, _SCALARS) for i in items),
                "items of a set are neither text nor numbers",
            )
            self.top().update(items)
        elif name == "GLOBAL":
            module, _, attribute = arg.partition(" ")
            stack.append(_find(module, attribute, self.skip_unknown))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            _need(isinstance(module, str) and isinstance(attribute, str), "a name is not text")
            stack.append(_find(module, attribute, self.skip_unknown))
        elif name in _MAKES and isinstance(next(iter(stack[-_MAKES[name] :]), None), Skipped):
            for _ in range(_MAKES[name] - 1):
                self.pop()
        elif name == "REDUCE":
            args, function = self.pop(), self.pop()
            _need(isinstance(function, _Name) and function in _CALLS, f"refused a call of {_show(function)}")
            _need(isinstance(args, tuple), f"{function} is called with a {type(args).__name__}, expected a tuple")
            made = _CALLS[function](args)
            stack.append(self.make_tensor(made) if isinstance(made, TensorView) else made)
        elif name == "BUILD":  # state_dict() leaves its versions on the OrderedDict; they say nothing about tensors
            self.pop()
            owner = self.top()
            _need(isinstance(owner, (OrderedDict, Skipped)), f"refused to set attributes of a {type(owner).__name__}")
        elif name == "BINPERSID":
            stack.append(_persistent(self.pop()))
        elif name == "POP":
            self.pop()
        elif name == "POP_MARK":
            self.since_mark()
        elif name == "STOP":
            return False
        elif name not in ("PROTO", "FRAME"):
            _fail(f"refused the pickle opcode {name}, which no file of tensors needs")
        return True


def _opcodes(file):
    count = 0
    try:
        for opcode, arg, _ in pickletools.genops(file):
            count += 1
            _need(count <= MAX_OPCODES, f"the pickle has more than {MAX_OPCODES} opcodes")
            yield opcode.name, arg
    except (ValueError, OverflowError, EOFError, IndexError, DeprecationWarning) as e:
        raise ValueError(f"the pickle is damaged or cut short: {e}") from None


def read(file, make_tensor, skip_unknown=False):
    """The value of the pickle that begins where a binary file stands; make_tensor(TensorView) gives its tensors.

    skip_unknown: whether a Skipped stands for what is neither tensor nor plain container.
    Raises ValueError for a damaged pickle and, by name, for everything but tensors and plain containers.
    """
    machine = _Machine(make_tensor, skip_unknown)
    for name, arg in _opcodes(file):
        if not machine.step(name, arg):
            break
    _need(len(machine.stack) == 1 and machine.stack[0] is not _MARK, "the pickle does not end with one value")
    return _member(machine.stack[0])
