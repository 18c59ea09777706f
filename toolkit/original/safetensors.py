"""The format safetensors: the length of a JSON header, the header, and the numbers it tells of.

https://huggingface.co/docs/safetensors: nothing in it can run anything.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from toolkit.errors import CheckpointError
from toolkit.original.opcodes import quote

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 2**21
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
ALL = FLOATS | {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}
"""What a network of one's own may count with besides."""
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Entry(msgspec.Struct):
    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


def is_safetensors(content: bytes) -> bool:
    """Return whether a file begins as this format does."""
    return content[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and not content.startswith(b"PK")


def load(content: bytes, dtypes: Mapping[str, torch.dtype] = FLOATS) -> dict[str, Tensor]:
    """Return the tensors of a file, by name and in the order of the numbers within their names.

    Raises:
        CheckpointError: it is damaged, claims more than it has, or holds numbers of none of
            `dtypes`; the message names it.
    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if start > min(len(content), _LENGTH_BYTES + _MAX_HEADER_BYTES):
        raise CheckpointError(
            f"its header is said to have {start - _LENGTH_BYTES} bytes: it is damaged, or has over "
            f"{_MAX_HEADER_BYTES >> 20} MiB of names"
        )
    numbers = memoryview(content)[start:]
    try:
        header = msgspec.json.decode(content[_LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is damaged: {quote(error)}") from error
    for name, entry in entries.items():
        _check(name, entry, len(numbers), dtypes)
    # Each tensor lies within the file. If they add up to more than the file, some overlap.
    if sum(end - begin for begin, end in (each.data_offsets for each in entries.values())) > len(
        numbers
    ):
        raise CheckpointError("its tensors overlap")
    return {name: _tensor(entries[name], numbers) for name in sorted(entries, key=_by_number)}


def _check(name: str, entry: _Entry, size: int, dtypes: Mapping[str, torch.dtype]) -> None:
    if entry.dtype not in dtypes:
        raise CheckpointError(f"{quote(name)} is of {quote(entry.dtype)}, which is not read")
    begin, end = entry.data_offsets
    needed = math.prod(entry.shape) * dtypes[entry.dtype].itemsize
    if not begin <= end <= size or end - begin != needed:
        raise CheckpointError(
            f"{quote(name)} lies at bytes {begin} to {end} of {size}, and needs {needed}: it is "
            "damaged"
        )


def _tensor(entry: _Entry, numbers: memoryview) -> Tensor:
    begin, end = entry.data_offsets
    dtype = ALL[entry.dtype]
    if begin == end:
        return torch.empty(entry.shape, dtype=dtype)
    # A copy: PyTorch warns of memory that is read-only.
    return torch.frombuffer(bytearray(numbers[begin:end]), dtype=dtype).reshape(entry.shape)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort layer 10 after layer 9: the format keeps no order of its own."""
    return [
        (int(word), "") if re.fullmatch(r"[0-9]{1,9}", word) else (-1, word)
        for word in name.split(".")
    ]
