"""What is said of an X-ray: class, probabilities, and what the manifest adds to them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.model import manifest


@dataclass(frozen=True)
class Meaning:
    """What a model's probabilities mean.

    Attributes:
        classes: the label of each class.
        grades: the Kellgren-Lawrence grades of each class; empty where they are not known.
        abstain_below: largest probability below which the model abstains; None without
            calibration.
        novelty_limit: largest novelty of an X-ray that is in scope; None where it is not known.
    """

    classes: tuple[str, ...]
    grades: tuple[tuple[int, ...], ...] = ()
    abstain_below: float | None = None
    novelty_limit: float | None = None

    @cached_property
    def _mean_grades(self) -> NDArray[np.float64]:
        return np.array([np.mean(each) for each in self.grades])

    def answer(
        self, probabilities: NDArray[np.float32], novelty: float | None = None
    ) -> dict[str, Any]:
        """Return what is said of one X-ray, as plain values.

        Args:
            probabilities: float32 (C,).
            novelty: how unlike the training X-rays it is, 0 or more; None where it is not known.

        Returns:
            `class`, `label` and `probabilities`; `expected_grade`, the mean over the classes of
            their mean grade, on the Kellgren-Lawrence scale; `abstain`, whether the largest
            probability is too small to go by; and `in_scope`, whether it looks like the X-rays
            that the model knows.
        """
        index = int(probabilities.argmax())
        result: dict[str, Any] = {
            "class": index,
            "label": self.classes[index],
            "probabilities": [float(each) for each in probabilities],
        }
        if self.grades:
            result["expected_grade"] = float(probabilities.astype(np.float64) @ self._mean_grades)
        if self.abstain_below is not None:
            result["abstain"] = bool(probabilities.max() < self.abstain_below)
        if self.novelty_limit is not None and novelty is not None:
            result["in_scope"] = bool(novelty <= self.novelty_limit)
        return result


def meaning_of(record: manifest.Manifest) -> Meaning:
    """Return what the probabilities of a manifest's model mean."""
    abstain_below = record.calibration.abstain_below if record.calibration else None
    limit = record.scope.limit if record.scope else None
    return Meaning(record.labels.classes, record.labels.grades, abstain_below, limit)
