"""The study's checkpoint as a model of this toolkit: its labels and its manifest."""

from pathlib import Path

from toolkit.errors import UsageError, printable
from toolkit.model import manifest, records
from toolkit.original.checkpoint import OriginalModel
from toolkit.train.recipes import STUDY_EDGES
from toolkit.xray.labels import LABEL_MAPS, LabelMap


def choose_labels(name: str | None, classes: int) -> LabelMap:
    """Return the label map called `name`, or else the first with so many classes.

    Raises:
        UsageError: it has another number of classes, or none has so many.
    """
    for labels in LABEL_MAPS.values():
        if len(labels.classes) == classes and name in (None, labels.name):
            return labels
    known = ", ".join(f"{m.name} has {len(m.classes)}" for m in LABEL_MAPS.values())
    raise UsageError(f"the model has {classes} classes, which these labels do not fit: {known}")


def known_record(
    original: OriginalModel, labels: LabelMap, source: Path, name: str
) -> manifest.Manifest:
    """Return what is known of the model, for `toolkit.train.finish.save_model`.

    What the file of the study does not say, such as the X-rays, stays unknown.

    Args:
        original: what the file holds.
        labels: what its classes mean.
        source: the file.
        name: of the model.
    """
    return manifest.Manifest(
        name=name,
        labels=labels,
        preprocessing=STUDY_EDGES,
        dataset=None,
        network=records.NetworkRecord(original.layer_size, original.dropout, parameters=0),
        training=records.TrainingRecord(
            checkpoint_sha256="",
            recipe={
                "preset": "imported",
                "file": printable(source.name),
                "file_sha256": original.sha256,
                "notices": list(original.notices),
            },
            seed=None,
            device="unknown",
            epochs=None,
            versions={},
            metrics={},
        ),
    )
