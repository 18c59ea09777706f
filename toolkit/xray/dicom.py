"""A DICOM file's X-ray as 8-bit grey, or a refusal.

pydicom reads the tags, of which only those that the pixels need are taken: nothing of a patient
is kept, logged or put into a message. Kind and size are judged before any pixel is decoded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError
from toolkit.xray.dicom_display import Display, Lut, Window, lut, window_error
from toolkit.xray.dicom_pixels import PLAIN, Layout, Padding, stored_values
from toolkit.xray.dicom_tags import (
    LONGEST_VALUE,
    MAX_READS,
    MODALITY_LUTS,
    PIXELS,
    VOI_LUTS,
    TagFile,
    open_tags,
    read_tags,
    silence,
    stored_value,
)
from toolkit.xray.limits import MIN_SIDE, MeteredFile, check_shape, decoding_error

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SHAPE: Final = ("Rows", "Columns")
_DEPTH: Final = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_REQUIRED: Final = ("SamplesPerPixel", "PhotometricInterpretation", *_SHAPE, *_DEPTH)
_PADDING: Final = ("PixelPaddingValue", "PixelPaddingRangeLimit")
_ASPECTS: Final = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing")
_VALUES: Final = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *(*_SHAPE, *_DEPTH, *_ASPECTS),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
)
_LONGEST_LUT: Final = 131_072  # bytes: 65,536 entries
_LARGEST: Final = 1e9  # of a number in decimal; what is beyond would overflow further on
_MAX_UNEVENNESS: Final = 1.01


def grey(content: bytes, least: int = MIN_SIDE) -> NDArray[np.uint8]:
    """Decode the X-ray in a DICOM file to 8-bit grey.

    Args:
        content: the whole file, with its preamble or without.
        least: shortest side that is accepted, pixels.

    Returns:
        uint8 (height, width), 0 black to 255 white.

    Raises:
        ImageError: the file is refused. `code` is `dicom_not_installed` (415) or, all of them
            422, `dicom_compressed` (a transfer syntax that is not read), `no_pixel_data`,
            `dicom_incomplete` (an element that is missing or cannot be read), `multi_frame`,
            `dicom_colour`, `pixel_aspect` (of pixels that are not square), `dicom_bits`,
            `dicom_window` (a window, rescale or LUT that cannot be used), `too_many_pixels`,
            `too_small`, `aspect`, `truncated`.
        MemoryError, OSError: the machine has no memory or no open files left.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        message = "DICOM needs pydicom: pip install 'toolkit[dicom]', or send a PNG or JPEG file"
        raise ImageError("dicom_not_installed", message, 415) from error
    try:
        with silence():
            file, syntax = open_tags(content)
            wanted = (*_VALUES, *_PADDING, MODALITY_LUTS, VOI_LUTS, PIXELS)
            tags = read_tags(file, *PLAIN.get(syntax, (False, "<")), wanted, PIXELS + 1)
            if PIXELS not in tags or not tags.get_item(PIXELS, keep_deferred=True).value:
                message = "holds no pixels, or is cut off before them; send the whole X-ray file"
                raise ImageError("no_pixel_data", message)
            padding = _padding(tags)  # as stored: before any value is converted
            layout, display = _layout(tags, least), _display(tags)
            frame = _frame(tags, syntax)
        values = stored_values(frame, layout, syntax)
        if padding is None:
            return display.greys(values)
        return _beside_padding(values, padding.places(frame, layout, syntax), display)
    except ImageError:
        raise
    except Exception as error:  # pydicom's may quote the file, so it is not passed on
        raise decoding_error(error) from None


def _beside_padding(
    values: NDArray[np.int32], padding: NDArray[np.bool_], display: Display
) -> NDArray[np.uint8]:
    """Return the grey levels of what is no padding; padding is black."""
    if padding.all():
        return np.zeros(values.shape, np.uint8)
    values[padding] = values[~padding][0]
    greys = display.greys(values)
    greys[padding] = 0
    return greys


def _frame(tags: "Dataset", syntax: str) -> bytes:
    """Return the pixels as they are encoded, of however many fragments."""
    from pydicom.encaps import get_frame

    element = tags.get_item(PIXELS, keep_deferred=True)
    content = bytes(element.value or b"")
    if syntax not in PLAIN:
        return get_frame(MeteredFile(content, MAX_READS), 0, number_of_frames=1)
    if PLAIN[syntax][1] == ">" and element.VR == "OW" and tags.BitsAllocated == 8:
        return np.frombuffer(content, ">u2").astype("<u2").tobytes()  # two pixels in a word
    return content


def _layout(tags: "Dataset", least: int) -> Layout:
    """Return how the pixels are stored, if it is as one grey X-ray of square pixels."""
    if _value(tags, "NumberOfFrames") and _integer(tags, "NumberOfFrames") > 1:
        raise ImageError("multi_frame", "holds several frames; send a single still X-ray")
    for keyword in _REQUIRED:
        if _value(tags, keyword) in (None, ""):
            raise _incomplete(f"lacks the DICOM element {keyword}, or it is empty")
    if _photometric(tags) not in ("MONOCHROME1", "MONOCHROME2") or tags.SamplesPerPixel != 1:
        raise ImageError("dicom_colour", "not grey; save the X-ray as MONOCHROME2")
    rows, columns, allocated, bits, high, signed = (
        _integer(tags, keyword) for keyword in (*_SHAPE, *_DEPTH)
    )
    check_shape(columns, rows, least)
    for sides in filter(None, (_numbers(tags, keyword) for keyword in _ASPECTS)):
        if max(sides) > _MAX_UNEVENNESS * min(sides):
            message = "its pixels are not square; resample the X-ray to square pixels"
            raise ImageError("pixel_aspect", message)
    if allocated not in (8, 16) or not 1 <= bits <= allocated or high != bits - 1 or signed > 1:
        message = "its pixels are not of 8 or 16 bits, filled from the lowest; save it as such"
        raise ImageError("dicom_bits", message)
    return Layout(rows, columns, allocated, bits, signed == 1)


def _padding(tags: "Dataset") -> Padding | None:
    """Return what stands for no pixel, if the file says so."""
    value, limit = (stored_value(tags, keyword, LONGEST_VALUE)[:2] for keyword in _PADDING)
    if len(value) < 2:
        return None
    order: Literal["little", "big"] = "little" if tags.original_encoding[1] else "big"
    first = int.from_bytes(value, order)
    return Padding(first, int.from_bytes(limit, order) if len(limit) == 2 else first)


def _display(tags: "Dataset") -> Display:
    """Return how the stored values are to be shown: the first LUT or usable window of several."""
    modality, voi = _lut(tags, MODALITY_LUTS), _lut(tags, VOI_LUTS)
    slope, intercept, window = 1.0, 0.0, None
    if modality is None:
        (slope, *_) = _numbers(tags, "RescaleSlope") or [slope]
        (intercept, *_) = _numbers(tags, "RescaleIntercept") or [intercept]
    if voi is None:
        centres, widths = _numbers(tags, "WindowCenter"), _numbers(tags, "WindowWidth")
        function = str(_value(tags, "VOILUTFunction") or "LINEAR").strip().upper() or "LINEAR"
        windows = (Window(function, *pair) for pair in zip(centres, widths, strict=False))
        window = next((each for each in windows if each.usable), None)
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
        file, little = TagFile(sequence.value), sequence.is_little_endian
        item = read_sequence_item(file, sequence.is_implicit_VR, little, "ascii")
    else:
        item = sequence.value[0]
    if item is None:
        return None
    kind = item.get_item("LUTDescriptor").VR
    signed = None if kind is None else kind == "SS"
    if kind is None and tag == MODALITY_LUTS:
        signed = _integer(tags, "PixelRepresentation") == 1
    descriptor = stored_value(item, "LUTDescriptor", LONGEST_VALUE)
    order = "<" if tags.original_encoding[1] else ">"
    count, first, bits = np.frombuffer(descriptor, f"{order}u2", 3).tolist()
    return lut(count, first, bits, signed, stored_value(item, "LUTData", _LONGEST_LUT), order)


def _photometric(tags: "Dataset") -> str:
    return str(_value(tags, "PhotometricInterpretation") or "").strip().upper()


def _integer(tags: "Dataset", keyword: str) -> int:
    value = _value(tags, keyword)
    if isinstance(value, int):
        return value
    raise _incomplete(f"the DICOM element {keyword} is no number")


def _numbers(tags: "Dataset", keyword: str) -> list[float]:
    """Return values written in decimal, at most 1e9 in size."""
    value = _value(tags, keyword)
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = [float(value) for value in values if value is not None and str(value).strip()]
    except (TypeError, ValueError):
        raise _incomplete(f"the DICOM element {keyword} is no number") from None
    if not all(abs(number) <= _LARGEST for number in numbers):
        raise window_error()
    return numbers


def _value(tags: "Dataset", keyword: str) -> Any:
    """Return what an element holds, None of one that is missing.

    Raises:
        ImageError: `dicom_incomplete`: it is not what such an element holds.
    """
    try:
        return tags.get(keyword)
    except Exception as error:  # pydicom's is of many kinds
        if isinstance(raised := decoding_error(error), ImageError):
            raise _incomplete(f"the DICOM element {keyword} cannot be read") from None
        raise raised from None


def _incomplete(what: str) -> ImageError:
    return ImageError("dicom_incomplete", f"{what}; export the X-ray again")
