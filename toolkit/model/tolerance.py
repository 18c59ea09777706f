"""How far an output of a model may be from PyTorch's: one definition, for export and serving."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOGIT_TOLERANCE = 1e-5
PROBABILITY_TOLERANCE = 1e-5
UNNATURAL_TOLERANCE = 1e-2
NOVELTY_TOLERANCE = 1e-4
LOWER_NOVELTY_TOLERANCE = 0.1


@dataclass(frozen=True)
class Bound:
    """How far an output may be from PyTorch's, for each sample.

    Attributes:
        text: the bound in words.
        allowed: from the reference (N, ...) and which samples are X-rays (N,), the largest
            absolute difference of each sample: float64 (N,).
    """

    text: str
    allowed: Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[np.float64]]


def within(by_sample: NDArray[np.float64], allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which differences, float64 (N,), are finite and at most as allowed: bool (N,)."""
    # A NaN compares as False, so what passes is asked for, not what fails.
    result: NDArray[np.bool_] = (by_sample <= allowed) & np.isfinite(by_sample)
    return result


def _logit_bound(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del natural
    largest = np.abs(reference.astype(np.float64)).reshape(len(reference), -1).max(axis=1)
    bound: NDArray[np.float64] = LOGIT_TOLERANCE * np.maximum(1.0, largest)
    return bound


def _probability_bound(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del reference
    return np.where(natural, PROBABILITY_TOLERANCE, UNNATURAL_TOLERANCE)


def _identical(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del natural
    return np.zeros(len(reference))


def _novelty_bound(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del natural
    bound: NDArray[np.float64] = NOVELTY_TOLERANCE * np.maximum(1.0, reference.astype(np.float64))
    return bound


def _lower_novelty_bound(
    reference: NDArray[Any], natural: NDArray[np.bool_]
) -> NDArray[np.float64]:
    return _novelty_bound(reference, natural) * (LOWER_NOVELTY_TOLERANCE / NOVELTY_TOLERANCE)


def _finite(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del natural
    return np.full(len(reference), np.inf)


_BY_CLASS = Bound("finite, and the classes by the gate", _finite)
_LOWER_BOUNDS = {
    "logits": _BY_CLASS,
    "probabilities": _BY_CLASS,
    "novelty": Bound(
        "0.1 * max(1, novelty of that X-ray), and in_scope by the gate", _lower_novelty_bound
    ),
}
_BOUNDS = {
    "logits": Bound("1e-5 * max(1, max |logit| of that X-ray)", _logit_bound),
    "probabilities": Bound("1e-5 on real and generated X-rays, 0.01 on others", _probability_bound),
    "novelty": Bound("1e-4 * max(1, novelty of that X-ray)", _novelty_bound),
}
_VIEW = Bound("identical", _identical)


def bound_of(output: str, gated: bool = False) -> Bound:
    """Return how far an output of a pipeline may be from PyTorch's; what is no number is a view.

    Args:
        output: its name.
        gated: whether it is of a lower precision, which `export.compare.gate` judges as well.
    """
    return (_LOWER_BOUNDS if gated else _BOUNDS).get(output, _VIEW)
