"""What TensorBoard shows of a training: curves, samples, confusions, weights and HParams."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model import metrics
from toolkit.model.manifest import Manifest
from toolkit.train.health import denormal
from toolkit.train.training import Epoch, Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

STATE_EVERY = 5
"""Epochs between two states."""
_SAMPLES = 8
_FINAL = (
    *("accuracy", "balanced_accuracy", "quadratic_weighted_kappa"),
    *("macro_f1", "sensitivity", "specificity"),
)


class Log:
    """Writes what there is to show of a training, as it comes; on disk after each call.

    Args:
        folder: of the event files; made if missing.
        first_epoch: points from here on, left by an interrupted run, are dropped.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with _naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not first_epoch:
                for stale in folder.glob("events.out.tfevents.*"):
                    stale.unlink()
        self._former_hook, threading.excepthook = threading.excepthook, _quiet
        try:
            with _naming(folder):
                self._writer = SummaryWriter(str(folder), purge_step=first_epoch or None)
        except BaseException:
            threading.excepthook = self._former_hook
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            # After an error such as a full disk, closing fails with the same one: raised already.
            with suppress(OSError) if error else _naming(self._folder):
                self._writer.close()
        finally:
            threading.excepthook = self._former_hook

    def add_epoch(self, epoch: Epoch) -> None:
        """Write the accuracies (0 to 1), losses and learning rate of an epoch."""
        points = {
            "accuracy/train": epoch.train_accuracy,
            "accuracy/val": epoch.val_accuracy,
            "loss/train_mean": epoch.train_loss,
            "loss/train_last_batch": epoch.last_batch_loss,
            "loss/val": epoch.val_loss,
            "learning_rate": epoch.lr,
        }
        with self._writing() as writer:
            for name, value in points.items():
                if value is not None:
                    writer.add_scalar(name, value, epoch.epoch)

    def add_samples(self, training: Training) -> None:
        """Write some training X-rays of every class, each above its views."""
        indices = training.dataset.parts["train"]
        labels = training.dataset.labels[indices]
        with self._writing() as writer:
            for index, name in enumerate(training.dataset.label_map.classes):
                chosen = indices[labels == index][:_SAMPLES]
                if len(chosen):
                    xrays = training.dataset.pixels[chosen].to(training.device)
                    views = training.trained.views(xrays)
                    if xrays.ndim == 4:
                        views = tuple(view[..., None].expand_as(xrays) for view in views)
                    shown = torch.cat([xrays, *views], dim=1)
                    shown = shown if shown.ndim == 4 else shown[..., None]
                    writer.add_images(f"samples/{name}", shown.cpu(), 0, dataformats="NHWC")

    def add_state(self, training: Training, epoch: int) -> None:
        """Write how validation X-rays are confused, and how the weights are spread."""
        with self._writing() as writer:
            if training.val_predicted is not None:
                dataset = training.dataset
                classes = dataset.label_map.classes
                labels = dataset.labels[dataset.parts["val"]].numpy()
                predicted = training.val_predicted.numpy()
                result = metrics.evaluate(labels, predicted, len(classes), resamples=1)
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

    def add_hparams(self, settings: dict[str, Any], figures: dict[str, float]) -> None:
        """Write a run's settings and what it came to, for TensorBoard's HParams page.

        Args:
            settings: by name; what is neither number nor text is left out.
            figures: by name.
        """
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)}
        with self._writing() as writer:
            for summary in hparams(plain, figures):  # type: ignore[no-untyped-call]
                writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
            for name, value in figures.items():
                writer.add_scalar(name, value)

    @contextmanager
    def _writing(self) -> "Iterator[SummaryWriter]":
        """Yield what is written with; raise UsageError where the folder cannot be written."""
        with _naming(self._folder):
            yield self._writer
            self._writer.flush()


def _quiet(failure: threading.ExceptHookArgs) -> None:
    """Leave a failure to write to the next call, which raises it; say any other as usual."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turn what a file system refuses into one of our errors."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write logs to {folder}: {error.strerror}; choose another with --logs"
        ) from error


def final_figures(record: Manifest) -> dict[str, float]:
    """Return what a finished training came to on each part, by the names of its HParams."""
    return {
        f"final/{part}_{name}": float(evaluation[name])
        for part, evaluation in record.training.metrics.items()
        for name in _FINAL
        if evaluation[name] is not None
    } | {
        f"final/{part}_mean_{name}": float(np.mean(known))
        for part, evaluation in record.training.metrics.items()
        for name in ("auroc", "average_precision")
        if (known := [each for each in evaluation[name] if each is not None])
    }


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
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    rows = [
        f"| {name} | {percent(recall)} | {percent(precision)} |"
        for name, recall, precision in zip(classes, result.recall, result.precision, strict=True)
    ]
    head = f"accuracy {result.accuracy:.1%} of {result.n} X-rays, macro F1 {result.macro_f1:.3f}"
    return "\n".join([head, "", "| class | recall | precision |", "|---|---|---|", *rows])
