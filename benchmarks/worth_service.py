"""The service with a part of it switched off, which WORTH_OFF names; `worth.py` starts it."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from unittest.mock import patch

from bento.http import connections, handlers
from bento.service import XrayClassifier
from bento.v2 import protocol
from bento.worker import model_thread
from toolkit.runtime.engine import AnySize

__all__ = ["XrayClassifier"]


class _Listener:
    """In the place of the acceptor: each worker takes what its own uvicorn finds waiting."""

    def __init__(self, server, metrics):
        self._server, self._metrics = server, metrics
        self.close = lambda: None

    def count(self):
        self._metrics.set("connections", len(self._server.server_state.connections))
        self._metrics.accepting()


def _use_executor():
    """Give jobs to an executor of one thread, as asyncio has it: in their order, one at a time."""
    pool = ThreadPoolExecutor(1)

    def work(self):
        self._prove()
        self._tried.set_result(None)

    async def result(self, content):
        self.check()
        loop = asyncio.get_running_loop()
        job = model_thread.Job(content, loop.create_future(), perf_counter())
        self._waiting += 1
        kind = self._call if callable(content) else self._answer
        await loop.run_in_executor(pool, self._attempt, [job], kind)
        return await job.future

    patch.multiple(model_thread.ModelThread, _work=work, _result=result).start()


# What is not there to be replaced raises, so that nothing that moved is measured as worth nothing.
_off = os.environ["WORTH_OFF"]
if _off == "acceptor":
    patch.object(connections, "Acceptor", _Listener).start()
elif _off == "own queue":
    _use_executor()
elif _off == "running together":
    patch.object(AnySize, "together", 1).start()
elif _off == "turns":
    for module in (handlers, protocol):
        patch.object(module, "TURN", 1 << 20).start()
