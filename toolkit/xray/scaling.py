"""Grey values to the bytes that the network takes: 8 bits, square, 224x224.

Arithmetic is in integers, or in floats that are exact for these ranges: the machine makes no
difference.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE: Final = 224
"""Side of every decoded X-ray, pixels."""


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
    return looked_up(round_ratio(steps * 255, high - low), values, low)


def looked_up(
    table: NDArray[np.uint8], values: NDArray[np.integer], first: int
) -> NDArray[np.uint8]:
    """`table[values - first]`, some rows at a time: an index of all is eight bytes a pixel."""
    found = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 128):
        found[row : row + 128] = table[values[row : row + 128].astype(np.int64) - first]
    return found


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
    return round_ratio(bands.astype(np.float64) @ weights.T.astype(np.float64), side**2)


def _overlaps(side: int) -> NDArray[np.float32]:
    """Overlap of each output pixel with each source pixel, in 1/224 of a source pixel.

    float32 (224, side) of integers 0 to 224; each row adds up to `side`.
    """
    start, source = np.arange(SIZE)[:, None] * side, np.arange(side) * SIZE
    overlap = np.minimum(start + side, source + SIZE) - np.maximum(start, source)
    return overlap.clip(min=0).astype(np.float32)


def round_ratio(numerators: NDArray[np.float64], denominator: int) -> NDArray[np.uint8]:
    """Integers over an integer, rounded half to even, for ratios of 0 to 255.

    In float64 a tie stays a tie, and all else is at least 1 / (2 * 4000**2) away from one.
    """
    return np.rint(numerators / denominator).astype(np.uint8)
