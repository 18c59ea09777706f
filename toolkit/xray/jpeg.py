"""Opens a JPEG file for decoding, if that will not take too long."""

import re
import struct
from typing import Final

from PIL import Image, JpegImagePlugin

from toolkit.errors import ImageError
from toolkit.xray.limits import MeteredFile, damaged

_MAX_PARTS: Final = 2_000
_MAX_SCANS: Final = 100
# Neither stuffing nor restarts: what ends a scan, or begins a segment.
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_ALONE: Final = (0x01, 0xD8)
_SCAN, _END = 0xDA, 0xD9


def opened(content: bytes) -> Image.Image:
    """The picture with its header read and its pixels still encoded; Pillow's errors escape.

    Raises:
        ImageError: `too_many_scans` (422): of each, however short, all pixels are gone through,
            so that a small file could take an hour. Or `truncated` (422).
    """
    _check_scans(content)
    return JpegImagePlugin.jpeg_factory(MeteredFile(content))


def _check_scans(content: bytes) -> None:
    at, parts, scans = 0, 0, 0
    while (marker := _MARKER.search(content, at)) and marker[1][0] != _END:
        at = marker.end()
        if marker[1][0] not in _ALONE and at + 2 <= len(content):
            at += struct.unpack_from(">H", content, at)[0]
        parts += 1
        scans += marker[1][0] == _SCAN
        if scans > _MAX_SCANS:
            message = f"a JPEG file of more than {_MAX_SCANS} scans; save the X-ray again"
            raise ImageError("too_many_scans", message)
        if parts > _MAX_PARTS:
            raise damaged()
