"""Counters that all workers share, in memory alone, and Prometheus' text of them.

Each worker adds to a row of its own, of a fixed number of cells: no label is made of what a
request says. A worker that takes the place of a dead one counts on in its row. Before the rows
stands when each worker was last seen: its minder reads that without knowing the rest.
"""

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from bento.worker.settings import MOST_WORKERS
from toolkit import memory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATUSES = (200, 307, 400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503)
_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8)
_GREYS = tuple(range(16, 256, 16))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_ALIVE_S = 3.0
_MEMORY = "TOOLKIT_METRICS_MEMORY"


def rows(workers: int) -> int:
    """Return how many processes may count: the workers, those after them, and the owner."""
    return 2 * workers + 1


_MOST_ROWS = rows(MOST_WORKERS)


@dataclass(frozen=True)
class Family:
    """Cells of one kind: one for each label, or of a histogram its buckets, their sum and count.

    Attributes:
        name: without the prefix.
        kind: `counter`, `gauge`, `histogram`, or `hidden` of what only the workers read.
        text: what it counts.
        labels: of each cell, as Prometheus writes them; one empty text where there are none.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ("",)
    buckets: tuple[float, ...] = ()

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.buckets) + 2 if self.buckets else len(self.labels)


def families(classes: tuple[str, ...], routes: tuple[str, ...]) -> tuple[Family, ...]:
    """Return what a service counts, whose model has these classes."""
    answered = tuple(
        f'{{route="{route}",status="{status}"}}'
        for route in routes
        for status in (*STATUSES, "other")
    )
    predicted = tuple(f'{{class="{_escaped(each)}"}}' for each in classes)
    return (
        Family("requests_total", "counter", "Requests answered.", answered),
        Family("requests_in_flight", "gauge", "Requests that are not answered yet."),
        Family("connections", "gauge", "Open connections."),
        Family("accepting", "hidden", "When it last said that it takes connections, likewise."),
        Family("ready", "gauge", "Workers that answer."),
        Family("stuck", "hidden", "Whether its model is given up as it does not come back."),
        Family("request_seconds", "histogram", "From head to answer.", buckets=_SECONDS),
        Family("queue_seconds", "histogram", "An X-ray's wait for its turn.", buckets=_SECONDS),
        Family("decode_seconds", "histogram", "Decoding an X-ray.", buckets=_SECONDS),
        Family("inference_seconds", "histogram", "Running a batch.", buckets=_SECONDS),
        Family("batch_size", "histogram", "X-rays run together.", buckets=_BATCHES),
        Family("padding_total", "counter", "X-rays run besides, to fill up batches."),
        Family("predictions_total", "counter", "X-rays by predicted class.", predicted),
        Family("abstentions_total", "counter", "Predictions too unsure to go by."),
        Family("out_of_scope_total", "counter", "X-rays unlike those that the model knows."),
        Family("brightness", "histogram", "Mean grey level of an X-ray.", buckets=_GREYS),
    )


class Metrics:
    """The counters of one worker, and the text of all workers'.

    Not for several threads: a worker counts in its event loop.

    Args:
        classes: labels of the model's classes.
        routes: names of the routes, `other` among them.
        worker: of this process, from 0.
        workers: how many rows there are; see `share`.
    """

    def __init__(
        self, classes: tuple[str, ...], routes: tuple[str, ...], worker: int = 0, workers: int = 1
    ) -> None:
        self._families = families(classes, routes)
        starts = accumulate((each.cells for each in self._families), initial=0)
        self._starts = dict(zip((each.name for each in self._families), starts, strict=False))
        self._buckets = {family.name: family.buckets for family in self._families}
        self._routes = {name: place for place, name in enumerate(routes)}
        self._statuses = {status: place for place, status in enumerate(STATUSES)}
        width = sum(each.cells for each in self._families)
        count = max(workers, worker + 1)
        shared = _shared(_MOST_ROWS + count * width)
        self._seen = shared[:count]
        self._worker = worker
        self._cells = shared[_MOST_ROWS:].reshape(count, width)
        self._row = memoryview(self._cells[worker]).cast("B").cast("d")
        for family in self._families:
            if family.kind in ("gauge", "hidden"):
                self.set(family.name, 0.0)
        self.alive()

    def add(self, name: str, amount: float = 1.0, place: int = 0) -> None:
        """Add to one cell of a counter or a gauge."""
        self._row[self._starts[name] + place] += amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._row[self._starts[name]] = value

    def observe(self, name: str, value: float) -> None:
        """Count a value in a histogram, or add it to a counter."""
        start, buckets = self._starts[name], self._buckets[name]
        row = self._row
        if not buckets:
            row[start] += value
            return
        row[start + bisect_left(buckets, value)] += 1.0
        row[start + len(buckets) + 1] += value

    def alive(self) -> None:
        """Say that this worker runs; its gauges count for a few seconds."""
        self._seen[self._worker] = monotonic()

    def accepting(self) -> None:
        """Say that this worker takes connections now."""
        self.set("accepting", monotonic())

    def takes(self) -> bool:
        """Whether this worker is one to take connections: it is ready, or none is."""
        return bool(self._row[self._starts["ready"]]) or not self._ready(self._taking(0.0)).any()

    def fewest_connections(self, since: float) -> float:
        """Return how many connections the worker with the fewest has, of those that take them.

        Args:
            since: a worker that has said so for the last time before this, or seconds ago, does
                not count; by the machine's monotonic clock.
        """
        taking = self._taking(since)
        ready = self._ready(taking)
        those = ready if ready.any() else taking
        return float(self._cells[those, self._starts["connections"]].min(initial=np.inf))

    def ready_workers(self) -> int:
        """Return how many workers run and answer."""
        return int(self._running("ready").sum())

    def any_stuck(self) -> bool:
        """Whether the model of a worker that runs is given up."""
        return bool(self._running("stuck").any())

    def answered(self, route: str, status: int) -> None:
        """Count an answer."""
        place = self._statuses.get(status, len(STATUSES))
        self.add("requests_total", 1.0, self._routes[route] * (len(STATUSES) + 1) + place)

    def text(self) -> str:
        """Return the sums over all workers in Prometheus' text format."""
        cells = self._cells.sum(axis=0)
        shown = [each for each in self._families if each.kind != "hidden"]
        for family in shown:
            if family.kind == "gauge":
                cells[self._starts[family.name]] = self._running(family.name).sum()
        return "".join(f"{line}\n" for each in shown for line in self._lines(each, cells))

    def _taking(self, since: float) -> NDArray[np.bool_]:
        """Return which workers have said since then, and lately, that they take connections."""
        said = self._cells[:, self._starts["accepting"]]
        taking: NDArray[np.bool_] = said > max(since, monotonic() - _ALIVE_S)
        return taking

    def _ready(self, of: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return of & (self._cells[:, self._starts["ready"]] > 0)

    def _running(self, name: str) -> NDArray[np.float64]:
        """Return a gauge of each worker that runs; `ready` only of those that listen."""
        those = self._seen > monotonic() - _ALIVE_S
        if name == "ready":
            those &= self._cells[:, self._starts["accepting"]] > 0
        running: NDArray[np.float64] = self._cells[those, self._starts[name]]
        return running

    def _lines(self, family: Family, cells: NDArray[np.float64]) -> Iterator[str]:
        name = f"toolkit_{family.name}"
        start = self._starts[family.name]
        values = cells[start : start + family.cells].tolist()
        yield f"# HELP {name} {family.text}"
        yield f"# TYPE {name} {family.kind}"
        if not family.buckets:
            # A label that nothing was counted for yet would only fill the page.
            for label, value in zip(family.labels, values, strict=True):
                if value or len(family.labels) < len(STATUSES):
                    yield f"{name}{label} {value:g}" if value < 1e6 else f"{name}{label} {value}"
            return
        counts = list(accumulate(values[:-1]))
        for bound, count in zip((*family.buckets, "+Inf"), counts, strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f"{name}_sum {values[-1]}"
        yield f"{name}_count {counts[-1]}"


def share() -> dict[str, str]:
    """Make the memory; return the environment of those that share it."""
    return {_MEMORY: str(memory.share("toolkit-metrics", bytes(8 * _MOST_ROWS)))}


def beats(environment: Mapping[str, str]) -> NDArray[np.float64]:
    """Return when each worker was last seen, by the machine's monotonic clock; float64 (N,).

    Args:
        environment: as `share` gives it.
    """
    return _shared(_MOST_ROWS, environment)


def _shared(cells: int, environment: Mapping[str, str] = os.environ) -> NDArray[np.float64]:
    """Return the first cells of the memory; this process's own if none is shared."""
    size = cells * 8
    try:
        place = int(environment[_MEMORY])
        if os.fstat(place).st_size < size:
            os.ftruncate(place, size)
        shared = mmap.mmap(place, size)
    except (KeyError, ValueError, OSError):
        shared = mmap.mmap(-1, size)
    return np.frombuffer(shared, dtype=np.float64)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
