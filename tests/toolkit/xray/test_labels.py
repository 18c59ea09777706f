import pytest

from toolkit.errors import UsageError
from toolkit.xray.labels import label_map


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


def test_a_map_that_does_not_exist_is_refused_with_the_ones_that_do():
    with pytest.raises(UsageError, match=r"'six'.*study, five, merge01"):
        label_map("six")
