"""A training's steps as CUDA graphs: captured once, then replayed with one launch each.

A step is some hundred small kernels. Launched one by one from Python they take many times what
the GPU needs for them.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from toolkit.errors import escaped

Step = Callable[[Tensor], None]
# In the first steps libraries and optimisers allocate what they keep; that must not be captured.
_WARM_UP = 2


class Steps(Protocol):
    """Makes the steps of an epoch."""

    def __call__(self, rows: Sequence[Tensor], dropout: bool) -> None:
        """Make a step of each row.

        Args:
            rows: of `toolkit.train.steps.plan.plan_epoch`, every epoch as many and as long ones;
                only the last may have another length.
            dropout: whether it is on.
        """


class Graphs(Protocol):
    """Where steps run, and what turns one into a graph; `CudaGraphs` on a GPU."""

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Have the block's work done after what was asked for before it."""

    def capture(self, call: Callable[[], None]) -> Callable[[], object]:
        """Return what repeats all that `call` does, which is not done now."""


def steps_on(device: torch.device, step: Step) -> Steps:
    """Return what makes the steps of an epoch on a device.

    Args:
        device: where `step` runs.
        step: makes one step of a row that is on the device, without ever waiting for it.
    """
    if device.type == "cuda":
        return CapturedSteps(device, step, CudaGraphs(device))

    def make(rows: Sequence[Tensor], dropout: bool) -> None:  # noqa: ARG001
        for row in rows:
            step(row)

    return make


class CudaGraphs:
    """Graphs of one CUDA device, which share their memory, and the stream that they run on.

    All work is done on a stream of its own: what autograd made on another cannot be captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Have the block's work done on the stream, between what is asked for before and after."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def capture(self, call: Callable[[], None]) -> Callable[[], object]:
        """Return what repeats all kernels that `call` launches; they do not run now.

        Raises:
            RuntimeError: it does what a graph cannot hold.
        """
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self._stream.device_index]
        before = generator.clone_state()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                call()
        except RuntimeError:
            # After a capture that failed, the generator would still believe that one is under way.
            generator.graphsafe_set_state(before)
            raise
        return graph.replay


class _Key(NamedTuple):
    """What tells one graph from another: the length of its rows, and whether dropout is on."""

    length: int
    dropout: bool


class _Table(NamedTuple):
    """Rows of one length on the device, and which of them is next, int64 (1,)."""

    rows: Tensor
    next: Tensor


class CapturedSteps:
    """Makes the first few steps of a kind as they are, and later ones from a graph.

    Those first ones count like any, so there is nothing to undo after a warm-up. Where a capture
    fails it says so once, and makes every step as it is from then on.

    Args:
        device: where `step` runs.
        step: makes one step of a row that is on the device, without ever waiting for it.
        graphs: of that device.
    """

    def __init__(self, device: torch.device, step: Step, graphs: Graphs) -> None:
        self._device = device
        self._step = step
        self._graphs = graphs
        self._buffer: Tensor | None = None
        self._tables: list[_Table] = []
        self._made: Counter[_Key] = Counter()
        self._replays: dict[_Key, Callable[[], object]] = {}
        self._failed = False

    @property
    def captured(self) -> int:
        """How many kinds of step are captured."""
        return len(self._replays)

    def __call__(self, rows: Sequence[Tensor], dropout: bool) -> None:
        """Make a step of each row; returns before the device is done."""
        with self._graphs.stream():
            self._copy(rows)
            for table in self._tables:
                table.next.zero_()
                key = _Key(table.rows.shape[1], dropout)
                for _ in range(len(table.rows)):
                    self._make(key, table)

    def _copy(self, rows: Sequence[Tensor]) -> None:
        """Bring an epoch's rows to the device in one copy, to where the graphs look for them."""
        numbers = torch.cat(list(rows))
        if self._buffer is None:
            self._buffer = torch.empty_like(numbers, device=self._device)
            full = sum(len(row) == len(rows[0]) for row in rows)
            whole, rest = self._buffer.tensor_split([full * len(rows[0])])
            self._tables = [
                _Table(part.view(count, -1), torch.zeros(1, dtype=torch.int64, device=self._device))
                for part, count in ((whole, full), (rest, len(rows) - full))
                if count
            ]
        self._buffer.copy_(numbers)

    def _make(self, key: _Key, table: _Table) -> None:
        def make_next() -> None:
            row = table.rows.index_select(0, table.next)[0]
            table.next.add_(1)
            self._step(row)

        if not self._failed and key not in self._replays and self._made[key] >= _WARM_UP:
            self._capture(key, make_next)
        self._made[key] += 1
        self._replays.get(key, make_next)()

    def _capture(self, key: _Key, make_next: Callable[[], None]) -> None:
        try:
            self._replays[key] = self._graphs.capture(make_next)
        except RuntimeError as error:
            self._replays.clear()
            self._failed = True
            line = f"training steps run without a CUDA graph, which is slower: {_cause(error)}"
            print(escaped(line), file=sys.stderr, flush=True)


def _cause(error: BaseException) -> str:
    """Return the first line of the first error; those after it say that there was one before."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
