"""The pixels of a DICOM file as the numbers that are stored, from bytes that may be compressed.

Read are uncompressed pixels, RLE and 8-bit JPEG. JPEG 2000 is not: a file of some kilobytes can
make its decoder take gigabytes.
"""

import struct
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError
from toolkit.xray import jpeg
from toolkit.xray.dicom_tags import MAX_READS, silence
from toolkit.xray.limits import MeteredFile, damaged

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


def stored_values(encoded: bytes, layout: Layout, syntax: str) -> NDArray[np.int32]:
    """The stored values, int32 (rows, columns), of pixels in one of `SYNTAXES`."""
    if syntax in PLAIN:
        return _numbers(_plain(encoded, layout, PLAIN[syntax][1]), layout)
    frame = _frame(encoded)
    if syntax == _RLE:
        return _numbers(_run_lengths(frame, layout), layout)
    return _numbers(_jpeg(frame, layout), layout._replace(bits=8))


def _numbers(pixels: NDArray[np.integer], layout: Layout) -> NDArray[np.int32]:
    """Only the bits that count, in two's complement where signed."""
    values = pixels.astype(np.int32)
    values &= (1 << layout.bits) - 1
    if layout.signed:
        sign = 1 << layout.bits - 1
        values ^= sign
        values -= sign
    return values


def _plain(encoded: bytes, layout: Layout, order: str) -> NDArray[np.integer]:
    kind = f"{order}u{layout.allocated // 8}"
    pixels = np.frombuffer(encoded, kind, layout.rows * layout.columns)
    return pixels.reshape(layout.rows, layout.columns)


def _frame(encoded: bytes) -> bytes:
    """The single frame, of however many fragments."""
    from pydicom.encaps import get_frame

    with silence():
        return get_frame(MeteredFile(encoded, MAX_READS), 0, number_of_frames=1)


def _jpeg(frame: bytes, layout: Layout) -> NDArray[np.integer]:
    with jpeg.opened(frame) as image:
        if (image.mode, image.size) != ("L", (layout.columns, layout.rows)):
            raise damaged()
        return np.array(image)


def _run_lengths(frame: bytes, layout: Layout) -> NDArray[np.integer]:
    """A segment for each byte of a pixel, the highest first."""
    wide = layout.allocated // 8
    count, *starts = struct.unpack_from("<16L", frame)
    if count != wide:
        raise damaged()
    pixels = np.empty((layout.rows, layout.columns, wide), np.uint8)
    for place, (start, end) in enumerate(pairwise([*starts[:count], len(frame)])):
        segment = _unrolled(frame[start:end], layout.rows * layout.columns)
        pixels[..., place] = np.frombuffer(segment, np.uint8).reshape(pixels.shape[:2])
    return pixels.view(f">u{wide}")[..., 0]


def _unrolled(segment: bytes, wanted: int) -> bytearray:
    """The first `wanted` bytes that are meant by run lengths."""
    unrolled, at = bytearray(), 0
    while len(unrolled) < wanted:
        head = segment[at]
        if head < 128:  # so many bytes and one more, as they are
            unrolled += segment[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:  # one byte, repeated
            unrolled += segment[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    return unrolled[:wanted]


def odd_bits() -> ImageError:
    """The refusal, `dicom_bits` (422), of pixels of another depth than is read."""
    message = "its pixels are not of 8 or 16 bits, filled from the lowest; save it as such"
    return ImageError("dicom_bits", message)
