"""Waiting for what a thread does, by a task that may be cancelled."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: "asyncio.Future[T]", drop: Callable[[], None] = lambda: None) -> T:
    """Return what a thread's work comes to.

    A cancellation calls `drop`, which may shorten the work, and is passed on only when the thread
    is through with it: until then it holds what it was given, and that is to stay counted.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        drop()
        await asyncio.wait([work])
        # Looked at, or the event loop would tell of an error that nobody took: nobody wants it.
        if not work.cancelled():
            work.exception()
        raise
