"""Graded X-rays that a file of lower precision is calibrated with and judged by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.errors import DataError
from toolkit.model.manifest import Manifest
from toolkit.train.dataset import Dataset, load_folder
from toolkit.train.recipes import SPLITS
from toolkit.xray.patients import PatientRule

_CALIBRATION = 300


@dataclass(frozen=True)
class Graded:
    """X-rays with their classes, apart from those to calibrate with.

    Attributes:
        calibration: of the training part, uint8 (M, 224, 224).
        pixels: of the part to judge by, uint8 (N, 224, 224).
        labels: their classes, int64 (N,).
    """

    calibration: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def graded(data: Path, record: Manifest) -> Graded:
    """Read the graded X-rays of a folder, split as they were for the training.

    Judged is by the part `val`, or `test` where there is none; calibrated with 300 X-rays that
    are spread over the part `train`.

    Raises:
        DataError: the folder cannot be used, or has no such parts.
    """
    split = record.dataset.split if record.dataset else None
    seed = record.training.seed or 0
    rule = PatientRule(record.dataset.patient_pattern if record.dataset else None)
    dataset = load_folder(data, record.labels, split if split in SPLITS else None, seed, rule)
    if record.dataset and record.dataset.patient_table and split == "patient":
        here = {part: dataset.part_sha256(part) for part in dataset.parts}
        if here != record.dataset.part_sha256:
            raise DataError(
                f"{record.name} was trained with --groups, without which {data} is split another "
                "way: a lower precision needs patients that names, folders or --patients show"
            )
    judged = next((part for part in ("val", "test") if part in dataset.parts), None)
    if judged is None or "train" not in dataset.parts:
        raise DataError(
            f"{data} has the parts {', '.join(dataset.parts)}: a lower precision needs graded "
            "X-rays of train to calibrate with, and of val or test to judge by"
        )
    train = dataset.parts["train"]
    places = torch.linspace(0, len(train) - 1, min(_CALIBRATION, len(train))).round().long()
    return Graded(_pixels(dataset, train[places]), *_part(dataset, judged))


def _part(dataset: Dataset, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    indices = dataset.parts[part]
    labels: NDArray[np.int64] = dataset.labels[indices].numpy()
    return _pixels(dataset, indices), labels


def _pixels(dataset: Dataset, indices: torch.Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = dataset.pixels[indices].numpy()
    return pixels
