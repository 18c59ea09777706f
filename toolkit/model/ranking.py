"""How well probabilities rank X-rays: the areas under the curves of each class against the rest.

No threshold is chosen. An area that needs X-rays of the class and of others, and has not both, is
undefined.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.errors import UsageError
from toolkit.model.bootstrap import Interval, defined, draws, interval, ratio

Areas = tuple[float | None, ...]


@dataclass(frozen=True)
class Ranking:
    """The areas of C classes.

    Attributes:
        auroc: of each class, how often an X-ray of it is given a larger probability of it than
            one of another class, 0 to 1; ties count half. None where it is undefined.
        average_precision: of each class, the mean precision over the recalls that its
            probability gives, 0 to 1; None where it is undefined.
        intervals: 95 % bounds under both names, one for each class; None where undefined.
    """

    auroc: Areas
    average_precision: Areas
    intervals: dict[str, tuple[Interval | None, ...]]


def rank(
    true: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, resamples: int, seed: int
) -> Ranking:
    """Return how well probabilities rank X-rays, with intervals over patients.

    The area under the ROC curve is Mann and Whitney's U over the number of pairs (Hanley and
    McNeil, Radiology 143, 1982). Average precision is the sum over thresholds of precision times
    the recall gained, without interpolation (Manning, Raghavan and Schuetze, "Introduction to
    Information Retrieval", 2008, 8.4).

    Args:
        true: class indices (n,), n at least 1.
        probabilities: (n, C). A class with one that is not finite has no areas.
        patients: whose each X-ray is, (n,).
        resamples: of the bootstrap, at least 1.
        seed: of it.

    Raises:
        UsageError: they are not of as many X-rays.
    """
    truth, scores, owners = np.asarray(true), np.asarray(probabilities), np.asarray(patients)
    if scores.ndim != 2 or not len(truth) == len(scores) == len(owners):
        raise UsageError(
            f"classes, probabilities and patients must be of as many X-rays, not of shapes "
            f"{truth.shape}, {scores.shape} and {owners.shape}"
        )
    curves = [_Curve(truth == index, column) for index, column in enumerate(scores.T)]

    def areas(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.stack([curve.areas(weights) for curve in curves], axis=-1)

    (auroc,), (precision,) = areas(np.ones((1, len(truth)), np.int64))
    spread = np.concatenate([areas(each) for each in draws(owners, resamples, seed)], axis=1)
    bounds = [tuple(map(interval, each.T)) for each in spread]
    return Ranking(
        tuple(map(defined, auroc)),
        tuple(map(defined, precision)),
        dict(zip(("auroc", "average_precision"), bounds, strict=True)),
    )


class _Curve:
    """One class against the rest: X-rays by their probability of it, the largest first."""

    def __init__(self, positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> None:
        self._finite = bool(np.isfinite(scores).all())
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._positive = positive[self._order]
        # Where each distinct probability begins: no threshold comes between equal ones.
        self._starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

    def areas(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return both areas, float64 (2, R), of X-rays that are there so often, (R, n)."""
        if not self._finite:
            return np.full((2, len(weights)), np.nan)
        drawn = weights[:, self._order]
        every = np.add.reduceat(drawn, self._starts, axis=1)
        hits = np.add.reduceat(drawn * self._positive, self._starts, axis=1)
        found, taken = hits.cumsum(axis=1), every.cumsum(axis=1)
        positives = found[:, -1]
        pairs = positives * (taken[:, -1] - positives)
        above = ((every - hits) * (found - hits / 2)).sum(axis=1)
        precision = found / np.maximum(taken, 1)
        gained = np.where(pairs == 0, np.nan, (hits * precision).sum(axis=1))
        return np.stack([ratio(above, pairs), ratio(gained, positives)])
