"""The stored values of a DICOM file as a screen shows them, in 8 bits.

In order: modality LUT or rescale, VOI LUT or window, 8 bits, MONOCHROME1 inverted. A file with
neither VOI LUT nor window is stretched from its least value to its largest. What comes of that
is 0 to 255, rounded once, half to even.

The machine makes no difference: all is in integers, or in single operations of float64, which
every machine rounds alike. No exponential is taken: a sigmoid is looked up by where it passes
from one grey level to the next.
"""

from decimal import Context
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError
from toolkit.xray.scaling import look_up, round_ratio, stretch


class Lut(NamedTuple):
    """A table of values for values."""

    first: int
    """What `entries[0]` is for, modulo 65,536."""
    signed: bool | None
    """Whether that may be negative; None if it may where there are negative values."""
    entries: NDArray[np.int32]
    top: int
    """The largest that an entry can be."""

    def at(self, values: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the entries for values; outside the table its first and its last one."""
        signed = values.min() < 0 if self.signed is None else self.signed
        first = self.first - 65_536 if signed and self.first >= 32_768 else self.first
        return np.take(self.entries, values - first, mode="clip")


class Window(NamedTuple):
    """The part of the values that is spread over the grey levels."""

    function: str
    """LINEAR, LINEAR_EXACT or SIGMOID, as in PS3.3 C.11.2.1.3; others are refused."""
    centre: float
    width: float

    @property
    def usable(self) -> bool:
        """Whether it has a width; without one, viewers show all values, as without a window."""
        return self.width >= (1 if self.function == "LINEAR" else 1e-9)

    def greys(self, levels: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the grey levels, 0 to 255, of values.

        Raises:
            ImageError: `dicom_window`.
        """
        function, centre, width = self
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise window_error()
        if function == "SIGMOID":
            thresholds = centre + _logits() * (width / 4)
            return np.searchsorted(thresholds, levels, side="right").astype(np.uint8)
        start, span = centre - width / 2, width - 1 if function == "LINEAR" else width
        if span == 0:
            return np.where(levels > start, 255, 0).astype(np.uint8)
        return np.rint(np.clip((levels - start) * 255 / span, 0, 255)).astype(np.uint8)


class Display(NamedTuple):
    """How stored values are to be shown; a modality LUT goes instead of slope and intercept."""

    modality: Lut | None
    slope: float
    intercept: float
    voi: Lut | None
    window: Window | None
    """Without a VOI LUT only."""
    inverted: bool

    def greys(self, values: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return stored values as grey levels, 0 black to 255 white, of the same shape.

        Raises:
            ImageError: `dicom_window`: the file says how, but it cannot be done.
        """
        if self.slope == 0:
            raise window_error()
        if self.modality:
            values = self.modality.at(values)
        low, high = int(values.min()), int(values.max())
        levels = np.arange(low, high + 1, dtype=np.float64) * self.slope + self.intercept
        if self.voi:
            entries = self.voi.at(np.rint(levels).astype(np.int64)).astype(np.float64)
            greys = look_up(round_ratio(entries * 255, self.voi.top), values, low)
        elif self.window:
            greys = look_up(self.window.greys(levels), values, low)
        else:
            greys = stretch(values if self.slope > 0 else -values)
        return 255 - greys if self.inverted else greys


def lut(count: int, first: int, bits: int, signed: bool | None, content: bytes, order: str) -> Lut:
    """Return the table that is stored as `content`, in bytes of that order, "<" or ">".

    Raises:
        ImageError: `dicom_window`: entries of so many bits are not read.
    """
    if not 8 <= bits <= 16:
        raise window_error()
    count = count or 65_536
    packed = bits == 8 and len(content) < 2 * count  # two entries in a word
    entries = np.frombuffer(content, "u1" if packed else f"{order}u2", count)
    top = (1 << bits) - 1
    return Lut(first, signed, np.minimum(entries, top).astype(np.int32), top)


def window_error() -> ImageError:
    """Return the refusal, `dicom_window` (422), of a file whose display cannot be had."""
    message = "its window, rescale or LUT cannot be used; save it with a plain window, or as PNG"
    return ImageError("dicom_window", message)


@cache
def _logits() -> NDArray[np.float64]:
    """Return where 255 / (1 + exp(-x)) is 0.5, 1.5 ... 254.5: float64 (255,), ascending."""
    exact = Context(prec=30)
    return np.array([float(exact.ln(exact.divide(n, 510 - n))) for n in range(1, 510, 2)])
