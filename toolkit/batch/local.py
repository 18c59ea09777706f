"""The engine of one machine: worker processes that each hold a model, and what they are given."""

import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from toolkit.batch.owner import owned
from toolkit.batch.rows import Row, failed
from toolkit.batch.worker import Grader, Job, path_text
from toolkit.errors import ToolkitError
from toolkit.processes import ENDED, READY, Worker, Workers

CHUNK = 16
"""Files that a worker is given at a time."""
OWNED = ("cuda",)
"""Providers on which one process runs the model for all."""
_AHEAD = 2


@dataclass(eq=False)
class _Shard:
    number: int
    rows: list[Row | None]
    missing: int


@dataclass(frozen=True)
class _Chunk:
    """Some files of a shard; `suspected` where a worker died at them."""

    shard: _Shard
    start: int
    paths: list[bytes]
    suspected: bool = False

    def singly(self) -> list["_Chunk"]:
        return [
            _Chunk(self.shard, self.start + place, [path], suspected=True)
            for place, path in enumerate(self.paths)
        ]

    def fill(self, rows: list[Row]) -> "_Chunk":
        self.shard.rows[self.start : self.start + len(rows)] = rows
        self.shard.missing -= len(rows)
        return self


def grade(
    job: Job,
    shards: Iterable[tuple[int, list[bytes]]],
    workers: int,
    on_rows: Callable[[int], None],
) -> Generator[tuple[int, list[Row]], None, None]:
    """Yield each shard with its rows, as they are done by worker processes.

    A worker that dies is replaced, and what it was at is done again, file by file; a file
    that a worker dies at twice becomes a row with the error `worker_died`.

    Args:
        job: what the workers do.
        shards: numbers and paths; read only as far as there is work to give out.
        workers: how many.
        on_rows: called with the number of new rows, and every half second.

    Raises:
        WorkerError: workers die as soon as they are started.
        ToolkitError: the model cannot be opened, or the machine lacks what it takes.
    """
    # One process for each core: libraries that start threads of their own would fight.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    queue = _Queue(_chunks(shards))
    with ExitStack() as stack:
        if job.provider in OWNED:
            job = stack.enter_context(owned(job))
        processes = stack.enter_context(Workers(workers, _work, job))
        while queue.hand_out(processes):
            for worker, message in processes.listen():
                if isinstance(message, ToolkitError):
                    raise message
                if message is ENDED:
                    processes.replace(worker)
                    done = queue.take_back(worker)
                else:
                    done = queue.given[worker].popleft().fill(message)
                on_rows(len(done.paths) if done else 0)
                if done and not done.shard.missing:
                    yield done.shard.number, [row for row in done.shard.rows if row is not None]
            on_rows(0)


class _Queue:
    """The chunks that are still to be given out, and those that each worker has been given."""

    def __init__(self, chunks: Iterator[_Chunk]) -> None:
        self.given: defaultdict[Worker, deque[_Chunk]] = defaultdict(deque)
        self._chunks = chunks
        self._again: deque[_Chunk] = deque()

    def hand_out(self, workers: Workers) -> bool:
        """Keep every worker busy and a step ahead; return whether any has something to do."""
        for depth in range(1, _AHEAD + 1):
            for worker in workers:
                while worker.ready and len(self.given[worker]) < depth:
                    chunk = self._again.popleft() if self._again else next(self._chunks, None)
                    if chunk is None:
                        return any(self.given.values())
                    self.given[worker].append(chunk)
                    # One that is dead already is found out when its pipe is read.
                    with suppress(OSError):
                        worker.pipe.send(chunk.paths)
        return True

    def take_back(self, worker: Worker) -> _Chunk | None:
        """Queue again what a worker that died was given; return the chunk done by its death."""
        if not (chunks := self.given.pop(worker, None)):
            return None
        # Chunks are answered in order, so the first that has no answer is what it died of.
        first, *rest = chunks
        if not first.suspected:
            self._again.extend([*first.singly(), *rest])
            return None
        self._again.extend(rest)
        message = "the worker that read it died, twice; look at the file by itself"
        path = path_text(first.paths[0])
        return first.fill([failed(path, None, "worker_died", message)])


def _chunks(shards: Iterable[tuple[int, list[bytes]]]) -> Iterator[_Chunk]:
    for number, paths in shards:
        shard = _Shard(number, [None] * len(paths), len(paths))
        for start in range(0, len(paths), CHUNK):
            yield _Chunk(shard, start, paths[start : start + CHUNK])


def _work(pipe: Any, _index: int, job: Job) -> None:
    """Grade what comes, until the supervisor is gone. The main function of a worker process."""
    # The supervisor is gone when its end of the pipe is.
    with suppress(EOFError, OSError):
        try:
            _grade_all(pipe, Grader(job))
        except ToolkitError as error:
            pipe.send(error)


def _grade_all(pipe: Any, grader: Grader) -> None:
    pipe.send(READY)
    begun: deque[Callable[[], list[Row]]] = deque()
    while True:
        if len(begun) > grader.ahead or (begun and not pipe.poll()):
            pipe.send(begun.popleft()())
            continue
        paths = pipe.recv()
        # If this process dies, the first chunk without an answer is blamed. A file that comes alone
        # is suspected of that, so it is read while nothing else is in hand.
        alone = len(paths) == 1
        while begun and alone:
            pipe.send(begun.popleft()())
        begun.append(grader.begin(paths))
        while begun and alone:
            pipe.send(begun.popleft()())
