import csv
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.errors import DataError
from toolkit.train.dataset import (
    class_weights,
    generated,
    load_folder,
    require_agreement,
    require_classes,
    require_patients,
)
from toolkit.train.split import study_split
from toolkit.xray.annotations.patients import PatientRule, by_name
from toolkit.xray.folders import PARTS
from toolkit.xray.labels import LabelMap, label_map

STUDY = label_map("study")
FIVE = label_map("five")


def flat(patients, grades=(0, 2, 3, 4), first=0):
    """Paths of both knees of `patients` patients, in `<grade>/`."""
    return [
        f"{grades[(first + index) % len(grades)]}/{9_000_000 + first + index}{side}"
        for index in range(patients)
        for side in "LR"
    ]


def patients_of(dataset):
    return {
        part: {dataset.patients.keys[i] for i in indices.tolist()}
        for part, indices in dataset.parts.items()
    }


def members(dataset):
    return {part: [dataset.names[i] for i in ids.tolist()] for part, ids in dataset.parts.items()}


@pytest.fixture(scope="session")
def study_rows(shared):
    """(part, grade, name) of the study's X-rays, in its order, grade 1 dropped."""
    path = shared / "data" / "knee" / "names.csv"
    if not path.is_file():
        pytest.skip("names.csv is not in shared/data/knee")
    with path.open() as stream:
        rows = [(row["split"], int(row["grade"]), row["name"]) for row in csv.DictReader(stream)]
    assert len(rows) == 8260
    order = {"train": 0, "val": 1, "test": 2}
    kept = [row for row in rows if row[1] != 1]
    return sorted(kept, key=lambda row: (order[row[0]], row[1], row[2]))


def test_the_studys_split_is_reproduced_exactly(study_rows):
    parts = study_split(len(study_rows))
    counts = {
        part: tuple(
            Counter(study_rows[i][1] for i in ids.tolist())[grade] for grade in (0, 2, 3, 4)
        )
        for part, ids in parts.items()
    }
    assert counts == {
        "train": (2297, 1495, 769, 175),
        "val": (333, 221, 97, 25),
        "test": (623, 459, 220, 51),
    }
    together = torch.cat(list(parts.values())).sort().values
    assert torch.equal(together, torch.arange(6765))


def test_in_the_studys_split_three_in_five_test_xrays_have_the_other_knee_in_training(study_rows):
    parts = study_split(len(study_rows))
    patients = by_name([name for _, _, name in study_rows]).keys
    trained = {patients[i] for i in parts["train"].tolist()}
    tested = [patients[i] for i in parts["test"].tolist()]
    assert round(100 * sum(patient in trained for patient in tested) / len(tested), 1) == 60.8


def test_the_studys_class_weights_are_its_swapped_counts(study_rows):
    classes = torch.tensor([{0: 0, 2: 1, 3: 2, 4: 3}[grade] for _, grade, _ in study_rows])
    trained = classes[study_split(len(study_rows))["train"]]
    weights = class_weights("counts_first_seen", trained, 4)
    assert weights.tolist() == [2297, 769, 1495, 175]


@pytest.mark.full
def test_a_folder_of_the_studys_xrays_is_split_as_the_study_did(study_rows, tmp_path):
    blank = tmp_path / "blank.png"
    write_grey(blank)
    data = tmp_path / "data"
    for part, grade, name in study_rows:
        file = data / part / str(grade) / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.hardlink_to(blank)
    dataset = load_folder(data, STUDY, "study")
    assert [dataset.counts(part) for part in PARTS] == [
        (2297, 1495, 769, 175),
        (333, 221, 97, 25),
        (623, 459, 220, 51),
    ]
    assert dataset.names == tuple(name for _, _, name in study_rows)
    crossing = dataset.record().crossing_patients
    crossed, copied = dataset.warnings
    assert crossed.startswith(f"{crossing} patients")
    assert copied.startswith("1 X-ray with copies in another part")  # all of them are one blank


def write_grey(path):
    from PIL import Image

    Image.new("L", (224, 224), 90).save(path)


def test_of_other_xrays_the_studys_split_says_so_and_how_many_patients_cross(png_folder):
    dataset = load_folder(png_folder(*flat(20)), STUDY, "study")
    where = patients_of(dataset)
    crossing = sum(
        sum(patient in each for each in where.values()) > 1
        for patient in set().union(*where.values())
    )
    assert crossing > 0
    assert dataset.record().crossing_patients == crossing
    (size, crossed) = dataset.warnings
    assert "not the study's split" in size and "6765" in size and "40" in size
    assert crossed.startswith(f"{crossing} patients ")


@pytest.mark.parametrize("count", range(1, 12))
def test_no_part_of_the_studys_split_is_there_and_empty(count):
    parts = study_split(count)
    assert all(len(ids) for ids in parts.values())
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(count))


def test_a_flat_folder_is_split_so_that_no_patient_crosses_parts(png_folder):
    dataset = load_folder(png_folder(*flat(40)), STUDY, None)
    assert (dataset.split, len(dataset.names)) == ("patient", 80)
    where = patients_of(dataset)
    assert set(where) == set(PARTS)
    assert sum(map(len, where.values())) == len(set().union(*where.values())) == 40
    assert dataset.record().crossing_patients == 0
    assert dataset.warnings == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_generated_patient_never_crosses_parts(seed):
    where = patients_of(generated(30, STUDY, seed=seed))
    assert sum(map(len, where.values())) == len(set().union(*where.values())) == 15


def test_adding_xrays_moves_nobody(png_folder):
    before = members(load_folder(png_folder(*flat(20), under="few"), STUDY, "patient"))
    more = flat(20) + flat(20, first=20) + ["2/8000000L"]
    after = members(load_folder(png_folder(*more, under="more"), STUDY, "patient"))
    for part, names in before.items():
        assert set(names) <= set(after[part])
    assert sum(map(len, after.values())) == 81


def test_the_published_split_is_the_folders(png_folder):
    folder = png_folder("train/0/1L", "val/2/1R", "test/3/2L", "test/4/3L", "train/4/4R")
    dataset = load_folder(folder, STUDY, None)
    assert dataset.split == "published"
    assert members(dataset) == {"train": ["1L", "4R"], "val": ["1R"], "test": ["2L", "3L"]}
    assert dataset.warnings == (
        "1 patient with X-rays in more than one part: figures will flatter",
    )


def test_published_of_a_flat_folder_is_an_error_that_says_what_to_do(png_folder):
    with pytest.raises(DataError, match=r"train, val and test.*--split patient"):
        load_folder(png_folder(*flat(2)), STUDY, "published")
    with pytest.raises(DataError, match="--split patient"):
        generated(4, STUDY, "published")


def test_a_training_goes_on_with_the_same_classes_in_the_same_order_only(png_folder):
    folder = png_folder("a/1", "b/2")
    labels = LabelMap("own.toml", ("x", "y"), ((1,), (2,)), (("a",), ("b",)))
    changes = ({"classes": ("x", "z")}, {"grades": ((1,), (3,))}, {"ordinal": False})
    known, *others = (
        load_folder(folder, replace(labels, **change), None).identity() for change in ({}, *changes)
    )
    assert all(each != known for each in others)
    # Studies and trainings that were begun before labels were data go on.
    assert "classes" not in load_folder(png_folder("0/3", under="graded"), STUDY, None).identity()


@pytest.mark.parametrize(
    ("name", "names", "labels"),
    [
        ("study", "02344", [0, 1, 2, 3, 3]),
        ("five", "012344", [0, 1, 2, 3, 4, 4]),
        ("merge01", "012344", [0, 0, 1, 2, 3, 3]),
    ],
)
def test_grades_become_the_classes_of_the_label_map(png_folder, name, names, labels):
    folder = png_folder("0/1L", "1/2L", "2/3L", "3/4L", "4/5L", "4/5R")
    dataset = load_folder(folder, label_map(name), None)
    assert dataset.labels.tolist() == labels
    assert dataset.labels.dtype == torch.int64
    assert len(dataset.names) == len(names)


@pytest.mark.parametrize("name", ["study", "five", "merge01"])
def test_generated_xrays_have_every_class_of_the_label_map(name):
    dataset = generated(20, label_map(name))
    assert set(dataset.labels.tolist()) == set(range(len(label_map(name).classes)))


def test_pixels_belong_to_their_names(png_folder):
    paths = ["test/0/5L", "train/4/1R", "train/0/9L", "val/2/3L"]
    dataset = load_folder(png_folder(*paths), STUDY, None)
    assert dataset.names == ("9L", "1R", "3L", "5L")
    for place, name in enumerate(dataset.names):
        index = next(i for i, path in enumerate(paths) if path.endswith(f"/{name}"))
        expected = np.random.default_rng([index]).integers(0, 256, (224, 224), np.uint8)
        np.testing.assert_array_equal(dataset.pixels[place].numpy(), expected)


def test_what_cannot_be_read_is_named_and_skipped(png_folder):
    folder = png_folder("0/1L", "0/2L", "2/3L", "3/4L", "4/5L")
    (folder / "0" / "1L.png").write_bytes(b"")
    (folder / "0" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "3" / "4L.png").write_bytes((folder / "3" / "4L.png").read_bytes()[:-100])
    dataset = load_folder(folder, STUDY, None)
    assert dataset.names == ("2L", "3L", "5L")
    assert dataset.labels.tolist() == [0, 1, 3]
    assert dataset.record().skipped == len(dataset.skipped) == 3
    for file in ("0/1L.png", "0/Thumbs.db", "3/4L.png"):
        assert sum(line.count(str(folder / file)) for line in dataset.skipped) == 1
    expected = np.random.default_rng([2]).integers(0, 256, (224, 224), np.uint8)
    np.testing.assert_array_equal(dataset.pixels[1].numpy(), expected)


def test_a_dropped_grade_is_not_even_read(png_folder):
    folder = png_folder("0/1L", "1/2L")
    (folder / "1" / "2L.png").write_bytes(b"not read")
    assert load_folder(folder, STUDY, None).skipped == ()
    assert len(load_folder(folder, FIVE, None).skipped) == 1


def test_a_folder_without_one_usable_xray_is_refused_by_name(png_folder):
    folder = png_folder("1/1L", "1/2L")
    with pytest.raises(DataError, match=f"no X-ray in {folder}.*'study'"):
        load_folder(folder, STUDY, None)
    (folder / "1" / "1L.png").write_bytes(b"")
    (folder / "1" / "2L.png").write_bytes(b"")
    with pytest.raises(DataError, match="no X-ray in"):
        load_folder(folder, FIVE, None)


def test_a_class_that_is_empty_in_the_training_part_is_an_error_that_names_it(png_folder):
    folder = png_folder("train/0/1L", "train/3/2L", "val/2/3L", "val/4/4L")
    dataset = load_folder(folder, STUDY, None)
    with pytest.raises(DataError) as caught:
        require_classes(dataset, "train")
    assert "minimal" in str(caught.value)
    assert "severe" in str(caught.value)
    assert "moderate" not in str(caught.value)
    assert "'train'" in str(caught.value)


def test_a_missing_part_is_an_error_that_names_it_and_those_there_are(png_folder, tiny):
    require_classes(tiny, "train")
    dataset = load_folder(png_folder("val/0/1L", "test/2/1L"), STUDY, None)
    with pytest.raises(DataError, match="no part 'train': it has val, test"):
        require_classes(dataset, "train")


def test_the_record_counts_what_is_there(png_folder):
    folder = png_folder("train/0/1L", "train/0/1R", "train/4/2L", "val/2/2R", "val/2/3L")
    record = load_folder(folder, STUDY, None).record()
    assert record.counts == {"train": (2, 0, 0, 1), "val": (0, 2, 0, 0)}
    assert (record.patients, record.crossing_patients, record.skipped) == (3, 1, 0)
    assert (record.source, record.split) == ("folder", "published")
    listed = "\n".join(sorted(["1L 0", "1R 0", "2L 3"]))
    assert record.part_sha256["train"] == hashlib.sha256(listed.encode()).hexdigest()


def test_the_records_hashes_tell_other_pixels_names_and_parts(png_folder):
    def record(*paths, under):
        return load_folder(png_folder(*paths, under=under), STUDY, None).record()

    base = record("train/0/1L", "train/2/2L", "val/3/3L", under="a")
    assert record("train/0/1L", "train/2/2L", "val/3/3L", under="b") == base
    renamed = record("train/0/1R", "train/2/2L", "val/3/3L", under="c")
    assert renamed.content_sha256 != base.content_sha256
    regraded = record("train/0/1L", "train/3/2L", "val/3/3L", under="d")
    assert regraded.content_sha256 == base.content_sha256
    assert regraded.part_sha256["train"] != base.part_sha256["train"]
    assert regraded.part_sha256["val"] == base.part_sha256["val"]
    repainted = record("val/3/3L", "train/2/2L", "train/0/1L", under="e")
    assert repainted.content_sha256 != base.content_sha256
    assert repainted.part_sha256 == base.part_sha256


def test_the_real_folder_is_what_its_names_say(shared):
    folder = Path(shared) / "data" / "knee"
    if not (folder / "names.csv").is_file():
        pytest.skip("names.csv is not in shared/data/knee")
    from toolkit.xray.folders import scan

    with (folder / "names.csv").open() as stream:
        rows = {(row["split"], int(row["grade"]), row["name"]) for row in csv.DictReader(stream)}
    found = [(file.part, file.grade, file.name) for file in scan(folder)]
    assert len(found) == len(set(found)) == 6604
    assert set(found) == {row for row in rows if row[0] != "test"}


def copy(folder, source, target, mirrored=False):
    """Save an X-ray once more, under another name."""
    from PIL import Image, ImageOps

    picture = Image.open(folder / f"{source}.png")
    (folder / f"{target}.png").parent.mkdir(parents=True, exist_ok=True)
    # As another file of the same pixels.
    picture = ImageOps.mirror(picture) if mirrored else picture
    picture.save(folder / f"{target}.png", compress_level=1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_picture_under_two_grades_is_an_error_that_lists_both(png_folder, mirrored):
    folder = png_folder("train/0/1L", "train/2/2L", "train/3/3L", "train/4/4L", "val/0/5L")
    copy(folder, "train/0/1L", "train/4/7R", mirrored)
    copy(folder, "train/2/2L", "train/2/2R", mirrored)
    with pytest.raises(DataError, match=r"1 X-ray .*train/0/1L\.png and train/4/7R\.png.*--allow"):
        require_agreement(load_folder(folder, STUDY, None))


def test_grades_of_one_class_are_no_conflict_and_none_is_no_error(png_folder):
    folder = png_folder("0/1L", "2/2L")
    copy(folder, "0/1L", "1/1R")
    require_agreement(load_folder(folder, label_map("merge01"), None))
    with pytest.raises(DataError, match="two grades"):
        require_agreement(load_folder(folder, FIVE, None))


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_in_other_parts_are_warned_of(png_folder, mirrored):
    folder = png_folder("train/0/1L", "train/2/2L", "val/0/3L")
    copy(folder, "train/0/1L", "val/0/9R", mirrored)
    copy(folder, "train/2/2L", "train/2/8R", mirrored)
    (warning,) = load_folder(folder, STUDY, None).warnings
    assert warning.startswith("1 X-ray with copies in another part")
    assert "train/0/1L.png and val/0/9R.png" in warning


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_stay_in_one_part_where_the_toolkit_splits(png_folder, mirrored):
    folder = png_folder(*flat(40))
    before = members(load_folder(folder, STUDY, "patient"))
    for place, name in enumerate(flat(40)):
        copy(folder, name, f"{name[0]}/other{place}", mirrored)
    dataset = load_folder(folder, STUDY, "patient")
    assert dataset.warnings == ()
    after = members(dataset)
    part_of = {name: part for part, names in after.items() for name in names}
    for place, name in enumerate(flat(40)):
        assert part_of[name[2:]] == part_of[f"other{place}"]
    assert {part: set(names) for part, names in before.items()} == {
        part: {name for name in names if not name.startswith("other")}
        for part, names in after.items()
    }


def test_patients_of_a_rule_stay_in_one_part_and_the_record_keeps_the_pattern(png_folder):
    folder = png_folder(
        *(f"{g}/{g}-{p}-{k}" for g in (0, 2, 3, 4) for p in range(12) for k in "ab")
    )
    alone = load_folder(folder, STUDY, None).record()
    dataset = load_folder(folder, STUDY, None, rule=PatientRule(r"-(\d+)-"))
    record = dataset.record()
    assert (alone.patients, alone.patient_pattern) == (96, None)
    assert (record.patients, record.crossing_patients) == (12, 0)
    assert (record.patient_pattern, record.patient_table) == (r"-(\d+)-", False)
    where = patients_of(dataset)
    assert sum(map(len, where.values())) == 12


def test_xrays_of_one_patient_alone_are_an_error_that_says_what_to_do(png_folder):
    folder = png_folder("0/anna/1", "2/anna/2", "3/anna/3", "4/anna/4")
    with pytest.raises(DataError, match=r"all 4 X-rays .*folder.*--patients REGEX"):
        require_patients(load_folder(folder, STUDY, None))
    require_patients(load_folder(folder, STUDY, None, rule=PatientRule(r"(\d)")))
