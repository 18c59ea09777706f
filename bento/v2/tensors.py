"""X-rays and outputs as the Open Inference Protocol writes them: JSON, and raw bytes after it.

Everything here is a pure function; `bento/v2/protocol.py` answers requests with them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import RequestError
from toolkit.xray.reading import SIZE

INPUT = "xray"
DEFAULT_OUTPUTS = ("logits", "probabilities")
OUTPUT_TYPES: Mapping[str, str] = MappingProxyType(
    {"logits": "FP32", "probabilities": "FP32", "edge_map": "UINT8", "novelty": "FP32"}
)
HEADER_LENGTH = "inference-header-content-length"
MAX_BATCH = 64
MAX_BODY = 20_000_000
"""Largest body, bytes: 64 X-rays in JSON are 12.9 MB without blanks, in raw bytes 3.2 MB."""

_XRAY_BYTES = SIZE * SIZE
_MAX_ID = 256
# Commas, brackets and quotes of 64 X-rays, nested, and of the rest of a request. A body of 20 MB
# could otherwise become half a gigabyte of empty lists.
_MAX_MARKS = MAX_BATCH * (_XRAY_BYTES + 2 * SIZE + 2) + 10_000
_STORAGE = {"FP32": "<f4", "UINT8": "|u1"}


@dataclass(frozen=True)
class Inference:
    """What a request asks for.

    Attributes:
        xrays: uint8 (N, 224, 224), N from 1 to 64.
        outputs: the outputs to give, in order, and whether each goes as raw bytes.
        identity: the request's own id, to be repeated; None where it has none.
    """

    xrays: NDArray[np.uint8]
    outputs: Mapping[str, bool]
    identity: str | None


def parse(body: bytes, header_length: str | None, known: Sequence[str]) -> Inference:
    """Return what a request asks for.

    Args:
        body: the whole body: JSON, then the raw bytes of the input if they go like that.
        header_length: the header `Inference-Header-Content-Length`: the length of the JSON,
            bytes; None where it is missing and all of the body is JSON.
        known: the outputs that may be asked for.

    Raises:
        RequestError: anything that the protocol or this model does not know; nothing else
            escapes, whatever the bytes.
    """
    end = _end_of_json(header_length, len(body))
    request = _object(_loaded(body[:end]), "the request")
    identity = request.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > _MAX_ID):
        raise _refused(f"id is no text of up to {_MAX_ID} characters")
    tensor = _input(request)
    count = _count(tensor)
    size = _parameters(tensor, f"input {INPUT}").get("binary_data_size")
    if size is None and end < len(body):
        raise _refused(f"{len(body) - end} bytes after the JSON, and no binary_data_size")
    xrays = _listed(tensor, count) if size is None else _raw(tensor, size, count, body[end:])
    return Inference(xrays, _outputs(request, known), identity)


def render(
    inference: Inference, name: str, version: str, values: Mapping[str, NDArray[Any]]
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer.

    Args:
        inference: what was asked for.
        name: of the model.
        version: of the model.
        values: every output asked for, (N, ...).
    """
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output, binary in inference.outputs.items():
        datatype = OUTPUT_TYPES[output]
        value = np.asarray(values[output], _STORAGE[datatype])
        entry: dict[str, Any] = {
            "name": output,
            "datatype": datatype,
            "shape": list(value.shape),
        }
        if binary:
            raw.append(value.tobytes())
            entry["parameters"] = {"binary_data_size": value.nbytes}
        else:
            entry["data"] = value.ravel().tolist()
        described.append(entry)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if inference.identity is not None:
        answer["id"] = inference.identity
    head = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    if not raw:
        return head, {"content-type": "application/json"}
    return b"".join([head, *raw]), {
        "content-type": "application/octet-stream",
        HEADER_LENGTH: str(len(head)),
    }


def _end_of_json(header_length: str | None, total: int) -> int:
    if total > MAX_BODY:
        raise too_large()
    if header_length is None:
        return total
    # Its digits are counted first: Python takes long to read very long numbers.
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 10):
        raise _refused(f"Inference-Header-Content-Length is {_shown(header_length)}")
    if int(header_length) > total:
        raise _refused(
            f"Inference-Header-Content-Length is {header_length}, and the body has {total} bytes"
        )
    return int(header_length)


def _loaded(text: bytes) -> Any:
    if sum(text.count(mark) for mark in (b",", b"[", b"{", b'"')) > _MAX_MARKS:
        raise _refused(f"the JSON holds more than {MAX_BATCH} X-rays")
    try:
        return json.loads(text.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _refused(f"the JSON cannot be read: {error}") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _input(request: dict[str, Any]) -> dict[str, Any]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise _refused(f"inputs has to be a list of one, {INPUT}")
    tensor = _object(inputs[0], "the input")
    if tensor.get("name") != INPUT:
        raise _refused(f"no input is called {_shown(tensor.get('name'))}: it is {INPUT}")
    if tensor.get("datatype") != "UINT8":
        raise _refused(f"datatype of {INPUT} is {_shown(tensor.get('datatype'))}, not UINT8")
    return tensor


def _count(tensor: dict[str, Any]) -> int:
    """Return N of a shape [N, 224, 224]."""
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or any(type(each) is not int for each in shape)
        or len(shape) != 3
        or shape[1:] != [SIZE, SIZE]
        or not 1 <= shape[0] <= MAX_BATCH
    ):
        raise _refused(
            f"shape of {INPUT} is {_shown(shape)}, not [N, {SIZE}, {SIZE}] with N from 1 to "
            f"{MAX_BATCH}"
        )
    return int(shape[0])


def _raw(tensor: dict[str, Any], size: Any, count: int, content: bytes) -> NDArray[np.uint8]:
    if "data" in tensor:
        raise _refused(f"{INPUT} has both data and binary_data_size")
    if type(size) is not int or not size == len(content) == count * _XRAY_BYTES:
        raise _refused(
            f"binary_data_size of {INPUT} is {_shown(size)} and {len(content)} bytes follow the "
            f"JSON: {count} X-rays have {count * _XRAY_BYTES}"
        )
    return np.frombuffer(content, np.uint8).reshape(count, SIZE, SIZE)


def _listed(tensor: dict[str, Any], count: int) -> NDArray[np.uint8]:
    data = tensor.get("data")
    if not isinstance(data, list):
        raise _refused(f"{INPUT} has no data: send a list, flat or nested")
    if data and isinstance(data[0], list):
        data = _flat(data, count)
    if len(data) != count * _XRAY_BYTES:
        raise _refused(
            f"data of {INPUT} has {len(data)} values: {count} X-rays have {count * _XRAY_BYTES}"
        )
    # true and false would pass for 1 and 0.
    kinds = set(map(type, data))
    try:
        if kinds == {int}:
            return np.frombuffer(bytearray(data), np.uint8).reshape(count, SIZE, SIZE)
    except (ValueError, OverflowError):
        pass
    raise _refused(f"data of {INPUT} has to be whole numbers from 0 to 255")


def _flat(data: list[Any], count: int) -> list[Any]:
    """Return the values of lists nested as [N, 224, 224], row by row."""
    rows: list[Any] = [data]
    for size in (count, SIZE, SIZE):
        if any(type(row) is not list or len(row) != size for row in rows):
            raise _refused(f"data of {INPUT} is not nested as its shape says")
        rows = list(chain.from_iterable(rows))
    return rows


def _outputs(request: dict[str, Any], known: Sequence[str]) -> dict[str, bool]:
    all_raw = _flag(_parameters(request, "the request"), "binary_data_output", False)
    asked = request.get("outputs")
    if asked is None or asked == []:
        return dict.fromkeys(DEFAULT_OUTPUTS, all_raw)
    if not isinstance(asked, list):
        raise _refused("outputs is no list")
    found: dict[str, bool] = {}
    for each in asked:
        name = _object(each, "an output").get("name")
        if not isinstance(name, str) or name not in known:
            raise _refused(f"no output is called {_shown(name)}: there is {', '.join(known)}")
        if name in found:
            raise _refused(f"output {name} is asked for twice")
        parameters = _parameters(each, f"output {name}")
        for strange in parameters.keys() - {"binary_data"}:
            # Triton's `classification` would change what the answer means.
            raise _refused(f"output {name} has a parameter {_shown(strange)}: not known here")
        found[name] = _flag(parameters, "binary_data", all_raw)
    return found


def _parameters(of: dict[str, Any], what: str) -> dict[str, Any]:
    return _object(of.get("parameters", {}), f"parameters of {what}")


def _flag(parameters: dict[str, Any], name: str, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise _refused(f"{name} is {_shown(value)}, not true or false")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(f"{what} is no JSON object")
    return value


def _shown(value: Any) -> str:
    """Return a short text of a value of any size."""
    if isinstance(value, dict) or (
        isinstance(value, list)
        and (len(value) > 8 or any(isinstance(x, list | dict) for x in value))
    ):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return ascii(value[:60] if isinstance(value, str) else value)[:100]


def too_large() -> RequestError:
    """Return the refusal of a body over `MAX_BODY` bytes."""
    return RequestError(413, "too_large", f"the body is over {MAX_BODY:,} bytes: send fewer X-rays")


def _refused(message: str) -> RequestError:
    return RequestError(400, "bad_tensors", message)
