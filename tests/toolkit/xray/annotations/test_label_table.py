"""Classes, patients and parts from a CSV file, and what is said of one that cannot be meant."""

import pytest

from toolkit.errors import DataError, UsageError
from toolkit.xray.annotations.label_table import read_label_table
from toolkit.xray.annotations.patients import PatientRule, identify_patients
from toolkit.xray.annotations.sources import read_annotations
from toolkit.xray.folders import class_of, left_out_lines, scan
from toolkit.xray.labels import label_map


@pytest.fixture
def folder(png_folder):
    return png_folder("a", "b", "deep/c", "deep/d, e")


@pytest.fixture
def table_of(tmp_path):
    """Return a function: the table of a text, or of bytes."""

    def read(text):
        path = tmp_path / "own.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_label_table(path)

    return read


def rows(folder, table):
    labels = table.labels()
    return [
        (each.part, class_of(each, labels), each.name, each.patient)
        for each in scan(folder, labels, table)
    ]


WRITTEN = {
    "as it is": "file,label\na.png,10\nb.png,9\ndeep/c.png,x y\n",
    "by a spreadsheet": "\ufeffFile;Label;remark\r\na.png;10;\r\n;;\r\nb.png;9;!\r\n"
    "deep\\c.png;x y;\r\n",
    "with tabs": "label\tfile\n10\ta.png\n9\t./b.png\nx y\tdeep//c.png",
    "in quotes": '"file","label"\n"a.png","10"\n"b.png"," 9 "\n"deep/c.png","x y"\n',
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_a_table_says_what_is_what_however_it_is_written(folder, table_of, text):
    table = table_of(text)
    assert table.labels().classes == ("9", "10", "x y") and not table.labels().graded
    assert rows(folder, table) == [
        (None, 0, "b", None),
        (None, 1, "a", None),
        (None, 2, "deep/c", None),
    ]
    assert left_out_lines(folder, table.labels(), table) == [
        f"left out: 1 file not in {table.path}"
    ]


def test_patients_and_parts_of_a_table_are_taken_and_commas_stand_in_quotes(folder, table_of):
    table = table_of(
        'file,label,patient,part\na.png,"p, q",1,Train\nb.png,r,2,valid\n"deep/d, e.png",r,1,test\n'
    )
    assert rows(folder, table) == [
        ("train", 0, "a", "1"),
        ("val", 1, "b", "2"),
        ("test", 1, "deep/d, e", "1"),
    ]
    files = scan(folder, table.labels(), table)
    patients = identify_patients(files, folder)
    assert patients.keys == ("1", "2", "1") and patients.sources == {"the table": 3}
    with pytest.raises(UsageError, match="leave out --patients and --groups"):
        identify_patients(files, folder, PatientRule("(.)"))


def test_a_folder_that_all_files_share_is_no_patient(png_folder, table_of):
    names = ("images/7L", "images/7R", "images/8L")
    folder = png_folder(*names)
    table = table_of("file,label\n" + "".join(f"{name}.png,{name[-1]}\n" for name in names))
    assert identify_patients(scan(folder, table.labels(), table), folder).keys == ("7", "8", "7")


def test_labels_that_are_grades_are_read_as_their_folders_would_be(folder, table_of):
    table, study = table_of("file,label\na.png,KL-2\nb.png,severe\ndeep/c.png,1\n"), "study"
    files = scan(folder, label_map(study), table)
    assert [(each.grade, class_of(each, label_map(study))) for each in files] == [
        (1, None),
        (2, 1),
        (4, 3),
    ]


FAULTS = {
    "no column": ("file,class\na.png,x\n", 1, "columns file and label"),
    "nothing": ("", 1, "columns file and label"),
    "column twice": ("file,label,part,part\n", 1, "the column part is there twice"),
    "more values": ("file,label\na.png,x,y\nb.png,y\n", 2, "3 values where there are 2 columns"),
    "file twice": ("file,label\na.png,x\n./a.png,y\n", 3, "a.png is there already: .* line 2"),
    "no file": ("file,label\na.png,x\n,y\n", 3, "no file is named"),
    "not there": ("file,label\na.png,x\n\nno.png,y\n", 4, "has no file no.png"),
    "a folder": ("file,label\na.png,x\ndeep,y\n", 3, "has no file deep"),
    "longer than any name": (f"file,label\na.png,x\n{'n' * 9999},y\n", 3, "has no file nnn"),
    "above": ("file,label\n../data/a.png,x\nb.png,y\n", 2, "leads out of the data folder"),
    "above, later": ("file,label\ndeep/../../x,x\nb.png,y\n", 2, "leads out of the data folder"),
    "absolute": ("file,label\n/etc/passwd,x\nb.png,y\n", 2, "leads out of the data folder"),
    "of Windows": ("file,label\nC:\\a.png,x\nb.png,y\n", 2, "leads out of the data folder"),
    "of a share": ("file,label\n\\\\host\\a.png,x\nb.png,y\n", 2, "leads out of the data folder"),
    "no part": ("file,label,part\na.png,x,train\nb.png,y,hold-out\n", 3, "none of train, val, te"),
    "parts of some": ("file,label,part\na.png,x,train\nb.png,y,\n", 3, "one in every line"),
    "patients of some": ("file,label,patient\na.png,x,1\nb.png,y,\n", 3, "a patient is empty"),
    "empty": ("file,label\na.png,x\nb.png, \n", 3, "a label is empty"),
    "long": (f"file,label\na.png,x\nb.png,{'y' * 101}\n", 3, "has 101 characters"),
    "control character": ("file,label\na.png,x\nb.png,y\x1b[2J\n", 3, r"'y\\x1b\[2J' holds"),
    "two lines": ('file,label\na.png,x\nb.png,"y\nz"\nc.png,x\n', 3, "holds what is no text"),
    "a megabyte": (f"file,label\na.png,{'x' * 2**20}\n", 2, "field larger than field limit"),
}


@pytest.mark.parametrize(("text", "line", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_with_the_table_and_the_line(folder, table_of, text, line, said):
    with pytest.raises(DataError, match=said) as caught:
        rows(folder, table_of(text))
    message = str(caught.value)
    assert f"own.csv, line {line}: " in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"file,label\na.png,\xed\xa0\x80\n", "is not UTF-8 text"),
        ("file,label\n", "names no file"),
        ("file,label\na.png,x\nb.png,x\n", "names 1 label: a model needs two or more"),
    ],
)
def test_a_table_of_no_use_is_named(folder, table_of, text, said):
    with pytest.raises(DataError, match=said) as caught:
        rows(folder, table_of(text))
    assert "own.csv" in str(caught.value)


def test_a_file_of_labels_orders_the_labels_of_the_table_that_it_names(folder, tmp_path):
    (tmp_path / "own.csv").write_text("file,label\na.png,no\nb.png,yes\ndeep/c.png,maybe\n")
    ordered = tmp_path / "own.toml"
    ordered.write_text(
        'ordinal = true\ntable = "own.csv"\n[[classes]]\nname = "healthy"\nfolders = ["no"]\n'
        'grade = 0\n[[classes]]\nname = "ill"\nfolders = ["yes", "maybe"]\ngrade = 1\n'
    )
    said = read_annotations(str(ordered))
    labels = said.labels_in(folder)
    assert labels.graded and labels.classes == ("healthy", "ill")
    files = scan(folder, labels, said.table)
    assert [class_of(each, labels) for each in files] == [0, 1, 1]
    ordered.write_text(ordered.read_text().replace('"yes", "maybe"', '"yes"'))
    again = read_annotations(str(ordered))
    with pytest.raises(DataError, match=r"own.csv, line 4: the label 'maybe' is in no class"):
        scan(folder, again.labels_in(folder), again.table)
