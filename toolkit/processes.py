"""Worker processes: begun, watched, replaced where they die, and ended."""

import math
import multiprocessing
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Self

from toolkit.errors import WorkerError

POLL_SECONDS = 0.5
_STOP_SECONDS = 15.0
_EARLY_DEATHS = 3

READY = None
"""What a worker sends once it is at work."""
ENDED = object()
"""What is heard of a worker that has ended."""


@dataclass(eq=False)
class Worker:
    """A process and the pipe to it.

    Attributes:
        index: its place among the workers, which its replacement takes.
        process: it; its name is a word that no other worker has, on any machine.
        pipe: the supervisor's end.
        ready: whether it has said that it is at work.
    """

    index: int
    process: SpawnProcess
    pipe: Connection
    ready: bool = False


class Workers:
    """Worker processes of this machine, begun on entry and ended on exit.

    Args:
        count: how many.
        main: what each runs, as `main(pipe, index, *arguments)`; it sends `READY` once it is at
            work. When the supervisor is gone, its end of the pipe is closed.
        arguments: what can be pickled.
    """

    def __init__(self, count: int, main: Callable[..., None], *arguments: Any) -> None:
        self._count = count
        self._main = main
        self._arguments = arguments
        self._workers: list[Worker] = []
        self._early_deaths = 0

    def __enter__(self) -> Self:
        """Begin them.

        Raises:
            WorkerError: one cannot be begun; those that were are ended.
        """
        try:
            for index in range(self._count):
                self._start(index)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def __len__(self) -> int:
        return len(self._workers)

    def listen(self) -> Iterator[tuple[Worker, Any]]:
        """Wait half a second at most; yield each worker that spoke, and what it said.

        One that has ended is yielded with `ENDED`, and is no longer among the workers.
        """
        workers = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(workers), POLL_SECONDS):
            assert isinstance(pipe, Connection)
            worker = workers[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                pipe.close()
                worker.process.join()
                self._workers.remove(worker)
                message = ENDED
            if message is READY:
                worker.ready = True
            else:
                yield worker, message

    def replace(self, worker: Worker) -> None:
        """Say how a worker ended, and begin another in its place.

        Raises:
            WorkerError: the third in a row that was never ready, or none can be begun.
        """
        code = worker.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        print(f"a worker ended {how}; another takes its place", file=sys.stderr, flush=True)
        self._early_deaths = 0 if worker.ready else self._early_deaths + 1
        if self._early_deaths == _EARLY_DEATHS:
            raise WorkerError("workers die as soon as they start: see what they said")
        self._start(worker.index)

    def end(self) -> None:
        """Ask every worker to stop, and kill it if it does not."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()

    def _start(self, index: int) -> None:
        try:
            self._workers.append(self._begin(index))
        except OSError as error:
            raise WorkerError(
                f"a worker cannot be begun: {error.strerror or error}; see whether processes, "
                "memory or open files have run out"
            ) from error

    def _begin(self, index: int) -> Worker:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            name=f"{index}-{os.uname().nodename}-{secrets.token_hex(4)}",
            target=self._main,
            args=(theirs, index, *self._arguments),
            daemon=True,
        )
        # With the only other end closed, the end of the process is heard as the end of the pipe.
        with theirs, _interrupts_ignored():
            try:
                process.start()
            except BaseException:
                ours.close()
                raise
        return Worker(index, process, ours)


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


def cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: by its affinity and its cgroups' quotas.

    Args:
        root: under which `proc` and `sys` lie.
    """
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([able, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores that each cgroup of this process, and each above it, leaves it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount, inside = _mount(root, controllers)
        if mount is None:
            continue
        # In a container the path may be the host's, of which only the end is mounted.
        group = Path(path)
        below = group.relative_to(inside) if group.is_relative_to(inside) else Path()
        for folder in (mount / below, *(mount / each for each in below.parents)):
            if controllers:
                quota, period = (
                    _text(folder / f"cpu.cfs_{each}_us") for each in ("quota", "period")
                )
            else:
                quota, _, period = _text(folder / "cpu.max").partition(" ")
            # No quota is "max", or -1.
            if quota.strip().isdecimal() and period.strip().isdecimal() and int(period):
                yield int(quota) / int(period)


def _mount(root: Path, controllers: str) -> tuple[Path | None, Path]:
    """Return where the cgroups of these controllers are mounted, and which of them is its root."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        inside, mount = before.split(" ")[3:5]
        kind, _, options = after.split(" ", 2)
        if (kind == "cgroup" and controllers and "cpu" in options.split(",")) or (
            kind == "cgroup2" and not controllers
        ):
            return root / mount.lstrip("/"), Path(inside)
    return None, Path("/")


def _lines(path: Path) -> list[str]:
    # A path in them may hold what Python too takes for the end of a line.
    return [line for line in _text(path).split("\n") if line]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""
