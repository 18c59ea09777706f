"""The operating point is the best threshold, by trying them all; what cannot be is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError, UsageError
from toolkit.train.operating_point import Target, choose, parse_target

CLASSES = ("sound", "worn")
OTHER = {"sensitivity": "specificity", "specificity": "sensitivity"}


def of_two(scores):
    scores = np.asarray(scores, float)
    return np.stack([1 - scores, scores], axis=1)


def reached(scores, labels, threshold, sought=1):
    decided = scores[:, sought] >= threshold
    return {
        "sensitivity": decided[labels == sought].mean(),
        "specificity": (~decided)[labels != sought].mean(),
    }


@given(st.data(), st.sampled_from([*OTHER]), st.sampled_from(CLASSES))
@settings(max_examples=150, deadline=None)
def test_it_reaches_the_target_at_the_least_cost_of_all_thresholds(data, figure, positive):
    size = data.draw(st.integers(2, 30))
    # In hundredths, so that there are ties.
    scores = of_two(
        [
            each / 100
            for each in data.draw(st.lists(st.integers(0, 100), min_size=size, max_size=size))
        ]
    )
    labels = np.array(
        [0, 1, *data.draw(st.lists(st.integers(0, 1), min_size=size - 2, max_size=size - 2))]
    )
    value, sought = data.draw(st.sampled_from([0.5, 0.8, 0.95, 1.0])), CLASSES.index(positive)
    target = Target(figure, value, positive)
    levels = np.unique(scores[:, sought])
    tried = [
        reached(scores, labels, threshold, sought) for threshold in (levels[:-1] + levels[1:]) / 2
    ]
    good = [each for each in tried if each[figure] >= value and each[OTHER[figure]] > 0]
    if not good:
        with pytest.raises(DataError, match=r"is beyond the part 'val'.*ask for less"):
            choose(scores, labels, target, CLASSES, "val")
        return
    found = choose(scores, labels, target, CLASSES, "val")
    assert (found.part, found.positive, found.figure, found.target) == (
        "val", positive, figure, value,
    )  # fmt: skip
    said = {"sensitivity": found.sensitivity, "specificity": found.specificity}
    assert said == pytest.approx(reached(scores, labels, found.threshold, sought))
    best = max(good, key=lambda each: (each[OTHER[figure]], each[figure]))
    assert said == pytest.approx(best)
    assert found.positives == (labels == sought).sum()
    assert found.negatives == (labels != sought).sum()
    # A proven file may be off by 1e-5.
    for off in (-1e-5, 1e-5):
        assert reached(scores + off, labels, found.threshold, sought) == reached(
            scores, labels, found.threshold, sought
        )


def test_xrays_closer_than_the_proof_allows_are_decided_together():
    scores = of_two([0.2, 0.50000, 0.50001, 0.9])
    labels = np.array([0, 0, 1, 1])
    found = choose(scores, labels, Target("sensitivity", 1.0, "worn"), CLASSES, "val")
    assert 0.2 < found.threshold < 0.5
    assert (found.sensitivity, found.specificity) == (1.0, 0.5)


@pytest.mark.parametrize(("label", "lacking"), [(0, "worn"), (1, "sound")])
def test_a_part_of_one_class_is_refused_with_what_it_lacks(label, lacking):
    target = Target("sensitivity", 0.5, "worn")
    with pytest.raises(DataError, match=f"'val': it has no X-ray of '{lacking}'"):
        choose(of_two([0.1, 0.9]), np.array([label, label]), target, CLASSES, "val")


def test_a_probability_that_is_no_number_is_refused():
    target = Target("sensitivity", 0.5, "worn")
    with pytest.raises(DataError, match="not finite"):
        choose(of_two([np.nan, 0.9]), np.array([0, 1]), target, CLASSES, "val")


@pytest.mark.parametrize(
    ("text", "positive", "expected"),
    [
        ("sensitivity=0.95", None, Target("sensitivity", 0.95, "worn")),
        ("specificity = 1", "sound", Target("specificity", 1.0, "sound")),
    ],
)
def test_a_target_is_a_figure_and_a_share_of_the_last_class_or_the_one_that_is_named(
    text, positive, expected
):
    assert parse_target(text, positive, CLASSES) == expected


@pytest.mark.parametrize(
    "text",
    ["", "0.95", "sensitivity", "sensitivity=", "sensitivity=x", "recall=0.9", "sensitivity=0",
     "sensitivity=1.01", "sensitivity=-1", "sensitivity=nan", "specificity=inf", "=0.9"],
)  # fmt: skip
def test_malformed_targets_are_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"is no operating point: .*sensitivity=0.95"):
        parse_target(text, None, CLASSES)


@pytest.mark.parametrize("classes", [("one",), ("a", "b", "c")])
def test_an_operating_point_is_of_two_classes(classes):
    with pytest.raises(UsageError, match=f"of two classes, and these are {len(classes)}"):
        parse_target("sensitivity=0.95", None, classes)


def test_a_class_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UsageError, match="no class is called 'torn': --positive is 'sound' or"):
        parse_target("sensitivity=0.95", "torn", CLASSES)
