"""Where a model's TensorBoard log lies, and where the log of the model before it is kept."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UsageError
from toolkit.files import sole_user
from toolkit.model.files import DEFAULT_NAME, ModelFiles

_PARENT, _DEFAULT = "hyperparameters_tunned", "final"


@dataclass(frozen=True)
class LogFolder:
    """The folders of one model's log, whether or not they exist.

    Args:
        path: of the finished model's log.
    """

    path: Path

    @property
    def unfinished(self) -> Path:
        """The log of a training that has not come to its end: NAME.unfinished."""
        return self.path.with_name(f"{self.path.name}.unfinished")

    @property
    def previous(self) -> Path:
        """The log of the model that is kept as NAME.previous."""
        return self.path.with_name(f"{self.path.name}.previous")

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        """All of them: the finished model's log, the former model's, the unfinished one."""
        return self.path, self.previous, self.unfinished

    def keep_previous(self) -> None:
        """Make the log that of the former model; a former model without one has none.

        Raises:
            UsageError: the folders cannot be renamed.
        """
        with self._naming():
            if self.previous.exists():
                shutil.rmtree(self.previous)
            if self.path.exists():
                self.path.replace(self.previous)

    def replace(self) -> None:
        """Make the log of the training that has come to its end the model's.

        Raises:
            UsageError: the folders cannot be renamed.
        """
        with self._naming():
            if self.path.exists():
                self.keep_previous()
            with suppress(FileNotFoundError):
                self.unfinished.replace(self.path)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"cannot rename the log {self.path}: {error.strerror}; the new one is "
                f"{self.unfinished}"
            ) from error


def log_folder(logs: Path, name: str) -> LogFolder:
    """Return where the log of a model lies.

    Raises:
        UsageError: the name would take the place of another model's log.
    """
    root, dot, rest = name.partition(".")
    if root == _DEFAULT:
        raise UsageError(
            f"{name!r} cannot name a model: {logs / _PARENT / _DEFAULT} is the log of "
            f"{DEFAULT_NAME}, as the study called it; choose another name"
        )
    if root == DEFAULT_NAME:
        name = f"{_DEFAULT}{dot}{rest}"
    return LogFolder(logs / _PARENT / name)


@contextmanager
def sole_training(files: ModelFiles, log: LogFolder) -> Iterator[None]:
    """Keep other trainings off a model's files and its log.

    Raises:
        UsageError: one is at work on them, or a folder cannot be written.
    """
    otherwise = "wait for it, or choose another --name"
    with (
        sole_user(files.folder / f".{files.name}.lock", f"the model {files.name}", otherwise),
        sole_user(log.path.with_name(f".{log.path.name}.lock"), f"the log {log.path}", otherwise),
    ):
        yield
