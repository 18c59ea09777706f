"""The engine of one machine: worker processes that each hold a model, and their supervisor."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from toolkit.batch.rows import Row, failed
from toolkit.batch.worker import Judge, Judging, shown
from toolkit.errors import BatchError, ToolkitError

CHUNK = 16
"""Files that a worker is given at a time."""
_AHEAD = 2
_POLL_SECONDS = 0.5
_EARLY_DEATHS = 3


@dataclass(eq=False)
class _Shard:
    number: int
    rows: list[Row | None]
    missing: int


@dataclass(frozen=True)
class _Chunk:
    shard: _Shard
    start: int
    paths: list[bytes]
    suspected: bool = False

    def singly(self) -> list["_Chunk"]:
        return [
            _Chunk(self.shard, self.start + place, [path], suspected=True)
            for place, path in enumerate(self.paths)
        ]


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    chunks: deque[_Chunk] = field(default_factory=deque)


class Crew:
    """Worker processes of this machine, started on entry and ended on exit.

    Args:
        judging: what they open.
        workers: how many.
        classes: of the model.
    """

    def __init__(self, judging: Judging, workers: int, classes: int) -> None:
        self._judging = judging
        self._classes = classes
        self._wanted = workers
        self._workers: list[_Worker] = []
        self._again: deque[_Chunk] = deque()
        self._early_deaths = 0

    def __enter__(self) -> Self:
        # One process for each core: libraries that start threads of their own would fight.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        for _ in range(self._wanted):
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def judged(
        self, shards: Iterable[tuple[int, list[bytes]]], on_judged: Callable[[int], None]
    ) -> Iterator[tuple[int, list[Row]]]:
        """Yield each shard with its rows, as they are done.

        A worker that dies is replaced, and what it was at is done again, file by file; a file
        that a worker dies at twice becomes a row with the error `worker_died`.

        Args:
            shards: numbers and paths; read only as far as there is work to give out.
            on_judged: called with the number of new rows, and every half second.

        Raises:
            BatchError: workers die as soon as they are started.
            ToolkitError: the model cannot be opened.
        """
        chunks = _chunks(shards)
        while self._give_out(chunks):
            speaking = set(wait([each.pipe for each in self._workers], _POLL_SECONDS))
            for worker in [each for each in self._workers if each.pipe in speaking]:
                done = self._heard(worker)
                on_judged(len(done.paths) if done else 0)
                if done and not done.shard.missing:
                    yield done.shard.number, [row for row in done.shard.rows if row is not None]
            on_judged(0)

    def _give_out(self, chunks: Iterator[_Chunk]) -> bool:
        """Keep every worker busy and a step ahead; return whether any has something to do."""
        for depth in range(1, _AHEAD + 1):
            for worker in self._workers:
                while worker.ready and len(worker.chunks) < depth:
                    chunk = self._again.popleft() if self._again else next(chunks, None)
                    if chunk is None:
                        return self._busy()
                    worker.chunks.append(chunk)
                    # One that is dead already is found out when its pipe is read.
                    with suppress(OSError):
                        worker.pipe.send(chunk.paths)
        return True

    def _busy(self) -> bool:
        return any(each.chunks for each in self._workers)

    def _heard(self, worker: _Worker) -> _Chunk | None:
        """Take what a worker says; return the chunk that is done by it."""
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(worker)
        if isinstance(said, ToolkitError):
            raise said
        if said is None:
            worker.ready, self._early_deaths = True, 0
            return None
        return _put(worker.chunks.popleft(), said)

    def _replace(self, worker: _Worker) -> _Chunk | None:
        """Start another for a worker that died; return the chunk that is done by its death."""
        worker.pipe.close()
        worker.process.join()
        self._workers.remove(worker)
        code = worker.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        print(f"a worker ended {how}; another takes its place", file=sys.stderr, flush=True)
        if not worker.ready:
            self._early_deaths += 1
            if self._early_deaths == _EARLY_DEATHS:
                raise BatchError("workers die as soon as they start: see what they said")
        self._start()
        if not worker.chunks:
            return None
        # In order, and each answered before the next is begun: it died at the first.
        first, *rest = worker.chunks
        if not first.suspected:
            self._again.extend([*first.singly(), *rest])
            return None
        self._again.extend(rest)
        message = "the worker that read it died, twice; look at the file by itself"
        return _put(
            first, [failed(shown(first.paths[0]), None, self._classes, "worker_died", message)]
        )

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(self._judging, theirs), daemon=True
        )
        with _interrupts_ignored():
            process.start()
        # So that the end of the only other holder is heard as the end of the pipe.
        theirs.close()
        self._workers.append(_Worker(process, ours))


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Have processes that start here ignore Ctrl-C, which reaches the whole group of processes.

    The supervisor decides what comes of it; Python lets only the main thread set this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _chunks(shards: Iterable[tuple[int, list[bytes]]]) -> Iterator[_Chunk]:
    for number, paths in shards:
        shard = _Shard(number, [None] * len(paths), len(paths))
        for start in range(0, len(paths), CHUNK):
            yield _Chunk(shard, start, paths[start : start + CHUNK])


def _put(chunk: _Chunk, rows: list[Row]) -> _Chunk:
    chunk.shard.rows[chunk.start : chunk.start + len(rows)] = rows
    chunk.shard.missing -= len(rows)
    return chunk


def _work(judging: Judging, pipe: Any) -> None:
    """Judge what comes, until the supervisor is gone. The main function of a worker process."""
    try:
        judge = Judge(judging)
    except ToolkitError as error:
        pipe.send(error)
        return
    pipe.send(None)
    while True:
        try:
            paths = pipe.recv()
        except (EOFError, OSError):
            return
        rows = judge(paths)
        try:
            pipe.send(rows)
        except OSError:
            return
