"""The operating point of a model of two classes: the probability from which on one is decided on.

It is chosen on validation X-rays, on the probabilities that are answered: calibrated ones, where
the model is calibrated. Neither probabilities nor the most probable class change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DataError, UsageError
from toolkit.model.manifest import Manifest
from toolkit.model.records import OperatingPointRecord
from toolkit.model.tolerance import PROBABILITY_TOLERANCE
from toolkit.train.calibration import softmax

Figure = Literal["sensitivity", "specificity"]
_OTHER: dict[Figure, Figure] = {"sensitivity": "specificity", "specificity": "sensitivity"}
_LIKE = "such as sensitivity=0.95 or specificity=0.9"


@dataclass(frozen=True)
class Target:
    """What an operating point is to reach.

    Attributes:
        figure: of which at least so much is asked for.
        value: how much, above 0 to 1.
        positive: label of the class that is sought, of two.
    """

    figure: Figure
    value: float
    positive: str


def parse_target(text: str, positive: str | None, classes: Sequence[str]) -> Target:
    """Return what `text` asks for, such as `sensitivity=0.95`.

    Args:
        text: as the command line has it.
        positive: label of the class that is sought; None for the last one.
        classes: of the model.

    Raises:
        UsageError: it asks for nothing that there is, or there are not two classes.
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    figure = next((each for each in _OTHER if each == name.strip()), None)
    if figure is None or not 0 < value <= 1:
        raise UsageError(f"{text!r} is no operating point: give what to reach, {_LIKE}")
    if len(classes) != 2:
        raise UsageError(
            f"an operating point is of two classes, and these are {len(classes)}: "
            f"{', '.join(classes)}"
        )
    if positive not in (None, *classes):
        raise UsageError(
            f"no class is called {positive!r}: --positive is {classes[0]!r} or {classes[1]!r}"
        )
    return Target(figure, value, positive or classes[-1])


def require_both(counts: Sequence[int], classes: Sequence[str], part: str) -> None:
    """Make sure that a part has X-rays of both classes, so that a point can be chosen on it.

    Raises:
        DataError: it has not.
    """
    for count, label in zip(counts, classes, strict=True):
        if not count:
            raise DataError(
                f"no operating point can be chosen on the part {part!r}: it has no X-ray of "
                f"{label!r}; give it some"
            )


def choose(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    target: Target,
    classes: Sequence[str],
    part: str,
) -> OperatingPointRecord:
    """Return the operating point that reaches a target at the least cost.

    Of the thresholds that reach it, it is the one with the best other figure, and of these the one
    with the best figure that was asked for. It lies midway between two X-rays that are further
    apart than a proven file may be from PyTorch, so each X-ray is decided as it was here.

    Args:
        probabilities: as they are answered, (N, 2).
        labels: class indices (N,).
        target: what to reach.
        classes: both labels.
        part: what the X-rays are called.

    Raises:
        DataError: a class has no X-rays, a probability is not finite, or no threshold between two
            X-rays reaches the target while it still finds any of the other class.
    """
    if not np.isfinite(probabilities).all():
        raise DataError(f"no operating point: a probability on the part {part!r} is not finite")
    sought = classes.index(target.positive)
    counts = np.bincount(labels, minlength=2)
    require_both(counts.tolist(), classes, part)
    positives, negatives = int(counts[sought]), int(counts[1 - sought])
    order = np.argsort(-probabilities[:, sought], kind="stable")
    scores = probabilities[order, sought].astype(np.float64)
    taken = 1 + np.flatnonzero(scores[:-1] - scores[1:] > 2 * PROBABILITY_TOLERANCE)
    found = (labels[order] == sought).cumsum()[taken - 1]
    reached = {
        "sensitivity": found / positives,
        "specificity": (negatives - (taken - found)) / negatives,
    }
    asked, other = reached[target.figure], reached[_OTHER[target.figure]]
    useful = other > 0
    good = np.flatnonzero(useful & (asked >= target.value))
    if not len(good):
        most = asked[useful].max(initial=0.0)
        raise DataError(
            f"{target.figure} {target.value:g} for {target.positive!r} is beyond the part "
            f"{part!r}: on its {len(labels)} X-rays no threshold that finds any of the other class "
            f"reaches more than {most:.3g}; ask for less"
        )
    best = good[np.lexsort((asked[good], other[good]))[-1]]
    above, below = scores[taken[best] - 1], scores[taken[best]]
    return OperatingPointRecord(
        part=part,
        positive=target.positive,
        figure=target.figure,
        target=target.value,
        threshold=float((above + below) / 2),
        sensitivity=float(reached["sensitivity"][best]),
        specificity=float(reached["specificity"][best]),
        positives=positives,
        negatives=negatives,
    )


def with_operating_point(
    record: Manifest, logits: NDArray[np.floating], labels: NDArray[np.integer], target: Target
) -> Manifest:
    """Return a manifest with the operating point chosen on `val`, and without what comes after.

    Args:
        record: of a model, calibrated if it is to be.
        logits: of the X-rays of `val`, (N, 2).
        labels: theirs, (N,).
        target: what to reach.

    Raises:
        DataError: as `choose` does.
    """
    probabilities = softmax(logits, record.temperature)
    point = choose(probabilities, labels, target, record.labels.classes, "val")
    return replace(record, operating_point=point, export=None, equivalence=None, golden=None)
