"""What `toolkit train --teachers` comes to."""

import json

import pytest
from command_line import refused, run

TINY = ("--layer-size", 1, "--epochs", 1, "--batch-size", 64)


@pytest.fixture
def knees(png_folder):
    """X-rays of grades 0, 2, 3 and 4 in both parts, and two of grade 1."""
    parts = [f"{part}/{grade}" for part in ("train", "val") for grade in (0, 2, 3, 4)]
    graded = [f"{part}/90000{index}{side}" for index, part in enumerate(parts) for side in "LR"]
    return png_folder(*graded, "train/1/900080L", "train/1/900081R")


@pytest.mark.full
def test_a_student_learns_from_models_by_name_and_its_manifest_names_them(knees, tmp_path):
    models, logs = tmp_path / "models", tmp_path / "logs"
    begin = ("train", "--data", knees, *TINY, "--models", models, "--logs", logs)
    for seed, name in enumerate(("one", "two")):
        run(*begin, "--name", name, "--seed", seed)
    found = run(*begin, "--name", "student", "--teachers", "one, two")
    assert not any("may flatter" in line for line in found["warnings"])
    taught = json.loads((models / "student.json").read_text())["training"]["distillation"]
    for name in ("one", "two"):
        record = json.loads((models / f"{name}.json").read_text())["training"]
        assert taught["teachers"][name] == record["checkpoint_sha256"]
        assert "distillation" not in record
    assert (taught["views"], taught["unlabelled"]) == (20, 2)
    # A model may learn from the one whose name it takes.
    again = run(*begin, "--name", "one", "--teachers", "one", "--split", "study")
    assert any("the teacher one was not trained on these" in line for line in again["warnings"])


def test_a_teacher_that_is_not_there_is_told_before_anything_is_written(knees, tmp_path):
    models, logs = tmp_path / "models", tmp_path / "logs"
    message = refused(
        *("train", "--data", knees, *TINY, "--models", models, "--logs", logs),
        *("--name", "student", "--teachers", "one"),
    )
    assert "one.json" in message
    assert not [*models.glob("student*")]
