"""What trained networks say of the training X-rays, for another one to go by beside the labels.

A label is one reader's opinion; what an ensemble of networks makes of all of them is less noisy,
and says how near an X-ray is to the next class. Hinton et al., "Distilling the knowledge in a
neural network", 2015. X-rays of the grades that are in no class get the teachers' opinion alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolkit import manifest
from toolkit.checkpoint import load_trained
from toolkit.dataset import Dataset
from toolkit.errors import ImageError, UsageError
from toolkit.folders import decoded, patient_of, patient_part, scan
from toolkit.images import SIZE
from toolkit.manifest import TeachingRecord
from toolkit.network import IntermediarySpaceModel
from toolkit.prediction import predict
from toolkit.preprocessing import Preprocessing
from toolkit.store import ModelFiles


@dataclass(frozen=True)
class Teacher:
    """A trained network with its preprocessing, and the temperature of its probabilities."""

    name: str
    sha256: str
    temperature: float
    network: IntermediarySpaceModel
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Lessons:
    """What teachers say of the training X-rays.

    Attributes:
        opinions: of the training part in its order, float32 (N, C); each row adds up to 1.
        unlabelled: X-rays of no class, uint8 (M, 224, 224).
        unlabelled_opinions: of those, float32 (M, C).
        record: what the manifest keeps.
    """

    opinions: Tensor
    unlabelled: Tensor
    unlabelled_opinions: Tensor
    record: TeachingRecord

    def added(self, count: int) -> Tensor:
        """Return the indices of the X-rays of no class behind `count` others, int64 (M,)."""
        return torch.arange(count, count + len(self.unlabelled))

    def targets(self, dataset: Dataset, share: float) -> Tensor:
        """Return what to learn of each X-ray, float32 (N + M, C).

        Args:
            dataset: N X-rays; the rows of those that are not of its part `train` are zero.
            share: of the teachers' opinion, in [0, 1]; the label has the rest.
        """
        classes = self.opinions.shape[1]
        targets = torch.zeros(len(dataset.labels), classes)
        train = dataset.parts["train"]
        labels = functional.one_hot(dataset.labels[train], classes).float()
        targets[train] = (1 - share) * labels + share * self.opinions
        return torch.cat([targets, self.unlabelled_opinions])


def load_teacher(files: ModelFiles, dataset: Dataset) -> Teacher:
    """Return a model as a teacher.

    Raises:
        ManifestError, CheckpointError: there is no such model, or it is corrupt.
        UsageError: it has other classes than the data, or learned from X-rays that the data
            holds out.
    """
    record = manifest.load(files.manifest)
    if record.labels != dataset.label_map:
        raise UsageError(
            f"{files.name} cannot teach: its labels are {record.labels.name!r}, those of the data "
            f"{dataset.label_map.name!r}"
        )
    taught = record.dataset.part_sha256.get("train") if record.dataset else None
    if taught != dataset.part_sha256("train"):
        raise UsageError(
            f"{files.name} cannot teach: it was trained on other X-rays than this data's part "
            "train, so it may have seen those held out; train it on the same --data and --split"
        )
    network = load_trained(files, record)
    digest = record.training.checkpoint_sha256
    preprocessing = Preprocessing(record.preprocessing)
    return Teacher(files.name, digest, record.temperature, network, preprocessing)


def taught(
    teachers: Sequence[Teacher], dataset: Dataset, unlabelled: Tensor, device: torch.device
) -> Lessons:
    """Ask teachers for their opinion of the training X-rays and of those of no class.

    Args:
        teachers: one or more.
        dataset: with a part `train`.
        unlabelled: uint8 (M, 224, 224).
        device: where they run.
    """
    train = dataset.pixels[dataset.parts["train"]]
    said = _opinions(teachers, torch.cat([train, unlabelled]), device)
    record = TeachingRecord(
        teachers={each.name: each.sha256 for each in teachers},
        unlabelled=len(unlabelled),
        unlabelled_sha256=hashlib.sha256(unlabelled.numpy().tobytes()).hexdigest(),
    )
    return Lessons(said[: len(train)], unlabelled, said[len(train) :], record)


def unlabelled_xrays(folder: Path, dataset: Dataset, seed: int = 0) -> Tensor:
    """Return the X-rays whose grade is in no class, uint8 (M, 224, 224).

    Only of patients of whom nothing is held out for validation or test. A file that is refused
    is left out.

    Args:
        folder: the one that `dataset` was read from.
        dataset: whose classes and split decide.
        seed: of a `patient` split.
    """
    held_out = {
        patient_of(dataset.names[index])
        for part, indices in dataset.parts.items()
        if part != "train"
        for index in indices.tolist()
    }
    files = [
        file
        for file in scan(folder)
        if dataset.label_map.class_of(file.grade) is None
        and file.patient not in held_out
        and (dataset.split != "published" or file.part == "train")
        and (dataset.split != "patient" or patient_part(file.patient, seed) == "train")
    ]
    pixels = [result for _, result in decoded(files) if not isinstance(result, ImageError)]
    stacked = np.stack(pixels) if pixels else np.empty((0, SIZE, SIZE), np.uint8)
    return torch.from_numpy(stacked)


def _opinions(teachers: Sequence[Teacher], pixels: Tensor, device: torch.device) -> Tensor:
    """Return mean probabilities of X-rays and their mirror images, float32 (N, C), on the CPU."""
    pixels = pixels.to(device)
    total = torch.zeros(())
    for teacher in teachers:
        network, preprocessing = teacher.network.to(device), teacher.preprocessing.to(device)
        for each in (pixels, pixels.flip(2)):
            logits = predict(network, preprocessing, each)
            total = total + (logits / teacher.temperature).softmax(dim=1)
    return total / (2 * len(teachers))
