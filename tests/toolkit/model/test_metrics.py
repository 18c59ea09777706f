import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError, UsageError
from toolkit.model.metrics import as_dict, confusion_matrix, evaluate

CLASSES = 4
labels = st.integers(0, CLASSES - 1)
pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=60)


def xrays(n, seed=0, classes=CLASSES, right=0.6):
    random = np.random.default_rng(seed)
    true = random.choice(classes, n, p=np.arange(classes, 0, -1) / sum(range(classes + 1)))
    guess = random.integers(0, classes, n)
    return true, np.where(random.random(n) < right, true, guess)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_figures_match_scikit_learn_wherever_they_are_defined(oracle, cases):
    true, predicted = map(list, zip(*cases, strict=True))
    result = evaluate(true, predicted, CLASSES, resamples=5)
    every = list(range(CLASSES))
    matrix = oracle.confusion_matrix(true, predicted, labels=every)
    recall = oracle.recall_score(
        true, predicted, labels=every, average=None, zero_division=float("nan")
    )
    precision = oracle.precision_score(
        true, predicted, labels=every, average=None, zero_division=float("nan")
    )
    assert np.array_equal(result.confusion_matrix, matrix)
    assert result.n == len(cases)
    assert result.accuracy == pytest.approx(oracle.accuracy_score(true, predicted))
    # scikit-learn's balanced_accuracy_score warns of predicted classes without X-rays
    assert result.balanced_accuracy == pytest.approx(np.nanmean(recall))
    # scikit-learn gives recall 0, not NaN, to a class that is neither true nor predicted
    for ours, theirs, count in zip(result.recall, recall, matrix.sum(1), strict=True):
        assert (ours is None) == (count == 0)
        assert ours is None or ours == pytest.approx(theirs)
    for ours, theirs, count in zip(result.precision, precision, matrix.sum(0), strict=True):
        assert (ours is None) == (count == 0)
        assert ours is None or ours == pytest.approx(theirs)
    f1 = oracle.f1_score(true, predicted, labels=every, average="macro", zero_division=float("nan"))
    assert result.macro_f1 == pytest.approx(f1)
    if len({*true, *predicted}) == 1:
        assert result.quadratic_weighted_kappa is None
    else:
        expected = oracle.cohen_kappa_score(true, predicted, weights="quadratic", labels=every)
        assert result.quadratic_weighted_kappa == pytest.approx(expected)


def test_balanced_accuracy_is_scikit_learns_on_a_full_set(oracle):
    true, predicted = xrays(500)
    result = evaluate(true, predicted, CLASSES)
    assert result.balanced_accuracy == pytest.approx(
        oracle.balanced_accuracy_score(true, predicted)
    )


def test_rows_are_the_true_class():
    assert confusion_matrix([0, 0, 1], [1, 1, 2], 3).tolist() == [[0, 2, 0], [0, 0, 1], [0, 0, 0]]
    assert confusion_matrix([0], [0], 3).dtype == np.int64


def test_small_label_types_do_not_overflow():
    true = np.full(300, 99, np.uint8)
    assert confusion_matrix(true, true, 100)[99, 99] == 300


def test_an_absent_class_is_null_and_left_out_of_the_balanced_accuracy():
    result = evaluate([0, 0, 2, 2], [0, 2, 2, 2], 4)
    assert result.recall == (0.5, None, 1.0, None)
    assert result.precision == (1.0, None, pytest.approx(2 / 3), None)
    assert result.balanced_accuracy == 0.75
    assert result.intervals["recall"][1] is None
    assert result.intervals["recall"][0] is not None


@pytest.mark.parametrize("positive", [0, 1])
def test_of_two_classes_sensitivity_is_the_recall_of_the_one_that_is_sought(oracle, positive):
    true, predicted = xrays(80, classes=2)
    found = evaluate(true, predicted, 2, positive_class=positive)
    assert found.sensitivity == oracle.recall_score(true, predicted, pos_label=positive)
    assert found.specificity == oracle.recall_score(true, predicted, pos_label=1 - positive)
    assert found.intervals["sensitivity"] == found.intervals["recall"][positive]
    assert found.intervals["specificity"] == found.intervals["recall"][1 - positive]
    of_more = evaluate(true, predicted, 3, positive_class=positive)
    assert of_more.sensitivity is of_more.specificity is of_more.positive_class is None


def test_kappa_is_null_where_only_one_class_occurs():
    result = evaluate([3, 3], [3, 3], 4)
    assert result.quadratic_weighted_kappa is None
    assert result.intervals["quadratic_weighted_kappa"] is None
    assert (result.accuracy, result.balanced_accuracy) == (1.0, 1.0)
    assert result.intervals["accuracy"] == (1.0, 1.0)


def test_one_class_of_one_can_be_evaluated():
    assert evaluate([0, 0], [0, 0], 1).accuracy == 1.0


def test_intervals_match_a_bootstrap_that_draws_xrays_one_by_one(oracle):
    true, predicted = xrays(250, seed=3)
    random = np.random.default_rng(1)
    drawn = {"accuracy": [], "balanced_accuracy": [], "quadratic_weighted_kappa": []}
    recall = []
    for _ in range(600):
        chosen = random.integers(0, len(true), len(true))
        t, p = true[chosen], predicted[chosen]
        hits = [np.mean(p[t == c] == c) for c in range(CLASSES)]
        drawn["accuracy"].append(np.mean(t == p))
        drawn["balanced_accuracy"].append(np.mean(hits))
        drawn["quadratic_weighted_kappa"].append(
            oracle.cohen_kappa_score(t, p, weights="quadratic")
        )
        recall.append(hits)
    intervals = evaluate(true, predicted, CLASSES, resamples=20_000).intervals
    for name, values in drawn.items():
        assert intervals[name] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.015)
    bounds = np.percentile(recall, [2.5, 97.5], axis=0).T
    for ours, theirs in zip(intervals["recall"], bounds, strict=True):
        assert ours == pytest.approx(theirs, abs=0.03)


def test_accuracy_interval_covers_the_truth_about_95_times_in_100():
    covered = 0
    for seed in range(300):
        true, predicted = xrays(200, seed=seed, right=0.7)
        low, high = evaluate(true, predicted, CLASSES, 500, seed).intervals["accuracy"]
        covered += low <= 0.7 + 0.3 / CLASSES <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_resamples_without_a_class_are_left_out_of_its_recall():
    result = evaluate([0] * 50 + [1], [0] * 50 + [1], 2)
    assert result.intervals["recall"] == ((1.0, 1.0), (1.0, 1.0))
    assert result.intervals["quadratic_weighted_kappa"] == (1.0, 1.0)


def test_a_rare_class_is_missing_from_some_resamples_and_every_bound_is_finite():
    result = evaluate([0] * 30 + [1, 1], [0] * 29 + [1, 0, 1], 2)
    low, high = result.intervals["recall"][1]
    assert 0 <= low <= 0.5 <= high <= 1
    assert all(math.isfinite(x) for x in result.intervals["quadratic_weighted_kappa"])


def test_the_same_seed_gives_the_same_intervals():
    true, predicted = xrays(100)
    first = evaluate(true, predicted, CLASSES, seed=5)
    assert evaluate(true, predicted, CLASSES, seed=5) == first
    assert evaluate(true, predicted, CLASSES, seed=6).intervals != first.intervals


def test_as_dict_is_what_json_gives_back():
    plain = as_dict(evaluate([0, 0, 2], [0, 2, 2], 4))
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(plain) == [
        "n",
        "accuracy",
        "balanced_accuracy",
        "quadratic_weighted_kappa",
        "recall",
        "precision",
        "confusion_matrix",
        "macro_f1",
        "positive_class",
        "sensitivity",
        "specificity",
        "auroc",
        "average_precision",
        "intervals",
    ]
    assert list(plain["intervals"]) == [
        "accuracy",
        "balanced_accuracy",
        "quadratic_weighted_kappa",
        "macro_f1",
        "recall",
        "sensitivity",
        "specificity",
    ]
    assert len(plain["intervals"]["recall"]) == 4


@pytest.mark.parametrize("nothing", [[], np.empty(0, np.int64)])
def test_nothing_to_evaluate_is_a_data_error(nothing):
    with pytest.raises(DataError, match="no X-rays"):
        evaluate(nothing, nothing, 4)


@pytest.mark.parametrize(
    ("true", "predicted"),
    [
        ([0, 4], [0, 1]),
        ([0, 1], [0, 4]),
        ([-1, 0], [0, 0]),
        ([0, 0], [-1, 0]),
        ([0, 1], [0]),
        ([0, 1], []),
        ([[0, 1]], [[0, 1]]),
        (0, 0),
        ([0.0, 1.0], [0, 1]),
        (["0"], ["0"]),
        ([0, 1], [True, False]),
    ],
)
def test_anything_but_classes_is_a_usage_error(true, predicted):
    with pytest.raises(UsageError):
        evaluate(true, predicted, 4)


def test_resamples_below_one_are_a_usage_error():
    with pytest.raises(UsageError, match="resamples"):
        evaluate([0], [0], 2, resamples=0)
