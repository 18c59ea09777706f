"""X-rays and outputs as the Open Inference Protocol writes them: JSON, and raw bytes after it.

Everything here is a pure function; `bento/v2/protocol.py` answers requests with them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from toolkit.errors import RequestError
from toolkit.runtime.session import ANSWERED
from toolkit.xray.reading import SIZE

INPUT = "xray"
DEFAULT_OUTPUTS = ("logits", "probabilities")
HEADER_LENGTH = "inference-header-content-length"
MAX_BATCH = 64
MAX_BODY = 20_000_000
"""Largest body, bytes: 64 X-rays of 224x224 are 12.9 MB in JSON without blanks, 3.2 MB raw."""

T = TypeVar("T")
# Commas that are not of X-rays.
_OTHER_MARKS = 10_000
# Brackets and quotes: a body of 20 MB could otherwise become half a gigabyte of empty lists.
_MAX_LISTS = 1_500_000
_STORAGE = {"FP32": "<f4", "UINT8": "|u1"}
_NULL = b"null"
# What makes a float of a whole number: some clients write every number so.
_FRACTION = re.compile(rb"(?<=[0-9])\.0+(?=[\s,\]])")

_Whole = int | float
_Grey = Annotated[int, Meta(ge=0, le=255)]
_Flat = list[_Grey]
Shape = tuple[int, ...]
"""Of one X-ray: (size, size), or (size, size, 3) in colour."""


class _InputParameters(Struct, frozen=True):
    binary_data_size: _Whole | None = None


class _Input(Struct, frozen=True):
    name: str
    datatype: str
    shape: Annotated[list[_Whole], Meta(min_length=3, max_length=4)]
    data: Raw = Raw(_NULL)
    parameters: _InputParameters | None = None

    @property
    def binary_size(self) -> _Whole | None:
        return self.parameters.binary_data_size if self.parameters else None


# Triton's `classification` would change what the answer means: what is not known is refused.
class _OutputParameters(Struct, frozen=True, forbid_unknown_fields=True):
    binary_data: bool | None = None


class _Output(Struct, frozen=True):
    name: str
    parameters: _OutputParameters | None = None


class _Parameters(Struct, frozen=True):
    binary_data_output: bool | None = None


class _Request(Struct, frozen=True):
    inputs: Annotated[list[_Input], Meta(min_length=1, max_length=1)]
    outputs: list[_Output] | None = None
    parameters: _Parameters | None = None
    id: Annotated[str, Meta(max_length=256)] | None = None


@dataclass(frozen=True)
class Inference:
    """What a request asks for.

    Attributes:
        xrays: uint8 (N, size, size), or (N, size, size, 3) in colour, N from 1 to 64.
        outputs: the outputs to give, in order, and whether each goes as raw bytes.
        identity: the request's own id, to be repeated; None where it has none.
    """

    xrays: NDArray[np.uint8]
    outputs: Mapping[str, bool]
    identity: str | None


def datatype_of(output: str) -> str:
    """Return what the protocol calls the type of an output; what is no number is a view."""
    return "FP32" if output in ANSWERED else "UINT8"


def parse(
    body: bytes, header_length: str | None, known: Sequence[str], of: Shape = (SIZE, SIZE)
) -> Inference:
    """Return what a request asks for.

    Args:
        body: the whole body: JSON, then the raw bytes of the input if they go like that.
        header_length: the header `Inference-Header-Content-Length`: the length of the JSON,
            bytes; None where it is missing and all of the body is JSON.
        known: the outputs that may be asked for.
        of: the shape of one X-ray.

    Raises:
        RequestError: anything that the protocol or this model does not know; nothing else
            escapes, whatever the bytes.
    """
    end = _end_of_json(header_length, len(body))
    text, raw = body[:end], body[end:]
    lists = sum(map(text.count, (b"[", b"{", b'"')))
    if text.count(b",") > MAX_BATCH * prod(of) + _OTHER_MARKS or lists > _MAX_LISTS:
        raise _refused(f"the JSON holds more than {MAX_BATCH} X-rays")
    request = _decode(text, _Request, "the JSON")
    (tensor,) = request.inputs
    if (tensor.name, tensor.datatype) != (INPUT, "UINT8"):
        found = f"{_short(tensor.name)} of {_short(tensor.datatype)}"
        raise _refused(f"no input is {found}: it is {INPUT}, of UINT8")
    count, *sides = tensor.shape
    if sides != [*of] or count not in range(1, MAX_BATCH + 1):
        shape = f"[N, {', '.join(map(str, of))}] with N from 1 to {MAX_BATCH}"
        raise _refused(f"shape of {INPUT} is {_short(tensor.shape)}, not {shape}")
    read = _listed if tensor.binary_size is None else _sized
    xrays = read(tensor, (int(count), *of), raw)
    return Inference(xrays, _outputs(request, known), request.id)


def render(
    inference: Inference, name: str, version: str, values: Mapping[str, NDArray[Any]]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and how long its JSON is where raw bytes follow it.

    Args:
        inference: what was asked for.
        name: of the model.
        version: of the model.
        values: every output asked for, (N, ...).
    """
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output, binary in inference.outputs.items():
        datatype = datatype_of(output)
        value = np.asarray(values[output], _STORAGE[datatype])
        entry: dict[str, Any] = {"name": output, "datatype": datatype, "shape": value.shape}
        if binary:
            raw.append(value.tobytes())
            entry["parameters"] = {"binary_data_size": value.nbytes}
        elif np.isfinite(value).all():
            entry["data"] = value.ravel().tolist()
        else:
            raise ValueError(f"the model gave a number in {output} that JSON has none for")
        outputs.append(entry)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if inference.identity is not None:
        answer["id"] = inference.identity
    head = msgspec.json.encode(answer)
    return b"".join([head, *raw]), len(head) if raw else None


def _end_of_json(header_length: str | None, total: int) -> int:
    if total > MAX_BODY:
        message = f"the body is over {MAX_BODY:,} bytes: send fewer X-rays"
        raise RequestError(413, "too_large", message)
    if header_length is None:
        return total
    # Its digits are counted first: Python takes long to read very long numbers.
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 10):
        raise _refused(f"Inference-Header-Content-Length is {_short(header_length)}")
    if int(header_length) > total:
        raise _refused(
            f"Inference-Header-Content-Length is {header_length}, and the body has {total} bytes"
        )
    return int(header_length)


def _decode(text: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _refused(f"{what} cannot be read: {_plain(error)}") from error


def _sized(tensor: _Input, shape: Shape, raw: bytes) -> NDArray[np.uint8]:
    """Return the X-rays that follow the JSON as raw bytes."""
    size = tensor.binary_size
    if bytes(tensor.data) != _NULL:
        raise _refused(f"{INPUT} has both data and binary_data_size")
    if not size == len(raw) == prod(shape):
        raise _refused(
            f"binary_data_size of {INPUT} is {_short(size)} and {len(raw)} bytes follow the "
            f"JSON: {shape[0]} X-rays have {prod(shape)}"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _listed(tensor: _Input, shape: Shape, raw: bytes) -> NDArray[np.uint8]:
    """Return the X-rays that are in the JSON as a list, flat or nested."""
    if raw:
        raise _refused(f"{len(raw)} bytes after the JSON, and no binary_data_size")
    text = (
        _FRACTION.sub(b"", bytes(tensor.data)) if b"." in bytes(tensor.data) else bytes(tensor.data)
    )
    what = f"data of {INPUT}"
    if text[:1] + text[1:50].lstrip()[:1] == b"[[":
        rows = _decode(text, _nested(shape[1:]), what)
        for _ in shape[1:-1]:
            rows = chain.from_iterable(rows)
        pixels = b"".join(map(bytes, rows))
    else:
        pixels = bytes(_decode(text, _Flat, what))
    if len(pixels) != prod(shape):
        raise _refused(f"{what} has {len(pixels)} values: {shape[0]} X-rays have {prod(shape)}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)


@cache
def _nested(of: Shape) -> Any:
    """Return the type of nested lists of X-rays of a shape."""
    kind: Any = _Grey
    for size in reversed(of):
        kind = Annotated[list[kind], Meta(min_length=size, max_length=size)]
    return list[kind]


def _outputs(request: _Request, known: Sequence[str]) -> dict[str, bool]:
    all_raw = bool(request.parameters and request.parameters.binary_data_output)
    if not request.outputs:
        return dict.fromkeys(DEFAULT_OUTPUTS, all_raw)
    found: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in known:
            names = ", ".join(known)
            raise _refused(f"no output is called {_short(output.name)}: there is {names}")
        if output.name in found:
            raise _refused(f"output {output.name} is asked for twice")
        binary = output.parameters.binary_data if output.parameters else None
        found[output.name] = all_raw if binary is None else binary
    return found


def _short(value: object) -> str:
    return ascii(value)[:100]


def _plain(error: Exception) -> str:
    return ascii(str(error))[1:-1][:200]


def _refused(message: str) -> RequestError:
    return RequestError(400, "bad_tensors", message)
