"""How far something is, on stderr: a bar on a terminal, else a line now and then."""

import sys
import time
from typing import Self


class Progress:
    """Counts what is done and shows it.

    Args:
        what: is counted, such as `X-rays`.
        total: how many there are; None where it is not known.
        done: how many of them were done before.
        every: seconds between lines where stderr is no terminal; None for no lines.
    """

    def __init__(
        self, what: str, total: int | None = None, done: int = 0, every: float | None = 10.0
    ) -> None:
        from rich import progress as rich
        from rich.console import Console

        screen = Console(stderr=True)
        self.done = self._before = done
        self._what = what
        self._of = f"/{total:,}" if total is not None else ""
        self._every = None if screen.is_terminal else every
        self._start = self._told = time.monotonic()
        self._bar = rich.Progress(
            rich.TextColumn(f"{what} {{task.completed:,}}{self._of}"),
            rich.BarColumn(),
            rich.TextColumn("{task.description}"),
            rich.TimeRemainingColumn(),
            console=screen,
            disable=not screen.is_terminal,
            transient=True,
            get_time=time.monotonic,
            # An epoch or a trial may take longer than the half minute that is usual here.
            speed_estimate_period=86_400,
        )
        self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """What was done a second, since the start."""
        return (self.done - self._before) / max(self.seconds, 1e-9)

    def reach(self, done: int, note: str | None = None) -> None:
        """Show that so many are done, and a note: else how many a second."""
        self.done = done
        speed = f"{self.rate:,.0f} a second"
        self._bar.update(self._task, completed=done, description=note or speed)
        now = time.monotonic()
        if self._every is not None and now - self._told >= self._every:
            self._told = now
            self.say(f"{self._what} {done:,}{self._of}  {note or speed + self._left()}")

    def advance(self, more: int) -> None:
        """Show that so many more are done."""
        self.reach(self.done + more)

    def say(self, line: str) -> None:
        """Say something on stderr, above the bar."""
        print(line, file=sys.stderr, flush=True)

    def _left(self) -> str:
        seconds = self._bar.tasks[0].time_remaining
        if seconds is None:
            return ""
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f", {hours}:{minutes:02d}:{rest:02d} left"
