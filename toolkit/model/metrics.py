"""How good a classification is: figures of a confusion matrix, with their uncertainty.

Any subset of X-rays and classes can be evaluated. A figure that is a division by zero there is
undefined: None, and left out of the means it would enter.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.errors import DataError, UsageError
from toolkit.model.bootstrap import Interval, defined, draws, interval, ratio
from toolkit.model.ranking import Areas, rank


@dataclass(frozen=True)
class Evaluation:
    """The figures of one set of X-rays and C classes.

    Attributes:
        n: X-rays.
        accuracy: share of X-rays classified rightly, 0 to 1.
        balanced_accuracy: mean of the defined recalls, 0 to 1.
        quadratic_weighted_kappa: Cohen's kappa (1968) with weights (i - j)**2, -1 to 1; None if
            all true and all predicted classes are one and the same, or classes are in no order.
        recall: of each class, the share of its X-rays that were found, 0 to 1; None without any.
        precision: of each class, the share of its predictions that were right, 0 to 1; None
            without any.
        confusion_matrix: X-rays, (C, C); rows are the true class, columns the predicted one.
        macro_f1: mean over classes of 2 TP / (2 TP + FP + FN), 0 to 1; a class that is neither
            true nor predicted has none.
        positive_class: of two classes, the index of the one that is sought; else None.
        sensitivity: of two classes, the recall of that one; else None.
        specificity: of two classes, the recall of the other one; else None.
        auroc: as `toolkit.model.ranking.Ranking` has it; None without probabilities, as the next.
        average_precision: likewise.
        intervals: 95 % bounds under the name of each figure but `precision`, for `recall`, `auroc`
            and `average_precision` one for each class; None where the figure is undefined.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    quadratic_weighted_kappa: float | None
    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    macro_f1: float
    positive_class: int | None
    sensitivity: float | None
    specificity: float | None
    auroc: Areas | None
    average_precision: Areas | None
    intervals: dict[str, Interval | tuple[Interval | None, ...] | None]


@dataclass(frozen=True)
class _Figures:
    """The figures of R confusion matrices, float64, NaN where undefined."""

    accuracy: NDArray[np.float64]  # (R,), as are the next three
    balanced_accuracy: NDArray[np.float64]
    quadratic_weighted_kappa: NDArray[np.float64]
    macro_f1: NDArray[np.float64]
    recall: NDArray[np.float64]  # (R, C), as is the next
    precision: NDArray[np.float64]


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count X-rays by their true class (row) and their predicted one (column).

    Args:
        true: integers (n,), 0 to classes - 1.
        predicted: integers (n,), 0 to classes - 1.
        classes: number of classes C, at least 1.

    Returns:
        int64 (C, C), whose sum is n.

    Raises:
        DataError: there is nothing to count.
        UsageError: the two differ in length, or hold anything but classes.
    """
    rows, columns = np.asarray(true), np.asarray(predicted)
    if rows.shape != columns.shape or rows.ndim != 1:
        raise UsageError(
            f"true and predicted classes must be two equally long rows, not of shapes "
            f"{rows.shape} and {columns.shape}"
        )
    if not rows.size:
        raise DataError("there are no X-rays to evaluate; choose a part and classes that have some")
    for each in (rows, columns):
        if each.dtype.kind not in "iu" or each.min() < 0 or each.max() >= classes:
            raise UsageError(f"classes to evaluate must be integers from 0 to {classes - 1}")
    cells = rows.astype(np.int64) * classes + columns.astype(np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def evaluate(
    true: ArrayLike,
    predicted: ArrayLike,
    classes: int,
    resamples: int = 2000,
    seed: int = 0,
    ordinal: bool = True,
    patients: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    positive_class: int = 1,
) -> Evaluation:
    """Figures of a classification, with 95 % percentile bootstrap intervals (Efron, 1979).

    Patients are resampled with replacement; a resample in which a figure is undefined is left out
    of that figure's interval.

    Args:
        true: integers (n,), 0 to classes - 1.
        predicted: integers (n,), 0 to classes - 1.
        classes: number of classes, at least 1.
        resamples: bootstrap resamples, at least 1; fewer where X-rays are very many.
        seed: of the resampling; the same seed gives the same intervals.
        ordinal: whether classes are in an order; without one there is no kappa.
        patients: whose each X-ray is, (n,); where it is not given, each is of another.
        probabilities: of each class, (n, C), that X-rays are ranked by.
        positive_class: of two classes, the index of the one that is sought.

    Raises:
        DataError: there is nothing to evaluate.
        UsageError: the arguments differ in length, or hold anything but classes, or `resamples`
            is less than 1.
    """
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, not {resamples}")
    matrix = confusion_matrix(true, predicted, classes)
    figures = _figures(matrix[None])
    owners = np.arange(matrix.sum()) if patients is None else np.asarray(patients)
    if owners.shape != np.shape(true):
        raise UsageError(f"patients must be of each X-ray, not of shape {owners.shape}")
    if patients is None:
        spread = _figures(_resample(matrix, resamples, seed))
    else:
        cells = np.asarray(true, np.int64) * classes + np.asarray(predicted, np.int64)
        spread = _figures(_resample_patients(cells, owners, classes, resamples, seed))
    if not ordinal:
        for each in (figures, spread):
            each.quadratic_weighted_kappa.fill(np.nan)
    recall = tuple(map(defined, figures.recall[0]))
    bounds = tuple(map(interval, spread.recall.T))
    ranking = None
    if probabilities is not None:
        ranking = rank(true, probabilities, owners, resamples, seed)
    pair = (positive_class, 1 - positive_class) if classes == 2 else None
    singles = ("accuracy", "balanced_accuracy", "quadratic_weighted_kappa", "macro_f1")
    return Evaluation(
        n=int(matrix.sum()),
        accuracy=float(figures.accuracy[0]),
        balanced_accuracy=float(figures.balanced_accuracy[0]),
        quadratic_weighted_kappa=defined(figures.quadratic_weighted_kappa[0]),
        recall=recall,
        precision=tuple(map(defined, figures.precision[0])),
        confusion_matrix=tuple(tuple(map(int, row)) for row in matrix),
        macro_f1=float(figures.macro_f1[0]),
        positive_class=positive_class if pair else None,
        sensitivity=recall[pair[0]] if pair else None,
        specificity=recall[pair[1]] if pair else None,
        auroc=ranking.auroc if ranking else None,
        average_precision=ranking.average_precision if ranking else None,
        intervals={
            **{name: interval(getattr(spread, name)) for name in singles},
            "recall": bounds,
            "sensitivity": bounds[pair[0]] if pair else None,
            "specificity": bounds[pair[1]] if pair else None,
            **(ranking.intervals if ranking else {}),
        },
    )


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON has it: its attributes by name, with lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(evaluation)))
    return plain


def _resample(matrix: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.int64]:
    """Confusion matrices (resamples, C, C) of as many X-rays, drawn with replacement.

    Which X-rays share a cell makes no difference, so the cells' counts are drawn at once.
    """
    counts = matrix.ravel()
    filled = np.flatnonzero(counts)  # an empty cell stays empty, whatever rounding does
    drawn = np.zeros((resamples, counts.size), np.int64)
    shares = counts[filled] / counts.sum()
    drawn[:, filled] = np.random.default_rng(seed).multinomial(counts.sum(), shares, resamples)
    return drawn.reshape(resamples, *matrix.shape)


def _resample_patients(
    cells: NDArray[np.int64], patients: NDArray[Any], classes: int, resamples: int, seed: int
) -> NDArray[np.int64]:
    """Confusion matrices (R, C, C) of the X-rays of patients, drawn with replacement."""
    order = np.argsort(cells, kind="stable")
    filled, starts = np.unique(cells[order], return_index=True)
    counts = [
        np.add.reduceat(times[:, order], starts, axis=1)
        for times in draws(patients, resamples, seed)
    ]
    drawn = np.zeros((sum(map(len, counts)), classes**2), np.int64)
    drawn[:, filled] = np.concatenate(counts)
    return drawn.reshape(-1, classes, classes)


def _figures(matrices: NDArray[np.int64]) -> _Figures:
    """Figures of int64 (R, C, C), each with at least one X-ray."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    true, predicted = matrices.sum(axis=2), matrices.sum(axis=1)
    recall = ratio(hits, true)
    return _Figures(
        accuracy=hits.sum(axis=1) / true.sum(axis=1),
        balanced_accuracy=_mean(recall),
        quadratic_weighted_kappa=_kappa(matrices, true, predicted),
        macro_f1=_mean(ratio(2 * hits, true + predicted)),
        recall=recall,
        precision=ratio(hits, predicted),
    )


def _mean(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean (R,) of the defined figures of each row; there is at least one."""
    found = np.isfinite(figures)
    result: NDArray[np.float64] = np.where(found, figures, 0).sum(axis=1) / found.sum(axis=1)
    return result


def _kappa(
    matrices: NDArray[np.int64], true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """1 - (disagreement observed) / (disagreement expected by chance), both weighted.

    Cohen (1968), "Weighted kappa", Psychological Bulletin 70(4), with weights (i - j)**2.
    """
    grades = np.arange(matrices.shape[1])
    weights = (grades[:, None] - grades[None, :]) ** 2
    observed = (matrices * weights).sum(axis=(1, 2)) * true.sum(axis=1)
    expected = ((true @ weights) * predicted).sum(axis=1)
    return 1 - ratio(observed, expected)
