"""Any X-ray in, one function: file bytes to 224x224 grey bytes, or a refusal.

Training and serving both read X-rays here, so both refuse the same files and see the same
pixels. Arithmetic is in integers, or in floats that are exact for these ranges: the machine
makes no difference. Kind and size are judged by the header, before any pixel is decoded.

In order: decode, alpha over black, 8-bit grey, EXIF orientation, centre square, 224.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from toolkit.errors import ImageError

SIZE: Final = 224
"""Side of every decoded X-ray, pixels."""
MAX_BYTES: Final = 20_000_000
"""Largest file accepted, bytes."""
MAX_PIXELS: Final = 16_000_000
"""Most pixels accepted. `resize` is exact for squares of up to this many."""
MIN_SIDE: Final = 64
"""Shortest side accepted, pixels."""
MAX_ASPECT: Final = 1.5
"""Largest ratio of the longer side to the shorter one."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_MAX_READS: Final = 100_000
_ORIENTATION_TAG: Final = 0x0112
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG


def decode(content: bytes) -> NDArray[np.uint8]:
    """The X-ray in a PNG or JPEG file.

    Args:
        content: the whole file.

    Returns:
        A new, writable uint8 array (224, 224), 0 to 255. An 8-bit grey file of that size comes
        through byte for byte.

    Raises:
        ImageError: the file is refused. `code` is one of `not_an_image` (415), `too_large`
            (413) or, all of them 422, `animated`, `cmyk`, `sixteen_bit_colour`,
            `unsupported_mode`, `too_many_pixels`, `too_small`, `aspect`, `truncated`. No other
            exception escapes, whatever the bytes.
    """
    if len(content) > MAX_BYTES:
        raise ImageError("too_large", f"larger than {MAX_BYTES:,} bytes; send a smaller file", 413)
    if not content:
        raise ImageError("not_an_image", "the file is empty; send a PNG or JPEG file", 415)
    # DICOM joins here: its pixel values go through `stretch` and `square`.
    if not content.startswith((_PNG, _JPEG)):
        raise ImageError("not_an_image", "not a PNG or JPEG file; send one of those", 415)
    grey, orientation = _read_picture(content)
    return square(_upright(grey, orientation))


def read(path: Path) -> NDArray[np.uint8]:
    """The X-ray in the PNG or JPEG file at `path`, as `decode` gives it.

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


def stretch(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Values of up to 16 bits brought to 8: (v - min) * 255 / (max - min), half to even.

    Args:
        values: integers of any shape, with max - min at most 65,535.

    Returns:
        uint8 of the same shape, 0 to 255; zeros if all values are equal.
    """
    low, high = int(values.min()), int(values.max())
    if low == high:
        return np.zeros(values.shape, np.uint8)
    steps = np.arange(high - low + 1, dtype=np.float64)
    return _round_ratio(steps * 255, high - low)[values.astype(np.int32) - low]


def square(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The centre square of an X-ray of any size, brought to 224x224.

    Takes uint8 (height, width), within `decode`'s limits; returns a new, writable uint8 array.
    """
    height, width = grey.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(grey[top : top + side, left : left + side])


def resize(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square X-ray brought to 224x224: area averaging going down, bicubic going up.

    An area's mean is exact and rounded half to even. Bicubic is Pillow's, in fixed point.

    Args:
        grey: uint8 (n, n), n at most 4,000.

    Returns:
        A new, writable uint8 array (224, 224).
    """
    side = len(grey)
    if side == SIZE:
        return np.array(grey, order="C")
    if side > SIZE:
        return _area_average(grey)
    picture = Image.fromarray(np.ascontiguousarray(grey))
    return np.array(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _area_average(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (n, n), 224 < n <= 4000, to uint8 (224, 224)."""
    side = len(grey)
    weights = _overlaps(side)
    # Both sums are of integers, below 255 * 4000 < 2**24 and 255 * 4000**2 < 2**53: exact in
    # float32 and float64, in any order of summation. A row of weights is zero outside its band.
    bands = np.empty((SIZE, side), np.float32)
    for row in range(SIZE):
        first, last = row * side // SIZE, -(-(row + 1) * side // SIZE)
        bands[row] = weights[row, first:last] @ grey[first:last].astype(np.float32)
    return _round_ratio(bands.astype(np.float64) @ weights.T.astype(np.float64), side**2)


def _overlaps(side: int) -> NDArray[np.float32]:
    """Overlap of each output pixel with each source pixel, in 1/224 of a source pixel.

    float32 (224, side) of integers 0 to 224; each row adds up to `side`.
    """
    start, source = np.arange(SIZE)[:, None] * side, np.arange(side) * SIZE
    overlap = np.minimum(start + side, source + SIZE) - np.maximum(start, source)
    return overlap.clip(min=0).astype(np.float32)


def _round_ratio(numerators: NDArray[np.float64], denominator: int) -> NDArray[np.uint8]:
    """Integers over an integer, rounded half to even, for ratios of 0 to 255.

    In float64 a tie stays a tie, and all else is at least 1 / (2 * 4000**2) away from one.
    """
    return np.rint(numerators / denominator).astype(np.uint8)


class _MeteredFile(io.BytesIO):
    """A file in memory that ends parsing after too many reads.

    Pillow parses a header part by part, in Python: millions of empty parts would keep it busy.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise _damaged()
        return super().read(size)


def _read_picture(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """8-bit grey (height, width) as stored, and its EXIF orientation, 1 to 8."""
    try:
        with _open(content) as image:
            _check_kind(image, content)
            _check_shape(*image.size)
            if content.startswith(_PNG):
                _check_chunks(content, *image.size)
            image.load()
            return _to_grey(image, content), _orientation(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow lets through whatever its parsers raise
        raise _damaged() from error


def _open(content: bytes) -> Image.Image:
    """The picture with its header read and its pixels still encoded.

    `Image.open` is avoided: it warns of large pictures before `_check_shape` can refuse them.
    """
    file = _MeteredFile(content)
    if content.startswith(_JPEG):
        return JpegImagePlugin.jpeg_factory(file)
    if content[12:16] != b"IHDR":
        raise _damaged()
    return PngImagePlugin.PngImageFile(file)


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


def _check_shape(width: int, height: int) -> None:
    """Refuses sizes, in pixels, that are not an X-ray's."""
    short, long = sorted((width, height))
    size = f"{width}x{height} pixels"
    if short * long > MAX_PIXELS:
        message = f"{size} is more than {MAX_PIXELS // 1_000_000} megapixels; send it smaller"
        raise ImageError("too_many_pixels", message)
    if short < MIN_SIDE:
        message = f"{size}, and a side must have at least {MIN_SIDE}; send it larger"
        raise ImageError("too_small", message)
    if long > MAX_ASPECT * short:
        message = f"{size} is more elongated than 3:2; crop it to the knee"
        raise ImageError("aspect", message)


def _check_chunks(content: bytes, width: int, height: int) -> None:
    """Refuses a PNG that is cut off or changed, or has too few pixels: Pillow would not notice."""
    start, kind, data = len(_PNG), b"", bytearray()
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if zlib.crc32(content[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise _damaged()
        if kind == b"IDAT":
            data += content[start + 8 : end]
        start = end + 4
    # Exact but for interlaced files, which hold a little more.
    expected = height * (1 + (width * _CHANNELS[content[25]] * _depth(content) + 7) // 8)
    if len(zlib.decompressobj().decompress(data, expected)) < expected:
        raise _damaged()


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


def _damaged() -> ImageError:
    return ImageError("truncated", "cut off or damaged, and cannot be decoded; send the whole file")
