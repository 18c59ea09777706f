"""Ends a worker when the process that minds it has ended, however that came about.

Only the parent holds the writing end of a pipe, and it writes nothing. When the parent ends, the
kernel closes that end. Every worker reads the other end and notices, even one that starts later.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

_PIPE = "TOOLKIT_LIFELINE_PIPE"
_DRAIN_S = 15.0
"""How long a worker may take to answer what it has begun, before it is killed."""


def share() -> dict[str, str]:
    """Make the pipe; return the environment of the workers that read it."""
    reading, _writing = os.pipe()
    os.set_inheritable(reading, True)
    return {_PIPE: str(reading)}


def follow(environment: Mapping[str, str] = os.environ) -> None:
    """End this process when its parent has ended; does nothing where no parent shared a pipe."""
    if _PIPE in environment:
        pipe = int(environment[_PIPE])
        threading.Thread(target=_follow, args=(pipe,), name="lifeline", daemon=True).start()


def _follow(pipe: int) -> None:
    with suppress(OSError):
        os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_DRAIN_S)
    os.kill(os.getpid(), signal.SIGKILL)
