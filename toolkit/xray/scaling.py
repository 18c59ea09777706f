"""Grey values to the bytes that the network takes: 8 bits, and a square of its size.

Arithmetic is in integers, or in floats that are exact for these ranges: the machine makes no
difference.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def stretch(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Bring values of up to 16 bits to 8: (v - min) * 255 / (max - min), half to even.

    Args:
        values: integers of any shape, with max - min at most 65,535.

    Returns:
        uint8 of the same shape, 0 to 255; zeros if all values are equal.
    """
    low, high = int(values.min()), int(values.max())
    steps = np.arange(high - low + 1, dtype=np.float64)
    return look_up(round_ratio(steps * 255, high - low or 1), values, low)


def look_up(table: NDArray[np.uint8], values: NDArray[np.integer], first: int) -> NDArray[np.uint8]:
    """Return `table[values - first]`, by some rows at a time: an index takes 8 bytes a pixel."""
    found = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 128):
        found[row : row + 128] = table[values[row : row + 128].astype(np.int64) - first]
    return found


def square(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring the centre square of an X-ray to `size`, as `resize` does.

    Takes uint8 (height, width) or (height, width, 3), within `decode`'s limits; returns a new,
    writable uint8 array.
    """
    height, width = grey.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(grey[top : top + side, left : left + side], size)


def resize(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring a square X-ray to another size: area averaging going down, bicubic going up.

    An area's mean is exact and rounded half to even. Bicubic is Pillow's, in fixed point.

    Args:
        grey: uint8 (n, n), or (n, n, 3) in colour, n at most 4,000.
        size: side of the result, pixels.

    Returns:
        A new, writable uint8 array (size, size), or (size, size, 3).
    """
    if grey.ndim == 3:
        return np.stack([resize(each, size) for each in np.moveaxis(grey, 2, 0)], axis=2)
    side = len(grey)
    if side == size:
        return np.array(grey, order="C")
    if side > size:
        return _area_average(grey, size)
    picture = Image.fromarray(np.ascontiguousarray(grey))
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))


def shaped(grey: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bring a square grey X-ray to a shape, (size, size) or (size, size, 3) of equal channels."""
    found = resize(grey, shape[0])
    return found if len(shape) == 2 else np.repeat(found[:, :, None], shape[2], axis=2)


def _area_average(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring uint8 (n, n), size < n <= 4000, to uint8 (size, size)."""
    side = len(grey)
    # How much each output pixel covers of each source pixel, in 1/size of one: float32
    # (size, side) of integers 0 to `size`; a row adds up to `side`.
    start, source = np.arange(size)[:, None] * side, np.arange(side) * size
    overlap = np.minimum(start + side, source + size) - np.maximum(start, source)
    weights = overlap.clip(min=0).astype(np.float32)
    # Both sums are of integers, below 255 * 4000 < 2**24 and 255 * 4000**2 < 2**53: exact in
    # float32 and float64, in any order of summation. A row of weights is zero outside its band.
    bands = np.empty((size, side), np.float32)
    for row in range(size):
        first, last = row * side // size, -(-(row + 1) * side // size)
        bands[row] = weights[row, first:last] @ grey[first:last].astype(np.float32)
    return round_ratio(bands.astype(np.float64) @ weights.T.astype(np.float64), side**2)


def round_ratio(numerators: NDArray[np.float64], denominator: int) -> NDArray[np.uint8]:
    """Round integers over an integer half to even, for ratios of 0 to 255.

    In float64 a tie stays a tie, and all else is at least 1 / (2 * 4000**2) away from one.
    """
    return np.rint(numerators / denominator).astype(np.uint8)
