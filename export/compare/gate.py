"""What a file of lower precision is judged by: whether graded X-rays keep their class and scope.

It compares two functions, not their skill, so the X-rays of the training serve as well as others.
"""

from dataclasses import dataclass, replace
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
        pixels: those to judge by, uint8 (N, size, size).
        labels: their classes, int64 (N,).
        trained: which of them are of the training part as well, bool (N,).
        ordinal: whether classes are in an order: else there is no kappa to judge by.
    """

    calibration: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    trained: NDArray[np.bool_]
    ordinal: bool = True

    def held_out(self) -> "GateSamples":
        """Return the same without those of the training part: skill can be told of the others.

        Raises:
            DataError: there are no others.
        """
        kept = ~self.trained
        if not kept.any():
            raise DataError("there are no graded X-rays of val or test: give some with --data")
        pixels, labels, trained = self.pixels[kept], self.labels[kept], self.trained[kept]
        return replace(self, pixels=pixels, labels=labels, trained=trained)


def gate_samples(data: Path, record: Manifest, said: Annotations = NOTHING) -> GateSamples:
    """Read the graded X-rays of a folder, split as they were for the training.

    Calibrated with are 300 X-rays that are spread over the part `train`; all others judge.

    Args:
        data: the folder.
        record: of the model.
        said: tables beside the folder, where the training had some, or others have.

    Raises:
        DataError: the folder cannot be used, or has none to calibrate with or to judge by.
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
    train = dataset.parts.get("train", torch.empty(0, dtype=torch.int64))
    places = torch.linspace(0, len(train) - 1, min(_CALIBRATION, len(train))).round().long()
    calibrating = train[places]
    judging = torch.zeros(len(dataset.labels), dtype=torch.bool)
    judging[torch.cat(list(dataset.parts.values()))] = True
    judging[calibrating] = False
    if not len(calibrating) or not judging.any():
        raise DataError(
            f"{data} has the parts {', '.join(dataset.parts)}: a lower precision needs graded "
            f"X-rays of train, {_CALIBRATION} at most, to calibrate with, and others to judge by"
        )
    trained = torch.zeros_like(judging)
    trained[train] = True
    return GateSamples(
        dataset.pixels[calibrating].numpy(),
        dataset.pixels[judging].numpy(),
        dataset.labels[judging].numpy(),
        trained[judging].numpy(),
        record.labels.graded,
    )


def gate(
    reference_logits: NDArray[Any],
    logits: NDArray[Any],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    ordinal: bool = True,
) -> Gate:
    """Judge logits by the classes that they come to, no finer than the X-rays allow.

    At least 99.5 % of the X-rays keep their class; kappa is within 0.5 points of the reference's,
    and so is each class's recall, or within one X-ray of it, whichever is more. Without graded
    X-rays nothing passes.

    Args:
        reference_logits: of graded X-rays, float (N, C).
        logits: of the same X-rays from the file to judge, float (N, C).
        labels: their true classes, integers (N,).
        classes: the C names.
        ordinal: whether they are in an order.
    """
    counts = tuple(np.bincount(labels, minlength=len(classes)).tolist())
    unknown = Gate(len(labels), 0.0, None, (None,) * len(classes), (), counts)
    if not len(labels):
        return replace(unknown, failures=(NO_XRAYS,))
    if logits.shape != reference_logits.shape or not np.isfinite(logits).all():
        line = f"logits of graded X-rays are not finite, or not of shape {reference_logits.shape}"
        return replace(unknown, failures=(line,))
    before, after = reference_logits.argmax(axis=1), logits.argmax(axis=1)
    old, new = (
        evaluate(labels, predicted, len(classes), resamples=1, ordinal=ordinal)
        for predicted in (before, after)
    )
    kappa = _points(old.quadratic_weighted_kappa, new.quadratic_weighted_kappa)
    recall = tuple(map(_points, old.recall, new.recall))
    result = Gate(len(labels), float((before == after).mean()), kappa, recall, (), counts)
    failures = []
    if result.agreement < AGREEMENT:
        failures.append(
            f"{int((before != after).sum())} of {len(labels)} graded X-rays change their class: "
            f"{result.agreement:.2%} agree, allowed are {AGREEMENT:.1%} or more"
        )
    if (old.quadratic_weighted_kappa is None) != (new.quadratic_weighted_kappa is None):
        failures.append("kappa is defined for one of the two only")
    names = ("kappa", *(f"recall of {name}" for name in classes))
    steps = (0.0, *(step or 0.0 for step in result.one_xray_points))
    for name, step, points in zip(names, steps, (kappa, *recall), strict=True):
        allowed = max(POINTS, step)
        if points is not None and abs(points) > allowed + 1e-9:
            failures.append(f"{name} differs by {points:+.2f} points, allowed are {allowed:.3g}")
    return replace(result, failures=tuple(failures))


def with_scope(
    result: Gate, reference_novelty: NDArray[Any], novelty: NDArray[Any], limit: float
) -> Gate:
    """Return a verdict that judges `in_scope` as well: the same for at least 99.5 % of the X-rays.

    Args:
        result: of the same X-rays' classes.
        reference_novelty: of these X-rays, float (N,).
        novelty: from the file to judge, float (N,).
        limit: up to which an X-ray is in scope.
    """
    if not len(novelty):
        return result
    # A NaN is in no scope, and to be told from what PyTorch leaves out.
    same = ((novelty <= limit) == (reference_novelty <= limit)) & np.isfinite(novelty)
    result = replace(result, scope_agreement=float(same.mean()))
    if same.mean() >= AGREEMENT:
        return result
    line = (
        f"{int((~same).sum())} of {len(same)} graded X-rays change their in_scope: "
        f"{same.mean():.2%} agree, allowed are {AGREEMENT:.1%} or more"
    )
    return replace(result, failures=(*result.failures, line))


def _points(old: float | None, new: float | None) -> float | None:
    return None if old is None or new is None else 100 * (new - old)
