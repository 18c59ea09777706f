"""What a file may ask of a reader: bytes, pixels, shape, parts; beyond it, it is refused."""

import errno
import io
from typing import Final, TypeGuard

from toolkit.errors import ImageError

MAX_BYTES: Final = 20_000_000
"""Largest file accepted, bytes: 16 bits of 10 megapixels, or more of them in run lengths."""
MAX_PIXELS: Final = 16_000_000
"""Most pixels accepted. `scaling.resize` is exact for squares of up to this many."""
SIZE: Final = 224
"""Side of an X-ray unless another is asked for, pixels."""
MIN_SIDE: Final = 64
"""Shortest side accepted, pixels, unless the X-ray is to be smaller."""
MAX_ASPECT: Final = 1.5
"""Largest ratio of the longer side to the shorter one."""
# A file that is not there, may not be read, or is none. Any other error is of memory or a disk.
_FILES_OWN: Final = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG"),
        *("EILSEQ", "EINVAL", "EOVERFLOW", "ENXIO", "ENODEV"),
    )
)


def xray_shape(size: int, channels: int) -> tuple[int, ...]:
    """Return the shape of an X-ray: (size, size), or (size, size, 3) in colour."""
    return (size, size, *[channels] * (channels > 1))


class MeteredFile(io.BytesIO):
    """A file in memory that ends parsing after too many reads.

    Parsers take a header part by part, in Python: millions of empty parts would keep them busy.
    """

    def __init__(self, content: bytes, most_reads: int = 100_000) -> None:
        super().__init__(content)
        self.reads_left = most_reads

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, as one read."""
        self.spend(1)
        return super().read(size)

    def spend(self, reads: int) -> None:
        """Count so many reads; raises ImageError, `truncated`, at one too many."""
        self.reads_left -= reads
        if self.reads_left < 0:
            raise damage_error()


def check_shape(width: int, height: int, least: int = MIN_SIDE) -> None:
    """Refuse sizes, in pixels, that are not an X-ray's; `least` is the shortest side.

    Raises:
        ImageError: `too_many_pixels`, `too_small` or `aspect`, all of them 422.
    """
    short, long = sorted((width, height))
    size = f"{width}x{height} pixels"
    if short * long > MAX_PIXELS:
        message = f"{size} is more than {MAX_PIXELS // 1_000_000} megapixels; send it smaller"
        raise ImageError("too_many_pixels", message)
    if short < least:
        message = f"{size}, and a side must have at least {least}; send it larger"
        raise ImageError("too_small", message)
    if long > MAX_ASPECT * short:
        raise ImageError("aspect", f"{size} is more elongated than 3:2; crop it to the knee")


def decoding_error(error: Exception) -> Exception:
    """Return what to raise instead of a decoder's error: the machine's own, or `truncated`.

    That memory or open files have run out says nothing of the file.
    """
    if "out of memory" in str(error) or "nsufficient memory" in str(error):
        return MemoryError("no memory is left to decode an X-ray")
    if isinstance(error, MemoryError) or is_system_error(error):
        return error
    return damage_error()


def is_system_error(error: Exception) -> TypeGuard[OSError]:
    """Whether it is the machine, not the file, that an error speaks of."""
    # Decoders raise it without a number.
    return isinstance(error, OSError) and error.errno not in (None, *_FILES_OWN)


def damage_error() -> ImageError:
    """Return the refusal, `truncated` (422), of a file whose content does not add up."""
    return ImageError("truncated", "cut off or damaged, and cannot be decoded; send the whole file")
