"""Areas under curves, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import UsageError
from toolkit.model.bootstrap import draws
from toolkit.model.metrics import as_dict, evaluate
from toolkit.model.ranking import rank

CLASSES = 3


def xrays(count, seed=0, classes=CLASSES):
    random = np.random.default_rng(seed)
    true = random.integers(0, classes, count)
    # Rounded, so that there are ties.
    scores = (random.random((count, classes)) + 0.6 * np.eye(classes)[true]).round(1) + 0.01
    return true, scores / scores.sum(axis=1, keepdims=True)


@given(st.integers(1, 80), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_areas_match_scikit_learn_wherever_they_are_defined(oracle, count, seed):
    true, scores = xrays(count, seed)
    found = rank(true, scores, np.arange(count), 1, 0)
    for index in range(CLASSES):
        of_class = true == index
        if 0 < of_class.sum() < count:
            area = oracle.roc_auc_score(of_class, scores[:, index])
            precision = oracle.average_precision_score(of_class, scores[:, index])
            assert found.auroc[index] == pytest.approx(area)
            assert found.average_precision[index] == pytest.approx(precision)
        else:
            assert found.auroc[index] is found.average_precision[index] is None
            assert found.intervals["auroc"][index] is None


def test_equal_probabilities_rank_nothing():
    found = rank([0, 1, 1, 0], np.full((4, 2), 0.5), range(4), 20, 0)
    assert found.auroc == (0.5, 0.5) == found.average_precision


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_probability_that_is_no_number_leaves_its_class_without_areas(value):
    true, scores = xrays(20)
    scores[3, 1] = value
    found = rank(true, scores, range(20), 10, 0)
    assert found.auroc[1] is found.average_precision[1] is None
    assert found.auroc[0] is not None
    assert found.intervals["average_precision"][1] is None


@pytest.mark.parametrize("true", [[1], [1, 1, 1]], ids=["one X-ray", "one class"])
def test_without_two_classes_areas_are_undefined_and_the_rest_is_not(true):
    found = as_dict(evaluate(true, true, 2, probabilities=np.eye(2)[true], patients=true))
    assert found["auroc"] == found["average_precision"] == [None, None]
    assert found["intervals"]["auroc"] == [None, None]
    assert (found["sensitivity"], found["specificity"]) == (1.0, None)


def test_intervals_match_a_bootstrap_that_draws_patients_one_by_one(oracle):
    true, scores = xrays(160, seed=3)
    # Both X-rays of a patient are the same one, so that half as many tell of the model.
    true, scores = np.repeat(true, 2), np.repeat(scores, 2, axis=0)
    patients = np.repeat(np.arange(160), 2)
    random = np.random.default_rng(1)
    drawn = {"auroc": [], "average_precision": [], "accuracy": [], "macro_f1": []}
    predicted = scores.argmax(axis=1)
    for _ in range(200):
        chosen = np.concatenate([[2 * each, 2 * each + 1] for each in random.integers(0, 160, 160)])
        t, s = true[chosen], scores[chosen]
        drawn["auroc"].append(oracle.roc_auc_score(t == 1, s[:, 1]))
        drawn["average_precision"].append(oracle.average_precision_score(t == 1, s[:, 1]))
        drawn["accuracy"].append(np.mean(t == predicted[chosen]))
        drawn["macro_f1"].append(oracle.f1_score(t, predicted[chosen], average="macro"))
    found = evaluate(true, predicted, CLASSES, patients=patients, probabilities=scores)
    apart = evaluate(true, predicted, CLASSES, probabilities=scores)
    for name, values in drawn.items():
        ours, by_xray = found.intervals[name], apart.intervals[name]
        if name in ("auroc", "average_precision"):
            ours, by_xray = ours[1], by_xray[1]
        assert ours == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.02), name
        assert by_xray[1] - by_xray[0] < 0.85 * (ours[1] - ours[0])


def test_the_same_seed_gives_the_same_intervals_and_the_order_of_xrays_makes_no_difference():
    true, scores = xrays(50)
    first = rank(true, scores, range(50), 300, 5)
    assert rank(true, scores, range(50), 300, 5) == first
    assert rank(true, scores, range(50), 300, 6).intervals != first.intervals
    turned = rank(true[::-1], scores[::-1], range(50)[::-1], 300, 5)
    assert turned == first


def test_patients_come_with_all_their_xrays_and_as_many_as_there_are():
    patients = ["a", "b", "a", "c", "c", "c"]
    blocks = list(draws(patients, 500, 0))
    times = np.concatenate(blocks)
    assert times.shape == (500, 6)
    assert (times[:, 0] == times[:, 2]).all() and (times[:, 3] == times[:, 5]).all()
    assert (times[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_many_xrays_are_resampled_in_blocks_and_less_often():
    blocks = list(draws(np.arange(60_000), 2000, 0))
    assert len(blocks) > 1 and sum(map(len, blocks)) == 200


@pytest.mark.parametrize(
    ("scores", "patients"), [([[0.5, 0.5]], [1, 2]), ([0.5, 0.5], [1, 2]), (np.eye(2), [1])]
)
def test_anything_but_a_row_and_a_patient_for_each_xray_is_a_usage_error(scores, patients):
    with pytest.raises(UsageError, match=r"as many X-rays|of each X-ray"):
        evaluate([0, 1], [0, 1], 2, probabilities=scores, patients=patients)
