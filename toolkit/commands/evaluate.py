"""`toolkit evaluate`: how good a model is on graded X-rays."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.commands.options.common import CacheOption, GroupsOption, ModelLabelsOption
from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError, numbered
from toolkit.extras import require
from toolkit.model.files import PIPELINES, ModelFiles, kind_of, located

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolkit.model.manifest import Manifest
    from toolkit.model.metrics import Evaluation
    from toolkit.model.records import OperatingPointRecord
    from toolkit.xray.labels import LabelMap


_TRAINED = (None, "checkpoint", "manifest")
_OF_TWO = ("sensitivity", "specificity")


class Part(StrEnum):
    """Which X-rays to judge by."""

    TEST = "test"
    VAL = "val"
    TRAIN = "train"
    ALL = "all"


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="NAME_OR_PATH", help="A model's name, or one of its files.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Graded X-rays.")],
    part: Annotated[Part, typer.Option(help="Which part of them.")] = Part.TEST,
    labels: ModelLabelsOption = None,
    groups: GroupsOption = None,
    cache: CacheOption = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Print accuracy, kappa, recall, AUROC and more, with 95 % intervals over patients.

    Of two classes also sensitivity and specificity, as the most probable class has them and as the
    operating point does. A path that ends in .pipeline.onnx, of any precision, is judged with ONNX
    Runtime, a name with PyTorch.
    """
    require("torch", "train")
    kind = kind_of(model)
    if kind not in (*_TRAINED, *PIPELINES):
        raise UsageError(f"{model} takes no X-rays: give NAME, or the path of a .pipeline.onnx")
    from toolkit.model import manifest, metrics
    from toolkit.train.evaluation import evaluation_of, load_as_trained, part_indices
    from toolkit.xray.annotations.sources import read_annotations

    console = Console(as_json)
    files = located(model, models)
    record = manifest.load(files.manifest)
    said = read_annotations(labels, groups)
    dataset = load_as_trained(data, record, part.value, said, cache)
    for warning in dataset.warnings:
        console.notice(f"warning: {warning}")
    console.notices(
        dataset.skipped, f"skipped {numbered(len(dataset.skipped), 'file')} that cannot be read"
    )
    indices = part_indices(dataset, part.value)
    if part is Part.ALL and record.dataset:
        console.notice(
            "warning: --part all takes every X-ray, those that the model was trained on too"
        )
    pixels = dataset.pixels[indices].numpy()
    run = _with_onnx if kind in PIPELINES else _with_torch
    probabilities = run(files, record, pixels, kind)
    # The data may call the model's classes otherwise.
    dataset = replace(dataset, label_map=record.labels)
    point = record.operating_point
    positive = point.positive if point else None
    result = evaluation_of(dataset, part.value, probabilities, positive)
    content: dict[str, Any] = {"model": record.name, "part": part.value}
    content["classes"] = record.labels.classes
    content |= metrics.as_dict(result)
    text = _text(result, record.labels)
    if point:
        decided = evaluation_of(
            dataset, part.value, _decided(probabilities, record), point.positive
        )
        content["operating_point"] = _at(point, decided)
        text += f"\n\ndecided on from {point.threshold:.4g} of {point.positive!r} on:"
        text += "".join(f"\n{_figure(decided, name)}" for name in _OF_TWO)
    console.result(content, text)


def _decided(probabilities: "NDArray[np.floating]", record: "Manifest") -> "NDArray[np.float64]":
    """Return probabilities (N, 2) that are 1 for the class that the operating point decides on."""
    import numpy as np

    from toolkit.model.answer import meaning_of

    meaning = meaning_of(record)
    decisions = [meaning.answer(each).decision for each in probabilities]
    return np.array([[float(name == each) for name in meaning.classes] for each in decisions])


def _at(point: "OperatingPointRecord", decided: "Evaluation") -> dict[str, Any]:
    return {
        "positive": point.positive,
        "threshold": point.threshold,
        **{name: getattr(decided, name) for name in (*_OF_TWO, "confusion_matrix")},
        "intervals": {name: decided.intervals[name] for name in _OF_TWO},
    }


def _with_torch(
    files: ModelFiles, record: "Manifest", pixels: "NDArray[np.uint8]", _: str | None
) -> "NDArray[np.floating]":
    """Return calibrated probabilities, float64 (N, C)."""
    import torch

    from toolkit.train.calibration import softmax
    from toolkit.train.checkpoint import load_trained
    from toolkit.train.evaluation import predict

    logits = predict(load_trained(files, record), torch.from_numpy(pixels))
    return softmax(logits.numpy(), record.temperature)


def _with_onnx(
    files: ModelFiles, _: "Manifest", pixels: "NDArray[np.uint8]", kind: str | None
) -> "NDArray[np.floating]":
    """Return the probabilities that the file gives, float32 (N, C)."""
    import numpy as np

    from toolkit.runtime.session import open_model

    assert kind
    predictor = open_model(files.folder, files.name, kind=kind)
    batches = np.array_split(pixels, range(64, len(pixels), 64))
    return np.concatenate([predictor.predict(batch).probabilities for batch in batches])


def _text(result: "Evaluation", labels: "LabelMap") -> str:
    classes = labels.classes
    width = max(len(name) for name in classes)
    lines = [numbered(result.n, "X-ray")]
    singles = ("accuracy", "balanced_accuracy", "quadratic_weighted_kappa", "macro_f1")
    said = [name for name in singles if labels.graded or getattr(result, name) is not None]
    lines += [_figure(result, name) for name in said]
    if result.positive_class is not None:
        lines.append(f"\n{classes[result.positive_class]!r} is sought:")
        lines += [_figure(result, name) for name in _OF_TWO]
    lines.append(f"\n{'':{width}}  recall  precision  predicted as {', '.join(classes)}")
    for index, name in enumerate(classes):
        row = " ".join(f"{count:5d}" for count in result.confusion_matrix[index])
        recall, precision = (
            "   -  " if value is None else f"{value:6.1%}"
            for value in (result.recall[index], result.precision[index])
        )
        lines.append(f"{name:{width}}  {recall}  {precision}     {row}")
    lines.append(f"\n{'':{width}}  {'AUROC':24}  average precision")
    for index, name in enumerate(classes):
        auroc, precision = (_figure(result, each, index) for each in ("auroc", "average_precision"))
        lines.append(f"{name:{width}}  {auroc:24}  {precision}")
    return "\n".join(lines)


def _figure(result: "Evaluation", name: str, index: int | None = None) -> str:
    """Return a figure with its interval, and its name before it; or one of a class alone."""
    value: Any = getattr(result, name)
    interval: Any = result.intervals.get(name)
    title = f"{name.replace('_', ' '):26}"
    if index is not None:
        value, interval, title = value[index], interval[index], ""
    between = f"  ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return title + ("not defined" if value is None else f"{value:.3f}{between}")
