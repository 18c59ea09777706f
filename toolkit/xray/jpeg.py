"""JPEG files: the header, and pixels only where all of their data is there and sound.

Where data is missing or overwritten, libjpeg fills in grey and warns. Pillow keeps the warning
to itself, so Pillow reads the header, and simplejpeg, the same libjpeg, the pixels.
"""

import re
import struct
from typing import Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from toolkit.errors import ImageError
from toolkit.xray.limits import MeteredFile, damage_error

_MAX_SEGMENTS: Final = 2_000
_MAX_SCANS: Final = 100
# Neither stuffing nor restarts: what ends a scan, or begins a segment.
_MARKER: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_ALONE: Final = (0x01, 0xD8)
_SCAN: Final = 0xDA
_END: Final = 0xD9
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_COEFFICIENTS: Final = (1 << 64) - 1
# libjpeg warns of a version that it does not know, and reads it; it stops at the first warning.
_OF_LATER: Final = re.compile(rb"(\xff\xd8\xff\xe0..JFIF\0)[\x02-\xff]", re.DOTALL)


class _Structure(NamedTuple):
    """What a JPEG file is made of, down to its end."""

    segments: int
    scans: int
    complete: bool
    """Whether scans are there for every coefficient of every component, to its last bit."""
    ends: bool
    """Whether the marker at the end is there."""


def open_header(content: bytes) -> Image.Image:
    """Return the picture with its header read and its pixels still encoded.

    Pillow's errors escape.

    Raises:
        ImageError: `too_many_scans` (422): every scan, however short, goes over all pixels, so
            that a small file could take an hour. Or `truncated` (422).
    """
    structure = _structure(content)
    if structure.scans > _MAX_SCANS:
        message = f"a JPEG file of more than {_MAX_SCANS} scans; save the X-ray again"
        raise ImageError("too_many_scans", message)
    if structure.segments > _MAX_SEGMENTS:
        raise damage_error()
    return JpegImagePlugin.jpeg_factory(MeteredFile(content))


def pixels(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    """Decode a picture whose header was read, uint8 (height, width) or (height, width, 3).

    A file that has all its pixels and only lacks its end is read.

    Raises:
        ImageError: `damaged` (422): part of its data is missing or overwritten. `truncated`
            (422): it is cut off.
        MemoryError: there is none left.
    """
    structure = _structure(content)
    if not structure.complete:
        raise _loss(structure)
    whole = content if structure.ends else content + b"\xff\xd9"
    if later := _OF_LATER.match(whole):
        whole = later[1] + b"\x01" + whole[later.end() :]
    space = "GRAY" if image.mode == "L" else "RGB"
    try:
        decoded = simplejpeg.decode_jpeg(whole, space, strict=True)
    except ValueError as error:
        if "memory" in str(error):
            raise MemoryError("no memory is left to decode an X-ray") from error
        raise _loss(structure) from error
    found: NDArray[np.uint8] = decoded[:, :, 0] if space == "GRAY" else decoded
    return found


def _structure(content: bytes) -> _Structure:
    """Go through the segments of a file, but not beyond the most that there may be."""
    at, segments, scans = 0, 0, 0
    known: dict[int, int] = {}  # of each component the final coefficients, a bit for each
    while (marker := _MARKER.search(content, at)) and marker[1][0] != _END:
        kind, at = marker[1][0], marker.end()
        segments += 1
        scans += kind == _SCAN
        if segments > _MAX_SEGMENTS or scans > _MAX_SCANS:
            break
        if kind not in _ALONE and at + 2 <= len(content):
            end = at + struct.unpack_from(">H", content, at)[0]
            if kind in _FRAMES:
                known = dict.fromkeys(content[at + 8 : end : 3], 0)
            elif kind == _SCAN:
                for component, coefficients in _completed(content[at + 2 : end]).items():
                    known[component] = known.get(component, 0) | coefficients
            at = end
    complete = all(coefficients == _COEFFICIENTS for coefficients in known.values())
    return _Structure(segments, scans, complete, marker is not None)


def _completed(header: bytes) -> dict[int, int]:
    """Return the coefficients of each component that a scan brings to their last bit."""
    if len(header) < 6 or len(header) != 2 * header[0] + 4:
        return {}
    first, last, bits = header[-3:]
    final = (2 << last) - (1 << first) if bits & 15 == 0 and first <= last < 64 else 0
    return dict.fromkeys(header[1:-3:2], final)


def _loss(structure: _Structure) -> ImageError:
    if not structure.ends:
        return damage_error()
    return ImageError(
        "damaged", "damaged: some of its JPEG data is missing or overwritten; send it anew"
    )
