"""From paths to rows: what one worker does, in whichever process it runs."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.batch.rows import Row, answered, failed
from toolkit.errors import ImageError, ModelRefusedError, ProviderError
from toolkit.xray.reading import MAX_BYTES, decode

if TYPE_CHECKING:
    from toolkit.model.answer import Answer
    from toolkit.runtime.engine import Engine
    from toolkit.runtime.handover import Handover
    from toolkit.runtime.session import Predictor

# On a CPU, one X-ray at a time is as fast as any batch, and no row depends on its neighbours.
_BATCH = {"CPUExecutionProvider": 1}
_OTHER_BATCH = 128
_PATIENCE_S = 60.0
"""How long the process with the card may take to begin."""


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


class _Batch:
    """X-rays that run together, by the places of their files, with the files' hashes."""

    def __init__(
        self, predictor: "Predictor", xrays: dict[int, tuple[str, NDArray[np.uint8]]]
    ) -> None:
        self._xrays = xrays
        self._found: SimpleQueue[list[Answer] | Exception] = SimpleQueue()
        self._elsewhere = predictor.engine.is_elsewhere
        self._run(predictor)

    def _run(self, predictor: "Predictor") -> None:
        try:
            predictor.submit([xray for _, xray in self._xrays.values()], self._found.put)
        except ProviderError as error:
            if not self._elsewhere:
                raise
            self._found.put(error)

    def answers(self, reopen: "Callable[[], Predictor]") -> "Iterator[tuple[int, str, Answer]]":
        """Yield place, hash and answer of each file; once more where what ran them has ended."""
        found = self._found.get()
        if isinstance(found, ProviderError):
            self._run(reopen())
            found = self._found.get()
        if isinstance(found, Exception):
            raise found
        for (place, (digest, _)), answer in zip(self._xrays.items(), found, strict=True):
            yield place, digest, answer


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
        self._classes = len(self._predictor.meaning.classes)
        self._root = os.fsencode(job.folder) + b"/"
        self._batch = batch or _BATCH.get(self._predictor.provider, _OTHER_BATCH)
        self.ahead = int(self._predictor.engine.is_elsewhere)

    def __call__(self, paths: list[bytes]) -> list[Row]:
        """Return a row for each path, in order."""
        return self.begin(paths)()

    def begin(self, paths: list[bytes]) -> Callable[[], list[Row]]:
        """Read files and have them run; what is returned waits for it, and gives the rows."""
        rows: dict[int, Row] = {}
        waiting: dict[int, tuple[str, NDArray[np.uint8]]] = {}
        batches: list[_Batch] = []
        for index, path in enumerate(paths):
            sha256 = None
            try:
                content = self._read(path)
                sha256 = hashlib.sha256(content).hexdigest()
                waiting[index] = sha256, decode(content)
            except ImageError as error:
                # The hash of the beginning of a file is not the file's.
                known = None if error.code == "too_large" else sha256
                rows[index] = failed(path_text(path), known, self._classes, error.code, str(error))
            if waiting and (len(waiting) == self._batch or index == len(paths) - 1):
                batches.append(_Batch(self._predictor, waiting))
                waiting = {}

        def finish() -> list[Row]:
            for batch in batches:
                for place, digest, answer in batch.answers(self._reopen):
                    rows[place] = answered(path_text(paths[place]), digest, answer)
            return [rows[index] for index in range(len(paths))]

        return finish

    def _reopen(self) -> "Predictor":
        """Open the model anew, where another process ran it and has ended."""
        self._predictor, _ = self._job.open()
        return self._predictor

    def _read(self, path: bytes) -> bytes:
        try:
            with open(self._root + path, "rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ImageError("unreadable", f"cannot be read: {reason}") from error


def path_text(path: bytes) -> str:
    r"""Return a path as text; a byte that is not UTF-8 becomes `\x..`."""
    return path.decode("utf-8", "backslashreplace")
