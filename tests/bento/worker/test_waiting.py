"""Waiting for a thread's work: whoever left is told nothing, and neither is the log."""

import asyncio
import gc

import pytest

from bento.worker.waiting import to_its_end


def test_error_of_work_that_nobody_waits_for_is_no_unhandled_one():
    told, dropped = [], []

    async def leave():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        work = loop.create_future()
        waiting = asyncio.create_task(to_its_end(work, lambda: dropped.append(work)))
        await asyncio.sleep(0)
        waiting.cancel()
        loop.call_soon(work.set_exception, IndexError("its file is gone"))
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(leave())
    assert len(dropped) == 1
    dropped.clear()
    gc.collect()
    assert not told
