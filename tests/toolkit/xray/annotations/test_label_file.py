"""Classes from a TOML file: what it means, and what is said of one that cannot be meant."""

from pathlib import Path

import pytest

from toolkit.errors import DataError
from toolkit.xray.annotations.label_file import read_label_file
from toolkit.xray.folders import class_of, left_out_lines, scan
from toolkit.xray.labels import LabelMap

A, B = '[[classes]]\nname = "a"\n', '[[classes]]\nname = "b"\n'


@pytest.fixture
def labels_of(tmp_path):
    """Return a function: the file of labels of a text, or of bytes."""

    def read(text):
        path = tmp_path / "own.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_label_file(path)

    return read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (A + B, LabelMap("own.toml", ("a", "b"), (), (("a",), ("b",)), False, "")),
        (
            f'\ufeffordinal = true\r\nscale = "BI-RADS"\r\n{A}grade = 1\r\nfolders = ["x", "y"]\r\n'
            f"{B}grade = 2.5\r\n",
            LabelMap("own.toml", ("a", "b"), ((1,), (2.5,)), (("x", "y"), ("b",)), True, "BI-RADS"),
        ),
        (
            f"ordinal = true\n{A}grades = [0, 1]\n{B}grades = [2]\n",
            LabelMap("own.toml", ("a", "b"), ((0, 1), (2,))),
        ),
    ],
    ids=["folders", "scale", "Kellgren-Lawrence"],
)
def test_classes_are_those_of_the_file_in_its_order(labels_of, text, expected):
    found = labels_of(text).labels
    assert found == expected
    assert found.graded == expected.ordinal


def test_there_is_a_scale_only_where_classes_are_in_order_and_have_grades(labels_of):
    graded = [f"{A}grade = 1\n{B}grade = 2\n", A + B]
    found = [
        labels_of(first + text).labels.scale_grades
        for text in graded
        for first in ("ordinal = true\n", "")
    ]
    assert found == [((1,), (2,)), (), (), ()]


def test_several_folders_make_one_class_and_those_not_named_are_counted(labels_of, png_folder):
    folder = png_folder("train/x/1", "train/y/2", "val/b/3", "val/z/4")
    file = labels_of(f'{A}folders = ["y", "x"]\n{B}')
    file.require_folders(folder)
    files = scan(folder, file.labels)
    assert [(each.name, class_of(each, file.labels)) for each in files] == [
        ("1", 0),
        ("2", 0),
        ("3", 1),
    ]
    (line,) = left_out_lines(folder, file.labels)
    assert "val/z, not a part or class: 1 file" in line


FAULTS = {
    "class twice": (A + A, 4, "the class 'a' is there twice"),
    "folder in two classes": (f'{A}folders = ["b"]\n{B}', 4, "the folder 'b' is there twice"),
    "folder twice": (f'{A}folders = ["x", "x"]\n{B}', 3, "the folder 'x' is there twice"),
    "one class": (A, 1, "length >= 2"),
    "nothing": ("", 1, "missing required field `classes`"),
    "no name": (f"{A}[[classes]]\ngrade = 1\n", 3, "missing required field `name`"),
    "unknown key": (f"{A}{B}colour = 1\n", 5, "unknown field `colour`"),
    "unknown key of the file": (f"order = true\n{A}{B}", 1, "unknown field `order`"),
    "no text": (f"{A}{B}[[classes]]\nname = 3\n", 6, "Expected `str`, got `int`"),
    "half of the grades": (f"{A}grade = 1\n{B}", 4, "all classes have a grade"),
    "more than a number can be": (
        f"{A}grade = 1\n{B}grade = {10**400}\n",
        6,
        "all classes have a grade",
    ),
    "no number": (f"{A}grade = nan\n{B}grade = 1\n", 3, "all classes have a grade"),
    "wrong order": (f"ordinal = true\n{A}grade = 2\n{B}grade = 1\n", 7, "not above"),
    "equal grades": (f"ordinal = true\n{A}grades = [1, 3]\n{B}grades = [2]\n", 7, "not above"),
    "grade of no scale": (f"{A}grades = [5]\n{B}grades = [1]\n", 3, "0 to 4"),
    "grade in two classes": (f"{A}grades = [1]\n{B}grades = [1]\n", 6, "grade 1 is there twice"),
    "grades and folders": (
        f'{A}grades = [1]\nfolders = ["x"]\n{B}grades = [2]\n',
        4,
        "has no folders",
    ),
    "scale without grades": (f'scale = "s"\n{A}{B}', 1, "a scale is of grades"),
    "empty": ('[[classes]]\nname = " "\n' + B, 2, "is empty"),
    "long": (f'[[classes]]\nname = "{"x" * 101}"\n{B}', 2, "has 101 characters: it may have 100"),
    "control character": ('[[classes]]\nname = "a\\u0007"\n' + B, 2, r"'a\\x07' holds"),
    "empty folder": (f'{A}{B}folders = [""]\n', 5, "a folder is empty"),
    "half a character": ('[[classes]]\nname = "\\ud800"\n' + B, 2, "not a Unicode scalar value"),
    "no TOML": (f"{A}{B}grade =\n", 5, "is no TOML"),
}


@pytest.mark.parametrize(("text", "line", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_with_the_file_and_the_line(labels_of, text, line, said):
    with pytest.raises(DataError, match=said) as caught:
        labels_of(text)
    message = str(caught.value)
    assert "own.toml" in message and f"line {line}" in message and "\n" not in message


def test_a_file_that_cannot_be_read_is_named(labels_of, tmp_path):
    with pytest.raises(DataError, match=r"own.toml: it is not UTF-8 text"):
        labels_of(b"\xff")
    with pytest.raises(DataError, match=r"own.toml is no TOML: Exceeds the limit"):
        labels_of(f"{A}grade = {'9' * 5000}\n{B}")
    with pytest.raises(DataError, match=r"nowhere.toml: No such file"):
        read_label_file(tmp_path / "nowhere.toml")
    with pytest.raises(DataError, match=r"Is a directory"):
        read_label_file(Path(tmp_path))


def test_a_folder_that_is_not_there_is_named_with_its_line(labels_of, png_folder):
    file = labels_of(f'{A}{B}folders = ["b", "bening"]\n')
    with pytest.raises(DataError, match=r"own.toml, line 5: .* has no folder 'bening'.*a, b"):
        file.require_folders(png_folder("train/a/1", "val/b/2"))
