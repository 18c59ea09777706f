"""The bootstrap: how far figures would differ on other patients; some may be undefined."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
"""A lower and an upper bound, in the unit of the figure."""
_BLOCK = 1_000_000
_BUDGET = 10_000_000
_FEWEST = 200


def draws(patients: ArrayLike, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each X-ray is there when patients are drawn with replacement.

    Efron, "Bootstrap methods", Annals of Statistics 7, 1979. A patient's X-rays come together,
    since they tell of one another (Field and Welsh, JRSS B 69, 2007). Of more than 10 million
    X-rays in all resamples there are fewer resamples, but 200 of those that are asked for.

    Args:
        patients: whose each X-ray is, (n,).
        resamples: how many, at least 1.
        seed: of the drawing.

    Yields:
        Blocks of resamples, int64 (R, n).
    """
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    count = int(owner.max()) + 1
    random = np.random.default_rng(seed)
    left = min(resamples, max(_FEWEST, _BUDGET // len(owner)))
    while left:
        rows = min(left, max(1, _BLOCK // len(owner)))
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, owner].astype(np.int64, copy=False)
        left -= rows


def ratio(numerators: NDArray[Any], denominators: NDArray[Any]) -> NDArray[np.float64]:
    """Return numerators / denominators, NaN where the denominator is 0."""
    return np.where(denominators == 0, np.nan, numerators / np.maximum(denominators, 1))


def defined(value: float) -> float | None:
    """Return a figure, or None where it is not defined."""
    return float(value) if np.isfinite(value) else None


def interval(values: NDArray[np.float64]) -> Interval | None:
    """Return the 2.5th and the 97.5th percentile of the defined values; None without any."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    lower, upper = np.percentile(known, (2.5, 97.5))
    return float(lower), float(upper)
