"""Models that others learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.errors import UsageError
from toolkit.model import manifest
from toolkit.model.files import ModelFiles, checked_name
from toolkit.networks.base import Classifier, place
from toolkit.train.checkpoint import load_trained
from toolkit.train.dataset import Dataset


@dataclass(frozen=True)
class Teacher:
    """A trained model.

    Attributes:
        name: of the model.
        checkpoint_sha256: of its weights.
        classifier: in evaluation mode.
        train_sha256: of the names and classes of the X-rays that it was trained on; None where
            that is not known.
    """

    name: str
    checkpoint_sha256: str
    classifier: Classifier
    train_sha256: str | None


def load_teachers(
    names: str | None, models: Path, dataset: Dataset, device: torch.device
) -> list[Teacher]:
    """Return models that answer X-rays like those of a dataset.

    Args:
        names: of the models, with commas between them; None for no model.
        models: the folder that they lie in.
        dataset: of the training.
        device: where they are to run.

    Raises:
        CheckpointError, DefinitionError, ManifestError: a model cannot be loaded.
        UsageError: one is named twice, or it has other classes or takes other X-rays.
    """
    if names is None:
        return []
    several = [checked_name(name.strip()) for name in names.split(",")]
    if len(set(several)) < len(several):
        raise UsageError(f"--teachers names a model twice: {names}")
    return [_load(ModelFiles(models, name), dataset, device) for name in several]


def _load(files: ModelFiles, dataset: Dataset, device: torch.device) -> Teacher:
    record = manifest.load(files.manifest)
    classes, wanted = record.labels.classes, dataset.label_map.classes
    if classes != wanted:
        raise UsageError(
            f"the teacher {files.name} has the classes {', '.join(classes)}, the data "
            f"{', '.join(wanted)}: they must be the same, in the same order"
        )
    shape = tuple(dataset.pixels.shape[1:])
    if record.network.xray_shape != shape:
        raise UsageError(
            f"the teacher {files.name} takes X-rays of {record.network.xray_shape}, the network "
            f"of {shape}: they must be the same"
        )
    classifier = load_trained(files, record).to(device)
    place(classifier.network, device)
    known = record.dataset.part_sha256.get("train") if record.dataset else None
    return Teacher(files.name, record.training.checkpoint_sha256, classifier, known)


def doubts(teachers: Sequence[Teacher], dataset: Dataset) -> list[str]:
    """Return why figures on the parts kept from training may flatter, a line for each teacher."""
    own = dataset.part_sha256("train")
    return [
        f"the teacher {teacher.name} was not trained on these very X-rays: it may know those of "
        "other parts, and figures on them may flatter"
        for teacher in teachers
        if teacher.train_sha256 != own
    ]
