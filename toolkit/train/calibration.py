"""Probabilities that mean what they say: a temperature, and a confidence below which to abstain.

Both are fitted on validation X-rays, which the weights were not trained on. No class changes.
"""

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DataError
from toolkit.model.records import CalibrationRecord

BINS = 15
ALLOWED_ERROR = 0.05
COLDEST, HOTTEST = 0.05, 20.0
_GOLDEN = (5**0.5 - 1) / 2
_FEWEST = 0.1


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) along the last axis, float64 of the same shape."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature T > 0 whose softmax(logits / T) has the highest likelihood.

    Guo et al., "On calibration of modern neural networks", ICML 2017. The mean negative
    log-likelihood has one minimum over log T, found by golden-section search; T stays within
    0.05 and 20, where a likelihood without a minimum (every X-ray right, or none) ends up.

    Args:
        logits: (N, C), finite.
        labels: class indices (N,).

    Raises:
        DataError: there are no X-rays.
    """
    if not len(labels):
        raise DataError("there are no X-rays to calibrate on: give a validation part")

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits, float(np.exp(log_temperature)))
        of_truth = probabilities[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean())

    low, high = float(np.log(COLDEST)), float(np.log(HOTTEST))
    while high - low > 1e-7:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = BINS
) -> float:
    """Return the expected calibration error, 0 to 1.

    The mean over X-rays of |accuracy - mean confidence| of the bin that an X-ray's confidence
    lies in; bins of equal width over 0..1, open below (Naeini et al., AAAI 2015).

    Args:
        probabilities: (N, C), rows summing up to 1.
        labels: class indices (N,).
        bins: number of bins.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    chosen = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(chosen, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def abstention(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], allowed: float = ALLOWED_ERROR
) -> float:
    """Return the confidence below which the model abstains, 0 to 1.

    Of all thresholds that leave at most `allowed` of the kept X-rays wrong it is the lowest, so
    that the most are kept. Where none does, it is the one that leaves the smallest share of
    wrong ones while a tenth of the X-rays are kept.

    Args:
        probabilities: (N, C), rows summing up to 1.
        labels: class indices (N,).
        allowed: share of the kept X-rays, 0 to 1.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    kept = np.arange(1, len(sure) + 1)
    errors = np.cumsum(wrong) / kept
    # X-rays of equal confidence are kept together or not at all.
    whole = np.append(sure[1:] < sure[:-1], True)
    good = np.flatnonzero(whole & (errors <= allowed))
    if not len(good):
        enough = np.flatnonzero(whole & (kept >= _FEWEST * len(sure)))
        good = enough[[int(errors[enough].argmin())]]
    return float(sure[good[-1]])


def calibrate(
    logits: NDArray[np.floating], labels: NDArray[np.integer], part: str
) -> CalibrationRecord:
    """Return temperature and abstention of a model, and what they come to.

    Args:
        logits: (N, C) of the X-rays to calibrate on.
        labels: class indices (N,).
        part: what those X-rays are called.

    Raises:
        DataError: there are no X-rays.
    """
    temperature = fit_temperature(logits, labels)
    probabilities = softmax(logits, temperature)
    threshold = abstention(probabilities, labels)
    kept = probabilities.max(axis=1) >= threshold
    wrong = probabilities.argmax(axis=1)[kept] != labels[kept]
    return CalibrationRecord(
        part=part,
        n=len(labels),
        temperature=temperature,
        error_before=calibration_error(softmax(logits), labels),
        error_after=calibration_error(probabilities, labels),
        abstain_below=threshold,
        abstained=float(1 - kept.mean()),
        wrong_among_kept=float(wrong.mean()),
    )


def doubts(known: CalibrationRecord | None) -> list[str]:
    """Return what is doubtful about a temperature at an end of the range that is searched."""
    if known is None or 1.001 * COLDEST < known.temperature < HOTTEST / 1.001:
        return []
    return [
        f"the temperature {known.temperature:.3g} is at the end of its range, {COLDEST:g} to "
        f"{HOTTEST:g}: the {known.n} X-rays of {known.part!r} do not tell how sure the model may "
        "be; give it more of them, or train it otherwise"
    ]
