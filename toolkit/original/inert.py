"""Reads a pickle of torch modules or a state_dict into inert records: nothing in it is ever run.

A pickle is a program. Here a machine of its own steps through it that knows only the few opcodes
that a module or a state_dict needs, imports nothing, and calls nothing: a name that is allowed
becomes a record of that name, any other is refused.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from toolkit.errors import CheckpointError

MAX_OPCODES = 200_000
MAX_DIMENSIONS = 8
MODEL = "__main__.IntermediarySpaceModel"
MODULES = frozenset(
    {MODEL}
    | {
        f"torch.nn.modules.{each}"
        for each in (
            "module.Module",
            "container.Sequential",
            "conv.Conv2d",
            "activation.ReLU",
            "pooling.MaxPool2d",
            "dropout.Dropout",
            "flatten.Flatten",
            "linear.Linear",
        )
    }
)
_STORAGE = "torch.FloatStorage"
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_DICT = "collections.OrderedDict"
_OPAQUE = frozenset({"builtins.set", "__builtin__.set", "torch.device"})
ALLOWED = MODULES | _OPAQUE | {_STORAGE, _TENSOR, _PARAMETER, _DICT}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
)


@dataclass(frozen=True)
class Name:
    """An allowed class or function, by name only."""

    name: str


@dataclass(eq=False)
class Record:
    """An object of an allowed class: its name, and its attributes where it is a module."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Where float32 numbers lie in the file: the entry `data/<key>`."""

    key: str
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A float32 tensor that lies within its storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


StorageOf = Callable[[object, object], Storage]


def shown(text: object) -> str:
    """Return what a file says as one short printable line."""
    line = str(text)[:100]
    return line if line.isprintable() else ascii(line)


def load(pickled: bytes, storage: StorageOf) -> Any:
    """Return what a pickle holds: records, tensors, plain values, and lists and dicts of these.

    Args:
        pickled: of protocol 2 or later, as `torch.save` writes it.
        storage: checks the key and the number of numbers of a storage, and returns it.

    Raises:
        CheckpointError: damaged, or it names what is not allowed; the name is in the message.
    """
    try:
        return _Machine(storage).run(pickled)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of the stack
        raise CheckpointError("its pickle is damaged") from error


class _Machine:
    """Steps through one pickle."""

    def __init__(self, storage: StorageOf) -> None:
        self._storage_of = storage
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if count == MAX_OPCODES:
                raise CheckpointError(f"its pickle has more than {MAX_OPCODES} steps")
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _VALUES:
                self._stack.append(_VALUES[opcode.name])
            elif opcode.name not in ("PROTO", "FRAME"):
                self._step(opcode.name, argument)
        raise CheckpointError("its pickle has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "MARK":
                self._marks.append(stack)
                self._stack = []
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(Record("builtins.set"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._popped(int(opcode[-1]))))
            case "TUPLE":
                items = self._to_mark()
                self._stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self._popped(1) if opcode == "APPEND" else self._to_mark()
                _typed(self._stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._popped(2) if opcode == "SETITEM" else self._to_mark()
                keys = [_typed(key, str, int) for key in items[::2]]
                _typed(self._stack[-1], dict).update(zip(keys, items[1::2], strict=True))
            case "ADDITEMS":
                self._to_mark()
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL" | "INST":
                stack.append(_named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, name = self._popped(2)
                stack.append(_named(f"{_typed(module, str)}.{_typed(name, str)}"))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                function, arguments = self._popped(2)
                stack.append(_reduced(function, _typed(arguments, tuple)))
            case "NEWOBJ":
                kind, arguments = self._popped(2)
                if not (isinstance(kind, Name) and kind.name in MODULES and arguments == ()):
                    raise CheckpointError("it makes an object that is no module")
                stack.append(Record(kind.name))
            case "BUILD":
                self._build(stack.pop())
            case _:
                raise CheckpointError(f"its pickle has the step {opcode}, which no model needs")

    def _popped(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise IndexError("the stack is too short")
        del self._stack[-count:]
        return items

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, Record) and target.name in MODULES:
            target.state = _typed(state, dict)
        elif not isinstance(target, dict):
            # The attributes of an OrderedDict say nothing of weights; nothing else has any.
            raise CheckpointError("it sets attributes of what is no module")

    def _storage(self, identity: Any) -> Storage:
        match identity:
            case ("storage", Name(name), key, str(), numel) if name == _STORAGE:
                return self._storage_of(key, numel)
        raise CheckpointError("it refers to what is no storage of float32 numbers")


def _typed(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{type(value)} where {kinds} belongs")
    return value


def _named(name: str) -> Name:
    if name not in ALLOWED:
        raise CheckpointError(
            f"it names {shown(name)}, which no model of the study needs; nothing of it was run"
        )
    return Name(name)


def _reduced(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what a call stands for; none is made."""
    match function, arguments:
        case Name(name), () if name == _DICT:
            return {}
        case Name(name), _ if name in _OPAQUE:
            return Record(name)
        case Name(name), (StoredTensor() as tensor, *_) if name == _PARAMETER:
            return tensor
        case Name(name), (Storage() as storage, offset, size, stride, bool(), _, *rest) if (
            name == _TENSOR and not any(rest)
        ):
            return _tensor(storage, offset, size, stride)
    name = function.name if isinstance(function, Name) else "what is no function"
    raise CheckpointError(f"it calls {name} in a way that torch.save never does")


def _tensor(storage: Storage, offset: Any, size: Any, stride: Any) -> StoredTensor:
    numbers = (offset, *_typed(size, tuple), *_typed(stride, tuple))
    whole = all(type(each) is int and each >= 0 for each in numbers)
    if not (whole and len(size) == len(stride) <= MAX_DIMENSIONS):
        raise CheckpointError("it has a tensor of an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) > storage.numel or (prod(size) and last >= storage.numel):
        raise CheckpointError(f"it has a tensor that reaches beyond its storage {storage.key}")
    return StoredTensor(storage, offset, size, stride)
