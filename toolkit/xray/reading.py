"""Any X-ray in, one function: file bytes to 224x224 grey bytes, or a refusal.

Training and serving both read X-rays here, so both refuse the same files and see the same
pixels. Arithmetic is in integers, or in floats that are exact for these ranges: the machine
makes no difference. Kind and size are judged by the header, before any pixel is decoded.

In order: decode, alpha over black, 8-bit grey, EXIF orientation, centre square, 224. Of a DICOM
file, `dicom.grey` makes the 8-bit grey.
"""

import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from toolkit.errors import ImageError
from toolkit.xray import dicom, jpeg
from toolkit.xray.limits import MAX_BYTES, MAX_PIXELS, MeteredFile, check_shape, damaged
from toolkit.xray.scaling import SIZE, square, stretch

__all__ = ["MAX_BYTES", "MAX_PIXELS", "SIZE", "decode", "file_content", "read"]

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_ORIENTATION_TAG: Final = 0x0112
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG


def decode(content: bytes) -> NDArray[np.uint8]:
    """The X-ray in a PNG, JPEG or DICOM file.

    Args:
        content: the whole file; a DICOM file has its preamble.

    Returns:
        A new, writable uint8 array (224, 224), 0 to 255. An 8-bit grey file of that size comes
        through byte for byte.

    Raises:
        ImageError: the file is refused. `code` is one of `not_an_image` (415), `too_large`
            (413), those of `dicom.grey` or, all of them 422, `animated`, `cmyk`,
            `sixteen_bit_colour`, `unsupported_mode`, `too_many_scans`, `too_many_pixels`,
            `too_small`, `aspect`, `truncated`. No other exception escapes, whatever the bytes.
    """
    if len(content) > MAX_BYTES:
        raise ImageError("too_large", f"larger than {MAX_BYTES:,} bytes; send a smaller file", 413)
    if content.startswith((_PNG, _JPEG)):
        grey, orientation = _read_picture(content)
        return square(_upright(grey, orientation))
    if content[128:132] == b"DICM":
        return square(dicom.grey(content))
    what = "not a PNG, JPEG or DICOM file" if content else "the file is empty"
    raise ImageError("not_an_image", f"{what}; send a PNG, JPEG or DICOM file", 415)


def read(path: Path) -> NDArray[np.uint8]:
    """The X-ray in the PNG, JPEG or DICOM file at `path`, as `decode` gives it.

    Raises:
        ImageError: `decode` refuses the file, or it cannot be read (`unreadable`); the message
            begins with the path.
    """
    content = file_content(path)
    try:
        return decode(content)
    except ImageError as error:
        raise ImageError(error.code, f"{path}: {error}", error.status) from error


def file_content(path: Path) -> bytes:
    """The bytes of a file, or of a larger one the first `MAX_BYTES` + 1.

    Raises:
        ImageError: it cannot be read (`unreadable`); the message begins with the path.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError("unreadable", f"{path}: cannot be read: {reason}") from error


def _read_picture(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """8-bit grey (height, width) as stored, and its EXIF orientation, 1 to 8."""
    try:
        with _open(content) as image:
            _check_kind(image, content)
            check_shape(*image.size)
            if content.startswith(_PNG):
                _check_chunks(content, *image.size)
            image.load()
            return _to_grey(image, content), _orientation(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow lets through whatever its parsers raise
        raise damaged() from error


def _open(content: bytes) -> Image.Image:
    """The picture with its header read and its pixels still encoded.

    `Image.open` is avoided: it warns of large pictures before `check_shape` can refuse them.
    """
    if content.startswith(_JPEG):
        return jpeg.opened(content)
    if content[12:16] != b"IHDR":
        raise damaged()
    return PngImagePlugin.PngImageFile(MeteredFile(content))


def _check_kind(image: Image.Image, content: bytes) -> None:
    """Refuses what is not a single picture in grey or RGB."""
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated", "holds several pictures; send a single still X-ray")
    if image.mode == "CMYK":
        raise ImageError("cmyk", "CMYK is a mode for print; save the X-ray as grey or RGB")
    if _depth(content) == 16 and not image.mode.startswith("I"):
        # Pillow keeps the high bytes only: 16 grey levels of a 12-bit X-ray.
        message = "16-bit colour or alpha; save the X-ray as 16-bit grey or as 8-bit"
        raise ImageError("sixteen_bit_colour", message)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"):
        message = f"mode {image.mode} is not supported; save the X-ray as grey or RGB"
        raise ImageError("unsupported_mode", message)


def _check_chunks(content: bytes, width: int, height: int) -> None:
    """Refuses a PNG that is cut off or changed, or has too few pixels: Pillow would not notice."""
    start, kind, data = len(_PNG), b"", bytearray()
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if zlib.crc32(content[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise damaged()
        if kind == b"IDAT":
            data += content[start + 8 : end]
        start = end + 4
    # Exact but for interlaced files, which hold a little more.
    expected = height * (1 + (width * _CHANNELS[content[25]] * _depth(content) + 7) // 8)
    if len(zlib.decompressobj().decompress(data, expected)) < expected:
        raise damaged()


def _to_grey(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    """The decoded pixels as 8-bit grey (height, width)."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.array(image)
        return stretch(values if key is None else np.where(values == key, 0, values))
    if image.mode in ("1", "L"):
        grey = np.array(image if image.mode == "L" else image.convert("L"))
        if key is not None:  # of 2 and 4 bits, Pillow gives the key before spreading the levels
            level = key * {2: 85, 4: 17}.get(_depth(content), 1)
            grey[grey == (255 * bool(key) if image.mode == "1" else level)] = 0
        return grey
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("L"))


def _depth(content: bytes) -> int:
    """Bits a sample, as a PNG's header gives them; 8 for a JPEG."""
    return content[24] if content.startswith(_PNG) else 8


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1, which is upright, where there is none that can be understood."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # a good X-ray with bad EXIF is a good X-ray
        return 1


def _upright(grey: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view with the orientation undone: 5 to 8 are transposed, the rest is flips."""
    if orientation >= 5:
        grey = grey.T
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    return grey
