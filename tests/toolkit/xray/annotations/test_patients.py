import hashlib
from collections import defaultdict

import numpy as np
import pytest
from xray_files import dicom, noise, saved

from toolkit.errors import DataError, UsageError
from toolkit.xray.annotations.patients import PatientRule, by_name, identify_patients
from toolkit.xray.folders import scan


def folder_of(root, contents):
    """A data folder with those files: bytes by path."""
    for path, content in contents.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def grouped(names, keys):
    groups = defaultdict(set)
    for name, key in zip(names, keys, strict=True):
        groups[key].add(name)
    return {frozenset(group) for group in groups.values()}


def found(folder, rule=None):
    files = scan(folder)
    patients = identify_patients(files, folder, *([rule] if rule else []))
    return grouped([file.name for file in files], patients.keys), patients


SIDES = [
    *("9003175{}".format, "9003175_{}".format, "9003175-{}".format, "9003175 {}".format),
    *("9003175.{}".format, "{}_9003175".format, "{}-9003175".format, "oai_9003175_{}_v1".format),
    *("9003175{}_v1".format, "case-a_{}".format),
]
SPELLINGS = ["L R", "l r", "left right", "Left Right", "LEFT RIGHT", "lt rt", "LK RK"]
SPELLINGS += ["left_knee right_knee", "LeftKnee RightKnee", "LKnee RKnee", "lknee rknee"]
SPELLINGS += ["leftside rightside", "links rechts", "Gauche Droite", "izq der", "SX DX"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", range(len(SIDES)))
def test_both_knees_are_of_one_patient_however_the_side_is_written(place, spelling):
    left, right = (SIDES[place](side) for side in spelling.split())
    other = SIDES[place](spelling.split()[0]).replace("9003175", "9003176").replace("case", "kase")
    first, second, third = by_name([left, right, other]).keys
    assert first == second != third


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        *(("9003175L", "9003175"), ("9003175R", "9003175"), ("9003175", "9003175")),
        *(("a-b_R", "a-b"), ("LR", "L"), ("L", "L"), ("left", "left"), ("_L", "_L")),
        *(("L9003175", "9003175"), ("right9003175", "9003175"), ("caseRight", "case")),
        *(("skull", "skull"), ("femur", "femur"), ("upright", "upright"), ("Paul", "Paul")),
        *(("7_l1", "7_l1"), ("1.2.840.1", "1.2.840.1"), ("Ünal_R", "Ünal"), ("7__L", "7")),
        *(("7_L_LATERAL", "7_LATERAL"), ("RIGHT_SKULL", "SKULL"), ("LATERAL_7", "LATERAL_7")),
        *(
            ("7_L1", "7_1"),
            ("7R1", "7_1"),
            ("7_left2", "7_2"),
            ("R2D2", "2D2"),
            ("ZIRKEL_7R", "ZIRKEL_7"),
        ),
        *(("KneeL_7", "Knee_7"), ("kneeright_7", "knee_7"), ("7_kneel", "7_knee")),
        ("U\u0308nal_L", "\u00dcnal"),
    ],
)
def test_a_patient_is_what_a_name_is_without_its_side(name, patient):
    assert by_name([name]).keys == (patient,)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["a_1", "a_2", "b_1", "b_2"], [{"a_1", "a_2"}, {"b_1", "b_2"}]),
        (["a-1", "a-2", "b-1"], [{"a-1", "a-2"}, {"b-1"}]),
        (["a_1", "a_2", "a_3"], [{"a_1"}, {"a_2"}, {"a_3"}]),
        (["a_2", "a_3"], [{"a_2"}, {"a_3"}]),
        (["a_1", "b_2"], [{"a_1"}, {"b_2"}]),
        (["a1", "a2"], [{"a1"}, {"a2"}]),
        (["a_01", "a_02"], [{"a_01"}, {"a_02"}]),
        (["a_L_1", "a_R_1", "a_L_2"], [{"a_L_1", "a_R_1", "a_L_2"}]),
        (["a (1)", "a (2)", "b (1)"], [{"a (1)", "a (2)"}, {"b (1)"}]),
        (["a_L1", "a_R2", "a1_L"], [{"a_L1", "a_R2"}, {"a1_L"}]),
    ],
)
def test_one_and_two_are_sides_only_where_they_pair_up(names, groups):
    assert grouped(names, by_name(names).keys) == set(map(frozenset, groups))


def test_a_folder_below_the_grade_is_a_patient_but_not_one_that_is_named_for_a_side(png_folder):
    folder = png_folder(
        "0/anna/1", "0/anna/series/2", "3/anna/1", "0/bert/1", "0/L/77", "0/right/77", "0/78"
    )
    groups, patients = found(folder)
    assert groups == {
        frozenset({"anna/1", "anna/series/2"}),
        frozenset({"bert/1"}),
        frozenset({"L/77", "right/77"}),
        frozenset({"78"}),
    }
    assert patients.keys.count("anna") == 3
    assert patients.sources == {"folder": 4, "name": 3}


def test_a_letter_and_its_accent_are_one_however_they_are_encoded(png_folder, tmp_path):
    apart, one, table = "a\u0308", "\u00e4", tmp_path / "groups.csv"
    folder = png_folder(f"0/{apart}/1", f"2/{one}/2", f"3/{apart}_L", f"4/{one}_R")
    groups, _ = found(folder)
    assert [len(group) for group in groups] == [4]
    table.write_text(f"file,patient\n1,x\n2,y\n{one}_L,x\n{apart}_R,y\n", "utf-8")
    groups, _ = found(folder, PatientRule(groups=table))
    assert sorted(map(len, groups)) == [2, 2]


def test_a_pattern_finds_the_patient(png_folder):
    folder = png_folder("0/s1-p7-a", "2/s2-p7-b", "3/s1-p8-a", "4/x/p9-a")
    groups, patients = found(folder, PatientRule(r"\bp(\d+)"))
    assert groups == {
        frozenset({"s1-p7-a", "s2-p7-b"}),
        frozenset({"s1-p8-a"}),
        frozenset({"x/p9-a"}),
    }
    assert "the pattern" in patients.description()
    with pytest.raises(DataError, match=r"finds no patient in .*p8-a.*p9-a"):
        found(folder, PatientRule(r"p(7)"))
    with pytest.raises(DataError, match="finds no patient"):
        found(folder, PatientRule(r"p\d+(z?)"))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"\d+", "0 groups"),
        (r"(\d)(\d)", "2 groups"),
        ("(", "is no pattern"),
        ("", "0 groups"),
        ("(\udcfc)", "no text"),
    ],
)
def test_a_pattern_without_one_group_is_refused(pattern, said):
    with pytest.raises(UsageError, match=said):
        PatientRule(pattern)


def test_pattern_and_table_together_are_refused(tmp_path):
    with pytest.raises(UsageError, match="one of them"):
        PatientRule("(a)", tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    "files", [("0/a.png", "2/b.png"), ("a.png", "b.png"), ("a", "b"), ("0\\a.png", "2\\b.png")]
)
def test_a_table_says_whose_an_xray_is(png_folder, tmp_path, separator, mark, files):
    folder, table = png_folder("0/a", "2/b", "3/c"), tmp_path / "groups.csv"
    rows = [("Patient", "site", "File"), ("x", "1", files[0]), ("x", "2", files[1]), ("y", "", "c")]
    rows += [("z", "", "of another folder.png"), ("", "", "")]
    text = mark + "\r\n".join(separator.join(row) for row in rows)
    table.write_text(text, "utf-8", newline="")
    groups, patients = found(folder, PatientRule(groups=table))
    assert groups == {frozenset({"a", "b"}), frozenset({"c"})}
    assert patients.keys == ("x", "x", "y")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,patient\na.png,1\n", "no row for .*b.png"),
        ("name,patient\na.png,1\n", "columns file and patient"),
        ("", "columns file and patient"),
        ("file,patient\na.png,1\nb.png,\n", "line 3"),
        ("file,patient\na.png\n", "line 2"),
        ("file,patient\na.png,1\nb.png,2\na.png,2\n", "line 4.*another patient"),
        (b"file,patient\n\xff", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_its_line(png_folder, tmp_path, text, said):
    folder, table = png_folder("0/a", "2/b"), tmp_path / "groups.csv"
    if text is not None:
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said) as caught:
        found(folder, PatientRule(groups=table))
    assert "groups.csv" in str(caught.value)


def test_dicoms_patient_id_is_the_patient_and_never_in_clear(tmp_path):
    def knee(seed, **tags):
        return dicom(noise(70, 80, seed=seed), **tags)

    contents = {
        "0/a.dcm": knee(1, PatientID="Doe-4711"),
        "2/b.dcm": knee(2, PatientID="Doe-4711 "),
        "3/c.dcm": knee(3, PatientID="Doe-4712"),
        "3/d.dcm": knee(4, PatientID="Doe-4711", IssuerOfPatientID="elsewhere"),
        "4/e.dcm": knee(5, PatientID=""),
        "4/eL.dcm": knee(6),
        "4/eR.png": saved(noise(70, 80)),
        "4/f.dcm": knee(7, PatientID="Doe-4712")[132:],
    }
    groups, patients = found(folder_of(tmp_path / "data", contents))
    assert {frozenset("ab"), frozenset("cf"), frozenset("d")} < groups
    assert patients.keys[-3:-1] == ("e", "e") and patients.sources == {"PatientID": 5, "name": 3}
    assert "Doe" not in repr(patients) and "4711" not in repr(patients)
    plain = hashlib.sha256(b"Doe-4711").hexdigest()
    assert not any(plain.startswith(key) for key in patients.keys)


def test_damaged_dicom_files_have_no_patient(tmp_path):
    whole = dicom(noise(70, 80), PatientID="7")
    contents = {f"0/{end}.dcm": whole[:end] for end in range(120, len(whole) - 5000, 7)}
    groups, _ = found(folder_of(tmp_path / "data", contents))
    assert len(groups) > 10


def test_numbered_names_without_a_suffix_are_told_apart(tmp_path):
    content = saved(np.zeros((70, 70), np.uint8))
    contents = {"0/1.2.840.1": content, "0/1.2.840.2": content, "0/1.2.840.3": content}
    groups, _ = found(folder_of(tmp_path / "data", contents))
    assert len(groups) == 3


def test_it_is_said_how_patients_were_told_apart_and_where_none_belong_together():
    pairs = by_name(["9000001_left", "9000001_right", "9000002_left"])
    assert pairs.description() == (
        "2 patients, told apart by name: 9000001_left and 9000001_right are of one"
    )
    assert pairs.warning() is None
    alone = by_name(["one", "two", "three"])
    assert alone.description() == "3 patients, told apart by name"
    assert "--patients REGEX" in alone.warning() and "--groups FILE.csv" in alone.warning()
