"""What TensorBoard shows of a training beside its curves: samples, confusions, weights."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from toolkit.extras import require
from toolkit.model import metrics
from toolkit.train.health import denormal
from toolkit.train.training import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

EVERY = 5
_SAMPLES = 8


def add_samples(writer: "SummaryWriter", training: Training) -> None:
    """Write some training X-rays of every class, each above its edge map."""
    indices = training.dataset.parts["train"]
    labels = training.dataset.labels[indices]
    for index, name in enumerate(training.dataset.label_map.classes):
        chosen = indices[labels == index][:_SAMPLES]
        if not len(chosen):
            continue
        xrays = training.dataset.pixels[chosen].to(training.device)
        both = torch.cat([xrays, training.preprocessing.edge_map(xrays)], dim=1)
        writer.add_images(f"samples/{name}", both[:, None].cpu(), 0)


def add_state(writer: "SummaryWriter", training: Training, epoch: int) -> None:
    """Write how validation X-rays are confused, and how the weights are spread, after an epoch."""
    if training.val_predicted is not None:
        dataset = training.dataset
        classes = dataset.label_map.classes
        labels = dataset.labels[dataset.parts["val"]].numpy()
        result = metrics.evaluate(labels, training.val_predicted.numpy(), len(classes), resamples=1)
        figure = _confusion(result.confusion_matrix, classes)
        writer.add_figure("val/confusion", figure, epoch)
        writer.add_text("val/report", _report(result, classes), epoch)
    values = []
    for name, parameter in training.result.named_parameters():
        weights = parameter.detach().flatten().cpu()
        writer.add_histogram(f"weights/{name}", weights, epoch)
        values.append(weights)
    share = float(denormal(torch.cat(values)).double().mean())
    writer.add_scalar("weights/denormal_share", share, epoch)


def _confusion(matrix: tuple[tuple[int, ...], ...], classes: tuple[str, ...]) -> "Figure":
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.5), layout="tight")
    panel = figure.subplots()
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        panel.text(column, row, str(count), ha="center", va="center", color=colour)
    panel.set_xticks(range(len(classes)), classes)
    panel.set_yticks(range(len(classes)), classes)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    return figure


def _report(result: metrics.Evaluation, classes: tuple[str, ...]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    rows = [
        f"| {name} | {shown(recall)} | {shown(precision)} |"
        for name, recall, precision in zip(classes, result.recall, result.precision, strict=True)
    ]
    head = f"accuracy {result.accuracy:.1%} of {result.n} X-rays"
    return "\n".join([head, "", "| class | recall | precision |", "|---|---|---|", *rows])
