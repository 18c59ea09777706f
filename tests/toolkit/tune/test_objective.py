"""The score and the stop rule of the study, on its own logged trials and at their edges."""

import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.tune.objective import overfits, score

accuracies = st.floats(0, 1, allow_subnormal=False)


def test_the_score_is_the_one_of_every_logged_trial(shared):
    with (shared / "study" / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == 50
    for trial in trials:
        training, validation = (
            float(trial[f"hparam/{each}"]) / 100 for each in ("tAccuracy", "vAccuracy")
        )
        assert score(training, validation) == pytest.approx(float(trial["score"]), abs=1e-6)
        # Epochs are counted from 0, and the rule holds after the fifth at the earliest.
        assert 5 <= float(trial["step"]) <= 50
    best = sorted(trials, key=lambda trial: -float(trial["score"]))[:2]
    assert {trial["trial"] for trial in best} == {"40", "32"}


def test_no_training_xray_right_is_the_worst_score_and_no_error():
    assert score(0, 0.9) == score(0, 0.1) == -math.inf < score(1e-9, 0)


@pytest.mark.parametrize("pair", [(-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5), (0.5, math.nan)])
def test_what_is_no_accuracy_is_refused(pair):
    with pytest.raises(ValueError, match="between 0 and 1"):
        score(*pair)


@given(accuracies, accuracies, accuracies)
def test_the_score_never_falls_as_validation_rises(training, one, other):
    low, high = sorted((one, other))
    assert score(training, low) <= score(training, high)


def stopped_after(gaps):
    """The epoch, counted from 0, after which a trial with these gaps stops; None if never."""
    training = [0.5 + gap for gap in gaps]
    validation = [0.5] * len(gaps)
    for epoch in range(len(gaps)):
        if overfits(training[: epoch + 1], validation[: epoch + 1]):
            return epoch
    return None


E8 = 1 / 256  # exact in binary, so that equal gaps are equal


@pytest.mark.parametrize(
    ("gaps", "epoch"),
    [
        ([1, 2, 3, 4, 5], 4),
        ([1, 2, 3, 4], None),
        ([-3, -2, -1, 1, 2], None),
        ([-3, -2, -1, 1, 2, 3], 5),
        ([-3, -2, 0, 1, 2], None),
        ([-3, -2, 0, 1, 2, 3], 5),
        ([9, 9, 1, 2, 3], 4),
        ([1, 1, 2, 2, 3, 4], 5),
        ([1, 1, 1, 1, 1, 1, 1], None),
        ([1, 2, 3, 2, 3, 2, 3], None),
        ([5, 4, 3, 2, 1, 0], None),
        ([], None),
    ],
    ids=lambda value: str(value),
)
def test_a_trial_stops_once_a_positive_gap_has_grown_twice(gaps, epoch):
    assert stopped_after([gap * E8 for gap in gaps]) == epoch


def test_histories_of_different_length_are_refused():
    with pytest.raises(ValueError, match="argument"):
        overfits([0.5] * 6, [0.5] * 5)
