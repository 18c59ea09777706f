"""Steps of a measurement: what each found, and whether it keeps what is promised of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from threading import Timer


@dataclass(frozen=True)
class Promise:
    """What a figure must be: at most or at least so much."""

    word: str
    bound: float

    def holds(self, figure: float) -> bool:
        """Return whether a figure keeps it; what is no number never does."""
        return figure <= self.bound if self.word == "at most" else figure >= self.bound

    def __str__(self) -> str:
        return f"{self.word} {self.bound:g}"


@dataclass(frozen=True)
class Step:
    """What one step came to.

    Attributes:
        name: what was measured.
        figure: what came of it; None where nothing did.
        unit: of the figure.
        promise: what it must be, as text; empty for what is only shown.
        held: whether it is; None for what is only shown.
        seconds: that the step took.
        reason: why there is no figure.
    """

    name: str
    figure: float | None
    unit: str
    promise: str = ""
    held: bool | None = None
    seconds: float = 0.0
    reason: str = ""


class Steps:
    """Makes steps, each with the time since the one before."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def step(self, name: str, figure: float, unit: str, promise: Promise | None = None) -> Step:
        """Return a step that ends now."""
        seconds, self._begun = time.perf_counter() - self._begun, time.perf_counter()
        figure = float(figure)
        if promise is None:
            return Step(name, figure, unit, seconds=seconds)
        return Step(name, figure, unit, str(promise), promise.holds(figure), seconds)


def at_most(bound: float) -> Promise:
    """Return a promise."""
    return Promise("at most", bound)


def at_least(bound: float) -> Promise:
    """Return a promise."""
    return Promise("at least", bound)


def told(steps: Iterator[Step]) -> None:
    """Print steps for the process that asked for them."""
    for each in steps:
        print(json.dumps(asdict(each)), flush=True)


def heard(name: str, command: list[str], limit_s: float, **options: object) -> Iterator[Step]:
    """Yield the steps that a process tells of, and end it when its time is up.

    What it does not come to, for whatever reason, is a step that does not hold.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    ended: list[bool] = []

    def end() -> None:
        ended.append(True)
        os.killpg(process.pid, signal.SIGKILL)

    timer = Timer(limit_s, end)
    timer.start()
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                yield Step(**json.loads(line))
            else:
                print(line, end="", file=sys.stderr)
        code = process.wait()
    finally:
        timer.cancel()
    if ended or code:
        reason = f"took over {limit_s:.0f} s" if ended else f"ended with exit code {code}"
        seconds = time.perf_counter() - begun
        yield Step(name, None, "", "to its end", False, seconds, reason)


def table(steps: Iterator[Step], show: Callable[[str], None]) -> list[Step]:
    """Show each step in a line as it comes; return them."""
    found = []
    show(f"{'step':44} {'figure':>10} {'unit':14} {'promise':>16} {'held':>5} {'s':>6}")
    for each in steps:
        figure = "-" if each.figure is None else f"{each.figure:10.4g}"
        held = {None: "", True: "yes", False: "NO"}[each.held]
        line = f"{each.name:44} {figure:>10} {each.unit:14} {each.promise:>16} {held:>5}"
        show(f"{line} {each.seconds:6.1f} {each.reason}".rstrip())
        found.append(each)
    return found
