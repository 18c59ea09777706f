"""`toolkit evaluate`: how good a model is on graded X-rays."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.commands.options import CacheOption, GroupsOption, ModelLabelsOption
from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError, numbered
from toolkit.extras import require
from toolkit.model.files import PIPELINES, ModelFiles, kind_of, located

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolkit.model.manifest import Manifest
    from toolkit.model.metrics import Evaluation


_TRAINED = (None, "checkpoint", "manifest")


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
    """Print accuracy, kappa, recall and precision per class, with 95 % intervals.

    A path that ends in .pipeline.onnx, of any precision, is judged with ONNX Runtime, a name with
    PyTorch.
    """
    require("torch", "train")
    kind = kind_of(model)
    if kind not in (*_TRAINED, *PIPELINES):
        raise UsageError(f"{model} takes no X-rays: give NAME, or the path of a .pipeline.onnx")
    from toolkit.model import manifest, metrics
    from toolkit.train.evaluation import load_as_trained, part_indices
    from toolkit.xray.annotations.said import read_annotations

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
    if kind in PIPELINES:
        predicted = _with_onnx(files, pixels, kind)
    else:
        predicted = _with_torch(files, record, pixels)
    truth = dataset.labels[indices].numpy()
    classes, ordinal = record.labels.classes, record.labels.graded
    result = metrics.evaluate(truth, predicted, len(classes), ordinal=ordinal)
    content = {"model": record.name, "part": part.value, "classes": classes}
    console.result(content | metrics.as_dict(result), _text(result, classes, ordinal))


def _with_torch(
    files: ModelFiles, record: "Manifest", pixels: "NDArray[np.uint8]"
) -> "NDArray[np.int64]":
    import torch

    from toolkit.train.checkpoint import load_trained
    from toolkit.train.evaluation import predict

    logits = predict(load_trained(files, record), torch.from_numpy(pixels))
    predicted: NDArray[np.int64] = logits.argmax(dim=1).numpy()
    return predicted


def _with_onnx(files: ModelFiles, pixels: "NDArray[np.uint8]", kind: str) -> "NDArray[np.int64]":
    import numpy as np

    from toolkit.runtime.session import open_model

    predictor = open_model(files.folder, files.name, kind=kind)
    batches = np.array_split(pixels, range(64, len(pixels), 64))
    return np.concatenate(
        [predictor.predict(batch).probabilities.argmax(axis=1) for batch in batches]
    )


def _text(result: "Evaluation", classes: tuple[str, ...], ordinal: bool) -> str:
    def percent(value: float | None) -> str:
        return "   -  " if value is None else f"{value:6.1%}"

    width = max(len(name) for name in classes)
    lines = [numbered(result.n, "X-ray")]
    for name in ("accuracy", "balanced_accuracy", "quadratic_weighted_kappa"):
        value, interval = getattr(result, name), result.intervals.get(name)
        if value is None and not ordinal:
            continue
        figure = "-" if value is None else f"{value:.3f}"
        between = f"  ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        lines.append(f"{name.replace('_', ' '):26}{figure}{between}")
    lines.append(f"\n{'':{width}}  recall  precision  predicted as {', '.join(classes)}")
    for index, name in enumerate(classes):
        row = " ".join(f"{count:5d}" for count in result.confusion_matrix[index])
        lines.append(
            f"{name:{width}}  {percent(result.recall[index])}  {percent(result.precision[index])}"
            f"     {row}"
        )
    return "\n".join(lines)
