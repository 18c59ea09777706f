import os

import pytest

from toolkit.errors import DataError, numbered
from toolkit.xray.folders import (
    class_of,
    crossing_patients,
    folder_labels,
    left_out_lines,
    patient_part,
    scan,
)


def test_files_come_by_part_then_grade_then_name(png_folder):
    folder = png_folder("test/0/2L", "train/4/1R", "train/0/9L", "train/0/10L", "val/2/3L")
    found = [(file.part, file.grade, file.name) for file in scan(folder)]
    assert found == [
        ("train", 0, "10L"),
        ("train", 0, "9L"),
        ("train", 4, "1R"),
        ("val", 2, "3L"),
        ("test", 0, "2L"),
    ]


def test_a_flat_folder_has_no_parts(png_folder):
    found = [(file.part, file.grade) for file in scan(png_folder("0/1L", "3/2L"))]
    assert found == [(None, 0), (None, 3)]


def test_hidden_files_are_left_out(png_folder):
    folder = png_folder("0/1L", "0/.hidden")
    assert [file.name for file in scan(folder)] == ["1L"]


def test_a_folder_that_is_missing_or_holds_no_grades_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        scan(tmp_path / "nowhere")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="no X-rays in"):
        scan(tmp_path)


def test_a_patients_part_hangs_on_nothing_but_name_and_seed():
    # printf 0/9000100 | sha256sum: the first bytes are 73, 202 and 215 of 256.
    parts = [patient_part(patient) for patient in ("9000100", "9000101", "9000110")]
    assert parts == ["train", "val", "test"]


def test_patients_are_divided_seven_to_one_to_two():
    parts = [patient_part(str(9_000_000 + index)) for index in range(10_000)]
    shares = [parts.count(part) / len(parts) for part in ("train", "val", "test")]
    # Four standard deviations of a binomial share.
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.019)


def test_another_seed_is_another_division():
    patients = [str(9_000_000 + index) for index in range(1000)]
    first, second = ([patient_part(p, seed) for p in patients] for seed in (0, 1))
    moved = sum(a != b for a, b in zip(first, second, strict=True)) / 1000
    assert moved == pytest.approx(1 - (0.49 + 0.01 + 0.04), abs=0.07)


def test_patients_in_more_than_one_part_are_found():
    assert crossing_patients("ttttvvv", "aabcccd") == {"c"}
    assert crossing_patients(["train", "train"], ["a", "a"]) == set()


SPELLINGS = {
    "train": ["training", "Train", "TRAINING", "train_set", "Trainset", "training data"],
    "val": ["valid", "validation", "Val", "dev", "validation-set", "val "],
    "test": ["testing", "Test", "test_data"],
}


@pytest.mark.parametrize(("part", "spelling"), [(p, s) for p in SPELLINGS for s in SPELLINGS[p]])
def test_other_spellings_of_parts_are_taken(png_folder, part, spelling):
    folder = png_folder(f"{spelling}/0/1L")
    assert [(file.part, file.grade, file.name) for file in scan(folder)] == [(part, 0, "1L")]
    assert left_out_lines(folder) == []


GRADES = {
    0: ["0.0", "00", "KL0", "0Normal", "none", "Healthy", "grade 0", "normal_0"],
    1: ["1.0", "KL-1", "1Doubtful", "doubtful", "KLG1", "klg_1"],
    2: ["2.0", "kl_2", "grade_2", "2Mild", "Minimal", "2_minimal", "KL grade 2", "2 (minimal)"],
    3: ["3.00", "Grade3", "3Moderate", "moderate"],
    4: ["4.0", "04", "Kellgren-Lawrence 4", "4Severe", "Severe"],
}


@pytest.mark.parametrize(("grade", "spelling"), [(g, s) for g in GRADES for s in GRADES[g]])
def test_other_spellings_of_grades_are_taken(png_folder, grade, spelling):
    folder = png_folder(f"train/{spelling}/1L", f"train/{grade}/2L")
    assert [(file.grade, file.name) for file in scan(folder)] == [(grade, "1L"), (grade, "2L")]
    assert left_out_lines(folder) == []


NOT_UNDERSTOOD = [
    "5",
    "-1",
    "0.5",
    "10",
    "1.2",
    "2Severe",
    "severe_2",
    "severe normal",
    "unknown",
    "kl",
    "class_3",
    "04x",
    "2019",
]


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_a_folder_that_is_not_understood_is_named_with_its_count(png_folder, name):
    folder = png_folder("train/0/1L", f"train/{name}/2L", f"train/{name}/deeper/3L", "val/0/1R")
    assert [file.name for file in scan(folder)] == ["1L", "1R"]
    (line,) = left_out_lines(folder)
    assert f"train/{name}," in line and "2 files" in line


def test_parts_and_loose_files_that_are_not_understood_are_named_as_well(png_folder):
    folder = png_folder("train/0/1L", "auto_test/0/2L", "2/3L", "4L", "train/5L", "train/6L")
    (folder / "names.csv").write_text("not an X-ray")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "7L.png").write_bytes(b"")
    said = left_out_lines(folder)
    assert [file.name for file in scan(folder)] == ["1L"]
    assert len(said) == 4
    for where, count in (("auto_test", 1), ("2", 1), ("train", 2), (".", 1)):
        assert any(f" {where}" in line and numbered(count, "file") in line for line in said), where


def test_a_folder_of_nothing_that_is_understood_says_what_is_there(png_folder):
    with pytest.raises(DataError, match=r"no X-rays in .*images.*2 files"):
        scan(png_folder("images/0/1L", "images/2/2L"))


def test_two_spellings_of_a_part_or_grade_are_one(png_folder):
    folder = png_folder("val/0/1L", "valid/0.0/2L", "val/0.0/3L", "train/0/4L")
    assert [(f.part, f.name) for f in scan(folder)] == [
        ("train", "4L"),
        ("val", "1L"),
        ("val", "2L"),
        ("val", "3L"),
    ]


def test_links_to_folders_are_followed_once_and_pipes_are_no_files(png_folder):
    folder = png_folder("0/1L", "elsewhere/2L")
    (folder / "0" / "anna").symlink_to(folder / "elsewhere")
    (folder / "0" / "anna" / "round").symlink_to(folder / "0")
    os.mkfifo(folder / "0" / "pipe.png")
    assert sorted(file.name for file in scan(folder)) == ["1L", "anna/2L"]


def test_folders_of_any_names_are_classes_in_the_order_that_people_count_in(png_folder):
    folder = png_folder("train/10/a", "train/9/b", "val/10/c", "val/benign/d", "loose/e")
    labels = folder_labels(folder)
    assert (labels.classes, labels.grades) == (("9", "10", "benign"), ())
    found = [(each.part, each.label, each.name) for each in scan(folder, labels)]
    assert found == [
        ("train", "9", "b"),
        ("train", "10", "a"),
        ("val", "10", "c"),
        ("val", "benign", "d"),
    ]
    assert [class_of(each, labels) for each in scan(folder, labels)] == [0, 1, 1, 2]
    assert left_out_lines(folder, labels) == ["left out: loose, not a part or class: 1 file"]


def test_one_folder_is_no_classes(png_folder):
    with pytest.raises(DataError, match="has 1 folder of classes"):
        folder_labels(png_folder("only/a"))
