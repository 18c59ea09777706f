"""Any X-ray in, one function: a file or its bytes to square grey pixels, or a refusal.

Training and serving both read X-rays here, so both refuse the same files and see the same
pixels. Arithmetic is in integers, or in floats that are exact for these ranges: the machine
makes no difference. Kind and size are judged by the header, before any pixel is decoded.
"""

import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError
from toolkit.xray import dicom, pictures
from toolkit.xray.dicom_tags import is_dicom
from toolkit.xray.limits import MAX_BYTES, MAX_PIXELS, MIN_SIDE, SIZE, is_system_error
from toolkit.xray.scaling import square

__all__ = ["MAX_BYTES", "MAX_PIXELS", "SIZE", "decode", "file_content", "read_xray"]


def read_xray(source: Path | str | bytes, size: int = SIZE, channels: int = 1) -> NDArray[np.uint8]:
    """Read the X-ray in a PNG, JPEG or DICOM file, given by its path or as its bytes.

    Args:
        source: where the file is; or, as bytes, the whole file.
        size: side of the result, pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        As `decode` gives it: uint8 (size, size), or (size, size, 3) in colour.

    Raises:
        ImageError: `decode` refuses the file, or it cannot be read (`unreadable`). The message
            begins with the path, if there is one.
        MemoryError, OSError: the machine lacks memory or open files, or a disk fails.
    """
    if isinstance(source, bytes):
        return decode(source, size, channels)
    try:
        return decode(file_content(source), size, channels)
    except ImageError as error:
        raise ImageError(error.code, f"{source}: {error}", error.status) from error


def decode(content: bytes, size: int = SIZE, channels: int = 1) -> NDArray[np.uint8]:
    """Decode the X-ray in a PNG, JPEG or DICOM file.

    Args:
        content: the whole file; a DICOM file may lack its preamble.
        size: side of the result, pixels. A file's sides may be as short as that, or `MIN_SIDE`.
        channels: 1 for grey, 3 for colour; of a grey file the three are equal.

    Returns:
        A new, writable uint8 array (size, size), or (size, size, 3) in colour, 0 to 255, of the
        centre square. An 8-bit file of that size comes through byte for byte.

    Raises:
        ImageError: the file is refused. `code` is one of `not_an_image` (415), `too_large`
            (413), those of `dicom.grey` or `pictures.grey`.
        MemoryError, OSError: the machine has no memory or no open files left. No other
            exception escapes, whatever the bytes.
    """
    if len(content) > MAX_BYTES:
        raise ImageError("too_large", f"larger than {MAX_BYTES:,} bytes; send a smaller file", 413)
    least = min(MIN_SIDE, size)
    # First, as the preamble of one may be the beginning of any other file.
    if is_dicom(content):
        found = square(dicom.grey(content, least), size)
        return found if channels == 1 else np.repeat(found[:, :, None], channels, axis=2)
    if content.startswith((pictures.PNG, pictures.JPEG)):
        if channels == 1:
            return square(pictures.grey(content, least), size)
        return square(pictures.colour(content, least), size)
    what = "not a PNG, JPEG or DICOM file" if content else "the file is empty"
    raise ImageError("not_an_image", f"{what}; send a PNG, JPEG or DICOM file", 415)


def file_content(path: Path | str | bytes) -> bytes:
    """Return the bytes of a file, or of a larger one the first `MAX_BYTES` + 1.

    Raises:
        ImageError: it is no regular file, or cannot be read (`unreadable`).
        OSError: the machine lacks memory or open files, or a disk fails.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError("unreadable", "cannot be read: it is no regular file")
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if is_system_error(error):
            error.filename = path
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError("unreadable", f"cannot be read: {reason}") from error


def _open_at_once(path: str, flags: int) -> int:
    # A pipe that nobody writes to would hold its reader for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
