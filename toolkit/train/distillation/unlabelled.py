"""X-rays of no class, which a network can learn from all the same by what its teachers say."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit.errors import ImageError
from toolkit.train.dataset import Dataset
from toolkit.xray.annotations.label_table import LabelTable
from toolkit.xray.annotations.patients import identify_patients
from toolkit.xray.bulk import read_files
from toolkit.xray.copies import picture_key
from toolkit.xray.folders import class_of, scan


def read_unlabelled(
    folder: Path, dataset: Dataset, cache: Path | None = None, table: LabelTable | None = None
) -> Tensor:
    """Return the X-rays of a folder that its labels leave out, uint8 (M, size, size) or in colour.

    Left out are those of patients, and those pictures, that the dataset keeps from training; and
    files that are refused.

    Args:
        folder: that the dataset was read from.
        dataset: of the X-rays with a class.
        cache: folder of decoded pixels, as `toolkit.xray.bulk.read_files` takes it.
        table: which file is of which class, where a table says so.
    """
    files = [
        file
        for file in scan(folder, dataset.label_map, table)
        if class_of(file, dataset.label_map) is None
    ]
    count = len(dataset.files)
    owners = identify_patients([*dataset.files, *files], folder, dataset.rule).keys
    kept = [i for part, places in dataset.parts.items() if part != "train" for i in places.tolist()]
    patients = {owners[place] for place in kept}
    pictures = {picture_key(dataset.pixels[place].numpy()) for place in kept}
    wanted = [
        file
        for file, owner in zip(files, owners[count:], strict=True)
        if file.part in (None, "train") and owner not in patients
    ]
    shape = tuple(dataset.pixels.shape[1:])
    found = [
        pixels
        for _, pixels in read_files(wanted, cache, shape)
        if not isinstance(pixels, ImageError) and picture_key(pixels) not in pictures
    ]
    return torch.from_numpy(np.stack(found) if found else np.empty((0, *shape), np.uint8))
