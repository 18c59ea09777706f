"""How a run goes, on stderr: one line that is rewritten on a terminal, else one now and then."""

import sys
import time
from types import TracebackType
from typing import Self

_TERMINAL_SECONDS = 0.25
_LINE_SECONDS = 10.0
_WIDTH = 78


class Progress:
    """Counts what is done and says so.

    Args:
        what: is counted, such as `X-rays`.
        total: how many there are; None where it is not known.
        done: how many of them were done before.
    """

    def __init__(self, what: str, total: int | None = None, done: int = 0) -> None:
        self.what = what
        self.total = total
        self.done = done
        self._before = done
        self._start = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            print(f"\r{'':{_WIDTH}}\r", end="", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """What was done a second, since the start."""
        return (self.done - self._before) / max(self.seconds, 1e-9)

    def reach(self, done: int) -> None:
        """Say, if it is time, that so many are done."""
        self.done = done
        now = time.monotonic()
        if now - self._told < (_TERMINAL_SECONDS if self._terminal else _LINE_SECONDS):
            return
        self._told = now
        if self._terminal:
            print(f"\r{self._line():{_WIDTH}}", end="", file=sys.stderr, flush=True)
        else:
            print(self._line(), file=sys.stderr, flush=True)

    def advance(self, more: int) -> None:
        """Say, if it is time, that so many more are done."""
        self.reach(self.done + more)

    def _line(self) -> str:
        of = f" of {self.total:,}" if self.total is not None else ""
        line = f"{self.done:,}{of} {self.what}, {self.rate:,.0f} a second"
        if self.total is None or self.done == self._before:
            return line
        return f"{line}, {_span((self.total - self.done) / self.rate)} left"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
