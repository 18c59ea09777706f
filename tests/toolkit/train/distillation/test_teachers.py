"""Models that can teach, and those that are refused."""

from dataclasses import replace

import pytest
import torch

from toolkit.errors import ManifestError, UsageError
from toolkit.train.distillation.teachers import doubts, load_teachers
from toolkit.xray.labels import label_map

CPU = torch.device("cpu")


def test_teachers_are_loaded_in_their_order(tiny, teachers_folder):
    found = load_teachers("second, first", teachers_folder, tiny, CPU)
    assert [teacher.name for teacher in found] == ["second", "first"]
    assert found[0].checkpoint_sha256 != found[1].checkpoint_sha256
    assert not any(teacher.classifier.training for teacher in found)
    assert load_teachers(None, teachers_folder, tiny, CPU) == []


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ("first,first", UsageError, "names a model twice"),
        ("first, first", UsageError, "names a model twice"),
        ("first,", UsageError, "cannot name a model"),
        ("", UsageError, "cannot name a model"),
        ("../first", UsageError, "cannot name a model"),
        ("first,third", ManifestError, "third"),
    ],
)
def test_what_names_no_teachers_is_refused(tiny, teachers_folder, names, error, words):
    with pytest.raises(error, match=words):
        load_teachers(names, teachers_folder, tiny, CPU)


def test_a_teacher_of_other_classes_is_refused(tiny, teachers_folder):
    five = replace(tiny, label_map=label_map("five"))
    with pytest.raises(UsageError, match="the teacher first has the classes none, minimal"):
        load_teachers("first", teachers_folder, five, CPU)


def test_a_teacher_of_other_xrays_is_refused(tiny, teachers_folder):
    smaller = replace(tiny, pixels=tiny.pixels[:, :64, :64])
    with pytest.raises(
        UsageError, match=r"takes X-rays of \(224, 224\), the network of \(64, 64\)"
    ):
        load_teachers("first", teachers_folder, smaller, CPU)


def test_a_teacher_that_may_know_the_validation_part_is_doubted(tiny, teachers_folder):
    taught = load_teachers("first,second", teachers_folder, tiny, CPU)
    assert doubts(taught, tiny) == []
    train, val = tiny.parts["train"], tiny.parts["val"]
    moved = replace(tiny, parts={"train": train[1:], "val": torch.cat([val, train[:1]])})
    assert len(doubts(taught, moved)) == 2
    assert all("may flatter" in line for line in doubts(taught, moved))
    unknown = [replace(taught[0], train_sha256=None), taught[1]]
    assert [line.split()[2] for line in doubts(unknown, tiny)] == ["first"]
