"""The one thread of a worker that decodes X-rays and runs them, in the order in which they came."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bento.worker.counters import Metrics
from bento.worker.log import Log
from toolkit.errors import ImageError, ProviderError, RequestError, ToolkitError
from toolkit.runtime.session import PROVIDERS, Predictor
from toolkit.xray.reading import SIZE, decode

T = TypeVar("T")
Answer = dict[str, Any]

MOST_WAITING = 64
"""Requests that may wait for their turn, in each worker."""
TURN = 4
"""X-rays of one request that run in one turn: others' requests come in between."""
_PROVE_AGAIN_S = 10.0
# The longest that decoding a file or running the model may take: then it is not ready, and then it
# is given up. Files are decoded in a second or two, and slow machines are to be spared.
_SLOW_S, _STUCK_S = 30.0, 60.0
_EIGHTHS = (SIZE // 8) ** 2
# X-rays that wait are run together; nothing waits for others to come. A core of a CPU gains little
# by it but that its caches hold either the network or the rest, not both by turns.
_TOGETHER = {PROVIDERS["cpu"]: 4, PROVIDERS["cuda"]: 32}


@dataclass(frozen=True)
class _Job:
    """Files to answer for, or a function to run; where the result goes, and since when it waits."""

    content: Sequence[bytes] | Callable[[Predictor], Any]
    future: "asyncio.Future[Any]"
    since: float


@dataclass
class _Done:
    """What came of some jobs: a result or an exception each; and of files what it took.

    Attributes:
        queued: seconds that each job waited.
        decoded: seconds that decoding each file took.
        inferred: seconds that the model took.
        greys: mean grey level of every eighth pixel of each X-ray.
    """

    results: list[Any]
    queued: Sequence[float] = ()
    decoded: Sequence[float] = ()
    inferred: float = 0.0
    greys: Sequence[float] = ()


class Engine:
    """A model, opened and proven in a thread of its own, that answers in turn.

    Args:
        opener: opens the model and proves it, or raises a ToolkitError. It is tried again every
            10 seconds until it does, and after a failure.
        metrics: to count in.
        log: to say there whether the model is ready.

    Attributes:
        predictor: the model; None before it was opened.
    """

    def __init__(self, opener: Callable[[], Predictor], metrics: Metrics, log: Log) -> None:
        self.predictor: Predictor | None = None
        self._reason = self._told = "starting"
        # When the running step began, by the machine's clock.
        self._step_since: float | None = None
        self._opener = opener
        self._metrics = metrics
        self._log = log
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tried: Future[None] = Future()

    @property
    def reason(self) -> str:
        """Why the model does not answer; empty when it does."""
        if not self._reason and self._step_s() > _SLOW_S:
            return f"the model has been at one step for over {_SLOW_S:g} seconds"
        return self._reason

    def tell(self) -> None:
        """Say in the metrics, and where it has changed in the log, how the model is."""
        reason = self.reason
        self._metrics.set("ready", float(not reason))
        self._metrics.set("stuck", float(self._step_s() > _STUCK_S))
        if reason and reason != self._told:
            self._log.line("not ready", "error", reason=reason)
        elif reason != self._told and self.predictor:
            self._log.line("ready", model=self.predictor.name, provider=self.predictor.provider)
        self._told = reason

    def _step_s(self) -> float:
        since = self._step_since
        return 0.0 if since is None else monotonic() - since

    async def start(self) -> None:
        """Start the thread, and wait until it has opened the model or could not."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.wrap_future(self._tried)

    def stop(self) -> None:
        """End the thread once it has done what waits."""
        self._jobs.put(None)
        self._thread.join(1)

    def check(self) -> None:
        """Check that the model answers and that there is room for another request.

        Raises:
            RequestError: 503, it does not, or too many requests wait.
        """
        reason = self.reason
        if reason:
            raise _not_ready(reason)
        if self._waiting > MOST_WAITING:
            message = f"{MOST_WAITING} requests wait already: try again in a second"
            raise RequestError(503, "overloaded", message, retry_after="1")

    async def answers(self, contents: Sequence[bytes]) -> list[Answer | ImageError]:
        """Return what is said of each file's X-ray, or why it is refused.

        Raises:
            RequestError: as `check` does; or the model failed.
        """
        result: list[Answer | ImageError] = await self._done(contents)
        return result

    async def run(self, function: Callable[[Predictor], T]) -> T:
        """Return what a function makes of the model, in the model's thread and in turn.

        Raises:
            RequestError: as `check` does; or the model failed.
        """
        result: T = await self._done(function)
        return result

    async def _done(self, content: Sequence[bytes] | Callable[[Predictor], Any]) -> Any:
        self.check()
        assert self._loop
        job = _Job(content, self._loop.create_future(), perf_counter())
        self._waiting += 1
        self._jobs.put(job)
        try:
            return await job.future
        finally:
            # An error's traceback would hold the job, which holds the error.
            del job

    def _work(self) -> None:
        self._prove()
        self._tried.set_result(None)
        while jobs := self._next():
            files = [job for job in jobs if not callable(job.content)]
            for job in jobs:
                if callable(job.content):
                    self._attempt([job], self._called)
            if files:
                self._attempt(files, self._answered)
            # Nothing of a request is held until the next one.
            del jobs, files, job

    def _prove(self) -> None:
        self._step_since = monotonic()
        try:
            self.predictor = self._opener()
        except Exception as error:  # whatever it is, this thread must live to try again
            self._lost(error)
        else:
            self._reason = ""
        self._step_since = None
        self.tell()

    def _lost(self, error: Exception) -> None:
        self._reason = str(error) if isinstance(error, ToolkitError) else repr(error)
        self.tell()

    def _next(self) -> list[_Job]:
        """Wait for the next job, and return it with those to run with it; none at the end."""
        while True:
            try:
                job = self._jobs.get(timeout=_PROVE_AGAIN_S if self._reason else None)
                break
            except Empty:
                self._prove()
        jobs = []
        most = _TOGETHER.get(self.predictor.provider, 1) if self.predictor else 1
        while job is not None:
            jobs.append(job)
            if len(jobs) >= most or self._jobs.empty():
                return jobs
            job = self._jobs.get()
        if jobs:
            self._jobs.put(None)
        return jobs

    def _attempt(self, jobs: list[_Job], work: Callable[[Predictor, list[_Job]], _Done]) -> None:
        """Do the work of some jobs, and deliver what came of it."""
        done = _Done([])
        self._step_since = monotonic()
        if self._reason or self.predictor is None:
            done.results = [_not_ready(self._reason)] * len(jobs)
        else:
            try:
                done = work(self.predictor, jobs)
            except ProviderError as error:
                self._lost(error)
                done.results = [_not_ready(self._reason)] * len(jobs)
            except Exception as error:  # of these jobs alone
                done.results = [error] * len(jobs)
        self._step_since = None
        assert self._loop
        # At the very end of a worker, nobody is left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, jobs, done)

    def _called(self, predictor: Predictor, jobs: list[_Job]) -> _Done:
        return _Done([job.content(predictor) for job in jobs if callable(job.content)])

    def _answered(self, predictor: Predictor, jobs: list[_Job]) -> _Done:
        """Give each job a list: an answer or an ImageError for each of its files."""
        times = [perf_counter()]
        decoded: list[NDArray[np.uint8] | ImageError] = []
        for job in jobs:
            for content in () if callable(job.content) else job.content:
                self._step_since = monotonic()
                decoded.append(_decoded(content))
                times.append(perf_counter())
        xrays = [each for each in decoded if not isinstance(each, ImageError)]
        self._step_since = monotonic()
        answers = iter(predictor.answers(xrays))
        each_one = iter(
            [each if isinstance(each, ImageError) else next(answers) for each in decoded]
        )
        return _Done(
            [[next(each_one) for _ in job.content] for job in jobs if not callable(job.content)],
            [times[0] - job.since for job in jobs],
            [end - start for start, end in pairwise(times)],
            perf_counter() - times[-1],
            [int(xray[::8, ::8].sum()) / _EIGHTHS for xray in xrays],
        )

    def _deliver(self, jobs: list[_Job], done: _Done) -> None:
        self._waiting -= len(jobs)
        for job, result in zip(jobs, done.results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        for seconds in done.queued:
            self._metrics.seconds("queue_seconds", seconds)
        for seconds in done.decoded:
            self._metrics.seconds("decode_seconds", seconds)
        if done.greys:
            self._metrics.seconds("inference_seconds", done.inferred)
            self._metrics.batch(len(done.greys))
        for grey in done.greys:
            self._metrics.brightness(grey)


def _not_ready(reason: str) -> RequestError:
    return RequestError(503, "not_ready", f"the model does not answer: {reason}", retry_after="5")


def _decoded(content: bytes) -> NDArray[np.uint8] | ImageError:
    try:
        return decode(content)
    except ImageError as error:
        # A new one: the traceback of this one would hold the file until it is collected.
        return ImageError(error.code, str(error), error.status)
