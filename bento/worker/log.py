"""One JSON object a line on stdout: one for each request, and what an operator must know.

Never what a file holds or how it is called, nor a query string, nor a token.
"""

import json
import os
import sys
import threading
import traceback
from asyncio import AbstractEventLoop
from collections import deque
from datetime import UTC, datetime
from time import time
from typing import Any, TextIO

_PERIOD_S = 0.2
_MOST_WAITING = 10_000


class Log:
    """Lines that a thread of their own writes, so that no request waits for a slow terminal.

    Where more wait than 10,000, the oldest are given up; a line that cannot be written, as on a
    full disk, is given up too.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lines: deque[dict[str, Any]] = deque(maxlen=_MOST_WAITING)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, within a second."""
        self._ended.set()
        self._thread.join(1)

    def line(self, event: str, level: str = "info", **values: Any) -> None:
        """Write one object; values are plain ones."""
        # Made text by the thread, many at once.
        self._lines.append({"time": time(), "level": level, "event": event} | values)

    def error(self, error: BaseException, **values: Any) -> None:
        """Write what should not have happened, and where it did; values are plain ones."""
        lines = traceback.format_exception(error)
        self.line("error", "error", **values, traceback="".join(lines))

    def unhandled(self, _: AbstractEventLoop, context: dict[str, Any]) -> None:
        """Write an error that nobody awaits; an event loop's exception handler.

        BentoML turns off the logger that asyncio would tell.
        """
        if error := context.get("exception"):
            self.error(error, message=context["message"])
        else:
            self.line("error", "error", message=context["message"])

    def _work(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = []
        while self._lines:
            lines.append(_text(self._lines.popleft()))
        if lines:
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return


def _text(line: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    return json.dumps(line | {"time": moment, "pid": _PID})


_PID = os.getpid()
