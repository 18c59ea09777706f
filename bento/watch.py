"""Replaces workers that hang and have not ended: stopped, or with a blocked event loop.

A worker writes signs of life into memory that it shares with the parent. The parent counts how
often it looked and found no new one, not the seconds: if the whole machine slept, both stood still.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

LOOKS = 30
"""Looks in a row, one each second, without a sign of life, after which a worker is replaced."""
START_LOOKS = 300
"""The same of one that has given no sign of life yet: imports may be slow."""


class Watch:
    """The workers' signs of life, as the parent sees them.

    Args:
        workers: gives the process id and the number, from 0, of each worker there is now.
        beats: when each worker was last seen, by its number; float64 (N,).
    """

    def __init__(
        self, workers: Callable[[], Iterable[tuple[int, int]]], beats: NDArray[np.float64]
    ) -> None:
        self._workers = workers
        self._beats = beats
        # By process id: its last sign of life, looks without a new one, and how many may be.
        self._known: dict[int, tuple[float, int, int]] = {}

    def look(self) -> None:
        """Look at every worker once; kill those without a sign of life for too long."""
        known = self._known
        self._known = {}
        for process, number in self._workers():
            beat = float(self._beats[number])
            former, missed, most = known.get(process, (beat, 0, START_LOOKS))
            missed, most = (missed + 1, most) if beat == former else (0, LOOKS)
            if missed > most:
                _replace(process)
            self._known[process] = beat, missed, most


def _replace(process: int) -> None:
    """Kill a worker, by a signal that a stopped one obeys too: the arbiter starts another."""
    # It may have ended since.
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    message = f"worker {process} gave no sign of life: another takes its place"
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
