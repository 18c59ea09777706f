"""A DICOM file's X-ray as 8-bit grey, or a refusal.

pydicom reads the tags, of which only those that the pixels need are taken: nothing of a patient
is kept, logged or put into a message. Kind and size are judged before any pixel is decoded.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError
from toolkit.xray.dicom_display import Display, Lut, Window, lut, window_error
from toolkit.xray.dicom_pixels import PLAIN, SYNTAXES, Layout, stored_values
from toolkit.xray.limits import MeteredFile, check_shape, damage_error

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PREAMBLE: Final = 132
_END_OF_HEADER: Final = 0x00030000
_PIXELS: Final = 0x7FE00010
_CHARACTER_SETS: Final = (b"\x08\0\5\0", b"\0\x08\0\5")  # the tag in either byte order
_MODALITY_LUTS: Final = 0x00283000
_VOI_LUTS: Final = 0x00283010
_SHAPE: Final = ("Rows", "Columns")
_DEPTH: Final = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_ASPECTS: Final = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing")
_VALUES: Final = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *(*_SHAPE, *_DEPTH, *_ASPECTS),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
)
_LONGEST_VALUE: Final = 4_096  # bytes: a hundred windows
_LONGEST_LUT: Final = 131_072  # bytes: 65,536 entries
_LARGEST: Final = 1e9  # of a number in decimal; what is beyond would overflow further on
_MAX_UNEVENNESS: Final = 1.01
_MAX_READS: Final = 20_000  # sequences cost much, and an X-ray has hundreds of tags
_SILENCE: Final = Lock()


class _TagFile(MeteredFile):
    """A file of tags: of a list of character sets, each byte counts as a read.

    pydicom looks up each of them, in every item, and searches its imports for those unknown.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content, _MAX_READS)
        self.names_follow = False

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if self.names_follow:
            self.spend(len(content))
        if len(content) != 4:  # else it is a length, and the names are still to come
            self.names_follow = len(content) == 8 and content[:4] in _CHARACTER_SETS
        return content


def grey(content: bytes) -> NDArray[np.uint8]:
    """Decode the X-ray in a DICOM file to 8-bit grey.

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
        with _silence():
            file = _TagFile(content)
            file.seek(_PREAMBLE)
            syntax = _syntax(_read(file, False, "<", ("TransferSyntaxUID",), _END_OF_HEADER))
            wanted = (*_VALUES, _MODALITY_LUTS, _VOI_LUTS, _PIXELS)
            tags = _read(file, *PLAIN.get(syntax, (False, "<")), wanted, _PIXELS + 1)
            if _PIXELS not in tags:
                message = "holds no pixels, or is cut off before them; send the whole X-ray file"
                raise ImageError("no_pixel_data", message)
            layout, display = _layout(tags), _display(tags)
            frame = _frame(tags, syntax)
        return display.greys(stored_values(frame, layout, syntax))
    except ImageError:
        raise
    except Exception:  # pydicom's may quote the file, so it is not passed on
        raise damage_error() from None


@contextmanager
def _silence() -> Iterator[None]:
    """Let nobody hear meanwhile what pydicom says of a file, in its log and in warnings.

    Both are the process's own, so one thread at a time is in here.
    """
    logger = logging.getLogger("pydicom")
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def _read(
    file: _TagFile, implicit: bool, order: str, wanted: tuple[str | int, ...], end: int
) -> "Dataset":
    """Read those of the wanted tags that come before the tag `end`; leave the file there.

    Values are not converted yet, and those that would be are of bounded length.

    Args:
        implicit: value representations are not written.
        order: "<" or ">", of bytes.
    """
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    tags = read_dataset(
        file,
        implicit,
        order == "<",
        stop_when=lambda tag, _kind, _length: tag >= end,
        specific_tags=[Tag(tag) for tag in wanted],
    )
    for element in tags.elements():
        if element.tag not in (_MODALITY_LUTS, _VOI_LUTS, _PIXELS):
            _stored(tags, element.tag, _LONGEST_VALUE)
    return tags


def _stored(tags: "Dataset", tag: str | int, longest: int) -> bytes:
    """Return a value as it is stored; nothing for a tag that is absent."""
    element = tags.get_item(tag, keep_deferred=True)  # without: an empty one is parsed
    if element is None or not element.value:
        return b""
    content = bytes(element.value)
    if len(content) != getattr(element, "length", -1) or len(content) > longest:
        raise damage_error()
    return content


def _syntax(tags: "Dataset") -> str:
    """Return the UID of the transfer syntax, if it is one that is read."""
    from pydicom.uid import UID

    syntax = tags.get("TransferSyntaxUID")
    if not syntax:
        raise damage_error()
    if syntax not in SYNTAXES:
        name = UID(syntax).name  # of one that is not registered, what the file says
        known = name if name != syntax else "an unknown transfer syntax"
        message = f"stored as {known}, which is not read; save it as Explicit VR Little Endian"
        raise ImageError("dicom_compressed", message)
    return str(syntax)


def _frame(tags: "Dataset", syntax: str) -> bytes:
    """Return the pixels as they are encoded, of however many fragments."""
    from pydicom.encaps import get_frame

    element = tags.get_item(_PIXELS, keep_deferred=True)
    content = bytes(element.value or b"")
    if syntax not in PLAIN:
        return get_frame(MeteredFile(content, _MAX_READS), 0, number_of_frames=1)
    if PLAIN[syntax][1] == ">" and element.VR == "OW" and tags.BitsAllocated == 8:
        return np.frombuffer(content, ">u2").astype("<u2").tobytes()  # two pixels in a word
    return content


def _layout(tags: "Dataset") -> Layout:
    """Return how the pixels are stored, if it is as one grey X-ray of square pixels."""
    if int(tags.get("NumberOfFrames") or 1) > 1:
        raise ImageError("multi_frame", "holds several frames; send a single still X-ray")
    if _photometric(tags) not in ("MONOCHROME1", "MONOCHROME2") or tags.SamplesPerPixel != 1:
        raise ImageError("dicom_colour", "not grey; save the X-ray as MONOCHROME2")
    rows, columns, allocated, bits, high, signed = (
        _integer(tags, keyword) for keyword in (*_SHAPE, *_DEPTH)
    )
    check_shape(columns, rows)
    for sides in filter(None, (_numbers(tags, keyword) for keyword in _ASPECTS)):
        if max(sides) > _MAX_UNEVENNESS * min(sides):
            message = "its pixels are not square; resample the X-ray to square pixels"
            raise ImageError("pixel_aspect", message)
    if allocated not in (8, 16) or not 1 <= bits <= allocated or high != bits - 1 or signed > 1:
        message = "its pixels are not of 8 or 16 bits, filled from the lowest; save it as such"
        raise ImageError("dicom_bits", message)
    return Layout(rows, columns, allocated, bits, signed == 1)


def _display(tags: "Dataset") -> Display:
    """Return how the stored values are to be shown: the first LUT or window of several."""
    modality, voi = _lut(tags, _MODALITY_LUTS), _lut(tags, _VOI_LUTS)
    slope, intercept, window = 1.0, 0.0, None
    if modality is None:
        (slope, *_) = _numbers(tags, "RescaleSlope") or [slope]
        (intercept, *_) = _numbers(tags, "RescaleIntercept") or [intercept]
    if voi is None:
        centres, widths = _numbers(tags, "WindowCenter"), _numbers(tags, "WindowWidth")
        if bool(centres) != bool(widths):
            raise window_error()
        if centres:
            function = str(tags.get("VOILUTFunction") or "LINEAR").strip().upper()
            window = Window(function or "LINEAR", centres[0], widths[0])
    inverted = _photometric(tags) == "MONOCHROME1"
    return Display(modality, slope, intercept, voi, window, inverted)


def _lut(tags: "Dataset", tag: int) -> Lut | None:
    """Return the table in the first item of a sequence."""
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_sequence_item

    sequence = tags.get_item(tag, keep_deferred=True)
    if sequence is None or not sequence.value:
        return None
    if isinstance(sequence, RawDataElement):
        file, little = _TagFile(sequence.value), sequence.is_little_endian
        item = read_sequence_item(file, sequence.is_implicit_VR, little, "ascii")
    else:
        item = sequence.value[0]
    if item is None:
        return None
    kind = item.get_item("LUTDescriptor").VR
    signed = None if kind is None else kind == "SS"
    if kind is None and tag == _MODALITY_LUTS:
        signed = _integer(tags, "PixelRepresentation") == 1
    descriptor = _stored(item, "LUTDescriptor", _LONGEST_VALUE)
    order = "<" if tags.original_encoding[1] else ">"
    count, first, bits = np.frombuffer(descriptor, f"{order}u2", 3).tolist()
    return lut(count, first, bits, signed, _stored(item, "LUTData", _LONGEST_LUT), order)


def _photometric(tags: "Dataset") -> str:
    return str(tags.get("PhotometricInterpretation") or "").strip()


def _integer(tags: "Dataset", keyword: str) -> int:
    value = tags.get(keyword)
    if isinstance(value, int):
        return value
    raise damage_error()


def _numbers(tags: "Dataset", keyword: str) -> list[float]:
    """Return values written in decimal, at most 1e9 in size."""
    value = tags.get(keyword, "")
    values = [value] if value is None or isinstance(value, str | int | float) else value
    numbers = [float(value) for value in values if value is not None and str(value).strip()]
    if not all(abs(number) <= _LARGEST for number in numbers):
        raise window_error()
    return numbers
