"""The study's checkpoint as a model of this toolkit: its labels and its manifest."""

from pathlib import Path

from toolkit.errors import UsageError, printable
from toolkit.model import manifest, records
from toolkit.original.checkpoint import OriginalModel
from toolkit.train.recipes import STUDY_EDGES
from toolkit.xray.labels import LABEL_MAPS, LabelMap


def choose_labels(said: LabelMap | None, classes: int) -> LabelMap:
    """Return the labels that were said, or else the first map with so many classes.

    Raises:
        UsageError: they are another number of classes, or no map has so many.
    """
    known = list(LABEL_MAPS.values()) if said is None else [said]
    for labels in known:
        if len(labels.classes) == classes:
            return labels
    counts = ", ".join(f"{labels.name} has {len(labels.classes)}" for labels in known)
    raise UsageError(f"the model has {classes} classes, which these labels do not fit: {counts}")


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
        network=records.NetworkRecord(
            original.layer_size,
            original.dropout,
            sum(each.numel() for each in original.state.values()),
        ),
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
