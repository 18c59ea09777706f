"""Which shared libraries a Linux library asks for, as its own header says."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_LOADED, _DYNAMIC = 1, 2
_NEEDED, _STRINGS = 1, 5


def needed_libraries(path: Path) -> list[str]:
    """Return the names, such as `libcudart.so.13`, in the order of the file.

    Raises:
        ValueError: not a 64-bit little-endian ELF file, or cut off.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if file[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is not a 64-bit ELF file")
        try:
            return _needed(file)
        except (struct.error, StopIteration) as error:
            raise ValueError(f"{path} is cut off") from error


def _needed(file: mmap.mmap) -> list[str]:
    (headers,) = struct.unpack_from("<Q", file, 32)
    size, count = struct.unpack_from("<HH", file, 54)
    segments = []
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", file, headers + index * size
        )
        segments.append((kind, offset, address, length))
    dynamic = [
        entry for kind, at, _, _ in segments if kind == _DYNAMIC for entry in _pairs(file, at)
    ]
    wanted = [value for tag, value in dynamic if tag == _NEEDED]
    if not wanted:
        return []
    strings = next(value for tag, value in dynamic if tag == _STRINGS)
    # The table is named by its address in memory; the segment that holds it has the offset.
    start = next(
        offset + strings - address
        for kind, offset, address, length in segments
        if kind == _LOADED and address <= strings < address + length
    )
    return [_text(file, start + each) for each in wanted]


def _pairs(file: mmap.mmap, at: int) -> Iterator[tuple[int, int]]:
    while True:
        tag, value = struct.unpack_from("<qQ", file, at)
        if tag == 0:
            return
        yield tag, value
        at += 16


def _text(file: mmap.mmap, at: int) -> str:
    return file[at : file.find(b"\0", at)].decode("ascii", "replace")
