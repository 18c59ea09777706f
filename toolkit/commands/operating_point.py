"""`toolkit operating-point`: from which probability on a model of two classes decides on one."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.commands.options.common import (
    CacheOption,
    GroupsOption,
    ModelLabelsOption,
    PositiveOption,
)
from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import DataError, UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles

if TYPE_CHECKING:
    from toolkit.model.manifest import Manifest
    from toolkit.train.dataset import Dataset
    from toolkit.train.operating_point import Target
    from toolkit.train.training import Training
    from toolkit.xray.labels import LabelMap


def operating_point(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="FIGURE=X", help="What to reach on val: sensitivity=0.95, or specificity=..."
        ),
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Graded X-rays, with a part val.")],
    positive: PositiveOption = None,
    labels: ModelLabelsOption = None,
    groups: GroupsOption = None,
    cache: CacheOption = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Choose NAME's operating point on val anew; it is exported again after that."""
    require("torch", "train")
    from toolkit.model import manifest
    from toolkit.train.checkpoint import load_trained
    from toolkit.train.evaluation import load_as_trained, logits_of, part_indices, truth_of
    from toolkit.train.operating_point import parse_target, with_operating_point
    from toolkit.xray.annotations.sources import read_annotations

    console = Console(as_json)
    files = ModelFiles(models, name)
    record = manifest.load(files.manifest)
    asked = parse_target(target, positive, record.labels.classes)
    dataset = load_as_trained(data, record, "val", read_annotations(labels, groups), cache)
    for warning in dataset.warnings:
        console.notice(f"warning: {warning}")
    part_indices(dataset, "val")
    logits = logits_of(load_trained(files, record), dataset, "val")
    former = record
    record = with_operating_point(former, logits, truth_of(dataset, "val"), asked)
    manifest.save_over(record, former, files.manifest)
    point = record.operating_point
    assert point
    console.result(
        {"name": name, "manifest": str(files.manifest), "operating_point": asdict(point)},
        f"{point.description()}\nnext  toolkit export onnx {name}",
    )


def target_of(text: str | None, positive: str | None, labels: "LabelMap") -> "Target | None":
    """Return what `--operating-point` and `--positive` ask for; None without the former.

    Raises:
        UsageError: they ask for nothing that there is.
    """
    from toolkit.train.operating_point import parse_target

    if text is not None:
        return parse_target(text, positive, labels.classes)
    if positive is not None:
        raise UsageError("--positive is of an operating point: give --operating-point too")
    return None


def require_choice(dataset: "Dataset", target: "Target | None") -> None:
    """Make sure, before anything is trained, that an operating point can be chosen on `val`.

    Raises:
        DataError: one is asked for, and `val` lacks a class or is not there.
    """
    from toolkit.train.operating_point import require_both

    if target:
        classes = dataset.label_map.classes
        counts = dataset.counts("val") if "val" in dataset.parts else (0,) * len(classes)
        require_both(counts, classes, "val")


def choose_after(
    training: "Training", record: "Manifest", files: ModelFiles, target: "Target"
) -> "Manifest":
    """Choose the operating point of a trained model, saved already; return its manifest.

    Raises:
        DataError: `val` does not reach the target; the model stays as it was saved.
    """
    from toolkit.model import manifest
    from toolkit.train.evaluation import logits_of, truth_of
    from toolkit.train.operating_point import with_operating_point

    logits = logits_of(training.classifier, training.dataset, "val")
    try:
        record = with_operating_point(record, logits, truth_of(training.dataset, "val"), target)
    except DataError as error:
        raise DataError(
            f"{error}; {files.name} is saved without an operating point, and `toolkit "
            f"operating-point {files.name}` gives it one"
        ) from error
    manifest.save(record, files.manifest)
    return record
