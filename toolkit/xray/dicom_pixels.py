"""The pixels of a DICOM file as the numbers that are stored, from bytes that may be compressed.

Read are uncompressed pixels, RLE and 8-bit JPEG. JPEG 2000 is not: a file of some kilobytes can
make its decoder take gigabytes.
"""

import struct
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toolkit.xray import jpeg
from toolkit.xray.limits import damage_error

PLAIN: Final = {
    "1.2.840.10008.1.2": (True, "<"),
    "1.2.840.10008.1.2.1": (False, "<"),
    "1.2.840.10008.1.2.2": (False, ">"),
}
"""Uncompressed transfer syntaxes: whether value representations are implicit, and byte order."""
_RLE: Final = "1.2.840.10008.1.2.5"
_JPEG: Final = "1.2.840.10008.1.2.4.50"
SYNTAXES: Final = (*PLAIN, _RLE, _JPEG)
"""All transfer syntaxes that are read."""


class Layout(NamedTuple):
    """How many pixels are stored, and in which bits."""

    rows: int
    columns: int
    allocated: int
    """Bits that a pixel takes, 8 or 16."""
    bits: int
    """How many of them count, from the lowest."""
    signed: bool


class Padding(NamedTuple):
    """The stored values that stand for no pixel: from `first` to `last`, 16 bits as stored."""

    first: int
    last: int

    def places(self, frame: bytes, layout: Layout, syntax: str) -> NDArray[np.bool_]:
        """Return where a frame holds padding, bool (rows, columns)."""
        if not all(_fits(bound, layout) for bound in self):
            # It is told by bits that do not count otherwise.
            layout = layout._replace(bits=layout.allocated)
        low, high = sorted(_signed(bound, layout) for bound in self)
        values = stored_values(frame, layout, syntax)
        return (low <= values) & (values <= high)


def stored_values(frame: bytes, layout: Layout, syntax: str) -> NDArray[np.int32]:
    """Return the stored values, int32 (rows, columns), of a frame in one of `SYNTAXES`.

    Only the bits that count are taken, in two's complement where signed.
    """
    rows, columns, allocated, bits, signed = layout
    if syntax in PLAIN:
        kind = f"{PLAIN[syntax][1]}u{allocated // 8}"
        pixels = np.frombuffer(frame, kind, rows * columns)
    elif syntax == _RLE:
        pixels = _run_lengths(frame, rows * columns, allocated // 8)
    else:
        pixels, bits = _jpeg(frame, rows, columns), 8
    values = pixels.astype(np.int32).reshape(rows, columns)
    values &= (1 << bits) - 1
    if signed:
        sign = 1 << bits - 1
        values ^= sign
        values -= sign
    return values


def _jpeg(frame: bytes, rows: int, columns: int) -> NDArray[np.integer]:
    with jpeg.open_header(frame) as image:
        if (image.mode, image.size) != ("L", (columns, rows)):
            raise damage_error()
        return jpeg.pixels(image, frame)


def _run_lengths(frame: bytes, count: int, wide: int) -> NDArray[np.integer]:
    """Return so many pixels of so many bytes; there is a segment for each byte, highest first.

    Pillow's decoder stops at the last pixel; pydicom's takes 64 times the size of its input.
    """
    segments, *starts = struct.unpack_from("<16L", frame)
    if segments != wide:
        raise damage_error()
    pixels = np.empty((count, wide), np.uint8)
    for place, (start, end) in enumerate(pairwise([*starts[:wide], len(frame)])):
        plane = Image.frombytes("L", (count, 1), frame[start:end], "packbits", "L")
        pixels[:, place] = np.asarray(plane)[0]
    return pixels.view(f">u{wide}")


def _fits(bound: int, layout: Layout) -> bool:
    """Whether the bits that count hold a number of 16 bits."""
    number = bound - 65_536 if layout.signed and bound >= 32_768 else bound
    least = -(1 << layout.bits - 1) if layout.signed else 0
    return least <= number < least + (1 << layout.bits)


def _signed(bound: int, layout: Layout) -> int:
    """Return what the lowest bits of a number mean as a stored value."""
    value = bound & ((1 << layout.bits) - 1)
    return value - (1 << layout.bits) if layout.signed and value >> layout.bits - 1 else value
