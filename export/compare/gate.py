"""What a file of lower precision is judged by: whether X-rays keep their class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.model.equivalence import Gate
from toolkit.model.metrics import Evaluation, evaluate

AGREEMENT = 0.995
POINTS = 0.5
NO_XRAYS = "there are no graded X-rays to judge by: give some with --data"


def gate(
    reference_logits: NDArray[Any],
    logits: NDArray[Any],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
) -> Gate:
    """Judge logits by the classes that they come to.

    At least 99.5 % of the X-rays keep their class, and kappa and each class's recall are within
    0.5 points of the reference's. Without graded X-rays nothing passes.

    Args:
        reference_logits: of graded X-rays, float (N, C).
        logits: of the same X-rays from the file to judge, float (N, C).
        labels: their true classes, integers (N,).
        classes: the C names.
    """
    if not len(labels):
        return Gate(0, 0.0, None, (None,) * len(classes), (NO_XRAYS,))
    if logits.shape != reference_logits.shape or not np.isfinite(logits).all():
        line = f"logits of graded X-rays are not finite, or not of shape {reference_logits.shape}"
        return Gate(len(labels), 0.0, None, (None,) * len(classes), (line,))
    before, after = reference_logits.argmax(axis=1), logits.argmax(axis=1)
    old, new = (evaluate(labels, each, len(classes), resamples=1) for each in (before, after))
    agreement = float((before == after).mean())
    kappa = _points(old.quadratic_weighted_kappa, new.quadratic_weighted_kappa)
    recall = tuple(map(_points, old.recall, new.recall))
    failures = []
    if agreement < AGREEMENT:
        failures.append(
            f"{int((before != after).sum())} of {len(labels)} graded X-rays change their class: "
            f"{agreement:.2%} agree, allowed are {AGREEMENT:.1%} or more"
        )
    if _undefined_once(old, new):
        failures.append("kappa is defined for one of the two only")
    for name, points in zip(("kappa", *classes), (kappa, *recall), strict=True):
        if points is not None and abs(points) > POINTS + 1e-9:
            what = name if name == "kappa" else f"recall of {name}"
            failures.append(f"{what} differs by {points:+.2f} points, allowed are {POINTS}")
    return Gate(len(labels), agreement, kappa, recall, tuple(failures))


def _points(old: float | None, new: float | None) -> float | None:
    return None if old is None or new is None else 100 * (new - old)


def _undefined_once(old: Evaluation, new: Evaluation) -> bool:
    return (old.quadratic_weighted_kappa is None) != (new.quadratic_weighted_kappa is None)
