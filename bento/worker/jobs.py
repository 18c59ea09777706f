"""What a worker's model is asked, what comes of it, and what is counted of a batch."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError, RequestError
from toolkit.runtime.engine import Engine
from toolkit.runtime.session import Predictor

TURN = 4
"""X-rays of one request that run in one turn: others' requests come in between."""


@dataclass
class Job:
    """Files to answer for, or a function to run; where the result goes, and since when it waits.

    One that is `dropped` before it is in hand is not done.
    """

    content: Sequence[bytes] | Callable[[Predictor], Any]
    future: "asyncio.Future[Any]"
    since: float
    dropped: bool = False

    def drop(self) -> None:
        """Leave it out, unless it is in hand."""
        self.dropped = True


Results = list[Any]
"""Of some jobs, in order: each one's result or the exception that it ended in."""
Observed = list[tuple[str, float]]
"""What is to be counted, in which histogram or counter."""


def counts_of_batch(engine: Engine, count: int, seconds: float) -> Observed:
    """Return what is counted of a batch that an engine has run."""
    return [
        ("inference_seconds", seconds),
        ("batch_size", count),
        ("padding_total", engine.padding(count)),
    ]


def not_ready(reason: str) -> RequestError:
    """Return what is said where the model does not answer."""
    return RequestError(503, "not_ready", f"the model does not answer: {reason}", retry_after="5")


def decode(predictor: Predictor, content: bytes) -> NDArray[np.uint8] | ImageError:
    """Return a file's X-ray, or why it is refused."""
    try:
        return predictor.decode(content)
    except ImageError as error:
        # A new one: the traceback of this one would hold the file until it is collected.
        return ImageError(error.code, str(error), error.status)
