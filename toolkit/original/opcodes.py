"""A pickle, checked opcode by opcode before torch runs it.

A pickle is a program. `torch.load(weights_only=True)` calls only what it is told to trust, but it
calls it with any argument: a layer of any size, a key nested until the interpreter crashes. Here
nothing is called. What passes is what `torch.save` writes of a module or a state_dict.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any

from torch import nn

from toolkit.errors import CheckpointError

MAX_OPCODES = 200_000
MAX_PICKLE_BYTES = 2**21
STUDY = "__main__.IntermediarySpaceModel"
LAYERS = (
    *(nn.Module, nn.Sequential, nn.Conv2d, nn.Linear),
    *(nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.Flatten),
)
_MODULES = {STUDY, *(f"{layer.__module__}.{layer.__qualname__}" for layer in LAYERS)}
_STORAGE, _DICT, _DEVICE = "torch.FloatStorage", "collections.OrderedDict", "torch.device"
_SETS = ("builtins.set", "__builtin__.set")
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_ALLOWED = _MODULES | {_STORAGE, _DICT, _DEVICE, *_SETS, _TENSOR, _PARAMETER}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_PLAIN = (int, float, bool, str, type(None))


class _Global(str):
    """The name of an allowed class or function."""


class _Object(str):
    """An object, by the name of what makes it."""


def shown(text: object) -> str:
    """Return what a file says as one short printable line."""
    line = str(text)[:100]
    return line if line.isprintable() else ascii(line)


def translate(pickled: bytes, check_storage: Callable[[str, int], None]) -> bytes:
    """Return a pickle in protocol 2, the one that `torch.load` knows.

    Args:
        pickled: of protocol 2 or later.
        check_storage: takes the key of each storage and how many float32 numbers it shall have.

    Raises:
        CheckpointError: damaged, or it does what `torch.save` never does; the message names it.
    """
    if len(pickled) > MAX_PICKLE_BYTES:
        raise CheckpointError(f"its pickle has more than {MAX_PICKLE_BYTES >> 20} MiB")
    try:
        return _Translation(pickled, check_storage).run()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of the stack
        raise CheckpointError("its pickle is damaged") from error


class _Translation:
    """Steps through one pickle with the names of things on its stack instead of the things."""

    def __init__(self, pickled: bytes, check_storage: Callable[[str, int], None]) -> None:
        self._pickled = pickled
        self._check_storage = check_storage
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._written: list[bytes] = []
        self._size = 0

    def run(self) -> bytes:
        steps = pickletools.genops(self._pickled)
        opcode, argument, start = next(steps)
        for count, (following, next_argument, end) in enumerate(steps):
            if count == MAX_OPCODES:
                raise CheckpointError(f"its pickle has more than {MAX_OPCODES} steps")
            self._step(opcode.name, argument, self._pickled[start:end])
            opcode, argument, start = following, next_argument, end or 0
        self._stack.pop()
        return b"".join((*self._written, b"."))

    def _write(self, code: bytes) -> None:
        self._size += len(code)
        if self._size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"its pickle has more than {MAX_PICKLE_BYTES >> 20} MiB")
        self._written.append(code)

    def _push(self, value: Any, code: bytes) -> None:
        if type(value) is str:
            text = value.encode("utf-8", "surrogatepass")
            code = b"X" + struct.pack("<I", len(text)) + text
        self._stack.append(value)
        self._write(code)

    def _step(self, opcode: str, argument: Any, code: bytes) -> None:
        match opcode:
            case "PROTO":
                self._write(b"\x80\x02")
            case "FRAME":
                pass
            case "BINUNICODE" | "SHORT_BINUNICODE":
                self._push(argument, code)
            case "BINGET" | "LONG_BINGET":
                self._push(self._memo[argument], code)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                place = len(self._memo) if opcode == "MEMOIZE" else argument
                self._memo[place] = self._stack[-1]
                # A text is written again where it is used again: STACK_GLOBAL takes two of them.
                if type(self._stack[-1]) is not str:
                    self._write(b"r" + struct.pack("<I", place))
            case "GLOBAL" | "INST":
                name = _allowed(argument.replace(" ", ".", 1))
                if opcode == "INST":
                    raise CheckpointError(f"it calls {name} in a way that torch.save never does")
                self._push(name, code)
            case "STACK_GLOBAL":
                module, name = self._take(str, str)
                del self._written[-2:]
                self._push(_allowed(f"{module}.{name}"), f"c{module}\n{name}\n".encode())
            case "MARK":
                self._marks.append(self._stack)
                self._stack = []
                self._write(code)
            case _ if opcode in _NUMBERS:
                self._push(argument, code)
            case _ if opcode in _CONSTANTS:
                self._push(_CONSTANTS[opcode], code)
            case _:
                self._compose(opcode)
                self._write(code)

    def _compose(self, opcode: str) -> None:
        """Do what makes one thing of others on the stack."""
        match opcode:
            case "EMPTY_LIST":
                result: Any = []
            case "EMPTY_DICT" | "EMPTY_SET":
                result = _Object(opcode)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                result = tuple(self._take(*[object] * int(opcode[-1])))
            case "TUPLE":
                result = tuple(self._take_to_mark())
            case "APPEND" | "APPENDS":
                items = self._take_to_mark() if opcode == "APPENDS" else self._take(object)
                (result,) = self._take(list)
                result.extend(items)
            case "SETITEM" | "SETITEMS":
                many = opcode == "SETITEMS"
                items = self._take_to_mark() if many else self._take(object, object)
                if any(type(key) not in (str, int) for key in items[::2]):
                    raise TypeError("a key is neither text nor a number")
                (result,) = self._take(_Object)
            case "BINPERSID":
                result = self._storage(*self._take(object))
            case "REDUCE":
                result = _call(*self._take(object, tuple))
            case "NEWOBJ":
                made, arguments = self._take(object, tuple)
                if not (type(made) is _Global and made in _MODULES and arguments == ()):
                    raise CheckpointError("it makes an object that is no module")
                result = _Object(made)
            case "BUILD":
                result, state = self._take(object, object)
                if type(result) is not _Object or result not in (*_MODULES, _DICT):
                    raise CheckpointError("it sets attributes of what is no module")
                if type(state) is not _Object or state not in ("EMPTY_DICT", _DICT):
                    raise TypeError("the attributes are not a dict")
            case _:
                raise CheckpointError(f"its pickle has the step {opcode}, which no model needs")
        self._stack.append(result)

    def _take(self, *kinds: type) -> list[Any]:
        items = self._stack[-len(kinds) :]
        if len(items) < len(kinds):
            raise IndexError("the stack is too short")
        if any(kind not in (object, type(item)) for kind, item in zip(kinds, items, strict=True)):
            raise TypeError("another kind of thing belongs here")
        del self._stack[-len(kinds) :]
        return items

    def _take_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _storage(self, identity: Any) -> _Object:
        match identity:
            case ("storage", _Global() as kind, key, str(), numel) if kind == _STORAGE:
                if not (type(key) is str and key.isascii() and key.isdigit()):
                    raise CheckpointError(f"it names a storage {_plain(key)}, which is no number")
                self._check_storage(key, numel if type(numel) is int else -1)
                return _Object(_STORAGE)
        raise CheckpointError("it refers to what is no storage of float32 numbers")


def _allowed(name: str) -> _Global:
    if name not in _ALLOWED:
        raise CheckpointError(
            f"it names {shown(name)}, which no model of the study needs; nothing of it was run"
        )
    return _Global(name)


def _call(function: Any, arguments: tuple[Any, ...]) -> _Object:
    """Return what a call that `torch.save` writes gives; none is made."""
    if type(function) is not _Global:
        raise CheckpointError("it calls what is no function")
    match arguments:
        case ():
            usual = function == _DICT
        case (list() as items,) if function in _SETS:
            usual = all(type(item) in _PLAIN for item in items)
        case _ if function == _DEVICE:
            usual = all(type(item) in _PLAIN for item in arguments)
        case (_Object() as tensor, bool(), _Object()):
            usual = function == _PARAMETER and tensor == _TENSOR
        case (_Object() as storage, int(), tuple() as size, tuple() as stride, bool(), _Object()):
            whole = all(type(number) is int for number in (*size, *stride))
            usual = function == _TENSOR and storage == _STORAGE and whole
        case _:
            usual = False
    if not usual:
        raise CheckpointError(f"it calls {function} in a way that torch.save never does")
    return _Object(function)


def _plain(value: Any) -> str:
    return shown(value) if type(value) in _PLAIN else "of another kind"
