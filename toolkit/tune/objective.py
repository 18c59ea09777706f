"""What a tuning trial is judged by: when it stops, and its score."""

import math
from collections.abc import Sequence

_FIRST_STOP = 4
_CHANCE = 0.5


def score(training: float, validation: float) -> float:
    """Return (v - 1/2) / t + (v - 1/2): the study's score, larger is better, at most 1 for t = v.

    It rewards validation accuracy twice: for itself, and for keeping up with the training's.

    Args:
        training: accuracy t on the training part, 0 to 1, counted during the last epoch.
        validation: accuracy v on the validation part after it, 0 to 1.

    Returns:
        The score; minus infinity where t is 0, as nothing was learned and the ratio is undefined.

    Raises:
        ValueError: an accuracy outside 0..1, or NaN.
    """
    for accuracy in (training, validation):
        if not 0 <= accuracy <= 1:
            raise ValueError(f"an accuracy is between 0 and 1, not {accuracy}")
    if training == 0:
        return -math.inf
    above = validation - _CHANCE
    return above / training + above


def overfits(training: Sequence[float], validation: Sequence[float]) -> bool:
    """Return whether a trial stops after the epochs so far: the study's stop rule.

    With gap = training accuracy - validation accuracy, it stops after epoch i, counted from 0,
    if i > 3 and gap[i-2] > 0 and gap[i-1] > gap[i-2] and gap[i] > gap[i-1]. All three are
    strict: equal gaps have not grown, and a gap of exactly 0 is not yet overfitting. The oldest
    of the three need only be positive; how it came to be so does not matter.

    Args:
        training: accuracy of each epoch so far, 0 to 1.
        validation: likewise.

    Raises:
        ValueError: not equally many of both.
    """
    gaps = [t - v for t, v in zip(training, validation, strict=True)]
    if len(gaps) <= _FIRST_STOP:
        return False
    before, middle, last = gaps[-3:]
    return 0 < before < middle < last
