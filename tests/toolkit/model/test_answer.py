import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from toolkit.model import manifest
from toolkit.model.answer import Meaning, OperatingPoint, meaning_of
from toolkit.model.artifacts import graph_words
from toolkit.xray.labels import LabelMap

SHIPPED = Path(__file__).resolve().parents[3] / "saved_models/model_saved.json"
CLASSES = ("none", "minimal", "moderate", "severe")
GRADES = ((0,), (2,), (3,), (4,))


def row(*values):
    return np.array(values, np.float32)


def test_the_expected_grade_is_on_the_kellgren_lawrence_scale():
    meaning = Meaning(CLASSES, GRADES)
    assert meaning.answer(row(1, 0, 0, 0)).expected_grade == 0
    assert meaning.answer(row(0, 1, 0, 0)).expected_grade == 2
    assert meaning.answer(row(0, 0, 0, 1)).expected_grade == 4
    assert meaning.answer(row(0.5, 0, 0.25, 0.25)).expected_grade == pytest.approx(1.75)


def test_a_class_of_two_grades_stands_for_their_mean():
    meaning = Meaning(("early", "late"), ((0, 1), (3, 4)))
    assert meaning.answer(row(0.5, 0.5)).expected_grade == pytest.approx(2.0)


def test_the_expected_grade_is_on_the_scale_of_the_models_own_grades():
    meaning = Meaning(("low", "high"), ((1,), (2.5,)), scale="BI-RADS")
    assert meaning.answer(row(0.5, 0.5)).expected_grade == pytest.approx(1.75)


@pytest.mark.parametrize(
    ("labels", "grades"),
    [
        (LabelMap("own.toml", ("a", "b"), ((1,), (3,)), (("a",), ("b",)), True, "S"), ((1,), (3,))),
        (LabelMap("own.toml", ("a", "b"), ((1,), (3,)), (("a",), ("b",)), False, "S"), ()),
        (LabelMap("own.toml", ("a", "b"), (), (("a",), ("b",)), True, ""), ()),
        (LabelMap("own.toml", ("a", "b"), ((0,), (4,)), ordinal=False), ()),
    ],
    ids=["graded", "in no order", "without grades", "Kellgren-Lawrence in no order"],
)
def test_a_model_has_an_expected_grade_where_classes_are_grades_in_order(labels, grades):
    record = replace(manifest.load(SHIPPED), labels=labels, calibration=None, scope=None)
    meaning = meaning_of(record)
    assert meaning.grades == grades
    said = msgspec.to_builtins(meaning.answer(row(0.25, 0.75)))
    assert said.get("expected_grade") == (2.5 if grades else None)
    assert ("expected_grade" in said) == bool(grades)
    words = graph_words(record)
    assert json.loads(words["grades"]) == [list(each) for each in grades]
    assert words.get("scale") == ("S" if grades else None)


def test_it_abstains_below_the_threshold_and_not_on_it():
    meaning = Meaning(CLASSES, GRADES, abstain_below=0.5)
    assert meaning.answer(row(0.49, 0.25, 0.13, 0.13)).abstain is True
    assert meaning.answer(row(0.5, 0.25, 0.125, 0.125)).abstain is False


def test_an_xray_is_in_scope_up_to_the_limit():
    meaning = Meaning(CLASSES, GRADES, novelty_limit=1.5)
    assert meaning.answer(row(1, 0, 0, 0), 1.5).in_scope is True
    assert meaning.answer(row(1, 0, 0, 0), 1.51).in_scope is False
    assert meaning.answer(row(1, 0, 0, 0), float("nan")).in_scope is False
    assert meaning.answer(row(1, 0, 0, 0)).in_scope is None


@pytest.mark.parametrize("positive", ["sound", "worn"])
def test_the_operating_point_decides_from_its_threshold_on_whatever_is_more_probable(positive):
    point = OperatingPoint(positive, 0.3, 0.9, 0.8)
    meaning = Meaning(("sound", "worn"), operating_point=point)
    (other,) = {"sound", "worn"} - {positive}

    def decided(share):
        shares = (share, 1 - share) if positive == "sound" else (1 - share, share)
        # As precise as they are answered: no float32 of 0.3 would be 0.3.
        answer = meaning.answer(np.array(shares))
        assert answer.label == (positive if share > 0.5 else other)
        return answer.decision

    found = [decided(share) for share in (0.0, 0.2999, 0.3, 0.49, 0.51, 1.0)]
    assert found == [other, other, positive, positive, positive, positive]


def test_what_is_not_known_is_not_said():
    answer = Meaning(CLASSES).answer(row(0.1, 0.2, 0.3, 0.4))
    assert set(msgspec.to_builtins(answer)) == {"class", "label", "probabilities"}
    assert (answer.class_index, answer.label) == (3, "severe")
