import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from toolkit.errors import DataError
from toolkit.train.calibration import (
    abstention,
    calibrate,
    calibration_error,
    fit_temperature,
    softmax,
)


def drawn(temperature, count=20_000):
    """Logits, and labels drawn with the probabilities that softmax(logits / T) gives."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 4)).astype(np.float32)
    cumulated = softmax(logits, temperature).cumsum(axis=1)
    return logits, (rng.random((count, 1)) > cumulated).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    found = fit_temperature(*drawn(temperature))
    assert found == pytest.approx(temperature, rel=0.03)


def test_the_temperature_has_the_highest_likelihood_of_a_fine_grid():
    logits, labels = drawn(1.7, 500)

    def likelihood(temperature):
        return np.log(softmax(logits, temperature)[np.arange(500), labels]).sum()

    grid = np.exp(np.linspace(-2, 2, 2001))
    assert likelihood(fit_temperature(logits, labels)) >= max(map(likelihood, grid))


def test_logits_a_hundred_times_as_large_have_a_hundred_times_the_temperature():
    logits, labels = drawn(0.1, 500)
    once = fit_temperature(logits, labels)
    assert fit_temperature(100 * logits, labels) == pytest.approx(100 * once, rel=1e-4)


@pytest.mark.parametrize(("labels", "end"), [([0, 0, 1], 0.05), ([1, 1, 0], 20)])
def test_without_a_best_temperature_it_stays_within_its_range(labels, end):
    logits = np.array([[3.0, 0], [2, 0], [0, 1]])
    assert fit_temperature(logits, np.array(labels)) == pytest.approx(end, rel=1e-4)


def test_nothing_to_calibrate_on_is_an_error():
    with pytest.raises(DataError, match="validation part"):
        fit_temperature(np.zeros((0, 4)), np.zeros(0, int))


def test_the_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.88, 0.12], [0.45, 0.55], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    # With ten bins: two X-rays in (0.8, 0.9], one of them right; two in (0.5, 0.6], both right.
    first, second = abs(0.5 - 0.89), abs(1 - 0.575)
    expected = 0.5 * first + 0.5 * second
    assert calibration_error(probabilities, labels, bins=10) == pytest.approx(expected)


def test_what_is_sure_and_right_has_no_calibration_error():
    assert calibration_error(np.eye(4), np.arange(4)) == 0
    assert calibration_error(np.eye(4), (np.arange(4) + 1) % 4) == 1


def test_the_fitted_temperature_mends_overconfidence():
    logits, labels = drawn(3.0)
    record = calibrate(logits, labels, "val")
    assert record.error_after < 0.02 < 0.2 < record.error_before
    assert (record.part, record.n) == ("val", 20_000)


probabilities_of_two = arrays.arrays(
    np.float64, st.integers(1, 40), elements=st.integers(50, 100).map(lambda each: each / 100)
)


@given(probabilities_of_two, st.data())
def test_as_many_as_possible_are_kept_with_no_more_errors_than_allowed(confidence, data):
    count = len(confidence)
    right = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(right, 0, 1)
    # At an even chance argmax takes the first class.
    wrong = ~np.array(right)
    threshold = abstention(probabilities, labels, allowed=0.2)

    def kept_and_error(level):
        kept = confidence >= level
        return kept.sum(), wrong[kept].mean()

    tried = [kept_and_error(level) for level in np.unique(confidence)]
    allowed = [count for count, error in tried if error <= 0.2]
    count, error = kept_and_error(threshold)
    if allowed:
        assert error <= 0.2
        assert count == max(allowed)
    else:
        assert error == min(each for kept, each in tried if kept >= 0.1 * len(confidence))


def test_the_record_says_what_the_threshold_comes_to():
    logits, labels = drawn(1.0, 2000)
    record = calibrate(logits, labels, "val")
    probabilities = softmax(logits, record.temperature)
    kept = probabilities.max(axis=1) >= record.abstain_below
    assert record.abstained == pytest.approx(1 - kept.mean())
    wrong = (probabilities.argmax(axis=1) != labels)[kept].mean()
    assert record.wrong_among_kept == wrong <= 0.05
    assert 0 < record.abstained < 1
