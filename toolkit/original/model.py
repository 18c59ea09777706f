"""The study's checkpoint as a model of this toolkit: its labels, its files, its manifest."""

import platform
from collections.abc import Callable
from pathlib import Path

from toolkit.errors import UsageError
from toolkit.extras import versions
from toolkit.files import held_signals, sha256
from toolkit.model import manifest
from toolkit.model.files import ModelFiles
from toolkit.original.checkpoint import OriginalModel
from toolkit.train import checkpoint
from toolkit.train.finish import keep_previous
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


def save(
    original: OriginalModel,
    labels: LabelMap,
    source: Path,
    files: ModelFiles,
    notice: Callable[[str], None],
) -> manifest.Manifest:
    """Write NAME.pt and NAME.json, and return the manifest.

    What the file of the study does not say, such as the X-rays, stays unknown.

    Args:
        original: what the file holds.
        labels: what its classes mean.
        source: the file.
        files: of the model.
        notice: is told of a former model, which is kept as NAME.previous.*.

    Raises:
        UsageError: the folder cannot be written.
    """
    with held_signals():
        if keep_previous(files):
            notice(f"the former {files.name} is kept as {files.previous.name}.*")
        checkpoint.save(original.state, files.checkpoint)
        record = _record(original, labels, source, files)
        manifest.save(record, files.manifest)
    return record


def _record(
    original: OriginalModel, labels: LabelMap, source: Path, files: ModelFiles
) -> manifest.Manifest:
    return manifest.Manifest(
        name=files.name,
        labels=labels,
        preprocessing=STUDY_EDGES,
        dataset=None,
        network=manifest.NetworkRecord(
            layer_size=original.layer_size,
            dropout=original.dropout,
            parameters=sum(weights.numel() for weights in original.state.values()),
        ),
        training=manifest.TrainingRecord(
            checkpoint_sha256=sha256(files.checkpoint),
            recipe={
                "preset": "imported",
                "file": source.name,
                "file_sha256": original.sha256,
                "notices": list(original.notices),
            },
            seed=None,
            device="unknown",
            epochs=None,
            versions={"python": platform.python_version()}
            | versions("toolkit", "torch", "numpy", "pillow"),
            metrics={},
        ),
    )
