"""From paths to rows: what one worker does, in whichever process it runs."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.batch.rows import Row, answered, failed
from toolkit.errors import BatchError, ImageError, ModelRefusedError, ProviderError
from toolkit.xray.reading import file_content

if TYPE_CHECKING:
    from toolkit.runtime.session import Predictor

T = TypeVar("T")
PATIENCE_S = (0.1, 1.0, 5.0)
"""How long is waited before each new try where memory, a disk or a device fails."""
# On a CPU, one X-ray at a time is as fast as any batch, and no row depends on its neighbours.
_BATCH = {"CPUExecutionProvider": 1}
_OTHER_BATCH = 16


@dataclass(frozen=True)
class Job:
    """All that a worker must know to open a model and read X-rays.

    Attributes:
        model: its name, or the path of a pipeline file.
        models: the folder of the models.
        sha256: of the pipeline file; None to take it as it is.
        folder: that the paths are relative to.
        provider: `cpu`, `cuda`, or `auto` for CUDA where it can be had.
    """

    model: str
    models: Path
    sha256: str | None
    folder: Path
    provider: str = "auto"

    def open(self) -> tuple["Predictor", bool]:
        """Open the model with one thread; return it with whether its proof was checked.

        Raises:
            ModelRefusedError: as `toolkit.runtime.session` does, with its other errors, or
                the model is no longer the same.
        """
        from toolkit.runtime.session import open_file, open_model

        if self.model.endswith(".onnx"):
            predictor, proven = open_file(Path(self.model), self.provider, threads=1)
        else:
            predictor = open_model(self.models, self.model, self.provider, threads=1)
            proven = True
        if self.sha256 not in (None, predictor.sha256):
            raise ModelRefusedError(
                f"{self.model} changed while it was at work: restore the file, and go on"
            )
        return predictor, proven


class Grader:
    """A model, open, that makes rows of files.

    Args:
        job: what to open.
        batch: X-rays at a time; None for what suits the provider.
    """

    def __init__(self, job: Job, batch: int | None = None) -> None:
        self._predictor, _ = job.open()
        self._classes = len(self._predictor.meaning.classes)
        self._root = os.fsencode(job.folder) + b"/"
        self._batch = batch or _BATCH.get(self._predictor.provider, _OTHER_BATCH)

    def __call__(self, paths: list[bytes]) -> list[Row]:
        """Return a row for each path, in order.

        Raises:
            BatchError: the machine lacks memory, a disk or a device that it takes.
        """
        rows: dict[int, Row] = {}
        waiting: dict[int, tuple[str, NDArray[np.uint8]]] = {}
        for index, path in enumerate(paths):
            sha256 = None
            try:
                content = _patiently(partial(file_content, self._root + path), path)
                sha256 = hashlib.sha256(content).hexdigest()
                decode = partial(self._predictor.decode, content)
                waiting[index] = sha256, _patiently(decode, path)
            except ImageError as error:
                # The hash of the beginning of a file is not the file's.
                known = None if error.code == "too_large" else sha256
                rows[index] = failed(path_text(path), known, self._classes, error.code, str(error))
            if waiting and (len(waiting) == self._batch or index == len(paths) - 1):
                xrays = [xray for _, xray in waiting.values()]
                answers = _patiently(partial(self._predictor.answers, xrays), path)
                for (place, (digest, _)), answer in zip(waiting.items(), answers, strict=True):
                    rows[place] = answered(path_text(paths[place]), digest, answer)
                waiting.clear()
        return [rows[index] for index in range(len(paths))]


def _patiently(work: Callable[[], T], path: bytes) -> T:
    """Return what some work at a file comes to; it is tried again where the machine fails it.

    Raises:
        BatchError: the machine still does.
    """
    for wait in (*PATIENCE_S, 0.0):
        try:
            return work()
        except (MemoryError, OSError, ProviderError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no memory is left"
        # Past the error, which holds what was read.
        time.sleep(wait)
    raise BatchError(
        f"cannot go on at {path_text(path)}: {reason}; that is the machine's fault and not the "
        "file's: mend it, and the same command goes on"
    )


def path_text(path: bytes) -> str:
    r"""Return a path as text; a byte that is not UTF-8 becomes `\x..`."""
    return path.decode("utf-8", "backslashreplace")
