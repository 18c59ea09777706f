"""The one thread of a worker that decodes X-rays and runs them, in the order in which they came."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bento.worker.counters import Metrics
from bento.worker.jobs import Job, Observed, Results, counts_of_batch, decode, not_ready
from bento.worker.log import Log
from bento.worker.waiting import to_its_end
from toolkit.errors import ImageError, ProviderError, RequestError, ToolkitError
from toolkit.model.answer import Answer
from toolkit.runtime.handover import Handover, handover_lost
from toolkit.runtime.session import Predictor

T = TypeVar("T")

MOST_WAITING = 64
"""Requests that may wait for their turn, in each worker."""
MOST_HANDED_OVER = 256
"""The same where another process runs the model, and each takes a tenth of the time."""
# After so long at one step (decoding a file, running the model) a worker is not ready; after so
# long its model is given up. A file takes a second or two: the rest is for slow machines.
_SLOW_S, _STUCK_S = 30.0, 60.0
_PROVE = "prove"


class ModelThread:
    """A model, opened and proven in a thread of its own, that answers in turn.

    Args:
        opener: opens the model and proves it, or raises a ToolkitError. It is tried again until it
            does, and after a failure.
        metrics: to count in.
        log: to say there whether the model is ready.
        again_s: seconds until it is tried again.

    Attributes:
        predictor: the model; None before it was opened.
    """

    def __init__(
        self, opener: Callable[[], Predictor], metrics: Metrics, log: Log, again_s: float = 10.0
    ) -> None:
        self.predictor: Predictor | None = None
        self._reason = self._told = "starting"
        # When the running step began, by the machine's clock.
        self._step_since: float | None = None
        self._opener = opener
        self._again_s = again_s
        self._metrics = metrics
        self._log = log
        self._jobs: SimpleQueue[Job | str | None] = SimpleQueue()
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
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
        handed = self.predictor.engine.waiting_since if self.predictor else None
        since = min((each for each in (self._step_since, handed) if each is not None), default=None)
        return 0.0 if since is None else monotonic() - since

    def listen(self, handover: Handover) -> None:
        """Have the event loop take what another process answers; for any thread."""
        assert self._loop
        self._loop.call_soon_threadsafe(
            self._loop.add_reader, handover.fileno(), self._receive, handover
        )

    def _receive(self, handover: Handover) -> None:
        if not handover.receive():
            assert self._loop
            self._loop.remove_reader(handover.fileno())
            handover.close()
            if self.predictor and self.predictor.engine is handover:
                self._lost(handover_lost())
                self._jobs.put(_PROVE)

    async def start(self) -> None:
        """Start the thread, and wait until it has opened the model or could not."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.current_thread()
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
            raise not_ready(reason)
        elsewhere = self.predictor is not None and self.predictor.engine.is_elsewhere
        most = MOST_HANDED_OVER if elsewhere else MOST_WAITING
        if self._waiting > most:
            message = f"{most} requests wait already: try again in a second"
            raise RequestError(503, "overloaded", message, retry_after="1")

    async def answers(self, contents: Sequence[bytes]) -> list[Answer | ImageError]:
        """Return what is said of each file's X-ray, or why it is refused.

        Raises:
            RequestError: as `check` does; or the model failed.
        """
        result: list[Answer | ImageError] = await self._result(contents)
        return result

    async def run(self, function: Callable[[Predictor], T]) -> T:
        """Return what a function makes of the model, in the model's thread and in turn.

        Raises:
            RequestError: as `check` does; or the model failed.
        """
        result: T = await self._result(function)
        return result

    async def _result(self, content: Sequence[bytes] | Callable[[Predictor], Any]) -> Any:
        self.check()
        assert self._loop
        job = Job(content, self._loop.create_future(), perf_counter())
        self._waiting += 1
        self._jobs.put(job)
        try:
            return await to_its_end(job.future, job.drop)
        finally:
            # An error's traceback would hold the job, which holds the error.
            del job

    def _work(self) -> None:
        self._prove()
        self._tried.set_result(None)
        while (jobs := self._next()) is not None:
            self._do(jobs)
            # Nothing of a request is held until the next one.
            del jobs

    def _do(self, jobs: list[Job]) -> None:
        for job in jobs:
            if callable(job.content):
                self._attempt([job], self._call)
        files = [job for job in jobs if not callable(job.content)]
        if files:
            self._attempt(files, self._answer)

    def _prove(self) -> None:
        self._step_since = monotonic()
        try:
            self.predictor = self._opener()
        except Exception as error:  # whatever it is, this thread must live to try again
            self._lost(error)
        else:
            self._reason = str(handover_lost()) if self.predictor.engine.has_ended else ""
        self._step_since = None
        self.tell()

    def _lost(self, error: Exception) -> None:
        self._reason = str(error) if isinstance(error, ToolkitError) else repr(error)
        self.tell()

    def _next(self) -> list[Job] | None:
        """Wait for the next job, and return it with those to run with it; None at the end.

        Those that were dropped are left out, be it all of them.
        """
        while True:
            try:
                job = self._jobs.get(timeout=self._again_s if self._reason else None)
                if job is not _PROVE:
                    break
            except Empty:
                pass
            if self._reason:
                self._prove()
        jobs: list[Job] = []
        # None waits for others to come.
        most = self.predictor.engine.together if self.predictor else 1
        while isinstance(job, Job):
            if job.dropped:
                self._hand_over([job], [None], [])
            else:
                jobs.append(job)
            if len(jobs) >= most or self._jobs.empty():
                return jobs
            job = self._jobs.get()
        if job is None and not jobs:
            return None
        self._jobs.put(job)
        return jobs or self._next()

    def _attempt(self, jobs: list[Job], work: Callable[[Predictor, list[Job]], None]) -> None:
        """Do the work of some jobs, which delivers what comes of it."""
        self._step_since = monotonic()
        if self._reason or self.predictor is None:
            self._hand_over(jobs, [not_ready(self._reason)] * len(jobs), [])
        else:
            try:
                work(self.predictor, jobs)
            except Exception as error:  # of these jobs alone
                self._fail(jobs, error)
        self._step_since = None

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        if isinstance(error, ProviderError):
            self._lost(error)
            error = not_ready(self._reason)
        self._hand_over(jobs, [error] * len(jobs), [])

    def _hand_over(self, jobs: list[Job], results: Results, observed: Observed) -> None:
        assert self._loop
        if threading.current_thread() is self._loop_thread:
            self._deliver(jobs, results, observed)
            return
        # At the very end of a worker, nobody is left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, jobs, results, observed)

    def _call(self, predictor: Predictor, jobs: list[Job]) -> None:
        functions = [job.content for job in jobs if callable(job.content)]
        self._hand_over(jobs, [function(predictor) for function in functions], [])

    def _answer(self, predictor: Predictor, jobs: list[Job]) -> None:
        """Give each job a list: an answer or an ImageError for each of its files."""
        begun = perf_counter()
        observed = [("queue_seconds", begun - job.since) for job in jobs]
        decoded: list[NDArray[np.uint8] | ImageError] = []
        for job in jobs:
            for content in () if callable(job.content) else job.content:
                self._step_since = monotonic()
                decoded.append(decode(predictor, content))
                now = perf_counter()
                observed.append(("decode_seconds", now - begun))
                begun = now
        xrays = [xray for xray in decoded if not isinstance(xray, ImageError)]
        # The mean grey level of every eighth pixel.
        observed += [("brightness", float(xray[::8, ::8].mean())) for xray in xrays]
        refused = [xray if isinstance(xray, ImageError) else None for xray in decoded]
        begun, engine = perf_counter(), predictor.engine

        def finish(answers: list[Answer] | Exception) -> None:
            if isinstance(answers, Exception):
                self._fail(jobs, answers)
                return
            if answers and not engine.is_elsewhere:
                observed.extend(counts_of_batch(engine, len(answers), perf_counter() - begun))
            given = iter(answers)
            found = iter([error or next(given) for error in refused])
            files = [job.content for job in jobs if not callable(job.content)]
            results = [[next(found) for _ in contents] for contents in files]
            self._hand_over(jobs, results, observed)

        self._step_since = monotonic()
        predictor.submit(xrays, finish)

    def _deliver(self, jobs: list[Job], results: Results, observed: Observed) -> None:
        self._waiting -= len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        for name, value in observed:
            self._metrics.observe(name, value)
