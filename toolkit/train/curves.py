"""Training curves for TensorBoard."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from toolkit.errors import UsageError
from toolkit.train.training import Epoch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Writes one point for each epoch, as it comes.

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
        except UsageError:
            threading.excepthook = self._former_hook
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Of a full disk it would say once more what has been said.
        with suppress(OSError) if error else nullcontext():
            self._writer.close()
        threading.excepthook = self._former_hook

    def add(self, epoch: Epoch) -> None:
        """Write the accuracies (0 to 1), losses and learning rate of an epoch."""
        points = {
            "accuracy/train": epoch.train_accuracy,
            "accuracy/val": epoch.val_accuracy,
            "loss/train_mean": epoch.train_loss,
            "loss/train_last_batch": epoch.last_batch_loss,
            "loss/val": epoch.val_loss,
            "learning_rate": epoch.lr,
        }
        with self.writing() as writer:
            for name, value in points.items():
                if value is not None:
                    writer.add_scalar(name, value, epoch.epoch)

    @contextmanager
    def writing(self) -> "Iterator[SummaryWriter]":
        """Yield what else may be written with, into the same run; on disk when the block ends.

        Raises:
            UsageError: the folder cannot be written.
        """
        with _naming(self._folder):
            yield self._writer
            self._writer.flush()

    def add_hparams(self, settings: dict[str, Any], figures: dict[str, float]) -> None:
        """Write a run's settings and what it came to, for TensorBoard's HParams page.

        Args:
            settings: by name; what is neither number nor text is left out.
            figures: by name.
        """
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)}
        with self.writing() as writer:
            for summary in hparams(plain, figures):  # type: ignore[no-untyped-call]
                writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
            for name, value in figures.items():
                writer.add_scalar(name, value)


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
