"""What a file of lower precision is judged by: whether graded X-rays keep their class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.errors import DataError
from toolkit.model.equivalence import Gate
from toolkit.model.manifest import Manifest
from toolkit.model.metrics import evaluate
from toolkit.train.dataset import load_folder
from toolkit.train.recipes import SPLITS
from toolkit.xray.annotations.sources import NOTHING, Annotations

AGREEMENT = 0.995
POINTS = 0.5
NO_XRAYS = "there are no graded X-rays to judge by: give some with --data"
_CALIBRATION = 300


@dataclass(frozen=True)
class GateSamples:
    """X-rays with their classes, apart from those to calibrate with.

    Attributes:
        calibration: of the training part, uint8 (M, size, size).
        pixels: of the part to judge by, uint8 (N, size, size).
        labels: their classes, int64 (N,).
        ordinal: whether classes are in an order: else there is no kappa to judge by.
    """

    calibration: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ordinal: bool = True


def gate_samples(data: Path, record: Manifest, said: Annotations = NOTHING) -> GateSamples:
    """Read the graded X-rays of a folder, split as they were for the training.

    Judged is by the part `val`, or `test` where there is none; calibrated with 300 X-rays that
    are spread over the part `train`.

    Args:
        data: the folder.
        record: of the model.
        said: tables beside the folder, where the training had some, or others have.

    Raises:
        DataError: the folder cannot be used, or has no such parts.
    """
    split = record.dataset.split if record.dataset else None
    seed = record.training.seed or 0
    rule = said.rule(record.dataset.patient_pattern if record.dataset else None)
    known, shape = split if split in SPLITS else None, record.network.xray_shape
    labels = said.labels_for(record.labels, data)
    dataset = load_folder(data, labels, known, seed, rule, shape=shape, table=said.table)
    if record.dataset and record.dataset.patient_table and split == "patient":
        here = {part: dataset.part_sha256(part) for part in dataset.parts}
        if here != record.dataset.part_sha256:
            raise DataError(
                f"{record.name} was trained with a table of patients, and {data} is split another "
                f"way {f'with {said.groups}' if said.groups else 'without'}: give that table with "
                "--groups or --labels"
            )
    part = next((part for part in ("val", "test") if part in dataset.parts), None)
    if part is None or "train" not in dataset.parts:
        raise DataError(
            f"{data} has the parts {', '.join(dataset.parts)}: a lower precision needs graded "
            "X-rays of train to calibrate with, and of val or test to judge by"
        )
    train, judged = dataset.parts["train"], dataset.parts[part]
    places = torch.linspace(0, len(train) - 1, min(_CALIBRATION, len(train))).round().long()
    return GateSamples(
        dataset.pixels[train[places]].numpy(),
        dataset.pixels[judged].numpy(),
        dataset.labels[judged].numpy(),
        record.labels.graded,
    )


def gate(
    reference_logits: NDArray[Any],
    logits: NDArray[Any],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    ordinal: bool = True,
) -> Gate:
    """Judge logits by the classes that they come to.

    At least 99.5 % of the X-rays keep their class, and kappa and each class's recall are within
    0.5 points of the reference's. Without graded X-rays nothing passes.

    Args:
        reference_logits: of graded X-rays, float (N, C).
        logits: of the same X-rays from the file to judge, float (N, C).
        labels: their true classes, integers (N,).
        classes: the C names.
        ordinal: whether they are in an order.
    """
    if not len(labels):
        return Gate(0, 0.0, None, (None,) * len(classes), (NO_XRAYS,))
    if logits.shape != reference_logits.shape or not np.isfinite(logits).all():
        line = f"logits of graded X-rays are not finite, or not of shape {reference_logits.shape}"
        return Gate(len(labels), 0.0, None, (None,) * len(classes), (line,))
    before, after = reference_logits.argmax(axis=1), logits.argmax(axis=1)
    old, new = (
        evaluate(labels, predicted, len(classes), resamples=1, ordinal=ordinal)
        for predicted in (before, after)
    )
    agreement = float((before == after).mean())
    kappa = _points(old.quadratic_weighted_kappa, new.quadratic_weighted_kappa)
    recall = tuple(map(_points, old.recall, new.recall))
    failures = []
    if agreement < AGREEMENT:
        failures.append(
            f"{int((before != after).sum())} of {len(labels)} graded X-rays change their class: "
            f"{agreement:.2%} agree, allowed are {AGREEMENT:.1%} or more"
        )
    if (old.quadratic_weighted_kappa is None) != (new.quadratic_weighted_kappa is None):
        failures.append("kappa is defined for one of the two only")
    for name, points in zip(("kappa", *classes), (kappa, *recall), strict=True):
        if points is not None and abs(points) > POINTS + 1e-9:
            what = name if name == "kappa" else f"recall of {name}"
            failures.append(f"{what} differs by {points:+.2f} points, allowed are {POINTS}")
    return Gate(len(labels), agreement, kappa, recall, tuple(failures))


def _points(old: float | None, new: float | None) -> float | None:
    return None if old is None or new is None else 100 * (new - old)
