"""Which X-rays without a class a student may learn from."""

import shutil

import numpy as np
import pytest
from PIL import Image

from toolkit.train.dataset import load_folder
from toolkit.train.distillation.unlabelled import read_unlabelled
from toolkit.xray.labels import label_map

PARTS = [f"{part}/{grade}" for part in ("train", "val") for grade in (0, 2, 3, 4)]
STUDY = label_map("study")


@pytest.fixture
def folder(png_folder):
    """Graded X-rays, each of a patient of its own, and some of grade 1."""
    graded = [f"{part}/900000{index}L" for index, part in enumerate(PARTS)]
    others = ["train/1/9000000R", "train/1/9000004R", "train/1/9000050L", "val/1/9000051L"]
    return png_folder(*graded, *others)


def keys(pixels):
    return {xray.numpy().tobytes() for xray in pixels}


def read(path):
    return np.asarray(Image.open(path)).tobytes()


def test_nobody_kept_from_training_is_learnt_from(folder):
    dataset = load_folder(folder, STUDY, None)
    found = read_unlabelled(folder, dataset)
    # 9000004 is a patient of val, and 9000051L lies in val.
    wanted = {read(folder / f"train/1/{name}.png") for name in ("9000000R", "9000050L")}
    assert keys(found) == wanted


def test_no_picture_kept_from_training_is_learnt_from_mirrored_or_not(folder):
    shutil.copy(folder / "val/0/9000004L.png", folder / "train/1/9000060L.png")
    mirrored = np.asarray(Image.open(folder / "val/2/9000005L.png"))[:, ::-1]
    Image.fromarray(mirrored).save(folder / "train/1/9000061L.png")
    found = read_unlabelled(folder, load_folder(folder, STUDY, None))
    assert len(found) == 2


def test_a_file_that_is_refused_is_left_out(folder):
    (folder / "train/1/9000070L.png").write_bytes(b"no picture")
    assert len(read_unlabelled(folder, load_folder(folder, STUDY, None))) == 2


def test_without_any_there_are_none(folder):
    five = label_map("five")
    found = read_unlabelled(folder, load_folder(folder, five, None))
    assert found.shape == (0, 224, 224)


def test_a_cache_keeps_them(folder, tmp_path):
    dataset = load_folder(folder, STUDY, None)
    first = read_unlabelled(folder, dataset, tmp_path / "cache")
    assert [*(tmp_path / "cache").glob("*.npz")]
    assert keys(read_unlabelled(folder, dataset, tmp_path / "cache")) == keys(first)
