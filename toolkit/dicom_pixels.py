"""The pixels of a DICOM file as the numbers that are stored, from bytes that may be compressed.

Read are uncompressed pixels, RLE, 8-bit JPEG and JPEG 2000: what NumPy and Pillow can decode.
"""

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, Jpeg2KImagePlugin, JpegImagePlugin

from toolkit.errors import ImageError
from toolkit.limits import MeteredFile, damaged

PLAIN: Final = {
    "1.2.840.10008.1.2": (True, "<"),
    "1.2.840.10008.1.2.1": (False, "<"),
    "1.2.840.10008.1.2.2": (False, ">"),
}
"""Uncompressed transfer syntaxes: whether value representations are implicit, and byte order."""
_RLE: Final = "1.2.840.10008.1.2.5"
_JPEG: Final = "1.2.840.10008.1.2.4.50"
_JPEG_2000: Final = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
SYNTAXES: Final = (*PLAIN, _RLE, _JPEG, *_JPEG_2000)
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
    if syntax == _JPEG:
        with JpegImagePlugin.jpeg_factory(MeteredFile(frame)) as image:
            return _numbers(_picture(image, layout), layout._replace(bits=8))
    return _jpeg_2000(frame, layout)


def _numbers(pixels: NDArray[np.integer], layout: Layout) -> NDArray[np.int32]:
    """Only the bits that count, in two's complement where signed."""
    values = pixels.astype(np.int32) & (1 << layout.bits) - 1
    if not layout.signed:
        return values
    sign = 1 << layout.bits - 1
    return (values ^ sign) - sign


def _plain(encoded: bytes, layout: Layout, order: str) -> NDArray[np.integer]:
    kind = f"{order}u{layout.allocated // 8}"
    pixels = np.frombuffer(encoded, kind, layout.rows * layout.columns)
    return pixels.reshape(layout.rows, layout.columns)


def _frame(encoded: bytes) -> bytes:
    """The single frame, of however many fragments."""
    from pydicom.encaps import get_frame

    from toolkit.dicom_tags import silence

    with silence():
        return get_frame(MeteredFile(encoded), 0, number_of_frames=1)


def _run_lengths(frame: bytes, layout: Layout) -> NDArray[np.integer]:
    """A segment for each byte of a pixel, the highest first."""
    count, *starts = struct.unpack_from("<16L", frame)
    if count != layout.allocated // 8:
        raise damaged()
    pixels = np.zeros((layout.rows, layout.columns), np.int32)
    for start in starts[:count]:
        segment = _unrolled(frame, start, pixels.size)
        pixels = pixels << 8 | np.frombuffer(segment, np.uint8).reshape(pixels.shape)
    return pixels


def _unrolled(frame: bytes, at: int, wanted: int) -> bytearray:
    """The first `wanted` bytes of the run lengths that start at `at`."""
    unrolled = bytearray()
    while len(unrolled) < wanted:
        head = frame[at]
        if head < 128:  # so many bytes and one more, as they are
            unrolled += frame[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:  # one byte, repeated
            unrolled += frame[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    return unrolled[:wanted]


def _jpeg_2000(frame: bytes, layout: Layout) -> NDArray[np.int32]:
    """Depth and sign of the samples are those of the codestream."""
    if not frame.startswith(b"\xff\x4f\xff\x51"):
        raise damaged()
    signed, bits = frame[42] >> 7, (frame[42] & 127) + 1
    if bits > 16:
        raise odd_bits()
    with Jpeg2KImagePlugin.Jpeg2KImageFile(MeteredFile(frame)) as image:
        # Pillow moves samples up to fill 8 or 16 bits, and signed ones above zero.
        pixels = _picture(image, layout).astype(np.int32) >> (8 if bits <= 8 else 16) - bits
    return _numbers(pixels - (signed << bits - 1), layout._replace(bits=bits))


def _picture(image: Image.Image, layout: Layout) -> NDArray[np.integer]:
    if image.mode not in ("L", "I;16") or image.size != (layout.columns, layout.rows):
        raise damaged()
    return np.array(image)


def odd_bits() -> ImageError:
    """The refusal, `dicom_bits` (422), of pixels of another depth than is read."""
    message = "its pixels are not of 8 or 16 bits, filled from the lowest; save it as such"
    return ImageError("dicom_bits", message)
