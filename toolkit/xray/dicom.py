"""A DICOM file's X-ray as 8-bit grey, or a refusal.

Kind and size are judged by the tags, before any pixel is decoded. Read are the few tags of
`dicom_tags` and the pixels: nothing of a patient is kept, logged or put into a message.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError
from toolkit.xray import dicom_tags
from toolkit.xray.dicom_display import shown
from toolkit.xray.dicom_pixels import PLAIN, SYNTAXES, Layout, odd_bits, stored_values
from toolkit.xray.dicom_tags import Tags
from toolkit.xray.limits import MeteredFile, check_shape, damaged

_PREAMBLE: Final = 132
_MAX_UNEVENNESS: Final = 1.01


def grey(content: bytes) -> NDArray[np.uint8]:
    """The X-ray in a DICOM file, in 8 bits.

    Args:
        content: the whole file, preamble and all.

    Returns:
        uint8 (height, width), 0 black to 255 white.

    Raises:
        ImageError: the file is refused. `code` is `dicom_not_installed` (415) or, all of them
            422, `dicom_compressed` (a transfer syntax that is not read), `no_pixel_data`,
            `multi_frame`, `dicom_colour`, `pixel_aspect` (of pixels that are not square),
            `dicom_bits`, `dicom_window` (a window, rescale or LUT that cannot be used),
            `too_many_pixels`, `too_small`, `aspect`, `truncated`.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        message = "DICOM needs pydicom: pip install 'toolkit[dicom]', or send a PNG or JPEG file"
        raise ImageError("dicom_not_installed", message, 415) from error
    try:
        return _grey(content)
    except ImageError:
        raise
    except Exception:  # pydicom's may quote the file, so it is not passed on
        raise damaged() from None


def _grey(content: bytes) -> NDArray[np.uint8]:
    file = MeteredFile(content, dicom_tags.MAX_READS)
    file.seek(_PREAMBLE)
    with dicom_tags.silence():
        syntax = _syntax(dicom_tags.header(file))
        tags, encoded = dicom_tags.body(file, *PLAIN.get(syntax, (False, "<")))
    return shown(stored_values(encoded, _layout(tags), syntax), tags)


def _syntax(tags: Tags) -> str:
    """The UID of the transfer syntax, if it is one that is read."""
    from pydicom.uid import UID

    syntax = tags.text(dicom_tags.SYNTAX)
    if not syntax:
        raise damaged()
    if syntax not in SYNTAXES:
        name = UID(syntax).name  # of one that is not registered, what the file says
        known = name if name != syntax else "an unknown transfer syntax"
        message = f"stored as {known}, which is not read; save it as Explicit VR Little Endian"
        raise ImageError("dicom_compressed", message)
    return syntax


def _layout(tags: Tags) -> Layout:
    """How the pixels are stored, if it is as one grey X-ray of square pixels."""
    if int(tags.text(dicom_tags.FRAMES) or 1) > 1:
        raise ImageError("multi_frame", "holds several frames; send a single still X-ray")
    kind, samples = tags.text(dicom_tags.PHOTOMETRIC), tags.integer(dicom_tags.SAMPLES)
    if kind not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        raise ImageError("dicom_colour", "not grey; save the X-ray as MONOCHROME2")
    rows, columns = tags.integer(dicom_tags.ROWS), tags.integer(dicom_tags.COLUMNS)
    check_shape(columns, rows)
    for sides in filter(None, map(tags.numbers, dicom_tags.ASPECTS)):
        if max(sides) > _MAX_UNEVENNESS * min(sides):
            message = "its pixels are not square; resample the X-ray to square pixels"
            raise ImageError("pixel_aspect", message)
    allocated, bits = tags.integer(dicom_tags.BITS_ALLOCATED), tags.integer(dicom_tags.BITS_STORED)
    high, signed = tags.integer(dicom_tags.HIGH_BIT), tags.integer(dicom_tags.SIGNED)
    if allocated not in (8, 16) or not 1 <= bits <= allocated or high != bits - 1 or signed > 1:
        raise odd_bits()
    return Layout(rows, columns, allocated, bits, bool(signed))
