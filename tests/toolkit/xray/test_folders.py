import os

import numpy as np
import pytest

from toolkit.errors import DataError, ImageError
from toolkit.xray.folders import crossing_patients, patient_of, patient_part, read_files, scan


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("9003175L", "9003175"),
        ("9003175R", "9003175"),
        ("a-b_R", "a-b_"),
        ("9003175", "9003175"),
        ("L", "L"),
        ("9003175l", "9003175l"),
        ("LR", "L"),
    ],
)
def test_both_knees_are_of_one_patient(name, patient):
    assert patient_of(name) == patient


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
    assert [file.patient for file in scan(folder)] == ["10", "9", "1", "3", "2"]


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


def test_files_come_decoded_in_order_and_refusals_say_why(png_folder):
    folder = png_folder(*(f"0/{index:03}L" for index in range(300)))
    (folder / "0" / "007L.png").write_bytes(b"not a picture")
    os.symlink(folder / "gone.png", folder / "0" / "300L.png")
    results = list(read_files(scan(folder)))
    assert [file.name for file, _ in results] == [f"{index:03}L" for index in range(301)]
    refused = {file.name: result for file, result in results if isinstance(result, ImageError)}
    assert sorted(refused) == ["007L", "300L"]
    for index in (0, 255, 256, 299):
        expected = np.random.default_rng([index]).integers(0, 256, (224, 224), np.uint8)
        np.testing.assert_array_equal(results[index][1], expected)


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
    parts = {"train": ["a", "a", "b"], "val": ["c"], "test": ["b", "d", "c"]}
    assert crossing_patients(parts) == {"b", "c"}
    assert crossing_patients({"train": ["a", "a"], "test": []}) == set()
