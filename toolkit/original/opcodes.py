"""A pickle, checked opcode by opcode before torch runs it.

`torch.load(weights_only=True)` calls only what it is told to trust, but with any argument: a layer
of any size, a key nested until the interpreter crashes, a storage larger than its entry. Here the
steps are followed with names and plain values on the stack, and nothing is called.
"""

import pickletools
import struct
from collections.abc import Callable
from functools import partial
from itertools import islice
from pickletools import markobject
from typing import Any

from torch import nn

from toolkit.errors import CheckpointError, printable

# A tuple in a tuple, as deep as so many steps can make it, is hashed without harm.
MAX_OPCODES = 20_000
MAX_PICKLE_BYTES = 2**21
STUDY = "__main__.IntermediarySpaceModel"
LAYERS = (
    *(nn.Module, nn.Sequential, nn.Conv2d, nn.Linear),
    *(nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.Flatten),
)
_MODULES = {STUDY, *(f"{layer.__module__}.{layer.__qualname__}" for layer in LAYERS)}
_STORAGES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
}
_DICT = "collections.OrderedDict"
_FUNCTIONS = {
    *(_DICT, "torch.device", "builtins.set", "__builtin__.set"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
}
CheckStorage = Callable[[str, int, int], None]
"""Takes the key of a storage, how many numbers it shall have, and the bytes of each."""
_TEXTS, _GETS = ("BINUNICODE", "SHORT_BINUNICODE"), ("BINGET", "LONG_BINGET")
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_STEPS = {
    *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "INST", "STACK_GLOBAL", "REDUCE", "NEWOBJ"),
    *("BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "MEMOIZE", *_TEXTS, *_GETS, *_TUPLES),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"),
    *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
}

quote = partial(printable, most=100)
"""What a file says, in a line of ours."""


class _Name(str):
    """The name of an allowed class or function."""


def translate(pickled: bytes, check_storage: CheckStorage) -> bytes:
    """Return a pickle in protocol 2, the one that `torch.load` knows.

    Args:
        pickled: of protocol 2 or later.
        check_storage: hears of each storage.

    Raises:
        CheckpointError: damaged, or it does what no model of the study needs; the message says
            what.
    """
    try:
        steps = list(islice(pickletools.genops(pickled), MAX_OPCODES + 1))
        if len(steps) > MAX_OPCODES:
            raise CheckpointError(f"its pickle has more than {MAX_OPCODES} steps")
        translation = _Translation(check_storage)
        ends = [start or 0 for _, _, start in steps[1:]] + [len(pickled)]
        for (opcode, argument, start), end in zip(steps, ends, strict=True):
            translation.follow(opcode, argument, pickled[start:end])
        return b"".join(translation.written)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of the stack
        raise CheckpointError("its pickle is damaged") from error


class _Translation:
    """The stack of a pickle: plain values, names, tuples of these, and `...` for all else."""

    def __init__(self, check_storage: CheckStorage) -> None:
        self.written: list[bytes] = []
        self._check_storage = check_storage
        self._stack: list[Any] = []
        self._marks = [0]
        self._memo: dict[int, Any] = {}
        self._size = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any, code: bytes) -> None:
        """Take one step, and write it in protocol 2."""
        name = opcode.name
        if name not in _STEPS:
            raise CheckpointError(f"its pickle has the step {name}, which no model needs")
        value = self._value(name, argument, self._take(opcode.stack_before))
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif opcode.stack_after:
            self._stack.append(value)
        if name == "PROTO":
            code = b"\x80\x02"
        elif name == "STACK_GLOBAL":
            code = b"c%b\n%b\n" % tuple(part.encode() for part in value.rsplit(".", 1))
        elif name in (*_TEXTS, *_GETS) and type(value) is str:
            text = value.encode("utf-8", "surrogatepass")
            code = b"X" + struct.pack("<I", len(text)) + text
        elif "PUT" in name or name == "MEMOIZE":
            place = argument if "PUT" in name else len(self._memo)
            self._memo[place] = self._stack[-1]
            # A text is written out each time, since STACK_GLOBAL takes two texts from the stack.
            code = b"" if type(self._stack[-1]) is str else b"r" + struct.pack("<I", place)
        self._size += len(code)
        if self._size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"its pickle has more than {MAX_PICKLE_BYTES >> 20} MiB")
        if code and name != "FRAME":
            self.written.append(code)

    def _take(self, wanted: list[pickletools.StackObject]) -> list[Any]:
        above_mark = markobject in wanted
        start = self._marks.pop() if above_mark else len(self._stack)
        start -= wanted.index(markobject) if above_mark else len(wanted)
        if start < self._marks[-1]:
            raise IndexError("the stack is too short")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _value(self, opcode: str, argument: Any, taken: list[Any]) -> Any:
        """Return what a step leaves on the stack."""
        match opcode:
            case "GLOBAL" | "INST":
                return _allowed(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL" if all(type(part) is str for part in taken):
                del self.written[-2:]
                return _allowed(".".join(taken))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                return {"NEWTRUE": True, "NEWFALSE": False}.get(opcode)
            case "MEMOIZE":
                return taken[0]
            case "BINPERSID":
                self._check_identity(*taken)
            case "REDUCE" if not (
                type(taken[0]) is _Name
                and taken[0] in _FUNCTIONS
                and (taken[0] != _DICT or taken[1] == ())
            ):
                called = taken[0] if type(taken[0]) is _Name else "what is no function"
                raise CheckpointError(f"it calls {called} as torch.save never does")
            case "NEWOBJ" if not (
                type(taken[0]) is _Name and taken[0] in _MODULES and taken[1] == ()
            ):
                raise CheckpointError("it makes an object that is no module")
            case "SETITEM" | "SETITEMS" if any(type(key) not in (str, int) for key in taken[1::2]):
                raise CheckpointError("it has a dict whose keys are no names")
            case _ if opcode in _TUPLES:
                return tuple(taken)
            case _ if opcode in _GETS:
                value = self._memo[argument]
                if type(value) is tuple and any(
                    part is ... or type(part) is tuple for part in value
                ):
                    raise CheckpointError("it has one tuple of tuples in two places")
                return value
            case _ if argument is not None:
                return argument
        return ...

    def _check_identity(self, identity: Any) -> None:
        match identity:
            case ("storage", _Name() as kind, key, str(), numel) if kind in _STORAGES:
                if type(key) is not str:
                    # Its type, not its value, which a small pickle can make endless.
                    found = type(key).__name__
                    raise CheckpointError(f"it names a storage by a {found}, which is no number")
                if not (key.isascii() and key.isdigit()):
                    raise CheckpointError(f"it names a storage {quote(key)}, which is no number")
                self._check_storage(key, numel if type(numel) is int else -1, _STORAGES[kind])
            case _:
                raise CheckpointError("it refers to what is no storage of floating-point numbers")


def _allowed(name: str) -> _Name:
    if name not in _MODULES | _FUNCTIONS | _STORAGES.keys():
        raise CheckpointError(
            f"it names {quote(name)}, which no model of the study needs; nothing of it was run"
        )
    return _Name(name)
