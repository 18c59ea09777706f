"""Many files are read in order whatever reads them, and from a cache to the same pixels."""

import os

import numpy as np
import pytest

from toolkit.errors import ImageError, UsageError
from toolkit.xray.bulk import read_files
from toolkit.xray.folders import scan


@pytest.fixture
def folder(png_folder):
    """X-rays 000L to 069L, one of them no picture, and a link to nowhere."""
    made = png_folder(*(f"0/{index:03}L" for index in range(70)))
    (made / "0" / "007L.png").write_bytes(b"not a picture")
    os.symlink(made / "gone.png", made / "0" / "070L.png")
    return made


def expected(index):
    return np.random.default_rng([index]).integers(0, 256, (224, 224), np.uint8)


def assert_as_written(results, count=71):
    assert [file.name for file, _ in results] == [f"{index:03}L" for index in range(count)]
    refused = {file.name: result for file, result in results if isinstance(result, ImageError)}
    assert sorted(refused) == ["007L", "070L"]
    assert (refused["007L"].code, refused["007L"].status) == ("not_an_image", 415)
    assert "007L.png" in str(refused["007L"])
    for index in (0, 63, 64, 69):
        np.testing.assert_array_equal(results[index][1], expected(index))


def test_files_come_decoded_in_order_and_refusals_say_why(folder):
    assert_as_written(list(read_files(scan(folder))))


def test_more_files_are_read_by_processes_with_the_same_results(folder):
    for index in range(71, 1100):
        os.link(folder / "0" / "000L.png", folder / "0" / f"{index:03}L.png")
    results = list(read_files(scan(folder)))
    assert_as_written(sorted(results, key=lambda each: int(each[0].name[:-1]))[:71])
    assert [file.name for file, _ in results] == sorted(file.name for file, _ in results)
    np.testing.assert_array_equal(results[-1][1], expected(0))


def test_what_is_kept_comes_back_without_being_decoded(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    assert_as_written(list(read_files(scan(folder), cache)))
    assert len(list(cache.iterdir())) == 1
    read = []

    def spied(path, *_):
        read.append(path.name)
        raise ImageError("not_an_image", f"{path}: refused again", 415)

    monkeypatch.setattr("toolkit.xray.bulk.read_xray", spied)
    assert_as_written(list(read_files(scan(folder), cache)))
    # What was refused is asked again why.
    assert read == ["007L.png", "070L.png"]


def test_another_file_of_the_same_name_is_decoded(folder, tmp_path):
    cache = tmp_path / "cache"
    list(read_files(scan(folder), cache))
    (folder / "0" / "005L.png").write_bytes((folder / "0" / "006L.png").read_bytes())
    np.testing.assert_array_equal(list(read_files(scan(folder), cache))[5][1], expected(6))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_cache_is_written_anew(folder, tmp_path, damage):
    cache = tmp_path / "cache"
    list(read_files(scan(folder), cache))
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    kept.write_bytes({"cut": whole[:middle], "flipped": flipped, "empty": b""}[damage])
    assert_as_written(list(read_files(scan(folder), cache)))
    assert kept.read_bytes() == whole


def test_a_bit_that_flips_in_a_cache_costs_no_pixel(png_folder, tmp_path):
    files, cache = scan(png_folder("0/000L")), tmp_path / "cache"
    ((_, pixels),) = read_files(files, cache)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for place in (*range(120, 200), *range(len(whole) - 200, len(whole), 2)):
        kept.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        ((_, again),) = read_files(files, cache)
        np.testing.assert_array_equal(again, pixels)


def test_a_cache_that_cannot_be_written_is_refused_in_one_line(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot write") as caught:
        list(read_files(scan(folder), tmp_path / "file"))
    assert "\n" not in str(caught.value)
