"""From paths to rows: what one worker does, in whichever process it runs."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.batch.rows import Row, answered, failed
from toolkit.errors import BatchError, ImageError, ModelRefusedError, ProviderError
from toolkit.xray.reading import file_content

if TYPE_CHECKING:
    from toolkit.model.answer import Answer
    from toolkit.runtime.engine import Engine
    from toolkit.runtime.handover import Handover
    from toolkit.runtime.session import Predictor

T = TypeVar("T")
PATIENCE_S = (0.1, 1.0, 5.0)
"""How long is waited before each new try where memory, a disk or a device fails."""
# On a CPU, one X-ray at a time is as fast as any batch, and no row depends on its neighbours.
_BATCH = {"CPUExecutionProvider": 1}
_OTHER_BATCH = 128
_PATIENCE_S = 60.0
"""How long the process with the card may take to begin."""

_Xrays = dict[int, tuple[str, NDArray[np.uint8]]]
"""The hash and the pixels of files, by their places."""


@dataclass(frozen=True)
class Job:
    """All that a worker must know to open a model and read X-rays.

    Attributes:
        model: its name, or the path of a pipeline file.
        models: the folder of the models.
        sha256: of the pipeline file; None to take it as it is.
        folder: that the paths are relative to.
        provider: `cpu`, `cuda`, or `auto` for CUDA where it can be had.
        owner: path of the socket of the process that runs the model; None for this one.
    """

    model: str
    models: Path
    sha256: str | None
    folder: Path
    provider: str = "auto"
    owner: str | None = None

    def open(
        self, opener: "Callable[[Path, str, int], Engine] | None" = None
    ) -> tuple["Predictor", bool]:
        """Open the model with one thread; return it with whether its proof was checked.

        Args:
            opener: opens what runs its file; None for what suits the job.

        Raises:
            ModelRefusedError: as `toolkit.runtime.session` does, with its other errors, or
                the model is no longer the same.
        """
        from toolkit.runtime.engine import open_engine
        from toolkit.runtime.session import open_file, open_model

        opener = opener or (self._connect if self.owner else open_engine)
        if self.model.endswith(".onnx"):
            predictor, proven = open_file(Path(self.model), self.provider, 1, opener)
        else:
            predictor = open_model(self.models, self.model, self.provider, 1, opener=opener)
            proven = True
        if self.sha256 not in (None, predictor.sha256):
            raise ModelRefusedError(
                f"{self.model} changed while it was at work: restore the file, and go on"
            )
        return predictor, proven

    def _connect(self, *_: object) -> "Engine":
        from toolkit.runtime.handover import Handover

        assert self.owner
        assert self.sha256
        return Handover(self.owner, self.sha256, _PATIENCE_S, _listen)


def _listen(handover: "Handover") -> None:
    def receive() -> None:
        while handover.receive():
            pass

    threading.Thread(target=receive, name="handover", daemon=True).start()


class Grader:
    """A model, open, that makes rows of files.

    Args:
        job: what to open.
        batch: X-rays at a time; None for what suits the provider.

    Attributes:
        ahead: how many calls of `begin` are best made before the first is waited for.
    """

    def __init__(self, job: Job, batch: int | None = None) -> None:
        self._job = job
        self._predictor, _ = job.open()
        self._root = os.fsencode(job.folder) + b"/"
        self._batch = batch or _BATCH.get(self._predictor.provider, _OTHER_BATCH)
        self.ahead = int(self._predictor.engine.is_elsewhere)

    def __call__(self, paths: list[bytes]) -> list[Row]:
        """Return a row for each path, in order.

        Raises:
            BatchError: the machine lacks memory, a disk or a device that it takes.
        """
        return self.begin(paths)()

    def begin(self, paths: list[bytes]) -> Callable[[], list[Row]]:
        """Read files and have them run; what is returned waits for it, and gives the rows.

        Raises:
            BatchError: as a call does.
        """
        rows: dict[int, Row] = {}
        waiting: _Xrays = {}
        batches: list[tuple[_Xrays, Callable[[], list[Answer]]]] = []
        for index, path in enumerate(paths):
            sha256 = None
            try:
                content = _patiently(partial(file_content, self._root + path), path)
                sha256 = hashlib.sha256(content).hexdigest()
                decode = partial(self._predictor.decode, content)
                waiting[index] = sha256, _patiently(decode, path)
            except ImageError as error:
                # Only the beginning of a file that is too large was read and hashed.
                known = None if error.code == "too_large" else sha256
                rows[index] = failed(path_text(path), known, error.code, str(error))
            if waiting and (len(waiting) == self._batch or index == len(paths) - 1):
                batches.append((waiting, self._submit(waiting, path)))
                waiting = {}

        def finish() -> list[Row]:
            for xrays, answers in batches:
                for (place, (digest, _)), answer in zip(xrays.items(), answers(), strict=True):
                    rows[place] = answered(path_text(paths[place]), digest, answer)
            return [rows[index] for index in range(len(paths))]

        return finish

    def _submit(self, waiting: _Xrays, path: bytes) -> "Callable[[], list[Answer]]":
        """Have X-rays run together; what is returned waits for it, and gives the answers."""
        predictor, xrays = self._predictor, [xray for _, xray in waiting.values()]
        found: SimpleQueue[list[Answer] | Exception] = SimpleQueue()
        try:
            predictor.submit(xrays, found.put)
        except (MemoryError, OSError, ProviderError) as error:
            found.put(error)

        def again() -> "list[Answer]":
            if self._predictor is predictor and predictor.engine.is_elsewhere:
                # What ran it has ended, and another takes its place.
                self._predictor, _ = self._job.open()
            return self._predictor.answers(xrays)

        def answers() -> "list[Answer]":
            first = found.get()
            return _patiently(again, path) if isinstance(first, Exception) else first

        return answers


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
        # Outside of `except`, for the error would keep what was read in memory.
        time.sleep(wait)
    raise BatchError(
        f"cannot go on at {path_text(path)}: {reason}; that is the machine's fault and not the "
        "file's: mend it, and the same command goes on"
    )


def path_text(path: bytes) -> str:
    r"""Return a path as text; a byte that is not UTF-8 becomes `\x..`."""
    return path.decode("utf-8", "backslashreplace")
