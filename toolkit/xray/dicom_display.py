"""The stored values of a DICOM file as a screen shows them, in 8 bits.

In order: modality LUT or rescale, VOI LUT or window, 8 bits, MONOCHROME1 inverted. A VOI LUT goes
before a window, and of several the first is taken; a file with neither is stretched from its
least value to its largest. What comes of that is 0 to 255, rounded once, half to even.

The machine makes no difference: all is in integers, or in single operations of float64, which
every machine rounds alike. No exponential is taken: a sigmoid is looked up by where it passes
from one grey level to the next.
"""

from decimal import Context
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.xray import dicom_tags
from toolkit.xray.dicom_tags import Tags, unusable
from toolkit.xray.scaling import looked_up, round_ratio, stretch


class _Lut(NamedTuple):
    first: int
    """What `entries[0]` is for."""
    entries: NDArray[np.int32]
    top: int
    """The largest that an entry can be."""

    def at(self, values: NDArray[np.integer]) -> NDArray[np.int32]:
        """The entries for values; outside the table its first and its last one."""
        return np.take(self.entries, values - self.first, mode="clip")


def shown(values: NDArray[np.int32], tags: Tags) -> NDArray[np.uint8]:
    """Stored values as grey levels, 0 black to 255 white, of the same shape.

    Raises:
        ImageError: `dicom_window`: the tags say how, but it cannot be done.
    """
    slope, intercept = 1.0, 0.0
    if modality := tags.first_item(dicom_tags.MODALITY_LUTS):
        values = _lut(modality, signed=tags.integer(dicom_tags.SIGNED) == 1).at(values)
    else:
        (slope, *_) = tags.numbers(dicom_tags.SLOPE) or [slope]
        (intercept, *_) = tags.numbers(dicom_tags.INTERCEPT) or [intercept]
    if slope == 0:
        raise unusable()
    low, high = int(values.min()), int(values.max())
    levels = np.arange(low, high + 1, dtype=np.float64) * slope + intercept
    if voi := tags.first_item(dicom_tags.VOI_LUTS):
        greys = looked_up(_through_lut(voi, levels), values, low)
    elif tags.numbers(dicom_tags.CENTRE) or tags.numbers(dicom_tags.WIDTH):
        greys = looked_up(_through_window(tags, levels), values, low)
    else:
        greys = stretch(values if slope > 0 else -values)
    return 255 - greys if tags.text(dicom_tags.PHOTOMETRIC) == "MONOCHROME1" else greys


def _lut(item: Tags, signed: bool) -> _Lut:
    """The table in an item of a sequence; `signed`: values that go in may be negative."""
    count, first, bits = item.integers(dicom_tags.LUT_DESCRIPTOR)
    count = count or 65_536
    kind = item.kind(dicom_tags.LUT_DESCRIPTOR)
    if kind == "SS" or (kind is None and signed):
        first -= (first & 0x8000) << 1
    if not 8 <= bits <= 16:
        raise unusable()
    content = item.content(dicom_tags.LUT_DATA)
    packed = bits == 8 and len(content) < 2 * count  # two entries in a word
    entries = np.frombuffer(content, "u1" if packed else f"{item.order}u2", count)
    top = (1 << bits) - 1
    return _Lut(first, np.minimum(entries, top).astype(np.int32), top)


def _through_lut(item: Tags, levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Levels through a VOI LUT, whose whole range becomes 0 to 255."""
    lut = _lut(item, signed=bool(levels.min() < 0))
    entries = lut.at(np.rint(levels).astype(np.int64))
    return round_ratio(entries.astype(np.float64) * 255, lut.top)


def _through_window(tags: Tags, levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Levels through the first window, whose range becomes 0 to 255."""
    function = tags.text(dicom_tags.FUNCTION).upper() or "LINEAR"
    centres, widths = tags.numbers(dicom_tags.CENTRE), tags.numbers(dicom_tags.WIDTH)
    least = 1 if function == "LINEAR" else 1e-9
    if not centres or not widths or widths[0] < least:
        raise unusable()
    centre, width = centres[0], widths[0]
    start = centre - width / 2
    if function == "SIGMOID":
        thresholds = centre + _logits() * (width / 4)
        return np.searchsorted(thresholds, levels, side="right").astype(np.uint8)
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise unusable()
    span = width - 1 if function == "LINEAR" else width
    if span == 0:
        return np.where(levels > start, 255, 0).astype(np.uint8)
    greys = np.clip((levels - start) * 255 / span, 0, 255)
    return np.rint(greys).astype(np.uint8)


@cache
def _logits() -> NDArray[np.float64]:
    """Where 255 / (1 + exp(-x)) is 0.5, 1.5 ... 254.5: float64 (255,), ascending."""
    exact = Context(prec=30)
    return np.array([float(exact.ln(exact.divide(n, 510 - n))) for n in range(1, 510, 2)])
