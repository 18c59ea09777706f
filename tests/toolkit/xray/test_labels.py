import itertools

import pytest

from toolkit.errors import DataError, UsageError
from toolkit.xray.labels import checked_label, in_counting_order, label_map


@pytest.mark.parametrize(
    ("name", "class_of_grade", "classes"),
    [
        ("study", [0, None, 1, 2, 3], 4),
        ("five", [0, 1, 2, 3, 4], 5),
        ("merge01", [0, 0, 1, 2, 3], 4),
    ],
)
def test_each_grade_has_the_class_that_the_map_promises(name, class_of_grade, classes):
    labels = label_map(name)
    assert [labels.class_of(grade) for grade in range(5)] == class_of_grade
    assert len(labels.classes) == len(labels.grades) == classes
    assert labels.name == name


def test_the_study_calls_its_classes_none_minimal_moderate_severe():
    assert label_map("study").classes == ("none", "minimal", "moderate", "severe")


@pytest.mark.parametrize(
    "names",
    [("9", "10", "benign"), ("01", "1", "2"), ("a2b", "a10b"), ("x²", "x³"), ("3", "٣", "4")],
)
def test_names_are_in_the_order_in_which_people_count(names):
    for given in itertools.permutations(names):
        assert in_counting_order(given) == names


@pytest.mark.parametrize("text", ["é", "日本", "a\u200db", "\U0001f9b4", "x" * 100, "a|b", "<b>"])
def test_a_label_may_be_any_line_of_text(text):
    assert checked_label(f" {text} ", "here") == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "x" * 101, "\udcff", "a\x00", "a\x1b[2J", "a\nb", "a\u2028b", "\x85a\x85b"],
)
def test_a_label_that_is_no_line_of_text_is_refused_by_its_place(text):
    with pytest.raises(DataError, match=r"^file, line 3: .*label") as caught:
        checked_label(text, "file, line 3")
    assert str(caught.value).isprintable()


def test_a_map_that_does_not_exist_is_refused_with_the_ones_that_do():
    with pytest.raises(UsageError, match=r"'six'.*study, five, merge01"):
        label_map("six")
