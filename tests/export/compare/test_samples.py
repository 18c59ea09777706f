"""The X-rays of an equivalence check: every kind, the same each time, real ones from all over."""

import numpy as np
import pytest

from export.compare.samples import samples
from toolkit.errors import DataError
from toolkit.xray.folders import scan
from toolkit.xray.reading import read_xray


def test_every_kind_of_input_is_among_the_samples():
    found = samples()
    assert set(found.counts()) == {"generated", "noise", "black", "white", "half", "one pixel"}
    assert found.pixels.shape == (len(found.kinds), 224, 224) and found.pixels.dtype == np.uint8
    assert sum(found.counts().values()) == len(found.kinds)
    by_kind = {kind: found.pixels[np.array(found.kinds) == kind] for kind in found.counts()}
    assert (by_kind["black"] == 0).all()
    assert (by_kind["white"] == 255).all()
    assert ((by_kind["one pixel"] > 0).sum(axis=(1, 2)) == 1).all()
    assert (by_kind["noise"].std(axis=(1, 2)) > 70).all()


def test_only_real_and_generated_samples_count_as_xrays(png_folder):
    found = samples(png_folder("0/1L", "2/2L"))
    natural = {kind for kind, yes in zip(found.kinds, found.natural, strict=True) if yes}
    assert natural == {"real", "generated"}


def test_same_samples_every_time():
    assert np.array_equal(samples().pixels, samples().pixels)
    assert not np.array_equal(samples().pixels, samples(seed=1).pixels)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 130])
def test_real_samples_are_spread_over_all_files(png_folder, count):
    folder = png_folder(
        *(f"{('train', 'val', 'test')[i * 3 // count]}/2/{i}L" for i in range(count))
    )
    files = scan(folder)
    known = {read_xray(file.path).tobytes(): index for index, file in enumerate(files)}
    found = samples(folder)
    real = found.pixels[np.array(found.kinds) == "real"]
    places = [known[xray.tobytes()] for xray in real]
    assert len(places) == len(set(places)) == min(count, 64)
    assert (places[0], places[-1]) == (0, count - 1)
    assert max(np.diff(places), default=1) <= max(1, -(-count // 63))


def test_unreadable_real_files_are_left_out_and_none_readable_is_an_error(png_folder):
    folder = png_folder("0/1L", "2/2L")
    (folder / "2" / "3L.png").write_bytes(b"no image")
    assert samples(folder).counts()["real"] == 2
    bad = folder.parent / "bad"
    (bad / "0").mkdir(parents=True)
    (bad / "0" / "1L.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="toolkit data inspect"):
        samples(bad)


@pytest.mark.full
def test_real_xrays_of_the_shared_folder_come_through(shared):
    found = samples(shared / "data" / "knee")
    assert found.counts()["real"] == 64
