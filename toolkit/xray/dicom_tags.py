"""The few tags of a DICOM file that matter for its pixels, and no others.

Values are taken from the bytes of the file: pydicom would check, warn of and log what is in them.
"""

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from toolkit.errors import ImageError
from toolkit.xray.limits import MeteredFile, damaged

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

SYNTAX: Final = 0x00020010
SAMPLES: Final = 0x00280002
PHOTOMETRIC: Final = 0x00280004
FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
HIGH_BIT: Final = 0x00280102
SIGNED: Final = 0x00280103
CENTRE: Final = 0x00281050
WIDTH: Final = 0x00281051
INTERCEPT: Final = 0x00281052
SLOPE: Final = 0x00281053
FUNCTION: Final = 0x00281056
MODALITY_LUTS: Final = 0x00283000
LUT_DESCRIPTOR: Final = 0x00283002
LUT_DATA: Final = 0x00283006
VOI_LUTS: Final = 0x00283010
PIXELS: Final = 0x7FE00010
ASPECTS: Final = (0x00280034, 0x00280030, 0x00181164)
"""Height and width of a pixel: their ratio, in the patient, and on the detector."""

_HEADER: Final = [
    *(SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED),
    *(CENTRE, WIDTH, INTERCEPT, SLOPE, FUNCTION, MODALITY_LUTS, VOI_LUTS, *ASPECTS),
]
_LARGEST: Final = 1e9  # of a number in decimal; what is beyond would overflow further on
_LONGEST: Final = 131_072  # bytes of a value: a LUT of 65,536 entries
MAX_READS: Final = 20_000
"""Most reads that parsing may take: sequences cost much, and an X-ray has hundreds of tags."""
_HUSHED: Final = Lock()


@contextmanager
def silence() -> Iterator[None]:
    """Nobody hears meanwhile what pydicom says of a file, in its log and in warnings.

    Both are the process's own, so one thread at a time is in here.
    """
    logger = logging.getLogger("pydicom")
    with _HUSHED, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


class Tags:
    """The values of a dataset; a tag that is absent has an empty one."""

    def __init__(self, dataset: "Dataset", implicit: bool, order: str) -> None:
        """`implicit`: value representations are not written; `order`: "<" or ">", of bytes."""
        self.dataset, self.implicit, self.order = dataset, implicit, order

    def _element(self, tag: int) -> "DataElement | RawDataElement | None":
        return self.dataset.get_item(tag, keep_deferred=True)  # without: an empty one is parsed

    def content(self, tag: int) -> bytes:
        """The value as it is stored."""
        element = self._element(tag)
        if element is None or not element.value:
            return b""
        content = bytes(element.value)
        if len(content) != getattr(element, "length", -1) or len(content) > _LONGEST:
            raise damaged()
        return content

    def kind(self, tag: int) -> str | None:
        """The value representation, if it is written."""
        element = self._element(tag)
        return None if element is None else element.VR

    def integers(self, tag: int) -> tuple[int, ...]:
        """Values of 16 bits, read as unsigned."""
        content = self.content(tag)
        return struct.unpack(f"{self.order}{len(content) // 2}H", content)

    def integer(self, tag: int) -> int:
        """The first value of 16 bits; IndexError if there is none."""
        return self.integers(tag)[0]

    def text(self, tag: int) -> str:
        """A value in ASCII, without its padding."""
        return self.content(tag).decode("ascii").strip(" \0")

    def numbers(self, tag: int) -> list[float]:
        """Values written in decimal, at most 1e9 in size."""
        numbers = [float(each) for each in self.text(tag).split("\\") if each.strip()]
        if not all(abs(each) <= _LARGEST for each in numbers):
            raise unusable()
        return numbers

    def first_item(self, tag: int) -> "Tags | None":
        """The first item of a sequence."""
        from pydicom.dataelem import RawDataElement
        from pydicom.filereader import read_sequence_item

        element = self._element(tag)
        if element is None or not element.value:
            return None
        if not isinstance(element, RawDataElement):
            return Tags(cast("Sequence", element.value)[0], self.implicit, self.order)
        file, little = MeteredFile(element.value, MAX_READS), self.order == "<"
        with silence():
            item = read_sequence_item(file, element.is_implicit_VR, little, "ascii")
        return None if item is None else Tags(item, self.implicit, self.order)


def header(file: MeteredFile) -> Tags:
    """The tags about the file itself; `file` is moved from behind its preamble to their end."""
    return _read(file, False, "<", [SYNTAX], end=0x00030000)


def body(file: MeteredFile, implicit: bool, order: str) -> tuple[Tags, bytes]:
    """The tags of the X-ray and, as they are stored, its pixels; `file` is at their start.

    Raises:
        ImageError: `no_pixel_data`.
    """
    tags = _read(file, implicit, order, _HEADER, end=PIXELS)
    pixels = _read(file, implicit, order, [PIXELS], end=PIXELS + 1)
    element = pixels.dataset.get_item(PIXELS, keep_deferred=True)
    if element is None:
        message = "holds no pixels, or is cut off before them; send the whole file of an X-ray"
        raise ImageError("no_pixel_data", message)
    content = bytes(element.value or b"")
    if order == ">" and element.VR == "OW" and tags.integer(BITS_ALLOCATED) == 8:
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    return tags, content


def _read(file: MeteredFile, implicit: bool, order: str, wanted: list[int], end: int) -> Tags:
    """Those of the wanted tags that come before the tag `end`; leaves the file there."""
    from pydicom.filereader import read_dataset

    dataset = read_dataset(
        file,
        implicit,
        order == "<",
        stop_when=lambda tag, _kind, _length: tag >= end,
        specific_tags=list(wanted),
    )
    return Tags(dataset, implicit, order)


def unusable() -> ImageError:
    """The refusal, `dicom_window` (422), of values that say how to show the X-ray, and cannot."""
    message = "its window, rescale or LUT cannot be used; save it with a plain window, or as PNG"
    return ImageError("dicom_window", message)
