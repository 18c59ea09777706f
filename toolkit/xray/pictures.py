"""PNG and JPEG files, to 8-bit grey or colour, or a refusal; and pixels to such files.

Decoding, in order: decode, alpha over black, 8-bit grey or colour, EXIF orientation.
"""

import io
import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from toolkit.errors import ImageError
from toolkit.xray import jpeg
from toolkit.xray.limits import MIN_SIDE, MeteredFile, check_shape, damage_error, decoding_error
from toolkit.xray.scaling import stretch

PNG: Final = b"\x89PNG\r\n\x1a\n"
"""What a PNG file begins with."""
JPEG: Final = b"\xff\xd8\xff"
"""What a JPEG file begins with."""
_ORIENTATION_TAG: Final = 0x0112
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG


def encode(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Return grey levels, uint8 (H, W), or colours, uint8 (H, W, 3), as a file.

    Args:
        kind: one of Pillow's formats.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def grey(content: bytes, least: int = MIN_SIDE) -> NDArray[np.uint8]:
    """Decode the picture in a PNG or JPEG file to 8-bit grey, turned upright.

    Args:
        content: the whole file.
        least: shortest side that is accepted, pixels.

    Returns:
        uint8 (height, width), 0 black to 255 white; it may be a view.

    Raises:
        ImageError: the file is refused. `code` is `animated`, `cmyk`, `sixteen_bit_colour`,
            `unsupported_mode`, `too_many_scans`, `too_many_pixels`, `too_small`, `aspect`,
            `truncated` or `damaged`, all of them 422.
        MemoryError, OSError: the machine has no memory or no open files left.
    """
    return _decoded(content, "L", least)


def colour(content: bytes, least: int = MIN_SIDE) -> NDArray[np.uint8]:
    """Decode the picture to uint8 (height, width, 3); all else is as `grey` does."""
    return _decoded(content, "RGB", least)


def _decoded(content: bytes, mode: str, least: int) -> NDArray[np.uint8]:
    try:
        with _open(content) as image:
            _check_kind(image, content)
            check_shape(*image.size, least)
            if content.startswith(PNG):
                _check_chunks(content, *image.size)
                image.load()
                levels = _to_mode(image, content, mode)
            else:
                levels = np.asarray(Image.fromarray(jpeg.pixels(image, content)).convert(mode))
            return _upright(levels, _orientation(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow lets through whatever its parsers raise
        raise decoding_error(error) from error


def _open(content: bytes) -> Image.Image:
    # Not by `Image.open`: it warns of large pictures before `check_shape` can refuse them.
    if content.startswith(JPEG):
        return jpeg.open_header(content)
    if content[12:16] != b"IHDR":
        raise damage_error()
    return PngImagePlugin.PngImageFile(MeteredFile(content))


def _check_kind(image: Image.Image, content: bytes) -> None:
    """Refuse what is not a single picture in grey or RGB."""
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
    """Refuse a PNG that is cut off or changed, or has too few pixels: Pillow would not notice."""
    start, kind, data = len(PNG), b"", bytearray()
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if zlib.crc32(content[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise damage_error()
        if kind == b"IDAT":
            data += content[start + 8 : end]
        start = end + 4
    # Exact but for interlaced files, which hold a little more.
    expected = height * (1 + (width * _CHANNELS[content[25]] * _depth(content) + 7) // 8)
    if len(zlib.decompressobj().decompress(data, expected)) < expected:
        raise damage_error()


def _to_mode(image: Image.Image, content: bytes, mode: str) -> NDArray[np.uint8]:
    """Return the decoded pixels in 8 bits: (height, width), or (height, width, 3) of RGB."""
    if image.mode.startswith("I") or image.mode in ("1", "L"):
        return np.array(Image.fromarray(_grey_levels(image, content)).convert(mode))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert(mode))


def _grey_levels(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a grey picture in 8 bits, (height, width)."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.array(image)
        return stretch(values if key is None else np.where(values == key, 0, values))
    levels = np.array(image.convert("L"))
    if key is not None:  # of 2 and 4 bits, Pillow gives the key before spreading the levels
        level = key * {2: 85, 4: 17}.get(_depth(content), 1)
        levels[levels == (255 * bool(key) if image.mode == "1" else level)] = 0
    return levels


def _depth(content: bytes) -> int:
    """Return the bits a sample, as a PNG's header gives them; 8 for a JPEG."""
    return content[24] if content.startswith(PNG) else 8


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1, which is upright, if none can be understood."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # a good X-ray with bad EXIF is a good X-ray
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view with the orientation undone: 5 to 8 are transposed, the rest is flips."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
