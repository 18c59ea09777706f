"""The X-rays that a model is judged by."""

from dataclasses import replace

import pytest

from toolkit.errors import DataError
from toolkit.train.evaluation import ALL, load_as_trained, part_indices
from toolkit.xray.annotations.sources import Annotations

FILES = [
    f"{part}/{grade}/90000{grade}{i}L"
    for i, part in enumerate(("train", "val"))
    for grade in (0, 2, 3, 4)
]


@pytest.fixture
def published(small):
    """What is known of a model that was trained on folders of parts."""
    return replace(
        small.record, dataset=replace(small.record.dataset, source="folder", split="published")
    )


def test_of_folders_of_parts_only_the_one_that_is_asked_for_is_read(published, png_folder):
    folder = png_folder(*FILES)
    (folder / "train/0/9000099L.png").write_bytes(b"no picture")
    dataset = load_as_trained(folder, published, "val")
    assert dataset.skipped == () and len(dataset.names) == 4
    assert sorted(dataset.names) == sorted(path.rpartition("/")[2] for path in FILES[4:])
    assert len(part_indices(dataset, "val")) == 4
    everything = load_as_trained(folder, published, ALL)
    assert len(everything.names) == 8 and len(everything.skipped) == 1


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_part_that_is_not_there_is_told_with_those_that_are(published, png_folder, part):
    folder = png_folder(*FILES[:4], "val/1/9000011L")
    dataset = load_as_trained(folder, published, part)
    with pytest.raises(DataError, match=f"no part '{part}': it has train;"):
        part_indices(dataset, part)


KNOWN = {
    "imported": None,
    "published": {"source": "folder", "split": "published"},
    "drawn from other data": {"source": "folder", "split": "patient"},
}


@pytest.mark.parametrize("part", ["val", ALL])
@pytest.mark.parametrize("known", KNOWN)
def test_patients_are_those_of_the_table_whatever_is_known_of_the_split(
    small, png_folder, tmp_path, known, part
):
    known = KNOWN[known] and replace(small.record.dataset, **KNOWN[known])
    groups = tmp_path / "groups.csv"
    groups.write_text("file,patient\n" + "".join(f"{file}.png,{file[-5]}\n" for file in FILES))
    folder, said = png_folder(*FILES), Annotations(groups=groups)
    dataset = load_as_trained(folder, replace(small.record, dataset=known), part, said)
    assert set(dataset.patients.keys) == {"0"}


@pytest.mark.parametrize(("pattern", "patients"), [(r"^90000(\d)", 4), (r"^x(\d)", 8)])
def test_patients_of_all_xrays_are_told_apart_as_in_training_where_that_fits(
    published, png_folder, pattern, patients
):
    known = replace(published, dataset=replace(published.dataset, patient_pattern=pattern))
    assert load_as_trained(png_folder(*FILES), known, ALL).patients.count == patients
