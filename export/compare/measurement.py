"""How far one output is from PyTorch's: figures, and what to say where it is too far."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.compare.samples import Samples
from toolkit.model.equivalence import Flip, OutputDifference, TensorSpec
from toolkit.model.tolerance import Bound, within

HISTOGRAM_EDGES = tuple(10.0**power for power in range(-9, 0))
_SHOWN = 5


class Measurement:
    """Differences of one output, gathered over all settings that it was run in."""

    def __init__(self, spec: TensorSpec, samples: Samples, bound: Bound) -> None:
        self.spec = spec
        self.samples = samples
        self.bound = bound
        self.lines: list[str] = []
        self.flips: list[Flip] = []
        self._max_abs: list[float] = []
        self._mean_abs: list[float] = []
        self._p99_abs: list[float] = []
        self._max_ulp: list[float] = []
        self._agreement: list[float] = []
        self._histogram = np.zeros(len(HISTOGRAM_EDGES) + 1, dtype=np.int64)

    @np.errstate(invalid="ignore")
    def add(self, actual: NDArray[Any], reference: NDArray[Any], setting: str) -> None:
        """Compare (N, ...) with its reference; `setting` says how it was run."""
        where = f"{self.spec.name} {setting}"
        if actual.shape != reference.shape or actual.dtype != reference.dtype:
            self.lines.append(
                f"{where}: {actual.dtype} {actual.shape}, expected "
                f"{reference.dtype} {reference.shape}"
            )
            return
        difference = np.abs(actual.astype(np.float64) - reference.astype(np.float64))
        by_sample = difference.reshape(len(difference), -1).max(axis=1)
        passes = within(by_sample, self.bound.allowed(reference, self.samples.natural))
        self._max_abs.append(float(by_sample.max()))
        self._mean_abs.append(float(difference.mean()))
        self._p99_abs.append(float(np.percentile(difference, 99)))
        self._max_ulp.append(_max_ulp(actual, reference))
        self._histogram += _histogram(difference)
        if actual.ndim == 2:
            self._agreement.append(float((actual.argmax(1) == reference.argmax(1)).mean()))
            self.flips += _flips(actual, reference, by_sample, self.samples, setting)
        if not passes.all():
            self.lines.append(self._failure(where, by_sample, passes))

    def difference(self) -> OutputDifference:
        """Return the figures, not finite ones as -1, which JSON can hold."""
        finite = bool(self._max_abs) and bool(np.isfinite(self._max_abs).all())
        return OutputDifference(
            output=self.spec.name,
            max_abs=max(self._max_abs) if finite else -1.0,
            mean_abs=max(self._mean_abs) if finite else -1.0,
            p99_abs=max(self._p99_abs) if finite else -1.0,
            max_ulp=max(self._max_ulp) if finite else -1.0,
            allowed=self.bound.text,
            histogram=tuple(self._histogram.tolist()),
            passed=finite and not self.lines,
        )

    def failures(self) -> list[str]:
        """Return a line for each of the first settings that differed."""
        return self.lines[:_SHOWN]

    def argmax_agreement(self) -> float:
        """Return the smallest share of X-rays with the same class over the settings."""
        return min(self._agreement, default=0.0)

    def _failure(
        self, where: str, by_sample: NDArray[np.float64], passes: NDArray[np.bool_]
    ) -> str:
        failed = np.flatnonzero(~passes)
        worst = failed[np.nan_to_num(by_sample[failed], nan=np.inf).argmax()]
        return (
            f"{where}: {len(failed)} of {len(passes)} X-rays differ, most of all number {worst} "
            f"({self.samples.kinds[worst]}) by {by_sample[worst]:.3g}; allowed {self.bound.text}"
        )


def _max_ulp(actual: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the largest distance in representable numbers; of integers, the plain one."""
    if actual.dtype != np.float32:
        return float(np.abs(actual.astype(np.int64) - reference.astype(np.int64)).max())
    places = []
    for values in (actual, reference):
        bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
        # Negative floats count down from -0: mirrored, the numbers are in order.
        places.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    return float(np.abs(places[0] - places[1]).max())


def _histogram(difference: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the differences between the `HISTOGRAM_EDGES`; a NaN counts as the largest."""
    known = np.nan_to_num(difference.ravel(), nan=np.inf, posinf=np.inf)
    bins = np.searchsorted(HISTOGRAM_EDGES, known, side="right")
    counts: NDArray[np.int64] = np.bincount(bins, minlength=len(HISTOGRAM_EDGES) + 1)
    return counts


def _flips(
    actual: NDArray[Any],
    reference: NDArray[Any],
    by_sample: NDArray[np.float64],
    samples: Samples,
    setting: str,
) -> list[Flip]:
    flipped = np.flatnonzero(actual.argmax(1) != reference.argmax(1))
    ordered = np.sort(reference[flipped].astype(np.float64), axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    return [
        Flip(
            sample=int(index),
            kind=samples.kinds[index],
            setting=setting,
            margin=float(margin),
            error=float(np.nan_to_num(by_sample[index], nan=-1.0, posinf=-1.0)),
            # Both of the top two may have moved by the error, towards each other.
            tie=bool(margin <= 2 * by_sample[index]),
        )
        for index, margin in zip(flipped, margins, strict=True)
    ]
